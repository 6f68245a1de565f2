//! The `http2…` directives: who speaks HTTP/2, and within which bounds.

use std::sync::Arc;

use crate::config::{Arity, Contexts, Row};
use crate::http::scope::Scope;
use crate::inherit;
use crate::tls;

use super::ssl;

const HS: Contexts = Contexts::HTTP.or(Contexts::SERVER);
const HSL: Contexts = HS.or(Contexts::LOCATION);

type R = Row<Scope>;

const NO_POOL: &str = "sizes memory that ringway does not have";
const NO_PUSH: &str = "is obsolete in nginx too: browsers do not take pushed responses any more";

/// The directives.
pub const ROWS: &[Row<Scope>] = &[
    R::flag("http2", HS, |s| &mut s.http2.enabled)
        .default("off")
        .doc("Speak HTTP/2: with TLS by ALPN, without it beside HTTP/1.x on the same port."),
    R::number("http2_max_concurrent_streams", HS, |s| {
        &mut s.http2.streams_max
    })
    .default("128")
    .doc("Requests of one connection that may be under way."),
    R::size("http2_body_preread_size", HS, |s| &mut s.http2.preread)
        .default("64k")
        .doc("Bytes of a request body that may come before they are asked for (stream window)."),
    R::size("http2_recv_buffer_size", Contexts::HTTP, |s| {
        &mut s.http2.received
    })
    .default("256k")
    .doc("Bytes of all request bodies of a connection that may wait (connection window)."),
    R::size("http2_chunk_size", HSL, |s| &mut s.http2.chunk)
        .default("16k")
        .doc("Largest piece of a response in one frame (8k in nginx)."),
    R::notice("http2_pool_size", HS, Arity::One, NO_POOL),
    R::notice("http2_streams_index_size", HS, Arity::One, NO_POOL),
    R::notice(
        "http2_max_field_size",
        HS,
        Arity::One,
        "is obsolete in nginx too: large_client_header_buffers",
    ),
    R::notice(
        "http2_max_header_size",
        HS,
        Arity::One,
        "is obsolete in nginx too: large_client_header_buffers",
    ),
    R::notice(
        "http2_max_requests",
        HS,
        Arity::One,
        "is obsolete in nginx too: keepalive_requests",
    ),
    R::notice(
        "http2_recv_timeout",
        HS,
        Arity::One,
        "is obsolete in nginx too: client_header_timeout",
    ),
    R::notice(
        "http2_idle_timeout",
        HS,
        Arity::One,
        "is obsolete in nginx too: keepalive_timeout",
    ),
    R::notice("http2_push", HSL, Arity::One, NO_PUSH),
    R::notice("http2_push_preload", HSL, Arity::Flag, NO_PUSH),
    R::notice("http2_max_concurrent_pushes", HS, Arity::One, NO_PUSH),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    enabled: Option<bool>,
    streams_max: Option<u64>,
    preread: Option<u64>,
    received: Option<u64>,
    chunk: Option<u64>,
}

/// How a server speaks HTTP/2.
pub struct Conf {
    /// `http2`
    pub enabled: bool,
    /// `http2_max_concurrent_streams`
    pub streams_max: u32,
    /// `http2_body_preread_size`: the window of a stream.
    pub stream_window: u32,
    /// `http2_recv_buffer_size`: the window of a connection.
    pub connection_window: u32,
    /// The server's side of a TLS handshake in which HTTP/2 is offered.
    pub tls: Option<Arc<tls::Server>>,
}

/// No window may be larger (RFC 9113, 6.9.1).
const WINDOW_MAX: u64 = (1 << 31) - 1;

/// What a window is to begin with (RFC 9113, 6.9.2); that of a connection only grows.
const WINDOW_MIN: u64 = 65_535;

/// No frame is larger than what every client takes.
const FRAME_MAX: u64 = 16 << 10;

impl Raw {
    /// Fills what is not written here from the block around.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; enabled, streams_max, preread, received, chunk);
    }

    /// The settings of a server, after inheritance, with how it speaks TLS.
    pub fn compile(&self, ssl: &ssl::Conf) -> Conf {
        let stream_window = self.preread.unwrap_or(64 << 10).min(WINDOW_MAX);
        let connection_window = self.received.unwrap_or(256 << 10).min(WINDOW_MAX);
        let with_h2 = |server: &Arc<tls::Server>| Arc::new(server.with_protocols(&ssl::ALPN_H2));
        Conf {
            enabled: self.enabled.unwrap_or(false),
            streams_max: self.streams_max.unwrap_or(128).min(u64::from(u32::MAX)) as u32,
            stream_window: stream_window as u32,
            connection_window: connection_window.max(stream_window).max(WINDOW_MIN) as u32,
            tls: ssl.server.as_ref().map(with_h2),
        }
    }

    /// `http2_chunk_size` of a location, after inheritance.
    pub fn chunk_size(&self) -> usize {
        self.chunk.unwrap_or(FRAME_MAX).clamp(1, FRAME_MAX) as usize
    }
}
