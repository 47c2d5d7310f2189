//! HTTP/1, as it comes from a client and from an origin.

use outrigger_dataplane::fuzzing;

use crate::{Target, fingerprint};

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b": ",
    b" ",
    b"\t",
    b"\0",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: a\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET ",
    b"http://",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b";ext=1",
    b"ffffffffffffffff",
    b"+",
    b"X-T: 1\r\n",
];

pub(super) const REQUEST: Target = Target {
    name: "http1_request",
    about: "requests are read the same however the bytes are cut",
    seeds: || {
        [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /p?q HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhelloGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x-a\r\nUpgrade: websocket\r\nX-A: 1\r\n\r\n",
            "\r\nHEAD / HTTP/1.0\r\nConnection: keep-alive\r\nHost: [::1]:8\r\n\r\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: WORDS,
    prepare: || Box::new(|input| fingerprint(&fuzzing::http1_requests(input))),
    short: 30_000,
};

pub(super) const RESPONSE: Target = Target {
    name: "http1_response",
    about: "responses are read the same however the bytes are cut",
    seeds: || {
        [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nuntil the end",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"a\"\r\n\r\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: WORDS,
    prepare: || Box::new(|input| fingerprint(&fuzzing::http1_responses(input))),
    short: 30_000,
};
