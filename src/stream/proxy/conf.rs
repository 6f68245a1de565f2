//! The `proxy_…` directives of `stream`.

use std::time::Duration;

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word, value};
use crate::inherit;
use crate::stream::scope::{Compiler, Scope};
use crate::stream::session::Session;
use crate::upstream::{Resolver, Target};
use crate::vars::Template;

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::word("proxy_pass", Contexts::STREAM_SERVER, |s| &mut s.proxy.pass)
        .doc("Upstream, address or unix socket that sessions are passed to."),
    R::time("proxy_timeout", SS, |s| &mut s.proxy.timeout)
        .default("10m")
        .doc("How long a session may be silent both ways."),
    R::time("proxy_connect_timeout", SS, |s| {
        &mut s.proxy.connect_timeout
    })
    .default("60s")
    .doc("Time for a connection to the upstream to stand."),
    R::flag("proxy_next_upstream", SS, |s| &mut s.proxy.next_upstream)
        .default("on")
        .doc("Whether another server is tried when a connection cannot be made."),
    R::number("proxy_next_upstream_tries", SS, |s| {
        &mut s.proxy.next_upstream_tries
    })
    .default("0")
    .doc("How many servers are tried at most; 0 means all."),
    R::time("proxy_next_upstream_timeout", SS, |s| {
        &mut s.proxy.next_upstream_timeout
    })
    .default("0")
    .doc("How long servers are tried; 0 means that it does not matter."),
    R::flag("proxy_socket_keepalive", SS, |s| {
        &mut s.proxy.socket_keepalive
    })
    .default("off")
    .doc("TCP keepalive probes on connections to the upstream."),
    R::flag("proxy_half_close", SS, |s| &mut s.proxy.half_close)
        .default("off")
        .doc("Whether each direction of a session ends on its own."),
    R::number("proxy_requests", SS, |s| &mut s.proxy.requests)
        .default("0")
        .doc(
            "Datagrams of a client after which the next one begins a session; 0 means any number.",
        ),
    R::number("proxy_responses", SS, |s| &mut s.proxy.responses)
        .doc("Answers to each datagram of a client, after which its session ends."),
    R::custom("proxy_bind", SS, Arity::Between(1, 2), set_bind)
        .doc("Local address of connections to the upstream."),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    /// `proxy_pass`
    pub pass: Option<Word>,
    timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    next_upstream: Option<bool>,
    next_upstream_tries: Option<u64>,
    next_upstream_timeout: Option<Duration>,
    socket_keepalive: Option<bool>,
    half_close: Option<bool>,
    requests: Option<u64>,
    responses: Option<u64>,
    /// `off`, or the address and whether it is `transparent`.
    bind: Option<Option<(Word, bool)>>,
}

/// The settings of a server.
pub struct Conf {
    /// `proxy_timeout`, in milliseconds.
    pub timeout_ms: u64,
    /// `proxy_connect_timeout`, in milliseconds.
    pub connect_timeout_ms: u64,
    /// `proxy_next_upstream`
    pub next_upstream: bool,
    /// `proxy_next_upstream_tries`; 0: all.
    pub tries: u32,
    /// `proxy_next_upstream_timeout`, in milliseconds; 0: none.
    pub next_timeout_ms: u64,
    /// `proxy_socket_keepalive`
    pub socket_keepalive: bool,
    /// `proxy_half_close`
    pub half_close: bool,
    /// `proxy_requests`; 0: any number.
    pub requests: u64,
    /// `proxy_responses`
    pub responses: Option<u64>,
    /// `proxy_bind`, and whether it is `transparent`.
    pub bind: Option<(Template<Session>, bool)>,
    /// `resolver`, for names that variables come to.
    pub resolver: Option<Resolver>,
}

/// Where `proxy_pass` leads.
pub enum Pass {
    /// To a group that is known when the configuration is read.
    Group(u32),
    /// To what a text with variables comes to.
    Dynamic(Template<Session>),
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent;
            timeout, connect_timeout, next_upstream, next_upstream_tries, next_upstream_timeout,
            socket_keepalive, half_close, requests, responses, bind);
    }

    /// The compiled settings.
    ///
    /// # Errors
    /// Those of templates.
    pub fn compile(&self, c: &mut Compiler, resolver: Option<Resolver>) -> Result<Conf> {
        let bind = match &self.bind {
            Some(Some((word, transparent))) => Some((c.template(word)?, *transparent)),
            _ => None,
        };
        let tries = self.next_upstream_tries.unwrap_or(0);
        Ok(Conf {
            timeout_ms: ms(self.timeout, 600_000),
            connect_timeout_ms: ms(self.connect_timeout, 60_000),
            next_upstream: self.next_upstream.unwrap_or(true),
            tries: tries.min(u64::from(u32::MAX)) as u32,
            next_timeout_ms: ms(self.next_upstream_timeout, 0),
            socket_keepalive: self.socket_keepalive.unwrap_or(false),
            half_close: self.half_close.unwrap_or(false),
            requests: self.requests.unwrap_or(0),
            responses: self.responses,
            bind,
            resolver,
        })
    }
}

fn ms(time: Option<Duration>, default: u64) -> u64 {
    time.map_or(default, |time| time.as_millis() as u64)
}

/// Turns the argument of `proxy_pass` into where it leads.
///
/// # Errors
/// As nginx: an address without a port, a host that is not found.
pub fn compile_pass(word: &Word, c: &mut Compiler) -> Result<Pass> {
    let text = word.text();
    if text.contains('$') {
        return c.template(word).map(Pass::Dynamic);
    }
    if let Some(group) = c.group(&word.bytes) {
        return Ok(Pass::Group(group));
    }
    let error = |what: &str| ConfigError::at(word.span, format!("{what} in upstream \"{text}\""));
    let target = Target::parse(&text, 0).map_err(error)?;
    if target.port() == Some(0) {
        return Err(error("no port"));
    }
    let addrs = target.look_up().map_err(error)?;
    Ok(Pass::Group(c.add_implicit_group(&text, addrs)))
}

fn set_bind(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    let bind = match node.args().get(1) {
        None if word.is("off") => None,
        None => Some((word.clone(), false)),
        Some(extra) if extra.is("transparent") => Some((word.clone(), true)),
        Some(extra) => return Err(value::invalid_parameter(extra)),
    };
    let is_constant = |word: &Word| !word.bytes.contains(&b'$');
    if let Some((word, _)) = &bind
        && is_constant(word)
        && super::parse_bind(&word.text()).is_none()
    {
        let message = format!("invalid address \"{}\"", word.text());
        return Err(ConfigError::at(word.span, message));
    }
    value::once(&mut s.proxy.bind, bind, node)
}
