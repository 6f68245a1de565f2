//! The table of what is measured, and what ringway has to reach in each row.

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What `--scenario` calls it.
    pub name: &'static str,
    /// One line for the report.
    pub title: &'static str,
    /// How the load is made.
    pub kind: Kind,
    /// Client connections.
    pub connections: usize,
    /// Body length of every response; bulk flows have none.
    pub body_bytes: u64,
    /// Which configuration the proxies get.
    pub conf: Conf,
    /// What ringway has to reach.
    pub target: Target,
}

/// How the load of a scenario is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Closed loop over keepalive connections.
    Closed,
    /// Closed loop, every request on a connection of its own. With TLS its handshake is full.
    NewConnection,
    /// The same, and its handshake resumes an earlier one.
    Resumed,
    /// Closed loop over HTTP/2: so many requests under way on each connection.
    Streams(usize),
    /// Open loop, so many requests per second over keepalive connections.
    Rate(u32),
    /// One request per connection, then nothing; memory is measured.
    Idle,
    /// Not a byte on any connection; memory is measured.
    Untouched,
    /// Flows in one direction, as fast as the proxy takes them; the sink discards.
    Bulk,
}

impl Kind {
    /// Whether memory is measured, which wants a process that has done nothing else.
    pub fn is_memory(self) -> bool {
        matches!(self, Self::Idle | Self::Untouched)
    }
}

/// The configuration of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Conf {
    /// Keepalive to clients and upstreams without limits that would interfere.
    Tuned,
    /// The reference `proxy.conf` in Debian's stock nginx.conf: no keepalive lines.
    Reference,
    /// The same bytes carried as TCP: `stream` and `mode tcp`.
    Stream,
    /// As `Tuned`, with TLS to clients.
    Tls,
    /// The same, with HTTP/2.
    H2,
    /// HTTP/2 without TLS.
    H2c,
    /// gRPC: HTTP/2 with TLS to clients, without TLS to upstreams.
    Grpc,
}

impl Conf {
    /// The word `--group` uses.
    pub fn group(self) -> &'static str {
        match self {
            Self::Tuned | Self::Reference => "http",
            Self::Stream => "stream",
            Self::Tls => "tls",
            Self::H2 | Self::H2c | Self::Grpc => "h2",
        }
    }

    /// Whether clients speak TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2 | Self::Grpc)
    }

    /// Whether clients speak HTTP/2.
    pub fn is_h2(self) -> bool {
        matches!(self, Self::H2 | Self::H2c | Self::Grpc)
    }
}

/// What ringway has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Work per CPU-second, as a multiple of theirs.
    Work { nginx: f64, haproxy: f64 },
    /// The same, of nginx's only.
    WorkBesideNginx(f64),
    /// The same, and p99 and p99.9 not above theirs.
    WorkAndLatency { nginx: f64, haproxy: f64 },
    /// Work per CPU-second (if any) and work per second, as multiples of everybody else's.
    WorkAndSpeed { work: Option<f64>, speed: f64 },
    /// Bytes of user memory per connection, at most.
    Memory(f64),
    /// The same, and below nginx's.
    MemoryBelowNginx(f64),
    /// Bytes of user memory per connection below nginx's, whatever that is.
    LessMemoryThanNginx,
}

