//! A worker's engine: its ring, its receive buffers, the deadlines of its sockets, and its life.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use io_uring::{opcode, types};
use tokio::task::JoinHandle;

use super::buffers::{self, Buffers, Group};
use super::datagram::Room;
use super::op::Op;
use super::pipe::Pipes;
use super::recv::Orphan;
use super::slots::{READ_ONLY, Slots};
use super::spare::Spares;
use super::stream::{self, Streams};
use crate::base::clock;

/// What a worker's engine is made of.
#[derive(Clone, Debug)]
pub struct EngineConf {
    /// Operations that fit into one batch, a power of two. More are possible at the price of a
    /// system call for each such number of them.
    pub entries: u32,
    /// Buffers for heads and small messages.
    pub small: Buffers,
    /// Buffers for bodies.
    pub large: Buffers,
    /// Buffers for what streams of receives bring before it is asked for: at most a message for
    /// each busy connection.
    pub streams: Buffers,
    /// Time between two looks at the deadlines, which is how late they may be noticed.
    pub sweep: Duration,
}

impl Default for EngineConf {
    fn default() -> EngineConf {
        EngineConf {
            entries: 1024,
            small: Buffers {
                size: 4 << 10,
                count: 1024,
            },
            large: Buffers {
                size: 32 << 10,
                count: 128,
            },
            streams: Buffers {
                size: 4 << 10,
                count: 4096,
            },
            sweep: Duration::from_millis(50),
        }
    }
}

/// Runs `main` on an engine of this thread's own and returns what it returns. Tasks that are still
/// there then are dropped, and their sockets closed.
///
/// Fails if the kernel has no io_uring for us; [`super::probe()`] says why. Panics if the thread
/// has an engine already.
pub fn start<F: Future>(conf: &EngineConf, main: F) -> io::Result<F::Output> {
    let running = Running::new(conf)?;
    let sweep = conf.sweep;
    Ok(running.runtime().block_on(async {
        spawn(async move {
            sweep_until_closed(sweep).await;
        });
        spawn(stream::drive());
        let output = main.await;
        with(|engine| engine.open.set(false));
        output
    }))
}

/// Runs `work`, which may block (reading a directory has no operation on the ring), on a thread of
/// its own and waits for its result.
///
/// # Errors
/// `work` panicked, or the system has no thread left.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}

/// Starts a task on this thread's engine. A panic in it ends that task alone, and is what its
/// handle answers.
pub fn spawn<T: Future + 'static>(task: T) -> JoinHandle<T::Output> {
    tokio_uring::spawn(task)
}

/// Waits. For rare things: what a connection waits for has its deadline in the socket.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Lets everything else have its turn, the ring included: what has been queued goes to the kernel,
/// and what it has completed is seen, before this returns.
///
/// (Waking oneself, as tokio's `yield_now` does, keeps the worker from ever submitting anything.)
pub async fn yield_now() {
    Op::submit((), opcode::Nop::new().build()).await;
}

/// Calls `hook` on every sweep with the time in monotonic milliseconds, until it returns false.
/// It must not take long.
pub fn on_sweep(hook: impl FnMut(u64) -> bool + 'static) {
    require(|engine| engine.hooks.borrow_mut().push(Box::new(hook)));
}

/// Wakes the task at the next sweep, so that it may look after what is not worth being woken for.
/// `asked` belongs to the task, 0 at first, and makes asking again cost next to nothing. False if
/// too many have asked.
pub fn wake_at_sweep(cx: &Context<'_>, asked: &mut u64) -> bool {
    require(|engine| {
        let sweep = engine.sweeps.get();
        if *asked == sweep {
            return true;
        }
        let mut drowsy = engine.drowsy.borrow_mut();
        if drowsy.len() >= DROWSY_MAX {
            return false;
        }
        *asked = sweep;
        drowsy.push(cx.waker().clone());
        true
    })
}

/// Tasks that one sweep wakes at most. Each may hold a buffer meanwhile.
const DROWSY_MAX: usize = 256;

