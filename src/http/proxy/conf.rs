//! The `proxy_…` directives: what is written, how it is inherited, what it compiles to.

mod directives;
mod url;

use std::time::Duration;

use crate::config::{ConfigError, Result, Span, Word};
use crate::http::exchange::Exchange;
use crate::http::modules::core::ms;
use crate::http::scope::{Compiler, Scope};
use crate::http::token::{Token, TokenSet};
use crate::inherit;
use crate::ssl;
use crate::upstream::{Bind, RawBind};
use crate::vars::Template;

use super::buffer::Limits;
use super::rewrite_fields::{self, Rewrites};

pub use directives::{COMMON_ROWS, GRPC_COMMON_ROWS, GRPC_ROWS, GRPC_SSL_ROWS, ROWS, SSL_ROWS};
pub use url::{Scheme, Url, compile as compile_pass};

/// Bytes of a page of memory, after which nginx sizes its buffers.
const PAGE: u64 = 4 << 10;

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    /// `proxy_pass` or `grpc_pass`; not inherited, except into `if`.
    pub pass: Option<Word>,
    set_headers: Option<Vec<(Word, Word)>>,
    pass_headers: Option<Vec<Word>>,
    hide_headers: Option<Vec<Word>>,
    pass_request_headers: Option<bool>,
    pass_request_body: Option<bool>,
    pass_trailers: Option<bool>,
    method: Option<Word>,
    set_body: Option<Word>,
    http_version: Option<HttpVersion>,
    /// `proxy_redirect` and the cookie directives.
    pub rewrites: rewrite_fields::Raw,
    intercept_errors: Option<bool>,
    ignore_client_abort: Option<bool>,
    ignore_headers: Option<TokenSet>,
    bind: Option<Option<RawBind>>,
    buffering: Option<bool>,
    buffer_size: Option<u64>,
    buffers: Option<(u64, u64)>,
    busy_buffers_size: Option<u64>,
    request_buffering: Option<bool>,
    max_temp_file_size: Option<u64>,
    temp_file_write_size: Option<u64>,
    temp_path: Option<std::path::PathBuf>,
    limit_rate: Option<Word>,
    socket_keepalive: Option<bool>,
    connect_timeout: Option<Duration>,
    send_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
    next_upstream: Option<NextOn>,
    next_upstream_tries: Option<u64>,
    next_upstream_timeout: Option<Duration>,
    /// `proxy_ssl_…` or `grpc_ssl_…`
    pub ssl: ssl::upstream::Raw,
}

/// `proxy_http_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0, no keepalive.
    V10,
    /// HTTP/1.1.
    V11,
    /// HTTP/2.
    V2,
}

/// Which directives lead to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `proxy_pass` and what belongs to it.
    Proxy,
    /// `grpc_pass` and what belongs to it.
    Grpc,
}

/// The conditions of `proxy_next_upstream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextOn(pub u16);

impl NextOn {
    /// Connecting, sending or reading failed.
    pub const ERROR: Self = Self(1);
    /// Connecting, sending or reading took too long.
    pub const TIMEOUT: Self = Self(1 << 1);
    /// The answer was not HTTP.
    pub const INVALID_HEADER: Self = Self(1 << 2);
    /// Also requests that change things, although they were sent already.
    pub const NON_IDEMPOTENT: Self = Self(1 << 3);
    /// Status 500.
    pub const HTTP_500: Self = Self(1 << 4);
    /// Status 502.
    pub const HTTP_502: Self = Self(1 << 5);
    /// Status 503.
    pub const HTTP_503: Self = Self(1 << 6);
    /// Status 504.
    pub const HTTP_504: Self = Self(1 << 7);
    /// Status 403.
    pub const HTTP_403: Self = Self(1 << 8);
    /// Status 404.
    pub const HTTP_404: Self = Self(1 << 9);
    /// Status 429.
    pub const HTTP_429: Self = Self(1 << 10);
    /// Never.
    pub const OFF: Self = Self(1 << 15);

    /// Whether one of `other`'s conditions is on.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The condition for a response status; nothing for most.
    pub fn of_status(status: u16) -> Self {
        match status {
            500 => Self::HTTP_500,
            502 => Self::HTTP_502,
            503 => Self::HTTP_503,
            504 => Self::HTTP_504,
            403 => Self::HTTP_403,
            404 => Self::HTTP_404,
            429 => Self::HTTP_429,
            _ => Self(0),
        }
    }
}

