//! An HTTP/2 server without TLS behind the proxy, scripted by an async closure.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::sync::mpsc::{self, UnboundedSender};

/// What of HTTP/2 a backend is to do otherwise than usual.
#[derive(Clone, Default)]
pub struct Options {
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`
    pub streams_max: Option<u32>,
    /// `SETTINGS_INITIAL_WINDOW_SIZE`
    pub window: Option<u32>,
}

/// A backend; ends with the process.
pub struct H2Backend {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    open: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    cancelled: AtomicUsize,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `:method`
    pub method: String,
    /// The URI that the pseudo-fields make.
    pub uri: http::Uri,
    /// The other fields.
    pub headers: HeaderMap,
}

impl Seen {
    /// The one value of `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        assert!(self.headers.get_all(name).iter().count() < 2, "{name}");
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

enum Command {
    Kill,
    GoAway,
}

/// One request being answered.
pub struct Call {
    /// As it came.
    pub seen: Seen,
    /// Its body.
    pub body: RecvStream,
    respond: SendResponse<Bytes>,
    commands: UnboundedSender<Command>,
    shared: Arc<Shared>,
}

impl H2Backend {
    /// Answers every request by `script`.
    pub fn start<F: Future<Output = ()> + 'static>(
        script: impl Fn(Call) -> F + Send + 'static,
    ) -> Self {
        Self::with(Options::default(), script)
    }

    /// As [`H2Backend::start`].
    pub fn with<F: Future<Output = ()> + 'static>(
        options: Options,
        script: impl Fn(Call) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let tasks = tokio::task::LocalSet::new();
            let script = Rc::new(script);
            tasks.block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    let (script, state) = (Rc::clone(&script), Arc::clone(&state));
                    let options = options.clone();
                    tokio::task::spawn_local(async move {
                        state.open.fetch_add(1, Ordering::SeqCst);
                        serve(stream, &options, &state, script).await;
                        state.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        });
        H2Backend { port, shared }
    }

    /// Answers as [`Call::mirror`] does.
    pub fn mirror() -> Self {
        Self::start(Call::mirror)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Requests whose stream was reset by the proxy, as far as [`Call::cancelled`] saw it.
    pub fn cancelled(&self) -> usize {
        self.shared.cancelled.load(Ordering::SeqCst)
    }

    /// All requests.
    pub fn log(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.log().pop().expect("a request")
    }
}

async fn serve<F: Future<Output = ()> + 'static>(
    stream: tokio::net::TcpStream,
    options: &Options,
    shared: &Arc<Shared>,
    script: Rc<impl Fn(Call) -> F + 'static>,
) {
    stream.set_nodelay(true).unwrap();
    let mut builder = server::Builder::new();
    if let Some(most) = options.streams_max {
        builder.max_concurrent_streams(most);
    }
    if let Some(window) = options.window {
        builder.initial_window_size(window);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let (commands, mut commanded) = mpsc::unbounded_channel();
    let is_leaving = Cell::new(false);
    loop {
        let next = poll_fn(|cx| {
            if !is_leaving.get()
                && let Poll::Ready(Some(command)) = commanded.poll_recv(cx)
            {
                return Poll::Ready(Err(command));
            }
            connection.poll_accept(cx).map(Ok)
        });
        let (request, respond) = match next.await {
            Err(Command::Kill) => return,
            Err(Command::GoAway) => {
                is_leaving.set(true);
                connection.graceful_shutdown();
                continue;
            }
            Ok(Some(Ok(next))) => next,
            Ok(_) => return,
        };
        let call = Call::new(request, respond, commands.clone(), shared);
        tokio::task::spawn_local(script(call));
    }
}

impl Call {
    fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        commands: UnboundedSender<Command>,
        shared: &Arc<Shared>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let seen = Seen {
            method: parts.method.to_string(),
            uri: parts.uri,
            headers: parts.headers,
        };
        shared.seen.lock().unwrap().push(seen.clone());
        Call {
            seen,
            body,
            respond,
            commands,
            shared: Arc::clone(shared),
        }
    }

    /// The path.
    pub fn path(&self) -> String {
        self.seen.uri.path().to_owned()
    }

    /// The next bytes of the body; `None` at its end or when the stream was reset.
    pub async fn next(&mut self) -> Option<Bytes> {
        let data = self.body.data().await?.ok()?;
        let _ = self.body.flow_control().release_capacity(data.len());
        Some(data)
    }

    /// The whole body.
    pub async fn whole(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        while let Some(data) = self.next().await {
            whole.extend_from_slice(&data);
        }
        whole
    }

    /// Sends the head of an answer.
    pub fn head(&mut self, status: u16, fields: &[(&str, &str)], ends: bool) -> SendStream<Bytes> {
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().unwrap();
        *response.headers_mut() = map(fields);
        self.respond.send_response(response, ends).unwrap()
    }

    /// Sends an informational answer.
    pub fn inform(&mut self, status: u16, fields: &[(&str, &str)]) {
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().unwrap();
        *response.headers_mut() = map(fields);
        self.respond.send_informational(response).unwrap();
    }

    /// Answers with a body.
    pub async fn answer(mut self, status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) {
        let body = body.into();
        let mut stream = self.head(status, fields, body.is_empty());
        if !body.is_empty() {
            send(&mut stream, body, true).await;
        }
    }

    /// Answers as a gRPC server does that has a message and a status.
    pub async fn grpc(mut self, message: impl Into<Bytes>, status: &str) {
        let mut stream = self.head(200, GRPC, false);
        send(&mut stream, message.into(), false).await;
        stream
            .send_trailers(map(&[("grpc-status", status)]))
            .unwrap();
    }

    /// Answers with what the request was: method, path, body; trailers say how long that was.
    pub async fn mirror(mut self) {
        let body = self.whole().await;
        let mut text = format!(
            "{} {}\n",
            self.seen.method,
            self.seen.uri.path_and_query().unwrap()
        );
        text += &String::from_utf8_lossy(&body);
        self.answer(200, &[("x-conn", "h2")], text).await;
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Cuts the connection.
    pub fn kill(&self) {
        let _ = self.commands.send(Command::Kill);
    }

    /// Ends the connection when the streams it has are over.
    pub fn go_away(&self) {
        let _ = self.commands.send(Command::GoAway);
    }

    /// Waits until the proxy resets the stream, of which the head was sent.
    pub async fn cancelled_behind(&self, stream: &mut SendStream<Bytes>) {
        let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
        self.shared.cancelled.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until the proxy resets the stream, of which no head was sent.
    pub async fn cancelled(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        self.shared.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}

/// Fields of a gRPC answer.
pub const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

/// A map of fields.
pub fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    fields.iter().map(pair).collect()
}

/// What a server waits for until the test lets it go on.
#[derive(Clone)]
pub struct Gate(Arc<tokio::sync::Semaphore>);

impl Gate {
    /// A closed one, twice: for the test and for the server.
    pub fn closed() -> (Gate, Gate) {
        let gate = Gate(Arc::new(tokio::sync::Semaphore::new(0)));
        (gate.clone(), gate)
    }

    /// Lets one through.
    pub fn open(&self) {
        self.0.add_permits(1);
    }

    /// Waits to be let through.
    pub async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// Sends bytes as the peer takes them. False if it does not any more.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, ends: bool) -> bool {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => room.min(bytes.len()),
            _ => return false,
        };
        let piece = bytes.split_to(room);
        let is_end = ends && bytes.is_empty();
        if stream.send_data(piece, is_end).is_err() {
            return false;
        }
    }
    true
}
