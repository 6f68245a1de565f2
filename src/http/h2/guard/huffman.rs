//! Huffman's code of HPACK (RFC 7541, 5.2 and Appendix B): is a string one, and how long is it? The
//! string itself is not made.

/// Lengths of the codes in bits, by symbol; the last is EOS. The codes follow from them: symbols of
/// one length are numbered in order, and shorter codes come first.
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

const EOS: usize = 256;

/// The first octet of a coded string that begins with `:`, without its last bit.
pub const COLON: u8 = 0b1011_1000;

/// A string that is being read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Code {
    /// The node of the tree.
    node: u8,
    is_wrong: bool,
    /// Symbols so far.
    pub length: u32,
}

impl Code {
    /// Takes the next octet.
    #[inline]
    pub fn push(&mut self, octet: u8) {
        for half in [octet >> 4, octet & 0xf] {
            let step = STEPS[usize::from(self.node)][usize::from(half)];
            self.node = step as u8;
            self.length += u32::from(step & SYMBOL != 0);
            self.is_wrong |= step & WRONG != 0;
        }
    }

    /// Whether the string may end here: between symbols, or in up to 7 ones of padding.
    pub fn may_end(self) -> bool {
        !self.is_wrong && PADDING[usize::from(self.node)]
    }
}

/// For each node and four bits: the next node, and whether a symbol was complete or EOS came.
static STEPS: [[u16; 16]; 256] = steps();

const SYMBOL: u16 = 0x100;
const WRONG: u16 = 0x200;

/// Nodes that are reached from the root by up to 7 ones.
static PADDING: [bool; 256] = padding();

/// The tree: what follows each node on 0 and 1, a node or [`LEAF`] and a symbol.
const TREE: [[u16; 2]; 256] = tree();

const LEAF: u16 = 0x8000;

const fn tree() -> [[u16; 2]; 256] {
    let mut tree = [[0; 2]; 256];
    let (mut nodes, mut code, mut length) = (1, 0u32, 5);
    while length <= 30 {
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] == length {
                let (mut node, mut bits) = (0, length);
                while bits > 1 {
                    bits -= 1;
                    let bit = (code >> bits & 1) as usize;
                    if tree[node][bit] == 0 {
                        tree[node][bit] = nodes;
                        nodes += 1;
                    }
                    node = tree[node][bit] as usize;
                }
                tree[node][(code & 1) as usize] = LEAF | symbol as u16;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    tree
}

const fn steps() -> [[u16; 16]; 256] {
    let mut steps = [[0; 16]; 256];
    let mut node = 0;
    while node < 256 {
        let mut half = 0;
        while half < 16 {
            let (mut at, mut flags, mut bit) = (node, 0, 4);
            while bit > 0 {
                bit -= 1;
                let next = TREE[at][half >> bit & 1];
                at = next as usize;
                if next & LEAF != 0 {
                    flags |= if next & !LEAF == EOS as u16 {
                        WRONG
                    } else {
                        SYMBOL
                    };
                    at = 0;
                }
            }
            steps[node][half] = at as u16 | flags;
            half += 1;
        }
        node += 1;
    }
    steps
}

const fn padding() -> [bool; 256] {
    let mut padding = [false; 256];
    let (mut node, mut ones) = (0, 0);
    while ones < 8 {
        padding[node] = true;
        node = TREE[node][1] as usize;
        ones += 1;
    }
    padding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8]) -> Option<u32> {
        let mut code = Code::default();
        octets.iter().for_each(|&octet| code.push(octet));
        code.may_end().then_some(code.length)
    }

    #[test]
    fn strings_of_the_rfc() {
        // RFC 7541, C.4 and C.6.
        let coded = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(read(&coded), Some("www.example.com".len() as u32));
        assert_eq!(
            read(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            Some("no-cache".len() as u32)
        );
        assert_eq!(read(&[0x64, 0x02]), Some("302".len() as u32));
        assert_eq!(read(&[]), Some(0));
        // ":a".
        assert_eq!(read(&[COLON, 0b0011_1111]), Some(2));
    }

    #[test]
    fn what_is_no_string() {
        for wrong in [
            &[0xff][..],
            &[0x00],
            &[0x1f, 0xff],
            &[0xff; 4],
            &[0x1f, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_symbol_is_one() {
        let (mut code, mut coded) = (0u64, Vec::new());
        for length in 5..=30u8 {
            for symbol in (0..257).filter(|&symbol| LENGTHS[symbol] == length) {
                // Eight times, so that it ends with an octet.
                let bits = (0..8).flat_map(|_| (0..length).rev().map(|bit| code >> bit & 1));
                let bits: Vec<u64> = bits.collect();
                coded.clear();
                coded.extend(
                    bits.chunks(8)
                        .map(|byte| byte.iter().fold(0, |n, b| n << 1 | *b as u8)),
                );
                let expected = (symbol != EOS).then_some(8);
                assert_eq!(read(&coded), expected, "{symbol}");
                code += 1;
            }
            code <<= 1;
        }
        assert_eq!(code, 1 << 31, "the tree is full");
    }
}
