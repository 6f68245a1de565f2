//! The few things of DER (ITU-T X.690) that certificates, keys and revocation lists are made of.

/// A value with the octet that says what it is.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// Class, form and number, as one octet.
    pub tag: u8,
    /// What is in it.
    pub content: &'a [u8],
    /// Tag, length and content.
    pub whole: &'a [u8],
}

/// What is left to read of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const UTC_TIME: u8 = 0x17;
pub const GENERALIZED_TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

/// The tag of a constructed value `[number]`.
pub const fn context(number: u8) -> u8 {
    0xa0 | number
}

impl<'a> Reader<'a> {
    /// Reads from these bytes.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value, whatever it is. `None` at the end and for what is no DER.
    pub fn next(&mut self) -> Option<Value<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags of several octets occur in none of the structures.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let octets = usize::from(first & 0x7f);
            if octets == 0 || octets > 4 || rest.len() < octets {
                return None;
            }
            length = rest[..octets]
                .iter()
                .fold(0, |sum, octet| sum << 8 | usize::from(*octet));
            rest = &rest[octets..];
        }
        let content = rest.get(..length)?;
        let size = self.0.len() - rest.len() + length;
        let (whole, after) = self.0.split_at(size);
        self.0 = after;
        Some(Value {
            tag,
            content,
            whole,
        })
    }

    /// The next value, which must have this tag.
    pub fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        self.next().filter(|value| value.tag == tag)
    }

    /// The next value if it has this tag; otherwise it stays.
    pub fn optional(&mut self, tag: u8) -> Option<Value<'a>> {
        if self.0.first() != Some(&tag) {
            return None;
        }
        self.next()
    }

    /// The content of the next value, a sequence.
    pub fn sequence(&mut self) -> Option<Reader<'a>> {
        self.expect(SEQUENCE).map(|value| value.reader())
    }
}

impl<'a> Value<'a> {
    /// Reads what is in it.
    pub fn reader(&self) -> Reader<'a> {
        Reader(self.content)
    }

    /// The octets of a bit string that has whole octets.
    pub fn bits(&self) -> Option<&'a [u8]> {
        match self.content.split_first() {
            Some((0, octets)) => Some(octets),
            _ => None,
        }
    }

    /// A small number.
    pub fn number(&self) -> Option<u32> {
        let fits = (1..=4).contains(&self.content.len()) && self.content[0] & 0x80 == 0;
        fits.then(|| {
            let octets = self.content.iter();
            octets.fold(0, |sum, octet| sum << 8 | u32::from(*octet))
        })
    }

    /// A moment in seconds since 1970: `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
    pub fn time(&self) -> Option<i64> {
        let text = self.content.strip_suffix(b"Z")?;
        if !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let two = |at: usize| i64::from(text[at] - b'0') * 10 + i64::from(text[at + 1] - b'0');
        let (year, rest) = match (self.tag, text.len()) {
            // RFC 5280, 4.1.2.5.1.
            (UTC_TIME, 12) if two(0) >= 50 => (1900 + two(0), 2),
            (UTC_TIME, 12) => (2000 + two(0), 2),
            (GENERALIZED_TIME, 14) => (two(0) * 100 + two(2), 4),
            _ => return None,
        };
        let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| two(rest + at));
        let is_valid = (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second < 61;
        is_valid.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
    }
}

/// A value with this tag: its content is these parts in a row.
pub fn encode(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let octets = length.to_be_bytes();
            let octets = &octets[(length.leading_zeros() / 8) as usize..];
            out.push(0x80 | octets.len() as u8);
            out.extend_from_slice(octets);
        }
    }
    content.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// Days from 1970-01-01 to this day of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have the leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (month * 306 + 5) / 10 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(tag: u8, text: &str) -> Option<i64> {
        let content = text.as_bytes();
        let value = Value {
            tag,
            content,
            whole: content,
        };
        value.time()
    }

    #[test]
    fn moments_are_counted_from_1970() {
        assert_eq!(time(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, "261121163225Z"), Some(1_795_278_745));
        assert_eq!(time(GENERALIZED_TIME, "20000229235959Z"), Some(951_868_799));
        assert_eq!(
            time(GENERALIZED_TIME, "99991231235959Z"),
            Some(253_402_300_799)
        );
        for wrong in ["", "Z", "261321163225Z", "2611211632Z", "26112116322xZ"] {
            assert_eq!(time(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let whole = encode(
                OCTET_STRING,
                &[&content[..length / 2], &content[length / 2..]],
            );
            let mut reader = Reader::new(&whole);
            assert_eq!(reader.expect(OCTET_STRING).unwrap().content, content);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn lengths_are_checked() {
        let mut nested = Reader::new(&[0x30, 3, 2, 1, 5, 0xff]);
        let mut inner = nested.sequence().unwrap();
        assert_eq!(inner.expect(INTEGER).unwrap().number(), Some(5));
        assert!(inner.is_empty() && !nested.is_empty());
        for wrong in [
            &[0x30][..],
            &[0x30, 1],
            &[0x30, 0x80, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x1f, 1, 0],
        ] {
            assert!(Reader::new(wrong).next().is_none(), "{wrong:?}");
        }
    }
}
