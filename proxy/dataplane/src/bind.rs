//! Listening sockets: one for each worker and address of a listener.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outrigger_config::{Address, ListenAddress, Listener, SocketOption, TcpKeepalive};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::inherited::Inherited;
use crate::socket::StdListener;

/// The sockets of a listener.
#[derive(Debug)]
pub(crate) struct ListenerSockets {
    wanted: Wanted,
    /// The addresses that they are bound to, in the listener's order.
    pub(crate) bound: Vec<Address>,
    /// By worker.
    sockets: Mutex<Vec<Vec<StdListener>>>,
    /// The same sockets once more, where a successor may ask for them.
    kept: Vec<(SocketAddr, OwnedFd)>,
}

/// What of a listener its sockets depend on.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    addresses: Vec<ListenAddress>,
    transparent: bool,
    backlog: u32,
}

impl Wanted {
    fn of(listener: &Listener) -> Wanted {
        let addresses = listener.addresses.clone();
        Wanted { addresses, transparent: listener.transparent, backlog: listener.backlog }
    }
}

impl ListenerSockets {
    /// Binds and listens. `in_use`: addresses that this process listens on already.
    pub(crate) fn open(
        listener: &Listener,
        concurrency: usize,
        in_use: impl Fn(&Address) -> bool,
        inherited: &Inherited,
    ) -> Result<ListenerSockets, String> {
        let wanted = Wanted::of(listener);
        let mut sockets: Vec<Vec<StdListener>> = (0..concurrency.max(1)).map(|_| Vec::new()).collect();
        let mut bound = Vec::with_capacity(wanted.addresses.len());
        let mut kept = Vec::new();
        for listen in &wanted.addresses {
            let opened = open(listen, &wanted, sockets.len(), in_use(&listen.address), inherited);
            let (address, opened) = opened.map_err(|error| format!("cannot bind '{}': {error}", listen.address))?;
            if let Some(address) = address.socket().filter(|_| inherited.keeps()) {
                let copies = opened.iter().filter_map(|socket| socket.as_fd().try_clone_to_owned().ok());
                kept.extend(copies.map(|socket| (address, socket)));
            }
            bound.push(address);
            // A predecessor with more workers leaves more sockets than there are workers now: all of them are served.
            let workers = sockets.len();
            opened.into_iter().enumerate().for_each(|(index, socket)| sockets[index % workers].push(socket));
        }
        Ok(ListenerSockets { wanted, bound, sockets: Mutex::new(sockets), kept })
    }

    /// Whether they serve a listener as well as new ones would.
    pub(crate) fn suit(&self, listener: &Listener) -> bool {
        self.wanted == Wanted::of(listener)
    }

    /// Whether one of them has exactly this address.
    pub(crate) fn has(&self, address: &Address) -> bool {
        self.bound.iter().any(|bound| match (bound, address) {
            (Address::Ip { socket: bound, .. }, Address::Ip { socket, .. }) => bound == socket,
            (Address::Pipe { path: bound, .. }, Address::Pipe { path, .. }) => bound == path,
            _ => false,
        })
    }

    /// Whether one of them keeps a probe of the address from binding.
    pub(crate) fn is_in_the_way(&self, address: &Address) -> bool {
        let port = address.socket().map(|socket| socket.port());
        self.bound.iter().any(|bound| port.is_some() && bound.socket().map(|socket| socket.port()) == port)
    }

    /// Copies for a successor; none unless they were kept.
    pub(crate) fn for_successor(&self) -> impl Iterator<Item = (SocketAddr, OwnedFd)> {
        self.kept.iter().filter_map(|(address, socket)| Some((*address, socket.try_clone().ok()?)))
    }

    /// A worker's sockets; once.
    pub(crate) fn take(&self, worker: usize) -> Vec<StdListener> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.get_mut(worker).map(std::mem::take).unwrap_or_default()
    }
}

