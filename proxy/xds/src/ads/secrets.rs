//! SDS over streams of its own: one to each server that secrets are fetched from, as long as something needs them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use outrigger_config::{Needed, Source, StreamSource};
use outrigger_proto::pb::envoy::config::core::v3::Node;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::state::AdsState;
use super::stream::Service;
use super::{Kind, run};
use crate::{ApiVariant, ConfigSink, Status};

/// Keeps the streams that are needed open, until the sender of `needed` is gone. `connect` makes a connection to the
/// server of a source.
pub async fn run_secret_streams<C, F, E>(
    node: Node,
    connect: C,
    sink: &impl ConfigSink,
    mut needed: watch::Receiver<Needed>,
    status: &Status,
) where
    C: Fn(Arc<StreamSource>) -> F,
    F: Future<Output = Result<Channel, E>>,
    E: Display,
{
    let mut running: BTreeMap<Source, watch::Sender<Needed>> = BTreeMap::new();
    let mut streams = FuturesUnordered::new();
    loop {
        let now = needed.borrow_and_update().clone();
        // A stream whose sender is dropped ends.
        running.retain(|source, _| now.streams.contains_key(source));
        for source in now.streams.keys() {
            match running.get(source) {
                Some(told) => drop(told.send_if_modified(|last| {
                    let changed = last.streams.get(source) != now.streams.get(source);
                    last.clone_from(&now);
                    changed
                })),
                None => {
                    let (sender, receiver) = watch::channel(now.clone());
                    running.insert(source.clone(), sender);
                    streams.push(one(source.clone(), node.clone(), &connect, sink, receiver, status));
                }
            }
        }
        tokio::select! {
            changed = needed.changed() => if changed.is_err() { return },
            _ = streams.next(), if !streams.is_empty() => {}
        }
    }
}

async fn one<C, F, E>(
    source: Source,
    node: Node,
    connect: &C,
    sink: &impl ConfigSink,
    needed: watch::Receiver<Needed>,
    status: &Status,
) where
    C: Fn(Arc<StreamSource>) -> F,
    F: Future<Output = Result<Channel, E>>,
    E: Display,
{
    let Source::Stream(stream) = &source else { return };
    let variant = if stream.is_delta { ApiVariant::Delta } else { ApiVariant::StateOfTheWorld };
    let state = AdsState::new(source.clone(), variant, node, false, false);
    let kind = Kind { source: source.clone(), service: Service::Secrets, variant };
    run(kind, state, &stream.initial_metadata, || connect(Arc::clone(stream)), sink, needed, status).await;
}
