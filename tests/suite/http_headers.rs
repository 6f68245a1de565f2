//! add_header, allow and deny.

use crate::common::*;

#[test]
fn add_header() {
    let b = Backend::http(|req| resp(&format!("{} x", &req.target[1..4]), "X-Own: 1\r\n", "b"));
    let s = http(
        r#"
        add_header X-Http http;
        server {
            listen 127.0.0.1:%%P0%%;
            add_header X-Server $uri;
            add_header X-Always yes always;
            add_header X-Empty $arg_none;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /own { add_header X-Location a; add_header X-Location b; return 200; }
            location /local404 { return 404; }
            location /own-one { add_header X-Own 2; proxy_pass http://127.0.0.1:%%B0%%/200; }
        }
    "#,
        &[&b],
    );
    // Without `always` only for the statuses that are neither errors nor odd.
    for (status, added) in [
        (200, true),
        (201, true),
        (204, true),
        (206, true),
        (301, true),
        (302, true),
        (303, true),
        (304, true),
        (307, true),
        (308, true),
        (202, false),
        (400, false),
        (404, false),
        (500, false),
    ] {
        let r = s.get(&format!("/{status}"));
        assert_eq!(r.status, status);
        assert_eq!(r.header("x-server").is_some(), added, "{status}");
        assert_eq!(r.header("x-always"), Some("yes"), "{status}");
        assert_eq!((r.header("x-http"), r.header("x-empty")), (None, None));
    }
    let r = s.get("/own");
    assert_eq!(r.all("x-location"), ["a", "b"]);
    assert_eq!((r.header("x-server"), r.header("x-always")), (None, None));
    let r = s.get("/local404");
    assert_eq!(
        (r.header("x-server"), r.header("x-always")),
        (None, Some("yes"))
    );
    assert_eq!(s.get("/own-one").all("x-own"), ["1", "2"]);
    assert_eq!(s.get("/200/x").header("x-server"), Some("/200/x"));
}

#[test]
fn access() {
    let b = Backend::fixed("ok");
    let s = http(
        r#"
        server {
            listen 0.0.0.0:%%P0%%;
            location / { allow 127.0.0.1; deny all; return 200 ok; }
            location /file { allow 127.0.0.1; deny all; proxy_pass http://127.0.0.1:%%B0%%; }
            location /net {
                deny 127.0.0.0/30;
                allow 127.0.0.0/8;
                deny all;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /all { deny all; proxy_pass http://127.0.0.1:%%B0%%; }
            location /none { proxy_pass http://127.0.0.1:%%B0%%; }
            location /outer { deny 127.0.0.2; proxy_pass http://127.0.0.1:%%B0%%;
                location /outer/in { proxy_pass http://127.0.0.1:%%B0%%; }
                location /outer/own { allow all; proxy_pass http://127.0.0.1:%%B0%%; }
            }
            location /page { error_page 403 /403; deny all; proxy_pass http://127.0.0.1:%%B0%%; }
            location /403 { return 200 "page"; }
        }
    "#,
        &[&b],
    );
    let from = |ip: &str, path: &str| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&std::net::SocketAddr::new(ip.parse().unwrap(), 0).into())
            .unwrap();
        socket
            .connect(&std::net::SocketAddr::from(([127, 0, 0, 1], s.port(0))).into())
            .unwrap();
        let mut c = Conn::over(std::net::TcpStream::from(socket));
        c.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        c.response().status
    };
    // A return comes before the access phase.
    assert_eq!(from("127.0.0.2", "/"), 200);
    for (ip, path, status) in [
        ("127.0.0.1", "/net", 403),
        ("127.0.0.3", "/net", 403),
        ("127.0.0.2", "/file", 403),
        ("127.0.0.1", "/all", 403),
        ("127.0.0.2", "/outer", 403),
        ("127.0.0.2", "/outer/in", 403),
    ] {
        assert_eq!(from(ip, path), status, "{ip} {path}");
    }
    for (ip, path) in [
        ("127.0.0.1", "/file"),
        ("127.0.0.4", "/net"),
        ("127.0.0.9", "/none"),
        ("127.0.0.1", "/outer/in"),
        ("127.0.0.2", "/outer/own"),
    ] {
        assert_eq!(from(ip, path), 200, "{ip} {path}");
    }
    let r = s.get("/page");
    assert_eq!((r.status, r.text().as_str()), (403, "page"));
    s.wait_for_text("error.log", "access forbidden by rule, client: 127.0.0.1");
}

#[test]
fn access_by_ipv6_and_unix() {
    let b = Backend::fixed("ok");
    let s = http(
        r#"
        server {
            listen unix:%%DIR%%/s.sock;
            location / { allow unix:; deny all; proxy_pass http://127.0.0.1:%%B0%%; }
            location /no { deny unix:; proxy_pass http://127.0.0.1:%%B0%%; }
            location /ip {
                allow 127.0.0.1;
                allow ::1;
                deny all;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let status = |path: &str| {
        let mut c = Conn::unix(s.path("s.sock"));
        c.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ))
        .response()
        .status
    };
    assert_eq!((status("/"), status("/no"), status("/ip")), (200, 403, 403));
}
