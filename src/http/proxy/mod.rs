//! `proxy_pass` and `grpc_pass`: from a request to an upstream peer's answer on its way to the
//! client.
//!
//! [`run`] is the try loop. Each attempt ([`attempt`]) ends in an answer or a [`Failure`], and
//! [`retry::decide`] alone says what a failure leads to. The body follows in [`relay`], ahead of
//! a slow client into [`buffer`], a protocol switch in [`tunnel`].

pub mod attempt;
mod buffer;
mod carrier;
pub mod conf;
pub mod connection;
mod dynamic;
pub mod h2;
pub mod head;
mod relay;
mod request_body;
mod retry;
mod rewrite_fields;
mod tunnel;

pub use conf::{Conf, Pass};
pub use head::write_target;

use std::sync::Arc;

use crate::base::clock;
use crate::observe::Level;
use crate::upstream::{self, Attempt, Group, Inputs, Moment, Pick};

use super::body::{self, BodyError, RequestBody};
use super::client::Client;
use super::exchange::{Exchange, UpstreamState};
use super::message::Method;
use super::modules::error_page;
use super::phases::{Finish, Outcome, Target};
use super::respond::{self, Reply};
use super::token::{Token, TokenSet};
use super::uri;

use self::attempt::{Answer, Failed};
use self::conf::{NextOn, To};
use self::head::BodyOut;
use self::relay::Rest;
use self::retry::{Cause, Decision, Failure, Terms};

/// Answers the exchange from an upstream.
pub async fn run(ex: &mut Exchange, client: &mut Client, pass: &Pass) -> Outcome {
    let generation = ex.generation();
    let conf = &generation.location(ex.location).proxy;
    if let Err(error) = prepare_body(ex, client, conf).await {
        return body_failed(ex, client, error);
    }
    ex.proxy_uri.clear();
    let group = match find_group(ex, pass).await {
        Ok(group) => group,
        Err(status) => return Outcome::Answer(Reply::status(status)),
    };
    let mut tries = Tries::new(ex, group, conf);
    loop {
        let Some(pick) = tries.pick(ex) else {
            ex.doing = "connecting to upstream";
            ex.upstream.push(UpstreamState {
                group: Some(Arc::clone(&tries.group)),
                status: 502,
                response_ms: Some(0),
                ..UpstreamState::default()
            });
            ex.log(
                Level::Error,
                format_args!("no live upstreams while connecting to upstream"),
            );
            return Outcome::Answer(Reply::status(502));
        };
        match tries.one(ex, client, conf, pass, pick).await {
            Step::Again => {}
            Step::Done(outcome) => return outcome,
        }
    }
}

/// Reads the whole body first where `proxy_request_buffering` says so.
async fn prepare_body(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
) -> Result<(), BodyError> {
    if ex.request.body.is_unread() && conf.request_buffering && conf.pass_request_body {
        body::read_whole(ex, client).await?;
    }
    client.listen_for_next(&ex.request.body);
    Ok(())
}

/// What a failure to read the client's body leads to.
fn body_failed(ex: &mut Exchange, client: &Client, error: BodyError) -> Outcome {
    ex.doing = "sending request to upstream";
    log_body_error(ex, client, &error);
    ex.keepalive = false;
    match error.status() {
        499 => {
            ex.response.status = 400;
            Outcome::Finished(Finish::Drop)
        }
        408 => {
            ex.response.status = 408;
            Outcome::Finished(Finish::Drop)
        }
        status => Outcome::Answer(Reply::status(status)),
    }
}

/// Says in the log why the client's body could not be read.
fn log_body_error(ex: &mut Exchange, client: &Client, error: &BodyError) {
    match error {
        BodyError::TooLarge { had, more } => ex.log(
            Level::Error,
            format_args!("client intended to send too large chunked body: {had}+{more} bytes"),
        ),
        BodyError::Malformed => {
            ex.log(
                Level::Info,
                format_args!("client sent invalid chunked body"),
            );
        }
        BodyError::File(e) => ex.log(
            Level::Crit,
            format_args!(
                "writing a temporary file failed {}",
                crate::observe::os_error(e)
            ),
        ),
        BodyError::TimedOut | BodyError::Gone => {
            ex.doing = "reading client request body";
            respond::log_client_gone(ex, client);
        }
    }
}

/// The group that the request goes to. The error is the status for the client.
async fn find_group(ex: &mut Exchange, pass: &Pass) -> Result<Arc<Group>, u16> {
    match &pass.to {
        To::Group {
            group,
            scheme,
            host,
            port,
            ..
        } => {
            ex.proxy_scheme = *scheme;
            ex.proxy_host.clear();
            ex.proxy_host.extend_from_slice(host);
            ex.proxy_port = *port;
            ex.group = *group;
            Ok(Arc::clone(
                &ex.generation.http.groups[*group as usize].group,
            ))
        }
        To::Url(template) => dynamic::find(ex, template, pass.side).await,
    }
}

