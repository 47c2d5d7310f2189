//! The pages: which path takes which method and what it answers.

use std::rc::Rc;

use http::Method;
use outrigger_dataplane::DrainRequest;
use serde_json::json;

use super::reply::Reply;
use super::request::Asked;
use super::{clusters, config_dump, explain, runtime, server_info, stats};
use crate::args::LogLevel;
use crate::certificates;
use crate::logging::{Logging, Unknown};
use crate::server::{Exit, Server, State};
use crate::system;

/// Lines of `/ready` that say what is missing.
const MISSING_LINES_MAX: usize = 200;

/// Every page, what it is for, and whether it changes something.
const PAGES: [(&str, &str, bool); 20] = [
    ("/", "Admin home page", false),
    ("/certs", "print certs on machine", false),
    ("/clusters", "upstream cluster status; ?format=json", false),
    ("/config_dump", "dump current configuration; ?resource, ?mask, ?name_regex, ?include_eds", false),
    ("/drain_listeners", "drain listeners; ?graceful, ?inboundonly, ?skip_exit", true),
    (
        "/explain",
        "dry run of a request: what wins and why; ?url, ?method, ?header, ?listener, ?sni, ?format=json",
        false,
    ),
    ("/healthcheck/fail", "cause the server to fail health checks", true),
    ("/healthcheck/ok", "cause the server to pass health checks", true),
    ("/help", "print out list of admin commands", false),
    ("/hot_restart_version", "print the hot restart compatibility version", false),
    ("/listeners", "print listener info; ?format=json", false),
    ("/logging", "query/change logging levels; ?level, ?paths=NAME:LEVEL,...", true),
    ("/memory", "print current allocation/heap usage", false),
    ("/quitquitquit", "exit the server", true),
    ("/ready", "print server state, return 200 if LIVE, otherwise return 503 and what is missing", false),
    ("/reopen_logs", "reopen access logs", true),
    ("/runtime", "print runtime values", false),
    ("/server_info", "print server version/status information", false),
    ("/stats", "print server stats; ?usedonly, ?filter, ?format=json|prometheus", false),
    ("/stats/prometheus", "print server stats in prometheus format; ?usedonly, ?filter", false),
];

/// Answers one request.
pub(crate) async fn answer(asked: &Asked, server: &Rc<Server>) -> Reply {
    let Some((path, _, changes)) = PAGES.iter().find(|(path, ..)| *path == asked.path) else {
        return Reply::text(404, format!("invalid path. {}", help()));
    };
    let is_read = asked.method == Method::GET || asked.method == Method::HEAD;
    if *changes && asked.method != Method::POST {
        return Reply::text(405, format!("Method {} not allowed, POST required.", asked.method));
    }
    if !changes && !is_read && asked.method != Method::POST {
        return Reply::text(405, format!("Method {} not allowed, GET required.", asked.method));
    }
    match *path {
        "/clusters" => clusters::clusters(asked, server).await,
        "/listeners" => clusters::listeners(asked, server),
        "/config_dump" => config_dump::answer(asked, server).await,
        "/explain" => explain::answer(asked, server),
        "/server_info" => server_info::answer(server),
        "/ready" => ready(server),
        "/stats" | "/stats/prometheus" => {
            server.refresh_metrics();
            stats::answer(asked, server.metrics.registry().samples())
        }
        "/logging" => logging(asked, &server.logging),
        "/memory" => memory(),
        "/certs" => Reply::json(&certificates::page(&server.snapshot.borrow())),
        "/runtime" => runtime::answer(server),
        "/hot_restart_version" => {
            let version = if server.options.succession().is_some() { "outrigger.1\n" } else { "disabled\n" };
            Reply::text(200, version)
        }
        "/drain_listeners" => drain(asked, server),
        "/reopen_logs" => reopen(server),
        "/healthcheck/fail" => {
            server.fail_health_checks(true);
            Reply::ok()
        }
        "/healthcheck/ok" => {
            server.fail_health_checks(false);
            Reply::ok()
        }
        "/quitquitquit" => {
            tracing::info!("asked to end by the admin interface");
            server.ask_exit(Exit::Now);
            Reply::ok()
        }
        "/" => home(),
        _ => Reply::text(200, help()),
    }
}

