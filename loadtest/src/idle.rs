//! What an idle connection costs a proxy in user memory.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::args::Args;
use crate::h2::{self, Frames, Malformed, ReceiveWindow, RequestBlocks, flag, kind};
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
    /// Whether HTTP/2 is spoken.
    pub h2: bool,
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
    let h2 = args.has("h2");
    let tls = match target.tls {
        true => Some(tls::Settings::new(load::protocol(h2), false)?),
        false => None,
    };
    let options = IdleOptions {
        target,
        tls,
        h2,
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
    let request = match options.h2 {
        true => h2_request(&options.target),
        false => options.target.request(false),
    };
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
        false => idle
            .iter_mut()
            .map(Client::is_open)
            .filter(|open| !open)
            .count(),
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

/// The first and only words of a client with HTTP/2.
fn h2_request(target: &Target) -> Vec<u8> {
    let scheme = if target.tls { "https" } else { "http" };
    let fields = [("user-agent", "ringway-loadtest"), ("accept", "*/*")];
    let block = RequestBlocks::new("GET", scheme, &target.host, &target.path, &fields).first;
    let mut request = h2::PREFACE.to_vec();
    h2::write_settings(&mut request, &[]);
    ReceiveWindow::open(&mut request);
    let flags = flag::END_HEADERS | flag::END_STREAM;
    h2::write(&mut request, kind::HEADERS, flags, 1, &block);
    request
}

/// A connection that is waited for.
struct Client {
    stream: TcpStream,
    tls: Option<tls::Session>,
    h2: bool,
}

/// What is read of a reply.
enum Reader {
    Http(ReplyReader),
    H2 { frames: Frames, ok: bool },
}

impl Reader {
    /// Takes bytes from the wire and leaves in `out` what they are answered with; true when they
    /// end the reply.
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<bool> {
        let bad = |what: String| io::Error::other(format!("bad reply: {what}"));
        match self {
            Self::Http(reader) => {
                let complete = reader.feed(bytes);
                let complete = complete.map_err(|error| bad(format!("{error:?}")))?;
                if complete && reader.closes() {
                    return Err(io::Error::other("the proxy does not keep connections open"));
                }
                Ok(complete)
            }
            Self::H2 { frames, ok } => {
                let mut complete = false;
                let fed = frames.feed::<Malformed>(bytes, |frame| {
                    h2::write_ack(out, frame);
                    *ok |= frame.kind == kind::HEADERS && frame.is_ok();
                    complete |= frame.ends_stream();
                    match frame.kind {
                        kind::RST_STREAM | kind::GOAWAY => Err(Malformed),
                        _ => Ok(()),
                    }
                });
                fed.map_err(|error| bad(format!("{error:?}")))?;
                match complete && !*ok {
                    true => Err(bad("its status".to_owned())),
                    false => Ok(complete),
                }
            }
        }
    }
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
        Ok(Self {
            stream,
            tls,
            h2: options.h2,
        })
    }

    fn send(&mut self, plain: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write_all(plain);
        };
        let mut out = Vec::new();
        tls.write(plain, &mut out).map_err(io::Error::other)?;
        self.stream.write_all(&out)
    }

    fn read_reply(&mut self) -> io::Result<()> {
        let mut reader = match self.h2 {
            true => Reader::H2 {
                frames: Frames::default(),
                ok: false,
            },
            false => Reader::Http(ReplyReader::new(None)),
        };
        let (mut buffer, mut answer) = ([0; 32 * 1024], Vec::new());
        let (mut kept, mut complete) = (0, Ok(false));
        while matches!(complete, Ok(false)) {
            let n = self.stream.read(&mut buffer[kept..])?;
            if n == 0 {
                let message = "the proxy closed a connection without a reply";
                return Err(io::Error::other(message));
            }
            let received = &mut buffer[..kept + n];
            match &mut self.tls {
                None => complete = reader.feed(received, &mut answer),
                Some(tls) => {
                    let mut out = Vec::new();
                    let hear = |bytes: &[u8]| complete = reader.feed(bytes, &mut answer);
                    let used = tls.advance(received, &mut out, hear);
                    let used = used.map_err(io::Error::other)?;
                    received.copy_within(used.., 0);
                    kept = kept + n - used;
                    self.stream.write_all(&out)?;
                }
            }
            self.send(&std::mem::take(&mut answer))?;
        }
        complete.map(drop)
    }

    /// Whether the proxy has not ended it; what it may still have said does not matter.
    fn is_open(&mut self) -> bool {
        let mut said = [0; 1024];
        if self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        loop {
            match self.stream.read(&mut said) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_over_http_2_is_whole_when_its_stream_ends() {
        let feed = |status: u8, end: u8| {
            let (mut wire, mut out) = (Vec::new(), Vec::new());
            h2::write_settings(&mut wire, &[]);
            h2::write(&mut wire, kind::HEADERS, flag::END_HEADERS, 1, &[status]);
            h2::write(&mut wire, kind::DATA, end, 1, b"content");
            let (frames, ok) = (Frames::default(), false);
            let fed = Reader::H2 { frames, ok }.feed(&wire, &mut out);
            (fed.ok(), out)
        };
        let mut acks = Vec::new();
        h2::write(&mut acks, kind::SETTINGS, flag::ACK, 0, &[]);
        assert_eq!(feed(0x88, flag::END_STREAM), (Some(true), acks.clone()));
        assert_eq!(feed(0x88, 0), (Some(false), acks));
        assert_eq!(feed(0x8d, flag::END_STREAM).0, None);
    }
}
