//! Trailer fields, hop-by-hop fields of answers.

use crate::common::*;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                      4\r\nbody\r\n0\r\nX-Sum: 42\r\n\r\n";

#[test]
fn upstream_trailers_are_known_to_the_log() {
    if skip_on_nginx("it reads trailers since 1.27 only, and when they are passed") {
        return;
    }
    let b = Backend::http(|_| ANSWER.into());
    let s = http(
        r#"
        log_format t "$upstream_trailer_x_sum|$upstream_trailer_none";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/t.log t;
            proxy_http_version 1.1;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    assert_eq!(s.get("/").text(), "body");
    assert_eq!(s.lines("t.log", 1), ["42|-"]);
}

#[test]
fn request_trailers_do_not_become_header_fields() {
    let b = Backend::echo();
    let s = http(
        r#"
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
        let head = "HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let r = s.request(format!(
            "POST {path} {head}3\r\nabc\r\n0\r\nX-Late: 1\r\n\r\n"
        ));
        assert_eq!(r.status, 200);
        let req = b.last();
        assert_eq!(
            (req.body.as_slice(), req.header("x-late")),
            (&b"abc"[..], None)
        );
    }
}

#[test]
fn hop_by_hop_fields_of_answers_stay_behind() {
    let b = Backend::http(|_| {
        let fields = "Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=9\r\nX-Hop: 1\r\n\
                      X-Stay: 1\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\n";
        resp("200 OK", fields, "x")
    });
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let r = s.get("/");
    assert_eq!(
        (r.header("x-stay"), r.header("keep-alive")),
        (Some("1"), None)
    );
    assert_eq!(r.header("connection"), Some("close"));
    if !is_nginx() {
        // nginx removes the fields it knows, not those that Connection names.
        for name in ["x-hop", "proxy-connection", "upgrade"] {
            assert_eq!(r.header(name), None, "{name}");
        }
    }
}

#[test]
fn trailers_pass_where_that_is_wanted() {
    if skip_on_nginx("1.22 has no proxy_pass_trailers") {
        return;
    }
    let b = Backend::http(|_| ANSWER.into());
    let s = http(
        "server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /on { proxy_pass http://127.0.0.1:%%B0%%; proxy_pass_trailers on; }
        }",
        &[&b],
    );
    assert_eq!(s.get("/").trailers, []);
    let r = s.get("/on");
    assert_eq!(r.text(), "body");
    assert_eq!(r.trailers, [("X-Sum".to_owned(), "42".to_owned())]);
}
