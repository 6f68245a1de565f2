//! `grpc_pass`

use crate::common::h2_backend::{GRPC, Gate, map, send};
use crate::common::tls::Identity;
use crate::common::*;

fn gateway(backend: &H2Backend) -> Server {
    Setup::http(
        "server {
            listen 127.0.0.1:%%P0%%;
            location / { grpc_pass grpc://127.0.0.1:%%H0%%; }
        }",
    )
    .value("H0", backend.port)
    .start()
}

#[test]
fn unary_over_http_1() {
    let b = H2Backend::start(|mut call| async move {
        let message = call.whole().await;
        call.grpc(message, "0").await;
    });
    let s = gateway(&b);
    let r = s.request(
        "POST /pkg.Service/Method HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\
         Content-Type: application/grpc\r\nContent-Length: 9\r\n\r\n\0\0\0\0\x04ping",
    );
    assert_eq!(r.status, 200);
    assert_eq!(r.header("content-type"), Some("application/grpc"));
    assert_eq!(r.body, b"\0\0\0\0\x04ping");
    assert_eq!(r.trailers, [("grpc-status".to_owned(), "0".to_owned())]);
    let seen = b.last();
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("content-type"), Some("application/grpc"));
}

/// A POST as a gRPC client would send it, had it only HTTP/1.1.
fn post(path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
         {fields}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// The begin of a POST whose body follows in chunks.
fn open_post(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    )
}

#[test]
fn an_answer_of_trailers_alone() {
    let b = H2Backend::start(|call| async move {
        let fields = [
            ("content-type", "application/grpc"),
            ("grpc-status", "12"),
            ("grpc-message", "no such method"),
        ];
        call.answer(200, &fields, "").await;
    });
    let s = gateway(&b);
    let r = s.request(post("/x/Y", "", b""));
    assert_eq!(r.header("grpc-status"), Some("12"));
    assert_eq!(r.header("grpc-message"), Some("no such method"));
    assert_eq!(r.header("content-length"), Some("0"));
}

#[test]
fn what_the_server_is_sent() {
    let b = H2Backend::mirror();
    let s = Setup::http(
        "upstream servers { server 127.0.0.1:%%H0%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { grpc_pass 127.0.0.1:%%H0%%; }
            location /group { grpc_pass grpc://servers; }
            location /set { grpc_pass grpc://servers; grpc_set_header X-Who $request_method; }
            location /host { grpc_pass grpc://servers; grpc_set_header Host $host; }
        }",
    )
    .value("H0", b.port)
    .start();
    let r = s.request(post(
        "/a/B?c",
        "grpc-timeout: 5S\r\nX-Bin: AAE=\r\n",
        b"abc",
    ));
    assert_eq!(r.text(), "POST /a/B?c\nabc");
    let seen = b.last();
    let authority = format!("127.0.0.1:{}", b.port);
    assert_eq!(seen.uri.to_string(), format!("http://{authority}/a/B?c"));
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("grpc-timeout"), Some("5S"));
    assert_eq!(seen.header("x-bin"), Some("AAE="));
    assert_eq!(seen.header("content-length"), Some("3"));
    s.get("/group");
    let seen = b.last();
    assert_eq!(seen.uri.to_string(), "http://servers/group");
    assert_eq!(seen.header("te"), None, "only what the client can do with");
    s.get("/set");
    assert_eq!(b.last().header("x-who"), Some("GET"));
    s.get("/host");
    let seen = b.last();
    if is_nginx() {
        assert_eq!(seen.header("host"), Some("localhost"));
    } else {
        assert_eq!(seen.uri.to_string(), "http://localhost/host");
    }
}

#[test]
fn messages_pass_as_they_come() {
    let b = H2Backend::start(|mut call| async move {
        let mut stream = call.head(200, GRPC, false);
        while let Some(message) = call.next().await {
            send(&mut stream, message, false).await;
        }
        stream.send_trailers(map(&[("grpc-status", "0")])).unwrap();
    });
    let s = gateway(&b);
    let mut client = s.connect();
    client.send(open_post("/chat/Both"));
    client.take_until("\r\n\r\n");
    for word in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len()));
        client.take_until(&format!("{word}\r\n"));
    }
    client.send("0\r\n\r\n");
    client.take_until("0\r\ngrpc-status: 0\r\n\r\n");
}

#[test]
fn large_messages_both_ways_at_once() {
    let b = H2Backend::start(|mut call| async move {
        let mut stream = call.head(200, GRPC, false);
        while let Some(message) = call.next().await {
            send(&mut stream, message, false).await;
        }
        stream.send_trailers(map(&[("grpc-status", "0")])).unwrap();
    });
    let s = Setup::http(
        "client_max_body_size 0;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { grpc_pass grpc://127.0.0.1:%%H0%%; }
        }",
    )
    .value("H0", b.port)
    .start();
    let body = Rng(5).bytes(5_000_000);
    let client = s.connect();
    let stream = client.into_tcp();
    let (mut sender, mut reader) = (Conn::over(stream.try_clone().unwrap()), Conn::over(stream));
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        sender.send(post("/chat/Both", "", &sent));
    });
    let answer = reader.response();
    sending.join().unwrap();
    assert_eq!(hash(&answer.body), hash(&body));
    assert!(answer.complete);
}

