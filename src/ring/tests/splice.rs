//! Moving bytes through pipes, and files.

use std::io;
use std::net::Shutdown;
use std::path::Path;

use super::*;

const LIMITS: SpliceLimits = SpliceLimits {
    read_timeout_ms: 5000,
    write_timeout_ms: 5000,
    stall_ms: None,
};

#[test]
fn a_body_is_moved_exactly() {
    run(async {
        let bytes = noise(7, 10 << 20);
        let (source, from) = tcp_pair().await;
        let (to, sink) = tcp_pair().await;
        let expected = bytes.clone();
        let writer = spawn(async move {
            source.send(bytes).await.0.unwrap();
            source.send(&b"next"[..]).await.0.unwrap();
        });
        let reader = spawn(async move { receive_all(&sink).await });
        let mut seen = 0;
        let count = expected.len() as u64;
        let moved = splice_body(&from, &to, count, LIMITS, |part| seen += part)
            .await
            .unwrap()
            .moved;
        assert_eq!((moved, seen), (count, count));
        // Both are as before: what follows is received, and sent, as usual.
        assert!(!from.options().nonblocking().unwrap() && !to.options().nonblocking().unwrap());
        assert_eq!(
            &*from.recv(Expect::Now, Class::Small).await.unwrap(),
            b"next"
        );
        to.send(&b"tail"[..]).await.0.unwrap();
        drop(to);
        let mut got = reader.await.unwrap();
        assert_eq!(got.split_off(expected.len()), b"tail");
        assert!(got == expected);
        writer.await.unwrap();
        assert_eq!(usage().pipes, 1);
    });
}

#[test]
fn a_source_that_ends_early_is_told_by_the_count() {
    run(async {
        let (source, from) = tcp_pair().await;
        let (to, sink) = pair();
        source.send(vec![1; 1000]).await.0.unwrap();
        drop(source);
        assert_eq!(
            splice_body(&from, &to, 5000, LIMITS, |_| ())
                .await
                .unwrap()
                .moved,
            1000
        );
        assert_eq!(
            sink.recv(Expect::Now, Class::Small).await.unwrap().len(),
            1000
        );
    });
}

