//! The admin interface: Envoy's paths, methods and JSON over HTTP/1, on the control thread.
//!
//! It is bound only where the bootstrap says so. Connections, heads, bodies and time are bounded, and a page that is
//! costly to render is rendered by a child.

mod clusters;
mod config_dump;
mod explain;
mod pages;
mod reply;
mod request;
mod runtime;
mod server_info;
mod stats;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::server::Server;
use outrigger_dataplane::Inherited;
use reply::{Body, Reply};

/// Connections at one time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// For a head to come, and for a keep-alive connection's next one.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// For a whole connection: a scraper comes back, and a peer that doesn't read is dropped.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(600);
const HEAD_BYTES_MAX: usize = 16 << 10;
/// No page takes a body; what clients send all the same is read and dropped.
const BODY_BYTES_MAX: u64 = 64 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on the bootstrap's address, and tells the bound one to whoever asked for it.
pub(crate) fn bind(address: SocketAddr, address_file: Option<&Path>, inherited: &Inherited) -> io::Result<TcpListener> {
    let socket = match inherited.take(address).pop() {
        Some(socket) => socket,
        None => open(address)?,
    };
    let listener = TcpListener::from_std(socket)?;
    if let Some(file) = address_file {
        write_whole(file, &listener.local_addr()?.to_string())?;
    }
    Ok(listener)
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.cloexec().nonblocking(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Writes a file that readers see either not at all or whole.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(scratch.path(), text)?;
    // Others read it: temporary files are private.
    let mode: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(scratch.path(), mode)?;
    scratch.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, server: Rc<Server>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // It answers on the same socket now.
            () = server.has_successor() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let server = Rc::clone(&server);
                tokio::task::spawn_local(async move {
                    connection(stream, server).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, or a client that left already.
                tracing::debug!("accepting an admin connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, server: Rc<Server>) {
    _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, Rc::clone(&server)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!("an admin connection ended: {error}"),
    }
}

async fn answer(request: Request<Incoming>, server: Rc<Server>) -> Result<Response<Body>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut size = 0u64;
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        size += frame.ok().and_then(|frame| frame.data_ref().map(|data| data.len() as u64)).unwrap_or_default();
        if size > BODY_BYTES_MAX {
            return Ok(Reply::text(413, "no page takes a body\n").into_response());
        }
    }
    let asked = request::Asked::parse(&head);
    Ok(pages::answer(&asked, &server).await.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("address");
        write_whole(&path, "127.0.0.1:1").unwrap();
        write_whole(&path, "127.0.0.1:2").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1:2");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn the_bound_address_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("address");
        let none = Inherited::default();
        let listener = bind("127.0.0.1:0".parse().unwrap(), Some(&path), &none).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), listener.local_addr().unwrap().to_string());
        assert!(bind(listener.local_addr().unwrap(), None, &none).is_err());
    }
}
