//! Running a compiled program.

use std::ops::ControlFlow::{self, Break, Continue};

use crate::http::exchange::Exchange;
use crate::http::respond::Reply;
use crate::http::uri::{self, Escape};
use crate::observe::Level;
use crate::vars::Template;

use super::{Flag, Flow, Rewrite, Script, Step};

/// A program at work.
pub(super) struct Run<'s> {
    script: &'s Script,
    /// `$1` … `$9` are escaped in values, if the client's URI was: so it is in nginx until a
    /// `rewrite` matches.
    escapes: bool,
    /// A `rewrite` changed the URI and the location is to be found again.
    changed: bool,
}

/// Why a program ended early: with an answer, or because it was told to.
type End = Option<Reply>;

/// Runs a program that is not empty.
pub(super) fn run(script: &Script, ex: &mut Exchange) -> Flow {
    let mut run = Run {
        script,
        escapes: true,
        changed: false,
    };
    match run.steps(&script.steps, ex) {
        Break(Some(reply)) => Flow::Reply(reply),
        _ if run.changed => Flow::Relocate,
        _ => Flow::Next,
    }
}

impl Run<'_> {
    fn steps(&mut self, steps: &[Step], ex: &mut Exchange) -> ControlFlow<End> {
        for step in steps {
            match step {
                Step::Set { target, value } => {
                    let mut text = ex.store.lend();
                    self.eval(value, ex, &mut text);
                    target.write(ex, &text);
                    ex.store.give_back(text);
                }
                Step::If {
                    condition,
                    location,
                    steps,
                } => {
                    if condition.holds(self, ex) {
                        if let Some(location) = location {
                            ex.location = *location;
                        }
                        self.steps(steps, ex)?;
                    }
                }
                Step::Rewrite(rewrite) => self.rewrite(rewrite, ex)?,
                Step::Return { status, text } => {
                    return Break(Some(answer(*status, text.as_ref(), ex)));
                }
                Step::Break => {
                    if self.changed {
                        self.stay(ex);
                    }
                    return Break(None);
                }
            }
        }
        Continue(())
    }

    /// The request keeps its location although its URI no longer belongs there.
    fn stay(&mut self, ex: &mut Exchange) {
        self.changed = false;
        ex.request.rewritten_here = true;
    }

    /// Appends a value to `out`.
    pub(super) fn eval(&self, value: &Template<Exchange>, ex: &mut Exchange, out: &mut Vec<u8>) {
        eval(value, ex, out, self.escapes);
    }

    /// Tells the log what came of a match, if `rewrite_log` asks for it.
    pub(super) fn log_match(&self, ex: &Exchange, source: &[u8], text: &[u8], matched: bool) {
        if self.script.log {
            let source = String::from_utf8_lossy(source);
            let text = String::from_utf8_lossy(text);
            let verb = if matched { "matches" } else { "does not match" };
            ex.log(
                Level::Notice,
                format_args!("\"{source}\" {verb} \"{text}\""),
            );
        }
    }

    fn rewrite(&mut self, rewrite: &Rewrite, ex: &mut Exchange) -> ControlFlow<End> {
        let matched = rewrite
            .pattern
            .exec_clearing(&mut ex.store, &ex.request.uri);
        self.log_match(ex, &rewrite.source, &ex.request.uri, matched);
        if !matched {
            return Continue(());
        }
        self.escapes = false;
        ex.request.internal = true;
        ex.request.uri_valid = false;
        if let Flag::Redirect(status) = rewrite.flag {
            return Break(Some(self.redirect(rewrite, status, ex)));
        }
        if let Err(reply) = self.change_uri(rewrite, ex) {
            return Break(Some(reply));
        }
        match rewrite.flag {
            Flag::Break => {
                self.stay(ex);
                Break(None)
            }
            Flag::Last => {
                self.changed = true;
                Break(None)
            }
            Flag::None | Flag::Redirect(_) => {
                self.changed = true;
                Continue(())
            }
        }
    }

    fn redirect(&self, rewrite: &Rewrite, status: u16, ex: &mut Exchange) -> Reply {
        let mut location = ex.store.lend();
        eval(&rewrite.target, ex, &mut location, true);
        tidy_redirect(&mut location);
        if rewrite.keep_args && !ex.request.args.is_empty() {
            location.push(if rewrite.has_args { b'&' } else { b'?' });
            location.extend_from_slice(&ex.request.args);
        }
        if self.script.log {
            let location = String::from_utf8_lossy(&location);
            ex.log(
                Level::Notice,
                format_args!("rewritten redirect: \"{location}\""),
            );
        }
        Reply {
            location: Some(location),
            ..Reply::status(status)
        }
    }

    /// Puts the new URI and arguments in place.
    ///
    /// # Errors
    /// The answer where the URI would be empty.
    fn change_uri(&self, rewrite: &Rewrite, ex: &mut Exchange) -> Result<(), Reply> {
        let mut uri = ex.store.lend();
        eval(&rewrite.target, ex, &mut uri, false);
        if let Some(template) = &rewrite.args {
            let mut args = ex.store.lend();
            eval(template, ex, &mut args, true);
            if rewrite.keep_args && !ex.request.args.is_empty() {
                args.push(b'&');
                args.extend_from_slice(&ex.request.args);
            }
            std::mem::swap(&mut ex.request.args, &mut args);
            ex.store.give_back(args);
        } else if !rewrite.keep_args {
            ex.request.args.clear();
        }
        std::mem::swap(&mut ex.request.uri, &mut uri);
        ex.store.give_back(uri);
        if self.script.log {
            let uri = String::from_utf8_lossy(&ex.request.uri);
            let args = String::from_utf8_lossy(&ex.request.args);
            ex.log(
                Level::Notice,
                format_args!("rewritten data: \"{uri}\", args: \"{args}\""),
            );
        }
        if ex.request.uri.is_empty() {
            ex.log(
                Level::Error,
                format_args!("the rewritten URI has a zero length"),
            );
            return Err(Reply::status(500));
        }
        Ok(())
    }
}

