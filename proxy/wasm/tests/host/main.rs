//! The host against small guests in text form, one file for each family of behaviour.

#![expect(clippy::expect_used, clippy::panic, reason = "fixtures fail their test")]

mod buffers;
mod contexts;
mod fixture;
mod headers;
mod lifecycle;
mod limits;
mod loading;
mod properties;
mod root;
mod wasi;
