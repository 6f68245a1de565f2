//! Backends that misbehave in every way: the client gets a 502 or an answer that is detectably cut,
//! the proxy stays well.

use std::time::{Duration, Instant};

use crate::common::*;

/// A proxy before one backend, buffered on `/`, unbuffered on `/off`.
fn before(b: &Backend) -> Server {
    http(
        r#"
        upstream u { server 127.0.0.1:%%B0%% max_fails=0; keepalive 4; }
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_read_timeout 400ms;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            location / { proxy_pass http://u; }
            location /off { proxy_buffering off; proxy_pass http://u; }
            location /alive { return 200 alive; }
        }
    "#,
        &[b],
    )
}

/// Both ways of relaying give this status, in time, and the log says why.
fn gives(b: &Backend, status: u16, message: &str) {
    let s = before(b);
    for path in ["/", "/off"] {
        let start = Instant::now();
        assert_eq!(s.get(path).status, status, "{path}");
        assert!(start.elapsed() < Duration::from_secs(3));
    }
    s.wait_for_text("error.log", message);
    assert_eq!(s.get("/alive").text(), "alive");
}

/// Both ways of relaying give the start of the body and no end.
fn cuts(b: &Backend, start: &str, message: &str) {
    let s = before(b);
    for path in ["/", "/off"] {
        let r = s.get(path);
        assert_eq!((r.status, r.complete), (200, false), "{path}");
        // What stood in a buffer when the failure came may be lost, but nothing else may come
        // instead.
        assert!(start.starts_with(&r.text()), "{path}");
        assert!(path == "/" || r.text() == start, "{path}");
    }
    s.wait_for_text("error.log", message);
    assert_eq!(s.get("/alive").text(), "alive");
}

#[test]
fn silent() {
    let why = "upstream timed out (110: Connection timed out) while reading response header";
    gives(&Backend::silent(), 504, why);
}

#[test]
fn closing_at_once() {
    let b = Backend::raw(|_, _| {});
    let s = before(&b);
    assert_eq!(s.get("/").status, 502);
    wait_for("a reason in the log", || {
        let log = s.error_log();
        log.contains("upstream prematurely closed connection while reading response header")
            || log.contains("(104: Connection reset by peer) while")
            || log.contains("(32: Broken pipe) while sending request to upstream")
    });
}

#[test]
fn closing_after_the_request() {
    let why = "upstream prematurely closed connection while reading response header from upstream";
    gives(&Backend::bytes(""), 502, why);
}

#[test]
fn resetting() {
    let why = "recv() failed (104: Connection reset by peer) while reading response header";
    gives(&Backend::resetting(), 502, why);
}

#[test]
fn half_a_head() {
    let b = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Le");
    gives(
        &b,
        502,
        "upstream prematurely closed connection while reading response header",
    );
}

#[test]
fn half_a_head_and_silence() {
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nX: ");
            conn.drain();
        }
    });
    gives(&b, 504, "upstream timed out");
}

#[test]
fn garbage() {
    if is_nginx() {
        // A first line that is no status line is HTTP/0.9 to nginx.
        return;
    }
    gives(
        &Backend::bytes("SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        502,
        "upstream sent",
    );
    gives(&Backend::bytes(Rng(3).bytes(4000)), 502, "upstream sent");
}

#[test]
fn bad_header() {
    let b = Backend::bytes("HTTP/1.1 200 OK\r\nbad header: x\r\n\r\n");
    gives(&b, 502, "upstream sent invalid header");
}

#[test]
fn huge_header() {
    let long = "x".repeat(100_000);
    let b = Backend::bytes(format!(
        "HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n"
    ));
    gives(
        &b,
        502,
        "upstream sent too big header while reading response header from upstream",
    );
    let many = "X-Field: value\r\n".repeat(5_000);
    let b = Backend::bytes(format!(
        "HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"
    ));
    gives(&b, 502, "upstream sent too big header");
}

#[test]
fn a_header_that_fits_the_buffer_passes() {
    let long = "x".repeat(3_000);
    let b = Backend::bytes(format!(
        "HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n"
    ));
    assert_eq!(before(&b).get("/").header("x"), Some(long.as_str()));
    let long = "x".repeat(20_000);
    let b = Backend::bytes(format!(
        "HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n"
    ));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_buffer_size 32k; proxy_buffers 8 32k;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    assert_eq!(s.get("/").header("x"), Some(long.as_str()));
}

#[test]
fn short_body() {
    let b = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
    cuts(
        &b,
        "short",
        "upstream prematurely closed connection while reading upstream",
    );
}

#[test]
fn short_large_body() {
    let body = "x".repeat(300_000);
    let b = Backend::bytes(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 300001\r\n\r\n{body}"
    ));
    cuts(
        &b,
        &body,
        "upstream prematurely closed connection while reading upstream",
    );
}

