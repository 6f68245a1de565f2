//! A body of known length from one descriptor to another through a pipe.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::engine;
use super::file::File;
use super::pipe::Pipe;
use super::poll::Readiness;
use super::socket::Socket;
use crate::base::clock;

/// Limits of one transfer.
#[derive(Clone, Copy, Debug)]
pub struct SpliceLimits {
    /// Longest time without a byte from the source, in milliseconds.
    pub read_timeout_ms: u64,
    /// Longest time without room at the destination, in milliseconds.
    pub write_timeout_ms: u64,
    /// If given, the transfer stops when there was no room at the destination for so long, in
    /// milliseconds. Shorter than `write_timeout_ms`.
    pub stall_ms: Option<u64>,
}

/// How far a transfer came.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes that reached the destination.
    pub moved: u64,
    /// The destination stalled ([`SpliceLimits::stall_ms`]).
    pub stalled: Option<Stalled>,
}

/// What a transfer that stopped at its destination leaves behind.
///
/// The destination may be sent to again, once [`Stalled::take`] has given out what was on its way.
#[derive(Debug)]
pub struct Stalled {
    pipe: Pipe,
    /// The wait for room, which goes on; its result is of no use.
    pub waiting: Option<Readiness>,
}

impl Stalled {
    /// Bytes that left the source and did not reach the destination.
    pub fn len(&self) -> u64 {
        self.pipe.held()
    }

    /// Whether [`Stalled::take`] has given out everything.
    pub fn is_empty(&self) -> bool {
        self.pipe.held() == 0
    }

    /// Replaces the content of `buf` by the next bytes, as many as it has capacity for or fewer,
    /// at least one. Does not wait.
    ///
    /// # Errors
    /// As of read(2).
    pub fn take(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        self.pipe.take(buf)
    }
}

/// Whose fault the end of a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Read,
    /// The destination.
    Write,
}

/// A transfer that failed. Kind `TimedOut` if a limit was reached, in which case that socket has
/// been shut down.
#[derive(Debug, thiserror::Error)]
#[error("{} after {moved} bytes: {error}", if *.side == Side::Read { "reading" } else { "writing" })]
pub struct SpliceError {
    /// Which socket failed.
    pub side: Side,
    /// How.
    pub error: io::Error,
    /// Bytes that reached the destination.
    pub moved: u64,
}

/// Moves `count` bytes from one socket to another and tells `progress` of each part that reached
/// the destination. Returns how many did: fewer than `count` if the source ended before, or if the
/// destination stalled, where that is to end the transfer.
///
/// The deadlines of both sockets are used for the limits; afterwards none is set. Nothing else may
/// be received from `from` (it fails while a stream does) or sent to `to` meanwhile.
pub async fn splice_body(
    from: &Socket,
    to: &Socket,
    count: u64,
    limits: SpliceLimits,
    mut progress: impl FnMut(u64),
) -> Result<Spliced, SpliceError> {
    if from.is_streaming() {
        // Bytes would go two ways.
        return Err(SpliceError {
            side: Side::Read,
            error: io::ErrorKind::ResourceBusy.into(),
            moved: 0,
        });
    }
    from.slot().calm.set(0);
    let mut transfer = Transfer::new(to, limits.write_timeout_ms)?;
    transfer.stall_ms = limits.stall_ms;
    // One that was set for what came before would end a source that waits for its destination.
    from.set_deadline(None);
    let _unblocked = [NonBlocking::new(from), NonBlocking::new(to)];
    let mut read = 0;
    let mut ended: Option<io::Result<()>> = None;
    loop {
        if read < count && ended.is_none() && transfer.has_room() {
            match transfer.fill(from, count - read) {
                Ok(0) => ended = Some(Ok(())),
                Ok(more) => read += more,
                // A full pipe looks like an empty socket; then there is something to drain.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if transfer.pipe.held() == 0 {
                        let waited = wait_readable(from, limits.read_timeout_ms).await;
                        waited.map_err(|error| transfer.failed(Side::Read, error))?;
                        continue;
                    }
                }
                Err(error) => ended = Some(Err(error)),
            }
        }
        if let Some(waiting) = transfer.drain(&mut progress).await? {
            return Ok(transfer.stall(waiting));
        }
        if transfer.pipe.held() == 0 && (read == count || ended.is_some()) {
            break;
        }
    }
    if let Some(Err(error)) = ended {
        return Err(transfer.failed(Side::Read, error));
    }
    Ok(Spliced {
        moved: transfer.moved,
        stalled: None,
    })
}

