//! `/explain`: a dry run of a request through what is served now.

use std::net::SocketAddr;

use bytes::Bytes;
use outrigger_config::explain::{Candidate, Explanation, Question, Verdict, explain};
use outrigger_http::{HeaderName, Method, RequestHead, Scheme};
use serde_json::{Value, json};

use super::reply::Reply;
use super::request::Asked;
use crate::server::Server;

const USAGE: &str = "usage: /explain?url=http://HOST/PATH, and where wanted &method, &header=NAME:VALUE (repeated),
  &listener=NAME or &destination=IP:PORT (of the proxy), &source=IP:PORT, &sni=NAME, &alpn=A,B, &transport=tls,
  &random=N (decides between weights), &format=json
";

pub(super) fn answer(asked: &Asked, server: &Server) -> Reply {
    let question = match question(asked) {
        Ok(question) => question,
        Err(problem) => return Reply::text(400, format!("{problem}\n{USAGE}")),
    };
    let snapshot = server.snapshot.borrow().clone();
    let explanation = explain(&snapshot, &question);
    if asked.is_json() { Reply::json(&in_json(&explanation)) } else { Reply::text(200, in_text(&explanation)) }
}

fn question(asked: &Asked) -> Result<Question, String> {
    let url = asked.value("url").ok_or("url is missing")?;
    let mut question =
        Question { head: head(url)?, transport_protocol: "raw_buffer".to_owned(), ..Question::default() };
    for (name, value) in asked.parameters() {
        match name {
            "method" => {
                question.head.method =
                    Method::from_bytes(value.as_bytes()).ok_or_else(|| format!("method: {value:?} is no method"))?;
            }
            "header" => header(value, &mut question.head)?,
            "listener" => question.listener = Some(value.to_owned()),
            "destination" => question.destination = Some(address(name, value)?),
            "source" => question.source = Some(address(name, value)?),
            "sni" => {
                question.server_name = value.to_ascii_lowercase();
                "tls".clone_into(&mut question.transport_protocol);
            }
            "transport" => value.clone_into(&mut question.transport_protocol),
            "alpn" => {
                let protocols = value.split(',').filter(|protocol| !protocol.is_empty());
                question.application_protocols = protocols.map(|protocol| protocol.as_bytes().into()).collect();
            }
            "random" => question.random = value.parse().map_err(|_| format!("random: {value:?} is no number"))?,
            "url" | "format" => {}
            other => return Err(format!("{other:?} is no parameter")),
        }
    }
    Ok(question)
}

fn head(url: &str) -> Result<RequestHead, String> {
    let wrong = || format!("url: {url:?} is no URL with a host");
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => return Err(wrong()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = Bytes::from(authority.to_owned());
    Ok(RequestHead { scheme, authority, path: Bytes::from(path), ..RequestHead::default() })
}

fn header(text: &str, head: &mut RequestHead) -> Result<(), String> {
    let wrong = || format!("header: {text:?} is not NAME:VALUE");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let value = Bytes::from(value.trim().to_owned());
    if name.eq_ignore_ascii_case("host") {
        head.authority = value;
        return Ok(());
    }
    let name = HeaderName::from_bytes(name.trim().to_ascii_lowercase().as_bytes()).map_err(|_| wrong())?;
    head.headers.try_append(name, value).map_err(|_| wrong())
}

fn address(name: &str, value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| format!("{name}: {value:?} is no IP:PORT"))
}

fn in_json(explanation: &Explanation) -> Value {
    let candidate = |candidate: &Candidate| {
        json!({
            "name": candidate.name, "verdict": candidate.verdict.name(), "reason": candidate.reason,
            "source": candidate.source,
        })
    };
    let stages = explanation.stages.iter().map(|stage| {
        let candidates: Vec<Value> = stage.candidates.iter().map(candidate).collect();
        json!({"stage": stage.name, "candidates": candidates, "more": stage.more})
    });
    json!({"outcome": explanation.outcome, "stages": stages.collect::<Vec<Value>>()})
}

fn in_text(explanation: &Explanation) -> String {
    let mut text = String::new();
    for stage in &explanation.stages {
        text.push_str(stage.name);
        text.push('\n');
        for candidate in &stage.candidates {
            let mark = match candidate.verdict {
                Verdict::Won => "=>",
                Verdict::Lost => " x",
                Verdict::NotReached => "  ",
            };
            let source = if candidate.source.is_empty() { String::new() } else { format!("  [{}]", candidate.source) };
            let line = format!("  {mark} {}: {}{source}", candidate.name, candidate.reason);
            // What a control plane wrote may hold line feeds.
            text.push_str(&line.replace(['\n', '\r'], " "));
            text.push('\n');
        }
        if stage.candidates.is_empty() {
            text.push_str("     none\n");
        }
        if stage.more > 0 {
            text.push_str(&format!("     and {} more\n", stage.more));
        }
    }
    text.push_str(&format!("outcome: {}\n", explanation.outcome));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Question, String> {
        question(&Asked::new(http::Method::GET, "/explain", query))
    }

    #[test]
    fn a_question_is_read() {
        let query =
            "url=http://shop.test/a?x=1&method=POST&header=x-tenant:%20blue&sni=Shop.test&alpn=h2,http/1.1&random=7";
        let found = parse(query).unwrap();
        assert_eq!((found.head.method, &found.head.path[..]), (Method::Post, &b"/a?x=1"[..]));
        assert_eq!(&found.head.authority[..], b"shop.test");
        assert_eq!((found.server_name.as_str(), found.transport_protocol.as_str()), ("shop.test", "tls"));
        assert_eq!((found.application_protocols.len(), found.random), (2, 7));
        let tenant = HeaderName::from_bytes(b"x-tenant").unwrap();
        assert_eq!(found.head.headers.get(&tenant).map(|value| &value[..]), Some(&b"blue"[..]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |query: &str, expected: &str| {
            let problem = parse(query).unwrap_err();
            assert!(problem.contains(expected), "{query}: {problem}");
        };
        check("", "url is missing");
        check("url=shop.test", "url:");
        check("url=http:///a", "url:");
        check("url=http://a&source=here", "source:");
        check("url=http://a&header=x", "header:");
        check("url=http://a&header=x:a%0d%0ab", "header:");
        check("url=http://a&colour=red", "\"colour\" is no parameter");
    }
}
