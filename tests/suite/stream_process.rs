//! Sessions of `stream` and the life of the process: ends, reloads, another binary, places.

use std::time::Duration;

use crate::common::*;

const CONF: &str = "%%MODULES%%
    events { worker_connections 12; }
    http { %%HTTP%% server { listen 127.0.0.1:%%P1%%; return 200 web; } }
    stream {
        log_format t '$status $bytes_received';
        access_log %%DIR%%/sessions.log t;
        server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; }
        server { listen unix:%%DIR%%/s; proxy_pass 127.0.0.1:%%B0%%; }
    }";

fn echo() -> Backend {
    Backend::raw(|mut conn, _| {
        while conn.more().is_some() {
            let bytes = conn.take(conn.buffered().len());
            if conn.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

/// A session that has moved bytes.
fn session(s: &Server) -> Conn {
    let mut conn = s.connect();
    assert_eq!(conn.send("one").take(3), b"one");
    conn
}

#[test]
fn quit_waits_for_sessions() {
    let backend = echo();
    let mut s = full(CONF, &[&backend]);
    let mut conn = session(&s);
    s.signal(libc::SIGQUIT);
    wait_for("the listener to close", || {
        std::net::TcpStream::connect(("127.0.0.1", s.port(0))).is_err()
    });
    assert_eq!(conn.send("two").take(3), b"two");
    assert!(s.wait_exit(Duration::from_millis(200)).is_none());
    drop(conn);
    assert!(s.wait_exit(PATIENCE).is_some_and(|status| status.success()));
    s.wait_for_text("sessions.log", "200 6\n");
}

#[test]
fn term_does_not() {
    let backend = echo();
    let mut s = full(CONF, &[&backend]);
    let mut conn = session(&s);
    assert!(s.stop().success());
    conn.assert_closed();
}

#[test]
fn sessions_outlive_reloads_and_servers_that_are_gone() {
    let backend = echo();
    let s = full(CONF, &[&backend]);
    let mut conn = session(&s);
    for _ in 0..3 {
        s.signal(libc::SIGHUP);
        assert_eq!(conn.send("two").take(3), b"two");
    }
    s.write_conf("events {} http { %%HTTP%% server { listen 127.0.0.1:%%P1%%; return 200 new; } }");
    s.signal(libc::SIGHUP);
    wait_for("stream to be gone", || {
        std::net::TcpStream::connect(("127.0.0.1", s.port(0))).is_err()
    });
    assert_eq!(conn.send("last").take(4), b"last");
    drop(conn);
    s.wait_for_text("sessions.log", "200 16\n");
}

#[test]
fn another_binary_takes_the_sockets_over() {
    let backend = echo();
    let s = Setup::full(CONF).backends(&[&backend]).daemon().start();
    let mut old_session = session(&s);
    let old = s.pid();
    s.signal(libc::SIGUSR2);
    wait_for("the new master", || {
        s.read("nginx.pid")
            .trim()
            .parse()
            .is_ok_and(|pid: u32| pid != old)
    });
    server::send_signal(old, libc::SIGQUIT);
    // From now on every session is the new one's.
    wait_for("the old one to stop accepting", || {
        s.error_log().contains("gracefully shutting down")
    });
    for _ in 0..10 {
        drop(session(&s));
    }
    assert_eq!(
        Conn::unix(s.path("s")).send("unix").take(4),
        b"unix",
        "the old one leaves the file"
    );
    assert_eq!(old_session.send("still").take(5), b"still");
    assert!(server::lives(old), "it has a session");
    drop(old_session);
    wait_for("the old master to end", || !server::lives(old));
    drop(session(&s));
}

#[test]
fn places_are_counted_with_those_of_http() {
    if skip_on_nginx("its workers need some for themselves") {
        return;
    }
    let backend = echo();
    let mut s = full(CONF, &[&backend]);
    s.expect_alerts();
    // Two places each.
    let mut sessions: Vec<Conn> = (0..5).map(|_| session(&s)).collect();
    let mut web = Conn::to(s.port(1));
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(web.send(get).response().text(), "web");
    // One is left, which is not enough for both ends; idle connections of http have to go.
    let mut one_more = s.connect();
    assert_eq!(one_more.send("one").take(3), b"one");
    web.assert_closed();
    sessions.push(one_more);
    let mut too_many = s.connect();
    too_many.assert_closed();
    s.wait_for_text("error.log", "12 worker_connections are not enough");
    sessions.pop();
    wait_for("a place", || {
        let mut conn = s.connect();
        conn.try_send(b"one").is_ok() && conn.try_take(3).is_some()
    });
}

#[test]
fn clients_of_http_stay_when_http_goes() {
    if skip_on_nginx("it closes idle connections of old workers") {
        return;
    }
    let backend = echo();
    let s = full(CONF, &[&backend]);
    let mut web = Conn::to(s.port(1));
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(web.send(get).response().text(), "web");
    s.write_conf(
        "events {} stream { server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; } }",
    );
    s.signal(libc::SIGHUP);
    // Clients that come while the address goes are served, too.
    wait_for("http to be gone", || {
        let Ok(stream) = std::net::TcpStream::connect(("127.0.0.1", s.port(1))) else {
            return true;
        };
        let mut conn = Conn::over(stream);
        if conn.try_send(get.as_bytes()).is_ok() {
            let _ = conn.try_response("GET");
        }
        false
    });
    assert_eq!(web.send(get).response().text(), "web");
    drop(session(&s));
}
