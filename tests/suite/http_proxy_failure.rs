//! Timeouts, and everything being down.

use std::time::{Duration, Instant};

use crate::common::*;

#[test]
fn timeouts() {
    let b = Backend::silent();
    let half = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            conn.drain();
        }
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_read_timeout 300ms;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /half { proxy_pass http://127.0.0.1:%%B1%%; }
        }
    "#,
        &[&b, &half],
    );
    let start = Instant::now();
    let r = s.get("/");
    assert_eq!((r.status, r.reason.as_str()), (504, "Gateway Time-out"));
    assert!(start.elapsed() > Duration::from_millis(250));
    s.wait_for_text(
        "error.log",
        "upstream timed out (110: Connection timed out) while reading response header from \
         upstream, \
         client: 127.0.0.1, server: , request: \"GET / HTTP/1.1\", upstream: \"http://127.0.0.1:",
    );
    let r = s.get("/half");
    assert_eq!((r.status, r.complete), (200, false));
    s.wait_for_text("error.log", "while reading upstream");
}

#[test]
fn send_timeout() {
    // Accepts, never reads: the kernel's buffers fill up.
    let b = Backend::raw(|conn, _| {
        std::thread::sleep(Duration::from_secs(2));
        drop(conn);
    });
    let s = http(
        r#"
        client_max_body_size 0;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_send_timeout 300ms; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let n = 20_000_000;
    let mut c = s.connect();
    c.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n"
    ));
    let _ = c.try_send(&vec![b'x'; n]);
    assert_eq!(c.response().status, 504);
    s.wait_for_text(
        "error.log",
        "upstream timed out (110: Connection timed out) while sending request",
    );
}

#[test]
fn everything_down() {
    let mut b = Backend::fixed("x");
    let s = http(
        r#"
        upstream app { server 127.0.0.1:%%B0%%; server 127.0.0.1:%%P9%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            server_name front.test;
            location / { proxy_pass http://app; }
            location /one { proxy_pass http://127.0.0.1:%%P9%%; }
        }
    "#,
        &[&b],
    );
    b.stop();
    let r = s.get("/one?x");
    assert_eq!((r.status, r.reason.as_str()), (502, "Bad Gateway"));
    s.wait_for_text(
        "error.log",
        &format!(
            "connect() failed (111: Connection refused) while connecting to upstream, client: \
             127.0.0.1, \
             server: front.test, request: \"GET /one?x HTTP/1.1\", upstream: \
             \"http://127.0.0.1:{}/one?x\", host: \"localhost\"",
            s.port(9)
        ),
    );
    assert_eq!(s.get("/").status, 502);
    assert_eq!(s.get("/").status, 502);
    s.wait_for_text(
        "error.log",
        "no live upstreams while connecting to upstream, client: 127.0.0.1",
    );
    s.wait_for_text(
        "error.log",
        "upstream: \"http://app/\", host: \"localhost\"",
    );
}

#[test]
fn connect_timeout() {
    // A listener whose queue is full leaves connecting clients waiting.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap();
    let _queued: Vec<_> = (0..3)
        .map(|_| {
            let client =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&addr);
            client
        })
        .collect();
    let port = addr.as_socket().unwrap().port();
    let conf = r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_connect_timeout 300ms; proxy_pass http://127.0.0.1:%%FULL%%; }
        }
    "#;
    let s = Setup::http(conf).value("FULL", port).start();
    let start = Instant::now();
    assert_eq!(s.get("/").status, 504);
    assert!(start.elapsed() < Duration::from_secs(3));
    s.wait_for_text(
        "error.log",
        "upstream timed out (110: Connection timed out) while connecting to upstream",
    );
}
