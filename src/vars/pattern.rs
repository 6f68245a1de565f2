//! A regular expression of the configuration, with what its groups mean.

use std::cell::Cell;

use super::{Slot, Store, Subject, Variables};
use crate::base::regex::Regex;
use crate::config::{ConfigError, Result, Span};

/// A regular expression whose named groups are variables and whose numbered ones are `$1` … `$9`.
#[derive(Debug)]
pub struct Pattern {
    regex: Regex,
    groups: Box<[(usize, Slot)]>,
}

thread_local! {
    /// Ranges of the match at hand: those in a store must survive an attempt that fails.
    static RANGES: Cell<Vec<Option<(usize, usize)>>> = const { Cell::new(Vec::new()) };
}

impl Pattern {
    /// Compiles `source` and declares its named groups. The expression stands in the file at
    /// `span`.
    ///
    /// # Errors
    /// The expression is not valid, or a group has the name of a built-in variable.
    pub fn compile<S: Subject>(
        source: &[u8],
        caseless: bool,
        span: Span,
        variables: &mut Variables<S>,
    ) -> Result<Self> {
        let regex = Regex::new(source, caseless).map_err(|reason| {
            let source = String::from_utf8_lossy(source);
            ConfigError::at(
                span,
                format!("invalid regular expression: {reason} in \"{source}\""),
            )
        })?;
        let mut groups = Vec::new();
        for (name, index) in regex.names() {
            groups.push((*index, variables.define_group(name, span)?));
        }
        Ok(Self {
            regex,
            groups: groups.into(),
        })
    }

    /// Looks for the expression in `text`. A match replaces the captures in `store` and sets the
    /// variables of the named groups; a failure leaves everything as it was.
    pub fn exec(&self, store: &mut Store, text: &[u8]) -> bool {
        if self.regex.groups() == 0 {
            let found = self.regex.is_match(text);
            if found {
                store.clear_captures();
            }
            return found;
        }
        let mut ranges = RANGES.take();
        let found = self.regex.captures_into(text, &mut ranges);
        if found {
            for (group, slot) in &self.groups {
                match ranges.get(*group).copied().flatten() {
                    Some((start, end)) => store.set(*slot, &text[start..end]),
                    None => store.set(*slot, b""),
                }
            }
            store.set_captures(text, &ranges);
        }
        RANGES.set(ranges);
        found
    }

    /// Whether `text` contains the expression; captures stay as they are.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// As [`Pattern::exec`], but a failure empties `$1` … `$9`: so `if` and `rewrite` behave, where
    /// a location's, a server name's or a map's expressions leave them alone.
    pub fn exec_clearing(&self, store: &mut Store, text: &[u8]) -> bool {
        let found = self.exec(store, text);
        if !found {
            store.clear_captures();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::{Probe, expand, template, variables};
    use super::*;

    fn pattern(source: &str, variables: &mut Variables<Probe>) -> Pattern {
        Pattern::compile(source.as_bytes(), false, Span::START, variables)
            .expect("the pattern compiles")
    }

    #[test]
    fn a_match_sets_captures_and_named_groups() {
        let mut variables = variables();
        let regex = pattern(r"^/(?<first>\w+)(/(?<second>\w+))?", &mut variables);
        let text = template("$first|$second|$1|$3", &mut variables);
        variables.finish().expect("all names are known");
        let mut probe = Probe::default();
        assert_eq!(expand(&text, &mut probe), "|||");
        assert!(regex.exec(&mut probe.store, b"/a/b"));
        assert_eq!(expand(&text, &mut probe), "a|b|a|b");
        assert!(!regex.exec(&mut probe.store, b"none"));
        assert_eq!(expand(&text, &mut probe), "a|b|a|b");
        assert!(regex.exec(&mut probe.store, b"/c"));
        assert_eq!(expand(&text, &mut probe), "c||c|");
    }

    #[test]
    fn a_match_without_groups_empties_the_captures() {
        let mut variables = variables();
        let grouped = pattern("^/(a)", &mut variables);
        let plain = pattern("a", &mut variables);
        let text = template("[$1]", &mut variables);
        let mut probe = Probe::default();
        assert!(grouped.exec(&mut probe.store, b"/a"));
        assert!(!plain.exec(&mut probe.store, b"b"));
        assert_eq!(expand(&text, &mut probe), "[a]");
        assert!(plain.exec(&mut probe.store, b"a"));
        assert_eq!(expand(&text, &mut probe), "[]");
    }

    #[test]
    fn a_failed_condition_empties_the_captures() {
        let mut variables = variables();
        let regex = pattern("^/(a)", &mut variables);
        let mut store = Store::new();
        assert!(regex.exec_clearing(&mut store, b"/a"));
        assert!(store.capture(1).is_some());
        assert!(!regex.exec_clearing(&mut store, b"/b"));
        assert!(store.capture(1).is_none());
    }

    #[test]
    fn mistakes_name_the_expression() {
        let mut variables = variables();
        let error =
            Pattern::compile(b"(a", false, Span::START, &mut variables).expect_err("it is wrong");
        assert!(
            error.message.starts_with("invalid regular expression: ")
                && error.message.ends_with(" in \"(a\""),
            "{error}"
        );
        let error = Pattern::compile(b"(?<uri>a)", false, Span::START, &mut variables);
        let error = error.expect_err("the name is taken");
        assert_eq!(error.message, "the duplicate \"uri\" variable");
    }
}
