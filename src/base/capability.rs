//! What this process, or the calling thread, may do beyond an ordinary user. (capabilities(7))

use std::io;

/// CAP_DAC_OVERRIDE: open any file.
pub const DAC_OVERRIDE: u32 = 1 << 1;

/// CAP_NET_BIND_SERVICE: listen on ports below 1024.
pub const NET_BIND_SERVICE: u32 = 1 << 10;

/// CAP_NET_RAW: connect from addresses that are not this machine's (`IP_TRANSPARENT`).
pub const NET_RAW: u32 = 1 << 13;

/// The version of the kernel's structures with two words per set.
const VERSION_3: u32 = 0x2008_0522;

/// Whether this process runs as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether this process was started by root: it is root, or kept root's right to low ports when it
/// became another user.
pub fn privileged() -> bool {
    is_root() || permitted() & NET_BIND_SERVICE != 0
}

/// Whether the calling thread has all of `wanted`.
pub fn may(wanted: u32) -> bool {
    permitted() & wanted == wanted
}

/// The first 32 capabilities that the calling thread may use.
pub fn permitted() -> u32 {
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: version 3 reads two header words and writes two times three words of sets.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    if result == 0 { sets[1] } else { 0 }
}

/// Leaves the calling thread those of `kept` that it has; programs it executes too, if
/// `inheritable`.
pub fn limit_to(kept: u32, inheritable: bool) -> io::Result<()> {
    let kept = kept & permitted();
    let header = [VERSION_3, 0];
    let sets = [kept, kept, if inheritable { kept } else { 0 }, 0, 0, 0];
    // SAFETY: version 3 reads two header words and two times three words of sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_only_lose() {
        // Capabilities belong to threads, so this touches no other test.
        std::thread::spawn(|| {
            let before = permitted();
            limit_to(NET_BIND_SERVICE, false).expect("giving up is allowed");
            assert_eq!(permitted(), before & NET_BIND_SERVICE);
            limit_to(0, false).expect("giving up is allowed");
            limit_to(NET_BIND_SERVICE, false).expect("asks for nothing");
            assert_eq!(permitted(), 0);
        })
        .join()
        .expect("the thread ends well");
    }
}
