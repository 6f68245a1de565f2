//! `add_header` and `add_trailer`'s place: fields that the configuration adds to responses.

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word};
use crate::http::exchange::Exchange;
use crate::http::scope::{Compiler, Scope};
use crate::http::token::Token;
use crate::inherit;
use crate::vars::Template;

const PLACES: Contexts = Contexts::HTTP
    .or(Contexts::SERVER)
    .or(Contexts::LOCATION)
    .or(Contexts::LOCATION_IF);

/// The directives of this module.
pub const ROWS: &[Row<Scope>] =
    &[
        Row::custom("add_header", PLACES, Arity::Between(2, 3), add_header)
            .doc("Adds a field to the response."),
    ];

/// What is written in one block; inherited only where a block has none.
#[derive(Default)]
pub struct Raw {
    fields: Option<Vec<RawField>>,
}

#[derive(Clone)]
struct RawField {
    name: Word,
    value: Word,
    always: bool,
}

/// The compiled fields.
pub struct Conf {
    fields: Vec<Added>,
}

struct Added {
    name: Box<[u8]>,
    token: Token,
    value: Template<Exchange>,
    always: bool,
}

impl Raw {
    /// Takes the enclosing block's fields where there are none here.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; fields);
    }

    /// The compiled fields.
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        let mut fields = Vec::new();
        for raw in self.fields.iter().flatten() {
            fields.push(Added {
                name: raw.name.bytes.clone(),
                token: Token::from_name(&raw.name.bytes),
                value: c.template(&raw.value)?,
                always: raw.always,
            });
        }
        Ok(Conf { fields })
    }
}

/// Adds the fields to the response: to every one with `always`, else to those that succeed.
pub fn add(ex: &mut Exchange, conf: &Conf) {
    if conf.fields.is_empty() {
        return;
    }
    let success = matches!(
        ex.response.status,
        200 | 201 | 204 | 206 | 301..=304 | 307 | 308
    );
    for field in &conf.fields {
        if !(success || field.always) {
            continue;
        }
        let mut value = ex.store.lend();
        if field.value.eval_nonempty(ex, &mut value) {
            match field.token {
                // These exist once: nginx replaces instead of adding.
                Token::LastModified | Token::ETag => {
                    ex.response.fields.retain(|f| f.token != field.token);
                }
                _ => {}
            }
            ex.response.push_field(field.token, &field.name, &value);
        }
        ex.store.give_back(value);
    }
}

fn add_header(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let args = node.args();
    let always = match args.get(2) {
        None => false,
        Some(word) if word.is("always") => true,
        Some(word) => {
            let message = format!("invalid parameter \"{}\"", word.text());
            return Err(ConfigError::at(word.span, message).help("\"always\" or nothing"));
        }
    };
    let field = RawField {
        name: args[0].clone(),
        value: args[1].clone(),
        always,
    };
    s.headers.fields.get_or_insert_default().push(field);
    Ok(())
}
