//! The event loop of one load run over HTTP/2: every connection keeps so many requests under way.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::engine::{RECORDS_READ_BYTES, REST_NANOS, STALL_NANOS};
use super::tally::Tally;
use super::wire::Wire;
use super::{Generator, LoadOptions, Streams};
use crate::h2::{self, Frame, Frames, Malformed, ReceiveWindow, RequestBlocks, flag, kind};
use crate::{sys, tls};

/// What a message of gRPC begins with: not compressed, and its length.
const GRPC_PREFIX_BYTES: usize = 5;

/// Connections and counts of one run.
pub struct Multiplex {
    epoll: sys::Epoll,
    address: SocketAddr,
    tls: Option<tls::Settings>,
    request: Request,
    connections: Vec<Connection>,
    /// Connections that are closed, and when they may be opened; in order.
    resting: VecDeque<(u64, usize)>,
    scratch: Vec<u8>,
    tally: Tally,
}

/// What every request is, and what it is answered with.
struct Request {
    blocks: RequestBlocks,
    /// Of gRPC.
    message: Option<Vec<u8>>,
    /// Bytes of DATA in an answer, if they are known.
    expect: Option<u64>,
    streams: usize,
}

struct Connection {
    wire: Option<Wire>,
    /// Room in the socket is waited for.
    blocked: bool,
    talk: Talk,
}

/// The state of HTTP/2 on a connection.
#[derive(Default)]
struct Talk {
    frames: Frames,
    streams: Vec<Stream>,
    next_id: u32,
    received: ReceiveWindow,
    /// What the server takes of DATA on the connection.
    window: i64,
    /// Requests that wait for `window`.
    waiting: usize,
    /// What is to be sent.
    out: Vec<u8>,
    /// The server has answered.
    answered: bool,
}

/// A request under way.
struct Stream {
    id: u32,
    since: u64,
    /// Its answer begins with 200.
    ok: bool,
    bytes: u64,
}

/// Why a connection is of no more use.
enum Failure {
    Status,
    Framing,
    Closed,
    Tls,
}

