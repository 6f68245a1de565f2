//! HTTP/2 from clients, as far as requests and answers go.

use h2::Reason;

use crate::common::h2_client::{h2c, reason, with_h2};
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
