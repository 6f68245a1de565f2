//! Sending a response: the head, its framing, the body filters; and the answers ringway makes
//! itself.

use std::io;

use crate::base::clock;
use crate::observe::Level;
use crate::ring::Chunk;

use super::client::Client;
use super::exchange::Exchange;
use super::h1::{chunked, encode};
use super::h2;
use super::keepalive;
use super::message::Version;
use super::modules::core::Lingering;
use super::modules::{gzip, headers, statics};
use super::phases::Finish;
use super::rate::Limit;
use super::status::{self, PageStyle};
use super::token::Token;
use super::uri::{self, Escape};

/// An answer that ringway makes itself. Its texts go back to the exchange's store once they are
/// sent, so they are best borrowed from there ([`Store::lend`](crate::vars::Store::lend)).
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body; `None` for the built-in page of the status.
    pub body: Option<Vec<u8>>,
    /// `Location` to send.
    pub location: Option<Vec<u8>>,
    /// Length of the file of which no part can be sent (416).
    pub length: Option<u64>,
}

impl Reply {
    /// The built-in page of this status.
    pub fn status(status: u16) -> Self {
        Reply {
            status,
            body: None,
            location: None,
            length: None,
        }
    }
}

/// How the body of a response is delimited towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is no body (HEAD, 204, 304).
    None,
    /// This many bytes are to follow.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection closes, or the stream ends.
    Close,
}

/// A response on its way: what was written so far and what the body has to pass.
pub struct Output {
    /// Head, and body bytes that wait to leave with it.
    out: Vec<u8>,
    framing: Framing,
    filter: Option<Box<gzip::Stream>>,
    send_timeout_ms: u64,
    rate: Option<Limit>,
}

/// A response could not be written: the client has gone or does not read.
#[derive(Debug)]
pub struct ClientGone;

impl From<io::Error> for ClientGone {
    fn from(_: io::Error) -> Self {
        ClientGone
    }
}

impl Output {
    /// Runs the header filters and encodes the head of `ex.response`. Nothing is sent yet, so
    /// that a small body leaves in the same packet.
    ///
    /// # Errors
    /// The response before this one could not be sent.
    pub async fn start(ex: &mut Exchange, client: &mut Client) -> Result<Output, ClientGone> {
        let mut out = client.take_out().await?;
        let Some(stream) = client.stream_mut() else {
            let mut output = Self::encode(ex, &mut out);
            output.out = out;
            return Ok(output);
        };
        let mut output = Self::filtered(ex);
        let (fields, size) = h2::head::fields(ex, output.announced(ex));
        let frame_max = ex.generation.location(ex.location).http2_chunk_size;
        // RFC 8441, 5: a tunnel begins as any answer does.
        let status = if ex.response.status == 101 {
            200
        } else {
            ex.response.status
        };
        stream.set_head(status, fields, frame_max);
        ex.response.bytes_sent += size;
        output.out = out;
        Ok(output)
    }

    /// Runs the header filters and appends the head of `ex.response` to `out`. The output, whose
    /// own buffer is still empty, knows how the body goes on.
    pub fn encode(ex: &mut Exchange, out: &mut Vec<u8>) -> Output {
        let output = Self::filtered(ex);
        write_head(ex, output.framing, out);
        ex.response.bytes_sent += out.len() as u64;
        output
    }

    /// Runs the header filters and decides how the body is framed.
    fn filtered(ex: &mut Exchange) -> Output {
        let generation = ex.generation();
        let location = generation.location(ex.location);
        if let Some(status) = ex.response.status_override {
            ex.response.status = status;
            ex.response.reason = None;
        }
        let bodiless = ex.request.is_head() || matches!(ex.response.status, 101 | 204 | 304);
        if !ex.response.carried.is_empty() {
            ex.response.add_carried();
        }
        statics::expire(ex, &location.statics);
        headers::add(ex, &location.headers);
        statics::name_charset(ex, &location.statics);
        let filter = gzip::header_filter(ex, &location.gzip, bodiless);
        let framing = choose_framing(ex, bodiless, location.core.chunked_transfer_encoding);
        // A shutdown that began meanwhile ends the connection after this answer.
        let may_go_on = framing != Framing::Close && !ex.local.places.is_draining();
        if ex.keepalive && !(may_go_on && keepalive::is_allowed(ex, &location.core)) {
            ex.keepalive = false;
        }
        ex.response.chunked = framing == Framing::Chunked;
        ex.response.head_sent = true;
        Output {
            out: Vec::new(),
            framing,
            filter,
            send_timeout_ms: location.core.send_timeout_ms,
            rate: Limit::of(ex),
        }
    }

