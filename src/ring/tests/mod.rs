//! The engine against real sockets.

mod datagram;
mod engine;
mod listener;
mod socket;
mod splice;
mod stream;

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::base::clock;

/// Small and quick, so that tests reach its limits.
fn conf() -> EngineConf {
    EngineConf {
        entries: 64,
        small: Buffers {
            size: 1024,
            count: 64,
        },
        large: Buffers {
            size: 8192,
            count: 4,
        },
        streams: Buffers {
            size: 1024,
            count: 64,
        },
        sweep: Duration::from_millis(5),
    }
}

fn run<T>(main: impl Future<Output = T>) -> T {
    start(&conf(), main).unwrap()
}

fn pair() -> (Socket, Socket) {
    let (one, other) = UnixStream::pair().unwrap();
    (Socket::from_fd(one.into()), Socket::from_fd(other.into()))
}

fn listen() -> (Listener, Addr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = Addr::Inet(listener.local_addr().unwrap());
    (Listener::from_fd(OwnedFd::from(listener)).unwrap(), addr)
}

/// Two ends of a TCP connection.
async fn tcp_pair() -> (Socket, Socket) {
    let (mut listener, addr) = listen();
    let client = connect(&addr, &ConnectOpts::default()).await.unwrap();
    let (server, _) = listener.next().await.unwrap();
    (client, server)
}

/// Bytes of which no part looks like another.
fn noise(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..count).map(|_| random.u8(..)).collect()
}

async fn receive_all(socket: &Socket) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let chunk = socket.recv(Expect::Now, Class::Large).await.unwrap();
        if chunk.is_empty() {
            return all;
        }
        all.extend_from_slice(&chunk);
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = clock::now_ms() + 5000;
    while !condition() {
        assert!(clock::now_ms() < end, "{what}: {:?}", usage());
        sleep(Duration::from_millis(1)).await;
    }
}
