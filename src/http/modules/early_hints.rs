//! `early_hints`: whether the 103 answers of upstreams go on to the client (RFC 8297).

use crate::config::{Arity, Contexts, Node, Reader, Result, Row, Word};
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::h1::encode;
use crate::http::h1::head::Field;
use crate::http::h2::head;
use crate::http::message::Version;
use crate::http::scope::{Compiler, Scope};
use crate::http::token::Token;
use crate::inherit;
use crate::vars::Template;

const HSL: Contexts = Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION);

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[Row::custom(
    "early_hints",
    HSL,
    Arity::AtLeast(1),
    set_conditions,
)
.default("$http2")
.doc("Pass 103 answers on where a value is neither empty nor 0 (never by default in nginx).")];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    conditions: Option<Vec<Word>>,
}

/// The compiled conditions.
pub struct Conf(Option<Vec<Template<Exchange>>>);

impl Raw {
    /// Takes the enclosing block's conditions where there are none here.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; conditions);
    }

    /// The compiled conditions.
    ///
    /// # Errors
    /// A variable that is not there.
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        let Some(conditions) = &self.conditions else {
            return Ok(Conf(None));
        };
        let compiled = conditions.iter().map(|word| c.template(word));
        compiled.collect::<Result<_>>().map(|all| Conf(Some(all)))
    }
}

fn set_conditions(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    s.early_hints.conditions = Some(node.args().to_vec());
    Ok(())
}

/// Passes on the interim answer that stands in `ex.response`, if it is to be.
pub fn pass(ex: &mut Exchange, client: &mut Client) {
    let generation = ex.generation();
    let wanted = match &generation.location(ex.location).early_hints.0 {
        None => ex.request.head.version >= Version::Http2,
        Some(conditions) => {
            ex.request.head.version >= Version::Http11
                && conditions.iter().any(|condition| {
                    condition.with(ex, |_, value| !value.is_empty() && value != b"0")
                })
        }
    };
    if !wanted || ex.response.upstream.status != 103 {
        return;
    }
    let response = &ex.response;
    let fields = response.upstream.fields.iter().filter(|f| is_passed(f));
    let fields = fields.map(|f| (f.name.of(&response.buf), f.value.of(&response.buf)));
    if let Some(stream) = client.stream_mut() {
        // One that is over has no use for hints.
        let _ = stream.send_interim(http::StatusCode::EARLY_HINTS, head::map(fields));
    } else if client.sent() {
        let mut out = client.spare_out();
        encode::status_line_with(&mut out, 103, b"Early Hints");
        fields.for_each(|(name, value)| encode::field(&mut out, name, value));
        out.extend_from_slice(b"\r\n");
        ex.response.bytes_sent += out.len() as u64;
        client.send_last(out);
    }
}

fn is_passed(field: &Field) -> bool {
    !field.is_hop_by_hop()
        && !matches!(
            field.token,
            Token::ContentLength | Token::Server | Token::Date
        )
}
