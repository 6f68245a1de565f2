//! `allow` and `deny`: who may come in, by address.

use ipnet::IpNet;

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row};
use crate::http::exchange::{Exchange, Remote};
use crate::http::respond::Reply;
use crate::http::scope::Scope;
use crate::inherit;
use crate::observe::Level;

const PLACES: Contexts = Contexts::HTTP
    .or(Contexts::SERVER)
    .or(Contexts::LOCATION)
    .or(Contexts::LIMIT_EXCEPT);

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    Row::custom("allow", PLACES, Arity::One, allow).doc("Lets an address or network in."),
    Row::custom("deny", PLACES, Arity::One, deny).doc("Keeps an address or network out."),
];

/// What is written in one block; inherited only where a block has neither directive.
#[derive(Default)]
pub struct Raw {
    rules: Option<Vec<Rule>>,
}

/// The rules of a location, in the order of the file: the first that matches decides.
pub struct Conf {
    rules: Vec<Rule>,
}

#[derive(Clone)]
struct Rule {
    allow: bool,
    who: Who,
}

#[derive(Clone)]
enum Who {
    All,
    Unix,
    Net(IpNet),
}

impl Raw {
    /// Takes the enclosing block's rules where there are none here.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; rules);
    }

    /// The compiled rules.
    pub fn compile(&self) -> Conf {
        Conf {
            rules: self.rules.clone().unwrap_or_default(),
        }
    }
}

/// 403 if the rules keep the client out.
pub fn check(ex: &Exchange) -> Option<Reply> {
    let conf = &ex.generation.location(ex.location).access;
    if conf.rules.is_empty() {
        return None;
    }
    let rule = conf
        .rules
        .iter()
        .find(|rule| match (&rule.who, &ex.client.remote) {
            (Who::All, _) => true,
            (Who::Unix, remote) => *remote == Remote::Unix,
            (Who::Net(net), remote) => remote.ip().is_some_and(|ip| net.contains(&ip)),
        })?;
    if rule.allow {
        return None;
    }
    ex.log(Level::Error, format_args!("access forbidden by rule"));
    Some(Reply::status(403))
}

fn allow(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    add(reader, s, node, true)
}

fn deny(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    add(reader, s, node, false)
}

fn add(reader: &mut Reader, s: &mut Scope, node: &Node, allow: bool) -> Result<()> {
    let word = &node.args()[0];
    let text = word.text();
    let who = match &*text {
        "all" => Who::All,
        "unix:" => Who::Unix,
        _ => {
            let net = match text.parse::<IpNet>() {
                Ok(net) => Some(net),
                Err(_) => text.parse::<std::net::IpAddr>().ok().map(IpNet::from),
            };
            let net = net.ok_or_else(|| {
                ConfigError::at(word.span, format!("invalid parameter \"{text}\""))
                    .help("an address, a network in CIDR notation, \"unix:\" or \"all\"")
            })?;
            if net.trunc() != net {
                let message = format!("low address bits of {text} are meaningless");
                reader.warn(word.span, message);
            }
            Who::Net(net.trunc())
        }
    };
    s.access
        .rules
        .get_or_insert_default()
        .push(Rule { allow, who });
    Ok(())
}
