//! Quick starts: `ringway http`, `ringway tcp` and `ringway udp` balance between addresses without
//! a file. Each writes the configuration that says the same as its flags, and runs or prints it.

use std::process::ExitCode;

use clap::Args;

use crate::gateway::LoadOptions;
use crate::master::{self, Origin, SpawnWorker, Start};
use crate::observe::Level;
use crate::observe::error_log::{Destination, TargetSpec};

/// What is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests.
    Http,
    /// TCP connections, whatever they carry.
    Tcp,
    /// Datagrams; those of one client are a session with one server.
    Udp,
}

/// The flags of a quick start.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Where to listen: a port, an address with a port, or (not for UDP) unix:/path
    #[arg(long, required = true)]
    pub listen: Vec<String>,
    /// A server to pass everything to; repeat it for more
    #[arg(long, required = true)]
    pub to: Vec<String>,
    /// The balancing method, as in an upstream block: least_conn, "hash $remote_addr consistent"
    #[arg(long, default_value = "round_robin")]
    pub balance: String,
    /// Print the configuration as nginx.conf instead of running it
    #[arg(long)]
    pub print: bool,
}

/// Runs until told to end, or prints. `responses` is how many datagrams a server answers with.
pub fn run(
    kind: Kind,
    arguments: &Arguments,
    responses: Option<u32>,
    spawn: SpawnWorker,
) -> ExitCode {
    if let Err(message) = check(kind, arguments) {
        eprintln!("ringway: {message}");
        return ExitCode::FAILURE;
    }
    let text = configuration(kind, arguments, responses);
    if arguments.print {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    let prefix = std::env::current_dir().unwrap_or_else(|_| ".".into());
    let error_log = TargetSpec {
        destination: Destination::Stderr,
        level: Level::Notice,
    };
    let pid = prefix.join("ringway.pid");
    let options = LoadOptions {
        prefix,
        globals: None,
        error_log,
        pid,
        lenient: false,
    };
    master::run(Start {
        origin: Origin::Text(text),
        options,
        attached: true,
        spawn,
    })
}

/// Refuses what would make another configuration than the flags look like.
fn check(kind: Kind, arguments: &Arguments) -> Result<(), String> {
    let methods: &[&str] = match kind {
        Kind::Http => &[
            "round_robin",
            "least_conn",
            "least_time",
            "ip_hash",
            "hash",
            "random",
        ],
        Kind::Tcp | Kind::Udp => &["round_robin", "least_conn", "least_time", "hash", "random"],
    };
    let is_plain =
        |value: &str| !value.is_empty() && !value.contains([';', '{', '}', '"', '\'', '#']);
    let addresses = |flag: &str, values: &[String]| {
        let is_address = |value: &&String| {
            is_plain(value) && !value.contains(char::is_whitespace) && !value.contains("://")
        };
        match values.iter().find(|value| !is_address(value)) {
            None => Ok(()),
            Some(value) => Err(format!(
                "{flag} \"{value}\" is not an address like 127.0.0.1:3000, [::1]:3000, \
                 app.example:3000 or unix:/run/app.sock"
            )),
        }
    };
    addresses("--listen", &arguments.listen)?;
    addresses("--to", &arguments.to)?;
    let method = arguments.balance.split(' ').next().unwrap_or_default();
    if methods.contains(&method) && is_plain(&arguments.balance) {
        return Ok(());
    }
    Err(format!(
        "--balance \"{}\" is none of {}",
        arguments.balance,
        methods.join(", ")
    ))
}

/// The file that says the same as the flags.
fn configuration(kind: Kind, arguments: &Arguments, responses: Option<u32>) -> String {
    let list = |name: &str, values: &[String], end: &str| -> String {
        values
            .iter()
            .map(|value| format!("        {name} {value}{end};\n"))
            .collect()
    };
    let method = match &*arguments.balance {
        "round_robin" => String::new(),
        method => format!("        {method};\n"),
    };
    let (block, opening) = match kind {
        Kind::Http => ("http", HTTP_OPENING),
        Kind::Tcp | Kind::Udp => ("stream", STREAM_OPENING),
    };
    let protocol = if kind == Kind::Udp { " udp" } else { "" };
    let listens = list("listen", &arguments.listen, protocol);
    let responses = responses.map_or_else(String::new, |count| {
        format!("        proxy_responses {count};\n")
    });
    let content = match kind {
        Kind::Http => HTTP_LOCATION.to_owned(),
        Kind::Tcp => "        proxy_pass servers;\n".to_owned(),
        Kind::Udp => {
            format!("        proxy_pass servers;\n        proxy_timeout 30s;\n{responses}")
        }
    };
    format!(
        "worker_processes auto;
error_log stderr notice;

events {{
    worker_connections 16384;
}}

{block} {{
{opening}
    upstream servers {{
{method}{servers}    }}

    server {{
{listens}
{content}    }}
}}
",
        servers = list("server", &arguments.to, ""),
    )
}

const HTTP_OPENING: &str = "    access_log /dev/stdout;

    # For WebSockets.
    map $http_upgrade $connection_upgrade {
        default upgrade;
        '' '';
    }
";

const HTTP_LOCATION: &str = "        location / {
            proxy_pass http://servers;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }
";

const STREAM_OPENING: &str =
    "    log_format sessions '$remote_addr [$time_local] $protocol $status '
                        '$bytes_sent $bytes_received $session_time $upstream_addr';
    access_log /dev/stdout sessions;
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn arguments(listen: &str, to: &[&str], balance: &str) -> Arguments {
        Arguments {
            listen: vec![listen.to_owned()],
            to: to.iter().map(|&to| to.to_owned()).collect(),
            balance: balance.to_owned(),
            print: true,
        }
    }

    fn readable(kind: Kind, arguments: &Arguments, responses: Option<u32>) -> String {
        let text = configuration(kind, arguments, responses);
        let (nodes, _) = config::parse_text(Path::new("generated"), text.as_bytes());
        assert!(config::failure(&nodes).is_none(), "{text}");
        text
    }

    #[test]
    fn a_quick_start_is_a_readable_file() {
        let two = ["127.0.0.1:3000", "127.0.0.1:3001"];
        let text = readable(Kind::Http, &arguments("8080", &two, "least_conn"), None);
        let upstream =
            "    upstream servers {\n        least_conn;\n        server 127.0.0.1:3000;\n";
        assert!(text.contains(upstream), "{text}");
        assert!(text.contains("        listen 8080;\n"));
        let text = readable(Kind::Tcp, &arguments("5432", &two, "round_robin"), None);
        assert!(text.contains("    upstream servers {\n        server 127.0.0.1:3000;\n"));
        let server = "        listen 5432;\n\n        proxy_pass servers;\n    }\n";
        assert!(text.contains(server), "{text}");
        let text = readable(Kind::Udp, &arguments("53", &two, "round_robin"), Some(1));
        assert!(text.contains("        listen 53 udp;\n"), "{text}");
        assert!(text.contains("        proxy_responses 1;\n"), "{text}");
    }

    #[test]
    fn a_quick_start_takes_addresses_and_methods_only() {
        let check = |kind, to: &str, balance: &str| check(kind, &arguments("8080", &[to], balance));
        for to in ["127.0.0.1:3000", "[::1]:3000", "app", "unix:/run/app.sock"] {
            let hash = "hash $request_uri consistent";
            assert_eq!(check(Kind::Http, to, hash), Ok(()), "{to}");
        }
        for to in ["http://app", "a;b", "a b", "", "a{", "a#"] {
            let message = check(Kind::Tcp, to, "round_robin").unwrap_err();
            assert!(
                message.starts_with(&format!("--to \"{to}\" is not")),
                "{message}"
            );
        }
        for balance in ["fastest", "", "ip_hash; zone z 1m"] {
            assert!(check(Kind::Http, "app", balance).is_err(), "{balance}");
        }
        assert_eq!(check(Kind::Http, "app", "ip_hash"), Ok(()));
        assert!(check(Kind::Tcp, "app:1", "ip_hash").is_err());
    }
}
