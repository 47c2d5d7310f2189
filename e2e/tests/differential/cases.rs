//! The table: a request, and what the origin is told to do.

use std::net::SocketAddr;

use outrigger_e2e::Request;

/// One request to one listener.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) listener: &'static str,
    /// `METHOD PATH`, then a header a line; after an empty line the body.
    text: String,
    /// What the origin does: see `outrigger_e2e::origin`.
    origin: &'static str,
}

/// A difference that is meant.
#[derive(Debug)]
pub(crate) struct Different {
    pub(crate) case: String,
    /// What may differ: status, headers, body, trailers, origin, log, attempts.
    pub(crate) fields: &'static str,
    /// The row of `envoy-differences.md`.
    pub(crate) how: &'static str,
}

impl Different {
    /// Whether a pooled connection was there to go stale is chance.
    pub(crate) fn is_by_chance(&self) -> bool {
        self.how == STALE
    }
}

impl Case {
    pub(crate) fn name(&self) -> String {
        let origin = if self.origin.is_empty() { String::new() } else { format!(" [{}]", self.origin) };
        format!("{} {}{origin}", self.listener, self.text.replace('\n', ", "))
    }

    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.text)
    }

    /// A head that is no request is answered before there is anything to log.
    pub(crate) const fn is_logged(&self) -> bool {
        true
    }

    pub(crate) fn request(&self, address: SocketAddr) -> Request {
        let (head, body) = match self.text.split_once("\n\n") {
            Some((head, body)) => (head, Some(body)),
            None => (self.text.as_str(), None),
        };
        let mut lines = head.lines();
        let (method, path) = lines.next().and_then(|line| line.split_once(' ')).expect("METHOD PATH");
        let mut request = Request::new(method, path);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
            request = match name {
                "host" => request.host(&value.replace("PORT", &address.port().to_string())),
                _ => request.with(name, value),
            };
        }
        request = request.with("x-test", &self.name());
        if !self.origin.is_empty() {
            request = request.origin(self.origin);
        }
        match body {
            Some(body) => request.body(body),
            None => request,
        }
    }
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |listener: &'static str, texts: &[&str]| {
        cases.extend(texts.iter().map(|text| Case { listener, text: (*text).to_owned(), origin: "" }));
    };
    for host in HOSTS {
        add("hosts", &[&format!("GET /\nhost: {host}")]);
    }
    add("match", MATCHING);
    for name in HEADER_ROUTES {
        for value in HEADER_VALUES {
            add("match", &[&format!("GET /{name}{value}")]);
        }
    }
    for name in QUERY_ROUTES {
        for query in QUERIES {
            add("match", &[&format!("GET /{name}{query}")]);
        }
    }
    add("rewrite", REWRITING);
    for listener in ["plain", "strict", "reject", "redirect", "forward"] {
        for path in PATHS {
            add(listener, &[&format!("GET {path}")]);
        }
    }
    add("filters", super::filters::CASES);
    add("mirror", MIRRORING);
    for (listener, text) in super::edges::cases() {
        add(listener, &[&text]);
    }
    for text in super::filters::rbac_cases().into_iter().chain(super::filters::limit_cases()) {
        add("filters", &[&text]);
    }
    for (listener, lists) in [
        ("retry", RETRYING),
        ("inside", STEERING),
        ("retry", STEERING),
        ("time", TIMING),
        ("plain", NAMING),
        ("strict", NAMING),
        ("reject", NAMING),
    ] {
        cases.extend(lists.iter().map(|(text, origin)| Case { listener, text: (*text).to_owned(), origin }));
    }
    cases
}

/// Whose name the answer tells.
const NAMING: &[(&str, &str)] = &[("GET /named", ""), ("GET /named", "header=server:own"), ("GET /admin/named", "")];

const HOSTS: &[&str] = &[
    "a.test",
    "A.TEST",
    "b.test",
    "b.test:81",
    "a.test:80",
    "x.a.test",
    "x.b.test",
    "y.x.a.test",
    "test",
    ".test",
    "a.b.c",
    "a.b.",
    "a.",
    "a.c",
    "b.c",
    "foo-x.example",
    "-x.example",
    "x.example",
    "a.test.",
    "127.0.0.1",
];