/// What an attempt leads to.
enum Step {
    /// Another attempt.
    Again,
    /// The end.
    Done(Outcome),
}

/// The attempts of one request.
struct Tries {
    group: Arc<Group>,
    attempt: Attempt,
    terms: Terms,
    started_ms: u64,
    /// The next attempt goes to the same peer, on a connection of its own.
    again: Option<Pick>,
}

impl Tries {
    fn new(ex: &Exchange, group: Arc<Group>, conf: &Conf) -> Self {
        let mut attempt = Attempt::default();
        attempt.reset(conf.tries);
        let replayable = !ex.request.body.is_unread() || !conf.pass_request_body;
        let terms = Terms {
            next_upstream: conf.next_upstream,
            timeout_ms: conf.next_timeout_ms,
            refusals_left: retry::REFUSALS_MAX,
            idempotent: !ex.request.head.method.needs_non_idempotent(),
            replayable,
        };
        Tries {
            group,
            attempt,
            terms,
            started_ms: clock::now_ms(),
            again: None,
        }
    }

    fn pick(&mut self, ex: &mut Exchange) -> Option<Pick> {
        if let Some(pick) = self.again.take() {
            return Some(pick);
        }
        let mut key = ex.store.lend();
        if self.group.needs_key() {
            let generation = ex.generation();
            if let Some(template) = &generation.http.groups[ex.group as usize].key {
                template.eval(ex, &mut key);
            }
        }
        let inputs = Inputs {
            key: &key,
            client: ex.client.remote.ip(),
            now_ms: clock::now_ms(),
        };
        let local = std::rc::Rc::clone(&ex.local);
        let pick = self.group.pick(
            &mut self.attempt,
            local.balance.borrow_mut().of(&self.group),
            &inputs,
            &mut local.rng.borrow_mut(),
        );
        ex.store.give_back(key);
        pick
    }

    /// One attempt, up to the end of the response if it succeeds.
    async fn one(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        conf: &Conf,
        pass: &Pass,
        pick: Pick,
    ) -> Step {
        let fresh_only = ex.fresh_connection;
        ex.fresh_connection = false;
        ex.upstream.push(UpstreamState {
            peer: Some(Arc::clone(pick.peer())),
            started_ms: started_ms(ex, pass),
            ..UpstreamState::default()
        });
        ex.response.clear_head();
        let body = body_out(ex, conf);
        let target = attempt::TargetPeer {
            pick: &pick,
            pass,
            group: &Arc::clone(&self.group),
            fresh_only,
            repeatable: self.terms.may_repeat(),
        };
        match attempt::run(ex, client, conf, target, body).await {
            Ok(answer) => {
                let mut slot = Some(answer);
                self.answered(ex, client, conf, pick, &mut slot).await
            }
            Err(Failed::Upstream(failure)) => self.failed(ex, pick, failure),
            Err(Failed::Own) => {
                finish_state(ex);
                self.release(ex, pick, upstream::Outcome::NotCounted);
                Step::Done(Outcome::Answer(Reply::status(500)))
            }
            Err(Failed::Client(error)) => {
                self.release(ex, pick, upstream::Outcome::NotCounted);
                Step::Done(client_failed(ex, client, error))
            }
        }
    }

    /// A response with a sound head is there. It is large, and handed down by reference so that
    /// it is not in each of the futures that work on it.
    async fn answered(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        conf: &Conf,
        mut pick: Pick,
        slot: &mut Option<Answer>,
    ) -> Step {
        let status = ex.response.upstream.status;
        if let Some(state) = ex.upstream.last_mut() {
            state.status = status;
        }
        let named = self.terms.next_upstream.has(NextOn::of_status(status));
        if named {
            let failure = Failure {
                cause: Cause::Status(status),
                reused: slot.as_ref().is_some_and(|answer| answer.reused),
                answer_begun: true,
                request_sent: true,
                refused: false,
                level: Level::Error,
            };
            let left = self.tries_left();
            let elapsed = clock::now_ms() - self.started_ms;
            if let Decision::Next { blame } = retry::decide(&self.terms, &failure, left, elapsed) {
                *slot = None;
                finish_state(ex);
                self.release(ex, pick, outcome_of(blame));
                return Step::Again;
            }
        }
        if slot.as_ref().is_some_and(Answer::is_whole)
            && status != 101
            && let Some(state) = ex.upstream.last_mut()
        {
            state.response_ms = state.header_ms;
        }
        let blame = named && !matches!(status, 403 | 404);
        if !blame {
            note(ex, &mut pick, Moment::FirstByte);
        }
        let delivered = deliver(ex, client, conf, slot, &self.group).await;
        finish_state(ex);
        if !blame && delivered.is_ok() {
            note(ex, &mut pick, Moment::LastByte);
        }
        self.release(ex, pick, outcome_of(blame));
        // The peer has done its part, however long the client takes for the rest.
        Step::Done(match delivered {
            Ok(rest) => Outcome::Finished(rest.send(ex, client).await),
            Err(outcome) => outcome,
        })
    }

