//! What `h2` reads from and writes to: a socket of the ring's, with TLS or without.
//!
//! `h2` writes frame by frame and flushes often. Nothing of that reaches the kernel until whoever
//! drives the connection says so ([`Io::push`]): once per turn, so that the frames of many streams
//! leave in one send. While one is in flight, the next bytes gather behind it, up to a bound.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::clock;
use crate::ring::{Chunk, Class, Expect, Recv, Send, Socket};
use crate::tls::Transport;

/// Bytes that gather behind a send in flight before `h2` has to wait.
const GATHERED_MAX: usize = 64 << 10;

/// A buffer above this is not kept for the next bytes.
const KEPT_BYTES_MAX: usize = 2 * GATHERED_MAX;

/// Sees every byte before `h2` does.
pub trait Watch {
    /// Takes note of the next bytes. False: neither they nor what follows them is to be read.
    fn feed(&mut self, bytes: &[u8]) -> bool;

    /// May take note of the next bytes that `h2` writes.
    fn sent(&mut self, _bytes: &[u8]) {}
}

/// Lets everything pass.
impl Watch for () {
    fn feed(&mut self, _: &[u8]) -> bool {
        true
    }
}

/// A handle to one end of a connection: `h2` has one, and who drives the connection another.
pub struct Io<W = ()>(Rc<RefCell<Wire<W>>>);

/// The connection itself; about 300 bytes, and its buffers while there is something in them.
struct Wire<W> {
    sock: Socket,
    tls: Option<Box<Transport>>,
    watch: W,
    recv: Option<Recv>,
    /// Received as it is, not yet read.
    chunk: Chunk,
    /// Received through TLS or before this began, not yet read from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// The last receive filled its buffer: more is likely to be there.
    is_bulky: bool,
    /// Nothing more is to be read.
    is_closed: bool,
    /// The watch has said that enough was seen.
    is_barred: bool,
    /// Written, not yet being sent.
    out: Vec<u8>,
    sending: Option<Send<Vec<u8>>>,
    /// A task is woken when the send in flight is done.
    is_awaited: bool,
    /// Monotonic ms at which the send in flight was started.
    sending_since_ms: u64,
    spare: Vec<u8>,
    /// A send has failed.
    failed: Option<io::ErrorKind>,
    has_said_end: bool,
}

impl<W> Clone for Io<W> {
    fn clone(&self) -> Self {
        Io(Rc::clone(&self.0))
    }
}

impl<W: Watch> Io<W> {
    /// Takes a connection over, with a receive that may be in flight and the (plain) bytes that
    /// were read already.
    pub fn new(
        sock: Socket,
        tls: Option<Box<Transport>>,
        recv: Option<Recv>,
        early: Vec<u8>,
        mut watch: W,
    ) -> Self {
        let is_barred = !early.is_empty() && !watch.feed(&early);
        Io(Rc::new(RefCell::new(Wire {
            sock,
            tls,
            watch,
            recv,
            chunk: Chunk::empty(),
            plain: if is_barred { Vec::new() } else { early },
            plain_at: 0,
            is_bulky: false,
            is_closed: false,
            is_barred,
            out: Vec::new(),
            sending: None,
            is_awaited: false,
            sending_since_ms: 0,
            spare: Vec::new(),
            failed: None,
            has_said_end: false,
        })))
    }

    /// Sends what was written, unless a send is in flight: then the task is woken when that is
    /// done, and is to call this again. With nothing left to send nobody is woken.
    ///
    /// # Errors
    /// A send has failed; nothing more can be written.
    pub fn push(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let wire = &mut *self.0.borrow_mut();
        while !wire.out.is_empty() {
            match wire.poll_sent(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
            wire.start();
        }
        Ok(())
    }

    /// Since when (monotonic ms) the kernel has not taken all it was given; `None` if it has.
    pub fn sending_since(&self) -> Option<u64> {
        let wire = &mut *self.0.borrow_mut();
        // With more to send, somebody waits for the result and is to be woken by it.
        if wire.out.is_empty() {
            wire.take_sent();
        }
        wire.sending.as_ref().map(|_| wire.sending_since_ms)
    }

    /// Reads and throws away until the peer has ended its side.
    pub fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<()> {
        let wire = &mut *self.0.borrow_mut();
        wire.chunk = Chunk::empty();
        wire.plain = Vec::new();
        while !wire.is_closed {
            // Its end shows as one.
            drop(ready!(wire.poll_receive(cx)));
        }
        Poll::Ready(())
    }

    /// Whether bytes have come that `h2` has not read.
    pub fn has_unread(&self) -> bool {
        self.0.borrow().has_unread()
    }

    /// Whether the peer has ended its side, or the connection has failed.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().is_closed
    }

    /// Calls `act` with what watches the bytes.
    pub fn with_watch<R>(&self, act: impl FnOnce(&mut W) -> R) -> R {
        act(&mut self.0.borrow_mut().watch)
    }

    /// Calls `act` with the socket, which stays the connection's.
    pub fn with_socket<R>(&self, act: impl FnOnce(&Socket) -> R) -> R {
        act(&self.0.borrow().sock)
    }

