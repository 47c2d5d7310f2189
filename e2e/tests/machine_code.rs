//! Machine code that the control plane makes for its proxies: taken where its signature is right for this very module and
//! engine, and otherwise made by the proxy itself, without a failed push.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_e2e::data_plane::Options;
use outrigger_e2e::folder::Folder;
use outrigger_e2e::rig::{PROXY, bootstrap, policy, put_module};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{ControlPlane, DataPlane, Origin, Peer, Request, eventually, ports, workspace};

/// A pair of keys in a folder.
fn keys(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (private, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    let mut command = Command::new(workspace::binary("outrigger").expect("the binary"));
    command.arg("keygen").arg("--private-key").arg(&private).arg("--public-key").arg(&public);
    assert!(command.output().expect("keygen runs").status.success());
    (private, public)
}

/// What happens to answers with machine code on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Untouched,
    /// A bit of the code flips.
    Tampered,
    /// A bit of the header's signature flips.
    Forged,
    /// The end is missing, and the length says so.
    Short,
    /// The connection breaks.
    Broken,
    Rubbish,
    /// More bytes than were signed.
    Long,
    Missing,
}

/// Stands between proxies and the control plane's HTTP side.
struct Middle {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
}

impl Middle {
    fn start(to: Arc<Mutex<Option<SocketAddr>>>) -> Middle {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let way = Arc::new(Mutex::new(Way::Untouched));
        let shared = Arc::clone(&way);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (to, way) = (Arc::clone(&to), Arc::clone(&shared));
                std::thread::spawn(move || {
                    // Whoever closes early has what it wanted.
                    _ = forward(stream, &to, &way);
                });
            }
        });
        Middle { address, way }
    }

    fn set(&self, way: Way) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }
}

