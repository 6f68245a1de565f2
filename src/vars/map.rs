//! nginx's `map`: a variable whose value depends on the value of another string.

use super::hostnames::{HostTable, NameError};
use super::{Compute, Pattern, Subject, Template, Variables};
use crate::config::{ConfigError, Node, Result, Word};

/// A compiled `map` block.
///
/// The source string is looked up without regard to case: exact keys first, then (with `hostnames`)
/// wildcards, then regular expressions in the order of the file, which see the original case. An
/// empty string matches no expression.
struct Map<S: 'static> {
    source: Template<S>,
    table: HostTable<Template<S>>,
    patterns: Vec<(Pattern, Template<S>)>,
    default: Option<Template<S>>,
    hostnames: bool,
    volatile: bool,
}

/// Defines the variable of one `map $source $variable { … }`.
///
/// # Errors
/// nginx's, at the word they are about.
pub(super) fn define<S: Subject>(node: &Node, variables: &mut Variables<S>) -> Result<()> {
    let [source, name] = node.args() else {
        return Err(ConfigError::at(
            node.span(),
            "invalid number of arguments in \"map\" directive",
        ));
    };
    let map = Map::compile(Template::compile(source, variables)?, node, variables)?;
    variables.define_computed(&variable_name(name)?, name.span, map)
}

/// The name in `$name`, for directives that define a variable.
///
/// # Errors
/// `invalid variable name "x"` when the dollar is missing or nothing follows it.
pub fn variable_name(word: &Word) -> Result<String> {
    match word.bytes.strip_prefix(b"$") {
        Some(name) if !name.is_empty() => Ok(String::from_utf8_lossy(name).into_owned()),
        _ => {
            let message = format!("invalid variable name \"{}\"", word.text());
            Err(ConfigError::at(word.span, message))
        }
    }
}

impl<S: Subject> Map<S> {
    fn compile(source: Template<S>, node: &Node, variables: &mut Variables<S>) -> Result<Self> {
        let mut map = Self {
            source,
            table: HostTable::new(),
            patterns: Vec::new(),
            default: None,
            hostnames: false,
            volatile: false,
        };
        for entry in node.children() {
            map.entry(entry, variables)?;
        }
        Ok(map)
    }

    fn entry(&mut self, entry: &Node, variables: &mut Variables<S>) -> Result<()> {
        let key = &entry.words[0];
        let [value] = entry.args() else {
            match (entry.args(), &*key.bytes) {
                ([], b"hostnames") => self.hostnames = true,
                ([], b"volatile") => self.volatile = true,
                _ => {
                    let message = "invalid number of the map parameters";
                    return Err(ConfigError::at(key.span, message)
                        .help("an entry is a key and a value: key value;"));
                }
            }
            return Ok(());
        };
        let value = Template::compile(value, variables)?;
        if key.is("default") {
            if self.default.replace(value).is_some() {
                return Err(ConfigError::at(key.span, "duplicate default map parameter"));
            }
            return Ok(());
        }
        if let Some(source) = key.bytes.strip_prefix(b"~") {
            let (source, caseless) = match source.strip_prefix(b"*") {
                Some(source) => (source, true),
                None => (source, false),
            };
            let pattern = Pattern::compile(source, caseless, key.span, variables)?;
            self.patterns.push((pattern, value));
            return Ok(());
        }
        // A backslash lets a key begin with `~`, or be called `default`.
        let bytes = key.bytes.strip_prefix(b"\\").unwrap_or(&key.bytes);
        self.insert(bytes, value).map_err(|error| {
            let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
            let message = match error {
                NameError::Invalid => format!("invalid hostname or wildcard \"{text}\""),
                NameError::Conflict => format!("conflicting parameter \"{text}\""),
            };
            ConfigError::at(key.span, message)
        })
    }

    /// `hostnames` counts for the keys after it.
    fn insert(&mut self, key: &[u8], value: Template<S>) -> std::result::Result<(), NameError> {
        if self.hostnames {
            self.table.insert(key, value)
        } else {
            self.table.insert_exact(key, value)
        }
    }

    /// Appends the value for `key`, whose bytes are lowered on the way.
    fn look_up(&self, subject: &mut S, key: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        if self.hostnames && key.ends_with(b".") {
            key.pop();
        }
        let has_upper = key.iter().any(u8::is_ascii_uppercase);
        let found = if has_upper {
            let mut lower = subject.store_mut().lend();
            lower.extend(key.iter().map(u8::to_ascii_lowercase));
            let found = self.table.get(&lower);
            subject.store_mut().give_back(lower);
            found
        } else {
            self.table.get(key)
        };
        let found = found
            .or_else(|| self.match_patterns(subject, key))
            .or(self.default.as_ref());
        if let Some(value) = found {
            value.eval(subject, out);
        }
        // A map always has a value: without a default it is the empty string.
        true
    }

