//! What goes through a connection with a TLS server: bodies both ways, their ends, tunnels.

use std::net::TcpStream;
use std::sync::Arc;

use tungstenite::{Message, WebSocket, client::IntoClientRequest};

use crate::common::client::{Framing, Response};
use crate::common::tls::{Identity, TlsConn, client};
use crate::common::tls_front::{Manners, TlsFront, server};
use crate::common::*;

fn decrypting(backend: &Backend, manners: Manners) -> TlsFront {
    let config = server(&Identity::new(&["localhost"]), false);
    TlsFront::with(backend.port, config, manners)
}

/// A proxy on `%%P0%%` to the server on `%%T0%%`, with what a case adds.
fn proxy(conf: &str, front: &TlsFront) -> Setup {
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%%; proxy_http_version 1.1; client_max_body_size 32m;
            proxy_set_header Connection \"\"; {conf}
            location / {{ proxy_pass https://127.0.0.1:%%T0%%; }} }}"
    ))
    .value("T0", front.port)
}

#[test]
fn large_bodies_go_both_ways() {
    let backend = Backend::http(|req| ok(&req.body));
    let front = decrypting(&backend, Manners::default());
    for conf in ["", "proxy_request_buffering off;", "proxy_buffering off;"] {
        let s = proxy(conf, &front).start();
        let mut conn = s.connect();
        for length in [0, 1, 4096, 16 << 10, 16385, 100_000, 6 << 20] {
            let body = Rng(length as u64).bytes(length);
            conn.send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
            ));
            conn.send(&body);
            let answer = conn.response();
            assert_eq!((answer.status, answer.framing), (200, Framing::Length));
            assert!(answer.body == body, "{length} {conf}");
        }
    }
    assert!(is_nginx() || front.accepted() <= 6, "connections are kept");
}