const MATCHING: &[&str] = &[
    "GET /exact",
    "GET /exact?q",
    "GET /exact/",
    "GET /Exact",
    "GET /exact-ANY",
    "GET /EXACT-any?x",
    "GET /separated",
    "GET /separated/",
    "GET /separated/x",
    "GET /separatedx",
    "GET /separated?x",
    "GET /separated-any/X",
    "GET /prefix-ANYthing",
    "GET /regex/12",
    "GET /regex/",
    "GET /regex/12/x",
    "GET /regex/1a",
    "GET /regex/12?x=/",
    "GET /word/ab_1",
    "GET /word/a-b",
    "GET /template/1/x/2",
    "GET /template/1/x/2/3",
    "GET /template/1/y/2",
    "GET /template//x/2",
    "GET /template/1/x/",
    "GET /grpc",
    "POST /grpc\ncontent-type: application/grpc",
    "POST /grpc\ncontent-type: application/grpc+proto",
    "POST /grpc\ncontent-type: application/grpc-web",
    "GET /fraction",
    "GET /two\nx-a: 1\nx-b: 2",
    "GET /two\nx-a: 1",
    "GET /two\nx-b: 2",
    "GET /two\nx-a: 1\nx-b:",
    "POST /h-method",
    "GET /h-path?x",
    "GET /h-path?y",
    "GET /nothing",
    "HEAD /exact",
    "OPTIONS /exact",
    "GET /h-exact\nx-a: One\nx-a: Two",
    "GET /h-prefix\nx-a: One\nx-a: Two",
    "GET /h-suffix\nx-a: One\nx-a: ne",
    "GET /h-range\nx-a: 1\nx-a: 2",
    "GET /h-exact\nx-a: Two\nx-a: One",
    "GET /h-not-exact\nx-a: One\nx-a: Two",
    "GET /h-not-exact\nx-a: Two\nx-a: Three",
    "GET /h-regex\nx-a: ab\nx-a: One",
    "GET /h-range\nx-a: 1\nx-a: 20",
    "GET /h-contains\nx-a: o\nx-a: t",
    "GET /h-present\nx-a: 1\nx-a: 2",
    "GET /h-empty\nx-a: 1\nx-a:",
    "GET /h-suffix\nx-a: ne\nx-a: Two",
    "GET /h-prefix\nx-a: Two\nx-a: One",
    "GET /h-exact\nx-a: One,Two",
];

const HEADER_ROUTES: &[&str] = &[
    "h-exact",
    "h-exact-case",
    "h-prefix",
    "h-suffix",
    "h-contains",
    "h-regex",
    "h-old-exact",
    "h-present",
    "h-absent",
    "h-not-present",
    "h-not-exact",
    "h-not-or-empty",
    "h-empty",
    "h-range",
    "h-not-range",
];

const HEADER_VALUES: &[&str] = &["", "\nx-a: One", "\nx-a: one", "\nx-a:", "\nx-a: 9", "\nx-a: 10", "\nx-a: -5"];

const QUERY_ROUTES: &[&str] = &["q-exact", "q-prefix", "q-regex", "q-present", "q-absent", "q-any"];

const QUERIES: &[&str] = &["", "?k=v", "?k=vw", "?k", "?k=", "?a=b&k=v", "?k=x&k=v", "?kk=v", "?k=V", "?k=%76"];

