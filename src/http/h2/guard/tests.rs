use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// A preface, SETTINGS, and what follows.
fn after(frames: &[Vec<u8>]) -> Vec<u8> {
    [
        PREFACE.to_vec(),
        frame(kind::SETTINGS, 0, 0, b""),
        frames.concat(),
    ]
    .concat()
}

fn verdict(bytes: &[u8]) -> Result<(), Reason> {
    Guard::new(16_384)
        .feed(bytes, 0)
        .map_err(|violation| violation.code)
}

#[track_caller]
fn refused(code: Reason, frames: &[Vec<u8>]) {
    assert_eq!(verdict(&after(frames)), Err(code));
}

/// `:method GET`, `:scheme http`, `:path /`.
const GET: &[u8] = &[0x82, 0x86, 0x84];

fn get(stream: u32) -> Vec<u8> {
    frame(
        kind::HEADERS,
        flag::END_STREAM | flag::END_HEADERS,
        stream,
        GET,
    )
}

fn post(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, GET)
}

fn data(stream: u32, flags: u8) -> Vec<u8> {
    frame(kind::DATA, flags, stream, b"body")
}

fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

#[test]
fn the_first_frame_is_settings() {
    assert_eq!(verdict(b"GET / HTTP/1.1\r\n"), Err(Reason::PROTOCOL_ERROR));
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let bytes = [PREFACE.to_vec(), ping.clone()].concat();
    assert_eq!(verdict(&bytes), Err(Reason::PROTOCOL_ERROR));
    assert_eq!(verdict(&after(&[ping])), Ok(()));
}

#[test]
fn lengths() {
    for (kind, length) in [
        (2, 4),
        (3, 5),
        (4, 5),
        (6, 7),
        (7, 7),
        (8, 3),
        (0xfa, 16_385),
    ] {
        refused(
            Reason::FRAME_SIZE_ERROR,
            &[post(1), frame(kind, 0, 1, &vec![0; length])],
        );
    }
    refused(
        Reason::FRAME_SIZE_ERROR,
        &[frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])],
    );
    assert_eq!(verdict(&after(&[frame(0xfa, 0, 0, &[0; 16_384])])), Ok(()));
}

#[test]
fn streams_that_are_idle_or_over() {
    refused(Reason::PROTOCOL_ERROR, &[data(1, 0)]);
    refused(Reason::PROTOCOL_ERROR, &[reset(1)]);
    refused(Reason::PROTOCOL_ERROR, &[post(1), data(2, 0)]);
    refused(Reason::PROTOCOL_ERROR, &[get(2)]);
    refused(Reason::PROTOCOL_ERROR, &[get(5), get(3)]);
    refused(Reason::STREAM_CLOSED, &[get(1), data(1, 0)]);
    refused(Reason::STREAM_CLOSED, &[get(1), get(1)]);
    refused(Reason::STREAM_CLOSED, &[post(1), reset(1), data(1, 0)]);
    refused(
        Reason::STREAM_CLOSED,
        &[post(1), data(1, flag::END_STREAM), data(1, 0)],
    );
    let window = frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    assert_eq!(
        verdict(&after(&[get(1), window, reset(1), reset(1)])),
        Ok(())
    );
    assert_eq!(
        verdict(&after(&[post(1), get(3), data(1, 0), data(1, 1)])),
        Ok(())
    );
}

#[test]
fn more_open_streams_than_are_known() {
    let mut frames: Vec<_> = (0..200).map(|at| post(at * 2 + 1)).collect();
    frames.extend((0..200).map(|at| data(at * 2 + 1, flag::END_STREAM)));
    assert_eq!(verdict(&after(&frames)), Ok(()));
    frames.push(data(399, 0));
    refused(Reason::STREAM_CLOSED, &frames);
}

#[test]
fn windows_and_dependencies() {
    let settings = |id, value: u32| {
        frame(
            kind::SETTINGS,
            0,
            0,
            &[&[0, 9, 0, 0, 0, 0, 0, id], &value.to_be_bytes()[..]].concat(),
        )
    };
    refused(Reason::FLOW_CONTROL_ERROR, &[settings(4, 1 << 31)]);
    assert_eq!(
        verdict(&after(&[settings(4, (1 << 31) - 1), settings(3, u32::MAX)])),
        Ok(())
    );
    refused(
        Reason::PROTOCOL_ERROR,
        &[frame(kind::PRIORITY, 0, 3, &[0x80, 0, 0, 3, 0])],
    );
    let head = [&[1, 0x80, 0, 0, 3, 0][..], GET, &[0]].concat();
    let flags = flag::PADDED | flag::PRIORITY | flag::END_HEADERS;
    refused(
        Reason::PROTOCOL_ERROR,
        &[frame(kind::HEADERS, flags, 3, &head)],
    );
    assert_eq!(
        verdict(&after(&[frame(kind::HEADERS, flags, 1, &head)])),
        Ok(())
    );
    refused(
        Reason::PROTOCOL_ERROR,
        &[frame(kind::HEADERS, flag::PADDED, 1, &[4, 0, 0, 0])],
    );
}

