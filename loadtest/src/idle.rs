//! What an idle connection costs a proxy in user memory.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::args::Args;
use crate::http::{ReplyReader, Target};
use crate::process::ProcessTree;
use crate::{Outcome, sys};

/// Connections that are opened, and asked their one request, together.
const GROUP: usize = 64;
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the warm-up, in which the proxy can give back what it needed for it.
const CALM: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Clone, Debug)]
pub struct IdleOptions {
    /// Where each connection's one request goes.
    pub target: Target,
    /// Whether that request comes only after memory was read, to see that the connection lives.
    pub untouched: bool,
    /// How many connections stay open.
    pub connections: usize,
    /// How long they have been idle when memory is read.
    pub settle: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct IdleReport {
    /// How many connections were opened.
    pub connections: usize,
    /// Of these, how many the proxy had closed by the end.
    pub lost: usize,
    /// PSS of the proxy's processes before, in bytes.
    pub before: u64,
    /// PSS with all connections idle, in bytes.
    pub after: u64,
}

impl IdleReport {
    /// Growth of PSS in bytes per connection.
    pub fn bytes_each(&self) -> f64 {
        (self.after as f64 - self.before as f64) / self.connections as f64
    }
}

/// `idle URL --pid PID …`: measures once and prints the report.
///
/// # Errors
/// Bad options; failed requests; a proxy that ended.
pub fn main(args: &Args) -> Outcome<()> {
    let options = IdleOptions {
        target: Target::parse(args.one("URL")?)?,
        untouched: args.has("untouched"),
        connections: args.get("connections")?.unwrap_or(10_000),
        settle: args.seconds("settle", 5.0)?,
    };
    let pid = args.get("pid")?.ok_or("--pid of the proxy is missing")?;
    let report = run(&options, &ProcessTree::of(pid)?)?;
    println!(
        "{} idle connections ({} lost): PSS {:.1} KiB before, {:.1} KiB after: {:.0} bytes each",
        report.connections,
        report.lost,
        report.before as f64 / 1024.0,
        report.after as f64 / 1024.0,
        report.bytes_each()
    );
    Ok(())
}

/// Opens the connections, asks one request on each (unless they are to stay untouched), waits and
/// reads the growth of PSS. A first group of connections, closed again, keeps code and pools
/// touched for the first time out of it.
///
/// # Errors
/// Too few descriptors; failed requests; `/proc` that cannot be read; an interrupt.
pub fn run(options: &IdleOptions, proxy: &ProcessTree) -> io::Result<IdleReport> {
    let limit = sys::raise_descriptor_limit()?;
    if options.connections == 0 || options.connections as u64 + 64 > limit {
        let message = format!(
            "{} connections are not possible with ulimit -n {limit}",
            options.connections
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let request = options.target.request(false);
    let ask_group = |group: &mut [TcpStream]| ask(group, &request);
    ask_group(&mut open_group(&options.target, GROUP)?)?;
    sys::pause(CALM)?;
    let before = proxy.pss_bytes()?;
    let mut idle = Vec::with_capacity(options.connections);
    while idle.len() < options.connections {
        sys::interrupted()?;
        let size = GROUP.min(options.connections - idle.len());
        let mut group = open_group(&options.target, size)?;
        if !options.untouched {
            ask_group(&mut group)?;
        }
        idle.extend(group);
    }
    sys::pause(options.settle)?;
    let after = proxy.pss_bytes()?;
    let lost = match options.untouched {
        true => count_silent(&mut idle, &request),
        false => idle.iter().filter(|stream| !is_open(stream)).count(),
    };
    Ok(IdleReport {
        connections: idle.len(),
        lost,
        before,
        after,
    })
}

fn open_group(target: &Target, size: usize) -> io::Result<Vec<TcpStream>> {
    let mut group = Vec::with_capacity(size);
    for _ in 0..size {
        let stream = TcpStream::connect_timeout(&target.addr, REPLY_TIMEOUT)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        group.push(stream);
    }
    Ok(group)
}

/// One request on each, all before the first reply is read.
fn ask(group: &mut [TcpStream], request: &[u8]) -> io::Result<()> {
    for stream in group.iter_mut() {
        stream.write_all(request)?;
    }
    group.iter_mut().try_for_each(read_reply)
}

/// How many do not answer a request.
fn count_silent(streams: &mut [TcpStream], request: &[u8]) -> usize {
    let is_silent = |stream: &mut TcpStream| ask(std::slice::from_mut(stream), request).is_err();
    streams.iter_mut().map(is_silent).filter(|&is| is).count()
}

fn read_reply(stream: &mut TcpStream) -> io::Result<()> {
    let mut reader = ReplyReader::new(None);
    let mut buffer = [0; 16 * 1024];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(io::Error::other(
                "the proxy closed a connection without a reply",
            ));
        }
        match reader.feed(&buffer[..n]) {
            Ok(true) if reader.closes() => {
                return Err(io::Error::other("the proxy does not keep connections open"));
            }
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(io::Error::other(format!("bad reply: {error:?}"))),
        }
    }
}

fn is_open(stream: &TcpStream) -> bool {
    let blocked = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
    stream.set_nonblocking(true).is_ok() && stream.peek(&mut [0]).is_err_and(blocked)
}