/// Figures of this thread's engine, for tests and metrics.
pub fn usage() -> Usage {
    require(|engine| Usage {
        sockets: engine.slots.used(),
        small_leased: engine.groups[0].leased(),
        small_live: u32::from(engine.groups[0].live()),
        large_leased: engine.groups[1].leased(),
        large_live: u32::from(engine.groups[1].live()),
        streams: engine.streams.live(),
        stream_leased: engine.groups[2].leased(),
        orphans: engine.orphans.borrow().len(),
        pipes: engine.pipes.free.borrow().len(),
        pipes_lent: engine.pipes.lent.get(),
    })
}

/// See [`usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sockets that are open or have an operation under way.
    pub sockets: usize,
    /// Small buffers that are with the program.
    pub small_leased: u32,
    /// Small buffers in circulation.
    pub small_live: u32,
    /// Large buffers that are with the program.
    pub large_leased: u32,
    /// Large buffers in circulation.
    pub large_live: u32,
    /// Streams of receives.
    pub streams: usize,
    /// Buffers of streams that are with the program, or wait for it.
    pub stream_leased: u32,
    /// Receives whose socket was dropped and which have not ended yet.
    pub orphans: usize,
    /// Pipes that wait for their next use.
    pub pipes: usize,
    /// Pipes that are with a transfer.
    pub pipes_lent: usize,
}

type Hook = Box<dyn FnMut(u64) -> bool>;

/// What the operations of this thread share.
pub(super) struct Engine {
    /// Operations may be submitted: `main` is still running.
    pub(super) open: Cell<bool>,
    /// Ends before the buffers do.
    pub(super) streams: Streams,
    /// Small and large buffers and those of streams, at the index that is their id.
    pub(super) groups: [Group; 3],
    pub(super) slots: Slots,
    pub(super) orphans: RefCell<Vec<Orphan>>,
    pub(super) pipes: Pipes,
    /// What datagrams are received into, when nobody has it.
    pub(super) rooms: RefCell<Option<Box<Room>>>,
    pub(super) spares: Spares,
    hooks: RefCell<Vec<Hook>>,
    /// Of the next sweep, counted from 1.
    sweeps: Cell<u64>,
    /// Whom the next sweep wakes.
    drowsy: RefCell<Vec<Waker>>,
    leftovers: RefCell<Vec<Rc<OwnedFd>>>,
}

thread_local! {
    static ENGINE: Cell<*const Engine> = const { Cell::new(ptr::null()) };
}

/// Runs `act` on this thread's engine, if it has one.
#[inline]
pub(super) fn with<R>(act: impl FnOnce(&Engine) -> R) -> Option<R> {
    let engine = ENGINE.with(Cell::get);
    // SAFETY: `Running` sets the pointer while its engine, which never moves, exists, and takes
    // it back before the engine goes. Only shared references are ever made.
    unsafe { engine.as_ref() }.map(act)
}

/// As [`with`], where there must be an engine.
#[inline]
pub(super) fn require<R>(act: impl FnOnce(&Engine) -> R) -> R {
    with(act).expect("ring operations belong into ring::start")
}

/// An engine and its runtime, from start to end.
struct Running {
    runtime: Option<tokio_uring::Runtime>,
    engine: *mut Engine,
}

impl Running {
    fn new(conf: &EngineConf) -> io::Result<Running> {
        assert!(
            ENGINE.with(Cell::get).is_null(),
            "this thread has an engine already"
        );
        let runtime = build_runtime(conf)?;
        let ring_fd = find_ring()?;
        let streams = Streams::new()?;
        let engine = Box::into_raw(Box::new(Engine {
            open: Cell::new(true),
            groups: [
                Group::register(ring_fd, 0, conf.small)?,
                Group::register(ring_fd, 1, conf.large)?,
                Group::register(streams.ring_fd(), 2, conf.streams)?,
            ],
            streams,
            slots: Slots::default(),
            orphans: RefCell::default(),
            pipes: Pipes::default(),
            rooms: RefCell::default(),
            spares: Spares::default(),
            hooks: RefCell::default(),
            sweeps: Cell::new(1),
            drowsy: RefCell::default(),
            leftovers: RefCell::default(),
        }));
        ENGINE.with(|current| current.set(engine));
        Ok(Running {
            runtime: Some(runtime),
            engine,
        })
    }