/// Moves `count` bytes of `file`, from `offset` on, to a socket. Otherwise as [`splice_body`]; the
/// file is read by the kernel's own threads, so that a slow disk holds up nobody else.
pub async fn splice_file(
    file: &File,
    offset: u64,
    to: &Socket,
    count: u64,
    write_timeout_ms: u64,
    mut progress: impl FnMut(u64),
) -> Result<u64, SpliceError> {
    let mut transfer = Transfer::new(to, write_timeout_ms)?;
    let _unblocked = NonBlocking::new(to);
    let mut read = 0;
    while read < count {
        let filled = transfer
            .pipe
            .fill_from_file(file, offset + read, count - read)
            .await;
        let filled = filled.map_err(|error| transfer.failed(Side::Read, error))?;
        if filled == 0 {
            break; // the file is shorter than it was
        }
        read += filled;
        while transfer.pipe.held() > 0 {
            transfer.drain(&mut progress).await?;
        }
    }
    Ok(transfer.moved)
}

/// Bytes after which others have their turn, when nothing has made the transfer wait.
const TURN_BYTES: u64 = 2 << 20;

/// One transfer's pipe and how far it is.
struct Transfer<'a> {
    pipe: Pipe,
    to: &'a Socket,
    write_timeout_ms: u64,
    stall_ms: Option<u64>,
    moved: u64,
    /// Bytes since the last wait.
    turn: u64,
}

impl<'a> Transfer<'a> {
    fn new(to: &'a Socket, write_timeout_ms: u64) -> Result<Transfer<'a>, SpliceError> {
        let failed = |error| SpliceError {
            side: Side::Read,
            error,
            moved: 0,
        };
        let pipe = Pipe::lend().map_err(failed)?;
        Ok(Transfer {
            pipe,
            to,
            write_timeout_ms,
            stall_ms: None,
            moved: 0,
            turn: 0,
        })
    }

    fn has_room(&self) -> bool {
        self.pipe.held() < self.pipe.capacity()
    }

    fn fill(&mut self, from: &Socket, most: u64) -> io::Result<u64> {
        let room = self.pipe.capacity() - self.pipe.held();
        self.pipe.fill(from, most.min(room))
    }

    /// Writes from the pipe, waiting for room if there is none. Gives the wait back if it took
    /// long enough to be called a stall.
    async fn drain(
        &mut self,
        progress: &mut impl FnMut(u64),
    ) -> Result<Option<Readiness>, SpliceError> {
        if self.pipe.held() == 0 {
            return Ok(None);
        }
        match self.pipe.drain(self.to) {
            Ok(written) => {
                self.moved += written;
                self.turn += written;
                progress(written);
                if self.turn >= TURN_BYTES {
                    self.turn = 0;
                    engine::yield_now().await;
                }
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.turn = 0;
                let waited = wait_writable(self.to, self.write_timeout_ms, self.stall_ms).await;
                waited.map_err(|error| self.failed(Side::Write, error))
            }
            Err(error) => Err(self.failed(Side::Write, error)),
        }
    }

    fn failed(&self, side: Side, error: io::Error) -> SpliceError {
        SpliceError {
            side,
            error,
            moved: self.moved,
        }
    }

    fn stall(self, waiting: Readiness) -> Spliced {
        Spliced {
            moved: self.moved,
            stalled: Some(Stalled {
                pipe: self.pipe,
                waiting: Some(waiting),
            }),
        }
    }
}

async fn wait_readable(from: &Socket, timeout_ms: u64) -> io::Result<()> {
    from.set_deadline(Some(clock::now_ms() + timeout_ms));
    let waited = from.readable().await;
    from.set_deadline(None);
    if from.timed_out() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        waited
    }
}

/// Waits for room, and gives the wait back if it took as long as `stall_ms`.
async fn wait_writable(
    to: &Socket,
    timeout_ms: u64,
    stall_ms: Option<u64>,
) -> io::Result<Option<Readiness>> {
    to.set_deadline(Some(clock::now_ms() + timeout_ms));
    let mut waiting = to.writable();
    let waited = match stall_ms {
        None => Some((&mut waiting).await),
        Some(stall_ms) => {
            let mut stall = pin!(engine::sleep(Duration::from_millis(stall_ms)));
            poll_fn(|cx| match Pin::new(&mut waiting).poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => stall.as_mut().poll(cx).map(|()| None),
            })
            .await
        }
    };
    to.set_deadline(None);
    match waited {
        _ if to.timed_out() => Err(io::ErrorKind::TimedOut.into()),
        None => Ok(Some(waiting)),
        Some(result) => result.map(|()| None),
    }
}

/// A socket as splice(2) wants it (SPLICE_F_NONBLOCK speaks of the pipe alone), and as the ring
/// wants it again afterwards.
struct NonBlocking<'a>(&'a Socket);

impl<'a> NonBlocking<'a> {
    fn new(socket: &'a Socket) -> NonBlocking<'a> {
        socket.set_nonblocking(true);
        NonBlocking(socket)
    }
}

impl Drop for NonBlocking<'_> {
    fn drop(&mut self) {
        self.0.set_nonblocking(false);
    }
}
