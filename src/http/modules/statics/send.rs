//! Sending parts of a file.

use std::io;
use std::ops::Range;

use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::phases::Finish;
use crate::http::respond::{self, ClientGone, Output};
use crate::observe::{Level, os_error};
use crate::ring::{self, File, Side};

/// Parts from this size on are spliced; below it copying is cheaper than the pipe.
const SPLICE_MIN: u64 = 64 << 10;
/// Bytes read at once where they pass through memory.
const PIECE: u64 = 32 << 10;

/// Bytes of a file, and what comes before them.
pub struct Part {
    /// Sent before the bytes.
    pub head: Vec<u8>,
    /// Where the bytes are.
    pub range: Range<u64>,
}

/// How a part ended.
enum End {
    Complete,
    /// The file is shorter than it was, or cannot be read.
    Short,
}

/// Sends `ex.response` with these parts of the file and `tail` after them.
pub async fn run(
    ex: &mut Exchange,
    client: &mut Client,
    file: &File,
    parts: &[Part],
    tail: &[u8],
) -> Finish {
    let size = |part: &Part| part.head.len() as u64 + part.range.end - part.range.start;
    ex.response.content_length = Some(parts.iter().map(size).sum::<u64>() + tail.len() as u64);
    let Ok(mut output) = Output::start(ex, client).await else {
        return Finish::Truncated;
    };
    if output.is_bodiless() {
        return output.finish(ex, client, true).await;
    }
    for part in parts {
        output.push(ex, &part.head);
        match send_part(ex, client, &mut output, file, part.range.clone()).await {
            Ok(End::Complete) => {}
            Ok(End::Short) => return output.finish(ex, client, false).await,
            Err(ClientGone) => {
                respond::log_client_gone(ex, client);
                ex.keepalive = false;
                return Finish::Truncated;
            }
        }
    }
    output.push(ex, tail);
    output.finish(ex, client, true).await
}

async fn send_part(
    ex: &mut Exchange,
    client: &mut Client,
    output: &mut Output,
    file: &File,
    range: Range<u64>,
) -> Result<End, ClientGone> {
    let length = range.end - range.start;
    if !output.is_plain() || client.direct().is_none() || length < SPLICE_MIN {
        return copy(ex, client, output, file, range).await;
    }
    output.flush(client).await?;
    let Some(sock) = client.direct() else {
        return Err(ClientGone);
    };
    let timeout_ms = output.send_timeout_ms();
    let sent = ring::splice_file(file, range.start, sock, length, timeout_ms, |_| {}).await;
    match sent {
        Ok(moved) => {
            output.passed(ex, moved);
            if moved == length {
                return Ok(End::Complete);
            }
            Ok(fell_short(ex, None))
        }
        Err(failure) => {
            output.passed(ex, failure.moved);
            if failure.side == Side::Write {
                return Err(ClientGone);
            }
            Ok(fell_short(ex, Some(&failure.error)))
        }
    }
}

async fn copy(
    ex: &mut Exchange,
    client: &mut Client,
    output: &mut Output,
    file: &File,
    range: Range<u64>,
) -> Result<End, ClientGone> {
    let mut at = range.start;
    let mut piece = Vec::new();
    while at < range.end {
        piece.reserve_exact((range.end - at).min(PIECE) as usize);
        let (result, read) = file.read_at(piece, at).await;
        piece = read;
        match result {
            Ok(0) => return Ok(fell_short(ex, None)),
            Ok(_) => {}
            Err(error) => return Ok(fell_short(ex, Some(&error))),
        }
        // The buffer may have more room than was asked for.
        piece.truncate(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        at += piece.len() as u64;
        output.push(ex, &piece);
        piece.clear();
        if output.pending() as u64 >= PIECE {
            output.flush(client).await?;
        }
    }
    Ok(End::Complete)
}

/// Logs why there is less of the file than was promised: it failed, or got shorter.
fn fell_short(ex: &Exchange, error: Option<&io::Error>) -> End {
    match error {
        Some(error) => {
            let shown = os_error(error);
            ex.log(Level::Crit, format_args!("read() failed {shown}"));
        }
        None => {
            let message = format_args!("file was truncated while it was sent");
            ex.log(Level::Alert, message);
        }
    }
    End::Short
}
