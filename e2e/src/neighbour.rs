//! The bystander of every fault: a client with a kept connection whose requests must go on being served.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

use crate::http1::{Connection, Request};

/// The `x-test` header of its requests, to tell its access-log records from the others.
pub const NEIGHBOUR: &str = "neighbour";

/// A client with one kept connection.
#[derive(Debug)]
pub struct Neighbour {
    address: SocketAddr,
    connection: Connection,
    path: String,
}

impl Neighbour {
    /// Connects, and makes sure that it is served now.
    pub fn new(address: SocketAddr, path: &str) -> Result<Neighbour> {
        let mut neighbour = Neighbour { address, connection: Connection::open(address)?, path: path.to_owned() };
        neighbour.must_be_served()?;
        Ok(neighbour)
    }

    /// One request on its kept connection and one on a fresh connection; both must answer 200.
    pub fn must_be_served(&mut self) -> Result<()> {
        let request = Request::get(&self.path).with("x-test", NEIGHBOUR);
        let kept = self.connection.exchange(&request).context("the neighbour's kept connection")?;
        let fresh = request.send(self.address).context("the neighbour's fresh connection")?;
        if (kept.status, fresh.status) != (200, 200) {
            bail!("the neighbour got {} and {}: {}", kept.status, fresh.status, fresh.text());
        }
        Ok(())
    }
}