    /// Gives up the buffers in which nothing is, for a connection that will be idle.
    pub fn rest(&self) {
        let wire = &mut *self.0.borrow_mut();
        wire.take_sent();
        wire.spare = Vec::new();
        if wire.out.is_empty() {
            wire.out = Vec::new();
        }
        if wire.plain.is_empty() {
            wire.plain = Vec::new();
        }
        if let Some(tls) = &mut wire.tls
            && wire.sending.is_none()
        {
            tls.rest();
        }
    }
}

impl<W: Watch> AsyncRead for Io<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, buf)
    }
}

impl<W: Watch> AsyncWrite for Io<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self.0.borrow_mut();
        ready!(wire.poll_room(cx))?;
        wire.watch.sent(bytes);
        wire.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self.0.borrow_mut();
        ready!(wire.poll_room(cx))?;
        let before = wire.out.len();
        for slice in slices {
            wire.watch.sent(slice);
            wire.out.extend_from_slice(slice);
        }
        Poll::Ready(Ok(wire.out.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready at once: bytes leave with [`Io::push`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow().result())
    }

    /// Sends what is left, says over TLS that this was all, and ends our side.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_end(cx)
    }
}

impl<W: Watch> Wire<W> {
    fn has_unread(&self) -> bool {
        !self.chunk.is_empty() || self.plain_at < self.plain.len()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while !self.has_unread() {
            if self.is_barred {
                return Poll::Pending;
            }
            if self.is_closed {
                return Poll::Ready(Ok(()));
            }
            let received = ready!(self.poll_receive(cx));
            self.take_in(received?);
        }
        if self.chunk.is_empty() {
            let rest = &self.plain[self.plain_at..];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            self.plain_at += count;
            if self.plain_at == self.plain.len() {
                self.plain.clear();
                self.plain_at = 0;
            }
        } else {
            let count = self.chunk.len().min(buf.remaining());
            buf.put_slice(&self.chunk[..count]);
            self.chunk.advance(count);
            if self.chunk.is_empty() {
                self.chunk = Chunk::empty();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let class = if self.is_bulky {
            Class::Large
        } else {
            Class::Stream
        };
        let sock = &self.sock;
        let recv = self
            .recv
            .get_or_insert_with(|| sock.recv(Expect::Later, class));
        let result = ready!(Pin::new(recv).poll(cx));
        self.recv = None;
        self.is_closed = !matches!(&result, Ok(chunk) if !chunk.is_empty());
        Poll::Ready(result)
    }

    fn take_in(&mut self, received: Chunk) {
        self.is_bulky = received.is_full();
        let Some(tls) = &mut self.tls else {
            self.is_barred = !received.is_empty() && !self.watch.feed(&received);
            if !self.is_barred {
                self.chunk = received;
            }
            return;
        };
        debug_assert!(self.plain.is_empty());
        let opened = tls.open(&received, &mut self.plain);
        self.is_closed |= opened.is_err() || tls.is_closed();
        if let Err(broken) = opened
            && self.sending.is_none()
        {
            self.sending = Some(self.sock.send(tls.seal_alert(broken)));
            self.failed = Some(io::ErrorKind::InvalidData);
        }
        if !self.plain.is_empty() && !self.watch.feed(&self.plain) {
            self.is_barred = true;
            self.plain.clear();
        }
    }

    /// Ready when more may be written.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.len() >= GATHERED_MAX {
            ready!(self.poll_sent(cx))?;
            self.start();
        }
        Poll::Ready(self.result())
    }

    /// Starts sending what has gathered. Nothing may be in flight.
    fn start(&mut self) {
        debug_assert!(self.sending.is_none());
        let mut out = mem::replace(&mut self.out, mem::take(&mut self.spare));
        self.out.clear();
        if let Some(tls) = &mut self.tls {
            let wire = tls.seal(&out);
            self.keep(mem::replace(&mut out, wire));
        }
        self.sending_since_ms = clock::now_ms();
        self.sending = Some(self.sock.send(out));
    }

    /// Polls the send in flight, if there is one.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(send) = &mut self.sending {
            self.is_awaited = true;
            let (result, buffer) = ready!(Pin::new(send).poll(cx));
            self.ended(result, buffer);
        }
        Poll::Ready(self.result())
    }

    /// As [`Wire::poll_sent`], for when nobody waits for it.
    fn take_sent(&mut self) {
        // Asking takes the place of the waker that was left.
        if !self.is_awaited
            && let Some((result, buffer)) = self.sending.as_mut().and_then(Send::try_take)
        {
            self.ended(result, buffer);
        }
    }

    fn ended(&mut self, result: io::Result<usize>, buffer: Vec<u8>) {
        self.sending = None;
        self.is_awaited = false;
        if let Err(error) = result {
            self.failed = Some(error.kind());
        }
        match &mut self.tls {
            None => self.keep(buffer),
            Some(tls) => tls.keep(buffer),
        }
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BYTES_MAX {
            buffer.clear();
            self.spare = buffer;
        }
    }

    fn result(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_sent(cx))?;
            if !self.out.is_empty() {
                self.start();
                continue;
            }
            if mem::replace(&mut self.has_said_end, true) {
                self.sock.shutdown(Shutdown::Write);
                return Poll::Ready(Ok(()));
            }
            if let Some(tls) = &mut self.tls {
                self.sending = Some(self.sock.send(tls.seal_close()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
