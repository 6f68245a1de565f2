//! The client's address as trusted proxies tell it.

use crate::common::*;

const SHOW: &str =
    r#"return 200 "$remote_addr $remote_port|$realip_remote_addr|$binary_remote_addr";"#;

/// What the server takes the client's address to be.
fn client(s: &Server, headers: &str) -> String {
    let text = s.get_with("/", headers).text();
    let (addr, rest) = text.split_once('|').unwrap();
    assert!(rest.starts_with("127.0.0.1|"), "{text}");
    let (ip, port) = addr.split_once(' ').unwrap();
    match port.parse::<u16>() {
        Ok(port) if ip != "127.0.0.1" => format!("{ip} {port}"),
        _ => ip.to_owned(),
    }
}

fn server(conf: &str) -> Server {
    http(
        &format!("server {{ listen 127.0.0.1:%%P0%%; {conf} location / {{ {SHOW} }} }}"),
        &[],
    )
}

#[test]
fn a_field_names_the_client() {
    let s = server("set_real_ip_from 127.0.0.1;");
    assert_eq!(client(&s, ""), "127.0.0.1");
    assert_eq!(client(&s, "X-Real-IP: 192.0.2.1\r\n"), "192.0.2.1");
    assert_eq!(client(&s, "x-real-ip: 192.0.2.1:80\r\n"), "192.0.2.1 80");
    assert_eq!(client(&s, "X-Real-IP: 2001:db8::1\r\n"), "2001:db8::1");
    assert_eq!(
        client(&s, "X-Real-IP: [2001:db8::1]:80\r\n"),
        "2001:db8::1 80"
    );
    assert_eq!(client(&s, "X-Real-IP: nobody\r\n"), "127.0.0.1");
    assert_eq!(client(&s, "X-Forwarded-For: 192.0.2.1\r\n"), "127.0.0.1");
}

#[test]
fn strangers_are_not_believed() {
    let s = server("set_real_ip_from 192.0.2.0/24; set_real_ip_from unix:;");
    assert_eq!(client(&s, "X-Real-IP: 192.0.2.1\r\n"), "127.0.0.1");
}

#[test]
fn a_chain_of_proxies() {
    let list = "X-Forwarded-For: 192.0.2.9, 192.0.2.1\r\nX-Forwarded-For: 10.0.0.2,10.0.0.1\r\n";
    let conf = "set_real_ip_from 127.0.0.1; set_real_ip_from 10.0.0.0/8;
        real_ip_header X-Forwarded-For;";
    let s = server(conf);
    assert_eq!(client(&s, list), "10.0.0.1");
    let s = server(&format!("{conf} real_ip_recursive on;"));
    assert_eq!(client(&s, list), "192.0.2.1");
    assert_eq!(
        client(&s, "X-Forwarded-For: 10.0.0.2, 10.0.0.1\r\n"),
        "10.0.0.2"
    );
}

#[test]
fn each_request_of_a_connection_has_its_own() {
    let s = server("set_real_ip_from 127.0.0.1;");
    let mut c = s.connect();
    for (field, expected) in [
        ("X-Real-IP: 192.0.2.1\r\n", "192.0.2.1 |"),
        ("", "127.0.0.1 "),
        ("X-Real-IP: 192.0.2.2\r\n", "192.0.2.2 |"),
    ] {
        let text = c
            .send(format!("GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n"))
            .response()
            .text();
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("|127.0.0.1|"), "{text}");
    }
}

#[test]
fn access_and_logs_go_by_the_real_address() {
    let s = http(
        r#"
        log_format who "$remote_addr $realip_remote_addr $proxy_add_x_forwarded_for";
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/who.log who;
            set_real_ip_from localhost;
            location / { deny 192.0.2.1; allow all; root /nowhere; }
        }
    "#,
        &[],
    );
    assert_eq!(s.get_with("/", "X-Real-IP: 192.0.2.1\r\n").status, 403);
    assert_eq!(s.get_with("/", "X-Real-IP: 192.0.2.2\r\n").status, 404);
    s.wait_for_text("who.log", "192.0.2.1 127.0.0.1 192.0.2.1\n");
    s.wait_for_text("error.log", "access forbidden by rule, client: 192.0.2.1, ");
}

#[test]
fn the_proxy_protocol_names_the_client() {
    let s = http(
        &format!(
            "server {{ listen 127.0.0.1:%%P0%% proxy_protocol; set_real_ip_from 127.0.0.1;
             real_ip_header proxy_protocol; location / {{ {SHOW} }} }}"
        ),
        &[],
    );
    let get = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let text = s.request(format!("PROXY TCP4 192.0.2.1 192.0.2.2 12 34\r\n{get}"));
    assert!(text.text().starts_with("192.0.2.1 12|127.0.0.1|"));
    let text = s.request(format!("PROXY UNKNOWN\r\n{get}"));
    assert!(text.text().starts_with("127.0.0.1 "));
}

#[test]
fn mistakes_are_told() {
    for (conf, message) in [
        (
            "set_real_ip_from no.such.host.invalid;",
            "host not found in set_real_ip_from \"no.such.host.invalid\"",
        ),
        (
            "real_ip_header a; real_ip_header b;",
            "\"real_ip_header\" directive is duplicate",
        ),
    ] {
        let conf = format!("server {{ listen 127.0.0.1:%%P0%%; {conf} }}");
        let (output, _) = Setup::http(&conf).args(&["-t"]).run();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(message), "{text}");
    }
}
