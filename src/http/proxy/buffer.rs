//! What of a response waits for a client that is slower than its upstream.
//!
//! The bytes are, from the oldest to the newest: in flight to the client, in a temporary file, in
//! memory (where [`Output`] puts them). A client that takes what it is sent finds nothing here but
//! a few counters. [`Queue`] alone decides what goes where; [`Ahead`] does it.

mod queue;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::respond::{ClientGone, Output};
use crate::observe::{Level, os_error};
use crate::ring::{self, Chunk, File, Readiness};

use super::carrier::Carrier;
use super::conf::Conf;
use super::h2::upload;
use queue::{Next, Queue};

pub use queue::Limits;

/// Why bytes cannot be handed on.
pub enum Stuck {
    /// The client has gone, or does not read.
    ClientGone,
    /// The temporary file failed, which has been logged: the response cannot be completed.
    File,
    /// The request's body, which was still on its way, cannot go on.
    Upload(upload::Stuck),
}

impl From<ClientGone> for Stuck {
    fn from(_: ClientGone) -> Self {
        Stuck::ClientGone
    }
}

impl From<io::Error> for Stuck {
    /// What a send to the client reported.
    fn from(_: io::Error) -> Self {
        Stuck::ClientGone
    }
}

/// What ended a wait.
pub enum Event {
    /// The upstream's read.
    Read(io::Result<Chunk>),
    /// The client closed its connection.
    Gone,
}

/// Takes a response to its client while the upstream is read on.
pub struct Ahead<'c> {
    conf: &'c Conf,
    queue: Queue,
    file: Option<File>,
    /// `limit_rate`: when the next send may begin.
    pause: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// A wait for room that began before.
    waiting: Option<Readiness>,
}

