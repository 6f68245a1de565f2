//! Receiving, sending, deadlines and connecting.

use std::io;
use std::net::{Ipv4Addr, Shutdown};

use super::*;

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
        eventually("all closed", || usage().sockets == 0).await;
        assert_eq!(usage().small_leased, 0);
    });
}

#[test]
fn results_can_be_taken_without_waiting() {
    run(async {
        let (one, other) = pair();
        let mut received = other.recv(Expect::Now, Class::Small);
        assert!(received.try_take().is_none());
        let mut sent = one.send(vec![1; 4]);
        // In a quiet turn it has left at once.
        assert_eq!(sent.try_take().unwrap().0.unwrap(), 4);
        yield_now().await;
        assert_eq!(received.try_take().unwrap().unwrap().len(), 4);
        // What there is no room for goes on by the ring.
        let mut rest = one.send(vec![1; 4 << 20]);
        assert!(rest.try_take().is_none());
        one.shutdown(Shutdown::Both);
        yield_now().await;
        yield_now().await;
        assert!(rest.try_take().unwrap().0.is_err());
        drop((one, other));
        eventually("all closed", || usage().sockets == 0).await;
    });
}

#[test]
fn a_large_send_arrives_whole_at_a_slow_reader() {
    run(async {
        let (one, other) = tcp_pair().await;
        let bytes = noise(7, 3 << 20);
        let sent = one.send(bytes.clone());
        let reader = spawn(async move {
            let mut all = Vec::new();
            while all.len() < 3 << 20 {
                let chunk = other.recv(Expect::Now, Class::Large).await.unwrap();
                all.extend_from_slice(&chunk);
                if all.len() % 5 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            all
        });
        let (result, back) = sent.await;
        assert_eq!(result.unwrap(), bytes.len());
        assert!(back == bytes && reader.await.unwrap() == bytes);
    });
}

#[test]
fn empty_sends_succeed() {
    run(async {
        let (one, _other) = pair();
        assert_eq!(one.send(Vec::new()).await.0.unwrap(), 0);
    });
}

#[test]
fn a_send_to_nobody_fails_without_a_signal() {
    run(async {
        let (one, other) = pair();
        drop(other);
        yield_now().await;
        let (result, back) = one.send(vec![1; 8]).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(back, [1; 8]);
    });
}

#[test]
fn dropping_a_socket_ends_what_is_pending() {
    run(async {
        let (one, other) = pair();
        let received = one.recv(Expect::Later, Class::Small);
        yield_now().await;
        drop(one);
        assert!(
            other
                .recv(Expect::Later, Class::Small)
                .await
                .unwrap()
                .is_empty()
        );
        assert!(received.await.unwrap().is_empty());
        eventually("all closed", || usage().sockets == 1).await;

        // Queued and given up at once, while the next socket gets the same number.
        let (one, other) = pair();
        drop(one.recv(Expect::Now, Class::Small));
        drop(one);
        let (next, its_peer) = pair();
        its_peer.send(vec![1; 6]).await.0.unwrap();
        assert_eq!(next.recv(Expect::Now, Class::Small).await.unwrap().len(), 6);
        ends(&other).await;
    });
}

#[test]
fn non_blocking_sockets_work_too() {
    run(async {
        let (one, other) = pair();
        for socket in [&one, &other] {
            socket.options().set_nonblocking(true).unwrap();
        }
        for expect in [Expect::Now, Expect::Later] {
            let received = other.recv(expect, Class::Small);
            let sender = one.send(vec![3; 9]);
            assert_eq!(received.await.unwrap().len(), 9);
            sender.await.0.unwrap();
        }
        let bytes = noise(7, 2 << 20);
        let sent = one.send(bytes.clone());
        let reader = spawn(async move { receive_all(&other).await });
        assert_eq!(sent.await.0.unwrap(), bytes.len());
        drop(one);
        assert!(reader.await.unwrap() == bytes);
    });
}

#[test]
fn a_read_deadline_leaves_the_other_direction() {
    run(async {
        for (one, other) in [pair(), tcp_pair().await] {
            one.set_read_deadline(Some(clock::now_ms() + 10));
            assert!(
                one.recv(Expect::Later, Class::Small)
                    .await
                    .unwrap()
                    .is_empty()
            );
            assert!(one.timed_out());
            one.send(vec![4; 8]).await.0.unwrap();
            assert_eq!(
                other.recv(Expect::Now, Class::Small).await.unwrap().len(),
                8
            );
        }
    });
}

#[test]
fn a_deadline_ends_a_send_that_is_stuck() {
    run(async {
        for (one, other) in [pair(), tcp_pair().await] {
            one.set_deadline(Some(clock::now_ms() + 10));
            let (result, _) = one.send(vec![7; 16 << 20]).await;
            assert!(result.is_err() && one.timed_out() && !other.timed_out());
        }
    });
}

#[test]
fn a_deadline_that_is_moved_or_removed_does_nothing() {
    run(async {
        let (one, other) = pair();
        one.set_deadline(Some(clock::now_ms() + 10));
        one.set_deadline(Some(clock::now_ms() + 60_000));
        other.set_deadline(Some(clock::now_ms() + 10));
        other.set_deadline(None);
        sleep(Duration::from_millis(40)).await;
        assert!(!one.timed_out() && !other.timed_out());
        one.send(vec![1]).await.0.unwrap();
        assert_eq!(
            other.recv(Expect::Now, Class::Small).await.unwrap().len(),
            1
        );
    });
}

#[test]
fn readiness_is_told_without_a_buffer() {
    run(async {
        let (one, other) = pair();
        one.writable().await.unwrap();
        let mut readable = other.readable();
        assert!(readable.try_take().is_none());
        one.send(vec![1]).await.0.unwrap();
        readable.await.unwrap();
        assert_eq!(usage().small_leased, 0);

        let received = other.recv(Expect::Now, Class::Small).await;
        assert_eq!(received.unwrap().len(), 1);
        let parked = other.readable();
        one.shutdown(Shutdown::Write);
        parked.await.unwrap();
        let parked = one.readable();
        drop(other);
        parked.await.unwrap();
        let (one, _other) = pair();
        let parked = one.readable();
        one.set_deadline(Some(clock::now_ms() + 10));
        parked.await.unwrap();
        assert!(one.timed_out());
    });
}

#[test]
fn connecting_says_why_it_failed() {
    run(async {
        let (listener, addr) = listen();
        drop(listener);
        let refused = connect(&addr, &ConnectOpts::default()).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let nowhere = Addr::Unix(std::path::Path::new("/nonexistent/socket").into());
        let missing = connect(&nowhere, &ConnectOpts::default())
            .await
            .err()
            .unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        eventually("all closed", || usage().sockets == 0).await;
    });
}

#[test]
fn connecting_times_out() {
    // A listener that accepts nobody, its queue full: further attempts get no answer.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _queued = std::net::TcpStream::connect(addr).unwrap();
    run(async {
        let opts = ConnectOpts {
            deadline_ms: Some(clock::now_ms() + 30),
            ..Default::default()
        };
        let error = connect(&addr.into(), &opts).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Given up by the caller: the socket goes all the same.
        let attempt = spawn(async move { connect(&addr.into(), &ConnectOpts::default()).await });
        yield_now().await;
        attempt.abort();
        eventually("all closed", || usage().sockets == 0).await;
    });
}

#[test]
fn connecting_binds_where_it_is_told() {
    run(async {
        let (mut listener, addr) = listen();
        let bind = Some((Ipv4Addr::new(127, 0, 0, 9), 0).into());
        let opts = ConnectOpts {
            bind,
            keepalive: true,
            ..Default::default()
        };
        let client = connect(&addr, &opts).await.unwrap();
        let (_server, peer) = listener.next().await.unwrap();
        assert_eq!(peer.inet().unwrap().ip(), Ipv4Addr::new(127, 0, 0, 9));
        assert!(client.options().keepalive().unwrap());
        assert!(client.options().tcp_nodelay().unwrap());
    });
}

#[test]
fn a_reset_is_one_although_a_receive_waits() {
    run(async {
        let (ours, theirs) = tcp_pair().await;
        let waiting = ours.recv(Expect::Later, Class::Small);
        yield_now().await;
        ours.reset();
        assert!(waiting.await.is_err());
        drop(ours);
        let seen = theirs.recv(Expect::Now, Class::Small).await;
        assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}
