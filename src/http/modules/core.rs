//! nginx's core module: limits and timeouts of the client's side, types, and switches that other
//! phases read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word, value};
use crate::http::scope::{Compiler, Scope};
use crate::inherit;
use crate::observe::{ErrorLog, TargetSpec, error_log};
use crate::vars::Template;

use super::resolver;
use crate::http::exchange::Exchange;

const HS: Contexts = Contexts::HTTP.or(Contexts::SERVER);
const HSL: Contexts = HS.or(Contexts::LOCATION);
const HSLI: Contexts = HSL.or(Contexts::LOCATION_IF);
const TUNES_NGINX: &str = "tunes nginx's internals, has no effect here";
const HASHES: &str = "sizes nginx's hash tables; ringway's grow as needed";

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::time("client_header_timeout", HS, |s| {
        &mut s.core.client_header_timeout
    })
    .default("60s")
    .doc("Time for the client to send the whole request head."),
    R::size("client_header_buffer_size", HS, |s| {
        &mut s.core.client_header_buffer_size
    })
    .default("1k")
    .doc("First buffer for a request head."),
    R::custom(
        "large_client_header_buffers",
        HS,
        Arity::Two,
        set_large_buffers,
    )
    .default("4 8k")
    .doc("Number and size of the buffers for large request heads."),
    R::time("client_body_timeout", HSL, |s| {
        &mut s.core.client_body_timeout
    })
    .default("60s")
    .doc("Time between two reads of a request body."),
    R::size("client_body_buffer_size", HSL, |s| {
        &mut s.core.client_body_buffer_size
    })
    .default("16k")
    .doc("Bytes of a request body kept in memory; the rest goes to a file."),
    R::custom(
        "client_body_temp_path",
        HSL,
        Arity::Between(1, 4),
        set_body_temp_path,
    )
    .default("client_body_temp")
    .doc("Directory for request bodies that do not fit in memory."),
    R::size("client_max_body_size", HSL, |s| {
        &mut s.core.client_max_body_size
    })
    .default("1m")
    .doc("Largest request body; 413 above it. 0 switches the check off."),
    R::time("send_timeout", HSL, |s| &mut s.core.send_timeout)
        .default("60s")
        .doc("Time between two writes to the client."),
    R::custom(
        "keepalive_timeout",
        HSL,
        Arity::Between(1, 2),
        set_keepalive_timeout,
    )
    .default("75s")
    .doc("How long an idle client connection stays open."),
    R::number("keepalive_requests", HSL, |s| {
        &mut s.core.keepalive_requests
    })
    .default("1000")
    .doc("Requests after which a client connection is closed."),
    R::time("keepalive_time", HSL, |s| &mut s.core.keepalive_time)
        .default("1h")
        .doc("Age after which a client connection is closed."),
    R::custom(
        "keepalive_disable",
        HSL,
        Arity::AtLeast(1),
        set_keepalive_disable,
    )
    .default("msie6")
    .doc("Browsers that get no keepalive after POST requests."),
    R::choice("lingering_close", HSL, &["off", "on", "always"], |s| {
        &mut s.core.lingering_close
    })
    .default("on")
    .doc("Whether to read on before closing a connection with unread data."),
    R::time("lingering_time", HSL, |s| &mut s.core.lingering_time)
        .default("30s")
        .doc("Longest time of a lingering close."),
    R::time("lingering_timeout", HSL, |s| &mut s.core.lingering_timeout)
        .default("5s")
        .doc("Longest wait for data in a lingering close."),
    R::flag("reset_timedout_connection", HSL, |s| {
        &mut s.core.reset_timedout_connection
    })
    .default("off")
    .doc("Reset timed out connections and those closed with 444."),
    R::choice("server_tokens", HSL, &["off", "on", "build"], |s| {
        &mut s.core.server_tokens
    })
    .default("on")
    .doc("Show the version in error pages and the Server field."),
    R::flag("tcp_nodelay", HSL, |s| &mut s.core.tcp_nodelay)
        .default("on")
        .doc("TCP_NODELAY on client connections."),
    R::word("default_type", HSL, |s| &mut s.core.default_type)
        .default("text/plain")
        .doc("MIME type where `types` has none."),
    R::block("types", HSL, Arity::None, set_types)
        .default("text/html html; image/gif gif; image/jpeg jpg;")
        .doc("MIME types by extension."),
    R::custom("internal", Contexts::LOCATION, Arity::None, set_internal)
        .doc("The location is only for internal redirects."),
    R::word("limit_rate", HSLI, |s| &mut s.core.limit_rate)
        .default("0")
        .doc("Bytes per second of a response to the client."),
    R::word("limit_rate_after", HSLI, |s| &mut s.core.limit_rate_after)
        .default("0")
        .doc("Bytes sent before limit_rate applies."),
    R::flag("underscores_in_headers", HS, |s| {
        &mut s.core.underscores_in_headers
    })
    .default("off")
    .doc("Accept underscores in the names of request fields."),
    R::flag("ignore_invalid_headers", HS, |s| {
        &mut s.core.ignore_invalid_headers
    })
    .default("on")
    .doc("Ignore request fields with unusual names."),
    R::flag("merge_slashes", HS, |s| &mut s.core.merge_slashes)
        .default("on")
        .doc("Merge adjacent slashes of the URI."),
    R::flag("absolute_redirect", HSL, |s| &mut s.core.absolute_redirect)
        .default("on")
        .doc("Redirects carry scheme and host."),
    R::flag("server_name_in_redirect", HSL, |s| {
        &mut s.core.server_name_in_redirect
    })
    .default("off")
    .doc("Absolute redirects use the server's first name."),
    R::flag("port_in_redirect", HSL, |s| &mut s.core.port_in_redirect)
        .default("on")
        .doc("Absolute redirects carry the port."),
    R::flag("chunked_transfer_encoding", HSL, |s| {
        &mut s.core.chunked_transfer_encoding
    })
    .default("on")
    .doc("Allow chunked responses to HTTP/1.1 clients."),
    R::flag("msie_padding", HSL, |s| &mut s.core.msie_padding)
        .default("on")
        .doc("Pad error pages for MSIE."),
    R::flag("log_not_found", HSL, |s| &mut s.core.log_not_found)
        .default("on")
        .doc("Log files that are not found."),
    R::choice("satisfy", HSL, &["all", "any"], |s| &mut s.core.satisfy)
        .default("all")
        .doc("Whether all or any of the access checks must allow."),
    R::custom("error_log", HSL, Arity::AtLeast(1), set_error_log)
        .default("logs/error.log error")
        .doc("Where errors are logged, and from which level on."),
    R::notice(
        "sendfile",
        HSLI,
        Arity::Flag,
        "files are always sent without copying",
    ),
    R::notice(
        "tcp_nopush",
        HSL,
        Arity::Flag,
        "heads and bodies leave together anyway",
    ),
    R::notice("sendfile_max_chunk", HSL, Arity::One, TUNES_NGINX),
    R::notice(
        "aio",
        HSL,
        Arity::Between(1, 1),
        "file operations go through io_uring",
    ),
    R::notice(
        "aio_write",
        HSL,
        Arity::Flag,
        "file operations go through io_uring",
    ),
    R::notice("directio", HSL, Arity::One, TUNES_NGINX),
    R::notice("directio_alignment", HSL, Arity::One, TUNES_NGINX),
    R::notice("read_ahead", HSL, Arity::One, TUNES_NGINX),
    R::notice("output_buffers", HSL, Arity::Two, TUNES_NGINX),
    R::notice(
        "postpone_output",
        HSL,
        Arity::One,
        "heads and bodies leave together anyway",
    ),
    R::notice("send_lowat", HSL, Arity::One, TUNES_NGINX),
    R::notice("connection_pool_size", HS, Arity::One, TUNES_NGINX),
    R::notice("request_pool_size", HS, Arity::One, TUNES_NGINX),
    R::notice(
        "client_body_in_single_buffer",
        HSL,
        Arity::Flag,
        "always on",
    ),
    R::notice("types_hash_max_size", HSL, Arity::One, HASHES),
    R::notice("types_hash_bucket_size", HSL, Arity::One, HASHES),
    R::notice(
        "server_names_hash_max_size",
        Contexts::HTTP,
        Arity::One,
        HASHES,
    ),
    R::notice(
        "server_names_hash_bucket_size",
        Contexts::HTTP,
        Arity::One,
        HASHES,
    ),
    R::notice(
        "variables_hash_max_size",
        Contexts::HTTP,
        Arity::One,
        HASHES,
    ),
    R::notice(
        "variables_hash_bucket_size",
        Contexts::HTTP,
        Arity::One,
        HASHES,
    ),
    R::notice("open_file_cache", HSL, Arity::Between(1, 2), TUNES_NGINX),
    R::notice("open_file_cache_valid", HSL, Arity::One, TUNES_NGINX),
    R::notice("open_file_cache_min_uses", HSL, Arity::One, TUNES_NGINX),
    R::notice("open_file_cache_errors", HSL, Arity::Flag, TUNES_NGINX),
    R::notice(
        "log_subrequest",
        HSL,
        Arity::Flag,
        "there are no subrequests",
    ),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    client_header_timeout: Option<Duration>,
    client_header_buffer_size: Option<u64>,
    large_client_header_buffers: Option<(u64, u64)>,
    client_body_timeout: Option<Duration>,
    client_body_buffer_size: Option<u64>,
    client_body_temp_path: Option<PathBuf>,
    client_max_body_size: Option<u64>,
    send_timeout: Option<Duration>,
    keepalive_timeout: Option<(Duration, Option<Duration>)>,
    keepalive_requests: Option<u64>,
    keepalive_time: Option<Duration>,
    keepalive_disable: Option<(bool, bool)>,
    lingering_close: Option<usize>,
    lingering_time: Option<Duration>,
    lingering_timeout: Option<Duration>,
    reset_timedout_connection: Option<bool>,
    server_tokens: Option<usize>,
    tcp_nodelay: Option<bool>,
    default_type: Option<Word>,
    types: Option<Arc<Types>>,
    internal: bool,
    limit_rate: Option<Word>,
    limit_rate_after: Option<Word>,
    underscores_in_headers: Option<bool>,
    ignore_invalid_headers: Option<bool>,
    merge_slashes: Option<bool>,
    absolute_redirect: Option<bool>,
    server_name_in_redirect: Option<bool>,
    port_in_redirect: Option<bool>,
    chunked_transfer_encoding: Option<bool>,
    msie_padding: Option<bool>,
    log_not_found: Option<bool>,
    satisfy: Option<usize>,
    error_log: Option<Vec<TargetSpec>>,
}

