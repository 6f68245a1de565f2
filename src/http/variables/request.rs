//! What the client asked for.

use super::join;
use crate::http::body::RequestBody;
use crate::http::exchange::Exchange;
use crate::http::modules::statics;
use crate::http::token::Token;
use crate::http::uri;
use crate::vars::Variable;
use crate::vars::common::{found, maybe, number};

type V = Variable<Exchange>;

pub(super) static TABLE: &[V] = &[
    V::new("host", host).doc("Host of the request without its port, or the server's name."),
    V::new("server_name", |ex, _, out| {
        found(out, &ex.generation.server(ex.server).name)
    })
    .doc("First name of the server."),
    V::new("request", |ex, _, out| {
        maybe(out, Some(ex.request.line()).filter(|line| !line.is_empty()))
    })
    .doc("Request line as it came."),
    V::new("request_method", |ex, _, out| {
        let method = ex.request.method();
        maybe(out, Some(method).filter(|method| !method.is_empty()))
    })
    .doc("Method."),
    V::new("request_uri", |ex, _, out| {
        let target = ex.request.target();
        maybe(out, Some(target).filter(|target| !target.is_empty()))
    })
    .doc("URI with arguments as it came."),
    V::new("uri", current_uri).doc("URI now: decoded, normalised, maybe rewritten."),
    V::new("document_uri", current_uri).doc("Same as $uri."),
    V::new("document_root", |ex, _, out| {
        statics::document_root(ex, out)
    })
    .doc("Root of the files here: root or alias."),
    V::new("realpath_root", |ex, _, out| {
        statics::realpath_root(ex, out)
    })
    .doc("Root of the files here without symbolic links."),
    V::new("request_filename", |ex, _, out| {
        statics::request_filename(ex, out)
    })
    .doc("Path of the file that the URI leads to."),
    V::new("args", args)
        .settable(set_args)
        .doc("Arguments, without the question mark."),
    V::new("query_string", args).doc("Same as $args."),
    V::new("is_args", |ex, _, out| {
        if !ex.request.args.is_empty() {
            out.push(b'?');
        }
        true
    })
    .doc("A question mark if there are arguments."),
    V::family("arg_", |ex, name, out| {
        maybe(out, uri::argument(&ex.request.args, name))
    })
    .doc("One argument."),
    V::new("server_protocol", |ex, _, out| {
        !ex.request.target().is_empty() && found(out, ex.request.head.version.as_str().as_bytes())
    })
    .doc("HTTP/1.0, HTTP/1.1 or HTTP/2.0."),
    V::new("http_host", |ex, _, out| field(ex, Token::Host, out)).doc("Host field."),
    V::new("http_user_agent", |ex, _, out| {
        field(ex, Token::UserAgent, out)
    })
    .doc("User-Agent field."),
    V::new("http_referer", |ex, _, out| field(ex, Token::Referer, out)).doc("Referer field."),
    V::new("http_via", |ex, _, out| fields(ex, Token::Via, b", ", out)).doc("Via fields."),
    V::new("http_x_forwarded_for", |ex, _, out| {
        fields(ex, Token::XForwardedFor, b", ", out)
    })
    .doc("X-Forwarded-For fields."),
    V::new("http_cookie", |ex, _, out| {
        fields(ex, Token::Cookie, b"; ", out)
    })
    .doc("Cookie fields."),
    // Not fixed in nginx, so that a configuration may set it; here for its token.
    V::new("http_upgrade", |ex, _, out| {
        fields(ex, Token::Upgrade, b", ", out)
    })
    .changeable()
    .doc("Upgrade field."),
    V::family("http_", |ex, name, out| {
        let fields = ex.request.head.fields.as_slice();
        join(fields, &ex.request.buf, name, out)
    })
    .doc("A field of the request; `_` stands for `-`."),
    V::family("cookie_", cookie).doc("One cookie."),
    V::new("content_type", |ex, _, out| {
        field(ex, Token::ContentType, out)
    })
    .doc("Content-Type field."),
    V::new("content_length", content_length).doc("Length of the body."),
    V::new("remote_user", remote_user).doc("User name of Basic authentication."),
    V::new("request_body", |ex, _, out| match &ex.request.body {
        RequestBody::Memory(body) => found(out, body),
        _ => false,
    })
    .doc("Body, where it was read into memory."),
    V::new("request_length", |ex, _, out| {
        number(out, ex.request.length)
    })
    .doc("Bytes of the request, head and body."),
    V::new("request_id", request_id).doc("32 random hexadecimal digits."),
    V::new("pipe", |ex, _, out| {
        out.push(if ex.request.pipelined { b'p' } else { b'.' });
        true
    })
    .doc("p if the request came together with the one before, otherwise a dot."),
];

