//! Files from disk: where they are found, how they are sent, what their head says.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, UNIX_EPOCH};

use crate::common::*;

const TYPES: &str = "types { text/html html; text/plain txt; application/json json; }";
/// The last change of every file that [`site`] makes, as dates and in a tag.
const CHANGED: u64 = 1_000_000_000;
const CHANGED_DATE: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

/// A server with a few files below `html`.
fn site(conf: &str) -> Server {
    let files = [
        ("html/index.html", "front"),
        ("html/a.txt", "0123456789"),
        ("html/dir/index.html", "dir"),
        ("html/dir/b.json", "{}"),
        ("html/bare/x y.txt", "x"),
        ("html/bare/sub/z", "z"),
        ("html/50x.html", "sorry"),
        ("other/c.txt", "other"),
    ];
    let mut setup = Setup::http(&format!("{TYPES} {conf}"));
    for (name, content) in files {
        setup = setup.file(name, content);
    }
    let server = setup.start();
    for (name, _) in files {
        set_changed(&server, name);
    }
    server
}

fn set_changed(server: &Server, name: &str) {
    let changed = UNIX_EPOCH + Duration::from_secs(CHANGED);
    let file = File::options().write(true).open(server.path(name)).unwrap();
    file.set_times(FileTimes::new().set_modified(changed))
        .unwrap();
}

/// Status and body, or the status and the Location of a redirect.
fn seen(s: &Server, path: &str) -> (u16, String) {
    let r = s.get(path);
    let text = match r.status {
        200 => r.text(),
        301 | 302 => r.header("location").unwrap().to_owned(),
        _ => String::new(),
    };
    (r.status, text)
}

#[test]
fn root_alias_and_index() {
    let s = site(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /al/ { alias other/; }
            location /abs/ { alias %%DIR%%/html/dir/; }
            location = /one { alias other/c.txt; }
            location ~ ^/re/(.*)$ { alias %%DIR%%/other/$1; }
            location /vroot/ { root %%DIR%%/$arg_r; }
            location /idx/ { alias html/dir/; index missing.html $arg_i /a.txt; }
            location /list/ { alias html/bare/; index /dir/b.json; }
            location /rewritten/ { alias html/dir/; rewrite ^ /x/index.html break; }
        }
    "#,
    );
    let here = format!("http://localhost:{}", s.port(0));
    let ok = |path: &str| {
        let (status, text) = seen(&s, path);
        assert_eq!(status, 200, "{path}");
        text
    };
    assert_eq!(ok("/"), "front");
    assert_eq!(ok("/index.html"), "front");
    assert_eq!(ok("/a.txt?x=y"), "0123456789");
    assert_eq!(ok("/dir/"), "dir");
    assert_eq!(ok("/dir/../a%2etxt"), "0123456789");
    assert_eq!(ok("/bare/x%20y.txt"), "x");
    assert_eq!(ok("/al/c.txt"), "other");
    assert_eq!(ok("/abs/b.json"), "{}");
    assert_eq!(ok("/abs/"), "dir");
    assert_eq!(ok("/one"), "other");
    assert_eq!(ok("/re/c.txt"), "other");
    assert_eq!(seen(&s, "/vroot/?r=html").0, 404);
    assert_eq!(ok("/idx/?i=b.json"), "{}");
    assert_eq!(ok("/idx/?i=no"), "0123456789");
    assert_eq!(ok("/list/"), "{}");
    assert_eq!(seen(&s, "/dir"), (301, format!("{here}/dir/")));
    assert_eq!(seen(&s, "/dir?a=b"), (301, format!("{here}/dir/?a=b")));
    assert_eq!(
        seen(&s, "/abs/../bare/sub"),
        (301, format!("{here}/bare/sub/"))
    );
    assert_eq!(seen(&s, "/al").0, 404);
    let mut s = s;
    assert_eq!(seen(&s, "/rewritten/x").0, 500);
    s.wait_for_text(
        "error.log",
        "\"alias\" cannot be used in location \"/rewritten/\" where URI was rewritten",
    );
    s.expect_alerts();
}

