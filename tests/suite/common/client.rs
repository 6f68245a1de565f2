//! A client that writes bytes and reads answers strictly.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::PATIENCE;

/// A connection to the proxy, with what was read and not yet consumed.
pub struct Conn {
    stream: Stream,
    buffer: Vec<u8>,
}

enum Stream {
    Tcp(Arc<TcpStream>),
    Unix(UnixStream),
}

/// How the body of an answer was delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body may follow this head.
    None,
    /// Content-Length.
    Length,
    /// Transfer-Encoding: chunked.
    Chunked,
    /// Until the connection closed.
    Close,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The head as received, with the empty line.
    pub head: String,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// Names as received, values trimmed.
    pub headers: Vec<(String, String)>,
    /// Body with the framing removed.
    pub body: Vec<u8>,
    /// Trailer fields of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// How the body was delimited.
    pub framing: Framing,
    /// Whether the body ended where its framing says.
    pub complete: bool,
}

impl Response {
    /// The one value of `name`; panics if the field is repeated.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is repeated in {:?}", self.head);
        all.first().copied()
    }

    /// The values of `name` in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(same)
            .map(|field| field.1.as_str())
            .collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Conn {
    /// Connect to 127.0.0.1.
    #[track_caller]
    pub fn to(port: u16) -> Conn {
        Self::to_addr(&format!("127.0.0.1:{port}"))
    }

    /// Connect to `address:port`.
    #[track_caller]
    pub fn to_addr(addr: &str) -> Conn {
        let stream = TcpStream::connect(addr).unwrap_or_else(|e| panic!("connect {addr}: {e}"));
        Self::over(stream)
    }

    /// Use a connected stream.
    pub fn over(stream: impl Into<Arc<TcpStream>>) -> Conn {
        let stream = stream.into();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Conn {
            stream: Stream::Tcp(stream),
            buffer: Vec::new(),
        }
    }

    /// Connect to a unix socket.
    #[track_caller]
    pub fn unix(path: impl AsRef<Path>) -> Conn {
        let stream = UnixStream::connect(path.as_ref()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Conn {
            stream: Stream::Unix(stream),
            buffer: Vec::new(),
        }
    }

    /// The TCP stream below.
    pub fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) => panic!("not a TCP connection"),
        }
    }

    /// The TCP stream alone, when nothing has been read ahead.
    pub fn into_tcp(self) -> TcpStream {
        assert!(self.buffer.is_empty());
        self.tcp().try_clone().unwrap()
    }

    /// Our own port.
    pub fn local_port(&self) -> u16 {
        self.tcp().local_addr().unwrap().port()
    }

    /// Send all of `bytes`; returns self so that an answer can be read in the same expression.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Conn {
        self.try_send(bytes.as_ref()).expect("send");
        self
    }

    /// Send, or say why not.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.as_ref().write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Close our sending direction.
    pub fn finish(&mut self) -> &mut Conn {
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        self
    }

    /// Read the answer to a request that was not HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response("GET")
            .unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    /// Read the answer to a HEAD request.
    #[track_caller]
    pub fn head_response(&mut self) -> Response {
        self.try_response("HEAD")
            .unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    /// Read one answer, or say what stood in its place. A body cut short is not an error here: see
    /// [`Response::complete`].
    pub fn try_response(&mut self, method: &str) -> Result<Response, String> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill()? == 0 {
                let got = String::from_utf8_lossy(&self.buffer).into_owned();
                return Err(format!("closed after {got:?}"));
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let mut response = parse_head(&head)?;
        response.framing = framing_of(&response, method)?;
        self.read_body(&mut response)?;
        Ok(response)
    }

    /// Everything up to the end of the connection; a reset counts as an end.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => return std::mem::take(&mut self.buffer),
                Ok(_) => {}
                Err(e) if e.contains("reset") => return std::mem::take(&mut self.buffer),
                Err(e) => panic!("{e}; so far {:?}", String::from_utf8_lossy(&self.buffer)),
            }
        }
    }

    /// Exactly `n` bytes.
    #[track_caller]
    pub fn take(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert!(
                self.fill().unwrap() > 0,
                "closed after {} of {n} bytes",
                self.buffer.len()
            );
        }
        self.buffer.drain(..n).collect()
    }

    /// Exactly `n` bytes, or `None` if the connection ends before.
    pub fn try_take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            self.more()?;
        }
        Some(self.buffer.drain(..n).collect())
    }

    /// What has been read and not yet taken.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Wait for more bytes; `None` at the end of the connection.
    pub fn more(&mut self) -> Option<()> {
        self.fill().is_ok_and(|n| n > 0).then_some(())
    }

    /// Wait until `mark` is among what was read and not yet taken.
    #[track_caller]
    pub fn wait_until_read(&mut self, mark: &str) {
        while find(&self.buffer, mark.as_bytes()).is_none() {
            let got = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.fill().unwrap() > 0, "closed after {got:?}");
        }
    }

    /// Bytes up to and with `mark`.
    #[track_caller]
    pub fn take_until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = find(&self.buffer, mark.as_bytes()) {
                return String::from_utf8_lossy(&self.take(at + mark.len())).into_owned();
            }
            let got = self.fill().unwrap();
            assert!(
                got > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Assert that the peer closes without sending another byte.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let rest = self.rest();
        assert!(
            rest.is_empty(),
            "more came: {:?}",
            String::from_utf8_lossy(&rest)
        );
    }

    /// Change how long reads wait.
    pub fn set_read_timeout(&mut self, limit: Duration) {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit)).unwrap(),
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit)).unwrap(),
        }
    }

    /// Close with a reset instead of a FIN.
    pub fn reset(self) {
        socket2::SockRef::from(self.tcp())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    fn read_body(&mut self, response: &mut Response) -> Result<(), String> {
        match response.framing {
            Framing::None => {}
            Framing::Length => {
                let length = response
                    .header("content-length")
                    .unwrap()
                    .parse::<usize>()
                    .unwrap();
                while self.buffer.len() < length {
                    if self.fill_or_reset()? == 0 {
                        response.complete = false;
                        response.body = std::mem::take(&mut self.buffer);
                        return Ok(());
                    }
                }
                response.body = self.buffer.drain(..length).collect();
            }
            Framing::Chunked => response.complete = self.read_chunks(response)?,
            Framing::Close => {
                while self.fill_or_reset()? > 0 {}
                response.body = std::mem::take(&mut self.buffer);
            }
        }
        Ok(())
    }

    /// Reads chunks; false if the connection ended before the last one.
    fn read_chunks(&mut self, response: &mut Response) -> Result<bool, String> {
        loop {
            let Some(line) = self.line()? else {
                return Ok(false);
            };
            let valid = !line.is_empty() && line.len() <= 16;
            if !valid || !line.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("bad chunk size {line:?}"));
            }
            let size = usize::from_str_radix(&line, 16).unwrap();
            if size == 0 {
                break;
            }
            while self.buffer.len() < size + 2 {
                if self.fill_or_reset()? == 0 {
                    let n = self.buffer.len().min(size);
                    response.body.extend(self.buffer.drain(..n));
                    return Ok(false);
                }
            }
            response.body.extend(self.buffer.drain(..size));
            if self.buffer.drain(..2).collect::<Vec<_>>() != b"\r\n" {
                return Err("chunk data not followed by CRLF".into());
            }
        }
        loop {
            match self.line()? {
                None => return Ok(false),
                Some(line) if line.is_empty() => return Ok(true),
                Some(line) => response.trailers.push(field(&line)?),
            }
        }
    }

    fn line(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(Some(line));
            }
            if self.fill_or_reset()? == 0 {
                return Ok(None);
            }
        }
    }

    fn fill_or_reset(&mut self) -> Result<usize, String> {
        match self.fill() {
            Err(e) if e.contains("reset") => Ok(0),
            other => other,
        }
    }

    fn fill(&mut self) -> Result<usize, String> {
        let mut chunk = [0u8; 65_536];
        let got = match &mut self.stream {
            Stream::Tcp(stream) => stream.as_ref().read(&mut chunk),
            Stream::Unix(stream) => stream.read(&mut chunk),
        };
        match got {
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(n)
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Err("nothing came".into()),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Err("reset".into()),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Where `needle` begins in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn parse_head(head: &str) -> Result<Response, String> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut parts = status_line.splitn(3, ' ');
    let version = parts.next().unwrap_or_default().to_owned();
    let status = parts.next().unwrap_or_default();
    if !version.starts_with("HTTP/1.") || status.len() != 3 {
        return Err(format!("bad status line {status_line:?}"));
    }
    let status = status
        .parse()
        .map_err(|_| format!("bad status line {status_line:?}"))?;
    let reason = parts.next().unwrap_or_default().to_owned();
    let headers = lines.map(field).collect::<Result<Vec<_>, _>>()?;
    Ok(Response {
        head: head.to_owned(),
        version,
        status,
        reason,
        headers,
        body: Vec::new(),
        trailers: Vec::new(),
        framing: Framing::None,
        complete: true,
    })
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or(format!("bad field {line:?}"))?;
    if name.is_empty() || name.contains([' ', '\t', '\r', '\n']) || value.contains(['\r', '\n']) {
        return Err(format!("bad field {line:?}"));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn framing_of(response: &Response, method: &str) -> Result<Framing, String> {
    let encoding = response.all("transfer-encoding");
    let length = response.all("content-length");
    if encoding.len() > 1 || length.len() > 1 || (!encoding.is_empty() && !length.is_empty()) {
        return Err(format!("doubtful framing {:?}", response.head));
    }
    if method == "HEAD" || response.status < 200 || matches!(response.status, 204 | 304) {
        return Ok(Framing::None);
    }
    if encoding.first().is_some_and(|value| *value != "chunked") {
        return Err(format!("odd transfer-encoding {:?}", response.head));
    }
    match (encoding.first(), length.first()) {
        (Some(_), _) if response.version == "HTTP/1.0" => Err("chunked in HTTP/1.0".into()),
        (Some(_), _) => Ok(Framing::Chunked),
        (None, Some(n)) if n.parse::<usize>().is_ok() => Ok(Framing::Length),
        (None, Some(n)) => Err(format!("odd content-length {n:?}")),
        (None, None) => Ok(Framing::Close),
    }
}
