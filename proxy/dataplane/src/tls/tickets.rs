//! Session tickets of configured keys (`session_ticket_keys`): whoever has the keys takes a ticket, after a restart too.
//!
//! A ticket is the key's name, an initialisation vector, the sealed session (AES-256-CBC) and an HMAC-SHA256 over all of
//! that and whom the server's certificates are for: Envoy's primitives, for keys that Envoy takes too. What is sealed is rustls's: Envoy's own tickets are strangers.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};
use outrigger_config::{TicketKey, TicketKeys};
use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;

/// A week: a client of TLS 1.3 may refuse more (RFC 8446 §4.6.1).
const TOLD_SECONDS_MAX: u32 = 7 * 86_400;
const NAME_BYTES: usize = 16;
const IV_BYTES: usize = 16;
const TAG_BYTES: usize = 32;
const TIME_BYTES: usize = 8;

/// Keys, of which the first one seals.
#[derive(Debug)]
pub(super) struct Tickets {
    keys: Vec<Key>,
    lifetime: Duration,
    /// Whose sessions they are: a ticket of another server isn't taken, though the keys are the same.
    server: [u8; 32],
}

struct Key {
    name: [u8; NAME_BYTES],
    hmac: hmac::Key,
    sealing: PaddedBlockEncryptingKey,
    opening: PaddedBlockDecryptingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Tickets {
    /// `None`: a key cannot be used.
    pub(super) fn new(keys: &TicketKeys, lifetime: Duration, server: [u8; 32]) -> Option<Tickets> {
        let keys = keys.keys.iter().map(Key::new).collect::<Option<Vec<Key>>>()?;
        Some(Tickets { keys, lifetime, server })
    }

    /// What is authenticated: who made the ticket doesn't stand in it.
    fn with_server(&self, told: &[u8]) -> Vec<u8> {
        [&self.server[..], told].concat()
    }

    fn seal(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut sealed = [&now.to_be_bytes()[..], plain].concat();
        let mut iv = [0; IV_BYTES];
        rand::fill(&mut iv).ok()?;
        key.sealing.less_safe_encrypt(&mut sealed, EncryptionContext::Iv128(FixedLength::from(iv))).ok()?;
        let mut ticket = [&key.name[..], &iv, &sealed].concat();
        let tag = hmac::sign(&key.hmac, &self.with_server(&ticket));
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// `None`: not ours, changed, or too old.
    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (told, tag) = ticket.split_at_checked(ticket.len().checked_sub(TAG_BYTES)?)?;
        let (name, rest) = told.split_first_chunk::<NAME_BYTES>()?;
        let (iv, sealed) = rest.split_first_chunk::<IV_BYTES>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        // Nothing is opened that somebody else may have made.
        hmac::verify(&key.hmac, &self.with_server(told), tag).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = key.opening.decrypt(&mut sealed, DecryptionContext::Iv128(FixedLength::from(*iv))).ok()?;
        let (made, plain) = opened.split_first_chunk::<TIME_BYTES>()?;
        let age = now.saturating_sub(u64::from_be_bytes(*made));
        (age <= self.lifetime.as_secs()).then(|| plain.to_vec())
    }
}

impl Key {
    fn new(key: &TicketKey) -> Option<Key> {
        let cipher = || UnboundCipherKey::new(&AES_256, &key.aes).ok();
        Some(Key {
            name: key.name,
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &key.hmac),
            sealing: PaddedBlockEncryptingKey::cbc_pkcs7(cipher()?).ok()?,
            opening: PaddedBlockDecryptingKey::cbc_pkcs7(cipher()?).ok()?,
        })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX).min(TOLD_SECONDS_MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, UnixTime::now().as_secs())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, UnixTime::now().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(names: &[u8]) -> Tickets {
        let key = |name: &u8| TicketKey { name: [*name; 16], hmac: [name ^ 1; 32], aes: [name ^ 2; 32] };
        let keys = TicketKeys { keys: names.iter().map(key).collect() };
        Tickets::new(&keys, Duration::from_secs(100), [7; 32]).unwrap()
    }

    #[test]
    fn another_server_has_other_tickets() {
        let (ours, theirs) = (tickets(&[1]), Tickets { server: [8; 32], ..tickets(&[1]) });
        let ticket = ours.seal(b"session", 0).unwrap();
        assert!(ours.open(&ticket, 0).is_some() && theirs.open(&ticket, 0).is_none());
    }

    #[test]
    fn who_has_the_key_takes_a_ticket() {
        let ticket = tickets(&[1, 2]).seal(b"session", 1000).unwrap();
        for (names, now, expected) in [
            (&[1, 2][..], 1000, true),
            // Another process, and one that has rolled its keys since.
            (&[1], 1100, true),
            (&[3, 1], 1100, true),
            (&[1], 1101, false),
            (&[2, 3], 1000, false),
            // Its clock is behind.
            (&[1], 900, true),
        ] {
            let opened = tickets(names).open(&ticket, now);
            assert_eq!(opened.as_deref(), expected.then_some(&b"session"[..]), "{names:?} {now}");
        }
    }

    #[test]
    fn what_was_changed_is_nobodys() {
        let tickets = tickets(&[1]);
        let ticket = tickets.seal(b"session", 0).unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.open(&changed, 0), None, "{at}");
            assert_eq!(tickets.open(&ticket[..at], 0), None, "{at}");
        }
        assert_ne!(tickets.seal(b"session", 0).unwrap(), ticket, "each has a vector of its own");
    }
}
