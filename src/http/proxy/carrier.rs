//! What an answer comes on: a connection of its own, or a stream of one that is shared.

use std::io;
use std::task::{Context, Poll};

use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::ring::{Chunk, Class, Socket};
use crate::upstream::Kept;

use super::connection::UpstreamConn;
use super::h2::stream::Stream;
use super::h2::upload::Stuck;

/// One or the other.
pub enum Carrier {
    /// HTTP/1.1
    Connection(Kept<Box<UpstreamConn>>),
    /// HTTP/2
    Stream(Box<Stream>),
}

impl Carrier {
    /// Sets the moment, in monotonic milliseconds, at which reading ends; `None` for never.
    pub fn set_deadline(&self, at_ms: Option<u64>) {
        match self {
            Carrier::Connection(kept) => kept.conn.set_deadline(at_ms),
            Carrier::Stream(stream) => stream.set_deadline(at_ms),
        }
    }

    /// Whether that has come to pass.
    pub fn timed_out(&self) -> bool {
        match self {
            Carrier::Connection(kept) => kept.conn.timed_out(),
            Carrier::Stream(stream) => stream.timed_out(),
        }
    }

    /// The socket, if bytes may be moved past this type as they are (splice).
    pub fn direct(&self) -> Option<&Socket> {
        match self {
            Carrier::Connection(kept) => kept.conn.direct(),
            Carrier::Stream(_) => None,
        }
    }

    /// Whether nothing receives from it, so that the bytes may be moved another way.
    pub fn is_quiet(&self) -> bool {
        match self {
            Carrier::Connection(kept) => kept.conn.is_quiet(),
            Carrier::Stream(_) => false,
        }
    }

    /// Starts a read with the given class of buffer if none is in flight.
    pub fn listen(&mut self, class: Class) {
        if let Carrier::Connection(kept) = self {
            kept.conn.listen(class);
        }
    }

    /// Waits for the next bytes. An empty chunk is the end, or says that the deadline has passed.
    ///
    /// # Errors
    /// What ended the connection or the stream before its time.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Carrier::Connection(kept) => kept.conn.poll_read(cx),
            Carrier::Stream(stream) => stream.poll_read(cx),
        }
    }

    /// Goes on sending the request's body, where that goes on while the answer comes. `None` where
    /// it does not, and when all is sent.
    pub fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        ex: &mut Exchange,
        client: &mut Client,
    ) -> Option<Poll<Stuck>> {
        match self {
            Carrier::Stream(stream) => match stream.poll_upload(cx, ex, client) {
                Poll::Ready(Ok(())) => None,
                Poll::Ready(Err(stuck)) => Some(Poll::Ready(stuck)),
                Poll::Pending => Some(Poll::Pending),
            },
            Carrier::Connection(_) => None,
        }
    }
}
