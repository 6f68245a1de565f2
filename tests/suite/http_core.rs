//! Virtual hosts, answers made by the server itself, error pages.

use crate::common::*;

/// Which server answers, told by its `return`.
fn host_of(s: &Server, headers: &str) -> String {
    s.get_with("/", headers).text()
}

#[test]
fn server_names() {
    let s = http(
        r#"
        server { listen 127.0.0.1:%%P0%%; server_name first; return 200 first; }
        server {
            listen 127.0.0.1:%%P0%%;
            server_name exact.example EXACT2.example;
            return 200 exact;
        }
        server { listen 127.0.0.1:%%P0%%; server_name *.example; return 200 leading; }
        server { listen 127.0.0.1:%%P0%%; server_name *.deep.example; return 200 deep; }
        server { listen 127.0.0.1:%%P0%%; server_name www.*; return 200 trailing; }
        server { listen 127.0.0.1:%%P0%%; server_name .both.test; return 200 both; }
        server { listen 127.0.0.1:%%P0%%; server_name ~^re\d+\.; return 200 regex; }
        server { listen 127.0.0.1:%%P0%%; server_name ~^re2.*$; return 200 regex2; }
        server {
            listen 127.0.0.1:%%P0%%;
            server_name ~^(?<name>[a-z]+)\.named$;
            return 200 "named $name";
        }
        server { listen 127.0.0.1:%%P0%%; server_name ~^(.+)\.(.+)\.num$; return 200 "num $1 $2"; }
    "#,
        &[],
    );
    for (host, expected) in [
        ("first", "first"),
        ("nothing", "first"),
        ("exact.example", "exact"),
        ("EXACT.Example", "exact"),
        ("exact2.example", "exact"),
        ("exact.example:8080", "exact"),
        ("exact.example.", "exact"),
        ("other.example", "leading"),
        ("a.b.example", "leading"),
        ("a.deep.example", "deep"),
        ("example", "first"),
        ("www.anything.org", "trailing"),
        ("www.example", "leading"),
        ("www.", "first"),
        ("both.test", "both"),
        ("x.y.both.test", "both"),
        ("xboth.test", "first"),
        ("re1.org", "regex"),
        ("re2.org", "regex"),
        ("re2org", "regex2"),
        ("foo.named", "named foo"),
        ("a.b.num", "num a b"),
        ("127.0.0.1", "first"),
        ("[::1]:80", "first"),
    ] {
        assert_eq!(
            host_of(&s, &format!("Host: {host}\r\n")),
            expected,
            "Host: {host}"
        );
    }
}

#[test]
fn default_server_may_stand_anywhere() {
    let s = http(
        r#"
        server { listen 127.0.0.1:%%P0%%; server_name a; return 200 a; }
        server { listen 127.0.0.1:%%P0%% default_server; server_name b; return 200 b; }
        server { listen 127.0.0.1:%%P1%%; server_name a; return 200 a1; }
        server { listen 127.0.0.1:%%P1%%; server_name b; return 200 b1; }
        server { listen 127.0.0.1:%%P2%%; server_name ""; return 200 empty; }
        server { listen 127.0.0.1:%%P2%% default_server; server_name x; return 200 x; }
    "#,
        &[],
    );
    assert_eq!(host_of(&s, "Host: a\r\n"), "a");
    assert_eq!(host_of(&s, "Host: other\r\n"), "b");
    let at = |port, bytes: &str| Conn::to(s.port(port)).send(bytes).response().text();
    assert_eq!(at(1, "GET / HTTP/1.1\r\nHost: other\r\n\r\n"), "a1");
    assert_eq!(at(1, "GET / HTTP/1.1\r\nHost: b\r\n\r\n"), "b1");
    // Only HTTP/1.0 may come without a Host.
    assert_eq!(at(2, "GET / HTTP/1.0\r\n\r\n"), "empty");
    assert_eq!(at(2, "GET / HTTP/1.1\r\nHost: other\r\n\r\n"), "x");
}

