//! The attempts at upstream peers, and where `proxy_pass` leads.

use super::join;
use super::request::value_of;
use crate::http::exchange::{Exchange, UpstreamState};
use crate::http::token::Token;
use crate::vars::Variable;
use crate::vars::common::{found, maybe, maybe_seconds, number};

type V = Variable<Exchange>;

pub(super) static TABLE: &[V] = &[
    V::new("upstream_addr", |ex, _, out| {
        list(ex, out, |state, out| {
            state.name().is_some_and(|name| found(out, name.as_bytes()))
        })
    })
    .doc("Addresses of the peers that were tried."),
    V::new("upstream_status", |ex, _, out| {
        list(ex, out, |state, out| {
            state.status != 0 && number(out, state.status)
        })
    })
    .doc("Statuses that the peers answered with."),
    V::new("upstream_connect_time", |ex, _, out| {
        list(ex, out, |state, out| maybe_seconds(out, state.connect_ms))
    })
    .doc("Seconds until the connections stood."),
    V::new("upstream_header_time", |ex, _, out| {
        list(ex, out, |state, out| maybe_seconds(out, state.header_ms))
    })
    .doc("Seconds until the heads of the answers were there."),
    V::new("upstream_response_time", |ex, _, out| {
        list(ex, out, |state, out| maybe_seconds(out, state.response_ms))
    })
    .doc("Seconds until the answers were read."),
    V::new("upstream_response_length", |ex, _, out| {
        list(ex, out, |state, out| number(out, state.response_length))
    })
    .doc("Bytes of the bodies of the answers."),
    V::new("upstream_bytes_sent", |ex, _, out| {
        list(ex, out, |state, out| number(out, state.bytes_sent))
    })
    .doc("Bytes sent to the peers."),
    V::new("upstream_bytes_received", |ex, _, out| {
        list(ex, out, |state, out| number(out, state.bytes_received))
    })
    .doc("Bytes received from the peers."),
    // Nothing is cached yet, and what nothing was cached of has no status.
    V::new("upstream_cache_status", |_, _, _| false).doc("What became of the look-up in a cache."),
    V::family("upstream_http_", |ex, name, out| {
        let fields = ex.response.upstream.fields.as_slice();
        join(fields, &ex.response.buf, name, out)
    })
    .doc("A field of the peer's answer; `_` stands for `-`."),
    V::family("upstream_cookie_", |ex, name, out| {
        let mut fields = ex.response.upstream.fields.all(Token::SetCookie);
        let value = fields.find_map(|field| value_of(field.value.of(&ex.response.buf), name));
        maybe(out, value)
    })
    .doc("A cookie that the peer's answer sets."),
    V::family("upstream_trailer_", |ex, name, out| {
        let fields = ex.response.trailers.as_slice();
        join(fields, &ex.response.buf, name, out)
    })
    .doc("A field after the body of the peer's answer."),
    V::new("proxy_host", |ex, _, out| {
        maybe(
            out,
            Some(&ex.proxy_host[..]).filter(|host| !host.is_empty()),
        )
    })
    .changeable()
    .doc("Host and port that proxy_pass names."),
    V::new("proxy_port", |ex, _, out| {
        !ex.proxy_host.is_empty() && number(out, ex.proxy_port)
    })
    .changeable()
    .doc("Port that proxy_pass names."),
];

/// Appends one item for each attempt; `-` where there is none. A colon stands where an internal
/// redirect led from one group of peers to another.
fn list(
    ex: &Exchange,
    out: &mut Vec<u8>,
    item: impl Fn(&UpstreamState, &mut Vec<u8>) -> bool,
) -> bool {
    let mut separator: &[u8] = b"";
    for state in &ex.upstream {
        out.extend_from_slice(separator);
        if !item(state, out) {
            out.push(b'-');
        }
        separator = if state.redirected_after {
            b" : "
        } else {
            b", "
        };
    }
    !ex.upstream.is_empty()
}
