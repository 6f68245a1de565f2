//! nginx's core module of `stream`: `server`, `listen`, and what holds for every session.

use std::time::Duration;

use crate::config::listen::{Kind, RawListen};
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row};
use crate::inherit;
use crate::observe::{ErrorLog, TargetSpec, error_log};
use crate::stream::scope::{self, Compiler, Scope};

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);
const HASHES: &str = "sizes nginx's hash tables; ringway's grow as needed";

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::block("server", Contexts::STREAM, Arity::None, read_server)
        .doc("A server: the addresses it listens on, and what becomes of their sessions."),
    R::custom(
        "listen",
        Contexts::STREAM_SERVER,
        Arity::AtLeast(1),
        set_listen,
    )
    .doc("Address and port (or ports), or unix socket, of a server."),
    R::custom("error_log", SS, Arity::AtLeast(1), set_error_log)
        .doc("Where messages about sessions go, and from which level on."),
    R::flag("tcp_nodelay", SS, |s| &mut s.core.tcp_nodelay)
        .default("on")
        .doc("TCP_NODELAY on both connections of a session."),
    R::time("proxy_protocol_timeout", SS, |s| {
        &mut s.core.proxy_protocol_timeout
    })
    .default("30s")
    .doc("Time for the whole PROXY protocol header to come."),
    R::size("preread_buffer_size", SS, |s| {
        &mut s.core.preread_buffer_size
    })
    .default("16k")
    .doc("Most bytes of a session that are looked at before it is passed on."),
    R::time("preread_timeout", SS, |s| &mut s.core.preread_timeout)
        .default("30s")
        .doc("Time for the bytes to come that are looked at before a session is passed on."),
    R::notice(
        "server_names_hash_max_size",
        Contexts::STREAM,
        Arity::One,
        HASHES,
    ),
    R::notice(
        "server_names_hash_bucket_size",
        Contexts::STREAM,
        Arity::One,
        HASHES,
    ),
    R::notice(
        "variables_hash_max_size",
        Contexts::STREAM,
        Arity::One,
        HASHES,
    ),
    R::notice(
        "variables_hash_bucket_size",
        Contexts::STREAM,
        Arity::One,
        HASHES,
    ),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    /// The `listen`s of a server.
    pub listens: Vec<RawListen>,
    error_log: Option<Vec<TargetSpec>>,
    tcp_nodelay: Option<bool>,
    proxy_protocol_timeout: Option<Duration>,
    preread_buffer_size: Option<u64>,
    preread_timeout: Option<Duration>,
}

/// The settings of a server.
pub struct Conf {
    /// `error_log`
    pub error_log: ErrorLog,
    /// `tcp_nodelay`
    pub tcp_nodelay: bool,
    /// `proxy_protocol_timeout`, in milliseconds.
    pub proxy_protocol_timeout_ms: u64,
    /// `preread_buffer_size`, in bytes.
    pub preread_buffer_size: usize,
    /// `preread_timeout`, in milliseconds.
    pub preread_timeout_ms: u64,
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent;
            error_log, tcp_nodelay, proxy_protocol_timeout, preread_buffer_size, preread_timeout);
    }

    /// The compiled settings.
    ///
    /// # Errors
    /// A log that cannot be opened.
    pub fn compile(&self, c: &Compiler<'_, '_>) -> Result<Conf> {
        let error_log = match &self.error_log {
            Some(targets) => ErrorLog::open(targets).map_err(ConfigError::bare)?,
            None => c.error_log.clone(),
        };
        let ms = |time: Option<Duration>, default| time.map_or(default, |t| t.as_millis() as u64);
        Ok(Conf {
            error_log,
            tcp_nodelay: self.tcp_nodelay.unwrap_or(true),
            proxy_protocol_timeout_ms: ms(self.proxy_protocol_timeout, 30_000),
            preread_buffer_size: self.preread_buffer_size.unwrap_or(16 << 10) as usize,
            preread_timeout_ms: ms(self.preread_timeout, 30_000),
        })
    }
}

fn read_server(reader: &mut Reader, stream: &mut Scope, node: &Node) -> Result<()> {
    let mut server = Scope {
        span: Some(node.span()),
        ..Scope::default()
    };
    scope::read_block(reader, node, Contexts::STREAM_SERVER, &mut server)?;
    if server.core.listens.is_empty() {
        return Err(ConfigError::at_end(
            node,
            "no \"listen\" is defined for server",
        ));
    }
    stream.servers.push(server);
    Ok(())
}

fn set_listen(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let raw = RawListen::read(node, Kind::Stream, &s.core.listens)?;
    s.core.listens.push(raw);
    Ok(())
}

fn set_error_log(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let spec = error_log::parse(reader, node)?;
    s.core.error_log.get_or_insert_default().push(spec);
    Ok(())
}