#[test]
fn what_cannot_be_served() {
    let s = site(
        "server { listen 127.0.0.1:%%P0%%; location /quiet/ { log_not_found off; } location /al/ { alias other; } }",
    );
    let dir = s.prefix.display().to_string();
    for (path, status, line) in [
        (
            "/no",
            404,
            format!("open() \"{dir}/html/no\" failed (2: No such file or directory)"),
        ),
        (
            "/a.txt/b",
            404,
            format!("open() \"{dir}/html/a.txt/b\" failed (20: Not a directory)"),
        ),
        (
            "/no/",
            404,
            format!("\"{dir}/html/no/index.html\" is not found (2: No such file or directory)"),
        ),
        (
            "/a.txt/",
            404,
            format!("\"{dir}/html/a.txt/index.html\" is not found (20: Not a directory)"),
        ),
        (
            "/bare/",
            403,
            format!("directory index of \"{dir}/html/bare/\" is forbidden"),
        ),
        (
            "/al/",
            403,
            format!("directory index of \"{dir}/other\" is forbidden"),
        ),
        (
            "/al/c.txt",
            404,
            format!("open() \"{dir}/otherc.txt\" failed (2: No such file or directory)"),
        ),
    ] {
        assert_eq!(s.get(path).status, status, "{path}");
        s.wait_for_text("error.log", &format!("{line}, client: 127.0.0.1, server: "));
    }
    assert_eq!(s.get("/quiet/x").status, 404);
    assert!(!s.error_log().contains("/html/quiet/x"));
    for method in ["PUT", "DELETE", "POST", "OPTIONS", "FOO"] {
        let r = s.request(format!(
            "{method} /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(r.status, 405, "{method}");
    }
    let r = s.request("PUT /bare/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(r.status, 405);
    let r = s.request("POST /bare/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(r.status, 403);
}

#[test]
fn the_head_of_a_file() {
    let s = site(
        r#"
        default_type application/x-thing;
        server {
            listen 127.0.0.1:%%P0%%;
            error_page 404 /50x.html;
            location /notag/ { alias html/; etag off; }
        }
    "#,
    );
    let r = s.get("/a.txt");
    assert_eq!((r.status, r.text().as_str()), (200, "0123456789"));
    for (name, value) in [
        ("content-type", Some("text/plain")),
        ("content-length", Some("10")),
        ("last-modified", Some(CHANGED_DATE)),
        ("etag", Some("\"3b9aca00-a\"")),
        ("accept-ranges", Some("bytes")),
    ] {
        assert_eq!(r.header(name), value, "{name}");
    }
    let mut c = s.connect();
    c.send("HEAD /a.txt HTTP/1.1\r\nHost: a\r\n\r\n");
    let r = c.head_response();
    assert_eq!((r.status, r.header("content-length")), (200, Some("10")));
    // The connection goes on.
    c.send("GET /bare/sub/z HTTP/1.1\r\nHost: a\r\n\r\n");
    let r = c.response();
    assert_eq!(
        (r.text().as_str(), r.header("content-type")),
        ("z", Some("application/x-thing"))
    );
    let r = s.get("/notag/a.txt");
    assert_eq!(
        (r.header("etag"), r.header("last-modified")),
        (None, Some(CHANGED_DATE))
    );
    let r = s.get_with("/missing", "Range: bytes=0-1\r\nIf-None-Match: *\r\n");
    assert_eq!((r.status, r.text().as_str()), (404, "sorry"));
    assert_eq!(
        (r.header("accept-ranges"), r.header("etag")),
        (None, Some("\"3b9aca00-5\""))
    );
}

#[test]
fn conditions() {
    let s = site(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            add_header X-A b;
            location /before/ { alias html/; if_modified_since before; }
            location /never/ { alias html/; if_modified_since off; }
        }
    "#,
    );
    let tag = "\"3b9aca00-a\"";
    let (same, old, new) = (
        CHANGED_DATE,
        "Sun, 09 Sep 2001 01:46:39 GMT",
        "Sun, 09 Sep 2001 01:46:41 GMT",
    );
    for (path, fields, status) in [
        ("/", format!("If-Modified-Since: {same}"), 304),
        ("/", format!("If-Modified-Since: {new}"), 200),
        ("/", format!("If-Modified-Since: {old}"), 200),
        ("/", "If-Modified-Since: yesterday".into(), 200),
        ("/before/", format!("If-Modified-Since: {new}"), 304),
        ("/before/", format!("If-Modified-Since: {old}"), 200),
        ("/never/", format!("If-Modified-Since: {same}"), 200),
        ("/", format!("If-None-Match: {tag}"), 304),
        ("/", format!("If-None-Match: \"x\", W/{tag}"), 304),
        ("/", "If-None-Match: *".into(), 304),
        ("/", "If-None-Match: \"x\"".into(), 200),
        (
            "/",
            format!("If-None-Match: {tag}\r\nIf-Modified-Since: {old}"),
            200,
        ),
        (
            "/",
            format!("If-None-Match: {tag}\r\nIf-Modified-Since: {same}"),
            304,
        ),
        ("/", format!("If-Match: {tag}"), 200),
        ("/", format!("If-Match: W/{tag}"), 412),
        ("/", "If-Match: \"x\"".into(), 412),
        ("/", format!("If-Unmodified-Since: {same}"), 200),
        ("/", format!("If-Unmodified-Since: {old}"), 412),
    ] {
        let r = s.get_with(&format!("{path}a.txt"), &format!("{fields}\r\n"));
        assert_eq!(r.status, status, "{path} {fields}");
        if status == 304 {
            assert_eq!(r.header("etag"), Some(tag));
            assert_eq!(r.header("last-modified"), Some(CHANGED_DATE));
            assert_eq!(r.header("x-a"), Some("b"));
            for absent in [
                "content-type",
                "content-length",
                "accept-ranges",
                "transfer-encoding",
            ] {
                assert_eq!(r.header(absent), None, "{absent}");
            }
        }
    }
}

#[test]
fn ranges() {
    let s = site(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location /none/ { alias html/; max_ranges 0; }
            location /one/ { alias html/; max_ranges 1; }
            location /zip/ { alias html/; gzip on; gzip_types *; gzip_min_length 1; }
            location /cs/ { alias html/; charset koi8-r; }
        }
    "#,
    );
    let ask = |path: &str, range: &str| s.get_with(path, &format!("Range: {range}\r\n"));
    for (range, content_range, body) in [
        ("bytes=0-0", "bytes 0-0/10", "0"),
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=-30", "bytes 0-9/10", "0123456789"),
        ("bytes=8-99", "bytes 8-9/10", "89"),
        ("Bytes= 1 - 2 ", "bytes 1-2/10", "12"),
        ("bytes=20-30,1-1", "bytes 1-1/10", "1"),
    ] {
        let r = ask("/a.txt", range);
        assert_eq!((r.status, r.text().as_str()), (206, body), "{range}");
        assert_eq!(r.header("content-range"), Some(content_range));
        assert_eq!(
            r.header("content-length"),
            Some(body.len().to_string().as_str())
        );
        assert_eq!(r.header("accept-ranges"), None);
    }
    for range in ["bytes=10-", "bytes=x", "bytes=5", "bytes=-0", "bytes=4-2"] {
        let r = ask("/a.txt", range);
        assert_eq!(
            (r.status, r.header("content-range")),
            (416, Some("bytes */10")),
            "{range}"
        );
        assert_eq!(r.header("content-type"), Some("text/html"));
    }
    for (path, range) in [
        ("/a.txt", "lines=1-2"),
        ("/a.txt", "bytes="),
        ("/a.txt", "bytes=0-9,0-9"),
        ("/none/a.txt", "bytes=0-0"),
        ("/one/a.txt", "bytes=0-0,2-2"),
    ] {
        assert_eq!(ask(path, range).status, 200, "{path} {range}");
    }
    assert_eq!(s.get("/none/a.txt").header("accept-ranges"), None);
    let r = ask("/cs/a.txt", "bytes=0-0,-2");
    let kind = r.header("content-type").unwrap();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let part = |range: &str, body: &str| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: text/plain; charset=koi8-r\r\n\
             Content-Range: bytes {range}/10\r\n\r\n{body}"
        )
    };
    let expected = part("0-0", "0") + &part("8-9", "89") + &format!("\r\n--{boundary}--\r\n");
    assert_eq!((r.status, r.text()), (206, expected));
    // Ranges of a body that is compressed on the way mean nothing.
    let r = s.get_with(
        "/zip/a.txt",
        "Range: bytes=0-0\r\nAccept-Encoding: gzip\r\n",
    );
    assert_eq!(
        (r.status, r.header("content-encoding")),
        (200, Some("gzip"))
    );
    assert_eq!(
        (r.header("accept-ranges"), r.header("etag")),
        (None, Some("W/\"3b9aca00-a\""))
    );
    for (condition, status) in [
        ("\"3b9aca00-a\"".to_owned(), 206),
        ("\"x\"".to_owned(), 200),
        (CHANGED_DATE.to_owned(), 206),
        ("Sun, 09 Sep 2001 01:46:41 GMT".to_owned(), 200),
    ] {
        let r = s.get_with(
            "/a.txt",
            &format!("Range: bytes=0-0\r\nIf-Range: {condition}\r\n"),
        );
        assert_eq!(r.status, status, "{condition}");
    }
}

