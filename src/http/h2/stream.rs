//! One stream of a connection, as the client of an exchange.
//!
//! The head waits here until the first bytes of the body leave, or the end, so that a response
//! without a body is one frame. What is sent goes to `h2` as far as the windows and its bounded
//! buffer let it; the rest waits here, and whoever sends waits with it.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode};

use crate::base::clock;
use crate::ring::Chunk;

use super::piece::{Piece, Spares};
use super::timers::Timer;

/// A stream, or the place of one between two.
pub struct Stream {
    side: Side,
    recv: Option<RecvStream>,
    /// Bytes that `h2` has no room for yet.
    pending: Piece,
    /// Something was started whose result was not taken.
    is_sending: bool,
    /// `http2_chunk_size`
    frame_max: usize,
    timer: Rc<Timer>,
    spares: Spares,
}

/// What we may send.
enum Side {
    /// Nothing: the response is complete, or there is no request.
    None,
    /// The head, which may be there already.
    Head(SendResponse<Piece>, Option<Box<Response<()>>>),
    /// The body.
    Body(SendStream<Piece>),
}

impl Stream {
    /// The place for streams, one after the other.
    pub fn new(timer: Rc<Timer>, spares: Spares) -> Box<Stream> {
        Box::new(Stream {
            side: Side::None,
            recv: None,
            pending: Piece::EMPTY,
            is_sending: false,
            frame_max: 16 << 10,
            timer,
            spares,
        })
    }

    /// Begins to serve a stream.
    pub fn begin(&mut self, respond: SendResponse<Piece>, recv: RecvStream) {
        self.side = Side::Head(respond, None);
        self.recv = Some(recv);
        self.timer.reset();
    }

    /// Ends it. What the client sends on is not wanted; a response that is not complete is cut off
    /// with `reason`.
    pub fn finish(&mut self, reason: Reason) {
        match std::mem::replace(&mut self.side, Side::None) {
            Side::None => {}
            Side::Head(mut respond, _) => respond.send_reset(reason),
            Side::Body(mut send) => send.send_reset(reason),
        }
        self.pending = Piece::EMPTY;
        self.is_sending = false;
        self.recv = None;
        self.timer.reset();
    }

    /// The head that is to leave first.
    pub fn set_head(&mut self, status: u16, fields: HeaderMap, frame_max: usize) {
        let mut response = Response::new(());
        // `return 0` is nginx's too, and no status that HTTP/2 could show.
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        self.frame_max = frame_max;
        if let Side::Head(_, head) = &mut self.side {
            *head = Some(Box::new(response));
        }
    }

    /// Sends the head, if one waits.
    pub fn send_head(&mut self) {
        if let Side::Head(respond, head) = &mut self.side
            && let Some(head) = head.take()
        {
            self.side = match respond.send_response(*head, false) {
                Ok(send) => Side::Body(send),
                Err(_) => Side::None,
            };
        }
    }

    /// An interim answer.
    ///
    /// # Errors
    /// The stream is over.
    pub fn send_interim(&mut self, status: StatusCode, fields: HeaderMap) -> io::Result<()> {
        let Side::Head(respond, _) = &mut self.side else {
            return Ok(());
        };
        let mut interim = Response::new(());
        *interim.status_mut() = status;
        *interim.headers_mut() = fields;
        respond
            .send_informational(interim)
            .map_err(io::Error::other)
    }

    /// A buffer for output.
    pub fn spare(&self) -> Vec<u8> {
        self.spares.take()
    }

    /// Takes one back that was not sent.
    pub fn keep_spare(&self, out: Vec<u8>) {
        self.spares.keep(out);
    }

    /// From `at_ms` on the client is late.
    pub fn set_deadline(&self, at_ms: Option<u64>) {
        self.timer.set(at_ms);
    }

    /// Whether a deadline has passed.
    pub fn timed_out(&self) -> bool {
        self.timer.has_fired()
    }

    /// Starts sending `out`, which goes back to the connection's spare buffers.
    pub fn start(&mut self, out: Vec<u8>, timeout_ms: u64) {
        let piece = Piece::Own(out, 0, self.spares.clone());
        self.start_piece(piece, timeout_ms);
    }

