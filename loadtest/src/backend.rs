//! A dummy HTTP/1.1 server that no measurement should be limited by: one thread, epoll, replies
//! built beforehand. `GET /N` is answered with N bytes; what follows the digits is ignored. Who
//! begins with HTTP/2 gets answers of gRPC.

mod h2;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;

use crate::args::Args;
use crate::http::{decimal, field, head_end};
use crate::{Outcome, sys};

const BODY_BYTES_MAX: u64 = 64 << 20;
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Replies kept at hand; the table starts anew when more sizes than this are asked for.
const REPLIES_MAX: usize = 64;

/// `backend [--listen ADDR]... [--core N]`: serves until it is killed.
///
/// # Errors
/// Bad options; addresses that cannot be listened on.
pub fn main(args: &Args) -> Outcome<()> {
    args.none()?;
    if let Some(core) = args.get("core")? {
        sys::pin(core)?;
    }
    sys::raise_descriptor_limit()?;
    let mut addresses = args.all("listen");
    if addresses.is_empty() {
        addresses.push("127.0.0.1:9000");
    }
    let mut backend = Backend::new(&addresses)?;
    let mut stdout = io::stdout().lock();
    for address in backend.addresses()? {
        writeln!(stdout, "listening on {address}")?;
    }
    stdout.flush()?;
    backend.serve()?;
    Ok(())
}

/// Listeners, connections and replies of the one thread.
struct Backend {
    epoll: sys::Epoll,
    /// Token `i` is listener `i`; connection `j` has token `listeners.len() + j`.
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    replies: Replies,
    scratch: Vec<u8>,
}

impl Backend {
    fn new(addresses: &[&str]) -> Outcome<Self> {
        let epoll = sys::Epoll::new()?;
        let mut listeners = Vec::new();
        for address in addresses {
            let listener = TcpListener::bind(address)
                .map_err(|error| format!("cannot listen on {address}: {error}"))?;
            listener.set_nonblocking(true)?;
            sys::set_backlog(&listener, 4096)?;
            sys::set_no_delay(&listener)?;
            epoll.add(&listener, sys::READ, listeners.len())?;
            listeners.push(listener);
        }
        Ok(Self {
            epoll,
            listeners,
            connections: Vec::new(),
            vacant: Vec::new(),
            replies: Replies::default(),
            scratch: vec![0; 16 * 1024],
        })
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let events = self.epoll.wait(None)?;
            for index in 0..events {
                let (token, _) = self.epoll.event(index);
                match token.checked_sub(self.listeners.len()) {
                    None => self.accept(token)?,
                    Some(slot) => self.serve_connection(slot),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        // A bound per turn, so that a flood of connections does not starve the open ones.
        for _ in 0..64 {
            let stream = match self.listeners[listener].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            let slot = self.vacant.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.epoll
                .add(&stream, sys::READ, self.listeners.len() + slot)?;
            self.connections[slot] = Some(Connection::new(stream));
        }
        Ok(())
    }

    /// Serves what is there; a connection that ended or failed is simply closed.
    fn serve_connection(&mut self, slot: usize) {
        let Some(connection) = &mut self.connections[slot] else {
            return;
        };
        let was_writing = connection.is_writing();
        let open = connection.advance(&mut self.replies, &mut self.scratch);
        let is_writing = connection.is_writing();
        if !matches!(open, Ok(true)) {
            self.connections[slot] = None;
            self.vacant.push(slot);
        } else if was_writing != is_writing {
            let interest = if is_writing { sys::WRITE } else { sys::READ };
            let token = self.listeners.len() + slot;
            if self
                .epoll
                .modify(&connection.stream, interest, token)
                .is_err()
            {
                self.connections[slot] = None;
                self.vacant.push(slot);
            }
        }
    }
}

/// One client connection.
struct Connection {
    stream: TcpStream,
    /// Bytes of requests that are not answered yet; empty between requests.
    input: Vec<u8>,
    /// A reply the socket had no room for, and how much of it has left.
    pending: Option<(Reply, usize)>,
    /// With HTTP/2.
    talk: Option<Box<h2::Talk>>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            pending: None,
            talk: None,
        }
    }

