//! Networks as words of a directive.

use std::net::IpAddr;

use ipnet::IpNet;

use super::error::{ConfigError, Result};
use super::reader::Reader;
use super::tree::{Node, Word};
use crate::base::network::{Network, Rules};

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

/// Adds what `allow WHO;` or `deny WHO;` says to the rules of its block.
///
/// # Errors
/// `invalid parameter "x"`.
pub fn rule(
    reader: &mut Reader,
    rules: &mut Option<Rules>,
    node: &Node,
    allow: bool,
) -> Result<()> {
    let word = &node.args()[0];
    let who = match word.is("all") {
        true => Network::All,
        false => network(reader, word).ok_or_else(|| {
            let message = format!("invalid parameter \"{}\"", word.text());
            ConfigError::at(word.span, message)
                .help("an address, a network in CIDR notation, \"unix:\" or \"all\"")
        })?,
    };
    rules.get_or_insert_default().push(who, allow);
    Ok(())
}
