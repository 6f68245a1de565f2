//! Datagram sockets: those that clients send to, and connected ones to other servers.
//!
//! A wait for datagrams holds no buffer: thousands of sessions wait for an answer that may have
//! 64 KiB. What has come by then is taken by one `recvmmsg(2)`, up to [`BATCH`] of them, into
//! buffers that the worker lends; what goes out goes by one `sendmmsg(2)`. That makes fewer system
//! calls than operations on the ring, each of which carries one datagram.
//!
//! A socket that clients send to is watched in the epoll that drives the ring: it is entered once
//! and then costs no call, where a poll operation would be submitted anew for each batch. Sockets
//! that live for an answer or two are cheaper with the latter.

mod batch;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, types};
use socket2::{Domain, SockRef, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::addr::Addr;
use super::connect::{ConnectOpts, bind_to};
use super::op::Op;
use super::poll::Readiness;
use super::socket::Socket;

pub(super) use batch::Room;
pub use batch::{BATCH, Batch};
use batch::{Message, receive, send};

/// A socket that clients send datagrams to. Not `Send`.
///
/// It may be one of several descriptors of the same socket (a binary or a worker that takes over
/// has another), so nothing here shuts it down. It closes with its last [`Replies`].
pub struct Datagrams {
    watched: AsyncFd<Rc<Bound>>,
}

/// The way back to the clients of a [`Datagrams`].
#[derive(Clone)]
pub struct Replies(Rc<Bound>);

struct Bound {
    fd: OwnedFd,
    local: SocketAddr,
}

impl AsRawFd for Bound {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Between which addresses a datagram travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The client's.
    pub peer: SocketAddr,
    /// Ours: the one the client has sent to, even where the socket is bound to all.
    pub local: SocketAddr,
}

impl Datagrams {
    /// Takes over a bound UDP socket. Where it is bound to all addresses of the machine, each
    /// datagram tells which one it came to, and an answer leaves from there.
    ///
    /// # Errors
    /// It is no UDP socket, or does not take the option.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Datagrams> {
        let local = SockRef::from(&fd).local_addr()?.as_socket();
        let local = local.ok_or(io::ErrorKind::InvalidInput)?;
        if local.ip().is_unspecified() {
            tell_destination(&fd, local.is_ipv6())?;
        }
        let bound = Rc::new(Bound { fd, local });
        // SAFETY: what is watched owns its descriptor.
        let watched = unsafe { AsyncFd::register_with_interest(bound, Interest::READABLE) }?;
        Ok(Datagrams { watched })
    }

    /// For options, and for handing the socket on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.watched.get_ref().fd.as_fd()
    }

    /// What sends answers from this socket, also after it is gone.
    pub fn replies(&self) -> Replies {
        Replies(Rc::clone(self.watched.get_ref()))
    }

    /// Takes what has come, without waiting: up to [`BATCH`] datagrams.
    ///
    /// # Errors
    /// `WouldBlock`: nothing has come. Others concern the process (ENOMEM, ENOBUFS).
    pub fn receive(&self) -> io::Result<Batch> {
        let bound = self.watched.get_ref();
        let received = receive(bound.as_raw_fd(), Some(bound.local), BATCH);
        if !received.as_ref().is_ok_and(Batch::is_full) {
            self.is_drained();
        }
        received
    }

    /// Waits until there is something to receive. May be dropped and called again.
    ///
    /// # Errors
    /// The engine has ended.
    pub async fn readable(&self) -> io::Result<()> {
        let mut ready = self.watched.readable().await?;
        ready.retain_ready();
        Ok(())
    }

    /// The next wait is for what comes from now on.
    fn is_drained(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(mut ready)) = self.watched.poll_read_ready(&mut cx) {
            ready.clear_ready();
        }
    }
}

impl Replies {
    /// Our address, as the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Sends `datagrams` to `route.peer` from `route.local`, without waiting. Answers how many went
    /// out, and why the next one did not: `WouldBlock` when the send buffer is full.
    pub fn send<'a>(
        &self,
        route: &Route,
        datagrams: impl Iterator<Item = &'a [u8]>,
    ) -> (usize, io::Result<()>) {
        send(self.fd(), Message::back(route, self.0.local), datagrams)
    }

    /// Waits until there is room to send.
    pub async fn writable(&self) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fd(self.fd()), libc::POLLOUT as u32).build();
        // With its own hold on the descriptor: the wait may outlive the task.
        let (cqe, _) = Op::submit(Rc::clone(&self.0), entry).await;
        cqe.result().map(drop)
    }

    fn fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

/// A connected datagram socket, with its deadline. Not `Send`.
///
/// An ICMP message that nobody listens there arrives as `ConnectionRefused`, from the next receive
/// or send.
pub struct DatagramSocket {
    socket: Socket,
}

impl DatagramSocket {
    /// Connects, which for datagrams is at once: UDP, or a unix datagram socket. Of `opts`, the
    /// deadline and TCP's options are not used.
    ///
    /// # Errors
    /// What the kernel says: no route, no descriptor left, an address that cannot be bound.
    pub fn connect(addr: &Addr, opts: &ConnectOpts) -> io::Result<DatagramSocket> {
        let target = addr.to_kernel()?;
        let socket = socket2::Socket::new(target.domain(), Type::DGRAM, None)?;
        if let Some(bind) = opts.bind.filter(|_| target.domain() != Domain::UNIX) {
            bind_to(&socket, bind, opts.transparent)?;
        }
        socket.connect(&target)?;
        Ok(DatagramSocket {
            socket: Socket::from_fd(socket.into()),
        })
    }

    /// Takes what has come, without waiting: up to `most` datagrams, and never more than [`BATCH`].
    ///
    /// # Errors
    /// `WouldBlock`: nothing has come. `ConnectionRefused` and its like: the other end has said so
    /// by ICMP.
    pub fn receive(&self, most: usize) -> io::Result<Batch> {
        receive(self.socket.raw_fd(), None, most.min(BATCH))
    }

    /// Sends `datagrams`, without waiting. Answers how many went out, and why the next one did not:
    /// `WouldBlock` when the send buffer is full.
    pub fn send<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) -> (usize, io::Result<()>) {
        send(self.socket.raw_fd(), Message::default(), datagrams)
    }

    /// Waits until there is something to receive: a datagram, an error, or the deadline.
    pub fn readable(&self) -> Readiness {
        self.socket.readable()
    }

    /// Waits until there is room to send.
    pub fn writable(&self) -> Readiness {
        self.socket.writable()
    }

    /// As [`Socket::set_deadline`].
    #[inline]
    pub fn set_deadline(&self, at_ms: Option<u64>) {
        self.socket.set_deadline(at_ms);
    }

    /// As [`Socket::timed_out`].
    #[inline]
    pub fn timed_out(&self) -> bool {
        self.socket.timed_out()
    }

    /// Our end's address.
    pub fn local_addr(&self) -> io::Result<Addr> {
        self.socket.local_addr()
    }

    /// For options that are not here.
    pub fn options(&self) -> SockRef<'_> {
        self.socket.options()
    }
}

/// `IP_PKTINFO`, `IPV6_RECVPKTINFO`: each datagram says which of our addresses it came to.
fn tell_destination(fd: &OwnedFd, v6: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (level, option) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is an int, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const on).cast(), size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
