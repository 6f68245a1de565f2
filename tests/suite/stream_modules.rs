//! The small modules of `stream`: who may come in, what is answered, and with which variables.

use crate::common::*;

/// The text a session at `%%P<index>%%` is answered with.
fn answer(s: &Server, index: usize) -> String {
    String::from_utf8_lossy(&Conn::to(s.port(index)).rest()).into_owned()
}

#[test]
fn a_text_is_returned() {
    let s = stream(
        "log_format t '$status $bytes_sent'; access_log %%DIR%%/access.log t;
         server { listen 127.0.0.1:%%P0%%; return \"$remote_addr $protocol $server_port\\n\"; }
         server { listen 127.0.0.1:%%P1%%; return $nothing; set $nothing \"\"; }",
        &[],
    );
    let expected = format!("127.0.0.1 TCP {}\n", s.port(0));
    assert_eq!(answer(&s, 0), expected);
    assert_eq!(answer(&s, 1), "");
    assert_eq!(
        s.lines("access.log", 2),
        [format!("200 {}", expected.len()), "200 0".into()]
    );
}

#[test]
fn a_datagram_is_answered() {
    let s = stream(
        "server { listen 127.0.0.1:%%P0%% udp; return \"$remote_addr $protocol\"; }
         server { listen 127.0.0.1:%%P1%% udp; deny all; return never; }",
        &[],
    );
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 100];
    for _ in 0..3 {
        socket.send_to(b"?", ("127.0.0.1", s.port(0))).unwrap();
        let length = socket.recv(&mut buf).unwrap();
        assert_eq!(&buf[..length], b"127.0.0.1 UDP");
    }
    socket.send_to(b"?", ("127.0.0.1", s.port(1))).unwrap();
    s.wait_for_text("error.log", "access forbidden by rule");
}

#[test]
fn variables_are_set_in_their_order() {
    let s = stream(
        "map $a $b { one first; default other; }
         server {
             listen 127.0.0.1:%%P0%%;
             set $a one; set $c $b-$a; set $a two;
             return \"$a $b $c\";
         }",
        &[],
    );
    assert_eq!(answer(&s, 0), "two first first-one");
}

#[test]
fn maps_networks_and_shares() {
    let s = stream(
        "map $server_port $port { %%P0%% zero; ~1 $remote_addr; default none; }
         geo $where { default far; 127.0.0.0/8 near; }
         geo $realip_remote_addr $again { default far; 127.0.0.1/32 here; }
         split_clients $remote_addr $share { 50% half; * rest; }
         server { listen 127.0.0.1:%%P0%%; return \"$port $where $again $share\"; }",
        &[],
    );
    let text = answer(&s, 0);
    assert!(
        ["zero near here half", "zero near here rest"].contains(&&*text),
        "{text}"
    );
    assert_eq!(answer(&s, 0), text);
}

#[test]
fn rules_say_who_may_come_in() {
    let s = stream(
        "log_format t '$status'; access_log %%DIR%%/access.log t;
         deny 127.0.0.1;
         server { listen 127.0.0.1:%%P0%%; return in; }
         server { listen 127.0.0.1:%%P1%%; allow 127.0.0.0/8; deny all; return in; }
         server { listen unix:%%DIR%%/in; allow unix:; deny all; return in; }
         server { listen unix:%%DIR%%/out; deny unix:; return in; }",
        &[],
    );
    assert_eq!(answer(&s, 0), "");
    let refused = "[error] ";
    s.wait_for_text("error.log", refused);
    s.wait_for_text(
        "error.log",
        &format!(
            "access forbidden by rule while initializing session, client: 127.0.0.1, server: 127.0.0.1:{}",
            s.port(0)
        ),
    );
    assert_eq!(answer(&s, 1), "in");
    assert_eq!(Conn::unix(s.path("in")).rest(), b"in");
    assert_eq!(Conn::unix(s.path("out")).rest(), b"");
    assert_eq!(s.lines("access.log", 4), ["403", "200", "200", "403"]);
}

#[test]
fn a_balancer_tells_the_client_s_address() {
    let s = stream(
        "server {
             listen 127.0.0.1:%%P0%% proxy_protocol;
             set_real_ip_from 127.0.0.1; deny 192.0.2.9;
             return \"$remote_addr $remote_port $realip_remote_addr $proxy_protocol_addr\";
         }
         server {
             listen 127.0.0.1:%%P1%% proxy_protocol;
             set_real_ip_from 192.0.2.0/24;
             return \"$remote_addr $proxy_protocol_addr\";
         }",
        &[],
    );
    let ask = |index: usize, header: &str| {
        let rest = Conn::to(s.port(index)).send(header).rest();
        String::from_utf8_lossy(&rest).into_owned()
    };
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 12 34\r\n";
    assert_eq!(ask(0, header), "192.0.2.1 12 127.0.0.1 192.0.2.1");
    assert_eq!(ask(1, header), "127.0.0.1 192.0.2.1");
    let text = ask(0, "PROXY UNKNOWN\r\n");
    assert!(text.starts_with("127.0.0.1 "), "{text}");
    assert_eq!(ask(0, "PROXY TCP4 192.0.2.9 192.0.2.2 12 34\r\n"), "");
    s.wait_for_text(
        "error.log",
        "access forbidden by rule while initializing session, client: 192.0.2.9, ",
    );
    assert_eq!(ask(0, "GET / HTTP/1.1\r\n\r\n"), "");
    s.wait_for_text("error.log", "broken header: \"GET / HTTP/1.1");
    s.wait_for_text(
        "error.log",
        "\" while reading PROXY protocol, client: 127.0.0.1",
    );
}

#[test]
fn extensions_of_a_proxy_header_are_variables() {
    if skip_on_nginx("the variables came with 1.23.2") {
        return;
    }
    let s = stream(
        "server {
             listen 127.0.0.1:%%P0%% proxy_protocol;
             return \"$proxy_protocol_tlv_alpn $proxy_protocol_tlv_0xEA\
                     $proxy_protocol_tlv_netns.\";
         }",
        &[],
    );
    let tlvs = [&[1, 0, 2][..], b"h2", &[0xea, 0, 3], b"aws"].concat();
    let header = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..],
        &[12 + tlvs.len() as u8],
        &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2],
        &tlvs,
    ]
    .concat();
    let text = s.connect().send(header).rest();
    assert_eq!(String::from_utf8_lossy(&text), "h2 aws.");
}