const REWRITING: &[&str] = &[
    "GET /mutate\nx-in: value\nx-gone: 1\nx-order: client\nx-if: old\nx-set: old",
    "GET /mutate",
    "GET /mutate\nx-absent: old",
    "GET /mutate\nx-set: a\nx-set: b\nx-in: b",
    "GET /prefix",
    "GET /prefix/x?y",
    "GET /prefixes/x",
    "GET /prefix/",
    "GET /regex/a/b/c?d",
    "GET /regex/a",
    "GET /all/aaa?a",
    "GET /host/literal/x",
    "GET /host/forwarded/x",
    "GET /host/forwarded\nx-forwarded-host: old.test",
    "GET /host/header\nx-host: by-header.test",
    "GET /host/header",
    "GET /host/path/abc/def?x",
    "GET /host/path/123",
    "GET /template/x/y/z?q",
    "GET /template/x/",
    "GET /exact?x",
    "GET /any/THING",
    "GET /AnY",
    "GET /r/host/x?y",
    "GET /r/host\nhost: old.test:81",
    "GET /r/path/x?y",
    "GET /r/query?y",
    "GET /r/prefix/x?y",
    "GET /r/regex/a/b?c",
    "GET /r/https?x",
    "GET /r/https\nhost: a.test:80",
    "GET /r/https\nhost: a.test:8080",
    "GET /r/port",
    "GET /r/port\nhost: a.test:81",
    "GET /r/both",
    "GET /r/strip/x?y",
    "GET /r/303",
    "GET /r/307",
    "GET /r/308",
    "POST /r/308\n\nbody",
    "GET /r/https\nhost: [::1]:80",
    "GET /d/empty",
    "GET /d/204",
    "GET /d/body",
    "HEAD /d/body",
    "POST /d/body\n\nbody",
    "GET /d/format?x",
    "POST /d/body\ncontent-type: application/grpc",
    "GET /c/header\nx-cluster: b",
    "GET /c/header",
    "GET /c/header\nx-cluster: nowhere",
    "GET /c/none",
    "GET /c/empty",
    "GET /c/refused",
    "POST /c/refused\ncontent-type: application/grpc",
    "GET /c/weighted",
    "GET /plain",
    "POST /plain\n\nhello",
    "PUT /plain\n\n",
    "DELETE /plain",
    "PATCH /plain\n\nx",
    "HEAD /plain",
    "OPTIONS /plain",
    "OPTIONS *",
    "GET http://absolute.test/plain?x",
    "GET /plain\nx-forwarded-for: 1.2.3.4",
    "GET /plain\nx-forwarded-proto: https",
    "GET /plain\nx-envoy-retry-on: 5xx",
    "GET /plain\nx-envoy-internal: true",
    "GET /plain\nx-envoy-original-path: /x",
    "GET /plain\nx-envoy-attempt-count: 7",
    "GET /plain\nx-envoy-upstream-rq-timeout-ms: 1",
    "GET /plain\nconnection: x-hop\nx-hop: 1",
    "GET /plain\nte: trailers",
    "GET /plain\nte: gzip",
    "GET /plain\nkeep-alive: 5",
    "GET /plain\nproxy-connection: keep-alive",
    "GET /plain\nx-empty:",
    "GET /plain\ncookie: a=1\ncookie: b=2",
    "GET /plain\nexpect: 100-continue",
    "GET /plain\nx-twice: 1\nx-twice: 2",
];

const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/./b",
    "/a/../b",
    "/a/..",
    "/a/.",
    "/..",
    "/../a",
    "/a/../../b",
    "/a//b",
    "//a",
    "/a//",
    "///",
    "/a/b//../c",
    "/%61",
    "/a%2fb",
    "/a%2Fb",
    "/a%5cb",
    "/a%5Cb",
    "/a\\b",
    "/a\\..\\b",
    "/%2e%2e/a",
    "/a/%2E%2e/b",
    "/a/%2e/b",
    "/a%00b",
    "/a%zz",
    "/a%2",
    "/a%",
    "/admin",
    "/x/../admin",
    "//admin",
    "/x/..%2fadmin",
    "/x/%2e%2e/admin",
    "/x%2f..%2fadmin",
    "/./admin",
    "/%61dmin",
    "/adm%69n/x",
    "/a?b=/../c",
    "/a?b=//",
    "/a/;x/../b",
    "/a/...",
    "/a/..b",
    "/.a/",
    "/a%20b",
    "/a+b",
    "/%c3%a9",
    "/a%252fb",
    "/a;b=c",
    "/a/%7Euser",
    "/a?",
    "/a??",
    "/a/../?x",
];

