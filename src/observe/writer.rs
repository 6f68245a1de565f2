//! The log writer: one background thread which does all writing to log files and syslog sockets, so
//! that a slow disk never holds up a worker.
//!
//! Bytes travel in whole buffers through a bounded queue; the buffers come back through a pool. The
//! backlog has a bound in bytes: beyond it lines are dropped, counted and reported. Before
//! [`start`] (while the process is being set up) writes go straight to their file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, TrySendError};
use crossbeam::queue::ArrayQueue;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::level::Level;
use super::{os_error, syslog};

/// Bytes waiting to be written before lines are dropped.
const BACKLOG_BYTES_MAX: usize = 64 << 20;

/// Buffers waiting to be written before lines are dropped.
const BACKLOG_BUFFERS_MAX: usize = 16 << 10;

/// Buffers kept for reuse, and the largest worth keeping.
const POOL_BUFFERS_MAX: usize = 256;
const POOL_BUFFER_BYTES_MAX: usize = 256 << 10;

/// The size of a new buffer: some lines, so that it need not grow at once.
const BUFFER_BYTES: usize = 4 << 10;

/// Buffers there from the start: what workers fill while the writer gathers, or waits for a core.
const BUFFERS_READY: usize = 64;

/// How long the writer lets buffers gather once it is awake. It is not waiting on the queue then,
/// so a busy worker's `write` costs no futex call.
const GATHER: Duration = Duration::from_millis(1);

/// How often trouble with one log is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How the bytes of one write reach the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are; to syslog with the target's own severity.
    Plain,
    /// As one gzip member of this level, 1 to 9. (`access_log … gzip=`)
    Gzip(u8),
    /// To syslog with this severity; to files as they are.
    Severity(u8),
}

/// An open log: a file, the standard error stream or a syslog target. Cloning shares it, and
/// opening the same path twice yields the same sink, so that a rename by logrotate concerns all
/// users.
#[derive(Clone, Debug)]
pub struct Sink(Arc<State>);

#[derive(Debug)]
struct State {
    index: u32,
    path: Option<PathBuf>,
    name: Box<str>,
    /// Held by the writer thread alone once it runs; never by a worker.
    output: Mutex<Output>,
    lines_dropped: AtomicU64,
}

#[derive(Debug)]
enum Output {
    File {
        /// None until the first lines arrive, if it is opened by the writer.
        file: Option<File>,
        /// Whether the last write failed, and that was reported.
        failing: bool,
    },
    Syslog {
        sender: syslog::Sender,
        severity: u8,
    },
}

impl Sink {
    /// Opens `path` for appending, creating it (mode 644). `/dev/stderr` and `/dev/stdout` mean the
    /// descriptors this process was started with, whatever they are.
    pub fn file(path: &Path) -> io::Result<Sink> {
        Sink::known_or(path, || Ok(Some(open(path)?)))
    }

    /// As [`Sink::file`], but the writer opens the file when it is first written to. Trouble with
    /// that is reported in the error log.
    pub fn file_later(path: &Path) -> Sink {
        Sink::known_or(path, || Ok(None)).expect("nothing was opened that could fail")
    }

    fn known_or(path: &Path, open: impl FnOnce() -> io::Result<Option<File>>) -> io::Result<Sink> {
        let mut registry = lock(&REGISTRY);
        let known = registry.iter().filter_map(Weak::upgrade);
        if let Some(state) = known
            .into_iter()
            .find(|state| state.path.as_deref() == Some(path))
        {
            return Ok(Sink(state));
        }
        let output = Output::File {
            file: open()?,
            failing: false,
        };
        Ok(register(
            &mut registry,
            Some(path.to_owned()),
            &path.to_string_lossy(),
            output,
        ))
    }

    /// The standard error stream.
    pub fn stderr() -> io::Result<Sink> {
        Sink::file(Path::new("/dev/stderr"))
    }

    /// A syslog target; connects when the first message is written.
    pub fn syslog(target: syslog::Target) -> Sink {
        let severity = target.severity().severity();
        let output = Output::Syslog {
            sender: syslog::Sender::new(target),
            severity,
        };
        register(&mut lock(&REGISTRY), None, "syslog", output)
    }