#[test]
fn header_blocks() {
    let block = |pieces: &[&[u8]]| {
        let last = pieces.len() - 1;
        let one = |(at, piece): (usize, &&[u8])| {
            let kind = if at == 0 {
                kind::HEADERS
            } else {
                kind::CONTINUATION
            };
            frame(
                kind,
                if at == last { flag::END_HEADERS } else { 0 },
                1,
                piece,
            )
        };
        after(&pieces.iter().enumerate().map(one).collect::<Vec<_>>())
    };
    for good in [
        &[GET][..],
        &[&[0x82], &[0x86], &[], &[0x84]],
        &[&[0x20, 0x3f], &[0xe1, 0x1f, 0x82]],
        &[&[0x40, 1, b'a', 1, b'b', 0xbe]],
        &[&[0x40, 0x81, 0x1f, 0x81, 0x1f, 0x7e, 0, 0xbe, 0xbf]],
        &[&[0x10, 1, b'a', 0]],
    ] {
        assert_eq!(verdict(&block(good)), Ok(()), "{good:?}");
    }
    for bad in [
        &[&[0x80][..]][..],
        &[&[0xbe]],
        &[&[0x7f, 0]],
        &[&[0x82, 0x20]],
        &[&[0x82], &[0x20]],
        &[&[0x3f, 0xe2, 0x1f]],
        &[&[0x40, 1, b'a', 1, b'b', 0x20, 0xbe]],
        &[&[0x40, 1, b'a', 1, b'b', 0xbf]],
        &[&[0x00, 1, b'a', 1, b'b', 0xbe]],
        &[&[0x82, 0xff]],
        &[&[0, 5, b'a']],
        &[&[0, 1, b'a', 0x81, 0xff]],
        &[&[0xff, 0xff, 0xff, 0xff, 0xff]],
    ] {
        assert_eq!(
            verdict(&block(bad)),
            Err(Reason::COMPRESSION_ERROR),
            "{bad:?}"
        );
    }
    let other = frame(kind::CONTINUATION, flag::END_HEADERS, 3, GET);
    refused(
        Reason::PROTOCOL_ERROR,
        &[frame(kind::HEADERS, 0, 1, GET), other.clone()],
    );
    refused(Reason::PROTOCOL_ERROR, &[other]);
}

#[test]
fn the_table_forgets_the_oldest() {
    let field = |length: usize| {
        let more = length - 127;
        let length = [0x7f, more as u8 | 0x80, (more >> 7) as u8];
        [&[0x40, 1, b'a'], &length[..], &vec![b'v'; more + 127]].concat()
    };
    let block = |fields: &[Vec<u8>]| frame(kind::HEADERS, flag::END_HEADERS, 1, &fields.concat());
    // 4096 = 2 × (32 + 1 + 2015); 4063 fills it alone.
    let fields = [field(2015), field(2015), vec![0xbf]];
    assert_eq!(verdict(&after(&[block(&fields)])), Ok(()));
    refused(
        Reason::COMPRESSION_ERROR,
        &[block(&[field(2015), field(2016), vec![0xbf]])],
    );
    assert_eq!(
        verdict(&after(&[block(&[field(4063), vec![0xbe]])])),
        Ok(())
    );
    refused(
        Reason::COMPRESSION_ERROR,
        &[block(&[field(200), field(4064), vec![0xbe]])],
    );
}

#[test]
fn trailers_have_no_pseudo_header_fields() {
    let end = flag::END_STREAM | flag::END_HEADERS;
    for block in [
        &[0x82][..],
        &[0, 2, b':', b'x', 0],
        &[0, 0x82, 0xb8, 0xff, 0],
        &[0x04, 0],
    ] {
        refused(
            Reason::PROTOCOL_ERROR,
            &[post(1), frame(kind::HEADERS, end, 1, block)],
        );
    }
    let fine = frame(kind::HEADERS, end, 1, &[0, 1, b'a', 0]);
    assert_eq!(verdict(&after(&[post(1), fine])), Ok(()));
}

