//! What of a head has a grammar of its own.

use outrigger_dataplane::fuzzing;

use crate::{Target, fingerprint};

pub(super) const PATHS: Target = Target {
    name: "paths",
    about: "a path is normal after it was normalised once, and its query is left alone",
    // The first byte has the options.
    seeds: || {
        ["\x0fa/./b/../c//d?e=/../f", "\x0ca%2fb%5Cc%2e%2E/%41", "\x0d..%2f", "\x0b\\a\\..\\b", "\x00a//b"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    },
    words: &[
        b"/", b"//", b"/./", b"/../", b"..", b".", b"\\", b"%2f", b"%2F", b"%5c", b"%2e", b"%25", b"%", b"%00", b"?",
        b"#",
    ],
    prepare: || Box::new(|input| fingerprint(&fuzzing::path(input))),
    short: 20_000,
};

pub(super) const HEADER_VALUES: Target = Target {
    name: "header_values",
    about: "timeouts and trace contexts of clients are read or ignored, and go on as they were understood",
    seeds: || {
        [
            "100m\n00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\na=b",
            "99999999H\n\n\n80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90",
            "1n\n\n\n\n463ac35c9f6413ad48485a3953bb6124\na2fb4a1d1a96d312\n1",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        b"\n",
        b"-",
        b"00-",
        b"01",
        b"H",
        b"M",
        b"S",
        b"m",
        b"u",
        b"n",
        b"99999999",
        b"0000000000000000",
        b"ff",
        b"d",
    ],
    prepare: || Box::new(|input| fingerprint(&fuzzing::header_values(input))),
    short: 20_000,
};

pub(super) const CLIENT_CERTIFICATE: Target = Target {
    name: "client_certificate",
    about: "no name in a certificate makes x-forwarded-client-cert say something else",
    seeds: || {
        ["\x07CN=a,O=\"b\"\nspiffe://mesh/a\na.test", "\x07\nurn:x;By=y\n\"", "\x05\\\\\",Hash=0\na,b=c"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    },
    words: &[
        b"\n",
        b"\"",
        b"\\",
        b",",
        b";",
        b"=",
        b"By=",
        b"Hash=",
        b"URI=spiffe://",
        b":",
        b"\\\"",
        b"\"\"",
        b"\xff",
    ],
    prepare: || Box::new(|input| fingerprint(&fuzzing::client_certificate(input))),
    short: 20_000,
};