    /// Writes whole lines, each ending in a newline. Never blocks once the writer runs: when the
    /// backlog is full the lines are dropped and counted.
    pub fn write(&self, bytes: Vec<u8>, form: Form) {
        if bytes.is_empty() {
            return recycle(bytes);
        }
        let Some(queue) = QUEUE.get() else {
            self.0.write_now(&bytes, form);
            return recycle(bytes);
        };
        let length = bytes.len();
        if queue.bytes.fetch_add(length, Ordering::Relaxed) + length > BACKLOG_BYTES_MAX {
            return self.drop_lines(queue, bytes);
        }
        match queue.sender.try_send(Message::Write {
            sink: self.clone(),
            bytes,
            form,
        }) {
            Ok(()) => {}
            Err(TrySendError::Full(Message::Write { bytes, .. })) => self.drop_lines(queue, bytes),
            Err(_) => debug_assert!(false, "the writer thread lives as long as the process"),
        }
    }

    /// A small number unique among the open sinks, for tables kept per thread.
    pub fn index(&self) -> usize {
        self.0.index as usize
    }

    /// The path or kind, for messages.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether this is the process's standard error stream.
    pub fn is_stderr(&self) -> bool {
        self.0.path.as_deref() == Some(Path::new("/dev/stderr"))
    }

    /// Lines dropped so far because the backlog was full and which were not reported yet.
    pub fn lines_dropped(&self) -> u64 {
        self.0.lines_dropped.load(Ordering::Relaxed)
    }

    fn drop_lines(&self, queue: &Queue, bytes: Vec<u8>) {
        queue.bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
        self.0
            .lines_dropped
            .fetch_add(lines as u64, Ordering::Relaxed);
        recycle(bytes);
    }
}

/// Starts the writer thread. To be called after any fork; further calls do nothing.
pub fn start() -> io::Result<()> {
    if QUEUE.get().is_some() {
        return Ok(());
    }
    let (sender, receiver) = channel::bounded(BACKLOG_BUFFERS_MAX);
    let queue = Queue {
        sender,
        bytes: AtomicUsize::new(0),
    };
    if QUEUE.set(queue).is_ok() {
        (0..BUFFERS_READY).for_each(|_| recycle(Vec::with_capacity(BUFFER_BYTES)));
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                Thread {
                    receiver,
                    reported_at: None,
                }
                .run()
            })?;
    }
    Ok(())
}

/// Waits until everything written so far is in its file, at most `limit`. False if time ran out.
pub fn flush_and_wait(limit: Duration) -> bool {
    let Some(queue) = QUEUE.get() else {
        return true;
    };
    let deadline = Instant::now() + limit;
    let (done, finished) = channel::bounded(1);
    queue
        .sender
        .send_deadline(Message::Flush(done), deadline)
        .is_ok()
        && finished.recv_deadline(deadline).is_ok()
}

/// Opens every log file anew under its path, after what was written before. (signal USR1)
/// A file that cannot be opened keeps its old descriptor, and the error log says so.
pub fn reopen() {
    match QUEUE.get() {
        None => reopen_all(),
        Some(queue) => {
            let _ = queue
                .sender
                .send_timeout(Message::Reopen, Duration::from_secs(1));
        }
    }
}

/// An empty buffer for lines, reused if one is left.
pub fn buffer() -> Vec<u8> {
    let used = pool().pop();
    used.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

static REGISTRY: Mutex<Vec<Weak<State>>> = Mutex::new(Vec::new());
static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    sender: channel::Sender<Message>,
    bytes: AtomicUsize,
}

enum Message {
    Write {
        sink: Sink,
        bytes: Vec<u8>,
        form: Form,
    },
    Flush(channel::Sender<()>),
    Reopen,
}

/// The state of the writer thread.
struct Thread {
    receiver: Receiver<Message>,
    reported_at: Option<Instant>,
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.receiver.recv_timeout(REPORT_EVERY) {
                Ok(message) => self.drain(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.report_dropped();
        }
    }

