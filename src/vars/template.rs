//! "text with $variables", compiled.

use std::fmt;

use super::{Reference, Subject, Variables};
use crate::config::{ConfigError, Result, Word};

/// A string with variables, ready to be expanded for any subject.
pub struct Template<S: 'static> {
    parts: Box<[Part<S>]>,
}

enum Part<S: 'static> {
    Text(Box<[u8]>),
    /// `$1` … `$9`.
    Capture(usize),
    Variable(Reference<S>),
}

/// One piece of the source text of a template, as [`pieces`] finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes which stand for themselves.
    Text(&'a [u8]),
    /// `$1` … `$9`.
    Capture(usize),
    /// `$name` or `${name}`.
    Variable(&'a str),
}

impl<S: Subject> Template<S> {
    /// Compiles the value of `word`. Quotes make no difference: variables work in quoted words too.
    ///
    /// # Errors
    /// `invalid variable name` and `the closing bracket in "x" variable is missing`. Unknown names
    /// are reported by [`Variables::finish`].
    pub fn compile(word: &Word, variables: &mut Variables<S>) -> Result<Self> {
        Self::compile_bytes(&word.bytes, word, variables)
    }

    /// Compiles `text`, a part of the value of `word` (what follows `if=`, say); `word` gives the
    /// place for errors.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn compile_bytes(text: &[u8], word: &Word, variables: &mut Variables<S>) -> Result<Self> {
        let mut parts = Vec::new();
        for piece in pieces(text) {
            parts.push(
                match piece.map_err(|message| ConfigError::at(word.span, message))? {
                    Piece::Text(text) => Part::Text(text.into()),
                    Piece::Capture(number) => Part::Capture(number),
                    Piece::Variable(name) => Part::Variable(variables.reference(name, word.span)),
                },
            );
        }
        Ok(Self {
            parts: parts.into(),
        })
    }

    /// A template which is always `text`; dollars in it mean nothing.
    pub fn constant(text: &[u8]) -> Self {
        let part = (!text.is_empty()).then(|| Part::Text(text.into()));
        Self {
            parts: part.into_iter().collect(),
        }
    }

    /// Appends the expansion to `out`.
    pub fn eval(&self, subject: &mut S, out: &mut Vec<u8>) {
        self.eval_escaping(subject, out, |capture, out| out.extend_from_slice(capture));
    }

    /// As [`Template::eval`], but `$1` … `$9` pass through `escape` (`rewrite` escapes what it puts
    /// into the query string).
    pub fn eval_escaping(
        &self,
        subject: &mut S,
        out: &mut Vec<u8>,
        escape: impl Fn(&[u8], &mut Vec<u8>),
    ) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Capture(number) => {
                    if let Some(capture) = subject.store().capture(*number) {
                        escape(capture, out);
                    }
                }
                Part::Variable(reference) => {
                    reference.eval(subject, out);
                }
            }
        }
    }

    /// Appends the expansion and says whether it is more than nothing (`proxy_set_header X $empty`
    /// sends no field).
    pub fn eval_nonempty(&self, subject: &mut S, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        self.eval(subject, out);
        out.len() > start
    }

    /// Whether the expansion counts as true, as in `proxy_no_cache` or `access_log … if=`: neither
    /// empty nor `0`.
    pub fn is_true(&self, subject: &mut S) -> bool {
        self.with(subject, |_, value| !value.is_empty() && value != b"0")
    }

    /// Calls `f` with the expansion, in a buffer of the subject's store.
    pub fn with<R>(&self, subject: &mut S, f: impl FnOnce(&mut S, &[u8]) -> R) -> R {
        if let Some(text) = self.as_constant() {
            return f(subject, text);
        }
        let mut buffer = subject.store_mut().lend();
        self.eval(subject, &mut buffer);
        let result = f(subject, &buffer);
        subject.store_mut().give_back(buffer);
        result
    }

    /// The text, if there is nothing to expand.
    pub fn as_constant(&self) -> Option<&[u8]> {
        match &*self.parts {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether `$1` … `$9` occur.
    pub fn has_captures(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Capture(_)))
    }
}

impl<S> Clone for Template<S> {
    fn clone(&self) -> Self {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => Part::Text(text.clone()),
            Part::Capture(number) => Part::Capture(*number),
            Part::Variable(reference) => Part::Variable(reference.clone()),
        });
        Self {
            parts: parts.collect(),
        }
    }
}

impl<S> fmt::Debug for Template<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for part in &self.parts {
            match part {
                Part::Text(text) => write!(f, "{}", text.escape_ascii())?,
                Part::Capture(number) => write!(f, "${number}")?,
                Part::Variable(reference) => reference.fmt(f)?,
            }
        }
        f.write_str("\"")
    }
}

/// Splits `text` at its variables. The error is nginx's message; the iteration ends with it.
///
/// `$1` … `$9` are captures and take one digit; `${1}` is a variable called `1`; a name is
/// `[A-Za-z0-9_]+`; a `$` with no name after it is an error, and there is no way to escape one.
pub fn pieces(text: &[u8]) -> impl Iterator<Item = std::result::Result<Piece<'_>, String>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, left) = next_piece(rest);
        debug_assert!(left.len() < rest.len());
        rest = if piece.is_ok() { left } else { b"" };
        Some(piece)
    })
}

