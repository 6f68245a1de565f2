//! nginx's signals.

use std::io;
use std::thread;

use crossbeam::channel::Sender;
use signal_hook::consts::signal::{
    SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// TERM, INT: end now.
    Terminate,
    /// QUIT: end when the requests in flight are done.
    Quit,
    /// HUP: read the configuration again.
    Reload,
    /// USR1: reopen the log files.
    Reopen,
    /// USR2: start the binary anew, beside this process.
    Upgrade,
    /// WINCH: the workers end gracefully, the process stays.
    StopWorkers,
    /// CHLD: look after a new binary.
    ChildEnded,
}

/// One signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// What it asks for.
    pub request: Request,
}

impl Received {
    /// nginx's line: `signal 1 (SIGHUP) received, reconfiguring`.
    pub fn describe(self) -> String {
        let (name, action) = match self.request {
            Request::Terminate if self.signal == SIGINT => ("SIGINT", ", exiting"),
            Request::Terminate => ("SIGTERM", ", exiting"),
            Request::Quit => ("SIGQUIT", ", shutting down"),
            Request::Reload => ("SIGHUP", ", reconfiguring"),
            Request::Reopen => ("SIGUSR1", ", reopening logs"),
            Request::Upgrade => ("SIGUSR2", ", changing binary"),
            Request::StopWorkers => ("SIGWINCH", ", shutting down workers"),
            Request::ChildEnded => ("SIGCHLD", ""),
        };
        format!("signal {} ({name}) received{action}", self.signal)
    }
}

/// The signal to send for `-s NAME`.
pub fn by_name(name: &str) -> Option<i32> {
    match name {
        "stop" => Some(SIGTERM),
        "quit" => Some(SIGQUIT),
        "reopen" => Some(SIGUSR1),
        "reload" => Some(SIGHUP),
        _ => None,
    }
}

/// Signals are caught and kept until somebody listens.
#[derive(Debug)]
pub struct Caught(Signals);

/// Catches signals from now on: before the pid file invites them. SIGPIPE is ignored.
pub fn catch() -> io::Result<Caught> {
    let handled = [
        SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD, SIGPIPE,
    ];
    Signals::new(handled).map(Caught)
}

impl Caught {
    /// Sends what was caught, and everything that follows, from a thread of its own.
    pub fn listen(mut self, sender: Sender<Received>) -> io::Result<()> {
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in self.0.forever() {
                    let Some(request) = request_of(signal) else {
                        continue;
                    };
                    if sender.send(Received { signal, request }).is_err() {
                        return;
                    }
                }
            })?;
        Ok(())
    }
}

fn request_of(signal: i32) -> Option<Request> {
    Some(match signal {
        SIGTERM | SIGINT => Request::Terminate,
        SIGQUIT => Request::Quit,
        SIGHUP => Request::Reload,
        SIGUSR1 => Request::Reopen,
        SIGUSR2 => Request::Upgrade,
        SIGWINCH => Request::StopWorkers,
        SIGCHLD => Request::ChildEnded,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_says_what_it_does() {
        let line = |signal| {
            let request = request_of(signal).unwrap();
            Received { signal, request }.describe()
        };
        assert_eq!(line(SIGHUP), "signal 1 (SIGHUP) received, reconfiguring");
        assert_eq!(line(SIGQUIT), "signal 3 (SIGQUIT) received, shutting down");
        assert_eq!(line(SIGINT), "signal 2 (SIGINT) received, exiting");
        assert_eq!(line(SIGCHLD), "signal 17 (SIGCHLD) received");
        assert_eq!(request_of(SIGPIPE), None);
        assert_eq!(by_name("reload"), Some(SIGHUP));
        assert_eq!(by_name("restart"), None);
    }
}