const RETRYING: &[(&str, &str)] = &[
    ("GET /5xx/", ""),
    ("GET /5xx/", "status=503; flaky=1"),
    ("GET /5xx/", "status=500; flaky=2"),
    ("GET /5xx/", "status=503; flaky=3"),
    ("GET /5xx/", "status=404; flaky=1"),
    ("GET /5xx/", "die=0; raw=nothing; flaky=1"),
    ("GET /5xx/", "die=0; raw=nothing; flaky=9"),
    ("GET /5xx/", "raw=garbage; flaky=1"),
    ("POST /5xx/\n\nbody", "status=503; flaky=1"),
    ("POST /5xx/\n\nbody", "status=503; flaky=9"),
    ("GET /5xx/", "status=503; body=100000; flaky=1"),
    ("GET /5xx/", "die=10; flaky=1"),
    ("HEAD /5xx/", "status=503; flaky=1"),
    ("GET /5xx/", "status=503; trailers; flaky=1"),
    ("GET /gateway/", "status=500; flaky=1"),
    ("GET /gateway/", "status=502; flaky=1"),
    ("GET /gateway/", "status=504; flaky=1"),
    ("GET /gateway/", "die=0; raw=nothing; flaky=1"),
    ("GET /reset/", "status=503; flaky=1"),
    ("GET /reset/", "die=0; raw=nothing; flaky=1"),
    ("GET /reset/", "raw=half-head; flaky=1"),
    ("GET /before/", "die=0; raw=nothing; flaky=1"),
    ("GET /connect/", "die=0; raw=nothing; flaky=1"),
    ("GET /connect/", "status=503; flaky=1"),
    ("GET /4xx/", "status=409; flaky=1"),
    ("GET /4xx/", "status=404; flaky=1"),
    ("GET /ratelimited/", "status=429; header=x-envoy-ratelimited:true; flaky=1"),
    ("GET /ratelimited/", "status=429; flaky=1"),
    ("GET /5xx/", "status=503; header=x-envoy-ratelimited:true; flaky=1"),
    ("GET /codes/", "status=418; flaky=1"),
    ("GET /codes/", "status=404; flaky=2"),
    ("GET /codes/", "status=503; flaky=1"),
    ("GET /headers/", "header=x-again:yes; flaky=1"),
    ("GET /headers/", "header=x-again:no; flaky=1"),
    ("GET /headers/", "status=429; flaky=1"),
    ("GET /only/", "status=503; flaky=1"),
    ("GET /only/\nx-retry: 1", "status=503; flaky=1"),
    ("POST /grpc/\ncontent-type: application/grpc", "header=grpc-status:14; flaky=1"),
    ("POST /grpc/\ncontent-type: application/grpc", "header=grpc-status:1; flaky=1"),
    ("POST /grpc/\ncontent-type: application/grpc", "header=grpc-status:13; flaky=1"),
    ("POST /grpc/\ncontent-type: application/grpc", "header=grpc-status:4; flaky=1"),
    ("POST /grpc/\ncontent-type: application/grpc", "header=grpc-status:0; flaky=1"),
    ("GET /none/", "status=503; flaky=1"),
    ("GET /one/", "status=503; flaky=1"),
    ("GET /one/", "status=503; flaky=2"),
    ("GET /per-try/", "silent; flaky=1"),
    ("GET /per-try/", "silent; flaky=9"),
    ("GET /per-try-only/", "silent; flaky=1"),
    ("GET /idle/", "silent; flaky=1"),
    ("GET /idle/", "silent; flaky=9"),
    ("GET /after/", "status=503; header=retry-after:0; flaky=1"),
    ("GET /refused/", ""),
    ("GET /refused-5xx/", ""),
    ("GET /refused-reset/", ""),
    ("GET /refused-4xx/", ""),
    ("GET /tight/", "status=503; flaky=1"),
    ("GET /empty/", ""),
    ("POST /small/\n\nshort", "status=503; flaky=1"),
    ("POST /small/\n\nlonger than ten bytes", "status=503; flaky=1"),
    ("GET /small/", "status=503; flaky=1"),
    ("GET /other", "status=503; flaky=1"),
];

