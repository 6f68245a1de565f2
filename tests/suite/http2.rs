//! HTTP/2 from clients, as far as requests and answers go.

use h2::Reason;

use crate::common::h2_client::{h2c, read, reason, with_h2};
use crate::common::tls::Identity;
use crate::common::*;

#[test]
fn one_port_speaks_both_versions() {
    if skip_on_nginx("1.22 speaks either on a port without TLS") {
        return;
    }
    let s = h2c("return 200 \"$http2 $server_protocol $request\\n\";").start();
    let url = format!("http://127.0.0.1:{}/x?y", s.port(0));
    for (args, expected) in [
        (&["--http1.1"][..], " HTTP/1.1 GET /x?y HTTP/1.1\n"),
        (
            &["--http2-prior-knowledge"],
            "h2c HTTP/2.0 GET /x?y HTTP/2.0\n",
        ),
        // The upgrade of RFC 7540 is no more.
        (&["--http2"], " HTTP/1.1 GET /x?y HTTP/1.1\n"),
        (&["--http1.0"], " HTTP/1.0 GET /x?y HTTP/1.0\n"),
    ] {
        let Some(output) = curl(&[args, &[url.as_str()]].concat()) else {
            return;
        };
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{args:?}"
        );
    }
}

#[test]
fn alpn_chooses_the_version() {
    let own = Identity::new(&["localhost"]);
    let conf = |listen: &str| {
        Setup::http(&format!(
            "ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
             server {{ {listen} return 200 \"$http2 $server_protocol $scheme\\n\"; }}"
        ))
        .file("c.pem", &own.cert)
        .file("k.pem", &own.key)
        .start()
    };
    let mut listens = vec!["listen 127.0.0.1:%%P0%% ssl http2;"];
    if !is_nginx() {
        listens.push("listen 127.0.0.1:%%P0%% ssl; http2 on;");
    }
    for listen in listens {
        let s = conf(listen);
        let url = format!("https://127.0.0.1:{}/", s.port(0));
        for (args, expected) in [
            (&["--http2"][..], "h2 HTTP/2.0 https\n"),
            (&["--http2", "--tls-max", "1.2"], "h2 HTTP/2.0 https\n"),
            (&["--http1.1"], " HTTP/1.1 https\n"),
            (&["--no-alpn"], " HTTP/1.1 https\n"),
        ] {
            let Some(output) = curl(&[&["-k"], args, &[url.as_str()]].concat()) else {
                return;
            };
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                expected,
                "{args:?}"
            );
        }
    }
    let s = conf("listen 127.0.0.1:%%P0%% ssl;");
    let url = format!("https://127.0.0.1:{}/", s.port(0));
    let output = curl(&["-k", "--http2", &url]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), " HTTP/1.1 https\n");
}

#[test]
fn the_deprecated_parameter_is_told_of() {
    if skip_on_nginx("1.22 knows no better") {
        return;
    }
    let s = Setup::http("server { listen 127.0.0.1:%%P0%% http2; return 200 x; }").start();
    let told = "the \"listen ... http2\" directive is deprecated, use the \"http2\" directive \
                instead";
    assert!(s.error_log().contains(told), "{}", s.error_log());
    with_h2(s.port(0), async |mut h2| {
        assert_eq!(h2.get("/").await.text(), "x")
    });
}

#[test]
fn heads_are_those_of_http_1() {
    let s = h2c(
        "location / { return 200 \"$host|$http_host|$http_cookie|$http_x_a|$request_uri|$scheme\"; }",
    )
    .start();
    with_h2(s.port(0), async |mut h2| {
        let mut request = h2.request("GET", "/a%20b?c");
        let headers = request.headers_mut();
        headers.append("cookie", "a=1".parse().unwrap());
        headers.append("x-a", "one".parse().unwrap());
        headers.append("cookie", "b=2".parse().unwrap());
        let got = h2.ask(request, b"").await.unwrap();
        let host = format!("127.0.0.1:{}", s.port(0));
        assert_eq!(
            got.text(),
            format!("127.0.0.1|{host}|a=1; b=2|one|/a%20b?c|http")
        );
        assert_eq!(got.status, 200);
        assert!(got.header("server").starts_with(prog()));
        assert_eq!(got.header("content-type"), "text/plain");
        assert_eq!(got.header("content-length"), got.body.len().to_string());
        for absent in ["connection", "transfer-encoding", "keep-alive"] {
            assert_eq!(got.header(absent), "", "{absent}");
        }
    });
}

