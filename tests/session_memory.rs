//! What an idle session costs: every byte that a worker's thread has allocated and not freed is
//! counted, before and after sessions have come to stay.
//!
//! A target of its own, for its allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use ringway::base::listen::{ListenAddr, WorkerSocket};
use ringway::gateway::{Gateway, LoadOptions};
use ringway::observe::TargetSpec;
use ringway::worker;
use ringway::worker::control::Event;

/// Sessions that are there before counting begins: tables grow in steps.
const WARM_UP: usize = 512;
const COUNTED: usize = 512;

/// Bytes of user memory that an idle session may take, in all …
const LIMIT: i64 = 2048;
/// … and one with TLS, where the cryptography has some that are not counted: two keys.
const LIMIT_TLS: i64 = 4096;

const CONF: &str = "
worker_processes 1;
events { worker_connections 10000; }
stream {
    log_format own '$remote_addr $status $upstream_addr $session_time';
    access_log PREFIX/access.log own;
    upstream backend { least_conn; server BACKEND; server BACKEND2 backup; }
    server { listen LISTEN; listen LISTEN udp; proxy_pass backend; }
    server {
        listen TLS ssl;
        ssl_certificate PREFIX/c.pem;
        ssl_certificate_key PREFIX/k.pem;
        proxy_pass backend;
    }
}
";

#[test]
fn an_idle_session_takes_two_kibibytes_at_most() {
    let prefix = std::env::temp_dir().join(format!("ringway-idle-{}", std::process::id()));
    fs::create_dir_all(&prefix).expect("a directory for logs");
    let (addr, tls) = start(&prefix);
    // One after the other: all that the worker allocates is counted.
    measure("TCP", LIMIT, || idle_session(addr));
    measure("UDP", LIMIT, || idle_datagrams(addr));
    let config = client();
    measure("TLS", LIMIT_TLS, || idle_tls(tls, &config));
    let _ = fs::remove_dir_all(&prefix);
}

fn measure<S>(kind: &str, limit: i64, begin: impl Fn() -> S) {
    let mut sessions: Vec<S> = (0..WARM_UP).map(|_| begin()).collect();
    let before = live();
    sessions.extend((0..COUNTED).map(|_| begin()));
    let after = live();
    let each = |bytes: i64| bytes / COUNTED as i64;
    let mut sizes: BTreeMap<usize, i64> = BTreeMap::new();
    for (size, count) in after.iter().enumerate() {
        let more = count - before[size];
        if more.unsigned_abs() as usize >= COUNTED / 2 {
            sizes.insert(size, more);
        }
    }
    let total = |live: &[i64]| -> i64 { live.iter().zip(0..).map(|(n, size)| n * size).sum() };
    let bytes = each(total(&after) - total(&before));
    eprintln!("{bytes} bytes for an idle session of {kind}");
    assert!(
        bytes <= limit,
        "{bytes} bytes for a session of {kind}; allocations by size: {sizes:?}"
    );
}

/// A session that has moved bytes both ways and goes on saying nothing.
fn idle_session(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("the gateway accepts");
    let mut answer = [0; 5];
    stream.write_all(b"hello").expect("it takes bytes");
    stream.read_exact(&mut answer).expect("it answers");
    stream
}

/// The same through TLS.
fn idle_tls(addr: SocketAddr, config: &Arc<ClientConfig>) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("the gateway accepts");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut conn = ClientConnection::new(Arc::clone(config), name).expect("settings that fit");
    let mut tls = rustls::Stream::new(&mut conn, &mut stream);
    tls.write_all(b"hello").expect("it takes bytes");
    tls.read_exact(&mut [0; 5]).expect("it answers");
    stream
}

fn client() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let own = CertificateDer::from_pem_slice(CERTIFICATE.0.as_bytes()).expect("a certificate");
    roots.add(own).expect("one that may be trusted");
    let config = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}

/// The gateway's certificate and its key, in PEM.
static CERTIFICATE: LazyLock<(String, String)> = LazyLock::new(|| {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    (own.cert.pem(), own.signing_key.serialize_pem())
});