impl<'c> Ahead<'c> {
    /// For the response of `ex`, whose `proxy_buffering` is settled.
    pub fn new(ex: &Exchange, conf: &'c Conf) -> Ahead<'c> {
        let limits = if ex.unbuffered {
            Limits::UNBUFFERED
        } else {
            conf.buffers
        };
        Ahead {
            conf,
            queue: Queue::new(limits),
            file: None,
            pause: None,
            waiting: None,
        }
    }

    /// Whether what the client does not take may go into a file.
    pub fn has_file(&self) -> bool {
        self.queue.has_file()
    }

    /// Whether nothing goes through here yet; what is pending in the output may.
    pub fn is_untouched(&self) -> bool {
        !self.queue.is_sending() && self.queue.unread() == 0 && self.pause.is_none()
    }

    /// The client was found to be slow. `waiting`: a wait for room at its socket that goes on.
    pub fn stalled(&mut self, waiting: Option<Readiness>) {
        self.queue.set_slow();
        self.waiting = waiting;
    }

    /// Whether the client has got everything, so that the next bytes may go directly.
    pub fn is_idle(&self, client: &Client, output: &Output) -> bool {
        !client.is_sending()
            && output.pending() == 0
            && self.queue.unread() == 0
            && self.pause.is_none()
    }

    /// Starts sending `chunk`, when all before it is out. Only for plain output.
    pub fn send_chunk(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        mut chunk: Chunk,
    ) {
        output.pass_chunk(ex, &mut chunk);
        if !chunk.is_empty() {
            self.queue.started(chunk.len());
            client.start_chunk(chunk, output.send_timeout_ms());
        }
    }

    /// Bytes were pushed to `output`: starts sending them, or finds a place for them.
    ///
    /// # Errors
    /// The file failed.
    pub async fn settle(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
    ) -> Result<(), Stuck> {
        self.queue.pushed();
        self.feed(ex, client, output).await?;
        self.spill(ex, output).await
    }

    /// Waits until the upstream may be read. What is still to be sent to it goes on.
    ///
    /// # Errors
    /// As [`Stuck`].
    pub async fn room(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        carrier: &mut Carrier,
    ) -> Result<(), Stuck> {
        loop {
            self.feed(ex, client, output).await?;
            if self.queue.may_read(output.pending()) {
                return Ok(());
            }
            poll_fn(|cx| {
                if let Some(Poll::Ready(stuck)) = carrier.poll_upload(cx, ex, client) {
                    return Poll::Ready(Err(Stuck::Upload(stuck)));
                }
                self.poll_client(cx, client, output).map_err(Stuck::from)
            })
            .await?;
        }
    }

    /// Whether [`Ahead::room`] need not wait.
    pub fn has_room(&self, output: &Output) -> bool {
        self.queue.may_read(output.pending())
    }

    /// Waits for the upstream's read while the client is served. `watch`: its end counts too.
    ///
    /// # Errors
    /// As [`Stuck`].
    pub async fn read(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        carrier: &mut Carrier,
        watch: bool,
    ) -> Result<Event, Stuck> {
        loop {
            self.feed(ex, client, output).await?;
            let event = poll_fn(|cx| {
                // First what the client took: the next bytes may then go directly.
                if let Poll::Ready(result) = self.poll_client(cx, client, output) {
                    return Poll::Ready(result.map(|()| None).map_err(Stuck::from));
                }
                let upload = carrier.poll_upload(cx, ex, client);
                if let Poll::Ready(result) = carrier.poll_read(cx) {
                    return Poll::Ready(Ok(Some(Event::Read(result))));
                }
                match upload {
                    Some(Poll::Ready(stuck)) => Poll::Ready(Err(Stuck::Upload(stuck))),
                    // Its body tells when the client goes.
                    Some(Poll::Pending) => Poll::Pending,
                    None if watch && client.poll_gone(cx).is_ready() => {
                        Poll::Ready(Ok(Some(Event::Gone)))
                    }
                    None => Poll::Pending,
                }
            });
            if let Some(event) = event.await? {
                return Ok(event);
            }
        }
    }

    /// Serves the client for some time. What is still to be sent to the upstream goes on.
    ///
    /// # Errors
    /// As [`Stuck`].
    pub async fn rest(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        carrier: &mut Carrier,
        time: Duration,
    ) -> Result<(), Stuck> {
        let mut over = std::pin::pin!(ring::sleep(time));
        loop {
            self.feed(ex, client, output).await?;
            let ended = poll_fn(|cx| {
                if let Some(Poll::Ready(stuck)) = carrier.poll_upload(cx, ex, client) {
                    return Poll::Ready(Err(Stuck::Upload(stuck)));
                }
                let ended = self.poll_until(over.as_mut(), cx, client, output);
                ended.map_err(Stuck::from)
            });
            if ended.await? {
                return Ok(());
            }
        }
    }

    /// Serves the client until it has got everything; false if that takes longer than `most_ms`.
    ///
    /// # Errors
    /// As [`Stuck`].
    pub async fn catch_up(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
        most_ms: u64,
    ) -> Result<bool, Stuck> {
        if self.is_idle(client, output) {
            return Ok(true);
        }
        let mut over = std::pin::pin!(ring::sleep(Duration::from_millis(most_ms)));
        while !self.is_idle(client, output) {
            self.feed(ex, client, output).await?;
            let ended = poll_fn(|cx| self.poll_until(over.as_mut(), cx, client, output));
            if ended.await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until nothing is in flight and the file is empty. What is in memory is left to leave
    /// with the end of the body, except where `limit_rate` says when.
    ///
    /// # Errors
    /// As [`Stuck`].
    pub async fn drain(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
    ) -> Result<(), Stuck> {
        loop {
            if self.queue.unread() > 0 || output.rate_mut().is_some() {
                self.feed(ex, client, output).await?;
            }
            if !client.is_sending() && self.pause.is_none() && self.queue.unread() == 0 {
                return Ok(());
            }
            poll_fn(|cx| self.poll_client(cx, client, output)).await?;
        }
    }

    /// Takes what did not leave out of the account of what was sent, and forgets it.
    pub fn forget(&mut self, ex: &mut Exchange, output: &mut Output) {
        let unsent = self.queue.unread() + output.pending() as u64;
        output.pending_mut().clear();
        let response = &mut ex.response;
        response.bytes_sent = response.bytes_sent.saturating_sub(unsent);
        response.body_bytes_sent = response.body_bytes_sent.saturating_sub(unsent);
    }

    /// Ready when a send is done, or a pause, so that the next may begin. Pending if there is
    /// neither.
    fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        output: &mut Output,
    ) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.waiting
            && Pin::new(waiting).poll(cx).is_ready()
        {
            self.waiting = None;
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
            return Poll::Ready(Ok(()));
        }
        if !client.is_sending() {
            return Poll::Pending;
        }
        ready!(client.poll_sent(cx))?;
        self.queue.sent(output.pending());
        if output.pending_mut().capacity() == 0 {
            *output.pending_mut() = client.spare_out();
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Ahead::poll_client`]: false. Or true when the time is `over`.
    fn poll_until(
        &mut self,
        over: Pin<&mut impl Future<Output = ()>>,
        cx: &mut Context<'_>,
        client: &mut Client,
        output: &mut Output,
    ) -> Poll<io::Result<bool>> {
        match self.poll_client(cx, client, output) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| false)),
            Poll::Pending => over.poll(cx).map(|()| Ok(true)),
        }
    }

    /// Starts the next send, if none is under way.
    async fn feed(
        &mut self,
        ex: &mut Exchange,
        client: &mut Client,
        output: &mut Output,
    ) -> Result<(), Stuck> {
        // A head may be waited for although nothing of the body is there.
        client.send_head();
        if client.is_sending() || self.pause.is_some() {
            return Ok(());
        }
        let next = self.queue.next(output.pending());
        let (Next::Memory(wanted) | Next::File { length: wanted, .. }) = next else {
            return Ok(());
        };
        let n = match output.rate_mut().map(|rate| rate.try_take(wanted)) {
            None => wanted,
            Some(Ok(n)) => n,
            Some(Err(wait)) => {
                self.pause = Some(Box::pin(ring::sleep(wait)));
                return Ok(());
            }
        };
        let piece = match next {
            // Boxed: few responses come by a file, and their state is in every connection.
            Next::File { offset, .. } => Box::pin(self.load(ex, offset, n)).await?,
            _ => {
                let pending = output.pending_mut();
                if n == pending.len() {
                    std::mem::take(pending)
                } else {
                    let mut piece = client.spare_out();
                    piece.extend(pending.drain(..n));
                    piece
                }
            }
        };
        self.queue.started(piece.len());
        client.start(piece, output.send_timeout_ms());
        Ok(())
    }

    /// Takes bytes out of the file.
    async fn load(&mut self, ex: &Exchange, offset: u64, length: usize) -> Result<Vec<u8>, Stuck> {
        let file = self.file.as_ref().expect("bytes in a file need a file");
        let (result, mut bytes) = file.read_at(Vec::with_capacity(length), offset).await;
        // Behind what was written last may stand what has been sent before.
        bytes.truncate(length);
        match result {
            Ok(count) if count > 0 => {
                self.queue.loaded(bytes.len());
                Ok(bytes)
            }
            Ok(_) => Err(self.failed(ex, "pread()", &io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.failed(ex, "pread()", &error)),
        }
    }

    /// Moves bytes from memory into the file if memory is full.
    async fn spill(&mut self, ex: &mut Exchange, output: &mut Output) -> Result<(), Stuck> {
        match self.queue.spill(output.pending()) {
            0 => Ok(()),
            n => Box::pin(self.spill_now(ex, output, n)).await,
        }
    }

    async fn spill_now(
        &mut self,
        ex: &mut Exchange,
        output: &mut Output,
        n: usize,
    ) -> Result<(), Stuck> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(create(ex, self.conf).await?),
        };
        let bytes = Bytes::from(std::mem::take(output.pending_mut()));
        let mut at = 0;
        while at < n {
            let end = n.min(at.saturating_add(self.queue.write_max()));
            let offset = self.queue.end() + at as u64;
            let (result, _) = file.write_at(bytes.slice(at..end), offset).await;
            if let Err(error) = result {
                return Err(self.failed(ex, "pwrite()", &error));
            }
            at = end;
        }
        let mut rest = Vec::from(bytes);
        rest.drain(..n);
        *output.pending_mut() = rest;
        self.queue.stored(n);
        Ok(())
    }

    fn failed(&self, ex: &Exchange, operation: &str, error: &io::Error) -> Stuck {
        log_failure(ex, self.conf, operation, error)
    }
}

async fn create(ex: &Exchange, conf: &Conf) -> Result<File, Stuck> {
    ex.log(
        Level::Warn,
        format_args!(
            "an upstream response is buffered to a temporary file {} while {}",
            conf.temp_path.display(),
            ex.doing
        ),
    );
    let made = File::temporary(&conf.temp_path).await;
    made.map_err(|error| log_failure(ex, conf, "open()", &error))
}

fn log_failure(ex: &Exchange, conf: &Conf, operation: &str, error: &io::Error) -> Stuck {
    ex.log(
        Level::Crit,
        format_args!(
            "{operation} of a temporary file in \"{}\" failed {} while {}",
            conf.temp_path.display(),
            os_error(error),
            ex.doing
        ),
    );
    Stuck::File
}
