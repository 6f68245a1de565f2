//! nginx's `geo`: a variable whose value depends on an IP address.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Compute, Reference, Subject, Variables, variable_name};
use crate::base::hash::FastHasher;
use crate::base::network;
use crate::config::{ConfigError, Node, Result, Word};

/// A compiled `geo` block.
struct Geo<S: 'static> {
    address: Reference<S>,
    /// Where the addresses come from when the peer is one of `proxies`.
    forwarded: Option<Reference<S>>,
    proxies: Vec<IpNet>,
    recursive: bool,
    table: Table,
    default: Box<[u8]>,
}

enum Table {
    Networks(Networks),
    Ranges(Ranges),
}

/// Values by network, in one map per prefix length that occurs; the longest matching one counts.
#[derive(Default)]
struct Networks {
    v4: BTreeMap<u8, HashMap<u32, Box<[u8]>, FastHasher>>,
    v6: BTreeMap<u8, HashMap<u128, Box<[u8]>, FastHasher>>,
}

/// Values by range of IPv4 addresses. Ranges do not overlap: a narrower one has cut its place out
/// of the wider.
#[derive(Default)]
struct Ranges {
    /// First address → last address and value.
    ranges: BTreeMap<u32, (u32, Box<[u8]>)>,
}

/// What stands for an address that is none, as in nginx.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

/// Defines the variable of one `geo [$address] $variable { … }`.
pub(super) fn define<S: Subject>(node: &Node, variables: &mut Variables<S>) -> Result<()> {
    let (address, name) = match node.args() {
        [name] => (None, name),
        [address, name] => (Some(address), name),
        _ => {
            let message = "invalid number of arguments in \"geo\" directive";
            return Err(ConfigError::at(node.span(), message));
        }
    };
    let variable = variable_name(name)?;
    let (source, span) = match address {
        Some(address) => (variable_name(address)?, address.span),
        None => ("remote_addr".to_owned(), name.span),
    };
    let mut geo = Geo {
        address: variables.reference(&source, span),
        forwarded: None,
        proxies: Vec::new(),
        recursive: false,
        table: Table::Networks(Networks::default()),
        default: Box::default(),
    };
    for (index, entry) in node.children().iter().enumerate() {
        geo.entry(entry, index == 0)?;
    }
    if !geo.proxies.is_empty() {
        geo.forwarded = Some(variables.reference("http_x_forwarded_for", node.span()));
    }
    variables.define_computed(&variable, name.span, geo)
}

impl<S: Subject> Geo<S> {
    fn entry(&mut self, entry: &Node, first: bool) -> Result<()> {
        let key = &entry.words[0];
        match entry.args() {
            [] if key.is("ranges") => {
                if !first {
                    let message =
                        "the \"ranges\" directive must be the first directive inside \"geo\" block";
                    return Err(ConfigError::at(key.span, message));
                }
                self.table = Table::Ranges(Ranges::default());
            }
            [] if key.is("proxy_recursive") => self.recursive = true,
            [value] if key.is("default") => self.default = value.bytes.clone(),
            [value] if key.is("proxy") => self.proxies.push(network_of(value)?),
            [value] if key.is("delete") => match &mut self.table {
                Table::Networks(networks) => networks.remove(network_of(value)?),
                Table::Ranges(ranges) => ranges.remove(range(value)?),
            },
            [value] => match &mut self.table {
                Table::Networks(networks) => networks.insert(network_of(key)?, value.bytes.clone()),
                Table::Ranges(ranges) => ranges.insert(key, value.bytes.clone())?,
            },
            _ => {
                let message = "invalid number of the geo parameters";
                return Err(ConfigError::at(key.span, message));
            }
        }
        Ok(())
    }

    /// The address to look up: the client's, as far as the proxies before it can be trusted.
    fn client(&self, subject: &mut S) -> IpAddr {
        let mut buffer = subject.store_mut().lend();
        self.address.eval(subject, &mut buffer);
        let mut address = network::parse_ip(&buffer).unwrap_or(NO_ADDRESS);
        if let Some(forwarded) = &self.forwarded
            && self.is_proxy(address)
        {
            buffer.clear();
            forwarded.eval(subject, &mut buffer);
            let is_proxy = |ip| self.is_proxy(ip);
            if let Some(client) = network::forwarded(&buffer, self.recursive, is_proxy) {
                address = client.ip();
            }
        }
        subject.store_mut().give_back(buffer);
        address
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|proxy| proxy.contains(&address))
    }
}

