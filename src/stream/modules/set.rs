//! `set`: variables that a server gives values.

use crate::config::{Arity, Contexts, Node, Reader, Result, Row, Word, value};
use crate::stream::scope::{Compiler, Scope};
use crate::stream::session::Session;
use crate::vars::{Target, Template, variable_name};

/// The directives of this module.
pub const ROWS: &[Row<Scope>] =
    &[
        Row::custom("set", Contexts::STREAM_SERVER, Arity::Two, read_set)
            .doc("Gives a variable a value, before a session is let in."),
    ];

/// The assignments of a server as they were read.
#[derive(Default)]
pub struct Raw(Vec<(Word, Word)>);

/// The assignments of a server, in their order.
pub struct Conf(Vec<(Target<Session>, Template<Session>)>);

impl Raw {
    /// The compiled assignments.
    ///
    /// # Errors
    /// Names that cannot be set, values that are none.
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        let sets = self.0.iter().map(|(name, value)| {
            let target = c.vars.define_set(&variable_name(name)?, name.span)?;
            Ok((target, c.template(value)?))
        });
        Ok(Conf(sets.collect::<Result<_>>()?))
    }
}

/// Runs the assignments of the server in force.
pub fn run(s: &mut Session) {
    let generation = s.generation();
    for (target, value) in &generation.server(s.server).set.0 {
        value.with(s, |s, value| target.write(s, value));
    }
}

fn read_set(_: &mut Reader, scope: &mut Scope, node: &Node) -> Result<()> {
    let [name, text] = node.args() else {
        return Err(value::invalid_value(node));
    };
    variable_name(name)?;
    scope.set.0.push((name.clone(), text.clone()));
    Ok(())
}
