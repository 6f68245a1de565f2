//! Whether this machine lets us use io_uring, and if not, what forbids it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode};

use super::buffers::{Buffers, Group};

/// What is in the way of io_uring. The message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The kernel was built without it, or is older than the system call.
    #[error(
        "io_uring is not available: the kernel does not have it (Linux {release}); \
         ringway needs Linux 6.0 or newer with CONFIG_IO_URING"
    )]
    NotInKernel {
        /// What `uname -r` says.
        release: String,
    },
    /// The kernel has it, but not what we need of it.
    #[error(
        "io_uring of this kernel (Linux {release}) is too old: {missing} is missing; \
         ringway needs Linux 6.0 or newer"
    )]
    TooOld {
        /// What `uname -r` says.
        release: String,
        /// What was tried.
        missing: &'static str,
    },
    /// `kernel.io_uring_disabled` forbids it.
    #[error(
        "io_uring is disabled by the sysctl kernel.io_uring_disabled = {value}; \
         enable it with: sysctl -w kernel.io_uring_disabled=0"
    )]
    Disabled {
        /// The sysctl's value: 1 forbids it to unprivileged users, 2 to all.
        value: u8,
    },
    /// The answer is EPERM, and no sysctl says why.
    #[error(
        "io_uring is forbidden ({what}: operation not permitted), most likely by a seccomp filter: \
         the default profile of Docker, Podman and others does that; allow io_uring_setup, \
         io_uring_enter and io_uring_register there (docker run --security-opt seccomp=FILE). \
         SELinux and systemd's SystemCallFilter are the other places to look"
    )]
    Forbidden {
        /// The system call that was refused.
        what: &'static str,
    },
    /// Something else, such as no memory.
    #[error("io_uring does not work ({what}: {error})")]
    Failed {
        /// The system call that failed.
        what: &'static str,
        /// How.
        error: io::Error,
    },
}

/// Tries what the engine does, with a real operation: a filter may allow the set-up and refuse the
/// rest.
pub fn probe() -> Result<(), Unavailable> {
    let mut ring: IoUring = IoUring::builder()
        .setup_coop_taskrun()
        .setup_single_issuer()
        .build(2)
        .map_err(|error| {
            // Without the flags an old one can be told from none.
            let feature = IoUring::new(2)
                .is_ok()
                .then_some("IORING_SETUP_SINGLE_ISSUER");
            explain("io_uring_setup", error, feature)
        })?;
    let enter = |error| explain("io_uring_enter", error, None);
    // SAFETY: a no-op refers to nothing.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }
        .map_err(|_| enter(io::ErrorKind::StorageFull.into()))?;
    ring.submit_and_wait(1).map_err(enter)?;
    if ring
        .completion()
        .next()
        .is_none_or(|done| done.result() != 0)
    {
        return Err(enter(io::Error::other("the no-op did not complete")));
    }
    Group::register(ring.as_raw_fd(), 0, Buffers { size: 64, count: 2 })
        .map(drop)
        .map_err(|error| {
            explain(
                "io_uring_register",
                error,
                Some("IORING_REGISTER_PBUF_RING"),
            )
        })
}

fn explain(what: &'static str, error: io::Error, feature: Option<&'static str>) -> Unavailable {
    classify(what, error, feature, disabled_by_sysctl())
}

fn classify(
    what: &'static str,
    error: io::Error,
    feature: Option<&'static str>,
    sysctl: u8,
) -> Unavailable {
    match (error.raw_os_error(), feature) {
        (Some(libc::ENOSYS), _) => Unavailable::NotInKernel {
            release: kernel_release(),
        },
        (Some(libc::EPERM | libc::EACCES), _) if sysctl > 0 => {
            Unavailable::Disabled { value: sysctl }
        }
        (Some(libc::EPERM | libc::EACCES), _) => Unavailable::Forbidden { what },
        (Some(libc::EINVAL), Some(missing)) => Unavailable::TooOld {
            release: kernel_release(),
            missing,
        },
        _ => Unavailable::Failed { what, error },
    }
}

/// `kernel.io_uring_disabled`, 0 where it does not exist.
fn disabled_by_sysctl() -> u8 {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|release| release.trim().to_owned())
        .unwrap_or_else(|_| "of unknown version".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(errno: i32, feature: Option<&'static str>, sysctl: u8) -> String {
        let error = io::Error::from_raw_os_error(errno);
        classify("io_uring_setup", error, feature, sysctl).to_string()
    }

    #[test]
    fn this_machine_has_it() {
        probe().unwrap();
    }

    #[test]
    fn each_obstacle_is_named() {
        assert!(message(libc::ENOSYS, None, 0).contains("CONFIG_IO_URING"));
        assert!(message(libc::EPERM, None, 2).contains("kernel.io_uring_disabled = 2"));
        assert!(message(libc::EPERM, None, 0).contains("seccomp"));
        assert!(message(libc::EPERM, None, 0).contains("Docker"));
        assert!(message(libc::EINVAL, Some("X"), 0).contains("X is missing"));
        assert!(message(libc::ENOMEM, None, 0).contains("io_uring_setup"));
    }
}
