//! What the client sees of a backend's answer.

use std::time::{Duration, Instant};

use crate::common::client::Framing;
use crate::common::*;

/// A backend answering 200 with the header fields in the request's query: `?A:1&B:2`.
fn header_backend() -> Backend {
    Backend::http(|req| {
        let query = req.target.split_once('?').map_or("", |(_, q)| q);
        let unescaped = query.replace("%20", " ").replace("%22", "\"");
        let fields: String = unescaped
            .split('&')
            .filter(|field| !field.is_empty())
            .map(|field| format!("{}\r\n", field.replacen(':', ": ", 1)))
            .collect();
        resp("200 OK", &fields, "body")
    })
}

#[test]
fn status_and_headers_pass() {
    let b = Backend::http(|req| match req.target.as_str() {
        "/404" => resp("404 Nothing Here", "X-Reason: own\r\n", "own page"),
        "/299" => resp("299 Odd", "", ""),
        "/noreason" => b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx".to_vec(),
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n\
         "
        .to_vec(),
        "/1.0" => b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil close".to_vec(),
        "/100" => b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\
         y"
        .to_vec(),
        "/103" => b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
         Content-Length: 1\r\n\r\nz"
            .to_vec(),
        "/lf" => b"HTTP/1.1 200 OK\nContent-Length: 2\nX: y\n\nlf".to_vec(),
        _ => resp(
            "200 OK",
            "Server: own/1\r\nDate: then\r\nX-A: 1\r\nX-A: 2\r\nKeep-Alive: timeout=5\r\nX-Pad: \
             x\r\n\
             X-Accel-Expires: 1\r\nX-Powered-By: PHP\r\nContent-Type: text/x\r\n\
             Last-Modified: m\r\n",
            "body",
        ),
    });
    let s = http(
        r#"
        proxy_http_version 1.1;
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }
    "#,
        &[&b],
    );
    let r = s.get("/");
    assert_eq!((r.status, r.text().as_str()), (200, "body"));
    assert_eq!(r.all("x-a"), ["1", "2"]);
    assert!(r.header("server").unwrap().starts_with(prog()));
    assert!(r.header("date").is_some_and(|date| date != "then"));
    assert_eq!(r.header("x-powered-by"), Some("PHP"));
    assert_eq!(r.header("content-type"), Some("text/x"));
    assert_eq!(r.header("last-modified"), Some("m"));
    for name in ["x-pad", "x-accel-expires", "keep-alive"] {
        assert_eq!(r.header(name), None, "{name}");
    }
    let r = s.get("/404");
    let line = (r.status, r.reason.as_str(), r.text());
    assert_eq!(line, (404, "Nothing Here", "own page".to_owned()));
    assert_eq!(s.get("/299").reason, "Odd");
    let r = s.get("/noreason");
    assert_eq!((r.status, r.text().as_str()), (200, "x"));
    assert_eq!(s.get("/204").status, 204);
    let r = s.get("/304");
    assert_eq!((r.status, r.header("etag")), (304, Some("\"x\"")));
    let r = s.get("/1.0");
    assert_eq!(
        (r.version.as_str(), r.text().as_str()),
        ("HTTP/1.1", "until close")
    );
    assert_eq!(r.framing, Framing::Chunked);
    if !is_nginx() {
        // nginx before 1.29 takes any 1xx for the answer.
        assert_eq!(s.get("/100").text(), "y");
        let mut c = s.connect();
        c.send("GET /103 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut r = c.response();
        if r.status == 103 {
            r = c.response();
        }
        assert_eq!(r.text(), "z");
    }
    // Lines may end in LF alone: where they end is beyond doubt as long as no CR stands alone.
    assert_eq!(s.get("/lf").text(), "lf");
}