#[test]
fn try_files() {
    let s = site(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { try_files $uri $uri/ /dir/b.json; }
            location /code/ { try_files $uri =410; }
            location /named/ { try_files $uri @back; }
            location @back { return 200 "back $uri $args"; }
            location /args/ { try_files /no /show?q=$arg_x; }
            location /show { return 200 "show $uri $args"; }
            location /al/ { alias other/; try_files $uri $uri.txt /index.html; }
            location ~ ^/re/(.*) { alias %%DIR%%/other/; try_files $1 =404; }
            location /dirs/ { root html; try_files /bare/ /dir/ =404; }
            location /loop/ { try_files /no1 /loop/again; }
        }
    "#,
    );
    assert_eq!(seen(&s, "/a.txt"), (200, "0123456789".into()));
    assert_eq!(seen(&s, "/"), (200, "front".into()));
    assert_eq!(seen(&s, "/dir/"), (200, "dir".into()));
    assert_eq!(seen(&s, "/dir").0, 301);
    assert_eq!(seen(&s, "/some/where"), (200, "{}".into()));
    assert_eq!(seen(&s, "/code/x").0, 410);
    assert_eq!(seen(&s, "/named/x?a=b"), (200, "back /named/x a=b".into()));
    assert_eq!(seen(&s, "/args/x?x=1"), (200, "show /show q=1".into()));
    assert_eq!(seen(&s, "/al/c.txt"), (200, "other".into()));
    assert_eq!(seen(&s, "/al/c"), (200, "other".into()));
    assert_eq!(seen(&s, "/al/no"), (200, "front".into()));
    assert_eq!(seen(&s, "/re/c.txt"), (200, "other".into()));
    assert_eq!(seen(&s, "/re/no").0, 404);
    assert_eq!(seen(&s, "/dirs/x").0, 301);
    assert_eq!(seen(&s, "/loop/x").0, 500);
}