#[test]
fn host_from_the_request_line_wins() {
    let s = http(
        r#"
        server { listen 127.0.0.1:%%P0%%; server_name a; return 200 "a $host $http_host $uri"; }
        server {
            listen 127.0.0.1:%%P0%%;
            server_name b;
            return 200 "b $host $http_host $uri?$args";
        }
    "#,
        &[],
    );
    let r = s.request("GET http://B:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(r.text(), "b b a /x?y");
    let r = s.request("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(r.text(), "b b a /?");
    let r = s.request("GET HTTP://b?q=1 HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!(r.text(), "b b b /?q=1");
    let r = s.request("GET http://b/ HTTP/1.0\r\n\r\n");
    assert_eq!(r.text(), "b b  /?");
}

#[test]
fn return_with_text() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            default_type text/x-default;
            location /text { return 200 "body\n"; }
            location /empty { return 200; }
            location /nothing { return 200 ""; }
            location /created { return 201 made; }
            location /nocontent { return 204; }
            location /nocontent-text { return 204 text; }
            location /vars { return 200 "$request_method $uri $args"; }
            location /unknown { return 299 x; }
            location /teapot { return 418 short; }
            location /notfound-text { return 404 "own text"; }
            location /type { default_type text/html; return 200 x; }
            location /close { return 444; }
            location /timeout { return 408; }
            location /599 { return 599; }
        }
    "#,
        &[],
    );
    let r = s.get("/text");
    assert_eq!(
        (r.status, r.reason.as_str(), r.text().as_str()),
        (200, "OK", "body\n")
    );
    assert_eq!(r.header("content-length"), Some("5"));
    assert_eq!(r.header("content-type"), Some("text/x-default"));
    assert_eq!(r.header("connection"), Some("close"));
    let r = s.get("/empty");
    assert_eq!(
        (r.status, r.header("content-length"), r.text().as_str()),
        (200, Some("0"), "")
    );
    assert_eq!(s.get("/nothing").header("content-length"), Some("0"));
    let r = s.get("/created");
    assert_eq!(
        (r.status, r.reason.as_str(), r.text().as_str()),
        (201, "Created", "made")
    );
    let r = s.get("/nocontent");
    assert_eq!((r.status, r.reason.as_str()), (204, "No Content"));
    assert_eq!(r.header("content-length"), None);
    assert_eq!(s.get("/nocontent-text").status, 204);
    assert_eq!(s.get("/vars?a=b&c").text(), "GET /vars a=b&c");
    let r = s.get("/unknown");
    assert_eq!((r.status, r.text().as_str()), (299, "x"));
    let r = s.get("/teapot");
    assert_eq!((r.status, r.text().as_str()), (418, "short"));
    let r = s.get("/notfound-text");
    assert_eq!((r.status, r.text().as_str()), (404, "own text"));
    assert_eq!(s.get("/type").header("content-type"), Some("text/html"));
    s.connect()
        .send("GET /close HTTP/1.1\r\nHost: a\r\n\r\n")
        .assert_closed();
    // A client that is late gets no answer: that is what 408 stands for in the log.
    s.connect()
        .send("GET /timeout HTTP/1.1\r\nHost: a\r\n\r\n")
        .assert_closed();
    assert_eq!(s.get("/599").status, 599);
}

