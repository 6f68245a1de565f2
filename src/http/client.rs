//! The client's side of an exchange: bytes in, bytes out, and what is in flight.
//!
//! Exactly one read is in flight while an exchange runs. It costs nothing while it waits (the
//! buffer is chosen by the kernel when data arrives), it will deliver the next request, and until
//! then it tells at once when the client goes away.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::Reason;
use http::HeaderMap;

use crate::base::clock;
use crate::ring::{Chunk, Class, Expect, Recv, Send, Socket};
use crate::tls::{Broken, Transport};

use super::h2::stream::Stream;

/// Unread input above which no further read is started (pipelined requests wait in the kernel).
const INPUT_MAX: usize = 64 << 10;

/// Buffers above this are not kept for the next request.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// How long the last record may take to leave, in milliseconds.
const END_TIMEOUT_MS: u64 = 1000;

/// One client connection's socket and buffers: 232 bytes, and three buffers that grow to what
/// the largest request and response so far needed, 64 KiB at most. None while it is parked.
pub struct Client {
    link: Link,
    /// Bytes received and not yet consumed.
    pub input: Vec<u8>,
    /// The peer has closed its side, or reading failed.
    pub closed: bool,
    /// Buffer for the next request to an upstream; kept here so that it is allocated once.
    pub upstream_out: Vec<u8>,
    recv: Option<Recv>,
    sending: Sending,
    spare: Vec<u8>,
    tls: Option<Box<Transport>>,
}

/// What the bytes come and go through.
enum Link {
    /// A connection with one exchange after the other.
    Socket(Socket),
    /// A stream of a connection with many. Reads and sends in flight are its own.
    Stream(Box<Stream>),
}

/// The send in flight.
enum Sending {
    None,
    Bytes(Send<Vec<u8>>),
    Chunk(Send<Chunk>),
}

/// What a tunnel takes over of a client.
pub struct Ends<'a> {
    /// The connection, which stays the client's.
    pub sock: &'a Socket,
    /// The read in flight.
    pub recv: Option<Recv>,
    /// Bytes that came before it.
    pub early: Vec<u8>,
    /// The encryption, if there is any.
    pub tls: Option<Box<Transport>>,
}

/// What a connection consists of, see [`Client::into_connection`].
pub struct Connection {
    /// The connection.
    pub sock: Socket,
    /// The read in flight.
    pub recv: Option<Recv>,
    /// The encryption, if there is any.
    pub tls: Option<Box<Transport>>,
    /// Plain bytes that were received and not consumed.
    pub input: Vec<u8>,
}

/// What is left of a client while it is idle.
pub type Idle = (Socket, Recv, Option<Box<Transport>>);

impl Client {
    /// Takes over an accepted connection, or one that was parked with its read in flight.
    pub fn new(sock: Socket, recv: Option<Recv>) -> Self {
        Client {
            recv,
            ..Client::through(Link::Socket(sock))
        }
    }

    /// The client of exchanges over HTTP/2. See [`Client::stream_mut`].
    pub fn of_streams(stream: Box<Stream>) -> Self {
        Client::through(Link::Stream(stream))
    }

    fn through(link: Link) -> Self {
        Client {
            link,
            input: Vec::new(),
            closed: false,
            upstream_out: Vec::new(),
            recv: None,
            sending: Sending::None,
            spare: Vec::new(),
            tls: None,
        }
    }

    /// The stream, if it is one.
    #[inline]
    pub fn stream_mut(&mut self) -> Option<&mut Stream> {
        match &mut self.link {
            Link::Socket(_) => None,
            Link::Stream(stream) => Some(stream),
        }
    }

    /// What there is of the connection, for one whose client turns out to speak HTTP/2. `None` if
    /// this is a stream already.
    pub fn into_connection(self) -> Option<Connection> {
        match self.link {
            Link::Socket(sock) => Some(Connection {
                sock,
                recv: self.recv,
                tls: self.tls,
                input: self.input,
            }),
            Link::Stream(_) => None,
        }
    }

    /// From here on everything goes through TLS.
    pub fn encrypt(&mut self, transport: Box<Transport>) {
        self.closed |= transport.is_closed();
        self.tls = Some(transport);
    }

    /// The socket, where what is sent to it is what the client gets, so that bytes may go there
    /// without passing through here (splice).
    pub fn direct(&self) -> Option<&Socket> {
        match &self.link {
            Link::Socket(sock) if self.tls.is_none() => Some(sock),
            _ => None,
        }
    }

    /// From `at_ms` on the client is late: what is awaited of it ends. See
    /// [`Socket::set_deadline`].
    #[inline]
    pub fn set_deadline(&self, at_ms: Option<u64>) {
        match &self.link {
            Link::Socket(sock) => sock.set_deadline(at_ms),
            Link::Stream(stream) => stream.set_deadline(at_ms),
        }
    }

