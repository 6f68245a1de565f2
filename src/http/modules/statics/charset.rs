//! `charset`: names the character set of text in `Content-Type`.

use std::sync::Arc;

use crate::config::{Result, Word};
use crate::http::exchange::Exchange;
use crate::http::modules::mime_set::{self, MimeSet};
use crate::http::scope::Compiler;
use crate::vars::Template;

/// Types in every `charset_types`.
pub const DEFAULT_TYPES: &[&str] = &[
    "text/html",
    "text/xml",
    "text/plain",
    "text/vnd.wap.wml",
    "application/javascript",
    "application/rss+xml",
];

/// What `charset_types` always has.
pub const TYPES_IN_ALL: &[&str] = &["text/html"];

/// The compiled directives.
pub struct Charset {
    name: Template<Exchange>,
    types: Arc<MimeSet>,
}

impl Charset {
    /// Compiles what is written; `None` for `off`.
    pub fn compile(
        name: Option<&Word>,
        types: Option<&Arc<MimeSet>>,
        c: &mut Compiler,
    ) -> Result<Option<Charset>> {
        let Some(name) = name.filter(|name| !name.is("off")) else {
            return Ok(None);
        };
        let types = types
            .cloned()
            .unwrap_or_else(|| Arc::new(MimeSet::of(DEFAULT_TYPES)));
        Ok(Some(Charset {
            name: c.template(name)?,
            types,
        }))
    }

    /// Adds the charset to the response's type, if that has none. Redirects go without: old
    /// browsers take it for that of the page they are sent to.
    pub fn apply(&self, ex: &mut Exchange) {
        let Some(range) = ex.response.content_type else {
            return;
        };
        let value = range.of(&ex.response.buf);
        if matches!(ex.response.status, 301 | 302)
            || mime_set::charset(value).is_some()
            || !self.types.contains(Some(value))
        {
            return;
        }
        let mut text = ex.store.lend();
        text.extend_from_slice(value);
        text.extend_from_slice(b"; charset=");
        if self.name.eval_nonempty(ex, &mut text) {
            ex.response.set_content_type(&text);
        }
        ex.store.give_back(text);
    }
}