/// What a server needs before a location is known. Sizes in bytes.
pub struct ClientConf {
    /// `client_header_timeout`, ms.
    pub header_timeout_ms: u64,
    /// `client_header_buffer_size`.
    pub header_buffer_size: usize,
    /// `large_client_header_buffers`: how many.
    pub large_buffers: usize,
    /// `large_client_header_buffers`: size of each.
    pub large_buffer_size: usize,
    /// `underscores_in_headers`.
    pub underscores_in_headers: bool,
    /// `ignore_invalid_headers`.
    pub ignore_invalid_headers: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
}

/// The compiled settings of a location. Times in ms, sizes in bytes.
pub struct Conf {
    /// `client_body_timeout`.
    pub client_body_timeout_ms: u64,
    /// `client_body_buffer_size`.
    pub client_body_buffer_size: usize,
    /// `client_body_temp_path`.
    pub client_body_temp_path: Arc<PathBuf>,
    /// `client_max_body_size`; 0: no limit.
    pub client_max_body_size: u64,
    /// `send_timeout`.
    pub send_timeout_ms: u64,
    /// `keepalive_timeout`; 0: no keepalive.
    pub keepalive_timeout_ms: u64,
    /// Second parameter of `keepalive_timeout`: value of the Keep-Alive field, seconds.
    pub keepalive_header_s: Option<u64>,
    /// `keepalive_requests`.
    pub keepalive_requests: u64,
    /// `keepalive_time`.
    pub keepalive_time_ms: u64,
    /// `keepalive_disable msie6` is in force.
    pub keepalive_disable_msie6: bool,
    /// `keepalive_disable safari` is in force.
    pub keepalive_disable_safari: bool,
    /// `lingering_close`.
    pub lingering_close: Lingering,
    /// `lingering_time`.
    pub lingering_time_ms: u64,
    /// `lingering_timeout`.
    pub lingering_timeout_ms: u64,
    /// `reset_timedout_connection`.
    pub reset_timedout_connection: bool,
    /// `server_tokens`: show the version.
    pub server_tokens: bool,
    /// `tcp_nodelay`.
    pub tcp_nodelay: bool,
    /// `default_type`.
    pub default_type: Box<[u8]>,
    /// `types`.
    pub types: Arc<Types>,
    /// `internal`.
    pub internal: bool,
    /// `limit_rate`, where one is set.
    pub limit_rate: Option<Template<Exchange>>,
    /// `limit_rate_after`, where one is set.
    pub limit_rate_after: Option<Template<Exchange>>,
    /// `absolute_redirect`.
    pub absolute_redirect: bool,
    /// `server_name_in_redirect`.
    pub server_name_in_redirect: bool,
    /// `port_in_redirect`.
    pub port_in_redirect: bool,
    /// `chunked_transfer_encoding`.
    pub chunked_transfer_encoding: bool,
    /// `msie_padding`.
    pub msie_padding: bool,
    /// `log_not_found`.
    pub log_not_found: bool,
    /// `satisfy any`.
    pub satisfy_any: bool,
    /// `error_log`.
    pub error_log: ErrorLog,
    /// `resolver`, where one is set.
    pub resolver: Option<crate::upstream::Resolver>,
}

