//! Changing the binary without losing a connection: the new one inherits the listening sockets.
//! (signal USR2)

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use super::listeners::Listeners;
use super::privileges;
use crate::base::capability;

/// Names the inherited sockets: `RINGWAY=5;6;7;`. (nginx: `NGINX`)
const VARIABLE: &str = "RINGWAY";

/// What a new binary is started with: this process's own command line.
#[derive(Clone, Debug)]
pub struct Invocation {
    program: PathBuf,
    arguments: Vec<std::ffi::OsString>,
}

impl Invocation {
    /// Of this process. To be called before the working directory changes or the file is replaced:
    /// the path, not the file, is what the new binary is found by.
    pub fn current() -> io::Result<Invocation> {
        let mut arguments = env::args_os();
        let name = PathBuf::from(arguments.next().unwrap_or_default());
        let program = if name.components().count() > 1 {
            std::path::absolute(name)?
        } else {
            env::current_exe()?
        };
        Ok(Invocation {
            program,
            arguments: arguments.collect(),
        })
    }

    /// The path of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// A new binary that was started by this process.
#[derive(Debug)]
pub struct NewBinary {
    child: Child,
}

impl NewBinary {
    /// Starts it with the sockets of `listeners`, and with what root left us.
    pub fn start(invocation: &Invocation, listeners: &Listeners) -> io::Result<NewBinary> {
        // Duplicates, which unlike the originals survive the execution.
        let sockets: Vec<OwnedFd> = listeners
            .descriptors()
            .map(inheritable_duplicate)
            .collect::<io::Result<_>>()?;
        let mut value = String::new();
        for socket in &sockets {
            use std::fmt::Write;
            use std::os::fd::AsRawFd;
            let _ = write!(value, "{};", socket.as_raw_fd());
        }
        let mut command = Command::new(&invocation.program);
        command.args(&invocation.arguments).env(VARIABLE, value);
        if !capability::is_root() {
            // SAFETY: only system calls on plain integers between fork and exec.
            unsafe { command.pre_exec(privileges::pass_capabilities_on) };
        }
        Ok(NewBinary {
            child: command.spawn()?,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

/// The sockets an older binary left to this process, with the text that names them. Descriptors
/// that are no open sockets are skipped.
pub fn inherited() -> Option<(String, Vec<OwnedFd>)> {
    let value = env::var(VARIABLE).ok()?;
    let sockets = value
        .split([';', ':'])
        .filter_map(|number| adopt(number.parse().ok()?));
    Some((value.clone(), sockets.collect()))
}

fn adopt(descriptor: RawFd) -> Option<OwnedFd> {
    if descriptor <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: F_SETFD on a plain number; fails when nothing is open there.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return None;
    }
    // SAFETY: it is open, was left to this process by its parent, and is adopted once at the start.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn inheritable_duplicate(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD takes plain numbers; the duplicate has no FD_CLOEXEC.
    let duplicate = unsafe { libc::fcntl(descriptor, libc::F_DUPFD, 3) };
    if duplicate == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}
