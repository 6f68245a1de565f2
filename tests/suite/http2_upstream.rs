//! `proxy_http_version 2`: HTTP/2 without TLS to the application servers.

use std::time::Duration;

use crate::common::h2_backend::Options;
use crate::common::*;

fn proxied(conf: &str, backend: &H2Backend) -> Server {
    Setup::http(conf).value("H0", backend.port).start()
}

/// A server that passes everything on over HTTP/2.
fn simple(backend: &H2Backend) -> Server {
    proxied(
        "server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%H0%%; proxy_http_version 2; }
        }",
        backend,
    )
}

#[test]
fn a_request_and_its_answer() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::mirror();
    let s = simple(&b);
    let r = s.get_with("/a/b?c=d", "X-One: 1\r\nTE: gzip\r\nX-Two:2\r\n");
    assert_eq!(r.text(), "GET /a/b?c=d\n");
    assert_eq!(r.header("x-conn"), Some("h2"));
    let seen = b.last();
    assert_eq!(
        seen.uri.authority().unwrap().as_str(),
        format!("127.0.0.1:{}", b.port)
    );
    assert_eq!(seen.header("x-one"), Some("1"));
    assert_eq!(seen.header("x-two"), Some("2"));
    for name in ["te", "connection", "host", "transfer-encoding"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    let r = s.request("POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(r.text(), "POST /p\nhello");
    assert_eq!(b.last().header("content-length"), Some("5"));
    let r = s.request(
        "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(r.text(), "POST /p\nabc");
    assert_eq!(b.connections(), 1, "one connection serves all");
}

#[test]
fn more_requests_at_once_than_the_server_takes_on_a_connection() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let few = Options {
        streams_max: Some(2),
        ..Options::default()
    };
    let b = H2Backend::with(few, |mut call| async move {
        // Long enough for the others to come.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let path = call.path();
        call.whole().await;
        call.answer(200, &[], path).await;
    });
    let s = simple(&b);
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let port = s.port(0);
            std::thread::spawn(move || {
                let mut client = Conn::to(port);
                for turn in 0..5 {
                    let path = format!("/{n}/{turn}");
                    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
                    let answer = client.response();
                    assert_eq!((answer.status, answer.text()), (200, path));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    assert!(b.connections() <= 20, "{} connections", b.connections());
}
