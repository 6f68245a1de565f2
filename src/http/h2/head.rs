//! The head of a response as HTTP/2 has it.

use std::cell::RefCell;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, SERVER};
use http::{HeaderMap, HeaderValue};

use crate::base::clock;
use crate::http::exchange::Exchange;
use crate::http::h1::encode;

use super::fields;

/// What a field costs beside its name and value when nothing is compressed, and a frame its head.
const OVERHEAD: u64 = 2;
const FRAME_HEAD: u64 = 9;

/// The fields of `ex.response` in nginx's order, and about how many bytes they take: what HPACK
/// saves is not known here.
pub fn fields(ex: &Exchange, length: Option<u64>) -> (HeaderMap, u64) {
    let response = &ex.response;
    let core = &ex.generation.location(ex.location).core;
    let mut map = HeaderMap::with_capacity(response.fields.len() + 5);
    if !response.keep_server {
        map.append(
            SERVER,
            HeaderValue::from_static(encode::server_name(core.server_tokens)),
        );
    }
    if !response.keep_date {
        map.append(DATE, date());
    }
    if let Some(content_type) = response.content_type
        && let Ok(value) = HeaderValue::from_bytes(content_type.of(&response.buf))
    {
        map.append(CONTENT_TYPE, value);
    }
    if let Some(length) = length {
        map.append(CONTENT_LENGTH, HeaderValue::from(length));
    }
    for field in &response.fields {
        if !field.is_hop_by_hop() {
            let (name, value) = (field.name.of(&response.buf), field.value.of(&response.buf));
            // One that HTTP/2 cannot show is not sent.
            fields::add(&mut map, name, value);
        }
    }
    let size = size(&map) + 1;
    (map, size)
}

/// The map of these fields. One that HTTP/2 cannot show is not in it.
pub fn map<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        fields::add(&mut map, name, value);
    }
    map
}

/// What the upstream sent behind its body, for the client, and about how many bytes that is.
pub fn trailers(ex: &Exchange) -> (Option<HeaderMap>, u64) {
    let response = &ex.response;
    if response.trailers.is_empty() || !response.passes_trailers {
        return (None, 0);
    }
    let map = map(response.passed_trailers());
    let size = size(&map);
    ((!map.is_empty()).then_some(map), size)
}

/// About how many bytes a frame with these fields takes.
fn size(map: &HeaderMap) -> u64 {
    let fields = map.iter();
    let sizes = fields.map(|(name, value)| name.as_str().len() as u64 + value.len() as u64);
    FRAME_HEAD + sizes.map(|size| size + OVERHEAD).sum::<u64>()
}

/// The date, made once a second.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<Option<(i64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let second = clock::wall().secs;
    LAST.with_borrow_mut(|last| {
        if let Some((of, value)) = last
            && *of == second
        {
            return value.clone();
        }
        let mut text = Vec::with_capacity(32);
        clock::http_date(&mut text);
        let value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""));
        *last = Some((second, value.clone()));
        value
    })
}
