//! The `user` directive: root is given up once the sockets are bound.
//!
//! The whole process becomes `user`. Its main thread and the log writer keep two capabilities, so
//! that a reload can bind port 443 and read keys that only root may read, and a rotated log can be
//! opened in root's directory. Workers, who handle what the network sends, keep none; but the one
//! that a `transparent` `proxy_bind` takes, where there is such.

use std::io;

use crate::base::capability;
use crate::gateway::process::Account;

/// Kept by the main thread, as far as there.
const KEPT: u32 = capability::DAC_OVERRIDE | capability::NET_BIND_SERVICE | capability::NET_RAW;

/// Becomes `account`, for good, and keeps [`KEPT`]; what only workers with a `transparent`
/// `proxy_bind` need, if there are such. To be called while the main thread is the only one:
/// threads started later inherit what it has.
///
/// # Errors
/// nginx's message: which call failed and why.
pub fn become_user(account: &Account, transparent: bool) -> Result<(), String> {
    // SAFETY: PR_SET_KEEPCAPS takes plain integers.
    check("prctl(PR_SET_KEEPCAPS)", unsafe {
        libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)
    })?;
    // SAFETY: setgid takes a plain integer.
    check("setgid()", unsafe { libc::setgid(account.gid) })?;
    // SAFETY: the name is NUL-terminated.
    check("initgroups()", unsafe {
        libc::initgroups(account.name.as_ptr(), account.gid)
    })?;
    // SAFETY: setuid takes a plain integer.
    check("setuid()", unsafe { libc::setuid(account.uid) })?;
    let kept = match transparent {
        true => KEPT,
        false => KEPT & !capability::NET_RAW,
    };
    capability::limit_to(kept, false).map_err(|error| failed("capset()", &error))?;
    // Changing user made the process undumpable, and with that its /proc files root's.
    // SAFETY: PR_SET_DUMPABLE takes plain integers.
    check("prctl(PR_SET_DUMPABLE)", unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0)
    })
}

/// Lets a program executed by this process keep what [`become_user`] kept, so that a new binary
/// can do the same.
pub fn pass_capabilities_on() -> io::Result<()> {
    capability::limit_to(KEPT, true)?;
    let kept = KEPT & capability::permitted();
    for bit in (0..32).filter(|bit| kept & (1 << bit) != 0) {
        // SAFETY: PR_CAP_AMBIENT takes plain integers.
        let result =
            unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, bit, 0, 0) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn check(call: &str, result: i32) -> Result<(), String> {
    if result == 0 {
        Ok(())
    } else {
        Err(failed(call, &io::Error::last_os_error()))
    }
}

fn failed(call: &str, error: &io::Error) -> String {
    format!("{call} failed {}", crate::observe::os_error(error))
}
