//! The end-to-end harness: it runs the real binaries and real peers as processes of their own and talks to them over
//! loopback, as a user's clients and origins would.
//!
//! Promises that every test relies on: no fixed port, no bare sleep (waiting is [`eventually`]), every child dies with its
//! guard, and a failing test prints the log of every process that it started. The clients and the origin are our own
//! byte-level code, so that a test can send what no well-behaved client sends.

pub mod admin;
pub mod bootstrap;
pub mod closing;
pub mod control_plane;
pub mod data_plane;
pub mod dns;
pub mod folder;
pub mod guest;
pub mod h2c;
pub mod h2raw;
pub mod histogram;
pub mod http1;
pub mod load;
pub mod modules;
pub mod neighbour;
pub mod netns;
pub mod origin;
pub mod parser;
pub mod ports;
pub mod process;
pub mod rig;
pub mod script;
pub mod talker;
pub mod tls;
pub mod wait;
pub mod workspace;
pub mod yaml;

pub use admin::Admin;
pub use bootstrap::Bootstrap;
pub use control_plane::ControlPlane;
pub use data_plane::{DataPlane, Peer};
pub use folder::Folder;
pub use http1::{Connection, Request, Response};
pub use load::{Load, Report};
pub use neighbour::Neighbour;
pub use origin::Origin;
pub use process::{Held, Process};
pub use rig::Rig;
pub use wait::eventually;
