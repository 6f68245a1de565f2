//! The loop of the master thread: signals and the workers' events in, commands to the workers out.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};

use super::Start;
use super::daemon::{self, Started};
use super::listeners::Listeners;
use super::pid::PidFile;
use super::signals::{Received, Request};
use super::upgrade::{Invocation, NewBinary};
use crate::gateway::Gateway;
use crate::log_process;
use crate::observe::error_log::echo_to_stderr;
use crate::observe::{Level, os_error, writer};
use crate::worker::control::{Command, Event, WorkerHandle};

/// After TERM, workers have this long before the process ends without them.
const TERMINATION_MAX: Duration = Duration::from_secs(5);

/// A worker that ends by itself sooner than this after its start would only do so again.
const WORKER_LIFE_MIN: Duration = Duration::from_secs(1);

/// How long the loop waits when nothing has a deadline.
const IDLE: Duration = Duration::from_secs(3600);

/// The running process.
pub(super) struct Master {
    pub(super) start: Start,
    pub(super) gateway: Arc<Gateway>,
    pub(super) listeners: Listeners,
    pub(super) pid_file: Option<PidFile>,
    /// The process of the older binary this one was started by, if it was.
    pub(super) parent: Option<u32>,
    pub(super) workers: Vec<Worker>,
    /// Reloads that some worker has yet to answer, oldest first.
    pub(super) reloads: VecDeque<PendingReload>,
    pub(super) generation: u64,
    invocation: Invocation,
    new_binary: Option<NewBinary>,
    requests: Receiver<Received>,
    events: Receiver<Event>,
    pub(super) event_sender: Sender<Event>,
    phase: Phase,
}

/// One worker as the master sees it.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) handle: WorkerHandle,
    pub(super) ready: bool,
    /// Told to end.
    pub(super) ending: bool,
    since: Instant,
}

/// A reload on its way through the workers.
pub(super) struct PendingReload {
    pub(super) generation: u64,
    /// The workers that have not answered.
    pub(super) waiting: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Workers serve.
    Serving,
    /// No worker, by signal WINCH; a reload starts them again.
    Paused,
    /// Ending; the process goes when the last worker has, or at the deadline.
    Ending {
        graceful: bool,
        deadline: Option<Instant>,
        failed: bool,
    },
}

impl Master {
    pub(super) fn new(
        start: Start,
        gateway: Arc<Gateway>,
        listeners: Listeners,
        invocation: Invocation,
        requests: Receiver<Received>,
    ) -> Master {
        let (event_sender, events) = channel::unbounded();
        Master {
            start,
            gateway,
            listeners,
            pid_file: None,
            parent: None,
            workers: Vec::new(),
            reloads: VecDeque::new(),
            generation: 1,
            invocation,
            new_binary: None,
            requests,
            events,
            event_sender,
            phase: Phase::Serving,
        }
    }

    /// Starts the workers and lives until told to end.
    pub(super) fn live(mut self, started: Started) -> ExitCode {
        self.start_workers();
        let mut started = Some(started);
        loop {
            let wait = self.time_left();
            channel::select! {
                recv(self.requests) -> received => {
                    if let Ok(received) = received {
                        self.obey(received);
                    }
                }
                recv(self.events) -> event => {
                    if let Ok(event) = event {
                        self.note(event);
                    }
                }
                default(wait) => self.run_out_of_time(),
            }
            if self.phase == Phase::Serving && self.workers.iter().all(|worker| worker.ready) {
                started
                    .take()
                    .into_iter()
                    .for_each(|told| self.now_serving(told));
            }
            if let Phase::Ending { failed, .. } = self.phase
                && self.workers.is_empty()
            {
                return self.end(failed);
            }
        }
    }

    /// Whether the workers accept connections now.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// Starts the workers that are missing; again after WINCH.
    pub(super) fn start_workers(&mut self) {
        self.phase = Phase::Serving;
        log_process!(Level::Notice, "start worker processes");
        for index in 0..self.gateway.process.workers {
            if !self
                .workers
                .iter()
                .any(|worker| worker.index == index && !worker.ending)
            {
                self.start_worker(index);
            }
        }
    }

    /// Starts worker `index` with all its sockets. Without it the process ends.
    pub(super) fn start_worker(&mut self, index: usize) {
        let count = self.gateway.process.workers;
        let spawned = self.listeners.for_worker(index, count).and_then(|sockets| {
            let gateway = Arc::clone(&self.gateway);
            (self.start.spawn)(index, sockets, gateway, self.event_sender.clone())
        });
        match spawned {
            Ok(handle) => {
                log_process!(Level::Notice, "start worker process {index}");
                let since = Instant::now();
                self.workers.push(Worker {
                    index,
                    handle,
                    ready: false,
                    ending: false,
                    since,
                });
            }
            Err(error) => {
                let shown = os_error(&error);
                log_process!(Level::Alert, "worker {index} could not be started {shown}");
                self.terminate(true);
            }
        }
    }

    fn now_serving(&mut self, started: Started) {
        echo_to_stderr(false);
        if self.gateway.process.daemon && !self.start.attached {
            // Without /dev/null standard error just stays what it was.
            let _ = daemon::detach_stderr();
        }
        started.tell();
    }

    fn obey(&mut self, received: Received) {
        log_process!(Level::Notice, "{}", received.describe());
        match received.request {
            Request::Terminate => self.terminate(false),
            Request::Quit => self.quit(),
            Request::Reload if self.is_ending() => {}
            Request::Reload => self.reload(),
            Request::Reopen => self.reopen(),
            Request::Upgrade => self.upgrade(),
            Request::StopWorkers => self.pause(),
            Request::ChildEnded => self.look_after_new_binary(),
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ready(index) => {
                // The latest of that number: an ending one was ready long ago.
                let mut found = self
                    .workers
                    .iter_mut()
                    .filter(|worker| worker.index == index);
                if let Some(worker) = found.next_back() {
                    worker.ready = true;
                }
            }
            Event::Reloaded(index) => self.reloaded(index),
            Event::Ended(index, failed) => self.worker_ended(index, failed),
        }
    }