    /// No response came that can be passed on.
    fn failed(&mut self, ex: &mut Exchange, pick: Pick, failure: Failure) -> Step {
        let elapsed = clock::now_ms() - self.started_ms;
        let left = self.tries_left();
        let decision = retry::decide(&self.terms, &failure, left, elapsed);
        if let Some(state) = ex.upstream.last_mut() {
            state.status = if failure.cause == Cause::Timeout {
                504
            } else {
                502
            };
        }
        finish_state(ex);
        match decision {
            Decision::Again => {
                // Nobody failed and nothing is said: the attempt does not show.
                ex.upstream.pop();
                ex.fresh_connection = true;
                self.terms.refusals_left -= u32::from(failure.refused);
                self.again = Some(pick);
                Step::Again
            }
            Decision::Next { blame } => {
                self.release(ex, pick, outcome_of(blame));
                Step::Again
            }
            Decision::GiveUp { status, blame } => {
                let outcome = if failure.is_stale() {
                    upstream::Outcome::NotCounted
                } else {
                    outcome_of(blame)
                };
                self.release(ex, pick, outcome);
                Step::Done(Outcome::Answer(Reply::status(status)))
            }
            Decision::Pass => Step::Done(Outcome::Answer(Reply::status(502))),
        }
    }

    /// Peers that may still be tried after the one at hand.
    fn tries_left(&self) -> u32 {
        self.attempt.tries().saturating_sub(1)
    }

    fn release(&mut self, ex: &Exchange, pick: Pick, outcome: upstream::Outcome) {
        let mut balance = ex.local.balance.borrow_mut();
        let local = balance.of(&self.group);
        let is_out = self
            .group
            .release(pick, outcome, &mut self.attempt, local, clock::now_ms());
        if is_out {
            ex.log(
                Level::Warn,
                format_args!("upstream server temporarily disabled while {}", ex.doing),
            );
        }
    }
}

fn outcome_of(blame: bool) -> upstream::Outcome {
    if blame {
        upstream::Outcome::Failed
    } else {
        upstream::Outcome::Ok
    }
}

/// When an attempt begins: for the first one, where nothing was waited for, with the request. (The
/// clock is asked as seldom as it can be: twice a request.)
fn started_ms(ex: &Exchange, pass: &Pass) -> u64 {
    let at_once = ex.upstream.is_empty()
        && ex.request.framing.is_empty()
        && !ex.request.internal
        && matches!(pass.to, To::Group { .. });
    if at_once {
        ex.request.started_at
    } else {
        clock::precise_ms()
    }
}

/// Tells the balancer how long the answer took to `moment`.
fn note(ex: &Exchange, pick: &mut Pick, moment: Moment) {
    let state = ex.upstream.last();
    let ms = state.and_then(|state| match moment {
        Moment::LastByte => state.response_ms,
        _ => state.header_ms,
    });
    if let Some(ms) = ms {
        pick.note(moment, ms);
    }
}

fn finish_state(ex: &mut Exchange) {
    if let Some(state) = ex.upstream.last_mut()
        && state.response_ms.is_none()
    {
        state.response_ms = Some(clock::precise_ms().saturating_sub(state.started_ms));
    }
}

/// The client went away, or its body could not be read, while the upstream was at work.
fn client_failed(ex: &mut Exchange, client: &Client, error: Option<BodyError>) -> Outcome {
    finish_state(ex);
    match error {
        Some(error) => body_failed(ex, client, error),
        None => {
            ex.log(
                Level::Info,
                format_args!(
                    "client prematurely closed connection, so upstream connection is closed too while {}",
                    ex.doing
                ),
            );
            if let Some(state) = ex.upstream.last_mut() {
                state.status = 499;
            }
            ex.response.status = 499;
            ex.keepalive = false;
            Outcome::Finished(Finish::Drop)
        }
    }
}

