//! One request and its response: what every phase, module and variable works on.
//!
//! An `Exchange` belongs to one client connection and is reused for each of its requests, so that
//! a request in steady state allocates nothing: `begin` clears the fields and keeps the buffers.
//! It is version-neutral: nothing here says how the bytes came or how they will leave.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::proxy_protocol::ProxyProtocol;
pub use crate::base::remote::Remote;
use crate::limits::conn::Counted;
use crate::observe::ErrorLog;
use crate::ssl::Secured;
use crate::upstream::{Group, Peer};
use crate::vars::{Store, Subject};

use super::body::RequestBody;
use super::conf::{Content, HttpConf, Location, Server};
use super::h1::connection::Options;
use super::h1::encode;
use super::h1::framing::Framing;
use super::h1::head::{Field, Fields, RequestHead, ResponseHead};
use super::local::Local;
use super::message::{Method, Range32};
use super::modules::{gzip, realip};
use super::proxy;
use super::route;
use super::token::{Token, TokenSet};

/// The configuration that one request works with, as one worker holds it.
///
/// Cloned by reference count without atomics; a tunnel keeps the generation it began with.
pub struct Generation {
    /// The compiled `http {}` block, shared by all workers.
    pub http: Arc<HttpConf>,
}

impl Generation {
    /// Wraps a compiled configuration.
    pub fn new(http: Arc<HttpConf>) -> Self {
        Self { http }
    }

    /// The location with this id.
    pub fn location(&self, id: u32) -> &Location {
        &self.http.locations[id as usize]
    }

    /// The server with this id.
    pub fn server(&self, id: u32) -> &Server {
        &self.http.servers[id as usize]
    }
}

/// Facts about the client's connection that hold for all of its requests.
#[derive(Clone)]
pub struct ClientInfo {
    /// `$connection`: a number that is unique within the process.
    pub number: u64,
    /// `$connection_requests`: the requests begun on this connection, this one included.
    pub requests: u64,
    /// Precise monotonic ms at which the connection was accepted.
    pub accepted_at: u64,
    /// The peer of the socket.
    pub remote: Remote,
    /// `$remote_addr` as text.
    pub remote_text: String,
    /// Our end of the connection; `None` for unix sockets.
    pub local: Option<SocketAddr>,
    /// The listening address it came to.
    pub listen: Rc<ListenAddr>,
    /// The PROXY protocol header, where `listen … proxy_protocol` asked for one.
    pub proxy_protocol: Option<Box<ProxyProtocol>>,
    /// What TLS has come to, on a connection with it.
    pub tls: Option<Rc<Secured>>,
}

impl ClientInfo {
    /// `$scheme`
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// The request half.
#[derive(Default)]
pub struct Request {
    /// The head's bytes as received; `head` and `host` are ranges of it.
    pub buf: Vec<u8>,
    /// The parsed index over `buf`.
    pub head: RequestHead,
    /// `$host`: lower case, no port; from the request line or the Host field. Empty: use the
    /// server's name.
    pub host: Vec<u8>,
    /// `$uri`: decoded and normalised; changed by rewrites and internal redirects.
    pub uri: Vec<u8>,
    /// `$args`, without the question mark.
    pub args: Vec<u8>,
    /// The URI is still what the client sent (no rewrite changed it), so that `proxy_pass` without
    /// a URI part may send the original bytes.
    pub uri_valid: bool,
    /// How the body is framed.
    pub framing: Framing,
    /// Where the body is.
    pub body: RequestBody,
    /// What an upstream was sent of a body that is passed on while it arrives, and did not look at.
    pub refused: Vec<u8>,
    /// Bytes of head and body read from the client: `$request_length`.
    pub length: u64,
    /// Precise monotonic ms of the first byte.
    pub started_at: u64,
    /// Internal redirects left before "rewrite or internal redirection cycle" (nginx: 10).
    pub redirects_left: u8,
    /// The exchange was redirected internally, so `internal` locations are open to it.
    pub internal: bool,
    /// It was there before the answer to the request before it was: `$pipe`.
    pub pipelined: bool,
    /// `$request_id`, once it was asked for.
    pub id: Option<[u8; 16]>,
    /// The method, where an `error_page` redirect turned it into GET.
    pub method_override: Option<Method>,
    /// What the `Connection` field asked for.
    pub options: Options,
    /// The path and query as sent, as a range of `buf`.
    pub path: Range32,
    /// `try_files` found a file below the alias of a regex location: the URI follows the alias.
    pub uri_behind_alias: bool,
    /// `rewrite … break` changed the URI in this location: the URI part of `proxy_pass` is moot.
    pub rewritten_here: bool,
}

impl Request {
    /// The method as it is to be acted upon.
    pub fn method(&self) -> &[u8] {
        match self.method_override.and_then(Method::name) {
            Some(name) => name.as_bytes(),
            None => self.head.method_name.of(&self.buf),
        }
    }