#[test]
fn a_client_that_leaves_cancels() {
    let b = H2Backend::start(|mut call| async move {
        let mut stream = call.head(200, GRPC, false);
        send(&mut stream, "hello".into(), false).await;
        call.cancelled_behind(&mut stream).await;
    });
    let s = gateway(&b);
    let mut client = s.connect();
    client.send(open_post("/chat/Both"));
    client.take_until("hello");
    drop(client);
    if !is_nginx() {
        wait_for("the stream's reset", || b.cancelled() == 1);
    }
}

#[test]
fn deadlines() {
    let b = H2Backend::start(|mut call| async move {
        call.whole().await;
        call.cancelled().await;
    });
    let s = Setup::http(
        "server {
            listen 127.0.0.1:%%P0%%;
            grpc_read_timeout 300ms;
            location / { grpc_pass grpc://127.0.0.1:%%H0%%; }
        }",
    )
    .value("H0", b.port)
    .start();
    assert_eq!(s.request(post("/a/B", "", b"abc")).status, 504);
    s.wait_for_text(
        "error.log",
        "upstream timed out (110: Connection timed out)",
    );
    if !is_nginx() {
        wait_for("the stream's reset", || b.cancelled() == 1);
    }
}

#[test]
fn errors_as_grpc_clients_want_them() {
    let dead = Backend::resetting();
    let s = Setup::http(
        "server {
            listen 127.0.0.1:%%P0%%;
            error_page 502 = /error502grpc;
            location / { grpc_pass grpc://127.0.0.1:%%B0%%; }
            location = /error502grpc {
                internal;
                default_type application/grpc;
                add_header grpc-status 14;
                add_header grpc-message unavailable;
                add_header content-length 0;
                return 204;
            }
        }",
    )
    .backends(&[&dead])
    .start();
    let r = s.request(post("/a/B", "", b"abc"));
    assert_eq!(r.header("grpc-status"), Some("14"));
    assert_eq!(r.header("grpc-message"), Some("unavailable"));
    assert_eq!(r.status, 204);
}

#[test]
fn the_server_dies_within_an_answer() {
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
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
            }
        }
    });
    let s = gateway(&b);
    for path in ["/kill", "/reset"] {
        let mut client = s.connect();
        client.send(post(path, "", b"abc"));
        client.wait_until_read("hello");
        gate.open();
        let answer = client.response();
        assert_eq!((answer.status, answer.complete), (200, false), "{path}");
    }
}

#[test]
fn addresses_that_are_none() {
    for (pass, why) in [
        (
            "grpc://127.0.0.1:1/x",
            "invalid host in upstream \"127.0.0.1:1/x\"",
        ),
        ("grpc://nowhere.invalid:80", "host not found in upstream"),
        ("grpc://", "no host in upstream"),
        ("grpc://127.0.0.1", "no port in upstream \"127.0.0.1\""),
    ] {
        let conf = "server { listen 127.0.0.1:%%P0%%; location / { grpc_pass %%PASS%%; } }";
        let (output, _) = Setup::http(conf).value("PASS", pass).args(&["-t"]).run();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(why),
            "{pass}: {said}"
        );
    }
}

#[test]
fn over_tls() {
    if skip_on_nginx("1.22 has no ssl_alpn in stream, which stands for a server with TLS here") {
        return;
    }
    let b = H2Backend::start(|mut call| async move {
        let message = call.whole().await;
        call.grpc(message, "0").await;
    });
    let own = Identity::new(&["grpc.test"]);
    let s = Setup::full(
        "events {}
        stream {
            log_format alpn '$ssl_alpn_protocol $ssl_server_name';
            server {
                listen 127.0.0.1:%%P1%% ssl;
                ssl_certificate c.pem;
                ssl_certificate_key k.pem;
                ssl_alpn h2;
                access_log %%DIR%%/tls.log alpn;
                proxy_pass 127.0.0.1:%%H0%%;
            }
        }
        http {
            %%HTTP%%
            upstream servers { server 127.0.0.1:%%P1%%; keepalive_timeout 100ms; }
            server {
                listen 127.0.0.1:%%P0%%;
                grpc_ssl_server_name on;
                grpc_ssl_verify on;
                grpc_ssl_trusted_certificate c.pem;
                location / { grpc_pass grpcs://servers; grpc_ssl_name grpc.test; }
                location /wrong { grpc_pass grpcs://servers; grpc_ssl_name other.test; }
                location /https {
                    proxy_pass https://servers;
                    proxy_http_version 2;
                    proxy_ssl_name grpc.test;
                    proxy_ssl_server_name on;
                }
            }
        }",
    )
    .value("H0", b.port)
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    for _ in 0..3 {
        let r = s.request(post("/a/B", "", b"abc"));
        assert_eq!((r.status, r.text().as_str()), (200, "abc"));
    }
    assert_eq!(b.connections(), 1);
    assert_eq!(b.last().uri.to_string(), "https://servers/a/B");
    let body = Rng(9).bytes(700_000);
    let r = s.request(post("/a/Large", "", &body));
    assert_eq!(hash(&r.body), hash(&body));
    assert_eq!(s.request(post("/wrong", "", b"abc")).status, 502);
    s.wait_for_text(
        "error.log",
        "upstream SSL certificate does not match \"other.test\"",
    );
    assert_eq!(s.request(post("/https", "", b"abc")).text(), "abc");
    wait_for("the end of idle connections", || b.open() == 0);
    let mut sessions = s.lines("tls.log", 3);
    sessions.sort();
    assert_eq!(sessions, ["h2 grpc.test", "h2 grpc.test", "h2 other.test"]);
}