/// How the body is going to be framed towards the upstream.
fn body_out(ex: &Exchange, conf: &Conf) -> BodyOut {
    use super::h1::framing::Framing;
    if conf.set_body.is_some() {
        return BodyOut::Length(0);
    }
    if !conf.pass_request_body {
        return BodyOut::None;
    }
    let refused = ex.request.refused.len() as u64;
    match &ex.request.body {
        RequestBody::None => match ex.request.framing {
            Framing::None => BodyOut::None,
            Framing::Chunked if refused > 0 => BodyOut::Chunked,
            _ => BodyOut::Length(refused),
        },
        RequestBody::Memory(bytes) => BodyOut::Length(bytes.len() as u64),
        RequestBody::File { length, .. } => BodyOut::Length(*length),
        RequestBody::Length(length) => BodyOut::Length(refused + *length),
        RequestBody::Chunked { .. } | RequestBody::Open { .. } => BodyOut::Chunked,
    }
}

/// Takes a response whose head is known to the client, up to what is left to send when the
/// upstream is done with; or to where X-Accel-Redirect or `error_page` lead instead.
///
/// # Errors
/// The outcome, where nothing is left to send.
async fn deliver<'c>(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &'c Conf,
    slot: &mut Option<Answer>,
    group: &Arc<Group>,
) -> Result<Rest<'c>, Outcome> {
    if ex.response.upstream.status == 101 {
        head::take_response(ex, conf);
        let Some(answer) = slot.take() else {
            return Err(Outcome::Finished(Finish::Truncated));
        };
        // Boxed, so that only tunnels pay for what a tunnel needs.
        let tunnel = Box::pin(tunnel::run(ex, client, answer, conf));
        return Err(Outcome::Finished(tunnel.await));
    }
    accel_settings(ex, conf);
    if let Some(outcome) = accel_redirect(ex, conf) {
        relay::give_back(ex, client, slot, group, true);
        return Err(outcome);
    }
    let status = ex.response.upstream.status;
    if conf.intercept_errors && status >= 300 && error_page::covers(ex, status) {
        if status == 401 {
            ex.response.carry(TokenSet::of(&[Token::WwwAuthenticate]));
        }
        relay::give_back(ex, client, slot, group, true);
        return Err(Outcome::Answer(Reply::status(status)));
    }
    head::take_response(ex, conf);
    ex.response.passes_trailers = conf.pass_trailers;
    let sent = relay::run(ex, client, conf, slot, group).await;
    sent.map_err(Outcome::Finished)
}

/// Fields that an answer with `X-Accel-Redirect` gives to the one that it leads to.
const REDIRECTED: TokenSet = TokenSet::of(&[
    Token::ContentType,
    Token::SetCookie,
    Token::ContentDisposition,
    Token::CacheControl,
    Token::Expires,
    Token::AcceptRanges,
]);

/// Follows `X-Accel-Redirect`, unless it is ignored or not there.
fn accel_redirect(ex: &mut Exchange, conf: &Conf) -> Option<Outcome> {
    if conf.ignore_headers.contains(Token::XAccelRedirect) {
        return None;
    }
    let value = ex.response.upstream_field(Token::XAccelRedirect)?.to_vec();
    ex.response.carry(REDIRECTED);
    if value.starts_with(b"@") {
        return Some(Outcome::Jump(Target::Named(value)));
    }
    let (path, args) = match memchr::memchr(b'?', &value) {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (&value[..], &b""[..]),
    };
    let mut decoded = Vec::with_capacity(path.len());
    uri::unescape(path, &mut decoded);
    if decoded.is_empty()
        || decoded.contains(&0)
        || decoded.split(|b| *b == b'/').any(|s| s == b"..")
    {
        let shown = String::from_utf8_lossy(&value);
        ex.log(
            Level::Error,
            format_args!("unsafe URI \"{shown}\" was detected"),
        );
        return Some(Outcome::Answer(Reply::status(404)));
    }
    ex.request.args.clear();
    ex.request.args.extend_from_slice(args);
    if !ex.request.is_head() {
        ex.request.method_override = Some(Method::Get);
    }
    Some(Outcome::Jump(Target::Path(decoded)))
}

/// `X-Accel-Limit-Rate` and `X-Accel-Buffering`, unless they are ignored.
fn accel_settings(ex: &mut Exchange, conf: &Conf) {
    ex.unbuffered = !conf.buffering;
    if !conf.ignore_headers.contains(Token::XAccelLimitRate)
        && let Some(value) = ex.response.upstream_field(Token::XAccelLimitRate)
        && let Some(rate) = crate::config::value::parse_number(value)
    {
        ex.response.limit_rate = rate;
    }
    if !conf.grpc
        && !conf.ignore_headers.contains(Token::XAccelBuffering)
        && let Some(value) = ex.response.upstream_field(Token::XAccelBuffering)
    {
        if value.eq_ignore_ascii_case(b"no") {
            ex.unbuffered = true;
        } else if value.eq_ignore_ascii_case(b"yes") {
            ex.unbuffered = false;
        }
    }
}
