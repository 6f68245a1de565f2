//! UDP: sessions, answers, their numbers, upstreams that do not listen, reload and end.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::common::*;

const LOG: &str = "log_format t '$protocol $status $bytes_received $bytes_sent $upstream_addr \
                   $upstream_bytes_sent $upstream_bytes_received';
                   access_log %%DIR%%/access.log t;";

fn setup(conf: &str, upstreams: &[u16]) -> Setup {
    let mut setup = Setup::stream(&format!("{LOG}{conf}"));
    for (index, port) in upstreams.iter().enumerate() {
        setup = setup.value(&format!("U{index}"), port);
    }
    setup
}

/// What the error log says of sessions, without times and numbers.
fn told(s: &Server) -> Vec<String> {
    let log = s.error_log();
    let lines = log.lines().filter_map(|line| line.split_once(": *"));
    let of_session = |line: &str| line.split_once(' ').map(|(_, rest)| rest.to_owned());
    lines.filter_map(|(_, rest)| of_session(rest)).collect()
}

#[test]
fn a_session_ends_with_its_answer() {
    let up = UdpBackend::echo("u");
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_responses 1;
    }";
    let s = setup(conf, &[up.port]).start();
    let client = UdpClient::to(s.port(0));
    let me = client.addr();
    assert_eq!(client.ask("ping"), "uping");
    let line = s.lines("access.log", 1).remove(0);
    assert_eq!(line, format!("UDP 200 4 5 127.0.0.1:{} 4 5", up.port));
    s.wait_for_text("error.log", "udp done");
    let told = told(&s);
    assert_eq!(
        told[0],
        format!("udp client {me} connected to 127.0.0.1:{}", s.port(0))
    );
    assert!(told[1].starts_with("udp proxy 127.0.0.1:"), "{told:?}");
    assert_eq!(
        told[2],
        "udp done, packets from/to client:1/1, bytes from/to client:4/5, bytes from/to \
         upstream:5/4"
    );
    // The next datagram of the same client is another session.
    assert_eq!(client.ask("again"), "uagain");
    assert_eq!(
        s.lines("access.log", 2)[1],
        format!("UDP 200 5 6 127.0.0.1:{} 5 6", up.port)
    );
    assert_eq!(up.sessions(), 2);
}

#[test]
fn a_session_without_a_number_of_answers_lasts_until_it_is_silent() {
    let up = UdpBackend::new(|datagram| vec![datagram.to_vec(); datagram.len()]);
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_timeout 300ms;
    }";
    let s = setup(conf, &[up.port]).start();
    let client = UdpClient::to(s.port(0));
    client.send("").send("1").send("333");
    let got: Vec<_> = (0..4).map(|_| client.next()).collect();
    assert_eq!(got, [&b"1"[..], b"333", b"333", b"333"]);
    assert_eq!(up.came(), [&b""[..], b"1", b"333"]);
    let line = s.lines("access.log", 1).remove(0);
    assert_eq!(line, format!("UDP 200 4 10 127.0.0.1:{} 4 10", up.port));
    s.wait_for_text("error.log", "udp timed out, packets from/to client:3/4");
    assert_eq!(up.sessions(), 1);
}

#[test]
fn without_answers_each_datagram_is_a_session() {
    let up = UdpBackend::silent();
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_responses 0;
    }";
    let s = setup(conf, &[up.port]).start();
    let client = UdpClient::to(s.port(0));
    client.send("a").send("bb").send("");
    let mut lines = s.lines("access.log", 3);
    lines.sort();
    let of = |bytes: u8| format!("UDP 200 {bytes} 0 127.0.0.1:{} {bytes} 0", up.port);
    assert_eq!(lines, [of(0), of(1), of(2)]);
    wait_for("three datagrams", || up.came().len() == 3);
    assert_eq!(up.sessions(), 3);
}

#[test]
fn a_session_ends_with_its_requests() {
    let up = UdpBackend::echo("");
    let conf = "proxy_timeout 300ms;
    server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%;
        proxy_requests 2; proxy_responses 1;
    }
    server {
        listen 127.0.0.1:%%P1%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_requests 1;
    }";
    let s = setup(conf, &[up.port]).start();
    let client = UdpClient::to(s.port(0));
    for datagram in ["a", "b", "c"] {
        assert_eq!(client.ask(datagram), datagram);
    }
    assert_eq!(up.sessions(), 2);
    let lines = s.lines("access.log", 2);
    assert_eq!(lines[0], format!("UDP 200 2 2 127.0.0.1:{} 2 2", up.port));
    assert_eq!(lines[1], format!("UDP 200 1 1 127.0.0.1:{} 1 1", up.port));
    // A number of requests alone separates sessions, which still last until they are silent.
    let client = UdpClient::to(s.port(1));
    client.send("x").send("y");
    let got: BTreeSet<_> = [client.next(), client.next()].into();
    assert_eq!(got, [b"x".to_vec(), b"y".to_vec()].into());
    assert_eq!(up.sessions(), 4);
    s.lines("access.log", 4);
}

