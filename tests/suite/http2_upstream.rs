//! `proxy_http_version 2`: HTTP/2 without TLS to the application servers.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::h2_backend::{Gate, Options, send};
use crate::common::h2_client::{h2c, with_h2};
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
    let all = std::sync::Arc::new(tokio::sync::Barrier::new(20));
    let b = H2Backend::with(few, move |mut call| {
        let all = all.clone();
        async move {
            let path = call.path();
            if path.ends_with("/0") {
                all.wait().await;
            }
            call.whole().await;
            call.answer(200, &[], path).await;
        }
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

#[test]
fn answers_without_a_body() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|call| async move {
        match call.path().as_str() {
            "/204" => call.answer(204, &[], "").await,
            "/304" => call.answer(304, &[("etag", "\"a\"")], "").await,
            "/empty" => call.answer(200, &[], "").await,
            _ => call.answer(200, &[("content-length", "7")], "").await,
        }
    });
    let s = simple(&b);
    let mut client = s.connect();
    let mut ask = |method: &str, path: &str| {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.try_response(method).unwrap()
    };
    assert_eq!(ask("GET", "/204").status, 204);
    let r = ask("GET", "/304");
    assert_eq!((r.status, r.header("etag")), (304, Some("\"a\"")));
    let r = ask("GET", "/empty");
    assert_eq!((r.status, r.header("content-length")), (200, Some("0")));
    let r = ask("HEAD", "/head");
    assert_eq!((r.status, r.header("content-length")), (200, Some("7")));
}

#[test]
fn large_bodies_both_ways() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let small_window = Options {
        window: Some(1000),
        ..Options::default()
    };
    for options in [Options::default(), small_window] {
        let b = H2Backend::with(options, |mut call| async move {
            let body = call.whole().await;
            let length = body.len().to_string();
            match call.path().as_str() {
                "/length" => call.answer(200, &[("content-length", &length)], body).await,
                _ => call.answer(200, &[], body).await,
            }
        });
        let s = proxied(
            "client_max_body_size 0;
            server {
                listen 127.0.0.1:%%P0%%;
                proxy_http_version 2;
                location / { proxy_pass http://127.0.0.1:%%H0%%; }
                location /streamed {
                    proxy_pass http://127.0.0.1:%%H0%%;
                    proxy_request_buffering off;
                    proxy_buffering off;
                }
                location /memory {
                    proxy_pass http://127.0.0.1:%%H0%%;
                    client_body_buffer_size 4m;
                }
            }",
            &b,
        );
        let body = Rng(7).bytes(3_000_000);
        for path in ["/length", "/open", "/streamed", "/memory"] {
            let mut client = s.connect();
            let mut request = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            request.extend_from_slice(&body);
            client.send(request);
            let answer = client.response();
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(hash(&answer.body), hash(&body), "{path}");
            assert!(answer.complete);
        }
    }
}

#[test]
fn a_slow_client_does_not_hold_up_the_others() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let body = Rng(3).bytes(20_000_000);
    let expected = hash(&body);
    let body = bytes::Bytes::from(body);
    let b = H2Backend::start(move |call| {
        let body = body.clone();
        async move {
            match call.path().as_str() {
                "/large" | "/large-unbuffered" => call.answer(200, &[], body).await,
                _ => call.answer(200, &[], "small").await,
            }
        }
    });
    let s = proxied(
        "server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            location / { proxy_pass http://127.0.0.1:%%H0%%; }
            location /large-unbuffered {
                proxy_pass http://127.0.0.1:%%H0%%;
                proxy_buffering off;
            }
        }",
        &b,
    );
    for path in ["/large", "/large-unbuffered"] {
        let mut slow = s.connect();
        slow.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        slow.take_until("\r\n\r\n");
        for _ in 0..20 {
            assert_eq!(s.get("/").text(), "small");
        }
        let mut again = s.connect();
        again.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = again.response();
        assert_eq!(hash(&answer.body), expected);
    }
}

