//! Compiles our own `.proto` files against Envoy's descriptors: Rust types in the output folder, descriptors returned.

use std::error::Error;
use std::path::Path;

use protox::Compiler;
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver};

/// Every file of ours, relative to the `proto` folder.
const FILES: [&str; 1] = ["outrigger/filters/http/wasm/v1/wasm.proto"];

/// Writes `outrigger.*.rs` and returns the encoded descriptor set of our files alone.
pub(crate) fn compile(include: &Path, envoy: &[u8], out: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(include.to_owned()));
    resolver.add(DescriptorSetFileResolver::decode(envoy)?);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;

    let mut config = tonic_prost_build::Config::new();
    config.out_dir(out).compile_well_known_types().enable_type_names().type_name_domain(["."], "type.googleapis.com");
    for package in ["envoy", "google", "udpa", "validate", "xds"] {
        config.extern_path(format!(".{package}"), format!("::envoy_types::pb::{package}"));
    }
    config.compile_fds(compiler.file_descriptor_set())?;

    compiler.include_imports(false).include_source_info(false);
    Ok(compiler.encode_file_descriptor_set())
}
