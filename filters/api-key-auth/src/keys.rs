//! The known keys, by their SHA-256.

use std::collections::BTreeMap;

use outrigger_filter_sdk::ConfigError;
use outrigger_filter_sdk::headers::check_value;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

const KEYS_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 256;

/// What the configuration says about one key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyConfig {
    name: String,
    sha256: String,
}

/// Validated keys.
#[derive(Debug)]
pub(crate) struct Keys {
    digests: Vec<[u8; 32]>,
    /// The names, at the digests' places.
    names: Vec<String>,
}

impl Keys {
    pub(crate) fn new(keys: Vec<KeyConfig>) -> Result<Self, ConfigError> {
        if keys.is_empty() {
            return Err(ConfigError::at("keys", "is empty, nobody could pass"));
        }
        if keys.len() > KEYS_MAX {
            return Err(ConfigError::at("keys", format!("has more than {KEYS_MAX} elements")));
        }
        let mut digests = Vec::with_capacity(keys.len());
        let mut names = Vec::with_capacity(keys.len());
        let mut places = BTreeMap::new();
        for (at, key) in keys.into_iter().enumerate() {
            check_owner(&key.name).map_err(|what| ConfigError::at(format!("keys[{at}].name"), what))?;
            let refuse = |what: String| ConfigError::at(format!("keys[{at}].sha256"), what);
            let digest =
                digest(&key.sha256).ok_or_else(|| refuse("is not a SHA-256 of 64 hexadecimal digits".to_owned()))?;
            if let Some(first) = places.insert(digest, at) {
                return Err(refuse(format!("is the same as keys[{first}].sha256")));
            }
            digests.push(digest);
            names.push(key.name);
        }
        Ok(Self { digests, names })
    }

    /// Who a key belongs to. It looks at every digest, whichever matches.
    pub(crate) fn owner(&self, key: &[u8]) -> Option<&str> {
        let presented: [u8; 32] = Sha256::digest(key).into();
        let (mut found, mut place) = (Choice::from(0), 0);
        for (at, digest) in (0_u32..).zip(&self.digests) {
            let equal = digest.ct_eq(&presented);
            place.conditional_assign(&at, equal);
            found |= equal;
        }
        if bool::from(found) { self.names.get(place as usize).map(String::as_str) } else { None }
    }
}

fn check_owner(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("has not 1 to {NAME_BYTES_MAX} bytes"));
    }
    check_value(name)
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != digest.len() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        let nibble = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = (nibble(high)? << 4) | nibble(low)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 as FIPS 180-2 gives it for "abc".
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests() {
        assert_eq!(digest(ABC), Some(Sha256::digest("abc").into()));
        assert_eq!(digest(&ABC.to_uppercase()), digest(ABC));
        for bad in ["", "ba", &ABC[1..], &format!("{ABC}00"), &ABC.replace('a', "g"), &ABC.replace("ba", "é")] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }

    #[test]
    fn owners() {
        let secrets: Vec<String> = (0..300).map(|number| format!("secret-{number}")).collect();
        let keys = secrets.iter().enumerate().map(|(number, secret)| KeyConfig {
            name: format!("owner-{number}"),
            sha256: Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect(),
        });
        let keys = Keys::new(keys.collect()).unwrap();
        for (number, secret) in secrets.iter().enumerate() {
            assert_eq!(keys.owner(secret.as_bytes()), Some(format!("owner-{number}").as_str()));
        }
        for unknown in ["", "secret", "secret-300", "Secret-1", "secret-1 "] {
            assert_eq!(keys.owner(unknown.as_bytes()), None, "{unknown}");
        }
    }
}
