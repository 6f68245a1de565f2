//! An HTTP/2 client in frames (RFC 9113): sends whatever it is told, also what is wrong, and holds
//! the server to the rules in all that it sends.

use std::collections::BTreeMap;
use std::time::Duration;

use super::hpack::{self, Decoder};
use super::wire::Wire;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags.
pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
    /// A request in one frame.
    pub const WHOLE: u8 = END_STREAM | END_HEADERS;
}

/// Error codes.
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Settings.
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

use kind::*;

/// What a case finds, or what it found instead.
pub type Check = Result<(), String>;

/// Names and values.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// How long a server may take.
const LIMIT: Duration = Duration::from_secs(4);

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The payload of SETTINGS.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let one = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    values.iter().flat_map(one).collect()
}

/// What came on a stream.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Fields of the final head, with `:status`.
    pub fields: Vec<(String, String)>,
    /// The codes of interim answers.
    pub interim: Vec<u16>,
    /// DATA so far.
    pub body: Vec<u8>,
    /// Fields after it.
    pub trailers: Option<Vec<(String, String)>>,
    /// END_STREAM has come.
    pub ended: bool,
    /// RST_STREAM has come, with this code.
    pub reset: Option<u32>,
    /// What the server granted us beyond its initial window.
    pub granted: u32,
    /// What the server may still send.
    window: i64,
}

