//! Parsing heads: the first thing every request pays for.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::http::h1::head::{
    HeadLimits, Parsed, RequestHead, ResponseHead, parse_request, parse_response,
};
use ringway::http::h1::{connection, encode, framing, host, target};
use ringway::http::message::Method;
use ringway::http::uri;

const SMALL: &[u8] = b"GET /api/v1/items/42?fields=name HTTP/1.1\r\n\
Host: gateway.example.com\r\n\
User-Agent: oha/1.4.5 (linux; x86_64)\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Encoding: gzip, br\r\n\
Connection: keep-alive\r\n\r\n";

const BROWSER: &[u8] = b"GET /assets/app.js HTTP/1.1\r\n\
Host: www.example.com\r\n\
Connection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"120\", \"Not:A-Brand\";v=\"8\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0\r\n\
Accept: */*\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: no-cors\r\n\
Sec-Fetch-Dest: script\r\n\
Referer: https://www.example.com/index.html\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; _ga=GA1.2.1234567890.1234567890\r\n\
If-None-Match: \"5f3a-1b2c\"\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Content-Type: application/json; charset=utf-8\r\n\
Content-Length: 100\r\n\
ETag: W/\"64-abcdef\"\r\n\
Date: Sat, 21 Nov 2026 15:00:00 GMT\r\n\
Connection: keep-alive\r\n\
Keep-Alive: timeout=5\r\n\r\n";

fn heads(c: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut group = c.benchmark_group("head");
    for (name, bytes) in [
        ("request of 5 fields", SMALL),
        ("request of 15 fields", BROWSER),
    ] {
        let mut head = RequestHead::default();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                head.clear();
                let parsed = parse_request(black_box(bytes), &limits, &mut head);
                assert_eq!(parsed, Ok(Parsed::Complete));
            })
        });
    }
    let mut head = ResponseHead::default();
    let limits = HeadLimits::response(4096);
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response of 6 fields", |b| {
        b.iter(|| {
            head.clear();
            let parsed = parse_response(black_box(RESPONSE), &limits, &mut head);
            assert_eq!(parsed, Ok(Parsed::Complete));
            black_box(framing::response(Method::Get, RESPONSE, &head))
        })
    });
}

fn decisions(c: &mut Criterion) {
    let mut head = RequestHead::default();
    let parsed = parse_request(SMALL, &HeadLimits::default(), &mut head);
    assert_eq!(parsed, Ok(Parsed::Complete));
    let mut path = Vec::with_capacity(64);
    c.bench_function("framing, connection, target, host and URI", |b| {
        b.iter(|| {
            path.clear();
            let buf = black_box(SMALL);
            let framing = framing::request(buf, &head);
            let options = connection::scan(buf, &mut head.fields);
            let target = target::parse(buf, head.target, head.method).expect("origin form");
            let host = host::of_request(buf, &head, &target);
            let uri = uri::normalize(head.target.of(buf), true, &mut path);
            black_box((framing, options, host, uri))
        })
    });
}

fn answers(c: &mut Criterion) {
    let mut out = Vec::with_capacity(512);
    let mut date = encode::DateLine::default();
    c.bench_function("head of an answer", |b| {
        b.iter(|| {
            out.clear();
            encode::status_line(&mut out, black_box(404));
            encode::server(&mut out, true);
            out.extend_from_slice(date.at(1_795_000_000));
            encode::field(&mut out, b"Content-Type", b"text/html");
            encode::content_length(&mut out, black_box(153));
            out.extend_from_slice(encode::CONNECTION_KEEP_ALIVE);
            out.extend_from_slice(b"\r\n");
            black_box(out.len())
        })
    });
}

criterion_group!(benches, heads, decisions, answers);
criterion_main!(benches);
