//! Accepting, pausing and draining.

use std::net::TcpStream;
use std::os::fd::AsRawFd;

use super::*;

/// So many clients that connect at once, from outside of the engine.
fn clients(addr: &Addr, count: usize) -> Vec<TcpStream> {
    let addr = addr.inet().unwrap();
    (0..count)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect()
}

async fn greet(socket: Socket) {
    socket.send(&b"hello"[..]).await.0.unwrap();
}

fn greeted(client: TcpStream) -> bool {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut &client, &mut text).is_ok() && text == "hello"
}

#[test]
fn draining_serves_everyone_who_had_connected() {
    let mut all = Vec::new();
    run(async {
        let (mut listener, addr) = listen();
        // More than there are accepts under way, some taken in and not yielded, some queued.
        all.extend(clients(&addr, 20));
        for _ in 0..3 {
            greet(listener.next().await.unwrap().0).await;
        }
        all.extend(clients(&addr, 40));
        let rest = listener.drain(false).await;
        assert_eq!(rest.len(), 57);
        for (socket, peer) in rest {
            assert_eq!(socket.peer_addr().unwrap(), peer);
            greet(socket).await;
        }
        assert!(TcpStream::connect(addr.inet().unwrap()).is_err());
        eventually("all closed", || usage().sockets == 0).await;
    });
    assert!(all.into_iter().all(greeted));
}

#[test]
fn draining_a_shared_listener_leaves_it_to_the_other() {
    let mut all = Vec::new();
    run(async {
        let (mut listener, addr) = listen();
        all.extend(clients(&addr, 5));
        greet(listener.next().await.unwrap().0).await;
        let copy = listener.fd().try_clone_to_owned().unwrap();
        let mut left = 4;
        for (socket, _) in listener.drain(true).await {
            greet(socket).await;
            left -= 1;
        }
        all.extend(clients(&addr, 20));
        let mut heir = Listener::from_fd(copy).unwrap();
        for _ in 0..20 + left {
            greet(heir.next().await.unwrap().0).await;
        }
        drop(heir);
        eventually("all closed", || usage().sockets == 0).await;
    });
    assert!(all.into_iter().all(greeted));
}

#[test]
fn a_pause_accepts_nobody() {
    run(async {
        let (mut listener, addr) = listen();
        let _first = clients(&addr, 1);
        let (_socket, _) = listener.next().await.unwrap();
        listener.pause();
        yield_now().await;
        yield_now().await;
        let _more = clients(&addr, 3);
        let came = tokio::time::timeout(Duration::from_millis(20), listener.next()).await;
        assert!(came.is_err());
        listener.resume();
        for _ in 0..3 {
            listener.next().await.unwrap();
        }
        // A pause that ends before the kernel has heard of it.
        listener.pause();
        listener.resume();
        let _again = clients(&addr, 2);
        for _ in 0..2 {
            listener.next().await.unwrap();
        }
    });
}

#[test]
fn when_one_of_two_listeners_shuts_their_socket_the_other_is_quiet() {
    run(async {
        let (mut listener, _) = listen();
        let copy = listener.fd().try_clone_to_owned().unwrap();
        let mut other = Listener::from_fd(copy).unwrap();
        let limit = Duration::from_millis(20);
        for waiting in [&mut listener, &mut other] {
            let came = tokio::time::timeout(limit, waiting.next()).await;
            assert!(came.is_err());
        }
        let waits = tokio::time::timeout(limit, other.next());
        let (drained, came) = tokio::join!(listener.drain(false), waits);
        assert!(drained.is_empty());
        assert!(came.is_err(), "told of an error that is none");
        assert!(other.drain(false).await.is_empty());
    });
}

#[test]
fn a_dropped_listener_leaves_nobody_waiting() {
    let addr = run(async {
        let (mut listener, addr) = listen();
        let _client = clients(&addr, 1);
        listener.next().await.unwrap();
        drop(listener);
        sleep(Duration::from_millis(20)).await;
        assert!(TcpStream::connect(addr.inet().unwrap()).is_err());
        addr
    });
    assert!(TcpStream::connect(addr.inet().unwrap()).is_err());
}

#[test]
fn accepted_sockets_are_as_the_ring_wants_them() {
    run(async {
        let (mut listener, addr) = listen();
        let _client = clients(&addr, 1);
        let (socket, _) = listener.next().await.unwrap();
        assert!(socket.options().tcp_nodelay().unwrap());
        assert!(!socket.options().nonblocking().unwrap());
    });
}

#[test]
fn unix_listeners_accept_and_drain() {
    let path = std::env::temp_dir().join(format!("ringway-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    run(async {
        let bound = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(bound.as_raw_fd() >= 0);
        let mut listener = Listener::from_fd(bound.into()).unwrap();
        let addr = Addr::from(path.as_path());
        let client = connect(&addr, &ConnectOpts::default()).await.unwrap();
        let (server, peer) = listener.next().await.unwrap();
        assert_eq!(peer.to_string(), "unix:");
        assert_eq!(server.local_addr().unwrap(), addr);
        client.send(vec![1; 3]).await.0.unwrap();
        assert_eq!(
            server.recv(Expect::Now, Class::Small).await.unwrap().len(),
            3
        );
        let _queued = connect(&addr, &ConnectOpts::default()).await.unwrap();
        assert_eq!(listener.drain(false).await.len(), 1);
    });
    std::fs::remove_file(&path).unwrap();
}
