//! The response's body on its way from the peer to the client.
//!
//! What is small leaves with the head in one send. What is large, of known length and passes no
//! filter is spliced and never seen. Everything else is sent as it is read, and so is what is
//! spliced once its client stalls. What a slow client does not take waits within the limits of
//! [`buffer`](super::buffer), and the upstream's connection is free as soon as its answer is read.

use std::io;
use std::sync::Arc;

use http::HeaderMap;

use crate::base::clock;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::h1::chunked::{Decoder, Step};
use crate::http::h1::framing::{self, Framing};
use crate::http::h2::fields;
use crate::http::phases::Finish;
use crate::http::rate;
use crate::http::respond::{self, Output};
use crate::http::token::Token;
use crate::observe::{Level, os_error};
use crate::ring::{self, Chunk, Class, Side, SpliceLimits, Spliced, Stalled};
use crate::upstream::Group;

use super::attempt::{self, Answer};
use super::buffer::{Ahead, Event, Stuck};
use super::carrier::Carrier;
use super::conf::Conf;
use super::h2::upload;

/// Bodies with at least this much left after the first read are spliced. Measured: below it the
/// two extra system calls cost more than the copies.
const SPLICE_MIN: u64 = 32 << 10;
/// How long a client must have no room for spliced bytes before they are read ahead of it. One
/// that reads at all makes room much sooner than this.
const STALL_MS: u64 = 100;
/// Bytes that are taken out of a pipe at once.
const PIPE_PIECE: usize = 32 << 10;

/// How a body ended.
enum End {
    /// As its framing announced.
    Complete,
    /// The peer broke off.
    Broken,
    /// The client went away.
    ClientGone,
    /// The temporary file failed.
    Failed,
    /// The request's body, which was still on its way, cannot go on.
    Upload(upload::Stuck),
}

impl From<Stuck> for End {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::ClientGone => End::ClientGone,
            Stuck::File => End::Failed,
            Stuck::Upload(stuck) => End::Upload(stuck),
        }
    }
}

/// What of a response is still to be sent when the upstream is done with.
pub struct Rest<'c> {
    output: Output,
    ahead: Ahead<'c>,
    complete: bool,
}

impl Rest<'_> {
    /// Sends it, and the end of the body.
    pub async fn send(mut self, ex: &mut Exchange, client: &mut Client) -> Finish {
        if self.complete {
            ex.doing = "sending to client";
        }
        match self.ahead.drain(ex, client, &mut self.output).await {
            Ok(()) => self.output.finish(ex, client, self.complete).await,
            Err(stuck) => cut(ex, client, &mut self.output, &mut self.ahead, &stuck.into()),
        }
    }
}

/// Sends `ex.response` with its body, as far as it is not left to the [`Rest`], then keeps or
/// closes the peer's connection, which leaves nothing in `slot`.
///
/// # Errors
/// The response ended here.
pub async fn run<'c>(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &'c Conf,
    slot: &mut Option<Answer>,
    group: &Arc<Group>,
) -> Result<Rest<'c>, Finish> {
    let Some(answer) = slot else {
        return Err(Finish::Truncated);
    };
    ex.doing = "reading upstream";
    ex.response.content_length = announced_length(ex, answer.framing);
    let Ok(mut output) = Output::start(ex, client).await else {
        return Err(Finish::Truncated);
    };
    let body = answer.rest.clone();
    let mut source = Source {
        conf,
        answer,
        rate: rate::Limit::of_upstream(ex, conf),
        ahead: Ahead::new(ex, conf),
    };
    let end = source.relay(ex, client, &mut output, body).await;
    let mut ahead = source.ahead;
    match end {
        End::Complete => give_back(ex, client, slot, group, false),
        End::Broken => *slot = None,
        End::Upload(upload::Stuck::TimedOut) => {
            attempt::log_io(ex, "", &io::ErrorKind::TimedOut.into(), Level::Error);
            *slot = None;
        }
        End::ClientGone | End::Failed | End::Upload(_) => {
            return Err(cut(ex, client, &mut output, &mut ahead, &end));
        }
    }
    Ok(Rest {
        output,
        ahead,
        complete: matches!(end, End::Complete),
    })
}

/// Ends a response of which no more can be sent.
fn cut(
    ex: &mut Exchange,
    client: &Client,
    output: &mut Output,
    ahead: &mut Ahead<'_>,
    end: &End,
) -> Finish {
    ahead.forget(ex, output);
    match end {
        End::ClientGone => {
            ex.doing = "sending to client";
            respond::log_client_gone(ex, client);
        }
        End::Upload(upload::Stuck::Client(error)) => super::log_body_error(ex, client, error),
        _ => {}
    }
    ex.keepalive = false;
    Finish::Truncated
}

