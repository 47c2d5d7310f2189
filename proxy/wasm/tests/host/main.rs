//! The host against small guests in text form, one file for each family of behaviour.

#![expect(clippy::expect_used, clippy::panic, reason = "fixtures fail their test")]

mod buffers;
mod contexts;
mod fixture;
mod foreign;
mod grpc;
mod headers;
mod hostile;
mod lifecycle;
mod limits;
mod loading;
mod network;
mod pool;
mod properties;
mod queues;
mod root;
mod sharing;
mod wasi;
