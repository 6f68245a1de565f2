//! Connecting to other servers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use io_uring::{opcode, types};
use socket2::{Domain, SockAddr, Type};

use super::addr::Addr;
use super::op::Op;
use super::socket::Socket;

/// How to connect. TCP connections have nodelay on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOpts {
    /// Our end's address; port 0 leaves the port to the kernel.
    pub bind: Option<SocketAddr>,
    /// Whether `bind` may be an address that is not this machine's (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// TCP keepalive probes.
    pub keepalive: bool,
    /// Monotonic milliseconds after which the attempt fails with [`io::ErrorKind::TimedOut`].
    pub deadline_ms: Option<u64>,
}

/// Connects. A deadline that is over is an error of kind `TimedOut`; everything else is what the
/// kernel says (`ConnectionRefused`, `HostUnreachable`, and so on). The socket comes without a
/// deadline. See [`bind_error`] for what is wrong with our own end.
pub async fn connect(addr: &Addr, opts: &ConnectOpts) -> io::Result<Socket> {
    let target = addr.to_kernel()?;
    let socket = Socket::from_fd(open(&target, opts)?);
    socket.set_deadline(opts.deadline_ms);
    let under_way = socket.slot().share();
    let target = Box::new(target);
    let at = target.as_ptr().cast();
    let entry = opcode::Connect::new(types::Fd(socket.raw_fd()), at, target.len());
    let attempt = Attempt {
        slot: Some(under_way),
    };
    let (cqe, _) = Op::submit(target, entry.build()).await;
    drop(attempt);
    if socket.timed_out() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    cqe.result()?;
    socket.set_deadline(None);
    Ok(socket)
}

/// Counts the operation in the socket, so that giving up shuts the socket down.
struct Attempt {
    slot: Option<super::slots::SlotRef>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        super::engine::with(|engine| self.slot.take().map(|slot| engine.slots.release(slot)));
    }
}

fn open(target: &SockAddr, opts: &ConnectOpts) -> io::Result<OwnedFd> {
    let domain = target.domain();
    let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
        if opts.keepalive {
            socket.set_keepalive(true)?;
        }
        if let Some(bind) = opts.bind {
            bind_to(&socket, bind, opts.transparent)?;
        }
    }
    Ok(socket.into())
}

/// Our own end's address is the matter, not the other's.
#[derive(Debug, thiserror::Error)]
#[error("bind() failed: {0}")]
struct BindFailed(io::Error);

fn bind_failed(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), BindFailed(error))
}

/// Why [`ConnectOpts::bind`] could not be, if that is what `error` of [`connect`] says.
pub fn bind_error(error: &io::Error) -> Option<&io::Error> {
    let failed = error.get_ref()?.downcast_ref::<BindFailed>()?;
    Some(&failed.0)
}

/// Gives the socket its own address. Errors are known to [`bind_error`].
pub(super) fn bind_to(
    socket: &socket2::Socket,
    bind: SocketAddr,
    transparent: bool,
) -> io::Result<()> {
    try_bind(socket, bind, transparent).map_err(bind_failed)
}

fn try_bind(socket: &socket2::Socket, bind: SocketAddr, transparent: bool) -> io::Result<()> {
    match bind {
        SocketAddr::V4(_) if transparent => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) if transparent => socket.set_ip_transparent_v6(true)?,
        _ => {}
    }
    if bind.port() == 0 && socket.r#type()? == Type::STREAM {
        // The port is then chosen at connect, when only the whole pair has to be unique.
        no_port_yet(socket)?;
    }
    socket.bind(&bind.into())
}

/// `IP_BIND_ADDRESS_NO_PORT`, which IPv6 sockets take too.
fn no_port_yet(socket: &socket2::Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, option) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    // SAFETY: the option is an int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
