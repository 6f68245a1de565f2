//! `stream {}`: sessions over TCP from the accepted connection to their log line.
//!
//! - [`scope`], [`conf`]: the block while it is read, and what it compiles to.
//! - [`local`]: what one worker has for its sessions.
//! - [`session`]: one session, what every phase, module and variable works on.
//! - [`serve`], [`phases`]: the phases of a session in their fixed order.
//! - [`proxy`]: the content of `proxy_pass`.
//! - [`udp`]: sessions of datagrams.
//! - [`modules`]: one file for each of nginx's modules.

pub mod client;
pub mod conf;
pub mod drops;
pub mod local;
pub mod modules;
pub mod phases;
pub mod proxy;
pub mod scope;
pub mod serve;
pub mod session;
pub mod udp;
pub mod variables;
