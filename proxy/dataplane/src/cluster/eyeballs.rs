//! Happy eyeballs (RFC 8305): the addresses of one endpoint are tried one after the other, each a little after the one
//! before or as soon as that one has failed; the first connection counts.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

/// Between two attempts; Envoy's.
const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// The addresses of an endpoint, the families by turns, beginning with the family of the first.
pub(super) fn order(first: SocketAddr, more: &[SocketAddr]) -> Vec<SocketAddr> {
    let all = || std::iter::once(&first).chain(more).copied();
    let first_is_v6 = first.is_ipv6();
    let mut own = all().filter(|address| address.is_ipv6() == first_is_v6);
    let mut other = all().filter(|address| address.is_ipv6() != first_is_v6);
    let mut order = Vec::with_capacity(1 + more.len());
    loop {
        let (a, b) = (own.next(), other.next());
        if a.is_none() && b.is_none() {
            return order;
        }
        order.extend(a);
        order.extend(b);
    }
}

/// Connects to the first of the addresses that answers.
pub(super) async fn race<T, F>(addresses: &[SocketAddr], connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    race_after(addresses, || tokio::time::sleep(ATTEMPT_DELAY), connect).await
}

/// The same with any delay between attempts.
async fn race_after<T, F, D>(
    addresses: &[SocketAddr],
    delay: impl Fn() -> D,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
    D: Future<Output = ()>,
{
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => attempts.push(connect(*address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let next = async {
            match waiting.as_slice() {
                [] => std::future::pending().await,
                _ => delay().await,
            }
        };
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            },
            () = next => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let found = order(address("[::1]:1"), &["[::1]:2", "[::1]:3", "1.1.1.1:4"].map(address));
        assert_eq!(found, ["[::1]:1", "1.1.1.1:4", "[::1]:2", "[::1]:3"].map(address));
    }

    /// What a connection comes to.
    #[derive(Clone, Copy, PartialEq)]
    enum Answer {
        Success,
        Failure,
        Never,
    }

    /// Who was tried, and who won; `patient`: an attempt is given all the time that it takes.
    async fn outcome(answers: &[(&str, Answer)], patient: bool) -> (Vec<SocketAddr>, Option<SocketAddr>) {
        let tried = RefCell::new(Vec::new());
        let addresses: Vec<SocketAddr> = answers.iter().map(|(text, _)| address(text)).collect();
        let connect = |wanted: SocketAddr| {
            let (_, answer) = *answers.iter().find(|(text, _)| address(text) == wanted).unwrap();
            tried.borrow_mut().push(wanted);
            async move {
                match answer {
                    Answer::Success => Ok(wanted),
                    Answer::Failure => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                    Answer::Never => std::future::pending().await,
                }
            }
        };
        let delay = || async move {
            if patient {
                std::future::pending::<()>().await;
            }
        };
        let won = race_after(&addresses, delay, connect).await.ok();
        (tried.take(), won)
    }

    #[tokio::test]
    async fn the_first_that_answers_wins() {
        use Answer::{Failure, Never, Success};
        let both = ["[::1]:1", "1.1.1.1:1"].map(address);
        let of = |first, second| [("[::1]:1", first), ("1.1.1.1:1", second)];
        assert_eq!(outcome(&of(Never, Success), false).await, (both.to_vec(), Some(both[1])));
        assert_eq!(outcome(&of(Success, Success), true).await, (vec![both[0]], Some(both[0])));
        assert_eq!(outcome(&of(Failure, Success), true).await, (both.to_vec(), Some(both[1])));
        assert_eq!(outcome(&of(Failure, Failure), true).await, (both.to_vec(), None));
    }
}
