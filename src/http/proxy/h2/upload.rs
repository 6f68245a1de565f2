//! A request's body on its way to the server, while the answer may already be coming.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use crate::base::clock;
use crate::http::body::{self, BodyError, RequestBody};
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::ring::File;

use super::timer::{Timer, Wait};

/// Bytes of a body in memory or in a file that are handed to `h2` at once.
const PIECE: usize = 32 << 10;

/// So many bytes are handed to `h2` whatever the server has room for: it keeps them.
const FIRST_MAX: usize = 16 << 10;

/// Bytes of a body passed on while it arrives which are kept until the server has answered, so
/// that a stream which the server did not even look at can be repeated.
const KEPT_MAX: usize = 64 << 10;

/// Why an upload cannot go on.
pub enum Stuck {
    /// The client's part failed, or a file.
    Client(BodyError),
    /// The server has not taken anything for too long.
    TimedOut,
}

/// A read from a file under way.
type Reading = Pin<Box<dyn Future<Output = (io::Result<usize>, Vec<u8>)>>>;

/// Where the bytes come from.
enum Source {
    /// `ex.request.body`, which is in memory, from this byte on.
    Memory(usize),
    /// `ex.request.body`, which is in a file, from this byte on.
    File(u64, Option<Reading>),
    /// The client.
    Client,
    /// There are no more.
    Nowhere,
}

/// What it waits for, if it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocked {
    No,
    ByServer,
    ByClient,
}

/// The body of one request.
pub struct Upload {
    source: Source,
    /// To be sent next.
    piece: Bytes,
    /// Nothing comes after `piece`.
    is_last: bool,
    /// What comes behind the last piece.
    trailers: Option<HeaderMap>,
    blocked: Blocked,
    /// Bytes handed to `h2`.
    sent: u64,
    /// What a client has sent so far; `None` where that is too much or in `ex` anyway.
    kept: Option<Vec<u8>>,
    is_done: bool,
}

impl Upload {
    /// No body.
    pub fn none() -> Self {
        Upload {
            source: Source::Nowhere,
            piece: Bytes::new(),
            is_last: true,
            trailers: None,
            blocked: Blocked::No,
            sent: 0,
            kept: None,
            is_done: true,
        }
    }

    /// A body of this text.
    pub fn text(text: Vec<u8>) -> Self {
        Upload {
            is_done: text.is_empty(),
            piece: text.into(),
            ..Upload::none()
        }
    }

    /// The body of `ex`. What a server has been sent of it that did not look at it comes first.
    pub fn of(ex: &mut Exchange) -> Self {
        let again = mem::take(&mut ex.request.refused);
        let source = match &ex.request.body {
            RequestBody::Memory(bytes) if bytes.is_empty() => Source::Nowhere,
            RequestBody::Memory(_) => Source::Memory(0),
            RequestBody::File { .. } => Source::File(0, None),
            body if body.is_unread() => Source::Client,
            _ => Source::Nowhere,
        };
        let is_last = matches!(source, Source::Nowhere);
        let is_streamed = matches!(source, Source::Client) || !again.is_empty();
        Upload {
            piece: Bytes::copy_from_slice(&again),
            is_done: is_last && again.is_empty(),
            is_last,
            kept: is_streamed.then_some(again),
            source,
            ..Upload::none()
        }
    }

    /// Whether all of it was handed to `h2`; at first: whether there is none.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether the client still has some of it.
    pub fn is_streamed(&self) -> bool {
        !self.is_last && matches!(self.source, Source::Client)
    }

    /// The answer has begun: nothing will be repeated.
    pub fn forget(&mut self) {
        self.kept = None;
    }

    /// The server has not looked at the request: gives back to `ex` what it was sent. False if
    /// that is not there any more.
    pub fn take_back(&mut self, ex: &mut Exchange) -> bool {
        let had_all = match self.source {
            Source::Memory(_) | Source::File(..) => true,
            Source::Nowhere => self.kept.is_none(),
            Source::Client => false,
        };
        match self.kept.take() {
            Some(kept) => ex.request.refused = kept,
            None => return had_all,
        }
        true
    }