    /// As [`Client::set_deadline`], but an answer can still be sent.
    #[inline]
    pub fn set_read_deadline(&self, at_ms: Option<u64>) {
        match &self.link {
            Link::Socket(sock) => sock.set_read_deadline(at_ms),
            Link::Stream(stream) => stream.set_deadline(at_ms),
        }
    }

    /// Whether a deadline has passed. Stays true.
    #[inline]
    pub fn timed_out(&self) -> bool {
        match &self.link {
            Link::Socket(sock) => sock.timed_out(),
            Link::Stream(stream) => stream.timed_out(),
        }
    }

    /// Ends the response so that the client sees that it is not complete, whatever its framing.
    pub fn reset(&mut self) {
        match &mut self.link {
            Link::Socket(sock) => sock.reset(),
            Link::Stream(stream) => stream.finish(Reason::INTERNAL_ERROR),
        }
    }

    /// Tells the client that nothing more is sent, while it may send on.
    pub fn end_sending(&self) {
        if let Link::Socket(sock) = &self.link {
            sock.shutdown(Shutdown::Write);
        }
    }

    /// `tcp_nodelay off`
    pub fn delay_small_segments(&self) {
        if let Link::Socket(sock) = &self.link {
            // What cannot be set only costs packets.
            let _ = sock.set_nodelay(false);
        }
    }

