//! Takes datagrams from a listening socket and finds their sessions.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::log_process;
use crate::observe::{Level, os_error};
use crate::ring::{self, Batch, Datagrams, Route};
use crate::stream::local::Local;
use crate::stream::serve::Open;

use super::flow::Flow;
use super::serve;
use super::table::Table;

/// A listening socket of one worker with its sessions.
pub struct Receiver {
    socket: Datagrams,
    addr: Rc<ListenAddr>,
    local: Rc<Local>,
    table: Rc<Table>,
    /// The worker is to finish what it has.
    is_closing: bool,
    /// When it was last logged that there is no place for more sessions.
    full_ms: Cell<Option<u64>>,
}

/// Pause after the system had no memory for what has come.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// How often it is logged that there is no place for more sessions.
const FULL_EVERY_MS: u64 = 1000;

/// What is taken from a socket that closes, in batches: more than its receive buffer can hold.
const LAST_BATCHES: usize = 256;

impl Receiver {
    /// Takes over a bound socket.
    ///
    /// # Errors
    /// The socket cannot tell where datagrams were sent to.
    pub fn open(fd: OwnedFd, addr: Rc<ListenAddr>, local: Rc<Local>) -> io::Result<Receiver> {
        Ok(Receiver {
            socket: Datagrams::from_fd(fd)?,
            table: local.udp.at(&addr),
            addr,
            local,
            is_closing: false,
            full_ms: Cell::new(None),
        })
    }

    /// Receives until it is dropped, which loses nothing.
    pub async fn serve(&mut self) {
        loop {
            match self.receive() {
                // Others have their turn.
                Ok(true) => ring::yield_now().await,
                Ok(false) => self.wait().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait().await,
                Err(error) => {
                    log_process!(Level::Alert, "recvmmsg() failed {}", os_error(&error));
                    ring::sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    /// Ends receiving. Sessions go on, and as long as there are any, so does what they receive;
    /// unless the socket is `shared` and it is now another's to receive from.
    pub fn close(mut self, shared: bool) {
        let mut batches = 0..LAST_BATCHES;
        while !shared && batches.next().is_some() && self.receive().is_ok_and(|is_full| is_full) {}
        self.is_closing = self.local.places.is_draining();
        if self.is_closing {
            self.table.call_all();
        }
        if !shared {
            ring::spawn(self.linger());
        }
    }

    /// Receives for the sessions that are left.
    async fn linger(mut self) {
        let table = Rc::clone(&self.table);
        let mut serving = pin!(self.serve());
        poll_fn(|cx| {
            let empty = table.poll_empty(cx);
            if empty.is_pending() {
                let _ = serving.as_mut().poll(cx);
            }
            empty
        })
        .await;
    }

    async fn wait(&mut self) {
        if let Err(error) = self.socket.readable().await {
            log_process!(Level::Alert, "poll failed {}", os_error(&error));
            ring::sleep(FAILURE_PAUSE).await;
        }
    }

    /// Takes one batch; true if there may be more.
    fn receive(&self) -> io::Result<bool> {
        let batch = self.socket.receive()?;
        let mut start = 0;
        while start < batch.len() {
            let Some(route) = batch.route(start) else {
                start += 1;
                continue;
            };
            let mut end = start + 1;
            while end < batch.len() && batch.route(end) == Some(route) {
                end += 1;
            }
            self.hand_on(&route, &batch, start, end);
            start = end;
        }
        Ok(batch.is_full())
    }

    /// Hands datagrams that have come the same way to their session, or to as many as it takes.
    fn hand_on(&self, route: &Route, batch: &Batch, mut start: usize, end: usize) {
        while start < end {
            let known = self.table.find(route);
            let Some(flow) = known.or_else(|| self.begin(route)) else {
                return;
            };
            start += flow.take(batch, start..end);
            if flow.progress().open_for() == 0 {
                self.table.detach(&flow);
            }
        }
    }

    /// Begins a session, if there is a server and a place for it.
    fn begin(&self, route: &Route) -> Option<Rc<Flow>> {
        if self.is_closing {
            return None;
        }
        let (generation, listen) = self.local.listen_at(&self.addr)?;
        let places = &self.local.places;
        if !places.has_room() {
            self.tell_full(places.max());
            return None;
        }
        let limits = serve::limits(&generation, listen);
        let flow = Flow::new(*route, self.socket.replies(), limits);
        let opened = serve::Opened {
            local: Rc::clone(&self.local),
            generation,
            listen,
            addr: Rc::clone(&self.addr),
            flow: Rc::clone(&flow),
            entry: self.table.add(&flow),
            open: Open::new(Rc::clone(places)),
        };
        ring::spawn(serve::serve(opened));
        Some(flow)
    }

    /// Who sends with false addresses would fill the log, too.
    fn tell_full(&self, max: usize) {
        let now_ms = clock::now_ms();
        let is_told = |at_ms: u64| now_ms < at_ms + FULL_EVERY_MS;
        if !self.full_ms.get().is_some_and(is_told) {
            self.full_ms.set(Some(now_ms));
            log_process!(Level::Alert, "{max} worker_connections are not enough");
        }
    }
}
