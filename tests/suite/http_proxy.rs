//! What a proxied request looks like to the application server.

use crate::common::*;

/// The request as the backend got it, for a GET of `path`.
fn passed(s: &Server, path: &str) -> String {
    let text = s.get(path).text();
    text.split(' ').nth(1).unwrap_or(&text).to_owned()
}

#[test]
fn default_request() {
    let b = Backend::echo();
    let s = http(
        r#"
        upstream app { server 127.0.0.1:%%B0%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://app; }
            location /port { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let r = s.get_with(
        "/a?b=c",
        "X-One: 1\r\nx-two:2\r\nX-One: again\r\nCookie: a=b\r\nTE: gzip\r\nKeep-Alive: 5\r\n\
         Empty:\r\n",
    );
    assert_eq!(r.status, 200);
    let req = b.last();
    assert_eq!(
        (req.method.as_str(), req.target.as_str()),
        ("GET", "/a?b=c")
    );
    assert_eq!(req.header("host"), Some("app"));
    assert_eq!(req.all("x-one"), ["1", "again"]);
    assert_eq!(req.header("x-two"), Some("2"));
    assert_eq!(req.header("cookie"), Some("a=b"));
    assert_eq!(req.header("empty"), Some(""));
    assert_eq!(req.header("keep-alive"), None);
    if is_nginx() {
        assert_eq!(
            (req.version.as_str(), req.header("connection")),
            ("HTTP/1.0", Some("close"))
        );
    } else {
        assert_eq!(req.version, "HTTP/1.1");
        assert!(req.header("connection") != Some("close"), "{}", req.head);
        assert_eq!(req.header("te"), None, "hop-by-hop");
    }
    s.get("/port");
    assert_eq!(
        b.last().header("host"),
        Some(format!("127.0.0.1:{}", b.port).as_str())
    );
}

#[test]
fn fields_named_by_connection_are_not_passed() {
    if skip_on_nginx("it passes fields that Connection names") {
        return;
    }
    let b = Backend::echo();
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let fields = "X-Hop: secret\r\nX-Stay: 1\r\nUpgrade: h2c\r\nProxy-Connection: close\r\n";
    s.request(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\n{fields}\r\n"
    ));
    let req = b.last();
    assert_eq!(req.header("x-stay"), Some("1"));
    for name in ["x-hop", "upgrade", "proxy-connection"] {
        assert_eq!(req.header(name), None, "{name}");
    }
}

#[test]
fn pass_with_and_without_uri() {
    let b = Backend::echo();
    let s = http(
        r#"
        upstream app { server 127.0.0.1:%%B0%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://app; }
            location /uri/ { proxy_pass http://app/; }
            location /new { proxy_pass http://app/other; }
            location /query/ { proxy_pass http://app/base?x=1; }
            location = /exact { proxy_pass http://app/replaced/; }
            location /rewritten/ { rewrite ^/rewritten/(.*)$ /r/$1 break; proxy_pass http://app; }
            location /rewritten-uri/ { rewrite ^ /q break; proxy_pass http://app/ignored; }
            location /var/ { set $backend app; proxy_pass http://$backend; }
            location /varuri/ { set $backend app; proxy_pass http://$backend/fixed; }
            location /varall/ { set $backend app; proxy_pass http://$backend$request_uri; }
            location /varargs/ { set $backend app; proxy_pass http://$backend/x$is_args$args; }
            location ~ ^/regex/(.*)$ { proxy_pass http://app; }
            location ~ ^/regexvar/(.*)$ { proxy_pass http://app/$1; }
            location /upper { proxy_pass HTTP://127.0.0.1:%%B0%%/Up; }
            location /ifs { if ($arg_x) { proxy_pass http://app; break; } return 204; }
        }
    "#,
        &[&b],
    );
    for (path, expected) in [
        ("/", "/"),
        ("/a/b?c=d", "/a/b?c=d"),
        ("/a/%2e%2e/b%20c?d", "/a/%2e%2e/b%20c?d"),
        ("//double//slash", "//double//slash"),
        ("/x%2Fy", "/x%2Fy"),
        ("/uri/a/b", "/a/b"),
        ("/uri/", "/"),
        ("/uri/a%20b%2fc%3Fd%25?e=%20", "/a%20b/c%3Fd%25?e=%20"),
        ("/uri/x/../y", "/y"),
        ("/uri/\u{e9}", "/\u{e9}"),
        ("/uri/%C3%A9", "/%C3%A9"),
        ("/uri/a+b", "/a+b"),
        ("/uri/a%22b", "/a%22b"),
        ("/new", "/other"),
        ("/new/a?b", "/other/a?b"),
        ("/newer", "/otherer"),
        ("/query/a?b", "/base?x=1a?b"),
        ("/exact?q", "/replaced/?q"),
        ("/rewritten/a%20b?q=1", "/r/a%20b?q=1"),
        ("/rewritten-uri/a?z", "/q?z"),
        ("/var/a?b", "/var/a?b"),
        ("/varuri/a?b", "/fixed"),
        ("/varall/%61?b", "/varall/%61?b"),
        ("/varargs/a?b=1", "/x?b=1"),
        ("/varargs/a", "/x"),
        ("/regex/a?b", "/regex/a?b"),
        ("/regexvar/a?b", "/a"),
        ("/upper/x", "/Up/x"),
        ("/ifs?x=1", "/ifs?x=1"),
    ] {
        assert_eq!(passed(&s, path), expected, "{path}");
    }
}

#[test]
fn set_header() {
    let b = Backend::echo();
    let s = http(
        r#"
        proxy_set_header X-Http http;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /own {
                proxy_set_header Host $host;
                proxy_set_header X-Real-IP $remote_addr;
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                proxy_set_header X-Forwarded-Proto $scheme;
                proxy_set_header X-Client "";
                proxy_set_header X-Empty $arg_nothing;
                proxy_set_header X-Two 1;
                proxy_set_header X-Two 2;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /nohost {
                proxy_set_header Host "";
                proxy_http_version 1.0;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /http_host {
                proxy_set_header Host $http_host;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /nest { proxy_set_header X-Outer 1;
                location /nest/in { proxy_pass http://127.0.0.1:%%B0%%; }
                location /nest/own {
                    proxy_set_header X-Inner 1;
                    proxy_pass http://127.0.0.1:%%B0%%;
                }
            }
        }
    "#,
        &[&b],
    );
    s.get("/");
    assert_eq!(b.last().header("x-http"), Some("http"));
    let fields =
        "Host: Name.Test:99\r\nX-Client: x\r\nX-Two: client\r\nX-Forwarded-For: 1.2.3.4\r\n";
    s.get_with("/own", &format!("{fields}X-Real-IP: forged\r\n"));
    let req = b.last();
    assert_eq!(req.header("host"), Some("name.test"));
    assert_eq!(req.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(req.header("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"));
    assert_eq!(req.header("x-forwarded-proto"), Some("http"));
    assert_eq!(req.all("x-two"), ["1", "2"]);
    for name in ["x-http", "x-client", "x-empty"] {
        assert_eq!(req.header(name), None, "{name}");
    }
    s.get("/own");
    assert_eq!(b.last().header("x-forwarded-for"), Some("127.0.0.1"));
    s.get_with("/own", "X-Forwarded-For: a\r\nX-Forwarded-For: b\r\n");
    assert_eq!(b.last().header("x-forwarded-for"), Some("a, b, 127.0.0.1"));
    s.get("/nohost");
    assert_eq!(b.last().header("host"), None);
    s.get_with("/http_host", "Host: Name.Test:99\r\n");
    assert_eq!(b.last().header("host"), Some("Name.Test:99"));
    s.get("/nest/in");
    assert_eq!(b.last().header("x-outer"), Some("1"));
    s.get("/nest/own");
    assert_eq!(
        (b.last().header("x-outer"), b.last().header("x-inner")),
        (None, Some("1"))
    );
}

#[test]
fn order_of_fields() {
    let b = Backend::echo();
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / {
                proxy_http_version 1.1;
                proxy_set_header Host app;
                proxy_set_header Connection "";
                proxy_set_header X-Set 1;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let r = s.get_with("/", "A: 1\r\nb: 2\r\n");
    assert_eq!(
        r.text(),
        "GET / HTTP/1.1\r\nHost: app\r\nX-Set: 1\r\nA: 1\r\nb: 2\r\n\r\n"
    );
    let r = s.request("POST / HTTP/1.1\r\nHost: x\r\nA: 1\r\nContent-Length: 3\r\n\r\nabc");
    let expected =
        "POST / HTTP/1.1\r\nHost: app\r\nX-Set: 1\r\nContent-Length: 3\r\nA: 1\r\n\r\nabc";
    let mut got: Vec<_> = r.text().split("\r\n").map(str::to_owned).collect();
    let mut want: Vec<_> = expected.split("\r\n").map(str::to_owned).collect();
    got.sort();
    want.sort();
    assert_eq!(got, want);
}

#[test]
fn method_body_and_headers_may_be_replaced() {
    let b = Backend::echo();
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /method { proxy_method POST; proxy_pass http://127.0.0.1:%%B0%%; }
            location /methodvar { proxy_method $arg_m; proxy_pass http://127.0.0.1:%%B0%%; }
            location /body {
                proxy_set_body "set:$request_uri";
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /nobody {
                proxy_pass_request_body off;
                proxy_set_header Content-Length "";
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /noheaders {
                proxy_pass_request_headers off;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let post = |path: &str| {
        let head =
            "HTTP/1.1\r\nHost: a\r\nX-Mine: 1\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
        assert_eq!(s.request(format!("POST {path} {head}abc")).status, 200);
        b.last()
    };
    s.get("/method");
    assert_eq!(b.last().method, "POST");
    s.get("/methodvar?m=PURGE");
    assert_eq!(b.last().method, "PURGE");
    let req = post("/body?x");
    assert_eq!(
        (req.header("content-length"), &req.body[..]),
        (Some("11"), &b"set:/body?x"[..])
    );
    let req = post("/nobody");
    assert_eq!(
        (req.header("content-length"), &req.body[..]),
        (None, &b""[..])
    );
    let req = post("/noheaders");
    assert_eq!(req.header("x-mine"), None);
    assert_eq!(req.body, b"abc");
}

#[test]
fn request_bodies() {
    let b = Backend::http(|req| {
        let length = req.header("content-length").unwrap_or("-").to_owned();
        let text = String::from_utf8_lossy(&req.body).into_owned();
        ok(format!("{} {length} {} {text}", req.method, req.chunked))
    });
    let s = http(
        r#"
        proxy_http_version 1.1;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /off { proxy_request_buffering off; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let ask = |rest: &str| s.request(rest.as_bytes()).text();
    let chunks = "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    assert_eq!(
        ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        "POST 3 false abc"
    );
    assert_eq!(
        ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
        "POST 0 false "
    );
    assert_eq!(
        ask(&format!("PUT / HTTP/1.1\r\nHost: a\r\n{chunks}")),
        "PUT 3 false abc"
    );
    assert_eq!(
        ask("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        "GET 3 false abc"
    );
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "GET - false ");
    assert_eq!(ask("POST / HTTP/1.1\r\nHost: a\r\n\r\n"), "POST - false ");
    assert_eq!(
        ask("POST /off HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        "POST 3 false abc"
    );
    // A body that is already there in full may get its length.
    let whole = ask(&format!("POST /off HTTP/1.1\r\nHost: a\r\n{chunks}"));
    assert!(
        ["POST - true abc", "POST 3 false abc"].contains(&whole.as_str()),
        "{whole}"
    );
    let mut c = s.connect();
    let head = "POST /off HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    c.send(format!("{head}2\r\nab"));
    wait_for("the head at the backend", || b.open() > 0);
    // So that the rest of the body is a read of its own.
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(
        c.send("\r\n1\r\nc\r\n0\r\n\r\n").response().text(),
        "POST - true abc"
    );
}

#[test]
fn request_buffering() {
    let (seen, got) = std::sync::mpsc::channel();
    let seen = std::sync::Mutex::new(seen);
    let b = Backend::raw(move |mut conn, _| {
        let Some(head) = conn.try_head() else { return };
        seen.lock().unwrap().send(head).unwrap();
        let length = if conn.try_until("!").is_some() {
            "1"
        } else {
            "0"
        };
        let _ = conn
            .try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{length}").as_bytes());
        conn.drain();
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /on { proxy_pass http://127.0.0.1:%%B0%%; }
            location /off {
                proxy_request_buffering off;
                proxy_http_version 1.1;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    for path in ["/on", "/off"] {
        let mut c = s.connect();
        c.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabc"
        ));
        let early = got.recv_timeout(std::time::Duration::from_millis(300));
        assert_eq!(early.is_ok(), path == "/off", "{path}");
        assert_eq!(c.send("!").response().text(), "1", "{path}");
        if path == "/on" {
            got.recv_timeout(PATIENCE).unwrap();
        }
    }
}

#[test]
fn client_gone() {
    let b = Backend::silent();
    let s = http(
        r#"
        log_format l "$status";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/l.log l;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /ignore { proxy_ignore_client_abort on; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let mut c = s.connect();
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the backend to be asked", || b.open() == 1);
    drop(c);
    wait_for("the backend to be left", || b.open() == 0);
    assert_eq!(s.lines("l.log", 1), ["499"]);
    let mut c = s.connect();
    c.send("GET /ignore HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the backend to be asked", || b.open() == 1);
    drop(c);
    assert!(!holds_within(std::time::Duration::from_millis(300), || b
        .open()
        == 0));
}

#[test]
fn bind_and_unix_socket() {
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            let peer = conn.tcp().peer_addr().unwrap().ip().to_string();
            conn.send(ok(peer)).finish();
            conn.drain();
        }
    });
    let setup = Setup::http(
        r#"
        upstream sock { server unix:%%DIR%%/app.sock; }
        server {
            listen 127.0.0.1:%%P0%%;
            location /bind { proxy_bind 127.0.0.9; proxy_pass http://127.0.0.1:%%B0%%; }
            location /bindvar { proxy_bind 127.0.0.$arg_n; proxy_pass http://127.0.0.1:%%B0%%; }
            location /bindoff { proxy_bind off; proxy_pass http://127.0.0.1:%%B0%%; }
            location /unix { proxy_pass http://unix:%%DIR%%/app.sock; }
            location /unixuri { proxy_pass http://unix:%%DIR%%/app.sock:/u/; }
            location /group { proxy_pass http://sock; }
        }
    "#,
    );
    let s = setup.backends(&[&b]).start();
    assert_eq!(s.get("/bind").text(), "127.0.0.9");
    assert_eq!(s.get("/bindvar?n=7").text(), "127.0.0.7");
    assert_eq!(s.get("/bindoff").text(), "127.0.0.1");
    let path = s.path("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0u8; 4096];
            let n = stream.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let host = head
                .lines()
                .find(|line| line.starts_with("Host:"))
                .unwrap_or("-");
            let first = head.lines().next().unwrap().split(' ').nth(1).unwrap();
            let answer = resp("200 OK", "Connection: close\r\n", format!("{first} {host}"));
            stream.write_all(&answer).unwrap();
        }
    });
    assert_eq!(s.get("/unix").text(), "/unix Host: localhost");
    assert_eq!(s.get("/unixuri/x").text(), "/u//x Host: localhost");
    assert_eq!(s.get("/group").text(), "/group Host: sock");
}

#[test]
fn variables_of_the_proxy() {
    let b = Backend::echo();
    let s = http(
        r#"
        upstream app { server 127.0.0.1:%%B0%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_set_header X-Vars "$proxy_host $proxy_port";
            location / { proxy_pass http://app; }
            location /addr { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    s.get("/");
    assert_eq!(b.last().header("x-vars"), Some("app 80"));
    s.get("/addr");
    let expected = format!("127.0.0.1:{0} {0}", b.port);
    assert_eq!(b.last().header("x-vars"), Some(expected.as_str()));
}

#[test]
fn proxy_pass_with_an_unknown_name() {
    let b = Backend::echo();
    let s = http(
        r#"
        upstream app { server 127.0.0.1:%%B0%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            location /noresolver { proxy_pass http://$arg_to; }
            location /address { proxy_pass http://$arg_to; }
            location /badscheme { proxy_pass $arg_to; }
        }
    "#,
        &[&b],
    );
    assert_eq!(s.get("/noresolver?to=name.invalid").status, 502);
    s.wait_for_text("error.log", "no resolver defined to resolve name.invalid");
    let to = format!("/address?to=127.0.0.1:{}", b.port);
    assert!(s.get(&to).text().starts_with(&format!("GET {to} HTTP/1.")));
    assert_eq!(s.get("/address?to=app").status, 200);
    assert_eq!(s.get("/badscheme?to=ftp://x").status, 500);
    s.wait_for_text("error.log", "invalid URL prefix in \"ftp://x\"");
}