/// The compiled `proxy_…` settings of a location. Times in ms, sizes in bytes.
pub struct Conf {
    /// Lines of the request that the configuration makes, in order.
    pub set_headers: Vec<SetHeader>,
    /// Client fields that are not passed, as far as they have a token.
    pub skip: TokenSet,
    /// Client fields that are not passed and have no token; lower case.
    pub skip_names: Vec<Box<[u8]>>,
    /// Response fields that are hidden, as far as they have a token.
    pub hide: TokenSet,
    /// Response fields that are hidden and have no token; lower case.
    pub hide_names: Vec<Box<[u8]>>,
    /// `proxy_pass_header Server`.
    pub pass_server: bool,
    /// `proxy_pass_header Date`.
    pub pass_date: bool,
    /// `proxy_pass_request_headers`.
    pub pass_request_headers: bool,
    /// `proxy_pass_request_body`.
    pub pass_request_body: bool,
    /// `proxy_pass_trailers`; with `grpc_pass` always.
    pub pass_trailers: bool,
    /// `proxy_method`.
    pub method: Option<Template<Exchange>>,
    /// `proxy_set_body`.
    pub set_body: Option<Template<Exchange>>,
    /// `proxy_http_version`; with `grpc_pass` HTTP/2.
    pub http_version: HttpVersion,
    /// `grpc_pass` is what leads there.
    pub grpc: bool,
    /// `proxy_redirect` and the cookie directives.
    pub rewrites: Rewrites,
    /// `proxy_intercept_errors`.
    pub intercept_errors: bool,
    /// `proxy_ignore_client_abort`.
    pub ignore_client_abort: bool,
    /// `proxy_ignore_headers`.
    pub ignore_headers: TokenSet,
    /// `proxy_bind`
    pub bind: Option<Bind<Exchange>>,
    /// `proxy_buffering`.
    pub buffering: bool,
    /// `proxy_buffer_size`.
    pub buffer_size: usize,
    /// How much of a response may wait for a slow client.
    pub buffers: Limits,
    /// `proxy_request_buffering`.
    pub request_buffering: bool,
    /// `proxy_temp_path`.
    pub temp_path: std::path::PathBuf,
    /// `proxy_limit_rate`.
    pub limit_rate: Option<Template<Exchange>>,
    /// `proxy_socket_keepalive`.
    pub socket_keepalive: bool,
    /// `proxy_connect_timeout`.
    pub connect_timeout_ms: u64,
    /// `proxy_send_timeout`.
    pub send_timeout_ms: u64,
    /// `proxy_read_timeout`.
    pub read_timeout_ms: u64,
    /// `proxy_next_upstream`.
    pub next_upstream: NextOn,
    /// `proxy_next_upstream_tries`; 0: no limit.
    pub tries: u32,
    /// `proxy_next_upstream_timeout`; 0: no limit.
    pub next_timeout_ms: u64,
    /// `proxy_ssl_…` or `grpc_ssl_…`, where the upstream may be one with TLS.
    pub ssl: Option<Box<ssl::upstream::Conf<Exchange>>>,
}

/// One line of the request to the upstream.
pub enum SetHeader {
    /// Always the same, line end included.
    Constant(Box<[u8]>),
    /// `Name: ` and a value; nothing is sent where the value is empty.
    Variable(Box<[u8]>, Template<Exchange>),
}

/// The compiled `proxy_pass` or `grpc_pass`.
pub struct Pass {
    /// Where to.
    pub to: To,
    /// Which of the two it is.
    pub side: Side,
    /// Length of the location's name, which the URI part of `proxy_pass` replaces.
    pub replaced: usize,
    /// What `keepalive … local` tells apart: the location.
    pub tag: u64,
}

/// Where `proxy_pass` leads.
pub enum To {
    /// A group that is known when the configuration is read.
    Group {
        /// Its id.
        group: u32,
        /// How the URL begins.
        scheme: Scheme,
        /// `$proxy_host`.
        host: Box<[u8]>,
        /// `$proxy_port`.
        port: u16,
        /// The URI part, if there is one.
        uri: Option<Box<[u8]>>,
    },
    /// A URL with variables.
    Url(Template<Exchange>),
}

impl Raw {
    /// Fills what is not written here from the enclosing block. `into_if`: the block is an `if`,
    /// which also inherits `proxy_pass`.
    pub fn inherit(&mut self, parent: &Raw, into_if: bool) {
        if into_if && self.pass.is_none() {
            self.pass = parent.pass.clone();
        }
        self.rewrites.inherit(&parent.rewrites);
        self.ssl.inherit(&parent.ssl);
        inherit!(self, parent;
            set_headers, pass_headers, hide_headers, pass_request_headers, pass_request_body,
            pass_trailers, method, set_body, http_version, intercept_errors, ignore_client_abort,
            ignore_headers, bind, buffering, buffer_size, buffers, busy_buffers_size,
            request_buffering, max_temp_file_size, temp_file_write_size, temp_path, limit_rate,
            socket_keepalive, connect_timeout, send_timeout, read_timeout, next_upstream,
            next_upstream_tries, next_upstream_timeout);
    }

