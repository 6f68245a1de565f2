//! One file for each of nginx's stream modules: its rows, its compiled settings, its phase.

pub mod access;
pub mod core;
pub mod limit_conn;
pub mod log;
pub mod map;
pub mod pass;
pub mod realip;
pub mod resolver;
pub mod returns;
pub mod set;
pub mod ssl;
pub mod ssl_preread;
pub mod upstream;
