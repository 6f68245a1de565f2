//! Answers whose length two parsers could read differently are refused.

use crate::common::*;

/// What a backend says that cannot be framed without doubt is a 502, and the next request gets a
/// new connection.
#[test]
fn answers_of_doubtful_length() {
    let doubtful: &[(&str, &[u8], bool)] = &[
        (
            "two different CL",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n\
          abcd",
            false,
        ),
        (
            "negative CL",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
            false,
        ),
        (
            "odd CL",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc",
            false,
        ),
        (
            "CL list",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabcd",
            false,
        ),
        (
            "huge CL",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
            false,
        ),
        (
            "CL and TE",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\
          \r\n0\r\n\r\n",
            false,
        ),
        (
            "TE gzip",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
            false,
        ),
        (
            "TE twice",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
          Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
        ),
        (
            "two digits",
            b"HTTP/1.1 20 OK\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
        (
            "four digits",
            b"HTTP/1.1 2000 OK\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
        (
            "status 099",
            b"HTTP/1.1 099 OK\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
        (
            "no number",
            b"HTTP/1.1 abc OK\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
        (
            "unasked 101",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\
          Connection: upgrade\r\n\r\n",
            false,
        ),
        (
            "bare CR",
            b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
        (
            "NUL",
            b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 3\r\n\r\nabc",
            true,
        ),
        (
            "no colon",
            b"HTTP/1.1 200 OK\r\nnothing\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
        (
            "space before the colon",
            b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc",
            true,
        ),
        (
            "folded",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
    ];
    for (name, bytes, nginx_too) in doubtful {
        if is_nginx() && !nginx_too {
            continue;
        }
        let answer = bytes.to_vec();
        let b = Backend::http(move |_| answer.clone());
        let s = http(
            r#"
            upstream u { server 127.0.0.1:%%B0%% max_fails=0; keepalive 4; }
            server {
                listen 127.0.0.1:%%P0%%;
                location / {
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_pass http://u;
                }
            }
        "#,
            &[&b],
        );
        assert_eq!(s.get("/").status, 502, "{name}");
        assert_eq!(s.get("/").status, 502, "{name}");
        assert_eq!(b.connections(), 2, "{name}: the connection was used again");
    }
}

/// More bytes than the answer has: they must never stand before the next answer.
#[test]
fn surplus_bytes_of_an_answer() {
    let b = Backend::http(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\n\
          Content-Length: 4\r\n\r\nevil"
            .to_vec()
    });
    let s = http(
        r#"
        upstream u { server 127.0.0.1:%%B0%%; keepalive 4; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / {
                proxy_http_version 1.1;
                proxy_set_header Connection "";
                proxy_pass http://u;
            }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    for _ in 0..3 {
        let r = c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!(r.text(), "good");
    }
    assert_eq!(b.connections(), 3);
}
