//! `ssl_preread` and `server_name`: where a session goes by its first bytes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::common::*;

/// Answers a session with `name` as soon as it sees its first bytes, and reads to the end.
pub fn named(name: &'static str) -> Backend {
    Backend::raw(move |mut conn, _| {
        if conn.more().is_some() {
            let _ = conn.try_send(name.as_bytes());
            conn.finish();
        }
        conn.drain();
    })
}

fn u16_vector(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes(), content].concat()
}

fn u8_vector(content: &[u8]) -> Vec<u8> {
    [&[content.len() as u8], content].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &u16_vector(data)].concat()
}

/// A ClientHello of TLS 1.2, in records of at most `size` bytes.
pub fn hello(name: &str, alpn: &[&str], tls13: bool, size: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    if !name.is_empty() {
        let entry = [&[0], &u16_vector(name.as_bytes())[..]].concat();
        extensions.extend(extension(0, &u16_vector(&entry)));
    }
    if !alpn.is_empty() {
        let list: Vec<u8> = alpn.iter().flat_map(|p| u8_vector(p.as_bytes())).collect();
        extensions.extend(extension(16, &u16_vector(&list)));
    }
    if tls13 {
        extensions.extend(extension(43, &u8_vector(&[3, 4, 3, 3])));
    }
    let body = [
        &[3, 3][..],
        &[7; 32],
        &u8_vector(&[1; 32]),
        &u16_vector(&[0x13, 1]),
        &u8_vector(&[0]),
        &u16_vector(&extensions),
    ]
    .concat();
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    let record = |part: &[u8]| [&[22, 3, 1][..], &u16_vector(part)].concat();
    message.chunks(size).flat_map(record).collect()
}

const SHOW: &str = "log_format t '$status [$ssl_preread_server_name] \
    [$ssl_preread_alpn_protocols] [$ssl_preread_protocol]'; access_log %%DIR%%/access.log t;";

/// A gateway that passes everything to one backend and logs what it understood.
fn showing(conf: &str, backend: &Backend) -> Server {
    stream(
        &format!(
            "{SHOW} server {{ listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%;
             ssl_preread on; {conf} }}"
        ),
        &[backend],
    )
}

#[test]
fn variables_say_what_the_client_wants() {
    let backend = named("x");
    let s = showing("", &backend);
    let cases: [(Vec<u8>, &str); 7] = [
        (
            hello("One.example", &["h2", "http/1.1"], true, 9_000),
            "[One.example] [h2,http/1.1] [TLSv1.3]",
        ),
        (hello("a.b", &[], false, 20), "[a.b] [] [TLSv1.2]"),
        (hello("", &[], false, 9_000), "[] [] [TLSv1.2]"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "[-] [-] [-]"),
        (b"SSH-2.0-x\r\n".to_vec(), "[-] [-] [-]"),
        (vec![0x80, 0x2e, 1, 3, 1, 0, 0], "[] [] [TLSv1]"),
        (
            b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00".to_vec(),
            "[-] [-] [-]",
        ),
    ];
    for (number, (bytes, expected)) in cases.iter().enumerate() {
        let mut conn = s.connect();
        assert_eq!(conn.send(bytes).rest(), b"x", "{expected}");
        assert_eq!(
            s.lines("access.log", number + 1)[number],
            format!("200 {expected}")
        );
    }
}

#[test]
fn not_a_byte_is_lost_however_it_comes() {
    let backend = Backend::raw(|mut conn, _| {
        while conn.more().is_some() {
            let bytes = conn.take(conn.buffered().len());
            let _ = conn.try_send(&bytes);
        }
    });
    let s = showing("", &backend);
    let bytes = [hello("a.b", &["h2"], true, 50), b"what follows".to_vec()].concat();
    let mut conn = s.connect();
    for piece in bytes.chunks(7) {
        conn.send(piece);
    }
    assert_eq!(conn.take(bytes.len()), bytes);
    assert_eq!(conn.send("more").take(4), b"more");
}

#[test]
fn a_proxy_header_and_a_hello_in_one_piece() {
    let backend = named("x");
    let s = stream(
        "log_format t '$remote_addr $ssl_preread_server_name'; access_log %%DIR%%/access.log t;
         server {
             listen 127.0.0.1:%%P0%% proxy_protocol; set_real_ip_from 127.0.0.1;
             proxy_pass 127.0.0.1:%%B0%%; ssl_preread on;
         }",
        &[&backend],
    );
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec();
    let bytes = [header, hello("a.b", &[], true, 9_000)].concat();
    assert_eq!(s.connect().send(bytes).rest(), b"x");
    assert_eq!(s.lines("access.log", 1), ["192.0.2.1 a.b"]);
}

