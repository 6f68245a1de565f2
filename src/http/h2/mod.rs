//! HTTP/2: the `h2` crate between ringway's sockets and ringway's exchanges.
//!
//! `io` is what `h2` reads and writes through, `fields` turns its maps of fields into heads as the
//! rest of `http` knows them and back. Both serve either side of the gateway.

pub mod connection;
pub mod fields;
pub mod guard;
pub mod head;
pub mod io;
pub mod lane;
pub mod piece;
pub mod stream;
pub mod timers;