/// `lingering_close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lingering {
    /// Close at once.
    Off,
    /// Read on if the client may still be sending.
    On,
    /// Always read on.
    Always,
}

/// MIME types by file name extension (lower case).
#[derive(Default)]
pub struct Types {
    by_extension: HashMap<Box<[u8]>, Box<[u8]>>,
}

impl Types {
    /// The type for the extension of `uri`, if it has one that is known.
    pub fn of(&self, uri: &[u8]) -> Option<&[u8]> {
        let name = &uri[memchr::memrchr(b'/', uri).map_or(0, |i| i + 1)..];
        let dot = memchr::memrchr(b'.', name)?;
        let mut lower = [0u8; 32];
        let extension = &name[dot + 1..];
        let lower = lower.get_mut(..extension.len())?;
        lower.copy_from_slice(extension);
        lower.make_ascii_lowercase();
        self.by_extension.get(&*lower).map(|t| &**t)
    }
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent;
            client_header_timeout, client_header_buffer_size, large_client_header_buffers,
            client_body_timeout, client_body_buffer_size, client_body_temp_path,
            client_max_body_size, send_timeout, keepalive_timeout, keepalive_requests,
            keepalive_time, keepalive_disable, lingering_close, lingering_time,
            lingering_timeout, reset_timedout_connection, server_tokens, tcp_nodelay,
            default_type, types, limit_rate, limit_rate_after, underscores_in_headers,
            ignore_invalid_headers, merge_slashes, absolute_redirect, server_name_in_redirect,
            port_in_redirect, chunked_transfer_encoding, msie_padding, log_not_found, satisfy,
            error_log);
    }

    /// What nginx compiles in for `http {}` where nothing is written.
    pub fn finish_root(&mut self) {
        if self.types.is_none() {
            let mut types = Types::default();
            for (extension, mime) in [
                ("html", "text/html"),
                ("gif", "image/gif"),
                ("jpg", "image/jpeg"),
            ] {
                types
                    .by_extension
                    .insert(extension.as_bytes().into(), mime.as_bytes().into());
            }
            self.types = Some(Arc::new(types));
        }
    }

    /// The part that a server needs before a location is known.
    pub fn compile_client(&self) -> ClientConf {
        let (large_buffers, large_buffer_size) =
            self.large_client_header_buffers.unwrap_or((4, 8 << 10));
        ClientConf {
            header_timeout_ms: ms(self.client_header_timeout, 60_000),
            header_buffer_size: self.client_header_buffer_size.unwrap_or(1 << 10) as usize,
            large_buffers: large_buffers as usize,
            large_buffer_size: large_buffer_size as usize,
            underscores_in_headers: self.underscores_in_headers.unwrap_or(false),
            ignore_invalid_headers: self.ignore_invalid_headers.unwrap_or(true),
            merge_slashes: self.merge_slashes.unwrap_or(true),
        }
    }

    /// The part that belongs to a location.
    pub fn compile(&self, c: &mut Compiler, resolver: &resolver::Raw) -> Result<Conf> {
        let (keepalive_timeout, keepalive_header) = self
            .keepalive_timeout
            .unwrap_or((Duration::from_secs(75), None));
        let (msie6, safari) = self.keepalive_disable.unwrap_or((true, false));
        let error_log = match &self.error_log {
            Some(specs) => ErrorLog::open(specs).map_err(ConfigError::bare)?,
            None => c.error_log.clone(),
        };
        let temp_path = match &self.client_body_temp_path {
            Some(path) => path.clone(),
            None => c.reader.prefix().join("client_body_temp"),
        };
        Ok(Conf {
            client_body_timeout_ms: ms(self.client_body_timeout, 60_000),
            client_body_buffer_size: self.client_body_buffer_size.unwrap_or(16 << 10) as usize,
            client_body_temp_path: Arc::new(temp_path),
            client_max_body_size: self.client_max_body_size.unwrap_or(1 << 20),
            send_timeout_ms: ms(self.send_timeout, 60_000),
            keepalive_timeout_ms: keepalive_timeout.as_millis() as u64,
            keepalive_header_s: keepalive_header.map(|d| d.as_secs()),
            keepalive_requests: self.keepalive_requests.unwrap_or(1000),
            keepalive_time_ms: ms(self.keepalive_time, 3_600_000),
            keepalive_disable_msie6: msie6,
            keepalive_disable_safari: safari,
            lingering_close: match self.lingering_close {
                Some(0) => Lingering::Off,
                Some(2) => Lingering::Always,
                _ => Lingering::On,
            },
            lingering_time_ms: ms(self.lingering_time, 30_000),
            lingering_timeout_ms: ms(self.lingering_timeout, 5_000),
            reset_timedout_connection: self.reset_timedout_connection.unwrap_or(false),
            server_tokens: self.server_tokens != Some(0),
            tcp_nodelay: self.tcp_nodelay.unwrap_or(true),
            default_type: match &self.default_type {
                Some(word) => word.bytes.clone(),
                None => b"text/plain".as_slice().into(),
            },
            types: self.types.clone().unwrap_or_default(),
            internal: self.internal,
            limit_rate: rate(c, "limit_rate", &self.limit_rate)?,
            limit_rate_after: rate(c, "limit_rate_after", &self.limit_rate_after)?,
            absolute_redirect: self.absolute_redirect.unwrap_or(true),
            server_name_in_redirect: self.server_name_in_redirect.unwrap_or(false),
            port_in_redirect: self.port_in_redirect.unwrap_or(true),
            chunked_transfer_encoding: self.chunked_transfer_encoding.unwrap_or(true),
            msie_padding: self.msie_padding.unwrap_or(true),
            log_not_found: self.log_not_found.unwrap_or(true),
            satisfy_any: self.satisfy == Some(1),
            error_log,
            resolver: resolver.compile(&mut c.resolvers)?,
        })
    }
}