#[test]
fn expires() {
    let s = site(
        r#"
        map $arg_e $e { default $arg_e; }
        server {
            listen 127.0.0.1:%%P0%%;
            location /hour/ { alias html/; expires 1h; add_header Cache-Control public; }
            location /neg/ { alias html/; expires -1; }
            location /zero/ { alias html/; expires 0; }
            location /epoch/ { alias html/; expires epoch; }
            location /max/ { alias html/; expires max; }
            location /off/ { alias html/; expires off; }
            location /mod/ { alias html/; expires modified 1d; }
            location /daily/ { alias html/; expires @12h; }
            location /var/ { alias html/; expires $e; }
        }
    "#,
    );
    let fields = |path: &str| {
        let r = s.get(path);
        let expires = r.header("expires").unwrap_or_default().to_owned();
        (expires, r.all("cache-control").join("; "))
    };
    assert_eq!(fields("/hour/a.txt").1, "max-age=3600; public");
    assert_eq!(fields("/hour/no"), (String::new(), String::new()));
    assert_eq!(fields("/neg/a.txt").1, "no-cache");
    assert_eq!(fields("/zero/a.txt").1, "max-age=0");
    assert_eq!(
        fields("/epoch/a.txt"),
        ("Thu, 01 Jan 1970 00:00:01 GMT".into(), "no-cache".into())
    );
    assert_eq!(
        fields("/max/a.txt"),
        (
            "Thu, 31 Dec 2037 23:55:55 GMT".into(),
            "max-age=315360000".into()
        )
    );
    assert_eq!(fields("/off/a.txt"), (String::new(), String::new()));
    assert_eq!(
        fields("/mod/a.txt"),
        ("Mon, 10 Sep 2001 01:46:40 GMT".into(), "no-cache".into())
    );
    let (date, age) = fields("/daily/a.txt");
    let age: u64 = age.strip_prefix("max-age=").unwrap().parse().unwrap();
    assert!(age <= 86_400 && date.contains(":00:00 GMT"), "{date} {age}");
    assert_eq!(fields("/var/a.txt?e=2m").1, "max-age=120");
    assert_eq!(fields("/var/a.txt?e=max").1, "max-age=315360000");
    assert_eq!(fields("/var/a.txt"), (String::new(), String::new()));
}

