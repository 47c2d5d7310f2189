//! The configuration's form and its validation. The crate's own text says what the fields mean.

use std::time::Duration;

use outrigger_filter_sdk::ConfigError;
use outrigger_filter_sdk::headers::check_name;
use serde::Deserialize;

use crate::bucket::Rate;
use crate::limit::{Key, Limit, hash};
use crate::store::{Store, WAYS};

const LIMITS_MAX: usize = 8;
const NAME_BYTES_MAX: usize = 64;
const PER_MAX: Duration = Duration::from_secs(31 * 86_400);
const KEYS_MAX: u32 = 1 << 20;

/// The filter's configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    limits: Vec<LimitConfig>,
    #[serde(default = "yes")]
    pub(crate) response_headers: bool,
    #[serde(default)]
    pub(crate) on_failure: OnFailure,
}

fn yes() -> bool {
    true
}

/// What happens to requests while the buckets cannot be asked.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFailure {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitConfig {
    name: String,
    requests: u64,
    per: String,
    burst: Option<u64>,
    key: Option<KeyConfig>,
    #[serde(default = "default_max_keys")]
    max_keys: u32,
}

fn default_max_keys() -> u32 {
    65_536
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyConfig {
    header: Option<String>,
    missing: Option<Missing>,
    #[serde(default)]
    client_address: bool,
    ipv6_prefix: Option<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Missing {
    Share,
    Skip,
}

impl Config {
    /// The validated limits of the plugin with this name.
    pub(crate) fn limits(&self, plugin: &[u8]) -> Result<Vec<Limit>, ConfigError> {
        if self.limits.is_empty() || self.limits.len() > LIMITS_MAX {
            return Err(ConfigError::at("limits", format!("has not 1 to {LIMITS_MAX} elements")));
        }
        let mut limits: Vec<Limit> = Vec::with_capacity(self.limits.len());
        for (at, limit) in self.limits.iter().enumerate() {
            let limit = limit.validate(&format!("limits[{at}]"), plugin)?;
            if limits.iter().any(|earlier| earlier.name == limit.name) {
                return Err(ConfigError::at(
                    format!("limits[{at}].name"),
                    format!("`{}` is another limit's name", limit.name),
                ));
            }
            limits.push(limit);
        }
        Ok(limits)
    }
}

impl LimitConfig {
    fn validate(&self, path: &str, plugin: &[u8]) -> Result<Limit, ConfigError> {
        let at = |field: &str, what: String| ConfigError::at(format!("{path}.{field}"), what);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !self.name.bytes().all(is_plain) {
            return Err(at("name", format!("is not 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` or `.`")));
        }
        let per = duration(&self.per).map_err(|what| at("per", what))?;
        if self.requests == 0 {
            return Err(at("requests", "is 0".to_owned()));
        }
        if Rate::new(self.requests, per, 1).is_none() {
            return Err(at("requests", "is more than 1000000 a second".to_owned()));
        }
        let burst = self.burst.unwrap_or(self.requests);
        let rate = Rate::new(self.requests, per, burst)
            .ok_or_else(|| at("burst", "is 0, or more than refills in a year".to_owned()))?;
        if !(WAYS..=KEYS_MAX).contains(&self.max_keys) {
            return Err(at("max_keys", format!("is not {WAYS} to {KEYS_MAX}")));
        }
        let key = self.key.as_ref().map_or(Ok(Key::All), |key| key.validate(&format!("{path}.key")))?;
        let entries = if key == Key::All { 1 } else { self.max_keys / WAYS };
        let quota = (self.requests, per.as_secs(), burst);
        let identity = hash(&(plugin, &self.name, &key, quota, self.max_keys));
        Ok(Limit { name: self.name.clone(), key, quota, rate, store: Store::new(identity, entries) })
    }
}

impl KeyConfig {
    fn validate(&self, path: &str) -> Result<Key, ConfigError> {
        let at = |field: &str, what: &str| Err(ConfigError::at(format!("{path}.{field}"), what));
        match &self.header {
            Some(_) if self.client_address => at("client_address", "excludes header"),
            Some(_) if self.ipv6_prefix.is_some() => at("ipv6_prefix", "needs client_address"),
            Some(name) => {
                check_name(name).map_err(|what| ConfigError::at(format!("{path}.header"), what))?;
                let skip_missing = self.missing == Some(Missing::Skip);
                Ok(Key::Header { name: name.to_ascii_lowercase(), skip_missing })
            }
            None if !self.client_address => Err(ConfigError::at(path, "has neither header nor client_address")),
            None if self.missing.is_some() => at("missing", "needs header"),
            None => match self.ipv6_prefix.unwrap_or(64) {
                ipv6_prefix @ 1..=128 => Ok(Key::ClientAddress { ipv6_prefix }),
                _ => at("ipv6_prefix", "is not 1 to 128"),
            },
        }
    }
}

/// `10s`, `5m`, `1h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        number.parse::<u64>().ok()?.checked_mul(unit)
    };
    match seconds().map(Duration::from_secs) {
        Some(per) if !per.is_zero() && per <= PER_MAX => Ok(per),
        Some(_) => Err("is not within 1s to 31d".to_owned()),
        None => Err("is no whole number of `s`, `m`, `h` or `d`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("1s", 1), ("60s", 60), ("5m", 300), ("1h", 3_600), ("31d", 2_678_400), ("007s", 7)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1", "1 s", "-1s", "+1s", "1.5s", "1ms", "1S", "1é", "1s ", "99999999999999999999s"] {
            assert!(duration(text).unwrap_err().contains("no whole number"), "{text}");
        }
        for text in ["0s", "32d", "2678401s"] {
            assert!(duration(text).unwrap_err().contains("within"), "{text}");
        }
    }
}
