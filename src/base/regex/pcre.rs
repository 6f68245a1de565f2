//! PCRE's syntax, rewritten into that of the `regex` and `fancy-regex` crates.
//!
//! Both crates read most of PCRE as it stands. This pass rewrites what they would refuse (`{` as a
//! letter, `[\w-.]`, `(?'name'…)`, `\Q…\E`) and, more important, what they would quietly understand
//! differently (`\<`, `\h`, `a++`, `[` and `&&` within a class).

use std::fmt::Write;

/// How `$` is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The end of the text only; right for every text that does not end with a line feed.
    Strict,
    /// The end of the text, or before the line feed that ends it.
    BeforeNewline,
}

/// An expression in the crates' syntax.
pub(super) struct Translated {
    pub(super) pattern: String,
    /// Something in it needs the backtracking engine.
    pub(super) backtracking: bool,
    /// It began with `(*UTF8)` or the like.
    pub(super) unicode: bool,
    /// It has a `$` whose meaning depends on a final line feed.
    pub(super) has_end: bool,
}

/// Rewrites `source`. Only errors that the engines could not explain are found here.
pub(super) fn translate(source: &[u8], end: End) -> Result<Translated, String> {
    let (source, unicode) = strip_options(source);
    let unicode = unicode && std::str::from_utf8(source).is_ok();
    let mut translator = Translator {
        source,
        at: 0,
        end,
        groups: 0,
        quantified: false,
        multi_line: false,
        out: Translated {
            pattern: String::with_capacity(source.len() + 16),
            backtracking: end == End::BeforeNewline,
            unicode,
            has_end: false,
        },
    };
    while let Some(byte) = translator.next() {
        translator.item(byte)?;
    }
    Ok(translator.out)
}

/// Removes `(*UTF8)`, `(*UTF)` and `(*UCP)` from the front and says whether there were any.
fn strip_options(mut source: &[u8]) -> (&[u8], bool) {
    let mut unicode = false;
    while let Some(rest) = [&b"(*UTF8)"[..], b"(*UTF)", b"(*UCP)"]
        .iter()
        .find_map(|option| source.strip_prefix(*option))
    {
        source = rest;
        unicode = true;
    }
    (source, unicode)
}

struct Translator<'a> {
    source: &'a [u8],
    at: usize,
    end: End,
    /// Groups opened so far, for relative references.
    groups: usize,
    /// The last item was a quantifier: a `+` after it makes it possessive.
    quantified: bool,
    /// `(?m)` was seen: `$` is about lines.
    multi_line: bool,
    out: Translated,
}

/// One member of a character class.
enum Member {
    /// A single byte, which may begin or end a range.
    Byte(u8),
    /// The same beyond one byte, in UTF mode.
    Char(char),
    /// A bare hyphen: a range's, or itself.
    Hyphen,
    /// Text that stands for several (`\d`, `[:alpha:]`), already translated.
    Set(String),
}

