//! The life of a client connection: keepalive, pipelining, limits, timeouts, lingering close.

use std::time::{Duration, Instant};

use crate::common::client::Framing;
use crate::common::*;

/// A server whose every answer is the URI.
const PLAIN: &str = r#"
    server { listen 127.0.0.1:%%P0%%; location / { return 200 "$uri"; } }
"#;

#[test]
fn keepalive_and_close() {
    let s = http(PLAIN, &[]);
    let mut c = s.connect();
    for n in 0..3 {
        let r = c
            .send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .response();
        assert_eq!(
            (r.text(), r.header("connection")),
            (format!("/{n}"), Some("keep-alive"))
        );
        assert_eq!(r.version, "HTTP/1.1");
    }
    let r = c
        .send("GET /c HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n")
        .response();
    assert_eq!(
        (r.text().as_str(), r.header("connection")),
        ("/c", Some("close"))
    );
    c.assert_closed();
}

#[test]
fn http_1_0_closes_unless_asked() {
    let s = http(PLAIN, &[]);
    let mut c = s.connect();
    let r = c.send("GET /x HTTP/1.0\r\n\r\n").response();
    assert_eq!(
        (r.version.as_str(), r.header("connection")),
        ("HTTP/1.1", Some("close"))
    );
    c.assert_closed();
    let mut c = s.connect();
    for _ in 0..2 {
        let r = c
            .send("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .response();
        assert_eq!(r.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let b = Backend::http(|req| ok(req.target.as_bytes()));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 "$uri"; }
            location /b { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    let mut bytes = String::new();
    for n in 0..40 {
        let path = if n % 3 == 0 { "b" } else { "a" };
        if n % 4 == 0 {
            bytes +=
                &format!("POST /{path}{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde");
        } else if n % 5 == 0 {
            let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
            bytes += &format!("POST /{path}{n} HTTP/1.1\r\nHost: a\r\n{chunked}");
        } else {
            bytes += &format!("GET /{path}{n} HTTP/1.1\r\nHost: a\r\n\r\n");
        }
    }
    c.send(&bytes);
    for n in 0..40 {
        let path = if n % 3 == 0 { "b" } else { "a" };
        assert_eq!(c.response().text(), format!("/{path}{n}"));
    }
}

#[test]
fn a_request_may_come_in_pieces_and_after_empty_lines() {
    let s = http(PLAIN, &[]);
    let request = b"GET /pieces HTTP/1.1\r\nHost: localhost\r\nX-Field: value\r\n\r\n";
    for cut in 1..request.len() {
        let mut c = s.connect();
        c.send(&request[..cut]);
        // So that the pieces are reads of their own.
        std::thread::sleep(Duration::from_micros(300));
        assert_eq!(
            c.send(&request[cut..]).response().text(),
            "/pieces",
            "cut at {cut}"
        );
    }
    let mut c = s.connect();
    for byte in request {
        c.send([*byte]);
    }
    assert_eq!(c.response().text(), "/pieces");
    assert_eq!(
        s.request("\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            .text(),
        "/x"
    );
}

#[test]
fn bodies_of_local_answers_are_read_and_forgotten() {
    let s = http(PLAIN, &[]);
    let mut c = s.connect();
    for framing in [
        "Content-Length: 3\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Check: x\r\n\r\n",
        "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\n\r\n",
        "\r\n",
    ] {
        let r = c
            .send(format!("POST /x HTTP/1.1\r\nHost: a\r\n{framing}"))
            .response();
        assert_eq!((r.status, r.text().as_str()), (200, "/x"), "{framing}");
    }
    let big = "x".repeat(300_000);
    c.send(format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{big}"
    ));
    assert_eq!(c.response().status, 200);
    let r = c.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").response();
    assert_eq!(r.text(), "/next");
}

#[test]
fn header_limits() {
    let s = http(
        r#"
        large_client_header_buffers 3 1k;
        client_header_buffer_size 256;
        server { listen 127.0.0.1:%%P0%%; server_tokens off; location / { return 200 "$uri"; } }
    "#,
        &[],
    );
    let line = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n));
    assert_eq!(s.request(line(200)).status, 200);
    assert_eq!(s.request(line(1000)).status, 200);
    let r = s.request(line(1100));
    assert_eq!(
        (r.status, r.reason.as_str()),
        (414, "Request-URI Too Large")
    );
    assert_eq!(r.header("connection"), Some("close"));
    let field = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(n));
    assert_eq!(s.request(field(1000)).status, 200);
    let r = s.request(field(1100));
    assert_eq!((r.status, r.reason.as_str()), (400, "Bad Request"));
    assert!(
        r.text()
            .contains("<title>400 Request Header Or Cookie Too Large</title>")
    );
    assert!(
        r.text()
            .contains("<center><h1>400 Bad Request</h1></center>\r\n")
    );
    assert!(
        r.text()
            .contains("<center>Request Header Or Cookie Too Large</center>\r\n")
    );
    let many = |n: usize| {
        let fields = format!("X: {}\r\n", "x".repeat(700)).repeat(n);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    assert_eq!(s.request(many(2)).status, 200);
    assert_eq!(s.request(many(4)).status, 400);
    // The buffers are there anew for the next request.
    let mut c = s.connect();
    for _ in 0..3 {
        assert_eq!(c.send(many(2)).response().status, 200);
    }
}

#[test]
fn body_limit() {
    let b = Backend::http(|req| ok(req.body.len().to_string()));
    let s = http(
        r#"
        client_max_body_size 1000;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /big { client_max_body_size 10k; proxy_pass http://127.0.0.1:%%B0%%; }
            location /any { client_max_body_size 0; proxy_pass http://127.0.0.1:%%B0%%; }
            location /stream { proxy_request_buffering off; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let sized = |path: &str, n: usize| {
        let body = "x".repeat(n);
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n{body}")
    };
    let chunked = |path: &str, n: usize| {
        let body = format!("{n:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(n));
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
    };
    assert_eq!(s.request(sized("/", 1000)).text(), "1000");
    let r = s.request(sized("/", 1001));
    assert_eq!(
        (r.status, r.reason.as_str()),
        (413, "Request Entity Too Large")
    );
    assert_eq!(r.header("connection"), Some("close"));
    assert_eq!(s.request(chunked("/", 1000)).text(), "1000");
    assert_eq!(s.request(chunked("/", 1001)).status, 413);
    assert_eq!(s.request(chunked("/stream", 1001)).status, 413);
    assert_eq!(s.request(sized("/big", 10_240)).text(), "10240");
    assert_eq!(s.request(sized("/big", 10_241)).status, 413);
    assert_eq!(s.request(sized("/any", 500_000)).text(), "500000");
    // Refused by its length alone, before a byte of the body.
    let mut c = s.connect();
    let r = c
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
        .response();
    assert_eq!(r.status, 413);
    s.wait_for_text(
        "error.log",
        "client intended to send too large body: 99999999 bytes",
    );
    s.wait_for_text(
        "error.log",
        "client intended to send too large chunked body: ",
    );
}

#[test]
fn refused_body_does_not_reset_the_answer() {
    let s = http(
        "client_max_body_size 10; server { listen 127.0.0.1:%%P0%%; location / { return 200; } }",
        &[],
    );
    // The client writes on while the 413 comes: closing at once would lose the answer to a reset.
    for _ in 0..5 {
        let mut c = s.connect();
        c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n");
        for _ in 0..30 {
            if c.try_send(&[b'x'; 10_000]).is_err() {
                break;
            }
        }
        assert_eq!(c.response().status, 413);
    }
}

#[test]
fn expect_continue() {
    let b = Backend::http(|req| ok(&req.body));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /off { proxy_request_buffering off; proxy_pass http://127.0.0.1:%%B0%%; }
            location /local { return 403; }
            location /large { client_max_body_size 1; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    for path in ["/", "/off"] {
        let mut c = s.connect();
        let head = "HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n";
        let r = c.send(format!("POST {path} {head}")).response();
        assert_eq!(
            (r.status, r.head.as_str()),
            (100, "HTTP/1.1 100 Continue\r\n\r\n")
        );
        assert_eq!(c.send("body").response().text(), "body");
        assert_eq!(b.last().header("expect"), None, "the proxy has answered it");
    }
    // A body already there needs no invitation, HTTP/1.0 knows none.
    let r = s.request("POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody");
    assert_eq!((r.status, r.text().as_str()), (200, "body"));
    for (path, status) in [("/local", 403), ("/large", 413)] {
        let mut c = s.connect();
        let head = "HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        assert_eq!(
            c.send(format!("POST {path} {head}")).response().status,
            status
        );
    }
}

#[test]
fn keepalive_is_what_the_location_says() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200; }
            location /none { keepalive_timeout 0; return 200; }
            location /one { keepalive_requests 1; return 200; }
            location /safari { keepalive_disable safari; return 200; }
            location /any { keepalive_disable none; return 200; }
        }
    "#,
        &[],
    );
    let ask = |line: &str, agent: &str| {
        let mut c = s.connect();
        c.send(format!(
            "{line} HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\nContent-Length: 0\r\n\r\n"
        ));
        let r = c.response();
        let connection = r.header("connection").map(str::to_owned);
        if connection.as_deref() == Some("close") {
            c.assert_closed();
        }
        connection.unwrap_or_default()
    };
    assert_eq!(ask("GET /", "x"), "keep-alive");
    assert_eq!(ask("GET /none", "x"), "close");
    assert_eq!(ask("GET /one", "x"), "close");
    let msie = "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.0)";
    assert_eq!(ask("GET /", msie), "keep-alive");
    assert_eq!(ask("POST /", msie), "close");
    assert_eq!(ask("POST /any", msie), "keep-alive");
    let safari = "Mozilla/5.0 (Macintosh; Mac OS X) AppleWebKit/5 (KHTML, like Gecko) Safari/5";
    assert_eq!(ask("GET /", safari), "keep-alive");
    assert_eq!(ask("GET /safari", safari), "close");
}

#[test]
fn keepalive_requests() {
    let s = http(
        r#"
        server { listen 127.0.0.1:%%P0%%; keepalive_requests 3; location / { return 200 x; } }
        server { listen 127.0.0.1:%%P1%%; keepalive_timeout 0; location / { return 200 x; } }
        server { listen 127.0.0.1:%%P2%%; keepalive_timeout 10 7; location / { return 200 x; } }
    "#,
        &[],
    );
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut c = s.connect();
    for expected in ["keep-alive", "keep-alive", "close"] {
        assert_eq!(c.send(GET).response().header("connection"), Some(expected));
    }
    c.assert_closed();
    let mut c = Conn::to(s.port(1));
    assert_eq!(c.send(GET).response().header("connection"), Some("close"));
    c.assert_closed();
    let r = Conn::to(s.port(2)).send(GET).response();
    assert_eq!(r.header("keep-alive"), Some("timeout=7"));
}

#[test]
fn keepalive_time_limits_the_life_of_a_connection() {
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; keepalive_time 200ms; location / { return 200 x; } }",
        &[],
    );
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut c = s.connect();
    let mut answers = 0;
    wait_for("an answer that ends the connection", || {
        answers += 1;
        c.send(GET).response().header("connection") == Some("close")
    });
    assert!(answers > 2, "{answers}");
    c.assert_closed();
}

#[test]
fn idle_connections_are_closed() {
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; keepalive_timeout 300ms; location / { return 200 x; } }",
        &[],
    );
    let mut c = s.connect();
    assert_eq!(
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .response()
            .status,
        200
    );
    let start = Instant::now();
    c.assert_closed();
    let after = start.elapsed();
    assert!(
        after > Duration::from_millis(200) && after < Duration::from_secs(2),
        "{after:?}"
    );
}