    /// Sends what there is and what there is room for. Ready when all is sent, or the server
    /// wants no more.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        ex: &mut Exchange,
        client: &mut Client,
        timer: &Timer,
        to: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Stuck>> {
        while !self.is_done {
            if timer.has_fired(Wait::Upload) {
                return Poll::Ready(Err(self.late()));
            }
            if self.piece.is_empty() && !self.is_last {
                match self.poll_next(cx, ex, client) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Stuck::Client(error))),
                    Poll::Pending => {
                        let location = ex.generation.location(ex.location);
                        let timeout_ms = location.core.client_body_timeout_ms;
                        self.wait(cx, timer, Blocked::ByClient, timeout_ms);
                        return Poll::Pending;
                    }
                }
            }
            let before = self.sent;
            let has_sent = self.poll_send(cx, to);
            if let Some(state) = ex.upstream.last_mut() {
                state.bytes_sent += self.sent - before;
            }
            if has_sent.is_pending() {
                let location = ex.generation.location(ex.location);
                let timeout_ms = location.proxy.send_timeout_ms;
                self.wait(cx, timer, Blocked::ByServer, timeout_ms);
                return Poll::Pending;
            }
            if mem::replace(&mut self.blocked, Blocked::No) != Blocked::No {
                timer.set(Wait::Upload, None);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Finds the next piece, and whether it is the last.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        ex: &mut Exchange,
        client: &mut Client,
    ) -> Poll<Result<(), BodyError>> {
        match (&mut self.source, &ex.request.body) {
            (Source::Memory(at), RequestBody::Memory(bytes)) => {
                let end = bytes.len().min(*at + PIECE);
                self.piece = Bytes::copy_from_slice(&bytes[*at..end]);
                *at = end;
                self.is_last = end == bytes.len();
            }
            (Source::File(at, reading), RequestBody::File { file, length }) => {
                let piece = ready!(poll_file(cx, file, *at, reading))?;
                *at += piece.len() as u64;
                self.is_last = *at >= *length;
                self.piece = piece.into();
            }
            (Source::Client, _) => {
                let piece = ready!(body::poll_piece(cx, ex, client))?;
                self.is_last = piece.is_none() || body::has_ended(ex, client);
                if self.is_last {
                    self.trailers = client.take_trailers();
                }
                if let Some(piece) = piece {
                    self.keep(&piece);
                    self.piece = Bytes::copy_from_slice(&piece);
                }
            }
            _ => self.is_last = true,
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, piece: &[u8]) {
        if let Some(kept) = &mut self.kept {
            if kept.len() + piece.len() <= KEPT_MAX {
                kept.extend_from_slice(piece);
            } else {
                self.kept = None;
            }
        }
    }

    /// Sends the piece at hand. Pending where there is no room for all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>, to: &mut SendStream<Bytes>) -> Poll<()> {
        let may_go_at_once = self.sent == 0 && self.piece.len() <= FIRST_MAX;
        while !may_go_at_once && !self.piece.is_empty() {
            to.reserve_capacity(self.piece.len());
            let room = to.capacity().min(self.piece.len());
            if room == 0 {
                match ready!(to.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    // Why it wants no more comes where the answer would.
                    Some(Err(_)) | None => {
                        self.is_done = true;
                        return Poll::Ready(());
                    }
                }
            }
            let is_end = self.is_last && room == self.piece.len();
            let data = self.piece.split_to(room);
            self.send(to, data, is_end);
        }
        if may_go_at_once || (self.is_last && !self.is_done) {
            let data = mem::take(&mut self.piece);
            self.send(to, data, self.is_last);
        }
        Poll::Ready(())
    }

    fn send(&mut self, to: &mut SendStream<Bytes>, data: Bytes, is_end: bool) {
        self.sent += data.len() as u64;
        let trailers = self.trailers.take_if(|_| is_end);
        let sent = match trailers {
            None => to.send_data(data, is_end),
            Some(trailers) if data.is_empty() => to.send_trailers(trailers),
            Some(trailers) => {
                let sent = to.send_data(data, false);
                sent.and_then(|()| to.send_trailers(trailers))
            }
        };
        self.is_done = is_end || sent.is_err();
    }

    /// Waits, for `timeout_ms` at most unless it has been waiting for the same before.
    fn wait(&mut self, cx: &Context<'_>, timer: &Timer, blocked: Blocked, timeout_ms: u64) {
        if self.blocked != blocked {
            self.blocked = blocked;
            timer.set(Wait::Upload, Some(clock::now_ms() + timeout_ms));
        }
        timer.register(cx);
    }

    fn late(&self) -> Stuck {
        match self.blocked {
            Blocked::ByClient => Stuck::Client(BodyError::TimedOut),
            _ => Stuck::TimedOut,
        }
    }
}

/// Reads on in a file.
fn poll_file(
    cx: &mut Context<'_>,
    file: &File,
    at: u64,
    reading: &mut Option<Reading>,
) -> Poll<Result<Vec<u8>, BodyError>> {
    let reading_now =
        reading.get_or_insert_with(|| Box::pin(file.read_at(Vec::with_capacity(PIECE), at)));
    let (result, bytes) = ready!(reading_now.as_mut().poll(cx));
    *reading = None;
    Poll::Ready(match result {
        Ok(count) if count > 0 => Ok(bytes),
        Ok(_) => Err(BodyError::File(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(BodyError::File(error)),
    })
}
