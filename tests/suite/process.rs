//! The command line, signals, reload, upgrade, pid file.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::server::{self, send_signal};
use crate::common::*;

/// stderr and stdout as text, and the exit code.
fn told(output: &std::process::Output) -> (String, String, i32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        text(&output.stderr),
        text(&output.stdout),
        output.status.code().unwrap_or(-1),
    )
}

const GOOD: &str = "server { listen 127.0.0.1:%%P0%%; location / { return 200 first; } }";

#[test]
fn test_a_configuration() {
    let (output, s) = Setup::http(GOOD).args(&["-t"]).run();
    let (err, out, code) = told(&output);
    let (prog, conf) = (prog(), s.path("nginx.conf").display().to_string());
    let expected = format!(
        "{prog}: the configuration file {conf} syntax is ok\n\
         {prog}: configuration file {conf} test is successful\n"
    );
    assert_eq!(
        (err.as_str(), out.as_str(), code),
        (expected.as_str(), "", 0)
    );
    assert!(!s.path("nginx.pid").exists() || s.read("nginx.pid").is_empty());
    let (output, _s) = Setup::http(GOOD).args(&["-t", "-q"]).run();
    assert_eq!(told(&output), (String::new(), String::new(), 0));
}

#[test]
fn test_a_bad_configuration() {
    let (output, s) = Setup::http("foo bar;").args(&["-t"]).run();
    let (err, _, code) = told(&output);
    let (prog, conf) = (prog(), s.path("nginx.conf").display().to_string());
    let first = format!("{prog}: [emerg] unknown directive \"foo\" in {conf}:4\n");
    let last = format!("{prog}: configuration file {conf} test failed\n");
    assert!(err.starts_with(&first), "{err}");
    assert!(err.ends_with(&last), "{err}");
    assert_eq!(code, 1);
    let (output, _s) = Setup::http("foo bar;").args(&["-t", "-q"]).run();
    let (err, _, code) = told(&output);
    assert!(err.contains("[emerg] unknown directive") && code == 1);
}

#[test]
fn dump_a_configuration() {
    let setup = Setup::http("include inc/*.conf; include inc/a.conf;")
        .file("inc/a.conf", "# a\nmap $uri $a { default 1; }\n")
        .file("inc/b.conf", "map $uri $b { default 1; }");
    let (output, s) = setup.args(&["-T"]).run();
    let (err, out, code) = told(&output);
    assert_eq!(code, 0, "{err}");
    let dir = s.prefix.display();
    let main = s.read("nginx.conf");
    let expected = format!(
        "# configuration file {dir}/nginx.conf:\n{main}\n\
         # configuration file {dir}/inc/a.conf:\n# a\nmap $uri $a {{ default 1; }}\n\n\
         # configuration file {dir}/inc/b.conf:\nmap $uri $b {{ default 1; }}\n"
    );
    assert_eq!(out, expected);
    assert!(err.ends_with("test is successful\n"));
}

#[test]
fn version_and_help() {
    let s = Setup::http(GOOD).run_nothing();
    let (err, out, code) = told(&s.run(&["-v"]));
    let text = err + &out;
    assert!(
        text.starts_with(&format!("{0} version: {0}/", prog())),
        "{text}"
    );
    assert_eq!((text.lines().count(), code), (1, 0));
    let (err, out, code) = told(&s.run(&["-V"]));
    let text = err + &out;
    assert!(
        text.starts_with(&format!("{0} version: {0}/", prog())),
        "{text}"
    );
    assert!(text.lines().count() > 1 && code == 0);
    for flag in ["-h", "-?"] {
        let (err, out, code) = told(&s.run(&[flag]));
        let text = err + &out;
        for option in ["-t", "-T", "-s", "-p", "-c", "-g", "-e", "-q", "-v", "-V"] {
            assert!(text.contains(option), "{option} in {text}");
        }
        assert_eq!(code, 0);
    }
    let (err, _, code) = told(&s.run(&["-Z"]));
    assert!(err.contains("-Z") || err.contains("\"Z\""), "{err}");
    assert_ne!(code, 0);
}

