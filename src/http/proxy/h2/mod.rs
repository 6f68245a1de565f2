//! HTTP/2 to upstream servers: `proxy_http_version 2` and `grpc_pass`.
//!
//! The requests of a worker share connections ([`pool`], [`connection`]). [`run`] is an attempt as
//! [`super::attempt`] is one over HTTP/1.1: it ends when the head of the answer is there. The
//! request's body may go on while the answer comes ([`upload`]).

pub mod connection;
mod head;
pub mod pool;
pub mod stream;
mod timer;
pub mod upload;

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use http::HeaderMap;

use crate::base::clock;
use crate::http::body;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::h1::framing::{self, Framing};
use crate::http::h2::fields;
use crate::http::modules::early_hints;
use crate::http::token::Token;
use crate::observe::Level;

use super::attempt::{self, Answer, Failed, INTERIM_MAX, TargetPeer};
use super::carrier::Carrier;
use super::conf::Conf;
use super::head::BodyOut;
use super::retry::{Cause, Failure};

use self::connection::Connection;
use self::pool::{Found, Key, Place, Ticket};
use self::stream::{Broken, Stream};
use self::upload::{Stuck, Upload};

/// Runs an attempt over HTTP/2.
pub async fn run(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    target: &TargetPeer<'_>,
    body: BodyOut,
) -> Result<Answer, Failed> {
    ex.doing = "connecting to upstream";
    let place = place(ex, client, conf, target).await?;
    let mut failure = Failure {
        cause: Cause::Error,
        reused: place.reused && !target.fresh_only,
        answer_begun: false,
        request_sent: true,
        refused: false,
        level: Level::Error,
    };
    if failure.reused && target.repeatable {
        failure.level = Level::Info;
    }
    ex.doing = "sending request to upstream";
    let mut stream = send(ex, client, conf, target, body, place, &mut failure)?;
    if stream.upload().is_streamed() && body::send_continue(ex, client).await.is_err() {
        return Err(Failed::Client(None));
    }
    ex.doing = "reading response header from upstream";
    let (status, fields) = read_head(ex, client, conf, &mut stream, &mut failure).await?;
    let framing = take_head(ex, conf, &stream, status, &fields, failure)?;
    if let Some(state) = ex.upstream.last_mut() {
        state.header_ms = Some(clock::precise_ms().saturating_sub(state.started_ms));
    }
    let start = ex.response.buf.len();
    poll_fn(|cx| {
        stream.take_ready(cx, &mut ex.response.buf);
        Poll::Ready(())
    })
    .await;
    let end = ex.response.buf.len();
    if let Some(state) = ex.upstream.last_mut() {
        state.bytes_received += end as u64;
    }
    Ok(Answer {
        carrier: Carrier::Stream(stream),
        framing,
        rest: start..end,
        reused: failure.reused,
        keepalive: false,
    })
}

/// A place on a connection to the peer, which is made if need be.
async fn place(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    target: &TargetPeer<'_>,
) -> Result<Place, Failed> {
    let state = &target.pick.peer().state;
    let key = Key {
        serial: state.serial(),
        tag: target.group.keepalive().local.then_some(target.pass.tag),
        identity: attempt::identity(ex, conf),
    };
    let (line, key) = ex.local.lines.borrow_mut().line(state.slot(), key);
    if let Some(identity) = key.and_then(|key| key.identity) {
        identity.give_back(ex);
    }
    let until_ms = clock::now_ms() + conf.connect_timeout_ms;
    loop {
        let waiting = match line.find(clock::now_ms(), until_ms) {
            Found::Place(place) => {
                connected(ex, place.reused);
                return Ok(place);
            }
            Found::Connect(ticket) => return connect(ex, client, conf, target, ticket).await,
            Found::Wait(waiting) => waiting,
        };
        let watch = !conf.ignore_client_abort;
        if let Err(failure) = attempt::while_here(client, watch, waiting).await? {
            return Err(not_connected(ex, failure));
        }
    }
}