/// The first piece of `text`, which is not empty, and what follows it.
fn next_piece(text: &[u8]) -> (std::result::Result<Piece<'_>, String>, &[u8]) {
    let dollar = memchr::memchr(b'$', text).unwrap_or(text.len());
    if dollar > 0 {
        let (literal, rest) = text.split_at(dollar);
        return (Ok(Piece::Text(literal)), rest);
    }
    let text = &text[1..];
    if let Some(digit @ b'1'..=b'9') = text.first() {
        return (Ok(Piece::Capture(usize::from(digit - b'0'))), &text[1..]);
    }
    let (braced, text) = match text.strip_prefix(b"{") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let end = text
        .iter()
        .position(|byte| !is_name(byte))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = std::str::from_utf8(name).expect("names are ASCII");
    let rest = match (braced, rest.strip_prefix(b"}")) {
        (false, _) => rest,
        (true, Some(rest)) => rest,
        (true, None) if name.is_empty() && rest.is_empty() => {
            return (Err("invalid variable name".into()), rest);
        }
        (true, None) => {
            let message = format!("the closing bracket in \"{name}\" variable is missing");
            return (Err(message), rest);
        }
    };
    if name.is_empty() {
        return (Err("invalid variable name".into()), rest);
    }
    (Ok(Piece::Variable(name)), rest)
}

#[cfg(test)]
mod tests {
    use crate::config::Span;
    use proptest::prelude::*;

    use super::super::registry::tests::{Probe, expand, template, variables};
    use super::*;

    fn error(text: &str) -> String {
        let word = Word::new(text, Span::START);
        Template::compile(&word, &mut variables())
            .expect_err("the template is wrong")
            .message
    }

    #[test]
    fn a_name_ends_where_its_letters_end() {
        let mut variables = variables();
        let text = template("a$uri-${uri}b[$1|$12]$arg_x.y", &mut variables);
        variables.finish().expect("all names are known");
        let mut probe = Probe {
            uri: b"/u".into(),
            ..Probe::default()
        };
        probe
            .store
            .set_captures(b"xy", &[Some((0, 2)), Some((1, 2))]);
        assert_eq!(expand(&text, &mut probe), "a/u-/ub[y|y2]x.y");
    }

    #[test]
    fn mistakes_have_the_messages_of_nginx() {
        assert_eq!(error("a$"), "invalid variable name");
        assert_eq!(error("$-"), "invalid variable name");
        assert_eq!(error("$$uri"), "invalid variable name");
        assert_eq!(error("${"), "invalid variable name");
        assert_eq!(error("${}"), "invalid variable name");
        assert_eq!(
            error("${uri"),
            "the closing bracket in \"uri\" variable is missing"
        );
        assert_eq!(
            error("${uri-}"),
            "the closing bracket in \"uri\" variable is missing"
        );
    }

    #[test]
    fn constants_are_known() {
        let mut variables = variables();
        assert_eq!(template("", &mut variables).as_constant(), Some(&b""[..]));
        assert_eq!(
            template("a b", &mut variables).as_constant(),
            Some(&b"a b"[..])
        );
        assert_eq!(template("a$uri", &mut variables).as_constant(), None);
        assert_eq!(
            Template::<Probe>::constant(b"$uri").as_constant(),
            Some(&b"$uri"[..])
        );
        assert!(template("$uri$1", &mut variables).has_captures());
    }

    #[test]
    fn truth_is_neither_empty_nor_zero() {
        let mut variables = variables();
        let [uri, both] = ["$uri", "$uri$args"].map(|text| template(text, &mut variables));
        variables.finish().expect("all names are known");
        let mut probe = Probe::default();
        for (value, expected) in [("", false), ("0", false), ("00", true), ("x", true)] {
            probe.uri = value.into();
            assert_eq!(uri.is_true(&mut probe), expected, "{value}");
            assert_eq!(
                both.eval_nonempty(&mut probe, &mut Vec::new()),
                !value.is_empty()
            );
        }
    }

    #[test]
    fn captures_can_be_escaped_on_the_way() {
        let mut variables = variables();
        let text = template("$1$uri", &mut variables);
        let mut probe = Probe {
            uri: b"a".into(),
            ..Probe::default()
        };
        probe.store.set_captures(b"a", &[None, Some((0, 1))]);
        let mut out = Vec::new();
        text.eval_escaping(&mut probe, &mut out, |c, out| {
            out.extend(c.to_ascii_uppercase())
        });
        assert_eq!(out, b"Aa");
    }

    proptest! {
        #[test]
        fn compiling_never_panics(text in "[$a-z{}1-3_ -]{0,20}", args in "[a-z$]{0,4}") {
            let mut variables = variables();
            if let Ok(template) = Template::compile(&Word::new(&text, Span::START), &mut variables)
                && variables.finish().is_ok()
            {
                let mut probe = Probe { args: args.into(), ..Probe::default() };
                template.eval(&mut probe, &mut Vec::new());
            }
        }

        #[test]
        fn text_without_dollars_stands_for_itself(
            text in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assume!(!text.contains(&b'$'));
            let word = Word::new(&text, Span::START);
            let template = Template::compile(&word, &mut variables()).expect("it is plain");
            prop_assert_eq!(template.as_constant(), Some(&*text));
        }

        #[test]
        fn pieces_cover_the_text(text in "[$a-z{}1-3_ -]{0,20}") {
            let mut length = 0;
            for piece in pieces(text.as_bytes()) {
                match piece {
                    Ok(Piece::Text(text)) => length += text.len(),
                    Ok(Piece::Capture(_)) => length += 2,
                    Ok(Piece::Variable(name)) => {
                        let rest = &text[length..];
                        length += name.len() + if rest.starts_with("${") { 3 } else { 1 };
                    }
                    Err(_) => return Ok(()),
                }
            }
            prop_assert_eq!(length, text.len());
        }
    }
}
