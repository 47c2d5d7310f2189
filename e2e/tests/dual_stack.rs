//! IPv6 and both families at once: listeners, further addresses, origins. Real Envoy is the referee.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use outrigger_e2e::bootstrap::{HttpListener, address, cluster, route, tcp_listener};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Origin, Request, eventually};
use serde_json::{Value, json};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A port that is free in both families.
fn port() -> u16 {
    let free = |_| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let port = listener.local_addr().ok()?.port();
        TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok().map(|_| port)
    };
    (0..100).find_map(free).expect("a port")
}

/// Listens there and says who the client is.
fn listening(name: &str, at: Value) -> Value {
    let manager = json!({"route_config": {"response_headers_to_add": [
        {"header": {"key": "x-client", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}},
    ]}});
    let mut listener: Value = HttpListener::new(name, &json!([route("/", "o")])).manager(manager).into();
    listener["address"] = at;
    listener
}

fn on(ip: &str, port: u16, compat: bool) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port, "ipv4_compat": compat}})
}

#[test]
fn listeners_serve_the_families_that_they_name() {
    let origin = Origin::start("o").expect("an origin");
    for peer in Peer::all() {
        let ports = [(); 3].map(|()| port());
        let mut both = listening("both", on("127.0.0.1", ports[2], false));
        both["additional_addresses"] = json!([{"address": on("::1", ports[2], false)}]);
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .listener(listening("compat", on("::", ports[0], true)))
            .listener(listening("only6", on("::", ports[1], false)))
            .listener(both);
        let _plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let cases = [
            (V4, ports[0], true),
            (V6, ports[0], true),
            (V4, ports[1], false),
            (V6, ports[1], true),
            (V4, ports[2], true),
            (V6, ports[2], true),
        ];
        for (ip, port, served) in cases {
            let answer = Request::get("/").send(SocketAddr::new(ip, port));
            let told = answer.as_ref().ok().and_then(|answer| answer.header("x-client")).map(str::to_owned);
            // An IPv4 client of a socket for both is told of as what it is.
            let expected = served.then(|| ip.to_string());
            assert_eq!(told, expected, "{}: {ip} {port} {answer:?}", peer.name());
        }
    }
}

#[test]
fn origins_of_both_families_are_reached() {
    let origin = Origin::start("o").expect("an origin");
    for peer in Peer::all() {
        // The origin of IPv6 is a proxy in front of the one that there is.
        let front =
            Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listening("six", on("::1", 0, false)));
        let front = DataPlane::start(Peer::Outrigger, &front).expect("the proxy in front starts");
        let six = front.listener("six").expect("the listener");
        assert!(six.is_ipv6());
        let mut happy = cluster("happy", &[]);
        // Nobody listens at the first address of either.
        let endpoint = |first: SocketAddr, second: SocketAddr| json!({"endpoint": {"address": address(first), "additional_addresses": [{"address": address(second)}]}});
        let nobody = SocketAddr::new(V4, port());
        happy["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [endpoint(nobody, six)]}]);
        let mut other = happy.clone();
        other["name"] = json!("other");
        other["load_assignment"]["cluster_name"] = json!("other");
        let nobody = SocketAddr::new(V6, port());
        other["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [endpoint(nobody, origin.address())]}]);
        let mut bound = cluster("bound", &[six]);
        bound["upstream_bind_config"] = json!({
            "source_address": {"address": "127.0.0.1", "port_value": 0},
            "extra_source_addresses": [{"address": {"address": "::1", "port_value": 0}}],
        });
        let routes =
            json!([route("/happy", "happy"), route("/other", "other"), route("/bound", "bound"), route("/", "six")]);
        let bootstrap = Bootstrap::new()
            .cluster(cluster("six", &[six]))
            .cluster(happy)
            .cluster(other)
            .cluster(bound)
            .listener(HttpListener::new("main", &routes))
            .listener(tcp_listener("bytes", "six"));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (listener, path) in
            [("main", "/"), ("main", "/happy"), ("main", "/other"), ("main", "/bound"), ("bytes", "/")]
        {
            let to = plane.listener(listener).expect("the listener");
            let answer = Request::get(path).send(to).expect("an answer");
            assert_eq!(answer.status, 200, "{}: {listener} {path}", peer.name());
            assert_eq!(answer.header("x-origin-name"), Some("o"), "{}: {listener} {path}", peer.name());
        }
        let shown = format!("six::{six}::cx_total");
        eventually(DEADLINE, || {
            let page = plane.admin.get("/clusters").map_err(|error| format!("{error:#}"))?.text();
            if page.contains(&shown) { Ok(()) } else { Err(page) }
        })
        .expect("the endpoint is shown");
    }
}