    /// Makes a GET without fields and body of a request that was refused, so that nothing of
    /// what was wrong with it reaches an upstream.
    pub fn forget_unsound(&mut self) {
        self.head.fields.clear();
        if !self.is_head() {
            self.method_override = Some(Method::Get);
        }
        self.framing = Framing::None;
        self.body = RequestBody::None;
        self.uri_valid = false;
        if self.uri.is_empty() {
            self.uri.push(b'/');
        }
    }

    /// The method, as far as it is one the gateway knows.
    pub fn method_kind(&self) -> Method {
        self.method_override.unwrap_or(self.head.method)
    }

    /// Path and query as the client sent them, without scheme and authority.
    pub fn origin_form(&self) -> &[u8] {
        self.path.of(&self.buf)
    }

    /// Whether the answer has no body because the method is HEAD.
    pub fn is_head(&self) -> bool {
        self.method_kind() == Method::Head
    }

    /// The first field with this token.
    pub fn field(&self, token: Token) -> Option<&[u8]> {
        self.head.fields.find(token).map(|f| f.value.of(&self.buf))
    }

    /// The request target exactly as sent: `$request_uri`.
    pub fn target(&self) -> &[u8] {
        self.head.target.of(&self.buf)
    }

    /// The target up to the question mark, as it was sent.
    pub fn target_path(&self) -> &[u8] {
        let target = self.target();
        &target[..memchr::memchr(b'?', target).unwrap_or(target.len())]
    }

