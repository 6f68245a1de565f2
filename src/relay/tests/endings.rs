//! Every way in which a relay begins and ends.

use super::*;

#[test]
fn messages_pass_and_are_counted() {
    run(async {
        let rig = Rig::new(CONF).await;
        for _ in 0..3 {
            say(&rig.client, b"question").await;
            hears(&rig.upstream, b"question").await;
            say(&rig.upstream, b"an answer").await;
            hears(&rig.client, b"an answer").await;
        }
        eventually("counts", || rig.counts() == [24, 24, 27, 27]).await;
        let Flows { up, down } = &rig.shared.flows;
        let (asked, answered) = (up.first_byte_ms.get(), down.first_byte_ms.get());
        assert!(asked.is_some() && asked <= answered);
        eventually("no buffer is held", || usage().small_leased == 0).await;
        assert_eq!(usage().pipes_lent, 0);
    });
}

#[test]
fn what_came_early_goes_first() {
    run(async {
        let (client, ours) = tcp_pair().await;
        let (theirs, upstream) = tcp_pair().await;
        let (flows, stop) = Default::default();
        say(&client, b"three").await;
        say(&upstream, b" world").await;
        client.shutdown(Shutdown::Write);
        upstream.shutdown(Shutdown::Write);
        let from = End {
            sock: &ours,
            recv: Some(ours.recv(Expect::Later, Class::Small)),
            early: Chunk::copy_of(b"two "),
            first: Chunk::copy_of(b"hello"),
            tls: None,
        };
        let to = End {
            sock: &theirs,
            recv: None,
            early: Chunk::copy_of(b","),
            first: Chunk::copy_of(b"one "),
            tls: None,
        };
        let outcome = relay(from, to, &CONF, &flows, &stop).await;
        assert!(matches!(outcome, Outcome::Closed { .. }), "{outcome:?}");
        hears(&upstream, b"one two three").await;
        hears(&client, b"hello, world").await;
        let Flow { received, sent, .. } = &flows.up;
        assert_eq!((received.get(), sent.get()), (9, 13));
        let Flow { received, sent, .. } = &flows.down;
        assert_eq!((received.get(), sent.get()), (7, 12));
    });
}

#[test]
fn a_half_that_ends_leaves_the_other_going() {
    run(async {
        let rig = Rig::new(CONF).await;
        say(&rig.client, b"last question").await;
        rig.client.shutdown(Shutdown::Write);
        hears(&rig.upstream, b"last question").await;
        ends(&rig.upstream).await;
        for _ in 0..3 {
            say(&rig.upstream, b"part").await;
            hears(&rig.client, b"part").await;
        }
        rig.upstream.shutdown(Shutdown::Write);
        ends(&rig.client).await;
        let outcome = rig.task.await.unwrap();
        let by = Side::Upstream;
        assert!(
            matches!(outcome, Outcome::Closed { by: b } if b == by),
            "{outcome:?}"
        );
    });
}

#[test]
fn without_half_close_the_first_end_is_the_end() {
    run(async {
        let conf = Conf {
            half_close: false,
            ..CONF
        };
        for by in [Side::Client, Side::Upstream] {
            let rig = Rig::new(conf).await;
            let (one, other) = match by {
                Side::Client => (&rig.client, &rig.upstream),
                Side::Upstream => (&rig.upstream, &rig.client),
            };
            say(one, &[b'x'; 5000]).await;
            one.shutdown(Shutdown::Write);
            let outcome = rig.task.await.unwrap();
            assert!(
                matches!(outcome, Outcome::Closed { by: b } if b == by),
                "{outcome:?}"
            );
            hears(other, &[b'x'; 5000]).await;
            ends(other).await;
            ends(one).await;
        }
    });
}

#[test]
fn a_reset_is_passed_as_a_reset() {
    run(async {
        for from in [Side::Client, Side::Upstream] {
            let rig = Rig::new(CONF).await;
            let (one, other) = match from {
                Side::Client => (&rig.client, &rig.upstream),
                Side::Upstream => (&rig.upstream, &rig.client),
            };
            say(one, b"last words").await;
            hears(other, b"last words").await;
            one.reset();
            is_reset(other).await;
            let outcome = rig.task.await.unwrap();
            assert!(
                matches!(&outcome, Outcome::Failed { side, sending: false, error }
                    if *side == from && is_lost(error)),
                "{outcome:?}"
            );
        }
    });
}

