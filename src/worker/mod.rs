//! One thread per core: its ring, its listening sockets, its connections.

pub mod control;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crossbeam::channel::Sender;

use crate::base::listen::{ListenAddr, WorkerSocket};
use crate::base::places::Places;
use crate::base::remote::Remote;
use crate::gateway::Gateway;
use crate::http::connection;
use crate::http::local::Local as HttpLocal;
use crate::limits::conn::Counted;
use crate::log_process;
use crate::observe::{Level, access, os_error};
use crate::ring::{self, Addr, EngineConf, File, JoinHandle, Listener, Socket};
use crate::stream::local::Local as StreamLocal;
use crate::stream::modules::pass::{Doors, Passed};
use crate::stream::serve;
use crate::stream::udp::receiver::Receiver;

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
    let local = Local::new(&gateway);
    let doors = Rc::downgrade(&local) as Weak<dyn Doors>;
    local.stream.set_doors(doors);
    ring::spawn(access::flusher());
    let swept = Rc::clone(&local);
    ring::on_sweep(move |now_ms| {
        swept.http.sweep(now_ms);
        swept.stream.sweep(now_ms);
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
                    taken,
                } => {
                    local.replace(&gateway);
                    close(&mut doors, |door| removed.contains(&door.addr), false).await;
                    close(&mut doors, |door| door.is_among(&taken), true).await;
                    local.stream.forget_previous();
                    for socket in added {
                        doors.push(Door::open(socket, &local)?);
                    }
                    inbox.reloaded();
                }
                Command::Quit { shared } => {
                    local.http.drain();
                    close(&mut doors, |_| true, shared).await;
                }
            }
        }
    }
}

/// What one worker serves with.
struct Local {
    places: Rc<Places>,
    http: Rc<HttpLocal>,
    stream: Rc<StreamLocal>,
}

impl Local {
    fn new(gateway: &Gateway) -> Rc<Local> {
        let places = Places::new(gateway.process.connections);
        Rc::new(Local {
            http: HttpLocal::new(Arc::clone(&gateway.http), Rc::clone(&places)),
            stream: StreamLocal::new(Arc::clone(&gateway.stream), Rc::clone(&places)),
            places,
        })
    }

    /// Makes `gateway` the configuration of everything that begins from now on.
    fn replace(&self, gateway: &Gateway) {
        self.http.replace(Arc::clone(&gateway.http));
        self.stream.replace(Arc::clone(&gateway.stream));
        self.places.set_max(gateway.process.connections);
    }
}

impl Doors for Local {
    fn has(&self, addr: &ListenAddr) -> bool {
        let http = self.http.generation();
        self.stream.listen_at(addr).is_some() || http.http.listen_at(addr).is_some()
    }

    fn take(&self, addr: Rc<ListenAddr>, mut passed: Passed) {
        let held = std::mem::take(&mut passed.held);
        if let Some((generation, listen)) = self.stream.listen_at(&addr) {
            let stream = Rc::clone(&self.stream);
            let session = serve::serve_passed(stream, generation, listen, addr, passed);
            ring::spawn(holding(held, session));
            return;
        }
        let early = (!passed.early.is_empty()).then_some(passed.early);
        let connection = connection::serve_passed(
            Rc::clone(&self.http),
            passed.sock,
            passed.remote,
            addr,
            early,
            passed.recv,
            passed.tls,
        );
        ring::spawn(holding(held, connection));
    }
}

/// Keeps `held` until the connection is over.
async fn holding(held: Counted, connection: impl Future<Output = ()>) {
    connection.await;
    drop(held);
}

/// Waits for commands. `false`: the worker drains and its last connection has ended.
async fn woken(wakeup: &File, local: &Local) -> io::Result<bool> {
    let mut read = pin!(wakeup.read_at(Vec::with_capacity(8), 0));
    poll_fn(|cx| {
        if local.places.is_drained(cx.waker()) {
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
    number: usize,
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
        let (addr, number) = (Rc::new(socket.addr), socket.number);
        let shut = Rc::new(Shut::default());
        let (at, told) = (Rc::clone(&addr), Rc::clone(&shut));
        let task = if addr.is_udp() {
            let receiver = Receiver::open(socket.fd, at, Rc::clone(&local.stream))?;
            ring::spawn(receive(receiver, told))
        } else {
            let listener = Listener::from_fd(socket.fd)?;
            ring::spawn(accept(listener, at, Rc::clone(local), told))
        };
        Ok(Door {
            addr,
            number,
            shut,
            task,
        })
    }

    fn is_among(&self, sockets: &[(ListenAddr, usize)]) -> bool {
        let mut sockets = sockets.iter();
        sockets.any(|(addr, number)| *addr == *self.addr && *number == self.number)
    }
}

/// Closes the doors that `which` names. What is queued on them is served first.
async fn close(doors: &mut Vec<Door>, which: impl Fn(&Door) -> bool, shared: bool) {
    let (closing, staying) = doors.drain(..).partition(which);
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

/// Receives datagrams until the door is shut.
async fn receive(mut receiver: Receiver, shut: Rc<Shut>) {
    {
        let mut serving = pin!(receiver.serve());
        poll_fn(|cx| {
            if shut.how.get().is_some() {
                return Poll::Ready(());
            }
            *shut.waker.borrow_mut() = Some(cx.waker().clone());
            serving.as_mut().poll(cx)
        })
        .await;
    }
    receiver.close(shut.how.get().unwrap_or(false));
}

/// Starts serving a connection, unless there are too many.
fn admit(local: &Rc<Local>, addr: &Rc<ListenAddr>, sock: Socket, peer: Addr) {
    if !local.places.has_room() {
        log_process!(
            Level::Alert,
            "{} worker_connections are not enough",
            local.places.max()
        );
        return;
    }
    let remote = match peer.inet() {
        Some(addr) => Remote::Inet(addr),
        None => Remote::Unix,
    };
    // Asked each time: a reload may give an address to the other kind of server.
    if let Some((generation, listen)) = local.stream.listen_at(addr) {
        let stream = Rc::clone(&local.stream);
        let addr = Rc::clone(addr);
        ring::spawn(serve::serve(stream, generation, listen, addr, sock, remote));
        return;
    }
    ring::spawn(connection::serve(
        Rc::clone(&local.http),
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
