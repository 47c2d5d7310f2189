//! The first bytes of a connection: who the client is said to be, and what it speaks.

use outrigger_dataplane::fuzzing;

use crate::{Target, fingerprint};

pub(super) const PROXY_HEADER: Target = Target {
    name: "proxy_header",
    about: "a PROXY header is read to the byte or refused, and what is known stays true as more bytes come",
    seeds: || {
        let v2 = |command, family, body: &[u8]| {
            let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
            [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body, b"GET / HTTP/1.1\r\n"].concat()
        };
        vec![
            b"PROXY TCP4 1.2.3.4 5.6.7.8 9 65535\r\nGET /".to_vec(),
            b"PROXY TCP6 fd00::1 ::2 0 1\r\n\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1\r\n".to_vec(),
            v2(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 1, 0]),
            v2(0x21, 0x21, &[[1; 36].as_slice(), &[0xea, 0, 2, b'a', b'b', 4, 0, 0]].concat()),
            v2(0x20, 0x00, &[]),
        ]
    },
    words: &[
        b"\r\n",
        b"\n",
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b" ",
        b"::",
        b"255",
        b"\x21\x11",
        b"\x20",
        b"\0\x0c",
    ],
    prepare: || Box::new(|input| fingerprint(&fuzzing::proxy_header(input))),
    short: 10_000,
};

pub(super) const CLIENT_HELLO: Target = Target {
    name: "client_hello",
    about: "a ClientHello is read the same in any records or refused, and what is known stays true as more bytes come",
    seeds: || vec![hello(&[1, 400]), hello(&[7, 30, 400]), hello(&[400])],
    words: &[
        b"\x16\x03\x01",
        b"\x01\0",
        b"\0\0",
        b"\0\x10",
        b"\0\x02",
        b"\x02h2",
        b"\0\x05\0\x03\x02h2",
        b"\0\0\0\x0b\0\x09\0\0\x06a.test",
    ],
    prepare: || Box::new(|input| fingerprint(&fuzzing::client_hello(input))),
    short: 5_000,
};

/// A hello with a name and two protocols, in records of these lengths.
fn hello(records: &[usize]) -> Vec<u8> {
    let extensions = b"\0\0\0\x0b\0\x09\0\0\x06a.test\0\x10\0\x0e\0\x0c\x02h2\x08http/1.1";
    let length = |n: usize| u16::try_from(n).unwrap_or_default().to_be_bytes();
    let body =
        [&[3, 3][..], &[7; 32], &[0], b"\0\x02\x13\x01", b"\x01\0", &length(extensions.len()), extensions].concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    let mut rest = &message[..];
    let mut out = Vec::new();
    for record in records {
        let (part, after) = rest.split_at(rest.len().min(*record));
        out.extend([&[22, 3, 1][..], &length(part.len()), part].concat());
        rest = after;
    }
    out
}

pub(super) const HTTP_VERSION: Target = Target {
    name: "http_version",
    about: "HTTP is told by its first line, however the bytes are cut",
    seeds: || {
        [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0",
            "X-METHOD http://a/b?c HTTP/1.0\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &[b"\r\n", b"\n", b" ", b"HTTP/1.1", b"HTTP/1.0", b"PRI * HTTP/2.0", b"SM\r\n\r\n", b"GET ", b"\0", b"\xff"],
    prepare: || Box::new(|input| fingerprint(&fuzzing::http_version(input))),
    short: 10_000,
};
