//! RFC 9113: 5.1 (states of a stream), 5.3 and 6.3 (PRIORITY), 6.1 (DATA), 6.2 (HEADERS), 6.4
//! (RST_STREAM), 6.6 (PUSH_PROMISE), 6.10 (CONTINUATION).

use crate::common::frames::{Check, H2, code::*, equal, flag, flag::*, kind, kind::*, setting};
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
    ("5.1 DATA on an idle stream", |c| {
        c.data(1, END_STREAM, b"body");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1 RST_STREAM on an idle stream", |c| {
        c.frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1 WINDOW_UPDATE on an idle stream", |c| {
        c.frame(WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes());
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1 CONTINUATION on an idle stream", |c| {
        c.frame(CONTINUATION, END_HEADERS, 1, b"");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1 PRIORITY on an idle stream", |c| {
        c.frame(kind::PRIORITY, 0, 7, &[0, 0, 0, 0, 9]);
        c.serves()
    }),
    ("5.1 DATA on an idle stream above open ones", |c| {
        c.post(1, "/");
        c.data(3, END_STREAM, b"body");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1 DATA on an idle stream of the server", |c| {
        c.data(2, 0, b"body");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1 RST_STREAM on an idle stream of the server", |c| {
        c.frame(RST_STREAM, 0, 2, &CANCEL.to_be_bytes());
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1 DATA on a half-closed stream", |c| {
        c.get(1, "/hold");
        c.data(1, END_STREAM, b"body");
        c.stream_error(1, &[STREAM_CLOSED])
    }),
    ("5.1 HEADERS on a half-closed stream", |c| {
        c.get(1, "/hold");
        c.get(1, "/hold");
        c.stream_error(1, &[STREAM_CLOSED])
    }),
    (
        "5.1 HEADERS without END_STREAM on a half-closed stream",
        |c| {
            c.get(1, "/hold");
            c.post(1, "/hold");
            c.stream_error(1, &[STREAM_CLOSED])
        },
    ),
    ("5.1 CONTINUATION on a half-closed stream", |c| {
        c.get(1, "/hold");
        c.frame(CONTINUATION, END_HEADERS, 1, b"");
        c.stream_error(1, &[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    (
        "5.1 PRIORITY and WINDOW_UPDATE on a half-closed stream",
        |c| {
            c.get(1, "/hold");
            c.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 9]);
            c.grant(1, 1000);
            c.serves()
        },
    ),
    ("5.1 RST_STREAM on a half-closed stream", |c| {
        c.get(1, "/hold");
        cancel(c, 1);
        c.serves()
    }),
    ("5.1 DATA after trailers", |c| {
        c.post(1, "/hold");
        c.headers(1, WHOLE, &vec![(b"a".to_vec(), b"b".to_vec())]);
        c.data(1, 0, b"body");
        c.stream_error(1, &[STREAM_CLOSED])
    }),
    ("5.1 DATA on a stream that was reset", |c| {
        c.post(1, "/hold");
        cancel(c, 1);
        c.data(1, END_STREAM, b"body");
        c.stream_error(1, &[STREAM_CLOSED])
    }),
    ("5.1 HEADERS on a stream that was reset", |c| {
        c.post(1, "/hold");
        cancel(c, 1);
        c.headers(1, WHOLE, &c.request("GET", "/", &[]));
        c.stream_error(1, &[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    ("5.1 CONTINUATION on a stream that was reset", |c| {
        c.post(1, "/hold");
        cancel(c, 1);
        c.frame(CONTINUATION, END_HEADERS, 1, b"");
        c.connection_error(&[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    (
        "5.1 PRIORITY, WINDOW_UPDATE, RST_STREAM on a reset stream",
        |c| {
            c.post(1, "/hold");
            cancel(c, 1);
            c.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 9]);
            c.frame(WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes());
            cancel(c, 1);
            c.serves()
        },
    ),
    ("5.1 DATA on a closed stream", |c| {
        c.get(1, "/ok");
        c.status(1, 200)?;
        c.data(1, END_STREAM, b"body");
        c.stream_error(1, &[STREAM_CLOSED])
    }),
    ("5.1 HEADERS on a closed stream", |c| {
        c.get(1, "/ok");
        c.status(1, 200)?;
        c.headers(1, WHOLE, &c.request("GET", "/ok", &[]));
        c.stream_error(1, &[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    ("5.1 CONTINUATION on a closed stream", |c| {
        c.get(1, "/ok");
        c.status(1, 200)?;
        c.frame(CONTINUATION, END_HEADERS, 1, b"");
        c.connection_error(&[STREAM_CLOSED, PROTOCOL_ERROR])
    }),
    (
        "5.1 PRIORITY, WINDOW_UPDATE, RST_STREAM on a closed stream",
        |c| {
            c.get(1, "/ok");
            c.status(1, 200)?;
            c.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 9]);
            c.frame(WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes());
            cancel(c, 1);
            c.serves()
        },
    ),
    ("5.1.1 a stream with an even number", |c| {
        c.get(2, "/ok");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1.1 a number below the last", |c| {
        c.get(5, "/hold");
        c.get(3, "/ok");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("5.1.1 numbers may be left out", |c| {
        c.get(5, "/ok");
        c.status(5, 200)?;
        c.get(0x7fff_fff1, "/ok");
        c.status(0x7fff_fff1, 200)
    }),
    ("5.1.1 the last number of all", |c| {
        c.get(0x7fff_ffff, "/ok");
        c.status(0x7fff_ffff, 200)
    }),
    ("5.1.2 as many streams as allowed", |c| {
        let allowed = c.theirs[&setting::MAX_CONCURRENT_STREAMS];
        for at in 0..allowed {
            c.get(at * 2 + 1, "/hold");
        }
        c.alive()?;
        let reset = c.streams.values().filter(|s| s.reset.is_some()).count();
        equal("refused", reset, 0)
    }),
    ("5.1.2 a stream too many", |c| {
        let allowed = c.theirs[&setting::MAX_CONCURRENT_STREAMS];
        for at in 0..=allowed {
            c.get(at * 2 + 1, "/hold");
        }
        c.stream_error(allowed * 2 + 1, &[REFUSED_STREAM, PROTOCOL_ERROR])
    }),
    ("5.1.2 room again after a stream was reset", |c| {
        let allowed = c.theirs[&setting::MAX_CONCURRENT_STREAMS];
        for at in 0..allowed {
            c.get(at * 2 + 1, "/hold");
        }
        c.alive()?;
        cancel(c, 1);
        c.alive()?;
        c.serves()
    }),
    ("5.3.1 HEADERS with a priority", |c| {
        let fields = crate::common::hpack::block(&c.request("GET", "/ok", &[]));
        c.block(
            1,
            WHOLE | flag::PRIORITY,
            &[&[0x80, 0, 0, 0, 9], &fields[..]].concat(),
        );
        c.status(1, 200)
    }),
    ("6.1 DATA on stream 0", |c| {
        c.data(0, 0, b"body");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.1 padding", |c| {
        c.post(1, "/");
        c.data(1, PADDED, b"\x05body\0\0\0\0\0");
        c.data(1, PADDED, b"\x00");
        c.data(1, PADDED | END_STREAM, b"\x03\0\0\0");
        equal("body", c.answer(1)?.text().ends_with("\r\n\r\nbody"), true)
    }),
    ("6.1 padding as long as the payload", |c| {
        c.post(1, "/hold");
        c.data(1, PADDED | END_STREAM, b"\x06body\0");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.1 padding longer than the payload", |c| {
        c.post(1, "/hold");
        c.data(1, PADDED | END_STREAM, b"\xffbody");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.1 padding without its length", |c| {
        c.post(1, "/hold");
        c.data(1, PADDED | END_STREAM, b"");
        c.connection_error(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR])
    }),
    ("6.1 an empty DATA frame ends a stream", |c| {
        c.post(1, "/");
        c.data(1, 0, b"body");
        c.data(1, END_STREAM, b"");
        equal("body", c.answer(1)?.text().ends_with("\r\n\r\nbody"), true)
    }),
    ("6.2 HEADERS on stream 0", |c| {
        c.headers(0, WHOLE, &c.request("GET", "/ok", &[]));
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.2 padding and a priority", |c| {
        let fields = crate::common::hpack::block(&c.request("GET", "/ok", &[]));
        let payload = [&[4, 0, 0, 0, 0, 9], &fields[..], &[0; 4]].concat();
        c.block(1, WHOLE | PADDED | flag::PRIORITY, &payload);
        c.status(1, 200)
    }),
    ("6.2 padding longer than the payload", |c| {
        let fields = crate::common::hpack::block(&c.request("GET", "/ok", &[]));
        c.block(1, WHOLE | PADDED, &[&[255], &fields[..]].concat());
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.2 padding as long as the payload", |c| {
        c.block(1, WHOLE | PADDED, &[3, 0x82, 0x86]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.2 padding without its length", |c| {
        c.block(1, WHOLE | PADDED, b"");
        c.connection_error(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR])
    }),
    ("6.2 a cut priority", |c| {
        c.block(1, WHOLE | flag::PRIORITY, &[0, 0, 0, 0]);
        c.connection_error(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR])
    }),
    ("6.3 PRIORITY on stream 0", |c| {
        c.frame(kind::PRIORITY, 0, 0, &[0, 0, 0, 1, 9]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.3 PRIORITY of 4 octets", |c| {
        c.post(1, "/hold");
        c.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0]);
        c.stream_error(1, &[FRAME_SIZE_ERROR])
    }),
    ("6.3 PRIORITY of 6 octets", |c| {
        c.post(1, "/hold");
        c.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 9, 9]);
        c.stream_error(1, &[FRAME_SIZE_ERROR])
    }),
    (
        "6.3 a stream that depends on itself changes nothing else",
        |c| {
            // RFC 7540, 5.3.1 has a stream error here; RFC 9113 has nothing.
            c.frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 9]);
            match c.alive() {
                Ok(()) => Ok(()),
                Err(_) => c.connection_error(&[PROTOCOL_ERROR]),
            }
        },
    ),
    ("6.4 RST_STREAM on stream 0", |c| {
        c.frame(RST_STREAM, 0, 0, &CANCEL.to_be_bytes());
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.4 RST_STREAM of 3 octets", |c| {
        c.post(1, "/hold");
        c.frame(RST_STREAM, 0, 1, &[0; 3]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.4 RST_STREAM of 5 octets", |c| {
        c.post(1, "/hold");
        c.frame(RST_STREAM, 0, 1, &[0; 5]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.4 nothing comes on a stream that was reset", |c| {
        c.get(1, "/big");
        c.wait("DATA", |c| (!c.streams[&1].body.is_empty()).then_some(()))?;
        cancel(c, 1);
        c.alive()?;
        let before = c.streams[&1].body.len();
        c.grant(0, 1 << 20);
        c.grant(1, 1 << 20);
        c.serves()?;
        equal("octets", c.streams[&1].body.len(), before)
    }),
    ("7 RST_STREAM with an unknown code", |c| {
        c.get(1, "/hold");
        c.frame(RST_STREAM, 0, 1, &0xabcd_ef01u32.to_be_bytes());
        c.serves()
    }),
    ("6.6 PUSH_PROMISE from a client", |c| {
        c.post(1, "/hold");
        c.frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.6 PUSH_PROMISE on stream 0", |c| {
        c.frame(PUSH_PROMISE, END_HEADERS, 0, &[0, 0, 0, 2, 0x82]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.6 PUSH_PROMISE on a stream that was reset", |c| {
        c.post(1, "/hold");
        cancel(c, 1);
        c.frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.10 a header block in three pieces", |c| {
        let block = crate::common::hpack::block(&c.request("GET", "/ok", &[("a", "b")]));
        c.block(1, END_STREAM, &block[..9]);
        c.frame(CONTINUATION, 0, 1, &block[9..30]);
        c.frame(CONTINUATION, END_HEADERS, 1, &block[30..]);
        c.status(1, 200)
    }),
    ("6.10 empty pieces", |c| {
        let block = crate::common::hpack::block(&c.request("GET", "/ok", &[]));
        c.block(1, END_STREAM, b"");
        c.frame(CONTINUATION, 0, 1, b"");
        c.frame(CONTINUATION, 0, 1, &block);
        c.frame(CONTINUATION, END_HEADERS, 1, b"");
        c.status(1, 200)
    }),
    ("6.10 CONTINUATION after a whole block", |c| {
        c.post(1, "/hold");
        c.frame(CONTINUATION, END_HEADERS, 1, b"");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.10 CONTINUATION after DATA", |c| {
        c.post(1, "/hold");
        c.data(1, 0, b"body");
        c.frame(CONTINUATION, END_HEADERS, 1, b"");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.10 CONTINUATION on stream 0", |c| {
        c.frame(CONTINUATION, END_HEADERS, 0, b"");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.10 CONTINUATION on another stream", |c| {
        half(c);
        within(c, CONTINUATION, 3, &[0x82])
    }),
    ("6.10 CONTINUATION on stream 0 within a block", |c| {
        half(c);
        within(c, CONTINUATION, 0, &[0x82])
    }),
    ("6.10 DATA within a block", |c| {
        half(c);
        within(c, DATA, 1, b"body")
    }),
    ("6.10 HEADERS within a block", |c| {
        half(c);
        within(c, HEADERS, 1, &[0x82])
    }),
    ("6.10 HEADERS of another stream within a block", |c| {
        half(c);
        within(c, HEADERS, 3, &[0x82])
    }),
    ("6.10 PRIORITY within a block", |c| {
        half(c);
        within(c, kind::PRIORITY, 1, &[0, 0, 0, 0, 9])
    }),
    ("6.10 RST_STREAM within a block", |c| {
        half(c);
        within(c, RST_STREAM, 1, &CANCEL.to_be_bytes())
    }),
    ("6.10 SETTINGS within a block", |c| {
        half(c);
        within(c, SETTINGS, 0, b"")
    }),
    ("6.10 PING within a block", |c| {
        half(c);
        within(c, PING, 0, &[0; 8])
    }),
    ("6.10 GOAWAY within a block", |c| {
        half(c);
        within(c, GOAWAY, 0, &[0; 8])
    }),
    ("6.10 WINDOW_UPDATE within a block", |c| {
        half(c);
        within(c, WINDOW_UPDATE, 0, &[0, 0, 0, 1])
    }),
    ("6.10 an unknown frame within a block", |c| {
        half(c);
        within(c, 0xfa, 0, b"")
    }),
    ("6.10 DATA within a block of trailers", |c| {
        c.post(1, "/hold");
        c.frame(HEADERS, END_STREAM, 1, b"");
        within(c, DATA, 1, b"body")
    }),
];

fn cancel(c: &mut H2, stream: u32) {
    c.frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
}

/// HEADERS that more must follow.
fn half(c: &mut H2) {
    c.headers(1, END_STREAM, &c.request("GET", "/hold", &[]));
}

/// Another frame where CONTINUATION must come.
fn within(c: &mut H2, kind: u8, stream: u32, payload: &[u8]) -> Check {
    c.expect(3);
    c.frame(kind, 0, stream, payload);
    c.connection_error(&[PROTOCOL_ERROR])
}
