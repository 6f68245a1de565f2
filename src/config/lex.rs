//! Bytes of one file to words and punctuation, by nginx's rules.
//!
//! - A word ends at white space, `;` or `{`; `{` right after `$` belongs to the word (`${name}`).
//! - A word in `"` or `'` may contain anything and span lines; after it must come white space, `;`,
//!   `{` or `)`.
//! - `\` takes the next byte into the word whatever it is; `\"`, `\'`, `\\`, `\t`, `\r` and `\n`
//!   become the byte they name, any other pair stays as written (so regexes need no doubling).
//! - `#` begins a comment only where a word could begin.

use super::error::{ConfigError, Result};
use super::tree::{Span, Word};

/// What the lexer finds next.
#[derive(Debug)]
pub enum Token {
    /// A name or an argument.
    Word(Word),
    /// `;`
    Semicolon(Span),
    /// `{`
    Open(Span),
    /// `}` where a word could begin.
    Close(Span),
    /// The end of the text.
    End(Span),
}

/// Splits one text into tokens.
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    file: u32,
    line: u32,
    line_start: usize,
    /// The byte before was a closing quote, so a word must not begin right here.
    after_quote: bool,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl<'a> Lexer<'a> {
    /// Starts at the first byte of `text` (after a byte order mark); `file` goes into every span.
    pub fn new(text: &'a [u8], file: u32) -> Self {
        let at = if text.starts_with(BOM) { BOM.len() } else { 0 };
        Self {
            text,
            at,
            file,
            line: 1,
            line_start: at,
            after_quote: false,
        }
    }

    /// The next token; after `Token::End` it is `Token::End` for ever.
    pub fn token(&mut self) -> Result<Token> {
        if std::mem::take(&mut self.after_quote) {
            self.check_after_quote()?;
        }
        self.skip_blank();
        let span = self.span();
        let Some(&byte) = self.text.get(self.at) else {
            return Ok(Token::End(span));
        };
        match byte {
            b';' => self.at += 1,
            b'{' => self.at += 1,
            b'}' => self.at += 1,
            b'"' | b'\'' => return self.quoted(byte, span).map(Token::Word),
            _ => return Ok(Token::Word(self.bare(span))),
        }
        Ok(match byte {
            b';' => Token::Semicolon(span),
            b'{' => Token::Open(span),
            _ => Token::Close(span),
        })
    }

    fn span(&self) -> Span {
        let column = (self.at - self.line_start) as u32 + 1;
        Span {
            file: self.file,
            line: self.line,
            column,
        }
    }

    fn check_after_quote(&mut self) -> Result<()> {
        match self.text.get(self.at) {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{') => Ok(()),
            // nginx lets `)` begin a word here, for `if ($a = "b")`.
            Some(b')') => Ok(()),
            Some(&other) => Err(unexpected(other, self.span())
                .help("a quoted string must be followed by a space, \";\" or \"{\"")),
        }
    }

    fn newline(&mut self) {
        self.line += 1;
        self.line_start = self.at;
    }

    fn skip_blank(&mut self) {
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.newline();
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'#' => {
                    let rest = &self.text[self.at..];
                    self.at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn bare(&mut self, span: Span) -> Word {
        let start = self.at;
        let mut after_dollar = false;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'{' if after_dollar => {
                    self.at += 1;
                    continue;
                }
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' => break,
                b'\\' => self.skip_escaped(),
                _ => self.at += 1,
            }
            after_dollar = byte == b'$';
        }
        Word {
            bytes: unescape(&self.text[start..self.at]),
            quoted: false,
            span,
        }
    }

    fn quoted(&mut self, quote: u8, span: Span) -> Result<Word> {
        self.at += 1;
        let start = self.at;
        while let Some(&byte) = self.text.get(self.at) {
            if byte == quote {
                let bytes = unescape(&self.text[start..self.at]);
                self.at += 1;
                self.after_quote = true;
                return Ok(Word {
                    bytes,
                    quoted: true,
                    span,
                });
            }
            if byte == b'\\' {
                self.skip_escaped();
                continue;
            }
            self.at += 1;
            if byte == b'\n' {
                self.newline();
            }
        }
        let message = "unexpected end of file, expecting \";\" or \"}\"";
        let help = format!(
            "the string that begins here has no closing {}",
            quote as char
        );
        Err(ConfigError::at(span, message)
            .reported_at(self.span())
            .help(help))
    }

    /// Passes a backslash and the byte it protects.
    fn skip_escaped(&mut self) {
        self.at += 1;
        if let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            if byte == b'\n' {
                self.newline();
            }
        }
    }
}

