//! What was answered.

use super::join;
use crate::config::value;
use crate::http::exchange::Exchange;
use crate::http::token::Token;
use crate::vars::Variable;
use crate::vars::common::{self, found, maybe, number, seconds};

type V = Variable<Exchange>;

pub(super) static TABLE: &[V] = &[
    V::new("status", |ex, _, out| {
        // What error_page decided holds before its page is made.
        let status = ex.response.status_override.unwrap_or(ex.response.status);
        common::status(out, status)
    })
    .doc("Status of the answer."),
    V::new("bytes_sent", |ex, _, out| {
        number(out, ex.response.bytes_sent)
    })
    .doc("Bytes sent to the client."),
    V::new("body_bytes_sent", |ex, _, out| {
        number(out, ex.response.body_bytes_sent)
    })
    .doc("Bytes sent to the client, without the head."),
    V::new("request_completion", |ex, _, out| {
        if ex.response.complete {
            out.extend_from_slice(b"OK");
        }
        true
    })
    .doc("\"OK\" if the whole answer was sent."),
    V::new("request_time", |ex, _, out| seconds(out, ex.elapsed_ms()))
        .doc("Seconds since the first byte of the request."),
    V::new("limit_rate", |ex, _, out| {
        number(out, ex.response.limit_rate)
    })
    .settable(|ex, value| {
        if let Some(rate) = value::parse_size(value) {
            ex.response.limit_rate = rate;
        }
    })
    .doc("Bytes per second of the answer; 0: no limit set."),
    V::new("sent_http_content_type", |ex, _, out| {
        let content_type = ex.response.content_type;
        maybe(out, content_type.map(|range| range.of(&ex.response.buf)))
    })
    .doc("Content-Type of the answer."),
    V::new("sent_http_content_length", |ex, _, out| {
        let length = ex.response.content_length;
        length.is_some_and(|length| number(out, length))
    })
    .doc("Content-Length of the answer."),
    V::new("sent_http_connection", connection).doc("Connection field of the answer."),
    V::new("sent_http_keep_alive", keep_alive).doc("Keep-Alive field of the answer."),
    V::new("sent_http_transfer_encoding", |ex, _, out| {
        ex.response.chunked && found(out, b"chunked")
    })
    .doc("Transfer-Encoding of the answer."),
    V::new("sent_http_location", |ex, _, out| {
        maybe(out, ex.response.field(Token::Location))
    })
    .doc("Location of the answer."),
    V::new("sent_http_last_modified", |ex, _, out| {
        maybe(out, ex.response.field(Token::LastModified))
    })
    .doc("Last-Modified of the answer."),
    V::new("sent_http_cache_control", |ex, _, out| {
        sent(ex, b"cache_control", out)
    })
    .doc("Cache-Control fields of the answer."),
    V::new("sent_http_link", |ex, _, out| sent(ex, b"link", out)).doc("Link fields of the answer."),
    V::family("sent_http_", |ex, name, out| sent(ex, name, out))
        .doc("A field of the answer; `_` stands for `-`."),
    // Trailers are not passed on, as in nginx without add_trailer.
    V::family("sent_trailer_", |_, _, _| false).doc("A field after the body of the answer."),
];

/// A field of the answer, unless it is one that is written without being a field first (Server,
/// Date): nginx does not show those either.
fn sent(ex: &Exchange, name: &[u8], out: &mut Vec<u8>) -> bool {
    join(&ex.response.fields, &ex.response.buf, name, out)
}

fn connection(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let value: &[u8] = match (ex.response.status, ex.keepalive) {
        (101, _) => b"upgrade",
        (_, true) => b"keep-alive",
        (_, false) => b"close",
    };
    found(out, value)
}

fn keep_alive(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let core = &ex.generation.location(ex.location).core;
    match core.keepalive_header_s {
        Some(seconds) if ex.keepalive => {
            out.extend_from_slice(b"timeout=");
            number(out, seconds)
        }
        _ => false,
    }
}