#[test]
fn the_server_resets_a_stream() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let (gate, read) = Gate::closed();
    let b = H2Backend::start(move |mut call| {
        let read = read.clone();
        async move {
            match call.path().as_str() {
                "/before" => call.reset(h2::Reason::INTERNAL_ERROR),
                path @ ("/behind" | "/open") => {
                    let (length, reason) = match path {
                        "/behind" => (&[("content-length", "10")][..], 2),
                        _ => (&[][..], 8),
                    };
                    let mut stream = call.head(200, length, false);
                    send(&mut stream, "12345".into(), false).await;
                    // Nothing of what was sent is to be taken back.
                    read.pass().await;
                    stream.send_reset(h2::Reason::from(reason));
                }
                _ => call.answer(200, &[], "fine").await,
            }
        }
    });
    let s = simple(&b);
    assert_eq!(s.get("/before").status, 502);
    s.wait_for_text(
        "error.log",
        "upstream rejected request with error 2 while reading response header from upstream",
    );
    for path in ["/behind", "/open"] {
        let mut client = s.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.wait_until_read("12345");
        gate.open();
        let answer = client.response();
        assert_eq!((answer.status, answer.complete), (200, false), "{path}");
    }
    s.wait_for_text(
        "error.log",
        "upstream rejected request with error 8 while reading upstream",
    );
    assert_eq!(s.get("/").text(), "fine");
    assert_eq!(b.connections(), 1, "the connection goes on");
}

#[test]
fn the_connection_breaks() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let (gate, read) = Gate::closed();
    let b = H2Backend::start(move |mut call| {
        let read = read.clone();
        async move {
            match call.path().as_str() {
                "/before" => {
                    call.kill();
                    call.cancelled().await;
                }
                "/behind" => {
                    let mut stream = call.head(200, &[], false);
                    send(&mut stream, "12345".into(), false).await;
                    // The answer is to be on its way first.
                    read.pass().await;
                    call.kill();
                    call.cancelled().await;
                }
                _ => call.answer(200, &[], "fine").await,
            }
        }
    });
    let s = simple(&b);
    assert_eq!(s.get("/before").status, 502);
    s.wait_for_text(
        "error.log",
        "upstream prematurely closed connection while reading",
    );
    assert_eq!(s.get("/").text(), "fine");
    let mut client = s.connect();
    client.send("GET /behind HTTP/1.1\r\nHost: a\r\n\r\n");
    client.wait_until_read("12345");
    gate.open();
    let answer = client.response();
    assert_eq!((answer.status, answer.complete), (200, false));
    assert_eq!(s.get("/").text(), "fine");
}

#[test]
fn a_server_that_leaves_is_let_go() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|mut call| async move {
        call.whole().await;
        if call.path() == "/leave" {
            call.go_away();
        }
        // Requests come while it leaves: this is the time it takes.
        tokio::time::sleep(Duration::from_millis(20)).await;
        call.answer(200, &[], "fine").await;
    });
    let s = simple(&b);
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let port = s.port(0);
            std::thread::spawn(move || {
                let mut client = Conn::to(port);
                for turn in 0..10 {
                    let path = if (n + turn) % 7 == 0 { "/leave" } else { "/" };
                    client.send(format!(
                        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
                    ));
                    let answer = client.response();
                    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    assert!(b.connections() > 1);
}

#[test]
fn what_a_server_has_not_looked_at_is_sent_again() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let refusals = AtomicUsize::new(0);
    let b = H2Backend::start(move |mut call| {
        let is_refused = refusals.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        async move {
            if is_refused {
                call.reset(h2::Reason::REFUSED_STREAM);
            } else {
                call.mirror().await;
            }
        }
    });
    let s = proxied(
        "server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            location / { proxy_pass http://127.0.0.1:%%H0%%; }
            location /streamed {
                proxy_pass http://127.0.0.1:%%H0%%;
                proxy_request_buffering off;
            }
        }",
        &b,
    );
    for path in ["/", "/streamed"] {
        let r = s.request(format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        ));
        assert_eq!(r.text(), format!("POST {path}\nhello"));
        assert_eq!(b.last().header("content-length"), Some("5"));
        let r = s.request(format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n"
        ));
        assert_eq!(r.text(), format!("POST {path}\nhello"));
    }
    assert_eq!(b.log().len(), 8);
}

#[test]
fn a_server_that_refuses_everything_fails() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|mut call| async move { call.reset(h2::Reason::REFUSED_STREAM) });
    let s = simple(&b);
    assert_eq!(s.get("/").status, 502);
    assert!(b.log().len() > 1, "it is asked again");
}