#[test]
fn return_with_redirect() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            server_name named.test;
            location /301 { return 301 http://other/$uri; }
            location /302 { return 302 /relative?x=$arg_x; }
            location /303 { return 303 https://o/; }
            location /307 { return 307 /x; }
            location /308 { return 308 /x; }
            location /url { return http://just.url/; }
            location /https { return https://just.url/; }
            location /scheme { return $scheme://with.var/; }
            location /300 { return 300 text; }
            location /304 { return 304; }
            location /rel { absolute_redirect off; return 301 /x; }
            location /inname { server_name_in_redirect on; return 301 /x; }
            location /noport { port_in_redirect off; return 301 /x; }
        }
    "#,
        &[],
    );
    let p = s.port(0);
    let location = |path: &str| {
        let r = s.get(path);
        (
            r.status,
            r.reason.clone(),
            r.header("location").unwrap_or("-").to_owned(),
        )
    };
    let is = |path: &str, status: u16, reason: &str, to: &str| {
        assert_eq!(
            location(path),
            (status, reason.to_owned(), to.to_owned()),
            "{path}"
        );
    };
    is("/301", 301, "Moved Permanently", "http://other//301");
    is(
        "/302?x=y",
        302,
        "Moved Temporarily",
        &format!("http://localhost:{p}/relative?x=y"),
    );
    is("/303", 303, "See Other", "https://o/");
    is(
        "/307",
        307,
        "Temporary Redirect",
        &format!("http://localhost:{p}/x"),
    );
    is(
        "/308",
        308,
        "Permanent Redirect",
        &format!("http://localhost:{p}/x"),
    );
    is("/url", 302, "Moved Temporarily", "http://just.url/");
    is("/https", 302, "Moved Temporarily", "https://just.url/");
    is("/scheme", 302, "Moved Temporarily", "http://with.var/");
    is("/rel", 301, "Moved Permanently", "/x");
    is(
        "/inname",
        301,
        "Moved Permanently",
        &format!("http://named.test:{p}/x"),
    );
    is("/noport", 301, "Moved Permanently", "http://localhost/x");
    assert_eq!(s.get("/300").text(), "text");
    assert_eq!(s.get("/304").status, 304);
    let r = s.request("GET /302 HTTP/1.0\r\n\r\n");
    let own = r.header("location").unwrap().to_owned();
    assert_eq!(own, format!("http://127.0.0.1:{p}/relative?x="));
    let r = s.get("/301");
    assert_eq!(r.header("content-type"), Some("text/html"));
    assert!(
        r.text()
            .starts_with("<html>\r\n<head><title>301 Moved Permanently</title></head>\r\n")
    );
}

#[test]
fn built_in_error_pages() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            server_tokens off;
            location / { return 404; }
            location /400 { return 400; }
            location /401 { return 401; }
            location /402 { return 402; }
            location /403 { return 403; }
            location /405 { return 405; }
            location /406 { return 406; }
            location /409 { return 409; }
            location /410 { return 410; }
            location /411 { return 411; }
            location /412 { return 412; }
            location /413 { return 413; }
            location /414 { return 414; }
            location /415 { return 415; }
            location /416 { return 416; }
            location /421 { return 421; }
            location /429 { return 429; }
            location /500 { return 500; }
            location /501 { return 501; }
            location /502 { return 502; }
            location /503 { return 503; }
            location /504 { return 504; }
            location /505 { return 505; }
            location /507 { return 507; }
        }
    "#,
        &[],
    );
    let prog = prog();
    for (path, title) in [
        ("/", "404 Not Found"),
        ("/400", "400 Bad Request"),
        ("/401", "401 Authorization Required"),
        ("/402", "402 Payment Required"),
        ("/403", "403 Forbidden"),
        ("/405", "405 Not Allowed"),
        ("/406", "406 Not Acceptable"),
        ("/409", "409 Conflict"),
        ("/410", "410 Gone"),
        ("/411", "411 Length Required"),
        ("/412", "412 Precondition Failed"),
        ("/413", "413 Request Entity Too Large"),
        ("/414", "414 Request-URI Too Large"),
        ("/415", "415 Unsupported Media Type"),
        ("/416", "416 Requested Range Not Satisfiable"),
        ("/421", "421 Misdirected Request"),
        ("/429", "429 Too Many Requests"),
        ("/500", "500 Internal Server Error"),
        ("/501", "501 Not Implemented"),
        ("/502", "502 Bad Gateway"),
        ("/503", "503 Service Temporarily Unavailable"),
        ("/504", "504 Gateway Time-out"),
        ("/505", "505 HTTP Version Not Supported"),
        ("/507", "507 Insufficient Storage"),
    ] {
        let r = s.get(path);
        let text = format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n\
             <center><h1>{title}</h1></center>\r\n<hr><center>{prog}</center>\r\n\
             </body>\r\n</html>\r\n"
        );
        assert_eq!(r.text(), text, "{path}");
        // The status line and the page differ where the page has no reason of its own.
        let line = format!("{} {}", r.status, r.reason);
        let expected = title.replace("401 Authorization Required", "401 Unauthorized");
        assert_eq!(line, expected, "{path}");
        assert_eq!(r.header("content-type"), Some("text/html"));
        assert_eq!(r.header("server"), Some(prog));
    }
    // Old browsers replace pages of less than 512 bytes by their own: msie_padding.
    let r = s.get_with(
        "/",
        "User-Agent: Mozilla/4.0 (compatible; MSIE 6.0; Windows)\r\n",
    );
    let comment = "<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n";
    assert_eq!(r.text().matches(comment).count(), 6);
    let r = s.get_with("/", "User-Agent: Chrome/99\r\n");
    assert_eq!(r.text().matches(comment).count(), 6);
}

