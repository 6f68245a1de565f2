//! One listening socket: how it is bound and which options it gets.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::base::listen::{KeepaliveOption, ListenAddr, ListenOptions};

/// nginx's default backlog on Linux.
const DEFAULT_BACKLOG: i32 = 511;

/// Binds `addr` alone, without listening, to learn whether it is free.
pub(super) fn probe(addr: SocketAddr, udp: bool, options: &ListenOptions) -> io::Result<Socket> {
    let socket = new_inet(addr, udp)?;
    // For datagrams it would mean to share the port.
    if !udp {
        socket.set_reuse_address(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(options.ipv6only.unwrap_or(true))?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// A socket for one of the workers, bound to `addr`.
pub(super) fn open_inet(
    addr: SocketAddr,
    udp: bool,
    options: &ListenOptions,
) -> io::Result<Socket> {
    let socket = new_inet(addr, udp)?;
    socket.set_nonblocking(true)?;
    if !udp {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(options.ipv6only.unwrap_or(true))?;
    }
    let listen = if udp {
        ListenAddr::Udp(addr)
    } else {
        ListenAddr::Inet(addr)
    };
    apply(&socket, &listen, options)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn new_inet(addr: SocketAddr, udp: bool) -> io::Result<Socket> {
    let (kind, protocol) = if udp {
        (Type::DGRAM, Protocol::UDP)
    } else {
        (Type::STREAM, Protocol::TCP)
    };
    Socket::new(Domain::for_address(addr), kind, Some(protocol))
}

/// A unix socket that everyone may connect to. A file left behind by a process that died is
/// replaced; one that something listens on is not.
pub(super) fn open_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(socket)
}

pub(super) fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).err().is_some_and(refused)
}

pub(super) fn listen(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.listen(
        options
            .backlog
            .filter(|&backlog| backlog >= 0)
            .unwrap_or(DEFAULT_BACKLOG),
    )
}

/// Sets what may be set on an open socket. Accepted connections inherit TCP_NODELAY from here,
/// which saves a system call for each.
pub(super) fn apply(socket: &Socket, addr: &ListenAddr, options: &ListenOptions) -> io::Result<()> {
    if let Some(bytes) = options.rcvbuf {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.sndbuf {
        socket.set_send_buffer_size(bytes)?;
    }
    if !matches!(addr, ListenAddr::Inet(_)) {
        return Ok(());
    }
    socket.set_tcp_nodelay(true)?;
    match &options.so_keepalive {
        None => {}
        Some(KeepaliveOption::Switch(on)) => socket.set_keepalive(*on)?,
        Some(KeepaliveOption::Tuned {
            idle,
            interval,
            count,
        }) => {
            let seconds = |seconds: &u32| Duration::from_secs(u64::from(*seconds));
            let mut tuned = TcpKeepalive::new();
            if let Some(idle) = idle {
                tuned = tuned.with_time(seconds(idle));
            }
            if let Some(interval) = interval {
                tuned = tuned.with_interval(seconds(interval));
            }
            if let Some(count) = count {
                tuned = tuned.with_retries(*count);
            }
            socket.set_tcp_keepalive(&tuned)?;
        }
    }
    if let Some(queue) = options.fastopen {
        set_tcp_option(socket, libc::TCP_FASTOPEN, queue)?;
    }
    set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, i32::from(options.deferred))
}

fn set_tcp_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: the descriptor is open, and the pointer is valid for `size` bytes during the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, pointer, size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn local_addr(socket: &Socket) -> Option<ListenAddr> {
    let addr = socket.local_addr().ok()?;
    match addr.as_socket() {
        Some(addr) if socket.r#type().ok()? == Type::DGRAM => Some(ListenAddr::Udp(addr)),
        Some(addr) => Some(ListenAddr::Inet(addr)),
        None => Some(ListenAddr::Unix(addr.as_pathname()?.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_the_socket() {
        let options = ListenOptions {
            rcvbuf: Some(64 << 10),
            so_keepalive: Some(KeepaliveOption::Tuned {
                idle: Some(30),
                interval: None,
                count: Some(4),
            }),
            fastopen: Some(16),
            deferred: true,
            ..ListenOptions::default()
        };
        let socket = open_inet(SocketAddr::from(([127, 0, 0, 1], 0)), false, &options).unwrap();
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(30)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        assert!(socket.recv_buffer_size().unwrap() >= 64 << 10);
    }
}
