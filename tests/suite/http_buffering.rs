//! `proxy_buffering`: upstreams are read ahead of slow clients, within bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::*;

/// More than all socket buffers between a backend and a client that does not read.
const LARGE: usize = 24 << 20;

/// Room for an answer at a client. Little, but for several of the loopback's 64 KiB segments: what
/// has no room for one drops it, and TCP then waits twice as long each time before it tries again,
/// so that a client that reads after some seconds gets nothing for some more.
const ROOM: usize = 128 << 10;

/// More than the kernel takes by itself: the gateway's receive buffer grows while it reads, and the
/// backend's send buffer is behind it.
fn beyond_the_kernel() -> usize {
    let most = |name: &str| -> usize {
        let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let most = limits
            .ok()
            .and_then(|l| l.split_whitespace().last()?.parse().ok());
        most.unwrap_or(LARGE)
    };
    LARGE.max(most("tcp_rmem") + 2 * most("tcp_wmem") + (4 << 20))
}

/// A client that has sent a request, has little room for the answer and does not read it.
fn stuck(mut c: Conn, path: &str) -> Conn {
    socket2::SockRef::from(c.tcp())
        .set_recv_buffer_size(ROOM)
        .unwrap();
    c.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    c
}

/// A backend that answers with `body` in pieces, framed as the path says, and how much of it has
/// left. Its first connection stays open, the others serve one request.
fn pouring(body: Arc<Vec<u8>>) -> (Backend, Arc<AtomicUsize>) {
    let poured = Arc::new(AtomicUsize::new(0));
    let count = poured.clone();
    let backend = Backend::raw(move |mut conn, number| {
        while let Some(request) = conn.try_request() {
            let last = if number == 1 {
                ""
            } else {
                "Connection: close\r\n"
            };
            if request.target.contains("small") {
                let small = resp("200 OK", &format!("X-Conn: {number}\r\n{last}"), "small");
                if conn.try_send(&small).is_err() || number > 1 {
                    break;
                }
                continue;
            }
            let (chunked, close) = (
                request.target.contains("chunked"),
                request.target.contains("close"),
            );
            let framing = match (chunked, close) {
                (true, _) => "Transfer-Encoding: chunked\r\n".to_owned(),
                (_, true) => "Connection: close\r\n".to_owned(),
                _ => format!("Content-Length: {}\r\n", body.len()),
            };
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{framing}{last}\r\n");
            let mut sent = conn.try_send(head.as_bytes()).is_ok();
            for piece in body.chunks(100_000) {
                if chunked {
                    sent = sent
                        && conn
                            .try_send(format!("{:x}\r\n", piece.len()).as_bytes())
                            .is_ok();
                }
                sent = sent && conn.try_send(piece).is_ok();
                if chunked {
                    sent = sent && conn.try_send(b"\r\n").is_ok();
                }
                if !sent {
                    return;
                }
                count.fetch_add(piece.len(), Ordering::SeqCst);
            }
            if chunked {
                let _ = conn.try_send(b"0\r\n\r\n");
            }
            if close || number > 1 {
                break;
            }
        }
        conn.finish();
    });
    (backend, poured)
}