    /// The whole request line without its line end: `$request`.
    pub fn line(&self) -> &[u8] {
        self.head.line.of(&self.buf)
    }
}

/// Where the response comes from, for variables and the log.
#[derive(Default)]
pub struct Response {
    /// `$status`; 0 while nothing has been decided.
    pub status: u16,
    /// Reason phrase of the upstream, as a range of `buf`, where it is to be passed on.
    pub reason: Option<Range32>,
    /// Bytes that the ranges of `upstream` and `fields` point into.
    pub buf: Vec<u8>,
    /// The head as the upstream sent it (`$upstream_http_…`).
    pub upstream: ResponseHead,
    /// What the upstream sent after its body (`$upstream_trailer_…`); empty until then.
    pub trailers: Fields,
    /// They are passed on to the client.
    pub passes_trailers: bool,
    /// The fields to send, except those that the encoder writes itself (Server, Date,
    /// Content-Type, Content-Length, Connection, Transfer-Encoding …).
    pub fields: Vec<Field>,
    /// `Content-Type` to send.
    pub content_type: Option<Range32>,
    /// Length of the body to send, if known beforehand.
    pub content_length: Option<u64>,
    /// `Last-Modified` is in `fields`; filters that change the body weaken or drop validators.
    pub body_bytes_sent: u64,
    /// `$bytes_sent`: head included.
    pub bytes_sent: u64,
    /// The head is on its way: from now on an error can only cut the connection.
    pub head_sent: bool,
    /// The client's framing of the body was sent to its end: `$request_completion` is "OK".
    pub complete: bool,
    /// The body is sent in chunked coding: `$sent_http_transfer_encoding`.
    pub chunked: bool,
    /// The server name and date come from the upstream (`proxy_pass_header`).
    pub keep_server: bool,
    /// See `keep_server`.
    pub keep_date: bool,
    /// Bytes per second to the client, 0 for no limit (`limit_rate`, X-Accel-Limit-Rate).
    pub limit_rate: u64,
    /// `error_page` was applied already (it is not applied recursively).
    pub error_page_applied: bool,
    /// The status that `error_page` decided on, whatever its target answers with.
    pub status_override: Option<u16>,
    /// What compression made of the body.
    pub gzip: Option<gzip::Totals>,
    /// Fields of an upstream's answer that goes on elsewhere (X-Accel-Redirect, `error_page`) which
    /// the final answer gets too.
    pub carried: Vec<Carried>,
}

/// A field that outlives the answer it came with.
pub struct Carried {
    token: Token,
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Response {
    /// Copies `name: value` into the buffer and adds it to the fields to send.
    pub fn push_field(&mut self, token: Token, name: &[u8], value: &[u8]) {
        let field = self.store_field(token, name, value);
        self.fields.push(field);
    }

    /// Keeps those fields of the upstream's answer that are in `tokens`, for whatever answers now.
    pub fn carry(&mut self, tokens: TokenSet) {
        for field in self
            .upstream
            .fields
            .iter()
            .filter(|f| tokens.contains(f.token))
        {
            self.carried.push(Carried {
                token: field.token,
                name: field.name.of(&self.buf).into(),
                value: field.value.of(&self.buf).into(),
            });
        }
    }

    /// Adds what was carried to the fields to send, before the answer's own.
    pub fn add_carried(&mut self) {
        let carried = std::mem::take(&mut self.carried);
        let own = std::mem::take(&mut self.fields);
        for field in &carried {
            let is_own = own.iter().any(|o| o.token == Token::AcceptRanges);
            match field.token {
                Token::ContentType => {}
                Token::AcceptRanges if is_own => {}
                token => self.push_field(token, &field.name, &field.value),
            }
        }
        self.fields.extend(own);
        self.carried = carried;
    }

    /// Sets the Content-Type of an answer made here: the carried one, else what `default` says.
    pub fn set_local_type(&mut self, default: &[u8]) {
        let carried = self.carried.iter().find(|c| c.token == Token::ContentType);
        self.content_type = match carried {
            Some(carried) => {
                let start = self.buf.len();
                self.buf.extend_from_slice(&carried.value);
                Some(Range32::new(start, self.buf.len()))
            }
            None if default.is_empty() => None,
            None => Some(self.store(default)),
        };
    }

    /// Copies `name: value` into the buffer without adding it to the fields. What would end the
    /// line in a value made of variables becomes a space.
    pub fn store_field(&mut self, token: Token, name: &[u8], value: &[u8]) -> Field {
        let start = self.buf.len();
        self.buf.extend_from_slice(name);
        self.buf.extend_from_slice(b": ");
        let value_start = self.buf.len();
        self.buf.extend_from_slice(value);
        encode::disarm(&mut self.buf[value_start..]);
        Field::new(
            Range32::new(start, start + name.len()),
            Range32::new(value_start, self.buf.len()),
            token,
        )
    }

    /// Copies `value`, made safe as above, into the buffer and returns its range.
    pub fn store(&mut self, value: &[u8]) -> Range32 {
        let start = self.buf.len();
        self.buf.extend_from_slice(value);
        encode::disarm(&mut self.buf[start..]);
        Range32::new(start, self.buf.len())
    }

    /// Takes over the fields which the upstream sent after its body.
    pub fn store_trailers(&mut self, buf: &[u8], trailers: &Fields) {
        let start = self.buf.len();
        self.buf.extend_from_slice(buf);
        for field in trailers {
            let (name, value) = (field.name.shifted(start), field.value.shifted(start));
            self.trailers.push(&self.buf, name, value);
        }
    }

    /// Names and values of the trailers for the client.
    pub fn passed_trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fields = self.trailers.iter().filter(|_| self.passes_trailers);
        fields
            .filter(|field| !field.is_hop_by_hop() && !field.token.forbidden_in_trailer())
            .map(|field| (field.name.of(&self.buf), field.value.of(&self.buf)))
    }

    /// Sets the Content-Type to send.
    pub fn set_content_type(&mut self, value: &[u8]) {
        self.content_type = Some(self.store(value));
    }

    /// The first field of the upstream's head with this token.
    pub fn upstream_field(&self, token: Token) -> Option<&[u8]> {
        self.upstream.fields.value(&self.buf, token)
    }

    /// The first field to send with this token.
    pub fn field(&self, token: Token) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|f| f.token == token)
            .map(|f| f.value.of(&self.buf))
    }

    /// Forgets everything that a former attempt put here; keeps counters and buffers.
    pub fn clear_head(&mut self) {
        self.clear_answer();
        self.buf.clear();
        self.upstream.clear();
        self.trailers.clear();
    }

    /// Forgets what was to be sent. What the last upstream said stays known to variables.
    pub fn clear_answer(&mut self) {
        self.status = 0;
        self.reason = None;
        self.fields.clear();
        self.content_type = None;
        self.content_length = None;
        self.passes_trailers = false;
        self.chunked = false;
        self.keep_server = false;
        self.keep_date = false;
    }
}

