//! What the error log is told of a connection to a peer that could not be made.

use std::fmt;
use std::io;

use crate::observe::{Level, os_error};

/// A failed attempt to connect. What only an operator can mend (a socket that is not there, no
/// local port left) is graver than a server that is down, and the peer is named where the kernel
/// refuses to even try.
#[derive(Clone, Copy, Debug)]
pub struct ConnectFailure<'a> {
    peer: &'a str,
    error: &'a io::Error,
}

impl<'a> ConnectFailure<'a> {
    /// Of the peer with this name, as [`super::PeerConf::name`] has it.
    pub fn new(peer: &'a str, error: &'a io::Error) -> Self {
        ConnectFailure { peer, error }
    }

    /// Whether the time for it was over.
    pub fn is_timeout(self) -> bool {
        self.error.kind() == io::ErrorKind::TimedOut
    }

    /// How grave it is.
    pub fn level(self) -> Level {
        match self.error.raw_os_error() {
            _ if self.is_timeout() || self.is_answer() => Level::Error,
            Some(libc::ECONNREFUSED | libc::EAGAIN | libc::ENETDOWN | libc::ENETUNREACH) => {
                Level::Error
            }
            _ => Level::Crit,
        }
    }

    /// Whether the peer, or a router on the way to it, said no.
    fn is_answer(self) -> bool {
        let code = self.error.raw_os_error();
        let is_remote = !self.peer.starts_with("unix:");
        is_remote
            && matches!(
                code,
                Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EHOSTDOWN | libc::EHOSTUNREACH)
            )
    }
}

impl fmt::Display for ConnectFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = os_error(self.error);
        if self.is_timeout() {
            f.write_str("upstream timed out (110: Connection timed out)")
        } else if self.is_answer() {
            write!(f, "connect() failed {shown}")
        } else {
            write!(f, "connect() to {} failed {shown}", self.peer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_operator_can_mend_is_critical() {
        for (peer, code, level, expected) in [
            ("127.0.0.1:1", 111, Level::Error, "connect() failed (111: "),
            ("127.0.0.1:1", 113, Level::Error, "connect() failed (113: "),
            (
                "127.0.0.1:1",
                101,
                Level::Error,
                "connect() to 127.0.0.1:1 failed (101: ",
            ),
            (
                "127.0.0.1:1",
                99,
                Level::Crit,
                "connect() to 127.0.0.1:1 failed (99: ",
            ),
            (
                "unix:/s",
                111,
                Level::Error,
                "connect() to unix:/s failed (111: ",
            ),
            (
                "unix:/s",
                2,
                Level::Crit,
                "connect() to unix:/s failed (2: ",
            ),
            ("unix:/s", 110, Level::Error, "upstream timed out (110: "),
        ] {
            let error = io::Error::from_raw_os_error(code);
            let failure = ConnectFailure::new(peer, &error);
            assert_eq!(failure.level(), level, "{failure}");
            assert!(failure.to_string().starts_with(expected), "{failure}");
        }
    }
}