/// The same with datagrams.
fn idle_datagrams(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let patience = Some(Duration::from_secs(10));
    socket.set_read_timeout(patience).expect("a socket option");
    socket.connect(addr).expect("an address");
    socket.send(b"hello").expect("it goes out");
    socket.recv(&mut [0; 10]).expect("it is answered");
    socket
}

/// One worker of this process, in front of a server that answers with what it gets.
fn start(prefix: &Path) -> (SocketAddr, SocketAddr) {
    fs::write(prefix.join("c.pem"), &CERTIFICATE.0).expect("a file");
    fs::write(prefix.join("k.pem"), &CERTIFICATE.1).expect("a file");
    let [(listener, addr), (tls_listener, tls)] = [0, 1].map(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket option");
        let addr = listener.local_addr().expect("it is bound");
        (listener, addr)
    });
    let backend = backend();
    let conf = CONF
        .replace("BACKEND2", &backend.to_string())
        .replace("BACKEND", &backend.to_string())
        .replace("TLS", &tls.to_string())
        .replace("LISTEN", &addr.to_string())
        .replace("PREFIX", &prefix.to_string_lossy());
    let gateway = load(&conf, prefix);
    let datagrams = UdpSocket::bind(addr).expect("the same port");
    let sockets = vec![
        WorkerSocket {
            addr: ListenAddr::Inet(addr),
            fd: listener.into(),
            number: 0,
        },
        WorkerSocket {
            addr: ListenAddr::Udp(addr),
            fd: datagrams.into(),
            number: 0,
        },
        WorkerSocket {
            addr: ListenAddr::Inet(tls),
            fd: tls_listener.into(),
            number: 0,
        },
    ];
    let (events, told) = crossbeam::channel::unbounded();
    let handle = worker::spawn(0, sockets, Arc::new(gateway), events);
    assert_eq!(told.recv(), Ok(Event::Ready(0)));
    // It serves until the process ends.
    std::mem::forget(handle.expect("the worker starts"));
    (addr, tls)
}

fn load(conf: &str, prefix: &Path) -> Gateway {
    let options = LoadOptions {
        prefix: prefix.to_owned(),
        globals: None,
        error_log: TargetSpec::default_file(&prefix.join("error.log")),
        pid: prefix.join("pid"),
        lenient: false,
    };
    let loaded = Gateway::load_text(&PathBuf::from("idle.conf"), conf, &options);
    loaded.unwrap_or_else(|error| panic!("{error}")).0
}

/// Answers the first bytes of each connection and keeps all of them open, and every datagram.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let (keep, kept) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 5];
            if stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {
                let _ = keep.send(stream);
            }
        }
    });
    thread::spawn(move || kept.iter().collect::<Vec<_>>());
    let datagrams = UdpSocket::bind(addr).expect("the same port");
    thread::spawn(move || {
        let mut bytes = [0; 5];
        while let Ok((count, peer)) = datagrams.recv_from(&mut bytes) {
            let _ = datagrams.send_to(&bytes[..count], peer);
        }
    });
    addr
}

/// Allocations of worker threads that are not freed, by size; larger ones count as the largest.
fn live() -> Vec<i64> {
    LIVE.iter()
        .map(|count| count.load(Ordering::SeqCst))
        .collect()
}

const SIZES: usize = 1 << 14;

static LIVE: [AtomicI64; SIZES] = [const { AtomicI64::new(0) }; SIZES];

thread_local! {
    /// Whether this is the thread of a worker; None until it is looked at.
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
}

fn note(size: usize, change: i64) {
    let is_worker = IS_WORKER.get().unwrap_or_else(|| {
        let is_worker = has_workers_name();
        IS_WORKER.set(Some(is_worker));
        is_worker
    });
    if is_worker && size < SIZES {
        LIVE[size].fetch_add(change, Ordering::Relaxed);
    }
}

fn has_workers_name() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"worker-")
}

struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 1);
        // SAFETY: as our caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(layout.size(), -1);
        // SAFETY: as our caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 1);
        // SAFETY: as our caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(layout.size(), -1);
        note(size, 1);
        // SAFETY: as our caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