#[test]
fn a_map_chooses_the_upstream() {
    let (one, two, other) = (named("one"), named("two"), named("other"));
    let s = stream(
        "map $ssl_preread_server_name $name {
             hostnames;
             one.example one; .two.example two; default 127.0.0.1:%%B2%%;
         }
         upstream one { server 127.0.0.1:%%B0%%; }
         upstream two { server 127.0.0.1:%%B1%%; }
         ssl_preread on;
         server { listen 127.0.0.1:%%P0%%; proxy_pass $name; }",
        &[&one, &two, &other],
    );
    for (name, expected) in [
        ("one.example", "one"),
        ("ONE.example", "one"),
        ("www.two.example", "two"),
        ("three.example", "other"),
        ("", "other"),
    ] {
        let answer = s.connect().send(hello(name, &[], true, 9_000)).rest();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{name}");
    }
    assert_eq!(s.connect().send("no TLS at all").rest(), b"other");
}

#[test]
fn ssh_and_tls_share_a_port() {
    let (tls, ssh) = (named("tls"), named("ssh"));
    let s = stream(
        r#"map $ssl_preread_protocol $upstream {
             "" rest; "TLSv1.2" tls; "TLSv1.3" tls; default tls;
         }
         upstream tls { server 127.0.0.1:%%B0%%; }
         upstream rest { server 127.0.0.1:%%B1%%; }
         server { listen 127.0.0.1:%%P0%%; proxy_pass $upstream; ssl_preread on; }"#,
        &[&tls, &ssh],
    );
    let ask = |bytes: &[u8]| s.connect().send(bytes).rest();
    assert_eq!(ask(&hello("x", &[], true, 9_000)), b"tls");
    assert_eq!(ask(b"SSH-2.0-OpenSSH_9.2\r\n"), b"ssh");
}

#[test]
fn a_server_is_chosen_by_its_name() {
    if skip_on_nginx("server_name in stream came with 1.25.5") {
        return;
    }
    let backends = ["first", "exact", "wild", "regex"].map(named);
    let s = stream(
        "log_format who $who;
         server { listen 127.0.0.1:%%P0%%; ssl_preread on; proxy_pass 127.0.0.1:%%B0%%; }
         server { listen 127.0.0.1:%%P0%%; server_name a.example; proxy_pass 127.0.0.1:%%B1%%; }
         server { listen 127.0.0.1:%%P0%%; server_name *.example; proxy_pass 127.0.0.1:%%B2%%; }
         server {
             listen 127.0.0.1:%%P0%%;
             server_name ~^(?<who>\\w+)\\.test$;
             proxy_pass 127.0.0.1:%%B3%%;
             access_log %%DIR%%/who.log who;
         }
         server { listen 127.0.0.1:%%P1%%; ssl_preread on; proxy_pass 127.0.0.1:%%B0%%; }
         server {
             listen 127.0.0.1:%%P1%% default_server; ssl_preread on; server_name b;
             proxy_pass 127.0.0.1:%%B1%%;
         }",
        &backends.each_ref(),
    );
    for (name, expected) in [
        ("a.example", "exact"),
        ("A.Example.", "exact"),
        ("b.example", "wild"),
        ("me.test", "regex"),
        ("other", "first"),
        ("", "first"),
    ] {
        let answer = s.connect().send(hello(name, &[], true, 9_000)).rest();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{name}");
    }
    s.wait_for_text("who.log", "me\n");
    let answer = Conn::to(s.port(1)).send("no TLS").rest();
    assert_eq!(answer, b"exact");
}

#[test]
fn a_hello_that_never_ends() {
    let backend = named("x");
    let s = showing("preread_timeout 200ms;", &backend);
    let whole = hello("a.b", &[], true, 9_000);
    let mut conn = s.connect();
    conn.send(&whole[..40]).assert_closed();
    assert_eq!(s.lines("access.log", 1)[0], "200 [] [] []");
    let mut conn = s.connect();
    conn.send(&whole[..40]).finish();
    conn.assert_closed();
    assert_eq!(s.lines("access.log", 2)[1], "200 [] [] []");
    assert_eq!(backend.connections(), 0);
    if !is_nginx() {
        let timed_out = "client timed out (110: Connection timed out) while prereading client data";
        s.wait_for_text("error.log", timed_out);
        s.wait_for_text(
            "error.log",
            "client closed connection while prereading client data",
        );
    }
}

