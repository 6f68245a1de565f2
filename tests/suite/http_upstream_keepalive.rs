//! Connections to servers that are kept and used again.

use std::time::Duration;

use crate::common::*;

/// A group with idle connections kept.
fn keepalive(more: &str, backends: &[Backend]) -> Server {
    let servers: String = (0..backends.len())
        .map(|n| format!("server 127.0.0.1:%%B{n}%%; "))
        .collect();
    let conf = format!(
        r#"
        upstream u {{ {servers} {more} }}
        server {{
            listen 127.0.0.1:%%P0%%;
            location / {{
                proxy_http_version 1.1;
                proxy_set_header Connection "";
                proxy_pass http://u;
            }}
        }}
    "#
    );
    http(&conf, &backends.iter().collect::<Vec<_>>())
}

#[test]
fn idle_connections_are_used_again() {
    let b = [Backend::http(|req| ok(format!("{} {}", req.conn, req.nth)))];
    let s = keepalive("keepalive 4;", &b);
    for n in 1..=5 {
        assert_eq!(s.get("/").text(), format!("1 {n}"));
    }
    // Also after a HEAD, a 204, a 304 and a chunked answer, and after a request with a body.
    let b = [Backend::http(|req| match req.target.as_str() {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
        "/chunked" => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: 1\r\n\r\n"
                .to_vec()
        }
        "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec(),
        _ => ok(req.conn.to_string()),
    })];
    let s = keepalive("keepalive 4;", &b);
    let mut c = s.connect();
    for path in ["/204", "/304", "/chunked"] {
        c.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .response();
    }
    c.send("HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n")
        .head_response();
    c.send("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        .response();
    assert_eq!(s.get("/").text(), "1");
}

#[test]
fn what_ends_a_kept_connection() {
    let b = [Backend::http(|req| match req.target.as_str() {
        "/close" => resp("200 OK", "Connection: close\r\n", ""),
        "/1.0" => b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok(req.conn.to_string()),
    })];
    let s = keepalive("keepalive 4; keepalive_requests 3;", &b);
    for expected in ["1", "1", "1", "2"] {
        assert_eq!(s.get("/").text(), expected);
    }
    s.get("/close");
    assert_eq!(s.get("/").text(), "3");
    s.get("/1.0");
    assert_eq!(s.get("/").text(), "4");
    let s = keepalive("keepalive 4; keepalive_timeout 200ms;", &b);
    assert_eq!(s.get("/").text(), "5");
    wait_for("the idle connections to be closed", || b[0].open() <= 1);
    let s2 = keepalive("keepalive 4; keepalive_time 200ms;", &b);
    let first = s2.get("/").text();
    wait_for("the end of a connection's life", || {
        s2.get("/").text() != first
    });
    drop(s);
}

#[test]
fn no_more_than_so_many_idle() {
    let b = [Backend::http(|_| {
        // Keeps all requests in flight at once, each on a connection.
        std::thread::sleep(Duration::from_millis(100));
        ok("x")
    })];
    let s = keepalive("keepalive 2;", &b);
    let mut clients: Vec<Conn> = (0..6).map(|_| s.connect()).collect();
    for c in &mut clients {
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for c in &mut clients {
        assert_eq!(c.response().status, 200);
    }
    wait_for("the surplus to be closed", || b[0].open() == 2);
}

#[test]
fn a_stale_connection_fails_no_request() {
    // The server closes its idle connections whenever it likes.
    let b = [Backend::http(|req| ok(&req.body))];
    let s = keepalive("keepalive 8;", &b);
    for n in 0..30 {
        assert_eq!(s.get("/").status, 200);
        b[0].cut();
        if n % 2 == 0 {
            // Half of the time the proxy can see the close before it asks again.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert_eq!(s.get("/").status, 200);
}

#[test]
fn the_race_with_a_closing_server_is_won() {
    if skip_on_nginx("it answers 502 to some when a single server closes as it is asked") {
        return;
    }
    // Answers the first request of a connection, closes on the second without an answer.
    let b = [Backend::raw(|mut conn, _| {
        if conn.try_request().is_some() {
            conn.send(ok("x"));
            conn.try_request();
        }
    })];
    let s = keepalive("keepalive 8;", &b);
    for _ in 0..20 {
        assert_eq!(s.get("/").status, 200);
    }
    assert!(!s.error_log().contains("[error]"), "{}", s.error_log());
    // What must not be repeated is not.
    let before = b[0].connections();
    let r = s.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert!(matches!(r.status, 200 | 502), "{}", r.status);
    assert!(b[0].connections() <= before + 1);
    // The connection was old, which does not take the server out of service.
    assert_eq!(s.get("/").status, 200);
    assert!(!s.error_log().contains("temporarily disabled"));
}
