//! Bulk streams: flows that send as fast as the proxy takes it, and the sink behind the proxy that
//! throws everything away. Sender and sink are one thread, so that neither waits for a core, and
//! the sink counts what really arrived.
//!
//! The generator must not be the limit. It sends from 16 KiB that stay in the first cache, keeps
//! little in flight (what is in flight leaves the second cache, and memory the kernel has to find
//! for it is slow), and discards without copying (`MSG_TRUNC`), much at a time. Without a proxy in
//! between a GB costs it about 0.07 CPU-seconds, with one that splices 0.2.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::process::{CpuTime, ProcessTree};
use crate::{Outcome, sys};

/// What a flow sends again and again.
const PIECE_BYTES: usize = 16 << 10;
/// How often in one system call, if there is room.
const PIECES: usize = 32;
/// `SO_SNDBUF` of a flow; the kernel doubles it.
const FLOW_BUFFER_BYTES: usize = 128 << 10;
/// What has to be there before the sink is woken.
const SINK_WAKE_BYTES: usize = 128 << 10;
/// The most the sink discards in one system call.
const SINK_BYTES: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last bytes may take to arrive after the flows have ended.
const DRAIN: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct BulkOptions {
    /// Where the flows go: the proxy.
    pub target: SocketAddr,
    /// How many.
    pub flows: usize,
    /// Time before anything is counted.
    pub warmup: Duration,
    /// Time in which everything is counted.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct BulkReport {
    /// Bytes that reached the sink in the counted time.
    pub bytes: u64,
    /// The counted time.
    pub elapsed: Duration,
    /// Flows that failed or ended before their time, plus one if bytes were lost or made up.
    pub errors: u64,
    /// CPU time of the watched processes in the counted time.
    pub cpu: Option<CpuTime>,
}

impl BulkReport {
    /// Megabytes (10⁶ bytes) that reached the sink.
    pub fn megabytes(&self) -> f64 {
        self.bytes as f64 / 1e6
    }

    /// CPU µs of the watched processes per megabyte.
    pub fn cpu_micros(&self) -> Option<f64> {
        Some(self.cpu?.total.as_secs_f64() * 1e6 / self.megabytes().max(1.0))
    }
}

/// `bulk ADDRESS --sink ADDRESS …`: runs once and prints the report.
///
/// # Errors
/// Bad options; addresses that cannot be used; a proxy that ended; an interrupt.
pub fn main(args: &Args) -> Outcome<()> {
    if let Some(core) = args.get("core")? {
        sys::pin(core)?;
    }
    let target = args.one("ADDRESS of the proxy")?;
    let mut sinks = args.all("sink");
    if sinks.is_empty() {
        sinks.push("127.0.0.1:9000");
    }
    let options = BulkOptions {
        target: target
            .parse()
            .map_err(|_| format!("\"{target}\" is no address like 127.0.0.1:5432"))?,
        flows: args.get("flows")?.unwrap_or(8),
        warmup: args.seconds("warmup", 1.0)?,
        duration: args.seconds("seconds", 10.0)?,
    };
    let tree = args.get("pid")?.map(ProcessTree::of).transpose()?;
    let report = run(&options, &Sink::open(&sinks)?, tree.as_ref())?;
    println!(
        "{:.2} GB/s over {} flows, {} errors",
        report.megabytes() / 1e3 / report.elapsed.as_secs_f64(),
        options.flows,
        report.errors
    );
    if let (Some(cpu), Some(micros)) = (report.cpu, report.cpu_micros()) {
        println!(
            "proxy: {:.2} GB per CPU-second, {:.0} % of it user, core {:.0} % busy",
            1e3 / micros,
            cpu.user_share() * 100.0,
            cpu.total.as_secs_f64() / report.elapsed.as_secs_f64() * 100.0
        );
    }
    Ok(())
}

/// The upstream servers of bulk streams.
#[derive(Debug)]
pub struct Sink {
    listeners: Vec<TcpListener>,
}

