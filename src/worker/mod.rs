//! One thread per core: its ring, its listening sockets, its connections.

pub mod control;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crossbeam::channel::Sender;

use crate::base::listen::{ListenAddr, WorkerSocket};
use crate::gateway::Gateway;
use crate::http::connection;
use crate::http::exchange::Remote;
use crate::http::local::{Local, Shared};
use crate::log_process;
use crate::observe::{Level, access, os_error};
use crate::ring::{self, Addr, EngineConf, File, JoinHandle, Listener, Socket};

use control::{Command, Event, Inbox, WorkerHandle};

/// Pause after the system had no descriptor left for a new connection (nginx: accept_mutex_delay).
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(500);

/// Starts one worker: its number, its sockets, what it serves, and where it reports.
///
/// # Errors
/// When the system has no descriptor or thread left.
pub fn spawn(
    index: usize,
    sockets: Vec<WorkerSocket>,
    gateway: Arc<Gateway>,
    events: Sender<Event>,
) -> io::Result<WorkerHandle> {
    let process = gateway.process.clone();
    WorkerHandle::spawn(index, &process, events, move |inbox| {
        ring::start(&EngineConf::default(), run(inbox, sockets, gateway))?
    })
}

/// Serves until the master says that it is enough.
async fn run(inbox: &Inbox, sockets: Vec<WorkerSocket>, gateway: Arc<Gateway>) -> io::Result<()> {
    let shared = Shared::of_process();
    let connections = gateway.process.connections;
    let local = Local::new(Arc::clone(&gateway.http), shared, connections);
    ring::spawn(access::flusher());
    let swept = Rc::clone(&local);
    ring::on_sweep(move |now_ms| {
        swept.sweep(now_ms);
        access::flush_due(now_ms);
        true
    });
    let mut doors = Vec::new();
    for socket in sockets {
        doors.push(Door::open(socket, &local)?);
    }
    inbox.ready();
    let wakeup = File::from_fd(inbox.wakeup()?);
    loop {
        if !woken(&wakeup, &local).await? {
            return Ok(());
        }
        while let Some(command) = inbox.take() {
            match command {
                Command::Terminate => return Ok(()),
                Command::Reopen => access::flush_all(),
                Command::Reload {
                    gateway,
                    added,
                    removed,
                } => {
                    local.replace(Arc::clone(&gateway.http));
                    local.connections_max.set(gateway.process.connections);
                    close(&mut doors, |addr| removed.contains(addr), false).await;
                    for socket in added {
                        doors.push(Door::open(socket, &local)?);
                    }
                    inbox.reloaded();
                }
                Command::Quit { shared } => {
                    local.drain();
                    close(&mut doors, |_| true, shared).await;
                }
            }
        }
    }
}

/// Waits for commands. `false`: the worker drains and its last connection has ended.
async fn woken(wakeup: &File, local: &Local) -> io::Result<bool> {
    let mut read = pin!(wakeup.read_at(Vec::with_capacity(8), 0));
    poll_fn(|cx| {
        if local.is_drained(cx.waker()) {
            return Poll::Ready(Ok(false));
        }
        read.as_mut()
            .poll(cx)
            .map(|(result, _)| result.map(|_| true))
    })
    .await
}

/// A listening socket with the task that accepts from it.
struct Door {
    addr: Rc<ListenAddr>,
    shut: Rc<Shut>,
    task: JoinHandle<()>,
}

/// How the accepting task is told to stop.
#[derive(Default)]
struct Shut {
    how: Cell<Option<bool>>,
    waker: RefCell<Option<Waker>>,
}

impl Door {
    fn open(socket: WorkerSocket, local: &Rc<Local>) -> io::Result<Door> {
        let listener = Listener::from_fd(socket.fd)?;
        let addr = Rc::new(socket.addr);
        let shut = Rc::new(Shut::default());
        let task = ring::spawn(accept(
            listener,
            Rc::clone(&addr),
            Rc::clone(local),
            Rc::clone(&shut),
        ));
        Ok(Door { addr, shut, task })
    }
}

/// Closes the doors that `which` names. What is queued on them is served first.
async fn close(doors: &mut Vec<Door>, which: impl Fn(&ListenAddr) -> bool, shared: bool) {
    let (closing, staying) = doors.drain(..).partition(|door: &Door| which(&door.addr));
    *doors = staying;
    let closing: Vec<Door> = closing;
    for door in &closing {
        door.shut.how.set(Some(shared));
        if let Some(waker) = door.shut.waker.take() {
            waker.wake();
        }
    }
    for door in closing {
        // A task that panicked has dropped its listener, which is all that is wanted.
        let _ = door.task.await;
    }
}

/// Accepts until the door is shut, then serves what was queued.
async fn accept(mut listener: Listener, addr: Rc<ListenAddr>, local: Rc<Local>, shut: Rc<Shut>) {
    loop {
        let next = {
            let mut next = pin!(listener.next());
            poll_fn(|cx| {
                if shut.how.get().is_some() {
                    return Poll::Ready(None);
                }
                *shut.waker.borrow_mut() = Some(cx.waker().clone());
                next.as_mut().poll(cx).map(Some)
            })
            .await
        };
        match next {
            None => break,
            Some(Ok((sock, peer))) => admit(&local, &addr, sock, peer),
            Some(Err(error)) => refused(&error).await,
        }
    }
    let shared = shut.how.get().unwrap_or(false);
    for (sock, peer) in listener.drain(shared).await {
        admit(&local, &addr, sock, peer);
    }
}

/// Starts serving a connection, unless there are too many.
fn admit(local: &Rc<Local>, addr: &Rc<ListenAddr>, sock: Socket, peer: Addr) {
    if !local.has_room() {
        log_process!(
            Level::Alert,
            "{} worker_connections are not enough",
            local.connections_max.get()
        );
        return;
    }
    let remote = match peer.inet() {
        Some(addr) => Remote::Inet(addr),
        None => Remote::Unix,
    };
    ring::spawn(connection::serve(
        Rc::clone(local),
        sock,
        remote,
        Rc::clone(addr),
    ));
}

/// An accept that failed: a client that left, or the system is out of something.
async fn refused(error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            log_process!(Level::Crit, "accept4() failed {}", os_error(error));
            ring::sleep(NO_DESCRIPTOR_PAUSE).await;
        }
        Some(libc::ECONNABORTED) => {
            log_process!(Level::Error, "accept4() failed {}", os_error(error));
        }
        _ => {
            log_process!(Level::Alert, "accept4() failed {}", os_error(error));
            ring::sleep(NO_DESCRIPTOR_PAUSE).await;
        }
    }
}
