//! The condition of an `if`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::{ConfigError, Result, Word};
use crate::http::exchange::Exchange;
use crate::observe::{Level, os_error};
use crate::vars::{Pattern, Reference, Template, Variables};

use super::run::Run;

/// A condition as it was read; the syntax is checked.
pub(super) enum RawCondition {
    /// `$name`
    Set(Word),
    /// `$name = value`, `$name != value`
    Equals {
        left: Word,
        right: Word,
        negated: bool,
    },
    /// `$name ~ regex` and its relatives
    Matches {
        left: Word,
        regex: Word,
        caseless: bool,
        negated: bool,
    },
    /// `-f path` and its relatives
    File {
        test: FileTest,
        path: Word,
        negated: bool,
    },
}

/// What is asked about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileTest {
    Regular,
    Directory,
    Exists,
    Executable,
}

/// A compiled condition.
#[derive(Debug)]
pub(super) enum Condition {
    Set(Reference<Exchange>),
    Equals {
        left: Reference<Exchange>,
        right: Template<Exchange>,
        negated: bool,
    },
    Matches {
        left: Reference<Exchange>,
        pattern: Pattern,
        /// The pattern as written, for the log.
        source: Box<[u8]>,
        negated: bool,
    },
    File {
        test: FileTest,
        path: Template<Exchange>,
        negated: bool,
    },
}

impl RawCondition {
    /// Reads the words between `if` and `{`. The parentheses may stand alone or be part of the
    /// first and last word.
    ///
    /// # Errors
    /// `invalid condition "x"` and `unexpected "x" in condition`, at that word.
    pub(super) fn read(words: &[Word]) -> Result<Self> {
        let words = without_parentheses(words)?;
        let Some((first, rest)) = words.split_first() else {
            unreachable!("parentheses with nothing in them are refused");
        };
        if first.bytes.len() > 1 && first.bytes[0] == b'$' {
            return read_comparison(first, rest);
        }
        let (test, negated) = match &*first.bytes {
            [b'-', test] => (*test, false),
            [b'!', b'-', test] => (*test, true),
            _ => return Err(invalid(first)),
        };
        let test = match test {
            b'f' => FileTest::Regular,
            b'd' => FileTest::Directory,
            b'e' => FileTest::Exists,
            b'x' => FileTest::Executable,
            _ => return Err(invalid(first)),
        };
        match rest {
            [path] => Ok(RawCondition::File {
                test,
                path: path.clone(),
                negated,
            }),
            _ => Err(invalid(first)),
        }
    }

    /// Looks up the variables and compiles the expression.
    ///
    /// # Errors
    /// A regular expression or value that does not compile.
    pub(super) fn compile(&self, variables: &mut Variables<Exchange>) -> Result<Condition> {
        Ok(match self {
            RawCondition::Set(left) => Condition::Set(reference(left, variables)),
            RawCondition::Equals {
                left,
                right,
                negated,
            } => Condition::Equals {
                left: reference(left, variables),
                right: Template::compile(right, variables)?,
                negated: *negated,
            },
            RawCondition::Matches {
                left,
                regex,
                caseless,
                negated,
            } => Condition::Matches {
                left: reference(left, variables),
                pattern: Pattern::compile(&regex.bytes, *caseless, regex.span, variables)?,
                source: regex.bytes.clone(),
                negated: *negated,
            },
            RawCondition::File {
                test,
                path,
                negated,
            } => Condition::File {
                test: *test,
                path: Template::compile(path, variables)?,
                negated: *negated,
            },
        })
    }
}

impl Condition {
    /// Whether it holds for the exchange.
    pub(super) fn holds(&self, run: &Run<'_>, ex: &mut Exchange) -> bool {
        let mut value = ex.store.lend();
        let holds = match self {
            Condition::Set(left) => {
                left.eval(ex, &mut value);
                !value.is_empty() && value != b"0"
            }
            Condition::Equals {
                left,
                right,
                negated,
            } => {
                left.eval(ex, &mut value);
                let start = value.len();
                run.eval(right, ex, &mut value);
                let (left, right) = value.split_at(start);
                (left == right) != *negated
            }
            Condition::Matches {
                left,
                pattern,
                source,
                negated,
            } => {
                left.eval(ex, &mut value);
                let matched = pattern.exec_clearing(&mut ex.store, &value);
                run.log_match(ex, source, &value, matched);
                matched != *negated
            }
            Condition::File {
                test,
                path,
                negated,
            } => {
                run.eval(path, ex, &mut value);
                test.holds(ex, &value) != *negated
            }
        };
        ex.store.give_back(value);
        holds
    }
}

impl FileTest {
    /// Asks the file system. This waits for stat(2), as nginx does: what is asked about is nearly
    /// always in the kernel's caches, and a program that could be suspended here would have to
    /// be one for every request.
    fn holds(self, ex: &Exchange, path: &[u8]) -> bool {
        let meta = match std::fs::metadata(Path::new(OsStr::from_bytes(path))) {
            Ok(meta) => meta,
            Err(error) => {
                let absent = [libc::ENOENT, libc::ENOTDIR, libc::ENAMETOOLONG];
                if error.raw_os_error().is_none_or(|e| !absent.contains(&e)) {
                    let path = String::from_utf8_lossy(path);
                    let error = os_error(&error);
                    ex.log(
                        Level::Crit,
                        format_args!("stat() \"{path}\" failed {error}"),
                    );
                }
                return false;
            }
        };
        match self {
            FileTest::Regular => meta.is_file(),
            FileTest::Directory => meta.is_dir(),
            FileTest::Exists => true,
            FileTest::Executable => meta.permissions().mode() & libc::S_IXUSR != 0,
        }
    }
}