#[test]
fn short_body_then_reset() {
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
            // The reset must not overtake what was sent.
            std::thread::sleep(Duration::from_millis(50));
            conn.reset();
        }
    });
    cuts(
        &b,
        "short",
        "(104: Connection reset by peer) while reading upstream",
    );
}

#[test]
fn body_that_stops() {
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
            conn.drain();
        }
    });
    cuts(
        &b,
        "short",
        "upstream timed out (110: Connection timed out) while reading upstream",
    );
}

#[test]
fn chunks_without_an_end() {
    let b = Backend::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n");
    cuts(
        &b,
        "short",
        "upstream prematurely closed connection while reading upstream",
    );
}

#[test]
fn a_client_without_chunks_sees_the_cut_too() {
    use std::io::{Read, Write};
    if skip_on_nginx("it ends such a response as if it were whole") {
        return;
    }
    let b = Backend::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let s = before(&b);
    for path in ["/", "/off"] {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let end = client.read_to_end(&mut Vec::new());
        let kind = end.map_err(|error| error.kind());
        assert_eq!(kind, Err(std::io::ErrorKind::ConnectionReset), "{path}");
    }
}

#[test]
fn bad_chunks() {
    for bad in [
        "5\r\nshort\r\nxyz\r\n",
        "5\r\nshortXX5\r\nabcde\r\n0\r\n\r\n",
        "5\r\nshort\r\n-1\r\n",
    ] {
        let b = Backend::bytes(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{bad}"
        ));
        let s = before(&b);
        for path in ["/", "/off"] {
            // Depending on when it is noticed, a cut answer or a 502.
            match s
                .connect()
                .send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .try_response("GET")
            {
                Ok(r) => assert!(r.status == 502 || !r.complete, "{bad:?} {path} {}", r.head),
                Err(e) => assert!(e.contains("closed") || e.contains("reset"), "{e}"),
            }
        }
        assert_eq!(s.get("/alive").text(), "alive");
    }
}

#[test]
fn surplus_after_the_body() {
    let b = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood and more");
    let s = before(&b);
    for path in ["/", "/off"] {
        let mut c = s.connect();
        for _ in 0..2 {
            let r = c
                .send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .response();
            assert_eq!(r.text(), "good");
        }
    }
}

#[test]
fn an_answer_before_the_request_body_is_read() {
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            conn.send("HTTP/1.1 403 Early\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly");
            conn.finish();
            conn.drain();
        }
    });
    let s = http(
        r#"
        client_max_body_size 0;
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 1.1;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /off { proxy_request_buffering off; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    for path in ["/", "/off"] {
        let mut c = s.connect();
        let body = vec![b'x'; 1_000_000];
        c.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        let _ = c.try_send(&body);
        let r = c.response();
        assert_eq!((r.status, r.text().as_str()), (403, "early"), "{path}");
    }
}

#[test]
fn an_answer_in_single_bytes() {
    let b = Backend::raw(|mut conn, _| {
        while conn.try_head().is_some() {
            for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\n\
             abc\r\n0\r\n\r\n"
            {
                conn.send([*byte]);
                // So that each byte is a read of its own.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
    let s = before(&b);
    for path in ["/", "/off"] {
        let r = s.get(path);
        assert_eq!((r.text().as_str(), r.header("x")), ("abc", Some("y")));
    }
}

#[test]
fn a_thousand_failures_leave_nothing_behind() {
    let b = Backend::resetting();
    let s = before(&b);
    for _ in 0..300 {
        assert_eq!(s.get("/").status, 502);
    }
    wait_for("all connections to end", || b.open() == 0);
    assert_eq!(s.get("/alive").text(), "alive");
}