#[test]
fn a_missing_answer_is_the_upstreams_failure() {
    let up = UdpBackend::silent();
    let conf = "upstream u { server 127.0.0.1:%%U0%%; server 127.0.0.1:%%U1%% backup; }
    server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass u; proxy_responses 1; proxy_timeout 200ms;
    }";
    let spare = UdpBackend::echo("spare ");
    let s = setup(conf, &[up.port, spare.port]).start();
    let client = UdpClient::to(s.port(0));
    client.send("hello");
    let line = s.lines("access.log", 1).remove(0);
    assert_eq!(line, format!("UDP 502 5 0 127.0.0.1:{} 5 0", up.port));
    let told = format!(
        "upstream timed out (110: Connection timed out) while proxying connection, udp client: \
         127.0.0.1, server: 127.0.0.1:{}, upstream: \"127.0.0.1:{}\", bytes from/to client:5/0, \
         bytes from/to upstream:0/5",
        s.port(0),
        up.port
    );
    s.wait_for_text("error.log", &told);
    s.wait_for_text("error.log", "upstream server temporarily disabled");
    // It is out for fail_timeout.
    assert_eq!(client.ask("hello"), "spare hello");
}

#[test]
fn the_next_server_gets_what_the_first_refused() {
    if skip_on_nginx("it takes the ICMP message for an answer") {
        return;
    }
    let up = UdpBackend::echo("");
    let dead = dead_udp();
    let conf = "upstream u { server 127.0.0.1:%%U0%%; server 127.0.0.1:%%U1%% backup; }
    server { listen 127.0.0.1:%%P0%% udp; proxy_pass u; proxy_responses 1; }
    server { listen 127.0.0.1:%%P1%% udp; proxy_pass 127.0.0.1:%%U0%%; }
    server { listen 127.0.0.1:%%P2%% udp; proxy_pass u2; proxy_next_upstream off; }
    upstream u2 { server 127.0.0.1:%%U0%%; server 127.0.0.1:%%U1%% backup; }";
    let s = setup(conf, &[dead, up.port]).start();
    assert_eq!(UdpClient::to(s.port(0)).ask("to whom"), "to whom");
    let line = s.lines("access.log", 1).remove(0);
    let addrs = format!("127.0.0.1:{dead}, 127.0.0.1:{}", up.port);
    assert_eq!(line, format!("UDP 200 7 7 {addrs} 7, 7 0, 7"));
    let told = "recv() failed (111: Connection refused) while proxying and reading from upstream";
    s.wait_for_text("error.log", told);
    s.wait_for_text("error.log", "upstream server temporarily disabled");
    // With no other server, or none wanted, the session fails, and the client hears nothing.
    for port in [s.port(1), s.port(2)] {
        assert!(UdpClient::to(port).send("to nobody").hears_nothing());
    }
    for line in &s.lines("access.log", 3)[1..] {
        assert_eq!(*line, format!("UDP 502 9 0 127.0.0.1:{dead} 9 0"));
    }
}

#[test]
fn datagrams_of_every_length() {
    let up = UdpBackend::echo("");
    let conf = "server { listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; }";
    let s = setup(conf, &[up.port]).start();
    let client = UdpClient::to(s.port(0));
    let mut lengths = vec![1, 2, 1471, 1472, 1473, 4096, 4097, 16_384];
    if !is_nginx() {
        // nginx cuts off what is beyond proxy_buffer_size.
        lengths.extend([0, 32_768, 32_769, 65_506, 65_507]);
    }
    let mut rng = Rng(3);
    for length in lengths {
        let datagram = rng.bytes(length);
        assert!(client.send(&datagram).next() == datagram, "{length}");
    }
}

