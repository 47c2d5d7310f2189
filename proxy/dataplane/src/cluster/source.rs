//! Where connections to endpoints come from (`upstream_bind_config`).

use std::io;
use std::net::SocketAddr;

use outrigger_config::{SocketOption, UpstreamBind};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::bind::set_option;

/// Connects, from the configured address if there is one. An address of the other family is never silently left out: what
/// tells our connections from others may depend on it.
pub(super) async fn connect(to: SocketAddr, bind: Option<&UpstreamBind>) -> io::Result<TcpStream> {
    let Some(bind) = bind else { return TcpStream::connect(to).await };
    socket(to, bind)?.connect(to).await
}

fn socket(to: SocketAddr, bind: &UpstreamBind) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let options = SockRef::from(&socket);
    if bind.freebind {
        set_option(&options, SocketOption::Freebind(true), to.is_ipv6())?;
    }
    for option in &bind.options {
        set_option(&options, *option, to.is_ipv6())?;
    }
    if !bind.sources.is_empty() {
        let same_family = bind.sources.iter().find(|source| source.is_ipv4() == to.is_ipv4());
        let source = same_family.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        socket.bind(&(*source).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_come_from_the_address_of_their_family() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let sources = |list: &[&str]| UpstreamBind {
            sources: list.iter().map(|source| source.parse().unwrap()).collect(),
            ..UpstreamBind::default()
        };
        let bind = sources(&["[::1]:0", "127.0.0.6:0"]);
        let _stream = connect(to, Some(&bind)).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.6");
        let error = connect(to, Some(&sources(&["[::1]:0"]))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let _stream = connect(to, Some(&UpstreamBind::default())).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.1");
    }
}
