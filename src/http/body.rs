//! The request's body: from the client into memory, into a file, or straight through.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, StatusCode};

use crate::base::clock;
use crate::observe::Level;
use crate::ring::{Chunk, Expect, File};

use super::client::Client;
use super::exchange::Exchange;
use super::h1::chunked::{Decoder, Step};
use super::h1::framing::Framing;
use super::message::Version;
use super::token::Token;

/// Where the body of a request is.
#[derive(Default)]
pub enum RequestBody {
    /// There is none, or all of it was taken.
    #[default]
    None,
    /// Still at the client, `Length(n)`: n bytes to come.
    Length(u64),
    /// Still at the client, chunked.
    Chunked {
        /// Where it stands in the coding.
        decoder: Box<Decoder>,
        /// Body bytes so far.
        total: u64,
    },
    /// Still at the client, which says where it ends when it ends. HTTP/2.
    Open {
        /// Body bytes so far.
        total: u64,
    },
    /// Read as a whole.
    Memory(Vec<u8>),
    /// Read as a whole, too large for memory.
    File {
        /// Unlinked when it was made; gone when this is dropped.
        file: File,
        /// Bytes in it.
        length: u64,
    },
}

/// Why a body could not be read.
#[derive(Debug)]
pub enum BodyError {
    /// Larger than `client_max_body_size`: 413. What was there before, and what came to it.
    TooLarge { had: u64, more: u64 },
    /// The chunked coding is broken: 400.
    Malformed,
    /// Nothing came for `client_body_timeout`: 408.
    TimedOut,
    /// The client has gone: 499, nobody will read an answer.
    Gone,
    /// The temporary file failed: 500.
    File(io::Error),
}

impl BodyError {
    /// The status that the client gets.
    pub fn status(&self) -> u16 {
        match self {
            BodyError::TooLarge { .. } => 413,
            BodyError::Malformed => 400,
            BodyError::TimedOut => 408,
            BodyError::Gone => 499,
            BodyError::File(_) => 500,
        }
    }
}

impl RequestBody {
    /// The body as its framing announces it.
    pub fn announced(framing: Framing) -> Self {
        match framing {
            Framing::None => RequestBody::None,
            Framing::Length(0) => RequestBody::None,
            Framing::Length(n) => RequestBody::Length(n),
            Framing::Chunked => RequestBody::Chunked {
                decoder: Box::default(),
                total: 0,
            },
            // A request cannot be framed by the end of its connection.
            Framing::Close => RequestBody::None,
        }
    }

    /// Whether bytes of it are still to be read from the client.
    pub fn is_unread(&self) -> bool {
        matches!(
            self,
            RequestBody::Length(_) | RequestBody::Chunked { .. } | RequestBody::Open { .. }
        )
    }
}

/// Answers `Expect: 100-continue` when the body is wanted and none of it has come yet.
///
/// # Errors
/// What send(2) reported.
pub async fn send_continue(ex: &Exchange, client: &mut Client) -> io::Result<()> {
    let expects = ex.request.field(Token::Expect);
    if expects.is_none_or(|e| !e.eq_ignore_ascii_case(b"100-continue"))
        || !ex.request.body.is_unread()
        || ex.request.head.version < Version::Http11
        || !client.input.is_empty()
    {
        return Ok(());
    }
    if let Some(stream) = client.stream_mut() {
        return stream.send_interim(StatusCode::CONTINUE, HeaderMap::new());
    }
    let mut out = client.take_out().await?;
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    client
        .send(
            out,
            ex.generation.location(ex.location).core.send_timeout_ms,
        )
        .await
}

/// Reads the next piece of an unread body; `None` when it is complete.
///
/// # Errors
/// See [`BodyError`]; `client_max_body_size` is enforced here for chunked bodies.
pub async fn next_piece(
    ex: &mut Exchange,
    client: &mut Client,
) -> Result<Option<Chunk>, BodyError> {
    let timeout = ex
        .generation
        .location(ex.location)
        .core
        .client_body_timeout_ms;
    let mut is_waiting = false;
    poll_fn(|cx| {
        let piece = poll_piece(cx, ex, client);
        if piece.is_pending() && !std::mem::replace(&mut is_waiting, true) {
            client.set_deadline(Some(clock::now_ms() + timeout));
        } else if piece.is_ready() && is_waiting {
            client.set_deadline(None);
        }
        piece
    })
    .await
}

/// As [`next_piece`], for whoever watches over the time the client takes.
///
/// # Errors
/// As [`next_piece`].
pub fn poll_piece(
    cx: &mut Context<'_>,
    ex: &mut Exchange,
    client: &mut Client,
) -> Poll<Result<Option<Chunk>, BodyError>> {
    loop {
        if let Some(step) = take_piece(ex, client)? {
            return Poll::Ready(Ok(step));
        }
        let received = ready!(client.poll_read(cx, Expect::Later));
        let chunk = match received {
            Ok(chunk) if !chunk.is_empty() => chunk,
            Ok(_) if matches!(ex.request.body, RequestBody::Open { .. }) => {
                ex.request.body = RequestBody::None;
                return Poll::Ready(Ok(None));
            }
            _ if client.timed_out() => return Poll::Ready(Err(BodyError::TimedOut)),
            _ => return Poll::Ready(Err(BodyError::Gone)),
        };
        if matches!(ex.request.body, RequestBody::Open { .. }) {
            return Poll::Ready(take_open(ex, chunk).map(Some));
        }
        if let RequestBody::Length(left) = &mut ex.request.body
            && chunk.len() as u64 <= *left
            && client.input.is_empty()
        {
            *left -= chunk.len() as u64;
            ex.request.length += chunk.len() as u64;
            return Poll::Ready(Ok(Some(chunk)));
        }
        client.input.extend_from_slice(&chunk);
    }
}