#[test]
fn missing_file() {
    let mut s = Setup::http(GOOD).run_nothing();
    std::fs::remove_file(s.path("nginx.conf")).unwrap();
    s.expect_alerts();
    let (err, _, code) = told(&s.run(&["-t"]));
    let conf = s.path("nginx.conf");
    let expected = format!(
        "{}: [emerg] open() \"{}\" failed (2: No such file or directory)\n",
        prog(),
        conf.display()
    );
    assert!(err.starts_with(&expected), "{err}");
    assert_eq!(code, 1);
}

#[test]
fn global_directives() {
    let (output, _s) = Setup::http(GOOD)
        .globals("nonsense on;")
        .args(&["-t"])
        .run();
    let (err, _, code) = told(&output);
    assert!(
        err.contains("[emerg] unknown directive \"nonsense\" in command line"),
        "{err}"
    );
    assert_eq!(code, 1);
    let (output, s) = Setup::http(GOOD)
        .globals("pid other.pid;")
        .args(&["-t"])
        .run();
    assert_eq!(told(&output).2, 0);
    drop(s);
}

#[test]
fn a_start_that_fails() {
    let (output, s) = Setup::http("server { listen 127.0.0.1:%%P0%%; bad; }").run();
    let (err, _, code) = told(&output);
    let message = format!(
        "unknown directive \"bad\" in {}:4",
        s.path("nginx.conf").display()
    );
    assert!(
        err.starts_with(&format!("{}: [emerg] {message}", prog())),
        "{err}"
    );
    assert_eq!(code, 1);
    assert!(!s.path("nginx.pid").exists());
    assert!(s.error_log().contains(&message), "{}", s.error_log());
}

#[test]
fn an_address_in_use() {
    let b = Backend::fixed("x");
    let (output, s) = Setup::http("server { listen 127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .run();
    let (err, _, code) = told(&output);
    let message = format!(
        "[emerg] bind() to 127.0.0.1:{} failed (98: Address already in use)",
        b.port
    );
    assert!(err.contains(&message), "{err}");
    assert_eq!(code, 1);
    assert!(!s.path("nginx.pid").exists());
}

#[test]
fn a_daemon_leaves_its_parent() {
    let s = Setup::http(GOOD).daemon().start();
    assert_eq!(s.get("/").text(), "first");
    let pid = s.pid();
    // Neither our session nor our standard streams.
    let stat = read(format!("/proc/{pid}/stat"));
    let session = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, pid.to_string());
    let stdin = std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
    assert_eq!(stdin.to_str(), Some("/dev/null"));
    s.reload();
    assert_eq!(s.pid(), pid);
}

#[test]
fn pid_and_logs() {
    let mut s = http(
        "access_log %%DIR%%/second.log; server { listen 127.0.0.1:%%P0%%; return 200; }",
        &[],
    );
    let pid = s.pid();
    assert!(s.read("nginx.pid").ends_with('\n'));
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    for log in ["error.log", "access.log", "second.log"] {
        assert!(s.path(log).exists(), "{log}");
    }
    s.get("/");
    s.reload();
    assert_eq!(s.pid(), pid, "the master survives a reload");
    assert_eq!(s.stop().code(), Some(0));
    assert!(!s.path("nginx.pid").exists());
}

#[test]
fn signal_flags() {
    let mut s = http(GOOD, &[]);
    let globals = ["-g", "daemon off; pid nginx.pid; error_log error.log info;"];
    let send = |s: &Server, what: &str| told(&s.run(&[&globals[..], &["-s", what]].concat()));
    assert_eq!(send(&s, "reopen").2, 0);
    s.wait_for_text("error.log", "reopening logs");
    let before = s.reloads();
    assert_eq!(send(&s, "reload").2, 0);
    wait_for("the reload", || s.reloads() > before);
    assert_eq!(send(&s, "quit").2, 0);
    assert_eq!(s.wait_exit(PATIENCE).unwrap().code(), Some(0));
    let (err, _, code) = send(&s, "stop");
    let pid = s.path("nginx.pid");
    let expected = format!(
        "open() \"{}\" failed (2: No such file or directory)",
        pid.display()
    );
    assert!(err.contains(&expected), "{err}");
    assert_eq!(code, 1);
    let (err, _, code) = send(&s, "dance");
    assert!(err.contains("dance") && code != 0, "{err}");
    s.expect_alerts();
}

