//! Bytes from one descriptor to another through a pipe, never through user space.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::{Pin, pin};
use std::ptr;
use std::task::Poll;
use std::time::Duration;

use io_uring::{opcode, types};

use super::engine;
use super::file::File;
use super::op::Op;
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
pub struct Stalled {
    pipe: Option<Pipe>,
    held: u64,
    /// The wait for room, which goes on; its result is of no use.
    pub waiting: Option<Readiness>,
}

impl Stalled {
    /// Bytes that left the source and did not reach the destination.
    pub fn len(&self) -> u64 {
        self.held
    }

    /// Whether [`Stalled::take`] has given out everything.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Replaces the content of `buf` by the next bytes, as many as it has capacity for or fewer,
    /// at least one. Does not wait.
    ///
    /// # Errors
    /// As of read(2).
    pub fn take(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        buf.clear();
        let most = buf.capacity().min(self.held as usize);
        let pipe = self.pipe.as_ref().expect("the pipe is here until drop");
        loop {
            // SAFETY: the buffer has room for `most` bytes.
            let count = unsafe { libc::read(pipe.read.as_raw_fd(), buf.as_mut_ptr().cast(), most) };
            if count > 0 {
                // SAFETY: the kernel has written `count` bytes, at most the capacity.
                unsafe { buf.set_len(count as usize) };
                self.held -= count as u64;
                return Ok(());
            }
            let error = match count {
                0 => io::ErrorKind::UnexpectedEof.into(),
                _ => io::Error::last_os_error(),
            };
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl std::fmt::Debug for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stalled({} bytes)", self.held)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        recycle(self.pipe.take(), self.held);
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
/// be received from `from` or sent to `to` meanwhile.
pub async fn splice_body(
    from: &Socket,
    to: &Socket,
    count: u64,
    limits: SpliceLimits,
    mut progress: impl FnMut(u64),
) -> Result<Spliced, SpliceError> {
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
                    if transfer.held == 0 {
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
        if transfer.held == 0 && (read == count || ended.is_some()) {
            break;
        }
    }
    if let Some(Err(error)) = ended {
        return Err(transfer.failed(Side::Read, error));
    }
    Ok(Spliced {
        moved: transfer.finish(),
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
            .fill_from_file(file, offset + read, count - read)
            .await;
        let filled = filled.map_err(|error| transfer.failed(Side::Read, error))?;
        if filled == 0 {
            break; // the file is shorter than it was
        }
        read += filled;
        while transfer.held > 0 {
            transfer.drain(&mut progress).await?;
        }
    }
    Ok(transfer.finish())
}

/// A pipe with nothing in it.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: u64,
}

/// Pipes that a worker keeps for the next transfers.
const POOLED_PIPES_MAX: usize = 64;

/// Bytes of a pipe, where the system allows it: with 64 KiB half of what splicing gains is lost.
const PIPE_BYTES: libc::c_int = 1 << 20;

impl Pipe {
    fn lend() -> io::Result<Pipe> {
        match engine::require(|engine| engine.pipes.borrow_mut().pop()) {
            Some(pipe) => Ok(pipe),
            None => Pipe::open(),
        }
    }

    fn give_back(self) {
        engine::with(|engine| {
            let mut pool = engine.pipes.borrow_mut();
            if pool.len() < POOLED_PIPES_MAX {
                pool.push(self);
            }
        });
    }

    fn open() -> io::Result<Pipe> {
        let mut fds = [-1; 2];
        // SAFETY: pipe2 writes two descriptors into the array.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made for us.
        let [read, write] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        // Users without privileges have a budget for pipes: less is fine then.
        let capacity = [PIPE_BYTES, PIPE_BYTES / 4]
            .into_iter()
            .map(|size| pipe_control(&write, libc::F_SETPIPE_SZ, size))
            .find(|capacity| *capacity > 0)
            .unwrap_or_else(|| pipe_control(&write, libc::F_GETPIPE_SZ, 0).max(4096));
        Ok(Pipe {
            read,
            write,
            capacity: capacity as u64,
        })
    }
}

fn pipe_control(pipe: &OwnedFd, command: libc::c_int, argument: libc::c_int) -> libc::c_int {
    // SAFETY: these commands take and return an int.
    unsafe { libc::fcntl(pipe.as_raw_fd(), command, argument) }
}

/// Bytes after which others have their turn, when nothing has made the transfer wait.
const TURN_BYTES: u64 = 2 << 20;

/// One transfer's pipe and how far it is.
struct Transfer<'a> {
    /// None only while a file's operation has it.
    pipe: Option<Pipe>,
    to: &'a Socket,
    write_timeout_ms: u64,
    stall_ms: Option<u64>,
    /// Bytes in the pipe.
    held: u64,
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
        let pipe = Some(Pipe::lend().map_err(failed)?);
        Ok(Transfer {
            pipe,
            to,
            write_timeout_ms,
            stall_ms: None,
            held: 0,
            moved: 0,
            turn: 0,
        })
    }

    fn pipe(&self) -> &Pipe {
        self.pipe
            .as_ref()
            .expect("the pipe is here between operations")
    }

    fn has_room(&self) -> bool {
        self.held < self.pipe().capacity
    }

    fn fill(&mut self, from: &Socket, most: u64) -> io::Result<u64> {
        let pipe = self.pipe();
        let most = most.min(pipe.capacity - self.held);
        let filled = splice(from.raw_fd(), pipe.write.as_raw_fd(), most)?;
        self.held += filled;
        Ok(filled)
    }

    async fn fill_from_file(&mut self, file: &File, offset: u64, most: u64) -> io::Result<u64> {
        let pipe = self
            .pipe
            .take()
            .expect("the pipe is here between operations");
        let most = u32::try_from(most.min(pipe.capacity)).unwrap_or(u32::MAX);
        let (source, target) = (types::Fd(file.raw_fd()), types::Fd(pipe.write.as_raw_fd()));
        let entry = opcode::Splice::new(source, offset as i64, target, -1, most).build();
        // If this is dropped meanwhile, file and pipe stay with the operation.
        let (cqe, (pipe, _)) = Op::submit((pipe, file.keep()), entry).await;
        self.pipe = Some(pipe);
        let filled = cqe.result()? as u64;
        self.held += filled;
        Ok(filled)
    }

    /// Writes from the pipe, waiting for room if there is none. Gives the wait back if it took
    /// long enough to be called a stall.
    async fn drain(
        &mut self,
        progress: &mut impl FnMut(u64),
    ) -> Result<Option<Readiness>, SpliceError> {
        if self.held == 0 {
            return Ok(None);
        }
        match splice(self.pipe().read.as_raw_fd(), self.to.raw_fd(), self.held) {
            Ok(written) => {
                self.held -= written;
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

    fn finish(self) -> u64 {
        self.moved
    }

    fn stall(mut self, waiting: Readiness) -> Spliced {
        Spliced {
            moved: self.moved,
            stalled: Some(Stalled {
                pipe: self.pipe.take(),
                held: std::mem::take(&mut self.held),
                waiting: Some(waiting),
            }),
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        recycle(self.pipe.take(), self.held);
    }
}

/// A pipe that still holds bytes would hand them to the next transfer, so it is closed.
fn recycle(pipe: Option<Pipe>, held: u64) {
    if held == 0 {
        pipe.into_iter().for_each(Pipe::give_back);
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

/// Moves at most `most` bytes without waiting.
fn splice(from: RawFd, to: RawFd, most: u64) -> io::Result<u64> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(1 << 30);
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    loop {
        // SAFETY: without offsets splice touches no memory of ours.
        let moved =
            unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), most, flags) };
        if moved >= 0 {
            return Ok(moved as u64);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A socket as splice(2) wants it (SPLICE_F_NONBLOCK speaks of the pipe alone), and as the ring
/// wants it again afterwards.
struct NonBlocking<'a>(&'a Socket);

impl<'a> NonBlocking<'a> {
    fn new(socket: &'a Socket) -> NonBlocking<'a> {
        set_nonblocking(socket, true);
        NonBlocking(socket)
    }
}

impl Drop for NonBlocking<'_> {
    fn drop(&mut self) {
        set_nonblocking(self.0, false);
    }
}

fn set_nonblocking(socket: &Socket, on: bool) {
    let mut on = libc::c_int::from(on);
    // SAFETY: FIONBIO reads one int. On an open socket it does not fail.
    unsafe { libc::ioctl(socket.raw_fd(), libc::FIONBIO, &raw mut on) };
}