#[test]
fn sessions_of_one_key_are_limited() {
    let backend = Backend::raw(|mut conn, _| {
        let _ = conn.try_send(b"in");
        conn.drain();
    });
    let status = match is_nginx() {
        true => "$status",
        false => "$status $limit_conn_status",
    };
    let s = stream(
        &format!(
            "limit_conn_zone $binary_remote_addr zone=addr:1m;
             log_format t '{status}'; access_log %%DIR%%/access.log t;
             server {{ listen 127.0.0.1:%%P0%%; limit_conn addr 2; proxy_pass 127.0.0.1:%%B0%%; }}
             server {{
                 listen 127.0.0.1:%%P1%%; limit_conn addr 1; limit_conn_dry_run on;
                 limit_conn_log_level notice; proxy_pass 127.0.0.1:%%B0%%;
             }}"
        ),
        &[&backend],
    );
    let mut held: Vec<Conn> = (0..2).map(|_| s.connect()).collect();
    for conn in &mut held {
        assert_eq!(conn.take(2), b"in");
    }
    s.connect().assert_closed();
    s.wait_for_text(
        "error.log",
        "limiting connections by zone \"addr\" while initializing session, client: ",
    );
    assert!(s.lines("access.log", 1)[0].starts_with("503"));
    let mut dry = Conn::to(s.port(1));
    assert_eq!(dry.take(2), b"in");
    s.wait_for_text(
        "error.log",
        "limiting connections, dry run, by zone \"addr\"",
    );
    drop(dry);
    if !is_nginx() {
        assert_eq!(
            s.lines("access.log", 2),
            ["503 REJECTED", "200 REJECTED_DRY_RUN"]
        );
    }
    held.pop();
    wait_for("a free place", || s.connect().try_take(2).is_some());
}

#[test]
fn workers_count_together() {
    let backend = Backend::raw(|mut conn, _| {
        let _ = conn.try_send(b"in");
        conn.drain();
    });
    let s = full(
        "%%MODULES%% worker_processes 4; events {}
         stream {
             limit_conn_zone $server_port zone=port:1m;
             server {
                 listen 127.0.0.1:%%P0%% reuseport; limit_conn port 5; proxy_pass 127.0.0.1:%%B0%%;
             }
         }",
        &[&backend],
    );
    for _ in 0..5 {
        let mut conns: Vec<Conn> = (0..40).map(|_| s.connect()).collect();
        let entered = conns.iter_mut().filter_map(|conn| conn.try_take(2)).count();
        assert_eq!(entered, 5);
        drop(conns);
        wait_for("the end of all", || backend.open() == 0);
    }
}

#[test]
fn mistakes_are_told() {
    for (conf, message) in [
        ("set a b; return x;", "invalid variable name \"a\""),
        (
            "allow 1.2.3.4.5; return x;",
            "invalid parameter \"1.2.3.4.5\"",
        ),
        (
            "set_real_ip_from name; return x;",
            "host not found in set_real_ip_from \"name\"",
        ),
        (
            "limit_conn none 1; return x;",
            "zero size shared memory zone \"none\"",
        ),
        (
            "ssl_preread yes; return x;",
            "invalid value \"yes\" in \"ssl_preread\" directive",
        ),
        ("return x; return y;", "\"return\" directive is duplicate"),
        ("tcp_nodelay on;", "no handler for server"),
    ] {
        let conf = format!("server {{ listen 127.0.0.1:%%P0%%; {conf} }}");
        let (output, _) = Setup::stream(&conf).args(&["-t"]).run();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(message), "{message}: {text}");
    }
}