impl Sink {
    /// Listens; nothing is accepted before a run.
    ///
    /// # Errors
    /// A message for the user that names the address.
    pub fn open(addresses: &[&str]) -> Outcome<Self> {
        let mut listeners = Vec::new();
        for address in addresses {
            let listener = TcpListener::bind(address)
                .map_err(|error| format!("cannot listen on {address}: {error}"))?;
            listener.set_nonblocking(true)?;
            sys::set_receive_low_water(&listener, SINK_WAKE_BYTES)?;
            listeners.push(listener);
        }
        Ok(Self { listeners })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Whether a session through the proxy at `address` reaches the sink.
    ///
    /// # Errors
    /// The proxy does not accept, or ends the session.
    pub fn answers(&self, address: SocketAddr) -> io::Result<bool> {
        let mut client = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        client.write_all(b"ready?")?;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            for listener in &self.listeners {
                let Ok((mut session, _)) = listener.accept() else {
                    continue;
                };
                session.set_nonblocking(false)?;
                session.set_read_timeout(Some(Duration::from_secs(1)))?;
                let mut heard = [0; 6];
                // An earlier attempt may have left a session that is over.
                if session.read_exact(&mut heard).is_ok() {
                    return Ok(&heard == b"ready?");
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(false)
    }
}

/// Runs the flows; `watch` names the processes whose CPU time is counted.
///
/// # Errors
/// Options that cannot work; a proxy that refuses the flows; a watched process that ended; an
/// interrupt. Flows that fail later are no error but counted.
pub fn run(
    options: &BulkOptions,
    sink: &Sink,
    watch: Option<&ProcessTree>,
) -> io::Result<BulkReport> {
    if options.flows == 0 || options.duration.is_zero() {
        let message = "flows and seconds must not be 0";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let cpu_time = || watch.map(ProcessTree::cpu_time).transpose();
    let mut engine = Engine::new(options, sink)?;
    engine.run_for(options.warmup)?;
    let (cpu_before, bytes_before, begin) = (cpu_time()?, engine.received, Instant::now());
    engine.run_for(options.duration)?;
    let (elapsed, bytes) = (begin.elapsed(), engine.received - bytes_before);
    let cpu_after = cpu_time()?;
    let cpu = cpu_before
        .zip(cpu_after)
        .map(|(before, after)| after.since(before));
    Ok(BulkReport {
        bytes,
        elapsed,
        errors: engine.finish()?,
        cpu,
    })
}

/// Flows and sink of one run. Tokens: listeners, then flows, then sessions of the sink.
struct Engine<'a> {
    epoll: sys::Epoll,
    listeners: &'a [TcpListener],
    flows: Vec<Option<TcpStream>>,
    sessions: Vec<Option<TcpStream>>,
    piece: Vec<u8>,
    scratch: Vec<u8>,
    sent: u64,
    received: u64,
    failed: u64,
}

impl<'a> Engine<'a> {
    fn new(options: &BulkOptions, sink: &'a Sink) -> io::Result<Self> {
        let epoll = sys::Epoll::new()?;
        for (token, listener) in sink.listeners.iter().enumerate() {
            epoll.add(listener, sys::READ, token)?;
        }
        let mut flows = Vec::with_capacity(options.flows);
        for _ in 0..options.flows {
            let flow =
                TcpStream::connect_timeout(&options.target, CONNECT_TIMEOUT).map_err(|e| {
                    io::Error::new(
                        e.kind(),
                        format!("cannot connect to {}: {e}", options.target),
                    )
                })?;
            sys::set_send_buffer(&flow, FLOW_BUFFER_BYTES)?;
            flow.set_nonblocking(true)?;
            epoll.add(&flow, sys::WRITE, sink.listeners.len() + flows.len())?;
            flows.push(Some(flow));
        }
        Ok(Self {
            epoll,
            listeners: &sink.listeners,
            flows,
            sessions: Vec::new(),
            piece: (0..PIECE_BYTES).map(|i| b'a' + (i % 26) as u8).collect(),
            scratch: vec![0; SINK_BYTES],
            sent: 0,
            received: 0,
            failed: 0,
        })
    }

    fn run_for(&mut self, length: Duration) -> io::Result<()> {
        let end = Instant::now() + length;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.turn(left)?;
        }
        Ok(())
    }

    /// Ends the flows, lets the last bytes arrive and says how much went wrong.
    fn finish(mut self) -> io::Result<u64> {
        for flow in self.flows.iter().flatten() {
            let _ = flow.shutdown(Shutdown::Write);
        }
        let end = Instant::now() + DRAIN;
        // A sender's socket is writable all the time now.
        for flow in self.flows.iter().flatten() {
            self.epoll.modify(flow, 0, usize::MAX)?;
        }
        // Sessions end when everything of their flow has arrived.
        while self.sessions.iter().any(Option::is_some)
            && let Some(left) = end.checked_duration_since(Instant::now())
        {
            self.turn(left)?;
        }
        Ok(self.failed + u64::from(self.received != self.sent))
    }

    fn turn(&mut self, left: Duration) -> io::Result<()> {
        sys::interrupted()?;
        let events = self
            .epoll
            .wait(Some(left.min(Duration::from_millis(200))))?;
        for event in 0..events {
            let (token, _) = self.epoll.event(event);
            let flow = token.wrapping_sub(self.listeners.len());
            let session = flow.wrapping_sub(self.flows.len());
            if token < self.listeners.len() {
                self.accept(token)?;
            } else if flow < self.flows.len() {
                self.send(flow);
            } else if session < self.sessions.len() {
                self.discard(session);
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        let session = match self.listeners[listener].accept() {
            Ok((session, _)) => session,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        session.set_nonblocking(true)?;
        let token = self.listeners.len() + self.flows.len() + self.sessions.len();
        self.epoll.add(&session, sys::READ, token)?;
        self.sessions.push(Some(session));
        Ok(())
    }

    fn send(&mut self, index: usize) {
        let Some(flow) = &mut self.flows[index] else {
            return;
        };
        let pieces = [IoSlice::new(&self.piece); PIECES];
        match flow.write_vectored(&pieces) {
            Ok(n) => self.sent += n as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                self.flows[index] = None;
                self.failed += 1;
            }
        }
    }

    fn discard(&mut self, index: usize) {
        let Some(session) = &self.sessions[index] else {
            return;
        };
        match sys::discard(session, &mut self.scratch) {
            Ok(n) if n > 0 => self.received += n as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The flow's own failure, or the missing bytes, are what counts.
            _ => self.sessions[index] = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(target: SocketAddr) -> BulkOptions {
        BulkOptions {
            target,
            flows: 2,
            warmup: Duration::ZERO,
            duration: Duration::from_millis(20),
        }
    }

    #[test]
    fn everything_sent_is_counted() {
        let sink = Sink::open(&["127.0.0.1:0"]).unwrap();
        let address = sink.addresses().unwrap()[0];
        assert!(sink.answers(address).unwrap());
        let report = run(&options(address), &sink, None).unwrap();
        assert!(report.bytes > 0 && report.errors == 0, "{report:?}");
    }

    #[test]
    fn a_flow_that_is_cut_is_an_error() {
        let sink = Sink::open(&["127.0.0.1:0"]).unwrap();
        let cutter = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = cutter.local_addr().unwrap();
        let closer = std::thread::spawn(move || (cutter.accept().unwrap(), cutter.accept()));
        let waiting = BulkOptions {
            duration: Duration::from_millis(100),
            ..options(address)
        };
        let report = std::thread::scope(|scope| {
            scope.spawn(|| drop(closer.join()));
            run(&waiting, &sink, None).unwrap()
        });
        assert_eq!((report.bytes, report.errors), (0, 3), "{report:?}");
    }
}