    fn worker_ended(&mut self, index: usize, failed: bool) {
        // The oldest of that number: workers end in the order they were started.
        let Some(at) = self.workers.iter().position(|worker| worker.index == index) else {
            return;
        };
        let worker = self.workers.remove(at);
        worker.handle.join();
        self.forget_in_reloads(index);
        if !failed && worker.ending {
            log_process!(Level::Notice, "worker process {index} ended");
            return;
        }
        log_process!(Level::Alert, "worker process {index} ended by itself");
        if self.phase != Phase::Serving {
            return;
        }
        if worker.since.elapsed() < WORKER_LIFE_MIN {
            self.terminate(true);
        } else {
            self.start_worker(index);
        }
    }

    fn terminate(&mut self, failed: bool) {
        let deadline = Some(Instant::now() + TERMINATION_MAX);
        self.phase = Phase::Ending {
            graceful: false,
            deadline,
            failed,
        };
        for worker in &mut self.workers {
            worker.ending = true;
            worker.handle.send(Command::Terminate);
        }
    }

    fn quit(&mut self) {
        if self.is_ending() {
            return;
        }
        let deadline = self
            .gateway
            .process
            .shutdown_timeout
            .map(|limit| Instant::now() + limit);
        self.phase = Phase::Ending {
            graceful: true,
            deadline,
            failed: false,
        };
        self.quit_workers();
    }

    fn pause(&mut self) {
        if self.phase == Phase::Serving {
            self.phase = Phase::Paused;
            self.quit_workers();
        }
    }

    fn quit_workers(&mut self) {
        log_process!(Level::Notice, "gracefully shutting down");
        let shared = self.shares_sockets();
        for worker in self.workers.iter_mut().filter(|worker| !worker.ending) {
            worker.ending = true;
            worker.handle.send(Command::Quit { shared });
        }
    }

    fn reopen(&mut self) {
        log_process!(Level::Notice, "reopening logs");
        for worker in &self.workers {
            worker.handle.send(Command::Reopen);
        }
        writer::reopen();
    }

    fn upgrade(&mut self) {
        if self.is_ending() || self.new_binary.is_some() || self.parent_lives() {
            log_process!(Level::Notice, "the changing binary signal is ignored");
            return;
        }
        log_process!(Level::Notice, "changing binary");
        if let Some(Err(error)) = self.pid_file.as_ref().map(PidFile::rename_to_old) {
            let shown = os_error(&error);
            log_process!(Level::Alert, "the pid file could not be renamed {shown}");
            return;
        }
        match NewBinary::start(&self.invocation, &self.listeners) {
            Ok(binary) => {
                log_process!(Level::Notice, "start new binary process {}", binary.pid());
                self.new_binary = Some(binary);
            }
            Err(error) => {
                let program = self.invocation.program().display();
                let shown = os_error(&error);
                log_process!(
                    Level::Alert,
                    "execve() failed while executing new binary process \"{program}\" {shown}"
                );
                self.take_pid_file_back();
            }
        }
    }

    fn look_after_new_binary(&mut self) {
        let Some(binary) = &mut self.new_binary else {
            return;
        };
        let pid = binary.pid();
        let Some(status) = binary.ended() else { return };
        self.new_binary = None;
        let code = status.code().unwrap_or(-1);
        log_process!(
            Level::Notice,
            "new binary process {pid} exited with code {code}"
        );
        self.take_pid_file_back();
        if self.phase == Phase::Paused {
            self.start_workers();
        }
    }

    fn take_pid_file_back(&self) {
        if let Some(Err(error)) = self.pid_file.as_ref().map(PidFile::rename_back) {
            let shown = os_error(&error);
            log_process!(
                Level::Alert,
                "the pid file could not be renamed back {shown}"
            );
        }
    }

    /// Whether another binary accepts from the same sockets.
    fn shares_sockets(&self) -> bool {
        self.new_binary.is_some() || (self.parent_lives() && self.listeners.any_inherited())
    }

    fn parent_lives(&self) -> bool {
        self.parent
            .is_some_and(|parent| parent == std::os::unix::process::parent_id())
    }

    fn time_left(&self) -> Duration {
        match self.phase {
            Phase::Ending {
                deadline: Some(deadline),
                ..
            } => deadline.saturating_duration_since(Instant::now()),
            _ => IDLE,
        }
    }

    fn run_out_of_time(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Ending {
                graceful: true,
                deadline: Some(deadline),
                ..
            } if deadline <= now => {
                log_process!(Level::Notice, "worker_shutdown_timeout expired, exiting");
                self.terminate(false);
            }
            Phase::Ending {
                graceful: false,
                deadline: Some(deadline),
                failed,
            } if deadline <= now => {
                log_process!(
                    Level::Alert,
                    "{} workers did not end in time",
                    self.workers.len()
                );
                self.workers.clear();
                self.phase = Phase::Ending {
                    graceful: false,
                    deadline: None,
                    failed,
                };
            }
            _ => {}
        }
    }

    fn end(mut self, failed: bool) -> ExitCode {
        let shared = self.shares_sockets();
        let renamed = self.new_binary.is_some();
        self.pid_file
            .take()
            .into_iter()
            .for_each(|file| file.remove_named(renamed));
        self.listeners.close(!shared);
        log_process!(Level::Notice, "exit");
        if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