    /// The length to put into the head, if there is one.
    fn announced(&self, ex: &Exchange) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::None if ex.response.status != 204 => ex.response.content_length,
            _ => None,
        }
    }

    /// Whether body bytes pass unchanged, so that they may be moved without being looked at.
    pub fn is_plain(&self) -> bool {
        self.filter.is_none()
            && self.rate.is_none()
            && matches!(self.framing, Framing::Length(_) | Framing::Close)
    }

    /// Whether the client gets no body, whatever the content is.
    pub fn is_bodiless(&self) -> bool {
        self.framing == Framing::None
    }

    /// Adds body bytes to what is to be sent; they leave with [`Output::flush`] or later.
    pub fn push(&mut self, ex: &mut Exchange, data: &[u8]) {
        match &mut self.filter {
            None => self.frame(ex, data),
            Some(filter) => {
                let mut filtered = ex.store.lend();
                filter.write(data, &mut filtered);
                self.frame(ex, &filtered);
                ex.store.give_back(filtered);
            }
        }
    }

    /// As [`Output::push`], for bytes that lie in the response's own buffer.
    pub fn push_stored(&mut self, ex: &mut Exchange, range: std::ops::Range<usize>) {
        if range.is_empty() {
            return;
        }
        let buf = std::mem::take(&mut ex.response.buf);
        self.push(ex, &buf[range]);
        ex.response.buf = buf;
    }

    fn frame(&mut self, ex: &mut Exchange, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let before = self.out.len();
        match &mut self.framing {
            Framing::None => return,
            Framing::Length(left) => {
                // A source longer than it announced must not run into the next response.
                let n = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                self.out.extend_from_slice(&data[..n]);
            }
            Framing::Chunked => chunked::write_chunk(data, &mut self.out),
            Framing::Close => self.out.extend_from_slice(data),
        }
        let n = (self.out.len() - before) as u64;
        ex.response.body_bytes_sent += n;
        ex.response.bytes_sent += n;
    }

    /// Body bytes that wait to be sent, head included.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Makes the filters give out what they hold back, for a source that has paused.
    pub fn flush_filters(&mut self, ex: &mut Exchange) {
        if let Some(filter) = &mut self.filter {
            let mut filtered = ex.store.lend();
            filter.flush(&mut filtered);
            self.frame(ex, &filtered);
            ex.store.give_back(filtered);
        }
    }

    /// Sends what is pending and waits until the kernel has taken it.
    ///
    /// # Errors
    /// The client has gone, or did not read for `send_timeout`.
    pub async fn flush(&mut self, client: &mut Client) -> Result<(), ClientGone> {
        if self.out.is_empty() {
            client.send_head();
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        match &mut self.rate {
            None => client.send(out, self.send_timeout_ms).await?,
            Some(rate) => send_within(rate, client, &out, self.send_timeout_ms).await?,
        }
        self.out = client.take_out().await?;
        Ok(())
    }

    /// What is pending, for a sender that decides by itself when it leaves.
    pub fn pending_mut(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Cuts `chunk` to what is announced and accounts for it as sent: it is to leave as it is,
    /// after what is pending. Only for plain output.
    pub fn pass_chunk(&mut self, ex: &mut Exchange, chunk: &mut Chunk) {
        debug_assert!(self.is_plain());
        if let Framing::Length(left) = self.framing {
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.passed(ex, chunk.len() as u64);
    }

    /// `limit_rate`, where it is in force.
    pub fn rate_mut(&mut self) -> Option<&mut super::rate::Limit> {
        self.rate.as_mut()
    }

    /// Accounts for body bytes that went around this output (splice). Only for plain output.
    pub fn passed(&mut self, ex: &mut Exchange, n: u64) {
        if let Framing::Length(left) = &mut self.framing {
            *left -= n;
        }
        ex.response.body_bytes_sent += n;
        ex.response.bytes_sent += n;
    }

    /// `send_timeout` in ms.
    pub fn send_timeout_ms(&self) -> u64 {
        self.send_timeout_ms
    }

    /// Ends the body and sends what is left. `false` from the source (`complete`) means that it
    /// broke off: the client must be able to tell, so the connection will be cut.
    pub async fn finish(
        mut self,
        ex: &mut Exchange,
        client: &mut Client,
        complete: bool,
    ) -> Finish {
        if complete && let Some(filter) = self.filter.take() {
            let mut filtered = ex.store.lend();
            ex.response.gzip = Some(filter.finish(&mut filtered));
            self.frame(ex, &filtered);
            ex.store.give_back(filtered);
        }
        let whole = complete && !matches!(self.framing, Framing::Length(1..));
        if whole && self.framing == Framing::Chunked {
            let before = self.out.len();
            chunked::write_last(ex.response.passed_trailers(), &mut self.out);
            ex.response.bytes_sent += (self.out.len() - before) as u64;
        }
        if !whole {
            ex.keepalive = false;
            let _ = self.flush(client).await;
            if self.framing == Framing::Close {
                // An orderly end would say that this was all.
                client.reset();
            }
            return Finish::Truncated;
        }
        ex.response.complete = true;
        let is_large = self.out.len() > SEND_AND_GO_ON || self.rate.is_some();
        if is_large && self.flush(client).await.is_err() {
            return Finish::Truncated;
        }
        if let Some(stream) = client.stream_mut() {
            let (trailers, size) = h2::head::trailers(ex);
            ex.response.bytes_sent += size;
            stream.send_last(self.out, trailers);
        } else if self.out.is_empty() {
            client.put_out(self.out);
        } else {
            client.send_last(self.out);
        }
        Finish::Complete
    }
}

/// Sends in pieces, as fast as the rate allows.
async fn send_within(
    rate: &mut Limit,
    client: &mut Client,
    mut out: &[u8],
    timeout_ms: u64,
) -> io::Result<()> {
    while !out.is_empty() {
        // The client does not keep anybody waiting while it is made to wait.
        client.set_deadline(None);
        let n = rate.take(out.len()).await;
        let mut piece = client.take_out().await?;
        piece.extend_from_slice(&out[..n]);
        client.send(piece, timeout_ms).await?;
        out = &out[n..];
    }
    Ok(())
}

/// Responses up to this size surely fit into the socket's buffer of a client that reads.
const SEND_AND_GO_ON: usize = 16 << 10;

fn choose_framing(ex: &Exchange, bodiless: bool, chunked: bool) -> Framing {
    if bodiless {
        return Framing::None;
    }
    match ex.response.content_length {
        Some(length) => Framing::Length(length),
        None if ex.request.head.version >= Version::Http2 => Framing::Close,
        None if chunked && ex.request.head.version >= Version::Http11 => Framing::Chunked,
        None => Framing::Close,
    }
}

/// Writes the head in nginx's order: status line, Server, Date, Content-Type, Content-Length,
/// Transfer-Encoding, Connection, then the rest as it came.
fn write_head(ex: &Exchange, framing: Framing, out: &mut Vec<u8>) {
    let response = &ex.response;
    let core = &ex.generation.location(ex.location).core;
    match response.reason {
        Some(reason) => encode::status_line_with(out, response.status, reason.of(&response.buf)),
        None => encode::status_line(out, response.status),
    }
    if !response.keep_server {
        encode::server(out, core.server_tokens);
    }
    if !response.keep_date {
        out.extend_from_slice(b"Date: ");
        clock::http_date(out);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(content_type) = response.content_type {
        encode::field(out, b"Content-Type", content_type.of(&response.buf));
    }
    match (framing, response.content_length) {
        (Framing::Chunked, _) => out.extend_from_slice(encode::TRANSFER_ENCODING_CHUNKED),
        (Framing::None, Some(length)) if response.status != 204 => {
            encode::content_length(out, length);
        }
        (Framing::Length(length), _) => encode::content_length(out, length),
        _ => {}
    }
    if response.status == 101 {
        out.extend_from_slice(encode::CONNECTION_UPGRADE);
    } else if ex.keepalive {
        out.extend_from_slice(encode::CONNECTION_KEEP_ALIVE);
        if let Some(seconds) = core.keepalive_header_s {
            encode::keep_alive_timeout(out, seconds);
        }
    } else {
        out.extend_from_slice(encode::CONNECTION_CLOSE);
    }
    for field in &response.fields {
        encode::field(
            out,
            field.name.of(&response.buf),
            field.value.of(&response.buf),
        );
    }
    out.extend_from_slice(b"\r\n");
}

/// Sends an answer of ringway's own.
pub async fn send(ex: &mut Exchange, client: &mut Client, reply: Reply) -> Finish {
    // 408 is for the log: a client that was late has no answer coming.
    if matches!(reply.status, 408 | 444 | 499) && reply.body.is_none() {
        ex.response.status = reply.status;
        ex.keepalive = false;
        return Finish::Drop;
    }
    let page = prepare(ex, reply);
    let Ok(mut output) = Output::start(ex, client).await else {
        return Finish::Truncated;
    };
    output.push(ex, &page);
    ex.store.give_back(page);
    output.finish(ex, client, true).await
}

/// Fills `ex.response` for an answer of ringway's own and returns the body.
fn prepare(ex: &mut Exchange, reply: Reply) -> Vec<u8> {
    let generation = ex.generation();
    let core = &generation.location(ex.location).core;
    ex.response.clear_answer();
    if status::closes_connection(reply.status) {
        ex.keepalive = false;
    }
    // nginx reads on after an answer to a client that may still be sending, but not after these.
    if core.lingering_close == Lingering::Off {
        ex.keepalive &= !ex.request.body.is_unread();
    }
    let shown = status::on_the_wire(reply.status);
    ex.response.status = shown;
    let page = match reply.body {
        body if body.is_some() || shown < 300 => {
            let content_type = core.types.of(&ex.request.uri).unwrap_or(&core.default_type);
            if shown != 204 {
                ex.response.set_local_type(content_type);
            }
            body.unwrap_or_else(|| ex.store.lend())
        }
        _ => {
            let mut page = ex.store.lend();
            let style = PageStyle {
                tokens: core.server_tokens,
                padding: core.msie_padding && is_padded(ex),
            };
            if status::write_page(reply.status, style, &mut page) {
                ex.response.set_content_type(b"text/html");
            }
            page
        }
    };
    if let Some(location) = reply.location {
        let mut absolute = ex.store.lend();
        write_origin(ex, &location, &mut absolute);
        absolute.extend_from_slice(&location);
        ex.response
            .push_field(Token::Location, b"Location", &absolute);
        ex.store.give_back(absolute);
        ex.store.give_back(location);
    }
    if let Some(length) = reply.length {
        let value = format!("bytes */{length}");
        ex.response
            .push_field(Token::ContentRange, b"Content-Range", value.as_bytes());
    }
    ex.response.content_length = Some(page.len() as u64);
    page
}

fn is_padded(ex: &Exchange) -> bool {
    let agent = ex.request.field(Token::UserAgent);
    agent.is_some_and(status::is_padded_browser)
}

/// The redirect from `/x` to `/x/` that nginx makes for prefix locations with `proxy_pass`.
pub fn add_slash(ex: &mut Exchange) -> Reply {
    let mut location = ex.store.lend();
    uri::escape(&ex.request.uri, Escape::Path, &mut location);
    location.push(b'/');
    if !ex.request.args.is_empty() {
        location.push(b'?');
        location.extend_from_slice(&ex.request.args);
    }
    Reply {
        location: Some(location),
        ..Reply::status(301)
    }
}

/// `absolute_redirect`: appends scheme, host and port, if `location` is a path that needs them.
pub fn write_origin(ex: &Exchange, location: &[u8], out: &mut Vec<u8>) {
    let core = &ex.generation.location(ex.location).core;
    if !location.starts_with(b"/") || !core.absolute_redirect {
        return;
    }
    out.extend_from_slice(ex.client.scheme().as_bytes());
    out.extend_from_slice(b"://");
    if core.server_name_in_redirect {
        out.extend_from_slice(&ex.generation.server(ex.server).name);
    } else if !ex.request.host.is_empty() {
        out.extend_from_slice(&ex.request.host);
    } else if let Some(local) = ex.client.local {
        out.extend_from_slice(local.ip().to_canonical().to_string().as_bytes());
    }
    let usual = if ex.client.tls.is_some() { 443 } else { 80 };
    if core.port_in_redirect
        && let Some(port) = ex.client.local.map(|l| l.port()).filter(|p| *p != usual)
    {
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
    }
}

/// Makes `target` (a URI with optional arguments, as `error_page` and `X-Accel-Redirect` give
/// it) the exchange's URI and arguments. Without a question mark the arguments are dropped.
pub fn set_uri(ex: &mut Exchange, target: &[u8]) {
    let (path, args) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &b""[..]),
    };
    set_path(ex, path);
    ex.request.args.clear();
    ex.request.args.extend_from_slice(args);
}

/// Makes `path` the exchange's URI; the arguments stay.
pub fn set_path(ex: &mut Exchange, path: &[u8]) {
    ex.request.uri.clear();
    ex.request.uri.extend_from_slice(path);
    ex.request.uri_valid = false;
    ex.request.rewritten_here = false;
    ex.request.uri_behind_alias = false;
}

/// Says in the log why a response to the client could not be finished.
pub fn log_client_gone(ex: &Exchange, client: &Client) {
    if client.timed_out() {
        ex.log(
            Level::Info,
            format_args!(
                "client timed out (110: Connection timed out) while {}",
                ex.doing
            ),
        );
    } else {
        ex.log(
            Level::Info,
            format_args!("client prematurely closed connection while {}", ex.doing),
        );
    }
}