/// nginx's message for punctuation in the wrong place.
pub fn unexpected(byte: u8, span: Span) -> ConfigError {
    let shown = if byte.is_ascii() {
        byte as char
    } else {
        char::REPLACEMENT_CHARACTER
    };
    ConfigError::at(span, format!("unexpected \"{shown}\""))
}

fn unescape(raw: &[u8]) -> Box<[u8]> {
    if memchr::memchr(b'\\', raw).is_none() {
        return raw.into();
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        let (value, taken) = match (byte, tail.first()) {
            (b'\\', Some(b'"' | b'\'' | b'\\')) => (tail[0], 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            _ => (*byte, 1),
        };
        out.push(value);
        rest = &rest[taken..];
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as their text, punctuation as itself, an error as its message.
    fn tokens(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text.as_bytes(), 0);
        let mut out = Vec::new();
        loop {
            out.push(match lexer.token() {
                Ok(Token::Word(word)) => word.text().into_owned(),
                Ok(Token::Semicolon(_)) => ";".into(),
                Ok(Token::Open(_)) => "{".into(),
                Ok(Token::Close(_)) => "}".into(),
                Ok(Token::End(_)) => return out,
                Err(error) => {
                    out.push(format!("!{}", error.message));
                    return out;
                }
            });
        }
    }

    #[test]
    fn words_and_punctuation() {
        assert_eq!(tokens("a b;c{d}"), ["a", "b", ";", "c", "{", "d}"]);
        assert_eq!(tokens("c{ d; }"), ["c", "{", "d", ";", "}"]);
        assert_eq!(tokens("location /{"), ["location", "/", "{"]);
        assert_eq!(tokens("a\r\nb;\r\n"), ["a", "b", ";"]);
        assert_eq!(tokens("\u{feff}a;"), ["a", ";"]);
    }

    #[test]
    fn variables_in_braces_stay_inside_words() {
        assert_eq!(tokens("return ${a}b${c};"), ["return", "${a}b${c}", ";"]);
        assert_eq!(tokens("a $b{"), ["a", "$b", "{"]);
        assert_eq!(tokens(r"a \${b;"), ["a", r"\$", "{", "b", ";"]);
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(tokens(r#"a "b;{} c" 'd"e';"#), ["a", "b;{} c", "d\"e", ";"]);
        assert_eq!(
            tokens(r#"a "x\"y" '\'' "\t\\n\.";"#),
            ["a", "x\"y", "'", "\t\\n\\.", ";"]
        );
        assert_eq!(
            tokens(r"a b\ c\;d \.php$;"),
            ["a", r"b\ c\;d", r"\.php$", ";"]
        );
        assert_eq!(tokens("a b\"c\" ''"), ["a", "b\"c\"", ""]);
        assert_eq!(tokens("a \"b\nc\";"), ["a", "b\nc", ";"]);
    }

    #[test]
    fn after_a_quote_only_a_separator() {
        assert_eq!(tokens("a \"b\"c;"), ["a", "b", "!unexpected \"c\""]);
        assert_eq!(tokens("a \"b\"}"), ["a", "b", "!unexpected \"}\""]);
        assert_eq!(
            tokens("if ($a = \"b\") {"),
            ["if", "($a", "=", "b", ")", "{"]
        );
        assert_eq!(tokens("a \"b\"{"), ["a", "b", "{"]);
    }

    #[test]
    fn comments_begin_where_words_begin() {
        assert_eq!(tokens("a b#c # d ; {\n;"), ["a", "b#c", ";"]);
        assert_eq!(tokens("#only"), [] as [&str; 0]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept() {
        let mut lexer = Lexer::new(b"a\xff\xfe;", 0);
        let Ok(Token::Word(word)) = lexer.token() else {
            panic!("a word was expected")
        };
        assert_eq!(&*word.bytes, b"a\xff\xfe");
    }

    #[test]
    fn spans_count_lines_and_columns_from_one() {
        let mut lexer = Lexer::new(b"a\n  'x\ny' b;", 3);
        let mut places = Vec::new();
        while let Ok(token) = lexer.token() {
            match token {
                Token::Word(Word { span, .. }) | Token::Semicolon(span) => {
                    assert_eq!(span.file, 3);
                    places.push((span.line, span.column));
                }
                _ => break,
            }
        }
        assert_eq!(places, [(1, 1), (2, 3), (3, 4), (3, 5)]);
    }
}