    fn match_patterns(&self, subject: &mut S, key: &[u8]) -> Option<&Template<S>> {
        if key.is_empty() {
            return None;
        }
        let store = subject.store_mut();
        self.patterns
            .iter()
            .find(|(pattern, _)| pattern.exec(store, key))
            .map(|(_, value)| value)
    }
}

impl<S: Subject> Compute<S> for Map<S> {
    fn compute(&self, subject: &mut S, out: &mut Vec<u8>) -> bool {
        let mut key = subject.store_mut().lend();
        self.source.eval(subject, &mut key);
        let found = self.look_up(subject, &mut key, out);
        subject.store_mut().give_back(key);
        found
    }

    fn cached(&self) -> bool {
        !self.volatile
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::{definitions, values};

    fn error(text: &str) -> String {
        definitions(text)
            .map(drop)
            .expect_err("the map is wrong")
            .message
    }

    #[test]
    fn strings_go_first_then_expressions_in_order_then_the_default() {
        let map = r#"map $uri $m {
            default D; a 1; B 2; "~^x(.)" "rx$1"; ~*^Y y; ~^x never;
            \default lit; \~z tilde; "" empty; ~^$ never;
        }"#;
        let uris = [
            "", "a", "A", "b", "xq", "XQ", "y", "Y", "default", "~z", "zzz",
        ];
        let expected = [
            "empty", "1", "1", "2", "rxq", "D", "y", "y", "lit", "tilde", "D",
        ];
        assert_eq!(values(map, "$m", &uris), expected);
    }

    #[test]
    fn an_empty_string_matches_no_expression_and_no_default_is_empty() {
        assert_eq!(
            values("map $uri $m { ~a* any; }", "<$m>", &["", "b"]),
            ["<>", "<any>"]
        );
    }

    #[test]
    fn hostnames_counts_from_where_it_stands() {
        let map = "map $uri $m { *.a.com literal; hostnames; *.a.com wild; b.com b; }";
        let uris = ["*.a.com", "X.A.com", "x.a.com.", "b.com."];
        assert_eq!(values(map, "$m", &uris), ["literal", "wild", "wild", "b"]);
    }

    #[test]
    fn values_may_use_captures_named_groups_and_other_maps() {
        let maps = r#"
            map $uri $first { "~^/(?<word>\w+)/(\w+)" "$second|$word|$2"; }
            map $uri$uri $second { "~(.)$" "<$1>"; }"#;
        // The inner map's match replaces the numbered captures, as in nginx.
        assert_eq!(values(maps, "$first", &["/a/bc"]), ["<c>|a|"]);
    }

    #[test]
    fn volatile_maps_are_asked_each_time() {
        let source = |more: &str| format!("map $count $m {{ {more} default x$count; }}");
        assert_eq!(values(&source(""), "$m$m", &[""]), ["x2x2"]);
        assert_eq!(values(&source("volatile;"), "$m$m", &[""]), ["x2x4"]);
    }

    #[test]
    fn the_latest_map_of_a_variable_counts() {
        let maps = "map $uri $m { default 1; } map $uri $m { default 2; }";
        assert_eq!(values(maps, "$m", &[""]), ["2"]);
    }

    #[test]
    fn mistakes_have_the_messages_of_nginx() {
        let cases = [
            ("map $uri x { }", "invalid variable name \"x\""),
            ("map $uri $ { }", "invalid variable name \"$\""),
            ("map $uri $uri { }", "the duplicate \"uri\" variable"),
            (
                "map $uri { }",
                "invalid number of arguments in \"map\" directive",
            ),
            (
                "map $uri $x { default x; default y; }",
                "duplicate default map parameter",
            ),
            ("map $uri $x { a x; A y; }", "conflicting parameter \"a\""),
            ("map $uri $x { a; }", "invalid number of the map parameters"),
            (
                "map $uri $x { a b c; }",
                "invalid number of the map parameters",
            ),
            (
                "map $uri $x { hostnames; a*b x; }",
                "invalid hostname or wildcard \"a*b\"",
            ),
            (
                "map $uri $x { hostnames; a.b x; .a.b y; }",
                "conflicting parameter \".a.b\"",
            ),
            ("map $uri $x { a $; }", "invalid variable name"),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), expected, "{text}");
        }
    }
}
