//! RFC 9113: 3 (starting), 4.1 and 4.2 (frames), 5.4 (errors), 5.5 (extensions), 6.5 (SETTINGS),
//! 6.7 (PING), 6.8 (GOAWAY).

use std::time::Duration;

use crate::common::frames::{
    PREFACE, code::*, equal, flag::*, frame, kind::*, setting::*, settings,
};
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
    ("!3.4 preface, SETTINGS and a request in one piece", |c| {
        c.wire
            .send(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat());
        c.get(1, "/ok");
        // The acknowledgement is for the SETTINGS sent here by hand.
        c.expect_ack();
        c.status(1, 200)
    }),
    ("!3.4 a preface byte by byte", |c| {
        for byte in PREFACE {
            c.wire.send(&[*byte]);
        }
        c.settings(&[]);
        c.serves()
    }),
    ("!3.4 SETTINGS come on a preface alone", |c| {
        c.wire.send(PREFACE);
        c.wait("SETTINGS", |c| (!c.theirs.is_empty()).then_some(()))?;
        c.settings(&[]);
        c.serves()
    }),
    ("!3.4 a broken preface", |c| {
        c.wire.send(b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n");
        c.frame(SETTINGS, 0, 0, b"");
        ends(c)
    }),
    ("!3.4 a preface broken at its end", |c| {
        c.wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX");
        c.frame(SETTINGS, 0, 0, b"");
        ends(c)
    }),
    ("!3.4 PING in place of the first SETTINGS", |c| {
        c.wire.send(PREFACE);
        c.frame(PING, 0, 0, &[0; 8]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("!3.4 HEADERS in place of the first SETTINGS", |c| {
        c.wire.send(PREFACE);
        c.get(1, "/ok");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    (
        "!3.4 an unknown frame in place of the first SETTINGS",
        |c| {
            c.wire.send(PREFACE);
            c.frame(0xfa, 0, 0, b"");
            c.connection_error(&[PROTOCOL_ERROR])
        },
    ),
    ("4.1 an unknown type", |c| {
        c.frame(0xfa, 0xff, 0, b"anything");
        c.alive()
    }),
    ("4.1 an unknown type on a stream that is idle", |c| {
        c.frame(0x16, 0, 1, b"anything");
        c.serves()
    }),
    ("4.1 an unknown type on an open stream", |c| {
        c.post(1, "/");
        c.frame(0xfa, END_STREAM, 1, b"anything");
        c.data(1, END_STREAM, b"body");
        equal("body", c.answer(1)?.text().ends_with("\r\n\r\nbody"), true)
    }),
    ("4.1 unknown flags", |c| {
        c.frame(PING, 0xfe, 0, b"anything");
        c.wait("PING", |c| (c.pongs == [b"anything"]).then_some(()))?;
        let fields = c.request("GET", "/ok", &[]);
        c.headers(1, WHOLE | 0xd2, &fields);
        c.status(1, 200)
    }),
    ("4.1 the reserved bit", |c| {
        c.frame(PING, 0, 0x8000_0000, b"anything");
        c.wait("PING", |c| (c.pongs == [b"anything"]).then_some(()))?;
        c.expect(1);
        let fields = c.request("GET", "/ok", &[]);
        c.headers(0x8000_0001, WHOLE, &fields);
        c.status(1, 200)
    }),
    ("4.2 DATA of 16,384 octets", |c| {
        c.post(1, "/");
        c.data(1, END_STREAM, &[b'x'; 16_384]);
        c.status(1, 200)
    }),
    ("4.2 DATA too large", |c| {
        c.post(1, "/");
        c.data(1, END_STREAM, &vec![b'x'; c.frame_size() + 1]);
        c.stream_error(1, &[FRAME_SIZE_ERROR, FLOW_CONTROL_ERROR])
    }),
    ("4.2 HEADERS too large", |c| {
        c.expect(1);
        c.frame(HEADERS, WHOLE, 1, &vec![0; c.frame_size() + 1]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("4.2 CONTINUATION too large", |c| {
        let fields = c.request("GET", "/ok", &[]);
        c.headers(1, END_STREAM, &fields);
        c.frame(CONTINUATION, END_HEADERS, 1, &vec![0; c.frame_size() + 1]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("4.2 SETTINGS too large", |c| {
        let size = c.frame_size() / 6 * 6 + 6;
        c.frame(SETTINGS, 0, 0, &settings(&vec![(0x99, 0); size / 6]));
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("4.2 an unknown frame too large", |c| {
        c.frame(0xfa, 0, 0, &vec![0; c.frame_size() + 1]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("5.4.1 a connection error closes the connection", |c| {
        c.frame(PING, 0, 1, &[0; 8]);
        c.wait_goaway()?;
        // Without a word from us.
        c.end()
    }),
    ("5.4.1 GOAWAY names the last stream that was served", |c| {
        c.get(1, "/ok");
        c.status(1, 200)?;
        c.get(3, "/ok");
        c.status(3, 200)?;
        c.frame(PING, 0, 1, &[0; 8]);
        c.connection_error(&[PROTOCOL_ERROR])?;
        equal("last stream", c.goaway.unwrap().0, 3)
    }),
    ("5.4.2 a stream error leaves other streams alone", |c| {
        c.post(1, "/");
        let mut fields = c.request("GET", "/", &[]);
        fields.retain(|field| field.0 != b":path");
        c.headers(3, WHOLE, &fields);
        c.malformed(3)?;
        if c.goaway.is_none() {
            c.data(1, END_STREAM, b"");
            c.status(1, 200)?;
        }
        Ok(())
    }),
    ("5.5 an unknown setting", |c| {
        c.settings(&[(0x99, 7), (0x1a1a, 0xffff_ffff)]);
        c.acked(2)?;
        c.serves()
    }),
    ("6.5 SETTINGS are acknowledged, one by one", |c| {
        for _ in 0..10 {
            c.settings(&[(MAX_CONCURRENT_STREAMS, 100)]);
        }
        c.acked(11)
    }),
    ("6.5 an acknowledgement with a payload", |c| {
        c.frame(SETTINGS, ACK, 0, &settings(&[(MAX_CONCURRENT_STREAMS, 1)]));
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.5 SETTINGS on a stream", |c| {
        c.frame(SETTINGS, 0, 1, b"");
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.5 SETTINGS on an open stream", |c| {
        c.post(1, "/");
        c.frame(SETTINGS, 0, 1, &settings(&[(MAX_CONCURRENT_STREAMS, 1)]));
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.5 SETTINGS whose length is no multiple of 6", |c| {
        c.frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    (
        "6.5 SETTINGS with a piece of a value behind a whole one",
        |c| {
            c.frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1, 0]);
            c.connection_error(&[FRAME_SIZE_ERROR])
        },
    ),
    ("6.5.2 ENABLE_PUSH of 2", |c| {
        c.frame(SETTINGS, 0, 0, &settings(&[(ENABLE_PUSH, 2)]));
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.5.2 ENABLE_PUSH of 0 and of 1", |c| {
        c.settings(&[(ENABLE_PUSH, 1)]);
        c.settings(&[(ENABLE_PUSH, 0)]);
        c.serves()
    }),
    ("6.5.2 INITIAL_WINDOW_SIZE of 2^31", |c| {
        c.frame(SETTINGS, 0, 0, &settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]));
        c.connection_error(&[FLOW_CONTROL_ERROR])
    }),
    ("6.5.2 INITIAL_WINDOW_SIZE of 2^31-1", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, (1 << 31) - 1)]);
        c.serves()
    }),
    ("6.5.2 MAX_FRAME_SIZE of 16,383", |c| {
        c.frame(SETTINGS, 0, 0, &settings(&[(MAX_FRAME_SIZE, 16_383)]));
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.5.2 MAX_FRAME_SIZE of 2^24", |c| {
        c.frame(SETTINGS, 0, 0, &settings(&[(MAX_FRAME_SIZE, 1 << 24)]));
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.5.2 MAX_FRAME_SIZE of 2^24-1", |c| {
        c.settings(&[(MAX_FRAME_SIZE, (1 << 24) - 1), (MAX_FRAME_SIZE, 16_384)]);
        c.serves()
    }),
    ("6.5.2 the bad value after good ones", |c| {
        let values = [(MAX_CONCURRENT_STREAMS, 1), (0x99, 0), (ENABLE_PUSH, 3)];
        c.frame(SETTINGS, 0, 0, &settings(&values));
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.5.3 the last value of a setting counts", |c| {
        c.settings(&[(INITIAL_WINDOW_SIZE, 100_000), (INITIAL_WINDOW_SIZE, 1)]);
        c.acked(2)?;
        c.get(1, "/ok");
        c.wait("one octet", |c| {
            (c.streams[&1].body.len() == 1).then_some(())
        })?;
        c.grant(1, 10);
        c.status(1, 200)
    }),
    (
        "6.5.2 MAX_CONCURRENT_STREAMS of 0 concerns the server alone",
        |c| {
            c.settings(&[(MAX_CONCURRENT_STREAMS, 0)]);
            c.acked(2)?;
            c.serves()
        },
    ),
    ("6.7 PING is answered with its payload", |c| {
        c.frame(PING, 0, 0, b"\x00\xffabcdef");
        c.wait("PING", |c| (c.pongs == [b"\x00\xffabcdef"]).then_some(()))
    }),
    ("6.7 PING with ACK is not answered", |c| {
        c.frame(PING, ACK, 0, b"whatever");
        c.alive()?;
        equal("answers", c.pongs.len(), 1)
    }),
    ("6.7 PING on a stream", |c| {
        c.frame(PING, 0, 1, &[0; 8]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.7 PING of 7 octets", |c| {
        c.frame(PING, 0, 0, &[0; 7]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.7 PING of 9 octets", |c| {
        c.frame(PING, 0, 0, &[0; 9]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.7 PING with ACK of no octets", |c| {
        c.frame(PING, ACK, 0, b"");
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.8 GOAWAY on a stream", |c| {
        c.frame(GOAWAY, 0, 1, &[0; 8]);
        c.connection_error(&[PROTOCOL_ERROR])
    }),
    ("6.8 GOAWAY of 7 octets", |c| {
        c.frame(GOAWAY, 0, 0, &[0; 7]);
        c.connection_error(&[FRAME_SIZE_ERROR])
    }),
    ("6.8 requests under way are answered after GOAWAY", |c| {
        c.post(1, "/");
        c.frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0because");
        c.data(1, END_STREAM, b"body");
        c.status(1, 200)
    }),
    ("6.8 GOAWAY with an unknown code", |c| {
        c.get(1, "/ok");
        c.frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\xab\xcd");
        c.status(1, 200)
    }),
];

/// A server says that it does not speak this, or nothing, and closes. (An HTTP/1 answer may come.)
fn ends(c: &mut crate::common::frames::H2) -> crate::common::frames::Check {
    c.wire.read_until(usize::MAX, Duration::from_secs(5));
    equal("the connection ended", c.wire.ended, true)
}