/// Whether it is known that the piece taken last was the last one. It is taken note of then.
pub fn has_ended(ex: &mut Exchange, client: &Client) -> bool {
    let has_ended = match ex.request.body {
        RequestBody::Length(0) => true,
        RequestBody::Open { .. } => client.has_ended(),
        _ => false,
    };
    if has_ended {
        ex.request.body = RequestBody::None;
    }
    has_ended
}

/// Counts a piece of a body that has no length of its own.
fn take_open(ex: &mut Exchange, piece: Chunk) -> Result<Chunk, BodyError> {
    let core = &ex.generation.location(ex.location).core;
    let more = piece.len() as u64;
    ex.request.length += more;
    if let RequestBody::Open { total } = &mut ex.request.body {
        *total += more;
        let (limit, had) = (core.client_max_body_size, *total - more);
        if limit > 0 && *total > limit {
            return Err(BodyError::TooLarge { had, more });
        }
    }
    Ok(piece)
}

/// A piece out of what was received already: `Some(None)` is the end, `None` needs more.
fn take_piece(ex: &mut Exchange, client: &mut Client) -> Result<Option<Option<Chunk>>, BodyError> {
    let limit = ex
        .generation
        .location(ex.location)
        .core
        .client_max_body_size;
    let request = &mut ex.request;
    match &mut request.body {
        RequestBody::Length(0) => {
            request.body = RequestBody::None;
            Ok(Some(None))
        }
        RequestBody::Length(left) => {
            if client.input.is_empty() {
                return Ok(None);
            }
            let n = client
                .input
                .len()
                .min(usize::try_from(*left).unwrap_or(usize::MAX));
            let piece = Chunk::from(client.input[..n].to_vec());
            client.input.drain(..n);
            *left -= n as u64;
            request.length += n as u64;
            Ok(Some(Some(piece)))
        }
        RequestBody::Chunked { decoder, total } => {
            let mut piece = Vec::new();
            let mut used = 0;
            let end = loop {
                match decoder
                    .decode(&client.input[used..])
                    .map_err(|_| BodyError::Malformed)?
                {
                    Step::Data { start, end } => {
                        piece.extend_from_slice(&client.input[used..][start..end]);
                        used += end;
                    }
                    Step::NeedMore => {
                        used = client.input.len();
                        break false;
                    }
                    Step::End { consumed } => {
                        used += consumed;
                        break true;
                    }
                }
            };
            client.input.drain(..used);
            request.length += used as u64;
            *total += piece.len() as u64;
            if limit > 0 && *total > limit {
                let more = piece.len() as u64;
                let had = *total - more;
                return Err(BodyError::TooLarge { had, more });
            }
            if end && piece.is_empty() {
                request.body = RequestBody::None;
                return Ok(Some(None));
            }
            if end {
                request.body = RequestBody::Length(0);
            }
            Ok((!piece.is_empty()).then(|| Some(Chunk::from(piece))))
        }
        RequestBody::Open { .. } => Ok(None),
        RequestBody::None | RequestBody::Memory(_) | RequestBody::File { .. } => Ok(Some(None)),
    }
}

/// Reads the whole body: into memory up to `client_body_buffer_size`, the rest into a file.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_whole(ex: &mut Exchange, client: &mut Client) -> Result<(), BodyError> {
    if !ex.request.body.is_unread() {
        return Ok(());
    }
    send_continue(ex, client)
        .await
        .map_err(|_| BodyError::Gone)?;
    let generation = ex.generation();
    let core = &generation.location(ex.location).core;
    let mut memory = ex.store.lend();
    take_received(ex, client, core.client_body_buffer_size, &mut memory);
    let mut spool: Option<(File, u64)> = None;
    while let Some(piece) = next_piece(ex, client).await? {
        if spool.is_none() && memory.len() + piece.len() > core.client_body_buffer_size.max(1) {
            ex.log(
                Level::Warn,
                format_args!("a client request body is buffered to a temporary file"),
            );
            let dir = &core.client_body_temp_path;
            let file = File::temporary(dir).await.map_err(BodyError::File)?;
            let head = std::mem::take(&mut memory);
            let length = head.len() as u64;
            let file = if head.is_empty() {
                file
            } else {
                append(file, head.into(), 0).await?
            };
            spool = Some((file, length));
        }
        match spool.take() {
            Some((file, length)) => {
                let n = piece.len() as u64;
                spool = Some((append(file, piece, length).await?, length + n));
            }
            None => memory.extend_from_slice(&piece),
        }
    }
    ex.request.body = match spool {
        Some((file, length)) => RequestBody::File { file, length },
        None => RequestBody::Memory(memory),
    };
    Ok(())
}

/// Moves what was received already of a body of known length into `memory`, up to `limit` bytes.
fn take_received(ex: &mut Exchange, client: &mut Client, limit: usize, memory: &mut Vec<u8>) {
    let RequestBody::Length(left) = &mut ex.request.body else {
        return;
    };
    let n = (client.input.len().min(limit) as u64).min(*left);
    memory.extend_from_slice(&client.input[..n as usize]);
    client.input.drain(..n as usize);
    *left -= n;
    ex.request.length += n;
}

async fn append(file: File, piece: Chunk, at: u64) -> Result<File, BodyError> {
    let (result, _) = file.write_at(piece, at).await;
    result.map_err(BodyError::File)?;
    Ok(file)
}

/// Reads and throws away what is left of the body, so that the next request can be found.
///
/// # Errors
/// See [`BodyError`].
pub async fn discard(ex: &mut Exchange, client: &mut Client) -> Result<(), BodyError> {
    while ex.request.body.is_unread() {
        if next_piece(ex, client).await?.is_none() {
            break;
        }
    }
    Ok(())
}