/// The length to announce: that of the body, or what the peer announced for one it does not send.
fn announced_length(ex: &Exchange, framing: Framing) -> Option<u64> {
    match framing {
        Framing::Length(length) => Some(length),
        Framing::None => framing::parse_length(ex.response.upstream_field(Token::ContentLength)?),
        Framing::Chunked | Framing::Close => None,
    }
}

/// Puts the connection back among the idle ones, if it may serve again. `unread`: the body was
/// not taken.
pub fn give_back(
    ex: &mut Exchange,
    client: &mut Client,
    slot: &mut Option<Answer>,
    group: &Arc<Group>,
    unread: bool,
) {
    let Some(answer) = slot.take() else { return };
    // A stream is gone with this; its connection goes on.
    let Carrier::Connection(mut kept) = answer.carrier else {
        return;
    };
    let Answer {
        framing,
        rest,
        keepalive,
        ..
    } = answer;
    if let Some(buffer) = kept.conn.take_sent() {
        client.keep_upstream_out(buffer);
    }
    let left = rest.len() as u64;
    let whole = match framing {
        _ if !unread => true,
        Framing::None => left == 0,
        Framing::Length(length) => length == left,
        Framing::Chunked | Framing::Close => false,
    };
    if !keepalive || !whole || !kept.conn.may_rest() {
        return;
    }
    kept.conn.rest();
    let now = clock::now_ms();
    ex.local
        .idle
        .borrow_mut()
        .checkin(kept, group.id(), group.keepalive(), now);
}

/// The peer's side of a body.
struct Source<'a, 'c> {
    conf: &'c Conf,
    answer: &'a mut Answer,
    rate: Option<rate::Limit>,
    ahead: Ahead<'c>,
}

impl Source<'_, '_> {
    async fn relay(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        first: std::ops::Range<usize>,
    ) -> End {
        if matches!(self.answer.carrier, Carrier::Stream(_)) {
            return self.stream(ex, client, output, first).await;
        }
        match self.answer.framing {
            Framing::None => {
                // Bytes behind a response without a body belong to nobody.
                self.answer.keepalive &= first.is_empty();
                End::Complete
            }
            Framing::Length(length) => self.length(ex, client, output, first, length).await,
            Framing::Chunked => self.chunked(ex, client, output, first).await,
            Framing::Close => self.close(ex, client, output, first).await,
        }
    }

    async fn length(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        first: std::ops::Range<usize>,
        length: u64,
    ) -> End {
        let n = (first.len() as u64).min(length) as usize;
        self.answer.keepalive &= n == first.len();
        output.push_stored(ex, first.start..first.start + n);
        count(ex, n as u64);
        let mut left = length - n as u64;
        let mut may_splice = self.rate.is_none()
            && output.is_plain()
            && client.direct().is_some()
            && self.answer.carrier.direct().is_some();
        while left > 0 {
            if may_splice && left >= SPLICE_MIN {
                let is_quiet = self.answer.carrier.is_quiet();
                if !is_quiet || !self.ahead.is_untouched() {
                    // A stream of receives ran ahead. It ends with the next read, and is to leave
                    // nothing that a splice would overtake. (Boxed: it is rare, and large.)
                    let caught_up = self.ahead.catch_up(ex, client, output, STALL_MS);
                    match Box::pin(caught_up).await {
                        Ok(caught_up) => may_splice = caught_up,
                        Err(stuck) => return stuck.into(),
                    }
                }
                if may_splice && is_quiet {
                    match self.splice(ex, client, output, left).await {
                        Ok(unspliced) => left = unspliced,
                        Err(end) => return end,
                    }
                    may_splice = false;
                    continue;
                }
            }
            let mut chunk = match self.read(ex, client, output).await {
                Ok(chunk) => chunk,
                Err(end) => return end,
            };
            if chunk.len() as u64 > left {
                chunk.truncate(left as usize);
                self.answer.keepalive = false;
            }
            left -= chunk.len() as u64;
            count(ex, chunk.len() as u64);
            if let Err(stuck) = self.pass(ex, client, output, chunk).await {
                return stuck.into();
            }
        }
        End::Complete
    }

