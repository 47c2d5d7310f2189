//! Ports for the few peers that want to be told one (a Gateway's listener, go-control-plane's test server), and for those
//! that nobody is to listen on.
//!
//! They come from below Linux' ephemeral range, so that no outgoing connection of another test takes them meanwhile; within
//! this process each is given out once.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::Rng;

const LOWEST: u16 = 12_000;
const HIGHEST: u16 = 31_000;
const ATTEMPTS: usize = 500;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on which nothing listens now.
pub fn free_port() -> Result<u16> {
    free_range(1)
}

/// An address at which nobody listens, nor will while the test runs: the kernel gives such ports to nobody who asks for any.
pub fn closed() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// The first of `count` consecutive ports on which nothing listens now.
pub fn free_range(count: u16) -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..ATTEMPTS {
        let first = rand::rng().random_range(LOWEST..HIGHEST - count);
        let range = first..first + count;
        if range.clone().all(|port| !given.contains(&port) && is_free(port)) {
            given.extend(range);
            return Ok(first);
        }
    }
    bail!("no {count} free ports in a row between {LOWEST} and {HIGHEST}")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}