/// What one attempt at one peer looked like: `$upstream_addr`, `$upstream_status` and friends.
#[derive(Clone, Default)]
pub struct UpstreamState {
    /// The peer as it is written in the configuration, or `host:port` of the resolved address.
    pub peer: Option<Arc<Peer>>,
    /// The group in which no peer could be chosen; goes for the name of the peer then.
    pub group: Option<Arc<Group>>,
    /// Status of the answer, or 502/504 where there was none; 0 if the attempt still runs.
    pub status: u16,
    /// Precise monotonic ms at which the attempt began.
    pub started_ms: u64,
    /// ms from the start of the attempt until the connection stood.
    pub connect_ms: Option<u64>,
    /// ms until the whole response head was there.
    pub header_ms: Option<u64>,
    /// ms until the response was read.
    pub response_ms: Option<u64>,
    /// Bytes of the response body.
    pub response_length: u64,
    /// Bytes sent to the peer.
    pub bytes_sent: u64,
    /// Bytes received from the peer.
    pub bytes_received: u64,
    /// An internal redirect followed, so that the log separates what comes next with " : ".
    pub redirected_after: bool,
}

impl UpstreamState {
    /// What `$upstream_addr` and the log call the peer.
    pub fn name(&self) -> Option<&str> {
        match (&self.peer, &self.group) {
            (Some(peer), _) => Some(&peer.conf.name),
            (None, group) => group.as_ref().map(|group| group.name()),
        }
    }
}

/// One request and its response: 1.1 KiB and the buffers, some hundred bytes each for usual
/// requests. A connection that is idle for long has none.
pub struct Exchange {
    /// The worker this exchange runs on.
    pub local: Rc<Local>,
    /// The configuration in force for this request.
    pub generation: Rc<Generation>,
    /// Index of the listening address in the configuration.
    pub listen: u32,
    /// The server of what comes before a request names its host.
    pub first_server: u32,
    /// Id of the virtual server.
    pub server: u32,
    /// Id of the location in force (the server's root before a location is found).
    pub location: u32,
    /// The connection.
    pub client: ClientInfo,
    /// The peer of the socket, while the request goes by the address of `set_real_ip_from`.
    pub realip: realip::Peer,
    /// What `limit_conn` counts the request for.
    pub limit_conn: Counted,
    /// The request half.
    pub request: Request,
    /// The response half.
    pub response: Response,
    /// The attempts at upstream peers, oldest first.
    pub upstream: Vec<UpstreamState>,
    /// How the URL of the `proxy_pass` that runs begins.
    pub proxy_scheme: proxy::conf::Scheme,
    /// `$proxy_host`, set when a `proxy_pass` runs.
    pub proxy_host: Vec<u8>,
    /// `$proxy_port`, set when a `proxy_pass` runs.
    pub proxy_port: u16,
    /// URI that a `proxy_pass` with variables gives; empty: the request's own.
    pub proxy_uri: Vec<u8>,
    /// Index of the upstream group in use.
    pub group: u32,
    /// The method of the request to the upstream.
    pub upstream_method: Method,
    /// The next attempt must not take an idle connection.
    pub fresh_connection: bool,
    /// The response must not wait in any buffer (`proxy_buffering off`).
    pub unbuffered: bool,
    /// Slots of user-defined variables and captures of the last regular expression.
    pub store: Store,
    /// The connection may serve another request after this one.
    pub keepalive: bool,
    /// What the exchange was doing, for log lines: "while connecting to upstream".
    pub doing: &'static str,
}

impl Subject for Exchange {
    fn store(&self) -> &Store {
        &self.store
    }

    fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    fn uninitialized(&mut self, name: &str) {
        let location = self.generation.location(self.location);
        if location.rewrite.warn_uninitialized {
            self.log(
                crate::observe::Level::Warn,
                format_args!("using uninitialized \"{name}\" variable"),
            );
        }
    }
}

impl Exchange {
    /// An exchange for a new connection, not yet at a request.
    pub fn new(local: Rc<Local>, client: ClientInfo) -> Self {
        let generation = local.generation();
        // An address that the newest configuration does not listen on has no server of its own
        // there: the connections it accepted last are served by the first one.
        let listen = generation.http.listen_at(&client.listen).unwrap_or(0);
        let server = generation.http.listens[listen as usize].default_server;
        let location = generation.server(server).root;
        let mut ex = Self {
            local,
            generation,
            listen,
            first_server: server,
            server,
            location,
            client,
            realip: realip::Peer::default(),
            limit_conn: Counted::default(),
            request: Request::default(),
            response: Response::default(),
            upstream: Vec::new(),
            proxy_scheme: proxy::conf::Scheme::default(),
            proxy_host: Vec::new(),
            proxy_port: 0,
            proxy_uri: Vec::new(),
            group: 0,
            upstream_method: Method::default(),
            fresh_connection: false,
            unbuffered: false,
            store: Store::new(),
            keepalive: false,
            doing: "",
        };
        ex.find_first_server();
        ex
    }

