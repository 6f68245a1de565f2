//! Names resolved at run time.

use std::time::Duration;

use crate::common::*;

#[test]
fn a_name_in_a_variable() {
    let dns = Dns::start(1);
    dns.set("app.test", &["127.0.0.1"]);
    let b = Backend::echo();
    let conf = r#"
        resolver 127.0.0.1:%%DNS%% ipv6=off;
        resolver_timeout 500ms;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { set $to app.test; proxy_pass http://$to:%%B0%%; }
            location /unknown { set $to unknown.test; proxy_pass http://$to; }
        }
    "#;
    let s = Setup::http(conf)
        .backends(&[&b])
        .value("DNS", dns.port)
        .start();
    for _ in 0..3 {
        assert!(s.get("/x?y").text().starts_with("GET /x?y HTTP/1."));
    }
    assert_eq!(
        b.last().header("host"),
        Some(format!("app.test:{}", b.port).as_str())
    );
    assert_eq!(dns.queries(), 1, "the answer is kept for its TTL");
    assert_eq!(s.get("/unknown").status, 502);
    s.wait_for_text(
        "error.log",
        "unknown.test could not be resolved (3: Host not found)",
    );
    // After its TTL the name is asked for again, and its new address taken.
    dns.set("app.test", &["127.0.0.77"]);
    wait_for("the new address", || s.get("/").status == 502);
    s.wait_for_text(
        "error.log",
        &format!("upstream: \"http://127.0.0.77:{}/\"", b.port),
    );
}

#[test]
fn a_silent_name_server() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let conf = r#"
        resolver 127.0.0.1:%%DNS%% ipv6=off;
        resolver_timeout 300ms;
        server { listen 127.0.0.1:%%P0%%; set $to app.test; location / { proxy_pass http://$to; } }
    "#;
    let s = Setup::http(conf)
        .value("DNS", silent.local_addr().unwrap().port())
        .start();
    let start = std::time::Instant::now();
    assert_eq!(s.get("/").status, 502);
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(200) && took < Duration::from_secs(4),
        "{took:?}"
    );
    s.wait_for_text(
        "error.log",
        "app.test could not be resolved (110: Operation timed out)",
    );
}

#[test]
fn several_addresses_are_all_tried() {
    let dns = Dns::start(60);
    // Only the last one listens.
    dns.set("app.test", &["127.0.0.78", "127.0.0.79", "127.0.0.1"]);
    let b = Backend::fixed("reached");
    let conf = r#"
        resolver 127.0.0.1:%%DNS%% ipv6=off;
        server {
            listen 127.0.0.1:%%P0%%;
            set $to app.test;
            location / { proxy_pass http://$to:%%B0%%; }
        }
    "#;
    let s = Setup::http(conf)
        .backends(&[&b])
        .value("DNS", dns.port)
        .start();
    for _ in 0..5 {
        assert_eq!(s.get("/").text(), "reached");
    }
}

#[test]
fn servers_by_srv_records() {
    if skip_on_nginx("service= came with nginx 1.27.3") {
        return;
    }
    let dns = Dns::start(1);
    let backends = ["a", "b", "c"].map(Backend::fixed);
    let [a, b, c] = [0, 1, 2].map(|n: usize| backends[n].port);
    dns.set("one.test", &["127.0.0.1"]);
    dns.set("two.test", &["127.0.0.1"]);
    let records = [
        (1, 2, a, "one.test"),
        (1, 1, b, "two.test"),
        (9, 1, c, "two.test"),
    ];
    dns.set_services("_http._tcp.app.test", &records);
    let conf = r#"
        resolver 127.0.0.1:%%DNS%% ipv6=off;
        upstream u { zone u 64k; server app.test service=http resolve max_fails=0; }
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://u; } }
    "#;
    let s = Setup::http(conf).value("DNS", dns.port).start();
    wait_for("the first answer", || s.get("/").status == 200);
    let sorted = || {
        let mut all: Vec<String> = (0..6).map(|_| s.get("/").text()).collect();
        all.sort();
        all.concat()
    };
    assert_eq!(sorted(), "aaaabb", "by the weights of the records");
    dns.set_services("_http._tcp.app.test", &records[1..]);
    wait_for("the change", || sorted() == "bbbbbb");
    dns.set("two.test", &[]);
    dns.set_services(
        "_http._tcp.app.test",
        &[(1, 1, 1, "two.test"), (2, 1, c, "one.test")],
    );
    wait_for("the backup", || sorted() == "cccccc");
    assert!(!s.error_log().contains("panicked"));
}