    /// The compiled settings.
    pub fn compile(&self, c: &mut Compiler, scope: &Scope, side: Side) -> Result<Conf> {
        let is_grpc = side == Side::Grpc;
        let buffers = match side {
            Side::Proxy => self.compile_buffers(scope)?,
            Side::Grpc => Limits::UNBUFFERED,
        };
        let mut skip = TokenSet::default();
        let mut skip_names = Vec::new();
        let set_headers = self.compile_set_headers(c, &mut skip, &mut skip_names)?;
        let (hide, hide_names) = self.compile_hidden();
        let passed = |name: &str| {
            let list = self.pass_headers.iter().flatten();
            list.into_iter()
                .any(|w| w.bytes.eq_ignore_ascii_case(name.as_bytes()))
        };
        let mut template = |word: &Option<Word>| word.as_ref().map(|w| c.template(w)).transpose();
        let (method, set_body, limit_rate) = (
            template(&self.method)?,
            template(&self.set_body)?,
            template(&self.limit_rate)?,
        );
        let bind = self.bind.iter().flatten().next();
        Ok(Conf {
            set_headers,
            skip,
            skip_names,
            hide,
            hide_names,
            pass_server: passed("server"),
            pass_date: passed("date"),
            pass_request_headers: self.pass_request_headers.unwrap_or(true),
            pass_request_body: self.pass_request_body.unwrap_or(true),
            pass_trailers: self.pass_trailers.unwrap_or(is_grpc),
            method,
            set_body,
            http_version: self.http_version_of(side),
            grpc: is_grpc,
            rewrites: self.rewrites.compile(c, scope)?,
            intercept_errors: self.intercept_errors.unwrap_or(false),
            ignore_client_abort: self.ignore_client_abort.unwrap_or(false),
            ignore_headers: self.ignore_headers.unwrap_or_default(),
            bind: bind.map(|bind| bind.compile(&mut c.vars)).transpose()?,
            buffering: self.buffering.unwrap_or(!is_grpc),
            buffer_size: self.buffer_size.unwrap_or(PAGE) as usize,
            buffers,
            request_buffering: self.request_buffering.unwrap_or(!is_grpc),
            temp_path: match &self.temp_path {
                Some(path) => path.clone(),
                None => c.reader.prefix().join("proxy_temp"),
            },
            limit_rate,
            socket_keepalive: self.socket_keepalive.unwrap_or(false),
            connect_timeout_ms: ms(self.connect_timeout, 60_000),
            send_timeout_ms: ms(self.send_timeout, 60_000),
            read_timeout_ms: ms(self.read_timeout, 60_000),
            next_upstream: self
                .next_upstream
                .unwrap_or(NextOn(NextOn::ERROR.0 | NextOn::TIMEOUT.0)),
            tries: self
                .next_upstream_tries
                .unwrap_or(0)
                .min(u64::from(u32::MAX)) as u32,
            next_timeout_ms: ms(self.next_upstream_timeout, 0),
            ssl: self.compile_ssl(c, side)?,
        })
    }

    /// How to speak TLS, where `proxy_pass` may ask for it. As in nginx, files are not looked at
    /// elsewhere.
    fn compile_ssl(
        &self,
        c: &mut Compiler,
        side: Side,
    ) -> Result<Option<Box<ssl::upstream::Conf<Exchange>>>> {
        let may_be_secure = |word: &&Word| {
            let url = Url::parse(&word.bytes, side);
            word.bytes.contains(&b'$') || url.is_ok_and(|url| url.scheme.is_secure())
        };
        if self.pass.as_ref().filter(may_be_secure).is_none() {
            return Ok(None);
        }
        let mut compiler = ssl::Compiler {
            reader: c.reader,
            vars: &mut c.vars,
            common: &mut c.ssl,
        };
        let prefix = match side {
            Side::Proxy => "proxy_ssl",
            Side::Grpc => "grpc_ssl",
        };
        let alpn: &[&[u8]] = match self.http_version_of(side) {
            HttpVersion::V2 => &[b"h2"],
            _ => &[],
        };
        let conf = self.ssl.compile(prefix, alpn, &mut compiler)?;
        Ok(Some(Box::new(conf)))
    }

    fn http_version_of(&self, side: Side) -> HttpVersion {
        match side {
            Side::Proxy => self.http_version.unwrap_or(HttpVersion::V11),
            Side::Grpc => HttpVersion::V2,
        }
    }