impl Multiplex {
    /// Prepares a run; nothing is sent yet.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new(options: &LoadOptions, streams: Streams) -> io::Result<Self> {
        let connection = || Connection {
            wire: None,
            blocked: false,
            talk: Talk::default(),
        };
        Ok(Self {
            epoll: sys::Epoll::new()?,
            address: options.target.addr,
            tls: options.tls.clone(),
            request: Request::new(options, streams),
            connections: (0..options.connections).map(|_| connection()).collect(),
            resting: (0..options.connections).map(|index| (0, index)).collect(),
            scratch: vec![0; RECORDS_READ_BYTES],
            tally: Tally::new(),
        })
    }

    fn begin_due(&mut self, now: u64) {
        while let Some(&(when, index)) = self.resting.front()
            && when <= now
        {
            self.resting.pop_front();
            self.open(index);
        }
    }

    fn open(&mut self, index: usize) {
        let Ok(wire) = Wire::connect(self.address, self.tls.as_ref()) else {
            self.tally.errors.connect += 1;
            return self.fail(index);
        };
        if self.epoll.add(&wire.fd, sys::READ, index).is_err() {
            self.tally.errors.connect += 1;
            return self.fail(index);
        }
        let connection = &mut self.connections[index];
        (connection.wire, connection.blocked) = (Some(wire), false);
        connection.talk = Talk::begin(&self.request, self.tally.now());
        self.say(index);
    }

    /// Sends what there is to send.
    fn say(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(wire) = &mut connection.wire else {
            return;
        };
        if !connection.talk.out.is_empty() {
            if wire.write(&connection.talk.out).is_err() {
                self.tally.errors.tls += 1;
                return self.fail(index);
            }
            connection.talk.out.clear();
        }
        let Ok(done) = wire.flush() else {
            self.tally.errors.connect += 1;
            return self.fail(index);
        };
        if connection.blocked == done {
            connection.blocked = !done;
            let interest = if done { sys::READ } else { sys::WRITE };
            if self.epoll.modify(&wire.fd, interest, index).is_err() {
                self.tally.errors.connect += 1;
                self.fail(index);
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let now = self.tally.now();
        let connection = &mut self.connections[index];
        let (Some(wire), talk) = (&mut connection.wire, &mut connection.talk) else {
            return;
        };
        let is_first = !talk.answered;
        let mut heard = Ok(());
        let received = wire.receive(&mut self.scratch, |bytes| {
            if heard.is_ok() {
                heard = talk.hear(bytes, &self.request, &mut self.tally, now);
            }
        });
        let failure = match (received, heard) {
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => return,
            (Err(error), _) if error.kind() == io::ErrorKind::Other => Failure::Tls,
            (Ok(0) | Err(_), _) => Failure::Closed,
            (_, Err(failure)) => failure,
            _ => {
                if let (true, Some(handshake)) = (is_first && talk.answered, wire.handshake()) {
                    self.tally.note_handshake(handshake, now);
                }
                return self.say(index);
            }
        };
        let errors = &mut self.tally.errors;
        match failure {
            Failure::Status => errors.status += 1,
            Failure::Framing => errors.framing += 1,
            Failure::Closed => errors.closed += 1,
            Failure::Tls => errors.tls += 1,
        }
        self.fail(index);
    }

    /// Closes a connection; it rests before it is opened again.
    fn fail(&mut self, index: usize) {
        self.connections[index].wire = None;
        let now = self.tally.now();
        self.resting.push_back((now + REST_NANOS, index));
    }
}

impl Generator for Multiplex {
    fn run_for(&mut self, length: Duration) -> io::Result<()> {
        let deadline = self.tally.now() + length.as_nanos() as u64;
        loop {
            sys::interrupted()?;
            let now = self.tally.now();
            if now >= deadline {
                return Ok(());
            }
            self.begin_due(now);
            let rested = self.resting.front().map_or(u64::MAX, |(when, _)| *when);
            let timeout = Duration::from_nanos(rested.min(deadline).saturating_sub(now));
            // An interrupt is looked for at least this often.
            let timeout = timeout.min(Duration::from_millis(200));
            for event in 0..self.epoll.wait(Some(timeout))? {
                let (index, _) = self.epoll.event(event);
                match self.connections[index].blocked {
                    true => self.say(index),
                    false => self.receive(index),
                }
            }
        }
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn finish(mut self) -> io::Result<Tally> {
        let end = self.tally.end();
        let open = self.connections.iter().filter(|c| c.wire.is_some());
        let streams = open.flat_map(|connection| &connection.talk.streams);
        let stalled = streams.filter(|stream| stream.since + STALL_NANOS < end);
        self.tally.errors.stalled += stalled.count() as u64;
        Ok(self.tally)
    }
}

impl Request {
    fn new(options: &LoadOptions, streams: Streams) -> Self {
        let target = &options.target;
        let scheme = if target.tls { "https" } else { "http" };
        let blocks = |method, fields: &[(&str, &str)]| {
            RequestBlocks::new(method, scheme, &target.host, &target.path, fields)
        };
        if !streams.grpc {
            return Self {
                blocks: blocks(
                    "GET",
                    &[("user-agent", "ringway-loadtest"), ("accept", "*/*")],
                ),
                message: None,
                expect: options.expect,
                streams: streams.count,
            };
        }
        let length = options.expect.unwrap_or(0) as usize;
        let mut message = vec![0];
        message.extend_from_slice(&(length as u32).to_be_bytes());
        message.resize(GRPC_PREFIX_BYTES + length, b'a');
        let fields = [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "ringway-loadtest"),
        ];
        Self {
            blocks: blocks("POST", &fields),
            expect: Some(message.len() as u64),
            message: Some(message),
            streams: streams.count,
        }
    }
}

impl Talk {
    /// A new connection with its first requests.
    fn begin(request: &Request, now: u64) -> Self {
        let mut talk = Self {
            next_id: 1,
            window: h2::WINDOW_INITIAL.into(),
            ..Self::default()
        };
        talk.out.extend_from_slice(h2::PREFACE);
        let settings = [(h2::setting::INITIAL_WINDOW_SIZE, h2::WINDOW_MAX)];
        h2::write_settings(&mut talk.out, &settings);
        ReceiveWindow::open(&mut talk.out);
        for _ in 0..request.streams {
            talk.ask(request, now);
        }
        talk
    }

    /// Begins a request, or leaves it waiting if the server does not take its message now.
    fn ask(&mut self, request: &Request, now: u64) {
        let length = request.message.as_ref().map_or(0, Vec::len);
        if (length as i64) > self.window {
            self.waiting += 1;
            return;
        }
        let id = self.next_id;
        self.next_id += 2;
        let block = match id {
            1 => &request.blocks.first,
            _ => &request.blocks.next,
        };
        match &request.message {
            None => {
                let flags = flag::END_HEADERS | flag::END_STREAM;
                h2::write(&mut self.out, kind::HEADERS, flags, id, block);
            }
            Some(message) => {
                h2::write(&mut self.out, kind::HEADERS, flag::END_HEADERS, id, block);
                h2::write(&mut self.out, kind::DATA, flag::END_STREAM, id, message);
                self.window -= length as i64;
            }
        }
        self.streams.push(Stream {
            id,
            since: now,
            ok: false,
            bytes: 0,
        });
    }

    /// Takes bytes from the server and answers them with new requests.
    fn hear(
        &mut self,
        bytes: &[u8],
        request: &Request,
        tally: &mut Tally,
        now: u64,
    ) -> Result<(), Failure> {
        let mut frames = std::mem::take(&mut self.frames);
        let heard = frames.feed(bytes, |frame| self.take(frame, request, tally, now));
        self.frames = frames;
        heard
    }

    fn take(
        &mut self,
        frame: Frame<'_>,
        request: &Request,
        tally: &mut Tally,
        now: u64,
    ) -> Result<(), Failure> {
        match frame.kind {
            kind::HEADERS | kind::DATA => {
                let found = self.streams.iter().position(|s| s.id == frame.stream);
                let at = found.ok_or(Failure::Framing)?;
                let stream = &mut self.streams[at];
                match frame.kind {
                    kind::DATA => {
                        stream.bytes += frame.payload.len() as u64;
                        self.received.note(frame.payload.len(), &mut self.out);
                    }
                    // Trailers come after it.
                    _ if !stream.ok && !frame.is_ok() => return Err(Failure::Status),
                    _ => stream.ok = true,
                }
                if frame.ends_stream() {
                    let done = self.streams.swap_remove(at);
                    if !done.ok || request.expect.is_some_and(|bytes| bytes != done.bytes) {
                        return Err(Failure::Framing);
                    }
                    self.answered = true;
                    tally.complete(now, done.since, now);
                    self.ask(request, now);
                }
            }
            kind::RST_STREAM => return Err(Failure::Status),
            kind::GOAWAY => return Err(Failure::Closed),
            kind::WINDOW_UPDATE if frame.stream == 0 => {
                self.window += i64::from(frame.increment().ok_or(Malformed)?);
                for _ in 0..std::mem::take(&mut self.waiting) {
                    self.ask(request, now);
                }
            }
            _ => h2::write_ack(&mut self.out, frame),
        }
        Ok(())
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Framing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(grpc: bool) -> Request {
        let options = LoadOptions {
            target: crate::http::Target::parse("http://127.0.0.1:1/100").unwrap(),
            connections: 1,
            new_connections: false,
            rate: None,
            expect: Some(100),
            tls: None,
            streams: None,
            warmup: Duration::ZERO,
            duration: Duration::ZERO,
        };
        Request::new(&options, Streams { count: 3, grpc })
    }

    /// Streams of HEADERS frames in these bytes.
    fn begun(bytes: &[u8]) -> Vec<u32> {
        let mut begun = Vec::new();
        let note = |frame: Frame<'_>| {
            if frame.kind == kind::HEADERS {
                begun.push(frame.stream);
            }
            Ok::<(), Malformed>(())
        };
        Frames::default().feed(bytes, note).unwrap();
        begun
    }

    fn answer(stream: u32, bytes: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        let end = flag::END_STREAM;
        h2::write(&mut wire, kind::HEADERS, flag::END_HEADERS, stream, &[0x88]);
        h2::write(&mut wire, kind::DATA, end, stream, &vec![0; bytes]);
        wire
    }

    #[test]
    fn a_stream_ends_and_the_next_begins() {
        let (request, mut tally) = (request(false), Tally::new());
        let mut talk = Talk::begin(&request, 0);
        assert!(talk.out.starts_with(h2::PREFACE));
        assert_eq!(begun(&talk.out[h2::PREFACE.len()..]), [1, 3, 5]);
        talk.out.clear();
        let heard = talk.hear(&answer(3, 100), &request, &mut tally, 9);
        assert!(heard.is_ok() && talk.answered);
        assert_eq!(begun(&talk.out), [7]);
        let short = talk.hear(&answer(1, 99), &request, &mut tally, 9);
        assert!(matches!(short, Err(Failure::Framing)));
        let unknown = talk.hear(&answer(3, 100), &request, &mut tally, 9);
        assert!(matches!(unknown, Err(Failure::Framing)));
    }

    #[test]
    fn messages_wait_for_the_window() {
        let (request, mut tally) = (request(true), Tally::new());
        let mut talk = Talk::begin(&request, 0);
        (talk.window, talk.out) = (104, Vec::new());
        assert!(talk.hear(&answer(1, 105), &request, &mut tally, 0).is_ok());
        assert_eq!((begun(&talk.out).len(), talk.waiting), (0, 1));
        let mut wire = Vec::new();
        h2::write_window(&mut wire, 1);
        assert!(talk.hear(&wire, &request, &mut tally, 0).is_ok());
        assert_eq!(begun(&talk.out), [7]);
        assert_eq!((talk.window, talk.waiting), (0, 0));
    }
}
