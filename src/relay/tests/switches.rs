//! From buffers to pipes and back: nothing is lost, repeated or put into another order.

use std::os::unix::net::UnixStream;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;
use crate::ring::Pipe;

/// How one side behaves.
#[derive(Clone, Debug)]
struct Peer {
    /// Sizes of what it sends, one after the other.
    sends: Vec<usize>,
    /// A pause of a millisecond after so many of them.
    pause_every: usize,
    /// Whether it reads slowly, in small pieces.
    is_slow: bool,
    /// Where the direction from it switches.
    switches: Vec<u64>,
}

fn peer() -> impl Strategy<Value = Peer> {
    let size = prop_oneof![
        1..200usize,
        900..1100usize,
        1..60_000usize,
        Just(300_000usize)
    ];
    let switch = prop_oneof![1..50u64, 500..3000u64, 1..200_000u64];
    (
        vec(size, 0..12),
        1..6usize,
        any::<bool>(),
        vec(switch, 1..12),
    )
        .prop_map(|(sends, pause_every, is_slow, switches)| Peer {
            sends,
            pause_every,
            is_slow,
            switches,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_wherever_it_switches(peers in [peer(), peer()]) {
        run(exchange(peers))?;
    }
}

async fn exchange(peers: [Peer; 2]) -> TestCaseResult {
    let gauges = [0, 1].map(|n| Gauge::forced(peers[n].switches.clone()));
    let rig = Rig::gauged(CONF, gauges).await;
    let sockets = [rig.client, rig.upstream].map(Rc::new);
    let texts = [0, 1].map(|n| noise(n as u64, peers[n].sends.iter().sum()));
    let senders = [0, 1].map(|n| {
        let (socket, text) = (sockets[n].clone(), texts[n].clone());
        spawn(send_all(socket, text, peers[n].clone()))
    });
    let readers = [0, 1].map(|n| {
        let (socket, is_slow) = (sockets[1 - n].clone(), peers[1 - n].is_slow);
        spawn(async move { read_all(&socket, is_slow).await })
    });
    for (n, reader) in readers.into_iter().enumerate() {
        let got = reader.await.unwrap();
        prop_assert_eq!(got.len(), texts[n].len(), "direction {}", n);
        prop_assert!(got == texts[n], "direction {}: other bytes", n);
    }
    for sender in senders {
        sender.await.unwrap();
    }
    let outcome = rig.task.await.unwrap();
    prop_assert!(matches!(outcome, Outcome::Closed { .. }), "{:?}", outcome);
    let Flows { up, down } = &rig.shared.flows;
    for (flow, text) in [(up, &texts[0]), (down, &texts[1])] {
        let count = text.len() as u64;
        prop_assert_eq!((flow.received.get(), flow.sent.get()), (count, count));
    }
    prop_assert_eq!(usage().pipes_lent, 0);
    Ok(())
}

async fn send_all(socket: Rc<Socket>, text: Vec<u8>, peer: Peer) {
    let mut rest = &text[..];
    for (n, size) in peer.sends.iter().enumerate() {
        let (part, after) = rest.split_at(*size);
        rest = after;
        socket.send(part.to_vec()).await.0.unwrap();
        if n % peer.pause_every == 0 {
            ring::sleep(Duration::from_millis(1)).await;
        }
    }
    socket.shutdown(Shutdown::Write);
}

async fn read_all(socket: &Socket, is_slow: bool) -> Vec<u8> {
    if !is_slow {
        return receive_all(socket).await;
    }
    let mut all = Vec::new();
    for turn in 0.. {
        let chunk = socket.recv(Expect::Now, Class::Small).await.unwrap();
        if chunk.is_empty() {
            break;
        }
        all.extend_from_slice(&chunk);
        if turn % 32 == 0 {
            ring::sleep(Duration::from_millis(1)).await;
        }
    }
    all
}

#[test]
fn a_bulk_goes_through_a_pipe_and_back() {
    run(async {
        let rig = Rig::new(CONF).await;
        let text = noise(3, 3 << 20);
        let sender = spawn({
            let (socket, text) = (rig.upstream, text.clone());
            async move {
                socket.send(text).await.0.unwrap();
                socket
            }
        });
        let mut got = Vec::new();
        while got.len() < text.len() {
            got.extend_from_slice(&rig.client.recv(Expect::Now, Class::Large).await.unwrap());
        }
        assert!(got == text);
        let upstream = sender.await.unwrap();
        // While it waits it has neither pipe nor buffer.
        eventually("pipes are back", || usage().pipes_lent == 0).await;
        let idle = usage();
        assert_eq!(
            (idle.pipes, idle.small_leased, idle.large_leased),
            (1, 0, 0)
        );
        for n in 0..10 {
            let message = format!("message {n}");
            say(&upstream, message.as_bytes()).await;
            hears(&rig.client, message.as_bytes()).await;
            say(&rig.client, message.as_bytes()).await;
            hears(&upstream, message.as_bytes()).await;
        }
        upstream.shutdown(Shutdown::Write);
        rig.client.shutdown(Shutdown::Write);
        let outcome = rig.task.await.unwrap();
        assert!(matches!(outcome, Outcome::Closed { .. }), "{outcome:?}");
    });
}

#[test]
fn a_bulk_both_ways_at_once() {
    run(async {
        let rig = Rig::new(CONF).await;
        let text = noise(4, 8 << 20);
        let ends = [rig.client, rig.upstream].map(Rc::new);
        let senders = ends.clone().map(|socket| {
            let text = text.clone();
            spawn(async move {
                socket.send(text).await.0.unwrap();
                socket.shutdown(Shutdown::Write);
            })
        });
        let readers = ends.map(|socket| spawn(async move { receive_all(&socket).await }));
        for reader in readers {
            assert!(reader.await.unwrap() == text);
        }
        for sender in senders {
            sender.await.unwrap();
        }
        assert!(matches!(rig.task.await.unwrap(), Outcome::Closed { .. }));
        assert!(usage().pipes > 0);
    });
}

#[test]
fn a_rate_is_kept_by_copy_and_by_splice() {
    run(async {
        let size = 512 << 10;
        let conf = Conf {
            download_rate: 2 << 20,
            upload_rate: 2 << 20,
            ..CONF
        };
        // Up stays with buffers, down begins with a pipe.
        let gauges = [vec![u64::MAX], vec![1, u64::MAX]].map(Gauge::forced);
        let rig = Rig::gauged(conf, gauges).await;
        let begun = clock::precise_ms();
        let text = noise(5, size);
        let senders = [rig.client, rig.upstream].map(|socket| {
            let socket = Rc::new(socket);
            let (other, text) = (socket.clone(), text.clone());
            let sender = spawn(async move {
                other.send(text).await.0.unwrap();
                other.shutdown(Shutdown::Write);
            });
            (sender, socket)
        });
        for (sender, socket) in senders {
            assert!(receive_all(&socket).await == text);
            sender.await.unwrap();
        }
        let took = clock::precise_ms() - begun;
        assert!((200..2000).contains(&took), "{took} ms");
        assert!(matches!(rig.task.await.unwrap(), Outcome::Closed { .. }));
    });
}

#[test]
fn without_a_pipe_a_bulk_is_copied() {
    run(async {
        let all: Vec<Pipe> = std::iter::from_fn(Pipe::try_lend).collect();
        let lent = usage().pipes_lent;
        assert_eq!(lent, all.len());
        let rig = Rig::new(CONF).await;
        let text = noise(6, 6 << 20);
        let sender = spawn({
            let (socket, text) = (rig.upstream, text.clone());
            async move {
                socket.send(text).await.0.unwrap();
                socket.shutdown(Shutdown::Write);
                socket
            }
        });
        assert!(receive_all(&rig.client).await == text);
        assert_eq!((usage().pipes_lent, usage().pipes), (lent, 0));
        drop(sender.await.unwrap());
    });
}

#[test]
fn unix_sockets_are_relayed_too() {
    run(async {
        let pair = || {
            let (one, other) = UnixStream::pair().unwrap();
            (Socket::from_fd(one.into()), Socket::from_fd(other.into()))
        };
        let (client, ours) = pair();
        let (theirs, upstream) = pair();
        let text = noise(7, 4 << 20);
        let relayed = spawn(async move {
            let (flows, stop) = <(Flows, Stop)>::default();
            relay(End::new(&ours), End::new(&theirs), &CONF, &flows, &stop).await
        });
        let sender = spawn({
            let text = text.clone();
            async move {
                upstream.send(text).await.0.unwrap();
                upstream
            }
        });
        let mut got = Vec::new();
        while got.len() < text.len() {
            got.extend_from_slice(&client.recv(Expect::Now, Class::Large).await.unwrap());
        }
        assert!(got == text && usage().pipes > 0);
        let upstream = sender.await.unwrap();
        say(&client, b"and back").await;
        hears(&upstream, b"and back").await;
        drop((client, upstream));
        relayed.await.unwrap();
    });
}

#[test]
fn to_wait_for_the_rate_is_not_to_be_idle() {
    run(async {
        let conf = Conf {
            upload_rate: 8192,
            idle_ms: 200,
            ..CONF
        };
        // Large buffers, so that a piece takes half a second.
        let gauges = [Gauge::forced(vec![1, 1, u64::MAX]), Gauge::default()];
        let rig = Rig::gauged(conf, gauges).await;
        let begun = clock::precise_ms();
        say(&rig.client, &[1]).await;
        hears(&rig.upstream, &[1]).await;
        let text = noise(8, 6000);
        say(&rig.client, &text).await;
        hears(&rig.upstream, &text).await;
        assert!(clock::precise_ms() - begun >= 450);
        let outcome = rig.task.await.unwrap();
        assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
    });
}