impl Translator<'_> {
    fn item(&mut self, byte: u8) -> Result<(), String> {
        let quantified = std::mem::replace(&mut self.quantified, false);
        match byte {
            b'\\' => self.escape()?,
            b'[' => self.class()?,
            b'(' => self.group()?,
            b'*' | b'+' | b'?' => {
                self.out.pattern.push(char::from(byte));
                // `+?` is lazy, `++` possessive; neither can be quantified again.
                self.out.backtracking |= quantified && byte == b'+';
                self.quantified = !quantified;
            }
            b'{' => match self.counted() {
                Some(length) => {
                    let text = &self.source[self.at - 1..self.at + length];
                    self.out.pattern.extend(text.iter().map(|b| char::from(*b)));
                    self.at += length;
                    self.quantified = true;
                }
                None => self.out.pattern.push_str(r"\{"),
            },
            b'}' | b']' => self.literal(byte),
            b'$' if !self.multi_line => self.end_of_text(),
            _ => self.plain(byte),
        }
        Ok(())
    }

    fn end_of_text(&mut self) {
        self.out.has_end = true;
        self.out.pattern.push_str(match self.end {
            End::Strict => "$",
            End::BeforeNewline => r"(?=\n?\z)",
        });
    }

    /// What follows a backslash outside a class.
    fn escape(&mut self) -> Result<(), String> {
        let Some(byte) = self.next() else {
            return Err("\\ at the end of the expression".into());
        };
        match byte {
            b'd' | b'D' | b'w' | b'W' | b's' | b'S' | b'b' | b'B' | b'A' | b'z' => {
                self.out.pattern.push('\\');
                self.out.pattern.push(char::from(byte));
            }
            b'p' | b'P' | b'X' => {
                self.out.pattern.push('\\');
                self.out.pattern.push(char::from(byte));
            }
            b'Z' => self.end_of_text(),
            b'G' => self.out.pattern.push_str(r"\A"),
            b'N' => self.out.pattern.push_str(r"[^\n]"),
            b'R' => {
                self.out.backtracking = true;
                self.out.pattern.push_str(r"(?>\r\n|[\n-\r])");
            }
            b'K' => {
                self.out.backtracking = true;
                self.out.pattern.push_str(r"\K");
            }
            b'Q' => {
                for byte in self.quoted() {
                    self.literal(byte);
                }
            }
            b'E' => {}
            b'k' | b'g' => self.reference(byte)?,
            b'1'..=b'9' => self.numbered(byte),
            _ => match self.shared_escape(byte)? {
                Member::Set(set) => {
                    let _ = write!(self.out.pattern, "[{set}]");
                }
                member => match member.code() {
                    Some(c) if u32::from(c) <= 0xff || self.out.unicode => self.code_point(c),
                    _ => return Err("character code is above \\xff".into()),
                },
            },
        }
        Ok(())
    }

    /// Escapes that mean the same within a class and outside.
    fn shared_escape(&mut self, byte: u8) -> Result<Member, String> {
        Ok(match byte {
            b'h' => Member::Set(r"\t\x20\xA0".into()),
            b'H' => Member::Set(r"[^\t\x20\xA0]".into()),
            b'v' => Member::Set(r"\n-\r\x85".into()),
            b'V' => Member::Set(r"[^\n-\r\x85]".into()),
            b'n' => Member::Byte(b'\n'),
            b'r' => Member::Byte(b'\r'),
            b't' => Member::Byte(b'\t'),
            b'f' => Member::Byte(0x0c),
            b'a' => Member::Byte(0x07),
            b'e' => Member::Byte(0x1b),
            b'c' => match self.next() {
                Some(byte) => Member::Byte(byte.to_ascii_uppercase() ^ 0x40),
                None => return Err("\\c at the end of the expression".into()),
            },
            b'x' => self.hexadecimal()?,
            b'o' => match self.braced() {
                Some(digits) => code(&digits, 8)?,
                None => return Err("\\o is not followed by {octal digits}".into()),
            },
            b'0'..=b'7' => Member::Byte(self.octal(byte)),
            _ if byte.is_ascii_alphanumeric() => {
                return Err(format!(
                    "unrecognized character follows \\: {}",
                    char::from(byte)
                ));
            }
            _ => Member::Byte(byte),
        })
    }

    /// `\1` … `\9`, `\10` …: a reference to a group, or, when there are not so many groups, an
    /// octal code.
    fn numbered(&mut self, first: u8) {
        let rest = &self.source[self.at..];
        let digits = rest
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .take(2)
            .count();
        let text = &self.source[self.at - 1..self.at + digits];
        let number = text
            .iter()
            .fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
        if digits == 0 || number <= self.groups {
            self.at += digits;
            self.back_reference(&number.to_string());
        } else if first < b'8' {
            let byte = self.octal(first);
            self.literal(byte);
        } else {
            self.literal(first);
        }
    }

    /// `\k<name>`, `\k'name'`, `\k{name}`, `\g1`, `\g{-1}`, `\g{name}`.
    fn reference(&mut self, letter: u8) -> Result<(), String> {
        let name = match self.peek() {
            Some(b'{') => self.braced(),
            Some(b'<') if letter == b'k' => self.delimited(b'>'),
            Some(b'\'') if letter == b'k' => self.delimited(b'\''),
            Some(b'0'..=b'9') if letter == b'g' => {
                let rest = &self.source[self.at..];
                let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
                self.at += digits;
                Some(rest[..digits].to_vec())
            }
            _ => None,
        };
        let name = name
            .and_then(|name| String::from_utf8(name).ok())
            .unwrap_or_default();
        if name.is_empty() {
            return Err(format!(
                "\\{} is not followed by a group",
                char::from(letter)
            ));
        }
        match name.strip_prefix('-').map(str::parse::<usize>) {
            None => self.back_reference(&name),
            Some(Ok(back)) if (1..=self.groups).contains(&back) => {
                self.back_reference(&(self.groups + 1 - back).to_string());
            }
            Some(_) => return Err("reference to a group which does not exist".into()),
        }
        Ok(())
    }

    fn back_reference(&mut self, name: &str) {
        self.out.backtracking = true;
        let _ = match name.parse::<usize>() {
            // The group around it keeps a digit that follows from joining the number.
            Ok(number) => write!(self.out.pattern, r"(?:\{number})"),
            Err(_) => write!(self.out.pattern, r"\k<{name}>"),
        };
    }

    /// What follows an opening parenthesis.
    fn group(&mut self) -> Result<(), String> {
        if self.peek() != Some(b'?') {
            if self.peek() == Some(b'*') {
                return Err("verbs such as (*SKIP) are not supported".into());
            }
            self.groups += 1;
            self.out.pattern.push('(');
            return Ok(());
        }
        self.at += 1;
        let rest = &self.source[self.at..];
        if rest.starts_with(b"#") {
            self.at += rest
                .iter()
                .position(|b| *b == b')')
                .ok_or("missing ) after (?#")?
                + 1;
            return Ok(());
        }
        if rest.starts_with(b"|") {
            return Err("(?| is not supported".into());
        }
        if rest.starts_with(b"P=") {
            self.at += 1;
            let name = self
                .delimited(b')')
                .and_then(|name| String::from_utf8(name).ok());
            self.back_reference(&name.ok_or("missing ) after (?P=")?);
            return Ok(());
        }
        let looks = [&b"="[..], b"!", b"<=", b"<!", b">", b"("];
        if let Some(look) = looks.iter().find(|look| rest.starts_with(look)) {
            // A condition's own parenthesis is left for the next item.
            let taken = if **look == *b"(" { 0 } else { look.len() };
            self.out.backtracking = true;
            self.out.pattern.push_str("(?");
            self.out
                .pattern
                .extend(rest[..taken].iter().map(|b| char::from(*b)));
            self.at += taken;
            return Ok(());
        }
        if let Some((open, close)) = named(rest) {
            self.at += open - 1;
            let name = self
                .delimited(close)
                .and_then(|name| String::from_utf8(name).ok());
            let name = name.ok_or("missing terminator in the name of a group")?;
            self.groups += 1;
            let _ = write!(self.out.pattern, "(?P<{name}>");
            return Ok(());
        }
        self.flags()
    }

    /// `(?i)`, `(?i-s:`, `(?:`; anything else is refused.
    fn flags(&mut self) -> Result<(), String> {
        let rest = &self.source[self.at..];
        let length = rest
            .iter()
            .take_while(|b| b.is_ascii_alphabetic() || **b == b'-')
            .count();
        let flags = &rest[..length];
        let known = matches!(rest.get(length), Some(b':' | b')'));
        if flags == b"R" || matches!(rest.first(), Some(b'0'..=b'9' | b'&' | b'+')) {
            return Err("recursion such as (?R) and (?1) is not supported".into());
        }
        if !known {
            return Err("unrecognized character after (?".into());
        }
        let on = flags.split(|b| *b == b'-').next().unwrap_or_default();
        self.multi_line |= on.contains(&b'm');
        self.out.pattern.push_str("(?");
        self.out
            .pattern
            .extend(flags.iter().filter(|b| **b != b'J').map(|b| char::from(*b)));
        self.at += length;
        Ok(())
    }

    /// A class, up to and with its closing bracket.
    fn class(&mut self) -> Result<(), String> {
        let negated = self.peek() == Some(b'^');
        self.at += usize::from(negated);
        let mut members = Vec::new();
        // A bracket which comes first is a member.
        if self.peek() == Some(b']') {
            self.at += 1;
            members.push(Member::Byte(b']'));
        }
        while self.peek() != Some(b']') {
            self.member(&mut members)?;
        }
        self.at += 1;
        self.out.pattern.push_str(if negated { "[^" } else { "[" });
        let mut rest = &members[..];
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            let Some(start) = first.code() else {
                self.write_member(first);
                continue;
            };
            self.code_point(start);
            if let [Member::Hyphen, last, after @ ..] = rest
                && let Some(last) = last.code()
            {
                self.out.pattern.push('-');
                self.code_point(last);
                rest = after;
            }
        }
        self.out.pattern.push(']');
        Ok(())
    }

    /// Reads the next member of a class into `members` (`\Q…\E` may be several).
    fn member(&mut self, members: &mut Vec<Member>) -> Result<(), String> {
        let Some(byte) = self.next() else {
            return Err("missing terminating ] for a class".into());
        };
        let rest = &self.source[self.at..];
        match byte {
            b'-' => members.push(Member::Hyphen),
            b'[' if rest.starts_with(b":") => match posix(rest) {
                Some(length) => {
                    let name = String::from_utf8_lossy(&rest[..length]);
                    members.push(Member::Set(format!("[{name}")));
                    self.at += length;
                }
                None => members.push(Member::Byte(b'[')),
            },
            b'\\' => {
                let Some(byte) = self.next() else {
                    return Err("\\ at the end of the expression".into());
                };
                match byte {
                    b'd' | b'D' | b'w' | b'W' | b's' | b'S' => {
                        members.push(Member::Set(format!("\\{}", char::from(byte))));
                    }
                    b'p' | b'P' => {
                        let name = self
                            .braced()
                            .unwrap_or_else(|| self.next().into_iter().collect());
                        let name = String::from_utf8_lossy(&name).into_owned();
                        members.push(Member::Set(format!("\\{}{{{name}}}", char::from(byte))));
                    }
                    b'b' => members.push(Member::Byte(0x08)),
                    b'Q' => members.extend(self.quoted().iter().map(|byte| Member::Byte(*byte))),
                    b'E' => {}
                    _ => {
                        let member = self.shared_escape(byte)?;
                        members.push(member);
                    }
                }
            }
            0x80.. if self.out.unicode => members.push(Member::Char(self.char_at(self.at - 1))),
            _ => members.push(Member::Byte(byte)),
        }
        if let Some(Member::Char(c)) = members.last()
            && byte >= 0x80
        {
            self.at += c.len_utf8() - 1;
        }
        Ok(())
    }

    fn write_member(&mut self, member: &Member) {
        if let Member::Set(set) = member {
            self.out.pattern.push_str(set);
        }
    }

    /// A character outside a class that has no meaning in PCRE but may have one in the crates.
    fn literal(&mut self, byte: u8) {
        self.code_point(char::from(byte));
    }

    /// A character outside a class which means the same everywhere.
    fn plain(&mut self, byte: u8) {
        if byte.is_ascii_graphic() || byte.is_ascii_whitespace() {
            // White space stays as it is: in `(?x)` mode it means nothing.
            self.out.pattern.push(char::from(byte));
        } else if byte.is_ascii() || !self.out.unicode {
            self.literal(byte);
        } else {
            let c = self.char_at(self.at - 1);
            self.at += c.len_utf8() - 1;
            self.code_point(c);
        }
    }

    /// Writes one character so that it stands for itself, within a class and outside.
    fn code_point(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || (!c.is_ascii() && self.out.unicode) {
            self.out.pattern.push(c);
        } else {
            debug_assert!(u32::from(c) <= 0xff);
            let _ = write!(self.out.pattern, "\\x{:02X}", u32::from(c));
        }
    }

    /// The character whose UTF-8 starts at `at`; only called when the source is valid UTF-8.
    fn char_at(&self, at: usize) -> char {
        let text = std::str::from_utf8(&self.source[at..]).unwrap_or_default();
        text.chars().next().unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// `\xH`, `\xHH`, `\x{H…}`; `\x` alone is NUL.
    fn hexadecimal(&mut self) -> Result<Member, String> {
        if let Some(digits) = self.braced() {
            return code(&digits, 16);
        }
        let rest = &self.source[self.at..];
        let digits = rest
            .iter()
            .take_while(|b| b.is_ascii_hexdigit())
            .take(2)
            .count();
        self.at += digits;
        if digits == 0 {
            Ok(Member::Byte(0))
        } else {
            code(&rest[..digits], 16)
        }
    }

    /// The octal code which begins with `first`: up to three digits.
    fn octal(&mut self, first: u8) -> u8 {
        let rest = &self.source[self.at..];
        let digits = rest
            .iter()
            .take_while(|b| matches!(b, b'0'..=b'7'))
            .take(2)
            .count();
        self.at += digits;
        let value = rest[..digits]
            .iter()
            .fold(u32::from(first - b'0'), |value, digit| {
                value * 8 + u32::from(digit - b'0')
            });
        // Codes above \377 need the UTF mode; PCRE refuses them without.
        u8::try_from(value).unwrap_or(u8::MAX)
    }

    /// What stands between `\Q` and `\E` or the end.
    fn quoted(&mut self) -> Vec<u8> {
        let rest = &self.source[self.at..];
        let end = rest.windows(2).position(|pair| pair == br"\E");
        self.at += end.map_or(rest.len(), |end| end + 2);
        rest[..end.unwrap_or(rest.len())].to_vec()
    }

    /// The text of `{…}` at this place.
    fn braced(&mut self) -> Option<Vec<u8>> {
        if self.peek() == Some(b'{') {
            self.delimited(b'}')
        } else {
            None
        }
    }

    /// Skips one opening byte and takes what stands before `close`.
    fn delimited(&mut self, close: u8) -> Option<Vec<u8>> {
        let rest = self.source.get(self.at + 1..)?;
        let length = rest.iter().position(|byte| *byte == close)?;
        self.at += 1 + length + 1;
        Some(rest[..length].to_vec())
    }

    /// The length of `n}`, `n,}` or `n,m}` at this place; other braces are letters.
    fn counted(&self) -> Option<usize> {
        let rest = &self.source[self.at..];
        let length = rest.iter().position(|byte| *byte == b'}')?;
        let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
        let mut parts = rest[..length].splitn(2, |byte| *byte == b',');
        let first = parts.next()?;
        let second = parts.next().unwrap_or_default();
        (!first.is_empty() && digits(first) && digits(second)).then_some(length + 1)
    }

    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
}