#[test]
fn hash_keeps_a_client_on_its_server() {
    let ups = ["a", "b", "c"].map(UdpBackend::echo);
    let conf = "upstream u {
        hash $remote_addr consistent;
        server 127.0.0.1:%%U0%%; server 127.0.0.1:%%U1%%; server 127.0.0.1:%%U2%%;
    }
    server { listen 127.0.0.1:%%P0%% udp; proxy_pass u; proxy_responses 1; }";
    let s = setup(conf, &ups.each_ref().map(|up| up.port)).start();
    let mut used = BTreeSet::new();
    for last in 1..=30 {
        let to = SocketAddr::from(([127, 0, 0, 1], s.port(0)));
        let answers: BTreeSet<_> = (0..4)
            .map(|_| UdpClient::between(&format!("127.0.0.{last}"), to).ask(""))
            .collect();
        assert_eq!(answers.len(), 1);
        used.extend(answers);
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn many_clients_each_get_their_own_answers() {
    let ups = ["", ""].map(UdpBackend::echo);
    let conf = "upstream u { server 127.0.0.1:%%U0%%; server 127.0.0.1:%%U1%%; }
    server { listen 127.0.0.1:%%P0%% udp; proxy_pass u; }";
    let s = setup(conf, &ups.each_ref().map(|up| up.port)).start();
    let clients: Vec<_> = (0..200).map(|_| UdpClient::to(s.port(0))).collect();
    for round in 0..5 {
        // Not more at once than the receive buffers hold.
        for (index, client) in clients.iter().enumerate() {
            client.send(format!("{index} {round}"));
            if index % 50 == 49 {
                for (index, client) in clients.iter().enumerate().take(index + 1).skip(index - 49) {
                    assert_eq!(client.next(), format!("{index} {round}").as_bytes());
                }
            }
        }
    }
    assert_eq!(ups.iter().map(UdpBackend::sessions).sum::<usize>(), 200);
    assert_eq!(ups.map(|up| up.sessions()), [100, 100]);
}

#[test]
fn an_answer_leaves_from_the_address_the_client_used() {
    let up = UdpBackend::echo("");
    // A port of its own: those of the harness are taken at one address.
    let port = dead_udp();
    let conf = "server { listen %%ANY%% udp; proxy_pass 127.0.0.1:%%U0%%; }";
    let s = setup(conf, &[up.port]).value("ANY", port).start();
    // The client's socket is connected, and takes answers from nowhere else.
    for last in 1..4 {
        let client = UdpClient::between("127.0.0.1", SocketAddr::from(([127, 0, 0, last], port)));
        assert_eq!(client.ask("who"), "who");
    }
    // Also when one socket speaks to two of our addresses.
    let both = UdpSocket::bind("127.0.0.1:0").unwrap();
    both.set_read_timeout(Some(PATIENCE)).unwrap();
    for last in [5, 6] {
        let to = SocketAddr::from(([127, 0, 0, last], port));
        both.send_to(b"hello", to).unwrap();
        assert_eq!(both.recv_from(&mut [0; 10]).unwrap(), (5, to));
    }
    drop(s);
}

#[test]
fn tcp_and_udp_share_a_port_and_a_server() {
    let up = UdpBackend::echo("datagram ");
    let tcp = Backend::raw(|mut conn, _| {
        conn.more();
        let _ = conn.try_send(b"bytes");
        conn.finish();
    });
    let conf = "upstream u { server 127.0.0.1:%%U0%%; }
    server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%U1%%; }
    server { listen 127.0.0.1:%%P0%% udp; listen [::1]:%%P0%% udp; proxy_pass u; }
    server { listen 127.0.0.1:%%P1%%; listen 127.0.0.1:%%P1%% udp; proxy_pass u; }";
    let s = setup(conf, &[up.port, tcp.port]).start();
    assert_eq!(UdpClient::to(s.port(0)).ask("1"), "datagram 1");
    assert_eq!(s.connect().send("2").take(5), b"bytes");
    assert_eq!(UdpClient::to(s.port(1)).ask("3"), "datagram 3");
    let to = SocketAddr::from((Ipv6Addr::LOCALHOST, s.port(0)));
    assert_eq!(UdpClient::between("::1", to).ask("4"), "datagram 4");
}

#[test]
fn a_range_of_ports() {
    let up = UdpBackend::echo("");
    let conf = "server { listen 127.0.0.1:%%FIRST%%-%%LAST%% udp; proxy_pass 127.0.0.1:%%U0%%; }";
    // Five ports in a row, with nobody on them.
    let first = (20_000..60_000)
        .step_by(7)
        .find(|first| (*first..first + 5).all(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok()))
        .unwrap();
    let s = setup(conf, &[up.port])
        .value("FIRST", first)
        .value("LAST", first + 4)
        .start();
    for port in first..first + 5 {
        assert_eq!(UdpClient::to(port).ask("here"), "here");
    }
    drop(s);
}

