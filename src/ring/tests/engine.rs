//! Life of an engine, its buffers and its turns.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use super::*;

/// Why `start` does not ask for it, though it is the quicker way to run a ring. If this fails,
/// tokio-uring has learnt to enter the kernel with GETEVENTS: measure, and use it.
#[test]
fn a_ring_with_deferred_task_work_would_hang() {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        let mut ring = tokio_uring::uring_builder();
        ring.setup_defer_taskrun().setup_single_issuer();
        tokio_uring::builder().uring_builder(&ring).start(async {
            let (one, other) = UnixStream::pair().unwrap();
            let (one, other) = [one, other]
                .map(tokio_uring::net::UnixStream::from_std)
                .into();
            let receive = tokio_uring::spawn(async move { one.read(vec![0; 8]).await });
            tokio::time::sleep(Duration::from_millis(20)).await; // so that it has to wait
            other.write(vec![1; 8]).submit().await.0.unwrap();
            receive.await.unwrap().0.unwrap();
        });
        done.send(())
    });
    assert!(wait.recv_timeout(Duration::from_millis(200)).is_err());
}

#[test]
fn a_chunk_outlives_its_engine_and_the_next_one() {
    let first = run(async {
        let (one, other) = pair();
        one.send(&b"old"[..]).await.0.unwrap();
        other.recv(Expect::Now, Class::Small).await.unwrap()
    });
    let second = run(async {
        let (one, other) = pair();
        one.send(&b"new"[..]).await.0.unwrap();
        let chunk = other.recv(Expect::Now, Class::Small).await.unwrap();
        assert_eq!(&*first, b"old");
        drop(first);
        assert_eq!(usage().small_leased, 1);
        chunk
    });
    assert_eq!(&*second, b"new");
}

#[test]
fn the_end_closes_what_tasks_hold() {
    let (one, mut other) = UnixStream::pair().unwrap();
    run(async {
        let one = Socket::from_fd(one.into());
        spawn(async move {
            let sent = one.send(vec![1; 10]);
            drop(one.recv(Expect::Later, Class::Small).await);
            drop(sent);
        });
        yield_now().await;
        yield_now().await;
    });
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut other, &mut got).unwrap();
    assert_eq!(got, [1; 10]);
}

#[test]
fn a_panic_ends_its_task_alone() {
    run(async {
        let (one, other) = pair();
        let task = spawn(async move {
            one.recv(Expect::Now, Class::Small).await.unwrap();
            panic!("as the test wants it");
        });
        other.send(vec![1]).await.0.unwrap();
        assert!(task.await.unwrap_err().is_panic());
        ends(&other).await;
    });
}

#[test]
fn turns_are_fair_to_the_ring() {
    run(async {
        let (one, other) = pair();
        let stop = Rc::new(Cell::new(false));
        let stopped = stop.clone();
        let busy = spawn(async move {
            let mut turns = 0;
            while !stopped.get() {
                turns += 1;
                yield_now().await;
            }
            turns
        });
        for _ in 0..10 {
            let received = other.recv(Expect::Later, Class::Small);
            one.send(vec![1]).await.0.unwrap();
            received.await.unwrap();
        }
        stop.set(true);
        assert!(busy.await.unwrap() < 200);
    });
}

#[test]
fn sweeps_call_their_hooks() {
    run(async {
        let calls = Rc::new(Cell::new(0));
        let seen = calls.clone();
        on_sweep(move |now_ms| {
            assert!(now_ms <= clock::now_ms());
            seen.set(seen.get() + 1);
            if seen.get() == 2 {
                on_sweep(|_| false); // one that is registered by another
            }
            seen.get() < 3
        });
        eventually("three calls", || calls.get() == 3).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(calls.get(), 3);
    });
}

#[test]
fn a_group_grows_when_the_kernel_has_none_and_then_the_heap_helps() {
    run(async {
        let (one, other) = pair();
        let mut held = Vec::new();
        for round in 0..80u8 {
            one.send(vec![round; 3]).await.0.unwrap();
            held.push(other.recv(Expect::Now, Class::Small).await.unwrap());
        }
        assert_eq!((usage().small_leased, usage().small_live), (64, 64));
        for (round, chunk) in held.drain(..).enumerate() {
            assert_eq!(&*chunk, [round as u8; 3]);
        }
        assert_eq!(usage().small_leased, 0);
        // Waiting for readiness first finds out as late as possible.
        let larges: Vec<_> = (0..4).map(|_| (pair(), ())).collect();
        for ((one, other), ()) in &larges {
            let waiting = other.recv(Expect::Later, Class::Large);
            one.send(vec![9; 8192]).await.0.unwrap();
            held.push(waiting.await.unwrap());
        }
        let waiting = other.recv(Expect::Later, Class::Large);
        one.send(vec![9; 8192]).await.0.unwrap();
        assert_eq!(waiting.await.unwrap().len(), 8192);
        assert_eq!(usage().large_leased, 4);
    });
}

#[test]
fn a_split_buffer_goes_back_with_its_last_part() {
    run(async {
        let (one, other) = pair();
        one.send(&b"onetwothree"[..]).await.0.unwrap();
        let mut rest = other.recv(Expect::Now, Class::Small).await.unwrap();
        let first = rest.split_to(3);
        let second = rest.split_to(3);
        let third = rest.split_to(5);
        assert!(rest.is_empty());
        drop((rest, second));
        assert_eq!(usage().small_leased, 1);
        assert_eq!((&*first, &*third), (&b"one"[..], &b"three"[..]));
        drop((first, third));
        assert_eq!(usage().small_leased, 0);
    });
}

#[test]
fn a_dropped_receive_loses_no_buffer() {
    run(async {
        for round in 0..200 {
            let (one, other) = pair();
            let waiting = other.recv(Expect::Now, Class::Small);
            if round % 2 == 0 {
                yield_now().await; // it reaches the kernel before its end
            }
            if round % 3 == 0 {
                one.send(vec![1; 5]).await.0.unwrap(); // it has completed, unseen
            }
            drop(waiting);
            if round % 5 == 0 {
                // It gets a buffer after it was dropped.
                let _ = one.send(vec![1; 5]).await;
            }
            drop(other);
            drop(one);
        }
        eventually("no orphans", || {
            usage().orphans == 0 && usage().sockets == 0
        })
        .await;
        assert_eq!((usage().small_leased, usage().small_live), (0, 32));
        // All 32 are still there: as many can be held without a further one.
        let mut held = Vec::new();
        let (one, other) = pair();
        for _ in 0..32 {
            one.send(vec![1]).await.0.unwrap();
            held.push(other.recv(Expect::Now, Class::Small).await.unwrap());
        }
        assert_eq!((usage().small_leased, usage().small_live), (32, 32));
    });
}
