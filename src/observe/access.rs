//! Access logs from a worker's side: lines gather in a buffer per log and thread, and go to the log
//! writer a batch at a time: once per turn of the event loop, or when the buffer of a log with
//! `buffer=` is full or old.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::syslog;
use super::writer::{self, Form, Sink};

/// Lines gathered by an unbuffered log in one turn of the loop before they are passed on.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// The buffer of `gzip` without `buffer=`.
const GZIP_BUFFER_BYTES: usize = 64 << 10;

/// How lines are gathered. The default is an unbuffered, plain log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffering {
    /// `buffer=`: bytes to gather before writing.
    pub size: Option<usize>,
    /// `flush=`: the greatest age of a buffered line.
    pub flush: Option<Duration>,
    /// `gzip[=level]`: compress each buffer, level 1 to 9.
    pub gzip: Option<u8>,
}

/// One open `access_log`; shared by all workers. Lines go through [`Writer::append`].
#[derive(Clone, Debug)]
pub struct Writer {
    sink: Sink,
    form: Form,
    /// Bytes to gather before the buffer leaves.
    threshold: usize,
    /// Whether lines may outlast the turn of the loop.
    held: bool,
    flush_ms: Option<u64>,
}

impl Writer {
    /// Opens (and creates) the file at `path`.
    pub fn file(path: &Path, buffering: Buffering) -> io::Result<Writer> {
        Ok(Writer::new(Sink::file(path)?, buffering))
    }

    /// A file that the log writer opens when the first lines arrive: for names known at run time
    /// only.
    pub fn file_later(path: &Path) -> Writer {
        Writer::new(Sink::file_later(path), Buffering::default())
    }

    /// The path, or what else it is.
    pub fn name(&self) -> &str {
        self.sink.name()
    }

    /// Sends each line to a syslog server.
    pub fn syslog(target: syslog::Target) -> Writer {
        Writer::new(Sink::syslog(target), Buffering::default())
    }

    fn new(sink: Sink, buffering: Buffering) -> Writer {
        let size = buffering.size.or(buffering.gzip.map(|_| GZIP_BUFFER_BYTES));
        Writer {
            sink,
            form: buffering.gzip.map_or(Form::Plain, Form::Gzip),
            threshold: size.unwrap_or(BATCH_BYTES_MAX),
            held: size.is_some(),
            flush_ms: buffering.flush.map(|age| age.as_millis() as u64),
        }
    }

    /// Lets `line` append one line, without its newline, to this thread's buffer of the log.
    /// `now_ms` is the monotonic time for `flush=`. Does not allocate once the buffers are warm.
    /// `line` must not append to an access log itself.
    pub fn append(&self, now_ms: u64, line: impl FnOnce(&mut Vec<u8>)) {
        BUFFERS.with_borrow_mut(|buffers| {
            let index = self.sink.index();
            if buffers.slots.len() <= index {
                buffers.slots.resize_with(index + 1, Slot::default);
            }
            let slot = &mut buffers.slots[index];
            if slot.writer.is_none() {
                slot.writer = Some(self.clone());
                slot.bytes = writer::buffer();
                slot.since_ms = now_ms;
                buffers.waiting.push(index);
                if !self.held
                    && let Some(waker) = buffers.flusher.take()
                {
                    waker.wake();
                }
            }
            line(&mut slot.bytes);
            slot.bytes.push(b'\n');
            if slot.bytes.len() >= self.threshold {
                let full = std::mem::replace(&mut slot.bytes, writer::buffer());
                slot.since_ms = now_ms;
                self.sink.write(full, self.form);
            }
        });
    }
}

/// Passes this thread's lines of unbuffered logs to the log writer. Once per turn of the loop.
pub fn flush_dirty() {
    flush_where(|writer, _| !writer.held);
}

/// Passes on buffered lines that are older than their log's `flush=`. From the worker's sweep.
pub fn flush_due(now_ms: u64) {
    flush_where(|writer, since_ms| {
        !writer.held
            || writer
                .flush_ms
                .is_some_and(|age| since_ms.saturating_add(age) <= now_ms)
    });
}

/// Passes on all lines of this thread: before logs are reopened and before the worker ends.
pub fn flush_all() {
    flush_where(|_, _| true);
}

/// Runs [`flush_dirty`] whenever lines wait, after the tasks that are ready at that moment: many
/// requests of one turn of the loop share one batch. A worker spawns this once and never ends it.
pub async fn flusher() {
    loop {
        poll_fn(|context| {
            BUFFERS.with_borrow_mut(|buffers| {
                if buffers.waits_unheld() {
                    return Poll::Ready(());
                }
                buffers.flusher = Some(context.waker().clone());
                Poll::Pending
            })
        })
        .await;
        flush_dirty();
    }
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers::new()) };
}