#[test]
fn fast_stop() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let b = Backend::silent();
        let mut s = http(
            "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } \
             }",
            &[&b],
        );
        let mut c = s.connect();
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for("the request", || b.open() == 1);
        let start = Instant::now();
        s.signal(signal);
        assert_eq!(s.wait_exit(PATIENCE).unwrap().code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(3));
        c.rest();
    }
}

/// A connection that has been idle for more than a second has given up its buffers and its future.
#[test]
fn parked_connections_go_on_and_close_on_a_graceful_quit() {
    let conf = "server { listen 127.0.0.1:%%P0%%; location / { return 200 x; } }";
    let mut s = http(conf, &[]);
    let mut c = s.connect();
    for _ in 0..3 {
        let r = c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!((r.status, r.text().as_str()), (200, "x"));
        // Time itself is under test: a connection is parked after one second.
        std::thread::sleep(Duration::from_millis(1300));
    }
    s.signal(libc::SIGQUIT);
    c.assert_closed();
    assert_eq!(s.wait_exit(PATIENCE).unwrap().code(), Some(0));
}

#[test]
fn graceful_quit() {
    let b = Backend::http(|_| {
        // The request is in flight when QUIT comes.
        std::thread::sleep(Duration::from_millis(400));
        ok("finished")
    });
    let mut s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /local { return 200 x; }
        }
    "#,
        &[&b],
    );
    let mut idle = s.connect();
    assert_eq!(
        idle.send("GET /local HTTP/1.1\r\nHost: a\r\n\r\n")
            .response()
            .status,
        200
    );
    let mut busy = s.connect();
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the request", || b.open() == 1);
    s.signal(libc::SIGQUIT);
    idle.assert_closed();
    wait_for("the listener to close", || {
        std::net::TcpStream::connect(("127.0.0.1", s.port(0))).is_err()
    });
    let r = busy.response();
    assert_eq!(
        (r.text().as_str(), r.header("connection")),
        ("finished", Some("close"))
    );
    busy.assert_closed();
    assert_eq!(s.wait_exit(PATIENCE).unwrap().code(), Some(0));
    assert!(!s.path("nginx.pid").exists());
}

#[test]
fn workers_that_end_leave_nothing_behind() {
    if skip_on_nginx("its workers are processes") {
        return;
    }
    let conf = |workers: usize| {
        format!(
            "worker_processes {workers}; events {{}}
             http {{ %%HTTP%% server {{ listen 127.0.0.1:%%P0%%; return 200 ok; }} }}"
        )
    };
    let s = full(&conf(1), &[]);
    let count = |directory: &str| {
        let path = format!("/proc/{}/{directory}", s.pid());
        fs::read_dir(path).unwrap().count()
    };
    let resources = || (count("fd"), count("task"));
    assert_eq!(s.get("/").status, 200);
    let before = resources();
    for _ in 0..4 {
        s.write_conf(&conf(4));
        s.signal(libc::SIGHUP);
        wait_for("more workers", || count("task") >= before.1 + 3);
        assert_eq!(s.get("/").status, 200);
        s.write_conf(&conf(1));
        s.signal(libc::SIGHUP);
        // At first the connection of the request may still have been open.
        wait_for("one worker, and no more than it had before", || {
            let (descriptors, threads) = resources();
            descriptors <= before.0 && threads == before.1
        });
    }
}

#[test]
fn worker_shutdown_timeout() {
    let b = Backend::silent();
    let setup = Setup::full(
        r#"
        worker_shutdown_timeout 300ms;
        events {}
        http { %%HTTP%%
            server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }
        }
    "#,
    );
    let mut s = setup.backends(&[&b]).start();
    let mut c = s.connect();
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the request", || b.open() == 1);
    s.signal(libc::SIGQUIT);
    let start = Instant::now();
    assert!(s.wait_exit(PATIENCE).is_some());
    assert!(start.elapsed() > Duration::from_millis(200));
    c.rest();
}