#[test]
fn a_session_goes_on_over_reloads() {
    if skip_on_nginx("its old workers end their sessions") {
        return;
    }
    let (one, two) = (UdpBackend::echo("one "), UdpBackend::echo("two "));
    let conf = |server: &str| {
        format!(
            "%%MODULES%%
            events {{}}
            stream {{ {LOG} server {{ listen 127.0.0.1:%%P0%% udp; proxy_pass {server}; }} }}"
        )
    };
    let s = Setup::full(&conf("127.0.0.1:%%U0%%"))
        .value("U0", one.port)
        .value("U1", two.port)
        .start();
    let old = UdpClient::to(s.port(0));
    assert_eq!(old.ask("1"), "one 1");
    s.write_conf(&conf("127.0.0.1:%%U1%%"));
    s.signal(libc::SIGHUP);
    wait_for("new sessions to go elsewhere", || {
        UdpClient::to(s.port(0)).ask("?") == "two ?"
    });
    assert_eq!(old.ask("2"), "one 2");
    // The address goes. The session that it has stays, and nobody else gets an answer.
    s.write_conf("%%MODULES%% events {} stream {}");
    s.signal(libc::SIGHUP);
    wait_for("nobody to be served", || {
        UdpClient::to(s.port(0)).send("?").hears_nothing()
    });
    assert_eq!(old.ask("3"), "one 3");
    // And comes again.
    s.write_conf(&conf("127.0.0.1:%%U1%%"));
    s.signal(libc::SIGHUP);
    wait_for("everyone to be served", || {
        !UdpClient::to(s.port(0)).send("?").hears_nothing()
    });
    assert_eq!(old.ask("4"), "one 4");
    for _ in 0..20 {
        assert_eq!(UdpClient::to(s.port(0)).ask("5"), "two 5");
    }
}

#[test]
fn nothing_is_lost_over_reloads() {
    if skip_on_nginx("its old workers end their sessions") {
        return;
    }
    let up = UdpBackend::echo("");
    let conf = |workers: u32| {
        format!(
            "%%MODULES%% worker_processes {workers}; events {{}}
            stream {{ server {{ listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; }} }}"
        )
    };
    let s = Setup::full(&conf(2)).value("U0", up.port).start();
    let clients: Vec<_> = (0..16).map(|_| UdpClient::to(s.port(0))).collect();
    for (round, workers) in [3, 1, 2, 2].into_iter().enumerate() {
        s.write_conf(&conf(workers));
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| s.reload());
            for turn in 0.. {
                for (index, client) in clients.iter().enumerate() {
                    let text = format!("{index} {round} {turn}");
                    assert_eq!(client.ask(&text), text);
                }
                if reload.is_finished() {
                    return;
                }
            }
        });
    }
}

#[test]
fn workers_that_come_back_get_datagrams() {
    if skip_on_nginx("its workers are processes, and all are new after a reload") {
        return;
    }
    let up = UdpBackend::echo("");
    let conf = |workers: u32| {
        format!(
            "%%MODULES%% worker_processes {workers}; events {{}}
            stream {{ server {{ listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; }} }}"
        )
    };
    let s = Setup::full(&conf(4)).value("U0", up.port).start();
    for workers in [2, 4, 2, 4] {
        s.write_conf(&conf(workers));
        s.reload();
        let before = s.error_log().len();
        for client in 0..100 {
            let text = client.to_string();
            assert_eq!(UdpClient::to(s.port(0)).ask(&text), text);
        }
        let log = s.error_log()[before..].to_owned();
        let sessions = log.lines().filter(|line| line.contains(" connected to "));
        // 2026/01/01 00:00:00 [info] process#thread: *1 udp client …
        let threads: BTreeSet<&str> = sessions.filter_map(|line| line.split(' ').nth(3)).collect();
        assert_eq!(threads.len(), workers as usize, "{threads:?}");
    }
}

