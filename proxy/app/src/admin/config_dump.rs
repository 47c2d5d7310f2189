//! `/config_dump`: what was accepted, what is warming and what was rejected, in Envoy's messages.
//!
//! The messages are put together here from their binary forms; a child turns them into JSON, which goes to the client as
//! it comes.

mod parts;

use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::pb::envoy::admin::v3::{BootstrapConfigDump, ConfigDump};
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::type_url;
use prost::Message;
use regex::Regex;

use super::reply::Reply;
use super::request::Asked;
use crate::child::Running;
use crate::server::Server;
use parts::{Part, Selection};

/// For a child to render a dump, and for the client to take it.
const TIME_MAX: Duration = Duration::from_secs(120);
const MASK_BYTES_MAX: usize = 4 << 10;

pub(crate) async fn answer(asked: &Asked, server: &Rc<Server>) -> Reply {
    let name = match asked.value("name_regex").map(Regex::new).transpose() {
        Ok(name) => name,
        Err(error) => return Reply::text(400, format!("Error while parsing name_regex: {error}\n")),
    };
    let selection = Selection { name: name.as_ref(), held: &server.held.borrow().clone() };
    let dump = match asked.value("resource") {
        Some(resource) => match Part::of_resource(resource) {
            Some(part) => ConfigDump { configs: part.resources(resource, server, &selection) },
            None => return Reply::text(404, format!("{resource} not found in config dump\n")),
        },
        None => whole(server, &selection, asked.has("include_eds")),
    };
    let mask = asked.value("mask").filter(|mask| !mask.is_empty());
    if mask.is_some_and(|mask| mask.len() > MASK_BYTES_MAX) {
        return Reply::text(400, "the mask is too long\n");
    }
    render(dump.encode_to_vec().into(), mask).await
}

fn whole(server: &Server, selection: &Selection<'_>, include_eds: bool) -> ConfigDump {
    let mut configs = Vec::new();
    if selection.name.is_none() {
        let (bootstrap, last_updated) = (server.bootstrap.decode(), Some(parts::timestamp(server.bootstrap.at)));
        configs.push(parts::any(type_url::BOOTSTRAP_CONFIG_DUMP, &BootstrapConfigDump { bootstrap, last_updated }));
    }
    let parts = [Part::Clusters, Part::Endpoints, Part::Extensions, Part::Listeners, Part::Routes, Part::Secrets];
    configs.extend(
        parts
            .into_iter()
            .filter(|part| include_eds || *part != Part::Endpoints)
            .map(|part| part.dump(server, selection)),
    );
    ConfigDump { configs }
}

async fn render(message: Bytes, mask: Option<&str>) -> Reply {
    let mut arguments: Vec<OsString> =
        ["render", "--from", "binary", "--type", type_url::CONFIG_DUMP].map(OsString::from).to_vec();
    if let Some(mask) = mask {
        arguments.push("--mask".into());
        arguments.push(mask.into());
    }
    let started = async {
        let mut child = Running::start(&arguments, message, TIME_MAX).await.map_err(|error| error.to_string())?;
        // Until the first bytes are there, a failure can still be told by the status.
        let first = child.read().await.map_err(|error| error.to_string())?;
        Ok::<_, String>((first, child))
    };
    match started.await {
        Ok((first, child)) => Reply::from_child(first, child),
        Err(reason) => Reply::text(500, format!("cannot render the configuration: {reason}\n")),
    }
}

/// An `Any` of a message that is encoded already.
fn encoded(type_url: &str, message: &Bytes) -> Any {
    Any { type_url: type_url.to_owned(), value: message.to_vec() }
}