    fn runtime(&self) -> &tokio_uring::Runtime {
        self.runtime
            .as_ref()
            .expect("the runtime is there until drop")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        with(|engine| {
            engine.open.set(false);
            engine.hooks.take();
            engine.drowsy.take();
            engine.orphans.take();
        });
        // Tasks go first, giving their buffers back, then the ring with all that is under way.
        drop(self.runtime.take());
        ENGINE.with(|current| current.set(ptr::null()));
        // SAFETY: made by `Box::into_raw` in `new`, and nothing can reach it any more.
        drop(unsafe { Box::from_raw(self.engine) });
    }
}

/// The ring as we want it.
///
/// Not `setup_defer_taskrun`: tokio-uring waits in epoll and never enters the kernel with
/// `IORING_ENTER_GETEVENTS`, which is what such a ring completes on, so it would hang (there is a
/// test).
fn build_runtime(conf: &EngineConf) -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun()
        .setup_single_issuer()
        .setup_cqsize(conf.entries * 8);
    let mut builder = tokio_uring::builder();
    builder.entries(conf.entries).uring_builder(&ring);
    tokio_uring::Runtime::new(&builder)
}

/// The descriptor of this thread's ring, which tokio-uring keeps to itself.
///
/// A ring with a single issuer takes registrations from that thread only, so asking each
/// descriptor for its probe is answered by exactly the one that we look for: other rings say
/// EEXIST, other files EOPNOTSUPP.
fn find_ring() -> io::Result<RawFd> {
    const IORING_REGISTER_PROBE: libc::c_uint = 8;
    // `struct io_uring_probe` without any of its operations.
    let mut probe = [0u64; 2];
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes to the struct that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The newest ring has the lowest descriptor that was free, so this ends early.
    let end = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX);
    (0..end)
        .find(|fd| {
            let argument = (&raw mut probe).cast();
            buffers::register(*fd, IORING_REGISTER_PROBE, argument, 0).is_ok()
        })
        .ok_or_else(|| io::Error::other("the ring's descriptor was not found"))
}

/// Sockets that one sweep ends before it lets others have their turn.
const EXPIRED_AT_ONCE: usize = 512;

async fn sweep_until_closed(pause: Duration) {
    let mut time = Box::new(types::Timespec::from(pause));
    loop {
        // A timer of the ring, not of tokio, whose timers cost every turn of the loop a look at
        // the clock and a timeout for epoll.
        let at = &raw const *time;
        let (_, back) = Op::submit(time, opcode::Timeout::new(at).build()).await;
        time = back;
        let now_ms = clock::now_ms();
        while require(|engine| engine.expire(now_ms)) {
            yield_now().await;
        }
        require(|engine| {
            engine.streams.quiet_down();
            engine.collect_orphans();
            engine.sweeps.set(engine.sweeps.get() + 1);
            engine.drowsy.borrow_mut().drain(..).for_each(Waker::wake);
        });
        run_hooks(now_ms);
    }
}

impl Engine {
    /// Closes `fd` when the ring is gone. Operations may still be queued, and the ring's end
    /// submits them: by then the number could be another worker's connection.
    pub(super) fn close_at_the_end(&self, fd: Rc<OwnedFd>) {
        self.leftovers.borrow_mut().push(fd);
    }

    /// Ends sockets whose time is over; true if there may be more.
    fn expire(&self, now_ms: u64) -> bool {
        self.slots.expire(now_ms, EXPIRED_AT_ONCE, |slot| {
            let how = if slot.has(READ_ONLY) {
                libc::SHUT_RD
            } else {
                libc::SHUT_RDWR
            };
            shutdown(slot.fd.get(), how);
        })
    }

    fn collect_orphans(&self) {
        let mut orphans = self.orphans.take();
        orphans.retain_mut(|orphan| !orphan.is_over());
        self.orphans.borrow_mut().append(&mut orphans);
    }
}

fn run_hooks(now_ms: u64) {
    // Taken out, so that a hook may itself register one.
    let mut hooks = require(|engine| engine.hooks.take());
    hooks.retain_mut(|hook| hook(now_ms));
    require(|engine| {
        let mut added = engine.hooks.borrow_mut();
        hooks.append(&mut added);
        *added = hooks;
    });
}

/// `shutdown(2)`, which completes what is pending on the socket. That the peer is gone already is
/// no news.
pub(super) fn shutdown(fd: RawFd, how: libc::c_int) {
    // SAFETY: shutdown touches no memory; a bad descriptor is answered with EBADF.
    unsafe { libc::shutdown(fd, how) };
}
