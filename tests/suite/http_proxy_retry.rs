//! proxy_next_upstream: when another server is tried, and when not.

use std::time::Duration;

use crate::common::*;

/// An answer by status for the first server of a group; the second says `second`.
fn bad(status: &'static str) -> Backend {
    Backend::http(move |_| resp(status, "", "first"))
}

/// One location per condition, each with a group of its own so that failures do not add up.
fn conf(conditions: &[&str]) -> String {
    let mut out = String::new();
    let mut locations = String::new();
    for (n, condition) in conditions.iter().enumerate() {
        out += &format!(
            "upstream u{n} {{ server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%% \
             backup; }}\n"
        );
        locations += &format!(
            "location = /{n} {{ proxy_next_upstream {condition}; proxy_pass http://u{n}; }}\n"
        );
    }
    format!("{out} server {{ listen 127.0.0.1:%%P0%%; proxy_read_timeout 300ms; {locations} }}")
}

#[test]
fn by_status() {
    let second = Backend::fixed("second");
    for (status, condition) in [
        ("500 x", "http_500"),
        ("502 x", "http_502"),
        ("503 x", "http_503"),
        ("504 x", "http_504"),
        ("403 x", "http_403"),
        ("404 x", "http_404"),
        ("429 x", "http_429"),
    ] {
        let first = bad(status);
        let s = http(
            &conf(&[condition, "error timeout", "off"]),
            &[&first, &second],
        );
        assert_eq!(s.get("/0").text(), "second", "{status}");
        assert_eq!(s.get("/1").text(), "first", "{status}");
        assert_eq!(s.get("/2").text(), "first", "{status}");
    }
}

#[test]
fn by_failure() {
    let second = Backend::fixed("second");
    let ask = |first: &Backend, expected: [(u16, &str); 4]| {
        let conditions = ["error", "timeout", "invalid_header", "off"];
        let s = http(&conf(&conditions), &[first, &second]);
        for (n, (status, text)) in expected.into_iter().enumerate() {
            let r = s.get(&format!("/{n}"));
            assert_eq!(r.status, status, "condition {}", conditions[n]);
            if status == 200 {
                assert_eq!(r.text(), text);
            }
        }
    };
    let (yes, bad_gateway) = ((200, "second"), (502, ""));
    let mut refused = Backend::fixed("x");
    refused.stop();
    ask(&refused, [yes, bad_gateway, bad_gateway, bad_gateway]);
    ask(
        &Backend::resetting(),
        [yes, bad_gateway, bad_gateway, bad_gateway],
    );
    ask(
        &Backend::bytes(""),
        [yes, bad_gateway, bad_gateway, bad_gateway],
    );
    let late = (504, "");
    ask(&Backend::silent(), [late, yes, late, late]);
    let garbage = Backend::bytes("HTTP/1.1 200 OK\r\nno colon here\r\n\r\n");
    ask(&garbage, [bad_gateway, bad_gateway, yes, bad_gateway]);
}

