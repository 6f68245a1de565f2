//! What ringway promises beyond nginx: helpful messages, quick starts, kept connections without
//! being asked.

use crate::common::*;

/// Everything in here is skipped on nginx.
fn skip() -> bool {
    skip_on_nginx("a promise of ringway's own")
}

/// What `-t` says about a whole configuration, stderr and stdout, and the exit code.
fn check(conf: &str, args: &[&str]) -> (String, i32) {
    let (output, _s) = Setup::full(conf).args(&[&["-t"], args].concat()).run();
    let text = [output.stderr, output.stdout].concat();
    (
        String::from_utf8_lossy(&text).into_owned(),
        output.status.code().unwrap_or(-1),
    )
}

#[test]
fn errors_show_the_line_and_a_suggestion() {
    if skip() {
        return;
    }
    let (text, code) = check(
        "events {}\nhttp {\n    server {\n        lisen 80;\n    }\n}\n",
        &[],
    );
    assert_eq!(code, 1);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].contains("[emerg] unknown directive \"lisen\" in "),
        "{text}"
    );
    let shown = lines
        .iter()
        .position(|line| line.contains("lisen 80;"))
        .expect("the source line");
    assert!(lines[shown + 1].contains('^'), "{text}");
    let column = lines[shown].find("lisen").unwrap();
    assert_eq!(lines[shown + 1].find('^'), Some(column), "{text}");
    assert!(
        lines[1..].iter().any(|line| line.contains("listen")),
        "{text}"
    );
    let (text, _) = check(
        "events {}\nhttp {\n    proxy_pass http://127.0.0.1;\n}\n",
        &[],
    );
    assert!(text.contains("directive is not allowed here"), "{text}");
    assert!(
        text.lines().skip(1).any(|line| line.contains("location")),
        "{text}"
    );
}

#[test]
fn what_is_not_implemented_is_said() {
    if skip() {
        return;
    }
    let conf =
        "events {} http { perl_set $a b; server { listen unix:/tmp/ringway-not-opened.sock; } }";
    let (text, code) = check(conf, &[]);
    assert!(
        text.contains("perl_set") && text.contains("not implemented by ringway yet"),
        "{text}"
    );
    assert_eq!(code, 1);
    let (text, code) = check("events {} http { perl_modules x; }", &["--lenient"]);
    assert!(
        text.contains("[warn]") && text.contains("perl_modules"),
        "{text}"
    );
    assert_eq!(code, 0);
    // Only those: a mistake stays one.
    assert_eq!(check("events {} http { nonsense; }", &["--lenient"]).1, 1);
}

#[test]
fn what_only_tunes_nginx_is_noticed() {
    if skip() {
        return;
    }
    let (text, code) = check("events { use epoll; } http { aio threads; }", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("[notice]") && text.contains("\"use\""),
        "{text}"
    );
}

#[test]
fn a_quick_start_prints_its_configuration() {
    if skip() {
        return;
    }
    for (kind, protocol) in [("http", ""), ("tcp", ""), ("udp", " udp")] {
        let ports = [ports::reserve(), ports::reserve()];
        let [listen, other] = ports.each_ref().map(|port| port.number.to_string());
        let flags = ["--to", "127.0.0.1:3000", "--to", "127.0.0.1:3001"];
        let output = std::process::Command::new(binary())
            .args([kind, "--listen", &listen, "--listen", &other])
            .args(flags)
            .args(["--balance", "least_conn", "--print"])
            .output()
            .unwrap();
        let conf = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        for part in [
            "least_conn;",
            "server 127.0.0.1:3000;",
            "server 127.0.0.1:3001;",
            &format!("listen {listen}{protocol};"),
            &format!("listen {other}{protocol};"),
            "proxy_pass",
        ] {
            assert!(conf.contains(part), "{part} in {conf}");
        }
        // It is an nginx.conf.
        let (text, code) = check(&conf, &[]);
        assert_eq!(code, 0, "{text}");
    }
}

#[test]
fn upstream_connections_are_kept_without_being_asked() {
    if skip() {
        return;
    }
    let b = Backend::fixed("x");
    let s = http(
        r#"
        upstream u { server 127.0.0.1:%%B0%%; }
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://u; } }
    "#,
        &[&b],
    );
    for _ in 0..10 {
        assert_eq!(s.get("/").status, 200);
    }
    assert_eq!(b.connections(), 1);
    // And they survive a reload.
    s.reload();
    assert_eq!(s.get("/").status, 200);
    assert_eq!(b.connections(), 1);
}

#[test]
fn no_generation_piles_up() {
    if skip() {
        return;
    }
    let s = http("server { listen 127.0.0.1:%%P0%%; return 200 x; }", &[]);
    let threads = || {
        std::fs::read_dir(format!("/proc/{}/task", s.pid()))
            .unwrap()
            .count()
    };
    s.reload();
    let before = threads();
    for _ in 0..50 {
        s.reload();
    }
    wait_for("the threads of old generations to end", || {
        threads() <= before
    });
    let children = read(format!("/proc/{0}/task/{0}/children", s.pid()));
    assert!(children.split_whitespace().count() <= 1, "{children}");
}

#[test]
fn no_old_generation_lingers() {
    if skip_on_nginx("each reload leaves it a worker for the tunnel") {
        return;
    }
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_some() {
            conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\n\r\n");
            conn.drain();
        }
    });
    // Large enough to be seen if a single one stays.
    let locations: String = (0..80)
        .map(|n| format!("location ~ ^/(?<name{n}>[a-z]+)/{n}$ {{ return 200 $name{n}; }}\n"))
        .collect();
    let conf = format!(
        "server {{ listen 127.0.0.1:%%P0%%; location / {{ proxy_set_header Upgrade raw; proxy_pass \
         http://127.0.0.1:%%B0%%; }}\n{locations}}}"
    );
    let s = http(&conf, &[&b]);
    let mut tunnels: Vec<Conn> = (0..4).map(|_| s.connect()).collect();
    for c in &mut tunnels {
        c.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: raw\r\nConnection: upgrade\r\n\r\n");
        assert_eq!(c.response().status, 101);
        s.reload();
    }
    let settled = resident_kib(s.pid());
    for _ in 0..12 {
        s.reload();
        assert_eq!(s.get("/abc/79").text(), "abc");
    }
    let grown = resident_kib(s.pid()).saturating_sub(settled);
    assert!(grown < 6 << 10, "{grown} KiB more than {settled}");
    assert_eq!(b.open(), tunnels.len());
}

/// Resident memory of a process in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = read(format!("/proc/{pid}/status"));
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.expect("VmRSS").parse().unwrap()
}
