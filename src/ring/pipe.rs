//! Pipes between sockets: what moves through one never enters user space.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use io_uring::{opcode, types};

use super::engine;
use super::file::File;
use super::op::Op;
use super::socket::Socket;

/// A pipe lent from the worker, empty at first. Both ends never wait.
///
/// Dropped empty it goes back to the worker for the next one; with bytes in it, it is closed, since
/// it would hand them to somebody else.
pub struct Pipe {
    /// None only in a drop, and while a file's operation has it.
    ends: Option<Ends>,
    held: u64,
}

/// Most pipes that a worker lends at a time where a caller can do without ([`Pipe::try_lend`]).
/// Each of them holds up to [`Pipe::capacity`] bytes of the kernel's memory.
const LENT_MAX: usize = 1024;

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// As of pipe2(2): too many descriptors.
    pub fn lend() -> io::Result<Pipe> {
        let pooled = engine::require(|engine| engine.pipes.free.borrow_mut().pop());
        let ends = pooled.map_or_else(Ends::open, Ok)?;
        engine::require(|engine| engine.pipes.lent.set(engine.pipes.lent.get() + 1));
        Ok(Pipe {
            ends: Some(ends),
            held: 0,
        })
    }

    /// An empty pipe that is worth it, unless the worker has lent too many already or the system
    /// has none.
    pub fn try_lend() -> Option<Pipe> {
        let lent = engine::require(|engine| engine.pipes.lent.get());
        let pipe = (lent < LENT_MAX).then(Pipe::lend).and_then(Result::ok);
        pipe.filter(|pipe| pipe.capacity() >= USEFUL_BYTES)
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Bytes that the pipe has room for at least; more fit when they come in large pages.
    pub fn capacity(&self) -> u64 {
        self.ends().capacity
    }

    /// Moves at most `most` bytes from a socket into the pipe, as many as are there. 0 is the end
    /// of the stream. The socket must be a non-blocking one ([`Socket::set_nonblocking`]).
    ///
    /// # Errors
    /// `WouldBlock` if the socket has nothing, or if the pipe is full, which looks the same: one
    /// that holds nothing is not full. Otherwise as of splice(2).
    pub fn fill(&mut self, from: &Socket, most: u64) -> io::Result<u64> {
        let filled = splice(from.raw_fd(), self.ends().write.as_raw_fd(), most)?;
        self.held += filled;
        Ok(filled)
    }

    /// Moves all that is in the pipe, or as much as there is room for, to a socket, which must be
    /// a non-blocking one. There must be something in the pipe.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room. Otherwise as of splice(2).
    pub fn drain(&mut self, to: &Socket) -> io::Result<u64> {
        debug_assert!(self.held > 0);
        let written = splice(self.ends().read.as_raw_fd(), to.raw_fd(), self.held)?;
        self.held -= written;
        Ok(written)
    }

    /// Moves at most `most` bytes of a file, from `offset` on, into the pipe.
    ///
    /// # Errors
    /// As of splice(2).
    pub(super) async fn fill_from_file(
        &mut self,
        file: &File,
        offset: u64,
        most: u64,
    ) -> io::Result<u64> {
        let ends = self.ends.take().expect("the pipe is here until drop");
        let most = u32::try_from(most.min(ends.capacity)).unwrap_or(u32::MAX);
        let (source, target) = (types::Fd(file.raw_fd()), types::Fd(ends.write.as_raw_fd()));
        let entry = opcode::Splice::new(source, offset as i64, target, -1, most).build();
        // If this is dropped meanwhile, file and pipe stay with the operation.
        let (cqe, (ends, _)) = Op::submit((ends, file.keep()), entry).await;
        self.ends = Some(ends);
        let filled = cqe.result()? as u64;
        self.held += filled;
        Ok(filled)
    }

    /// Replaces the content of `buf` by the next bytes, as many as it has capacity for or fewer,
    /// at least one. There must be something in the pipe.
    ///
    /// # Errors
    /// As of read(2).
    pub(super) fn take(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        buf.clear();
        let most = buf.capacity().min(self.held as usize);
        loop {
            let fd = self.ends().read.as_raw_fd();
            // SAFETY: the buffer has room for `most` bytes.
            let count = unsafe { libc::read(fd, buf.as_mut_ptr().cast(), most) };
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

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("the pipe is here until drop")
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pipe({} bytes)", self.held)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let is_good = |ends: &Ends| self.held == 0 && ends.capacity >= USEFUL_BYTES;
        let ends = self.ends.take().filter(is_good);
        engine::with(|engine| {
            engine.pipes.lent.set(engine.pipes.lent.get() - 1);
            let mut free = engine.pipes.free.borrow_mut();
            if free.len() < POOLED_MAX {
                free.extend(ends);
            }
        });
    }
}

/// The pipes of a worker.
#[derive(Default)]
pub(super) struct Pipes {
    /// Empty ones, for the next use.
    pub(super) free: RefCell<Vec<Ends>>,
    pub(super) lent: Cell<usize>,
}

/// Pipes that a worker keeps.
const POOLED_MAX: usize = 64;

/// Bytes of a pipe, where the system allows it: with 64 KiB half of what splicing gains is lost.
const PIPE_BYTES: libc::c_int = 1 << 20;

/// A smaller pipe, which is what a user gets who has too many, is not kept: copying is cheaper.
const USEFUL_BYTES: u64 = 64 << 10;

/// The descriptors of a pipe.
pub(super) struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    capacity: u64,
}

impl Ends {
    fn open() -> io::Result<Ends> {
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
        Ok(Ends {
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
