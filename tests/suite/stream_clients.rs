//! Servers and clients of the world through `stream`: Redis, PostgreSQL, OpenSSL, dig.
//!
//! Each test says so and passes where its Debian package is not installed; `.ci/run` installs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::common::ports::{self, Port};
use crate::common::server::send_signal;
use crate::common::*;

/// A server process and its directory; both go when dropped.
struct Daemon {
    port: Port,
    dir: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Reserves a port and makes an empty directory.
    fn new(name: &str) -> Daemon {
        let port = ports::reserve();
        let own = format!("ringway-{name}-{}-{}", std::process::id(), port.number);
        let dir = std::env::temp_dir().join(own);
        fs::create_dir_all(&dir).unwrap();
        Daemon {
            port,
            dir,
            child: None,
        }
    }

    fn start(&mut self, command: &mut Command) {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let errors = log.try_clone().unwrap();
        let command = command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().unwrap());
        let port = self.port.number;
        wait_for("a server that listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // PostgreSQL takes its children with it when it quits; KILL would leave them.
            send_signal(child.id(), libc::SIGQUIT);
            if !holds_within(PATIENCE, || child.try_wait().unwrap().is_some()) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}: {}", self.dir.display(), read(self.dir.join("log")));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where a program is; `None`, with a word, where its package is not installed.
fn find_program(name: &str, package: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let postgres = versions.flatten().map(|entry| entry.path().join("bin"));
    let found = ["/usr/bin", "/usr/sbin"]
        .iter()
        .map(PathBuf::from)
        .chain(postgres)
        .map(|dir| dir.join(name))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no {name} on this machine; it is in Debian's {package}");
    }
    found
}

/// Runs a client with a text on its standard input and a time limit; its output is text.
#[track_caller]
fn run(program: &Path, args: &[&str], input: &[u8]) -> String {
    let output = run_any(program, args, input);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {text} {errors}");
    text
}

fn run_any(program: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new("timeout")
        .arg("30")
        .arg(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut stdin, &input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn redis() -> Option<Daemon> {
    let program = find_program("redis-server", "redis-server")?;
    let mut daemon = Daemon::new("redis");
    let (port, dir) = (daemon.port.number.to_string(), daemon.dir.clone());
    daemon.start(
        Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
            .args(["--appendonly", "no", "--dir"])
            .arg(dir),
    );
    Some(daemon)
}

#[test]
fn redis_clients() {
    let Some(mut first) = redis() else { return };
    let (Some(second), Some(cli), Some(benchmark)) = (
        redis(),
        find_program("redis-cli", "redis-tools"),
        find_program("redis-benchmark", "redis-tools"),
    ) else {
        return;
    };
    let s = Setup::stream(
        "upstream cache { server 127.0.0.1:%%FIRST%%; server 127.0.0.1:%%SECOND%% backup; }
         server { listen 127.0.0.1:%%P0%%; proxy_pass cache; }",
    )
    .value("FIRST", first.port.number)
    .value("SECOND", second.port.number)
    .start();
    let port = s.port(0).to_string();
    let ask = |args: &[&str], input: &[u8]| {
        let all = [&["-p", port.as_str()], args].concat();
        run(&cli, &all, input)
    };
    assert_eq!(ask(&["PING"], b""), "PONG\n");
    let value: Vec<u8> = Rng(5)
        .bytes(3_000_000)
        .iter()
        .map(|b| b'a' + b % 26)
        .collect();
    assert_eq!(ask(&["-x", "SET", "large"], &value), "OK\n");
    let back = ask(&["GET", "large"], b"");
    assert_eq!(hash(back.trim_end().as_bytes()), hash(&value));
    // A thousand commands in one write, their answers in one stream.
    let pipeline: String = (0..1000).map(|n| format!("SET k{n} {n}\r\n")).collect();
    let report = ask(&["--pipe"], pipeline.as_bytes());
    assert!(report.contains("errors: 0, replies: 1000"), "{report}");
    assert_eq!(ask(&["GET", "k999"], b""), "999\n");
    let args = [
        "-p", &port, "-q", "-n", "2000", "-c", "50", "-P", "4", "-d", "3000",
    ];
    let report = run(&benchmark, &[&args[..], &["-t", "set,get"]].concat(), b"");
    assert_eq!(report.matches("requests per second").count(), 2, "{report}");
    assert!(!report.contains("rror"), "{report}");

    first.stop();
    assert_eq!(ask(&["PING"], b""), "PONG\n");
    assert_eq!(ask(&["EXISTS", "large"], b""), "0\n", "another server");
}

/// A command that does not run as root, which PostgreSQL refuses.
fn unprivileged(program: &Path) -> Command {
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let ids = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];
    command.args(ids).arg(program);
    command
}

fn postgres() -> Option<Daemon> {
    let initdb = find_program("initdb", "postgresql")?;
    let program = find_program("postgres", "postgresql")?;
    let mut daemon = Daemon::new("postgres");
    fs::set_permissions(&daemon.dir, fs::Permissions::from_mode(0o777)).unwrap();
    let data = daemon.dir.join("data");
    let made = unprivileged(&initdb)
        .args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"])
        .arg(&data)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "initdb: {errors}");
    let port = daemon.port.number.to_string();
    let mut command = unprivileged(&program);
    command.arg("-D").arg(data).args(["-p", &port]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
    ] {
        command.args(["-c", setting]);
    }
    daemon.start(&mut command);
    Some(daemon)
}