/// Makes a connection for this request and those that follow.
async fn connect(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    target: &TargetPeer<'_>,
    ticket: Ticket,
) -> Result<Place, Failed> {
    let identity = ticket.identity().cloned();
    let made = attempt::connect(ex, client, conf, target, identity).await;
    let conn = match made {
        Ok(conn) => conn,
        Err(failed) => {
            if let Failed::Upstream(failure) = &failed {
                ticket.failed(match failure.cause {
                    Cause::Timeout => pool::Failure::TimedOut,
                    _ => pool::Failure::Other,
                });
            }
            return Err(failed);
        }
    };
    match Connection::open(conn.into_parts(), *target.group.keepalive()).await {
        Ok(connection) => Ok(ticket.opened(&connection)),
        Err(error) => {
            let broken = Broken::of(&error);
            ex.log(Level::Error, format_args!("{broken} while {}", ex.doing));
            ticket.failed(pool::Failure::Other);
            Err(attempt::unsent(false))
        }
    }
}

/// The connection that this request has waited for could not be made.
fn not_connected(ex: &Exchange, failure: pool::Failure) -> Failed {
    let is_timeout = failure == pool::Failure::TimedOut;
    if is_timeout {
        attempt::log_io(ex, "", &io::ErrorKind::TimedOut.into(), Level::Error);
    } else {
        ex.log(
            Level::Error,
            format_args!(
                "connection shared with another request failed while {}",
                ex.doing
            ),
        );
    }
    attempt::unsent(is_timeout)
}

fn connected(ex: &mut Exchange, at_once: bool) {
    if let Some(state) = ex.upstream.last_mut() {
        state.connect_ms = Some(if at_once {
            0
        } else {
            clock::precise_ms().saturating_sub(state.started_ms)
        });
    }
}

/// Hands the head to `h2`; the body follows while the answer is awaited.
fn send(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    target: &TargetPeer<'_>,
    body: BodyOut,
    place: Place,
    failure: &mut Failure,
) -> Result<Box<Stream>, Failed> {
    let (mut upload, body) = match &conf.set_body {
        Some(template) => {
            let mut text = Vec::new();
            template.eval(ex, &mut text);
            let length = text.len() as u64;
            (Upload::text(text), BodyOut::Length(length))
        }
        None if conf.pass_request_body => (Upload::of(ex), body),
        None => (Upload::none(), body),
    };
    let out = std::mem::take(&mut client.upstream_out);
    let Some((request, length)) = head::request(ex, conf, target.pass, body, out) else {
        ex.log(
            Level::Error,
            format_args!("invalid header while {}", ex.doing),
        );
        return Err(Failed::Own);
    };
    ex.upstream_method =
        crate::http::message::Method::from_bytes(request.method().as_str().as_bytes());
    match place.connection().request(request, upload.is_done()) {
        Ok(sent) => {
            if let Some(state) = ex.upstream.last_mut() {
                state.bytes_sent += length as u64;
            }
            client.set_deadline(None);
            Ok(Box::new(Stream::new(place, sent, upload)))
        }
        Err(error) => {
            failure.request_sent = false;
            failure.refused = stream::is_refusal(&error) && upload.take_back(ex);
            Err(broken(ex, &error, failure))
        }
    }
}

/// What ends the wait for a head.
enum Event {
    Head(Result<(u16, HeaderMap), h2::Error>),
    Interim(Result<http::Response<()>, h2::Error>),
    Late,
    Stuck(Stuck),
    Gone,
}

/// Passes an informational answer on, where that is wanted.
fn pass_interim(ex: &mut Exchange, client: &mut Client, head: &http::Response<()>) {
    let response = &mut ex.response;
    let (status, headers) = (head.status().as_u16(), head.headers());
    if fields::response(status, headers, &mut response.buf, &mut response.upstream).is_ok() {
        early_hints::pass(ex, client);
    }
    ex.response.clear_head();
}

