//! A dry run of a connection and its request through a generation: which listener, filter chain, virtual host, route and
//! cluster win, why each other candidate loses, and where each of them came from.
//!
//! It asks the same tables and matchers that serve traffic who wins; only the reasons are its own.

mod chain;
mod cluster;
mod route;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_http::RequestHead;

use crate::{ConnectionFacts, HttpConnectionManager, Listener, NetworkFilter, Origin, RouteSource, Snapshot};

/// Candidates of one stage that are told; the winner is always among them.
const CANDIDATES_MAX: usize = 200;

/// The connection and the request that are asked about.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// A listener by name; otherwise it is found by [`Question::destination`].
    pub listener: Option<String>,
    /// Where the client connects to.
    pub destination: Option<SocketAddr>,
    pub source: Option<SocketAddr>,
    /// What the inspectors would find; empty: a connection without TLS.
    pub server_name: String,
    pub transport_protocol: String,
    pub application_protocols: Vec<Box<[u8]>>,
    pub head: RequestHead,
    /// Decides between weights and fractions, as a request's own number does.
    pub random: u64,
}

/// What was found, stage by stage, up to the one where the way ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    pub stages: Vec<Stage>,
    /// What becomes of the request, in one sentence.
    pub outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub name: &'static str,
    pub candidates: Vec<Candidate>,
    /// Candidates that are not told.
    pub more: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    pub verdict: Verdict,
    /// Why it wins, loses, or isn't asked.
    pub reason: String,
    /// The object that it was made from, or the resource; may be empty.
    pub source: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Won,
    Lost,
    /// One before it has won.
    NotReached,
}

impl Verdict {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Won => "won",
            Verdict::Lost => "lost",
            Verdict::NotReached => "not reached",
        }
    }
}

/// Follows a question through a generation.
#[must_use]
pub fn explain(snapshot: &Snapshot, question: &Question) -> Explanation {
    let mut explanation = Explanation::default();
    explanation.outcome = follow(snapshot, question, &mut explanation.stages);
    explanation
}

/// Adds the stages; what it returns is the outcome.
fn follow(snapshot: &Snapshot, question: &Question, stages: &mut Vec<Stage>) -> String {
    let Some(listener) = chain::listener(snapshot, question, stages) else {
        return "no listener takes the connection".to_owned();
    };
    let facts = ConnectionFacts {
        destination: question.destination.or_else(|| listener.socket_addresses().next()),
        source: question.source,
        direct_source: question.source,
        server_name: &question.server_name,
        transport_protocol: &question.transport_protocol,
        application_protocols: &question.application_protocols,
    };
    let Some(chain) = chain::filter_chain(listener, &facts, stages) else {
        return "no filter chain matches: the connection is closed".to_owned();
    };
    match &chain.filter {
        NetworkFilter::Http(manager) => http(snapshot, manager, question, stages),
        NetworkFilter::Tcp(proxy) => cluster::tcp(snapshot, proxy, question.random, stages),
    }
}

fn http(
    snapshot: &Snapshot,
    manager: &Arc<HttpConnectionManager>,
    question: &Question,
    stages: &mut Vec<Stage>,
) -> String {
    let routes = match &manager.routes {
        RouteSource::Inline(routes) => routes,
        RouteSource::Rds { name, .. } => match snapshot.routes.get(name) {
            Some(routes) => routes,
            None => {
                stages.push(Stage::of("route configuration", vec![Candidate::lost(&**name, "it doesn't exist")]));
                return "404: the route configuration doesn't exist".to_owned();
            }
        },
    };
    let reason = if matches!(manager.routes, RouteSource::Rds { .. }) { "by RDS" } else { "inline" };
    let mut found = Candidate::won(&*routes.name, reason);
    found.source = source_of(&routes.origin);
    stages.push(Stage::of("route configuration", vec![found]));
    route::follow(snapshot, manager, routes, question, stages)
}

impl Stage {
    fn of(name: &'static str, mut candidates: Vec<Candidate>) -> Stage {
        let more = candidates.len().saturating_sub(CANDIDATES_MAX);
        if more > 0 {
            let won = candidates.iter().position(|candidate| candidate.verdict == Verdict::Won);
            // The winner and what stands around it.
            let first = won.map_or(0, |won| won.saturating_sub(CANDIDATES_MAX / 2).min(more));
            candidates = candidates.split_off(first);
            candidates.truncate(CANDIDATES_MAX);
        }
        Stage { name, candidates, more }
    }
}

impl Candidate {
    fn new(name: impl Into<String>, verdict: Verdict, reason: impl Into<String>) -> Candidate {
        Candidate { name: name.into(), verdict, reason: reason.into(), source: String::new() }
    }

    fn won(name: impl Into<String>, reason: impl Into<String>) -> Candidate {
        Candidate::new(name, Verdict::Won, reason)
    }

    fn lost(name: impl Into<String>, reason: impl Into<String>) -> Candidate {
        Candidate::new(name, Verdict::Lost, reason)
    }

    fn from(mut self, source: impl Into<String>) -> Candidate {
        self.source = source.into();
        self
    }
}

/// `HTTPRoute shop/api (api.yaml:12)`, or where the resource came from.
fn source_of(origin: &Origin) -> String {
    if origin.object.is_empty() { format!("{} of {}", origin.name, origin.source) } else { origin.object.to_string() }
}

fn listener_source(listener: &Listener) -> String {
    source_of(&listener.origin)
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;