#[test]
fn a_destination_that_is_gone_ends_the_source_with_a_reset() {
    run(async {
        let rig = Rig::new(CONF).await;
        // Its end alone is passed on; what is sent to it then is answered with a reset.
        let Rig { client, .. } = rig;
        drop(client);
        ends(&rig.upstream).await;
        let sent = spawn(async move { while rig.upstream.send(vec![1; 1000]).await.0.is_ok() {} });
        let outcome = rig.task.await.unwrap();
        assert!(
            matches!(&outcome, Outcome::Failed { side: Side::Client, sending: true, error }
                if is_lost(error)),
            "{outcome:?}"
        );
        sent.await.unwrap();
    });
}

#[test]
fn a_reset_in_the_midst_of_a_bulk() {
    run(async {
        for from in [Side::Client, Side::Upstream] {
            let rig = Rig::new(CONF).await;
            let (upstream, client) = (rig.upstream, rig.client);
            let source = Rc::new(upstream);
            let flood = spawn({
                let source = source.clone();
                async move { while source.send(vec![1; 100_000]).await.0.is_ok() {} }
            });
            let mut got = 0;
            while got < 4 << 20 {
                got += client.recv(Expect::Now, Class::Large).await.unwrap().len();
            }
            eventually("a pipe", || usage().pipes + usage().pipes_lent > 0).await;
            match from {
                Side::Client => client.reset(),
                Side::Upstream => {
                    source.reset();
                    // What has been received before is passed on before.
                    while let Ok(chunk) = client.recv(Expect::Now, Class::Large).await {
                        assert!(!chunk.is_empty(), "an orderly end");
                    }
                }
            }
            let outcome = rig.task.await.unwrap();
            assert!(
                matches!(&outcome, Outcome::Failed { side, .. } if *side == from),
                "{outcome:?}"
            );
            flood.await.unwrap();
            assert_eq!(usage().pipes_lent, 0);
        }
    });
}

#[test]
fn nothing_for_too_long_ends_it() {
    run(async {
        let conf = Conf {
            idle_ms: 250,
            ..CONF
        };
        let begun = clock::now_ms();
        let rig = Rig::new(conf).await;
        // What moves in one direction keeps both alive.
        for _ in 0..6 {
            say(&rig.client, b"still here").await;
            hears(&rig.upstream, b"still here").await;
            ring::sleep(Duration::from_millis(60)).await;
        }
        let outcome = rig.task.await.unwrap();
        assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
        assert!(clock::now_ms() - begun >= 500);
        ends(&rig.client).await;
        ends(&rig.upstream).await;
    });
}

#[test]
fn a_reader_that_stops_is_idle_too() {
    run(async {
        let conf = Conf {
            idle_ms: 60,
            ..CONF
        };
        let rig = Rig::new(conf).await;
        let sent = rig.upstream.send(vec![1; 64 << 20]);
        let outcome = rig.task.await.unwrap();
        assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
        assert!(rig.shared.flows.down.received.get() > 1 << 20);
        drop(rig.upstream);
        drop(sent);
    });
}

#[test]
fn it_is_stopped_from_outside() {
    run(async {
        let rig = Rig::new(CONF).await;
        say(&rig.client, b"hello").await;
        hears(&rig.upstream, b"hello").await;
        rig.shared.stop.stop();
        let outcome = rig.task.await.unwrap();
        assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
        ends(&rig.client).await;
        ends(&rig.upstream).await;
        drop((rig.client, rig.upstream));
        eventually("all is gone", || usage().sockets == 0).await;

        // And before it has begun.
        let (_client, ours) = tcp_pair().await;
        let (theirs, _upstream) = tcp_pair().await;
        let (flows, stop) = <(Flows, Stop)>::default();
        stop.stop();
        let outcome = relay(End::new(&ours), End::new(&theirs), &CONF, &flows, &stop).await;
        assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
    });
}

#[test]
fn an_idle_relay_is_small() {
    run(async {
        let (_client, ours) = tcp_pair().await;
        let (theirs, _upstream) = tcp_pair().await;
        let (flows, stop) = <(Flows, Stop)>::default();
        let relay = relay(End::new(&ours), End::new(&theirs), &CONF, &flows, &stop);
        let bytes = size_of_val(&relay);
        assert!(bytes <= 576, "{bytes} bytes");
    });
}

/// Whether the peer has gone without an orderly end.
fn is_lost(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