#[test]
fn reload_takes_the_new_configuration() {
    let s = http(GOOD, &[]);
    assert_eq!(s.get("/").text(), "first");
    s.write_http("server { listen 127.0.0.1:%%P0%%; location / { return 200 second; } }");
    s.reload();
    assert_eq!(s.get("/").text(), "second");
}

#[test]
fn reload_opens_and_closes_listeners() {
    let s = http(
        r#"
        server { listen 127.0.0.1:%%P0%%; return 200 stays; }
        server { listen 127.0.0.1:%%P1%%; return 200 goes; }
        # 127.0.0.1:%%P2%%
    "#,
        &[],
    );
    let ask = |n: usize| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", s.port(n))).ok()?;
        use std::io::Write;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .ok()?;
        Some(Conn::over(stream).response().text())
    };
    assert_eq!((ask(1).as_deref(), ask(2)), (Some("goes"), None));
    s.write_http(
        r#"
        server { listen 127.0.0.1:%%P0%%; return 200 stays; }
        server { listen 127.0.0.1:%%P2%%; return 200 comes; }
    "#,
    );
    s.reload();
    assert_eq!(ask(0).as_deref(), Some("stays"));
    assert_eq!(ask(2).as_deref(), Some("comes"));
    wait_for("the old listener to close", || ask(1).is_none());
}

#[test]
fn a_broken_reload_is_refused() {
    let mut s = http(GOOD, &[]);
    s.write_http("server { listen 127.0.0.1:%%P0%%; nonsense; }");
    s.signal(libc::SIGHUP);
    s.wait_for_text("error.log", "[emerg]");
    assert!(s.error_log().contains("unknown directive \"nonsense\" in "));
    assert_eq!(s.get("/").text(), "first");
    s.write_http("server { listen 127.0.0.1:%%P0%%; return 200 third; }");
    s.reload();
    assert_eq!(s.get("/").text(), "third");
    s.expect_alerts();
}

#[test]
fn reload_under_load() {
    let backends = [Backend::fixed("a"), Backend::fixed("b")];
    let s = http(
        r#"
        upstream u { server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%; keepalive 8; }
        server {
            listen 127.0.0.1:%%P0%%;
            location / {
                proxy_http_version 1.1;
                proxy_set_header Connection "";
                proxy_pass http://u;
            }
        }
    "#,
        &[&backends[0], &backends[1]],
    );
    let load = Load::start(s.port(0), "/", 8);
    for _ in 0..20 {
        load.wait_for_more(50);
        s.reload();
    }
    load.wait_for_more(50);
    load.assert_none_failed();
}

#[test]
fn requests_in_flight_survive_a_reload() {
    let b = Backend::http(|_| {
        // The request is in flight when the reload comes.
        std::thread::sleep(Duration::from_millis(300));
        ok("old")
    });
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let mut c = s.connect();
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the request", || b.open() == 1);
    s.write_http(GOOD);
    s.signal(libc::SIGHUP);
    wait_for("the new configuration", || s.get("/").text() == "first");
    assert_eq!(c.response().text(), "old");
}

#[test]
fn reopen() {
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { return 200 x; } }",
        &[],
    );
    s.get("/1");
    s.lines("access.log", 1);
    for log in ["access.log", "error.log"] {
        std::fs::rename(s.path(log), s.path(&format!("{log}.1"))).unwrap();
    }
    s.signal(libc::SIGUSR1);
    wait_for("new files", || {
        s.path("access.log").exists() && s.path("error.log").exists()
    });
    // Workers follow in their own time: until then lines go to the old file.
    wait_for("a line in the new file", || {
        s.get("/2");
        s.read("access.log").contains("/2")
    });
    assert!(!s.read("access.log").contains("/1 "));
    assert!(s.read("access.log.1").contains("/1 "));
}

/// A pid file's number, if it can be read.
fn pid_in(s: &Server, file: &str) -> Option<u32> {
    s.read(file).trim().parse().ok()
}