    /// Whether it waits for room in the socket.
    fn is_writing(&self) -> bool {
        self.pending.is_some() || self.talk.as_ref().is_some_and(|talk| !talk.out.is_empty())
    }

    /// Reads, answers and writes as far as the socket allows; false when it is to be closed.
    fn advance(&mut self, replies: &mut Replies, scratch: &mut [u8]) -> io::Result<bool> {
        if self.is_writing() && self.talk.is_some() {
            return self.send_talk();
        }
        if let Some((reply, sent)) = self.pending.take() {
            if !self.send(reply, sent)? {
                return Ok(false);
            }
            if self.pending.is_some() {
                return Ok(true);
            }
            let input = std::mem::take(&mut self.input);
            return self.answer(replies, &input);
        }
        let n = match sys::receive(&self.stream, scratch) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        if let Some(talk) = &mut self.talk {
            return Ok(talk.hear(&scratch[..n]).is_ok() && self.send_talk()?);
        }
        if self.input.is_empty() {
            return self.answer(replies, &scratch[..n]);
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(&scratch[..n]);
        self.answer(replies, &input)
    }

    /// Answers the requests in `input` and keeps what is left of it.
    fn answer(&mut self, replies: &mut Replies, mut input: &[u8]) -> io::Result<bool> {
        while let Some(end) = head_end(input) {
            if input.starts_with(b"PRI ") {
                let talk = self.talk.insert(Box::new(h2::Talk::new()));
                return Ok(talk.hear(input).is_ok() && self.send_talk()?);
            }
            let reply = replies.for_request(&input[..end]);
            input = &input[end..];
            if !self.send(reply, 0)? {
                return Ok(false);
            }
            if self.pending.is_some() {
                break;
            }
        }
        self.input.extend_from_slice(input);
        Ok(self.input.len() <= REQUEST_BYTES_MAX)
    }

    /// Sends what HTTP/2 has to say, as far as the socket takes it.
    fn send_talk(&mut self) -> io::Result<bool> {
        let Some(talk) = &mut self.talk else {
            return Ok(true);
        };
        let mut sent = 0;
        while sent < talk.out.len() {
            match sys::send(&self.stream, &talk.out[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        talk.out.drain(..sent);
        Ok(true)
    }

    /// Sends from offset `sent` on; false when the connection ends with this reply.
    fn send(&mut self, reply: Reply, mut sent: usize) -> io::Result<bool> {
        while sent < reply.bytes.len() {
            match sys::send(&self.stream, &reply.bytes[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pending = Some((reply, sent));
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(reply.persistence != Persistence::Close)
    }
}

/// What happens to the connection after a reply, and how the reply says so.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Persistence {
    /// HTTP/1.1: stays open without a word.
    Implied,
    /// HTTP/1.0 that asked for it: stays open, with `Connection: keep-alive`.
    Granted,
    /// Closed, with `Connection: close`.
    Close,
}

#[derive(Clone, Debug)]
struct Reply {
    bytes: Rc<[u8]>,
    persistence: Persistence,
}

/// The replies built so far.
#[derive(Debug, Default)]
struct Replies {
    built: Vec<(u16, u64, Reply)>,
}

impl Replies {
    fn for_request(&mut self, head: &[u8]) -> Reply {
        match parse_request(head) {
            Ok((length, persistence)) => self.get(200, length, persistence),
            Err(status) => self.get(status, 0, Persistence::Close),
        }
    }

    fn get(&mut self, status: u16, length: u64, persistence: Persistence) -> Reply {
        let found = self
            .built
            .iter()
            .find(|(s, l, reply)| (*s, *l, reply.persistence) == (status, length, persistence));
        if let Some((_, _, reply)) = found {
            return reply.clone();
        }
        if self.built.len() >= REPLIES_MAX {
            self.built.clear();
        }
        let reply = build_reply(status, length, persistence);
        self.built.push((status, length, reply.clone()));
        reply
    }
}

fn build_reply(status: u16, length: u64, persistence: Persistence) -> Reply {
    let reason = if status == 200 { "OK" } else { "Refused" };
    let connection = match persistence {
        Persistence::Implied => "",
        Persistence::Granted => "Connection: keep-alive\r\n",
        Persistence::Close => "Connection: close\r\n",
    };
    let mut bytes = format!(
        "HTTP/1.1 {status} {reason}\r\nServer: loadtest\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\n{connection}\r\n"
    )
    .into_bytes();
    bytes.extend((0..length).map(|i| b'a' + (i % 26) as u8));
    Reply {
        bytes: bytes.into(),
        persistence,
    }
}

/// The body length a request asks for, or the status that refuses it.
fn parse_request(head: &[u8]) -> Result<(u64, Persistence), u16> {
    let mut lines = head.split(|&b| b == b'\n');
    let line = lines.next().unwrap_or_default().trim_ascii_end();
    let target = line.strip_prefix(b"GET /").ok_or(405_u16)?;
    let (target, old) = match (
        target.strip_suffix(b" HTTP/1.1"),
        target.strip_suffix(b" HTTP/1.0"),
    ) {
        (Some(target), _) => (target, false),
        (_, Some(target)) => (target, true),
        _ => return Err(505),
    };
    let digits = target.iter().take_while(|b| b.is_ascii_digit()).count();
    let length = decimal(&target[..digits])
        .filter(|&n| n <= BODY_BYTES_MAX)
        .ok_or(404_u16)?;
    let mut persistence = if old {
        Persistence::Close
    } else {
        Persistence::Implied
    };
    // The first letter tells most lines apart without comparing names.
    for (name, value) in lines
        .filter(|l| matches!(l.first(), Some(b'c' | b'C')))
        .filter_map(field)
    {
        if name.eq_ignore_ascii_case(b"connection") {
            if value.eq_ignore_ascii_case(b"close") {
                persistence = Persistence::Close;
            } else if old && value.eq_ignore_ascii_case(b"keep-alive") {
                persistence = Persistence::Granted;
            }
        } else if name.eq_ignore_ascii_case(b"content-length") && value != b"0" {
            return Err(413);
        }
    }
    Ok((length, persistence))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn parse(text: &str) -> Result<(u64, Persistence), u16> {
        parse_request(text.as_bytes())
    }

    #[test]
    fn requests() {
        assert_eq!(
            parse("GET /100 HTTP/1.1\r\nHost: a\r\n\r\n"),
            Ok((100, Persistence::Implied))
        );
        assert_eq!(
            parse("GET /0?x=1 HTTP/1.0\r\n\r\n"),
            Ok((0, Persistence::Close))
        );
        assert_eq!(
            parse("GET /7 HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n"),
            Ok((7, Persistence::Granted))
        );
        assert_eq!(
            parse("GET /7 HTTP/1.1\r\nConnection: close\r\n\r\n"),
            Ok((7, Persistence::Close))
        );
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err(404));
        assert_eq!(parse("GET /99999999999 HTTP/1.1\r\n\r\n"), Err(404));
        assert_eq!(parse("POST /1 HTTP/1.1\r\n\r\n"), Err(405));
        assert_eq!(parse("GET /1\r\n\r\n"), Err(505));
        assert_eq!(
            parse("GET /1 HTTP/1.1\r\nContent-Length: 3\r\n\r\n"),
            Err(413)
        );
    }

    #[test]
    fn serves_pipelined_requests_and_closes_when_asked() {
        let (send_address, address) = std::sync::mpsc::channel();
        // Ends with the test process.
        std::thread::spawn(move || {
            let mut backend = Backend::new(&["127.0.0.1:0"]).unwrap();
            send_address.send(backend.addresses().unwrap()[0]).unwrap();
            backend.serve().unwrap();
        });
        let mut client = TcpStream::connect(address.recv().unwrap()).unwrap();
        let request = "GET /3000000 HTTP/1.1\r\n\r\nGET /5 HTTP/1.1\r\nConnection: close\r\n\r\n";
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let first = build_reply(200, 3_000_000, Persistence::Implied).bytes;
        let second = build_reply(200, 5, Persistence::Close).bytes;
        assert!(answer == [&first[..], &second[..]].concat());
    }
}
