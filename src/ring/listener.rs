//! Listening sockets.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{opcode, types};
use socket2::{SockAddr, SockAddrStorage, SockRef};

use super::addr::Addr;
use super::engine;
use super::op::{Cqe, Op};
use super::socket::Socket;

/// Accepts under way per listener, at most. One-shot operations: with fewer, connections that
/// arrive together would be accepted one per turn. A listener begins with one, since there may be
/// thousands on a range of ports, and has twice as many each time that all come back together.
const ACCEPTS_MAX: usize = 16;

/// A listening socket of this worker.
///
/// What is under way is never given up: a connection that the kernel has accepted is either
/// yielded by [`Listener::next`] or [`Listener::drain`], or closed.
pub struct Listener {
    /// Open until every accept that names it is over: one that is still queued would otherwise
    /// accept from whatever gets the number next.
    fd: Rc<OwnedFd>,
    accepts: Vec<Op<Box<Peer>>>,
    /// How many there should be.
    wanted: usize,
    come: VecDeque<io::Result<(OwnedFd, Addr)>>,
    paused: bool,
}

impl Listener {
    /// Takes over a socket on which `listen(2)` was called. It becomes a blocking one, as the ring
    /// wants it, and TCP connections come with nodelay on.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Listener> {
        let options = SockRef::from(&fd);
        options.set_nonblocking(false)?;
        if options.domain()? != socket2::Domain::UNIX {
            options.set_tcp_nodelay(true)?; // what is accepted inherits it
        }
        Ok(Listener {
            fd: Rc::new(fd),
            accepts: Vec::new(),
            wanted: 1,
            come: VecDeque::new(),
            paused: false,
        })
    }

    /// For options, and for handing the socket on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next connection and its peer's address. May be dropped and called again without loss.
    ///
    /// Errors concern one connection (ECONNABORTED) or the process (EMFILE, ENFILE, ENOBUFS,
    /// ENOMEM): the caller decides whether to wait before it calls again.
    pub async fn next(&mut self) -> io::Result<(Socket, Addr)> {
        let (fd, peer) = poll_fn(|cx| self.poll_next(cx)).await?;
        Ok((Socket::from_fd(fd), peer))
    }

    /// Accepts no more until [`Listener::resume`]. [`Listener::next`] yields what has come
    /// already and then waits.
    pub fn pause(&mut self) {
        if !mem::replace(&mut self.paused, true) {
            drop(cancel(&self.fd));
        }
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Stops listening and returns the connections that have come and were not yielded yet.
    ///
    /// `shared`: another process listens on the same socket (a new binary took it over), so the
    /// socket itself goes on and what is queued is the other's.
    pub async fn drain(mut self, shared: bool) -> Vec<(Socket, Addr)> {
        self.paused = true;
        if shared {
            drop(cancel(&self.fd));
        } else {
            self.accept_queued();
            engine::shutdown(self.fd.as_raw_fd(), libc::SHUT_RD);
        }
        poll_fn(|cx| self.poll_accepts(cx)).await;
        let come = mem::take(&mut self.come);
        come.into_iter()
            .flatten()
            .map(|(fd, peer)| (Socket::from_fd(fd), peer))
            .collect()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(OwnedFd, Addr)>> {
        if self.come.is_empty() {
            while !self.paused && self.accepts.len() < self.wanted {
                self.accept(Box::default());
            }
            let _ = self.poll_accepts(cx);
        }
        self.come.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    /// Takes in what has completed. Ready when nothing is under way any more.
    fn poll_accepts(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut index = 0;
        let mut taken = 0;
        while let Some(accept) = self.accepts.get_mut(index) {
            let Poll::Ready((cqe, peer)) = accept.poll_op(cx) else {
                index += 1;
                continue;
            };
            drop(self.accepts.swap_remove(index));
            taken += 1;
            // After an error it is the caller who says when to go on, by calling again.
            if self.take_in(cqe, &peer) && !self.paused {
                self.accept(peer); // comes last, and is polled there
            }
        }
        if taken >= self.wanted {
            self.wanted = (2 * self.wanted).min(ACCEPTS_MAX);
        }
        if self.accepts.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// False if it is an error that the caller gets to see.
    fn take_in(&mut self, cqe: Cqe, peer: &Peer) -> bool {
        match cqe.res {
            fd if fd >= 0 => {
                // SAFETY: the kernel has just made this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                self.come.push_back(Ok((fd, peer.addr())));
                true
            }
            // Ours: a pause, or the end of draining.
            code if [-libc::ECANCELED, -libc::EINTR, -libc::EAGAIN].contains(&code) => true,
            code if code == -libc::EINVAL => {
                // It listens no more: another worker, with which it is shared, was told before us.
                self.paused = true;
                true
            }
            code => {
                self.come
                    .push_back(Err(io::Error::from_raw_os_error(-code)));
                false
            }
        }
    }

    fn accept(&mut self, mut peer: Box<Peer>) {
        peer.len = peer.storage.size_of();
        let storage = (&raw mut peer.storage).cast();
        let entry = opcode::Accept::new(types::Fd(self.fd.as_raw_fd()), storage, &raw mut peer.len)
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.accepts.push(Op::submit(peer, entry));
    }

    /// Takes what waits in the kernel's queue, which would be reset with the socket.
    fn accept_queued(&mut self) {
        // The ring's accepts may be quicker, so this must not block.
        if SockRef::from(&*self.fd).set_nonblocking(true).is_err() {
            return;
        }
        while let Ok((socket, peer)) = SockRef::from(&*self.fd).accept() {
            self.come.push_back(Ok((socket.into(), Addr::from(peer))));
        }
    }
}

impl Drop for Listener {
    /// Accepts under way are awaited all the same: one that has happened and is forgotten would
    /// leave a client connected to nobody.
    fn drop(&mut self) {
        let accepts = mem::take(&mut self.accepts);
        let fd = self.fd.clone();
        if engine::with(|engine| engine.open.get()) != Some(true) {
            engine::with(|engine| engine.close_at_the_end(fd));
            return;
        }
        if accepts.is_empty() {
            return;
        }
        drop(cancel(&fd));
        engine::spawn(async move {
            for accept in accepts {
                let (cqe, _) = accept.await;
                if cqe.res >= 0 {
                    // SAFETY: the kernel has just made this descriptor for us.
                    drop(unsafe { OwnedFd::from_raw_fd(cqe.res) });
                }
            }
            drop(fd);
        });
    }
}

/// Ends the accepts on `fd` that are under way. By descriptor, which makes the kernel look at all
/// that the ring has: once per listener and pause that is no harm.
fn cancel(fd: &OwnedFd) -> Op<()> {
    let these = types::CancelBuilder::fd(types::Fd(fd.as_raw_fd())).all();
    Op::submit((), opcode::AsyncCancel2::new(these).build())
}

/// Where the kernel writes a peer's address.
struct Peer {
    storage: SockAddrStorage,
    len: libc::socklen_t,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer {
            storage: SockAddrStorage::zeroed(),
            len: 0,
        }
    }
}

impl Peer {
    fn addr(&self) -> Addr {
        let len = self.len.min(self.storage.size_of());
        // SAFETY: the kernel wrote `len` bytes of an address into the storage, which was zeroed;
        // the copy is bytewise.
        let storage = unsafe { std::ptr::read(&raw const self.storage) };
        // SAFETY: as above: an initialised address of this length.
        Addr::from(unsafe { SockAddr::new(storage, len) })
    }
}
