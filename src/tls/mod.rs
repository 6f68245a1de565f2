//! TLS 1.2 and 1.3, without sockets: certificates and keys, what a server demands and offers,
//! handshakes as bytes in and out, the record layer, sessions, and who is to be believed.
//!
//! rustls with aws-lc-rs makes handshakes; `record` protects what follows. `verify` decides about
//! certificates as OpenSSL does, since nginx's users have certificates that webpki refuses.

pub mod cert;
pub mod cipher;
pub mod client;
pub mod crl;
mod der;
pub mod handshake;
mod host;
pub mod key;
mod key_log;
pub mod name;
mod notes;
pub mod ocsp;
pub mod offers;
pub mod record;
mod resume;
pub mod server;
pub mod session;
mod transport;
pub mod verify;
pub mod x509;

pub use client::{Client, ClientHandshake, ClientSettings, Refused, Target};
pub use handshake::{Established, Handshake, Progress, Session, SessionId};
pub use notes::Notes;
pub use record::{Broken, Records};
pub use server::{Server, Settings};
pub use transport::Transport;

#[cfg(test)]
mod tests;
