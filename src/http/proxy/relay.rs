//! The response's body on its way from the peer to the client.
//!
//! What is small leaves with the head in one send. What is large, of known length and passes no
//! filter is spliced and never seen. Everything else goes through one buffer at a time, so that a
//! slow client holds up its upstream instead of filling memory.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::base::clock;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::h1::chunked::{Decoder, Step};
use crate::http::h1::framing::{self, Framing};
use crate::http::phases::Finish;
use crate::http::rate;
use crate::http::respond::{self, ClientGone, Output};
use crate::http::token::Token;
use crate::observe::{Level, os_error};
use crate::ring::{self, Chunk, Class, Side, SpliceLimits};
use crate::upstream::Group;

use super::attempt::{self, Answer};
use super::conf::Conf;

/// Bodies with at least this much left after the first read are spliced. Measured: below it the
/// two extra system calls cost more than the copies.
const SPLICE_MIN: u64 = 32 << 10;
/// Body bytes gathered before they are sent, where they pass through memory.
const GATHER: usize = 32 << 10;

/// How a body ended.
enum End {
    /// As its framing announced.
    Complete,
    /// The peer broke off.
    Broken,
    /// The client went away.
    ClientGone,
}

/// Sends `ex.response` with its body, then keeps or closes the peer's connection, which leaves
/// nothing in `slot`.
pub async fn run(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    slot: &mut Option<Answer>,
    group: &Arc<Group>,
) -> Finish {
    let Some(answer) = slot else {
        return Finish::Truncated;
    };
    ex.doing = "reading upstream";
    ex.response.content_length = announced_length(ex, answer.framing);
    let Ok(mut output) = Output::start(ex, client).await else {
        return Finish::Truncated;
    };
    let body = answer.rest.clone();
    let mut source = Source {
        conf,
        answer,
        rate: rate::Limit::of_upstream(ex, conf),
    };
    let end = source.relay(ex, client, &mut output, body).await;
    match end {
        End::Complete => {
            give_back(ex, client, slot, group, false);
            ex.doing = "sending to client";
            output.finish(ex, client, true).await
        }
        End::Broken => {
            *slot = None;
            output.finish(ex, client, false).await
        }
        End::ClientGone => {
            ex.doing = "sending to client";
            respond::log_client_gone(ex, client);
            ex.keepalive = false;
            Finish::Truncated
        }
    }
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
    let Some(Answer {
        mut kept,
        framing,
        rest,
        keepalive,
        ..
    }) = slot.take()
    else {
        return;
    };
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
    if !keepalive || !whole || kept.conn.is_sending() || !kept.conn.is_quiet() {
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
struct Source<'a> {
    conf: &'a Conf,
    answer: &'a mut Answer,
    rate: Option<rate::Limit>,
}

impl Source<'_> {
    async fn relay(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        first: std::ops::Range<usize>,
    ) -> End {
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
        if left >= SPLICE_MIN
            && self.rate.is_none()
            && output.is_plain()
            && self.answer.kept.conn.is_quiet()
        {
            return self.splice(ex, client, output, left).await;
        }
        while left > 0 {
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
            if let Err(ClientGone) = self.pass(ex, client, output, chunk).await {
                return End::ClientGone;
            }
        }
        End::Complete
    }

    /// Moves the rest of the body without looking at it.
    async fn splice(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        left: u64,
    ) -> End {
        if output.flush(client).await.is_err() {
            return End::ClientGone;
        }
        let limits = SpliceLimits {
            read_timeout_ms: self.conf.read_timeout_ms,
            write_timeout_ms: output.send_timeout_ms(),
        };
        let conn = &self.answer.kept.conn;
        let result = ring::splice_body(&conn.sock, &client.sock, left, limits, |_| ()).await;
        let (moved, end) = match result {
            Ok(moved) if moved == left => (moved, End::Complete),
            Ok(moved) => {
                attempt::read_failed(ex, conn, None, Level::Error);
                (moved, End::Broken)
            }
            Err(error) if error.side == Side::Read => {
                attempt::log_io(ex, "splice()", &error.error, Level::Error);
                (error.moved, End::Broken)
            }
            Err(error) => {
                ex.log(
                    Level::Info,
                    format_args!(
                        "splice() failed {} while {}",
                        os_error(&error.error),
                        ex.doing
                    ),
                );
                (error.moved, End::ClientGone)
            }
        };
        count(ex, moved);
        output.passed(ex, moved);
        end
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
            if self.settle(ex, client, output).await.is_err() {
                return End::ClientGone;
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
            if self.settle(ex, client, output).await.is_err() {
                return End::ClientGone;
            }
            let chunk = match self.read_or_end(ex, client, output).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return End::Complete,
                Err(end) => return end,
            };
            count(ex, chunk.len() as u64);
            if let Err(ClientGone) = self.pass(ex, client, output, chunk).await {
                return End::ClientGone;
            }
        }
    }

    /// Sends what has gathered, if it is much or must not wait.
    async fn settle(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
    ) -> Result<(), ClientGone> {
        if ex.unbuffered {
            output.flush_filters(ex);
        }
        // Everything that came in one read leaves at once: nothing says when more will come.
        output.flush(client).await
    }

    /// Hands one read on.
    async fn pass(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        chunk: Chunk,
    ) -> Result<(), ClientGone> {
        if output.is_plain() {
            return output.send_chunk(ex, client, chunk).await;
        }
        output.push(ex, &chunk);
        drop(chunk);
        if output.pending() >= GATHER || ex.unbuffered || output.is_unfiltered() {
            return self.settle(ex, client, output).await;
        }
        Ok(())
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
                attempt::read_failed(ex, &self.answer.kept.conn, None, Level::Error);
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
        let conn = &mut self.answer.kept.conn;
        conn.listen(Class::Large);
        if output.pending() > 0 && output.flush(client).await.is_err() {
            return Err(End::ClientGone);
        }
        conn.sock
            .set_deadline(Some(clock::now_ms() + self.conf.read_timeout_ms));
        let ignore_abort = self.conf.ignore_client_abort;
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = conn.poll_read(cx) {
                return Poll::Ready(Some(result));
            }
            if !ignore_abort && client.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        match result {
            None => Err(End::ClientGone),
            Some(Ok(chunk)) if !chunk.is_empty() => {
                if let Some(state) = ex.upstream.last_mut() {
                    state.bytes_received += chunk.len() as u64;
                }
                if let Some(rate) = &mut self.rate {
                    rate.came(chunk.len()).await;
                }
                Ok(Some(chunk))
            }
            Some(Ok(_)) if !conn.sock.timed_out() => Ok(None),
            Some(other) => {
                attempt::read_failed(ex, conn, other.err(), Level::Error);
                Err(End::Broken)
            }
        }
    }
}

/// Counts body bytes from the peer.
fn count(ex: &mut Exchange, n: u64) {
    if let Some(state) = ex.upstream.last_mut() {
        state.response_length += n;
    }
}
