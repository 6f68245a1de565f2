//! From the command line to serving: configuration, sockets, background, pid file, privileges,
//! workers, in this order, so that each step can still be refused cleanly.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel;

use super::daemon::{self, Started};
use super::life::Master;
use super::listeners::Listeners;
use super::pid::PidFile;
use super::signals::{self, Caught, Received};
use super::upgrade::{self, Invocation};
use super::{Start, privileges};
use crate::gateway::{Gateway, LoadError, Report};
use crate::observe::{self, Level, os_error, writer};
use crate::{log_process, ring};

/// Lines that are waiting when the process ends have this long to reach their files.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// A start that failed. Why is in the error log and on standard error.
pub(super) struct Failed;

/// Runs the gateway until it is told to end. The exit code is nginx's: 1 when the start failed.
pub fn run(start: Start) -> ExitCode {
    observe::panics::log_panics();
    let code = match boot(start) {
        Ok((master, started)) => master.live(started),
        Err(Failed) => ExitCode::FAILURE,
    };
    writer::flush_and_wait(LAST_FLUSH);
    code
}

fn boot(start: Start) -> Result<(Master, Started), Failed> {
    let invocation = Invocation::current().or_else(|error| fail("the program's path", &error))?;
    let gateway = load(&start)?;
    raise_limits(&gateway)?;
    if let Err(unavailable) = ring::probe() {
        log_process!(Level::Emerg, "{unavailable}");
        return Err(Failed);
    }
    let inherited = upgrade::inherited();
    if let Some((names, _)) = &inherited {
        log_process!(Level::Notice, "using inherited sockets from \"{names}\"");
    }
    let is_upgrade = inherited.is_some();
    let mut listeners =
        Listeners::with_inherited(inherited.map(|(_, sockets)| sockets).unwrap_or_default());
    let prepared = listeners
        .prepare(&gateway.listens(), gateway.process.workers)
        .map_err(|_| Failed)?;
    listeners.commit(prepared);
    greet();
    // A new binary is in the background already, as a child of one that is.
    let started = if gateway.process.daemon && !start.attached && !is_upgrade {
        daemon::into_background().or_else(|error| fail("fork()", &error))?
    } else {
        Started::nobody_waits()
    };
    let caught = signals::catch().or_else(|error| fail("sigaction()", &error))?;
    let pid_file = if start.attached {
        None
    } else {
        Some(write_pid(&gateway)?)
    };
    let (sender, requests) = channel::unbounded();
    let begun = begin(&gateway, caught, sender);
    if begun.is_err() {
        pid_file
            .into_iter()
            .for_each(|file| file.remove_named(false));
        return Err(Failed);
    }
    let mut master = Master::new(start, Arc::new(gateway), listeners, invocation, requests);
    master.pid_file = pid_file;
    master.parent = is_upgrade.then(std::os::unix::process::parent_id);
    Ok((master, started))
}

/// Gives up root, then starts the first threads: they inherit what is left, and from here on
/// nothing may fork.
fn begin(
    gateway: &Gateway,
    caught: Caught,
    sender: channel::Sender<Received>,
) -> Result<(), Failed> {
    if let Err(message) = gateway.go_live() {
        log_process!(Level::Emerg, "{message}");
        return Err(Failed);
    }
    if let Some(account) = &gateway.process.user
        && let Err(message) = privileges::become_user(account, gateway.process.transparent)
    {
        log_process!(Level::Emerg, "{message}");
        return Err(Failed);
    }
    writer::start().or_else(|error| fail("the log writer", &error))?;
    caught
        .listen(sender)
        .or_else(|error| fail("the signal thread", &error))
}

fn load(start: &Start) -> Result<Gateway, Failed> {
    match start.load() {
        Ok((gateway, report)) => {
            observe::error_log::set_process_log(gateway.error_log.clone());
            tell_warnings(&report);
            Ok(gateway)
        }
        Err(error) => {
            tell_load_error(&error);
            Err(Failed)
        }
    }
}

/// Tells why a configuration cannot be used: the log gets nginx's line, the person at the terminal
/// the source line too.
pub fn tell_load_error(error: &LoadError) {
    let log = observe::log();
    if log.reaches_stderr() {
        log_process!(Level::Emerg, "{}", error.message);
        let details = error.text.lines().skip(1);
        details.for_each(|line| eprintln!("{line}"));
        return;
    }
    observe::error_log::echo_to_stderr(false);
    log_process!(Level::Emerg, "{}", error.message);
    eprintln!("ringway: {}", error.text);
}

/// Logs what is probably not meant.
pub fn tell_warnings(report: &Report) {
    for warning in &report.warnings {
        let line = warning.render(&report.sources);
        log_process!(Level::Warn, "{}", line.trim_start_matches("[warn] "));
    }
}

fn write_pid(gateway: &Gateway) -> Result<PidFile, Failed> {
    let path = &gateway.process.pid;
    PidFile::create(path).map_err(|error| {
        let shown = os_error(&error);
        log_process!(Level::Emerg, "open() \"{}\" failed {shown}", path.display());
        Failed
    })
}

/// `worker_rlimit_nofile`; without it, as many files as the system allows without being asked.
fn raise_limits(gateway: &Gateway) -> Result<(), Failed> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is valid for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return fail("getrlimit(RLIMIT_NOFILE)", &io::Error::last_os_error());
    }
    match gateway.process.rlimit_nofile {
        Some(files) => {
            limit = libc::rlimit {
                rlim_cur: files,
                rlim_max: files.max(limit.rlim_max),
            }
        }
        None => limit.rlim_cur = limit.rlim_max,
    }
    // SAFETY: the pointer is valid for the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        let shown = io::Error::last_os_error();
        let files = limit.rlim_cur;
        log_process!(
            Level::Alert,
            "setrlimit(RLIMIT_NOFILE, {files}) failed {}",
            os_error(&shown)
        );
    }
    Ok(())
}

fn greet() {
    log_process!(Level::Notice, "using the \"io_uring\" event method");
    log_process!(Level::Notice, "ringway/{}", env!("CARGO_PKG_VERSION"));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    log_process!(Level::Notice, "OS: Linux {}", release.trim());
}

fn fail<T>(what: &str, error: &io::Error) -> Result<T, Failed> {
    log_process!(Level::Emerg, "{what} failed {}", os_error(error));
    Err(Failed)
}
