//! A connection to an upstream peer.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::base::places::Counted;
use crate::ring::{self, Chunk, Class, Expect, Recv, Send, Socket};
use crate::ssl::upstream::{Begun, Identity};
use crate::tls::Transport;
use crate::upstream::Idle;

/// Size of a small receive buffer, in bytes.
const SMALL: usize = 4 << 10;

const NOT_GIVEN_UP: &str = "it is given up once";

/// Buffers above this are given up while a connection lies idle, in bytes.
const KEPT_BYTES_MAX: usize = 8 << 10;

/// An established connection to a peer.
///
/// Its next read is always in flight, also while it lies idle: the answer finds it waiting, and
/// a peer that closes an idle connection is noticed without asking the kernel.
pub struct UpstreamConn {
    /// None once it was given up.
    sock: Option<Socket>,
    recv: Option<Recv>,
    sending: Option<Send<Vec<u8>>>,
    /// A read that ended while the request was still being sent.
    early: Option<io::Result<Chunk>>,
    tls: Option<Box<Secured>>,
    counted: Option<Counted>,
}

/// What a connection with TLS has beside the socket.
struct Secured {
    transport: Box<Transport>,
    /// What the send in flight carries as records.
    out: Vec<u8>,
    identity: Identity,
}

/// What a connection consists of, for whoever goes on without [`UpstreamConn`].
pub struct Parts {
    /// The connection.
    pub sock: Socket,
    /// The read in flight. What it brings is encrypted where there is TLS.
    pub recv: Option<Recv>,
    /// What was read behind the handshake.
    pub early: Chunk,
    /// Its encryption.
    pub tls: Option<Box<Transport>>,
    /// Its place among `worker_connections`.
    pub counted: Counted,
}

impl UpstreamConn {
    /// Wraps a connected socket and starts the first read.
    pub fn new(sock: Socket, counted: Counted) -> Self {
        let recv = Some(sock.recv(Expect::Later, Class::Stream));
        UpstreamConn {
            sock: Some(sock),
            recv,
            sending: None,
            early: None,
            tls: None,
            counted: Some(counted),
        }
    }

    /// Goes on through TLS, for requests of this identity alone.
    pub fn secured(sock: Socket, counted: Counted, begun: Begun, identity: Identity) -> Self {
        let mut conn = UpstreamConn::new(sock, counted);
        if !begun.plain.is_empty() {
            conn.early = Some(Ok(begun.plain.into()));
        }
        conn.tls = Some(Box::new(Secured {
            transport: begun.transport,
            out: Vec::new(),
            identity,
        }));
        conn
    }

    /// Whether a request may use it: its connection is to have this identity, which is none without
    /// TLS.
    pub fn is_for(&self, identity: Option<&Identity>) -> bool {
        self.tls.as_ref().map(|tls| &tls.identity) == identity
    }

    /// Gives up this type, with nothing being sent and no read that failed.
    pub fn into_parts(mut self) -> Parts {
        debug_assert!(!matches!(self.early, Some(Err(_))));
        Parts {
            early: self.early.take().and_then(Result::ok).unwrap_or_default(),
            sock: self.sock.take().expect(NOT_GIVEN_UP),
            recv: self.recv.take(),
            tls: self.tls.take().map(|tls| tls.transport),
            counted: self.counted.take().expect(NOT_GIVEN_UP),
        }
    }

    fn sock(&self) -> &Socket {
        self.sock.as_ref().expect(NOT_GIVEN_UP)
    }

