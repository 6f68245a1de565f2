//! The set-up of every tutorial: Debian's nginx.conf, which includes a proxy.conf with two
//! application servers.

use crate::common::*;

/// As Debian installs it, with one line added by the tutorial.
const NGINX_CONF: &str = include_str!("data/debian-nginx.conf");

/// As the tutorial writes it.
const PROXY_CONF: &str = r#"upstream wayshub {
    server 10.68.49.174:3000;
    server 10.68.49.101:3000;
}
server {
    server_name loadbalance.dumbways.xyz;

    location / {
             proxy_pass http://wayshub;
    }
}
"#;

/// The files with addresses, ports and directories exchanged, and nothing else.
fn reference(a: &Backend, b: &Backend) -> Setup {
    let include = "include %%DIR%%/sites-enabled/*;\n\tinclude %%DIR%%/dumbways/*;";
    let main = NGINX_CONF
        .replace("/etc/nginx", "%%DIR%%")
        .replace("/var/log/nginx", "%%DIR%%")
        .replace("/run/nginx.pid", "%%DIR%%/nginx.pid")
        .replace("include %%DIR%%/sites-enabled/*;", include);
    let proxy = PROXY_CONF
        .replace("10.68.49.174:3000", &format!("127.0.0.1:{}", a.port))
        .replace("10.68.49.101:3000", &format!("127.0.0.1:{}", b.port));
    let mut setup = Setup::full(&main).globals("daemon off;");
    let port = setup.reserve(0);
    let proxy = proxy.replace(
        "    server_name",
        &format!("    listen 127.0.0.1:{port};\n    server_name"),
    );
    let own = "server { listen 127.0.0.1:%%PORT%% default_server; return 200 default; }";
    setup
        .file("mime.types", include_str!("data/mime.types"))
        .file("dumbways/proxy.conf", proxy)
        .file(
            "dumbways/default.conf",
            own.replace("%%PORT%%", &port.to_string()),
        )
}

const HOST: &str = "Host: loadbalance.dumbways.xyz\r\n";

#[test]
fn it_balances() {
    let (a, b) = (Backend::fixed("a"), Backend::fixed("b"));
    let s = reference(&a, &b)
        .globals("daemon off; worker_rlimit_nofile 4096;")
        .start();
    let mut seen = String::new();
    for _ in 0..20 {
        seen += &s.get_with("/", HOST).text();
    }
    assert!(seen.contains('a') && seen.contains('b'), "{seen}");
    let r = s.get_with("/", HOST);
    assert!(r.header("server").unwrap().starts_with(prog()));
    assert_eq!(b.last().header("host"), Some("wayshub"));
    assert_eq!(s.get("/").text(), "default");
    s.wait_for_text("access.log", "\"GET / HTTP/1.1\" 200 1 \"-\" \"-\"");
    let output = s.run(&["-t"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn one_application_server_is_switched_off_under_load() {
    let (a, mut b) = (Backend::fixed("a"), Backend::fixed("b"));
    let s = reference(&a, &b).start();
    let load = Load::start_with(s.port(0), "/", HOST, 8);
    load.wait_for_more(200);
    b.stop();
    load.wait_for_more(500);
    b.restart();
    load.wait_for_more(500);
    b.stop();
    load.wait_for_more(500);
    load.assert_none_failed();
    assert_eq!(s.get_with("/", HOST).text(), "a");
    s.wait_for_text(
        "error.log",
        " upstream, client: 127.0.0.1, server: loadbalance.dumbways.xyz",
    );
}

#[test]
fn html_is_compressed_as_the_stock_file_says() {
    let html = "<p>hello</p>".repeat(100);
    let copy = html.clone();
    let a = Backend::http(move |_| resp("200 OK", "Content-Type: text/html\r\n", &copy));
    let s = reference(&a, &a).start();
    let r = s.get_with("/", &format!("{HOST}Accept-Encoding: gzip\r\n"));
    assert_eq!(r.header("content-encoding"), Some("gzip"));
    assert!(r.body.len() < 200);
    assert_eq!(s.get_with("/", HOST).text(), html);
}
