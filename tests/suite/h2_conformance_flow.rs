//! RFC 9113: 5.2 and 6.9, flow control of what the server sends and of what it receives. That the
//! server never sends more than it was granted is checked by the client in every case.

use crate::common::frames::{Check, H2, code::*, equal, flag::*, kind::*, setting::*};
use crate::h2_conformance::{BIG, Case, Over, run};

#[test]
fn over_tcp() {
    run(Over::Tcp, CASES);
}

#[test]
fn over_tls() {
    run(Over::Tls, CASES);
}

const MAX: u32 = (1 << 31) - 1;

const CASES: &[Case] = &[
    (
        "5.2 an answer stops at the window and goes on with it",
        |c| {
            c.get(1, "/big");
            body(c, 1, 65_535)?;
            c.grant(0, 1 << 20);
            c.alive()?;
            body(c, 1, 65_535)?;
            c.grant(1, 1 << 20);
            equal("length", c.answer(1)?.body.len(), BIG)
        },
    ),
    ("5.2 the connection's window holds for all streams", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)]);
        c.acked(2)?;
        c.get(1, "/big");
        c.get(3, "/big");
        let both = |c: &mut H2| c.streams[&1].body.len() + c.streams[&3].body.len();
        c.wait("DATA", |c| (both(c) == 65_535).then_some(()))?;
        c.alive()?;
        equal("octets", both(c), 65_535)?;
        c.grant(0, 1 << 20);
        equal("length", c.answer(1)?.body.len(), BIG)?;
        equal("length", c.answer(3)?.body.len(), BIG)
    }),
    ("5.2 a stream without a window does not stop another", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, 0)]);
        c.acked(2)?;
        c.get(1, "/big");
        c.get(3, "/ok");
        c.grant(3, 100);
        c.status(3, 200)?;
        equal("octets", c.streams[&1].body.len(), 0)
    }),
    ("6.9 an empty answer needs no window", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, 0)]);
        c.acked(2)?;
        c.get(1, "/empty");
        c.status(1, 204)?;
        c.headers(3, WHOLE, &c.request("HEAD", "/ok", &[]));
        c.status(3, 200)
    }),
    ("6.9 windows of one octet", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, 1)]);
        c.acked(2)?;
        c.get(1, "/ok");
        body(c, 1, 1)?;
        c.grant(1, 1);
        equal("body", c.answer(1)?.text(), "ok".into())
    }),
    (
        "6.9.2 SETTINGS open the window of a stream that waits",
        |c| {
            c.settings(&[(INITIAL_WINDOW_SIZE, 0)]);
            c.acked(2)?;
            c.get(1, "/ok");
            c.wait("the head", |c| {
                (c.streams[&1].status() == 200).then_some(())
            })?;
            c.alive()?;
            body(c, 1, 0)?;
            c.settings(&[(INITIAL_WINDOW_SIZE, 1)]);
            body(c, 1, 1)?;
            c.settings(&[(INITIAL_WINDOW_SIZE, 2)]);
            c.status(1, 200)
        },
    ),
    ("6.9.2 SETTINGS can make a window negative", |c| {
        c.get(1, "/big");
        body(c, 1, 65_535)?;
        c.grant(0, 1 << 20);
        c.settings(&[(INITIAL_WINDOW_SIZE, 10)]);
        c.acked(2)?;
        // From -65,525 to 0.
        c.grant(1, 65_525);
        c.alive()?;
        body(c, 1, 65_535)?;
        c.grant(1, 5);
        body(c, 1, 65_540)?;
        c.settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)]);
        equal("length", c.answer(1)?.body.len(), BIG)
    }),
    (
        "6.9.2 SETTINGS do not change the connection's window",
        |c| {
            c.settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)]);
            c.acked(2)?;
            c.get(1, "/big");
            body(c, 1, 65_535)?;
            c.alive()?;
            body(c, 1, 65_535)
        },
    ),
    ("6.9.2 SETTINGS that lead a window beyond 2^31-1", |c| {
        c.get(1, "/hold");
        c.frame(WINDOW_UPDATE, 0, 1, &(MAX - 65_535).to_be_bytes());
        c.settings(&[(INITIAL_WINDOW_SIZE, 65_536)]);
        c.connection_error(&[FLOW_CONTROL_ERROR])
    }),
    ("6.9 WINDOW_UPDATE by 0 on the connection", |c| {
        c.frame(WINDOW_UPDATE, 0, 0, &[0; 4]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.9 WINDOW_UPDATE by 0 on a stream", |c| {
        c.get(1, "/hold");
        c.frame(WINDOW_UPDATE, 0, 1, &[0; 4]);
        c.stream_error(1, &[PROTOCOL_ERROR])
    }),
    ("6.9 the reserved bit of WINDOW_UPDATE", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, 0)]);
        c.acked(2)?;
        c.get(1, "/ok");
        c.frame(WINDOW_UPDATE, 0, 1, &[0x80, 0, 0, 0]);
        c.stream_error(1, &[PROTOCOL_ERROR])
    }),
    ("6.9 the reserved bit beside an increment", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, 0)]);
        c.acked(2)?;
        c.get(1, "/ok");
        c.grant(1, 0x8000_0002);
        c.status(1, 200)
    }),
    ("6.9 WINDOW_UPDATE of 3 octets", |c| {
        c.frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.9 WINDOW_UPDATE of 5 octets", |c| {
        c.get(1, "/hold");
        c.frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 0, 1]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.9.1 a connection's window beyond 2^31-1", |c| {
        c.frame(WINDOW_UPDATE, 0, 0, &MAX.to_be_bytes());
        c.connection_error(&[FLOW_CONTROL_ERROR])
    }),
    (
        "6.9.1 a connection's window beyond 2^31-1 in two steps",
        |c| {
            c.frame(WINDOW_UPDATE, 0, 0, &(MAX - 65_535).to_be_bytes());
            c.alive()?;
            c.frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
            c.connection_error(&[FLOW_CONTROL_ERROR])
        },
    ),
    ("6.9.1 a stream's window beyond 2^31-1", |c| {
        c.get(1, "/hold");
        c.frame(WINDOW_UPDATE, 0, 1, &MAX.to_be_bytes());
        c.stream_error(1, &[FLOW_CONTROL_ERROR])
    }),
    ("6.9.1 windows of 2^31-1", |c| {
        c.grant(0, MAX - 65_535);
        c.get(1, "/big");
        c.grant(1, MAX - 65_535);
        equal("length", c.answer(1)?.body.len(), BIG)
    }),
    ("6.9 a body longer than the window is granted", |c| {
        c.post(1, "/");
        c.grant(0, 2 << 20);
        c.grant(1, 2 << 20);
        let (mut sent, all) = (0, 1_000_000);
        while sent < all {
            let size = c.room(1, sent, 1)?.min(all - sent).min(16_384);
            sent += size;
            let last = if sent == all { END_STREAM } else { 0 };
            c.data(1, last, &vec![b'x'; size as usize]);
        }
        let body = c.answer(1)?.body;
        equal("body", body.ends_with(&[b'x'; 1_000_000]), true)
    }),
    ("6.9 padding counts", |c| {
        // Only what is granted again lets so much padding through.
        c.post(1, "/");
        for at in 0..2_000 {
            c.room(1, at * 257, 257)?;
            c.data(1, PADDED, &[&[255, b'x'], &[0; 255][..]].concat());
        }
        c.data(1, END_STREAM, b"");
        c.status(1, 200)
    }),
    ("6.9.1 a client that sends beyond its window", |c| {
        c.post(1, "/stuck");
        for _ in 0..4_000 {
            c.data(1, 0, &[b'x'; 16_384]);
            if c.wire.ended || !c.wire.inp.is_empty() {
                while c.wire.inp.len() >= 9 && c.goaway.is_none() {
                    c.step()?;
                }
            }
            if c.goaway.is_some() || c.streams[&1].reset.is_some() || c.wire.ended {
                break;
            }
        }
        c.stream_error(1, &[FLOW_CONTROL_ERROR])
    }),
];

/// Wait for this much of an answer's body, which must not be more.
fn body(c: &mut H2, stream: u32, length: usize) -> Check {
    c.wait("DATA", |c| {
        (c.streams[&stream].body.len() >= length).then_some(())
    })?;
    equal("octets", c.streams[&stream].body.len(), length)
}
