//! Makes, from the descriptors of Envoy's API and of our own `.proto` files:
//!
//! - the Rust types of our own messages (`prost`),
//! - `schema.rs`: every message, field and enum as plain tables for `render` and `audit`, with what
//!   `supported.txt` says about each field,
//! - `descriptors.bin`: the descriptor set, which only tests read.
//!
//! No `protoc` is needed: Envoy's descriptors come compiled in the `envoy-types` package, and `protox` compiles ours.

mod descriptor;
mod envoy_types;
mod own;
mod schema;
mod supported;

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env("OUT_DIR")?);
    for path in ["build", "proto", "supported.txt", "../Cargo.lock"] {
        rerun_if_changed(&manifest.join(path));
    }

    // Sets are concatenated by concatenating their bytes.
    let mut descriptors = std::fs::read(envoy_types::descriptor_set(&manifest, &out)?)?;
    let own = own::compile(&manifest.join("proto"), &descriptors, &out)?;
    descriptors.extend(own);
    std::fs::write(out.join("descriptors.bin"), &descriptors)?;

    let files = descriptor::FileSet::decode(descriptors.as_slice())?.file;
    let supported = supported::parse(&std::fs::read_to_string(manifest.join("supported.txt"))?)?;
    std::fs::write(out.join("schema.rs"), schema::generate(&files, &supported)?)?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "how a build script talks to cargo")]
fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn env(name: &str) -> Result<String, Box<dyn Error>> {
    std::env::var(name).map_err(|_| format!("{name} is not set: this program is run by cargo only").into())
}