/// A size that may hold variables; without them it must be one.
fn rate(c: &mut Compiler, name: &str, word: &Option<Word>) -> Result<Option<Template<Exchange>>> {
    let Some(word) = word else { return Ok(None) };
    let template = c.template(word)?;
    let is_size = |text: &[u8]| value::parse_size(text).is_some();
    if template.as_constant().is_some_and(|text| !is_size(text)) {
        let message = format!("\"{name}\" directive invalid value");
        return Err(ConfigError::at(word.span, message));
    }
    Ok(Some(template))
}

/// A duration in ms, or the default.
pub fn ms(value: Option<Duration>, default: u64) -> u64 {
    value.map_or(default, |d| d.as_millis() as u64)
}

fn set_large_buffers(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let (number, size) = (
        value::number(&node.args()[0])?,
        value::size(&node.args()[1])?,
    );
    if number == 0 {
        return Err(value::invalid_value(node));
    }
    value::once(
        &mut s.core.large_client_header_buffers,
        (number, size),
        node,
    )
}

fn set_body_temp_path(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    for level in &node.args()[1..] {
        if !(1..=3).contains(&value::number(level)?) {
            return Err(value::invalid_value(node));
        }
    }
    let path = reader.path(&node.args()[0]);
    value::once(&mut s.core.client_body_temp_path, path, node)
}

