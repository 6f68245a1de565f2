//! The configurations the proxies get.

use std::net::SocketAddr;
use std::path::Path;

use crate::scenario::Conf;

/// The file with certificate and key, where there is TLS.
pub const CERTIFICATE: &str = "certificate.pem";

/// Where a proxy is and what is behind it.
pub struct Place<'a> {
    /// It listens here.
    pub address: SocketAddr,
    /// Its upstream servers.
    pub backends: &'a [SocketAddr],
    /// Its files are here.
    pub directory: &'a Path,
}

/// For nginx and ringway.
pub fn nginx_conf(conf: Conf, place: &Place<'_>) -> String {
    let address = place.address;
    let servers = servers(place, 8);
    match conf {
        Conf::Tuned => tuned("", "", PROXY, place),
        Conf::Tls => tuned(" ssl", &certificate(place), PROXY, place),
        Conf::H2 => tuned(" ssl http2", &certificate(place), PROXY, place),
        Conf::H2c => tuned(" http2", "", PROXY, place),
        Conf::Grpc => tuned(" ssl http2", &certificate(place), GRPC, place),
        Conf::Reference => {
            let head = head(place, 768);
            let directory = place.directory.display();
            format!(
                "{head}http {{
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    default_type application/octet-stream;
    access_log off;
    gzip on;

    include {directory}/proxy.conf;
}}
"
            )
        }
        Conf::Stream => {
            let head = head(place, 16_000);
            format!(
                "{head}stream {{
    upstream backends {{
{servers}    }}

    server {{
        listen {address} backlog=4096;
        proxy_pass backends;
    }}
}}
"
            )
        }
    }
}

/// The reference file, with our addresses and a listen line since port 80 is not ours.
pub fn reference_proxy_conf(place: &Place<'_>) -> String {
    let (address, servers) = (place.address, servers(place, 4));
    format!(
        "upstream wayshub {{
{servers}}}
server {{
    listen {address};
    server_name loadbalance.dumbways.xyz;

    location / {{
             proxy_pass http://wayshub;
    }}
}}
"
    )
}

/// Keepalive on both sides is HAProxy's default in HTTP mode.
pub fn haproxy_cfg(conf: Conf, splice: bool, place: &Place<'_>) -> String {
    let address = place.address;
    let proto = if conf == Conf::Grpc { " proto h2" } else { "" };
    let servers: String = place
        .backends
        .iter()
        .enumerate()
        .map(|(index, backend)| format!("    server s{index} {backend}{proto}\n"))
        .collect();
    let (mode, reuse) = match conf {
        Conf::Stream if splice => ("tcp\n    option splice-auto", ""),
        Conf::Stream => ("tcp", ""),
        _ => (
            "http\n    timeout http-keep-alive 300s",
            "    http-reuse always\n",
        ),
    };
    let file = place.directory.join(CERTIFICATE);
    let file = file.display();
    let bind = match conf {
        Conf::Tls => format!(" ssl crt {file} alpn http/1.1"),
        Conf::H2 | Conf::Grpc => format!(" ssl crt {file} alpn h2,http/1.1"),
        Conf::H2c => " proto h2".to_owned(),
        Conf::Tuned | Conf::Reference | Conf::Stream => String::new(),
    };
    format!(
        "global
    nbthread 1
    maxconn 12000
    no strict-limits

defaults
    mode {mode}
    timeout connect 60s
    timeout client 300s
    timeout server 300s

frontend in
    bind {address} backlog 4096{bind}
    default_backend backends

backend backends
    balance roundrobin
{reuse}{servers}"
    )
}

const PROXY: &str = "            proxy_pass http://backends;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
";

const GRPC: &str = "            grpc_pass grpc://backends;
";

/// Without a limit that would interfere.
fn tuned(listen: &str, lines: &str, location: &str, place: &Place<'_>) -> String {
    let head = head(place, 16_000);
    let (address, servers) = (place.address, servers(place, 8));
    let directory = place.directory.display();
    format!(
        "{head}http {{
    access_log off;
    proxy_temp_path {directory}/proxy_temp;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
{lines}
    upstream backends {{
{servers}        keepalive 1024;
        keepalive_requests 1000000000;
    }}

    server {{
        listen {address}{listen} backlog=4096;

        location / {{
{location}        }}
    }}
}}
"
    )
}

fn head(place: &Place<'_>, connections: usize) -> String {
    let directory = place.directory.display();
    format!(
        "daemon off;
worker_processes 1;
pid {directory}/proxy.pid;
error_log {directory}/error.log error;

events {{
    worker_connections {connections};
}}

"
    )
}

fn certificate(place: &Place<'_>) -> String {
    let file = place.directory.join(CERTIFICATE);
    let file = file.display();
    format!(
        "    ssl_certificate {file};
    ssl_certificate_key {file};
    ssl_protocols TLSv1.2 TLSv1.3;
"
    )
}

fn servers(place: &Place<'_>, indent: usize) -> String {
    let line = |backend: &SocketAddr| format!("{:indent$}server {backend};\n", "");
    place.backends.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_configuration_in_both_languages() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let place = Place {
            address,
            backends: &[address, address],
            directory: Path::new("/d"),
        };
        let nginx = |conf| nginx_conf(conf, &place);
        let haproxy = |conf| haproxy_cfg(conf, false, &place);
        assert!(nginx(Conf::Tls).contains("listen 127.0.0.1:1 ssl backlog=4096;"));
        assert!(haproxy(Conf::Tls).contains("ssl crt /d/certificate.pem alpn http/1.1\n"));
        assert!(nginx(Conf::Grpc).contains("ssl http2 backlog"));
        assert!(nginx(Conf::Grpc).contains("grpc_pass grpc://backends;"));
        assert!(haproxy(Conf::Grpc).contains("server s1 127.0.0.1:1 proto h2\n"));
        assert!(haproxy(Conf::H2c).contains("bind 127.0.0.1:1 backlog 4096 proto h2\n"));
        assert!(haproxy_cfg(Conf::Stream, true, &place).contains("splice-auto"));
        for conf in [Conf::Tuned, Conf::H2c, Conf::Stream, Conf::Reference] {
            assert!(!(nginx(conf) + &haproxy(conf)).contains("certificate"));
        }
    }
}
