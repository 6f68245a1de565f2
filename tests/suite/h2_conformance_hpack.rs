//! RFC 9113: 4.3 (header blocks), and RFC 7541.

use crate::common::frames::{Check, H2, code::*, equal, flag::*, kind::*, setting::*};
use crate::common::hpack::{self, *};
use crate::h2_conformance::{Case, Over, run};

#[test]
fn over_tcp() {
    run(Over::Tcp, CASES);
}

#[test]
fn over_tls() {
    run(Over::Tls, CASES);
}

const CASES: &[Case] = &[
    ("7541 6.1 fields of the static table", |c| {
        c.block(1, WHOLE, &[0x82, 0x86, 0x84, 0x41, 1, b'h']);
        c.status(1, 200)
    }),
    ("7541 6.1 an index of 0", |c| bad(c, &[0x80])),
    ("7541 2.3.3 an index above the tables", |c| {
        bad(c, &index(62))
    }),
    ("7541 2.3.3 an index far above the tables", |c| {
        bad(c, &index(1 << 20))
    }),
    ("7541 2.3.3 a name above the tables", |c| {
        bad(c, &[&int(0x40, 6, 62), &text(b"v")[..]].concat())
    }),
    ("7541 2.3.3 a name above the tables, not indexed", |c| {
        bad(c, &[int(0, 4, 62), text(b"v")].concat())
    }),
    ("7541 2.3.3 an entry below the only one", |c| {
        let block = [whole(c), indexed_literal(b"x-a", b"1")].concat();
        c.block(1, WHOLE, &block);
        c.status(1, 200)?;
        bad(c, &index(63))
    }),
    ("7541 2.3.2 entries are found by age", |c| {
        let new = [indexed_literal(b"x-a", b"1"), indexed_literal(b"x-b", b"2")].concat();
        let block = [whole(c), new].concat();
        c.block(1, WHOLE, &block);
        c.status(1, 200)?;
        let block = [whole(c), index(63), index(62)].concat();
        c.block(3, WHOLE, &block);
        seen(c, 3, &["x-a: 1\r\n", "x-b: 2\r\n"])
    }),
    ("7541 6.2.1 a name of the dynamic table", |c| {
        let block = [whole(c), indexed_literal(b"x-a", b"1")].concat();
        c.block(1, WHOLE, &block);
        let block = [whole(c), int(0x40, 6, 62), text(b"2"), index(62)].concat();
        c.block(3, WHOLE, &block);
        seen(c, 3, &["x-a: 2\r\nx-a: 2\r\n"])
    }),
    ("7541 6.2.2 and 6.2.3 literals that are not indexed", |c| {
        let never = [vec![0x10], text(b"x-b"), text(b"2")].concat();
        let block = [whole(c), literal(b"x-a", b"1"), never].concat();
        c.block(1, WHOLE, &block);
        seen(c, 1, &["x-a: 1\r\n", "x-b: 2\r\n"])?;
        bad(c, &index(62))
    }),
    ("7541 6.3 a table size update first", |c| {
        let block = [table_size(100), table_size(4096), whole(c)].concat();
        c.block(1, WHOLE, &block);
        c.status(1, 200)
    }),
    ("7541 6.3 a table size beyond the setting", |c| {
        bad(c, &table_size(4097))
    }),
    ("7541 6.3 a table size far beyond the setting", |c| {
        bad(c, &table_size(1 << 27))
    }),
    ("7541 4.2 a table size update after a field", |c| {
        let block = [whole(c), table_size(100)].concat();
        bad(c, &block)
    }),
    ("7541 4.2 a table size update between fields", |c| {
        let block = [vec![0x82], table_size(4096), whole(c)[1..].to_vec()].concat();
        bad(c, &block)
    }),
    (
        "7541 4.2 a table size update at the head of CONTINUATION",
        |c| {
            let block = whole(c);
            c.block(1, END_STREAM, &block);
            c.frame(CONTINUATION, END_HEADERS, 1, &table_size(100));
            c.connection_error(&[COMPRESSION_ERROR])
        },
    ),
    ("7541 4.3 a table of size 0 forgets", |c| {
        let block = [whole(c), indexed_literal(b"x-a", b"1")].concat();
        c.block(1, WHOLE, &block);
        c.status(1, 200)?;
        bad(c, &[table_size(0), table_size(4096), index(62)].concat())
    }),
    ("7541 4.4 the oldest entries go", |c| {
        // 3 × (32 + 3 + 1500) are more than 4096.
        let one = |name: &[u8]| indexed_literal(name, &[b'v'; 1500]);
        let block = [whole(c), one(b"x-a"), one(b"x-b"), one(b"x-c"), index(63)].concat();
        c.block(1, WHOLE, &block);
        c.status(1, 200)?;
        bad(c, &index(64))
    }),
    ("7541 4.4 an entry larger than the table empties it", |c| {
        let large = indexed_literal(b"x-large", &[b'v'; 4090]);
        let block = [whole(c), indexed_literal(b"x-a", b"1"), large].concat();
        c.block(1, WHOLE, &block);
        c.status(1, 200)?;
        bad(c, &index(62))
    }),
    ("7541 4.1 an entry of exactly the table's size stays", |c| {
        let value = vec![b'v'; 4096 - 32 - 3];
        let block = [whole(c), indexed_literal(b"x-a", &value), index(62)].concat();
        c.block(1, WHOLE, &block);
        c.status(1, 200)
    }),
    ("7541 5.1 an integer that does not end", |c| {
        bad(
            c,
            &[
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        )
    }),
    ("7541 5.1 an integer too large", |c| {
        bad(c, &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1])
    }),
    ("7541 5.1 a length too large", |c| {
        bad(c, &[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f])
    }),
    ("7541 5.1 a cut integer", |c| bad(c, &[0xff, 0x80])),
    ("7541 5.2 a cut name", |c| bad(c, &[0, 10, b'x'])),
    ("7541 5.2 a cut value", |c| {
        bad(c, &[&[0][..], &text(b"x-a"), &[5, b'v']].concat())
    }),
    ("7541 5.2 a value that is missing", |c| {
        bad(c, &[&[0][..], &text(b"x-a")].concat())
    }),
    ("7541 5.2 strings in Huffman's code", |c| {
        let value: Vec<u8> = (0x21..0x7f).collect();
        let coded = [vec![0], squeezed(b"x-a"), squeezed(&value)].concat();
        let block = [whole(c), coded].concat();
        c.block(1, WHOLE, &block);
        let text = c.answer(1)?.body;
        let line = [b"x-a: ", &value[..], b"\r\n"].concat();
        equal("there", memchr::memmem::find(&text, &line).is_some(), true)
    }),
    ("7541 5.2 padding with zeros", |c| {
        bad(c, &[&[0][..], &text(b"x-a"), &[0x81, 0b0001_1000]].concat())
    }),
    ("7541 5.2 padding of 8 bits", |c| {
        bad(c, &[&[0][..], &text(b"x-a"), &[0x82, 0x1f, 0xff]].concat())
    }),
    ("7541 5.2 nothing but padding", |c| {
        bad(c, &[&[0][..], &text(b"x-a"), &[0x81, 0xff]].concat())
    }),
    ("7541 5.2 EOS", |c| {
        bad(
            c,
            &[&[0][..], &text(b"x-a"), &[0x84, 0xff, 0xff, 0xff, 0xff]].concat(),
        )
    }),
    ("7541 5.2 EOS between symbols", |c| {
        bad(
            c,
            &[
                &[0][..],
                &text(b"x-a"),
                &[0x85, 0x1f, 0xff, 0xff, 0xff, 0xff],
            ]
            .concat(),
        )
    }),
    ("7541 5.2 a name in Huffman's code with bad padding", |c| {
        bad(c, &[&[0, 0x81, 0b1111_0000][..], &text(b"v")].concat())
    }),
    ("4.3 a block cut within a string", |c| {
        let block = [
            whole(c),
            vec![0],
            squeezed(b"x-a-longer-name"),
            squeezed(b"some value"),
        ];
        let block = block.concat();
        for at in 1..block.len() - 1 {
            let stream = at as u32 * 2 - 1;
            c.block(stream, END_STREAM, &block[..at]);
            c.frame(CONTINUATION, END_HEADERS, stream, &block[at..]);
            c.status(stream, 200)?;
        }
        Ok(())
    }),
    ("4.3 the table lives through a bad request", |c| {
        let mut fields = c.request("GET", "/", &[]);
        fields.retain(|field| field.0 != b":path");
        let bad = [hpack::block(&fields), indexed_literal(b"x-a", b"1")].concat();
        c.block(1, WHOLE, &bad);
        c.malformed(1)?;
        if c.goaway.is_some() {
            return Ok(());
        }
        let block = [whole(c), index(62)].concat();
        c.block(3, WHOLE, &block);
        seen(c, 3, &["x-a: 1\r\n"])
    }),
    ("4.3 the table lives through a refused stream", |c| {
        let allowed = c.theirs[&MAX_CONCURRENT_STREAMS];
        for at in 0..allowed {
            c.get(at * 2 + 1, "/hold");
        }
        let last = allowed * 2 + 1;
        let block = [whole(c), indexed_literal(b"x-a", b"1")].concat();
        c.block(last, WHOLE, &block);
        c.stream_error(last, &[REFUSED_STREAM, PROTOCOL_ERROR])?;
        c.frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
        c.alive()?;
        let block = [whole(c), index(62)].concat();
        c.block(last + 2, WHOLE, &block);
        seen(c, last + 2, &["x-a: 1\r\n"])
    }),
    ("4.3 the table lives through trailers", |c| {
        c.post(1, "/");
        c.block(1, WHOLE, &indexed_literal(b"x-a", b"1"));
        c.status(1, 200)?;
        let block = [whole(c), index(62)].concat();
        c.block(3, WHOLE, &block);
        seen(c, 3, &["x-a: 1\r\n"])
    }),
    ("4.3 a bad block in trailers", |c| {
        c.post(1, "/hold");
        c.block(1, WHOLE, &index(100));
        c.connection_error(&[COMPRESSION_ERROR])
    }),
    ("4.3.1 the server's table follows our setting down", |c| {
        c.get(1, "/ok");
        c.status(1, 200)?;
        c.settings(&[(HEADER_TABLE_SIZE, 0)]);
        c.acked(2)?;
        // The decoder insists on it.
        c.get(3, "/ok");
        c.status(3, 200)?;
        c.settings(&[(HEADER_TABLE_SIZE, 4096)]);
        c.acked(3)?;
        c.get(5, "/ok");
        c.status(5, 200)
    }),
    ("4.3.1 a table of 4 GiB is not used up", |c| {
        c.settings(&[(HEADER_TABLE_SIZE, u32::MAX)]);
        c.acked(2)?;
        c.serves()
    }),
];

/// A request for `/`.
fn whole(c: &H2) -> Vec<u8> {
    hpack::block(&c.request("GET", "/", &[]))
}

/// A request with this in its header block, which cannot be decoded.
fn bad(c: &mut H2, piece: &[u8]) -> Check {
    let starts = piece[0] & 0xe0 == 0x20;
    let block = match starts || piece.starts_with(&whole(c)) {
        true => piece.to_vec(),
        false => [&whole(c), piece].concat(),
    };
    let stream = c.streams.keys().last().map_or(1, |last| last + 2);
    c.block(stream, WHOLE, &block);
    c.connection_error(&[COMPRESSION_ERROR])
}

/// The backend got these lines, as it is served through HTTP/1.1.
fn seen(c: &mut H2, stream: u32, lines: &[&str]) -> Check {
    let text = c.answer(stream)?.text();
    match lines.iter().all(|line| text.contains(line)) {
        true => Ok(()),
        false => Err(format!("the backend got {text:?}")),
    }
}