fn forward(mut client: TcpStream, to: &Mutex<Option<SocketAddr>>, way: &Mutex<Way>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let to = to.lock().unwrap_or_else(PoisonError::into_inner).ok_or(std::io::ErrorKind::NotConnected)?;
    let answer = Request::get(&path).with("Connection", "close").send(to).map_err(std::io::Error::other)?;
    let (mut status, mut body, mut missing) = (answer.status, answer.body.to_vec(), 0);
    let way = *way.lock().unwrap_or_else(PoisonError::into_inner);
    if path.starts_with("/machine-code/") && status == 200 {
        let last = body.len() - 1;
        match way {
            Way::Untouched => {}
            Way::Tampered => body[last] ^= 1,
            // Magic, length, then the header (field 1) and the signature (field 2).
            Way::Forged => {
                let envelope = u32::from_be_bytes(body[8..12].try_into().expect("four bytes")) as usize;
                body[12 + envelope - 20] ^= 1;
            }
            Way::Short => body.truncate(last / 2),
            Way::Broken => missing = 100,
            Way::Rubbish => body = b"<html>no machine code</html>".to_vec(),
            Way::Long => body.extend_from_slice(b"more"),
            Way::Missing => status = 404,
        }
    }
    let length = body.len() + missing;
    write!(client, "HTTP/1.1 {status} Answer\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
    client.write_all(&body)
}

struct Mesh {
    folder: Folder,
    port: u16,
    middle: Middle,
    control_plane: ControlPlane,
    keys: tempfile::TempDir,
    public: PathBuf,
    _origin: Origin,
}

impl Mesh {
    fn start() -> Mesh {
        let origin = Origin::start("api").expect("origin");
        let port = ports::free_port().expect("a port");
        let folder = Folder::mesh(port, &[origin.address()]).expect("a folder");
        put_module(&folder, "header_policy").expect("the module");
        folder.apply("policy.yaml", &[policy("header_policy", "one")]).expect("the filter");
        let keys_folder = tempfile::tempdir().expect("a folder");
        let (private, public) = keys(keys_folder.path(), "one");
        let to = Arc::new(Mutex::new(None));
        let middle = Middle::start(Arc::clone(&to));
        let program = workspace::binary("outrigger-proxy").expect("the proxy").display().to_string();
        let arguments = [
            "--precompile".to_owned(),
            program,
            "--machine-code-key".to_owned(),
            private.display().to_string(),
            "--http-advertise-address".to_owned(),
            middle.address.to_string(),
        ];
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let control_plane = ControlPlane::start_with(folder.path(), any, any, &arguments).expect("the control plane");
        *to.lock().expect("nobody panicked") = Some(control_plane.http);
        Mesh { folder, port, middle, control_plane, keys: keys_folder, public, _origin: origin }
    }

    /// A fresh proxy with an empty cache that trusts this key.
    fn proxy(&self, key: Option<&Path>) -> DataPlane {
        let arguments = key.map(|key| vec!["--wasm-code-key".to_owned(), key.display().to_string()]);
        let options = Options { arguments: arguments.unwrap_or_default(), own_cache: true, ..Options::default() };
        let bootstrap = bootstrap(self.control_plane.xds, "DELTA_GRPC");
        let plane = DataPlane::start_with(Peer::Outrigger, &bootstrap, &options).expect("the proxy starts");
        self.control_plane.proxy_until(PROXY, DEADLINE, |proxy| proxy["state"] == "acked").expect("acked");
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        eventually(DEADLINE, || match Request::get("/").send(address) {
            Ok(answer) if answer.header("x-gen-filter") == Some("one") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .expect("the filter serves");
        plane
    }
}

/// `[accepted, unavailable, refused, compiled here]`.
fn counts(plane: &DataPlane) -> [u64; 4] {
    let names = ["machine_code_accepted", "machine_code_unavailable", "machine_code_refused", "compile_cache_misses"];
    names.map(|name| plane.admin.stat(&format!("wasm.{name}")).expect("a counter"))
}

#[test]
fn a_fleet_maps_what_the_control_plane_compiled_and_nothing_else() {
    let mesh = Mesh::start();
    // Signed, and for this engine: nothing is compiled here.
    let mut plane = mesh.proxy(Some(&mesh.public));
    assert_eq!(counts(&plane), [1, 0, 0, 0], "{}", plane.process.log());
    drop(plane);
    for (way, expected, line) in [
        (Way::Tampered, [0, 0, 1, 1], "its bytes are not those that were signed"),
        (Way::Forged, [0, 0, 1, 1], "none of our keys has signed it"),
        (Way::Short, [0, 0, 1, 1], "it is cut off"),
        (Way::Broken, [0, 1, 0, 1], "broke off"),
        (Way::Rubbish, [0, 0, 1, 1], "it doesn't start as machine code does"),
        (Way::Long, [0, 0, 1, 1], "more bytes than its header says"),
        (Way::Missing, [0, 1, 0, 1], "404"),
    ] {
        mesh.middle.set(way);
        plane = mesh.proxy(Some(&mesh.public));
        let log = plane.process.log();
        assert_eq!(counts(&plane), expected, "{way:?}: {log}");
        assert!(log.contains(line) && log.contains("it is compiled here"), "{way:?}: {log}");
    }
    mesh.middle.set(Way::Untouched);
    // Somebody else's key.
    let (_, other) = keys(mesh.keys.path(), "other");
    let plane = mesh.proxy(Some(&other));
    assert_eq!(counts(&plane), [0, 0, 1, 1], "{}", plane.process.log());
    drop(plane);
    // No key: nobody is asked.
    let plane = mesh.proxy(None);
    assert_eq!(counts(&plane), [0, 0, 0, 1], "{}", plane.process.log());
    let metrics = mesh.control_plane.metrics().expect("metrics");
    assert!(metrics.contains("outrigger_machine_code_compiled_total 1\n"), "{metrics}");
    let digest = outrigger_e2e::modules::sha256(
        &outrigger_e2e::modules::read(&mesh.folder.file("filters/header_policy.wasm")).expect("the module"),
    );
    // Other engines and other modules have none; the address says nothing else.
    for path in [format!("sha256:{digest}/00"), format!("sha256:{}/00", "0".repeat(64)), "x/y".to_owned()] {
        let answer = mesh.control_plane.get(&format!("/machine-code/{path}")).expect("an answer");
        assert_eq!(answer.status, 404, "{path}");
    }
}