impl<S: Subject> Compute<S> for Geo<S> {
    fn compute(&self, subject: &mut S, out: &mut Vec<u8>) -> bool {
        let address = self.client(subject);
        let value = match &self.table {
            Table::Networks(networks) => networks.get(address),
            Table::Ranges(ranges) => ranges.get(address),
        };
        out.extend_from_slice(value.unwrap_or(&self.default));
        true
    }
}

impl Networks {
    fn insert(&mut self, network: IpNet, value: Box<[u8]>) {
        let length = network.prefix_len();
        match network.network() {
            IpAddr::V4(address) => {
                self.v4
                    .entry(length)
                    .or_default()
                    .insert(address.to_bits(), value);
            }
            IpAddr::V6(address) => {
                self.v6
                    .entry(length)
                    .or_default()
                    .insert(address.to_bits(), value);
            }
        }
    }

    fn remove(&mut self, network: IpNet) {
        let length = network.prefix_len();
        match network.network() {
            IpAddr::V4(address) => {
                self.v4
                    .entry(length)
                    .or_default()
                    .remove(&address.to_bits());
            }
            IpAddr::V6(address) => {
                self.v6
                    .entry(length)
                    .or_default()
                    .remove(&address.to_bits());
            }
        }
    }

    fn get(&self, address: IpAddr) -> Option<&[u8]> {
        let value = match address {
            IpAddr::V4(address) => self.v4.iter().rev().find_map(|(length, networks)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                networks.get(&(address.to_bits() & mask))
            }),
            IpAddr::V6(address) => self.v6.iter().rev().find_map(|(length, networks)| {
                let mask = u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
                networks.get(&(address.to_bits() & mask))
            }),
        };
        value.map(|value| &**value)
    }
}

impl Ranges {
    /// Adds a range, which may lie within one that is there already.
    fn insert(&mut self, word: &Word, value: Box<[u8]>) -> Result<()> {
        let (first, last) = range(word)?;
        let (start, end, around) = match self.ranges.range(..=last).next_back() {
            Some((start, (end, _))) if *end < first => {
                debug_assert!(start <= end);
                self.ranges.insert(first, (last, value));
                return Ok(());
            }
            Some((start, (end, around))) if *start <= first && last <= *end => {
                (*start, *end, around.clone())
            }
            Some((start, (end, _))) => {
                let (start, end) = (Ipv4Addr::from_bits(*start), Ipv4Addr::from_bits(*end));
                let message = format!("range \"{}\" overlaps \"{start}-{end}\"", word.text());
                return Err(ConfigError::at(word.span, message));
            }
            None => {
                self.ranges.insert(first, (last, value));
                return Ok(());
            }
        };
        if last < end {
            self.ranges.insert(last + 1, (end, around.clone()));
        }
        self.ranges.insert(first, (last, value));
        if start < first {
            self.ranges.insert(start, (first - 1, around));
        }
        Ok(())
    }

    /// Removes a range that is there exactly as named; a part of one stays.
    fn remove(&mut self, (first, last): (u32, u32)) {
        if self.ranges.get(&first).is_some_and(|(end, _)| *end == last) {
            self.ranges.remove(&first);
        }
    }

    fn get(&self, address: IpAddr) -> Option<&[u8]> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let (_, (last, value)) = self.ranges.range(..=address.to_bits()).next_back()?;
        (address.to_bits() <= *last).then_some(&**value)
    }
}

/// `address` or `address/length`; the bits beyond the length do not matter.
fn network_of(word: &Word) -> Result<IpNet> {
    let text = word.text();
    let parsed = text
        .parse::<IpNet>()
        .ok()
        .or_else(|| Some(text.parse::<IpAddr>().ok()?.into()));
    parsed
        .map(|network| network.trunc())
        .ok_or_else(|| ConfigError::at(word.span, format!("invalid network \"{text}\"")))
}

