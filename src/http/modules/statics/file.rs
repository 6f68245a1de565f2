//! The answer that a regular file makes: whole, in parts, or not at all where the client has it.

use std::io::Write;
use std::ops::Range;

use crate::base::clock;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::modules::gzip;
use crate::http::phases::{Finish, Outcome};
use crate::http::respond::{Output, Reply};
use crate::http::token::Token;
use crate::ring::{File, Metadata};

use super::conditional::{self, Verdict};
use super::range::{self, Multipart, Selection};
use super::send::{self, Part};
use super::{Conf, name_charset};

/// The file to answer with.
pub struct Found {
    /// The open file.
    pub file: File,
    /// What it is.
    pub metadata: Metadata,
    /// It was compressed beforehand.
    pub packed: bool,
    /// Another client may get the file compressed, or not.
    pub varies: bool,
}

/// Answers with the file.
pub async fn respond(ex: &mut Exchange, client: &mut Client, conf: &Conf, found: Found) -> Outcome {
    ex.doing = "sending response to client";
    let mut etag = ex.store.lend();
    describe(ex, conf, &found, &mut etag);
    let tag = conf.etag.then_some(&etag[..]);
    // A file that stands for an error is sent as it is.
    let plain = ex
        .response
        .status_override
        .is_none_or(|status| status == 200);
    let verdict = match plain {
        true => conditional::check(
            &ex.request,
            found.metadata.modified,
            tag,
            conf.modified_since,
        ),
        false => Verdict::Send,
    };
    let ranged = plain && !found.packed && conf.max_ranges > 0;
    let selection = match verdict {
        Verdict::Send if ranged && !is_compressed(ex) => {
            let Metadata { modified, size, .. } = found.metadata;
            range::select(&ex.request, size, modified, tag, conf.max_ranges)
        }
        _ => Selection::Whole,
    };
    ex.store.give_back(etag);
    match verdict {
        Verdict::Failed => Outcome::Answer(Reply::status(412)),
        Verdict::NotModified => Outcome::Finished(not_modified(ex, client).await),
        Verdict::Send => {
            if ranged && selection == Selection::Whole {
                ex.response
                    .push_field(Token::AcceptRanges, b"Accept-Ranges", b"bytes");
            }
            send_selection(ex, client, conf, &found, selection).await
        }
    }
}

/// Fills the head: type, coding and validators. `etag` gets the entity tag.
fn describe(ex: &mut Exchange, conf: &Conf, found: &Found, etag: &mut Vec<u8>) {
    let generation = ex.generation();
    let location = generation.location(ex.location);
    let Metadata { modified, size, .. } = found.metadata;
    ex.response.clear_answer();
    ex.response.status = 200;
    let types = &location.core.types;
    let content_type = types
        .of(&ex.request.uri)
        .unwrap_or(&location.core.default_type);
    ex.response.set_local_type(content_type);
    if found.varies && location.gzip.is_varying() {
        gzip::add_vary(&mut ex.response);
    }
    let mut date = ex.store.lend();
    clock::format_http_date(modified, &mut date);
    ex.response
        .push_field(Token::LastModified, b"Last-Modified", &date);
    ex.store.give_back(date);
    if conf.etag {
        // Writing to memory does not fail.
        let _ = write!(etag, "\"{modified:x}-{size:x}\"");
        ex.response.push_field(Token::ETag, b"ETag", etag);
    }
    if found.packed {
        ex.response
            .push_field(Token::ContentEncoding, b"Content-Encoding", b"gzip");
    }
}

/// Whether the response is going to leave compressed, so that ranges of it mean nothing.
fn is_compressed(ex: &Exchange) -> bool {
    ex.request.field(Token::Range).is_some()
        && gzip::applies(ex, &ex.generation.location(ex.location).gzip)
}

async fn not_modified(ex: &mut Exchange, client: &mut Client) -> Finish {
    ex.response.status = 304;
    ex.response.content_type = None;
    ex.response
        .fields
        .retain(|f| f.token != Token::ContentEncoding);
    match Output::start(ex, client).await {
        Ok(output) => output.finish(ex, client, true).await,
        Err(_) => Finish::Truncated,
    }
}

async fn send_selection(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    found: &Found,
    selection: Selection,
) -> Outcome {
    let size = found.metadata.size;
    let bare = |range| Part {
        head: Vec::new(),
        range,
    };
    let finish = match selection {
        Selection::Unsatisfiable => {
            return Outcome::Answer(Reply {
                length: Some(size),
                ..Reply::status(416)
            });
        }
        Selection::Whole => send::run(ex, client, &found.file, &[bare(0..size)], &[]).await,
        Selection::Parts(parts) => {
            ex.response.status = 206;
            match &parts[..] {
                [part] => {
                    let value = range::content_range(part, size);
                    let name = b"Content-Range";
                    ex.response
                        .push_field(Token::ContentRange, name, value.as_bytes());
                    send::run(ex, client, &found.file, &[bare(part.clone())], &[]).await
                }
                parts => send_parts(ex, client, conf, found, parts).await,
            }
        }
    };
    Outcome::Finished(finish)
}

async fn send_parts(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    found: &Found,
    ranges: &[Range<u64>],
) -> Finish {
    name_charset(ex, conf);
    let multipart = Multipart::new();
    let content_type = ex.response.content_type.map(|t| t.of(&ex.response.buf));
    let part = |range: &Range<u64>| Part {
        head: multipart.head(range, found.metadata.size, content_type),
        range: range.clone(),
    };
    let parts: Vec<Part> = ranges.iter().map(part).collect();
    ex.response
        .set_content_type(multipart.content_type().as_bytes());
    send::run(ex, client, &found.file, &parts, &multipart.tail()).await
}
