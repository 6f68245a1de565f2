//! What ringway tells its operators: the error log, access logs, syslog. One background thread does
//! all writing, so that no worker waits for a disk. Knows nothing of HTTP.

pub mod access;
pub mod error_log;
pub mod escape;
pub mod level;
pub mod panics;
pub mod syslog;
pub mod writer;

use std::fmt;
use std::io;

pub use crate::{log_at, log_process};
pub use error_log::{Context, ErrorLog, TargetSpec, process_log as log};
pub use level::Level;

/// An I/O error as log lines show it: `(111: Connection refused)`.
pub fn os_error(error: &io::Error) -> impl fmt::Display + '_ {
    OsError(error)
}

struct OsError<'a>(&'a io::Error);

impl fmt::Display for OsError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match self.0.raw_os_error() {
            Some(code) => {
                let plain = text.split(" (os error ").next().unwrap_or(&text);
                write!(f, "({code}: {plain})")
            }
            None => write!(f, "({text})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_errors_look_like_nginx_s() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(os_error(&refused).to_string(), "(111: Connection refused)");
        let other = io::Error::other("handshake failed");
        assert_eq!(os_error(&other).to_string(), "(handshake failed)");
    }
}