    /// Handles `first` and what follows closely.
    fn drain(&mut self, first: Message) {
        handle(first);
        loop {
            while let Ok(message) = self.receiver.try_recv() {
                handle(message);
            }
            self.report_dropped();
            thread::sleep(GATHER);
            if self.receiver.is_empty() {
                return;
            }
        }
    }

    fn report_dropped(&mut self) {
        if self
            .reported_at
            .is_some_and(|at| at.elapsed() < REPORT_EVERY)
        {
            return;
        }
        self.reported_at = Some(Instant::now());
        for sink in live_sinks() {
            let lines = sink.0.lines_dropped.swap(0, Ordering::Relaxed);
            if lines > 0 {
                super::log_process!(
                    Level::Crit,
                    "writing to \"{}\" is too slow: {lines} lines were dropped",
                    sink.name()
                );
            }
        }
    }
}

fn handle(message: Message) {
    match message {
        Message::Write { sink, bytes, form } => {
            sink.0.write_now(&bytes, form);
            if let Some(queue) = QUEUE.get() {
                queue.bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
            recycle(bytes);
        }
        Message::Flush(done) => drop(done.send(())),
        Message::Reopen => reopen_all(),
    }
}

impl State {
    fn write_now(&self, bytes: &[u8], form: Form) {
        let mut output = lock(&self.output);
        match &mut *output {
            Output::Syslog { sender, severity } => {
                let severity = if let Form::Severity(own) = form {
                    own
                } else {
                    *severity
                };
                if sender.send_lines(severity, bytes).is_err() {
                    self.lines_dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Output::File { file, failing } => match self.write_file(file, bytes, form) {
                Ok(()) => *failing = false,
                Err(_) if *failing => {}
                Err(error) => {
                    let call = if file.is_some() {
                        "write() to"
                    } else {
                        "open()"
                    };
                    *failing = true;
                    // The report may go to this very sink.
                    drop(output);
                    let (name, shown) = (&self.name, os_error(&error));
                    super::log_process!(Level::Crit, "{call} \"{name}\" failed {shown}");
                }
            },
        }
    }

    fn write_file(&self, file: &mut Option<File>, bytes: &[u8], form: Form) -> io::Result<()> {
        let file = match (file, &self.path) {
            (Some(file), _) => file,
            (none, Some(path)) => none.insert(open(path)?),
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        write_form(file, bytes, form)
    }
}

fn write_form(file: &mut File, bytes: &[u8], form: Form) -> io::Result<()> {
    match form {
        Form::Plain | Form::Severity(_) => file.write_all(bytes),
        Form::Gzip(level) => {
            let mut encoder = GzEncoder::new(buffer(), Compression::new(u32::from(level)));
            encoder.write_all(bytes)?;
            let member = encoder.finish()?;
            let written = file.write_all(&member);
            recycle(member);
            written
        }
    }
}

fn reopen_all() {
    for sink in live_sinks() {
        let Some(path) = &sink.0.path else { continue };
        if is_standard(path) {
            continue;
        }
        match open(path) {
            Ok(file) => {
                let file = Some(file);
                *lock(&sink.0.output) = Output::File {
                    file,
                    failing: false,
                };
            }
            Err(error) => {
                let path = path.display();
                super::log_process!(
                    Level::Emerg,
                    "open() \"{path}\" failed {}",
                    os_error(&error)
                );
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let standard = match path.to_str() {
        Some("/dev/stderr") => Some(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
        Some("/dev/stdout") => Some(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        _ => None,
    };
    match standard {
        Some(file) => Ok(file),
        None => OpenOptions::new().append(true).create(true).open(path),
    }
}

fn is_standard(path: &Path) -> bool {
    matches!(path.to_str(), Some("/dev/stderr" | "/dev/stdout"))
}

fn register(
    registry: &mut Vec<Weak<State>>,
    path: Option<PathBuf>,
    name: &str,
    output: Output,
) -> Sink {
    let free = registry.iter().position(|state| state.strong_count() == 0);
    let index = free.unwrap_or(registry.len());
    let state = Arc::new(State {
        index: u32::try_from(index).expect("fewer open logs than descriptors"),
        path,
        name: name.into(),
        output: Mutex::new(output),
        lines_dropped: AtomicU64::new(0),
    });
    match free {
        Some(index) => registry[index] = Arc::downgrade(&state),
        None => registry.push(Arc::downgrade(&state)),
    }
    Sink(state)
}

fn live_sinks() -> Vec<Sink> {
    lock(&REGISTRY)
        .iter()
        .filter_map(Weak::upgrade)
        .map(Sink)
        .collect()
}

fn pool() -> &'static ArrayQueue<Vec<u8>> {
    static POOL: OnceLock<ArrayQueue<Vec<u8>>> = OnceLock::new();
    POOL.get_or_init(|| ArrayQueue::new(POOL_BUFFERS_MAX))
}

pub(super) fn recycle(mut bytes: Vec<u8>) {
    if bytes.capacity() <= POOL_BUFFER_BYTES_MAX {
        bytes.clear();
        // A full pool frees the buffer.
        let _ = pool().push(bytes);
    }
}

/// A writer that panicked leaves nothing half done that matters more than the coming lines.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A directory of one test; goes away with it.
    pub(in crate::observe) struct Scratch(PathBuf);

    impl Scratch {
        pub(in crate::observe) fn new(name: &str) -> Scratch {
            let directory =
                std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::create_dir_all(&directory).unwrap();
            Scratch(directory)
        }

        pub(in crate::observe) fn path(&self, file: &str) -> PathBuf {
            self.0.join(file)
        }

        pub(in crate::observe) fn read(&self, file: &str) -> String {
            assert!(flush_and_wait(Duration::from_secs(5)));
            std::fs::read_to_string(self.path(file)).unwrap()
        }

        pub(in crate::observe) fn expect(&self, file: &str, text: &str) {
            assert_eq!(self.read(file), text);
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn one_path_is_one_sink_and_indexes_are_reused() {
        let scratch = Scratch::new("sinks");
        let one = Sink::file(&scratch.path("a")).unwrap();
        let same = Sink::file(&scratch.path("a")).unwrap();
        let other = Sink::file(&scratch.path("b")).unwrap();
        assert_eq!(one.index(), same.index());
        assert_ne!(one.index(), other.index());
        assert!(Sink::file(&scratch.path("no/such/directory")).is_err());
    }

    #[test]
    fn reopen_follows_a_rename_after_what_was_written_before() {
        start().unwrap();
        let scratch = Scratch::new("reopen");
        let sink = Sink::file(&scratch.path("a.log")).unwrap();
        sink.write(b"before\n".to_vec(), Form::Plain);
        assert!(flush_and_wait(Duration::from_secs(5)));
        std::fs::rename(scratch.path("a.log"), scratch.path("a.log.1")).unwrap();
        sink.write(b"still\n".to_vec(), Form::Plain);
        reopen();
        sink.write(b"after\n".to_vec(), Form::Plain);
        scratch.expect("a.log", "after\n");
        scratch.expect("a.log.1", "before\nstill\n");
    }

    #[test]
    fn buffers_come_back() {
        start().unwrap();
        let scratch = Scratch::new("recycle");
        let sink = Sink::file(&scratch.path("a.log")).unwrap();
        // A capacity no other test uses marks the buffer. Tests running beside this one may borrow
        // it for a moment.
        let mut marked = Vec::with_capacity(12_345);
        marked.extend_from_slice(b"x\n");
        sink.write(marked, Form::Plain);
        let found = (0..1000).any(|_| {
            assert!(flush_and_wait(Duration::from_secs(5)));
            thread::sleep(Duration::from_millis(1));
            std::iter::from_fn(|| pool().pop()).any(|buffer| buffer.capacity() == 12_345)
        });
        assert!(found);
    }

    #[test]
    fn a_full_disk_is_survived() {
        let sink = Sink::file(Path::new("/dev/full")).unwrap();
        sink.write(b"lost\n".to_vec(), Form::Plain);
        sink.write(b"lost\n".to_vec(), Form::Plain);
        assert!(flush_and_wait(Duration::from_secs(5)));
    }
}