#[test]
fn the_default_is_error_and_timeout() {
    let second = Backend::fixed("second");
    let resetting = Backend::resetting();
    let silent = Backend::silent();
    let s = http(
        r#"
        upstream a { server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B2%% backup; }
        upstream b { server 127.0.0.1:%%B1%%; server 127.0.0.1:%%B2%% backup; }
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_read_timeout 300ms;
            location /a { proxy_pass http://a; }
            location /b { proxy_pass http://b; }
        }
    "#,
        &[&resetting, &silent, &second],
    );
    assert_eq!(s.get("/a").text(), "second");
    assert_eq!(s.get("/b").text(), "second");
}

#[test]
fn non_idempotent_requests_are_not_repeated() {
    let second = Backend::fixed("second");
    let first = Backend::resetting();
    let s = http(
        r#"
        upstream a { server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%% backup; }
        upstream down { server 127.0.0.1:%%P9%% max_fails=0; server 127.0.0.1:%%B1%% backup; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://a; }
            location /any { proxy_next_upstream error non_idempotent; proxy_pass http://a; }
            location /down { proxy_pass http://down; }
        }
    "#,
        &[&first, &second],
    );
    let ask = |method: &str, path: &str| {
        let head = "HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        s.request(format!("{method} {path} {head}")).status
    };
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        assert_eq!(ask(method, "/"), 200, "{method}");
    }
    for method in ["POST", "PATCH", "LOCK"] {
        assert_eq!(ask(method, "/"), 502, "{method}");
        assert_eq!(ask(method, "/any"), 200, "{method}");
        // Nothing has been sent to a server that refuses the connection.
        assert_eq!(ask(method, "/down"), 200, "{method}");
    }
}

#[test]
fn tries_and_timeout() {
    let firsts: Vec<Backend> = (0..4).map(|_| bad("503 x")).collect();
    let slow = || {
        Backend::http(|_| {
            // Two of these use up proxy_next_upstream_timeout.
            std::thread::sleep(Duration::from_millis(250));
            resp("503 x", "", "slow")
        })
    };
    let slows = [slow(), slow(), slow()];
    let mut backends: Vec<&Backend> = firsts.iter().collect();
    backends.extend(&slows);
    let s = http(
        r#"
        upstream u {
            server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%% max_fails=0;
            server 127.0.0.1:%%B2%% max_fails=0; server 127.0.0.1:%%B3%% max_fails=0;
        }
        upstream slow {
            server 127.0.0.1:%%B4%% max_fails=0; server 127.0.0.1:%%B5%% max_fails=0;
            server 127.0.0.1:%%B6%% max_fails=0;
        }
        server {
            listen 127.0.0.1:%%P0%%;
            add_header X-Tried $upstream_status always;
            proxy_next_upstream http_503;
            location /all { proxy_pass http://u; }
            location /two { proxy_next_upstream_tries 2; proxy_pass http://u; }
            location /one { proxy_next_upstream_tries 1; proxy_pass http://u; }
            location /time { proxy_next_upstream_timeout 400ms; proxy_pass http://slow; }
        }
    "#,
        &backends,
    );
    for (path, tried) in [
        ("/all", "503, 503, 503, 503"),
        ("/two", "503, 503"),
        ("/one", "503"),
        ("/time", "503, 503"),
    ] {
        let r = s.get(path);
        assert_eq!(
            (r.status, r.header("x-tried")),
            (503, Some(tried)),
            "{path}"
        );
    }
}

#[test]
fn a_body_is_sent_again_from_its_start() {
    let first = Backend::raw(|mut conn, _| {
        if conn.try_request().is_some() {
            conn.reset();
        }
    });
    let second = Backend::http(|req| ok(hash(&req.body).to_string()));
    let s = http(
        r#"
        client_max_body_size 0;
        upstream u { server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%% backup; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://u; }
            location /off { proxy_request_buffering off; proxy_pass http://u; }
        }
    "#,
        &[&first, &second],
    );
    let body = Rng(7).bytes(200_000);
    let mut request = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n".to_vec();
    request.extend(&body);
    assert_eq!(s.request(&request).text(), hash(&body).to_string());
    // Without buffering what was sent is gone.
    let mut c = s.connect();
    c.send("PUT /off HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    wait_for("the first server to be asked", || first.connections() == 2);
    let _ = c.try_send(b"def");
    assert_eq!(c.response().status, 502);
}

#[test]
fn once_the_answer_began_there_is_no_retry() {
    let first = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
    let second = Backend::fixed("second");
    let s = http(
        r#"
        upstream u { server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%% backup; }
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://u; } }
    "#,
        &[&first, &second],
    );
    let r = s.get("/");
    assert_eq!(
        (r.status, r.text().as_str(), r.complete),
        (200, "short", false)
    );
    assert_eq!(second.requests(), 0);
    s.wait_for_text(
        "error.log",
        "upstream prematurely closed connection while reading upstream",
    );
}
