//! `allow` and `deny`, which `http` and `stream` read alike.

use super::error::{ConfigError, Result};
use super::network::network;
use super::reader::Reader;
use super::schema::{Arity, Contexts, Row};
use super::tree::Node;
use crate::base::network::{Network, Rules};
use crate::inherit;

/// A block that has rules.
pub trait Guarded {
    /// What is written in it.
    fn access(&mut self) -> &mut Raw;
}

/// The directives, for blocks in `places`.
pub const fn rows<S: Guarded + 'static>(places: Contexts) -> [Row<S>; 2] {
    [
        Row::custom("allow", places, Arity::One, read_allow).doc("Lets an address or network in."),
        Row::custom("deny", places, Arity::One, read_deny).doc("Keeps an address or network out."),
    ]
}

/// What is written in one block; inherited only where a block has neither directive.
#[derive(Default)]
pub struct Raw {
    rules: Option<Rules>,
}

impl Raw {
    /// Takes the enclosing block's rules where there are none here.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; rules);
    }

    /// The rules in force in this block, whose inheritance is settled.
    pub fn compile(&self) -> Rules {
        self.rules.clone().unwrap_or_default()
    }

    fn read(&mut self, reader: &mut Reader, node: &Node, allow: bool) -> Result<()> {
        let word = &node.args()[0];
        let who = match word.is("all") {
            true => Network::All,
            false => network(reader, word).ok_or_else(|| {
                let message = format!("invalid parameter \"{}\"", word.text());
                ConfigError::at(word.span, message)
                    .help("an address, a network in CIDR notation, \"unix:\" or \"all\"")
            })?,
        };
        self.rules.get_or_insert_default().push(who, allow);
        Ok(())
    }
}

fn read_allow<S: Guarded>(reader: &mut Reader, scope: &mut S, node: &Node) -> Result<()> {
    scope.access().read(reader, node, true)
}

fn read_deny<S: Guarded>(reader: &mut Reader, scope: &mut S, node: &Node) -> Result<()> {
    scope.access().read(reader, node, false)
}