fn open(
    listen: &ListenAddress,
    wanted: &Wanted,
    count: usize,
    in_use: bool,
    inherited: &Inherited,
) -> io::Result<(Address, Vec<StdListener>)> {
    let (mut address, ipv4_compat) = match &listen.address {
        Address::Ip { socket, ipv4_compat } => (*socket, *ipv4_compat),
        Address::Pipe { path, mode } => {
            let sockets = unix(path, *mode, wanted.backlog, count)?;
            return Ok((listen.address.clone(), sockets.into_iter().map(StdListener::Unix).collect()));
        }
    };
    let mut sockets = inherited.take(address);
    if sockets.is_empty() && !in_use && address.port() != 0 {
        // Without SO_REUSEPORT another process on the port is noticed, instead of sharing its connections with it.
        drop(bind(listen, wanted, address, ipv4_compat, false)?);
    }
    for _ in sockets.len()..count {
        let socket = bind(listen, wanted, address, ipv4_compat, true)?;
        socket.listen(i32::try_from(wanted.backlog).unwrap_or(i32::MAX))?;
        let socket: TcpListener = socket.into();
        // The others share the port that the first one got.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    let sockets = sockets.into_iter().map(StdListener::Tcp).collect();
    Ok((Address::Ip { socket: address, ipv4_compat }, sockets))
}

/// One socket, which all workers accept on. What lies at its path is removed, as Envoy does.
fn unix(path: &Path, mode: Option<u32>, backlog: u32, count: usize) -> io::Result<Vec<UnixListener>> {
    let is_abstract = path.as_os_str().as_encoded_bytes().first() == Some(&0);
    if !is_abstract {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if let Some(mode) = mode.filter(|_| !is_abstract) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let socket: UnixListener = socket.into();
    let others: io::Result<Vec<UnixListener>> = (1..count).map(|_| socket.try_clone()).collect();
    let mut sockets = others?;
    sockets.push(socket);
    Ok(sockets)
}

fn bind(
    listen: &ListenAddress,
    wanted: &Wanted,
    address: SocketAddr,
    ipv4_compat: bool,
    reuse_port: bool,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(!ipv4_compat)?;
    }
    if wanted.transparent {
        set_option(&SockRef::from(&socket), SocketOption::Transparent(true), address.is_ipv6())?;
    }
    for option in &listen.options {
        set_option(&SockRef::from(&socket), *option, address.is_ipv6())?;
    }
    if let Some(keepalive) = listen.tcp_keepalive {
        set_keepalive(&SockRef::from(&socket), keepalive)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets an option; on a listening socket, for all that it accepts.
pub(crate) fn set_option(socket: &SockRef<'_>, option: SocketOption, ipv6: bool) -> io::Result<()> {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let keepalive = socket2::TcpKeepalive::new();
    match option {
        SocketOption::Keepalive(on) => socket.set_keepalive(on),
        SocketOption::KeepaliveTime(time) => socket.set_tcp_keepalive(&keepalive.with_time(seconds(time))),
        SocketOption::KeepaliveInterval(interval) => {
            socket.set_tcp_keepalive(&keepalive.with_interval(seconds(interval)))
        }
        SocketOption::KeepaliveProbes(probes) => socket.set_tcp_keepalive(&keepalive.with_retries(probes)),
        SocketOption::UserTimeout(millis) => socket.set_tcp_user_timeout(Some(Duration::from_millis(millis.into()))),
        SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(bytes as usize),
        SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(bytes as usize),
        SocketOption::Mark(mark) => socket.set_mark(mark),
        SocketOption::TypeOfService(tos) => socket.set_tos_v4(tos),
        SocketOption::TrafficClass(class) => socket.set_tclass_v6(class),
        SocketOption::Transparent(on) if ipv6 => socket.set_ip_transparent_v6(on),
        SocketOption::Transparent(on) => socket.set_ip_transparent_v4(on),
        SocketOption::Freebind(on) if ipv6 => socket.set_freebind_v6(on),
        SocketOption::Freebind(on) => socket.set_freebind_v4(on),
    }
}

fn set_keepalive(socket: &SockRef<'_>, config: TcpKeepalive) -> io::Result<()> {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = config.time {
        keepalive = keepalive.with_time(seconds(time));
    }
    if let Some(interval) = config.interval {
        keepalive = keepalive.with_interval(seconds(interval));
    }
    if let Some(probes) = config.probes {
        keepalive = keepalive.with_retries(probes);
    }
    socket.set_tcp_keepalive(&keepalive)
}
