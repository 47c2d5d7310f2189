//! The xDS client: bytes to protos to configuration, ACK and NACK.
//!
//! Static, file and ADS resources are one pipeline: each source decodes its resources ([`decode`](mod@decode), where
//! what is set and not supported is found, and every problem is named by its field), hands them to the application's
//! [`ConfigSink`] as an [`Update`](outrigger_config::Update), and tells its origin what the verdict was. What the
//! accepted resources need further comes back as [`Needed`](outrigger_config::Needed).
//!
//! ```text
//! pub fn decode_bootstrap(bytes: &[u8], options: &BootstrapOptions) -> Result<Bootstrap, Vec<Problem>>
//! pub async fn run_ads(options: AdsOptions, connect: impl Fn() -> impl Future<Output = Result<Channel, E>>,
//!                      sink: &impl ConfigSink, needed: watch::Receiver<Needed>, status: &Status)
//! pub async fn run_files(fixed: Vec<FileSource>, render: &impl Render, sink: &impl ConfigSink,
//!                        needed: watch::Receiver<Needed>, status: &Status)
//! pub async fn run_secret_streams(node, connect: impl Fn(Arc<StreamSource>) -> .., sink, needed, status)
//! pub async fn run_secret_files(sink, needed, status)
//! pub trait ConfigSink { fn submit(&self, update: Update) -> impl Future<Output = Verdict>; }
//! pub trait Render { fn render(&self, path: &Path, text: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, String>>; }
//! impl Status { new(), kind(ResourceKind) -> KindStatus, ads() -> AdsStatus }
//! ```
//!
//! The loops run until the sender of `needed` is dropped, on the control thread (nothing here is `Send` or waits for a
//! lock). The sink publishes what it accepted, sends the new snapshot's `needed`, and only then answers.
//!
//! *Architecture invariant:* the only crate of the proxy's data side that names a proto type (`pb::`).

mod ads;
mod batch;
mod bootstrap;
mod decode;
mod diagnostics;
mod files;
mod sink;
mod status;
#[cfg(test)]
mod testing;

pub use ads::{AdsOptions, run_ads, run_secret_streams};
pub use bootstrap::{Admin, AdsServer, ApiVariant, Bootstrap, BootstrapOptions, ResourceSource, decode_bootstrap};
pub use decode::{Accepted, Invalid, XdsResource, decode};
pub use diagnostics::{Diagnostics, Problem};
pub use files::{FileSource, Render, run_files, run_secret_files};
pub use sink::{ConfigSink, Rejected, Verdict};
pub use status::{AcceptedResource, AdsStatus, KindStatus, RejectedResource, Status};
