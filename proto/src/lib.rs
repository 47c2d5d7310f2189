//! The protocol's types, and what can be done with a message without knowing what it is for.
//!
//! - [`pb`]: Envoy's API as Rust types, and our own messages.
//! - [`type_url`]: the type URLs that Outrigger speaks.
//! - [`render`]: YAML and JSON to binary and back, with every problem named by its path and line.
//! - [`audit`]: which fields of a binary message are set and not supported.
//! - [`machine_code`]: the file form of compiled modules.
//!
//! No logic of proxy or control plane lives here. `render` and `audit` work on tables in the binary's read-only data
//! (made by `build/`), so that neither holds a descriptor pool in memory.

pub mod audit;
pub mod machine_code;
pub mod pb;
pub mod render;
pub mod type_url;

mod schema;
mod wire;
