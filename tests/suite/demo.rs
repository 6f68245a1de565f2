//! `ringway demo` and the quick start: what a new user tries first.

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::server::send_signal;
use crate::common::*;

/// Ends the process if the test does not.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(args: &[&str]) -> Running {
    let mut command = Command::new(binary());
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

fn get(port: u16, path: &str) -> client::Response {
    let mut client = Conn::to(port);
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"
    ));
    client.response()
}

fn wait_for_port(port: u16) {
    wait_for("the gateway", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

fn end(mut running: Running, signal: i32) {
    send_signal(running.0.id(), signal);
    let mut code = None;
    wait_for("the end", || {
        code = running.0.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(0));
}

#[test]
fn a_demo_that_cannot_start_says_why() {
    if skip_on_nginx("it has no demo") {
        return;
    }
    let taken = Backend::fixed("x");
    let listen = format!("127.0.0.1:{}", taken.port);
    let output = Command::new(binary())
        .args(["demo", "--listen", &listen])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let message = format!("bind() to {listen} failed (98: Address already in use)");
    assert!(told.contains(&message), "{told}");
}

#[test]
fn the_servers_of_the_demo_take_turns() {
    if skip_on_nginx("it has no demo") {
        return;
    }
    let port = ports::reserve();
    let demo = start(&["demo", "--listen", &format!("127.0.0.1:{}", port.number)]);
    wait_for_port(port.number);
    let names: Vec<String> = (0..4).map(|_| get(port.number, "/name").text()).collect();
    let expected = [
        "one, request 1",
        "two, request 1",
        "one, request 2",
        "two, request 2",
    ];
    assert_eq!(names, expected.map(|name| format!("server {name}\n")));
    let page = get(port.number, "/").text();
    assert!(page.contains("<th>Host<td>demo"), "{page}");
    let directory = std::env::temp_dir().join(format!("ringway-demo-{}", demo.0.id()));
    assert!(directory.join("nginx.conf").exists());
    end(demo, libc::SIGINT);
    assert!(!directory.exists());
}

#[test]
fn a_quick_start_balances() {
    balances("http");
}

#[test]
fn a_quick_start_balances_tcp() {
    balances("tcp");
}

/// `ringway KIND` sends requests to both of two servers.
#[track_caller]
fn balances(kind: &str) {
    if skip_on_nginx("it has no quick start") {
        return;
    }
    let backends = [Backend::fixed("a"), Backend::fixed("b")];
    let port = ports::reserve();
    let [listen, a, b] =
        [port.number, backends[0].port, backends[1].port].map(|port| format!("127.0.0.1:{port}"));
    let gateway = start(&[kind, "--listen", &listen, "--to", &a, "--to", &b]);
    wait_for_port(port.number);
    wait_for("both servers", || {
        let seen: Vec<String> = (0..8).map(|_| get(port.number, "/").text()).collect();
        seen.contains(&"a".to_owned()) && seen.contains(&"b".to_owned())
    });
    end(gateway, libc::SIGQUIT);
}

#[test]
fn a_quick_start_balances_datagrams() {
    if skip_on_nginx("it has no quick start") {
        return;
    }
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().to_string();
    let port = ports::reserve();
    let listen = format!("127.0.0.1:{}", port.number);
    let gateway = start(&["udp", "--listen", &listen, "--to", &to, "--responses", "1"]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for socket in [&server, &client] {
        let patience = Some(Duration::from_millis(50));
        socket.set_read_timeout(patience).unwrap();
    }
    let mut room = [0; 64];
    let mut through = |from: &UdpSocket| {
        from.recv_from(&mut room)
            .map(|(n, peer)| (room[..n].to_vec(), peer))
    };
    let mut gateway_side = None;
    wait_for("a datagram", || {
        // Refused while nobody listens yet.
        let _ = client.send_to(b"question", &listen);
        gateway_side = through(&server).ok();
        gateway_side.is_some()
    });
    let (question, gateway_side) = gateway_side.unwrap();
    assert_eq!(question, b"question");
    server.send_to(b"answer", gateway_side).unwrap();
    wait_for("the answer", || {
        through(&client)
            .is_ok_and(|(answer, from)| answer == b"answer" && from.to_string() == listen)
    });
    end(gateway, libc::SIGTERM);
}