    /// Moves the rest of the body without looking at it. Returns how much of it is still to be
    /// read: more than nothing only if the client stalled.
    async fn splice(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        left: u64,
    ) -> Result<u64, End> {
        if output.flush(client).await.is_err() {
            return Err(End::ClientGone);
        }
        let limits = SpliceLimits {
            read_timeout_ms: self.conf.read_timeout_ms,
            write_timeout_ms: output.send_timeout_ms(),
            stall_ms: self.ahead.has_file().then_some(STALL_MS),
        };
        let carrier = &self.answer.carrier;
        let (Some(from), Some(to)) = (carrier.direct(), client.direct()) else {
            return Ok(left);
        };
        let result = ring::splice_body(from, to, left, limits, |_| ()).await;
        let (moved, end) = match result {
            Ok(Spliced {
                moved,
                stalled: Some(stalled),
            }) => {
                output.passed(ex, moved);
                received(ex, moved + stalled.len());
                let left = left - moved - stalled.len();
                self.take_stalled(ex, client, output, stalled).await?;
                return Ok(left);
            }
            Ok(Spliced { moved, .. }) if moved == left => (moved, None),
            Ok(Spliced { moved, .. }) => {
                attempt::read_failed(ex, carrier.timed_out(), None, Level::Error);
                (moved, Some(End::Broken))
            }
            Err(error) if error.side == Side::Read => {
                attempt::log_io(ex, "splice()", &error.error, Level::Error);
                (error.moved, Some(End::Broken))
            }
            Err(error) => {
                let shown = os_error(&error.error);
                ex.log(
                    Level::Info,
                    format_args!("splice() failed {shown} while {}", ex.doing),
                );
                (error.moved, Some(End::ClientGone))
            }
        };
        received(ex, moved);
        output.passed(ex, moved);
        end.map_or(Ok(0), Err)
    }

    /// Puts what a splice has left in its pipe in front of what is to be read.
    async fn take_stalled(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        mut stalled: Stalled,
    ) -> Result<(), End> {
        self.ahead.stalled(stalled.waiting.take());
        let mut piece = Vec::with_capacity(PIPE_PIECE);
        while !stalled.is_empty() {
            if let Err(error) = stalled.take(&mut piece) {
                attempt::log_io(ex, "read() of a pipe", &error, Level::Error);
                return Err(End::Broken);
            }
            output.push(ex, &piece);
            self.settle(ex, client, output).await?;
            self.ahead
                .room(ex, client, output, &mut self.answer.carrier)
                .await?;
        }
        Ok(())
    }

    async fn chunked(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        first: std::ops::Range<usize>,
    ) -> End {
        let mut decoder = Decoder::default();
        // What came with the head is decoded where it lies.
        let buf = std::mem::take(&mut ex.response.buf);
        let mut decoded = self.decode(ex, output, &mut decoder, &buf[first]);
        ex.response.buf = buf;
        loop {
            match decoded {
                Err(()) => return End::Broken,
                Ok(true) => {
                    let (buf, trailers) = decoder.trailers();
                    ex.response.store_trailers(buf, trailers);
                    return End::Complete;
                }
                Ok(false) => {}
            }
            if let Err(stuck) = self.settle(ex, client, output).await {
                return stuck.into();
            }
            let chunk = match self.read(ex, client, output).await {
                Ok(chunk) => chunk,
                Err(end) => return end,
            };
            decoded = self.decode(ex, output, &mut decoder, &chunk);
        }
    }

    /// Takes the data out of one read. `true` at the end of the body.
    fn decode(
        &mut self,
        ex: &mut Exchange,
        output: &mut Output,
        decoder: &mut Decoder,
        bytes: &[u8],
    ) -> Result<bool, ()> {
        let mut used = 0;
        loop {
            match decoder.decode(&bytes[used..]) {
                Ok(Step::Data { start, end }) => {
                    count(ex, (end - start) as u64);
                    output.push(ex, &bytes[used..][start..end]);
                    used += end;
                }
                Ok(Step::NeedMore) => return Ok(false),
                Ok(Step::End { consumed }) => {
                    self.answer.keepalive &= used + consumed == bytes.len();
                    return Ok(true);
                }
                Err(error) => {
                    ex.log(
                        Level::Error,
                        format_args!(
                            "upstream sent invalid chunked response: {error} while {}",
                            ex.doing
                        ),
                    );
                    return Err(());
                }
            }
        }
    }

