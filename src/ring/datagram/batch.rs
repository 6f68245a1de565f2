//! Many datagrams with one system call.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;
use std::ptr;

use socket2::SockAddr;

use super::super::engine;
use super::Route;

/// Most datagrams that one system call receives or sends.
pub const BATCH: usize = 32;

/// Datagrams that were received together, in buffers lent by the worker.
///
/// Dropping it gives the buffers back; another batch received meanwhile has buffers of its own, so
/// it is dropped before anything is awaited.
pub struct Batch {
    /// There until drop.
    room: Option<Box<Room>>,
    count: usize,
    most: usize,
}

impl Batch {
    /// Number of datagrams.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there may be more where these came from.
    pub fn is_full(&self) -> bool {
        self.count == self.most
    }

    /// The content of one datagram, which may be empty. Panics beyond [`Batch::len`].
    pub fn bytes(&self, index: usize) -> &[u8] {
        assert!(index < self.count);
        let room = self.room();
        let length = room.headers[index].msg_len as usize;
        &room.memory[index * STRIDE..][..length.min(SIZE)]
    }

    /// The contents of all.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.count).map(|index| self.bytes(index))
    }

    /// Where one datagram came from and to. None where the socket is a connected one.
    pub fn route(&self, index: usize) -> Option<Route> {
        assert!(index < self.count);
        let room = self.room();
        let bound = room.bound?;
        let peer = from_kernel(&room.names[index])?;
        let header = &room.headers[index].msg_hdr;
        let local = match destination(header) {
            Some(ip) if bound.ip().is_unspecified() => SocketAddr::new(ip, bound.port()),
            _ => bound,
        };
        Some(Route { peer, local })
    }

    fn room(&self) -> &Room {
        self.room.as_ref().expect("the room is there until drop")
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let room = self.room.take();
        engine::with(|engine| engine.rooms.replace(room));
    }
}

