//! Requests of one connection, many at a time.
//!
//! A lane is a task that serves one stream after the other with an exchange and buffers of its own,
//! which it keeps in between, as a connection of HTTP/1.1 does. There are as many as the connection
//! ever had requests at once; those that are idle for a while end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;

use crate::base::clock;
use crate::http::accept;
use crate::http::body::RequestBody;
use crate::http::client::Client;
use crate::http::exchange::{ClientInfo, Exchange};
use crate::http::h1::framing::Framing;
use crate::http::h1::head::{self, HeadLimits};
use crate::http::local::Local;
use crate::http::modules::{log, realip};
use crate::http::phases::{self, Finish};
use crate::observe::Level;
use crate::ring;

use super::fields::{self, Fault};
use super::piece::{Piece, Spares};
use super::stream::Stream;

/// How many streams are remembered that ended with an error.
const TOLD_MAX: usize = 16;

/// What the lanes of a connection share with it.
pub struct Lanes {
    /// The worker.
    pub local: Rc<Local>,
    /// The connection.
    pub info: ClientInfo,
    idle: RefCell<Vec<Rc<Seat>>>,
    busy: Cell<usize>,
    spares: Spares,
    /// The connection's task.
    waker: RefCell<Option<Waker>>,
    is_over: Cell<bool>,
    has_panicked: Cell<bool>,
    /// Streams that ended with an error for a reason that is in the log; few and not for long.
    told: RefCell<Vec<u32>>,
}

/// A request with what answers it.
pub struct Job {
    /// Head and body.
    pub request: Request<RecvStream>,
    /// For the answer.
    pub respond: SendResponse<Piece>,
    /// `$connection_requests`
    pub number: u64,
}

/// Where a lane waits for its next request.
#[derive(Default)]
struct Seat {
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
    is_over: Cell<bool>,
}

impl Lanes {
    /// None yet.
    pub fn new(local: Rc<Local>, info: ClientInfo) -> Rc<Lanes> {
        Rc::new(Lanes {
            local,
            info,
            idle: RefCell::default(),
            busy: Cell::new(0),
            spares: Spares::default(),
            waker: RefCell::default(),
            is_over: Cell::new(false),
            has_panicked: Cell::new(false),
            told: RefCell::default(),
        })
    }

    /// Has a request served.
    pub fn serve(self: &Rc<Self>, job: Job) {
        self.busy.set(self.busy.get() + 1);
        let idle = self.idle.borrow_mut().pop();
        let seat = idle.unwrap_or_else(|| {
            let seat = Rc::new(Seat::default());
            ring::spawn(run(Rc::clone(self), Rc::clone(&seat)));
            seat
        });
        *seat.job.borrow_mut() = Some(job);
        seat.wake();
    }

    /// Whether a lane ended this stream, and said why. It is asked once.
    pub fn has_told(&self, stream: u32) -> bool {
        let mut told = self.told.borrow_mut();
        let found = told.iter().position(|&known| known == stream);
        found.map(|at| told.remove(at)).is_some()
    }

    fn tell(&self, stream: u32) {
        let mut told = self.told.borrow_mut();
        // What `h2` had reset before is never asked for.
        if told.len() == TOLD_MAX {
            told.remove(0);
        }
        told.push(stream);
    }

    /// Requests that are being served.
    pub fn busy(&self) -> usize {
        self.busy.get()
    }

    /// Whether something went wrong in here that ends the connection.
    pub fn has_panicked(&self) -> bool {
        self.has_panicked.get()
    }