#[test]
fn a_server_that_does_not_answer() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|mut call| async move {
        match call.path().as_str() {
            "/silent" => call.cancelled().await,
            "/stalls" => {
                let mut stream = call.head(200, &[], false);
                send(&mut stream, "12345".into(), false).await;
                call.cancelled_behind(&mut stream).await;
            }
            _ => call.answer(200, &[], "fine").await,
        }
    });
    let s = proxied(
        "server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            proxy_read_timeout 300ms;
            location / { proxy_pass http://127.0.0.1:%%H0%%; }
        }",
        &b,
    );
    assert_eq!(s.get("/").text(), "fine");
    assert_eq!(s.get("/silent").status, 504);
    s.wait_for_text(
        "error.log",
        "upstream timed out (110: Connection timed out) while reading response header",
    );
    wait_for("the stream's reset", || b.cancelled() == 1);
    let mut client = s.connect();
    client.send("GET /stalls HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!client.response().complete);
    wait_for("the stream's reset", || b.cancelled() == 2);
    assert_eq!(s.get("/").text(), "fine");
}

#[test]
fn a_client_that_leaves_takes_its_stream_along() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|mut call| async move {
        match call.path().as_str() {
            "/head" => call.cancelled().await,
            "/body" => {
                let mut stream = call.head(200, &[], false);
                send(&mut stream, "12345".into(), false).await;
                call.cancelled_behind(&mut stream).await;
            }
            _ => call.answer(200, &[], "fine").await,
        }
    });
    let s = simple(&b);
    assert_eq!(s.get("/").text(), "fine");
    for (n, path) in ["/head", "/body"].into_iter().enumerate() {
        let mut client = s.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        wait_for("the request", || b.last().uri.path() == path);
        if path == "/body" {
            client.take_until("12345");
        }
        drop(client);
        wait_for("the stream's reset", || b.cancelled() == n + 1);
    }
    assert_eq!(s.get("/").text(), "fine");
    assert_eq!(b.connections(), 1);
}

#[test]
fn an_early_answer_does_not_wait_for_the_body() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|call| async move { call.answer(413, &[], "too much").await });
    let s = proxied(
        "server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            proxy_request_buffering off;
            location / { proxy_pass http://127.0.0.1:%%H0%%; }
        }",
        &b,
    );
    let mut client = s.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\nabc");
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
}

#[test]
fn the_next_server_gets_what_the_first_one_does_not() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let dead = Backend::resetting();
    let b = H2Backend::mirror();
    let s = Setup::http(
        "upstream app { server 127.0.0.1:%%B0%%; server 127.0.0.1:%%H0%%; }
        log_format u '$upstream_addr $upstream_status $upstream_response_length';
        access_log %%DIR%%/u.log u;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://app; proxy_http_version 2; }
        }",
    )
    .backends(&[&dead])
    .value("H0", b.port)
    .start();
    for _ in 0..3 {
        assert_eq!(s.get("/x").text(), "GET /x\n");
    }
    let line = s.lines("u.log", 1).remove(0);
    let (first, second) = (dead.port, b.port);
    assert_eq!(
        line,
        format!("127.0.0.1:{first}, 127.0.0.1:{second} 502, 200 0, 7")
    );
}

