//! However a chunked body is cut, it decodes to the same bytes or the same error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::h1::chunked::{ChunkError, Decoder, Step};

fuzz_target!(|data: (u8, &[u8])| {
    let (piece, bytes) = data;
    assert_eq!(
        decode(bytes, usize::MAX),
        decode(bytes, usize::from(piece).max(1))
    );
});

fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let mut decoder = Decoder::default();
    let mut body = Vec::new();
    let mut at = 0;
    while at < bytes.len() && !decoder.is_ended() {
        let end = at.saturating_add(piece).min(bytes.len());
        match decoder.decode(&bytes[at..end])? {
            Step::Data { start, end } => {
                body.extend_from_slice(&bytes[at + start..at + end]);
                at += end;
            }
            Step::NeedMore => at = end,
            Step::End { consumed } => at += consumed,
        }
    }
    Ok((body, at, decoder.is_ended()))
}