    /// After a change of the configuration, on a connection with TLS.
    fn find_first_server(&mut self) {
        if let Some(tls) = self.client.tls.clone() {
            route::choose_first_server(self, &tls.session.server_name);
        } else {
            let listen = &self.generation.http.listens[self.listen as usize];
            self.first_server = listen.default_server;
        }
    }

    /// Makes ready for the next request on the same connection: takes the newest configuration,
    /// clears what belonged to the request before, keeps the buffers. The bytes in `request.buf`
    /// are the caller's to shift.
    pub fn begin(&mut self) {
        let newest = self.local.generation();
        if !Rc::ptr_eq(&newest, &self.generation) {
            self.adopt(newest);
        } else {
            self.store.reset();
        }
        if let RequestBody::Memory(bytes) = std::mem::take(&mut self.request.body) {
            self.store.give_back(bytes);
        }
        self.server = self.first_server;
        self.location = self.generation.server(self.server).root;
        let request = &mut self.request;
        request.head.clear();
        request.host.clear();
        request.uri.clear();
        request.args.clear();
        request.uri_valid = true;
        request.framing = Framing::None;
        request.refused.clear();
        request.length = 0;
        request.redirects_left = 10;
        request.internal = false;
        request.pipelined = false;
        request.id = None;
        request.method_override = None;
        request.rewritten_here = false;
        request.uri_behind_alias = false;
        self.response.clear_head();
        self.response.body_bytes_sent = 0;
        self.response.bytes_sent = 0;
        self.response.head_sent = false;
        self.response.complete = false;
        self.response.limit_rate = 0;
        self.response.error_page_applied = false;
        self.response.status_override = None;
        self.response.gzip = None;
        self.response.carried.clear();
        self.upstream.clear();
        self.proxy_host.clear();
        self.keepalive = false;
        self.doing = "";
    }

    /// Goes over to a newer configuration, unless that no longer listens on this address.
    fn adopt(&mut self, newest: Rc<Generation>) {
        self.store.reset();
        if let Some(listen) = newest.http.listen_at(&self.client.listen) {
            self.listen = listen;
            self.generation = newest;
            // The slots mean other variables now.
            self.store = Store::new();
            self.find_first_server();
        }
    }

    /// The configuration of the location in force, with its owner, so that the exchange itself
    /// stays free to be changed while it is read.
    pub fn generation(&self) -> Rc<Generation> {
        Rc::clone(&self.generation)
    }

    /// Milliseconds since the request's first byte.
    pub fn elapsed_ms(&self) -> u64 {
        clock::precise_ms().saturating_sub(self.request.started_at)
    }

    /// The error log of the location in force.
    pub fn error_log(&self) -> &ErrorLog {
        &self.generation.location(self.location).core.error_log
    }

    /// Writes to the error log: `*N message, client: …, server: …, request: "…" …`.
    pub fn log(&self, level: crate::observe::Level, message: std::fmt::Arguments<'_>) {
        let log = self.error_log();
        if log.enabled(level) {
            log.log(level, message, Some(&LogContext(self)));
        }
    }
}

/// Writes the part of an error log line that tells which request it is about.
struct LogContext<'a>(&'a Exchange);

impl crate::observe::Context for LogContext<'_> {
    fn connection(&self) -> u64 {
        self.0.client.number
    }

    fn write_suffix(&self, out: &mut Vec<u8>) -> io::Result<()> {
        use std::io::Write;
        let ex = self.0;
        write!(out, ", client: {}", ex.client.remote_text)?;
        out.extend_from_slice(b", server: ");
        out.extend_from_slice(&ex.generation.server(ex.server).name);
        if !ex.request.line().is_empty() {
            out.extend_from_slice(b", request: \"");
            out.extend_from_slice(ex.request.line());
            out.push(b'"');
        }
        if let Some(name) = ex.upstream.last().and_then(UpstreamState::name) {
            out.extend_from_slice(b", upstream: \"");
            ex.write_upstream_url(name, out);
            out.push(b'"');
        }
        if let Some(host) = ex.request.field(Token::Host) {
            out.extend_from_slice(b", host: \"");
            out.extend_from_slice(host);
            out.push(b'"');
        }
        if let Some(referer) = ex.request.field(Token::Referer) {
            out.extend_from_slice(b", referrer: \"");
            out.extend_from_slice(referer);
            out.push(b'"');
        }
        Ok(())
    }
}

impl Exchange {
    fn write_upstream_url(&self, name: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.proxy_scheme.prefix().as_bytes());
        out.extend_from_slice(name.as_bytes());
        if name.starts_with("unix:") {
            out.push(b':');
        }
        if let Content::Proxy(pass) = &self.generation.location(self.location).content {
            proxy::write_target(self, pass, out);
        }
    }
}
