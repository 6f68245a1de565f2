use std::future::poll_fn;
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::ring::{EngineConf, spawn, start};

fn pair() -> (Socket, Socket) {
    let (one, other) = UnixStream::pair().unwrap();
    (Socket::from_fd(one.into()), Socket::from_fd(other.into()))
}

fn io(sock: Socket) -> Io {
    Io::new(sock, None, None, Vec::new(), ())
}

fn run<T>(main: impl Future<Output = T>) -> T {
    start(&EngineConf::default(), main).unwrap()
}

async fn pushed(io: &Io) {
    poll_fn(|cx| Poll::Ready(io.push(cx))).await.unwrap();
}

#[test]
fn what_was_written_leaves_at_once_when_it_is_pushed() {
    run(async {
        let (ours, theirs) = pair();
        let mut io = io(ours);
        for piece in [&b"one "[..], b"two ", b"three"] {
            io.write_all(piece).await.unwrap();
            io.flush().await.unwrap();
        }
        assert_eq!(io.sending_since(), None);
        pushed(&io).await;
        let chunk = theirs.recv(Expect::Now, Class::Large).await.unwrap();
        assert_eq!(&*chunk, b"one two three");
    });
}

#[test]
fn early_bytes_come_first() {
    run(async {
        let (ours, theirs) = pair();
        let mut io = Io::new(ours, None, None, b"first ".to_vec(), ());
        theirs.send(b"second".to_vec()).await.0.unwrap();
        let mut read = [0; 12];
        io.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"first second");
        drop(theirs);
        assert_eq!(io.read(&mut read).await.unwrap(), 0);
        assert!(io.is_closed());
    });
}

#[test]
fn a_peer_that_does_not_read_is_waited_for() {
    run(async {
        let (ours, theirs) = pair();
        let mut io = io(ours);
        let total = 4 << 20;
        let writer = spawn({
            let mut io = io.clone();
            async move {
                let piece = [7; 10_000];
                let mut left = total;
                while left > 0 {
                    let n = piece.len().min(left);
                    io.write_all(&piece[..n]).await.unwrap();
                    left -= n;
                }
                io.shutdown().await.unwrap();
            }
        });
        while io.sending_since().is_none() {
            crate::ring::yield_now().await;
        }
        assert!(io.0.borrow().out.len() <= GATHERED_MAX + 10_000);
        let mut got = 0;
        loop {
            let chunk = theirs.recv(Expect::Now, Class::Large).await.unwrap();
            if chunk.is_empty() {
                break;
            }
            got += chunk.len();
        }
        assert_eq!(got, total);
        writer.await.unwrap();
        theirs.send(b"late".to_vec()).await.0.unwrap();
        let mut read = [0; 4];
        io.read_exact(&mut read).await.unwrap();
    });
}

struct Until(u8);

impl Watch for Until {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        !bytes.contains(&self.0)
    }
}

#[test]
fn nothing_is_read_after_the_watch_has_had_enough() {
    run(async {
        let (ours, theirs) = pair();
        let mut io = Io::new(ours, None, None, Vec::new(), Until(b'!'));
        theirs.send(b"fine".to_vec()).await.0.unwrap();
        let mut read = [0; 16];
        assert_eq!(io.read(&mut read).await.unwrap(), 4);
        theirs.send(b"not!".to_vec()).await.0.unwrap();
        drop(theirs);
        let mut reading = std::pin::pin!(io.read(&mut read));
        for _ in 0..10 {
            crate::ring::yield_now().await;
            poll_fn(|cx| {
                assert!(reading.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
    });
}

#[test]
fn h2_speaks_through_it() {
    run(async {
        let (ours, theirs) = pair();
        let server = spawn(async move {
            let io = io(ours);
            let mut conn = ::h2::server::handshake(io.clone());
            let mut conn = poll_fn(|cx| {
                let polled = Pin::new(&mut conn).poll(cx);
                io.push(cx).unwrap();
                polled
            })
            .await
            .unwrap();
            while let Some(request) = poll_fn(|cx| {
                let polled = conn.poll_accept(cx);
                io.push(cx).unwrap();
                polled
            })
            .await
            {
                let (request, mut respond) = request.unwrap();
                assert_eq!(request.uri().path(), "/x");
                let mut body = respond
                    .send_response(http::Response::new(()), false)
                    .unwrap();
                body.send_data(Bytes::from(vec![1; 50_000]), true).unwrap();
            }
        });
        let io = io(theirs);
        let (mut send, mut conn) = ::h2::client::handshake(io.clone()).await.unwrap();
        let client = spawn(async move {
            poll_fn(|cx| {
                let polled = Pin::new(&mut conn).poll(cx);
                io.push(cx).unwrap();
                polled
            })
            .await
            .unwrap();
        });
        let request = http::Request::get("http://a/x").body(()).unwrap();
        let (answer, _) = send.send_request(request, true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let mut got = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            got += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(got, 50_000);
        drop((send, body));
        client.await.unwrap();
        server.await.unwrap();
    });
}
