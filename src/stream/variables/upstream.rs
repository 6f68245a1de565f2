//! The attempts at upstream peers.

use crate::stream::session::{Session, UpstreamState};
use crate::vars::Variable;
use crate::vars::common::{found, maybe_seconds, number};

type V = Variable<Session>;

pub(super) static TABLE: &[V] = &[
    V::new("upstream_addr", |s, _, out| {
        list(s, out, |state, out| {
            state.name().is_some_and(|name| found(out, name.as_bytes()))
        })
    })
    .doc("Addresses of the peers that were tried."),
    V::new("upstream_connect_time", |s, _, out| {
        list(s, out, |state, out| maybe_seconds(out, state.connect_ms))
    })
    .doc("Seconds until the connections stood."),
    V::new("upstream_first_byte_time", |s, _, out| {
        list(s, out, |state, out| maybe_seconds(out, state.first_byte_ms))
    })
    .doc("Seconds until the first bytes came from the peers."),
    V::new("upstream_session_time", |s, _, out| {
        list(s, out, |state, out| maybe_seconds(out, state.session_ms))
    })
    .doc("Seconds that the attempts took."),
    V::new("upstream_bytes_sent", |s, _, out| {
        list(s, out, |state, out| number(out, state.bytes_sent))
    })
    .doc("Bytes sent to the peers."),
    V::new("upstream_bytes_received", |s, _, out| {
        list(s, out, |state, out| number(out, state.bytes_received))
    })
    .doc("Bytes received from the peers."),
];

/// Appends one item for each attempt; `-` where there is none.
fn list(
    s: &Session,
    out: &mut Vec<u8>,
    item: impl Fn(&UpstreamState, &mut Vec<u8>) -> bool,
) -> bool {
    for (at, state) in s.upstream.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        if !item(state, out) {
            out.push(b'-');
        }
    }
    !s.upstream.is_empty()
}
