//! Who a client is by its address: networks, rules over them, and the chain of proxies before it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Clients, as `allow`, `deny` and `set_real_ip_from` name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everybody.
    All,
    /// Whoever comes through a unix socket.
    Unix,
    /// The addresses of a network.
    Net(IpNet),
}

impl Network {
    /// Whether a client belongs to it; one without an address came through a unix socket.
    pub fn contains(&self, client: Option<IpAddr>) -> bool {
        match self {
            Network::All => true,
            Network::Unix => client.is_none(),
            Network::Net(net) => client.is_some_and(|ip| net.contains(&ip)),
        }
    }
}

/// Who may come in, in the order of the file: the first rule that matches decides.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<(Network, bool)>);

impl Rules {
    /// Adds a rule at the end.
    pub fn push(&mut self, network: Network, allow: bool) {
        self.0.push((network, allow));
    }

    /// Whether a client is kept out; one without an address came through a unix socket.
    pub fn deny(&self, client: Option<IpAddr>) -> bool {
        let rule = self.0.iter().find(|(network, _)| network.contains(client));
        rule.is_some_and(|(_, allow)| !allow)
    }
}

/// The client that a list of addresses from proxies names (`X-Forwarded-For`), nearest last: the
/// last one or, where all proxies between are known (`recursive`), the last that is none of them.
/// `None` if there is no address at the end of the list.
pub fn forwarded(
    list: &[u8],
    recursive: bool,
    is_proxy: impl Fn(IpAddr) -> bool,
) -> Option<SocketAddr> {
    let mut found = None;
    let separator = |byte: &u8| matches!(byte, b',' | b' ');
    let hops = list.rsplit(separator).filter(|hop| !hop.is_empty());
    for hop in hops.map(parse_hop) {
        let Some(hop) = hop else { break };
        found = Some(hop);
        if !recursive || !is_proxy(hop.ip()) {
            break;
        }
    }
    found
}

/// An address; an IPv4 one in IPv6's clothes is taken out of them.
pub fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    let ip: IpAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(ip.to_canonical())
}

/// One member of such a list: an address, perhaps with a port; 0 without one.
fn parse_hop(text: &[u8]) -> Option<SocketAddr> {
    if let Some(ip) = parse_ip(text) {
        return Some(SocketAddr::new(ip, 0));
    }
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()));
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    let ip = IpAddr::V6(bare.parse::<Ipv6Addr>().ok()?);
    Some(SocketAddr::new(ip.to_canonical(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let mut rules = Rules::default();
        assert!(!rules.deny(ip("192.0.2.1")));
        rules.push(Network::Net("192.0.2.1/32".parse().unwrap()), false);
        rules.push(Network::Net("192.0.2.0/24".parse().unwrap()), true);
        rules.push(Network::Unix, true);
        rules.push(Network::All, false);
        assert!(rules.deny(ip("192.0.2.1")));
        assert!(!rules.deny(ip("192.0.2.2")));
        assert!(rules.deny(ip("::1")));
        assert!(!rules.deny(None));
    }

    #[test]
    fn a_chain_is_followed_as_far_as_it_is_trusted() {
        let is_proxy = |ip: IpAddr| ip.to_string().starts_with("10.");
        let client = |list: &str, recursive| {
            forwarded(list.as_bytes(), recursive, is_proxy).map(|addr| addr.to_string())
        };
        let list = "192.0.2.9, 192.0.2.1:80,10.0.0.2 , 10.0.0.1";
        assert_eq!(client(list, false).unwrap(), "10.0.0.1:0");
        assert_eq!(client(list, true).unwrap(), "192.0.2.1:80");
        assert_eq!(client("[::1]:5", false).unwrap(), "[::1]:5");
        assert_eq!(client("[::1]", false).unwrap(), "[::1]:0");
        assert_eq!(client("::ffff:1.2.3.4", true).unwrap(), "1.2.3.4:0");
        assert_eq!(
            client("junk, 10.0.0.3, 10.0.0.2", true).unwrap(),
            "10.0.0.3:0"
        );
        assert_eq!(client("10.0.0.1, junk", true), None);
        assert_eq!(client("", false), None);
    }
}