    /// Whether the peer has said that it sends nothing more.
    fn has_ended(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.transport.is_closed())
    }

    /// Sets the moment at which the connection is shut down, in milliseconds of
    /// [`crate::base::clock::now_ms`]; `None` for never.
    pub fn set_deadline(&self, at_ms: Option<u64>) {
        self.sock().set_deadline(at_ms);
    }

    /// Whether a deadline has shut it down.
    pub fn timed_out(&self) -> bool {
        self.sock().timed_out()
    }

    /// The socket, if bytes may be moved past this type as they are (splice): none may with TLS.
    pub fn direct(&self) -> Option<&Socket> {
        self.sock.as_ref().filter(|_| self.tls.is_none())
    }

    /// Starts sending the request's head (and a small body with it) without waiting.
    pub fn send(&mut self, out: Vec<u8>) {
        debug_assert!(self.sending.is_none());
        let wire = match &mut self.tls {
            None => out,
            Some(tls) => {
                let wire = tls.transport.seal(&out);
                tls.out = out;
                wire
            }
        };
        self.sending = Some(self.sock().send(wire));
    }

    /// Tells the peer that nothing more is sent. Nothing may be in flight.
    pub fn end_sending(&mut self) {
        if let Some(tls) = &mut self.tls
            && let Some(sock) = &self.sock
        {
            sock.send_farewell(&tls.transport.seal_close());
        }
        self.sock().shutdown(Shutdown::Write);
    }

    /// Polls the send in flight; its buffer is for the next one.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let Some(send) = self.sending.as_mut() else {
            return Poll::Ready(Ok(Vec::new()));
        };
        let (result, wire) = ready!(Pin::new(send).poll(cx));
        self.sending = None;
        let buffer = self.plain_of(wire);
        Poll::Ready(result.map(|_| buffer))
    }

    /// The buffer of the send in flight, if it is done.
    pub fn take_sent(&mut self) -> Option<Vec<u8>> {
        let (_, wire) = self.sending.as_mut()?.try_take()?;
        self.sending = None;
        Some(self.plain_of(wire))
    }

    /// The buffer that was to be sent, of what was sent for it.
    fn plain_of(&mut self, wire: Vec<u8>) -> Vec<u8> {
        match &mut self.tls {
            None => wire,
            Some(tls) => {
                tls.transport.keep(wire);
                std::mem::take(&mut tls.out)
            }
        }
    }

    /// Whether a send is still in flight.
    pub fn is_sending(&mut self) -> bool {
        if self.sending.is_some() {
            self.take_sent();
        }
        self.sending.is_some()
    }

    /// Polls for an answer that comes before the request was sent in full, or the peer's end.
    /// The result is kept for [`UpstreamConn::poll_read`].
    pub fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.early.is_none() {
            let result = ready!(self.poll_read(cx));
            self.early = Some(result);
        }
        Poll::Ready(())
    }

    /// After a send failed: whether the peer said something before it closed.
    pub async fn answers_early(&mut self) -> bool {
        poll_fn(|cx| self.poll_early(cx)).await;
        matches!(&self.early, Some(Ok(chunk)) if !chunk.is_empty())
    }

    /// Polls the read in flight. After a result, [`UpstreamConn::listen`] starts the next one.
    /// An empty chunk is the end; where there is TLS, an end that the peer has not announced is an
    /// [`io::ErrorKind::UnexpectedEof`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        if let Some(result) = self.early.take() {
            return Poll::Ready(result);
        }
        loop {
            if self.has_ended() {
                return Poll::Ready(Ok(Chunk::empty()));
            }
            self.listen(self.next_class());
            let recv = self.recv.as_mut().expect("a read is in flight");
            let result = ready!(Pin::new(recv).poll(cx));
            self.recv = None;
            if self.tls.is_none() {
                return Poll::Ready(result);
            }
            // Of a record that has not come whole there is nothing yet.
            if let Some(result) = self.open(&result?).transpose() {
                return Poll::Ready(result);
            }
        }
    }

    /// The class of buffers for the next read, if nobody knows better: large ones for what is
    /// missing of a large record.
    fn next_class(&self) -> Class {
        let missing = self.tls.as_ref().map_or(0, |tls| tls.transport.begun().1);
        if missing > SMALL {
            Class::Large
        } else {
            Class::Stream
        }
    }

    /// What is in the bytes received, if anything is yet; an empty chunk at the announced end.
    fn open(&mut self, received: &[u8]) -> io::Result<Option<Chunk>> {
        let (Some(tls), Some(sock)) = (&mut self.tls, &self.sock) else {
            return Ok(Some(Chunk::copy_of(received)));
        };
        if received.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let transport = &mut tls.transport;
        let mut plain = ring::spare_buffer(received.len() + transport.begun().0);
        if let Err(broken) = transport.open(received, &mut plain) {
            if self.sending.is_none() {
                self.sending = Some(sock.send(transport.seal_alert(broken)));
            }
            let error = io::Error::new(io::ErrorKind::InvalidData, broken.to_string());
            if plain.is_empty() {
                return Err(error);
            }
            self.early = Some(Err(error));
        }
        let plain = Chunk::from(plain);
        Ok((!plain.is_empty() || transport.is_closed()).then_some(plain))
    }

    /// Starts a read with the given class of buffer if none is in flight.
    pub fn listen(&mut self, class: Class) {
        if self.recv.is_none() {
            self.recv = Some(self.sock().recv(Expect::Later, class));
        }
    }

    /// Whether nothing receives from it, so that the bytes may be moved another way.
    pub fn is_quiet(&self) -> bool {
        self.recv.is_none() && !self.sock().is_streaming()
    }

    /// Whether it may lie idle: nothing is being sent or read, and the peer goes on.
    pub fn may_rest(&mut self) -> bool {
        !self.is_sending() && self.recv.is_none() && !self.has_ended()
    }

    /// Makes ready to lie idle: no deadline of its own, and the read in flight that will carry
    /// the next answer.
    pub fn rest(&mut self) {
        self.set_deadline(None);
        self.listen(Class::Stream);
        if let Some(tls) = &mut self.tls {
            tls.transport.shrink(KEPT_BYTES_MAX);
        }
    }
}

impl Drop for UpstreamConn {
    /// A server that is not told of the end may take the session for one that was attacked, and
    /// would not resume it.
    fn drop(&mut self) {
        if self.is_sending() {
            return;
        }
        if let (Some(tls), Some(sock)) = (&mut self.tls, &self.sock) {
            sock.send_farewell(&tls.transport.seal_close());
        }
    }
}

impl Idle for UpstreamConn {
    fn is_stale(&mut self) -> bool {
        if self.early.is_some() || self.timed_out() {
            return true;
        }
        let Some(recv) = self.recv.as_mut() else {
            return true;
        };
        let Some(result) = recv.try_take() else {
            return false;
        };
        self.recv = None;
        // A ticket may come at any time; it is not data.
        match result {
            Ok(received) if self.tls.is_some() => {
                self.listen(Class::Stream);
                !matches!(self.open(&received), Ok(None))
            }
            _ => true,
        }
    }
}
