//! A new configuration for a process that serves: built in full, then swapped in one step; a broken
//! one is refused and the old keeps serving. (signal HUP)

use std::sync::Arc;

use super::boot::tell_warnings;
use super::life::{Master, PendingReload};
use crate::base::capability;
use crate::base::listen::ListenAddr;
use crate::log_process;
use crate::observe::{self, Level, os_error};
use crate::worker::control::Command;

impl Master {
    /// Reads the configuration again and hands it to the workers. What fails is logged and changes
    /// nothing.
    pub(super) fn reload(&mut self) {
        log_process!(Level::Notice, "reconfiguring");
        let (gateway, report) = match self.start.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                log_process!(Level::Emerg, "{}", error.message);
                return;
            }
        };
        if let Err(message) = gateway.go_live() {
            log_process!(Level::Emerg, "{message}");
            return;
        }
        if gateway.process.transparent && !capability::may(capability::NET_RAW) {
            log_process!(
                Level::Warn,
                "\"proxy_bind\" with \"transparent\" needs a privilege that was given up, start anew"
            );
        }
        let Ok(prepared) = self
            .listeners
            .prepare(&gateway.listens(), gateway.process.workers)
        else {
            return;
        };
        if let Some(Err(error)) = self
            .pid_file
            .as_mut()
            .map(|file| file.move_to(&gateway.process.pid))
        {
            let (path, shown) = (gateway.process.pid.display(), os_error(&error));
            log_process!(Level::Emerg, "open() \"{path}\" failed {shown}");
            return;
        }
        let kept: Vec<ListenAddr> = self
            .gateway
            .listens()
            .into_iter()
            .map(|spec| spec.addr)
            .collect();
        let removed = self.listeners.commit(prepared);
        observe::error_log::set_process_log(gateway.error_log.clone());
        tell_warnings(&report);
        let workers_before = self.gateway.process.workers;
        self.gateway = Arc::new(gateway);
        self.generation += 1;
        self.hand_out(workers_before, &kept, &removed);
    }

    /// A worker has the latest reload it was sent.
    pub(super) fn reloaded(&mut self, index: usize) {
        // Each worker answers in order, so this is for the oldest that waits for it.
        let waiting = self
            .reloads
            .iter_mut()
            .find(|reload| reload.waiting.contains(&index));
        if let Some(reload) = waiting {
            reload.waiting.retain(|&other| other != index);
        }
        self.tell_finished_reloads();
    }

    /// A worker that ended answers no reload any more.
    pub(super) fn forget_in_reloads(&mut self, index: usize) {
        for reload in &mut self.reloads {
            reload.waiting.retain(|&other| other != index);
        }
        self.tell_finished_reloads();
    }

    /// Sends the new configuration to the workers that stay, ends those that are too many, starts
    /// those that are missing.
    fn hand_out(&mut self, workers_before: usize, kept: &[ListenAddr], removed: &[ListenAddr]) {
        let count = self.gateway.process.workers;
        let mut waiting = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| !worker.ending) {
            if worker.index >= count {
                worker.ending = true;
                // Its sockets go on with the master's duplicates, for the other workers.
                worker.handle.send(Command::Quit { shared: true });
                continue;
            }
            let added =
                match self
                    .listeners
                    .added_for_worker(worker.index, count, workers_before, kept)
                {
                    Ok(added) => added,
                    Err(error) => {
                        let shown = os_error(&error);
                        log_process!(Level::Alert, "listening sockets cannot be shared {shown}");
                        Vec::new()
                    }
                };
            let (gateway, removed) = (Arc::clone(&self.gateway), removed.to_vec());
            worker.handle.send(Command::Reload {
                gateway,
                added,
                removed,
                taken: self.listeners.taken_from_worker(worker.index),
            });
            waiting.push(worker.index);
        }
        self.reloads.push_back(PendingReload {
            generation: self.generation,
            waiting,
        });
        self.start_workers();
        self.tell_finished_reloads();
    }

    /// One line for each finished reload, in the words that scripts wait for.
    fn tell_finished_reloads(&mut self) {
        while self
            .reloads
            .front()
            .is_some_and(|reload| reload.waiting.is_empty())
        {
            if let Some(reload) = self.reloads.pop_front() {
                let retired = reload.generation - 1;
                log_process!(
                    Level::Notice,
                    "configuration {retired} is replaced, its workers exited with code 0"
                );
            }
        }
    }
}
