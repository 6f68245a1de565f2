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
    /// Body length of every response.
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
    /// Closed loop, every request on a connection of its own.
    NewConnection,
    /// Open loop, so many requests per second over keepalive connections.
    Rate(u32),
    /// One request per connection, then nothing; memory is measured.
    Idle,
}

/// The configuration of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Conf {
    /// Keepalive to clients and upstreams without limits that would interfere.
    Tuned,
    /// The reference `proxy.conf` in Debian's stock nginx.conf: no keepalive lines.
    Reference,
}

/// What ringway has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Work per CPU-second, as a multiple of theirs.
    Work { nginx: f64, haproxy: f64 },
    /// The same, and p99 and p99.9 not above theirs.
    WorkAndLatency { nginx: f64, haproxy: f64 },
    /// Bytes of user memory per connection, at most.
    Memory(f64),
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
];

/// The scenarios called `names`; all of them when there are no names.
///
/// # Errors
/// A message for the user that lists the known names.
pub fn select(names: &[&str]) -> Result<Vec<Scenario>, String> {
    if names.is_empty() {
        return Ok(SCENARIOS.to_vec());
    }
    let find = |name: &&str| {
        SCENARIOS
            .iter()
            .find(|scenario| scenario.name == *name)
            .copied()
            .ok_or_else(|| {
                let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
                format!(
                    "unknown scenario \"{name}\"; there are {}",
                    known.join(", ")
                )
            })
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        assert_eq!(select(&[]).unwrap().len(), SCENARIOS.len());
        assert_eq!(select(&["1m-16", "newconn"]).unwrap()[1].name, "newconn");
        assert!(select(&["fast"]).unwrap_err().contains("small100-64"));
    }
}