/// The answer of a `return`.
fn answer(status: u16, text: Option<&Template<Exchange>>, ex: &mut Exchange) -> Reply {
    let Some(template) = text else {
        return Reply::status(status);
    };
    // The text may show it.
    ex.response.status = status;
    let mut text = ex.store.lend();
    template.eval(ex, &mut text);
    if matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Reply {
            location: Some(text),
            ..Reply::status(status)
        };
    }
    Reply {
        body: Some(text),
        ..Reply::status(status)
    }
}

/// Appends a value; `escape` says that captures are to be escaped where the client's path was, or
/// has a plus sign, which means something else in a query.
fn eval(value: &Template<Exchange>, ex: &mut Exchange, out: &mut Vec<u8>, escape: bool) {
    let suspect = || memchr::memchr2(b'%', b'+', ex.request.target_path()).is_some();
    if escape && value.has_captures() && suspect() {
        value.eval_escaping(ex, out, |capture, out| {
            uri::escape(capture, Escape::Args, out);
        });
    } else {
        value.eval(ex, out);
    }
}

/// Decodes the escapes in the path of a redirect which need not be there; control characters,
/// spaces, `#`, `%` and what is beyond ASCII stay escaped. Half an escape is dropped, as in nginx.
fn tidy_redirect(location: &mut Vec<u8>) {
    let Some(first) = memchr::memchr(b'%', location) else {
        return;
    };
    if memchr::memchr(b'?', &location[..first]).is_some() {
        return;
    }
    let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
    let mut read = first;
    let mut write = first;
    let mut keep = |location: &mut Vec<u8>, byte: u8| {
        location[write] = byte;
        write += 1;
    };
    while read < location.len() {
        let byte = location[read];
        read += 1;
        if byte == b'?' {
            keep(location, byte);
            break;
        }
        if byte != b'%' {
            keep(location, byte);
            continue;
        }
        let Some(high) = digit(location.get(read).copied()) else {
            if let Some(&next) = location.get(read) {
                keep(location, next);
                read += 1;
            }
            continue;
        };
        let low = digit(location.get(read + 1).copied());
        read += 2;
        let Some(low) = low else { continue };
        let decoded = (high * 16 + low) as u8;
        if (b'&'..0x7f).contains(&decoded) {
            keep(location, decoded);
            if decoded == b'?' {
                break;
            }
        } else {
            for at in read - 3..read {
                let byte = location[at];
                keep(location, byte);
            }
        }
    }
    let read = read.min(location.len());
    location.drain(write..read);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tidy(text: &str) -> String {
        let mut location = text.as_bytes().to_vec();
        tidy_redirect(&mut location);
        String::from_utf8(location).expect("the tests are ASCII")
    }

    #[test]
    fn redirects_lose_needless_escapes_up_to_the_query() {
        for (text, expected) in [
            ("/a", "/a"),
            ("/%41%20%zz%4x%7f%3F%25x%3Fy", "/A%20zz%7f?%25x%3Fy"),
            ("http://h/a%20b%3Fc%26d/%E4", "http://h/a%20b?c%26d/%E4"),
            ("/a%26?a=%26", "/a&?a=%26"),
            ("/a?%26", "/a?%26"),
            ("/%%41", "/%41"),
            ("/%", "/"),
            ("/%4", "/"),
            ("/%2", "/"),
            ("/%23%25%26", "/%23%25&"),
        ] {
            assert_eq!(tidy(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn tidying_never_panics_nor_grows(text in "[%0-9a-fA-Gx?/]{0,20}") {
            prop_assert!(tidy(&text).len() <= text.len());
        }
    }
}