    /// Gives up everything but the socket and its read in flight, for parking. The client comes
    /// back if there is unread input or an unfinished send.
    #[expect(
        clippy::result_large_err,
        reason = "the connection goes on with it as it was"
    )]
    pub fn into_parked(mut self) -> Result<Idle, Self> {
        if !self.input.is_empty() || self.closed || !self.sent() {
            return Err(self);
        }
        if let Some(tls) = &mut self.tls
            && !tls.rest()
        {
            return Err(self);
        }
        let sock = match self.link {
            Link::Socket(sock) => sock,
            Link::Stream(_) => return Err(self),
        };
        let recv = self
            .recv
            .unwrap_or_else(|| sock.recv(Expect::Later, Class::Stream));
        Ok((sock, recv, self.tls))
    }

    /// Starts the read that will deliver what the client sends next, if none is in flight.
    pub fn listen(&mut self) {
        if let Link::Socket(sock) = &self.link
            && self.recv.is_none()
            && !self.closed
            && self.input.len() < INPUT_MAX
        {
            self.recv = Some(sock.recv(Expect::Later, Class::Stream));
        }
    }

    /// Waits for bytes and appends them to `input`. Returns how many came; 0 is the end.
    ///
    /// # Errors
    /// What recv(2) reported. A deadline that expired shows as the end, see `Socket::timed_out`.
    pub async fn fill(&mut self, expect: Expect) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx, expect)).await
    }

    /// Waits for bytes that follow `input` and hands them out. An empty chunk is the end.
    ///
    /// # Errors
    /// What recv(2) reported.
    pub async fn read(&mut self, expect: Expect) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_read(cx, expect)).await
    }

    /// As [`Client::read`].
    ///
    /// # Errors
    /// What recv(2) reported.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, expect: Expect) -> Poll<io::Result<Chunk>> {
        if self.tls.is_none() {
            return self.poll_receive(cx, expect);
        }
        let count = ready!(self.poll_fill(cx, expect))?;
        let before = self.input.len() - count;
        let plain = match before {
            0 => mem::take(&mut self.input),
            _ => self.input.split_off(before),
        };
        Poll::Ready(Ok(plain.into()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, expect: Expect) -> Poll<io::Result<usize>> {
        loop {
            let chunk = ready!(self.poll_receive(cx, expect))?;
            let before = self.input.len();
            self.take_in(&chunk);
            let more = self.input.len() - before;
            // Of a record that has not come whole there is nothing yet.
            if more > 0 || self.closed {
                return Poll::Ready(Ok(more));
            }
        }
    }

    /// What comes next on the socket.
    fn poll_receive(&mut self, cx: &mut Context<'_>, expect: Expect) -> Poll<io::Result<Chunk>> {
        if self.closed {
            return Poll::Ready(Ok(Chunk::empty()));
        }
        let sock = match &mut self.link {
            Link::Socket(sock) => sock,
            Link::Stream(stream) => {
                let data = ready!(stream.poll_data(cx))?;
                self.closed |= data.is_empty();
                return Poll::Ready(Ok(Chunk::copy_of(&data)));
            }
        };
        let recv = self
            .recv
            .get_or_insert_with(|| sock.recv(expect, Class::Stream));
        let result = ready!(Pin::new(recv).poll(cx));
        self.recv = None;
        if !matches!(&result, Ok(chunk) if !chunk.is_empty()) {
            self.closed = true;
        }
        Poll::Ready(result)
    }

    /// Appends to `input` what is in the bytes received.
    pub fn take_in(&mut self, received: &[u8]) {
        let Some(tls) = &mut self.tls else {
            self.input.extend_from_slice(received);
            return;
        };
        let opened = tls.open(received, &mut self.input);
        self.closed |= opened.is_err() || tls.is_closed();
        if tls.has_answer() {
            self.answer();
        }
    }

    /// Sends what TLS has to say by itself, if nothing else is being sent. Otherwise it leaves with
    /// the next records, or at the end.
    #[cold]
    fn answer(&mut self) {
        if !self.sent() {
            return;
        }
        if let Link::Socket(sock) = &self.link
            && let Some(wire) = self.tls.as_mut().and_then(|tls| tls.seal_answer())
        {
            self.sending = Sending::Bytes(sock.send(wire));
        }
    }

    /// Why its TLS cannot go on, if it cannot.
    pub fn broken(&self) -> Option<Broken> {
        self.tls.as_ref().and_then(|tls| tls.broken())
    }

    /// Polls for the end of the connection while something else is awaited. Data that arrives
    /// (a pipelined request) is kept in `input`. Ready when the client has gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Link::Stream(stream) = &mut self.link {
            return stream.poll_gone(cx);
        }
        loop {
            let Some(recv) = self.recv.as_mut() else {
                return if self.closed {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            };
            let result = match Pin::new(&mut *recv).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            };
            self.recv = None;
            match result {
                Ok(chunk) if !chunk.is_empty() => {
                    self.take_in(&chunk);
                    self.listen();
                }
                _ => self.closed = true,
            }
        }
    }

    /// An empty output buffer, once the send before is out of the way.
    ///
    /// # Errors
    /// The failure of that send.
    pub async fn take_out(&mut self) -> io::Result<Vec<u8>> {
        self.flush().await?;
        Ok(self.spare_out())
    }

    /// Sends `out` and waits until the kernel has taken all of it.
    ///
    /// # Errors
    /// What send(2) reported; the response is then truncated.
    pub async fn send(&mut self, out: Vec<u8>, timeout_ms: u64) -> io::Result<()> {
        self.flush().await?;
        self.start(out, timeout_ms);
        self.flush().await
    }

    /// Starts sending `out` without waiting. Nothing else may be in flight.
    pub fn start(&mut self, out: Vec<u8>, timeout_ms: u64) {
        debug_assert!(!self.is_sending());
        match &mut self.link {
            Link::Socket(sock) => sock.set_deadline(Some(clock::now_ms() + timeout_ms)),
            Link::Stream(stream) => return stream.start(out, timeout_ms),
        }
        self.start_bytes(out);
    }

    fn start_bytes(&mut self, out: Vec<u8>) {
        let wire = self.wire(out);
        if let Link::Socket(sock) = &self.link {
            self.sending = Sending::Bytes(sock.send(wire));
        }
    }

    /// What goes out for `out`: records in place of plain bytes, where there is TLS.
    fn wire(&mut self, out: Vec<u8>) -> Vec<u8> {
        let Some(tls) = &mut self.tls else {
            return out;
        };
        let wire = tls.seal(&out);
        if out.capacity() <= KEPT_BYTES_MAX {
            self.spare = out;
        }
        wire
    }

    /// Starts sending a chunk, without copying it and without waiting. Nothing else may be in
    /// flight.
    pub fn start_chunk(&mut self, chunk: Chunk, timeout_ms: u64) {
        debug_assert!(!self.is_sending());
        let sock = match &mut self.link {
            Link::Socket(sock) => sock,
            Link::Stream(stream) => return stream.start_chunk(chunk, timeout_ms),
        };
        sock.set_deadline(Some(clock::now_ms() + timeout_ms));
        self.sending = match &mut self.tls {
            None => Sending::Chunk(sock.send(chunk)),
            Some(tls) => Sending::Bytes(sock.send(tls.seal(&chunk))),
        };
    }

    /// Whether a send is in flight whose result was not taken.
    pub fn is_sending(&self) -> bool {
        match &self.link {
            Link::Socket(_) => !matches!(self.sending, Sending::None),
            Link::Stream(stream) => stream.is_sending(),
        }
    }

    /// Polls the send in flight; ready at once if there is none. The deadline that the send had
    /// is gone when it is done.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_sending() {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_sending(cx));
        self.set_deadline(None);
        Poll::Ready(result)
    }

    /// Polls the send in flight, and keeps its buffer when it is done.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Link::Stream(stream) = &mut self.link {
            return stream.poll_sent(cx);
        }
        let result = match &mut self.sending {
            Sending::None => return Poll::Ready(Ok(())),
            Sending::Bytes(send) => {
                let (result, buffer) = ready!(Pin::new(send).poll(cx));
                self.keep_sent(buffer);
                result
            }
            Sending::Chunk(send) => ready!(Pin::new(send).poll(cx)).0,
        };
        self.sending = Sending::None;
        Poll::Ready(result.map(drop))
    }

    /// Sends the head of a response, where it goes apart from the body and has not gone yet.
    #[inline]
    pub fn send_head(&mut self) {
        if let Link::Stream(stream) = &mut self.link {
            stream.send_head();
        }
    }

    /// Ends a stream of which everything is sent.
    pub fn end_response(&mut self) {
        if let Link::Stream(stream) = &mut self.link {
            stream.send_last(Vec::new(), None);
        }
    }

    /// Whether it is known that the body of the request has come to its end.
    pub fn has_ended(&self) -> bool {
        matches!(&self.link, Link::Stream(stream) if stream.has_ended())
    }

    /// What came behind the body of the request.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.stream_mut()?.take_trailers()
    }

    /// The buffer kept for the next output, if it is not in use. Never waits.
    pub fn spare_out(&mut self) -> Vec<u8> {
        if let Link::Stream(stream) = &self.link {
            return stream.spare();
        }
        let mut out = mem::take(&mut self.spare);
        out.clear();
        out
    }

    /// Starts sending `out`, the last of a response, without waiting: the send is done long
    /// before the client's next request has come, so waiting would only wake the task twice.
    pub fn send_last(&mut self, out: Vec<u8>) {
        debug_assert!(!self.is_sending());
        self.start_bytes(out);
    }

    /// Waits for the send in flight, if there is one, and takes its buffer back.
    ///
    /// # Errors
    /// What send(2) reported.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_sending(cx)).await
    }

    /// Whether nothing is left to send; takes the buffer back if so.
    pub fn sent(&mut self) -> bool {
        if let Link::Stream(stream) = &mut self.link {
            return stream.take_sent();
        }
        let buffer = match &mut self.sending {
            Sending::None => return true,
            Sending::Bytes(send) => send.try_take().map(|(_, buffer)| buffer),
            Sending::Chunk(send) => send.try_take().map(|_| Vec::new()),
        };
        let Some(buffer) = buffer else {
            return false;
        };
        if matches!(self.sending, Sending::Bytes(_)) {
            self.keep_sent(buffer);
        }
        self.sending = Sending::None;
        true
    }

    /// Keeps a buffer for the next output, unless a large response has blown it up.
    fn keep(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BYTES_MAX {
            self.spare = buffer;
        }
    }

    /// Keeps the buffer of a send that is done.
    fn keep_sent(&mut self, buffer: Vec<u8>) {
        match &mut self.tls {
            None => self.keep(buffer),
            Some(tls) => tls.keep(buffer),
        }
    }

    /// What a tunnel needs that goes on without this type.
    pub fn take_ends(&mut self) -> Option<Ends<'_>> {
        match &self.link {
            Link::Socket(sock) => Some(Ends {
                recv: self.recv.take(),
                early: mem::take(&mut self.input),
                tls: self.tls.take(),
                sock,
            }),
            Link::Stream(_) => None,
        }
    }

    /// Tells the client that nothing more will come, where TLS has a word for it. What is being
    /// sent comes first.
    pub async fn say_end(&mut self) {
        if self.tls.is_some() {
            // Its own future: a connection without TLS has no place for it.
            Box::pin(self.end_tls()).await;
        }
    }

    async fn end_tls(&mut self) {
        if self.flush().await.is_err() {
            return;
        }
        let Some(mut tls) = self.tls.take() else {
            return;
        };
        self.set_deadline(Some(clock::now_ms() + END_TIMEOUT_MS));
        let wire = match tls.broken() {
            None => tls.seal_close(),
            Some(_) => tls.seal_answer().unwrap_or_default(),
        };
        if let Link::Socket(sock) = &self.link
            && !wire.is_empty()
        {
            let _ = sock.send(wire).await;
        }
    }

    /// Keeps the buffer of a request that has gone to an upstream for the next one.
    pub fn keep_upstream_out(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BYTES_MAX {
            self.upstream_out = buffer;
        }
    }

    /// Forgets what is left of an exchange, for the next one over another stream.
    pub fn forget(&mut self) {
        self.input.clear();
        self.closed = false;
    }

    /// Gives back an output buffer that was not sent.
    pub fn put_out(&mut self, out: Vec<u8>) {
        match &self.link {
            Link::Socket(_) => self.keep(out),
            Link::Stream(stream) => stream.keep_spare(out),
        }
    }
}