/// Waits until `count` has not changed for a moment.
fn settled(count: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    loop {
        let now = count.load(Ordering::SeqCst);
        if now == before {
            return now;
        }
        before = now;
        // That nothing happens has no event to wait for.
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn assert_body(c: &mut Conn, body: &[u8], what: &str) {
    let r = c
        .try_response("GET")
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(r.complete, "{what}");
    assert_eq!(r.body.len(), body.len(), "{what}");
    assert!(r.body == body, "{what}");
}

#[test]
fn the_upstream_is_free_long_before_a_slow_client_has_read() {
    let body = Arc::new(Rng(5).bytes(LARGE));
    let (b, poured) = pouring(body.clone());
    let s = http(
        r#"
        upstream u { server 127.0.0.1:%%B0%%; keepalive 8; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://u; }
            location /slow { proxy_limit_rate 100m; proxy_pass http://u; }
            location /tight {
                proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_temp_file_write_size 4k;
                proxy_pass http://u;
            }
        }
    "#,
        &[&b],
    );
    for path in ["/length", "/chunked", "/slow/length", "/tight/chunked"] {
        poured.store(0, Ordering::SeqCst);
        let mut c = stuck(s.connect(), path);
        wait_for(path, || poured.load(Ordering::SeqCst) == LARGE);
        wait_for("the connection to serve again", || {
            s.get("/small").header("x-conn") == Some("1")
        });
        assert_body(&mut c, &body, path);
        // The client's connection is as before, too.
        c.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(c.response().body, b"small");
    }
    let line = "an upstream response is buffered to a temporary file";
    assert!(s.error_log().contains(line), "{}", s.error_log());
}

#[test]
fn filtered_and_unframed_bodies_wait_as_well() {
    let body = Arc::new(Rng(6).bytes(LARGE));
    let (b, poured) = pouring(body.clone());
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /gzip {
                gzip on; gzip_types text/plain; gzip_comp_level 1;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let mut c = stuck(s.connect(), "/close");
    wait_for("the backend to be done", || {
        poured.load(Ordering::SeqCst) == LARGE && b.open() == 0
    });
    assert_body(&mut c, &body, "close");

    poured.store(0, Ordering::SeqCst);
    let mut c = s.connect();
    socket2::SockRef::from(c.tcp())
        .set_recv_buffer_size(ROOM)
        .unwrap();
    c.send("GET /gzip HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    wait_for("the backend to be done", || {
        poured.load(Ordering::SeqCst) == LARGE
    });
    let r = c.response();
    assert_eq!(r.header("content-encoding"), Some("gzip"));
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*r.body), &mut plain).unwrap();
    assert!(plain == *body);
}

#[test]
fn without_room_the_upstream_waits() {
    let body = Arc::new(Rng(7).bytes(beyond_the_kernel()));
    let paths = [
        "/none/length",
        "/none/chunked",
        "/little/length",
        "/little/chunked",
        "/off/length",
        "/off/chunked",
    ];
    let backends = paths.map(|_| pouring(body.clone()));
    let servers: String = (0..paths.len())
        .map(|n| {
            format!(
                "server {{
                    listen 127.0.0.1:%%P{n}%%;
                    location /none {{
                        proxy_max_temp_file_size 0;
                        proxy_pass http://127.0.0.1:%%B{n}%%;
                    }}
                    location /little {{
                        proxy_max_temp_file_size 1m;
                        proxy_pass http://127.0.0.1:%%B{n}%%;
                    }}
                    location /off {{
                        proxy_buffering off;
                        proxy_pass http://127.0.0.1:%%B{n}%%;
                    }}
                }}"
            )
        })
        .collect();
    let s = http(
        &format!("proxy_read_timeout 1s; {servers}"),
        &backends.each_ref().map(|(b, _)| b),
    );
    std::thread::scope(|scope| {
        for (n, path) in paths.iter().enumerate() {
            let (s, poured, body) = (&s, &backends[n].1, &body);
            scope.spawn(move || {
                let mut c = stuck(Conn::to(s.port(n)), path);
                // Longer than proxy_read_timeout, which does not run while nothing is read.
                std::thread::sleep(Duration::from_millis(2500));
                let held = settled(poured);
                assert!(held < body.len(), "{path}: {held} bytes left the backend");
                assert_body(&mut c, body, path);
            });
        }
    });
}