#[test]
fn upgrade_under_load() {
    let b = Backend::fixed("x");
    let setup = Setup::http(
        r#"
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }
        server { listen unix:%%DIR%%/s.sock; return 200 unix; }
    "#,
    );
    let s = setup.backends(&[&b]).daemon().start();
    let load = Load::start(s.port(0), "/", 4);
    load.wait_for_more(20);
    let old = s.pid();
    s.signal(libc::SIGUSR2);
    wait_for("the new master", || {
        pid_in(&s, "nginx.pid.oldbin") == Some(old)
            && pid_in(&s, "nginx.pid").is_some_and(|pid| pid != old)
    });
    let new = s.pid();
    load.wait_for_more(100);
    send_signal(old, libc::SIGWINCH);
    load.wait_for_more(100);
    send_signal(old, libc::SIGQUIT);
    wait_for("the end of the old master", || !server::lives(old));
    load.wait_for_more(100);
    load.assert_none_failed();
    assert_eq!(s.pid(), new);
    assert!(!s.path("nginx.pid.oldbin").exists());
    let mut c = Conn::unix(s.path("s.sock"));
    assert_eq!(c.send("GET / HTTP/1.0\r\n\r\n").response().text(), "unix");
}

#[test]
fn an_upgrade_may_be_taken_back() {
    let s = Setup::http("server { listen 127.0.0.1:%%P0%%; return 200 $pid; }")
        .daemon()
        .start();
    let old = s.pid();
    // nginx may sleep over a signal that comes before its workers run.
    let old_worker = s.get("/").text();
    s.signal(libc::SIGUSR2);
    wait_for("the new master", || {
        pid_in(&s, "nginx.pid").is_some_and(|pid| pid != old)
    });
    let new = s.pid();
    send_signal(old, libc::SIGWINCH);
    wait_for("the new one to serve alone", || {
        (0..5).all(|_| s.get("/").text() != old_worker)
    });
    send_signal(old, libc::SIGHUP);
    for _ in 0..5 {
        assert_eq!(s.get("/").status, 200);
    }
    send_signal(new, libc::SIGQUIT);
    wait_for("the end of the new master", || !server::lives(new));
    wait_for("the old pid file to return", || {
        pid_in(&s, "nginx.pid") == Some(old)
    });
    assert_eq!(s.get("/").status, 200);
}

#[test]
fn peers_keep_their_state_over_a_reload() {
    if skip_on_nginx("it forgets what it knew about servers") {
        return;
    }
    let failing = Backend::resetting();
    let good = Backend::fixed("good");
    let conf = r#"
        upstream u { server 127.0.0.1:%%B0%% fail_timeout=60s; server 127.0.0.1:%%B1%%; }
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://u; } }
    "#;
    let s = http(conf, &[&failing, &good]);
    for _ in 0..4 {
        assert_eq!(s.get("/").text(), "good");
    }
    assert_eq!(failing.connections(), 1);
    s.reload();
    for _ in 0..4 {
        assert_eq!(s.get("/").text(), "good");
    }
    assert_eq!(failing.connections(), 1);
}

#[test]
fn long_downloads_survive_a_hundred_reloads() {
    let go = std::sync::Arc::new(AtomicBool::new(false));
    let end = go.clone();
    let b = Backend::raw(move |mut conn, _| {
        if conn.try_head().is_none() {
            return;
        }
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while !end.load(Ordering::Relaxed) {
            if conn.try_send(b"1\r\nx\r\n").is_err() {
                return;
            }
            // A response that is never finished by itself.
            std::thread::sleep(Duration::from_millis(10));
        }
        conn.send("0\r\n\r\n");
        conn.drain();
    });
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / {
                proxy_http_version 1.1;
                proxy_buffering off;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let mut downloads: Vec<Conn> = (0..5).map(|_| s.connect()).collect();
    for c in &mut downloads {
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        c.take_until("\r\n\r\n");
    }
    // nginx would leave a generation of workers behind each: a few are enough to see the downloads
    // live on.
    let reloads = if is_nginx() { 3 } else { 100 };
    for n in 0..reloads {
        s.signal(libc::SIGHUP);
        if !is_nginx() {
            wait_for("the reload", || s.reloads() > n);
        }
    }
    for c in &mut downloads {
        c.take(20);
    }
    go.store(true, Ordering::Relaxed);
    for c in &mut downloads {
        c.take_until("\r\n0\r\n\r\n");
    }
}
