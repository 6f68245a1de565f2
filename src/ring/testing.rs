//! What tests of the ring, and of what works on it, have in common.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Addr, Class, ConnectOpts, Expect, Listener, Socket, connect, sleep, usage};
use crate::base::clock;

/// Two ends of a unix connection.
pub fn pair() -> (Socket, Socket) {
    let (one, other) = UnixStream::pair().unwrap();
    (Socket::from_fd(one.into()), Socket::from_fd(other.into()))
}

/// A listener at a free port.
pub fn listen() -> (Listener, Addr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = Addr::Inet(listener.local_addr().unwrap());
    (Listener::from_fd(OwnedFd::from(listener)).unwrap(), addr)
}

/// Two ends of a TCP connection.
pub async fn tcp_pair() -> (Socket, Socket) {
    let (mut listener, addr) = listen();
    let client = connect(&addr, &ConnectOpts::default()).await.unwrap();
    let (server, _) = listener.next().await.unwrap();
    (client, server)
}

/// Bytes of which no part looks like another.
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.u8(..)).collect()
}

/// All that comes until the end.
pub async fn receive_all(socket: &Socket) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let chunk = socket.recv(Expect::Now, Class::Large).await.unwrap();
        if chunk.is_empty() {
            return all;
        }
        all.extend_from_slice(&chunk);
    }
}

/// Expects the end, and nothing before it.
pub async fn ends(socket: &Socket) {
    let chunk = socket.recv(Expect::Now, Class::Small).await.unwrap();
    assert!(chunk.is_empty(), "instead of the end: {chunk:?}");
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = clock::now_ms() + 5000;
    while !condition() {
        assert!(clock::now_ms() < end, "{what}: {:?}", usage());
        sleep(Duration::from_millis(1)).await;
    }
}