#[test]
fn a_client_that_stops_and_goes_gets_everything() {
    let size = 12 << 20;
    let body = Arc::new(Rng(11).bytes(size));
    let (b, _) = pouring(body.clone());
    let s = http(
        r#"
        proxy_read_timeout 1s;
        server {
            listen 127.0.0.1:%%P0%%;
            location /little { proxy_max_temp_file_size 1m; proxy_pass http://127.0.0.1:%%B0%%; }
            location /tight {
                proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_temp_file_write_size 4k;
                proxy_max_temp_file_size 64k; proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /off { proxy_buffering off; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let paths = [
        "/little/length",
        "/little/chunked",
        "/tight/chunked",
        "/off/chunked",
    ];
    std::thread::scope(|scope| {
        for (n, path) in paths.into_iter().enumerate() {
            let (s, body) = (&s, &body);
            scope.spawn(move || {
                let mut rng = Rng(n as u64);
                let mut c = stuck(s.connect(), path);
                while c.buffered().len() < size {
                    // It stops, so that what waits for it moves on to the next place.
                    std::thread::sleep(Duration::from_millis(rng.below(20) as u64));
                    let goal = c.buffered().len() + rng.below(1 << 20);
                    while c.buffered().len() < goal.min(size) {
                        c.more().unwrap_or_else(|| panic!("{path}: nothing came"));
                    }
                }
                assert_body(&mut c, body, path);
            });
        }
    });
}

#[test]
fn many_slow_clients_need_little_memory() {
    let size = 10 << 20;
    let body = Arc::new(Rng(8).bytes(size));
    let (b, poured) = pouring(body.clone());
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    s.get("/small");
    let before = resident_kib(&s);
    let mut clients: Vec<Conn> = (0..50)
        .map(|n| stuck(s.connect(), ["/length", "/chunked"][n % 2]))
        .collect();
    let limit = Duration::from_secs(60);
    let all = || poured.load(Ordering::SeqCst) == 50 * size;
    assert!(holds_within(limit, all), "{}", settled(&poured));
    let grown = resident_kib(&s).saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB more");
    for c in &mut clients[..4] {
        assert_body(c, &body, "one of many");
    }
}

/// What the program's processes have in memory.
fn resident_kib(s: &Server) -> usize {
    let of = |pid: u32| -> usize {
        let status = read(format!("/proc/{pid}/status"));
        let line = status.lines().find(|l| l.starts_with("VmRSS"));
        let number = line
            .and_then(|l| l.split_whitespace().nth(1))
            .unwrap_or("0");
        number.parse().unwrap()
    };
    let children = read(format!("/proc/{0}/task/{0}/children", s.pid()));
    let children = children
        .split_whitespace()
        .map(|pid| of(pid.parse().unwrap()));
    of(s.pid()) + children.sum::<usize>()
}

#[test]
fn a_file_that_fails_cuts_the_response() {
    if skip_on_nginx("its temporary files lie deeper") {
        return;
    }
    let body = Arc::new(Rng(9).bytes(LARGE));
    let (b, _) = pouring(body.clone());
    let mut s = http(
        r#"
        proxy_temp_path waiting;
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }
    "#,
        &[&b],
    );
    s.expect_alerts();
    std::fs::remove_dir(s.path("waiting")).expect("made at start");
    for path in ["/length", "/chunked"] {
        let mut c = stuck(s.connect(), path);
        s.wait_for_text("error.log", "[crit]");
        assert!(c.try_response("GET").is_ok_and(|r| !r.complete) || c.more().is_none());
    }
    let log = s.error_log();
    assert!(
        log.contains("failed (2: No such file or directory) while reading upstream"),
        "{log}"
    );
}

#[test]
fn a_client_that_goes_leaves_nothing_behind() {
    let body = Arc::new(Rng(10).bytes(LARGE));
    let (b, poured) = pouring(body.clone());
    let s = http(
        r#"
        log_format sent $body_bytes_sent;
        server {
            listen 127.0.0.1:%%P0%%;
            access_log sent.log sent;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let c = stuck(s.connect(), "/chunked");
    wait_for("the backend to be done", || {
        poured.load(Ordering::SeqCst) == LARGE
    });
    c.reset();
    let line = s.lines("sent.log", 1).remove(0);
    let sent: usize = line.trim().parse().unwrap();
    assert!(sent < LARGE / 2, "{sent} bytes are said to be sent");
}
