//! Regular expressions as nginx's users write them: PCRE syntax over bytes.
//!
//! An expression that is regular runs on the linear-time engine of crate `regex`; look-around, back
//! references, atomic groups and possessive quantifiers run on the backtracking engine of
//! `fancy-regex`. `pcre` translates the syntax, so that the same text means what it means to PCRE
//! without its UTF mode: `.`, `\d`, `\w` and case folding are about ASCII bytes.

mod pcre;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use fancy_regex::BytesMode;
use regex::bytes;

/// A compiled regular expression. Matching takes no lock and, on the linear engine, no memory after
/// a thread's first match.
pub struct Regex {
    source: Box<[u8]>,
    caseless: bool,
    engine: Engine,
    names: Box<[(Box<str>, usize)]>,
    groups: usize,
    ticket: Ticket,
    /// The expression for texts that end with a line feed; built when the first such text comes.
    newline: Option<OnceLock<Option<Box<fancy_regex::Regex>>>>,
}

enum Engine {
    Linear(bytes::Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

/// A thread's own instance of a linear expression. The shared one would hand its working memory
/// from thread to thread under a lock; a clone has its own.
struct Scratch {
    generation: u64,
    regex: bytes::Regex,
    locations: bytes::CaptureLocations,
}

/// The place of an expression in every thread's table of [`Scratch`]. Places are used again after
/// the expression is gone, so that reloads do not grow the tables; the generation tells old from
/// new.
struct Ticket {
    place: usize,
    generation: u64,
}

thread_local! {
    static SCRATCH: RefCell<Vec<Option<Scratch>>> = const { RefCell::new(Vec::new()) };
}

/// Places which were given back, and the first that was never given. Touched when an expression is
/// compiled or dropped only.
static PLACES: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));
static GENERATION: AtomicU64 = AtomicU64::new(0);

impl Regex {
    /// Compiles `pattern`; with `caseless`, ASCII letters match either case.
    ///
    /// # Errors
    /// One line saying what is wrong with the expression.
    pub fn new(pattern: impl AsRef<[u8]>, caseless: bool) -> Result<Self, String> {
        let source = pattern.as_ref();
        let translated = pcre::translate(source, pcre::End::Strict)?;
        let engine = if translated.backtracking {
            Engine::Backtracking(Box::new(backtracking(&translated, caseless)?))
        } else {
            Engine::Linear(linear(&translated, caseless)?)
        };
        Ok(Self {
            source: source.into(),
            caseless,
            names: engine.names(),
            groups: engine.groups(),
            engine,
            ticket: Ticket::take(),
            newline: translated.has_end.then(OnceLock::new),
        })
    }

    /// Whether the expression occurs in `text`.
    pub fn is_match(&self, text: &[u8]) -> bool {
        match self.engine_for(text) {
            Chosen::Linear(regex) => self
                .ticket
                .with_scratch(regex, |scratch| scratch.regex.is_match(text)),
            // Running into the limit of backtracking counts as no match.
            Chosen::Backtracking(regex) => regex.is_match(text).unwrap_or(false),
        }
    }

    /// Finds the first match. On success `out` holds one range per group, the whole match first;
    /// otherwise it is untouched.
    pub fn captures_into(&self, text: &[u8], out: &mut Vec<Option<(usize, usize)>>) -> bool {
        match self.engine_for(text) {
            Chosen::Linear(regex) => self.ticket.with_scratch(regex, |scratch| {
                let Scratch {
                    regex, locations, ..
                } = scratch;
                if regex.captures_read(locations, text).is_none() {
                    return false;
                }
                out.clear();
                out.extend((0..locations.len()).map(|group| locations.get(group)));
                true
            }),
            Chosen::Backtracking(regex) => {
                let Ok(Some(captures)) = regex.captures(text) else {
                    return false;
                };
                out.clear();
                out.extend(
                    captures
                        .iter()
                        .map(|group| group.map(|m| (m.start(), m.end()))),
                );
                true
            }
        }
    }

    /// The named groups with their numbers.
    pub fn names(&self) -> &[(Box<str>, usize)] {
        &self.names
    }

    /// How many groups there are, the whole match not counted.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The expression as it was written.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// PCRE's `$` also matches before a line feed that ends the text. Only texts which end so need
    /// the engine that can say it.
    fn engine_for(&self, text: &[u8]) -> Chosen<'_> {
        if text.last() == Some(&b'\n')
            && let Some(cell) = &self.newline
            && let Some(regex) = cell.get_or_init(|| self.newline_engine())
        {
            return Chosen::Backtracking(regex);
        }
        match &self.engine {
            Engine::Linear(regex) => Chosen::Linear(regex),
            Engine::Backtracking(regex) => Chosen::Backtracking(regex),
        }
    }

    fn newline_engine(&self) -> Option<Box<fancy_regex::Regex>> {
        let translated = pcre::translate(&self.source, pcre::End::BeforeNewline).ok()?;
        backtracking(&translated, self.caseless).ok().map(Box::new)
    }
}