/// Every scenario, in the order of the report.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "small100-64",
        title: "100 B responses, 64 keepalive connections",
        kind: Kind::Closed,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Tuned,
        target: Target::Work {
            nginx: 1.2,
            haproxy: 1.15,
        },
    },
    Scenario {
        name: "small100-512",
        title: "100 B responses, 512 keepalive connections",
        kind: Kind::Closed,
        connections: 512,
        body_bytes: 100,
        conf: Conf::Tuned,
        target: Target::Work {
            nginx: 1.4,
            haproxy: 1.4,
        },
    },
    Scenario {
        name: "reference-64",
        title: "the reference proxy.conf unchanged, 100 B responses, 64 connections",
        kind: Kind::Closed,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Reference,
        target: Target::Work {
            nginx: 3.5,
            haproxy: 1.0,
        },
    },
    Scenario {
        name: "64k-32",
        title: "64 KiB responses, 32 connections",
        kind: Kind::Closed,
        connections: 32,
        body_bytes: 64 << 10,
        conf: Conf::Tuned,
        target: Target::Work {
            nginx: 1.9,
            haproxy: 1.2,
        },
    },
    Scenario {
        name: "1m-16",
        title: "1 MiB responses, 16 connections",
        kind: Kind::Closed,
        connections: 16,
        body_bytes: 1 << 20,
        conf: Conf::Tuned,
        target: Target::Work {
            nginx: 1.6,
            haproxy: 1.2,
        },
    },
    Scenario {
        name: "newconn",
        title: "100 B responses, a new client connection per request, 64 at a time",
        kind: Kind::NewConnection,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Tuned,
        target: Target::Work {
            nginx: 1.05,
            haproxy: 1.05,
        },
    },
    Scenario {
        name: "idle10k",
        title: "10,000 idle keepalive connections, growth of PSS each",
        kind: Kind::Idle,
        connections: 10_000,
        body_bytes: 100,
        conf: Conf::Tuned,
        target: Target::Memory(1.2 * 1024.0),
    },
    Scenario {
        name: "rate10k",
        title: "100 B responses at 10,000 requests/s, 64 connections",
        kind: Kind::Rate(10_000),
        connections: 64,
        body_bytes: 100,
        conf: Conf::Tuned,
        target: Target::WorkAndLatency {
            nginx: 1.2,
            haproxy: 1.2,
        },
    },
    Scenario {
        name: "stream-bulk-8",
        title: "8 TCP flows at full speed, the sink discards",
        kind: Kind::Bulk,
        connections: 8,
        body_bytes: 0,
        conf: Conf::Stream,
        target: Target::WorkAndSpeed {
            work: Some(2.0),
            speed: 1.8,
        },
    },
    Scenario {
        name: "stream-bulk-1",
        title: "1 TCP flow at full speed, the sink discards",
        kind: Kind::Bulk,
        connections: 1,
        body_bytes: 0,
        conf: Conf::Stream,
        target: Target::WorkAndSpeed {
            work: None,
            speed: 1.3,
        },
    },
    Scenario {
        name: "stream-small",
        title: "100 B responses carried as TCP, 64 keepalive connections",
        kind: Kind::Closed,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Stream,
        target: Target::Work {
            nginx: 1.05,
            haproxy: 1.05,
        },
    },
    Scenario {
        name: "stream-newconn",
        title: "100 B responses carried as TCP, a new session per request, 64 at a time",
        kind: Kind::NewConnection,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Stream,
        target: Target::WorkBesideNginx(1.05),
    },
    Scenario {
        name: "stream-idle",
        title: "5,000 TCP sessions without a byte, growth of PSS each",
        kind: Kind::Untouched,
        connections: 5_000,
        body_bytes: 100,
        conf: Conf::Stream,
        target: Target::MemoryBelowNginx(2.0 * 1024.0),
    },
    Scenario {
        name: "stream-idle-used",
        title: "5,000 TCP sessions idle after one request, growth of PSS each",
        kind: Kind::Idle,
        connections: 5_000,
        body_bytes: 100,
        conf: Conf::Stream,
        target: Target::MemoryBelowNginx(2.0 * 1024.0),
    },
    Scenario {
        name: "tls-small",
        title: "TLS 1.3, 100 B responses, 64 keepalive connections",
        kind: Kind::Closed,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Tls,
        target: Target::Work {
            nginx: 1.2,
            haproxy: 1.1,
        },
    },
    Scenario {
        name: "tls-handshake",
        title: "TLS 1.3, a full handshake (ECDSA P-256) for each 100 B response, 64 at a time",
        kind: Kind::NewConnection,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Tls,
        target: Target::Work {
            nginx: 1.15,
            haproxy: 1.15,
        },
    },
    Scenario {
        name: "tls-resumed",
        title: "TLS 1.3, a handshake resumed by ticket for each 100 B response, 64 at a time",
        kind: Kind::Resumed,
        connections: 64,
        body_bytes: 100,
        conf: Conf::Tls,
        target: Target::Work {
            nginx: 1.2,
            haproxy: 1.2,
        },
    },
    Scenario {
        name: "tls-1m",
        title: "TLS 1.3, 1 MiB responses, 16 connections",
        kind: Kind::Closed,
        connections: 16,
        body_bytes: 1 << 20,
        conf: Conf::Tls,
        target: Target::Work {
            nginx: 1.0,
            haproxy: 1.0,
        },
    },
    Scenario {
        name: "tls-idle",
        title: "5,000 idle TLS 1.3 connections after one request, growth of PSS each",
        kind: Kind::Idle,
        connections: 5_000,
        body_bytes: 100,
        conf: Conf::Tls,
        target: Target::LessMemoryThanNginx,
    },
    Scenario {
        name: "h2-small",
        title: "HTTP/2 over TLS, 100 B responses, 16 connections × 32 streams",
        kind: Kind::Streams(32),
        connections: 16,
        body_bytes: 100,
        conf: Conf::H2,
        target: Target::Work {
            nginx: 1.35,
            haproxy: 1.0,
        },
    },
    Scenario {
        name: "h2c-small",
        title: "HTTP/2 without TLS, 100 B responses, 16 connections × 32 streams",
        kind: Kind::Streams(32),
        connections: 16,
        body_bytes: 100,
        conf: Conf::H2c,
        target: Target::Work {
            nginx: 1.35,
            haproxy: 1.0,
        },
    },
    Scenario {
        name: "h2-idle",
        title: "5,000 idle connections with HTTP/2 over TLS after one request, growth of PSS each",
        kind: Kind::Idle,
        connections: 5_000,
        body_bytes: 100,
        conf: Conf::H2,
        target: Target::LessMemoryThanNginx,
    },
    Scenario {
        name: "grpc-unary",
        title: "gRPC over TLS, 100 B messages, 16 connections × 32 streams",
        kind: Kind::Streams(32),
        connections: 16,
        body_bytes: 100,
        conf: Conf::Grpc,
        target: Target::WorkBesideNginx(1.3),
    },
];

