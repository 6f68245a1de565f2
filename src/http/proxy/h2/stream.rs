//! One request on a connection: its stream, from the head that was sent to the end of the answer.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response};

use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::ring::Chunk;

use super::pool::Place;
use super::timer::{Timer, Wait};
use super::upload::{self, Upload};

/// Bytes of a body that are handed on at once.
const PIECE_MAX: usize = 32 << 10;

/// A stream. Dropped before both sides have ended, it is reset.
pub struct Stream {
    timer: Rc<Timer>,
    response: ResponseFuture,
    send: SendStream<Bytes>,
    body: Option<RecvStream>,
    upload: Upload,
    trailers: Option<HeaderMap>,
    /// The answer has come to its end.
    has_ended: bool,
    /// An error behind bytes that are to be handed on first.
    error: Option<h2::Error>,
    /// Bytes that the connection had received when this began.
    heard: u64,
    place: Place,
}

impl Stream {
    /// The stream of a request whose head was handed to `h2`.
    pub fn new(place: Place, sent: (ResponseFuture, SendStream<Bytes>), upload: Upload) -> Self {
        let (response, send) = sent;
        Stream {
            timer: place.connection().timer(),
            response,
            send,
            body: None,
            upload,
            trailers: None,
            has_ended: false,
            error: None,
            heard: place.connection().heard(),
            place,
        }
    }

    /// Sets the moment, in monotonic milliseconds, at which waiting for the answer ends.
    pub fn set_deadline(&self, at_ms: Option<u64>) {
        self.timer.set(Wait::Read, at_ms);
    }

    /// Whether that has come to pass.
    pub fn timed_out(&self) -> bool {
        self.timer.has_fired(Wait::Read)
    }

    /// Nothing came although it should have: where nothing else did either, the connection is
    /// thought to be dead and gets no more streams.
    pub fn distrust(&self) {
        if self.place.connection().heard() == self.heard {
            self.place.connection().leave();
        }
    }

    /// Whether all of the answer was read.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The fields behind the body, once.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// The body of the request.
    pub fn upload(&mut self) -> &mut Upload {
        &mut self.upload
    }

    /// Whether the server has said how it wants to be spoken to.
    pub fn may_send(&self) -> bool {
        self.place.connection().has_settled()
    }

    /// Goes on sending the body. Ready when all is sent.
    ///
    /// Nothing is sent before the server has said how large its windows are: what is beyond them
    /// then may be more than it keeps account of.
    pub fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        ex: &mut Exchange,
        client: &mut Client,
    ) -> Poll<Result<(), upload::Stuck>> {
        if !self.upload.is_done() && !self.may_send() {
            self.timer.register(cx);
            return Poll::Pending;
        }
        let (timer, to) = (&self.timer, &mut self.send);
        self.upload.poll(cx, ex, client, timer, to)
    }

    /// Waits for an informational answer; pending for good when there will be none.
    pub fn poll_informational(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, h2::Error>> {
        match ready!(self.response.poll_informational(cx)) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }

    /// Waits for the head of the answer; `None` when the deadline has passed.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(u16, HeaderMap), h2::Error>>> {
        if self.timed_out() {
            return Poll::Ready(None);
        }
        let Poll::Ready(result) = Pin::new(&mut self.response).poll(cx) else {
            self.timer.register(cx);
            return Poll::Pending;
        };
        Poll::Ready(Some(result.map(|response| {
            let (head, body) = response.into_parts();
            self.has_ended = body.is_end_stream();
            self.body = Some(body);
            (head.status.as_u16(), head.headers)
        })))
    }

    /// Appends to `to` what of the body has come.
    pub fn take_ready(&mut self, cx: &mut Context<'_>, to: &mut Vec<u8>) {
        let Some(body) = self.body.as_mut().filter(|_| !self.has_ended) else {
            return;
        };
        let most = to.len() + PIECE_MAX;
        let ended = loop {
            match body.poll_data(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(data))) => {
                    // Refused only where the stream has ended, when nobody needs it.
                    let _ = body.flow_control().release_capacity(data.len());
                    to.extend_from_slice(&data);
                    if to.len() >= most {
                        return;
                    }
                }
                Poll::Ready(Some(Err(error))) => break Err(error),
                Poll::Ready(None) => match body.poll_trailers(cx) {
                    Poll::Pending => return,
                    Poll::Ready(result) => break result,
                },
            }
        };
        match ended {
            Ok(trailers) => {
                self.trailers = trailers;
                self.has_ended = true;
            }
            // The answer is complete, and the rest of the request not wanted (RFC 9113, 8.1).
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => self.has_ended = true,
            Err(error) => self.error = Some(error),
        }
    }

    /// Waits for the next bytes of the body, and takes all that are there. An empty chunk is the
    /// end, or says that the deadline has passed.
    ///
    /// # Errors
    /// [`Broken`]
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        if self.timed_out() {
            return Poll::Ready(Ok(Chunk::empty()));
        }
        let mut ready = Vec::new();
        if self.error.is_none() {
            self.take_ready(cx, &mut ready);
        }
        if ready.is_empty() {
            if let Some(error) = self.error.take() {
                return Poll::Ready(Err(io::Error::other(Broken::of(&error))));
            }
            if !self.has_ended {
                self.timer.register(cx);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(ready.into()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.place.connection().give_back(&self.timer);
    }
}

/// What ended a stream before its time, in nginx's words.
#[derive(Debug, thiserror::Error)]
#[error("upstream {0}")]
pub struct Broken(pub String);

impl Broken {
    /// The words for what `h2` says.
    pub fn of(error: &h2::Error) -> Self {
        let reason = error.reason().map_or(0, u32::from);
        Broken(match error {
            e if e.is_remote() && e.is_go_away() => format!("sent goaway with error {reason}"),
            e if e.is_remote() => format!("rejected request with error {reason}"),
            e if e.is_io() => "prematurely closed connection".into(),
            e => format!("sent invalid http2 frame: {e}"),
        })
    }
}

/// Whether the server says that it has not looked at the request (RFC 9113, 8.7).
pub fn is_refusal(error: &h2::Error) -> bool {
    let is_refused = error.reason() == Some(Reason::REFUSED_STREAM) && !error.is_library();
    is_refused || (error.is_go_away() && error.is_remote())
}
