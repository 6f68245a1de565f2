//! Streams of receives.

use std::net::Shutdown;

use super::*;

/// Small messages one way, until the receiver's stream runs.
async fn calm(from: &Socket, to: &Socket) {
    for round in 0..20u8 {
        let received = to.recv(Expect::Later, Class::Stream);
        from.send(vec![round; 10]).await.0.unwrap();
        assert_eq!(&*received.await.unwrap(), [round; 10]);
    }
    assert!(to.is_streaming());
}

#[test]
fn a_calm_socket_goes_on_receiving_between_the_calls() {
    run(async {
        let (one, other) = tcp_pair().await;
        let first = other.recv(Expect::Later, Class::Stream);
        assert!(!other.is_streaming());
        one.send(vec![1; 4]).await.0.unwrap();
        assert_eq!(first.await.unwrap().len(), 4);
        calm(&one, &other).await;
        assert_eq!(usage().streams, 1);

        // It comes without a receive under way, and waits.
        one.send(b"unasked".to_vec()).await.0.unwrap();
        eventually("it has come", || usage().stream_leased == 1).await;
        let mut received = other.recv(Expect::Now, Class::Stream);
        assert_eq!(&*received.try_take().unwrap().unwrap(), b"unasked");

        // Dropping a receive loses nothing.
        drop(other.recv(Expect::Later, Class::Stream));
        one.send(b"kept".to_vec()).await.0.unwrap();
        let received = other.recv(Expect::Later, Class::Stream).await.unwrap();
        assert_eq!(&*received, b"kept");
        drop(received);

        one.shutdown(Shutdown::Write);
        let end = other.recv(Expect::Later, Class::Stream).await.unwrap();
        assert!(end.is_empty() && !other.is_streaming());
        drop((one, other));
        eventually("all closed", || usage().sockets == 0).await;
        assert_eq!((usage().streams, usage().stream_leased), (0, 0));
    });
}

#[test]
fn another_class_ends_the_stream_and_loses_nothing() {
    run(async {
        let (one, other) = tcp_pair().await;
        calm(&one, &other).await;
        one.send(b"before".to_vec()).await.0.unwrap();
        eventually("it has come", || usage().stream_leased == 1).await;
        let chunk = other.recv(Expect::Now, Class::Large).await.unwrap();
        assert_eq!(&*chunk, b"before");
        let next = other.recv(Expect::Later, Class::Large);
        one.send(b"after".to_vec()).await.0.unwrap();
        assert_eq!(&*next.await.unwrap(), b"after");
        assert!(!other.is_streaming() && usage().streams == 0);
        calm(&one, &other).await;
    });
}

#[test]
fn bulk_ends_a_stream() {
    run(async {
        let (one, other) = tcp_pair().await;
        calm(&one, &other).await;
        let bytes = noise(7, 300_000);
        let sent = one.send(bytes.clone());
        let mut all = Vec::new();
        while all.len() < bytes.len() {
            let chunk = other.recv(Expect::Now, Class::Stream).await.unwrap();
            all.extend_from_slice(&chunk);
        }
        assert!(all == bytes);
        sent.await.0.unwrap();
        assert!(!other.is_streaming());
        calm(&one, &other).await;
    });
}

#[test]
fn a_stream_without_buffers_goes_on_with_others() {
    run(async {
        // More sockets than the group has buffers, and nobody reads.
        let mut pairs = Vec::new();
        for _ in 0..conf().small.count + 10 {
            let pair = tcp_pair().await;
            calm(&pair.0, &pair.1).await;
            pairs.push(pair);
        }
        for (one, _) in &pairs {
            one.send(b"first".to_vec()).await.0.unwrap();
        }
        let first = 32;
        eventually("buffers run out", || usage().stream_leased >= first).await;
        for (_, other) in &pairs {
            let chunk = other.recv(Expect::Now, Class::Stream).await.unwrap();
            assert_eq!(&*chunk, b"first");
        }
        drop(pairs);
        eventually("all closed", || usage().sockets == 0).await;
        eventually("all ended", || usage().streams == 0).await;
        assert_eq!((usage().stream_leased, usage().small_leased), (0, 0));
    });
}

#[test]
fn a_socket_that_goes_takes_its_stream_with_it() {
    run(async {
        let (one, other) = tcp_pair().await;
        calm(&one, &other).await;
        one.send(vec![7; 9]).await.0.unwrap();
        eventually("it has come", || usage().stream_leased == 1).await;
        drop(other);
        assert_eq!(usage().stream_leased, 0);
        eventually("it has ended", || usage().streams == 0).await;
        let end = one.recv(Expect::Later, Class::Small).await;
        assert!(end.is_err() || end.unwrap().is_empty());

        // A receive that outlives its socket ends too.
        let (one, other) = tcp_pair().await;
        calm(&one, &other).await;
        let late = other.recv(Expect::Later, Class::Stream);
        drop(other);
        assert!(late.await.is_err());
    });
}

#[test]
fn a_deadline_ends_a_wait_on_a_stream() {
    run(async {
        let (one, other) = tcp_pair().await;
        calm(&one, &other).await;
        other.set_read_deadline(Some(clock::now_ms() + 10));
        let end = other.recv(Expect::Later, Class::Stream).await.unwrap();
        assert!(end.is_empty() && other.timed_out());
        other.send(vec![4; 8]).await.0.unwrap();
        let answer = one.recv(Expect::Now, Class::Small).await.unwrap();
        assert_eq!(answer.len(), 8);
    });
}

#[test]
fn a_reset_is_told_as_an_error() {
    run(async {
        let (one, other) = tcp_pair().await;
        calm(&one, &other).await;
        one.reset();
        let failed = other.recv(Expect::Later, Class::Stream).await;
        assert_eq!(
            failed.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );
    });
}

/// Whatever the sizes, the pauses and the classes: the bytes come in order.
#[test]
fn bytes_come_in_order_through_all_changes() {
    for seed in 0..40 {
        run(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let (one, other) = tcp_pair().await;
            let bytes = noise(7, 60_000);
            let mut rest = bytes.clone();
            let mut sizes = random.fork();
            let writer = spawn(async move {
                while !rest.is_empty() {
                    let most = if sizes.u8(..) < 10 { 9000 } else { 600 };
                    let piece = sizes.usize(1..most).min(rest.len());
                    let tail = rest.split_off(piece);
                    one.send(rest).await.0.unwrap();
                    rest = tail;
                    for _ in 0..sizes.u8(..3) {
                        yield_now().await;
                    }
                }
            });
            let mut all = Vec::new();
            loop {
                let class = match random.u8(..20) {
                    0 => Class::Large,
                    1 => Class::Small,
                    _ => Class::Stream,
                };
                let chunk = other.recv(Expect::Later, class).await.unwrap();
                if chunk.is_empty() {
                    break;
                }
                all.extend_from_slice(&chunk);
                for _ in 0..random.u8(..3) {
                    yield_now().await;
                }
            }
            assert!(all == bytes, "seed {seed}");
            writer.await.unwrap();
        });
    }
}
