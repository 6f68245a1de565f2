//! tonic on both sides of the gateway: unary calls, streams in all directions, deadlines,
//! cancellation, errors; without generated code, messages are plain bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http, tokio_stream};
use tonic::server::StreamingService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming, transport};

use crate::common::ports::{self, Port};
use crate::common::tls::Identity;
use crate::common::*;

/// Messages that are bytes.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// The server's calls that never end, and those of them that were cancelled.
#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    cancelled: AtomicUsize,
}

/// What a path does. All of them are streams to gRPC; some carry one message.
#[derive(Clone)]
struct Calls {
    path: String,
    counts: Arc<Counts>,
}

impl Counts {
    fn begin(self: &Arc<Self>) -> Cancelled {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Cancelled(Arc::clone(self))
    }
}

struct Cancelled(Arc<Counts>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}

type Answers = mpsc::Sender<Result<Vec<u8>, Status>>;

impl Calls {
    async fn run(self, mut messages: Streaming<Vec<u8>>, out: Answers) -> Result<(), Status> {
        match self.path.as_str() {
            "/test.Calls/Each" => {
                while let Some(message) = messages.message().await? {
                    _ = out.send(Ok(message)).await;
                }
            }
            "/test.Calls/Join" => {
                let mut all = Vec::new();
                while let Some(message) = messages.message().await? {
                    all.extend(message);
                }
                _ = out.send(Ok(all)).await;
            }
            "/test.Calls/Count" => {
                let count = messages.message().await?.unwrap_or_default();
                for number in 0..String::from_utf8_lossy(&count).parse().unwrap_or(0) {
                    _ = out.send(Ok(format!("{number}").into_bytes())).await;
                }
            }
            "/test.Calls/Late" => {
                _ = out.send(Ok(b"first".to_vec())).await;
                return Err(Status::data_loss("then nothing"));
            }
            "/test.Calls/Never" => {
                let _cancelled = self.counts.begin();
                out.closed().await;
            }
            _ => return Err(Status::unimplemented(self.path.clone())),
        }
        Ok(())
    }
}

impl StreamingService<Vec<u8>> for Calls {
    type Response = Vec<u8>;
    type ResponseStream = ReceiverStream<Result<Vec<u8>, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let calls = self.clone();
        Box::pin(async move {
            if calls.path == "/test.Calls/Fail" {
                let mut status = Status::failed_precondition("not = today, ünder 100 %");
                status
                    .metadata_mut()
                    .insert("x-why", "because".parse().unwrap());
                return Err(status);
            }
            if calls.path == "/test.Calls/Silent" {
                let _cancelled = calls.counts.begin();
                std::future::pending::<()>().await;
            }
            let asked = request.metadata().get("x-asked").cloned();
            let (out, answers) = mpsc::channel(4);
            tokio::spawn(async move {
                if let Err(status) = calls.run(request.into_inner(), out.clone()).await {
                    _ = out.send(Err(status)).await;
                }
            });
            let mut response = Response::new(ReceiverStream::new(answers));
            if let Some(asked) = asked {
                response.metadata_mut().insert("x-answered", asked);
            }
            Ok(response)
        })
    }
}

/// The service as tonic's server wants it.
#[derive(Clone)]
struct Router(Arc<Counts>);

impl Service<http::Request<Body>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let calls = Calls {
            path: request.uri().path().into(),
            counts: self.0.clone(),
        };
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(Plain)
                .streaming(calls, request)
                .await)
        })
    }
}

/// A tonic server, and a gateway in front of it.
struct Site {
    runtime: Runtime,
    gateway: Server,
    counts: Arc<Counts>,
    cert: String,
    _port: Port,
}

