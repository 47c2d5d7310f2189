//! Compiles the `.proto` files of our `proto` folder against Envoy's descriptors: Rust types in the output folder,
//! descriptors returned.

use std::error::Error;
use std::path::Path;

use protox::Compiler;
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver};

/// Our messages, relative to the `proto` folder.
const OURS: [&str; 5] = [
    "outrigger/code/v1/machine_code.proto",
    "outrigger/filters/http/wasm/v1/wasm.proto",
    "outrigger/load_balancing_policies/peak_ewma/v1/peak_ewma.proto",
    "outrigger/otlp/v1/trace.proto",
    "outrigger/resource_monitors/pending_requests/v1/pending_requests.proto",
];

/// Messages of others that the tables need and Rust code doesn't.
const OTHERS: [&str; 2] = ["udpa/type/v1/typed_struct.proto", "xds/type/v3/typed_struct.proto"];

/// Writes `outrigger.*.rs` and returns the encoded descriptor set of the files.
pub(crate) fn compile(include: &Path, envoy: &[u8], out: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut ours = compiler(include, envoy)?;
    ours.include_imports(true).include_source_info(true).open_files(OURS)?;
    let mut config = tonic_prost_build::Config::new();
    config.out_dir(out).compile_well_known_types().enable_type_names().type_name_domain(["."], "type.googleapis.com");
    for package in ["envoy", "google", "udpa", "validate", "xds"] {
        config.extern_path(format!(".{package}"), format!("::envoy_types::pb::{package}"));
    }
    config.compile_fds(ours.file_descriptor_set())?;

    ours.open_files(OTHERS)?.include_imports(false).include_source_info(false);
    Ok(ours.encode_file_descriptor_set())
}

fn compiler(include: &Path, envoy: &[u8]) -> Result<Compiler, Box<dyn Error>> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(include.to_owned()));
    resolver.add(DescriptorSetFileResolver::decode(envoy)?);
    resolver.add(GoogleFileResolver::new());
    Ok(Compiler::with_file_resolver(resolver))
}