impl Answer {
    /// The status; 0 before a head has come.
    pub fn status(&self) -> u16 {
        let status = self.field(":status").unwrap_or("0");
        status.parse().unwrap()
    }

    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|field| field.0 == name);
        found.map(|field| field.1.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection.
pub struct H2 {
    /// The bytes below.
    pub wire: Wire,
    /// The server's settings.
    pub theirs: BTreeMap<u16, u32>,
    /// What each stream brought.
    pub streams: BTreeMap<u32, Answer>,
    /// The server's GOAWAY: last stream and code.
    pub goaway: Option<(u32, u32)>,
    /// Acknowledgements of our SETTINGS.
    pub acks: usize,
    /// What the server granted us for the connection, beyond the first 65,535 octets.
    pub granted: u32,
    /// Payloads of PING acknowledgements.
    pub pongs: Vec<Vec<u8>>,
    decoder: Decoder,
    unacked: Vec<Vec<(u16, u32)>>,
    window: i64,
    first_window: i64,
    open_block: Option<(Frame, Vec<u8>)>,
    pings: u64,
}

impl H2 {
    /// Over this connection; nothing is said yet.
    pub fn over(wire: Wire) -> H2 {
        H2 {
            wire,
            theirs: BTreeMap::new(),
            streams: BTreeMap::new(),
            goaway: None,
            acks: 0,
            granted: 0,
            pongs: Vec::new(),
            decoder: Decoder::default(),
            unacked: Vec::new(),
            window: 65_535,
            first_window: 65_535,
            open_block: None,
            pings: 0,
        }
    }

    /// The preface, our settings, and the server's.
    pub fn start(&mut self, ours: &[(u16, u32)]) -> Check {
        self.wire.send(PREFACE);
        self.settings(ours);
        self.wait("SETTINGS", |c| {
            (c.acks > 0 && !c.theirs.is_empty()).then_some(())
        })
    }

    /// Send a frame.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.wire.send(&frame(kind, flags, stream, payload));
    }

    /// Send SETTINGS.
    pub fn settings(&mut self, values: &[(u16, u32)]) {
        self.unacked.push(values.to_vec());
        self.frame(SETTINGS, 0, 0, &settings(values));
    }

    /// Send HEADERS with these fields.
    pub fn headers(&mut self, stream: u32, flags: u8, fields: &Fields) {
        self.block(stream, flags, &hpack::block(fields));
    }

    /// Send HEADERS with this header block.
    pub fn block(&mut self, stream: u32, flags: u8, block: &[u8]) {
        self.expect(stream);
        self.frame(HEADERS, flags, stream, block);
    }

    /// A GET.
    pub fn get(&mut self, stream: u32, path: &str) {
        let fields = self.request("GET", path, &[]);
        self.headers(stream, flag::WHOLE, &fields);
    }

    /// The head of a POST whose body follows.
    pub fn post(&mut self, stream: u32, path: &str) {
        let fields = self.request("POST", path, &[]);
        self.headers(stream, flag::END_HEADERS, &fields);
    }

    /// Send DATA.
    pub fn data(&mut self, stream: u32, flags: u8, body: &[u8]) {
        self.frame(DATA, flags, stream, body);
    }

    /// Send WINDOW_UPDATE, and let the server use it.
    pub fn grant(&mut self, stream: u32, octets: u32) {
        match stream {
            0 => self.window += i64::from(octets),
            _ => self.expect(stream).window += i64::from(octets),
        }
        self.frame(WINDOW_UPDATE, 0, stream, &octets.to_be_bytes());
    }

    /// The fields of a request.
    pub fn request(&self, method: &str, path: &str, more: &[(&str, &str)]) -> Fields {
        let scheme = match self.wire.is_tls() {
            true => "https",
            false => "http",
        };
        let pseudo = [
            (":method", method),
            (":scheme", scheme),
            (":path", path),
            (":authority", "localhost"),
        ];
        let all = pseudo.iter().chain(more);
        all.map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec()))
            .collect()
    }

    /// A stream that we have begun.
    pub fn expect(&mut self, stream: u32) -> &mut Answer {
        let window = self.first_window;
        self.streams.entry(stream).or_insert(Answer {
            window,
            ..Answer::default()
        })
    }

    /// Wait until `condition` gives something.
    pub fn wait<T>(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut H2) -> Option<T>,
    ) -> Result<T, String> {
        loop {
            if let Some(found) = condition(self) {
                return Ok(found);
            }
            if let Some((_, code)) = self.goaway.filter(|(_, code)| *code != 0) {
                return Err(format!("no {what}, but GOAWAY with code {code}"));
            }
            if self.step()?.is_none() {
                return Err(format!("no {what}, but the connection's end"));
            }
        }
    }

    /// Wait for the end of an answer.
    pub fn answer(&mut self, stream: u32) -> Result<Answer, String> {
        let answer = self.wait(&format!("answer on stream {stream}"), |c| {
            let answer = c.streams.get(&stream)?;
            (answer.ended || answer.reset.is_some()).then(|| answer.clone())
        })?;
        match answer.ended {
            true => Ok(answer),
            false => Err(format!("no answer but RST_STREAM, {:?}", answer.reset)),
        }
    }

    /// Expect this status on a stream.
    pub fn status(&mut self, stream: u32, status: u16) -> Check {
        let found = self.answer(stream)?.status();
        equal("status", found, status)
    }

    /// Expect that the server read everything that was sent, and that the connection lives.
    pub fn alive(&mut self) -> Check {
        self.pings += 1;
        let payload = self.pings.to_be_bytes().to_vec();
        self.frame(PING, 0, 0, &payload);
        self.wait("PING acknowledgement", |c| {
            c.pongs.contains(&payload).then_some(())
        })
    }

    /// Wait until `wanted` octets of DATA may be sent on a stream of which `sent` were; says how
    /// many may.
    pub fn room(&mut self, stream: u32, sent: u32, wanted: u32) -> Result<u32, String> {
        let own = self.theirs.get(&setting::INITIAL_WINDOW_SIZE);
        let own = own.copied().unwrap_or(65_535);
        self.wait("WINDOW_UPDATE", |c| {
            let answer = &c.streams[&stream];
            let room = (own + answer.granted).min(65_535 + c.granted) - sent;
            match answer.reset {
                Some(code) => Some(Err(format!("RST_STREAM with {code}"))),
                None => (room >= wanted).then_some(Ok(room)),
            }
        })?
    }

    /// Wait for so many acknowledgements of our SETTINGS since the beginning.
    pub fn acked(&mut self, count: usize) -> Check {
        self.wait("acknowledgement", |c| (c.acks == count).then_some(()))
    }

    /// Whether the server found something to object to.
    pub fn was_refused(&self) -> bool {
        let ours = [code::NO_ERROR, 2, code::CANCEL];
        let goaway = self.goaway.map(|(_, code)| code);
        let resets = self.streams.values().filter_map(|answer| answer.reset);
        resets.chain(goaway).any(|code| !ours.contains(&code))
    }

    /// Wait for GOAWAY.
    pub fn wait_goaway(&mut self) -> Check {
        self.wait_quietly(|c| c.goaway)?
            .map(drop)
            .ok_or("no GOAWAY".into())
    }

    /// SETTINGS without values were sent by hand.
    pub fn expect_ack(&mut self) {
        self.unacked.push(Vec::new());
    }

    /// The largest payload that the server takes.
    pub fn frame_size(&self) -> usize {
        let size = self.theirs.get(&setting::MAX_FRAME_SIZE);
        size.map_or(16_384, |size| *size as usize)
    }

    /// Expect that a further request is served on the connection.
    pub fn serves(&mut self) -> Check {
        let next = self.streams.keys().last().map_or(1, |last| last + 2) | 1;
        self.get(next, "/");
        self.status(next, 200)
    }

    /// Expect GOAWAY with one of these codes and the end of the connection.
    pub fn connection_error(&mut self, codes: &[u32]) -> Check {
        loop {
            if let Some((_, code)) = self.goaway {
                if !codes.contains(&code) {
                    return Err(format!("GOAWAY with code {code}, not {codes:?}"));
                }
                self.wire.finish();
                return self.end();
            }
            let at = self
                .streams
                .iter()
                .find(|(_, s)| s.reset.is_some() || s.ended);
            let at = at.map(|(id, s)| (*id, s.reset, s.status()));
            match self.step() {
                Ok(Some(_)) => {}
                Ok(None) => return Err("the end without GOAWAY".into()),
                Err(e) => return Err(format!("{e} instead of GOAWAY; a stream ended: {at:?}")),
            }
        }
    }

    /// Expect the end of the connection.
    pub fn end(&mut self) -> Check {
        while self.step()?.is_some() {}
        Ok(())
    }

    /// Expect RST_STREAM with one of these codes, and the connection to live; or a connection error
    /// with one of them, as 5.4.2 allows.
    pub fn stream_error(&mut self, stream: u32, codes: &[u32]) -> Check {
        loop {
            if self.goaway.is_some() {
                return self.connection_error(codes);
            }
            let answer = self.expect(stream).clone();
            if let Some(code) = answer.reset {
                return match codes.contains(&code) {
                    true => self.alive(),
                    false => Err(format!("RST_STREAM with code {code}, not {codes:?}")),
                };
            }
            match self.step() {
                Ok(Some(_)) => {}
                Ok(None) => return Err("the connection's end".into()),
                Err(e) if answer.ended => return Err(format!("{e} but {}", answer.status())),
                Err(e) => return Err(e),
            }
        }
    }

    /// Expect what 8.1.1 lets a server do with a malformed request: a stream error, also after an
    /// answer with 400, or a connection error.
    pub fn malformed(&mut self, stream: u32) -> Check {
        let refused = self.wait_quietly(|c| {
            let answer = c.streams.get(&stream)?;
            (answer.ended || answer.reset.is_some()).then(|| answer.status())
        })?;
        match refused {
            Some(400 | 405 | 431) => match self.alive() {
                Err(_) if self.goaway.is_some() => self.connection_error(&[code::PROTOCOL_ERROR]),
                lives => lives,
            },
            Some(0) | None => self.stream_error(stream, &[code::PROTOCOL_ERROR]),
            Some(status) => Err(format!("answered with {status}")),
        }
    }

    /// As [`H2::wait`], but the end of the connection is none of its concern.
    fn wait_quietly<T>(
        &mut self,
        mut condition: impl FnMut(&mut H2) -> Option<T>,
    ) -> Result<Option<T>, String> {
        loop {
            let found = condition(self);
            if found.is_some() || self.goaway.is_some() || self.step()?.is_none() {
                return Ok(found);
            }
        }
    }

    /// Take one frame and note what it says; `None` at the end of the connection.
    pub fn step(&mut self) -> Result<Option<Frame>, String> {
        let Some(frame) = self.next()? else {
            return Ok(None);
        };
        self.note(&frame).map_err(|e| format!("server: {e}"))?;
        Ok(Some(frame))
    }

    fn next(&mut self) -> Result<Option<Frame>, String> {
        if !self.wire.read_until(9, LIMIT) {
            return match (self.wire.ended, self.wire.inp.len()) {
                (true, 0) => Ok(None),
                (true, _) => Err("the connection ended within a frame".into()),
                (false, _) => Err("nothing came".into()),
            };
        }
        let head: [u8; 9] = self.wire.inp[..9].try_into().unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if length > 16_384 {
            return Err(format!("a frame of {length} octets: {head:?}"));
        }
        if !self.wire.read_until(9 + length, LIMIT) {
            return Err("a cut frame".into());
        }
        let payload = self.wire.inp.drain(..9 + length).skip(9).collect();
        Ok(Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            payload,
        }))
    }

    fn note(&mut self, frame: &Frame) -> Check {
        if self.theirs.is_empty() && frame.kind != SETTINGS {
            return Err(format!("the first frame is no SETTINGS: {frame:?}"));
        }
        if self.open_block.is_some() && frame.kind != CONTINUATION {
            return Err(format!("within a header block: {frame:?}"));
        }
        match frame.kind {
            DATA => self.note_data(frame),
            HEADERS | CONTINUATION => self.note_headers(frame),
            RST_STREAM => {
                let code = frame.number(0);
                let answer = self.begun(frame.stream)?;
                answer.reset = Some(code);
                Ok(())
            }
            SETTINGS => self.note_settings(frame),
            PING if frame.has(flag::ACK) => {
                self.pongs.push(frame.payload.clone());
                Ok(())
            }
            PING => {
                self.wire
                    .send(&super::frames::frame(PING, flag::ACK, 0, &frame.payload));
                Ok(())
            }
            GOAWAY => {
                self.goaway = Some((frame.number(0), frame.number(4)));
                Ok(())
            }
            WINDOW_UPDATE if frame.number(0) == 0 => Err("WINDOW_UPDATE by 0".into()),
            WINDOW_UPDATE if frame.stream == 0 => {
                self.granted += frame.number(0);
                Ok(())
            }
            WINDOW_UPDATE => {
                self.begun(frame.stream)?.granted += frame.number(0);
                Ok(())
            }
            _ => Err(format!("unexpected {frame:?}")),
        }
    }

    fn begun(&mut self, stream: u32) -> Result<&mut Answer, String> {
        let answer = self.streams.get_mut(&stream);
        answer.ok_or(format!("a frame on stream {stream}, which is idle"))
    }

    fn note_data(&mut self, frame: &Frame) -> Check {
        let length = frame.payload.len() as i64;
        self.window -= length;
        let left = self.window;
        let answer = self.begun(frame.stream)?;
        answer.window -= length;
        if length > 0 && (left < 0 || answer.window < 0) {
            return Err(format!("more DATA than granted: {left}, {}", answer.window));
        }
        if answer.status() == 0 || answer.ended || answer.reset.is_some() {
            return Err(format!("DATA out of place on stream {}", frame.stream));
        }
        answer.body.extend_from_slice(&frame.payload);
        answer.ended |= frame.has(flag::END_STREAM);
        Ok(())
    }

    fn note_headers(&mut self, frame: &Frame) -> Check {
        let (first, block) = match self.open_block.take() {
            Some((first, mut block)) if frame.stream == first.stream => {
                block.extend_from_slice(&frame.payload);
                (first, block)
            }
            None if frame.kind == HEADERS => (frame.clone(), frame.payload.clone()),
            _ => return Err(format!("CONTINUATION out of place: {frame:?}")),
        };
        if !frame.has(flag::END_HEADERS) {
            self.open_block = Some((first, block));
            return Ok(());
        }
        let fields = self.decoder.decode(&block)?;
        let answer = self.begun(first.stream)?;
        let ended = first.has(flag::END_STREAM);
        if answer.ended || answer.reset.is_some() {
            return Err("HEADERS after the end".into());
        }
        for (at, (name, value)) in fields.iter().enumerate() {
            let status = answer.fields.is_empty() && at == 0 && name == ":status";
            let clean = name
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
            let banned = ["connection", "transfer-encoding", "keep-alive", "upgrade"];
            if name.starts_with(':') != status || !clean || banned.contains(&name.as_str()) {
                return Err(format!("a field {name:?}: {value:?}"));
            }
        }
        if !answer.fields.is_empty() {
            answer.trailers = Some(fields);
            if !ended {
                return Err("trailers without END_STREAM".into());
            }
        } else {
            let status = fields.first().map_or("", |field| &field.1);
            match status.parse::<u16>().map_err(|e| e.to_string())? {
                status @ 100..200 => answer.interim.push(status),
                _ => answer.fields = fields,
            }
        }
        answer.ended = ended;
        Ok(())
    }

    fn note_settings(&mut self, frame: &Frame) -> Check {
        if !frame.has(flag::ACK) {
            for one in frame.payload.chunks_exact(6) {
                let id = u16::from_be_bytes([one[0], one[1]]);
                let value = u32::from_be_bytes(one[2..].try_into().unwrap());
                self.theirs.insert(id, value);
            }
            // An empty frame has been seen, too.
            self.theirs.entry(0).or_default();
            self.frame(SETTINGS, flag::ACK, 0, b"");
            return Ok(());
        }
        self.acks += 1;
        if self.unacked.is_empty() {
            return Err("an acknowledgement too many".into());
        }
        for (id, value) in self.unacked.remove(0) {
            if id == setting::INITIAL_WINDOW_SIZE {
                let change = i64::from(value) - self.first_window;
                self.first_window += change;
                self.streams
                    .values_mut()
                    .for_each(|answer| answer.window += change);
            }
            if id == setting::HEADER_TABLE_SIZE {
                self.decoder.limit = value as usize;
            }
        }
        Ok(())
    }
}

/// An assertion that is a result.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Check {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{what} is {found:?}, not {wanted:?}")),
    }
}