#[test]
fn quit_waits_for_answers() {
    if skip_on_nginx("it waits until a session is silent, and then answers nobody") {
        return;
    }
    let (release, released) = mpsc::channel();
    let up = UdpBackend::new(move |datagram| {
        if datagram == b"waiting" {
            let () = released.recv().unwrap();
        }
        vec![datagram.to_vec()]
    });
    let conf = "server { listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; }";
    let mut s = setup(conf, &[up.port]).start();
    let (idle, waiting) = (UdpClient::to(s.port(0)), UdpClient::to(s.port(0)));
    assert_eq!(idle.ask("idle"), "idle");
    waiting.send("waiting");
    wait_for("the datagram upstream", || up.came().len() == 2);
    s.signal(libc::SIGQUIT);
    // The end of the other session.
    s.wait_for_text("error.log", "disconnected on shutdown");
    release.send(()).unwrap();
    assert_eq!(waiting.next(), b"waiting");
    assert!(s.wait_exit(PATIENCE).is_some_and(|status| status.success()));
    assert_eq!(s.lines("access.log", 2).len(), 2);
    assert_eq!(s.error_log().matches("disconnected on shutdown").count(), 2);
}

#[test]
fn sessions_count_as_connections() {
    let up = UdpBackend::echo("");
    let conf = format!(
        "%%MODULES%% worker_processes 1; events {{ worker_connections {}; }}
        stream {{ server {{ listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; }} }}",
        if is_nginx() { 24 } else { 16 }
    );
    let mut s = Setup::full(&conf).value("U0", up.port).start();
    s.expect_alerts();
    let clients: Vec<_> = (0..40).map(|_| UdpClient::to(s.port(0))).collect();
    let served = clients
        .iter()
        .filter(|client| !client.send("?").hears_nothing())
        .count();
    assert!((5..12).contains(&served), "{served}");
    s.wait_for_text("error.log", "worker_connections are not enough");
    // Those that have a place keep it.
    assert_eq!(clients[0].ask("!"), "!");
}

#[test]
fn the_local_address_of_the_upstreams_side() {
    let up = UdpBackend::echo("");
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_bind 127.0.0.9;
    }";
    let s = setup(conf, &[up.port]).start();
    assert_eq!(UdpClient::to(s.port(0)).ask("a"), "a");
    assert_eq!(up.senders()[0].ip().to_string(), "127.0.0.9");
}

#[test]
fn the_first_datagram_has_the_proxy_header() {
    let up = UdpBackend::echo("");
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_protocol on;
    }";
    let s = setup(conf, &[up.port]).start();
    let client = UdpClient::to(s.port(0));
    let ports = format!("{} {}", client.addr().port(), s.port(0));
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {ports}\r\n");
    assert_eq!(client.ask("a"), format!("{header}a"));
    assert_eq!(client.ask("b"), "b");
    if is_nginx() {
        return; // 1.22 has no second version
    }
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%;
        proxy_protocol v2;
    }";
    let s = setup(conf, &[up.port]).start();
    let got = UdpClient::to(s.port(0)).send("a").next();
    // PROXY, over UDP and IPv4 (section 2.2 of the protocol).
    assert_eq!(got[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c");
    assert_eq!(got[28..], *b"a");
}

#[test]
fn a_server_that_answers_by_itself() {
    let conf =
        "server { listen 127.0.0.1:%%P0%% udp; return '$remote_addr $protocol $bytes_received'; }
    server { listen 127.0.0.1:%%P1%% udp; return ''; }";
    let s = setup(conf, &[]).start();
    let client = UdpClient::to(s.port(0));
    // Each datagram is a session.
    client.send("a").send("bb").send("");
    let got: Vec<_> = (0..3).map(|_| client.next()).collect();
    assert_eq!(
        got,
        ["1", "2", "0"].map(|count| format!("127.0.0.1 UDP {count}").into_bytes())
    );
    assert!(UdpClient::to(s.port(1)).send("x").hears_nothing());
    let mut lines = s.lines("access.log", 4);
    lines.sort();
    let sent = ["0 15", "1 0", "1 15", "2 15"];
    assert_eq!(lines, sent.map(|sent| format!("UDP 200 {sent} - - -")));
}

#[test]
fn who_may_come_and_how_many() {
    let up = UdpBackend::echo("");
    let conf = "limit_conn_zone $remote_addr zone=z:1m;
    server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; allow 127.0.0.2; deny all;
    }
    server { listen 127.0.0.1:%%P1%% udp; proxy_pass 127.0.0.1:%%U0%%; limit_conn z 1; }";
    let s = setup(conf, &[up.port]).start();
    assert!(UdpClient::to(s.port(0)).send("nobody").hears_nothing());
    let told = format!(
        "access forbidden by rule while initializing session, udp client: 127.0.0.1, server: \
         127.0.0.1:{}",
        s.port(0)
    );
    s.wait_for_text("error.log", &told);
    assert_eq!(s.lines("access.log", 1), ["UDP 403 6 0 - - -"]);
    let to = SocketAddr::from(([127, 0, 0, 1], s.port(0)));
    assert_eq!(UdpClient::between("127.0.0.2", to).ask("known"), "known");
    let first = UdpClient::to(s.port(1));
    assert_eq!(first.ask("1"), "1");
    assert!(UdpClient::to(s.port(1)).send("22").hears_nothing());
    s.wait_for_text("error.log", "limiting connections by zone \"z\"");
    assert_eq!(s.lines("access.log", 2)[1], "UDP 503 2 0 - - -");
    assert_eq!(first.ask("3"), "3");
}