#[test]
fn charset() {
    let b = Backend::http(|_| resp("200 OK", "Content-Type: text/html; charset=x\r\n", "hello"));
    let setup = Setup::http(&format!(
        "{TYPES} {}",
        r#"
        charset utf-8;
        server {
            listen 127.0.0.1:%%P0%%;
            location /off/ { alias html/; charset off; }
            location /types/ { alias html/; charset_types application/json; }
            location /back/ { proxy_pass http://127.0.0.1:%%B0%%; }
            location /moved/ { return 301 /x; }
            location /text/ { return 200 text; }
        }
    "#
    ));
    let s = setup
        .backends(&[&b])
        .file("html/a.txt", "text")
        .file("html/b.json", "{}")
        .start();
    let kind = |path: &str| {
        s.get(path)
            .header("content-type")
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(kind("/a.txt"), "text/plain; charset=utf-8");
    assert_eq!(kind("/b.json"), "application/json");
    assert_eq!(kind("/off/a.txt"), "text/plain");
    assert_eq!(kind("/types/b.json"), "application/json; charset=utf-8");
    assert_eq!(kind("/types/a.txt"), "text/plain");
    assert_eq!(kind("/back/"), "text/html; charset=x");
    assert_eq!(kind("/moved/"), "text/html");
    assert_eq!(kind("/text/"), "text/plain; charset=utf-8");
    assert_eq!(kind("/no"), "text/html; charset=utf-8");
}

#[test]
fn autoindex() {
    let s = site(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            autoindex on;
            location /short/ { alias html/bare/; autoindex_exact_size off; charset utf-8; }
        }
    "#,
    );
    fs::write(s.path("html/bare/.hidden"), "").unwrap();
    fs::write(s.path("html/bare/big&<>.bin"), vec![0; 20_000]).unwrap();
    fs::write(s.path("html/bare/ünï.txt"), "x").unwrap();
    fs::write(s.path("html/bare").join("long-".repeat(12)), "x").unwrap();
    for name in ["html/bare/big&<>.bin", "html/bare/ünï.txt"] {
        set_changed(&s, name);
    }
    let r = s.get("/bare/");
    assert_eq!(
        (r.status, r.header("content-type")),
        (200, Some("text/html"))
    );
    let page = r.text();
    assert!(page.starts_with(
        "<html>\r\n<head><title>Index of /bare/</title></head>\r\n<body>\r\n\
         <h1>Index of /bare/</h1><hr><pre><a href=\"../\">../</a>\r\n<a href=\"sub/\">sub/</a>"
    ));
    assert!(page.ends_with("</pre><hr></body>\r\n</html>\r\n"));
    let date = "09-Sep-2001 01:46";
    let line = |href: &str, name: &str, pad: usize, size: &str| {
        format!(
            "<a href=\"{href}\">{name}</a>{} {date} {size}\r\n",
            " ".repeat(pad)
        )
    };
    let size = |size: &str, width: usize| format!("{size:>width$}");
    let x = line("x%20y.txt", "x y.txt", 43, &size("1", 19));
    assert!(page.contains(&x), "{page}");
    let big = line(
        "big%26%3C%3E.bin",
        "big&amp;&lt;&gt;.bin",
        40,
        &size("20000", 19),
    );
    assert!(page.contains(&big), "{page}");
    assert!(page.contains(&line("%C3%BCn%C3%AF.txt", "ünï.txt", 41, &size("1", 19))));
    assert!(page.contains(&format!(">{}..&gt;</a> ", &"long-".repeat(12)[..47])));
    assert!(!page.contains("hidden") && page.find("sub/") < page.find("big"));
    let page = s.get("/short/").text();
    let big = line(
        "big%26%3C%3E.bin",
        "big&amp;&lt;&gt;.bin",
        40,
        &size("20K", 7),
    );
    assert!(page.contains(&big), "{page}");
    assert!(
        page.contains(&line("%C3%BCn%C3%AF.txt", "ünï.txt", 43, &size("1", 7))),
        "{page}"
    );
    assert_eq!(s.get("/").text(), "front");
    assert_eq!(s.get("/nothing/").status, 404);
}

#[test]
fn files_of_every_size_arrive_whole() {
    let s = site(
        r#"
        gzip_types *;
        server {
            listen 127.0.0.1:%%P0%%;
            location /zip/ { alias html/; gzip on; }
            location /slow/ { alias html/; limit_rate 20m; }
        }
    "#,
    );
    let mut rng = Rng(11);
    for size in [
        0, 1, 32_767, 32_768, 65_535, 65_536, 65_537, 300_000, 5_000_000,
    ] {
        let body = rng.bytes(size);
        fs::write(s.path("html/body"), &body).unwrap();
        let mut c = s.connect();
        for path in ["/body", "/slow/body", "/body"] {
            c.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let r = c.response();
            assert!(
                r.complete && r.body == body,
                "{path} of {size}: {}",
                r.body.len()
            );
        }
        let r = s.get_with("/zip/body", "Accept-Encoding: gzip\r\n");
        if size > 20 {
            let mut plain = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&r.body[..]);
            std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
            assert!(plain == body, "{size}");
        }
        if size > 1000 {
            let (from, to) = (size / 3, size - 7);
            let r = s.get_with("/body", &format!("Range: bytes={from}-{to}\r\n"));
            assert!(r.status == 206 && r.body == body[from..=to], "{size}");
        }
    }
}

