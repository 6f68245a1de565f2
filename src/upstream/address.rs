//! `host[:port]` and `unix:path` as `server`, `proxy_pass` and `resolver` write them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::peer::PeerAddr;
use crate::base::network::Network;
use crate::config::network::network;
use crate::config::{self, ConfigError, Node, Reader};

/// An address as written, not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address that needs no looking up.
    Addr(PeerAddr),
    /// A name, lower case, and its port.
    Name {
        /// The host name.
        host: Box<str>,
        /// The port, given or default.
        port: u16,
    },
}

impl Target {
    /// Parses `text`; `default_port` stands in for a missing port. The error is the phrase that
    /// nginx puts before ` in upstream "TEXT"`.
    pub fn parse(text: &str, default_port: u16) -> Result<Target, &'static str> {
        if text
            .get(..5)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:"))
        {
            return parse_unix(&text[5..]);
        }
        if let Some(rest) = text.strip_prefix('[') {
            return parse_v6(rest, default_port);
        }
        if text.contains(['/', '?', '#']) {
            return Err("invalid host");
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        let port = port.unwrap_or(default_port);
        if host.is_empty() {
            return Err("no host");
        }
        Ok(match host.parse::<IpAddr>() {
            Ok(ip) => Target::Addr(SocketAddr::new(ip, port).into()),
            Err(_) => Target::Name {
                host: host.to_ascii_lowercase().into(),
                port,
            },
        })
    }

    /// The port, or `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Target::Addr(addr) => addr.socket_addr().map(|addr| addr.port()),
            Target::Name { port, .. } => Some(*port),
        }
    }

    /// Looks the name up with the system's resolver. Blocks, so only while a configuration loads.
    /// IPv4 addresses come first. Fails with nginx's phrase.
    pub fn look_up(&self) -> Result<Vec<PeerAddr>, &'static str> {
        match self {
            Target::Addr(addr) => Ok(vec![addr.clone()]),
            Target::Name { host, port } => {
                let found = (&**host, *port)
                    .to_socket_addrs()
                    .map_err(|_| HOST_NOT_FOUND)?;
                let mut addrs: Vec<SocketAddr> = Vec::new();
                for addr in found {
                    if !addrs.contains(&addr) {
                        addrs.push(addr);
                    }
                }
                addrs.sort_by_key(SocketAddr::is_ipv6);
                match addrs.is_empty() {
                    true => Err(HOST_NOT_FOUND),
                    false => Ok(addrs.into_iter().map(PeerAddr::Inet).collect()),
                }
            }
        }
    }
}

/// Reads a `set_real_ip_from`: adds the proxies that it names, by address, network or host name.
///
/// # Errors
/// nginx's phrase about a name that is not known.
pub fn proxies(
    reader: &mut Reader,
    list: &mut Option<Vec<Network>>,
    node: &Node,
) -> config::Result<()> {
    let list = list.get_or_insert_default();
    let word = &node.args()[0];
    if let Some(network) = network(reader, word) {
        list.push(network);
        return Ok(());
    }
    let text = word.text();
    let addrs = Target::parse(&text, 0).and_then(|target| target.look_up());
    let addrs = addrs.map_err(|error| {
        let message = format!("{error} in set_real_ip_from \"{text}\"");
        ConfigError::at(word.span, message)
    })?;
    let ips = addrs.iter().filter_map(PeerAddr::ip);
    list.extend(ips.map(|ip| Network::Net(ip.into())));
    Ok(())
}

fn parse_unix(path: &str) -> Result<Target, &'static str> {
    if path.is_empty() {
        return Err("no path in the unix domain socket");
    }
    if path.len() > UNIX_PATH_MAX {
        return Err("too long path in the unix domain socket");
    }
    Ok(Target::Addr(PathBuf::from(path).into()))
}

fn parse_v6(rest: &str, default_port: u16) -> Result<Target, &'static str> {
    let (host, after) = rest.split_once(']').ok_or("invalid host")?;
    let port = match after.strip_prefix(':') {
        Some(port) => parse_port(port)?,
        None if after.is_empty() => default_port,
        None => return Err("invalid host"),
    };
    let ip: Ipv6Addr = host.parse().map_err(|_| "invalid IPv6 address")?;
    Ok(Target::Addr(SocketAddr::new(ip.into(), port).into()))
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err("invalid port"),
    }
}

const HOST_NOT_FOUND: &str = "host not found";
/// `sun_path` holds 108 bytes, the last of them NUL.
const UNIX_PATH_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses() {
        let addr = |text: &str| match Target::parse(text, 80) {
            Ok(Target::Addr(addr)) => addr.to_string(),
            Ok(Target::Name { host, port }) => format!("name {host} {port}"),
            Err(error) => error.to_owned(),
        };
        assert_eq!(addr("127.0.0.1"), "127.0.0.1:80");
        assert_eq!(addr("127.0.0.1:8080"), "127.0.0.1:8080");
        assert_eq!(addr("[::1]:8080"), "[::1]:8080");
        assert_eq!(addr("[::1]"), "[::1]:80");
        assert_eq!(addr("unix:/run/a.sock"), "unix:/run/a.sock");
        assert_eq!(addr("Backend:3000"), "name backend 3000");
        assert_eq!(addr("backend"), "name backend 80");
    }

    #[test]
    fn bad_addresses_in_nginx_words() {
        let error = |text: &str| Target::parse(text, 80).unwrap_err();
        assert_eq!(error("127.0.0.1:99999"), "invalid port");
        assert_eq!(error("127.0.0.1:"), "invalid port");
        assert_eq!(error("127.0.0.1:0"), "invalid port");
        assert_eq!(error(""), "no host");
        assert_eq!(error(":80"), "no host");
        assert_eq!(error("http://a"), "invalid host");
        assert_eq!(error("127.0.0.1/x"), "invalid host");
        assert_eq!(error("[::1"), "invalid host");
        assert_eq!(error("unix:"), "no path in the unix domain socket");
    }

    #[test]
    fn names_are_looked_up_ipv4_first_and_once() {
        let addrs = Target::parse("localhost:81", 80)
            .unwrap()
            .look_up()
            .unwrap();
        assert_eq!(addrs[0].to_string(), "127.0.0.1:81");
        let mut once = addrs.clone();
        once.dedup();
        assert_eq!(addrs, once);
    }
}