fn set_keepalive_timeout(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let header = node.args().get(1).map(value::time).transpose()?;
    let timeout = value::time(&node.args()[0])?;
    value::once(&mut s.core.keepalive_timeout, (timeout, header), node)
}

fn set_keepalive_disable(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let (mut msie6, mut safari) = (false, false);
    for word in node.args() {
        match &*word.bytes {
            b"none" => (msie6, safari) = (false, false),
            b"msie6" => msie6 = true,
            b"safari" => safari = true,
            _ => return Err(value::invalid_word(word)),
        }
    }
    value::once(&mut s.core.keepalive_disable, (msie6, safari), node)
}

fn set_internal(_: &mut Reader, s: &mut Scope, _: &Node) -> Result<()> {
    s.core.internal = true;
    Ok(())
}

fn set_types(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let mut types = Types::default();
    for entry in node.block.as_deref().unwrap_or(&[]) {
        for extension in entry.args() {
            let key = extension.bytes.to_ascii_lowercase().into_boxed_slice();
            types.by_extension.insert(key, entry.words[0].bytes.clone());
        }
    }
    value::once(&mut s.core.types, Arc::new(types), node)
}

fn set_error_log(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let spec = error_log::parse(reader, node)?;
    s.core.error_log.get_or_insert_default().push(spec);
    Ok(())
}
