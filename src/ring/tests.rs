//! The engine against real sockets.

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

#[test]
fn an_echo_over_tcp() {
    run(async {
        let (mut listener, addr) = listen();
        let server = spawn(async move {
            let (socket, peer) = listener.next().await.unwrap();
            assert_eq!(peer, socket.peer_addr().unwrap());
            let mut count = 0;
            loop {
                let chunk = socket.recv(Expect::Now, Class::Small).await.unwrap();
                if chunk.is_empty() {
                    return count;
                }
                count += chunk.len();
                socket.send(chunk).await.0.unwrap();
            }
        });
        let client = connect(&addr, &ConnectOpts::default()).await.unwrap();
        for round in 0..50u8 {
            let answer = client.recv(Expect::Later, Class::Small);
            let sent = client.send(vec![round; 100]);
            assert_eq!(&*answer.await.unwrap(), [round; 100]);
            assert_eq!(sent.await.0.unwrap(), 100);
        }
        drop(client);
        assert_eq!(server.await.unwrap(), 5000);
        let deadline = clock::now_ms() + 1000;
        while usage().sockets > 0 && clock::now_ms() < deadline {
            yield_now().await;
        }
        assert_eq!((usage().sockets, usage().small_leased), (0, 0));
    });
}
