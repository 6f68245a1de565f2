//! The head of a request as `h2` wants it, out of the lines that the rest of the proxy writes.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

use crate::http::exchange::Exchange;
use crate::http::token::Token;

use super::super::conf::{Conf, Pass};
use super::super::head::{self, BodyOut};

/// Room for the fields of a usual request, and for its text.
const FIELDS_USUAL: usize = 16;
const TEXT_USUAL: usize = 1 << 10;

/// Writes the head into `out`, whose memory the request keeps. `None`: it has what no head may
/// have.
pub fn request(
    ex: &mut Exchange,
    conf: &Conf,
    pass: &Pass,
    body: BodyOut,
    mut out: Vec<u8>,
) -> Option<(Request<()>, usize)> {
    out.clear();
    out.reserve(TEXT_USUAL);
    head::write_method(ex, conf, &mut out);
    let target_at = out.len();
    head::write_target(ex, pass, &mut out);
    let fields_at = out.len();
    head::write_fields(ex, conf, body, &mut out);
    let text = Bytes::from(out);
    let method = Method::from_bytes(&text[..target_at]).ok()?;
    let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
    let mut authority = None;
    let mut at = fields_at;
    while let Some(length) = memchr::memchr(b'\r', &text[at..]) {
        add(&text.slice(at..at + length), &mut fields, &mut authority)?;
        at += length + 2;
    }
    if conf.grpc && !fields.contains_key(http::header::TE) && wants_trailers(ex) {
        fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.headers_mut() = fields;
    let path = path_of(text.slice(target_at..fields_at))?;
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path);
    match authority.map(|name: Bytes| (Authority::from_maybe_shared(name.clone()), name)) {
        Some((Ok(authority), _)) => {
            uri.scheme = Some(match ex.proxy_scheme.is_secure() {
                true => Scheme::HTTPS,
                false => Scheme::HTTP,
            });
            uri.authority = Some(authority);
            *request.version_mut() = Version::HTTP_2;
        }
        Some((Err(_), name)) => {
            let name = HeaderValue::from_maybe_shared(name).ok()?;
            request.headers_mut().insert(http::header::HOST, name);
        }
        None => {}
    }
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    Some((request, text.len()))
}

/// Adds one line. The host goes apart; what concerns a connection of HTTP/1.1 is left out.
fn add(line: &Bytes, fields: &mut HeaderMap, authority: &mut Option<Bytes>) -> Option<()> {
    let colon = memchr::memchr(b':', line)?;
    let value = line.slice(line.len().min(colon + 2)..);
    match Token::from_name(&line[..colon]) {
        Token::Host => *authority = Some(value),
        Token::Te if value.eq_ignore_ascii_case(b"trailers") => {
            fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
        }
        Token::Te => {}
        token if token.is_hop_by_hop() => {}
        _ => {
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            let value = HeaderValue::from_maybe_shared(value).ok()?;
            fields.try_append(name, value).ok()?;
        }
    }
    Some(())
}

/// Whether the client can do with trailers.
fn wants_trailers(ex: &Exchange) -> bool {
    let mut options = ex.request.head.fields.all(Token::Te);
    options.any(|field| {
        let value = field.value.of(&ex.request.buf);
        let mut words = value.split(|byte| matches!(byte, b',' | b';' | b' ' | b'\t'));
        words.any(|word| word.eq_ignore_ascii_case(b"trailers"))
    })
}

/// The target; bytes that stand for themselves in no URI are escaped.
fn path_of(target: Bytes) -> Option<PathAndQuery> {
    // (What follows a `#` would be dropped.)
    if !target.contains(&b'#')
        && let Ok(path) = PathAndQuery::from_maybe_shared(target.clone())
    {
        return Some(path);
    }
    let mut escaped = Vec::with_capacity(target.len() + 16);
    for byte in &target {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(byte) {
            escaped.push(*byte);
        } else {
            escaped.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    PathAndQuery::from_maybe_shared(Bytes::from(escaped)).ok()
}