/// `first-last`, IPv4.
fn range(word: &Word) -> Result<(u32, u32)> {
    let text = word.text();
    let parsed = text.split_once('-').and_then(|(first, last)| {
        let first = first.parse::<Ipv4Addr>().ok()?.to_bits();
        let last = last.parse::<Ipv4Addr>().ok()?.to_bits();
        (first <= last).then_some((first, last))
    });
    parsed.ok_or_else(|| ConfigError::at(word.span, format!("invalid range \"{text}\"")))
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::{definitions, values};

    #[track_caller]
    fn check<const N: usize>(geo: &str, cases: [(&str, &str); N]) {
        let found = values(geo, "$g", &cases.map(|(address, _)| address));
        assert_eq!(found, cases.map(|(_, value)| value));
    }

    #[test]
    fn the_narrowest_network_counts() {
        let geo = "geo $uri $g { default D; 1.2.3.4/24 a; 1.2.3.4 b; 1.2.0.0/16 c; ::1 v6;
            2001:db8::/32 doc; 2001:db8:1::/48 doc1; 0.0.0.0/1 low; 255.255.255.255 none;
            5.0.0.0/8 five; delete 5.0.0.0/8; 1.2.3.4 again; }";
        let cases = [
            ("1.2.3.0", "a"),
            ("1.2.3.4", "again"),
            ("1.2.4.0", "c"),
            ("200.1.1.1", "D"),
            ("5.5.5.5", "low"),
            ("::1", "v6"),
            ("2001:db8::5", "doc"),
            ("2001:db8:1::5", "doc1"),
            ("2002::", "D"),
            ("::ffff:1.2.3.4", "again"),
            ("junk", "none"),
            ("", "none"),
            ("1.2.3.4:80", "none"),
        ];
        check(geo, cases);
    }

    #[test]
    fn ranges_may_lie_within_one_another() {
        let geo = "geo $uri $g { ranges; default D; 1.2.3.0-1.2.3.255 x; 1.2.3.4-1.2.3.9 y;
            1.2.3.5-1.2.3.6 z; 1.2.3.5-1.2.3.5 w; 9.0.0.0-9.0.0.9 q; delete 9.0.0.0-9.0.0.9;
            10.0.0.0-10.0.0.9 q; delete 10.0.0.3-10.0.0.4; 0.0.0.0-0.0.0.0 zero;
            255.255.255.255-255.255.255.255 none; }";
        let cases = [
            ("1.2.3.0", "x"),
            ("1.2.3.4", "y"),
            ("1.2.3.5", "w"),
            ("1.2.3.6", "z"),
            ("1.2.3.7", "y"),
            ("1.2.3.10", "x"),
            ("1.2.4.0", "D"),
            ("9.0.0.1", "D"),
            ("10.0.0.3", "q"),
            ("0.0.0.0", "zero"),
            ("::1", "D"),
            ("junk", "none"),
        ];
        check(geo, cases);
    }

    #[test]
    fn trusted_proxies_name_the_client() {
        let geo = |more: &str| {
            format!(
                "map $uri $http_x_forwarded_for {{ default $uri; }}
                 map $uri $peer {{ default 127.0.0.1; }}
                 geo $peer $g {{ {more} default D; proxy 127.0.0.1; proxy 10.0.0.0/8; 1.1.1.1 one;
                    2.2.2.2 two; 10.1.1.1 ten; 127.0.0.1 lo; }}"
            )
        };
        let cases = [
            ("1.1.1.1", "one", "one"),
            ("2.2.2.2, 10.1.1.1", "ten", "two"),
            ("1.1.1.1, 2.2.2.2", "two", "two"),
            ("junk", "lo", "lo"),
            ("1.1.1.1, junk", "lo", "lo"),
            ("10.1.1.1, 10.2.2.2", "D", "ten"),
            ("  1.1.1.1 ,", "one", "one"),
            ("1.1.1.1:55", "one", "one"),
            ("[::1]:80", "D", "D"),
            ("", "lo", "lo"),
        ];
        let hops = cases.map(|(hops, _, _)| hops);
        assert_eq!(
            values(&geo(""), "$g", &hops),
            cases.map(|(_, last, _)| last)
        );
        let recursive = values(&geo("proxy_recursive;"), "$g", &hops);
        assert_eq!(recursive, cases.map(|(_, _, first)| first));
    }

    #[test]
    fn mistakes_have_the_messages_of_nginx() {
        let cases = [
            ("1.2.3.4/40 a;", "invalid network \"1.2.3.4/40\""),
            ("foo a;", "invalid network \"foo\""),
            ("1.2.3.4;", "invalid number of the geo parameters"),
            ("proxy foo;", "invalid network \"foo\""),
            ("ranges; 1.2.3.4 x;", "invalid range \"1.2.3.4\""),
            (
                "ranges; 1.2.3.9-1.2.3.4 x;",
                "invalid range \"1.2.3.9-1.2.3.4\"",
            ),
            (
                "ranges; 1.2.3.4-1.2.3.9 x; 1.2.3.0-1.2.3.255 y;",
                "range \"1.2.3.0-1.2.3.255\" overlaps \"1.2.3.4-1.2.3.9\"",
            ),
            (
                "1.1.1.1 y; ranges;",
                "the \"ranges\" directive must be the first directive inside \"geo\" block",
            ),
        ];
        for (body, expected) in cases {
            let error = definitions(&format!("geo $uri $g {{ {body} }}")).map(drop);
            assert_eq!(error.expect_err(body).message, expected);
        }
    }
}
