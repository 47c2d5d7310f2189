//! Shared connections that end: a server goes away, has served as many requests as it may, or no longer reads.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2raw::{ACK, Frame, INITIAL_WINDOW_SIZE, RawH2, kind};
use outrigger_e2e::wait::{DEADLINE, eventually, until};
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

use super::connections::http_options;
use super::{share, spread};

/// A server whose connections the test holds.
struct Server(TcpListener);

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        listener.set_nonblocking(true).expect("it doesn't block");
        Server(listener)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("its address")
    }

    fn accept(&self) -> RawH2 {
        let accepted = eventually(DEADLINE, || match self.0.accept() {
            Ok((socket, _)) => Ok(socket),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err("nobody comes".to_owned()),
            Err(error) => panic!("{error}"),
        });
        let socket = accepted.expect("a connection");
        socket.set_nonblocking(false).expect("it blocks");
        RawH2::accepted(socket).expect("the preface")
    }
}

/// The next request's stream.
fn request(server: &mut RawH2) -> u32 {
    server.until(|frame| frame.kind == kind::HEADERS).expect("a request").stream
}

/// `:status: 200` is the eighth entry of HPACK's static table.
fn answer(server: &mut RawH2, stream: u32) {
    server.send(&[Frame::headers(stream, [0x88], true)]);
}

/// The server looks at no stream after this one.
fn goaway(last: u32) -> Frame {
    Frame::new(kind::GOAWAY, 0, 0, [&last.to_be_bytes()[..], &[0; 4]].concat())
}

/// Goes away after that stream, and waits until the proxy knows.
fn go_away(server: &mut RawH2, last: u32) {
    server.send(&[goaway(last), Frame::new(kind::PING, 0, 0, [7; 8])]);
    server.until(|frame| frame.kind == kind::PING && frame.flags & ACK != 0).expect("an answer to the ping");
}

fn http2(at: SocketAddr, more: Value) -> Value {
    let protocol = json!({"explicit_http_config": {"http2_protocol_options": {}}});
    with(cluster("c", &[at]), http_options(with(protocol, more)))
}

fn start(peer: Peer, cluster: Value, route: Value) -> (DataPlane, SocketAddr) {
    let bootstrap = Bootstrap::new().cluster(cluster).listener(HttpListener::new("main", &json!([route])));
    let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("its listener");
    (plane, address)
}

fn send(main: SocketAddr, request: &Request) -> Connection {
    let mut client = Connection::open(main).expect("a connection");
    client.send(request.bytes()).expect("sends");
    client
}

#[test]
fn who_goes_away_is_asked_for_nothing_more() {
    for peer in Peer::all() {
        let server = Server::start();
        let (plane, main) = start(peer, http2(server.address(), json!({})), route("/", "c"));
        let mut first = send(main, &Request::get("/1"));
        let mut going = server.accept();
        let stream = request(&mut going);
        go_away(&mut going, stream);
        // The next one isn't lost, though nobody retries.
        let mut second = send(main, &Request::new("POST", "/2").body("x"));
        let mut next = server.accept();
        let other = request(&mut next);
        answer(&mut next, other);
        assert_eq!(second.response().expect("an answer").status, 200, "{peer:?}");
        // What was begun before is finished.
        answer(&mut going, stream);
        assert_eq!(first.response().expect("an answer").status, 200, "{peer:?}");
        let open = || plane.admin.stat("cluster.c.upstream_cx_active").unwrap_or_default();
        until(DEADLINE, "the one that goes away is closed", || open() == 1).expect("closed");
    }
}

#[test]
fn what_a_server_has_not_seen_is_retried_as_refused() {
    let retried =
        with(route("/", "c"), json!({"route": {"retry_policy": {"retry_on": "refused-stream", "num_retries": 1}}}));
    for peer in Peer::all() {
        let server = Server::start();
        let (_plane, main) = start(peer, http2(server.address(), json!({})), retried.clone());
        let mut client = send(main, &Request::new("POST", "/").body("x"));
        let mut going = server.accept();
        request(&mut going);
        going.send(&[goaway(0)]);
        let mut next = server.accept();
        let stream = request(&mut next);
        answer(&mut next, stream);
        assert_eq!(client.response().expect("an answer").status, 200, "{peer:?}");
    }
}

#[test]
fn who_has_served_enough_is_closed() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        let limit = json!({"common_http_protocol_options": {"max_requests_per_connection": 2}});
        let (plane, main) = start(peer, http2(origin.address(), limit), route("/", "c"));
        assert_eq!(share(&spread(main, 6), "a"), 6, "{peer:?}");
        assert_eq!(origin.connections(), 3, "{peer:?}");
        let open = || plane.admin.stat("cluster.c.upstream_cx_active").unwrap_or_default();
        until(DEADLINE, "all of them are closed", || open() == 0).expect("closed");
        assert_eq!(plane.admin.stat("cluster.c.upstream_cx_max_requests").expect("stats"), 3, "{peer:?}");
    }
}

/// A server that stops reading keeps the last words of a connection from going out; that is closed all the same.
#[test]
fn who_does_not_read_is_not_waited_for() {
    let server = Server::start();
    let idle = json!({"common_http_protocol_options": {"idle_timeout": "0.1s"}});
    let impatient = with(route("/", "c"), json!({"route": {"idle_timeout": "1s"}}));
    let (plane, main) = start(Peer::Outrigger, http2(server.address(), idle), impatient);
    let mut client = TcpStream::connect(main).expect("a connection");
    client.write_all(b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000000\r\n\r\n").expect("sends");
    let mut stuck = server.accept();
    let stream = request(&mut stuck);
    let window = 1 << 30;
    stuck.send(&[
        Frame::settings(&[(INITIAL_WINDOW_SIZE, window)]),
        Frame::window_update(0, window),
        Frame::window_update(stream, window / 2),
    ]);
    // More than all buffers on the way hold: at last nothing is taken from the client.
    client.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    while client.write_all(&[0; 1 << 16]).is_ok() {}
    drop(client);
    let open = || plane.admin.stat("cluster.c.upstream_cx_active").unwrap_or_default();
    until(DEADLINE, "it is closed", || open() == 0).expect("closed");
    drop(stuck);
}
