//! `error_page`: what is answered instead of an error.

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word};
use crate::http::exchange::Exchange;
use crate::http::phases::Target;
use crate::http::respond::Reply;
use crate::http::scope::{Compiler, Scope};
use crate::inherit;
use crate::vars::Template;

const PLACES: Contexts = Contexts::HTTP
    .or(Contexts::SERVER)
    .or(Contexts::LOCATION)
    .or(Contexts::LOCATION_IF);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("error_page", PLACES, Arity::AtLeast(2), error_page)
        .doc("URI, named location or URL that answers for these statuses."),
    R::flag(
        "recursive_error_pages",
        Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION),
        |s| &mut s.error_page.recursive,
    )
    .default("off")
    .doc("Apply error_page also to what error_page led to."),
];

/// What is written in one block; pages are inherited only where a block has none.
#[derive(Default)]
pub struct Raw {
    pages: Option<Vec<RawPage>>,
    recursive: Option<bool>,
}

#[derive(Clone)]
struct RawPage {
    statuses: Vec<u16>,
    overwrite: Overwrite,
    target: Word,
}

/// The status that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overwrite {
    /// The original one.
    No,
    /// `=200`.
    With(u16),
    /// `=`: that of whatever answers.
    Answer,
}

/// The compiled pages.
pub struct Conf {
    pages: Vec<Page>,
    recursive: bool,
}

struct Page {
    statuses: Vec<u16>,
    overwrite: Overwrite,
    target: Template<Exchange>,
}

/// What is done about an answer.
pub enum Action {
    /// Another URI or location answers.
    Jump(Target),
    /// This is sent.
    Reply(Reply),
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; pages, recursive);
    }

    /// The compiled pages.
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        let mut pages = Vec::new();
        for raw in self.pages.iter().flatten() {
            pages.push(Page {
                statuses: raw.statuses.clone(),
                overwrite: raw.overwrite,
                target: c.template(&raw.target)?,
            });
        }
        Ok(Conf {
            pages,
            recursive: self.recursive.unwrap_or(false),
        })
    }
}

/// Whether a page is configured for this status in the location in force.
pub fn covers(ex: &Exchange, status: u16) -> bool {
    let conf = &ex.generation.location(ex.location).error_page;
    conf.pages
        .iter()
        .any(|page| page.statuses.contains(&status))
}

/// Looks for a page for the answer. An answer with a text of its own is never replaced.
pub fn find(ex: &mut Exchange, reply: Reply) -> Action {
    let generation = ex.generation();
    let conf = &generation.location(ex.location).error_page;
    let is_final = reply.body.is_some() || (ex.response.error_page_applied && !conf.recursive);
    if is_final || reply.status < 300 {
        return Action::Reply(reply);
    }
    let Some(page) = conf
        .pages
        .iter()
        .find(|page| page.statuses.contains(&reply.status))
    else {
        return Action::Reply(reply);
    };
    ex.response.error_page_applied = true;
    let mut target = Vec::new();
    page.target.eval(ex, &mut target);
    match target.first() {
        Some(b'/') => {
            set_override(ex, page.overwrite, reply.status);
            if !ex.request.is_head() {
                ex.request.method_override = Some(crate::http::message::Method::Get);
            }
            Action::Jump(Target::Uri(target))
        }
        Some(b'@') => {
            set_override(ex, page.overwrite, reply.status);
            Action::Jump(Target::Named(target))
        }
        _ => {
            let status = match page.overwrite {
                Overwrite::With(status @ (301 | 302 | 303 | 307 | 308)) => status,
                _ => 302,
            };
            Action::Reply(Reply {
                location: Some(target),
                ..Reply::status(status)
            })
        }
    }
}

fn set_override(ex: &mut Exchange, overwrite: Overwrite, status: u16) {
    ex.response.status_override = match overwrite {
        Overwrite::No => Some(status),
        Overwrite::With(status) => Some(status),
        Overwrite::Answer => None,
    };
}

fn error_page(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let mut args = node.args();
    let Some((target, rest)) = args.split_last() else {
        return Ok(());
    };
    args = rest;
    let mut overwrite = Overwrite::No;
    if let Some((last, rest)) = args.split_last()
        && let Some(status) = last.bytes.strip_prefix(b"=")
    {
        overwrite = if status.is_empty() {
            Overwrite::Answer
        } else {
            Overwrite::With(parse_status(status).ok_or_else(|| invalid(last))?)
        };
        args = rest;
    }
    if args.is_empty() {
        return Err(ConfigError::at(
            node.span(),
            "invalid number of arguments in \"error_page\" directive",
        ));
    }
    let mut statuses = Vec::new();
    for word in args {
        let status = parse_status(&word.bytes).ok_or_else(|| invalid(word))?;
        if status == 499 || !(300..=599).contains(&status) {
            let message = format!("value \"{}\" must be between 300 and 599", word.text());
            return Err(ConfigError::at(word.span, message));
        }
        statuses.push(status);
    }
    let page = RawPage {
        statuses,
        overwrite,
        target: target.clone(),
    };
    s.error_page.pages.get_or_insert_default().push(page);
    Ok(())
}

fn parse_status(text: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(text).ok()?;
    (text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn invalid(word: &Word) -> ConfigError {
    ConfigError::at(word.span, format!("invalid value \"{}\"", word.text()))
}