impl Site {
    /// `scheme` is that of `grpc_pass`.
    fn start(scheme: &str) -> Site {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (own, counts, port) = (
            Identity::new(&["localhost"]),
            Arc::default(),
            ports::reserve(),
        );
        let mut server = transport::Server::builder();
        if scheme == "grpcs" {
            let identity = transport::Identity::from_pem(&own.cert, &own.key);
            let tls = ServerTlsConfig::new().identity(identity);
            server = server.tls_config(tls).unwrap();
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port.number));
        let entered = runtime.enter();
        let incoming = TcpIncoming::bind(address).unwrap();
        let service = Router(Arc::clone(&counts));
        runtime.spawn(server.serve_with_incoming(service, incoming));
        drop(entered);
        let gateway = Setup::http(&format!(
            "server {{
                listen 127.0.0.1:%%P0%%;
                listen 127.0.0.1:%%P1%% ssl;
                http2 on;
                ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
                client_max_body_size 0;
                location / {{ grpc_pass {scheme}://127.0.0.1:%%T0%%; }}
                location /nobody {{
                    grpc_pass grpc://127.0.0.1:%%P9%%;
                    error_page 502 = /unavailable;
                }}
                location = /unavailable {{
                    internal;
                    default_type application/grpc;
                    add_header grpc-status 14 always;
                    add_header grpc-message 'nobody is there' always;
                    return 204;
                }}
            }}"
        ));
        let gateway = gateway
            .value("T0", port.number)
            .file("c.pem", &own.cert)
            .file("k.pem", &own.key)
            .start();
        Site {
            runtime,
            gateway,
            counts,
            cert: own.cert,
            _port: port,
        }
    }

    /// Run a client over plain TCP, and another over TLS.
    fn each<F: Future<Output = ()>>(&self, client: impl Fn(Client) -> F) {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.cert))
            .domain_name("localhost");
        let plain = format!("http://127.0.0.1:{}", self.gateway.port(0));
        let secret = format!("https://127.0.0.1:{}", self.gateway.port(1));
        let plain = Endpoint::from_shared(plain).unwrap();
        let secret = Endpoint::from_shared(secret)
            .unwrap()
            .tls_config(tls)
            .unwrap();
        for endpoint in [plain, secret] {
            self.runtime.block_on(async {
                let channel = endpoint.connect().await.expect("a connection");
                let whole = client(Client(tonic::client::Grpc::new(channel)));
                tokio::time::timeout(PATIENCE, whole).await.expect("an end");
            });
        }
    }
}

/// A client, whose calls are paths.
#[derive(Clone)]
struct Client(tonic::client::Grpc<Channel>);

fn path(name: &str) -> http::uri::PathAndQuery {
    format!("/test.Calls/{name}").parse().unwrap()
}

impl Client {
    async fn unary(&mut self, name: &str, message: &[u8]) -> Result<Response<Vec<u8>>, Status> {
        self.0.ready().await.unwrap();
        let mut request = Request::new(message.to_vec());
        request
            .metadata_mut()
            .insert("x-asked", "this".parse().unwrap());
        self.0.unary(request, path(name), Plain).await
    }

    async fn download(&mut self, name: &str, message: &[u8]) -> Result<Streaming<Vec<u8>>, Status> {
        self.0.ready().await.unwrap();
        let request = Request::new(message.to_vec());
        let answer = self.0.server_streaming(request, path(name), Plain).await;
        answer.map(Response::into_inner)
    }
}

#[test]
fn unary_calls() {
    for scheme in ["grpc", "grpcs"] {
        let site = Site::start(scheme);
        site.each(|mut client| async move {
            for length in [0, 1, 1000, 300_000] {
                let message = Rng(length as u64).bytes(length);
                let answer = client.unary("Each", &message).await.unwrap();
                assert_eq!(answer.metadata().get("x-answered").unwrap(), "this");
                assert!(answer.into_inner() == message, "{length}");
            }
        });
    }
}

