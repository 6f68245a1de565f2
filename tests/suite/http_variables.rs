//! nginx's variables.

use crate::common::*;

/// A server that answers with `text`.
fn saying(text: &str) -> Server {
    let conf = format!(
        r#"
        server {{
            listen 127.0.0.1:%%P0%%;
            server_name front.test alias.test;
            location / {{ return 200 "{text}"; }}
        }}
    "#
    );
    http(&conf, &[])
}

#[test]
fn the_request() {
    let s = saying(
        "$request|$request_method|$request_uri|$uri|$document_uri|$args|$query_string|$is_args|\
         $server_protocol|$scheme|$https",
    );
    assert_eq!(
        s.get("/a%20b?x=%20y").text(),
        "GET /a%20b?x=%20y HTTP/1.1|GET|/a%20b?x=%20y|/a b|/a b|x=%20y|x=%20y|?|HTTP/1.1|http|"
    );
    assert_eq!(
        s.request("HEAD / HTTP/1.0\r\n\r\n".replace("HEAD", "PUT"))
            .text(),
        "PUT / HTTP/1.0|PUT|/|/|/||||HTTP/1.0|http|"
    );
}

#[test]
fn arguments_headers_cookies() {
    let s = saying(
        "$arg_a|$arg_B|$arg_none|$http_x_one|$http_none|$cookie_sid|$cookie_x|$content_type|\
         $content_length|$http_cookie|$http_host",
    );
    let r = s.request(
        "POST /?a=1&b=2&a=3&ab=4 HTTP/1.1\r\nHost: Front.Test:8\r\nX-One: v\r\nX-One: w\r\n\
         Cookie: x=1; sid=abc; SID=def\r\nContent-Type: text/x\r\nContent-Length: 2\r\n\r\nok",
    );
    let one = if is_nginx() && !r.text().contains("v, w") {
        "v"
    } else {
        "v, w"
    };
    assert_eq!(
        r.text(),
        format!("1|2||{one}||abc|1|text/x|2|x=1; sid=abc; SID=def|Front.Test:8")
    );
    assert_eq!(s.get("/?B=upper&A=").text(), "|upper|||||||||localhost");
    assert_eq!(s.get("/?xa=1&a=b=c&b").text(), "b=c||||||||||localhost");
    let r = s.get_with("/", "Cookie: sid=1\r\nCookie: x=2\r\n");
    assert_eq!(
        r.text(),
        "||||||1|2|||sid=1; x=2|localhost".replacen('|', "", 1)
    );
}

#[test]
fn addresses_and_names() {
    let s = saying(
        "$remote_addr|$server_addr|$server_port|$server_name|$host|$hostname|$remote_user|\
         $binary_remote_addr",
    );
    let r = s.get_with(
        "/",
        "Host: ALIAS.test:99\r\nAuthorization: Basic YWxhZGRpbjpzZXNhbWU=\r\n",
    );
    let hostname = read("/proc/sys/kernel/hostname").trim().to_owned();
    let expected = format!(
        "127.0.0.1|127.0.0.1|{}|front.test|alias.test|{hostname}|aladdin|",
        s.port(0)
    );
    assert!(
        r.body.starts_with(expected.as_bytes()),
        "{} for {expected}",
        r.text()
    );
    assert_eq!(r.body[expected.len()..], [127, 0, 0, 1]);
    let s = saying("$host|$remote_port");
    let mut c = s.connect();
    let text = c.send("GET / HTTP/1.0\r\n\r\n").response().text();
    assert_eq!(text, format!("front.test|{}", c.local_port()));
}

#[test]
fn counters_and_times() {
    let s = saying(
        "$connection|$connection_requests|$msec|$time_iso8601|$time_local|$request_time|$pid|\
         $pipe|$nginx_version|$request_id|$request_length|$connection_time",
    );
    let mut c = s.connect();
    let mut first_connection = String::new();
    let mut ids = std::collections::BTreeSet::new();
    for n in 1..=3 {
        let r = c
            .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .response()
            .text();
        let f: Vec<&str> = r.split('|').collect();
        if n == 1 {
            first_connection = f[0].to_owned();
        }
        assert_eq!(f[0], first_connection);
        assert_eq!(f[1], n.to_string());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let msec: f64 = f[2].parse().unwrap();
        assert!((now.as_secs_f64() - msec).abs() < 5.0, "{msec}");
        assert_eq!(f[2].split('.').nth(1).unwrap().len(), 3);
        let iso = f[3].as_bytes();
        assert!(
            iso.len() == 25 && iso[10] == b'T' && iso[22] == b':',
            "{}",
            f[3]
        );
        let local = f[4].as_bytes();
        assert!(
            local.len() == 26 && local[2] == b'/' && local[11] == b':',
            "{}",
            f[4]
        );
        assert!(f[5].starts_with("0.0") && f[5].len() == 5, "{}", f[5]);
        assert!(f[6].parse::<u32>().unwrap() > 1);
        assert_eq!(f[7], ".");
        assert_eq!(
            f[8].split('.')
                .filter(|part| part.parse::<u32>().is_ok())
                .count(),
            3
        );
        assert!(
            f[9].len() == 32 && f[9].bytes().all(|b| b.is_ascii_hexdigit()),
            "{}",
            f[9]
        );
        assert!(ids.insert(f[9].to_owned()));
        assert_eq!(f[10], "27");
        assert!(f[11].parse::<f64>().is_ok());
    }
    let r = s
        .connect()
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .response()
        .text();
    assert_ne!(r.split('|').next().unwrap(), first_connection);
}