/// Receives up to `most` datagrams without waiting. `bound`: where the socket is bound, unless it
/// is connected.
pub(super) fn receive(fd: RawFd, bound: Option<SocketAddr>, most: usize) -> io::Result<Batch> {
    debug_assert!(most <= BATCH);
    let room = engine::with(|engine| engine.rooms.take()).flatten();
    let mut batch = Batch {
        room: Some(room.unwrap_or_else(Room::new)),
        count: 0,
        most,
    };
    let room = batch
        .room
        .as_deref_mut()
        .expect("the room is there until drop");
    if most == 1 && bound.is_none() {
        room.bound = None;
        room.headers[0].msg_len = receive_one(fd, &mut room.memory[..SIZE])? as u32;
        batch.count = 1;
        return Ok(batch);
    }
    room.prepare(bound);
    loop {
        let headers = room.headers.as_mut_ptr();
        // SAFETY: `prepare` has pointed each header to buffers of the room with their sizes, all of
        // which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                headers,
                most as u32,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if count >= 0 {
            batch.count = count as usize;
            return Ok(batch);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives one datagram from a connected socket, which needs no headers.
fn receive_one(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    loop {
        let at = into.as_mut_ptr().cast();
        // SAFETY: the buffer is valid for its length.
        let count = unsafe { libc::recv(fd, at, into.len(), libc::MSG_DONTWAIT) };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends without waiting, all with the same addresses. Answers how many went out, and why the next
/// one did not if it is not all.
pub(super) fn send<'a>(
    fd: RawFd,
    mut message: Message,
    mut datagrams: impl Iterator<Item = &'a [u8]>,
) -> (usize, io::Result<()>) {
    let mut sent = 0;
    loop {
        let mut pieces = [EMPTY; BATCH];
        let mut length = 0;
        while length < BATCH {
            let Some(datagram) = datagrams.next() else {
                break;
            };
            pieces[length].iov_base = datagram.as_ptr().cast_mut().cast();
            pieces[length].iov_len = datagram.len();
            length += 1;
        }
        let mut done = 0;
        while done < length {
            // After fewer than all the next call tells why.
            match send_pieces(fd, &mut message, &mut pieces[done..length]) {
                Ok(count) => done += count,
                Err(error) => return (sent + done, Err(error)),
            }
        }
        sent += done;
        if length < BATCH {
            return (sent, Ok(()));
        }
    }
}

fn send_pieces(fd: RawFd, message: &mut Message, pieces: &mut [libc::iovec]) -> io::Result<usize> {
    match pieces {
        [] => Ok(0),
        [piece] => send_one(fd, message, piece).map(|()| 1),
        _ => send_many(fd, message, pieces),
    }
}

/// One goes cheaper without the list that `sendmmsg` takes.
fn send_one(fd: RawFd, message: &mut Message, piece: &mut libc::iovec) -> io::Result<()> {
    // SAFETY: a msghdr consists of integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    message.fill(&mut header);
    header.msg_iov = piece;
    header.msg_iovlen = 1;
    loop {
        // SAFETY: the header points to the message's addresses and to the piece, whose bytes are
        // borrowed by the caller; all outlive the call.
        let sent = unsafe { libc::sendmsg(fd, &raw const header, FLAGS) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn send_many(fd: RawFd, message: &mut Message, pieces: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: an mmsghdr consists of integers and pointers, for which zero is a value.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    for (header, piece) in headers.iter_mut().zip(pieces.iter_mut()) {
        message.fill(&mut header.msg_hdr);
        header.msg_hdr.msg_iov = piece;
        header.msg_hdr.msg_iovlen = 1;
    }
    let count = pieces.len() as u32;
    loop {
        // SAFETY: the headers point to the message's addresses and to the pieces, whose bytes are
        // borrowed by the caller; all outlive the call.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, FLAGS as _) };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// The addresses of what is sent: none on a connected socket.
#[derive(Default)]
pub(super) struct Message {
    to: Option<SockAddr>,
    control: Control,
    control_len: usize,
}

impl Message {
    /// Back along `route`, from a socket that is bound to `bound`.
    pub(super) fn back(route: &Route, bound: SocketAddr) -> Message {
        let mut message = Message {
            to: Some(route.peer.into()),
            ..Message::default()
        };
        if bound.ip().is_unspecified() {
            message.leave_from(route.local.ip(), bound.is_ipv6());
        }
        message
    }

    fn leave_from(&mut self, local: IpAddr, v6: bool) {
        match (local, v6) {
            (IpAddr::V4(ip), false) => self.put(
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: to_in_addr(ip),
                    ipi_addr: to_in_addr(Ipv4Addr::UNSPECIFIED),
                },
            ),
            (ip, _) => {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                self.put(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_PKTINFO,
                    libc::in6_pktinfo {
                        ipi6_addr: libc::in6_addr {
                            s6_addr: ip.octets(),
                        },
                        ipi6_ifindex: 0,
                    },
                );
            }
        }
    }

    /// Writes one control message.
    fn put<T>(&mut self, level: libc::c_int, kind: libc::c_int, content: T) {
        let size = size_of::<T>() as u32;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
        assert!(space as usize <= size_of::<Control>());
        let header = (&raw mut self.control).cast::<libc::cmsghdr>();
        // SAFETY: the buffer has room for the header and `T` behind it (asserted) and is aligned
        // for both: `Control` consists of u64.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(content);
        }
        self.control_len = space as usize;
    }

    fn fill(&mut self, header: &mut libc::msghdr) {
        if let Some(to) = &self.to {
            header.msg_name = to.as_ptr().cast_mut().cast();
            header.msg_namelen = to.len();
        }
        if self.control_len != 0 {
            header.msg_control = (&raw mut self.control).cast();
            header.msg_controllen = self.control_len as _;
        }
    }
}

/// Bytes of a buffer: no datagram of UDP is longer.
const SIZE: usize = 1 << 16;

/// From one buffer to the next: buffers exactly 64 KiB apart would all begin in the same set of the
/// cache.
const STRIDE: usize = SIZE + 64;

/// Space for one control message: `in6_pktinfo` is the largest, 40 bytes with its header.
type Control = [u64; 8];

const EMPTY: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

/// Where `recvmmsg` puts things. 2 MiB of address space, of which memory is used as far as
/// datagrams reach.
pub(in super::super) struct Room {
    memory: Vec<u8>,
    headers: [libc::mmsghdr; BATCH],
    pieces: [libc::iovec; BATCH],
    names: [libc::sockaddr_in6; BATCH],
    controls: [Control; BATCH],
    bound: Option<SocketAddr>,
}

impl Room {
    fn new() -> Box<Room> {
        let mut room = Box::new(Room {
            memory: vec![0; BATCH * STRIDE],
            // SAFETY: headers consist of integers and pointers, for which zero is a value.
            headers: unsafe { mem::zeroed() },
            pieces: [EMPTY; BATCH],
            // SAFETY: addresses consist of integers.
            names: unsafe { mem::zeroed() },
            controls: [[0; 8]; BATCH],
            bound: None,
        });
        let (memory, pieces) = (room.memory.as_mut_ptr(), room.pieces.as_mut_ptr());
        for index in 0..BATCH {
            // SAFETY: all indexes are inside of the memory, and of the pieces in their box.
            unsafe {
                room.pieces[index].iov_base = memory.add(index * STRIDE).cast();
                room.headers[index].msg_hdr.msg_iov = pieces.add(index);
            }
            room.pieces[index].iov_len = SIZE;
            room.headers[index].msg_hdr.msg_iovlen = 1;
        }
        room
    }

    /// Sets what the kernel reads and overwrites.
    fn prepare(&mut self, bound: Option<SocketAddr>) {
        self.bound = bound;
        let each = self.headers.iter_mut().zip(&mut self.names);
        for ((header, name), control) in each.zip(&mut self.controls) {
            let header = &mut header.msg_hdr;
            if bound.is_some() {
                name.sin6_family = 0;
                header.msg_name = ptr::from_mut(name).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                header.msg_control = ptr::from_mut(control).cast();
                header.msg_controllen = size_of::<Control>() as _;
            } else {
                header.msg_name = ptr::null_mut();
                header.msg_namelen = 0;
                header.msg_control = ptr::null_mut();
                header.msg_controllen = 0;
            }
        }
    }
}

/// The local address in what `recvmmsg` has put beside a datagram.
fn destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the header's control buffer is that of its room, of which the kernel has filled
    // `msg_controllen` bytes with whole messages; the walk stays inside of them. Each kind of
    // message has the content that is read.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = at.as_ref() {
            let data = libc::CMSG_DATA(at);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(from_in_addr(info.ipi_addr).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => at = libc::CMSG_NXTHDR(header, at),
            }
        }
        None
    }
}

/// None for families that are not IP.
fn from_kernel(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in, which is shorter and not aligned
            // more strictly.
            let name = unsafe { ptr::from_ref(name).cast::<libc::sockaddr_in>().read() };
            let ip = from_in_addr(name.sin_addr);
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => Some(
            SocketAddrV6::new(
                name.sin6_addr.s6_addr.into(),
                u16::from_be(name.sin6_port),
                0,
                name.sin6_scope_id,
            )
            .into(),
        ),
        _ => None,
    }
}

fn to_in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from(ip).to_be(),
    }
}

fn from_in_addr(addr: libc::in_addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be(addr.s_addr))
}
