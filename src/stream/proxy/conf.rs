//! The `proxy_…` directives of `stream`.

use std::time::Duration;

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word, value};
use crate::inherit;
use crate::ssl;
use crate::stream::scope::{Compiler, Scope};
use crate::stream::session::Session;
use crate::upstream::{Bind, RawBind, Resolver, Target};
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
    R::custom("proxy_upload_rate", SS, Arity::One, set_upload_rate)
        .default("0")
        .doc("Bytes per second from the client; 0 means as many as come."),
    R::custom("proxy_download_rate", SS, Arity::One, set_download_rate)
        .default("0")
        .doc("Bytes per second from the upstream; 0 means as many as come."),
    R::choice("proxy_protocol", SS, &["off", "on", "v2"], |s| {
        &mut s.proxy.protocol
    })
    .default("off")
    .doc("Whether the upstream gets a PROXY protocol header first, of version 1 or 2."),
    R::flag("proxy_ssl", SS, |s| &mut s.proxy.ssl_on)
        .default("off")
        .doc("Whether TLS is spoken to the upstream."),
    R::custom("proxy_ssl_alpn", SS, Arity::AtLeast(1), set_ssl_alpn)
        .doc("Protocols to offer to the upstream by ALPN, in order of preference."),
    R::flag("proxy_session_drop", SS, |s| &mut s.proxy.session_drop)
        .default("off")
        .doc("Whether a session ends when its server is no longer one of its group."),
    R::size("proxy_buffer_size", SS, |s| &mut s.proxy.buffer_size)
        .default("16k")
        .doc("Size of the buffers that bytes are read into.")
        .without_effect(BUFFERS),
    R::custom("proxy_downstream_buffer", SS, Arity::One, set_old_buffer)
        .doc("An old name of proxy_buffer_size.")
        .without_effect(BUFFERS),
    R::custom("proxy_upstream_buffer", SS, Arity::One, set_old_buffer)
        .doc("An old name of proxy_buffer_size.")
        .without_effect(BUFFERS),
];

/// How TLS is spoken to the upstream.
pub const SSL_ROWS: &[Row<Scope>] =
    ssl::upstream::rows!(Scope, "proxy_ssl", SS, proxy.ssl, "host from proxy_pass");

const BUFFERS: &str = "buffers belong to the worker, and a session that waits has none";

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
    bind: Option<Option<RawBind>>,
    upload_rate: Option<Word>,
    download_rate: Option<Word>,
    protocol: Option<usize>,
    session_drop: Option<bool>,
    ssl_on: Option<bool>,
    ssl_alpn: Option<Vec<Vec<u8>>>,
    /// `proxy_ssl_…`
    pub ssl: ssl::upstream::Raw,
    buffer_size: Option<u64>,
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
    /// `proxy_bind`
    pub bind: Option<Bind<Session>>,
    /// `resolver`, for names that variables come to.
    pub resolver: Option<Resolver>,
    /// `proxy_upload_rate`; none: as many as come.
    pub upload_rate: Option<Rate>,
    /// `proxy_download_rate`; none: as many as come.
    pub download_rate: Option<Rate>,
    /// `proxy_protocol`
    pub protocol: Option<ProtocolVersion>,
    /// `proxy_session_drop`
    pub session_drop: bool,
    /// `proxy_ssl_…`, where `proxy_ssl` is on.
    pub ssl: Option<Box<ssl::upstream::Conf<Session>>>,
}

/// Bytes per second, 0 for as many as come.
pub enum Rate {
    /// Known when the configuration is read.
    Fixed(u64),
    /// With variables, for each session.
    Variable(Template<Session>),
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
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
            socket_keepalive, half_close, requests, responses, bind, upload_rate, download_rate,
            protocol, session_drop, ssl_on, ssl_alpn, buffer_size);
        self.ssl.inherit(&parent.ssl);
    }

    /// The compiled settings.
    ///
    /// # Errors
    /// Those of templates.
    pub fn compile(&self, c: &mut Compiler, resolver: Option<Resolver>) -> Result<Conf> {
        let bind = self.bind.iter().flatten().next();
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
            bind: bind.map(|bind| bind.compile(&mut c.vars)).transpose()?,
            resolver,
            upload_rate: compile_rate(self.upload_rate.as_ref(), c)?,
            download_rate: compile_rate(self.download_rate.as_ref(), c)?,
            protocol: match self.protocol {
                Some(1) => Some(ProtocolVersion::V1),
                Some(2) => Some(ProtocolVersion::V2),
                _ => None,
            },
            session_drop: self.session_drop.unwrap_or(false),
            ssl: self.compile_ssl(c)?,
        })
    }

    fn compile_ssl(&self, c: &mut Compiler) -> Result<Option<Box<ssl::upstream::Conf<Session>>>> {
        if !self.ssl_on.unwrap_or(false) {
            return Ok(None);
        }
        let alpn: Vec<&[u8]> = self.ssl_alpn.iter().flatten().map(|name| &**name).collect();
        let mut compiler = ssl::Compiler {
            reader: c.reader,
            vars: &mut c.vars,
            common: &mut c.ssl,
        };
        let conf = self.ssl.compile("proxy_ssl", &alpn, &mut compiler)?;
        Ok(Some(Box::new(conf)))
    }
}

fn set_upload_rate(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    set_rate(&mut s.proxy.upload_rate, node)
}

fn set_download_rate(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    set_rate(&mut s.proxy.download_rate, node)
}

fn set_rate(slot: &mut Option<Word>, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    if !word.bytes.contains(&b'$') {
        value::size(word)?;
    }
    value::once(slot, word.clone(), node)
}

fn compile_rate(word: Option<&Word>, c: &mut Compiler) -> Result<Option<Rate>> {
    let Some(word) = word else {
        return Ok(None);
    };
    if word.bytes.contains(&b'$') {
        return Ok(Some(Rate::Variable(c.template(word)?)));
    }
    value::size(word).map(|rate| (rate > 0).then_some(Rate::Fixed(rate)))
}

fn set_ssl_alpn(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let protocols = ssl::protocols(node)?;
    value::once(&mut s.proxy.ssl_alpn, protocols, node)
}

fn set_old_buffer(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let message = format!(
        "the \"{}\" directive is deprecated, use the \"proxy_buffer_size\" directive instead",
        node.name()
    );
    reader.warn(node.span(), message);
    let size = value::size(&node.args()[0])?;
    value::once(&mut s.proxy.buffer_size, size, node)
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
    if let Some(group) = c.groups.place(&word.bytes) {
        return Ok(Pass::Group(group));
    }
    let error = |what: &str| ConfigError::at(word.span, format!("{what} in upstream \"{text}\""));
    let target = Target::parse(&text, 0).map_err(error)?;
    if target.port() == Some(0) {
        return Err(error("no port"));
    }
    if let Target::Name { host, port } = &target
        && c.groups.place(host.as_bytes()).is_some()
    {
        let message = format!("upstream \"{host}\" may not have port {port}");
        return Err(ConfigError::at(word.span, message));
    }
    let addrs = target.look_up().map_err(|what| {
        let host = text.rsplit_once(':').map_or(&*text, |(host, _)| host);
        ConfigError::at(word.span, format!("{what} in upstream \"{host}\""))
    })?;
    Ok(Pass::Group(c.groups.add_implicit(&text, addrs)))
}

fn set_bind(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    value::once(&mut s.proxy.bind, RawBind::read(node)?, node)
}
