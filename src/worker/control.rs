//! How the master thread and the workers talk: commands go in through a queue and an eventfd that a
//! worker's ring waits on, events come back through a channel.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{self, Receiver, Sender};

use crate::base::capability;
use crate::base::listen::{ListenAddr, WorkerSocket};
use crate::gateway::Gateway;
use crate::gateway::process::ProcessConf;
use crate::log_process;
use crate::observe::{Level, access, os_error};

/// What the master tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Serve new requests by this configuration: accept on `added` too, drain and close the sockets
    /// of `removed`. Each is answered by one [`Event::Reloaded`], once no new request can begin
    /// with the old one.
    Reload {
        /// The new configuration.
        gateway: Arc<Gateway>,
        /// Sockets of addresses that were not listened on before.
        added: Vec<WorkerSocket>,
        /// Addresses that are not listened on any longer.
        removed: Vec<ListenAddr>,
        /// Sockets that another worker has now: their addresses and numbers.
        taken: Vec<(ListenAddr, usize)>,
    },
    /// End gracefully: requests in flight finish, idle connections close. With `shared`, another
    /// binary accepts from the same sockets: cancel the accepts instead of shutting the sockets
    /// down.
    Quit {
        /// Whether another process listens on the same sockets.
        shared: bool,
    },
    /// End now.
    Terminate,
    /// Log files are about to be reopened: pass on what is buffered.
    Reopen,
}

/// What a worker tells the master. The number is the worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It accepts connections.
    Ready(usize),
    /// The latest reload is in effect.
    Reloaded(usize),
    /// Its thread is about to end; true after a panic or an error of the ring.
    Ended(usize, bool),
}

/// The worker's end: what to do next.
#[derive(Debug)]
pub struct Inbox {
    commands: Receiver<Command>,
    wakeup: OwnedFd,
    events: Sender<Event>,
    index: usize,
}

impl Inbox {
    /// The worker's number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// A descriptor of the eventfd for the worker's ring.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn wakeup(&self) -> io::Result<OwnedFd> {
        self.wakeup.try_clone()
    }

    /// The next command, if there is one.
    pub fn take(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Tells the master that connections are accepted.
    pub fn ready(&self) {
        self.tell(Event::Ready(self.index));
    }

    /// Tells the master that the latest reload is in effect.
    pub fn reloaded(&self) {
        self.tell(Event::Reloaded(self.index));
    }

    fn tell(&self, event: Event) {
        // The master outlives its workers, except when the process ends at once.
        let _ = self.events.send(event);
    }
}

/// The master's end of one worker.
#[derive(Debug)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    wakeup: OwnedFd,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Starts a thread that runs `body` with the worker's end, on the cores and with the rights
    /// that `process` gives it. Its end, be it a return, an error or a panic, becomes an
    /// [`Event::Ended`]; its access log lines are passed on before.
    ///
    /// # Errors
    /// When the system has no descriptor or thread left.
    pub fn spawn(
        index: usize,
        process: &ProcessConf,
        events: Sender<Event>,
        body: impl FnOnce(&Inbox) -> io::Result<()> + Send + 'static,
    ) -> io::Result<WorkerHandle> {
        let (commands, receiver) = channel::unbounded();
        let wakeup = eventfd()?;
        let inbox = Inbox {
            commands: receiver,
            wakeup: wakeup.try_clone()?,
            events: events.clone(),
            index,
        };
        let cores = process.cores(index).map(<[usize]>::to_vec);
        let priority = process.priority;
        let kept = match process.transparent {
            true => capability::NET_RAW,
            false => 0,
        };
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                    settle(cores.as_deref(), priority, kept)?;
                    body(&inbox)
                }));
                if let Ok(Err(error)) = &outcome {
                    log_process!(
                        Level::Alert,
                        "worker {index} cannot go on {}",
                        os_error(error)
                    );
                }
                access::flush_all();
                inbox.tell(Event::Ended(index, !matches!(outcome, Ok(Ok(())))));
            })?;
        Ok(WorkerHandle {
            commands,
            wakeup,
            thread,
        })
    }

    /// Sends a command and wakes the worker. A worker that has ended ignores it.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            let one = 1u64.to_ne_bytes();
            // SAFETY: the descriptor is open, and the buffer has the eight bytes it wants.
            unsafe { libc::write(self.wakeup.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Waits for the thread to end.
    pub fn join(self) {
        // A panic was reported as an event.
        let _ = self.thread.join();
    }
}

/// Makes the calling thread a worker: its cores, its nice value, and of its rights those `kept`.
fn settle(cores: Option<&[usize]>, priority: i32, kept: u32) -> io::Result<()> {
    if let Some(cores) = cores {
        // SAFETY: an all-zero set is a valid, empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &core in cores
            .iter()
            .filter(|core| **core < libc::CPU_SETSIZE as usize)
        {
            // SAFETY: the number is within the set.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        // SAFETY: the set is valid for its size; 0 is the calling thread.
        let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
        if result != 0 {
            let shown = io::Error::last_os_error();
            log_process!(
                Level::Alert,
                "sched_setaffinity() failed {}",
                os_error(&shown)
            );
        }
    }
    // SAFETY: takes plain integers; 0 is the calling thread.
    if priority != 0 && unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, priority) } != 0 {
        let shown = io::Error::last_os_error();
        log_process!(
            Level::Alert,
            "setpriority({priority}) failed {}",
            os_error(&shown)
        );
    }
    if capability::is_root() {
        Ok(())
    } else {
        capability::limit_to(kept, false)
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd has no preconditions.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn commands_wake_and_the_end_is_told() {
        let (sender, events) = channel::unbounded();
        let worker = WorkerHandle::spawn(3, &ProcessConf::default(), sender, |inbox| {
            inbox.ready();
            let mut wakeup = std::fs::File::from(inbox.wakeup.try_clone()?);
            loop {
                let mut count = [0; 8];
                wakeup.read_exact(&mut count)?;
                while let Some(command) = inbox.take() {
                    if matches!(command, Command::Terminate) {
                        return Ok(());
                    }
                }
            }
        })
        .unwrap();
        assert_eq!(events.recv(), Ok(Event::Ready(3)));
        worker.send(Command::Reopen);
        worker.send(Command::Terminate);
        assert_eq!(events.recv(), Ok(Event::Ended(3, false)));
        worker.join();
    }

    #[test]
    fn a_failed_worker_is_told_from_one_that_ended() {
        let (sender, events) = channel::unbounded();
        let body = |_: &Inbox| Err(io::Error::from_raw_os_error(libc::ENOMEM));
        WorkerHandle::spawn(0, &ProcessConf::default(), sender, body)
            .unwrap()
            .join();
        assert_eq!(events.recv(), Ok(Event::Ended(0, true)));
    }
}