    /// As [`Stream::start`].
    pub fn start_chunk(&mut self, chunk: Chunk, timeout_ms: u64) {
        self.start_piece(Piece::Leased(chunk), timeout_ms);
    }

    fn start_piece(&mut self, piece: Piece, timeout_ms: u64) {
        debug_assert!(!self.is_sending);
        self.send_head();
        self.pending = piece;
        self.is_sending = true;
        self.feed();
        if self.pending.has_remaining() {
            self.timer.set(Some(clock::now_ms() + timeout_ms));
        }
    }

    /// Whether something was started whose result was not taken.
    pub fn is_sending(&self) -> bool {
        self.is_sending
    }

    /// Whether `h2` has taken what was started; takes the result if so.
    pub fn take_sent(&mut self) -> bool {
        self.feed();
        self.is_sending &= self.pending.has_remaining();
        !self.is_sending
    }

    /// Gives `h2` what it has room for.
    fn feed(&mut self) {
        let Side::Body(send) = &mut self.side else {
            return;
        };
        if self.pending.has_remaining() && send.capacity() == 0 {
            send.reserve_capacity(self.pending.remaining());
        }
        while self.pending.has_remaining() {
            let room = send.capacity().min(self.frame_max);
            if room == 0 || send.send_data(self.pending.split_to(room), false).is_err() {
                return;
            }
        }
    }

    /// Ready when `h2` has taken what was started.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_sending {
            return Poll::Ready(Ok(()));
        }
        loop {
            self.feed();
            if !self.pending.has_remaining() {
                self.is_sending = false;
                self.timer.set(None);
                return Poll::Ready(Ok(()));
            }
            if self.timer.has_fired() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.watch(cx);
            let Side::Body(send) = &mut self.side else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            send.reserve_capacity(self.pending.remaining());
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    /// Sends `out`, the last of the response, and its end. `h2` keeps what the windows do not let
    /// through, so this is for little; nothing may wait here.
    pub fn send_last(&mut self, out: Vec<u8>, trailers: Option<HeaderMap>) {
        debug_assert!(!self.is_sending);
        if let Side::Head(respond, head) = &mut self.side
            && out.is_empty()
            && trailers.is_none()
        {
            if let Some(head) = head.take() {
                let _ = respond.send_response(*head, true);
            }
            self.side = Side::None;
            return;
        }
        self.send_head();
        let Side::Body(send) = &mut self.side else {
            return;
        };
        let is_last = trailers.is_none();
        if is_last || !out.is_empty() {
            // An error means that the stream is gone, and nobody waits for this.
            let _ = send.send_data(Piece::Own(out, 0, self.spares.clone()), is_last);
        }
        if let Some(trailers) = trailers {
            let _ = send.send_trailers(trailers);
        }
        self.side = Side::None;
    }

    /// The next bytes of the request's body; none at its end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let Some(recv) = &mut self.recv else {
            return Poll::Ready(Ok(Bytes::new()));
        };
        loop {
            if self.timer.has_fired() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.watch(cx);
            match ready!(recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(Bytes::new())),
                Some(Err(_)) => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Some(Ok(data)) => {
                    // More than is out cannot be given back.
                    let _ = recv.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        return Poll::Ready(Ok(data));
                    }
                }
            }
        }
    }

    /// Whether the request's body has been read to its end.
    pub fn has_ended(&self) -> bool {
        self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// The fields behind the request's body, which has been read.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.recv.as_mut()?.poll_trailers(&mut cx) {
            Poll::Ready(Ok(trailers)) => trailers,
            _ => None,
        }
    }

    /// Ready when nobody waits for a response any more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.has_fired() {
            return Poll::Ready(());
        }
        self.timer.watch(cx);
        match &mut self.side {
            Side::None => Poll::Pending,
            Side::Head(respond, _) => respond.poll_reset(cx).map(drop),
            Side::Body(send) => send.poll_reset(cx).map(drop),
        }
    }
}
