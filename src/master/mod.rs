//! Process life: from a configuration to serving workers, and through every signal to the end.
//!
//! `boot` starts the process, `life` is its loop, `reload` and `upgrade` are the two ways it
//! changes; `listeners` (with `socket`), `pid`, `privileges`, `daemon` and `signals` each own one
//! thing.

mod boot;
mod daemon;
mod life;
mod listeners;
mod pid;
mod privileges;
mod reload;
mod signals;
mod socket;
mod upgrade;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::Sender;

use crate::base::listen::WorkerSocket;
use crate::gateway::{Gateway, LoadError, LoadOptions, Report};
use crate::worker::control::{Event, WorkerHandle};

pub use boot::{run, tell_load_error, tell_warnings};
pub use listeners::{BindFailed, Listeners};
pub use pid::read as read_pid;
pub use signals::by_name as signal_by_name;

/// Starts one worker: its number, its sockets, what it serves, and where it reports.
pub type SpawnWorker =
    fn(usize, Vec<WorkerSocket>, Arc<Gateway>, Sender<Event>) -> io::Result<WorkerHandle>;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A file, read again by each reload.
    File(PathBuf),
    /// A generated text, which stays as it is.
    Text(String),
}

/// Everything a start needs to know.
#[derive(Clone, Debug)]
pub struct Start {
    /// The configuration.
    pub origin: Origin,
    /// How to read it.
    pub options: LoadOptions,
    /// Stay in the foreground and write no pid file, whatever the configuration says: quick starts.
    pub attached: bool,
    /// How a worker is started.
    pub spawn: SpawnWorker,
}

impl Start {
    /// Reads the configuration.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn load(&self) -> Result<(Gateway, Report), Box<LoadError>> {
        match &self.origin {
            Origin::File(path) => Gateway::load(path, &self.options),
            Origin::Text(text) => {
                Gateway::load_text(&PathBuf::from("generated"), text, &self.options)
            }
        }
    }
}