    /// Remembers whom to wake when the last request has been served.
    pub fn watch(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|k| k.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// Ends the lanes that are idle, and gives up spare buffers.
    pub fn rest(&self) {
        for seat in self.idle.take() {
            seat.is_over.set(true);
            seat.wake();
        }
        self.spares.clear();
    }

    /// Ends every lane as soon as it is idle.
    pub fn end(&self) {
        self.is_over.set(true);
        self.rest();
    }
}

impl Seat {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The next request; `None` if there will be none.
    async fn next(&self) -> Option<Job> {
        poll_fn(|cx| {
            if let Some(job) = self.job.borrow_mut().take() {
                return Poll::Ready(Some(job));
            }
            if self.is_over.get() {
                return Poll::Ready(None);
            }
            let mut kept = self.waker.borrow_mut();
            if !kept.as_ref().is_some_and(|k| k.will_wake(cx.waker())) {
                *kept = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// A request that is being served, counted out however that ends.
struct Busy<'a>(&'a Lanes);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let lanes = self.0;
        lanes.busy.set(lanes.busy.get() - 1);
        if std::thread::panicking() {
            lanes.has_panicked.set(true);
        }
        if (lanes.busy.get() == 0 || lanes.has_panicked.get())
            && let Some(waker) = &*lanes.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

/// The life of a lane.
async fn run(lanes: Rc<Lanes>, seat: Rc<Seat>) {
    let timer = lanes.local.timers.add();
    let mut client = Client::of_streams(Stream::new(timer, lanes.spares.clone()));
    let mut ex = Exchange::new(Rc::clone(&lanes.local), lanes.info.clone());
    while let Some(job) = seat.next().await {
        let busy = Busy(&lanes);
        let stream = job.respond.stream_id().as_u32();
        if serve(&mut ex, &mut client, job).await != Reason::NO_ERROR {
            lanes.tell(stream);
        }
        drop(busy);
        if lanes.is_over.get() {
            return;
        }
        lanes.idle.borrow_mut().push(Rc::clone(&seat));
    }
}

/// Says how the stream ended, if it had to be ended.
async fn serve(ex: &mut Exchange, client: &mut Client, job: Job) -> Reason {
    ex.begin();
    ex.request.started_at = clock::precise_ms();
    ex.client.requests = job.number;
    ex.doing = "reading client request headers";
    let (parts, recv) = job.request.into_parts();
    // What follows in a tunnel is no body.
    let has_no_body = recv.is_end_stream() || fields::is_websocket(&parts);
    if let Some(stream) = client.stream_mut() {
        stream.begin(job.respond, recv);
    }
    let finish = match take(ex, &parts, has_no_body) {
        Ok(()) => {
            drop(parts);
            phases::handle(ex, client).await
        }
        Err(Refused::Answer(status)) => phases::refuse(ex, client, status).await,
        Err(Refused::Malformed) => {
            ex.response.status = 400;
            end(client, Reason::PROTOCOL_ERROR);
            Finish::Drop
        }
    };
    log::write(ex);
    realip::restore(ex);
    ex.limit_conn.clear();
    let reason = match finish {
        Finish::Complete | Finish::Tunnel => Reason::NO_ERROR,
        // As nginx has it.
        _ if client.timed_out() || ex.response.status == 444 => Reason::PROTOCOL_ERROR,
        Finish::Truncated | Finish::Drop => Reason::INTERNAL_ERROR,
    };
    end(client, reason);
    client.forget();
    reason
}

fn end(client: &mut Client, reason: Reason) {
    if let Some(stream) = client.stream_mut() {
        stream.finish(reason);
    }
}

/// Why a request is not served.
enum Refused {
    /// With this status.
    Answer(u16),
    /// It is none: the stream ends with PROTOCOL_ERROR.
    Malformed,
}

/// Takes the head over and decides what it means. Why not is in the log.
fn take(ex: &mut Exchange, parts: &http::request::Parts, has_no_body: bool) -> Result<(), Refused> {
    ex.request.buf.clear();
    let taken = fields::request(parts, &mut ex.request.buf, &mut ex.request.head);
    ex.request.length = ex.request.buf.len() as u64;
    if let Err(fault) = taken {
        ex.request.head.fields.clear();
        ex.log(
            Level::Info,
            format_args!("client sent {fault} while {}", ex.doing),
        );
        return Err(match fault {
            Fault::HostConflict | Fault::TooMany => Refused::Answer(400),
            Fault::Blank | Fault::NoPath | Fault::NoScheme => Refused::Malformed,
        });
    }
    let conf = &ex.generation.server(ex.server).client;
    let limits = HeadLimits::new(
        conf.header_buffer_size,
        conf.large_buffers,
        conf.large_buffer_size,
    );
    if let Err(error) = head::check(&ex.request.buf, &ex.request.head, &limits) {
        let message = error.client_message(&ex.request.buf);
        ex.log(Level::Info, format_args!("{message}"));
        return Err(Refused::Answer(error.status()));
    }
    accept::head(ex).map_err(Refused::Answer)?;
    let request = &mut ex.request;
    if has_no_body {
        request.body = RequestBody::None;
    } else if request.framing == Framing::None {
        // For whoever asks how: until it ends.
        request.framing = Framing::Chunked;
        request.body = RequestBody::Open { total: 0 };
    } else if request.framing == Framing::Length(0) {
        // DATA with an octet in it would make it malformed (RFC 9113, 8.1.1).
        request.body = RequestBody::Open { total: 0 };
    }
    Ok(())
}