#[test]
fn a_late_head_ends_the_connection() {
    let s = http(
        r#"
        log_format status "$status:$request";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/status.log status;
            client_header_timeout 300ms;
            location / { return 200 x; }
        }
    "#,
        &[],
    );
    for start in ["", "GE", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut c = s.connect();
        c.send(start);
        let begin = Instant::now();
        let rest = String::from_utf8_lossy(&c.rest()).into_owned();
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 408 "),
            "{rest}"
        );
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
    // Trickling does not extend the time.
    let mut c = s.connect();
    let begin = Instant::now();
    c.send("GET / HTTP/1.1\r\n");
    while begin.elapsed() < Duration::from_secs(5) && c.try_send(b"X: y\r\n").is_ok() {
        // A client that is slow, but never silent.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    s.wait_for_text("status.log", "408:GET / HTTP/1.1");
}

#[test]
fn a_late_body_ends_the_connection() {
    let b = Backend::echo();
    let s = http(
        r#"
        log_format status "$status";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/status.log status;
            client_body_timeout 600ms;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    let rest = String::from_utf8_lossy(&c.rest()).into_owned();
    assert!(
        rest.is_empty() || rest.starts_with("HTTP/1.1 408 "),
        "{rest}"
    );
    assert_eq!(s.lines("status.log", 1), ["408"]);
    assert_eq!(b.requests(), 0);
    // Between two reads, not over the whole body.
    let mut c = s.connect();
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n");
    for byte in "abcdef".bytes() {
        // Shorter than the timeout each, longer in sum.
        std::thread::sleep(Duration::from_millis(150));
        c.send([byte]);
    }
    assert!(c.response().text().ends_with("\r\n\r\nabcdef"));
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let b = Backend::http(|_| ok(vec![b'x'; 20_000_000]));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%% sndbuf=8k;
            send_timeout 300ms;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    socket2::SockRef::from(c.tcp())
        .set_recv_buffer_size(4096)
        .unwrap();
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    s.wait_for_text(
        "error.log",
        "client timed out (110: Connection timed out) while ",
    );
    let r = c.try_response("GET").unwrap();
    assert!(!r.complete);
}

#[test]
fn a_late_client_may_be_reset() {
    let b = Backend::http(|_| ok(vec![b'x'; 20_000_000]));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%% sndbuf=8k;
            send_timeout 300ms;
            reset_timedout_connection on;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    socket2::SockRef::from(c.tcp())
        .set_recv_buffer_size(4096)
        .unwrap();
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    s.wait_for_text(
        "error.log",
        "client timed out (110: Connection timed out) while ",
    );
    // A reset throws away what was queued, so that sending fails sooner or later.
    wait_for("the reset", || c.try_send(b"x").is_err());
}

#[test]
fn head_has_the_length_and_no_body() {
    let b = Backend::http(|req| {
        let body = if req.method == "HEAD" { "" } else { "12345" };
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        format!("{head}{body}").into_bytes()
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 local; }
            location /b { proxy_pass http://127.0.0.1:%%B0%%; }
            location /missing { return 404; }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    let lengths = [("/", Some("5")), ("/b", Some("5")), ("/missing", None)];
    for (path, length) in lengths {
        let r = c
            .send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .head_response();
        if length.is_some() {
            assert_eq!(r.header("content-length"), length, "{path}");
        }
        // Nothing of a body stands before the next answer.
        let r = c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!(r.text(), "local", "after {path}");
    }
}

#[test]
fn half_closed_clients_get_their_answer() {
    let b = Backend::http(|_| {
        // Answers after the half-close has arrived.
        std::thread::sleep(Duration::from_millis(100));
        ok("late")
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 local; }
            location /b { proxy_pass http://127.0.0.1:%%B0%%; proxy_ignore_client_abort on; }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    let r = c
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .finish()
        .response();
    assert_eq!(r.text(), "local");
    c.assert_closed();
    let mut c = s.connect();
    let r = c
        .send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        .finish()
        .response();
    assert_eq!(r.text(), "late");
}

#[test]
fn answers_to_old_clients_have_no_chunks() {
    let b = Backend::http(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            .to_vec()
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_http_version 1.1; proxy_pass http://127.0.0.1:%%B0%%; }
            location /off {
                chunked_transfer_encoding off;
                proxy_http_version 1.1; proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let r = s.request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((r.framing, r.text().as_str()), (Framing::Close, "abcde"));
    assert_eq!(r.header("connection"), Some("close"));
    let r = s.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.framing, r.text().as_str()), (Framing::Chunked, "abcde"));
    let r = s.request("GET /off HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.framing, r.text().as_str()), (Framing::Close, "abcde"));
}

#[test]
fn many_connections_at_once() {
    let s = http(PLAIN, &[]);
    let mut open: Vec<Conn> = (0..200).map(|_| s.connect()).collect();
    for (n, c) in open.iter_mut().enumerate() {
        c.send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    for (n, c) in open.iter_mut().enumerate() {
        assert_eq!(c.response().text(), format!("/{n}"));
    }
}
