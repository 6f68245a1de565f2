//! `grpc_pass` for clients that speak HTTP/2, as gRPC's do.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{Request, Response};

use crate::common::h2_backend::{Call, GRPC, Gate, Options, map, send};
use crate::common::h2_client::{self, H2, h2c, reason, with_built, with_h2};
use crate::common::*;

fn gateway(backend: &H2Backend) -> Server {
    h2c("client_max_body_size 0; location / { grpc_pass grpc://127.0.0.1:%%H0%%; }")
        .value("H0", backend.port)
        .start()
}

/// A request as a gRPC client sends it.
fn call(client: &H2, path: &str) -> Request<()> {
    let mut request = client.request("POST", path);
    request.headers_mut().extend(map(&[
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "5S"),
    ]));
    request
}

/// Sends back each message as it comes, then a status.
async fn echo(mut call: Call) {
    let mut stream = call.head(200, GRPC, false);
    while let Some(message) = call.next().await {
        if !send(&mut stream, message, false).await {
            return;
        }
    }
    let _ = stream.send_trailers(map(&[("grpc-status", "0")]));
}

#[test]
fn unary() {
    let b = H2Backend::start(|mut call| async move {
        let message = call.whole().await;
        call.grpc(message, "0").await;
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        for turn in 0..20 {
            let message = format!("message {turn}");
            let request = call(&client, "/a/B");
            let answer = client.ask(request, message.as_bytes()).await.unwrap();
            assert_eq!((answer.status, answer.text()), (200, message));
            assert_eq!(answer.header("content-type"), "application/grpc");
            assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        }
    });
    let seen = b.last();
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("grpc-timeout"), Some("5S"));
    assert_eq!(seen.header("content-length"), None);
    if !is_nginx() {
        assert_eq!(b.connections(), 1);
    }
}

#[test]
fn an_answer_of_trailers_alone() {
    let b = H2Backend::start(|call| async move {
        let fields = [("content-type", "application/grpc"), ("grpc-status", "12")];
        call.answer(200, &fields, "").await;
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        let request = call(&client, "/a/B");
        let answer = client.ask(request, b"x").await.unwrap();
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "12"));
        assert_eq!(answer.body, b"");
    });
}