fn help() -> String {
    PAGES.iter().fold("admin commands are:\n".to_owned(), |mut text, (path, help, changes)| {
        text.push_str(&format!("  {path}{}: {help}\n", if *changes { " (POST)" } else { "" }));
        text
    })
}

fn home() -> Reply {
    let mut page =
        "<!DOCTYPE html><html lang=\"en\"><head><title>Outrigger Admin</title></head><body><table>".to_owned();
    for (path, help, changes) in PAGES {
        let cell = if changes {
            format!("<form method=\"post\" action=\"{path}\"><button>{path}</button></form>")
        } else {
            format!("<a href=\"{path}\">{path}</a>")
        };
        page.push_str(&format!("<tr><td>{cell}</td><td>{}</td></tr>", help.replace('&', "&amp;")));
    }
    page.push_str("</table></body></html>\n");
    Reply::typed(200, "text/html; charset=UTF-8", page)
}

fn ready(server: &Server) -> Reply {
    server.settle();
    let state = server.shown_state();
    if state == State::Live {
        return Reply::text(200, "LIVE\n");
    }
    let mut text = format!("{}\n", state.name());
    let missing = server.missing();
    for line in missing.iter().take(MISSING_LINES_MAX) {
        // What a peer wrote may hold line feeds.
        text.push_str(&line.replace(['\n', '\r'], " "));
        text.push('\n');
    }
    if missing.len() > MISSING_LINES_MAX {
        text.push_str(&format!("and {} more\n", missing.len() - MISSING_LINES_MAX));
    }
    Reply::text(503, text)
}

fn logging(asked: &Asked, logging: &Logging) -> Reply {
    let outcome = match (asked.value("level"), asked.value("paths")) {
        (Some(level), None) => match LogLevel::parse(level) {
            Some(level) => {
                logging.set_all(level);
                Ok(())
            }
            None => Err(Unknown(level.to_owned())),
        },
        (None, Some(paths)) => logging.set_components(paths),
        // `?NAME=LEVEL`, the oldest form.
        (None, None) => {
            let list: Vec<String> = asked.parameters().map(|(name, level)| format!("{name}:{level}")).collect();
            logging.set_components(&list.join(","))
        }
        (Some(_), Some(_)) => Err(Unknown("level and paths together".to_owned())),
    };
    if let Err(Unknown(what)) = outcome {
        return Reply::text(
            400,
            format!(
                "error: unknown logger or level: {what}\nusage: /logging?level=<level> (change all levels)\n\
                 usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                 levels: trace debug info warning error critical off\n"
            ),
        );
    }
    let lines = logging.levels().into_iter().map(|(name, level)| format!("  {name}: {}\n", level.name()));
    Reply::text(200, "active loggers:\n".to_owned() + &lines.collect::<String>() + "\n")
}

fn memory() -> Reply {
    let memory = system::memory();
    Reply::json(&json!({
        "allocated": memory.anonymous.to_string(),
        "heap_size": memory.mapped.to_string(),
        "pageheap_unmapped": memory.mapped.saturating_sub(memory.anonymous).to_string(),
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.resident.to_string(),
    }))
}

fn drain(asked: &Asked, server: &Rc<Server>) -> Reply {
    let (graceful, inbound_only) = (asked.has("graceful"), asked.has("inboundonly"));
    let keep_accepting = asked.has("skip_exit");
    if keep_accepting && !graceful {
        // Neither draining nor stopping: in Envoy nothing is left to do, and that is no mistake.
        return Reply::ok();
    }
    tracing::info!(graceful, inbound_only, "asked to drain listeners by the admin interface");
    if let Some(workers) = &*server.workers.borrow() {
        workers.drain_listeners(DrainRequest { inbound_only, graceful, keep_accepting });
    }
    Reply::ok()
}

fn reopen(server: &Server) -> Reply {
    match server.reopen_logs() {
        Ok(()) => Reply::ok(),
        Err(error) => Reply::text(500, format!("cannot reopen the log: {error}\n")),
    }
}
