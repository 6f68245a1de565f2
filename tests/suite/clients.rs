//! A client of the world: curl.

use crate::common::*;

#[test]
fn curl_in_its_ways() {
    let b = Backend::http(|req| {
        let expect = if req.header("expect").is_some() {
            " expect"
        } else {
            ""
        };
        ok(format!(
            "{} {} {}{expect}",
            req.method,
            req.body.len(),
            req.chunked
        ))
    });
    let s = Setup::http(
        r#"
        client_max_body_size 0;
        gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_http_version 1.1;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /moved { return 301 /; }
        }
        server { listen 127.0.0.1:%%P1%% proxy_protocol; return 200 $proxy_protocol_addr; }
    "#,
    );
    let s = s
        .backends(&[&b])
        .file("upload", Rng(1).bytes(2_000_000))
        .start();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", s.port(0));
    let ask = |args: &[&str], path: &str| {
        let url = url(path);
        let output = curl(&[args, &[url.as_str()]].concat())?;
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let upload = format!("@{}", s.path("upload").display());
    let file = s.path("upload").display().to_string();
    for (args, expected) in [
        (&[][..], "GET 0 false"),
        (&["-0"], "GET 0 false"),
        (&["--compressed"], "GET 0 false"),
        (&["-d", "abc"], "POST 3 false"),
        (&["--data-binary", &upload], "POST 2000000 false"),
        (&["-T", &file], "PUT 2000000 false"),
        (
            &["-H", "Transfer-Encoding: chunked", "-d", "abc"],
            "POST 3 false",
        ),
    ] {
        let Some(text) = ask(args, "/") else { return };
        assert_eq!(text, expected, "{args:?}");
    }
    assert_eq!(ask(&["-L"], "/moved").unwrap(), "GET 0 false");
    let (one, two) = (url("/1"), url("/2"));
    let output = curl(&[
        "-w",
        "%{num_connects};",
        "-o",
        "/dev/null",
        &one,
        "-o",
        "/dev/null",
        &two,
    ]);
    assert_eq!(output.unwrap().stdout, b"1;0;", "the connection is kept");
    let proxied = format!("http://127.0.0.1:{}/", s.port(1));
    assert_eq!(
        curl(&["--haproxy-protocol", &proxied]).unwrap().stdout,
        b"127.0.0.1"
    );
}