/// The scenarios called `names` (each may be a list with commas) and those of the `groups`; all of
/// them when there are neither.
///
/// # Errors
/// A message for the user that lists what is known.
pub fn select(names: &[&str], groups: &[&str]) -> Result<Vec<Scenario>, String> {
    let names: Vec<&str> = names.iter().flat_map(|list| list.split(',')).collect();
    let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(name)) {
        let known = known.join(", ");
        return Err(format!("unknown scenario \"{name}\"; there are {known}"));
    }
    let is_group = |name: &&&str| SCENARIOS.iter().any(|s| s.conf.group() == **name);
    if let Some(group) = groups.iter().find(|name| !is_group(name)) {
        return Err(format!(
            "unknown group \"{group}\"; there are http, stream, tls and h2"
        ));
    }
    let is_chosen = |scenario: &&Scenario| {
        let nothing_is_said = names.is_empty() && groups.is_empty();
        nothing_is_said || names.contains(&scenario.name) || groups.contains(&scenario.conf.group())
    };
    Ok(SCENARIOS.iter().filter(is_chosen).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        let names = |names: &[&str], groups: &[&str]| -> Vec<&str> {
            let chosen = select(names, groups).unwrap();
            chosen.iter().map(|scenario| scenario.name).collect()
        };
        assert_eq!(names(&[], &[]).len(), SCENARIOS.len());
        assert_eq!(names(&["newconn", "1m-16"], &[]), ["1m-16", "newconn"]);
        assert_eq!(names(&["newconn,1m-16"], &[]), ["1m-16", "newconn"]);
        let streams = names(&["1m-16"], &["stream"]);
        assert_eq!(streams[..2], ["1m-16", "stream-bulk-8"]);
        assert_eq!(
            names(&[], &["http", "stream"]).len(),
            names(&[], &["http"]).len() + streams.len() - 1
        );
        assert_eq!(names(&[], &["h2"]).last(), Some(&"grpc-unary"));
        assert!(select(&["fast"], &[]).unwrap_err().contains("small100-64"));
        assert!(select(&[], &["udp"]).unwrap_err().contains("stream"));
    }
}