enum Chosen<'a> {
    Linear(&'a bytes::Regex),
    Backtracking(&'a fancy_regex::Regex),
}

impl Engine {
    fn names(&self) -> Box<[(Box<str>, usize)]> {
        let collect = |names: &mut dyn Iterator<Item = Option<&str>>| {
            let numbered = names.enumerate();
            numbered
                .filter_map(|(index, name)| Some((Box::from(name?), index)))
                .collect()
        };
        match self {
            Self::Linear(regex) => collect(&mut regex.capture_names()),
            Self::Backtracking(regex) => collect(&mut regex.capture_names()),
        }
    }

    fn groups(&self) -> usize {
        let with_whole = match self {
            Self::Linear(regex) => regex.captures_len(),
            Self::Backtracking(regex) => regex.captures_len(),
        };
        with_whole.saturating_sub(1)
    }
}

impl Ticket {
    fn take() -> Self {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.0.pop().unwrap_or_else(|| {
            places.1 += 1;
            places.1 - 1
        });
        Self {
            place,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Calls `f` with this thread's instance of `regex`, made on first use.
    fn with_scratch<R>(&self, regex: &bytes::Regex, f: impl FnOnce(&mut Scratch) -> R) -> R {
        SCRATCH.with_borrow_mut(|table| {
            if self.place >= table.len() {
                table.resize_with(self.place + 1, || None);
            }
            let entry = &mut table[self.place];
            match entry {
                Some(scratch) if scratch.generation == self.generation => f(scratch),
                _ => f(entry.insert(Scratch {
                    generation: self.generation,
                    regex: regex.clone(),
                    locations: regex.capture_locations(),
                })),
            }
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        PLACES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .push(self.place);
    }
}

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let star = if self.caseless { "*" } else { "" };
        write!(f, "~{star}{}", self.source.escape_ascii())
    }
}

fn linear(translated: &pcre::Translated, caseless: bool) -> Result<bytes::Regex, String> {
    bytes::RegexBuilder::new(&translated.pattern)
        .unicode(translated.unicode)
        .case_insensitive(caseless)
        .build()
        .map_err(|error| one_line(&error.to_string()))
}

fn backtracking(
    translated: &pcre::Translated,
    caseless: bool,
) -> Result<fancy_regex::Regex, String> {
    let mode = if translated.unicode {
        BytesMode::UnicodeBytes
    } else {
        BytesMode::Ascii
    };
    fancy_regex::RegexBuilder::new(&translated.pattern)
        .bytes_mode(mode)
        .case_insensitive(caseless)
        .build()
        .map_err(|error| one_line(&error.to_string()))
}

/// The reason out of an engine's message, which may quote the (translated) expression over several
/// lines.
fn one_line(message: &str) -> String {
    let last = message.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or("not valid").trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn find(pattern: &str, text: &str) -> Option<Vec<Option<String>>> {
        let regex = Regex::new(pattern, false).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        let mut out = Vec::new();
        let found = regex.captures_into(text.as_bytes(), &mut out);
        assert_eq!(found, regex.is_match(text.as_bytes()));
        let part = |range: &Option<(usize, usize)>| range.map(|(a, b)| text[a..b].to_owned());
        found.then(|| out.iter().map(part).collect())
    }

    fn matches(pattern: &str, text: &[u8]) -> bool {
        Regex::new(pattern, false)
            .unwrap_or_else(|e| panic!("{pattern}: {e}"))
            .is_match(text)
    }

    #[test]
    fn expressions_from_real_configurations_work() {
        let cases = [
            (r"\.php$", "/a.php", true),
            (r"\.php$", "/a.phpx", false),
            (r"^\/api\/v(\d+)\/", "/api/v12/x", true),
            (r"\.(?:jpg|jpeg|gif|png|ico)$", "/i.ico", true),
            (
                r"^/download/(.*)/media/(.*)\..*$",
                "/download/a/media/b.mp3",
                true,
            ),
            (r"/\.(?!well-known).*", "/.git/config", true),
            (r"/\.(?!well-known).*", "/.well-known/acme", false),
            (r"^(?!/(admin|login)).*$", "/admin", false),
            (r"(?<!a)b", "ab", false),
            (r"(?i)^/FOO", "/foo", true),
            (r"^(?<user>[^@/]+)@(?'host'[^/]+)$", "me@x", true),
            (r"^/(\w+)/\1$", "/ab/ab", true),
            (r"^/(\w+)/\1$", "/ab/ac", false),
            (r"[\w-.]+@[a-z0-9-]+", "a.b-c@d-e", true),
            (r"^[^[]+$", "abc", true),
            (r"^[]a]+$", "]a]", true),
            (r"^/{id}$", "/{id}", true),
            (r"^a{2,3}$", "aaa", true),
            (r"\<b\>", "<b>", true),
            (r"a\h+b", "a \tb", true),
            (r"^\Q/a.b(\E$", "/a.b(", true),
            (r"^\Q/a.b(\E$", "/axb(", false),
            (r"(?#comment)x", "x", true),
            (r"[[:alpha:]&&~~]", "&", true),
            (r"\x2Fa\057b\0?", "/a/b", true),
            (r"[\b]", "\u{8}", true),
            (r"", "anything", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(
                matches(pattern, text.as_bytes()),
                expected,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn possessive_and_atomic_do_not_give_back() {
        assert!(!matches(r"^a++a", b"aaa"));
        assert!(!matches(r"^(?>a+)a", b"aaa"));
        assert!(!matches(r"^a{1,3}+a", b"aaa"));
        assert!(matches(r"^a+?a", b"aaa"));
    }

    #[test]
    fn groups_are_numbered_and_named() {
        let found = find(r"^/(a)?(?<rest>.*)$", "/xyz").expect("it matches");
        assert_eq!(found, [Some("/xyz".into()), None, Some("xyz".into())]);
        let regex = Regex::new(r"(?P<a>.)(?'b'.)(?<c>.)(?=x)", false).expect("it compiles");
        let names: Vec<_> = regex
            .names()
            .iter()
            .map(|(name, index)| (&**name, *index))
            .collect();
        assert_eq!(names, [("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(regex.groups(), 3);
    }

    #[test]
    fn a_failed_match_leaves_the_output_alone() {
        let mut out = vec![Some((7, 9))];
        assert!(
            !Regex::new("(a)", false)
                .expect("it compiles")
                .captures_into(b"b", &mut out)
        );
        assert_eq!(out, [Some((7, 9))]);
    }

    #[test]
    fn text_is_bytes() {
        assert!(matches(r"^/.\xff$", b"/\xe9\xff"));
        assert!(matches(r"^/.(?!x)..$", b"/\xe9\xff\x80"));
        assert!(matches("^/café$", "/café".as_bytes()));
        assert!(matches("^/caf..$", "/café".as_bytes()));
        assert!(matches("^/caf[éè]{2}(?!x)$", "/café".as_bytes()));
        assert!(!matches(r"\w", "é".as_bytes()));
        assert!(matches("(*UTF8)^/caf.$", "/café".as_bytes()));
    }

    #[test]
    fn caseless_is_about_ascii() {
        let regex = Regex::new("^/Foo[a-c]", true).expect("it compiles");
        assert!(regex.is_match(b"/fOOB"));
        let regex = Regex::new("^/Foo(?=[a-c])", true).expect("it compiles");
        assert!(regex.is_match(b"/fOOB"));
    }

    #[test]
    fn a_dollar_also_matches_before_a_final_line_feed() {
        assert!(matches("^/admin$", b"/admin\n"));
        assert!(!matches("^/admin$", b"/admin\n\n"));
        assert!(!matches(r"^/admin\z", b"/admin\n"));
        assert!(matches("^/admin$(?!x)", b"/admin\n"));
        let mut out = Vec::new();
        let regex = Regex::new("^/(.*)$", false).expect("it compiles");
        assert!(regex.captures_into(b"/ab\n", &mut out));
        assert_eq!(out[1], Some((1, 3)));
    }

    #[test]
    fn errors_are_one_line() {
        for pattern in [
            "(", "[a", "a{2,1}", "(?<n", "*", r"\", "(?<=a", "(?|a)", "[z-a]",
        ] {
            let error = Regex::new(pattern, false).expect_err(pattern);
            assert!(
                !error.is_empty() && !error.contains('\n'),
                "{pattern}: {error}"
            );
        }
    }

    #[test]
    fn places_are_used_again_without_mixing_expressions_up() {
        for n in 0..100u32 {
            let regex = Regex::new(format!("^{n}$"), false).expect("it compiles");
            assert!(regex.is_match(n.to_string().as_bytes()));
            assert!(!regex.is_match(b"x"));
        }
        SCRATCH.with_borrow(|table| assert!(table.len() < 1000));
    }

    proptest! {
        #[test]
        fn compiling_never_panics(pattern in vec(any::<u8>(), 0..24)) {
            if let Ok(regex) = Regex::new(&pattern, true) {
                regex.is_match(b"/some/text?x=[1]\n");
            }
        }

        #[test]
        fn syntax_soup_never_panics(
            pattern in r"[\\\[\](){}?*+|^$.<>=!:#a-cQEdwxhKkgP0-3&~,'-]{0,24}",
        ) {
            if let Ok(regex) = Regex::new(&pattern, false) {
                regex.is_match(b"abc[1]");
            }
        }

        #[test]
        fn escaped_punctuation_is_literal(byte in 0x20u8..0x7f) {
            prop_assume!(!byte.is_ascii_alphanumeric());
            let outside = vec![b'^', b'\\', byte, b'$'];
            let within = vec![b'^', b'[', b'\\', byte, b']', b'$'];
            for pattern in [outside, within] {
                let regex = Regex::new(&pattern, false).expect("it compiles");
                prop_assert!(regex.is_match(&[byte]));
                prop_assert!(!regex.is_match(b"z"));
            }
        }
    }
}