/// Headers by which a client inside steers the proxy; outside they are removed.
const STEERING: &[(&str, &str)] = &[
    ("GET /other\nx-forwarded-for: 10.1.2.3\nx-envoy-retry-on: 5xx", "status=503; flaky=1"),
    ("GET /other\nx-forwarded-for: 10.1.2.3\nx-envoy-retry-on: 5xx\nx-envoy-max-retries: 3", "status=503; flaky=3"),
    ("GET /other\nx-forwarded-for: 10.1.2.3\nx-envoy-retry-on: 5xx\nx-envoy-max-retries: 0", "status=503; flaky=3"),
    ("GET /other\nx-forwarded-for: 11.1.2.3\nx-envoy-retry-on: 5xx", "status=503; flaky=1"),
    ("GET /other\nx-forwarded-for: 10.1.2.3,11.1.2.3\nx-envoy-retry-on: 5xx", "status=503; flaky=1"),
    (
        "GET /other\nx-forwarded-for: 10.1.2.3\nx-envoy-retry-on: retriable-status-codes\nx-envoy-retriable-status-codes: 404,418",
        "status=418; flaky=1",
    ),
    (
        "GET /other\nx-forwarded-for: 10.1.2.3\nx-envoy-retry-on: retriable-headers\nx-envoy-retriable-header-names: x-again,x-more",
        "header=x-more:1; flaky=1",
    ),
    (
        "POST /other\nx-forwarded-for: 10.1.2.3\nx-envoy-retry-grpc-on: unavailable\ncontent-type: application/grpc",
        "header=grpc-status:14; flaky=1",
    ),
    ("GET /other\nx-forwarded-for: 10.1.2.3\nx-envoy-upstream-rq-timeout-ms: 100", "silent"),
    ("GET /5xx/\nx-forwarded-for: 10.1.2.3\nx-envoy-upstream-rq-per-try-timeout-ms: 100", "silent; flaky=1"),
    ("GET /other\nx-forwarded-for: 10.1.2.3\nx-envoy-expected-rq-timeout-ms: 7", ""),
    ("GET /other\nx-forwarded-for: 10.1.2.3", ""),
];

const TIMING: &[(&str, &str)] = &[
    ("GET /timeout", "silent"),
    ("GET /timeout", ""),
    ("POST /timeout\n\nbody", "silent"),
    ("POST /timeout\ncontent-type: application/grpc", "silent"),
    ("GET /timeout", "body=100; gate-after=10"),
    ("GET /idle", "silent"),
    ("GET /idle", "body=100; gate-after=10"),
    ("POST /idle\ncontent-type: application/grpc", "silent"),
    ("GET /none", ""),
    ("GET /max", "silent"),
    ("GET /max", "body=100; gate-after=10"),
    ("POST /max\ncontent-type: application/grpc", "silent"),
    ("POST /grpc-max\ncontent-type: application/grpc\ngrpc-timeout: 50m", "silent"),
    ("POST /grpc-max\ncontent-type: application/grpc\ngrpc-timeout: 5S", "silent"),
    ("POST /grpc-max\ncontent-type: application/grpc\ngrpc-timeout: 5S", ""),
    ("POST /grpc-offset\ncontent-type: application/grpc\ngrpc-timeout: 100m", "silent"),
    ("POST /old-grpc\ncontent-type: application/grpc\ngrpc-timeout: 50m", "silent"),
    ("POST /old-grpc\ncontent-type: application/grpc\ngrpc-timeout: 5S", ""),
    ("POST /old-grpc\ncontent-type: application/grpc", ""),
    ("GET /old-grpc", ""),
    ("POST /old-offset\ncontent-type: application/grpc\ngrpc-timeout: 3S", ""),
    ("POST /old-offset\ncontent-type: application/grpc\ngrpc-timeout: 500m", ""),
    ("POST /\ncontent-type: application/grpc\ngrpc-timeout: 3S", ""),
    ("GET /", "interim=103"),
    ("GET /", "status=204"),
    ("GET /", "status=304"),
    ("GET /", "trailers; body=10"),
    ("GET /", "chunked; body=10"),
    ("GET /", "close"),
    ("GET /", "die=10; body=100"),
    ("GET /", "header=connection:x-z; header=x-z:1"),
    ("GET /", "header=server:origin; header=via:1.1 x"),
    ("GET /", "header=x-twice:1; header=x-twice:2"),
    ("HEAD /", "body=10"),
    ("GET /", "status=599"),
    ("POST /\n\nbody", "early"),
];

