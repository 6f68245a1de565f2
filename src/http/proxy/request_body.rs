//! The request on its way to the upstream: head and body.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use crate::base::clock;
use crate::http::body::{self, BodyError, RequestBody};
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::h1::chunked as chunked_coding;

use super::attempt::{self, Failed};
use super::conf::{Conf, Pass};
use super::connection::UpstreamConn;
use super::head::BodyOut;
use super::retry::Failure;

/// A body in memory up to this size leaves together with the head.
const TOGETHER_MAX: usize = 64 << 10;
/// Read from a spooled body at once.
const FILE_PIECE: usize = 64 << 10;

/// Sends head and body. `false`: the peer answered before it had all of the body, so that its
/// connection cannot be used again.
pub async fn send(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    pass: &Pass,
    framing: BodyOut,
    conn: &mut UpstreamConn,
    failure: Failure,
) -> Result<bool, Failed> {
    let mut out = std::mem::take(&mut client.upstream_out);
    out.clear();
    if let Some(template) = &conf.set_body {
        let mut body = Vec::new();
        template.eval(ex, &mut body);
        attempt::write_head(ex, conf, pass, BodyOut::Length(body.len() as u64), &mut out);
        out.extend_from_slice(&body);
        return start(ex, conf, conn, out).map(|()| true);
    }
    attempt::write_head(ex, conf, pass, framing, &mut out);
    if !conf.pass_request_body {
        return start(ex, conf, conn, out).map(|()| true);
    }
    let mut sender = Sender {
        conn,
        conf,
        failure,
    };
    match std::mem::take(&mut ex.request.body) {
        RequestBody::None => start(ex, conf, sender.conn, out).map(|()| true),
        RequestBody::Memory(bytes) if bytes.len() <= TOGETHER_MAX => {
            out.extend_from_slice(&bytes);
            ex.request.body = RequestBody::Memory(bytes);
            start(ex, conf, sender.conn, out).map(|()| true)
        }
        RequestBody::Memory(bytes) => {
            let result = sender.send_memory(ex, out, &bytes).await;
            ex.request.body = RequestBody::Memory(bytes);
            result
        }
        RequestBody::File { file, length } => {
            let result = sender.send_file(ex, out, &file, length).await;
            ex.request.body = RequestBody::File { file, length };
            result
        }
        unread => {
            ex.request.body = unread;
            let chunked = framing == BodyOut::Chunked;
            sender.send_stream(ex, client, out, chunked).await
        }
    }
}

/// Starts sending without waiting: the answer tells whether it arrived.
fn start(
    ex: &mut Exchange,
    conf: &Conf,
    conn: &mut UpstreamConn,
    out: Vec<u8>,
) -> Result<(), Failed> {
    if let Some(state) = ex.upstream.last_mut() {
        state.bytes_sent += out.len() as u64;
    }
    conn.set_deadline(Some(clock::now_ms() + conf.send_timeout_ms));
    conn.send(out);
    Ok(())
}

/// Sends pieces one after another, with an eye on an early answer.
struct Sender<'a> {
    conn: &'a mut UpstreamConn,
    conf: &'a Conf,
    failure: Failure,
}

impl Sender<'_> {
    async fn send_memory(
        &mut self,
        ex: &mut Exchange,
        mut out: Vec<u8>,
        bytes: &[u8],
    ) -> Result<bool, Failed> {
        for piece in bytes.chunks(FILE_PIECE) {
            out.extend_from_slice(piece);
            match self.piece(ex, out).await? {
                Some(buffer) => out = buffer,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn send_file(
        &mut self,
        ex: &mut Exchange,
        mut out: Vec<u8>,
        file: &crate::ring::File,
        length: u64,
    ) -> Result<bool, Failed> {
        let mut offset = 0;
        let mut buffer = Vec::with_capacity(FILE_PIECE);
        while offset < length {
            let (result, read) = file.read_at(buffer, offset).await;
            buffer = read;
            match result {
                Ok(n) if n > 0 => offset += n as u64,
                Ok(_) => {
                    return Err(Failed::Client(Some(BodyError::File(
                        io::ErrorKind::UnexpectedEof.into(),
                    ))));
                }
                Err(error) => return Err(Failed::Client(Some(BodyError::File(error)))),
            }
            out.extend_from_slice(&buffer);
            match self.piece(ex, out).await? {
                Some(buffer) => out = buffer,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn send_stream(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        mut out: Vec<u8>,
        chunked: bool,
    ) -> Result<bool, Failed> {
        match self.piece(ex, out).await? {
            Some(buffer) => out = buffer,
            None => return Ok(false),
        }
        if body::send_continue(ex, client).await.is_err() {
            return Err(Failed::Client(None));
        }
        loop {
            // However long the client takes, the peer has not failed.
            self.conn.set_deadline(None);
            let piece = {
                let mut next = std::pin::pin!(body::next_piece(ex, client));
                poll_fn(|cx| {
                    if self.conn.poll_early(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    next.as_mut().poll(cx).map(Some)
                })
                .await
            };
            let piece = match piece {
                None => return Ok(false),
                Some(Err(error)) => return Err(Failed::Client(Some(error))),
                Some(Ok(piece)) => piece,
            };
            match (&piece, chunked) {
                (Some(data), true) => chunked_coding::write_chunk(data, &mut out),
                (Some(data), false) => out.extend_from_slice(data),
                (None, true) => chunked_coding::write_last(std::iter::empty(), &mut out),
                (None, false) => {
                    client.keep_upstream_out(out);
                    return Ok(true);
                }
            }
            match self.piece(ex, out).await? {
                Some(buffer) => out = buffer,
                None => return Ok(false),
            }
            if piece.is_none() {
                client.keep_upstream_out(out);
                return Ok(true);
            }
        }
    }

    /// Sends one piece and returns its buffer, or `None` if an answer comes first.
    async fn piece(&mut self, ex: &mut Exchange, out: Vec<u8>) -> Result<Option<Vec<u8>>, Failed> {
        let n = out.len() as u64;
        self.conn
            .set_deadline(Some(clock::now_ms() + self.conf.send_timeout_ms));
        self.conn.send(out);
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = self.conn.poll_sent(cx) {
                return Poll::Ready(Some(result));
            }
            if self.conn.poll_early(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        match result {
            None if self.conn.timed_out() => Err(self.failed(ex, &io::ErrorKind::TimedOut.into())),
            None => Ok(None),
            Some(Ok(mut buffer)) => {
                if let Some(state) = ex.upstream.last_mut() {
                    state.bytes_sent += n;
                }
                buffer.clear();
                Ok(Some(buffer))
            }
            // A peer that refuses a body may have said why before it closed.
            Some(Err(_)) if self.conn.answers_early().await => Ok(None),
            Some(Err(error)) => {
                let error = if self.conn.timed_out() {
                    io::ErrorKind::TimedOut.into()
                } else {
                    error
                };
                Err(self.failed(ex, &error))
            }
        }
    }

    fn failed(&self, ex: &Exchange, error: &io::Error) -> Failed {
        let mut failure = self.failure;
        failure.cause = attempt::log_io(ex, "send()", error, failure.level);
        Failed::Upstream(failure)
    }
}
