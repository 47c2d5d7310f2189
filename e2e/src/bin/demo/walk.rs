//! The first requests: what each filter does, one after the other.

use anyhow::{Result, bail};
use outrigger_e2e::{Request, Response};

use crate::mesh::{KEY, Mesh};

const FLOOD: usize = 12;

pub(crate) fn walk_through(mesh: &Mesh) -> Result<()> {
    println!("\n1. Without a key (api-key-auth answers):");
    let refused = Request::get("/api/hello").send(mesh.gateway)?;
    show("curl http://GATEWAY/api/hello", &refused, &["content-type", "www-authenticate"]);
    must_be(&refused, 401)?;

    println!("\n2. With the key (the origin answers, header-policy stamps both sides):");
    let served = Request::get("/api/hello").with("x-api-key", KEY).send(mesh.gateway)?;
    let shown = ["x-gen-filter", "x-seen-gen-filter"];
    show("curl -H 'x-api-key: ...' http://GATEWAY/api/hello", &served, &shown);
    must_be(&served, 200)?;
    if served.header("x-gen-filter").is_none() || served.header("x-gen-filter") != served.header("x-seen-gen-filter") {
        bail!("header-policy didn't stamp the request and the response: {:?}", served.headers);
    }

    println!("\n3. A flood of {FLOOD} (rate-limit lets a tenant have 5 in 10 s):");
    let flood = Request::get("/api/hello").with("x-api-key", KEY).with("x-tenant", "free");
    let answers: Vec<Response> = (0..FLOOD).map(|_| flood.send(mesh.gateway)).collect::<Result<_>>()?;
    let statuses: Vec<String> = answers.iter().map(|answer| answer.status.to_string()).collect();
    println!("   {}", statuses.join(" "));
    let Some(limited) = answers.iter().find(|answer| answer.status == 429) else {
        bail!("none of {FLOOD} requests was limited");
    };
    show("the first 429", limited, &["retry-after", "ratelimit", "content-type"]);
    if answers.iter().filter(|answer| answer.status == 200).count() < 5 || limited.header("retry-after").is_none() {
        bail!("the limit isn't five requests with Retry-After: {}", statuses.join(" "));
    }
    Ok(())
}

fn must_be(response: &Response, status: u16) -> Result<()> {
    if response.status != status {
        bail!("status {} instead of {status}: {}", response.status, response.text());
    }
    Ok(())
}

fn show(what: &str, response: &Response, headers: &[&str]) {
    println!("   {what}");
    println!("   -> {}", response.status);
    for name in headers {
        if let Some(value) = response.header(name) {
            println!("      {name}: {value}");
        }
    }
    let body = response.text();
    let shown: String = body.chars().take(100).collect();
    println!("      {shown}{}", if shown.len() < body.len() { "..." } else { "" });
}
