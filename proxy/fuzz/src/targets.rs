//! The targets, one file for each area.

mod codec;
mod config;
mod wasm;

use crate::Target;

pub(crate) const ALL: &[Target] = &[
    wasm::PAIRS,
    wasm::HOSTCALLS,
    wasm::MODULE,
    codec::REQUEST,
    codec::RESPONSE,
    config::XDS,
    config::RENDER,
    config::ROUTES,
];