fn host(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    if ex.request.host.is_empty() {
        found(out, &ex.generation.server(ex.server).name)
    } else {
        found(out, &ex.request.host)
    }
}

fn current_uri(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let uri = &ex.request.uri;
    maybe(out, Some(&uri[..]).filter(|uri| !uri.is_empty()))
}

fn args(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let args = &ex.request.args;
    maybe(out, Some(&args[..]).filter(|args| !args.is_empty()))
}

fn set_args(ex: &mut Exchange, value: &[u8]) {
    ex.request.args.clear();
    ex.request.args.extend_from_slice(value);
    ex.request.uri_valid = false;
}

/// The first field with a known name.
fn field(ex: &Exchange, token: Token, out: &mut Vec<u8>) -> bool {
    maybe(out, ex.request.field(token))
}

/// All fields with a known name as one list.
fn fields(ex: &Exchange, token: Token, separator: &[u8], out: &mut Vec<u8>) -> bool {
    let mut any = false;
    for field in ex.request.head.fields.all(token) {
        if any {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(field.value.of(&ex.request.buf));
        any = true;
    }
    any
}

fn cookie(ex: &mut Exchange, name: &[u8], out: &mut Vec<u8>) -> bool {
    let mut fields = ex.request.head.fields.all(Token::Cookie);
    let value = fields.find_map(|field| find_cookie(field.value.of(&ex.request.buf), name));
    maybe(out, value)
}

/// The value of the cookie called `name`, without regard to case, in one Cookie field. As nginx
/// has it, a comma separates cookies too, and only a semicolon ends a value.
fn find_cookie<'a>(mut cookies: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    loop {
        if let Some(value) = value_of(cookies, name) {
            return Some(value);
        }
        let end = memchr::memchr2(b';', b',', cookies)?;
        cookies = cookies[end + 1..].trim_ascii_start();
    }
}

/// The value in `name = value; …`, if the text begins with that name.
pub(super) fn value_of<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    let value = rest
        .trim_ascii_start()
        .strip_prefix(b"=")?
        .trim_ascii_start();
    Some(&value[..memchr::memchr(b';', value).unwrap_or(value.len())])
}

fn content_length(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    if field(ex, Token::ContentLength, out) {
        return true;
    }
    // A chunked body has a length once it was read.
    match &ex.request.body {
        RequestBody::Memory(body) => number(out, body.len()),
        RequestBody::File { length, .. } => number(out, *length),
        _ => false,
    }
}

fn remote_user(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(credentials) = ex.request.field(Token::Authorization).and_then(basic) else {
        return false;
    };
    let start = out.len();
    let found = decode_user(credentials, out);
    if !found {
        out.truncate(start);
    }
    found
}

/// What follows `Basic` in an Authorization field.
fn basic(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    scheme
        .eq_ignore_ascii_case(b"basic ")
        .then(|| rest.trim_ascii_start())
}

/// Appends what stands before the colon in `user:password`, which is in base64 (RFC 4648, 4).
/// False where the text is not that.
fn decode_user(encoded: &[u8], out: &mut Vec<u8>) -> bool {
    let (mut bits, mut count) = (0u32, 0);
    for &byte in encoded {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return false,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            match (bits >> count) as u8 {
                b':' => return true,
                byte => out.push(byte),
            }
        }
    }
    false
}

fn request_id(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let id = match ex.request.id {
        Some(id) => id,
        None => {
            let random = ex.local.rng.borrow_mut().u128(..);
            *ex.request.id.insert(random.to_be_bytes())
        }
    };
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in id {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies() {
        for (cookies, expected) in [
            ("a=1", Some("1")),
            ("b=1; A = \"x y\"; c", Some("\"x y\"")),
            ("xa=2,a=3; a=4", Some("3")),
            ("a", None),
            ("a; a=", Some("")),
            ("ab=1;a=2, b=3;", Some("2, b=3")),
            ("", None),
            ("; ;a=1", Some("1")),
        ] {
            let found = find_cookie(cookies.as_bytes(), b"a");
            assert_eq!(found, expected.map(str::as_bytes), "{cookies}");
        }
    }

    #[test]
    fn users() {
        for (value, expected) in [
            ("Basic YWxhZGRpbjpzZXNhbWU=", Some("aladdin")),
            ("basic   bWU6cHc=", Some("me")),
            ("Basic Og==", Some("")),
            ("basic bWUy", None),
            ("Basic !!", None),
            ("Bearer YTpi", None),
            ("Basic", None),
        ] {
            let mut out = Vec::new();
            let found = basic(value.as_bytes()).is_some_and(|text| decode_user(text, &mut out));
            let user = found.then(|| String::from_utf8_lossy(&out).into_owned());
            assert_eq!(user.as_deref(), expected, "{value}");
        }
    }
}
