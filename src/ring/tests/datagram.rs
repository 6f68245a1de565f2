//! Datagrams: batches, addresses, errors, deadlines.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;

use super::*;

fn bound(ip: impl Into<IpAddr>) -> (Datagrams, SocketAddr) {
    let socket = UdpSocket::bind((ip.into(), 0)).unwrap();
    let addr = socket.local_addr().unwrap();
    (Datagrams::from_fd(socket.into()).unwrap(), addr)
}

fn client(to: SocketAddr) -> UdpSocket {
    let ip: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

fn upstream(to: SocketAddr) -> DatagramSocket {
    DatagramSocket::connect(&Addr::Inet(to), &ConnectOpts::default()).unwrap()
}

#[test]
fn datagrams_keep_their_bounds_in_both_directions() {
    let sizes = [0, 1, 1472, 65_507, 0, 9000];
    run(async {
        let (server, addr) = bound(Ipv4Addr::LOCALHOST);
        let near = upstream(addr);
        let sent: Vec<Vec<u8>> = sizes.iter().map(|&size| noise(7, size)).collect();
        let (count, result) = near.send(sent.iter().map(Vec::as_slice));
        result.unwrap();
        assert_eq!(count, sizes.len());
        server.readable().await.unwrap();
        let batch = server.receive().unwrap();
        assert!(batch.len() == sizes.len() && !batch.is_full() && !batch.is_empty());
        assert!(batch.iter().eq(sent.iter().map(Vec::as_slice)));
        let route = batch.route(0).unwrap();
        assert_eq!(Addr::Inet(route.peer), near.local_addr().unwrap());
        assert_eq!(route.local, addr);
        let (count, result) = server.replies().send(&route, batch.iter());
        result.unwrap();
        assert_eq!(count, sizes.len());
        drop(batch);
        near.readable().await.unwrap();
        let back = near.receive(BATCH).unwrap();
        assert!(back.iter().eq(sent.iter().map(Vec::as_slice)));
        assert_eq!(back.route(0), None);
        assert_eq!(
            near.receive(BATCH).err().unwrap().kind(),
            ErrorKind::WouldBlock
        );
    });
}

#[test]
fn more_than_a_batch_is_sent_and_received_in_parts() {
    run(async {
        let (server, addr) = bound(Ipv4Addr::LOCALHOST);
        let near = upstream(addr);
        let all: Vec<[u8; 2]> = (0..BATCH as u16 * 2 + 3).map(u16::to_be_bytes).collect();
        let (count, result) = near.send(all.iter().map(<[u8; 2]>::as_slice));
        result.unwrap();
        assert_eq!(count, all.len());
        let mut seen = Vec::new();
        while seen.len() < all.len() {
            server.readable().await.unwrap();
            let batch = server.receive().unwrap();
            seen.extend(batch.iter().map(<[u8]>::to_vec));
        }
        assert!(
            seen.iter()
                .map(Vec::as_slice)
                .eq(all.iter().map(<[u8; 2]>::as_slice))
        );
    });
}

#[test]
fn an_answer_leaves_from_the_address_the_client_used() {
    run(async {
        let any = [
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), "127.0.0.7"),
            (IpAddr::from(Ipv6Addr::UNSPECIFIED), "::1"),
            (IpAddr::from(Ipv6Addr::UNSPECIFIED), "127.0.0.9"),
        ];
        for (ip, used) in any {
            let (server, addr) = bound(ip);
            let used = SocketAddr::new(used.parse().unwrap(), addr.port());
            let near = client(used); // connected: takes answers from this address alone
            near.send(b"who").unwrap();
            server.readable().await.unwrap();
            let batch = server.receive().unwrap();
            let route = batch.route(0).unwrap();
            assert_eq!(route.local.ip().to_canonical(), used.ip());
            assert_eq!(route.local.port(), addr.port());
            let (_, result) = server.replies().send(&route, [&b"me"[..]].into_iter());
            result.unwrap();
            let mut answer = [0; 10];
            assert_eq!(near.recv(&mut answer).unwrap(), 2);
        }
    });
}

#[test]
fn nobody_there_is_an_error_of_the_connected_socket() {
    run(async {
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = gone.local_addr().unwrap();
        drop(gone);
        let near = upstream(addr);
        near.send([&b"hello"[..]].into_iter()).1.unwrap();
        near.readable().await.unwrap();
        let error = near.receive(BATCH).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        // Or from the next send, of which nothing has gone out then.
        near.send([&b"hello"[..]].into_iter()).1.unwrap();
        near.readable().await.unwrap();
        let (count, result) = near.send([&b"again"[..]].into_iter());
        assert_eq!(count, 0);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_deadline_ends_the_wait() {
    run(async {
        let (_server, addr) = bound(Ipv4Addr::LOCALHOST);
        let near = upstream(addr);
        near.set_deadline(Some(clock::now_ms() + 20));
        near.readable().await.unwrap();
        assert!(near.timed_out());
    });
}

#[test]
fn waiting_sockets_hold_no_buffers_and_end_with_their_drop() {
    run(async {
        let (server, addr) = bound(Ipv4Addr::LOCALHOST);
        let mut waits = Vec::new();
        for _ in 0..200 {
            let near = upstream(addr);
            let wait = near.readable();
            waits.push((near, wait));
        }
        yield_now().await;
        assert_eq!(usage().sockets, 200);
        assert_eq!((usage().small_leased, usage().large_leased), (0, 0));
        drop(waits);
        eventually("all closed", || usage().sockets == 0).await;
        drop(server);
    });
}

#[test]
fn a_socket_that_another_descriptor_shares_goes_on() {
    run(async {
        let (server, addr) = bound(Ipv4Addr::LOCALHOST);
        let other = server.fd().try_clone_to_owned().unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(10), server.readable()).await;
        assert!(waited.is_err());
        let replies = server.replies();
        drop(server);
        yield_now().await;
        let near = client(addr);
        near.send(b"still there").unwrap();
        let heir = Datagrams::from_fd(other).unwrap();
        heir.readable().await.unwrap();
        let batch = heir.receive().unwrap();
        assert_eq!(batch.bytes(0), b"still there");
        // The way back outlives the socket that received.
        replies.writable().await.unwrap();
        assert_eq!(replies.local_addr(), addr);
        let route = batch.route(0).unwrap();
        replies.send(&route, batch.iter()).1.unwrap();
        assert_eq!(near.recv(&mut [0; 20]).unwrap(), 11);
    });
}

#[test]
fn a_full_buffer_is_told_and_waited_for() {
    let path = std::env::temp_dir().join(format!("ringway-datagram-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    run(async {
        let far = UnixDatagram::bind(&path).unwrap();
        let near =
            DatagramSocket::connect(&Addr::from(path.as_path()), &ConnectOpts::default()).unwrap();
        let many = || std::iter::repeat_n(&b"datagram"[..], 2000);
        let (count, result) = near.send(many());
        assert!(count > 0 && count < 2000);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock);
        let room = near.writable();
        for _ in 0..count {
            far.recv(&mut [0; 20]).unwrap();
        }
        room.await.unwrap();
        assert!(near.send(many()).0 > 0);
    });
    std::fs::remove_file(&path).unwrap();
}