#[test]
fn many_calls_share_few_connections() {
    let b = H2Backend::start(|mut call| async move {
        let message = call.whole().await;
        tokio::task::yield_now().await;
        call.grpc(message, "0").await;
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |client| {
        let calls: Vec<_> = (0..64)
            .map(|n| {
                let mut client = client.clone();
                tokio::task::spawn_local(async move {
                    for turn in 0..10 {
                        let message = format!("{n}/{turn}");
                        let request = call(&client, "/a/B");
                        let answer = client.ask(request, message.as_bytes()).await.unwrap();
                        assert_eq!(answer.text(), message);
                        assert!(answer.trailers.is_some());
                    }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
    });
    if !is_nginx() {
        assert!(b.connections() <= 2, "{} connections", b.connections());
    }
}

/// Begins a call whose messages follow.
async fn begin(client: &mut H2, path: &str) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let request = call(client, path);
    client.send = client.send.clone().ready().await.unwrap();
    client.send.send_request(request, false).unwrap()
}

#[test]
fn messages_go_back_and_forth() {
    let b = H2Backend::start(echo);
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        let (response, mut sending) = begin(&mut client, "/chat/Both").await;
        let mut body = response.await.unwrap().into_body();
        for turn in 0..50 {
            let message = format!("message {turn}");
            sending.send_data(message.clone().into(), false).unwrap();
            let back = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(back.len()).unwrap();
            assert_eq!(back, message);
        }
        sending.send_data(Bytes::new(), true).unwrap();
        assert!(h2_client::read(&mut body).await.unwrap().is_empty());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn large_messages_through_small_windows() {
    for (ours, theirs) in [(65_535, 65_535), (1_000, 65_535), (65_535, 1_000)] {
        let options = Options {
            window: Some(theirs),
            ..Options::default()
        };
        let b = H2Backend::with(options, echo);
        let s = gateway(&b);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(ours);
        let message = Bytes::from(Rng(4).bytes(2_000_000));
        with_built(s.port(0), &builder, async |mut client| {
            let (response, mut sending) = begin(&mut client, "/chat/Both").await;
            let sent = message.clone();
            let upload = tokio::task::spawn_local(async move {
                send(&mut sending, sent, true).await;
            });
            let answer = h2_client::answer(response.await.unwrap()).await.unwrap();
            upload.await.unwrap();
            assert_eq!(hash(&answer.body), hash(&message), "{ours} {theirs}");
            assert!(answer.trailers.is_some());
        });
    }
}

#[test]
fn a_server_that_streams() {
    let b = H2Backend::start(|mut call| async move {
        call.whole().await;
        let mut stream = call.head(200, GRPC, false);
        for n in 0..1_000 {
            send(&mut stream, format!("message {n};").into(), false).await;
        }
        let _ = stream.send_trailers(map(&[("grpc-status", "0")]));
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        let request = call(&client, "/a/Stream");
        let answer = client.ask(request, b"x").await.unwrap();
        let expected: String = (0..1_000).map(|n| format!("message {n};")).collect();
        assert_eq!(answer.text(), expected);
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_client_that_streams() {
    let b = H2Backend::start(|mut call| async move {
        let length = call.whole().await.len();
        call.grpc(length.to_string(), "0").await;
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        let (response, mut sending) = begin(&mut client, "/a/Collect").await;
        for _ in 0..500 {
            send(&mut sending, Bytes::from_static(&[7; 1_000]), false).await;
            tokio::task::yield_now().await;
        }
        sending.send_data(Bytes::new(), true).unwrap();
        let answer = h2_client::answer(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.text(), "500000");
    });
}

#[test]
fn trailers_of_requests() {
    if skip_on_nginx("it does not pass them") {
        return;
    }
    let b = H2Backend::start(|mut call| async move {
        call.whole().await;
        let trailers = call.body.trailers().await.unwrap();
        let sum = trailers.map_or("none".into(), |fields| format!("{:?}", fields["x-sum"]));
        call.grpc(sum, "0").await;
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        let (response, mut sending) = begin(&mut client, "/a/B").await;
        sending.send_data("abc".into(), false).unwrap();
        sending.send_trailers(map(&[("x-sum", "42")])).unwrap();
        let answer = h2_client::answer(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.text(), "\"42\"");
    });
}

#[test]
fn a_call_that_the_client_cancels() {
    let b = H2Backend::start(|mut call| async move {
        if call.path() == "/a/Silent" {
            call.cancelled().await;
        } else {
            let mut stream = call.head(200, GRPC, false);
            send(&mut stream, "hello".into(), false).await;
            call.cancelled_behind(&mut stream).await;
        }
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        let (response, mut sending) = begin(&mut client, "/a/Silent").await;
        sending.send_data("x".into(), false).unwrap();
        while b.log().is_empty() {
            tokio::task::yield_now().await;
        }
        sending.send_reset(Reason::CANCEL);
        drop(response);
        while b.cancelled() < 1 {
            tokio::task::yield_now().await;
        }
        for ends in [false, true] {
            let before = b.cancelled();
            let (response, mut sending) = begin(&mut client, "/a/Stream").await;
            sending.send_data("x".into(), ends).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hello");
            sending.send_reset(Reason::CANCEL);
            drop(body);
            while b.cancelled() == before {
                tokio::task::yield_now().await;
            }
        }
    });
    if !is_nginx() {
        assert_eq!(b.open(), 1, "the connection goes on");
    }
}

#[test]
fn a_server_that_resets() {
    let (gate, read) = Gate::closed();
    let b = H2Backend::start(move |mut call| {
        let read = read.clone();
        async move {
            let mut stream = call.head(200, GRPC, false);
            send(&mut stream, "hello".into(), false).await;
            // Nothing of what was sent is to be taken back.
            read.pass().await;
            if call.path() == "/kill" {
                call.kill();
                call.cancelled_behind(&mut stream).await;
            } else {
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        for path in ["/reset", "/kill"] {
            let request = call(&client, path);
            let (response, mut sending) = client.send.send_request(request, false).unwrap();
            sending.send_data("x".into(), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hello");
            gate.open();
            let error = h2_client::read(&mut body).await.unwrap_err();
            assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR), "{path}");
        }
    });
}

#[test]
fn an_early_status_ends_the_call() {
    let b = H2Backend::start(|mut call| async move {
        call.next().await;
        let fields = [("content-type", "application/grpc"), ("grpc-status", "8")];
        call.answer(200, &fields, "").await;
    });
    let s = gateway(&b);
    with_h2(s.port(0), async |mut client| {
        let (response, mut sending) = begin(&mut client, "/a/Collect").await;
        sending.send_data("first".into(), false).unwrap();
        let answer: Response<_> = response.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "8");
        // It is told that nothing more is wanted.
        let _ = poll_fn(|cx| sending.poll_reset(cx)).await;
        let request = call(&client, "/a/B");
        assert_eq!(
            client
                .ask(request, b"x")
                .await
                .unwrap()
                .header("grpc-status"),
            "8"
        );
    });
}

#[test]
fn deadlines_and_error_pages() {
    let b = H2Backend::start(|mut call| async move {
        call.whole().await;
        call.cancelled().await;
    });
    let s = h2c("grpc_read_timeout 300ms;
        error_page 502 504 = /unavailable;
        location / { grpc_pass grpc://127.0.0.1:%%H0%%; }
        location /dead { grpc_pass grpc://127.0.0.1:%%B0%%; }
        location /plain { grpc_pass grpc://127.0.0.1:%%H0%%; error_page 404 /x; }
        location = /unavailable {
            internal;
            default_type application/grpc;
            add_header grpc-status 14;
            add_header content-length 0;
            return 204;
        }")
    .backends(&[&Backend::resetting()])
    .value("H0", b.port)
    .start();
    with_h2(s.port(0), async |mut client| {
        for path in ["/a/B", "/dead"] {
            let request = call(&client, path);
            let answer = client.ask(request, b"x").await.unwrap();
            assert_eq!((answer.status, answer.header("grpc-status")), (204, "14"));
        }
        let request = call(&client, "/plain");
        assert_eq!(client.ask(request, b"x").await.unwrap().status, 504);
    });
}
