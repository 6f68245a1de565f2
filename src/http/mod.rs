//! HTTP: an exchange from its first byte to its log line.

pub mod h1;
pub mod message;
pub mod status;
pub mod token;
pub mod uri;
