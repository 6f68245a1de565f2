//! Header blocks (RFC 7541): can they be decoded? `h2` does it, but has one error code for what
//! cannot be decoded and for fields that are not allowed.
//!
//! Of the dynamic table only lengths are kept, 4 bytes for each of at most 128 entries.

use std::collections::VecDeque;

use h2::Reason;

use super::huffman::{COLON, Code};
use super::{Violation, violation};

/// SETTINGS_HEADER_TABLE_SIZE, which is left as it is.
const TABLE_SIZE: u32 = 4096;

/// What an entry counts beyond its strings (RFC 7541, 4.1).
const ENTRY: u32 = 32;

/// Lengths of the names in the static table (Appendix A). The first 14 are pseudo-header fields.
#[rustfmt::skip]
const STATIC: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25,
    17, 10, 4, 3, 16,
];

const STATIC_PSEUDO: u32 = 14;

/// As `h2`: further octets of an integer.
const INTEGER_MAX: u8 = 4;

/// What of a name matters.
#[derive(Clone, Copy, Debug, Default)]
struct Name {
    length: u32,
    is_pseudo: bool,
}

/// An entry of the dynamic table: the size of the whole, and the name.
#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u16,
    /// The highest bit: a pseudo-header field.
    name: u16,
}

/// The blocks of a connection, one after the other.
#[derive(Debug)]
pub struct Block {
    step: Step,
    /// An integer so far, and how many octets of it follow its first.
    value: u32,
    further: u8,
    /// Octets left of a string.
    left: u32,
    code: Option<Code>,
    name: Name,
    /// The field goes into the table.
    is_indexed: bool,
    may_resize: bool,
    has_pseudo: bool,
    /// Newest first.
    table: VecDeque<Entry>,
    size: u32,
    limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// A field begins.
    Field,
    /// Within the integer of this.
    Integer(Integer),
    /// The first octet of a name or a value.
    Length(Text),
    /// Within a name or a value.
    String(Text),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Integer {
    Index,
    NameIndex,
    TableSize,
    Length(Text),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Text {
    Name,
    Value,
}

impl Default for Block {
    fn default() -> Block {
        Block {
            step: Step::Field,
            value: 0,
            further: 0,
            left: 0,
            code: None,
            name: Name::default(),
            is_indexed: false,
            may_resize: true,
            has_pseudo: false,
            table: VecDeque::new(),
            size: 0,
            limit: TABLE_SIZE,
        }
    }
}

fn undecodable<T>(why: &'static str) -> Result<T, Violation> {
    violation(Reason::COMPRESSION_ERROR, why)
}

impl Block {
    /// A block begins.
    pub fn begin(&mut self) {
        self.step = Step::Field;
        self.may_resize = true;
        self.has_pseudo = false;
    }

    /// The block is over; says whether it had a pseudo-header field.
    pub fn finish(&mut self) -> Result<bool, Violation> {
        if self.step != Step::Field {
            return undecodable("a header block that ends within a field");
        }
        Ok(self.has_pseudo)
    }

    /// Takes the next piece of a block.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.step {
                Step::Field => self.field(first)?,
                Step::Integer(what) => self.further(what, first)?,
                Step::Length(text) => {
                    self.code = (first & 0x80 != 0).then(Code::default);
                    self.integer(Integer::Length(text), first, 7)?;
                }
                Step::String(text) => {
                    bytes = self.string(text, bytes)?;
                    continue;
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    /// RFC 7541, 6: the first octet of a field.
    fn field(&mut self, first: u8) -> Result<(), Violation> {
        if first & 0xe0 == 0x20 {
            if !self.may_resize {
                return undecodable("a table size update after a field");
            }
            return self.integer(Integer::TableSize, first, 5);
        }
        self.may_resize = false;
        if first & 0x80 != 0 {
            return self.integer(Integer::Index, first, 7);
        }
        self.is_indexed = first & 0x40 != 0;
        self.integer(
            Integer::NameIndex,
            first,
            if self.is_indexed { 6 } else { 4 },
        )
    }

    /// RFC 7541, 5.1.
    fn integer(&mut self, what: Integer, first: u8, bits: u8) -> Result<(), Violation> {
        let most = (1u32 << bits) - 1;
        self.value = u32::from(first) & most;
        if self.value < most {
            return self.read(what);
        }
        self.further = 0;
        self.step = Step::Integer(what);
        Ok(())
    }

    fn further(&mut self, what: Integer, octet: u8) -> Result<(), Violation> {
        self.value += u32::from(octet & 0x7f) << (7 * self.further);
        self.further += 1;
        if octet & 0x80 == 0 {
            return self.read(what);
        }
        if self.further == INTEGER_MAX {
            return undecodable("a header block with an integer that is too large");
        }
        Ok(())
    }

    /// An integer is complete.
    fn read(&mut self, what: Integer) -> Result<(), Violation> {
        self.step = match what {
            Integer::Index => {
                self.name(self.value)?;
                Step::Field
            }
            Integer::NameIndex if self.value == 0 => Step::Length(Text::Name),
            Integer::NameIndex => {
                self.name = self.name(self.value)?;
                Step::Length(Text::Value)
            }
            Integer::TableSize => {
                if self.value > TABLE_SIZE {
                    return undecodable("a table size update beyond the setting");
                }
                self.limit = self.value;
                self.shrink(0);
                Step::Field
            }
            Integer::Length(text) => {
                if text == Text::Name {
                    self.name = Name::default();
                }
                self.left = self.value;
                if self.value == 0 {
                    return self.string_end(text, 0);
                }
                Step::String(text)
            }
        };
        Ok(())
    }

    /// The name at an index (RFC 7541, 2.3.3).
    fn name(&mut self, index: u32) -> Result<Name, Violation> {
        let found = match index {
            0 => None,
            1..=61 => Some(Name {
                length: u32::from(STATIC[index as usize - 1]),
                is_pseudo: index <= STATIC_PSEUDO,
            }),
            _ => self.table.get(index as usize - 62).map(|entry| Name {
                length: u32::from(entry.name & 0x7fff),
                is_pseudo: entry.name & 0x8000 != 0,
            }),
        };
        let Some(name) = found else {
            return undecodable("a header block with an index that does not exist");
        };
        self.has_pseudo |= name.is_pseudo;
        Ok(name)
    }

    fn string<'a>(&mut self, text: Text, bytes: &'a [u8]) -> Result<&'a [u8], Violation> {
        let (piece, rest) = bytes.split_at(bytes.len().min(self.left as usize));
        if text == Text::Name && self.left == self.value {
            let colon = match self.code {
                None => piece[0] == b':',
                Some(_) => piece[0] & 0xfe == COLON,
            };
            self.name.is_pseudo = colon;
            self.has_pseudo |= colon;
        }
        if let Some(code) = &mut self.code {
            piece.iter().for_each(|&octet| code.push(octet));
        }
        self.left -= piece.len() as u32;
        if self.left == 0 {
            let length = match self.code {
                Some(code) if code.may_end() => code.length,
                Some(_) => return undecodable("a header block with a bad Huffman code"),
                None => self.value,
            };
            self.string_end(text, length)?;
        }
        Ok(rest)
    }

    fn string_end(&mut self, text: Text, length: u32) -> Result<(), Violation> {
        if text == Text::Name {
            self.name.length = length;
            self.step = Step::Length(Text::Value);
            return Ok(());
        }
        self.step = Step::Field;
        if self.is_indexed {
            self.insert(
                self.name
                    .length
                    .saturating_add(length)
                    .saturating_add(ENTRY),
            );
        }
        Ok(())
    }

    /// RFC 7541, 4.4.
    fn insert(&mut self, size: u32) {
        self.shrink(size);
        if size > self.limit {
            return;
        }
        self.size += size;
        self.table.push_front(Entry {
            size: size as u16,
            name: self.name.length as u16 | u16::from(self.name.is_pseudo) << 15,
        });
    }

    /// Make room for `size`.
    fn shrink(&mut self, size: u32) {
        while self.size.saturating_add(size) > self.limit {
            let Some(entry) = self.table.pop_back() else {
                return;
            };
            self.size -= u32::from(entry.size);
        }
    }
}
