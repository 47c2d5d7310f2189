//! JA3 and JA4: what a client's hello offers, in short, so that clients of one kind are recognised.
//!
//! JA3 is an MD5 of numbers in the order of the hello; JA4 has a readable part and two digests of sorted numbers. Reserved
//! values that clients sprinkle in (GREASE, RFC 8701) count for neither.

use aws_lc_rs::digest;
use outrigger_http::hex;

use super::client_hello::{ALPN, Reader, SERVER_NAME};
use super::md5::md5;

const SUPPORTED_GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const SUPPORTED_VERSIONS: u16 = 43;

/// The numbers of a hello.
#[derive(Debug, Default)]
pub(super) struct Offer<'a> {
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    groups: Vec<u16>,
    point_formats: &'a [u8],
    signature_algorithms: Vec<u16>,
    versions: Vec<u16>,
    /// `None`: no protocols are negotiated.
    first_protocol: Option<&'a [u8]>,
}

impl<'a> Offer<'a> {
    /// Of a hello's body, which has been found to be one.
    pub(super) fn read(body: &'a [u8]) -> Option<Offer<'a>> {
        let mut body = Reader(body);
        let mut offer = Offer { version: body.u16()?, ..Offer::default() };
        body.take(32)?;
        body.vector8()?;
        offer.ciphers = numbers(body.vector16()?);
        body.vector8()?;
        let mut extensions = if body.0.is_empty() { Reader(&[]) } else { body.vector16()? };
        while !extensions.0.is_empty() {
            let (kind, data) = (extensions.u16()?, extensions.vector16()?);
            if is_grease(kind) {
                continue;
            }
            offer.extensions.push(kind);
            offer.extension(kind, data);
        }
        Some(offer)
    }

    fn extension(&mut self, kind: u16, mut data: Reader<'a>) {
        match kind {
            SUPPORTED_GROUPS => self.groups = data.vector16().map(numbers).unwrap_or_default(),
            POINT_FORMATS => self.point_formats = data.vector8().map(|formats| formats.0).unwrap_or_default(),
            SIGNATURE_ALGORITHMS => self.signature_algorithms = data.vector16().map(numbers).unwrap_or_default(),
            SUPPORTED_VERSIONS => self.versions = data.vector8().map(numbers).unwrap_or_default(),
            ALPN => self.first_protocol = data.vector16().and_then(|mut list| Some(list.vector8()?.0)),
            _ => {}
        }
    }

    /// In hexadecimal digits.
    pub(super) fn ja3(&self) -> String {
        let formats: Vec<u16> = self.point_formats.iter().copied().map(u16::from).collect();
        let lists = [&self.ciphers, &self.extensions, &self.groups, &formats];
        let mut text = self.version.to_string();
        for list in lists {
            text.push(',');
            text.push_str(&list.iter().map(u16::to_string).collect::<Vec<_>>().join("-"));
        }
        hex(&md5(text.as_bytes()))
    }

    pub(super) fn ja4(&self) -> String {
        let version = match self.versions.iter().copied().max().unwrap_or(self.version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            _ => "00",
        };
        let named = if self.extensions.contains(&SERVER_NAME) { 'd' } else { 'i' };
        let (ciphers, extensions) = (self.ciphers.len().min(99), self.extensions.len().min(99));
        let protocol = ends(self.first_protocol.unwrap_or_default());
        let mut sorted = self.ciphers.clone();
        sorted.sort_unstable();
        let mut others: Vec<u16> =
            self.extensions.iter().copied().filter(|kind| !matches!(*kind, SERVER_NAME | ALPN)).collect();
        others.sort_unstable();
        let mut details = list(&others);
        if !details.is_empty() && !self.signature_algorithms.is_empty() {
            details = format!("{details}_{}", list(&self.signature_algorithms));
        }
        let (suites, rest) = (short_digest(&list(&sorted)), short_digest(&details));
        format!("t{version}{named}{ciphers:02}{extensions:02}{protocol}_{suites}_{rest}")
    }
}

fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

fn numbers(mut list: Reader<'_>) -> Vec<u16> {
    std::iter::from_fn(|| list.u16()).filter(|value| !is_grease(*value)).collect()
}

/// The first and the last character of a protocol's name, or digits of their bytes.
fn ends(protocol: &[u8]) -> String {
    let (Some(first), Some(last)) = (protocol.first(), protocol.last()) else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(*first), char::from(*last)].iter().collect();
    }
    format!("{:x}{:x}", first >> 4, last & 15)
}

fn list(values: &[u16]) -> String {
    values.iter().map(|value| format!("{value:04x}")).collect::<Vec<_>>().join(",")
}

/// The first twelve digits of a SHA-256; zeros for nothing.
fn short_digest(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    hex(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greases_are_known() {
        assert!(
            (0..=u16::MAX).filter(|value| is_grease(*value)).count() == 16 && is_grease(0x0a0a) && is_grease(0xfafa)
        );
    }

    #[test]
    fn ends_of_protocols() {
        for (protocol, expected) in
            [(&b"h2"[..], "h2"), (b"http/1.1", "h1"), (b"", "00"), (b"a", "aa"), (&[0xab, 0xcd], "ad")]
        {
            assert_eq!(ends(protocol), expected);
        }
    }

    #[test]
    fn an_offer_is_told_in_short() {
        let offer = Offer {
            version: 0x0303,
            ciphers: vec![0x1301, 0xc02b],
            extensions: vec![0, 10, 16, 13, 43],
            groups: vec![29, 23],
            point_formats: &[0],
            signature_algorithms: vec![0x0403],
            versions: vec![0x0304, 0x0303],
            first_protocol: Some(b"h2"),
        };
        // Of "771,4865-49195,0-10-16-13-43,29-23,0".
        assert_eq!(offer.ja3(), hex(&md5(b"771,4865-49195,0-10-16-13-43,29-23,0")));
        let (suites, rest) = (short_digest("1301,c02b"), short_digest("000a,000d,002b_0403"));
        assert_eq!(offer.ja4(), format!("t13d0205h2_{suites}_{rest}"));
        assert_eq!(Offer::default().ja4(), "t00i000000_000000000000_000000000000");
    }
}
