//! `proxy_pass` of `stream`: bytes both ways, the choice of a server, how sessions end and what the
//! logs say about them.

use crate::common::*;

const LOG: &str = "log_format t '$protocol $status $bytes_received $bytes_sent $upstream_addr \
                   $upstream_bytes_sent $upstream_bytes_received';
                   access_log %%DIR%%/access.log t;";

/// Returns what it receives until the client has no more, then says good bye.
fn echo() -> Backend {
    Backend::raw(|mut conn, _| {
        while conn.more().is_some() {
            let bytes = conn.take(conn.buffered().len());
            if conn.try_send(&bytes).is_err() {
                return;
            }
        }
        let _ = conn.try_send(b"bye");
        conn.finish();
    })
}

/// A port on which nothing listens.
fn dead() -> Backend {
    let mut backend = Backend::silent();
    backend.stop();
    backend
}

#[test]
fn http_and_stream_side_by_side() {
    let backend = echo();
    let s = full(
        "%%MODULES%%
        events {}
        stream {
            upstream db { server 127.0.0.1:%%B0%%; }
            server { listen 127.0.0.1:%%P1%%; proxy_pass db; }
        }
        http {
            %%HTTP%%
            server { listen 127.0.0.1:%%P0%%; location / { return 200 web; } }
        }",
        &[&backend],
    );
    assert_eq!(s.get("/").text(), "web");
    let mut conn = Conn::to(s.port(1));
    assert_eq!(conn.send("ping").take(4), b"ping");
    assert_eq!(conn.send("pong!").take(5), b"pong!");
}

#[test]
fn a_session_and_its_line() {
    let backend = echo();
    let s = stream(
        &format!("{LOG} server {{ listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; }}"),
        &[&backend],
    );
    let mut conn = s.connect();
    assert_eq!(conn.send("hello").take(5), b"hello");
    drop(conn);
    let port = backend.port;
    assert_eq!(
        s.lines("access.log", 1),
        [format!("TCP 200 5 5 127.0.0.1:{port} 5 5")]
    );
}

#[test]
fn the_next_server_takes_what_the_first_refuses() {
    let (first, second) = (dead(), echo());
    let s = stream(
        &format!(
            "{LOG}
            upstream db {{ server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; }}
            server {{ listen 127.0.0.1:%%P0%%; proxy_pass db; }}"
        ),
        &[&first, &second],
    );
    let mut conn = s.connect();
    assert_eq!(conn.send("hello").take(5), b"hello");
    drop(conn);
    let (first, second) = (first.port, second.port);
    assert_eq!(
        s.lines("access.log", 1),
        [format!(
            "TCP 200 5 5 127.0.0.1:{first}, 127.0.0.1:{second} 0, 5 0, 5"
        )]
    );
    let refused = "connect() failed (111: Connection refused) while connecting to upstream";
    s.wait_for_text("error.log", refused);
}

#[test]
fn nobody_takes_the_session() {
    let (first, second) = (dead(), dead());
    let s = stream(
        &format!(
            "{LOG}
            upstream db {{ server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; }}
            server {{ listen 127.0.0.1:%%P0%%; proxy_pass db; }}
            server {{ listen 127.0.0.1:%%P1%%; proxy_pass db; proxy_next_upstream off; }}"
        ),
        &[&first, &second],
    );
    s.connect().assert_closed();
    let (first, second) = (first.port, second.port);
    assert_eq!(
        s.lines("access.log", 1),
        [format!(
            "TCP 502 0 0 127.0.0.1:{first}, 127.0.0.1:{second} 0, 0 0, 0"
        )]
    );
    Conn::to(s.port(1)).assert_closed();
    assert_eq!(s.lines("access.log", 2)[1], "TCP 502 0 0 db 0 0");
}

#[test]
fn unix_sockets_on_both_sides() {
    let backend = echo();
    let s = stream(
        "server { listen unix:%%DIR%%/front; proxy_pass unix:%%DIR%%/back; }
         server { listen unix:%%DIR%%/back; proxy_pass 127.0.0.1:%%B0%%; }",
        &[&backend],
    );
    let mut conn = Conn::unix(s.path("front"));
    assert_eq!(conn.send("through two").take(11), b"through two");
}

#[test]
fn a_session_outlives_a_reload_and_new_ones_take_the_new_configuration() {
    let [old, new] = ["old", "new"].map(|greeting| {
        Backend::raw(move |mut conn, _| {
            let _ = conn.try_send(greeting.as_bytes());
            conn.drain();
        })
    });
    let server =
        |index| format!("server {{ listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B{index}%%; }}");
    let s = stream(&server(0), &[&old, &new]);
    let mut conn = s.connect();
    assert_eq!(conn.take(3), b"old");
    s.write_stream(&server(1));
    s.signal(libc::SIGHUP);
    wait_for("the new configuration", || s.connect().take(3) == b"new");
    assert_eq!(old.open(), 1);
    drop(conn);
    wait_for("the end of the old session", || old.open() == 0);
}

#[test]
fn sessions_that_outlast_the_shutdown_timeout_have_their_lines() {
    let backend = echo();
    let conf = format!(
        "worker_shutdown_timeout 300ms;
        %%MODULES%%
        events {{}}
        stream {{
            {LOG}
            server {{ listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; }}
        }}"
    );
    let mut s = full(&conf, &[&backend]);
    let mut conn = s.connect();
    assert_eq!(conn.send("ping").take(4), b"ping");
    s.signal(libc::SIGQUIT);
    assert_eq!(conn.send("pong!").take(5), b"pong!");
    assert_eq!(conn.rest(), b"");
    assert!(s.wait_exit(PATIENCE).is_some());
    let upstream = format!("127.0.0.1:{}", backend.port);
    let line = format!("TCP 200 9 9 {upstream} 9 9");
    assert_eq!(s.lines("access.log", 1), [line]);
    s.wait_for_text(
        "error.log",
        "shutdown timeout while proxying connection, client: ",
    );
}