#[test]
fn chunked_bodies_go_both_ways() {
    let backend = Backend::http(|req| {
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in req.body.chunks(30_000) {
            answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            answer.extend_from_slice(piece);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        answer
    });
    let front = decrypting(&backend, Manners::default());
    let s = proxy("proxy_request_buffering off;", &front).start();
    let mut conn = s.connect();
    for length in [1_usize, 50_000, 2 << 20] {
        let body = Rng(1).bytes(length);
        conn.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(20_000) {
            conn.send(format!("{:x}\r\n", piece.len()))
                .send(piece)
                .send("\r\n");
        }
        conn.send("0\r\n\r\n");
        let answer = conn.response();
        assert_eq!((answer.status, answer.framing), (200, Framing::Chunked));
        assert!(answer.complete && answer.body == body, "{length}");
    }
    assert!(backend.last().chunked);
}

#[test]
fn a_slow_client_is_read_ahead_of() {
    let body = Rng(1).bytes(12 << 20);
    let expected = body.clone();
    let backend = Backend::http(move |_| ok(&body));
    let front = decrypting(&backend, Manners::default());
    let s = proxy("", &front).start();
    let mut conn = s.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    s.wait_for_text("error.log", "is buffered to a temporary file");
    let answer = conn.response();
    assert!(answer.complete && answer.body == expected);
}

/// What comes of an answer without a length, whose server closes like this.
fn unframed(manners: Manners) -> (Response, Server) {
    let backend = Backend::bytes("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
    let front = decrypting(&backend, manners);
    let s = proxy("", &front).start();
    let mut conn = s.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = conn.response();
    (answer, s)
}

#[test]
fn an_answer_without_length_ends_where_the_server_says_so() {
    let (answer, _) = unframed(Manners::default());
    assert_eq!((answer.status, &*answer.text()), (200, "hello"));
    assert!(answer.complete);
    if skip_on_nginx("it takes any end for the end") {
        return;
    }
    let rude = Manners {
        rude: true,
        ..Manners::default()
    };
    let (answer, s) = unframed(rude);
    assert_eq!((answer.status, &*answer.text()), (200, "hello"));
    assert!(!answer.complete, "RFC 9112, 9.8");
    s.wait_for_text(
        "error.log",
        "upstream prematurely closed connection while reading upstream",
    );
}

#[test]
fn an_answer_with_a_length_is_complete_when_it_is_there() {
    let rude = Manners {
        rude: true,
        ..Manners::default()
    };
    let backend =
        Backend::bytes("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
    let front = decrypting(&backend, rude);
    let s = proxy("", &front).start();
    for _ in 0..3 {
        let answer = s.get("/");
        assert!(answer.complete && answer.text() == "hello");
    }
    for manners in [rude, Manners::default()] {
        let backend = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello");
        let front = decrypting(&backend, manners);
        let s = proxy("", &front).start();
        let mut conn = s.connect();
        let answer = conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert!(!answer.complete);
        s.wait_for_text("error.log", "upstream prematurely closed connection");
    }
}

#[test]
fn a_record_that_cannot_be_opened_ends_the_answer() {
    if skip_on_nginx("it calls this critical") {
        return;
    }
    let broken = Manners {
        broken: true,
        ..Manners::default()
    };
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", 200),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            200,
        ),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", 200),
        ("HTTP/1.1 200 OK\r\n", 502),
    ] {
        let backend = Backend::http(move |_| answer.into());
        let front = decrypting(&backend, broken);
        let s = proxy("", &front).start();
        let mut conn = s.connect();
        let got = conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!(
            (got.status, got.complete),
            (status, status == 502),
            "{answer}"
        );
        let said = "SSL_read() failed (SSL: decryption failed or bad record mac) while";
        s.wait_for_text("error.log", said);
    }
}

#[test]
fn a_kept_connection_that_the_server_ends_is_not_used() {
    let backend = Backend::fixed("hello");
    for rude in [false, true] {
        let manners = Manners {
            rude,
            ..Manners::default()
        };
        let front = decrypting(&backend, manners);
        let s = Setup::http(
            "upstream u { server 127.0.0.1:%%T0%%; keepalive 4; }
             server { listen 127.0.0.1:%%P0%%; location / { proxy_pass https://u;
                proxy_http_version 1.1; proxy_set_header Connection \"\"; } }",
        )
        .value("T0", front.port)
        .start();
        for round in 1..4 {
            let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
            assert_eq!(s.request(post).text(), "hello");
            assert_eq!(s.request(post).text(), "hello");
            assert_eq!(front.accepted(), round);
            backend.cut();
            wait_for("the end", || front.open() == 0);
        }
    }
}

#[test]
fn a_client_with_tls_reaches_a_server_with_tls() {
    let backend = Backend::http(|req| ok(&req.body));
    let front = decrypting(&backend, Manners::default());
    let own = Identity::new(&["localhost"]);
    let s = Setup::http(
        "server { listen 127.0.0.1:%%P0%% ssl; client_max_body_size 8m;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            proxy_http_version 1.1; proxy_set_header Connection \"\";
            location / { proxy_pass https://127.0.0.1:%%T0%%; } }",
    )
    .value("T0", front.port)
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    for length in [3, 70_000, 3 << 20] {
        let body = Rng(7).bytes(length);
        conn.send(format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        ));
        conn.send(&body);
        assert!(conn.response().1 == body, "{length}");
    }
}

/// A WebSocket server that returns every message.
fn ws_backend() -> Backend {
    Backend::raw(|conn, _| {
        let Ok(mut ws) = tungstenite::accept(conn.into_tcp()) else {
            return;
        };
        while let Ok(message) = ws.read() {
            if message.is_close() || ws.send(message).is_err() {
                break;
            }
        }
        while ws.read().is_ok() {}
    })
}

#[test]
fn websockets_go_to_servers_with_tls() {
    let backend = ws_backend();
    let front = decrypting(&backend, Manners::default());
    let s = Setup::http(
        "map $http_upgrade $upgrading { default upgrade; '' close; }
         server { listen 127.0.0.1:%%P0%%; location / { proxy_pass https://127.0.0.1:%%T0%%;
            proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $upgrading; } }",
    )
    .value("T0", front.port)
    .start();
    let stream = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = format!("ws://127.0.0.1:{}/ws", s.port(0));
    let request = url.into_client_request().unwrap();
    let (mut ws, _): (WebSocket<TcpStream>, _) = tungstenite::client(request, stream).unwrap();
    for length in [1_usize, 1000, 100_000, 1 << 20] {
        let message = Message::binary(Rng(length as u64).bytes(length));
        ws.send(message.clone()).unwrap();
        assert_eq!(ws.read().unwrap(), message);
    }
    ws.close(None).unwrap();
    while ws.read().is_ok() {}
    drop(ws);
    wait_for("the end of the tunnel", || front.open() == 0);
}

#[test]
fn early_answers_and_expectations_work() {
    // It answers without having read the body.
    let backend = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            let _ = conn.try_send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno");
            conn.drain();
        }
    });
    let front = decrypting(&backend, Manners::default());
    let s = proxy("proxy_request_buffering off;", &front).start();
    let mut conn = s.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbeginning");
    let answer = conn.response();
    assert_eq!((answer.status, &*answer.text()), (413, "no"));
}
