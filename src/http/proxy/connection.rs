//! A connection to an upstream peer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::base::clock;
use crate::base::places::Counted;
use crate::ring::{Chunk, Class, Expect, Recv, Send, Socket};
use crate::upstream::Idle;

/// An established connection to a peer.
///
/// Its next read is always in flight, also while it lies idle: the answer finds it waiting, and
/// a peer that closes an idle connection is noticed without asking the kernel.
pub struct UpstreamConn {
    /// The connection.
    pub sock: Socket,
    recv: Option<Recv>,
    sending: Option<Send<Vec<u8>>>,
    /// A read that ended while the request was still being sent.
    early: Option<io::Result<Chunk>>,
    _counted: Counted,
}

impl UpstreamConn {
    /// Wraps a connected socket and starts the first read.
    pub fn new(sock: Socket, counted: Counted) -> Self {
        let recv = Some(sock.recv(Expect::Later, Class::Stream));
        UpstreamConn {
            sock,
            recv,
            sending: None,
            early: None,
            _counted: counted,
        }
    }

    /// Starts sending the request's head (and a small body with it) without waiting.
    pub fn send(&mut self, out: Vec<u8>) {
        debug_assert!(self.sending.is_none());
        self.sending = Some(self.sock.send(out));
    }

    /// Polls the send in flight; its buffer is for the next one.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let Some(send) = self.sending.as_mut() else {
            return Poll::Ready(Ok(Vec::new()));
        };
        let (result, buffer) = std::task::ready!(Pin::new(send).poll(cx));
        self.sending = None;
        Poll::Ready(result.map(|_| buffer))
    }

    /// Polls for an answer that comes before the request was sent in full, or the peer's end.
    /// The result is kept for [`UpstreamConn::poll_read`].
    pub fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.early.is_none() {
            let result = std::task::ready!(self.poll_read(cx));
            self.early = Some(result);
        }
        Poll::Ready(())
    }

    /// After a send failed: whether the peer said something before it closed.
    pub async fn answers_early(&mut self) -> bool {
        poll_fn(|cx| self.poll_early(cx)).await;
        matches!(&self.early, Some(Ok(chunk)) if !chunk.is_empty())
    }

    /// The buffer of the send in flight, if it is done.
    pub fn take_sent(&mut self) -> Option<Vec<u8>> {
        let (_, buffer) = self.sending.as_mut()?.try_take()?;
        self.sending = None;
        Some(buffer)
    }

    /// Whether a send is still in flight.
    pub fn is_sending(&mut self) -> bool {
        if self.sending.is_some() {
            self.take_sent();
        }
        self.sending.is_some()
    }

    /// Polls the read in flight. After a result, [`UpstreamConn::listen`] starts the next one.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        if let Some(result) = self.early.take() {
            return Poll::Ready(result);
        }
        let sock = &self.sock;
        let recv = self
            .recv
            .get_or_insert_with(|| sock.recv(Expect::Later, Class::Stream));
        let result = std::task::ready!(Pin::new(recv).poll(cx));
        self.recv = None;
        Poll::Ready(result)
    }

    /// Reads with the given class of buffer, where no read is in flight yet.
    ///
    /// # Errors
    /// What recv(2) reported. A deadline that expired shows as the end, see `Socket::timed_out`.
    pub async fn read(
        &mut self,
        expect: Expect,
        class: Class,
        timeout_ms: u64,
    ) -> io::Result<Chunk> {
        self.sock.set_deadline(Some(clock::now_ms() + timeout_ms));
        let sock = &self.sock;
        self.recv.get_or_insert_with(|| sock.recv(expect, class));
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Starts a read with the given class of buffer if none is in flight.
    pub fn listen(&mut self, class: Class) {
        let sock = &self.sock;
        self.recv
            .get_or_insert_with(|| sock.recv(Expect::Later, class));
    }

    /// The read in flight, for a tunnel that goes on without this type.
    pub fn take_recv(&mut self) -> Option<Recv> {
        self.recv.take()
    }

    /// Whether a read is in flight.
    pub fn is_reading(&self) -> bool {
        self.recv.is_some()
    }

    /// Whether nothing receives from it, so that the bytes may be moved another way.
    pub fn is_quiet(&self) -> bool {
        self.recv.is_none() && !self.sock.is_streaming()
    }

    /// Makes ready to lie idle: no deadline of its own, and the read in flight that will carry
    /// the next answer.
    pub fn rest(&mut self) {
        self.sock.set_deadline(None);
        self.listen(Class::Stream);
    }
}

impl Idle for UpstreamConn {
    fn is_stale(&mut self) -> bool {
        let ended = match self.recv.as_mut() {
            Some(recv) => recv.try_take().is_some(),
            None => true,
        };
        ended || self.early.is_some() || self.sock.timed_out()
    }
}