fn read_comparison(left: &Word, rest: &[Word]) -> Result<RawCondition> {
    let left_word = left.clone();
    let (operator, right) = match rest {
        [] => return Ok(RawCondition::Set(left_word)),
        [operator, right] => (operator, right.clone()),
        _ => return Err(invalid(left)),
    };
    let negated = operator.bytes[..].first() == Some(&b'!');
    match &*operator.bytes {
        b"=" | b"!=" => Ok(RawCondition::Equals {
            left: left_word,
            right,
            negated,
        }),
        b"~" | b"~*" | b"!~" | b"!~*" => Ok(RawCondition::Matches {
            left: left_word,
            regex: right,
            caseless: operator.bytes.ends_with(b"*"),
            negated,
        }),
        _ => {
            let message = format!("unexpected \"{}\" in condition", operator.text());
            Err(ConfigError::at(operator.span, message)
                .help("the operators are =, !=, ~, ~*, !~ and !~*"))
        }
    }
}

/// Takes the parentheses away; what is left has at least one word.
fn without_parentheses(words: &[Word]) -> Result<Vec<Word>> {
    let mut words = words.to_vec();
    let first = &mut words[0];
    let Some(inner) = first.bytes.strip_prefix(b"(") else {
        return Err(invalid(first));
    };
    if inner.is_empty() {
        if words.len() == 1 {
            return Err(invalid(&words[0]));
        }
        words.remove(0);
    } else {
        first.bytes = inner.into();
        first.span.column += 1;
    }
    let last = words.len() - 1;
    let Some(inner) = words[last].bytes.strip_suffix(b")") else {
        return Err(invalid(&words[last]));
    };
    if inner.is_empty() && last == 0 {
        return Err(invalid(&words[0]));
    }
    if inner.is_empty() {
        words.pop();
    } else {
        words[last].bytes = inner.into();
    }
    Ok(words)
}

/// nginx takes all that follows the dollar for the name.
fn reference(word: &Word, variables: &mut Variables<Exchange>) -> Reference<Exchange> {
    let name = String::from_utf8_lossy(&word.bytes[1..]);
    variables.reference(&name, word.span)
}

fn invalid(word: &Word) -> ConfigError {
    let message = format!("invalid condition \"{}\"", word.text());
    ConfigError::at(word.span, message)
        .help("such as ($a), ($a = x), ($a ~* regex), (-f $request_filename)")
}

#[cfg(test)]
mod tests {
    use crate::config::Span;

    use super::*;

    fn read(text: &str) -> std::result::Result<RawCondition, String> {
        let words: Vec<Word> = text
            .split(' ')
            .map(|word| Word::new(word, Span::START))
            .collect();
        RawCondition::read(&words).map_err(|error| error.message)
    }

    #[test]
    fn parentheses_may_be_glued_or_not() {
        for text in ["($a = x)", "( $a = x )", "( $a = x)", "($a = x )"] {
            let Ok(RawCondition::Equals {
                left,
                right,
                negated: false,
            }) = read(text)
            else {
                panic!("{text} is a comparison");
            };
            assert_eq!((&*left.bytes, &*right.bytes), (&b"$a"[..], &b"x"[..]));
        }
        assert!(matches!(read("($a)"), Ok(RawCondition::Set(_))));
        assert!(matches!(read("( $a )"), Ok(RawCondition::Set(_))));
    }

    #[test]
    fn operators() {
        for (operator, expected) in [
            ("~", (false, false)),
            ("~*", (true, false)),
            ("!~", (false, true)),
            ("!~*", (true, true)),
        ] {
            let Ok(RawCondition::Matches {
                caseless, negated, ..
            }) = read(&format!("($a {operator} x)"))
            else {
                panic!("{operator} matches");
            };
            assert_eq!((caseless, negated), expected, "{operator}");
        }
        for (operator, expected) in [
            ("-f", (FileTest::Regular, false)),
            ("!-f", (FileTest::Regular, true)),
            ("-d", (FileTest::Directory, false)),
            ("!-e", (FileTest::Exists, true)),
            ("-x", (FileTest::Executable, false)),
        ] {
            let Ok(RawCondition::File { test, negated, .. }) = read(&format!("({operator} /x)"))
            else {
                panic!("{operator} is about a file");
            };
            assert_eq!((test, negated), expected, "{operator}");
        }
    }

    #[test]
    fn mistakes_have_the_messages_of_nginx() {
        for (text, word) in [
            ("$a", "$a"),
            ("($a", "$a"),
            ("()", ")"),
            ("( )", ")"),
            ("($)", "$"),
            ("($a =)", "$a"),
            ("($a = x y)", "$a"),
            ("(x = y)", "x"),
            ("($a) x", "x"),
            ("(-f)", "-f"),
            ("(-f a b)", "-f"),
            ("(-q a)", "-q"),
            ("(!-q a)", "!-q"),
            ("(!f a)", "!f"),
            ("(!$a)", "!$a"),
            ("(\"$a\" = x)", "\"$a\""),
        ] {
            let expected = format!("invalid condition \"{word}\"");
            assert_eq!(read(text).err(), Some(expected), "{text}");
        }
        assert_eq!(
            read("($a == x)").err().as_deref(),
            Some("unexpected \"==\" in condition")
        );
    }
}