/// The lines of one thread. Slots are found by the sink's index and hold a sink only while lines
/// wait, so that a log which a reload removed is closed.
struct Buffers {
    slots: Vec<Slot>,
    /// Indexes of slots with lines.
    waiting: Vec<usize>,
    flusher: Option<Waker>,
}

#[derive(Default)]
struct Slot {
    writer: Option<Writer>,
    bytes: Vec<u8>,
    since_ms: u64,
}

impl Buffers {
    const fn new() -> Buffers {
        Buffers {
            slots: Vec::new(),
            waiting: Vec::new(),
            flusher: None,
        }
    }

    fn waits_unheld(&self) -> bool {
        let unheld = |slot: &Slot| slot.writer.as_ref().is_some_and(|writer| !writer.held);
        self.waiting.iter().any(|&index| unheld(&self.slots[index]))
    }
}

fn flush_where(due: impl Fn(&Writer, u64) -> bool) {
    BUFFERS.with_borrow_mut(|buffers| {
        let Buffers { slots, waiting, .. } = buffers;
        waiting.retain(|&index| {
            let slot = &mut slots[index];
            let since_ms = slot.since_ms;
            if let Some(writer) = slot.writer.take_if(|writer| due(writer, since_ms)) {
                writer
                    .sink
                    .write(std::mem::take(&mut slot.bytes), writer.form);
            }
            slot.writer.is_some()
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::writer::tests::Scratch;

    fn waiting() -> usize {
        BUFFERS.with_borrow(|buffers| buffers.waiting.len())
    }

    #[test]
    fn unbuffered_lines_wait_for_the_end_of_the_turn_only() {
        let scratch = Scratch::new("unbuffered");
        let log = Writer::file(&scratch.path("a.log"), Buffering::default()).unwrap();
        log.append(0, |line| line.extend_from_slice(b"one"));
        log.append(0, |line| line.extend_from_slice(b"two"));
        assert_eq!((scratch.read("a.log").as_str(), waiting()), ("", 1));
        flush_dirty();
        scratch.expect("a.log", "one\ntwo\n");
        assert_eq!(waiting(), 0);
    }

    #[test]
    fn buffered_lines_leave_when_full_or_old() {
        let scratch = Scratch::new("buffered");
        let buffering = Buffering {
            size: Some(8),
            flush: Some(Duration::from_secs(1)),
            gzip: None,
        };
        let log = Writer::file(&scratch.path("a.log"), buffering).unwrap();
        log.append(5000, |line| line.extend_from_slice(b"one"));
        flush_dirty();
        flush_due(5999);
        assert_eq!(scratch.read("a.log"), "");
        flush_due(6000);
        scratch.expect("a.log", "one\n");
        log.append(6000, |line| line.extend_from_slice(b"two"));
        log.append(6000, |line| line.extend_from_slice(b"six"));
        scratch.expect("a.log", "one\ntwo\nsix\n");
        log.append(6000, |line| line.extend_from_slice(b"ten"));
        flush_all();
        scratch.expect("a.log", "one\ntwo\nsix\nten\n");
        assert_eq!(waiting(), 0);
    }

    #[test]
    fn gzip_members_make_one_readable_file() {
        use std::io::Read;
        let scratch = Scratch::new("gzip");
        let buffering = Buffering {
            gzip: Some(1),
            ..Buffering::default()
        };
        let log = Writer::file(&scratch.path("a.gz"), buffering).unwrap();
        for line in ["one", "two"] {
            log.append(0, |out| out.extend_from_slice(line.as_bytes()));
            flush_all();
        }
        crate::observe::writer::flush_and_wait(Duration::from_secs(5));
        let packed = std::fs::read(scratch.path("a.gz")).unwrap();
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(&packed[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_log_closes_when_nothing_waits_for_it() {
        let scratch = Scratch::new("closes");
        let log = Writer::file(&scratch.path("a.log"), Buffering::default()).unwrap();
        log.append(0, |line| line.push(b'x'));
        drop(log);
        flush_all();
        scratch.expect("a.log", "x\n");
        let open = |path: std::path::PathBuf| {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
                .any(|target| target == path)
        };
        crate::observe::writer::flush_and_wait(Duration::from_secs(5));
        assert!(!open(scratch.path("a.log")));
    }

    #[test]
    fn the_flusher_wakes_for_the_first_line_and_batches_the_rest() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::{Context, Wake};
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let scratch = Scratch::new("flusher");
        let log = Writer::file(&scratch.path("a.log"), Buffering::default()).unwrap();
        let mut flusher = std::pin::pin!(flusher());
        assert!(flusher.as_mut().poll(&mut context).is_pending());
        for _ in 0..3 {
            log.append(0, |line| line.push(b'x'));
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(flusher.as_mut().poll(&mut context).is_pending());
        scratch.expect("a.log", "x\nx\nx\n");
    }
}