/// Those under `/mirror/` are copied.
const MIRRORING: &[&str] = &[
    "GET /mirror/always/x?q",
    "GET /mirror/always\nhost: a.test:81",
    "POST /mirror/always\n\nbody",
    "HEAD /mirror/always",
    "PUT /mirror/always\nx-a: 1\nx-a: 2\n\nbody",
    "GET /mirror/plain-host",
    "GET /mirror/header\nx-mirror: b",
    "GET /mirror/by-host",
    "GET /never",
    "GET /unknown",
];

/// Paths that are refused where Envoy makes something of them.
const REFUSED: &str = "stricter: a path that climbs above the root, or an escape that is none";
const NORMALIZED: &str = "`///` merges to `/`, not to `//`";
const EXPECT: &str = "the origin's 100 is forwarded, so its `Expect` is too";
const STALE: &str = "a pooled connection that the origin closed: sent once more on a fresh one";
const MIRRORED: &str = "a mirrored request carries neither `x-envoy-internal` nor the proxy's own address";
const LINES: &str = "lines of `x-forwarded-for` stay lines";
const OPTIONS: &str = "an OPTIONS request without a body is forwarded without `content-length: 0`";

/// What is different on purpose.
pub(crate) fn different() -> Vec<Different> {
    let mut all = Vec::new();
    let mut add = |case: String, fields: &'static str, how: &'static str| all.push(Different { case, fields, how });
    for listener in ["strict", "reject", "redirect", "forward"] {
        for path in ["/..", "/../a", "/a/../../b", "/%2e%2e/a", "/a%zz", "/a%2", "/a%"] {
            add(format!("{listener} GET {path}"), "status attempts headers origin log", REFUSED);
        }
    }
    for listener in ["strict", "forward"] {
        add(format!("{listener} GET ///"), "origin log", NORMALIZED);
    }
    add("rewrite GET /plain, expect: 100-continue".to_owned(), "origin", EXPECT);
    for case in [
        "rewrite OPTIONS /plain",
        "filters OPTIONS /cors/plain/, origin: http://a.test",
        "filters OPTIONS /cors/full/, origin: http://c.test, access-control-request-method: PUT",
    ] {
        add(case.to_owned(), "origin", OPTIONS);
    }
    for request in MIRRORING.iter().filter(|request| request.contains(" /mirror/")) {
        add(format!("mirror {}", request.replace('\n', ", ")), "copy", MIRRORED);
    }
    for listener in ["inner-hop", "no-append"] {
        add(format!("{listener} GET /, x-forwarded-for: 1.2.3.4, x-forwarded-for: 5.6.7.8"), "origin", LINES);
    }
    add("rewrite OPTIONS *".to_owned(), "log", "`*` without a route has the flag NR");
    add("retry GET /5xx/ [die=0; raw=nothing; flaky=9]".to_owned(), "attempts", STALE);
    for route in ["before", "connect"] {
        add(
            format!("retry GET /{route}/ [die=0; raw=nothing; flaky=1]"),
            "status body attempts headers origin log",
            STALE,
        );
    }
    add(
        "time GET / [header=connection:x-z; header=x-z:1]".to_owned(),
        "headers",
        "what an answer's `Connection` names is the hop's, and isn't forwarded",
    );
    all
}
