//! The life of HTTP/2 connections: limits, deadlines, ends.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use h2::Reason;

use crate::common::h2_client::{answer, h2c, with_h2};
use crate::common::*;

/// A client that has sent its preface and empty settings.
fn raw(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(preface).unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    stream
}

/// The next frame: type, flags, stream, payload; `None` at the end of the connection.
fn frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

/// HEADERS of `GET /` for `a` on stream 1.
const GET: &[u8] = &[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86, 0x41, 1, b'a'];

/// Reads to the end, and returns the code of the GOAWAY that came before it.
fn goaway(stream: &mut TcpStream) -> Option<u32> {
    let mut code = None;
    while let Some((kind, _, _, payload)) = frame(stream) {
        if kind == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    code
}

#[test]
fn our_preface_comes_without_being_asked_for() {
    let s = h2c("return 200;").start();
    let mut stream = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    let (kind, flags, id, settings) = frame(&mut stream).unwrap();
    assert_eq!((kind, flags, id), (4, 0, 0));
    let setting = |name: u16| {
        let pairs = settings.chunks(6);
        let mut found = pairs.filter(|p| u16::from_be_bytes([p[0], p[1]]) == name);
        found
            .next()
            .map(|p| u32::from_be_bytes([p[2], p[3], p[4], p[5]]))
    };
    assert_eq!(setting(3), Some(128), "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(4), Some(65_536), "SETTINGS_INITIAL_WINDOW_SIZE");
    let (kind, ..) = frame(&mut stream).unwrap();
    assert_eq!(kind, 8, "WINDOW_UPDATE of the connection");
}

#[test]
fn settings_say_what_is_configured() {
    let s =
        h2c("http2_max_concurrent_streams 3; http2_body_preread_size 100k; return 200;").start();
    with_h2(s.port(0), async |mut h2| {
        assert_eq!(h2.get("/").await.status, 200);
        assert_eq!(h2.send.current_max_send_streams(), 3);
    });
}

#[test]
fn a_client_that_stops_within_the_preface_is_not_waited_for() {
    if skip_on_nginx("1.22 waits for nothing else here") {
        return;
    }
    let s = h2c("client_header_timeout 1s; return 200;").start();
    let mut conn = s.connect();
    conn.send("PRI * HTTP/2.0\r\n");
    conn.assert_closed();
}

#[test]
fn a_header_block_that_stops_half_way_is_not_waited_for() {
    if skip_on_nginx("1.22 waits for keepalive_timeout") {
        return;
    }
    let s = h2c("client_header_timeout 1s; return 200;").start();
    let mut stream = raw(s.port(0));
    stream.write_all(GET).unwrap();
    let without_end = [0, 0, 3, 1, 1, 0, 0, 0, 3, 0x82, 0x84, 0x86];
    stream.write_all(&without_end).unwrap();
    assert_eq!(
        goaway(&mut stream),
        Some(1),
        "PROTOCOL_ERROR, as nginx says"
    );
    let told = "client timed out (110: Connection timed out) while reading client request headers";
    s.wait_for_text("error.log", told);
}

#[test]
fn idle_connections_end_after_their_time() {
    let s = h2c("keepalive_timeout 1s; return 200;").start();
    let mut stream = raw(s.port(0));
    stream.write_all(GET).unwrap();
    let begun = Instant::now();
    assert_eq!(goaway(&mut stream), Some(0));
    assert!(begun.elapsed() > Duration::from_millis(800));
}

#[test]
fn connections_serve_so_many_requests() {
    let s = h2c("keepalive_requests 3; return 200 $connection_requests;").start();
    with_h2(s.port(0), async |mut h2| {
        for n in 1..=3 {
            assert_eq!(h2.get("/").await.text(), n.to_string());
        }
        let request = h2.request("GET", "/");
        let error = h2.ask(request, b"").await.unwrap_err();
        assert!(error.is_go_away() || error.is_io(), "{error:?}");
    });
}

#[test]
fn a_graceful_end_lets_requests_finish() {
    let (finish, asked) = mpsc::channel();
    let asked = Mutex::new(asked);
    let b = Backend::raw(move |mut conn, _| {
        while conn.try_head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl");
            asked.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            conn.send("ow");
        }
    });
    let s = h2c("location / { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .start();
    let mut idle = raw(s.port(0));
    while frame(&mut idle).unwrap().0 != 4 {}
    with_h2(s.port(0), async |mut h2| {
        let request = h2.request("GET", "/");
        let (response, _) = h2.send.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        s.signal(libc::SIGQUIT);
        s.wait_for_text("error.log", "gracefully shutting down");
        finish.send(()).unwrap();
        let got = answer(response).await.unwrap();
        assert_eq!(got.text(), "slow");
        let ended = poll_fn(|cx| h2.send.poll_ready(cx)).await;
        let request = h2.request("GET", "/");
        assert!(ended.is_err() || h2.ask(request, b"").await.is_err());
    });
    assert_eq!(goaway(&mut idle), Some(0));
}

#[test]
fn connections_live_through_a_reload() {
    let s = h2c("return 200 one;").start();
    with_h2(s.port(0), async |mut h2| {
        assert_eq!(h2.get("/").await.text(), "one");
        if is_nginx() {
            return;
        }
        s.write_http("server { listen 127.0.0.1:%%P0%%; http2 on; return 200 two; }");
        s.reload();
        assert_eq!(h2.get("/").await.text(), "two");
    });
}

#[test]
fn a_reload_ends_connections_that_were_told_otherwise() {
    if skip_on_nginx("1.22 ends all of them") {
        return;
    }
    for after in ["http2 on; http2_max_concurrent_streams 7;", ""] {
        let s = h2c("return 200;").start();
        let mut stream = raw(s.port(0));
        stream.write_all(GET).unwrap();
        // SETTINGS, WINDOW_UPDATE, the acknowledgement and the answer.
        while frame(&mut stream).is_some_and(|(kind, ..)| kind != 1) {}
        s.write_http(&format!(
            "server {{ listen 127.0.0.1:%%P0%%; {after} return 200; }}"
        ));
        s.reload();
        assert_eq!(goaway(&mut stream), Some(0), "{after}");
    }
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let b = Backend::echo();
    let s = h2c(
        "client_body_timeout 1s; location / { proxy_pass http://127.0.0.1:%%B0%%; }
                 location /ok { return 200 fine; }",
    )
    .backends(&[&b])
    .start();
    with_h2(s.port(0), async |mut h2| {
        let request = h2.request("POST", "/");
        let (response, mut sending) = h2.send.send_request(request, false).unwrap();
        sending.send_data("some".into(), false).unwrap();
        let error = response.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
        assert_eq!(h2.get("/ok").await.text(), "fine");
        s.wait_for_text("error.log", "client timed out");
    });
}

#[test]
fn bodies_are_limited() {
    let b = Backend::echo();
    let s = h2c("client_max_body_size 1000; location / { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .start();
    with_h2(s.port(0), async |mut h2| {
        assert_eq!(h2.post("/", &[b'x'; 1000]).await.status, 200);
        assert_eq!(h2.post("/", &[b'x'; 1001]).await.status, 413);
        let mut request = h2.request("POST", "/");
        request
            .headers_mut()
            .insert("content-length", "1001".parse().unwrap());
        let (response, _sending) = h2.send.send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 413);
    });
    assert_eq!(b.requests(), 1);
}

#[test]
fn heads_are_limited() {
    let s =
        h2c("large_client_header_buffers 2 1k; client_header_buffer_size 1k; return 200;").start();
    with_h2(s.port(0), async |mut h2| {
        for (field, fields, expected) in [(500, 1, 200), (1200, 1, 400), (900, 4, 400)] {
            let mut request = h2.request("GET", "/");
            for n in 0..fields {
                let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
                let value = http::HeaderValue::try_from("~".repeat(field)).unwrap();
                request.headers_mut().insert(name, value);
            }
            let status = h2.ask(request, b"").await.map(|got| got.status);
            if is_nginx() {
                // It ends the connection, or the stream with one of several answers.
                continue;
            }
            assert_eq!(status.unwrap(), expected, "{field} {fields}");
        }
    });
}

#[test]
fn what_a_client_does_wrong_is_logged() {
    if skip_on_nginx("it has other words") {
        return;
    }
    let s = h2c("return 200;").start();
    let mut stream = raw(s.port(0));
    // DATA on stream 0.
    stream
        .write_all(&[0, 0, 1, 0, 0, 0, 0, 0, 0, b'x'])
        .unwrap();
    assert_eq!(goaway(&mut stream), Some(1));
    s.wait_for_text(
        "error.log",
        "while processing HTTP/2 connection, client: 127.0.0.1",
    );
}
