//! Threads beside the workers, for what may take long and needs tokio's sockets.

use std::sync::OnceLock;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A thread that begins with the first job, and never ends. A `static`.
pub struct Background<J> {
    name: &'static str,
    jobs: OnceLock<UnboundedSender<J>>,
}

impl<J: Send + 'static> Background<J> {
    /// Not begun yet.
    pub const fn new(name: &'static str) -> Self {
        Background {
            name,
            jobs: OnceLock::new(),
        }
    }

    /// Hands over a job. The thread spends its life in `work`, which may spawn local tasks. Where
    /// there can be no thread, jobs are dropped.
    pub fn send<F: Future<Output = ()>>(
        &self,
        job: J,
        work: impl FnOnce(UnboundedReceiver<J>) -> F + Send + 'static,
    ) {
        let jobs = self.jobs.get_or_init(|| {
            let (sender, receiver) = unbounded_channel();
            let thread = std::thread::Builder::new().name(self.name.into());
            let _ = thread.spawn(|| run(work(receiver)));
            sender
        });
        let _ = jobs.send(job);
    }
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    if let Ok(runtime) = runtime {
        tokio::task::LocalSet::new().block_on(&runtime, work);
    }
}
