//! One file per nginx module: its directives, its compiled form, what it does to an exchange.

pub mod access;
pub mod core;
pub mod early_hints;
pub mod error_page;
pub mod gzip;
pub mod headers;
pub mod http2;
pub mod later;
pub mod limit_conn;
pub mod log;
pub mod map;
pub mod mime_set;
pub mod realip;
pub mod resolver;
pub mod rewrite;
pub mod server;
pub mod ssl;
pub mod statics;
pub mod upstream;