#[test]
fn many_calls_at_once() {
    let site = Site::start("grpc");
    site.each(|client| async move {
        let calls = (0..200).map(|number: u32| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let message = number.to_string().into_bytes();
                let answer = client.unary("Each", &message).await.unwrap();
                assert_eq!(answer.into_inner(), message);
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    });
}

#[test]
fn a_stream_of_answers() {
    let site = Site::start("grpc");
    site.each(|mut client| async move {
        let mut answers = client.download("Count", b"1000").await.unwrap();
        for number in 0..1000 {
            let message = answers.message().await.unwrap().expect("a message");
            assert_eq!(message, number.to_string().into_bytes());
        }
        assert!(answers.message().await.unwrap().is_none());
    });
}

#[test]
fn a_stream_of_requests() {
    let site = Site::start("grpc");
    site.each(|mut client| async move {
        let pieces: Vec<Vec<u8>> = (0..100).map(|at| Rng(at).bytes(5_000)).collect();
        let whole = pieces.concat();
        client.0.ready().await.unwrap();
        let request = Request::new(tokio_stream::iter(pieces));
        let answer = client
            .0
            .client_streaming(request, path("Join"), Plain)
            .await
            .unwrap();
        assert!(answer.into_inner() == whole);
    });
}

#[test]
fn a_conversation() {
    let site = Site::start("grpc");
    site.each(|mut client| async move {
        let (say, said) = mpsc::channel(1);
        client.0.ready().await.unwrap();
        let request = Request::new(ReceiverStream::new(said));
        let call = client.0.streaming(request, path("Each"), Plain);
        let mut answers = call.await.unwrap().into_inner();
        // Each word waits for the answer to the one before: nothing may be held back.
        for word in 0..50u32 {
            let word = word.to_string().into_bytes();
            say.send(word.clone()).await.unwrap();
            assert_eq!(answers.message().await.unwrap(), Some(word));
        }
        drop(say);
        assert_eq!(answers.message().await.unwrap(), None);
    });
}

#[test]
fn errors_arrive_as_they_are() {
    let site = Site::start("grpc");
    site.each(|mut client| async move {
        let status = client.unary("Fail", b"x").await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "not = today, ünder 100 %");
        assert_eq!(status.metadata().get("x-why").unwrap(), "because");
        let status = client.unary("Unknown", b"x").await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        let mut answers = client.download("Late", b"x").await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap(), b"first");
        let status = answers.message().await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::DataLoss, "then nothing")
        );
    });
}

#[test]
fn a_backend_that_is_not_there() {
    let site = Site::start("grpc");
    site.each(|mut client| async move {
        client.0.ready().await.unwrap();
        let call = client
            .0
            .unary(Request::new(vec![]), "/nobody".parse().unwrap(), Plain);
        let status = call.await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "nobody is there")
        );
    });
}

#[test]
fn a_deadline_ends_the_call_on_both_sides() {
    let site = Site::start("grpc");
    site.each(|mut client| async move {
        client.0.ready().await.unwrap();
        let mut request = Request::new(b"x".to_vec());
        request.set_timeout(Duration::from_millis(300));
        let call = client.0.unary(request, path("Silent"), Plain).await;
        // tonic says the one or the other, as its client or its server noticed first.
        let code = call.unwrap_err().code();
        assert!(
            matches!(code, Code::DeadlineExceeded | Code::Cancelled),
            "{code:?}"
        );
    });
    site.all_cancelled(2);
}

#[test]
fn a_call_given_up_is_given_up_at_the_backend() {
    let site = Site::start("grpc");
    let counts = site.counts.clone();
    site.each(|mut client| {
        let counts = counts.clone();
        async move {
            let before = counts.begun.load(Ordering::SeqCst);
            let answers = client.download("Never", b"x").await.unwrap();
            while counts.begun.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
            drop(answers);
            // The connection serves on.
            client.unary("Each", b"x").await.unwrap();
        }
    });
    site.all_cancelled(2);
}

impl Site {
    /// The server was told that these calls are over.
    #[track_caller]
    fn all_cancelled(&self, count: usize) {
        wait_for("cancellation at the backend", || {
            self.runtime.block_on(tokio::task::yield_now());
            self.counts.cancelled.load(Ordering::SeqCst) == count
        });
    }
}
