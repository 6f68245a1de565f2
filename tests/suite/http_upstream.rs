//! Balancing: which server gets which request, and what becomes of connections.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::*;

/// `n` backends answering with their letter.
fn letters(n: usize) -> Vec<Backend> {
    const LETTERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    LETTERS[..n]
        .iter()
        .map(|letter| Backend::fixed(letter))
        .collect()
}

/// A server passing everything to `upstream u { <group> }`.
fn group(group: &str, backends: &[Backend]) -> Server {
    let conf = format!(
        r#"
        upstream u {{ {group} }}
        server {{
            listen 127.0.0.1:%%P0%%;
            proxy_connect_timeout 500ms;
            proxy_read_timeout 2s;
            location / {{ proxy_pass http://u; }}
        }}
    "#
    );
    http(&conf, &backends.iter().collect::<Vec<_>>())
}

/// The letters of `n` requests in a row.
fn sequence(s: &Server, n: usize) -> String {
    (0..n).map(|_| s.get("/").text()).collect()
}

#[test]
fn round_robin() {
    let b = letters(3);
    let s = group(
        "server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; server 127.0.0.1:%%B2%%;",
        &b,
    );
    assert_eq!(sequence(&s, 9), "abcabcabc");
}

#[test]
fn weights_are_smooth() {
    let b = letters(3);
    let s = group(
        "server 127.0.0.1:%%B0%% weight=5; server 127.0.0.1:%%B1%%; server 127.0.0.1:%%B2%%;",
        &b,
    );
    assert_eq!(sequence(&s, 14), "aabacaaaabacaa");
    let s = group(
        "server 127.0.0.1:%%B0%% weight=3; server 127.0.0.1:%%B1%% weight=2; server \
         127.0.0.1:%%B2%%;",
        &b,
    );
    assert_eq!(sequence(&s, 12), "abacbaabacba");
}

#[test]
fn connections_of_one_client_do_not_stick() {
    let b = letters(2);
    let s = group("server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%;", &b);
    let mut c = s.connect();
    let got: String = (0..6)
        .map(|_| {
            c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .response()
                .text()
        })
        .collect();
    assert_eq!(got, "ababab");
}

#[test]
fn backup_and_down() {
    let mut b = letters(3);
    let s = group(
        "server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%% down; server 127.0.0.1:%%B2%% backup;",
        &b,
    );
    assert_eq!(sequence(&s, 3), "aaa");
    b[0].stop();
    assert_eq!(sequence(&s, 3), "ccc");
    assert_eq!(b[1].connections(), 0);
}

#[test]
fn a_failed_server_is_left_alone_for_a_while() {
    let b = letters(2);
    let failing = Backend::resetting();
    let s = http(
        r#"
        upstream u { server 127.0.0.1:%%B0%% fail_timeout=1s; server 127.0.0.1:%%B1%%; }
        upstream twice { server 127.0.0.1:%%B0%% max_fails=2; server 127.0.0.1:%%B1%%; }
        upstream never { server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%%; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://u; }
            location /twice { proxy_pass http://twice; }
            location /never { proxy_pass http://never; }
        }
    "#,
        &[&failing, &b[0]],
    );
    for _ in 0..10 {
        assert_eq!(s.get("/").text(), "a");
    }
    assert_eq!(failing.connections(), 1);
    for _ in 0..10 {
        assert_eq!(s.get("/twice").text(), "a");
    }
    assert_eq!(failing.connections(), 3);
    for _ in 0..10 {
        assert_eq!(s.get("/never").text(), "a");
    }
    assert_eq!(failing.connections(), 8);
    // After fail_timeout it is tried again.
    wait_for("another try", || {
        s.get("/").text() == "a" && failing.connections() == 9
    });
    s.wait_for_text("error.log", "upstream server temporarily disabled while ");
}

#[test]
fn all_failed_is_502_until_one_is_due() {
    let mut b = letters(2);
    let s = group(
        "server 127.0.0.1:%%B0%% fail_timeout=1s; server 127.0.0.1:%%B1%% fail_timeout=1s;",
        &b,
    );
    b[0].stop();
    b[1].stop();
    assert_eq!(s.get("/").status, 502);
    let r = s.get("/");
    assert_eq!(r.status, 502);
    s.wait_for_text(
        "error.log",
        "no live upstreams while connecting to upstream",
    );
    b[1].restart();
    wait_for("the group to come back", || s.get("/").text() == "b");
}

#[test]
fn a_single_server_never_fails_out() {
    let mut b = letters(1);
    let s = group("server 127.0.0.1:%%B0%%;", &b);
    b[0].stop();
    for _ in 0..3 {
        assert_eq!(s.get("/").status, 502);
    }
    b[0].restart();
    assert_eq!(s.get("/").text(), "a");
    assert!(!s.error_log().contains("no live upstreams"));
}

/// A backend that answers `/hold` only after the test says so.
fn holding(letter: &'static str) -> (Backend, std::sync::mpsc::Sender<()>) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::http(move |req| {
        if req.target == "/hold" {
            let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        }
        ok(letter)
    });
    (backend, go)
}

#[test]
fn least_conn() {
    let (a, go) = holding("a");
    let b = letters(2);
    let s = http(
        r#"
        upstream u { least_conn; server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; }
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://u; } }
    "#,
        &[&a, &b[1]],
    );
    assert_eq!(sequence(&s, 4), "abab");
    let mut c = s.connect();
    c.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the held request", || a.requests() == 3);
    assert_eq!(sequence(&s, 4), "bbbb");
    go.send(()).unwrap();
    assert_eq!(c.response().text(), "a");
    assert!(sequence(&s, 4).contains('a'));
}

#[test]
fn least_time() {
    if skip_on_nginx("least_time came with nginx 1.31") {
        return;
    }
    let late_head = Backend::http(|_| {
        // What takes long is what the test is about.
        std::thread::sleep(Duration::from_millis(60));
        ok("a")
    });
    let late_body = Backend::raw(|mut conn, _| {
        while conn.try_request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
            // Likewise.
            std::thread::sleep(Duration::from_millis(180));
            conn.send("b");
        }
    });
    let s = http(
        r#"
        upstream head { least_time header; server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; }
        upstream all {
            least_time last_byte inflight;
            server 127.0.0.1:%%B0%%;
            server 127.0.0.1:%%B1%%;
        }
        upstream two {
            random two least_time=last_byte;
            server 127.0.0.1:%%B0%%;
            server 127.0.0.1:%%B1%%;
        }
        server {
            listen 127.0.0.1:%%P0%%;
            location /head { proxy_pass http://head; }
            location /all { proxy_pass http://all; }
            location /two { proxy_pass http://two; }
        }
    "#,
        &[&late_head, &late_body],
    );
    let sequence = |path: &str| -> String { (0..8).map(|_| s.get(path).text()).collect() };
    assert_eq!(sequence("/head"), "abbbbbbb");
    assert_eq!(sequence("/all"), "abaaaaaa");
    let two = sequence("/two");
    assert!(two.matches('a').count() >= 6, "{two}");
}

#[test]
fn max_conns() {
    let (a, go) = holding("a");
    let b = letters(2);
    let s = http(
        r#"
        upstream u { server 127.0.0.1:%%B0%% max_conns=1; server 127.0.0.1:%%B1%% backup; }
        upstream alone { server 127.0.0.1:%%B0%% max_conns=1; server 127.0.0.1:%%B1%% down; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://u; }
            location /alone { proxy_pass http://alone; }
            location /hold { proxy_pass http://u; }
            location /hold-alone { proxy_pass http://alone/hold; }
        }
    "#,
        &[&a, &b[1]],
    );
    assert_eq!(sequence(&s, 2), "aa");
    let mut c = s.connect();
    c.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the held request", || a.requests() == 3);
    assert_eq!(sequence(&s, 2), "bb");
    go.send(()).unwrap();
    assert_eq!(c.response().text(), "a");
    assert_eq!(sequence(&s, 2), "aa");
    let mut c = s.connect();
    c.send("GET /hold-alone HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the held request", || a.requests() == 6);
    assert_eq!(s.get("/alone").status, 502);
    go.send(()).unwrap();
    assert_eq!(c.response().text(), "a");
}

/// Three servers whose addresses never change, so that tables of nginx's choices can be written
/// down: all on one port, told apart by address in the answer's upstream address.
fn chosen(balance: &str, weights: [&str; 3], keys: &[&str]) -> Vec<String> {
    let servers: String = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
        .iter()
        .zip(weights)
        .map(|(ip, weight)| format!("server {ip}:7 {weight} max_fails=0;"))
        .collect();
    // Port 7 refuses: which server was chosen first is all that matters.
    let conf = format!(
        r#"
        upstream u {{ {balance} {servers} }}
        server {{
            listen 127.0.0.1:%%P0%%;
            location / {{
                proxy_next_upstream off;
                add_header X-Peer $upstream_addr always;
                proxy_pass http://u;
            }}
        }}
    "#
    );
    let s = http(&conf, &[]);
    keys.iter()
        .map(|key| {
            let r = s.get_with("/", &format!("X-Key: {key}\r\n"));
            let peer = r.header("x-peer").unwrap_or("-").to_owned();
            peer.trim_start_matches("127.0.0.1")
                .trim_end_matches(":7")
                .to_owned()
        })
        .collect()
}

const KEYS: [&str; 24] = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "key1",
    "key2",
    "key3",
    "key4",
    "key5",
    "/index.html",
    "/images/logo.png",
    "user-1",
    "user-2",
    "user-3",
    "192.168.0.1",
    "10.0.0.7",
    "0",
    "42",
    "a longer key with spaces",
    "",
];

/// As nginx 1.22 and 1.31 choose.
#[test]
fn hash_chooses_as_nginx_does() {
    let plain = chosen("hash $http_x_key;", ["", "", ""], &KEYS).concat();
    assert_eq!(plain, "313333122123331313133311");
    let weighted = chosen("hash $http_x_key;", ["weight=5", "", "weight=2"], &KEYS).concat();
    assert_eq!(weighted, "331211111213111331321131");
}

/// As nginx 1.22 and 1.31 choose.
#[test]
fn consistent_hash_chooses_as_nginx_does() {
    let plain = chosen("hash $http_x_key consistent;", ["", "", ""], &KEYS).concat();
    assert_eq!(plain, "222222313311311311233311");
    let weighted = chosen(
        "hash $http_x_key consistent;",
        ["weight=5", "", "weight=2"],
        &KEYS,
    )
    .concat();
    assert_eq!(weighted, "223133313311111131213311");
}

/// As nginx 1.22 and 1.31 choose: an IPv4 client by its first three bytes.
#[test]
fn ip_hash_chooses_as_nginx_does() {
    let servers = "server 127.0.0.11:7 max_fails=0; server 127.0.0.12:7 weight=3 max_fails=0; \
                   server 127.0.0.13:7 max_fails=0;";
    let conf = format!(
        r#"
        upstream u {{ ip_hash; {servers} }}
        server {{
            listen 0.0.0.0:%%P0%%;
            location / {{
                proxy_next_upstream off;
                add_header X-Peer $upstream_addr always;
                proxy_pass http://u;
            }}
        }}
    "#
    );
    let s = http(&conf, &[]);
    let from = |ip: &str| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&std::net::SocketAddr::new(ip.parse().unwrap(), 0).into())
            .unwrap();
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], s.port(0)));
        socket.connect(&to.into()).unwrap();
        let mut c = Conn::over(std::net::TcpStream::from(socket));
        let r = c
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .response();
        let peer = r.header("x-peer").unwrap_or("-").to_owned();
        peer.trim_start_matches("127.0.0.1")
            .trim_end_matches(":7")
            .to_owned()
    };
    let mut got = String::new();
    for third in 0..24 {
        got += &from(&format!("127.1.{third}.1"));
    }
    assert_eq!(got, "231222312223122231222312");
    assert_eq!(from("127.1.5.1"), from("127.1.5.99"));
}

#[test]
fn a_hash_falls_back_when_its_server_fails() {
    let mut b = letters(3);
    let s = group(
        "hash $arg_k; server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; server 127.0.0.1:%%B2%%;",
        &b,
    );
    let of = |k: usize| s.get(&format!("/?k={k}")).text();
    let before: Vec<String> = (0..12).map(of).collect();
    assert_eq!((0..12).map(of).collect::<Vec<_>>(), before);
    for letter in ["a", "b", "c"] {
        assert!(before.iter().any(|l| l == letter));
    }
    b[1].stop();
    for (k, letter) in before.iter().enumerate() {
        let now = of(k);
        assert!(if letter == "b" {
            now == "a" || now == "c"
        } else {
            now == *letter
        });
    }
}

#[test]
fn random() {
    let b = letters(3);
    let servers =
        "server 127.0.0.1:%%B0%% weight=4; server 127.0.0.1:%%B1%%; server 127.0.0.1:%%B2%% down;";
    for method in ["random;", "random two;", "random two least_conn;"] {
        let s = group(&format!("{method} {servers}"), &b);
        let mut counts = BTreeMap::new();
        for letter in sequence(&s, 200).chars() {
            *counts.entry(letter).or_insert(0) += 1;
        }
        assert!(counts[&'a'] > 8 && counts[&'b'] > 8, "{method} {counts:?}");
        // Of two idle servers either may be the better one, so the weights show in plain random
        // only.
        assert!(method != "random;" || counts[&'a'] > 120, "{counts:?}");
        assert_eq!(counts.get(&'c'), None, "{method}");
    }
    let s = group(
        "random; server 127.0.0.1:%%B0%%; server 127.0.0.1:%%P5%%;",
        &b,
    );
    assert_eq!(sequence(&s, 30), "a".repeat(30));
}

#[test]
fn a_refused_address_of_a_name_is_skipped() {
    let b = letters(1);
    // localhost may be both ::1 and 127.0.0.1; only the second one listens.
    let s = group("server localhost:%%B0%%;", &b);
    for _ in 0..4 {
        assert_eq!(s.get("/").text(), "a");
    }
}

#[test]
fn upstream_variables() {
    let b = Backend::http(|req| match req.target.as_str() {
        "/bad" => resp("503 x", "", "no"),
        _ => resp(
            "200 OK",
            "X-Own: own\r\nSet-Cookie: sid=abc; path=/\r\n",
            "12345",
        ),
    });
    let good = letters(1);
    let s = http(
        r#"
        log_format v "$upstream_addr|$upstream_status|$upstream_response_length|$upstream_bytes_received|"
                     "$upstream_http_x_own|$upstream_cookie_sid|$upstream_connect_time|"
                     "$upstream_header_time|$upstream_response_time";
        upstream u { server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%% backup; }
        server {
            listen 127.0.0.1:%%P0%%;
            access_log %%DIR%%/v.log v;
            location / { proxy_pass http://u; }
            location /bad { proxy_next_upstream http_503; proxy_pass http://u; }
            location /local { return 200; }
            location /down { proxy_pass http://127.0.0.1:%%P9%%; }
        }
    "#,
        &[&b, &good[0]],
    );
    for path in ["/", "/bad", "/local", "/down"] {
        s.get(path);
    }
    let lines = s.lines("v.log", 4);
    let fields = |n: usize| lines[n].split('|').map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (
        format!("127.0.0.1:{}", b.port),
        format!("127.0.0.1:{}", good[0].port),
    );
    let f = fields(0);
    assert_eq!(f[..3], [first.clone(), "200".into(), "5".into()]);
    assert_eq!(f[4..6], ["own", "abc"]);
    assert!(f[3].parse::<usize>().unwrap() > 40);
    assert!(
        f[6..]
            .iter()
            .all(|time| time.starts_with("0.0") && time.len() == 5),
        "{f:?}"
    );
    let f = fields(1);
    assert_eq!(f[0], format!("{first}, {second}"));
    assert_eq!(f[1], "503, 200");
    assert_eq!(f[2], "0, 1");
    assert_eq!(fields(2), ["-"; 9]);
    let f = fields(3);
    assert_eq!(
        f[..3],
        [format!("127.0.0.1:{}", s.port(9)), "502".into(), "0".into()]
    );
    assert_eq!(f[6], "-");
}
