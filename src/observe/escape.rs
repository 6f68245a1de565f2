//! Escaping of values in access logs: the `escape=` parameter of `log_format`.

/// How the values of variables are made safe in a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Escape {
    /// `"`, `\` and everything outside printable ASCII become `\xXX`; an absent value is `-`.
    #[default]
    Default,
    /// The inside of a JSON string (RFC 8259); bytes from 0x80 up pass.
    Json,
    /// The value as it is.
    None,
}

impl Escape {
    /// The word after `escape=`.
    pub fn parse(word: &[u8]) -> Option<Escape> {
        match word {
            b"default" => Some(Escape::Default),
            b"json" => Some(Escape::Json),
            b"none" => Some(Escape::None),
            _ => None,
        }
    }

    /// What stands in the line for a variable that was not found.
    pub fn absent(self) -> &'static [u8] {
        match self {
            Escape::Default => b"-",
            Escape::Json | Escape::None => b"",
        }
    }

    /// Appends `value` to `out`, escaped.
    pub fn append(self, value: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(value);
        self.apply(out, start);
    }

    /// Escapes in place what was appended to `out` from `start` on: a variable can be evaluated
    /// straight into the line, and the common case, nothing to escape, costs one scan.
    pub fn apply(self, out: &mut Vec<u8>, start: usize) {
        debug_assert!(start <= out.len());
        let encode = match self {
            Escape::Default => encode_default,
            Escape::Json => encode_json,
            Escape::None => return,
        };
        let grown_by: usize = out[start..]
            .iter()
            .filter_map(|&byte| encode(byte))
            .map(|e| e.len - 1)
            .sum();
        if grown_by == 0 {
            return;
        }
        // From the back, so that no byte is overwritten before it was moved.
        let mut from = out.len();
        let mut to = from + grown_by;
        out.resize(to, 0);
        while to > from {
            from -= 1;
            match encode(out[from]) {
                None => {
                    to -= 1;
                    out[to] = out[from];
                }
                Some(encoded) => {
                    to -= encoded.len;
                    out[to..to + encoded.len].copy_from_slice(&encoded.bytes[..encoded.len]);
                }
            }
        }
        debug_assert!(from >= start);
    }
}

/// What one byte becomes; always longer than the byte itself.
struct Encoded {
    bytes: [u8; 6],
    len: usize,
}

fn encode_default(byte: u8) -> Option<Encoded> {
    let plain = (0x20..=0x7e).contains(&byte) && byte != b'"' && byte != b'\\';
    (!plain).then(|| Encoded {
        bytes: [b'\\', b'x', hex(byte >> 4), hex(byte), 0, 0],
        len: 4,
    })
}

fn encode_json(byte: u8) -> Option<Encoded> {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        0x20.. => return None,
        _ => {
            let bytes = [b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte)];
            return Some(Encoded { bytes, len: 6 });
        }
    };
    Some(Encoded {
        bytes: [b'\\', short, 0, 0, 0, 0],
        len: 2,
    })
}

/// The upper-case digit of the low four bits.
fn hex(nibble: u8) -> u8 {
    b"0123456789ABCDEF"[usize::from(nibble & 15)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(how: Escape, value: &[u8]) -> String {
        let mut out = b"<".to_vec();
        how.append(value, &mut out);
        let mut in_place = b"<".to_vec();
        in_place.extend_from_slice(value);
        how.apply(&mut in_place, 1);
        assert_eq!(out, in_place, "both ways agree");
        String::from_utf8_lossy(&out[1..]).into_owned()
    }

    #[test]
    fn default_hides_everything_a_log_parser_could_trip_over() {
        assert_eq!(escaped(Escape::Default, b"/a b?c=%20"), "/a b?c=%20");
        assert_eq!(
            escaped(Escape::Default, b"a\"b\\c\n\x7f\xff"),
            r"a\x22b\x5Cc\x0A\x7F\xFF"
        );
    }

    #[test]
    fn json_is_the_inside_of_a_json_string() {
        assert_eq!(
            escaped(Escape::Json, b"a\"b\\c\n\r\t\x08\x0c\x01\x7f"),
            "a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\x7f"
        );
        assert_eq!(escaped(Escape::Json, "é".as_bytes()), "é");
    }

    #[test]
    fn none_changes_nothing() {
        assert_eq!(escaped(Escape::None, b"a\"\n"), "a\"\n");
        assert_eq!(Escape::parse(b"json"), Some(Escape::Json));
        assert_eq!(Escape::parse(b"xml"), None);
        assert_eq!(Escape::Default.absent(), b"-");
    }
}