#[test]
fn rates_hold_for_datagrams() {
    let up = UdpBackend::new(|datagram| vec![datagram.to_vec(); 5]);
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_download_rate 5k;
    }
    server {
        listen 127.0.0.1:%%P1%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_upload_rate 5k;
    }";
    let s = setup(conf, &[up.port]).start();
    let begun = Instant::now();
    let client = UdpClient::to(s.port(0));
    client.send([7; 1024]);
    (0..5).for_each(|_| assert_eq!(client.next(), [7; 1024]));
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );
    if is_nginx() {
        return; // it loses what comes too fast
    }
    let begun = Instant::now();
    let client = UdpClient::to(s.port(1));
    client
        .send([8; 1024])
        .send([8; 1024])
        .send([8; 1024])
        .send([8; 1024]);
    (0..20).for_each(|_| assert_eq!(client.next(), [8; 1024]));
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_unix_socket_takes_datagrams_and_answers_none() {
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass unix:%%DIR%%/up.sock; proxy_responses 0;
    }";
    let s = setup(conf, &[]).start();
    let path = s.path("up.sock");
    let up = UnixDatagram::bind(&path).unwrap();
    // Workers have given up root.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    up.set_read_timeout(Some(PATIENCE)).unwrap();
    UdpClient::to(s.port(0)).send("a line of a log");
    let mut buffer = [0; 100];
    let count = up.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"a line of a log");
}

#[test]
fn failures_add_up() {
    if skip_on_nginx("the order of its log lines differs") {
        return;
    }
    let conf = "upstream u {
        server 127.0.0.1:%%U0%% max_fails=2 weight=100; server 127.0.0.1:%%U1%% weight=1;
    }
    server { listen 127.0.0.1:%%P0%% udp; proxy_pass u; proxy_responses 1; }";
    let up = UdpBackend::echo("");
    let s = setup(conf, &[dead_udp(), up.port]).start();
    for round in ["1", "2", "3"] {
        assert_eq!(UdpClient::to(s.port(0)).ask(round), round);
    }
    s.wait_for_text("error.log", "temporarily disabled");
    let log = s.error_log();
    assert_eq!(log.matches("recv() failed (111").count(), 2, "{log}");
    assert_eq!(log.matches("temporarily disabled").count(), 1);
}

#[test]
fn dig_through_the_gateway() {
    let dns = Dns::start(60);
    dns.set("gateway.test", &["192.0.2.7"]);
    let conf = "server {
        listen 127.0.0.1:%%P0%% udp; proxy_pass 127.0.0.1:%%U0%%; proxy_responses 1;
    }";
    let s = setup(conf, &[dns.port]).start();
    let port = s.port(0).to_string();
    let asked = std::process::Command::new("dig")
        .args([
            "@127.0.0.1",
            "-p",
            &port,
            "+short",
            "+tries=1",
            "gateway.test",
            "A",
        ])
        .output();
    let Ok(answer) = asked else {
        eprintln!("skipped: no dig on this machine");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "192.0.2.7\n");
}

#[test]
fn mistakes_in_listen() {
    for (parameters, what) in [
        (
            "udp backlog=5",
            "\"backlog\" parameter is incompatible with \"udp\"",
        ),
        (
            "udp so_keepalive=on",
            "\"so_keepalive\" parameter is incompatible with \"udp\"",
        ),
    ] {
        let conf =
            format!("server {{ listen 127.0.0.1:%%P0%% {parameters}; proxy_pass 127.0.0.1:9; }}");
        let (output, mut s) = setup(&conf, &[]).args(&["-t"]).run();
        s.expect_alerts();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(what), "{told}");
    }
}