#[test]
fn postgresql_clients() {
    let Some(server) = postgres() else { return };
    let (Some(psql), Some(pgbench), Some(is_ready)) = (
        find_program("psql", "postgresql-client"),
        find_program("pgbench", "postgresql"),
        find_program("pg_isready", "postgresql-client"),
    ) else {
        return;
    };
    let mut closed = Backend::silent();
    closed.stop();
    let s = Setup::stream(
        "upstream db { least_conn; server 127.0.0.1:%%B0%%; server 127.0.0.1:%%DB%%; }
         server { listen 127.0.0.1:%%P0%%; proxy_pass db; }",
    )
    .backends(&[&closed])
    .value("DB", server.port.number)
    .start();
    let port = s.port(0).to_string();
    let at = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    wait_for("the database", || {
        run_any(&is_ready, &at, b"").status.success()
    });
    let ask =
        |args: &[&str], input: &[u8]| run(&psql, &[&at[..], &["-AtqX"], args].concat(), input);
    assert_eq!(ask(&["-c", "select 40 + 2"], b""), "42\n");
    // Bulk in one direction, then in the other.
    let rows: String = (0..40_000)
        .map(|n| format!("{n}\trow number {n}\n"))
        .collect();
    ask(&["-c", "create table t (n int, text text)"], b"");
    ask(&["-c", "copy t from stdin"], rows.as_bytes());
    let back = ask(&["-c", "copy (select * from t order by n) to stdout"], b"");
    assert_eq!(hash(back.as_bytes()), hash(rows.as_bytes()));
    // An error comes back as one.
    let refused = run_any(&psql, &[&at[..], &["-c", "select 1/0"]].concat(), b"");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("division by zero"));
    // A query is cancelled by a session of its own.
    let sleeping = Command::new(&psql)
        .args(at)
        .args(["-c", "select pg_sleep(60)"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let count = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'";
    wait_for("the query", || ask(&["-c", count], b"") == "1\n");
    send_signal(sleeping.id(), libc::SIGINT);
    let output = sleeping.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("canceling statement due to user request"),
        "{errors}"
    );

    let bench = |args: &[&str]| run(&pgbench, &[&at[..], args, &["postgres"]].concat(), b"");
    bench(&["-i", "-q", "-s", "1"]);
    for mode in [&["-S"][..], &["-N"], &["-S", "-C"]] {
        let report = bench(&[&["-c", "8", "-j", "2", "-t", "40", "-n"], mode].concat());
        let done = "number of transactions actually processed: 320/320";
        assert!(report.contains(done), "{mode:?}: {report}");
    }
}

/// `openssl s_server` that turns lines round, with a certificate for `name`.
fn tls_server(openssl: &Path, name: &str) -> Daemon {
    let mut daemon = Daemon::new("tls");
    let (key, cert) = (daemon.dir.join("key.pem"), daemon.dir.join("cert.pem"));
    let subject = format!("/CN={name}");
    let names = format!("subjectAltName=DNS:{name}");
    let made = Command::new(openssl)
        .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &subject])
        .args(["-addext", &names, "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{:?}", made.stderr);
    let accept = format!("127.0.0.1:{}", daemon.port.number);
    let mut command = Command::new(openssl);
    command.args(["s_server", "-quiet", "-rev", "-accept", &accept]);
    command.arg("-key").arg(key).arg("-cert").arg(cert);
    daemon.start(&mut command);
    daemon
}

