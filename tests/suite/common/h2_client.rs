//! A client that speaks HTTP/2 without TLS, from the `h2` crate.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{PATIENCE, Setup, is_nginx};

/// A server that speaks HTTP/2 on `%%P0%%`; nginx 1.22 knows one way to say so, and then speaks
/// nothing else there.
pub fn h2c(server: &str) -> Setup {
    let listen = if is_nginx() {
        "listen 127.0.0.1:%%P0%% http2;"
    } else {
        "listen 127.0.0.1:%%P0%%; http2 on;"
    };
    Setup::http(&format!("server {{ {listen} {server} }}"))
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The head's fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
    /// The fields behind the body, if there are any.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a field, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// A connection.
#[derive(Clone)]
pub struct H2 {
    /// Sends requests.
    pub send: SendRequest<Bytes>,
    port: u16,
}

/// Runs `act` with a connection to this port; it must end within [`PATIENCE`].
#[track_caller]
pub fn with_h2<T>(port: u16, act: impl AsyncFnOnce(H2) -> T) -> T {
    with_built(port, &Builder::new(), act)
}

/// As [`with_h2`], with settings of its own.
#[track_caller]
pub fn with_built<T>(port: u16, builder: &Builder, act: impl AsyncFnOnce(H2) -> T) -> T {
    block(async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (send, conn) = builder.handshake(stream).await.unwrap();
        tokio::task::spawn_local(async move {
            // How it ends shows in the requests.
            let _ = conn.await;
        });
        act(H2 { send, port }).await
    })
}

/// Runs a future with a time limit.
#[track_caller]
pub fn block<T>(act: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    let limited = async { timeout(PATIENCE * 2, act).await };
    let ended = runtime.block_on(local.run_until(limited));
    ended.expect("an end in time")
}

impl H2 {
    /// A request for this path.
    pub fn request(&self, method: &str, path: &str) -> Request<()> {
        Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.port))
            .body(())
            .unwrap()
    }

    /// Asks for a path.
    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.request("GET", path);
        self.ask(request, b"").await.unwrap()
    }

    /// Sends a body to a path.
    pub async fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let request = self.request("POST", path);
        self.ask(request, body).await.unwrap()
    }

    /// Sends a request and reads all of its answer.
    pub async fn ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        poll_fn(|cx| self.send.poll_ready(cx)).await?;
        let (response, mut sending) = self.send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            sending.send_data(Bytes::copy_from_slice(body), true)?;
        }
        answer(response.await?).await
    }
}

/// Reads the rest of an answer.
pub async fn answer(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut recv) = response.into_parts();
    let body = read(&mut recv).await?;
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
        trailers: recv.trailers().await?,
    })
}

/// Reads a body to its end.
pub async fn read(recv: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = recv.data().await {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok(body)
}

/// Why a stream was reset.
pub fn reason(error: &h2::Error) -> Option<Reason> {
    assert!(error.is_reset() || error.is_go_away(), "{error:?}");
    error.reason()
}
