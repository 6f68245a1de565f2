//! HTTP/1.x (RFC 9112) as pure functions over byte buffers: no socket, no clock.
//!
//! A head stays in the buffer it was read into; [`head`] indexes it with ranges. Framing is decided
//! in [`framing`] and nowhere else.

pub mod chunked;
pub mod connection;
pub mod encode;
pub mod framing;
pub mod head;
pub mod host;
pub mod target;

mod diagnose;
mod fields;
mod scan;
