//! A request in steady state allocates nothing: every allocation of a worker's thread is counted
//! while requests go over warm keepalive connections.
//!
//! A target of its own, for its allocator. When a test fails it shows where the first allocations
//! came from.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use ringway::base::listen::{ListenAddr, WorkerSocket};
use ringway::gateway::{Gateway, LoadOptions};
use ringway::observe::{TargetSpec, writer};
use ringway::worker;
use ringway::worker::control::{Event, WorkerHandle};

/// Keepalive connections that take part.
const CONNECTIONS: usize = 4;
/// Requests on each connection before counting begins, and while counting.
const WARM_UP: usize = 250;
const COUNTED: usize = 250;

/// Counts of which one must be 0.
const TRIES: usize = 5;

#[test]
fn a_proxied_request_allocates_nothing() {
    steady(b"GET /proxied HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n");
}

#[test]
fn a_logged_request_allocates_nothing() {
    steady(b"GET /logged?a=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: test\r\n\r\n");
}

#[test]
fn a_balanced_request_allocates_nothing() {
    steady(b"GET /balanced HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn headers_and_maps_allocate_nothing() {
    steady(b"GET /decorated/x HTTP/1.1\r\nHost: a.test\r\nUpgrade: none\r\n\r\n");
}

#[test]
fn a_chunked_response_allocates_nothing() {
    steady(b"GET /proxied/chunked HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn a_medium_response_allocates_nothing() {
    steady(b"GET /proxied/long/20000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn a_spliced_response_allocates_nothing() {
    steady(b"GET /proxied/long/100000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn a_small_body_allocates_nothing() {
    steady(b"POST /proxied HTTP/1.1\r\nHost: a.test\r\nContent-Length: 11\r\n\r\nhello=world");
}

#[test]
fn an_answer_of_the_gateway_allocates_nothing() {
    steady(b"GET /text HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn a_redirect_allocates_nothing() {
    steady(b"GET /away?a=b HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn an_error_page_allocates_nothing() {
    steady(b"GET /missing HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn a_rewritten_request_allocates_nothing() {
    steady(b"GET /old/page HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn limits_and_real_addresses_allocate_nothing() {
    steady(b"GET /limited HTTP/1.1\r\nHost: a.test\r\nX-Real-IP: 2001:db8::1\r\n\r\n");
}

#[test]
fn requests_over_tls_allocate_nothing() {
    steady_over(true, b"GET /text HTTP/1.1\r\nHost: a.test\r\n\r\n");
    steady_over(
        true,
        b"GET /proxied/chunked HTTP/1.1\r\nHost: a.test\r\n\r\n",
    );
    steady_over(
        true,
        b"GET /proxied/long/20000 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    );
}

#[test]
fn requests_to_a_server_with_tls_allocate_nothing() {
    for path in ["/text", "/proxied/chunked", "/proxied/long/20000"] {
        let request = format!("GET /secured{path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        steady(request.as_bytes());
        steady_over(true, request.as_bytes());
    }
    steady(b"POST /secured/proxied HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
}

const CONF: &str = r#"
worker_processes 1;
events {}
http {
    log_format own '$remote_addr "$request" $status $upstream_addr $request_time';
    limit_conn_zone $binary_remote_addr zone=addr:1m;
    limit_conn_zone $server_name zone=server:1m;
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    map $uri $site { default none; ~^/decorated/(?<rest>.*)$ "site-$rest"; }
    upstream backend { server BACKEND; keepalive 32; keepalive_requests 1000000; }
    upstream balanced {
        least_conn;
        server BACKEND weight=2;
        server BACKEND2;
        keepalive 32;
        keepalive_requests 1000000;
    }
    upstream secured { server SECURE; keepalive 32; keepalive_requests 1000000; }
    access_log off;
    keepalive_requests 1000000;
    server {
        listen LISTEN;
        listen SECURE ssl;
        ssl_certificate PREFIX/cert.pem;
        ssl_certificate_key PREFIX/key.pem;
        server_name a.test;
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        location / { proxy_pass http://backend; }
        location /logged { proxy_pass http://backend/; access_log PREFIX/access.log combined; }
        location /limited {
            set_real_ip_from 127.0.0.1;
            limit_conn addr 100;
            limit_conn server 100;
            proxy_pass http://backend;
        }
        location /balanced { proxy_pass http://balanced; access_log PREFIX/own.log own buffer=4k; }
        location /decorated {
            set $mine "$site-$connection_upgrade";
            add_header X-Site $mine always;
            add_header Cache-Control "no-cache";
            proxy_set_header Connection $connection_upgrade;
            proxy_pass http://backend;
        }
        location /secured/ {
            proxy_ssl_server_name on;
            proxy_ssl_name $host;
            proxy_pass https://secured/;
        }
        location /text { return 200 "text of $uri"; }
        location /away { return 302 /new$request_uri; }
        location /missing { return 404; }
        location /old { rewrite ^/old/(.*)$ /new/$1 break; proxy_pass http://backend; }
    }
}
"#;

/// Sends `request` over warm connections and expects that the worker allocates nothing for it.
fn steady(request: &[u8]) {
    steady_over(false, request);
}

/// As [`steady`], with TLS or without.
fn steady_over(tls: bool, request: &[u8]) {
    let site = Site::get();
    let client = |_| match tls {
        true => Client::secure(site.secure),
        false => Client::new(site.addr),
    };
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(client).collect();
    rounds(&mut clients, request, WARM_UP);
    let mut counted = || {
        let counting = Counting::of(site.worker);
        rounds(&mut clients, request, COUNTED);
        counting.end()
    };
    // On a busy machine the log writer may fall behind as never before, which takes more buffers
    // than ever: that is not what a request costs, and does not happen again.
    let (mut count, mut traces) = counted();
    for _ in 1..TRIES {
        if count != 0 {
            (count, traces) = counted();
        }
    }
    let requests = CONNECTIONS * COUNTED;
    assert!(
        count == 0,
        "{count} allocations for {requests} requests; the first ones:\n{}",
        traces.join("\n\n")
    );
}

/// One request on each connection at a time, `count` times.
fn rounds(clients: &mut [Client], request: &[u8], count: usize) {
    for _ in 0..count {
        for client in &mut *clients {
            client
                .stream
                .write_all(request)
                .expect("the request leaves");
        }
        for client in &mut *clients {
            client.read_answer();
        }
    }
}

/// A keepalive connection to the gateway.
struct Client {
    stream: Box<dyn Stream>,
    bytes: Vec<u8>,
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

impl Client {
    fn new(addr: SocketAddr) -> Client {
        Client {
            stream: Box::new(connect(addr)),
            bytes: Vec::new(),
        }
    }

    fn secure(addr: SocketAddr) -> Client {
        static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
        let config = CONFIG.get_or_init(|| {
            let mut roots = rustls::RootCertStore::empty();
            let cert = identity().0.der().clone();
            roots.add(cert).expect("a certificate");
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .expect("versions");
            Arc::new(config.with_root_certificates(roots).with_no_client_auth())
        });
        let name = "a.test".try_into().expect("a name");
        let conn = rustls::ClientConnection::new(Arc::clone(config), name).expect("settings");
        Client {
            stream: Box::new(rustls::StreamOwned::new(conn, connect(addr))),
            bytes: Vec::new(),
        }
    }

    /// Reads one answer, which must be complete and have one of the statuses asked for.
    fn read_answer(&mut self) {
        self.bytes.clear();
        let mut buffer = [0; 64 << 10];
        loop {
            let n = self.stream.read(&mut buffer).expect("an answer comes");
            assert!(n > 0, "the connection stays open");
            self.bytes.extend_from_slice(&buffer[..n]);
            let text = std::str::from_utf8(&self.bytes).expect("an answer of ASCII");
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let status = head.get(9..12);
            assert!(matches!(status, Some("200" | "302" | "404")), "{text}");
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("Content-Length: "));
            let done = match length {
                Some(length) => body.len() >= length.parse().expect("a number"),
                None => body.ends_with("0\r\n\r\n"),
            };
            if done {
                return;
            }
        }
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the gateway accepts");
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).expect("a socket option");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

/// The gateway's certificate, and its key.
fn identity() -> &'static (rcgen::Certificate, rcgen::KeyPair) {
    static IDENTITY: OnceLock<(rcgen::Certificate, rcgen::KeyPair)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["a.test".into()]);
        let made = made.expect("a certificate");
        (made.cert, made.signing_key)
    })
}

/// The gateway under test: one worker of this process, and two backends.
struct Site {
    addr: SocketAddr,
    /// With TLS.
    secure: SocketAddr,
    /// The worker's thread.
    worker: i32,
    /// Serves one test at a time.
    turn: Mutex<()>,
    _handle: WorkerHandle,
}

/// The site, held by one test.
struct Held {
    addr: SocketAddr,
    secure: SocketAddr,
    worker: i32,
    _turn: MutexGuard<'static, ()>,
}

impl Site {
    fn get() -> Held {
        static SITE: OnceLock<Site> = OnceLock::new();
        let site = SITE.get_or_init(Site::start);
        Held {
            addr: site.addr,
            secure: site.secure,
            worker: site.worker,
            _turn: site.turn.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn start() -> Site {
        let prefix = std::env::temp_dir().join(format!("ringway-alloc-{}", std::process::id()));
        fs::create_dir_all(&prefix).expect("a directory for logs");
        let (addr, plain) = listen();
        let (secure, tls) = listen();
        let (cert, key) = identity();
        fs::write(prefix.join("cert.pem"), cert.pem()).expect("a file");
        fs::write(prefix.join("key.pem"), key.serialize_pem()).expect("a file");
        let conf = CONF
            .replace("BACKEND2", &backend().to_string())
            .replace("BACKEND", &backend().to_string())
            .replace("LISTEN", &addr.to_string())
            .replace("SECURE", &secure.to_string())
            .replace("PREFIX", &prefix.to_string_lossy());
        let gateway = load(&conf, &prefix);
        writer::start().expect("the log writer starts");
        let (events, told) = crossbeam::channel::unbounded();
        let handle = worker::spawn(0, vec![plain, tls], Arc::new(gateway), events);
        let handle = handle.expect("the worker starts");
        assert_eq!(told.recv(), Ok(Event::Ready(0)));
        // Nobody removes it: the worker lives as long as the process.
        Site {
            addr,
            secure,
            worker: thread_named("worker-0"),
            turn: Mutex::new(()),
            _handle: handle,
        }
    }
}

/// A socket for the worker, and its address.
fn listen() -> (SocketAddr, WorkerSocket) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("a socket option");
    let socket = WorkerSocket {
        addr: ListenAddr::Inet(addr),
        fd: listener.into(),
        number: 0,
    };
    (addr, socket)
}

fn load(conf: &str, prefix: &Path) -> Gateway {
    let options = LoadOptions {
        prefix: prefix.to_owned(),
        globals: None,
        error_log: TargetSpec::default_file(&prefix.join("error.log")),
        pid: prefix.join("pid"),
        lenient: false,
    };
    let loaded = Gateway::load_text(&PathBuf::from("allocations.conf"), conf, &options);
    loaded.unwrap_or_else(|error| panic!("{error}")).0
}

/// The id of this process's thread with that name.
fn thread_named(name: &str) -> i32 {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is there");
    let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    ids.into_iter()
        .find(|id: &i32| {
            let comm = fs::read_to_string(format!("/proc/self/task/{id}/comm"));
            comm.is_ok_and(|comm| comm.trim() == name)
        })
        .expect("the thread runs")
}

/// Answers every request on a keepalive connection; paths that end in `chunked`, chunked.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_all(stream));
        }
    });
    addr
}

fn answer_all(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("Content-Length: "));
            let length = length.map_or(0, |l| l.parse().expect("a number"));
            if bytes.len() < end + 4 + length {
                break;
            }
            bytes.drain(..end + 4 + length);
            let answer: &[u8] = if head.contains("chunked HTTP/1.1") {
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"1\"\r\n\
                  Content-Length: 11\r\n\r\nhello world"
            };
            let written = match head
                .split([' ', '/'])
                .skip_while(|word| *word != "long")
                .nth(1)
            {
                Some(length) => long(length.parse().expect("a number"), &mut stream),
                None => stream.write_all(answer),
            };
            if written.is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Answers with a body of this length.
fn long(length: usize, stream: &mut TcpStream) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), &vec![b'x'; length]].concat())
}

/// Counts the allocations of one thread until [`Counting::end`].
struct Counting;

impl Counting {
    fn of(thread: i32) -> Counting {
        COUNT.store(0, Ordering::SeqCst);
        lock(&TRACES).clear();
        WATCHED.store(thread, Ordering::SeqCst);
        Counting
    }

    /// How many there were, and where the first ones came from.
    fn end(self) -> (u64, Vec<String>) {
        WATCHED.store(0, Ordering::SeqCst);
        let traces = lock(&TRACES);
        let traces = traces.iter().map(shortened).collect();
        (COUNT.load(Ordering::SeqCst), traces)
    }
}

/// The innermost frames of a trace that are in this package.
fn shortened(trace: &Backtrace) -> String {
    let text = trace.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let own = lines
        .windows(2)
        .filter(|pair| pair[1].starts_with("at ./src"));
    own.take(FRAMES_MAX)
        .map(|pair| format!("    {} {}", pair[1], pair[0]))
        .collect::<Vec<_>>()
        .join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Traces kept of the first allocations.
const TRACES_MAX: u64 = 5;

/// Frames shown of each.
const FRAMES_MAX: usize = 5;

/// The thread whose allocations count; 0 for none.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
static TRACES: Mutex<Vec<Backtrace>> = Mutex::new(Vec::new());

thread_local! {
    static ID: Cell<i32> = const { Cell::new(0) };
    static IN_TRACE: Cell<bool> = const { Cell::new(false) };
}

/// Takes note of an allocation, if it is one of the watched thread.
fn note() {
    let watched = WATCHED.load(Ordering::Relaxed);
    if watched == 0 || IN_TRACE.get() {
        return;
    }
    if ID.get() == 0 {
        // SAFETY: gettid has no preconditions.
        ID.set(unsafe { libc::gettid() });
    }
    if ID.get() != watched || COUNT.fetch_add(1, Ordering::Relaxed) >= TRACES_MAX {
        return;
    }
    IN_TRACE.set(true);
    let trace = Backtrace::force_capture();
    lock(&TRACES).push(trace);
    IN_TRACE.set(false);
}

struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as our caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as our caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as our caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as our caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