#[test]
fn a_hello_that_is_too_long() {
    let backend = named("x");
    let s = showing("preread_buffer_size 128;", &backend);
    let long = hello(&"a".repeat(200), &[], true, 9_000);
    s.connect().send(&long).assert_closed();
    s.wait_for_text(
        "error.log",
        "preread buffer full while prereading client data, client: 127.",
    );
    assert_eq!(s.lines("access.log", 1)[0].split(' ').next(), Some("400"));
    assert_eq!(s.connect().send(hello("a", &[], true, 9_000)).rest(), b"x");
}

#[test]
fn a_malformed_hello_goes_where_no_name_goes() {
    let backend = named("x");
    let s = showing("", &backend);
    // The list of cipher suites is said to be longer than the message.
    let mut bad = hello("a.b", &[], true, 9_000);
    bad[5 + 4 + 2 + 32 + 33] = 0xff;
    assert_eq!(s.connect().send(bad).rest(), b"x");
    assert_eq!(s.lines("access.log", 1)[0], "200 [-] [-] [-]");
}

/// A TLS server with a certificate of its own for `name`.
struct TlsServer {
    child: Child,
    port: ports::Port,
}

impl TlsServer {
    fn start(s: &Setup, name: &str) -> Option<TlsServer> {
        let path = |file: &str| s.path(file).display().to_string();
        let (key, cert) = (path(&format!("{name}.key")), path(&format!("{name}.pem")));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
            .args(["-keyout", &key, "-out", &cert])
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no openssl on this machine");
            return None;
        }
        let port = ports::reserve();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-rev", "-key", &key, "-cert", &cert])
            .args(["-accept", &format!("127.0.0.1:{}", port.number)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = TlsServer { child, port };
        let number = server.port.number;
        wait_for("openssl s_server", || {
            std::net::TcpStream::connect(("127.0.0.1", number)).is_ok()
        });
        Some(server)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn openssl_reaches_the_server_it_names() {
    let setup = Setup::stream(
        "map $ssl_preread_server_name $name { one.example one; default two; }
         upstream one { server 127.0.0.1:%%ONE%%; }
         upstream two { server 127.0.0.1:%%TWO%%; }
         server { listen 127.0.0.1:%%P0%%; proxy_pass $name; ssl_preread on; }",
    );
    let Some(one) = TlsServer::start(&setup, "one.example") else {
        return;
    };
    let two = TlsServer::start(&setup, "two.example").unwrap();
    let s = setup
        .value("ONE", one.port.number)
        .value("TWO", two.port.number)
        .start();
    for name in ["one.example", "two.example"] {
        let output = s_client(s.port(0), name);
        assert!(output.contains(&format!("CN = {name}")), "{output}");
        assert!(output.contains("olleh"), "{output}");
    }
}

#[test]
fn openssl_curl_and_ssh_share_a_port() {
    let ssh = named("SSH-2.0-gateway\r\n");
    let setup = Setup::full(
        "%%MODULES%% events {}
         stream {
             map $ssl_preread_protocol $upstream { '' 127.0.0.1:%%P1%%; default 127.0.0.1:%%TLS%%; }
             server { listen 127.0.0.1:%%P0%%; proxy_pass $upstream; ssl_preread on; }
             server { listen 127.0.0.1:%%P2%%; proxy_pass 127.0.0.1:%%B0%%; ssl_preread on; }
         }
         http { %%HTTP%% server { listen 127.0.0.1:%%P1%%; return 200 \"plain $uri\"; } }",
    );
    let Some(tls) = TlsServer::start(&setup, "tls.example") else {
        return;
    };
    let s = setup
        .backends(&[&ssh])
        .value("TLS", tls.port.number)
        .start();
    assert!(s_client(s.port(0), "any.example").contains("olleh"));
    if let Some(output) = curl(&[&format!("http://127.0.0.1:{}/x", s.port(0))]) {
        assert_eq!(output.stdout, b"plain /x");
    }
    // A client of SSH says its version at once, which is no TLS.
    let ssh = Command::new("ssh")
        .args([
            "-v",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ])
        .args([
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ConnectTimeout=10",
        ])
        .args(["-p", &s.port(2).to_string(), "nobody@127.0.0.1", "true"])
        .stdin(Stdio::null())
        .output();
    match ssh {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("remote software version gateway"), "{said}");
        }
        Err(_) => eprintln!("skipped: no ssh on this machine"),
    }
}

/// What openssl says of a connection on which it asks for `name` and sends `hello`, until the
/// server has turned that round.
fn s_client(port: u16, name: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(["-servername", name, "-alpn", "h2,http/1.1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    let mut output = String::new();
    let mut reader = BufReader::new(client.stdout.take().unwrap());
    while !output.contains("olleh") {
        if reader.read_line(&mut output).unwrap() == 0 {
            break;
        }
    }
    drop(input);
    let _ = client.kill();
    client.wait().unwrap();
    output
}
