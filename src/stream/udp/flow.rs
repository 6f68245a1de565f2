//! What the receiver of a listening socket and the task of a session share.
//!
//! While a session is relayed the receiver passes its datagrams on by itself, many with one system
//! call and without waking the task. What cannot go at once waits in the queue, and the task sees
//! to it.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::base::clock;
use crate::ring::{Batch, DatagramSocket, Replies, Route};

use super::progress::{Limits, Progress};
use super::queue::Queue;

/// One session, as its datagrams see it. Not more than 400 bytes while it is idle.
pub struct Flow {
    /// Between which addresses the client's datagrams travel.
    pub route: Route,
    /// The way back to the client.
    pub replies: Replies,
    /// `$bytes_received`
    pub received: Cell<u64>,
    /// `$bytes_sent`
    pub sent: Cell<u64>,
    /// Bytes that went to the upstream in the attempt at hand.
    pub up_sent: Cell<u64>,
    /// Bytes that came from the upstream in the attempt at hand.
    pub up_received: Cell<u64>,
    /// Precise monotonic ms of the first answer in the attempt at hand.
    pub answered_ms: Cell<Option<u64>>,
    progress: Cell<Progress>,
    /// Where the receiver may pass datagrams on to.
    direct: RefCell<Option<Direct>>,
    /// Datagrams that could not be passed on yet.
    queue: RefCell<Queue>,
    /// Datagrams that were passed on and may have to be passed on again, to another upstream.
    kept: RefCell<Option<Queue>>,
    /// Why the upstream could not be sent to.
    failure: Cell<Option<io::Error>>,
    /// There is something to do for the task.
    is_called: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// The upstream of a session that is being relayed.
struct Direct {
    peer: Rc<DatagramSocket>,
    timeout_ms: u64,
    /// Datagrams are paced: the task sends them.
    is_paced: bool,
}

/// How far a session has come with what it was to send.
pub enum Flushed {
    /// All has gone.
    All,
    /// The send buffer is full.
    Full,
    /// The upstream does not take it.
    Failed(io::Error),
}

impl Flow {
    /// Of a session that begins with the next datagram that is taken.
    pub fn new(route: Route, replies: Replies, limits: Limits) -> Rc<Flow> {
        Rc::new(Flow {
            route,
            replies,
            received: Cell::new(0),
            sent: Cell::new(0),
            up_sent: Cell::new(0),
            up_received: Cell::new(0),
            answered_ms: Cell::new(None),
            progress: Cell::new(Progress::new(limits)),
            direct: RefCell::default(),
            queue: RefCell::default(),
            kept: RefCell::default(),
            failure: Cell::default(),
            is_called: Cell::new(false),
            waker: Cell::default(),
        })
    }

    /// How far the session has come.
    pub fn progress(&self) -> Progress {
        self.progress.get()
    }

    /// Takes the client's datagrams `range` of `batch`, which are passed on at once where that is
    /// possible. Answers how many of them belong to this session: at least one, unless it takes no
    /// more.
    pub fn take(&self, batch: &Batch, range: Range<usize>) -> usize {
        let open_for = usize::try_from(self.progress.get().open_for()).unwrap_or(usize::MAX);
        let end = range.end.min(range.start.saturating_add(open_for));
        let gone = self.pass_on(batch, range.start..end);
        let mut taken = gone;
        for index in range.start + gone..end {
            let datagram = batch.bytes(index);
            // What finds no room is lost, as it would be in the kernel's queue.
            if self.queue.borrow_mut().push(datagram) {
                self.count_from_client(datagram);
                taken += 1;
            }
        }
        if taken > gone || self.progress.get().is_done() {
            self.call();
        }
        end - range.start
    }

    /// Begins to pass on to `peer`. `keep`: what has gone is kept until an answer comes, so that it
    /// could go to another one.
    pub fn begin(&self, peer: &Rc<DatagramSocket>, timeout_ms: u64, is_paced: bool, keep: bool) {
        self.up_sent.set(0);
        self.up_received.set(0);
        self.answered_ms.set(None);
        *self.kept.borrow_mut() = keep.then(Queue::default);
        *self.direct.borrow_mut() = Some(Direct {
            peer: Rc::clone(peer),
            timeout_ms,
            is_paced,
        });
        self.touch();
    }

    /// Ends passing on. True if all that went to the upstream waits for the next one.
    pub fn take_back(&self) -> bool {
        self.direct.borrow_mut().take();
        self.failure.take();
        let kept = self.kept.borrow_mut().take();
        let Some(kept) = kept else { return false };
        self.queue.borrow_mut().put_before(kept);
        true
    }