#[test]
fn floods() {
    let kinds: [(u8, u32, &[u8]); 7] = [
        (kind::PING, 0, &[0; 8]),
        (kind::SETTINGS, 0, b""),
        (kind::SETTINGS, 0, &[0, 3, 0, 0, 0, 1]),
        (kind::PRIORITY, 1, &[0; 5]),
        (kind::WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (kind::DATA, 1, b""),
        (0xfa, 0, b""),
    ];
    for (kind, stream, payload) in kinds {
        let flood = after(&[post(1), frame(kind, 0, stream, payload).repeat(10_001)]);
        assert_eq!(verdict(&flood), Err(Reason::ENHANCE_YOUR_CALM), "{kind}");
        let some = after(&[post(1), frame(kind, 0, stream, payload).repeat(9_000)]);
        assert_eq!(verdict(&some), Ok(()), "{kind}");
    }
    // Grants that a client has reason for, and DATA.
    let grants = frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 4, 0]).repeat(100_000);
    let bytes = frame(kind::DATA, 0, 1, b"x").repeat(100_000);
    assert_eq!(verdict(&after(&[post(1), grants, bytes])), Ok(()));
}

#[test]
fn resets() {
    let cancelled = |count: u32, every: u32| {
        let one = |at| {
            let stream = at * 2 + 1;
            let ended = if at % every == 0 {
                reset(stream)
            } else {
                Vec::new()
            };
            [get(stream), ended].concat()
        };
        after(&(0..count).map(one).collect::<Vec<_>>())
    };
    assert_eq!(verdict(&cancelled(1_000, 1)), Ok(()));
    assert_eq!(
        verdict(&cancelled(2_000, 1)),
        Err(Reason::ENHANCE_YOUR_CALM)
    );
    assert_eq!(verdict(&cancelled(50_000, 4)), Ok(()));
}

#[test]
fn time_heals() {
    let mut guard = Guard::new(16_384);
    guard.feed(&after(&[]), 0).unwrap();
    let pings = frame(kind::PING, 0, 0, &[0; 8]).repeat(5_000);
    for second in 0..100 {
        guard.feed(&pings, second * 500).unwrap();
    }
    let violation = guard.feed(&pings.repeat(3), 50_000).unwrap_err();
    assert_eq!(violation.code, Reason::ENHANCE_YOUR_CALM);
    assert_eq!(guard.feed(b"more", 90_000), Err(violation));
}

#[test]
fn what_stands_unfinished_is_known() {
    let mut guard = Guard::new(16_384);
    guard.feed(&after(&[post(1)]), 10).unwrap();
    assert_eq!(guard.unfinished_since(), None);
    let start = frame(kind::HEADERS, 0, 3, GET);
    guard.feed(&start[..4], 20).unwrap();
    guard.feed(&start[4..], 30).unwrap();
    let rest = frame(kind::CONTINUATION, flag::END_HEADERS, 3, GET);
    guard.feed(&rest[..5], 40).unwrap();
    assert_eq!(guard.unfinished_since(), Some(20));
    guard.feed(&rest[5..], 50).unwrap();
    assert_eq!(guard.unfinished_since(), None);
    guard.feed(&data(1, 0)[..HEAD + 1], 60).unwrap();
    assert_eq!(guard.unfinished_since(), None);
}

/// Frames that are mostly right.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let block = prop_oneof![
        Just(GET.to_vec()),
        Just(vec![0x40, 1, b'a', 1, b'b']),
        Just(vec![0xbe]),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let flags = prop_oneof![Just(4u8), Just(5), Just(0), any::<u8>()];
    prop_oneof![
        4 => (0u32..12, flags.clone(), block.clone()).prop_map(|(s, f, b)| frame(1, f, s, &b)),
        1 => (0u32..12, flags.clone(), block).prop_map(|(s, f, b)| frame(9, f, s, &b)),
        2 => (0u32..12, flags, 0usize..300).prop_map(|(s, f, n)| frame(0, f, s, &vec![0; n])),
        1 => (0u32..12).prop_map(reset),
        1 => (any::<u8>(), any::<u8>(), 0u32..3, proptest::collection::vec(any::<u8>(), 0..13))
            .prop_map(|(k, f, s, p)| frame(k % 12, f, s, &p)),
    ]
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_how_bytes_are_cut(
        frames in proptest::collection::vec(some_frame(), 0..12),
        pieces in proptest::collection::vec(1usize..9, 1..30),
    ) {
        let bytes = after(&frames);
        let whole = Guard::new(16_384).feed(&bytes, 0);
        let mut guard = Guard::new(16_384);
        let (mut rest, mut cut) = (&bytes[..], Ok(()));
        for size in pieces.iter().cycle() {
            if rest.is_empty() || cut.is_err() {
                break;
            }
            cut = guard.feed(split(&mut rest, *size), 0);
        }
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Guard::new(16_384).feed(&[&PREFACE[..], &bytes].concat(), 0);
    }
}
