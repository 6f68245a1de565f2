//! What an idle connection costs a proxy in user memory.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::args::Args;
use crate::http::{ReplyReader, Target};
use crate::load;
use crate::process::ProcessTree;
use crate::{Outcome, sys, tls};

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
    /// How TLS is spoken, if it is.
    pub tls: Option<tls::Settings>,
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
    let target = Target::parse(args.one("URL")?)?;
    let tls = match target.tls {
        true => Some(tls::Settings::new(load::protocol(None), false)?),
        false => None,
    };
    let options = IdleOptions {
        target,
        tls,
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
    ask(&mut open_group(options, GROUP)?, &request)?;
    sys::pause(CALM)?;
    let before = proxy.pss_bytes()?;
    let mut idle = Vec::with_capacity(options.connections);
    while idle.len() < options.connections {
        sys::interrupted()?;
        let size = GROUP.min(options.connections - idle.len());
        let mut group = open_group(options, size)?;
        if !options.untouched {
            ask(&mut group, &request)?;
        }
        idle.extend(group);
    }
    sys::pause(options.settle)?;
    let after = proxy.pss_bytes()?;
    let lost = match options.untouched {
        true => count_silent(&mut idle, &request),
        false => idle.iter().filter(|client| !client.is_open()).count(),
    };
    Ok(IdleReport {
        connections: idle.len(),
        lost,
        before,
        after,
    })
}

fn open_group(options: &IdleOptions, size: usize) -> io::Result<Vec<Client>> {
    (0..size).map(|_| Client::connect(options)).collect()
}

/// One request on each, all before the first reply is read.
fn ask(group: &mut [Client], request: &[u8]) -> io::Result<()> {
    for client in group.iter_mut() {
        client.send(request)?;
    }
    group.iter_mut().try_for_each(Client::read_reply)
}

/// How many do not answer a request.
fn count_silent(clients: &mut [Client], request: &[u8]) -> usize {
    let is_silent = |client: &mut Client| ask(std::slice::from_mut(client), request).is_err();
    clients.iter_mut().map(is_silent).filter(|&is| is).count()
}

/// A connection that is waited for.
struct Client {
    stream: TcpStream,
    tls: Option<tls::Session>,
}

impl Client {
    fn connect(options: &IdleOptions) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&options.target.addr, REPLY_TIMEOUT)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        let mut hello = Vec::new();
        let tls = match &options.tls {
            Some(tls) => Some(tls::Session::new(tls, &mut hello).map_err(io::Error::other)?),
            None => None,
        };
        stream.write_all(&hello)?;
        Ok(Self { stream, tls })
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write_all(request);
        };
        let mut out = Vec::new();
        tls.write(request, &mut out).map_err(io::Error::other)?;
        self.stream.write_all(&out)
    }

    fn read_reply(&mut self) -> io::Result<()> {
        let mut reader = ReplyReader::new(None);
        let (mut buffer, mut out, mut kept) = ([0; 32 * 1024], Vec::new(), 0);
        loop {
            let n = self.stream.read(&mut buffer[kept..])?;
            if n == 0 {
                let message = "the proxy closed a connection without a reply";
                return Err(io::Error::other(message));
            }
            let mut complete = Ok(false);
            let received = &mut buffer[..kept + n];
            match &mut self.tls {
                None => complete = reader.feed(received),
                Some(tls) => {
                    let hear = |bytes: &[u8]| complete = reader.feed(bytes);
                    let used = tls.advance(received, &mut out, hear);
                    let used = used.map_err(io::Error::other)?;
                    received.copy_within(used.., 0);
                    kept = kept + n - used;
                }
            }
            self.stream.write_all(&out)?;
            out.clear();
            match complete {
                Ok(true) if reader.closes() => {
                    return Err(io::Error::other("the proxy does not keep connections open"));
                }
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(io::Error::other(format!("bad reply: {error:?}"))),
            }
        }
    }

    fn is_open(&self) -> bool {
        let blocked = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        let stream = &self.stream;
        stream.set_nonblocking(true).is_ok() && stream.peek(&mut [0]).is_err_and(blocked)
    }
}