    /// Sends what waits, but at most `most` datagrams. `head` goes before the first of them, in the
    /// same one.
    pub fn flush(&self, peer: &DatagramSocket, head: &mut Vec<u8>, most: usize) -> Flushed {
        let mut left = most;
        loop {
            let (sent, result) = match head.is_empty() {
                true => peer.send(self.queue.borrow().iter().take(left)),
                false if left > 0 => self.send_with(peer, head),
                false => return Flushed::All,
            };
            for _ in 0..sent {
                self.gone();
            }
            left -= sent;
            match result {
                Ok(()) if head.is_empty() => return Flushed::All,
                Ok(()) => head.clear(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Full,
                // The client's fault, and its loss.
                Err(error) if is_too_long(&error) => drop(self.queue.borrow_mut().pop()),
                Err(error) => return Flushed::Failed(error),
            }
        }
    }

    /// Why the receiver could not pass datagrams on.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Whether datagrams wait to be passed on.
    pub fn has_waiting(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Datagrams have come from the upstream, `bytes` together.
    pub fn answered(&self, count: usize, bytes: usize) {
        let mut progress = self.progress.get();
        progress.answered(count as u64);
        self.progress.set(progress);
        self.up_received.set(self.up_received.get() + bytes as u64);
        if self.answered_ms.get().is_none() {
            self.answered_ms.set(Some(clock::precise_ms()));
        }
        self.kept.borrow_mut().take();
        self.touch();
    }

    /// Sends to the client. Answers how many datagrams went out, and why the next one did not.
    pub fn reply<'a>(
        &self,
        datagrams: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> (usize, io::Result<()>) {
        let (sent, result) = self.replies.send(&self.route, datagrams.clone());
        let bytes: usize = datagrams.take(sent).map(<[u8]>::len).sum();
        self.sent.set(self.sent.get() + bytes as u64);
        (sent, result)
    }

    /// Wakes the task of the session.
    pub fn call(&self) {
        self.is_called.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready when the session was called since the last time.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_called.replace(false) {
            return Poll::Ready(());
        }
        let known = self.waker.take().filter(|w| w.will_wake(cx.waker()));
        self.waker
            .set(Some(known.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }

    /// Something has moved: silence begins now. `pause_ms` is time in which it may not move.
    pub fn touch_after(&self, pause_ms: u64) {
        if let Some(direct) = &*self.direct.borrow() {
            let end_ms = clock::now_ms().saturating_add(direct.timeout_ms.saturating_add(pause_ms));
            direct.peer.set_deadline(Some(end_ms));
        }
    }

    fn touch(&self) {
        self.touch_after(0);
    }

    /// Passes datagrams on without the task, in their order. Answers how many have gone.
    fn pass_on(&self, batch: &Batch, range: Range<usize>) -> usize {
        let direct = self.direct.borrow();
        let Some(direct) = direct.as_ref().filter(|direct| !direct.is_paced) else {
            return 0;
        };
        if self.has_waiting() || range.is_empty() {
            return 0;
        }
        let (sent, result) = direct
            .peer
            .send(range.clone().map(|index| batch.bytes(index)));
        for index in range.start..range.start + sent {
            let datagram = batch.bytes(index);
            self.count_from_client(datagram);
            self.count_to_upstream(datagram.len());
            self.keep(|kept| kept.push(datagram));
        }
        self.touch();
        match result {
            // The next attempt, by the task, tells why.
            Err(error) if !is_too_long(&error) && error.kind() != io::ErrorKind::WouldBlock => {
                self.failure.set(Some(error));
                self.call();
            }
            _ => {}
        }
        sent
    }

    /// Sends the first that waits behind `head`.
    fn send_with(&self, peer: &DatagramSocket, head: &mut Vec<u8>) -> (usize, io::Result<()>) {
        let queue = self.queue.borrow();
        let Some(first) = queue.front() else {
            return (0, Err(io::ErrorKind::WouldBlock.into()));
        };
        let length = head.len();
        head.extend_from_slice(first);
        let done = peer.send([&**head].into_iter());
        head.truncate(length);
        if done.0 == 1 {
            self.count_to_upstream(length);
        }
        done
    }

    /// The first of the queue has gone to the upstream.
    fn gone(&self) {
        let datagram = self.queue.borrow_mut().pop();
        if let Some(datagram) = datagram {
            self.count_to_upstream(datagram.len());
            self.keep(|kept| kept.push_own(datagram));
        }
        self.touch();
    }

    /// Keeps a datagram, or none any more if there are too many.
    fn keep(&self, push: impl FnOnce(&mut Queue) -> bool) {
        let mut kept = self.kept.borrow_mut();
        if let Some(queue) = kept.as_mut()
            && !push(queue)
        {
            *kept = None;
        }
    }

    fn count_from_client(&self, datagram: &[u8]) {
        let mut progress = self.progress.get();
        progress.asked(1);
        self.progress.set(progress);
        self.received
            .set(self.received.get() + datagram.len() as u64);
    }

    fn count_to_upstream(&self, bytes: usize) {
        self.up_sent.set(self.up_sent.get() + bytes as u64);
    }
}

/// Whether one datagram is longer than its way allows: no fault of the upstream.
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}
