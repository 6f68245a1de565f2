//! Panics become lines of the error log, since nobody reads a daemon's standard error.
//!
//! A panic ends the task it happens in: one connection, or a part of the process that its starter
//! looks after. This is the only place that says so.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

use super::Level;
use crate::log_process;

/// From now on every panic of this process is an `[alert]` in its error log:
/// `panic in worker-0 at src/http/route.rs:12:5: index out of bounds`. With `RUST_BACKTRACE=1` the
/// way there follows on standard error.
pub fn log_panics() {
    panic::set_hook(Box::new(log_panic));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("a thread");
    let message = message(info.payload());
    match info.location() {
        Some(place) => log_process!(Level::Alert, "panic in {name} at {place}: {message}"),
        None => log_process!(Level::Alert, "panic in {name}: {message}"),
    }
    let way = Backtrace::capture();
    if way.status() == BacktraceStatus::Captured {
        eprintln!("{way}");
    }
}

/// What `panic!` was given.
fn message(payload: &dyn Any) -> &str {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a value that is no text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::error_log::{self, ErrorLog, TargetSpec};
    use crate::observe::writer::tests::Scratch;
    use crate::ring::{self, EngineConf};

    #[test]
    fn a_panic_ends_its_task_and_is_logged() {
        let scratch = Scratch::new("panics");
        let spec = TargetSpec::default_file(&scratch.path("error.log"));
        error_log::set_process_log(ErrorLog::open(&[spec]).unwrap());
        // Other tests may panic as well: theirs go on to where they went before.
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if message(info.payload()).contains("a test of the hook") {
                log_panic(info);
            } else {
                before(info);
            }
        }));
        let served = ring::start(&EngineConf::default(), async {
            let part = 3;
            let broken = ring::spawn(async move { panic!("a test of the hook, {part}\nlines") });
            let other = ring::spawn(async {
                ring::yield_now().await;
                "served"
            });
            assert!(broken.await.is_err_and(|error| error.is_panic()));
            other.await
        });
        assert_eq!(served.unwrap().unwrap(), "served");
        let log = scratch.read("error.log");
        error_log::set_process_log(ErrorLog::stderr());
        let (name, file) = (thread::current(), file!());
        let start = format!("panic in {} at {file}:", name.name().unwrap());
        // Tests running beside this one may log, too.
        let is_ours = |line: &str| {
            line.contains(" [alert] ")
                && line.contains(&start)
                && line.ends_with(": a test of the hook, 3 lines")
        };
        assert!(log.lines().any(is_ours), "{log}");
    }

    #[test]
    fn what_was_thrown_is_shown() {
        assert_eq!(message(&"text"), "text");
        assert_eq!(message(&"owned".to_owned()), "owned");
        assert_eq!(message(&17), "a value that is no text");
    }
}