#[test]
fn errors_name_their_side() {
    run(async {
        // The destination is gone, and what was in the pipe with it.
        let (source, from) = pair();
        let (to, sink) = pair();
        drop(sink);
        source.send(vec![1; 100]).await.0.unwrap();
        let error = splice_body(&from, &to, 100, LIMITS, |_| ())
            .await
            .unwrap_err();
        assert_eq!((error.side, error.moved), (Side::Write, 0));
        assert_eq!(error.error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(usage().pipes, 0);

        // The source is reset.
        let (source, from) = tcp_pair().await;
        let (to, _sink) = pair();
        source.reset();
        drop(source);
        let error = splice_body(&from, &to, 100, LIMITS, |_| ())
            .await
            .unwrap_err();
        assert_eq!(error.side, Side::Read);
        assert_eq!(error.error.kind(), io::ErrorKind::ConnectionReset);
        assert!(error.to_string().starts_with("reading after 0 bytes: "));
        assert_eq!(usage().pipes, 1);
    });
}

#[test]
fn limits_are_kept_on_both_sides() {
    run(async {
        let (_source, from) = pair();
        let (to, _sink) = pair();
        let limits = SpliceLimits {
            read_timeout_ms: 10,
            ..LIMITS
        };
        let error = splice_body(&from, &to, 100, limits, |_| ())
            .await
            .unwrap_err();
        assert_eq!(
            (error.side, error.error.kind()),
            (Side::Read, io::ErrorKind::TimedOut)
        );

        let (source, from) = tcp_pair().await;
        let sent = source.send(vec![7; 32 << 20]);
        let limits = SpliceLimits {
            write_timeout_ms: 10,
            ..LIMITS
        };
        let error = splice_body(&from, &to, 32 << 20, limits, |_| ())
            .await
            .unwrap_err();
        assert_eq!(
            (error.side, error.error.kind()),
            (Side::Write, io::ErrorKind::TimedOut)
        );
        assert!(error.moved > 0);
        drop((sent, source));
    });
}

#[test]
fn a_file_without_a_name_is_written_read_and_sent() {
    run(async {
        let file = File::temporary(&std::env::temp_dir()).await.unwrap();
        let bytes = noise(7, 3 << 20);
        let (written, back) = file.write_at(bytes.clone(), 0).await;
        assert_eq!(written.unwrap(), bytes.len());
        let chunk = Chunk::copy_of(b"patch");
        file.write_at(chunk, 100).await.0.unwrap();
        let mut expected = back;
        expected[100..105].copy_from_slice(b"patch");

        let (read, buf) = file.read_at(Vec::with_capacity(64), 90).await;
        assert_eq!(
            (read.unwrap(), &buf[..]),
            (buf.capacity(), &expected[90..90 + buf.capacity()])
        );
        assert_eq!(file.read_at(buf, 4 << 20).await.0.unwrap(), 0);

        let (to, sink) = tcp_pair().await;
        let reader = spawn(async move { receive_all(&sink).await });
        let count = expected.len() as u64 - 50;
        let moved = splice_file(&file, 50, &to, count, 5000, |_| ())
            .await
            .unwrap();
        assert_eq!(moved, count);
        // More than it has.
        assert_eq!(
            splice_file(&file, 3 << 20, &to, 10, 5000, |_| ())
                .await
                .unwrap(),
            0
        );
        drop(to);
        assert!(reader.await.unwrap() == expected[50..]);
    });
}

#[test]
fn a_file_is_opened_by_its_path() {
    run(async {
        let path = std::env::temp_dir().join(format!("ringway-{}.txt", std::process::id()));
        std::fs::write(&path, "content").unwrap();
        let file = File::open(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let (read, buf) = file.read_at(Vec::with_capacity(100), 0).await;
        assert_eq!((read.unwrap(), &buf[..]), (7, &b"content"[..]));
        let missing = File::open(&path).await.err().unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(File::temporary(Path::new("/nonexistent")).await.is_err());
    });
}

#[test]
fn a_stall_hands_back_what_is_in_the_pipe() {
    run(async {
        let (source, from) = tcp_pair().await;
        let (to, sink) = tcp_pair().await;
        let expected = noise(7, 16 << 20);
        let count = expected.len() as u64;
        let sent = source.send(expected.clone());
        let limits = SpliceLimits {
            stall_ms: Some(20),
            ..LIMITS
        };
        let result = splice_body(&from, &to, count, limits, |_| ())
            .await
            .unwrap();
        let mut stalled = result.stalled.expect("nobody reads");
        let on_its_way = result.moved + stalled.len();
        assert!(result.moved > 0 && !stalled.is_empty() && on_its_way < count);
        assert!(!to.options().nonblocking().unwrap());

        // The wait for room goes on while the rest is sent.
        let waiting = stalled.waiting.take().unwrap();
        let reader = spawn(async move { receive_all(&sink).await });
        let mut buf = Vec::with_capacity(5000);
        while !stalled.is_empty() {
            stalled.take(&mut buf).unwrap();
            buf = to.send(buf).await.1;
        }
        waiting.await.unwrap();
        drop(stalled);
        assert_eq!(usage().pipes, 1, "an empty pipe is used again");
        drop(to);
        let got = reader.await.unwrap();
        assert_eq!(got.len() as u64, on_its_way);
        assert!(got == expected[..got.len()]);
        drop((sent, source, from));
    });
}

#[test]
fn room_is_waited_for_though_the_peer_has_ended_its_half() {
    run(async {
        let (to, sink) = tcp_pair().await;
        sink.shutdown(Shutdown::Write);
        assert!(to.recv(Expect::Now, Class::Small).await.unwrap().is_empty());
        let bytes = vec![7; 32 << 20];
        let sent = bytes.len();
        to.set_nonblocking(true);
        let (source, from) = pair();
        let writer = spawn(async move { source.send(bytes).await.0.unwrap() });
        let slow = spawn(async move {
            // Long enough for everything on the way to be full.
            sleep(Duration::from_millis(100)).await;
            receive_all(&sink).await.len()
        });
        let mut turns = 0;
        let mut pipe = Pipe::lend().unwrap();
        from.set_nonblocking(true);
        loop {
            match pipe.fill(&from, 1 << 20) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => from.readable().await.unwrap(),
            }
            while pipe.held() > 0 {
                if pipe.drain(&to).is_err() {
                    to.writable().await.unwrap();
                    turns += 1;
                }
            }
        }
        assert!(turns < 1000, "{turns} waits");
        writer.await.unwrap();
        drop((from, to));
        assert_eq!(slow.await.unwrap(), sent);

        // So does a send.
        let (to, sink) = tcp_pair().await;
        sink.shutdown(Shutdown::Write);
        to.readable().await.unwrap();
        to.set_nonblocking(true);
        let mut sent = to.send(vec![1; 32 << 20]);
        sleep(Duration::from_millis(30)).await;
        assert!(sent.try_take().is_none());
        let all = spawn(async move { receive_all(&sink).await.len() });
        assert_eq!(sent.await.0.unwrap(), 32 << 20);
        drop(to);
        assert_eq!(all.await.unwrap(), 32 << 20);

        // The end of the connection is noticed, and nothing is left of a wait given up.
        let (to, sink) = tcp_pair().await;
        sink.shutdown(Shutdown::Write);
        to.readable().await.unwrap();
        to.set_nonblocking(true);
        to.set_deadline(Some(clock::now_ms() + 20));
        while !to.timed_out() {
            drop(to.send(vec![1; 1 << 20]));
            to.writable().await.unwrap();
        }
        drop(to.writable());
        drop((to, sink));
        eventually("all is gone", || usage().sockets == 0).await;
    });
}