/// Waits until the head of a final answer is there.
async fn read_head(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    stream: &mut Stream,
    failure: &mut Failure,
) -> Result<(u16, HeaderMap), Failed> {
    let mut interim = 0;
    let mut has_sent = false;
    // For a server that does not even say how it wants to be spoken to.
    stream.set_deadline(Some(clock::now_ms() + conf.send_timeout_ms));
    loop {
        let event = poll_fn(|cx| {
            match stream.poll_upload(cx, ex, client) {
                Poll::Ready(Err(stuck)) => return Poll::Ready(Event::Stuck(stuck)),
                Poll::Ready(Ok(())) if !has_sent => {
                    has_sent = true;
                    stream.set_deadline(Some(clock::now_ms() + conf.read_timeout_ms));
                    client.listen_for_next(&ex.request.body);
                }
                Poll::Pending if stream.may_send() => stream.set_deadline(None),
                _ => {}
            }
            if let Poll::Ready(result) = stream.poll_informational(cx) {
                return Poll::Ready(Event::Interim(result));
            }
            match stream.poll_head(cx) {
                Poll::Ready(Some(result)) => return Poll::Ready(Event::Head(result)),
                Poll::Ready(None) => return Poll::Ready(Event::Late),
                Poll::Pending => {}
            }
            if has_sent && !conf.ignore_client_abort && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Event::Gone);
            }
            Poll::Pending
        });
        match event.await {
            Event::Head(Ok(head)) => {
                stream.upload().forget();
                stream.set_deadline(None);
                return Ok(head);
            }
            Event::Interim(Ok(head)) => {
                pass_interim(ex, client, &head);
                failure.answer_begun = true;
                interim += 1;
                if interim > INTERIM_MAX {
                    attempt::log_interim(ex);
                    failure.cause = Cause::InvalidHeader;
                    return Err(Failed::Upstream(*failure));
                }
            }
            Event::Head(Err(error)) | Event::Interim(Err(error)) => {
                failure.refused = stream::is_refusal(&error) && stream.upload().take_back(ex);
                return Err(broken(ex, &error, failure));
            }
            Event::Late | Event::Stuck(Stuck::TimedOut) => {
                stream.distrust();
                let error = io::ErrorKind::TimedOut.into();
                failure.cause = attempt::log_io(ex, "", &error, Level::Error);
                return Err(Failed::Upstream(*failure));
            }
            Event::Stuck(Stuck::Client(error)) => return Err(Failed::Client(Some(error))),
            Event::Gone => return Err(Failed::Client(None)),
        }
    }
}

/// An attempt that `h2` ended.
fn broken(ex: &Exchange, error: &h2::Error, failure: &mut Failure) -> Failed {
    let is_io = error.is_io() || (error.is_go_away() && error.is_remote());
    failure.cause = if is_io {
        Cause::Error
    } else {
        Cause::InvalidHeader
    };
    let level = match failure.refused {
        true => Level::Info,
        false if is_io => failure.level,
        false => Level::Error,
    };
    ex.log(
        level,
        format_args!("{} while {}", Broken::of(error), ex.doing),
    );
    Failed::Upstream(*failure)
}

/// Takes the head over into `ex`, and says how the body ends.
fn take_head(
    ex: &mut Exchange,
    conf: &Conf,
    stream: &Stream,
    status: u16,
    fields: &HeaderMap,
    mut failure: Failure,
) -> Result<Framing, Failed> {
    failure.answer_begun = true;
    failure.cause = Cause::InvalidHeader;
    let response = &mut ex.response;
    let taken = fields::response(status, fields, &mut response.buf, &mut response.upstream);
    let problem = match taken {
        Err(fault) => format!("upstream sent invalid header: {fault}"),
        Ok(()) if ex.response.buf.len() > conf.buffer_size => {
            "upstream sent too big header".to_owned()
        }
        Ok(()) => match framing_of(ex, status, stream) {
            Some(framing) => return Ok(framing),
            None => "upstream sent invalid header: \"Content-Length\"".to_owned(),
        },
    };
    ex.log(Level::Error, format_args!("{problem} while {}", ex.doing));
    Err(Failed::Upstream(failure))
}

fn framing_of(ex: &Exchange, status: u16, stream: &Stream) -> Option<Framing> {
    let response = &ex.response;
    let is_head = ex.upstream_method == crate::http::message::Method::Head;
    if is_head || matches!(status, 204 | 304) {
        return Some(Framing::None);
    }
    match response.upstream_field(Token::ContentLength) {
        Some(_)
            if response
                .upstream
                .fields
                .repeated()
                .contains(Token::ContentLength) =>
        {
            None
        }
        Some(text) => framing::parse_length(text).map(Framing::Length),
        None if stream.has_ended() => Some(Framing::Length(0)),
        // Until the stream ends.
        None => Some(Framing::Close),
    }
}
