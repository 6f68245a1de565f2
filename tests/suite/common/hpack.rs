//! HPACK (RFC 7541) for tests: an encoder that writes whatever it is told, also what is wrong, and
//! a strict decoder.

/// The lengths of the codes of Appendix B in bits; the codes follow from them, since symbols of one
/// length are numbered in order and shorter codes come first. The last one is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The static table (Appendix A), from index 1: name, and value after a blank where there is one.
const STATIC: [&str; 61] = [
    ":authority",
    ":method GET",
    ":method POST",
    ":path /",
    ":path /index.html",
    ":scheme http",
    ":scheme https",
    ":status 200",
    ":status 204",
    ":status 206",
    ":status 304",
    ":status 400",
    ":status 404",
    ":status 500",
    "accept-charset",
    "accept-encoding gzip, deflate",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// An integer with a prefix of `bits`, in a first byte whose other bits are `first` (5.1).
pub fn int(first: u8, bits: u8, value: usize) -> Vec<u8> {
    let limit = (1usize << bits) - 1;
    if value < limit {
        return vec![first | value as u8];
    }
    let (mut out, mut rest) = (vec![first | limit as u8], value - limit);
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

/// A string as it is.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&int(0, 7, bytes.len()), bytes].concat()
}

/// A string in Huffman's code.
pub fn squeezed(bytes: &[u8]) -> Vec<u8> {
    let coded = huffman(bytes);
    [int(0x80, 7, coded.len()), coded].concat()
}

/// A literal without indexing and with a new name (6.2.2).
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

/// A literal with incremental indexing and a new name (6.2.1).
pub fn indexed_literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0x40], text(name), text(value)].concat()
}

/// An indexed field (6.1).
pub fn index(index: usize) -> Vec<u8> {
    int(0x80, 7, index)
}

/// A change of the dynamic table's size (6.3).
pub fn table_size(size: usize) -> Vec<u8> {
    int(0x20, 5, size)
}

/// Fields as literals without indexing.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let one = |(name, value): &(N, V)| literal(name.as_ref(), value.as_ref());
    fields.iter().flat_map(one).collect()
}

/// Huffman's code of `bytes`, filled up with ones.
pub fn huffman(bytes: &[u8]) -> Vec<u8> {
    let codes = codes();
    let (mut out, mut bits, mut held) = (Vec::new(), 0u64, 0);
    for &byte in bytes {
        let (code, length) = codes[usize::from(byte)];
        bits = bits << length | u64::from(code);
        held += length;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
    out
}

/// Code and length of each symbol.
fn codes() -> Vec<(u32, u8)> {
    let mut order: Vec<usize> = (0..257).collect();
    order.sort_by_key(|&symbol| LENGTHS[symbol]);
    let (mut codes, mut code, mut length) = (vec![(0, 0); 257], 0u32, 0);
    for symbol in order {
        code <<= LENGTHS[symbol] - length;
        length = LENGTHS[symbol];
        codes[symbol] = (code, length);
        code += 1;
    }
    codes
}

/// A decoder with its dynamic table.
pub struct Decoder {
    codes: Vec<(u32, u8)>,
    /// Newest first.
    table: Vec<(String, String)>,
    /// What the table may hold now.
    size: usize,
    /// What we told the encoder that it may use.
    pub limit: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder {
            codes: codes(),
            table: Vec::new(),
            size: 4096,
            limit: 4096,
        }
    }
}

type Result<T> = std::result::Result<T, String>;

impl Decoder {
    /// The fields of a whole header block.
    pub fn decode(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>> {
        let mut fields: Vec<(String, String)> = Vec::new();
        while let Some(&first) = block.first() {
            match first {
                0x80.. => {
                    let index = read_int(&mut block, 7)?;
                    fields.push(self.entry(index)?);
                }
                0x40.. => {
                    let field = self.literal(&mut block, 6)?;
                    self.table.insert(0, field.clone());
                    self.shrink();
                    fields.push(field);
                }
                0x20.. => {
                    if !fields.is_empty() {
                        return Err("a table size update after a field".into());
                    }
                    self.size = read_int(&mut block, 5)?;
                    self.shrink();
                }
                _ => fields.push(self.literal(&mut block, 4)?),
            }
        }
        match self.size <= self.limit {
            true => Ok(fields),
            false => Err("the table is larger than we allow".into()),
        }
    }

    fn entry(&self, index: usize) -> Result<(String, String)> {
        if let Some(text) = index.checked_sub(1).and_then(|at| STATIC.get(at)) {
            let (name, value) = text.split_once(' ').unwrap_or((text, ""));
            return Ok((name.into(), value.into()));
        }
        let field = index.checked_sub(62).and_then(|at| self.table.get(at));
        field.cloned().ok_or(format!("no entry {index}"))
    }

    fn literal(&mut self, block: &mut &[u8], bits: u8) -> Result<(String, String)> {
        let name = match read_int(block, bits)? {
            0 => self.string(block)?,
            index => self.entry(index)?.0,
        };
        Ok((name, self.string(block)?))
    }

    fn string(&self, block: &mut &[u8]) -> Result<String> {
        let squeezed = block.first().is_some_and(|first| first & 0x80 != 0);
        let length = read_int(block, 7)?;
        if length > block.len() {
            return Err("a string longer than its block".into());
        }
        let (string, rest) = block.split_at(length);
        *block = rest;
        let bytes = match squeezed {
            true => self.expand(string)?,
            false => string.to_vec(),
        };
        String::from_utf8(bytes).map_err(|e| e.to_string())
    }

    fn expand(&self, coded: &[u8]) -> Result<Vec<u8>> {
        let (mut out, mut code, mut length) = (Vec::new(), 0u32, 0u8);
        for bit in coded
            .iter()
            .flat_map(|b| (0..8).rev().map(move |n| b >> n & 1))
        {
            code = code << 1 | u32::from(bit);
            length += 1;
            let found = self.codes.iter().position(|&known| known == (code, length));
            if let Some(symbol) = found {
                out.push(u8::try_from(symbol).map_err(|_| "EOS in a string")?);
                (code, length) = (0, 0);
            }
            if length > 30 {
                return Err("no such code".into());
            }
        }
        match length < 8 && code == (1 << length) - 1 {
            true => Ok(out),
            false => Err("bad padding".into()),
        }
    }

    fn shrink(&mut self) {
        let size = |table: &[(String, String)]| -> usize {
            table.iter().map(|(n, v)| n.len() + v.len() + 32).sum()
        };
        while size(&self.table) > self.size {
            self.table.pop();
        }
    }
}

fn read_int(block: &mut &[u8], bits: u8) -> Result<usize> {
    let mut next = || {
        let (&first, rest) = block.split_first().ok_or("a cut integer")?;
        *block = rest;
        Ok::<usize, String>(usize::from(first))
    };
    let limit = (1 << bits) - 1;
    let mut value = next()? & limit;
    if value < limit {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("an integer too large".into())
}