#[test]
fn many_requests_at_once_share_a_connection() {
    let b = Backend::http(|req| ok(&req.target));
    let s = h2c(
        "location / { proxy_pass http://127.0.0.1:%%B0%%; } location /n { return 200 \
                 $connection_requests; }",
    )
    .backends(&[&b])
    .start();
    with_h2(s.port(0), async |mut h2| {
        let asking: Vec<_> = (0..60)
            .map(|n| {
                let mut h2 = h2.clone();
                tokio::task::spawn_local(async move {
                    let path = format!("/{n}");
                    (h2.get(&path).await.text(), path)
                })
            })
            .collect();
        for asked in asking {
            let (text, path) = asked.await.unwrap();
            assert_eq!(text, path);
        }
        assert_eq!(h2.get("/n").await.text(), "61");
    });
}

#[test]
fn bodies_go_both_ways() {
    let b = Backend::http(|req| {
        let length = req.header("content-length").unwrap_or("-");
        resp("200 OK", &format!("X-Length: {length}\r\n"), &req.body)
    });
    let s = h2c("client_max_body_size 8m; proxy_http_version 1.1;
         location / { proxy_pass http://127.0.0.1:%%B0%%; }
         location /through { proxy_pass http://127.0.0.1:%%B0%%; proxy_request_buffering off; }
         location /file { alias %%DIR%%/file; }")
    .backends(&[&b])
    .file("file", Rng(2).bytes(3_000_000))
    .start();
    with_h2(s.port(0), async |mut h2| {
        for size in [1, 10_000, 100_000, 2_000_000] {
            let body = Rng(size as u64).bytes(size);
            for path in ["/", "/through"] {
                let got = h2.post(path, &body).await;
                assert_eq!(hash(&got.body), hash(&body), "{path} {size}");
                let length = if path == "/" {
                    size.to_string()
                } else {
                    "-".into()
                };
                assert_eq!(got.header("x-length"), length);
            }
        }
        let got = h2.get("/file").await;
        assert_eq!(hash(&got.body), hash(&Rng(2).bytes(3_000_000)));
        assert_eq!(got.header("content-length"), "3000000");
        let mut request = h2.request("GET", "/file");
        request
            .headers_mut()
            .insert("range", "bytes=10-19".parse().unwrap());
        let got = h2.ask(request, b"").await.unwrap();
        assert_eq!((got.status, got.body.len()), (206, 10));
        let request = h2.request("HEAD", "/file");
        let got = h2.ask(request, b"").await.unwrap();
        assert_eq!(
            (got.header("content-length"), got.body.len()),
            ("3000000", 0)
        );
    });
}

#[test]
fn an_answer_that_breaks_off_is_reset() {
    let b = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
    let s = h2c("location / { proxy_pass http://127.0.0.1:%%B0%%; } location /no { return 444; }")
        .backends(&[&b])
        .start();
    with_h2(s.port(0), async |mut h2| {
        let ends = [
            ("/", Reason::INTERNAL_ERROR),
            ("/no", Reason::PROTOCOL_ERROR),
        ];
        for (path, expected) in ends {
            let request = h2.request("GET", path);
            let error = h2.ask(request, b"").await.unwrap_err();
            assert_eq!(reason(&error), Some(expected), "{path}");
        }
        // The connection goes on.
        let request = h2.request("GET", "/no");
        assert!(h2.ask(request, b"").await.is_err());
    });
}

#[test]
fn events_come_one_by_one() {
    let (next, asked) = std::sync::mpsc::channel();
    let asked = std::sync::Mutex::new(asked);
    let b = Backend::raw(move |mut conn, _| {
        conn.try_head();
        conn.send(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        );
        while let Ok(number) = asked.lock().unwrap().recv_timeout(PATIENCE) {
            conn.send(format!("9\r\ndata: {number}\n\n\r\n"));
        }
        conn.send("0\r\n\r\n");
    });
    let s = h2c("gzip on; location / { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .start();
    with_h2(s.port(0), async |mut h2| {
        let request = h2.request("GET", "/");
        let (answer, _) = h2.send.send_request(request, true).unwrap();
        next.send(0).unwrap();
        let mut events = answer.await.unwrap().into_body();
        for number in 1..5 {
            let event = events.data().await.unwrap().unwrap();
            assert_eq!(event, format!("data: {}\n\n", number - 1));
            // Only now is there another.
            next.send(number).unwrap();
        }
        drop(next);
        assert_eq!(read(&mut events).await.unwrap(), b"data: 4\n\n");
    });
}

#[test]
fn a_request_that_is_cancelled_ends_at_the_server_too() {
    let b = Backend::silent();
    let s = h2c(
        "access_log %%DIR%%/log; location / { proxy_pass http://127.0.0.1:%%B0%%; }
         location /ok { return 200 fine; }",
    )
    .backends(&[&b])
    .start();
    with_h2(s.port(0), async |mut h2| {
        let request = h2.request("GET", "/");
        let (answer, mut stream) = h2.send.send_request(request, true).unwrap();
        assert_eq!(h2.get("/ok").await.text(), "fine");
        wait_for("the request at the server", || b.open() == 1);
        stream.send_reset(Reason::CANCEL);
        assert!(answer.await.is_err());
        assert_eq!(h2.get("/ok").await.text(), "fine");
        wait_for("the end of the server's connection", || b.open() == 0);
        let lines = s.lines("log", 3);
        assert!(
            lines.iter().any(|line| line.contains("\" 499 ")),
            "{lines:?}"
        );
    });
}

#[test]
fn trailers_reach_the_client() {
    if skip_on_nginx("1.22 passes no trailers of HTTP/1.1") {
        return;
    }
    let b = Backend::bytes(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         5\r\nhello\r\n0\r\nX-Sum: 17\r\n\r\n",
    );
    let s = h2c("proxy_http_version 1.1;
        location / { proxy_pass http://127.0.0.1:%%B0%%; proxy_pass_trailers on; }
        location /off { proxy_pass http://127.0.0.1:%%B0%%; }")
    .backends(&[&b])
    .start();
    with_h2(s.port(0), async |mut h2| {
        let got = h2.get("/off").await;
        assert!(got.trailers.is_none());
        let got = h2.get("/").await;
        assert_eq!(got.text(), "hello");
        let trailers = got.trailers.unwrap();
        assert_eq!(trailers.get("x-sum").unwrap(), "17");
        assert_eq!(trailers.len(), 1);
    });
}

#[test]
fn websockets_pass_through_extended_connect() {
    if skip_on_nginx("1.22 has no RFC 8441") {
        return;
    }
    let b = Backend::raw(|mut conn, _| {
        let head = conn.take_until("\r\n\r\n").to_ascii_lowercase();
        assert!(head.starts_with("get /chat?x http/1.1\r\n"), "{head}");
        for line in [
            "upgrade: websocket",
            "connection: upgrade",
            "sec-websocket-version: 13",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        let key = head.split("sec-websocket-key: ").nth(1).unwrap();
        assert_eq!(key.find("\r\n"), Some(24), "{head}");
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nwelcome",
        );
        while let Some(bytes) = conn.try_take(4) {
            conn.send(bytes);
        }
        conn.send("bye");
    });
    let s = h2c(
        "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
         proxy_set_header Connection upgrade;
         location / { proxy_pass http://127.0.0.1:%%B0%%; } location /no { return 403; }",
    )
    .backends(&[&b])
    .start();
    with_h2(s.port(0), async |mut h2| {
        let connect = |path: &str| {
            let mut request = h2.request("CONNECT", path);
            request
                .extensions_mut()
                .insert(h2::ext::Protocol::from_static("websocket"));
            let headers = request.headers_mut();
            headers.insert("sec-websocket-version", "13".parse().unwrap());
            request
        };
        let (chat, no) = (connect("/chat?x"), connect("/no"));
        // Our settings have arrived with the first answer.
        let refused = h2.request("CONNECT", "/");
        assert_eq!(h2.get("/no").await.status, 403);
        let (response, mut sending) = h2.send.send_request(chat, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers().get("sec-websocket-protocol").unwrap(),
            "chat"
        );
        assert!(response.headers().get("upgrade").is_none());
        sending.send_data("ping".into(), false).unwrap();
        let mut body = response.into_body();
        let mut got = Vec::new();
        while got.len() < "welcomeping".len() {
            got.extend_from_slice(&body.data().await.unwrap().unwrap());
        }
        assert_eq!(got, b"welcomeping");
        sending.send_data(Default::default(), true).unwrap();
        assert_eq!(read(&mut body).await.unwrap(), b"bye");
        let (response, _) = h2.send.send_request(no, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 403);
        drop(refused);
    });
}

#[test]
fn connect_and_trace_are_not_allowed() {
    let s = h2c("return 200;").start();
    with_h2(s.port(0), async |mut h2| {
        let request = h2.request("TRACE", "/");
        assert_eq!(h2.ask(request, b"").await.unwrap().status, 405);
        if is_nginx() {
            return;
        }
        let request = http::Request::connect("127.0.0.1:80").body(()).unwrap();
        assert_eq!(h2.ask(request, b"").await.unwrap().status, 405);
        s.wait_for_text("error.log", "client sent CONNECT method");
    });
}

#[test]
fn a_body_is_asked_for_where_it_is_expected() {
    if skip_on_nginx("1.22 does not answer Expect in HTTP/2") {
        return;
    }
    let b = Backend::echo();
    let s = h2c("location / { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .start();
    with_h2(s.port(0), async |mut h2| {
        let mut request = h2.request("POST", "/");
        let headers = request.headers_mut();
        headers.insert("expect", "100-continue".parse().unwrap());
        let (mut response, mut sending) = h2.send.send_request(request, false).unwrap();
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
        assert_eq!(interim.unwrap().unwrap().status(), 100);
        sending.send_data("body".into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn early_hints_pass() {
    if skip_on_nginx("1.22 drops them") {
        return;
    }
    let b = Backend::raw(|mut conn, _| {
        while conn.try_head().is_some() {
            conn.send("HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\nConnection: x\r\n\r\n");
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let s = h2c("location / { proxy_pass http://127.0.0.1:%%B0%%; }
         location /never { proxy_pass http://127.0.0.1:%%B0%%; early_hints 0 $arg_x; }")
    .backends(&[&b])
    .start();
    with_h2(s.port(0), async |mut h2| {
        for (path, expected) in [("/", 1), ("/never", 0), ("/never?x=1", 1)] {
            let request = h2.request("GET", path);
            let (mut response, _) = h2.send.send_request(request, true).unwrap();
            let mut hints = Vec::new();
            while let Some(hint) = std::future::poll_fn(|cx| response.poll_informational(cx)).await
            {
                hints.push(hint.unwrap());
            }
            assert_eq!(hints.len(), expected, "{path}");
            for hint in hints {
                assert_eq!(hint.status(), 103);
                assert_eq!(hint.headers().get("link").unwrap(), "</x.css>");
                assert_eq!(hint.headers().len(), 1);
            }
            assert_eq!(response.await.unwrap().status(), 200);
        }
    });
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\nHTTP/1.1 200 OK\r\n";
    let ask = |path: &str| {
        s.exchange(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ))
    };
    assert!(ask("/never?x=1").starts_with(hint), "{}", ask("/never?x=1"));
    assert!(ask("/").starts_with("HTTP/1.1 200 OK\r\n"));
}
