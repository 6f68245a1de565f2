//! The variables of `stream` that every session has, as access logs show them.

use crate::common::*;

/// Says a word when it is asked for one.
fn word() -> Backend {
    Backend::raw(|mut conn, _| {
        if conn.more().is_some() {
            let _ = conn.try_send(b"word");
        }
        conn.drain();
    })
}

/// The values of these variables after one session of `ask` bytes.
fn values(names: &[&str]) -> (Vec<String>, u16, Server) {
    let backend = word();
    let format: String = names.iter().map(|name| format!("${name}|")).collect();
    let s = stream(
        &format!(
            "log_format t '{format}';
            access_log %%DIR%%/access.log t;
            server {{ listen *:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; }}"
        ),
        &[&backend],
    );
    let mut conn = s.connect();
    let port = conn.local_port();
    assert_eq!(conn.send("a word").take(4), b"word");
    drop(conn);
    let line = s.lines("access.log", 1).remove(0);
    let found = line.split('|').map(str::to_owned);
    (found.take(names.len()).collect(), port, s)
}

#[test]
fn both_ends_and_what_went_between() {
    let (found, port, s) = values(&[
        "remote_addr",
        "remote_port",
        "server_addr",
        "server_port",
        "protocol",
        "status",
        "bytes_received",
        "bytes_sent",
        "upstream_addr",
        "upstream_bytes_sent",
        "upstream_bytes_received",
        "proxy_protocol_addr",
        "proxy_protocol_server_port",
        "binary_remote_addr",
    ]);
    let (port, front) = (port.to_string(), s.port(0).to_string());
    let back = s.fill("127.0.0.1:%%B0%%");
    let expected = [
        "127.0.0.1",
        &port,
        "127.0.0.1",
        &front,
        "TCP",
        "200",
        "6",
        "4",
        &back,
        "6",
        "4",
        "-",
        "-",
        "\\x7F\\x00\\x00\\x01",
    ];
    assert_eq!(found, expected);
}

#[test]
fn times_and_the_process() {
    let (found, _, s) = values(&[
        "session_time",
        "upstream_connect_time",
        "upstream_first_byte_time",
        "upstream_session_time",
        "msec",
        "time_iso8601",
        "time_local",
        "connection",
        "pid",
        "hostname",
        "nginx_version",
    ]);
    let seconds = |text: &str| -> f64 {
        let (whole, part) = text.split_once('.').expect("a point");
        assert!(part.len() == 3 && whole.parse::<u64>().is_ok(), "{text}");
        text.parse().expect("a number")
    };
    let [all, connect, first, upstream] = [0, 1, 2, 3].map(|at| seconds(&found[at]));
    assert!(connect <= first && first <= upstream && upstream <= all + 0.01 && all < 5.0);
    assert!(seconds(&found[4]) > 1.7e9);
    assert_eq!((found[5].len(), found[6].len()), (25, 26));
    assert!(found[7].parse::<u64>().is_ok());
    let pid: u32 = found[8].parse().expect("a number");
    assert!(server::lives(pid) && (is_nginx() || pid == s.pid()));
    assert!(!found[9].is_empty() && found[10].contains('.'));
}

#[test]
fn attempts_are_lists() {
    let mut dead = word();
    dead.stop();
    let backend = word();
    let s = stream(
        "log_format t '$upstream_addr|$upstream_bytes_sent|$upstream_connect_time|'
                      '$upstream_first_byte_time|$upstream_session_time';
         access_log %%DIR%%/access.log t;
         upstream two { server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; }
         server { listen 127.0.0.1:%%P0%%; proxy_pass two; }
         server { listen 127.0.0.1:%%P1%%; proxy_pass $hostname; }",
        &[&dead, &backend],
    );
    assert_eq!(s.connect().send("a word").take(4), b"word");
    let line = s.lines("access.log", 1).remove(0);
    let found: Vec<&str> = line.split('|').collect();
    assert_eq!(found[0], s.fill("127.0.0.1:%%B0%%, 127.0.0.1:%%B1%%"));
    assert_eq!(found[1], "0, 6");
    for (at, first_is_missing) in [(2, true), (3, true), (4, false)] {
        let (first, second) = found[at].split_once(", ").expect("two items");
        assert_eq!(first == "-", first_is_missing, "{line}");
        assert!(second.starts_with("0."), "{line}");
    }
    // No attempt, no list.
    Conn::to(s.port(1)).assert_closed();
    assert_eq!(s.lines("access.log", 2)[1], "-|-|-|-|-");
}

#[test]
fn logs_by_condition_and_of_servers() {
    let backend = word();
    let s = stream(
        "log_format t '$server_port $status';
         map $bytes_received $asked { default 1; 0 0; }
         access_log %%DIR%%/asked.log t if=$asked;
         server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; }
         server { listen 127.0.0.1:%%P1%%; proxy_pass 127.0.0.1:%%B0%%; access_log off; }
         server {
             listen 127.0.0.1:%%P2%%;
             proxy_pass 127.0.0.1:%%B0%%;
             access_log %%DIR%%/own.log t;
             access_log %%DIR%%/own-$protocol.log t;
             error_log %%DIR%%/own-error.log info;
         }",
        &[&backend],
    );
    for port in 0..3 {
        assert_eq!(Conn::to(s.port(port)).send("x").take(4), b"word");
    }
    drop(s.connect());
    let line = |port: usize| format!("{} 200", s.port(port));
    assert_eq!(s.lines("own.log", 1), [line(2)]);
    if !is_nginx() {
        // Its workers may not create files here.
        assert_eq!(s.lines("own-TCP.log", 1), [line(2)]);
    }
    s.wait_for_text("own-error.log", "client disconnected");
    wait_for("the last session", || {
        s.error_log().matches("client disconnected").count() == 3
    });
    assert_eq!(s.lines("asked.log", 1), [line(0)]);
    assert!(!s.error_log().contains(&format!(":{}", s.port(2))));
}
