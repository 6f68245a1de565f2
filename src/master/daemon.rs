//! `daemon on`: into the background, before any thread starts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

/// Tells the waiting parent how the start went. Dropped untold, it means failure.
#[derive(Debug)]
pub struct Started(Option<File>);

impl Started {
    /// Lets the parent exit with success: everything listens and the pid file is there.
    pub fn tell(mut self) {
        if let Some(mut pipe) = self.0.take() {
            // A parent that was killed does not matter.
            let _ = pipe.write_all(b"1");
        }
    }

    /// For a process that stays in the foreground.
    pub fn nobody_waits() -> Started {
        Started(None)
    }
}

/// Forks, makes the child the leader of a session of its own with /dev/null as standard input and
/// output (standard error goes on until [`detach_stderr`]), and returns in the child. The parent
/// waits for [`Started::tell`] and exits: 0 when told, 1 when the child ended first. So whoever
/// started the process finds it serving, with its pid file.
///
/// Must be called while there is one thread.
pub fn into_background() -> io::Result<Started> {
    let (mut reader, writer) = pipe()?;
    // SAFETY: there is one thread, so the child may do whatever it likes.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            // SAFETY: setsid has no preconditions.
            if unsafe { libc::setsid() } == -1 {
                return Err(io::Error::last_os_error());
            }
            redirect(&[libc::STDIN_FILENO, libc::STDOUT_FILENO])?;
            Ok(Started(Some(writer)))
        }
        _ => {
            drop(writer);
            let mut told = [0; 1];
            let success = reader.read_exact(&mut told).is_ok();
            std::process::exit(i32::from(!success));
        }
    }
}

/// Points standard error to /dev/null: from now on messages are for the log only.
pub fn detach_stderr() -> io::Result<()> {
    redirect(&[libc::STDERR_FILENO])
}

fn redirect(descriptors: &[i32]) -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for &descriptor in descriptors {
        // SAFETY: both descriptors are plain numbers; the old file of `descriptor` is not used
        // again.
        if unsafe { libc::dup2(null.as_raw_fd(), descriptor) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = io::pipe()?;
    Ok((
        File::from(std::os::fd::OwnedFd::from(reader)),
        File::from(std::os::fd::OwnedFd::from(writer)),
    ))
}