#[test]
fn the_answer_in_the_log() {
    let b = Backend::http(|_| {
        resp(
            "201 Made",
            "X-Own: own\r\nContent-Type: text/x\r\n",
            "12345",
        )
    });
    let s = http(
        r#"
        log_format v "$status|$body_bytes_sent|$bytes_sent|$sent_http_x_own|$sent_http_content_type|"
                     "$sent_http_content_length|$sent_http_connection|$sent_http_location|"
                     "$request_completion|$request_length|$upstream_http_content_type|$pipe";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/v.log v;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /local { add_header X-Own local; return 200 local; }
            location /to { return 302 http://other/; }
        }
    "#,
        &[&b],
    );
    let length = |path: &str| {
        let bytes = s.exchange(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        bytes.len()
    };
    let lengths = [length("/"), length("/local"), length("/to")];
    let lines = s.lines("v.log", 3);
    assert_eq!(
        lines[0],
        format!("201|5|{}|own|text/x|5|close|-|OK|46|text/x|.", lengths[0])
    );
    assert_eq!(
        lines[1],
        format!(
            "200|5|{}|local|application/octet-stream|5|close|-|OK|51|-|.",
            lengths[1]
        )
        .replace("application/octet-stream", "text/plain")
    );
    assert!(lines[2].starts_with("302|"));
    assert!(lines[2].contains(&format!("|{}|", lengths[2])));
    assert!(lines[2].contains("|http://other/|OK|"), "{}", lines[2]);
}

#[test]
fn request_body_and_limit_rate() {
    let b = Backend::echo();
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_set_header X-Body $request_body;
            proxy_set_header X-Rate $limit_rate;
            location / { set $limit_rate 10k; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    s.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(b.last().header("x-body"), Some("body"));
    assert_eq!(b.last().header("x-rate"), Some("10240"));
    s.request(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    );
    assert_eq!(b.last().header("x-body"), Some("body"));
}

#[test]
fn braces_and_neighbours() {
    let s = saying("${uri}x$arg_a-$arg_b.$request_method${is_args}");
    assert_eq!(s.get("/p?a=1&b=2").text(), "/px1-2.GET?");
}

#[test]
fn upstreams_after_an_internal_redirect() {
    let b = Backend::http(|req| match req.target.as_str() {
        "/404" => resp("404 Not Found", "X-A: first\r\n", ""),
        _ => resp("200 OK", "X-A: second\r\n", "ok"),
    });
    let s = http(
        r#"
        log_format v "$upstream_addr|$upstream_status|$upstream_http_x_a|$proxy_host";
        upstream empty { server 127.0.0.1:1 down; }
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/v.log v;
            proxy_intercept_errors on;
            location /named { error_page 404 = @other; proxy_pass http://127.0.0.1:%%B0%%/404; }
            location @other { proxy_pass http://127.0.0.1:%%B0%%; }
            location /local { error_page 404 /page; proxy_pass http://127.0.0.1:%%B0%%/404; }
            location /page { return 200 "$status $upstream_status"; }
            location /none { proxy_pass http://empty; }
        }
    "#,
        &[&b],
    );
    assert_eq!(s.get("/named").text(), "ok");
    assert_eq!(s.get("/local").text(), "404 404");
    assert_eq!(s.get("/none").status, 502);
    let peer = format!("127.0.0.1:{}", b.port);
    assert_eq!(
        s.lines("v.log", 3),
        [
            format!("{peer} : {peer}|404 : 200|second|{peer}"),
            format!("{peer}|404|first|-"),
            "empty|502|-|empty".to_owned(),
        ]
    );
}

#[test]
fn pipelined_requests_and_cookies() {
    let s = saying("$pipe|$cookie_a|$remote_user");
    let mut c = s.connect();
    c.send(
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: b=1; A = \"x y\"; c\r\n\r\n\
         GET / HTTP/1.1\r\nHost: a\r\nCookie: xa=2,a=3; a=4\r\n\
         Authorization: Basic !!\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(c.response().text(), ".|\"x y\"|");
    assert_eq!(c.response().text(), "p|3|");
}

#[test]
fn files() {
    let s = Setup::http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            root %%DIR%%/www;
            location / { return 200 "$document_root|$request_filename|$realpath_root"; }
            location /alias/ { alias %%DIR%%/other/; return 200 "$document_root|$request_filename"; }
            location /if/ {
                if (-f $request_filename) { return 200 file; }
                if (-d $request_filename) { return 200 directory; }
                if (!-e $request_filename) { return 200 nothing; }
            }
        }
    "#,
    )
    .file("www/if/a/b.txt", "x")
    .start();
    let dir = s.path("").display().to_string();
    let dir = dir.trim_end_matches('/');
    assert_eq!(
        s.get("/x%20y").text(),
        format!("{dir}/www|{dir}/www/x y|{dir}/www")
    );
    assert_eq!(
        s.get("/alias/z").text(),
        format!("{dir}/other/|{dir}/other/z")
    );
    for (path, expected) in [
        ("/if/a/b.txt", "file"),
        ("/if/a", "directory"),
        ("/if/a/", "directory"),
        ("/if/c", "nothing"),
        ("/if/a/b.txt/c", "nothing"),
    ] {
        assert_eq!(s.get(path).text(), expected, "{path}");
    }
}