#[test]
fn openssl_through_a_passthrough() {
    let Some(openssl) = find_program("openssl", "openssl") else {
        return;
    };
    let server = tls_server(&openssl, "a.test");
    let s = Setup::stream("server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%TLS%%; }")
        .value("TLS", server.port.number)
        .start();
    let cert = server.dir.join("cert.pem").display().to_string();
    let to = format!("127.0.0.1:{}", s.port(0));
    for version in ["-tls1_2", "-tls1_3"] {
        let args = [
            "s_client",
            "-connect",
            &to,
            "-quiet",
            "-no_ign_eof",
            version,
        ];
        let trust = [
            "-CAfile",
            &cert,
            "-verify_return_error",
            "-verify_hostname",
            "a.test",
        ];
        let answer = talk(&openssl, &[&args[..], &trust].concat(), "drawer\n");
        assert_eq!(answer, "reward\n", "{version}");
    }
    // Trust is between the two ends: another name is not the server's.
    let args = [
        "s_client",
        "-connect",
        &to,
        "-CAfile",
        &cert,
        "-verify_return_error",
    ];
    let refused = run_any(
        &openssl,
        &[&args[..], &["-verify_hostname", "b.test"]].concat(),
        b"",
    );
    assert!(!refused.status.success());
}

/// A front that passes TLS on by the name in its ClientHello, with SSH beside it.
#[test]
fn openssl_by_server_name() {
    let Some(openssl) = find_program("openssl", "openssl") else {
        return;
    };
    let servers = ["a.test", "b.test"].map(|name| tls_server(&openssl, name));
    let ssh = Backend::raw(|mut conn, _| {
        let _ = conn.try_send(b"SSH-2.0-test\r\n");
        conn.drain();
    });
    let s = Setup::stream(
        "map $ssl_preread_server_name $name { a.test a; default b; }
         map $ssl_preread_protocol $to { '' ssh; default $name; }
         upstream a { server 127.0.0.1:%%A%%; }
         upstream b { server 127.0.0.1:%%B%%; }
         upstream ssh { server 127.0.0.1:%%B0%%; }
         server { listen 127.0.0.1:%%P0%%; ssl_preread on; proxy_pass $to; }",
    )
    .backends(&[&ssh])
    .value("A", servers[0].port.number)
    .value("B", servers[1].port.number)
    .start();
    let to = format!("127.0.0.1:{}", s.port(0));
    for (name, server) in ["a.test", "b.test"].into_iter().zip(&servers) {
        let cert = server.dir.join("cert.pem").display().to_string();
        let args = [
            "s_client",
            "-connect",
            &to,
            "-servername",
            name,
            "-quiet",
            "-no_ign_eof",
        ];
        let trust = [
            "-CAfile",
            &cert,
            "-verify_return_error",
            "-verify_hostname",
            name,
        ];
        let answer = talk(&openssl, &[&args[..], &trust].concat(), "drawer\n");
        assert_eq!(answer, "reward\n", "{name}");
    }
    let mut conn = s.connect();
    conn.send("SSH-2.0-client\r\n");
    assert_eq!(conn.take_until("\n"), "SSH-2.0-test\r\n");
}

#[test]
fn dig_over_udp() {
    let Some(dig) = find_program("dig", "bind9-dnsutils") else {
        return;
    };
    let [first, second] = ["127.1.2.3", "127.4.5.6"].map(|address| {
        let dns = Dns::start(60);
        dns.set("app.test", &[address]);
        dns
    });
    let closed = ports::reserve();
    let s = Setup::stream(
        "upstream dns { server 127.0.0.1:%%DEAD%%; server 127.0.0.1:%%A%%; }
         upstream each { server 127.0.0.1:%%A%%; server 127.0.0.1:%%B%%; }
         server { listen 127.0.0.1:%%P0%% udp; proxy_pass dns; proxy_responses 1; }
         server {
             listen 127.0.0.1:%%P1%% udp;
             proxy_pass each;
             proxy_requests 1;
             proxy_responses 1;
         }",
    )
    .value("A", first.port)
    .value("B", second.port)
    .value("DEAD", closed.number)
    .start();
    let ask = |index: usize, options: &[&str]| {
        let port = s.port(index).to_string();
        let args = [
            "@127.0.0.1",
            "-p",
            &port,
            "+short",
            "+tries=3",
            "+time=2",
            "app.test",
        ];
        run(&dig, &[&args[..], options].concat(), b"")
    };
    if is_nginx() {
        // It tells the client of a server that is not there, and tries no other.
        ask(0, &[]);
    }
    for _ in 0..4 {
        assert_eq!(ask(0, &[]), "127.1.2.3\n");
    }
    let answers: String = (0..4).map(|_| ask(1, &[])).collect();
    assert_eq!(answers.matches("127.1.2.3\n").count(), 2, "{answers}");
    assert_eq!(answers.matches("127.4.5.6\n").count(), 2, "{answers}");
    assert_eq!(ask(1, &["-b", "127.0.0.9"]).lines().count(), 1);
}

/// Sends a line, reads a line, then leaves.
fn talk(program: &Path, args: &[&str], line: &str) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut child = Command::new("timeout")
        .arg("30")
        .arg(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(line.as_bytes())
        .unwrap();
    let mut answer = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut answer).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    answer
}