#[test]
fn what_the_directives_make_of_the_request() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::mirror();
    let s = proxied(
        r#"server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            proxy_set_header Host $host:1234;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Mixed-Case $request_uri;
            location / { proxy_pass http://127.0.0.1:%%H0%%; }
            location /body { proxy_pass http://127.0.0.1:%%H0%%; proxy_set_body "set: $uri"; }
            location /method { proxy_pass http://127.0.0.1:%%H0%%; proxy_method PUT; }
            location /none { proxy_pass http://127.0.0.1:%%H0%%; proxy_pass_request_body off; }
            location /uri/ { proxy_pass http://127.0.0.1:%%H0%%/other/; }
        }"#,
        &b,
    );
    s.get("/%7Eb?q=%22");
    let seen = b.last();
    assert_eq!(seen.uri.to_string(), "http://localhost:1234/%7Eb?q=%22");
    assert_eq!(seen.header("x-mixed-case"), Some("/%7Eb?q=%22"));
    let r = s.request("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(r.text(), "POST /body\nset: /body");
    assert_eq!(b.last().header("content-length"), Some("10"));
    assert_eq!(s.get("/method").text(), "PUT /method\n");
    let r = s.request("POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(r.text(), "POST /none\n");
    assert_eq!(s.get("/uri/x").text(), "GET /other/x\n");
    assert_eq!(s.get("/{a}|^?x={\"y\":1}").status, 200);
}

#[test]
fn connections_that_idle_are_closed() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::mirror();
    let s = proxied(
        "upstream idle { server 127.0.0.1:%%H0%%; keepalive 4; keepalive_timeout 200ms; }
        upstream none { server 127.0.0.1:%%H0%%; keepalive 0; }
        upstream few { server 127.0.0.1:%%H0%%; keepalive 4; keepalive_requests 2; }
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            location /idle { proxy_pass http://idle; }
            location /none { proxy_pass http://none; }
            location /few { proxy_pass http://few; }
        }",
        &b,
    );
    assert_eq!(s.get("/idle").status, 200);
    assert_eq!(b.open(), 1);
    wait_for("the end of an idle connection", || b.open() == 0);
    for n in 1..=2 {
        assert_eq!(s.get("/none").status, 200);
        wait_for("the end of the connection", || b.open() == 0);
        assert_eq!(b.connections(), 1 + n);
    }
    for _ in 0..4 {
        assert_eq!(s.get("/few").status, 200);
    }
    assert_eq!(b.connections(), 5);
}

#[test]
fn a_head_that_is_too_large() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|call| async move {
        let long = "x".repeat(10_000);
        call.answer(200, &[("x-long", &long)], "fine").await;
    });
    let s = simple(&b);
    assert_eq!(s.get("/").status, 502);
    s.wait_for_text(
        "error.log",
        "upstream sent too big header while reading response header",
    );
}

#[test]
fn errors_and_redirects_inside() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|call| async move {
        match call.path().as_str() {
            "/error" => call.answer(503, &[], "ignored").await,
            "/accel" => {
                call.answer(200, &[("x-accel-redirect", "/inside")], "ignored")
                    .await
            }
            _ => call.mirror().await,
        }
    });
    let s = proxied(
        "server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            proxy_intercept_errors on;
            error_page 503 = /sorry;
            location / { proxy_pass http://127.0.0.1:%%H0%%; }
            location = /sorry { return 200 sorry; }
            location = /inside { internal; return 200 inside; }
        }",
        &b,
    );
    assert_eq!(s.get("/error").text(), "sorry");
    assert_eq!(s.get("/accel").text(), "inside");
    assert_eq!(s.get("/x").text(), "GET /x\n");
}

#[test]
fn informational_answers_come_first() {
    if skip_on_nginx("1.22 has no proxy_http_version 2") {
        return;
    }
    let b = H2Backend::start(|mut call| async move {
        call.inform(103, &[("link", "</style.css>")]);
        call.inform(103, &[("link", "</more.css>")]);
        call.answer(200, &[], "fine").await;
    });
    let s = proxied(
        "server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 2;
            location / { proxy_pass http://127.0.0.1:%%H0%%; }
            location /hints { proxy_pass http://127.0.0.1:%%H0%%; early_hints 0 $arg_hints; }
        }",
        &b,
    );
    assert_eq!(s.get("/").text(), "fine");
    assert_eq!(s.get("/hints").text(), "fine");
    let mut client = s.connect();
    client.send("GET /hints?hints=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    for sheet in ["style", "more"] {
        let head = client.take_until("\r\n\r\n");
        let expected = format!("HTTP/1.1 103 Early Hints\r\nlink: </{sheet}.css>\r\n\r\n");
        assert_eq!(head, expected);
    }
    assert_eq!(client.response().text(), "fine");
}

#[test]
fn hints_of_a_server_that_speaks_http_1() {
    if skip_on_nginx("1.22 has no early_hints") {
        return;
    }
    let b = Backend::bytes(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nServer: x\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
    );
    let s = h2c("early_hints 1; location / { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .start();
    let mut client = s.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.take_until("\r\n\r\n");
    assert_eq!(head, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
    assert_eq!(client.response().text(), "fine");
    with_h2(s.port(0), async |mut client| {
        let request = client.request("GET", "/");
        let (mut response, _) = client.send.send_request(request, true).unwrap();
        let hints = poll_fn(|cx| response.poll_informational(cx)).await;
        let hints = hints.unwrap().unwrap();
        assert_eq!(hints.status(), 103);
        assert_eq!(hints.headers()["link"], "</a.css>");
        assert_eq!(response.await.unwrap().status(), 200);
    });
}
