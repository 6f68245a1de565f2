//! TLS to upstream servers: the `proxy_ssl_…` and `grpc_ssl_…` directives of `http` and `stream`,
//! and handshakes with the servers.

mod conf;
mod directives;
mod handshake;

pub use conf::{Conf, Identity};
pub(crate) use directives::rows;
pub use directives::{Raw, read_certificate_cache, read_conf_command, read_password_file};
pub use directives::{read_key_log, read_protocols};
pub use handshake::{Begun, Failed, shake};
