//! RFC 9113: 10.5 (denial of service). What makes a server work for nothing ends with
//! ENHANCE_YOUR_CALM, and what good clients do does not.

use crate::common::frames::{
    Check, H2, code::*, equal, flag::*, frame, kind, kind::*, setting::*, settings,
};
use crate::common::hpack::{self, index, indexed_literal};
use crate::common::skip_on_nginx;
use crate::h2_conformance::{Case, Over, run};

#[test]
fn over_tcp() {
    if !skip_on_nginx("it has other limits") {
        run(Over::Tcp, CASES);
    }
}

#[test]
fn over_tls() {
    if !skip_on_nginx("it has other limits") {
        run(Over::Tls, CASES);
    }
}

const CASES: &[Case] = &[
    ("10.5 PING", |c| flood(c, |_| frame(PING, 0, 0, &[0; 8]))),
    ("10.5 PING with ACK", |c| {
        flood(c, |_| frame(PING, ACK, 0, &[0; 8]))
    }),
    ("10.5 empty SETTINGS", |c| {
        flood(c, |_| frame(SETTINGS, 0, 0, b""))
    }),
    ("10.5 SETTINGS that change windows to and fro", |c| {
        c.get(1, "/hold");
        flood(c, |at| {
            frame(SETTINGS, 0, 0, &settings(&[(INITIAL_WINDOW_SIZE, at)]))
        })
    }),
    ("10.5 PRIORITY", |c| {
        flood(c, |at| frame(kind::PRIORITY, 0, at * 2 + 1, &[0; 5]))
    }),
    ("10.5 WINDOW_UPDATE by 1", |c| {
        flood(c, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))
    }),
    ("10.5 unknown frames", |c| {
        flood(c, |_| frame(0xfa, 0, 0, b""))
    }),
    ("10.5 GOAWAY", |c| {
        // After the first of them the server may leave.
        c.wire
            .send(&frame(GOAWAY, 0, 0, &[0; 8]).repeat(FRAMES as usize));
        c.connection_error(&[NO_ERROR, ENHANCE_YOUR_CALM])
    }),
    ("10.5 RST_STREAM on a closed stream", |c| {
        c.get(1, "/ok");
        c.status(1, 200)?;
        flood(c, |_| frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()))
    }),
    ("10.5 empty DATA", |c| {
        c.post(1, "/hold");
        flood(c, |_| frame(DATA, 0, 1, b""))
    }),
    ("10.5 requests that are reset at once", |c| {
        let get = hpack::block(&c.request("GET", "/hold", &[]));
        begin_all(c);
        flood(c, |at| {
            let stream = at * 2 + 1;
            let reset = frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
            [frame(HEADERS, WHOLE, stream, &get), reset].concat()
        })
    }),
    ("10.5 requests that make the server reset them", |c| {
        let post = hpack::block(&c.request("POST", "/hold", &[]));
        begin_all(c);
        flood(c, |at| {
            let stream = at * 2 + 1;
            let window = frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
            [frame(HEADERS, END_HEADERS, stream, &post), window].concat()
        })
    }),
    ("10.5 malformed requests", |c| {
        let post = hpack::block(&c.request("GET", "/", &[("te", "gzip")]));
        begin_all(c);
        flood(c, |at| frame(HEADERS, WHOLE, at * 2 + 1, &post))
    }),
    ("10.5 requests beyond the limit", |c| {
        let get = hpack::block(&c.request("GET", "/hold", &[]));
        begin_all(c);
        flood(c, |at| frame(HEADERS, WHOLE, at * 2 + 1, &get))
    }),
    ("10.5.1 CONTINUATION without end", |c| {
        c.expect(1);
        c.frame(HEADERS, 0, 1, b"");
        flood(c, |_| frame(CONTINUATION, 0, 1, b""))
    }),
    ("10.5.1 fields without end", |c| {
        let piece = hpack::literal(b"x-a", &[b'v'; 1000]).repeat(16);
        c.expect(1);
        c.frame(HEADERS, 0, 1, b"");
        flood(c, |_| frame(CONTINUATION, 0, 1, &piece))
    }),
    ("10.5.1 a string without end", |c| {
        c.expect(1);
        c.frame(HEADERS, 0, 1, &[0, 1, b'a', 0x7f, 0xff, 0xff, 0xff, 0x3f]);
        flood(c, |_| frame(CONTINUATION, 0, 1, &[b'v'; 16_384]))
    }),
    ("10.5.1 a small block that means 60 MB", |c| {
        let request = hpack::block(&c.request("GET", "/", &[]));
        let field = indexed_literal(b"x-a", &[b'v'; 4000]);
        let block = [request, field, index(62).repeat(12_000)].concat();
        c.block(1, WHOLE, &block);
        match c.wait("an answer", |c| (c.streams[&1].status() > 0).then_some(())) {
            Ok(()) => equal("refused", matches!(c.streams[&1].status(), 400 | 431), true),
            Err(_) => c.connection_error(&[ENHANCE_YOUR_CALM]),
        }
    }),
    ("10.5 a client that pings with each request", |c| {
        for at in 0..800 {
            c.frame(PING, 0, 0, &[7; 8]);
            c.get(at * 2 + 1, "/ok");
            c.status(at * 2 + 1, 200)?;
        }
        c.alive()
    }),
    ("10.5 a client that often cancels", |c| {
        for at in 0..300 {
            let stream = at * 4 + 1;
            c.get(stream, "/hold");
            c.frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
            c.get(stream + 2, "/ok");
            c.status(stream + 2, 200)?;
        }
        c.alive()
    }),
];

/// All streams may get answers.
fn begin_all(c: &mut H2) {
    (0..FRAMES).for_each(|at| _ = c.expect(at * 2 + 1));
}

const FRAMES: u32 = 40_000;

/// Send this again and again, and expect to be told off.
fn flood(c: &mut H2, mut next: impl FnMut(u32) -> Vec<u8>) -> Check {
    for from in (0..FRAMES).step_by(200) {
        let frames: Vec<Vec<u8>> = (from..from + 200).map(&mut next).collect();
        let settings = frames
            .iter()
            .filter(|frame| frame[3] == SETTINGS && frame[4] == 0);
        settings.for_each(|_| c.expect_ack());
        c.wire.send(&frames.concat());
        if c.wire.ended {
            break;
        }
    }
    c.connection_error(&[ENHANCE_YOUR_CALM])
}
