//! Networks as words of a directive.

use std::net::IpAddr;

use ipnet::IpNet;

use super::reader::Reader;
use super::tree::Word;
use crate::base::network::Network;

/// An address, a network in CIDR notation, or `unix:`; `None` for anything else. Warns of bits
/// that the length of the network leaves out.
pub fn network(reader: &mut Reader, word: &Word) -> Option<Network> {
    let text = word.text();
    if text == "unix:" {
        return Some(Network::Unix);
    }
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => text.parse::<IpAddr>().ok()?.into(),
    };
    if net.trunc() != net {
        let message = format!("low address bits of {text} are meaningless");
        reader.warn(word.span, message);
    }
    Some(Network::Net(net.trunc()))
}
