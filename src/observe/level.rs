//! Severities of the error log, as the `error_log` directive names them.

/// How grave a message is. Ordered: a smaller value is graver, as in syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// The process cannot start or go on.
    Emerg = 0,
    /// A bug in ringway itself.
    Alert = 1,
    /// An operator must act: a full disk, a port that cannot be bound.
    Crit = 2,
    /// One request failed.
    Error = 3,
    /// Something odd which did not fail anything.
    Warn = 4,
    /// Normal but noteworthy: start, reload, stop.
    Notice = 5,
    /// Details of normal work.
    Info = 6,
    /// For developers: at least a line per request.
    Debug = 7,
}

impl Level {
    /// All levels, gravest first.
    pub const ALL: [Level; 8] = [
        Level::Emerg,
        Level::Alert,
        Level::Crit,
        Level::Error,
        Level::Warn,
        Level::Notice,
        Level::Info,
        Level::Debug,
    ];

    /// The level spelled as in configuration files. The `debug_http`-style masks of nginx's debug
    /// log mean `debug`, since there is no separate debug build.
    pub fn parse(text: &[u8]) -> Option<Level> {
        if text.starts_with(b"debug_") {
            return Some(Level::Debug);
        }
        Level::ALL
            .into_iter()
            .find(|level| level.name().as_bytes() == text)
    }

    /// The spelling in log lines and configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Emerg => "emerg",
            Level::Alert => "alert",
            Level::Crit => "crit",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Notice => "notice",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    /// The syslog severity number, which is the same order.
    pub const fn severity(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_order() {
        for level in Level::ALL {
            assert_eq!(Level::parse(level.name().as_bytes()), Some(level));
        }
        assert_eq!(Level::parse(b"debug_http"), Some(Level::Debug));
        assert_eq!(Level::parse(b"warning"), None);
        assert!(Level::Emerg < Level::Error && Level::Error < Level::Debug);
        assert_eq!(Level::Error.severity(), 3);
    }
}
