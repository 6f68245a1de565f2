//! Heads across the proxy: the request as the upstream gets it, the response as the client does.

use crate::http::exchange::{Exchange, Request};
use crate::http::h1::encode;
use crate::http::h1::head::Field;
use crate::http::token::Token;
use crate::http::uri::{self, Escape};

use super::conf::{Conf, HttpVersion, Pass, SetHeader, To};
use super::rewrite_fields;

/// How the body goes to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOut {
    /// None.
    None,
    /// With its length; also an empty one that the client announced.
    Length(u64),
    /// Chunked, for a body that is passed on while it arrives.
    Chunked,
}

/// Appends the request's head to `out`.
pub fn write_request(
    ex: &mut Exchange,
    conf: &Conf,
    pass: &Pass,
    body: BodyOut,
    out: &mut Vec<u8>,
) {
    write_method(ex, conf, out);
    out.push(b' ');
    write_target(ex, pass, out);
    out.extend_from_slice(match conf.http_version {
        HttpVersion::V10 => b" HTTP/1.0\r\n",
        _ => b" HTTP/1.1\r\n",
    });
    write_fields(ex, conf, body, out);
    if body == BodyOut::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the fields of a request, except those that only HTTP/1.1 has.
pub fn write_fields(ex: &mut Exchange, conf: &Conf, body: BodyOut, out: &mut Vec<u8>) {
    for line in &conf.set_headers {
        match line {
            SetHeader::Constant(line) => out.extend_from_slice(line),
            SetHeader::Variable(prefix, template) => {
                let start = out.len();
                out.extend_from_slice(prefix);
                if template.eval_nonempty(ex, out) {
                    encode::disarm(&mut out[start..]);
                    out.extend_from_slice(b"\r\n");
                } else {
                    out.truncate(start);
                }
            }
        }
    }
    if let BodyOut::Length(length) = body {
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if conf.pass_request_headers {
        let request = &ex.request;
        for field in request.head.fields.iter() {
            if is_passed(field, conf, &request.buf) {
                write_field(field, &request.buf, out);
            }
        }
    }
}

/// Whether the request's head has an `Upgrade` field: the client's is not passed on by itself.
pub fn passes_upgrade(ex: &mut Exchange, conf: &Conf) -> bool {
    let names_it = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next();
        name.is_some_and(|name| name.eq_ignore_ascii_case(b"upgrade"))
    };
    conf.set_headers.iter().any(|line| match line {
        SetHeader::Constant(line) => names_it(line),
        SetHeader::Variable(prefix, template) => {
            names_it(prefix) && template.eval_nonempty(ex, &mut Vec::new())
        }
    })
}

fn is_passed(field: &Field, conf: &Conf, buf: &[u8]) -> bool {
    if field.is_hop_by_hop() || conf.skip.contains(field.token) {
        return false;
    }
    field.token != Token::Other
        || conf.skip_names.is_empty()
        || !conf
            .skip_names
            .iter()
            .any(|n| field.name.of(buf).eq_ignore_ascii_case(n))
}

/// `Name: value`, spaced as it should be whatever the sender wrote.
fn write_field(field: &Field, buf: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(field.name.of(buf));
    out.extend_from_slice(b": ");
    out.extend_from_slice(field.value.of(buf));
    out.extend_from_slice(b"\r\n");
}

/// Appends the method.
pub fn write_method(ex: &mut Exchange, conf: &Conf, out: &mut Vec<u8>) {
    let start = out.len();
    match &conf.method {
        Some(method) => method.eval(ex, out),
        None => out.extend_from_slice(ex.request.method()),
    }
    uri::escape_blanks(out, start);
}

/// Appends the request target that the upstream is sent.
pub fn write_target(ex: &Exchange, pass: &Pass, out: &mut Vec<u8>) {
    let start = out.len();
    match &pass.to {
        To::Group { uri: Some(uri), .. } => write_replaced(ex, uri, pass.replaced, out),
        To::Group { uri: None, .. } => write_own(ex, out),
        To::Url(_) if !ex.proxy_uri.is_empty() => out.extend_from_slice(&ex.proxy_uri),
        To::Url(_) => write_own(ex, out),
    }
    uri::escape_blanks(out, start);
}

/// The client's URI: byte for byte if nothing changed it, else encoded anew.
fn write_own(ex: &Exchange, out: &mut Vec<u8>) {
    let request = &ex.request;
    if request.uri_valid {
        let target = request.origin_form();
        if !target.starts_with(b"/") && target != b"*" {
            out.push(b'/');
        }
        out.extend_from_slice(target);
        return;
    }
    write_path(request, &request.uri, out);
    write_args(&request.args, out);
}

/// The URI part of `proxy_pass` in the place of the location's name.
fn write_replaced(ex: &Exchange, replacement: &[u8], replaced: usize, out: &mut Vec<u8>) {
    let request = &ex.request;
    if request.rewritten_here {
        // After `rewrite … break` the URI part of proxy_pass is ignored.
        write_path(request, &request.uri, out);
    } else {
        if !replacement.starts_with(b"/") {
            out.push(b'/');
        }
        out.extend_from_slice(replacement);
        write_path(request, request.uri.get(replaced..).unwrap_or(b""), out);
    }
    write_args(&request.args, out);
}

/// A part of `$uri`, encoded anew. Where the client escaped nothing and no rewrite or redirect had
/// a hand in it, its bytes are as the client sent them and go on so.
fn write_path(request: &Request, path: &[u8], out: &mut Vec<u8>) {
    if request.internal || memchr::memchr(b'%', request.target_path()).is_some() {
        uri::escape(path, Escape::Path, out);
    } else {
        out.extend_from_slice(path);
    }
}

fn write_args(args: &[u8], out: &mut Vec<u8>) {
    if !args.is_empty() {
        out.push(b'?');
        out.extend_from_slice(args);
    }
}

/// Takes the upstream's head, already parsed into `ex.response.upstream`, over into the response:
/// drops what concerns the connection or is hidden, rewrites what `proxy_redirect` and the cookie
/// directives ask for, and sets apart what the encoder writes itself.
pub fn take_response(ex: &mut Exchange, conf: &Conf) {
    let mut upstream = std::mem::take(&mut ex.response.upstream);
    let response = &mut ex.response;
    response.status = upstream.status;
    response.reason = (!upstream.reason.is_empty()).then_some(upstream.reason);
    response.keep_server = conf.pass_server && upstream.fields.has(Token::Server);
    response.keep_date = conf.pass_date && upstream.fields.has(Token::Date);
    response.fields.clear();
    let mut rewritten = false;
    for field in upstream.fields.iter() {
        match field.token {
            Token::ContentLength | Token::TransferEncoding => continue,
            Token::ContentType => {
                response.content_type = Some(field.value);
                continue;
            }
            Token::Location | Token::Refresh | Token::SetCookie => {
                rewritten |= conf.rewrites.is_on(field.token);
            }
            Token::Upgrade if upstream.status == 101 => {}
            _ if field.is_hop_by_hop() || conf.hide.contains(field.token) => continue,
            Token::Other if is_hidden(field, conf, &response.buf) => continue,
            _ => {}
        }
        if conf.hide.contains(field.token) {
            continue;
        }
        response.fields.push(*field);
    }
    if conf.hide.contains(Token::ContentType) {
        response.content_type = None;
    }
    std::mem::swap(&mut ex.response.upstream, &mut upstream);
    if rewritten {
        rewrite_fields::apply(ex, &conf.rewrites);
    }
}

fn is_hidden(field: &Field, conf: &Conf, buf: &[u8]) -> bool {
    conf.hide_names
        .iter()
        .any(|n| field.name.of(buf).eq_ignore_ascii_case(n))
}