#[test]
fn unframed_answers_become_chunked_on_keepalive_connections() {
    let b = Backend::bytes("HTTP/1.1 200 OK\r\n\r\nuntil close");
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let mut c = s.connect();
    for _ in 0..2 {
        let r = c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!(
            (r.framing, r.text().as_str()),
            (Framing::Chunked, "until close")
        );
        assert_eq!(r.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn hide_pass_and_ignore_headers() {
    let b = header_backend();
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /hide {
                proxy_hide_header X-Powered-By;
                proxy_hide_header x-other;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /pass {
                proxy_pass_header Server;
                proxy_pass_header Date;
                proxy_pass_header X-Pad;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /ignore {
                proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /redirected { return 200 redirected; }
        }
    "#,
        &[&b],
    );
    let query = "?Server:own&Date:then&X-Pad:p&X-Powered-By:php&X-Other:o&X-Third:t";
    let r = s.get(&format!("/{query}"));
    assert_eq!(
        (r.header("x-powered-by"), r.header("x-pad")),
        (Some("php"), None)
    );
    let r = s.get(&format!("/hide{query}"));
    let kept = ["x-powered-by", "x-other", "x-third"].map(|name| r.header(name).is_some());
    assert_eq!(kept, [false, false, true]);
    let r = s.get(&format!("/pass{query}"));
    assert_eq!(
        (r.header("server"), r.header("date")),
        (Some("own"), Some("then"))
    );
    assert_eq!(r.header("x-pad"), Some("p"));
    assert_eq!(s.get("/?X-Accel-Redirect:/redirected").text(), "redirected");
    let r = s.get("/ignore?X-Accel-Redirect:/redirected");
    assert_eq!(
        (r.text().as_str(), r.header("x-accel-redirect")),
        ("body", None)
    );
}

#[test]
fn redirects_are_rewritten() {
    let b = header_backend();
    let s = http(
        r#"
        upstream app { server 127.0.0.1:%%B0%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            server_name front.test;
            location / { proxy_pass http://app; }
            location /def/ { proxy_pass http://app/base/; }
            location /off/ { proxy_redirect off; proxy_pass http://app/base/; }
            location /two/ {
                proxy_redirect http://one/ /1/;
                proxy_redirect http://two/ http://$host:99/2/;
                proxy_pass http://app;
            }
            location /both/ {
                proxy_pass http://app/base/;
                proxy_redirect default;
                proxy_redirect http://one/ /1/;
            }
            location /re/ {
                proxy_redirect ~^http://(\w+)\.in/(.*)$ http://$1.out/$2;
                proxy_redirect ~*UPPER /lower;
                proxy_pass http://app;
            }
            location /var/ { proxy_redirect http://$host/ /v/; proxy_pass http://app; }
        }
    "#,
        &[&b],
    );
    let port = s.port(0);
    let own = format!("http://front.test:{port}");
    for (path, to, expected) in [
        ("/", "http://app/x", format!("{own}/x")),
        ("/", "http://app/", format!("{own}/")),
        ("/", "http://appx/", "http://appx/".into()),
        ("/", "http://other/x", "http://other/x".into()),
        ("/", "/relative", format!("{own}/relative")),
        ("/def/", "http://app/base/x", format!("{own}/def/x")),
        ("/def/", "http://app/x", "http://app/x".into()),
        ("/off/", "http://app/base/x", "http://app/base/x".into()),
        ("/two/", "http://one/x", format!("{own}/1/x")),
        ("/two/", "http://two/x", "http://front.test:99/2/x".into()),
        ("/two/", "http://app/x", "http://app/x".into()),
        ("/both/", "http://one/x", format!("{own}/1/x")),
        ("/both/", "http://app/base/x", format!("{own}/both/x")),
        ("/re/", "http://foo.in/bar", "http://foo.out/bar".into()),
        ("/re/", "http://x/upper", format!("{own}/lower")),
        ("/var/", "http://front.test/x", format!("{own}/v/x")),
    ] {
        let r = s.get_with(&format!("{path}?Location:{to}"), "Host: front.test\r\n");
        let absolute = |value: &str| match value.strip_prefix('/') {
            Some(rest) => format!("{own}/{rest}"),
            None => value.to_owned(),
        };
        // nginx makes absolute only what has status 201 or 3xx: compare the meaning.
        assert_eq!(
            absolute(r.header("location").unwrap()),
            expected,
            "{path} {to}"
        );
    }
    let r = s.get("/def/?Refresh:5;url=http://app/base/x");
    assert_eq!(r.header("refresh"), Some("5;url=/def/x"));
}

#[test]
fn redirects_that_were_rewritten_are_absolute() {
    let b = Backend::http(|_| resp("302 Found", "Location: http://up.test/x\r\n", ""));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_redirect http://up.test/ /front/;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /off { absolute_redirect off; proxy_pass http://127.0.0.1:%%B0%%; }
            location /kept { proxy_redirect off; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let here = format!("http://localhost:{}/front/x", s.port(0));
    for (path, to) in [
        ("/", &*here),
        ("/off", "/front/x"),
        ("/kept", "http://up.test/x"),
    ] {
        assert_eq!(s.get(path).header("location"), Some(to), "{path}");
    }
}

#[test]
fn cookies_are_rewritten() {
    let b = header_backend();
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /d {
                proxy_cookie_domain localhost example.org;
                proxy_cookie_domain .dot.test $host;
                proxy_cookie_domain ~^(\w+)\.in$ $1.out;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /p {
                proxy_cookie_path /two/ /;
                proxy_cookie_path ~*^/user/(.+)$ /u/$1;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /f {
                proxy_cookie_flags one httponly;
                proxy_cookie_flags two secure samesite=strict;
                proxy_cookie_flags ~^re nosecure nohttponly nosamesite;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /off {
                proxy_cookie_domain off;
                proxy_cookie_path off;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    for (path, cookie, expected) in [
        (
            "/d",
            "a=b;Domain=localhost;Path=/",
            "a=b; Domain=example.org; Path=/",
        ),
        ("/d", "a=b; domain=LOCALHOST", "a=b; domain=example.org"),
        ("/d", "a=b; domain=.localhost", "a=b; domain=.example.org"),
        ("/d", "a=b; domain=dot.test", "a=b; domain=localhost"),
        ("/d", "a=b; domain=foo.in", "a=b; domain=foo.out"),
        ("/d", "a=b; domain=other", "a=b; domain=other"),
        ("/d", "a=b", "a=b"),
        ("/p", "a=b; path=/two/x", "a=b; path=/x"),
        ("/p", "a=b; Path=/USER/x", "a=b; Path=/u/x"),
        ("/p", "a=b; path=/three", "a=b; path=/three"),
        ("/f", "one=1", "one=1; HttpOnly"),
        ("/f", "one=1; httponly", "one=1; httponly"),
        (
            "/f",
            "two=2; SameSite=lax",
            "two=2; SameSite=Strict; Secure",
        ),
        (
            "/f",
            "re1=2; secure; HttpOnly; samesite=lax; path=/",
            "re1=2; path=/",
        ),
        ("/f", "other=2; secure", "other=2; secure"),
        (
            "/off",
            "a=b; domain=localhost; path=/two/",
            "a=b; domain=localhost; path=/two/",
        ),
    ] {
        let query = cookie.replace(' ', "%20");
        let r = s.get(&format!("{path}?Set-Cookie:{query}"));
        assert_eq!(r.header("set-cookie"), Some(expected), "{path} {cookie}");
    }
    let r = s.get("/d?Set-Cookie:a=b;Domain=localhost&Set-Cookie:c=d;Domain=localhost");
    assert_eq!(
        r.all("set-cookie"),
        ["a=b; Domain=example.org", "c=d; Domain=example.org"]
    );
}

#[test]
fn intercept_errors() {
    let b = Backend::http(|req| {
        let status = &req.target[req.target.len() - 3..];
        resp(
            &format!("{status} Own"),
            "WWW-Authenticate: Basic\r\nX-Own: 1\r\n",
            "backend page",
        )
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            error_page 404 401 /page;
            error_page 503 =200 /page;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /i { proxy_intercept_errors on; proxy_pass http://127.0.0.1:%%B0%%; }
            location /page { return 200 "page $upstream_status"; }
        }
    "#,
        &[&b],
    );
    assert_eq!(s.get("/404").text(), "backend page");
    let r = s.get("/i/404");
    assert_eq!((r.status, r.text().as_str()), (404, "page 404"));
    assert_eq!(r.header("x-own"), None);
    let r = s.get("/i/401");
    assert_eq!(
        (r.status, r.header("www-authenticate")),
        (401, Some("Basic"))
    );
    assert_eq!(s.get("/i/503").status, 200);
    // Only statuses that have an error_page.
    assert_eq!(s.get("/i/500").text(), "backend page");
    assert_eq!(s.get("/i/200").text(), "backend page");
}

#[test]
fn accel_redirect() {
    let b = header_backend();
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /internal/ { internal; return 200 "$uri $args"; }
            location /again/ { internal; proxy_pass http://127.0.0.1:%%B0%%/plain?X-Second:1; }
            location @named { return 200 "named $uri"; }
        }
    "#,
        &[&b],
    );
    assert_eq!(
        s.get("/?X-Accel-Redirect:/internal/x").text(),
        "/internal/x "
    );
    assert_eq!(s.get("/u?X-Accel-Redirect:@named").text(), "named /u");
    let r = s.get("/?X-Accel-Redirect:/internal/x&Content-Type:text/q&Set-Cookie:a=b&X-Lost:1");
    assert_eq!(r.text(), "/internal/x ");
    assert_eq!(r.header("set-cookie"), Some("a=b"));
    assert_eq!(r.header("x-lost"), None);
    assert_eq!(s.get("/internal/x").status, 404);
}

#[test]
fn accel_redirect_takes_arguments() {
    let b = Backend::http(|_| resp("200 OK", "X-Accel-Redirect: /i/a%20b?x=1\r\n", ""));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /i/ { internal; return 200 "$uri $args $request_method"; }
        }
    "#,
        &[&b],
    );
    assert_eq!(s.get("/?y").text(), "/i/a b x=1 GET");
    let r = s.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(r.text(), "/i/a b x=1 GET");
}

#[test]
fn buffering() {
    // Sends one byte, waits for the word, sends the rest.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let b = Backend::raw(move |mut conn, _| {
        let Some(head) = conn.try_head() else { return };
        let accel = if head.contains("/accel") {
            "X-Accel-Buffering: no\r\n"
        } else {
            ""
        };
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{accel}\r\n1"
        ));
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        conn.send("2").finish();
        conn.drain();
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /off { proxy_buffering off; proxy_pass http://127.0.0.1:%%B0%%; }
            location /accel { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    for path in ["/off", "/accel"] {
        let mut c = s.connect();
        c.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = c.take_until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(c.take(1), b"1", "{path}");
        go.send(()).unwrap();
        assert_eq!(c.take(1), b"2");
    }
}

#[test]
fn a_streamed_answer_does_not_wait_for_its_end() {
    // Server-sent events: each piece reaches the client although buffering is on.
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_none() {
            return;
        }
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        for n in 0.. {
            if conn.try_send(format!("data: {n}\n\n").as_bytes()).is_err() {
                return;
            }
            // Events come slowly and forever.
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; proxy_buffering off; location / { proxy_pass \
         http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let mut c = s.connect();
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let start = Instant::now();
    c.take_until("data: 3\n\n");
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(c);
    wait_for("the backend to be left", || b.open() == 0);
}

#[test]
fn limit_rate() {
    let b = Backend::http(|req| {
        let accel = if req.target == "/accel" {
            "X-Accel-Limit-Rate: 20000\r\n"
        } else {
            ""
        };
        resp("200 OK", accel, vec![b'x'; 30_000])
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /client { limit_rate 20000; proxy_pass http://127.0.0.1:%%B0%%; }
            location /accel { proxy_pass http://127.0.0.1:%%B0%%; }
            location /upstream {
                proxy_limit_rate 20000;
                proxy_buffers 8 4k;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /var { set $limit_rate 20000; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    for (path, slow) in [
        ("/", false),
        ("/client", true),
        ("/accel", true),
        ("/upstream", true),
        ("/var", true),
    ] {
        let start = Instant::now();
        assert_eq!(s.get(path).body.len(), 30_000, "{path}");
        assert_eq!(start.elapsed() > Duration::from_millis(400), slow, "{path}");
        assert!(start.elapsed() < Duration::from_secs(4), "{path}");
    }
}