    /// The buffers, which must fit together in nginx's way.
    fn compile_buffers(&self, scope: &Scope) -> Result<Limits> {
        let (number, size) = self.buffers.unwrap_or((8, PAGE));
        let first = self.buffer_size.unwrap_or(PAGE);
        let largest = first.max(size);
        let busy = self.busy_buffers_size.unwrap_or(2 * largest);
        let write = self.temp_file_write_size.unwrap_or(2 * largest);
        let file = self.max_temp_file_size.unwrap_or(1 << 30);
        let least = "equal to or greater than the maximum of the value of \"proxy_buffer_size\" \
                     and one of the \"proxy_buffers\"";
        let message = if busy < largest {
            format!("\"proxy_busy_buffers_size\" must be {least}")
        } else if busy > number.saturating_sub(1).saturating_mul(size) {
            "\"proxy_busy_buffers_size\" must be less than the size of all \"proxy_buffers\" \
             minus one buffer"
                .into()
        } else if write < largest {
            format!("\"proxy_temp_file_write_size\" must be {least}")
        } else if file != 0 && file < largest {
            format!(
                "\"proxy_max_temp_file_size\" must be equal to zero to disable temporary files \
                 usage or must be {least}"
            )
        } else {
            return Ok(Limits {
                memory: number.saturating_mul(size).saturating_add(first) as usize,
                busy: busy as usize,
                file,
                write: write as usize,
            });
        };
        let place = self.pass.as_ref().or(scope.place.name.as_ref());
        Err(match place {
            Some(word) => ConfigError::at(word.span, message),
            None => ConfigError::bare(message),
        })
    }

    /// The lines that the configuration makes. What they set, and what never crosses a proxy, is
    /// collected in `skip`: client fields of these names are not passed.
    fn compile_set_headers(
        &self,
        c: &mut Compiler,
        skip: &mut TokenSet,
        skip_names: &mut Vec<Box<[u8]>>,
    ) -> Result<Vec<SetHeader>> {
        for token in [
            Token::Host,
            Token::Connection,
            Token::ContentLength,
            Token::TransferEncoding,
            Token::Te,
            Token::KeepAlive,
            Token::Expect,
            Token::Upgrade,
            Token::ProxyConnection,
        ] {
            skip.insert(token);
        }
        let mut lines = Vec::new();
        let written = self.set_headers.as_deref().unwrap_or(&[]);
        let is_set = |name: &str| {
            written
                .iter()
                .any(|(n, _)| n.bytes.eq_ignore_ascii_case(name.as_bytes()))
        };
        if !is_set("host") {
            let value = c.template(&Word::new("$proxy_host", Span::NOWHERE))?;
            lines.push(SetHeader::Variable(b"Host: ".as_slice().into(), value));
        }
        for (name, value) in written {
            let token = Token::from_name(&name.bytes);
            if token == Token::Other {
                skip_names.push(name.bytes.to_ascii_lowercase().into());
            } else {
                skip.insert(token);
            }
            let mut prefix = name.bytes.to_vec();
            prefix.extend_from_slice(b": ");
            let template = c.template(value)?;
            match template.as_constant() {
                Some(b"") => {}
                Some(text) => {
                    prefix.extend_from_slice(text);
                    prefix.extend_from_slice(b"\r\n");
                    lines.push(SetHeader::Constant(prefix.into()));
                }
                None => lines.push(SetHeader::Variable(prefix.into(), template)),
            }
        }
        if self.http_version == Some(HttpVersion::V10) && !is_set("connection") {
            lines.push(SetHeader::Constant(
                b"Connection: close\r\n".as_slice().into(),
            ));
        }
        Ok(lines)
    }

    fn compile_hidden(&self) -> (TokenSet, Vec<Box<[u8]>>) {
        let mut hide = TokenSet::default();
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let defaults = [
            "Date",
            "Server",
            "X-Pad",
            "X-Accel-Expires",
            "X-Accel-Redirect",
            "X-Accel-Limit-Rate",
            "X-Accel-Buffering",
            "X-Accel-Charset",
        ];
        let is_passed = |name: &[u8]| {
            self.pass_headers
                .iter()
                .flatten()
                .any(|w| w.bytes.eq_ignore_ascii_case(name))
        };
        let written = self.hide_headers.iter().flatten().map(|w| &*w.bytes);
        let defaults = defaults
            .iter()
            .map(|d| d.as_bytes())
            .filter(|d| !is_passed(d));
        for name in defaults.chain(written) {
            match Token::from_name(name) {
                Token::Other => names.push(name.to_ascii_lowercase().into()),
                token => hide.insert(token),
            }
        }
        (hide, names)
    }
}
