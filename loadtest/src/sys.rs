//! The few system calls `std` does not offer, each behind a safe function.

use std::ffi::c_int;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Readable (or closed by the peer).
pub const READ: u32 = libc::EPOLLIN as u32;
/// Writable (or connected).
pub const WRITE: u32 = libc::EPOLLOUT as u32;

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Turns SIGINT and SIGTERM into [`interrupted`], so that destructors end child processes.
/// Whoever waits must look at it now and then: a signal just before a wait does not end the wait.
pub fn catch_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler = note_interrupt as extern "C" fn(c_int);
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// # Errors
/// `Interrupted` once the user asked this process to end.
pub fn interrupted() -> io::Result<()> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
        false => Ok(()),
    }
}

extern "C" fn note_interrupt(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Sleeps, but ends early with an error when the user interrupts.
///
/// # Errors
/// `Interrupted`.
pub fn pause(length: Duration) -> io::Result<()> {
    let end = std::time::Instant::now() + length;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now()) {
        interrupted()?;
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    interrupted()
}

/// A level-triggered epoll instance.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call above just made this descriptor and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 512],
        })
    }

    /// Watches `fd` for `interest` until it is closed; `token` comes back with its events.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn add(&self, fd: &impl AsRawFd, interest: u32, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    /// Replaces the interest of a watched descriptor.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn modify(&self, fd: &impl AsRawFd, interest: u32, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    /// Waits at most `timeout` (for ever if `None`, nanoseconds count); returns how many events
    /// [`Epoll::event`] can now be asked for, 0 when a signal came.
    ///
    /// # Errors
    /// Those of `epoll_pwait2(2)`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let spec = timeout.map(|t| libc::timespec {
            tv_sec: t.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(t.subsec_nanos()),
        });
        let spec = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (fd, events, room) = (
            self.fd.as_raw_fd(),
            self.events.as_mut_ptr(),
            self.events.len(),
        );
        let mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: `events` has room for `room` entries, `spec` is null or valid, no mask is given.
        let n = unsafe { libc::syscall(libc::SYS_epoll_pwait2, fd, events, room, spec, mask, 0) };
        match n {
            0.. => Ok(n as usize),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    /// Token and events of the `index`th event of the last wait.
    pub fn event(&self, index: usize) -> (usize, u32) {
        let event = self.events[index];
        (event.u64 as usize, event.events)
    }

    fn control(
        &self,
        what: c_int,
        fd: &impl AsRawFd,
        interest: u32,
        token: usize,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: token as u64,
        };
        // SAFETY: `event` is valid for the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }
}

/// A non-blocking TCP socket whose connection to `addr` has been started.
///
/// # Errors
/// Those of `socket(2)` and `connect(2)`, `EINPROGRESS` excepted.
pub fn connect(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the call above just made this descriptor and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_no_delay(&fd)?;
    let result = match addr {
        SocketAddr::V4(v4) => connect_raw(
            &fd,
            &libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            },
        ),
        SocketAddr::V6(v6) => connect_raw(
            &fd,
            &libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            },
        ),
    };
    match result {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(fd),
    }
}

/// `T` must be one of the `sockaddr_*` structures.
fn connect_raw<T>(fd: &OwnedFd, addr: &T) -> io::Result<()> {
    let (pointer, length) = (
        std::ptr::from_ref(addr).cast(),
        size_of::<T>() as libc::socklen_t,
    );
    // SAFETY: pointer and length describe one live structure.
    check(unsafe { libc::connect(fd.as_raw_fd(), pointer, length) })?;
    Ok(())
}

/// Sets `TCP_NODELAY`; sockets accepted from a listener inherit it.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn set_no_delay(fd: &impl AsRawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Lets a socket become readable only with so many bytes, or at its end (`SO_RCVLOWAT`); sockets
/// accepted from a listener inherit it.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn set_receive_low_water(fd: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Bounds what a socket takes from its sender before the other side has it (`SO_SNDBUF`).
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn set_send_buffer(fd: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)
}

fn set_option(fd: &impl AsRawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    let value = std::ptr::from_ref(&value).cast();
    // SAFETY: value and length describe a live integer.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value, length) })?;
    Ok(())
}

/// Changes the accept queue of a socket that listens already.
///
/// # Errors
/// Those of `listen(2)`.
pub fn set_backlog(fd: &impl AsRawFd, backlog: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(())
}

/// Receives into `buffer`; 0 is the end of the stream.
///
/// # Errors
/// Those of `recv(2)`.
pub fn receive(fd: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, buffer, 0)
}

/// Takes up to `buffer.len()` bytes off a TCP socket without copying them (`MSG_TRUNC`).
///
/// # Errors
/// Those of `recv(2)`.
pub fn discard(fd: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, buffer, libc::MSG_TRUNC)
}

/// Sends from `data` without raising SIGPIPE.
///
/// # Errors
/// Those of `send(2)`.
pub fn send(fd: &impl AsRawFd, data: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length are those of a live slice.
    let n = unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn receive_with(fd: &impl AsRawFd, buffer: &mut [u8], flags: c_int) -> io::Result<usize> {
    let (pointer, length) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: pointer and length are those of a live, exclusively borrowed slice.
    let n = unsafe { libc::recv(fd.as_raw_fd(), pointer, length, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Binds the calling thread, and what it starts later, to one core.
///
/// # Errors
/// Those of `sched_setaffinity(2)`; `EINVAL` when the core does not exist.
pub fn pin(core: usize) -> io::Result<()> {
    const BITS: usize = usize::BITS as usize;
    let mut mask = [0_usize; 1024 / BITS];
    *mask
        .get_mut(core / BITS)
        .ok_or(io::ErrorKind::InvalidInput)? |= 1 << (core % BITS);
    // SAFETY: a cpu set is an array of words, and this one lives through the call.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) })?;
    Ok(())
}

/// Makes the kernel send `signal` to this process when the thread that started it ends.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn die_with_parent(signal: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) })?;
    Ok(())
}

/// Lets timers of this thread fire on time instead of up to 50 µs late.
pub fn exact_timers() {
    // SAFETY: takes no pointers. A refusal costs precision only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Raises the soft limit of open descriptors to the hard one and returns it.
///
/// # Errors
/// Those of `getrlimit(2)` and `setrlimit(2)`.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writing.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for reading.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// Sends a signal to one process.
///
/// # Errors
/// Those of `kill(2)`.
pub fn kill(pid: u32, signal: c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// CPU time in nanoseconds that all threads of a process, ended ones included, have used.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn process_cpu_nanos(pid: u32) -> io::Result<u64> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut clock = 0;
    // SAFETY: `clock` is valid for writing.
    match unsafe { libc::clock_getcpuclockid(pid, &mut clock) } {
        0 => {}
        code => return Err(io::Error::from_raw_os_error(code)),
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing.
    check(unsafe { libc::clock_gettime(clock, &mut time) })?;
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn check(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_this_process_grows() {
        let before = process_cpu_nanos(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for i in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        assert!(process_cpu_nanos(std::process::id()).unwrap() > before);
    }

    #[test]
    fn discards_without_copying() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut peer, b"abcdef").unwrap();
        let mut epoll = Epoll::new().unwrap();
        epoll.add(&fd, READ, 7).unwrap();
        assert_eq!(epoll.wait(Some(Duration::from_secs(5))).unwrap(), 1);
        assert_eq!(epoll.event(0).0, 7);
        let mut buffer = [0; 4];
        assert_eq!(discard(&fd, &mut buffer).unwrap(), 4);
        assert_eq!(buffer, [0; 4]);
        assert_eq!(receive(&fd, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"ef");
    }
}
