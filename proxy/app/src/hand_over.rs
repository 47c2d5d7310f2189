//! Handing the listening sockets to a successor process: a new binary takes the traffic over and no connection is refused.
//!
//! As Envoy's hot restart: `--base-id` says which processes belong together, `--restart-epoch` counts them. The process of
//! epoch N asks the one of epoch N-1 for its sockets over an abstract Unix socket, serves on the very same ones, and, once
//! its first complete configuration serves, asks the predecessor to drain and end. What waits in a socket's queue is
//! accepted by whoever comes first. Only a process of the same user is answered.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use outrigger_dataplane::Inherited;

use crate::args::{BaseId, Options};
use crate::server::Server;
use crate::system;

/// For one answer of the other process.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets that a successor takes.
const SOCKETS_MAX: usize = 16_384;
/// Every message has this length: an address as text, filled up with zeros. The last one is empty.
const MESSAGE_BYTES: usize = 64;
const LIST: u8 = b'L';
const DRAIN: u8 = b'D';
/// Numbers that are tried for `--use-dynamic-base-id`.
const DYNAMIC_TRIES: u32 = 64;

/// This process's place among those that succeed each other.
#[derive(Debug)]
pub(crate) struct Succession {
    base_id: u32,
    epoch: u32,
    /// Where the successor asks.
    listener: UnixListener,
}

impl Succession {
    /// `None`: nothing was said of hot restarts, or `--disable-hot-restart`.
    pub(crate) fn open(options: &Options) -> anyhow::Result<Option<Succession>> {
        let Some((base_id, epoch)) = options.succession() else { return Ok(None) };
        let (base_id, listener) = match base_id {
            BaseId::Fixed(id) => (id, listen(id, epoch).with_context(|| taken(id, epoch))?),
            BaseId::Dynamic if epoch > 0 => {
                bail!("--use-dynamic-base-id is for the first process: a successor needs --base-id")
            }
            BaseId::Dynamic => dynamic()?,
        };
        if let Some(path) = &options.base_id_path {
            std::fs::write(path, base_id.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Some(Succession { base_id, epoch, listener }))
    }

    /// The sockets of the predecessor; none for the first process of a kind.
    pub(crate) fn inherit(&self) -> anyhow::Result<Inherited> {
        let inherited = Inherited::keeping();
        let Some(before) = self.epoch.checked_sub(1) else { return Ok(inherited) };
        let mut stream = ask(self.base_id, before, LIST)?;
        for _ in 0..SOCKETS_MAX {
            let (address, descriptor) = receive(&mut stream).context("the predecessor's sockets")?;
            match (address, descriptor) {
                (None, _) => return Ok(inherited),
                (Some(address), Some(descriptor)) => inherited.add(address, descriptor),
                (Some(address), None) => bail!("the predecessor sent no socket for {address}"),
            }
        }
        bail!("the predecessor has more than {SOCKETS_MAX} sockets");
    }

    /// Answers the successor, and ends this process when it says so.
    pub(crate) async fn serve(self, server: Rc<Server>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            if stream.peer_cred()?.uid() != system::user_id() {
                tracing::warn!("a process of another user asked for this one's sockets");
                continue;
            }
            let stream = stream.into_std()?;
            if let Err(error) = answer(stream, &server).await {
                tracing::warn!("the successor was not answered: {error}");
            }
        }
    }

    /// Once this process serves: the predecessor may go.
    pub(crate) fn tell_predecessor(base_id: u32, epoch: u32) -> anyhow::Result<()> {
        let Some(before) = epoch.checked_sub(1) else { return Ok(()) };
        ask(base_id, before, DRAIN).map(drop)
    }

    pub(crate) const fn place(&self) -> (u32, u32) {
        (self.base_id, self.epoch)
    }
}

fn name(base_id: u32, epoch: u32) -> io::Result<UnixAddr> {
    UnixAddr::from_abstract_name(format!("outrigger-proxy/{base_id}/{epoch}"))
}

fn listen(base_id: u32, epoch: u32) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&name(base_id, epoch)?)
}

fn taken(base_id: u32, epoch: u32) -> String {
    format!(
        "another proxy runs with --base-id {base_id} --restart-epoch {epoch}: give a successor the next epoch, and a proxy \
         of its own another base id (--use-dynamic-base-id chooses one)"
    )
}

fn dynamic() -> anyhow::Result<(u32, UnixListener)> {
    let mut last = None;
    for _ in 0..DYNAMIC_TRIES {
        // Small enough for a person to type.
        let id = rand::random::<u32>() % 1_000_000;
        match listen(id, 0) {
            Ok(listener) => return Ok((id, listener)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("no base id is free"), Into::into))
}

fn ask(base_id: u32, epoch: u32, what: u8) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect_addr(&name(base_id, epoch)?).with_context(|| {
        format!("no proxy runs with --base-id {base_id} --restart-epoch {epoch}: the first one has --restart-epoch 0")
    })?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&[what])?;
    Ok(stream)
}

async fn answer(stream: UnixStream, server: &Rc<Server>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let sockets = server.sockets_for_successor();
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = stream;
        let mut what = [0];
        stream.read_exact(&mut what)?;
        if what[0] == LIST {
            for (address, descriptor) in &sockets {
                send(&stream, &address.to_string(), Some(descriptor))?;
            }
            send(&stream, "", None)?;
        }
        Ok::<u8, io::Error>(what[0])
    });
    match asked.await.map_err(io::Error::other)?? {
        LIST => tracing::info!("a successor has taken the listening sockets"),
        DRAIN => {
            tracing::info!("the successor serves: this process drains and ends");
            server.succeeded();
        }
        other => return Err(io::Error::other(format!("{other} is no question"))),
    }
    Ok(())
}

fn send(stream: &UnixStream, text: &str, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    let bytes = message.get_mut(..text.len()).ok_or_else(|| io::Error::other("the address is too long"))?;
    bytes.copy_from_slice(text.as_bytes());
    system::send_with_descriptor(stream.as_fd(), &message, descriptor.map(AsFd::as_fd))
}

fn receive(stream: &mut UnixStream) -> anyhow::Result<(Option<SocketAddr>, Option<OwnedFd>)> {
    let mut message = [0; MESSAGE_BYTES];
    let (count, descriptor) = system::receive_with_descriptor(stream.as_fd(), &mut message)?;
    // The rest of a message that came in parts carries no descriptor.
    stream.read_exact(&mut message[count..])?;
    let text = std::str::from_utf8(&message)?.trim_end_matches('\0');
    let address = if text.is_empty() { None } else { Some(text.parse()?) };
    Ok((address, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_through_with_its_address() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let descriptor = OwnedFd::from(socket);
        send(&ours, &address.to_string(), Some(&descriptor)).unwrap();
        send(&ours, "", None).unwrap();
        let (found, received) = receive(&mut theirs).unwrap();
        assert_eq!(found, Some(address));
        let again = std::net::TcpListener::from(received.unwrap());
        assert_eq!(again.local_addr().unwrap(), address);
        assert!(matches!(receive(&mut theirs).unwrap(), (None, None)));
        drop(ours);
        assert!(receive(&mut theirs).is_err());
    }

    #[test]
    fn one_process_has_a_place() {
        let (id, listener) = dynamic().unwrap();
        assert!(listen(id, 0).is_err());
        assert!(ask(id, 7, LIST).is_err());
        drop(listener);
        assert!(listen(id, 0).is_ok());
    }
}
