//! Application servers behind the proxy, scripted by closures; one thread per connection.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::Conn;
use super::ports::{self, Port};

/// Requests a backend remembers.
const REMEMBERED: usize = 256;

/// A request as a backend received it.
#[derive(Clone, Debug, Default)]
pub struct Req {
    /// The head verbatim, with the empty line.
    pub head: String,
    /// Method.
    pub method: String,
    /// Request target.
    pub target: String,
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub version: String,
    /// Names as received, values trimmed.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Whether the body came chunked.
    pub chunked: bool,
    /// Number of the connection, counted from 1 over the life of the backend.
    pub conn: usize,
    /// Number of the request on its connection, from 1.
    pub nth: usize,
}

impl Req {
    /// The one value of `name`.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is repeated in {:?}", self.head);
        all.first().copied()
    }

    /// The values of `name` in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(same)
            .map(|field| field.1.as_str())
            .collect()
    }
}

/// A 200 with a length.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    resp("200 OK", "", body)
}

/// An answer with a length. `headers` is raw: each field ends with CRLF.
pub fn resp(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A server on 127.0.0.1, running until dropped.
pub struct Backend {
    /// Its port, kept while it is stopped.
    pub port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    _reserved: Port,
}

type Handler = Box<dyn Fn(Conn, usize, &Shared) + Send + Sync>;

struct Shared {
    handler: Handler,
    stopping: AtomicBool,
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    log: Mutex<VecDeque<Req>>,
    streams: Mutex<Vec<Weak<TcpStream>>>,
}

impl Backend {
    /// A keepalive HTTP server: the closure turns a request into the bytes of the answer. The
    /// connection ends after an answer with `Connection: close`, after an HTTP/1.0 request and
    /// after `Connection: close`.
    pub fn http(answer: impl Fn(&Req) -> Vec<u8> + Send + Sync + 'static) -> Backend {
        Self::start(Box::new(move |conn, number, shared| {
            serve(conn, number, shared, &answer);
        }))
    }

    /// Answers every request with what it received: head verbatim, then body.
    pub fn echo() -> Backend {
        Self::http(|req| ok([req.head.as_bytes(), &req.body].concat()))
    }

    /// Answers every request with `body`.
    pub fn fixed(body: &'static str) -> Backend {
        Self::http(move |_| ok(body))
    }

    /// The closure gets each connection, with its number from 1, and does as it likes.
    pub fn raw(script: impl Fn(Conn, usize) + Send + Sync + 'static) -> Backend {
        Self::start(Box::new(move |conn, number, _| script(conn, number)))
    }

    /// Answers each request head with these exact bytes and closes the connection.
    pub fn bytes(answer: impl Into<Vec<u8>>) -> Backend {
        let answer = answer.into();
        Self::raw(move |mut conn, _| {
            if conn.try_head().is_some() {
                let _ = conn.try_send(&answer);
                conn.finish();
                conn.drain();
            }
        })
    }

    /// Accepts, reads, never answers.
    pub fn silent() -> Backend {
        Self::raw(|mut conn, _| conn.drain())
    }

    /// Resets every connection after the request's head.
    pub fn resetting() -> Backend {
        Self::raw(|mut conn, _| {
            if conn.try_head().is_some() {
                conn.reset();
            }
        })
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Requests received so far (HTTP backends only).
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The newest requests, oldest first.
    pub fn log(&self) -> Vec<Req> {
        self.shared.log.lock().unwrap().iter().cloned().collect()
    }

    /// The newest request.
    #[track_caller]
    pub fn last(&self) -> Req {
        self.log().pop().expect("no request reached the backend")
    }

    /// Refuse new connections and cut those that exist.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = TcpStream::connect(("127.0.0.1", self.port));
            acceptor.join().unwrap();
        }
        self.cut();
    }

    /// Cut all connections, keep listening.
    pub fn cut(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            if let Some(stream) = stream.upgrade() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Serve again on the same port after [`Backend::stop`].
    pub fn restart(&mut self) {
        assert!(self.acceptor.is_none(), "it runs");
        self.shared.stopping.store(false, Ordering::SeqCst);
        self.acceptor = Some(listen(self.port, &self.shared));
    }

    fn start(handler: Handler) -> Backend {
        let reserved = ports::reserve();
        let shared = Arc::new(Shared {
            handler,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            log: Mutex::default(),
            streams: Mutex::default(),
        });
        let acceptor = listen(reserved.number, &shared);
        Backend {
            port: reserved.number,
            shared,
            acceptor: Some(acceptor),
            _reserved: reserved,
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(port: u16, shared: &Arc<Shared>) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("bind a reserved port");
    let shared = shared.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
            shared.open.fetch_add(1, Ordering::SeqCst);
            let stream = Arc::new(stream);
            remember(&shared.streams, &stream);
            let shared = shared.clone();
            std::thread::spawn(move || {
                let mut conn = Conn::over(stream);
                conn.set_read_timeout(Duration::from_secs(60));
                (shared.handler)(conn, number, &shared);
                shared.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    })
}

/// Keep `stream` for a later cut, without keeping it open.
fn remember(streams: &Mutex<Vec<Weak<TcpStream>>>, stream: &Arc<TcpStream>) {
    let mut streams = streams.lock().unwrap();
    if streams.len() >= 64 {
        streams.retain(|stream| stream.strong_count() > 0);
    }
    streams.push(Arc::downgrade(stream));
}

fn serve(mut conn: Conn, number: usize, shared: &Shared, answer: &impl Fn(&Req) -> Vec<u8>) {
    for nth in 1.. {
        let Some(mut req) = conn.try_request() else {
            return;
        };
        (req.conn, req.nth) = (number, nth);
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let bytes = answer(&req);
        let says = |value: Option<&&str>| value.is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let last = says(req.all("connection").first())
            || req.version == "HTTP/1.0"
            || super::client::find(&bytes, b"\r\nConnection: close\r\n").is_some();
        {
            let mut log = shared.log.lock().unwrap();
            if log.len() == REMEMBERED {
                log.pop_front();
            }
            log.push_back(req);
        }
        if conn.try_send(&bytes).is_err() {
            return;
        }
        if last {
            conn.finish();
            conn.drain();
            return;
        }
    }
}

/// What a scripted server needs beyond a client.
impl Conn {
    /// A request's head, or `None` at the end of the connection.
    pub fn try_head(&mut self) -> Option<String> {
        self.try_until("\r\n\r\n")
    }

    /// A whole request, or `None` at the end of the connection.
    pub fn try_request(&mut self) -> Option<Req> {
        let head = self.try_head()?;
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let mut words = lines.next()?.split(' ').map(str::to_owned);
        let mut req = Req {
            method: words.next()?,
            target: words.next()?,
            version: words.next()?,
            ..Req::default()
        };
        for line in lines {
            let (name, value) = line.split_once(':')?;
            req.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        req.head = head;
        if req.all("transfer-encoding") == ["chunked"] {
            req.chunked = true;
            req.body = self.chunks()?;
        } else if let Some(length) = req.all("content-length").first() {
            req.body = self.try_take(length.parse().ok()?)?;
        }
        Some(req)
    }

    /// Read and forget until the peer closes.
    pub fn drain(&mut self) {
        while self.try_take(1).is_some() {}
    }

    /// Bytes up to and with `mark`, or `None` at the end of the connection.
    pub fn try_until(&mut self, mark: &str) -> Option<String> {
        loop {
            if let Some(at) = super::client::find(self.buffered(), mark.as_bytes()) {
                let taken = self.try_take(at + mark.len())?;
                return Some(String::from_utf8_lossy(&taken).into_owned());
            }
            self.more()?;
        }
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.try_until("\r\n")?;
            let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
            if size == 0 {
                while self.try_until("\r\n")? != "\r\n" {}
                return Some(body);
            }
            body.extend(self.try_take(size)?);
            self.try_take(2)?;
        }
    }
}
