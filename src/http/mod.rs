//! HTTP: an exchange from its first byte to its log line.
//!
//! In reading order: `connection` takes requests off a client's connection one by one, `h1` parses
//! and frames them, `route` and `phases` decide what answers, `modules` and `proxy` answer, and
//! `respond` sends what they say.

pub mod accept;
mod begin;
pub mod body;
pub mod client;
pub mod conf;
pub mod connection;
pub mod exchange;
pub mod h1;
pub mod h2;
mod keepalive;
pub mod local;
pub mod message;
pub mod modules;
pub mod phases;
pub mod proxy;
pub mod rate;
pub mod respond;
pub mod route;
pub mod scope;
pub mod status;
pub mod tls;
pub mod token;
pub mod uri;
pub mod variables;
mod waiting;