#[test]
fn server_tokens() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /on { return 404; }
            location /off { server_tokens off; return 404; }
            location /build { server_tokens build; return 404; }
            location /200 { return 200 x; }
        }
    "#,
        &[],
    );
    let with_version = |text: &str| {
        text.strip_prefix(prog())
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|version| {
                version.split('.').count() == 3
                    && version.bytes().all(|b| b == b'.' || b.is_ascii_digit())
            })
    };
    let r = s.get("/on");
    let server = r.header("server").unwrap().to_owned();
    assert!(with_version(&server), "{server}");
    assert!(r.text().contains(&format!("<hr><center>{server}</center>")));
    assert_eq!(s.get("/200").header("server"), Some(server.as_str()));
    let r = s.get("/off");
    assert_eq!(r.header("server"), Some(prog()));
    assert!(
        r.text()
            .contains(&format!("<hr><center>{}</center>", prog()))
    );
    assert!(
        s.get("/build")
            .header("server")
            .unwrap()
            .starts_with(&server)
    );
}

#[test]
fn error_page() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            error_page 404 /404;
            error_page 403 =200 /403;
            error_page 410 = /410;
            error_page 405 @named;
            error_page 500 502 503 504 =599 @named;
            error_page 402 http://elsewhere/$uri;
            error_page 406 =301 http://elsewhere/;
            error_page 409 /409?x=$arg_y;
            error_page 411 /chain;

            location / { return 404; }
            location /404 { internal; return 200 "page for $uri of $request_uri $status"; }
            location /f { return 403; }
            location /403 { return 200 changed; }
            location /g { return 410; }
            location /410 { return 201 gone; }
            location /m { return 405; }
            location @named { return 200 "named $uri"; }
            location /s { return 502; }
            location /away { return 402; }
            location /away301 { return 406; }
            location /args { return 409; }
            location /409 { return 200 "args $args"; }
            location /loop { return 411; }
            location /chain { return 411; }
            location /inherited { error_page 400 /x; return 404; }
            location /explicit { error_page 404 /other; return 404; }
            location /other { return 200 other; }
            location /deep { error_page 404 /missing; return 404; }
            location /missing { return 404; }
            location /rec { recursive_error_pages on; error_page 404 /rec2; return 404; }
            location /rec2 { recursive_error_pages on; error_page 404 =200 /403; return 404; }
        }
    "#,
        &[],
    );
    let is = |path: &str, status: u16, body: &str| {
        let r = s.get(path);
        assert_eq!((r.status, r.text().as_str()), (status, body), "{path}");
    };
    is("/x", 404, "page for /404 of /x 404");
    is("/404", 404, "page for /404 of /404 404");
    is("/f", 200, "changed");
    is("/g", 201, "gone");
    is("/m", 405, "named /m");
    is("/s", 599, "named /s");
    is("/args?y=1", 409, "args x=1");
    is("/explicit", 404, "other");
    is("/rec", 200, "changed");
    let r = s.get("/away");
    assert_eq!(
        (r.status, r.header("location")),
        (302, Some("http://elsewhere//away"))
    );
    let r = s.get("/away301");
    assert_eq!(
        (r.status, r.header("location")),
        (301, Some("http://elsewhere/"))
    );
    for path in ["/loop", "/inherited", "/deep"] {
        let r = s.get(path);
        assert!(r.text().contains("<center><h1>4"), "{path}: {}", r.head);
    }
    // The page is fetched by GET, except for HEAD.
    let r =
        s.request("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(
        (r.status, r.text().as_str()),
        (404, "page for /404 of /x 404")
    );
    let mut c = s.connect();
    let r = c
        .send("HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .head_response();
    assert_eq!((r.status, r.header("content-length")), (404, Some("23")));
    c.assert_closed();
}

