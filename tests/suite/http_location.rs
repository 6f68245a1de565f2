//! Which location a URI selects, and what the URI looks like by then.

use crate::common::*;

#[test]
fn priorities() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 root; }
            location = / { return 200 exact-root; }
            location /docs { return 200 prefix; }
            location /docs/long { return 200 longer; }
            location ^~ /images/ { return 200 noregex; }
            location ~ \.(gif|jpg)$ { return 200 "regex $1"; }
            location ~* \.PNG$ { return 200 iregex; }
            location ~ ^/docs/re { return 200 first; }
            location ~ ^/docs/regex { return 200 second; }
            location = /docs/regex/exact { return 200 exact; }
            location ~ ^/cap/(?<a>\w+)/(?<b>\w+)$ { return 200 "$b $a"; }
            location "/sp ace" { return 200 space; }
        }
    "#,
        &[],
    );
    for (path, expected) in [
        ("/", "exact-root"),
        ("/?x", "exact-root"),
        ("/x", "root"),
        ("/docs", "prefix"),
        ("/docsy", "prefix"),
        ("/docs/long/x", "longer"),
        ("/docs/lon", "prefix"),
        ("/images/a.gif", "noregex"),
        ("/imagesa.gif", "regex gif"),
        ("/docs/a.jpg", "regex jpg"),
        ("/a.JPG", "root"),
        ("/a.png", "iregex"),
        ("/a.pNg?b", "iregex"),
        ("/docs/regex/x", "first"),
        ("/docs/regex/exact", "exact"),
        ("/DOCS", "root"),
        ("/cap/one/two", "two one"),
        ("/sp%20ace/x", "space"),
    ] {
        assert_eq!(s.get(path).text(), expected, "{path}");
    }
}

#[test]
fn nested() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /a/ {
                location = /a/exact { return 200 exact; }
                location /a/b/ {
                    return 200 inner;
                    location ~ x$ { return 200 innermost; }
                }
                location ~ \.php$ { return 200 php; }
                return 200 outer;
            }
            location ~ \.php$ { return 200 outer-php; }
            location ~ ^/re/ {
                location ~ \.txt$ { return 200 nested-re; }
                return 200 re;
            }
        }
    "#,
        &[],
    );
    for (path, expected) in [
        ("/a/", "outer"),
        ("/a/exact", "exact"),
        ("/a/b/c", "inner"),
        ("/a/b/x", "innermost"),
        ("/a/i.php", "php"),
        ("/a/b/i.php", "php"),
        ("/i.php", "outer-php"),
        ("/re/a.txt", "nested-re"),
        ("/re/a", "re"),
    ] {
        assert_eq!(s.get(path).text(), expected, "{path}");
    }
}

#[test]
fn automatic_redirect_to_the_slash() {
    let b = Backend::fixed("backend");
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /app/ { proxy_pass http://127.0.0.1:%%B0%%; }
            location /own/ { proxy_pass http://127.0.0.1:%%B0%%; }
            location = /own { return 200 own; }
            location /text/ { return 200 text; }
            location / { return 200 root; }
        }
    "#,
        &[&b],
    );
    let r = s.get("/app");
    let to = format!("http://localhost:{}/app/", s.port(0));
    assert_eq!((r.status, r.header("location")), (301, Some(to.as_str())));
    let r = s.get("/app?a=b&c");
    assert_eq!(r.header("location"), Some(format!("{to}?a=b&c").as_str()));
    assert_eq!(s.get("/app/").text(), "backend");
    assert_eq!(s.get("/own").text(), "own");
    assert_eq!(s.get("/text").text(), "root");
    assert_eq!(s.get("/appx").text(), "root");
}

#[test]
fn normalisation() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 "$uri|$args|$request_uri"; }
        }
        server {
            listen 127.0.0.1:%%P1%%;
            merge_slashes off;
            location / { return 200 "$uri"; }
        }
    "#,
        &[],
    );
    for (target, uri, args) in [
        ("/a/b", "/a/b", ""),
        ("/a/./b", "/a/b", ""),
        ("/a/../b", "/b", ""),
        ("/a/b/..", "/a/", ""),
        ("/a/b/.", "/a/b/", ""),
        ("/a/b/../../c", "/c", ""),
        ("/a/...", "/a/...", ""),
        ("/a/.../b", "/a/.../b", ""),
        ("/a/.b", "/a/.b", ""),
        ("/a/..b", "/a/..b", ""),
        ("//a///b", "/a/b", ""),
        ("/%61", "/a", ""),
        ("/%2e%2e/a", "400", ""),
        ("/x/%2e%2e/a", "/a", ""),
        ("/x/%2E/a", "/x/a", ""),
        ("/x%2fy", "/x/y", ""),
        ("/x%2f%2fy", "/x/y", ""),
        ("/a%3Fb", "/a?b", ""),
        ("/a%23b", "/a#b", ""),
        ("/a%25b", "/a%b", ""),
        ("/a?b=%61/../c", "/a", "b=%61/../c"),
        ("/a?b?c", "/a", "b?c"),
        ("/a?", "/a", ""),
        ("/a#frag", "/a", ""),
        ("/a#frag?x", "/a", ""),
        ("/a?x#frag", "/a", "x"),
        ("/a+b", "/a+b", ""),
        ("/a%20b", "/a b", ""),
        ("/../a", "400", ""),
        ("/a/../../b", "400", ""),
        ("/..", "400", ""),
        ("/%00", "400", ""),
        ("/%zz", "400", ""),
        ("/%", "400", ""),
        ("/%4", "400", ""),
        ("/a\\b", "/a\\b", ""),
        ("/%E4%BD%A0", "/\u{4f60}", ""),
        ("/\u{4f60}", "/\u{4f60}", ""),
    ] {
        let r = s.get(target);
        if uri == "400" {
            assert_eq!(r.status, 400, "{target}");
        } else {
            assert_eq!(r.text(), format!("{uri}|{args}|{target}"), "{target}");
        }
    }
    let unmerged = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        Conn::to(s.port(1)).send(request).response().text()
    };
    assert_eq!(unmerged("//a///b"), "//a///b");
    assert_eq!(unmerged("/a//../b"), "/a/b");
    assert_eq!(unmerged("/a/./b"), "/a/b");
}

#[test]
fn percent_decoding_happens_before_the_choice() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { return 200 root; }
            location /adm/ { return 403; }
            location = /exact { return 200 exact; }
            location ~ \.php$ { return 200 php; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/%61dm/x").status, 403);
    assert_eq!(s.get("/x/..//adm/").status, 403);
    assert_eq!(s.get("/%65xact").text(), "exact");
    assert_eq!(s.get("/a.p%68p").text(), "php");
    assert_eq!(s.get("/a.php%20").text(), "root");
}

#[test]
fn regexes_are_tried_in_order_and_may_look_around() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location ~ ^/(?!api)(\w+)/ { return 200 "not api: $1"; }
            location ~ (?<=/v)(\d+)$ { return 200 "version $1"; }
            location ~ ^/(\w)\1$ { return 200 "twice $1"; }
            location ~ "^/\d{3}$" { return 200 digits; }
            location / { return 200 none; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get("/web/x").text(), "not api: web");
    assert_eq!(s.get("/api/v12").text(), "version 12");
    assert_eq!(s.get("/zz").text(), "twice z");
    assert_eq!(s.get("/123").text(), "digits");
    assert_eq!(s.get("/1234").text(), "none");
}
