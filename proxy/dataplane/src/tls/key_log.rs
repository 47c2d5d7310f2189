//! `key_log`: the secrets of connections, appended to a file for those who look into captured bytes.
//!
//! For debugging: a line is written by the worker that shakes hands.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::{Cidr, KeyLog};

/// A context's log.
#[derive(Debug, Clone)]
pub(super) struct Logger {
    config: Arc<KeyLog>,
    file: Arc<LogFile>,
}

#[derive(Debug)]
struct LogFile(File);

impl Logger {
    /// `None`: there is none, or it cannot be opened, which is told.
    pub(super) fn open(config: Option<&Arc<KeyLog>>) -> Option<Logger> {
        let config = config?;
        match KeyLog::open(&config.path) {
            Ok(file) => Some(Logger { config: config.clone(), file: Arc::new(LogFile(file)) }),
            Err(error) => {
                tracing::warn!("no keys are logged: {}: {error}", config.path);
                None
            }
        }
    }

    /// The log of a connection between these addresses, the peer's first.
    pub(super) fn of(
        &self,
        (remote, local): (Option<SocketAddr>, Option<SocketAddr>),
    ) -> Option<Arc<dyn rustls::KeyLog>> {
        let within = |ranges: &[Cidr], address: Option<SocketAddr>| {
            ranges.is_empty()
                || address.is_some_and(|it| ranges.iter().any(|range| range.contains(it.ip().to_canonical())))
        };
        let is_wanted = within(&self.config.local, local) && within(&self.config.remote, remote);
        is_wanted.then(|| self.file.clone() as Arc<dyn rustls::KeyLog>)
    }
}

impl rustls::KeyLog for LogFile {
    /// NSS's format. One write a line, so that lines of several workers stay whole.
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        let hex = |line: &mut String, bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(line, "{byte:02x}"));
        // Writing to a string cannot fail.
        _ = hex(&mut line, client_random);
        line.push(' ');
        _ = hex(&mut line, secret);
        line.push('\n');
        if let Err(error) = (&self.0).write_all(line.as_bytes()) {
            tracing::warn!("a key is not logged: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_decide() {
        let path = std::env::temp_dir().join(format!("outrigger-keys-{}", std::process::id()));
        let cidr = |text: &str, len| Cidr::new(text.parse().unwrap(), len).unwrap();
        let check = |local: &[Cidr], remote: &[Cidr], addresses: (&str, &str), expected: bool| {
            let path = path.to_str().unwrap().into();
            let config = Arc::new(KeyLog { path, local: local.to_vec(), remote: remote.to_vec() });
            let logger = Logger::open(Some(&config)).unwrap();
            let parse = |text: &str| text.parse().ok();
            let found = logger.of((parse(addresses.0), parse(addresses.1)));
            assert_eq!(found.is_some(), expected, "{addresses:?}");
            if let Some(log) = found {
                log.log("LABEL", &[0, 0xab], &[1]);
            }
        };
        check(&[], &[], ("1.2.3.4:1", "5.6.7.8:1"), true);
        check(&[cidr("5.0.0.0", 8)], &[], ("1.2.3.4:1", "5.6.7.8:1"), true);
        check(&[cidr("5.0.0.0", 8)], &[cidr("9.0.0.0", 8)], ("1.2.3.4:1", "5.6.7.8:1"), false);
        check(&[], &[cidr("1.2.3.0", 24)], ("[::ffff:1.2.3.4]:1", "5.6.7.8:1"), true);
        check(&[], &[cidr("1.2.3.0", 24)], ("unix", "unix"), false);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "LABEL 00ab 01\n".repeat(3));
        std::fs::remove_file(&path).unwrap();
        let nowhere = Arc::new(KeyLog { path: "/nowhere/keys".into(), local: Vec::new(), remote: Vec::new() });
        assert!(Logger::open(Some(&nowhere)).is_none() && Logger::open(None).is_none());
    }
}