    async fn close(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        first: std::ops::Range<usize>,
    ) -> End {
        self.answer.keepalive = false;
        count(ex, first.len() as u64);
        output.push_stored(ex, first);
        loop {
            if let Err(stuck) = self.settle(ex, client, output).await {
                return stuck.into();
            }
            let chunk = match self.read_or_end(ex, client, output).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return End::Complete,
                Err(end) => return end,
            };
            count(ex, chunk.len() as u64);
            if let Err(stuck) = self.pass(ex, client, output, chunk).await {
                return stuck.into();
            }
        }
    }

    /// A body that ends with its stream.
    async fn stream(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        first: std::ops::Range<usize>,
    ) -> End {
        count(ex, first.len() as u64);
        output.push_stored(ex, first);
        loop {
            if let Carrier::Stream(stream) = &mut self.answer.carrier
                && stream.has_ended()
            {
                return take_trailers(ex, stream.take_trailers());
            }
            if let Err(stuck) = self.settle(ex, client, output).await {
                return stuck.into();
            }
            let chunk = match self.read_or_end(ex, client, output).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => continue,
                Err(end) => return end,
            };
            count(ex, chunk.len() as u64);
            output.push(ex, &chunk);
        }
    }

    /// Sends what was pushed, or lets it wait its turn. Everything that came in one read leaves at
    /// once: nothing says when more will come.
    async fn settle(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
    ) -> Result<(), Stuck> {
        if ex.unbuffered {
            output.flush_filters(ex);
        }
        self.ahead.settle(ex, client, output).await
    }

    /// Hands one read on.
    async fn pass(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        chunk: Chunk,
    ) -> Result<(), Stuck> {
        if output.is_plain() && self.ahead.is_idle(client, output) {
            self.ahead.send_chunk(ex, client, output, chunk);
            return Ok(());
        }
        output.push(ex, &chunk);
        drop(chunk);
        self.settle(ex, client, output).await
    }

    /// The next bytes; the end of the connection is a failure.
    async fn read(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
    ) -> Result<Chunk, End> {
        match self.read_or_end(ex, client, output).await? {
            Some(chunk) => Ok(chunk),
            None => {
                let late = self.answer.carrier.timed_out();
                attempt::read_failed(ex, late, None, Level::Error);
                Err(End::Broken)
            }
        }
    }

    /// The next bytes, or `None` at the end of the connection. Notices when the client goes.
    async fn read_or_end(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
    ) -> Result<Option<Chunk>, End> {
        let carrier = &mut self.answer.carrier;
        if !self.ahead.has_room(output) {
            // Whoever is not asked cannot be late.
            carrier.set_deadline(None);
            self.ahead.room(ex, client, output, carrier).await?;
        }
        carrier.listen(Class::Large);
        carrier.set_deadline(Some(clock::now_ms() + self.conf.read_timeout_ms));
        let watch = !self.conf.ignore_client_abort;
        match self.ahead.read(ex, client, output, carrier, watch).await? {
            Event::Gone => Err(End::ClientGone),
            Event::Read(Ok(chunk)) if !chunk.is_empty() => {
                if let Some(state) = ex.upstream.last_mut() {
                    state.bytes_received += chunk.len() as u64;
                }
                // It is not asked again before these have a place, which a slow disk may delay.
                carrier.set_deadline(None);
                let pause = self.rate.as_mut().and_then(|r| r.came(chunk.len()));
                if let Some(pause) = pause {
                    self.ahead.rest(ex, client, output, carrier, pause).await?;
                }
                Ok(Some(chunk))
            }
            Event::Read(Ok(_)) if !carrier.timed_out() => Ok(None),
            Event::Read(other) => {
                attempt::read_failed(ex, carrier.timed_out(), other.err(), Level::Error);
                Err(End::Broken)
            }
        }
    }
}

/// Takes over the fields behind a body.
fn take_trailers(ex: &mut Exchange, trailers: Option<HeaderMap>) -> End {
    let Some(trailers) = trailers else {
        return End::Complete;
    };
    let response = &mut ex.response;
    match fields::trailers(&trailers, &mut response.buf, &mut response.trailers) {
        Ok(()) => End::Complete,
        Err(fault) => {
            ex.log(
                Level::Error,
                format_args!("upstream sent invalid trailer: {fault} while {}", ex.doing),
            );
            End::Broken
        }
    }
}

/// Counts body bytes that came from the peer without being read.
fn received(ex: &mut Exchange, n: u64) {
    if let Some(state) = ex.upstream.last_mut() {
        state.bytes_received += n;
    }
    count(ex, n);
}

/// Counts body bytes from the peer.
fn count(ex: &mut Exchange, n: u64) {
    if let Some(state) = ex.upstream.last_mut() {
        state.response_length += n;
    }
}
