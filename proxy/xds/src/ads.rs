//! The ADS client.

use std::fmt::Display;
use std::future::Future;

use outrigger_config::Needed;
use outrigger_proto::pb;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::{ApiVariant, ConfigSink, Status};

/// How an ADS client behaves.
#[derive(Debug, Clone)]
pub struct AdsOptions {
    pub node: pb::envoy::config::core::v3::Node,
    pub variant: ApiVariant,
    /// Whether clusters come over this stream (`cds_config: { ads: {} }`).
    pub clusters: bool,
    /// Whether listeners do.
    pub listeners: bool,
    /// Headers of each stream.
    pub initial_metadata: Vec<(String, String)>,
}

/// Keeps a stream open, until the sender of `needed` is gone.
pub async fn run_ads<C, F, E>(
    _options: AdsOptions,
    _connect: C,
    _sink: &impl ConfigSink,
    _needed: watch::Receiver<Needed>,
    _status: &Status,
) where
    C: Fn() -> F,
    F: Future<Output = Result<Channel, E>>,
    E: Display,
{
}