#[test]
fn gzip_static() {
    let s = site(
        r#"
        gzip_static on;
        server {
            listen 127.0.0.1:%%P0%%;
            location /vary/ { alias html/; gzip_vary on; gzip on; gzip_types *; gzip_min_length 1; }
            location /always/ { alias html/; gzip_static always; }
            location /off/ { alias html/; gzip_static off; }
        }
    "#,
    );
    fs::write(s.path("html/a.txt.gz"), "packed").unwrap();
    set_changed(&s, "html/a.txt.gz");
    fs::create_dir(s.path("html/50x.html.gz")).unwrap();
    let accept = "Accept-Encoding: gzip\r\n";
    let r = s.get_with("/a.txt", accept);
    assert_eq!(
        (r.text().as_str(), r.header("content-encoding")),
        ("packed", Some("gzip"))
    );
    assert_eq!(
        (r.header("content-type"), r.header("content-length")),
        (Some("text/plain"), Some("6"))
    );
    assert_eq!(
        (r.header("etag"), r.header("accept-ranges")),
        (Some("\"3b9aca00-6\""), None)
    );
    assert_eq!(r.header("vary"), None);
    let r = s.get_with("/a.txt", &format!("{accept}Range: bytes=1-2\r\n"));
    assert_eq!((r.status, r.text().as_str()), (200, "packed"));
    let r = s.get_with(
        "/a.txt",
        &format!("{accept}If-None-Match: \"3b9aca00-6\"\r\n"),
    );
    assert_eq!((r.status, r.header("content-encoding")), (304, None));
    for (path, headers, body) in [
        ("/a.txt", "", "0123456789"),
        ("/50x.html", accept, "sorry"),
        ("/off/a.txt", accept, "0123456789"),
        ("/always/a.txt", "", "packed"),
        ("/vary/a.txt", "", "0123456789"),
        ("/vary/a.txt", accept, "packed"),
    ] {
        let r = s.get_with(path, headers);
        assert_eq!((r.status, r.text().as_str()), (200, body), "{path}");
        let vary = path.starts_with("/vary").then_some("Accept-Encoding");
        assert_eq!(r.header("vary"), vary, "{path}");
    }
    let r = s.get_with("/vary/dir/b.json", accept);
    assert_eq!(
        (r.header("content-encoding"), r.header("vary")),
        (Some("gzip"), Some("Accept-Encoding"))
    );
}

#[test]
fn path_variables() {
    let s = site(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { root %%DIR%%/html/; return 200 "$document_root $request_filename"; }
            location /al/ { alias other/; return 200 "$document_root $request_filename"; }
            location /link/ { root link; return 200 "$realpath_root"; }
            location /if/ {
                root html;
                if (-f %%DIR%%/html$arg_f) { return 200 file; }
                return 200 none;
            }
        }
    "#,
    );
    let dir = fs::canonicalize(&s.prefix).unwrap().display().to_string();
    std::os::unix::fs::symlink(s.path("html"), s.path("link")).unwrap();
    assert_eq!(s.get("/x/y?z").text(), format!("{dir}/html {dir}/html/x/y"));
    assert_eq!(
        s.get("/al/c.txt").text(),
        format!("{dir}/other/ {dir}/other/c.txt")
    );
    assert_eq!(s.get("/link/").text(), format!("{dir}/html"));
    assert_eq!(s.get("/if/?f=/a.txt").text(), "file");
    assert_eq!(s.get("/if/?f=/no").text(), "none");
}
