//! The targets, one file for each area.

mod chains;
mod codec;
mod config;
mod first_bytes;
mod heads;
mod patterns;
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
    first_bytes::PROXY_HEADER,
    first_bytes::CLIENT_HELLO,
    first_bytes::HTTP_VERSION,
    heads::PATHS,
    heads::HEADER_VALUES,
    heads::CLIENT_CERTIFICATE,
    chains::CHAINS,
    patterns::REGEXES,
    patterns::TEMPLATES,
    patterns::FORMATS,
];