#[test]
fn error_page_of_a_request_error() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            error_page 400 414 /bad;
            error_page 494 =431 @large;
            large_client_header_buffers 2 1k;
            location /bad { return 200 "bad page"; }
            location @large { return 200 "large page"; }
            location / { return 200 ok; }
        }
    "#,
        &[],
    );
    let r = s.request("GET / HTTP/1.1\r\n\r\n");
    assert_eq!((r.status, r.text().as_str()), (400, "bad page"));
    let r = s.request(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(2000)
    ));
    assert_eq!((r.status, r.text().as_str()), (431, "large page"));
    let r = s.request(format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
        "x".repeat(2000)
    ));
    assert_eq!((r.status, r.text().as_str()), (414, "bad page"));
}

#[test]
fn methods() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 "$request_method $uri"; }
        }
    "#,
        &[],
    );
    let ask = |line: &str| {
        s.request(format!(
            "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ))
    };
    for method in [
        "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "MKCOL", "LOCK",
    ] {
        assert_eq!(ask(&format!("{method} /x")).text(), format!("{method} /x"));
    }
    assert_eq!(ask("MADE-UP_METHOD /x").text(), "MADE-UP_METHOD /x");
    if is_nginx() {
        assert_eq!(ask("OPTIONS *").status, 400);
    } else {
        // RFC 9110, 9.3.7: the server as a whole is meant, so what serves its root answers.
        assert_eq!(ask("OPTIONS *").text(), "OPTIONS /");
    }
    assert_eq!(ask("get /x").status, 400);
    assert_eq!(ask("G\u{e9}T /x").status, 400);
    assert_eq!(ask("TRACE /x").status, 405);
    // 405 where CONNECT is understood, 400 where its target is no URI.
    assert!(matches!(ask("CONNECT a:443").status, 400 | 405));
    let mut c = s.connect();
    let r = c
        .send("HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .head_response();
    assert_eq!((r.status, r.header("content-length")), (200, Some("7")));
    c.assert_closed();
}

#[test]
fn the_date_is_now() {
    let s = http("server { listen 127.0.0.1:%%P0%%; return 200; }", &[]);
    let date = s.get("/").header("date").unwrap().to_owned();
    let then = httpdate::parse_http_date(&date).unwrap();
    let distance = std::time::SystemTime::now().duration_since(then).unwrap();
    assert!(distance.as_secs() < 5, "{date}");
}

#[test]
fn internal_locations_and_etag_free_answers() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location = /private { internal; return 200 secret; }
            location = /open { rewrite ^ /private last; }
            location @named { return 200 named; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/private").status, 404);
    assert_eq!(s.get("/open").text(), "secret");
    assert_eq!(
        s.request("GET @named HTTP/1.1\r\nHost: a\r\n\r\n").status,
        400
    );
}