impl Member {
    /// The character, if the member is a single one.
    fn code(&self) -> Option<char> {
        match self {
            Self::Byte(byte) => Some(char::from(*byte)),
            Self::Char(c) => Some(*c),
            Self::Hyphen => Some('-'),
            Self::Set(_) => None,
        }
    }
}

/// After `(?`: how long the opening of a named group is, and what ends the name.
fn named(rest: &[u8]) -> Option<(usize, u8)> {
    [(&b"<"[..], b'>'), (b"P<", b'>'), (b"'", b'\'')]
        .into_iter()
        .find(|(open, _)| rest.starts_with(open))
        .map(|(open, close)| (open.len(), close))
}

/// The length of `:name:]` or `:^name:]`.
fn posix(rest: &[u8]) -> Option<usize> {
    let length = rest.windows(2).skip(1).position(|pair| pair == b":]")? + 1;
    let name = &rest[1..length];
    let name = name.strip_prefix(b"^").unwrap_or(name);
    name.iter()
        .all(u8::is_ascii_lowercase)
        .then_some(length + 2)
}

fn code(digits: &[u8], radix: u32) -> Result<Member, String> {
    let digits = std::str::from_utf8(digits).unwrap_or_default().trim();
    let value = u32::from_str_radix(digits, radix)
        .ok()
        .and_then(char::from_u32);
    match value {
        Some(c) if u32::from(c) <= 0xff => Ok(Member::Byte(c as u8)),
        Some(c) => Ok(Member::Char(c)),
        None => Err("character code is not valid".into()),
    }
}
