//! As much HTTP/2 as a generator and a dummy gRPC server need: frames, and heads whose bytes never
//! change.

/// What a client says first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Windows are opened to this at once, so that they need not be spoken of again for long.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What they are before that.
pub const WINDOW_INITIAL: u32 = 65_535;

const HEADER_BYTES: usize = 9;
/// Nobody was told that frames may be longer.
const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// A received window is opened again when this much of it is used up.
const WINDOW_STEP: u64 = 1 << 30;

/// Frame types (RFC 9113, 6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113, 6.5.2).
pub mod setting {
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// One frame as it was received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame<'a> {
    /// One of [`kind`].
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// Without padding and priority.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Whether the sender's side of the stream ends here.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }

    /// The increment of a WINDOW_UPDATE.
    pub fn increment(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.payload.try_into().ok()?))
    }

    /// Whether a HEADERS frame begins with `:status: 200`, which all servers write as its index in
    /// the static table.
    pub fn is_ok(&self) -> bool {
        // Changes of the dynamic table's size may come before.
        let mut block = self.payload.iter().skip_while(|&&byte| byte & 0xe0 == 0x20);
        block.next() == Some(&0x88)
    }
}

/// What is wrong with received bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Malformed;

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Frames {
    /// The beginning of a frame that came in pieces.
    partial: Vec<u8>,
}

impl Frames {
    /// Takes bytes from the wire and passes on the frames that end in them.
    ///
    /// # Errors
    /// What no peer may send; an error of `each`.
    pub fn feed<E: From<Malformed>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.partial.is_empty() {
            let used = cut(bytes, &mut each)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        self.partial.extend_from_slice(bytes);
        let mut partial = std::mem::take(&mut self.partial);
        let used = cut(&partial, &mut each)?;
        partial.drain(..used);
        self.partial = partial;
        Ok(())
    }
}

/// Says how many bytes were whole frames.
fn cut<E: From<Malformed>>(
    bytes: &[u8],
    each: &mut impl FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let mut used = 0;
    while let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = bytes[used..].first_chunk() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(Malformed.into());
        }
        let start = used + HEADER_BYTES;
        let Some(payload) = bytes.get(start..start + length) else {
            break;
        };
        each(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            payload: content(kind, flags, payload).ok_or(Malformed)?,
        })?;
        used = start + length;
    }
    Ok(used)
}

/// A payload without padding and priority.
fn content(kind: u8, flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if !matches!(kind, kind::DATA | kind::HEADERS) {
        return Some(payload);
    }
    let (padding, rest) = match flags & flag::PADDED {
        0 => (0, payload),
        _ => payload.split_first().map(|(&n, rest)| (n.into(), rest))?,
    };
    let skipped = match kind {
        kind::HEADERS if flags & flag::PRIORITY != 0 => 5,
        _ => 0,
    };
    rest.get(skipped..rest.len().checked_sub(padding)?)
}

/// Appends a frame.
pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a SETTINGS frame.
pub fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let each = |(id, value): &(u16, u32)| {
        let ([a, b], [c, d, e, f]) = (id.to_be_bytes(), value.to_be_bytes());
        [a, b, c, d, e, f]
    };
    let payload: Vec<u8> = settings.iter().flat_map(each).collect();
    write(out, kind::SETTINGS, 0, 0, &payload);
}

/// Appends a WINDOW_UPDATE of the connection.
pub fn write_window(out: &mut Vec<u8>, increment: u32) {
    write(out, kind::WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
}

/// Appends what a PING or SETTINGS is answered with.
pub fn write_ack(out: &mut Vec<u8>, frame: Frame<'_>) {
    match frame.kind {
        kind::SETTINGS if frame.flags & flag::ACK == 0 => {
            write(out, kind::SETTINGS, flag::ACK, 0, &[]);
        }
        kind::PING if frame.flags & flag::ACK == 0 => {
            write(out, kind::PING, flag::ACK, 0, frame.payload);
        }
        _ => {}
    }
}

/// The window of a connection for what it receives.
#[derive(Debug, Default)]
pub struct ReceiveWindow {
    used: u64,
}

impl ReceiveWindow {
    /// Appends what opens the windows of a new connection wide.
    pub fn open(out: &mut Vec<u8>) {
        write_window(out, WINDOW_MAX - WINDOW_INITIAL);
    }

    /// Counts bytes of DATA, and appends what opens the window again if it is time.
    pub fn note(&mut self, bytes: usize, out: &mut Vec<u8>) {
        self.used += bytes as u64;
        if self.used >= WINDOW_STEP {
            write_window(out, self.used as u32);
            self.used = 0;
        }
    }
}

/// Heads of requests that are all the same, as HPACK.
#[derive(Clone, Debug)]
pub struct RequestBlocks {
    /// Of the first request of a connection, which puts all fields into the dynamic table.
    pub first: Vec<u8>,
    /// Of all others: nothing but indices.
    pub next: Vec<u8>,
}

impl RequestBlocks {
    /// `fields` come after the pseudo-fields. `method` is GET or POST.
    pub fn new(
        method: &str,
        scheme: &str,
        authority: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Self {
        let own = [(":authority", authority), (":path", path)];
        let own: Vec<_> = own.iter().chain(fields).collect();
        let mut first = vec![
            if method == "GET" { 0x82 } else { 0x83 },
            if scheme == "http" { 0x86 } else { 0x87 },
        ];
        let mut next = first.clone();
        for (at, (name, value)) in own.iter().enumerate() {
            // A literal with incremental indexing (RFC 7541, 6.2.1); the newest has index 62.
            match *name {
                ":authority" => first.push(0x41),
                ":path" => first.push(0x44),
                name => {
                    first.push(0x40);
                    write_string(&mut first, name);
                }
            }
            write_string(&mut first, value);
            next.push(0x80 | (62 + own.len() - 1 - at) as u8);
        }
        Self { first, next }
    }
}

/// Appends a literal without indexing whose name is not in the static table.
pub fn write_literal(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(0);
    write_string(out, name);
    write_string(out, value);
}

/// A string without Huffman's code.
fn write_string(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 127, "long strings have longer prefixes");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_any_pieces() {
        let mut wire = Vec::new();
        write_settings(&mut wire, &[(setting::INITIAL_WINDOW_SIZE, 7), (99, 8)]);
        // Padded and with priority.
        let payload = [2, 0, 0, 0, 0, 16, 0x20, 0x88, 0, 0];
        let flags = flag::PADDED | flag::PRIORITY | flag::END_HEADERS | flag::END_STREAM;
        write(&mut wire, kind::HEADERS, flags, 5, &payload);
        write_window(&mut wire, 70_000);
        for size in 1..wire.len() {
            let (mut frames, mut seen) = (Frames::default(), 0);
            for piece in wire.chunks(size) {
                let look = |frame: Frame<'_>| {
                    match seen {
                        0 => assert_eq!(frame.payload, [0, 4, 0, 0, 0, 7, 0, 99, 0, 0, 0, 8]),
                        1 => assert!(frame.is_ok() && frame.ends_stream() && frame.stream == 5),
                        _ => assert_eq!(frame.increment(), Some(70_000)),
                    }
                    seen += 1;
                    Ok(())
                };
                frames.feed::<Malformed>(piece, look).unwrap();
            }
            assert_eq!((seen, frames.partial.len()), (3, 0));
        }
    }

    #[test]
    fn what_is_malformed() {
        let feed = |bytes: &[u8]| Frames::default().feed::<Malformed>(bytes, |_| Ok(()));
        assert_eq!(feed(&[1, 0, 0, 0, 0, 0, 0, 0, 1]), Err(Malformed));
        let mut wire = Vec::new();
        write(&mut wire, kind::DATA, flag::PADDED, 1, &[9, 1]);
        assert_eq!(feed(&wire), Err(Malformed));
    }

    #[test]
    fn later_requests_are_indices() {
        let fields = [("accept", "*/*"), ("te", "trailers")];
        let blocks = RequestBlocks::new("POST", "https", "a", "/b", &fields);
        assert_eq!(blocks.next, [0x83, 0x87, 0xc1, 0xc0, 0xbf, 0xbe]);
        let own = b"\x83\x87\x41\x01a\x44\x02/b\x40\x06accept\x03*/*\x40\x02te\x08trailers";
        assert_eq!(blocks.first, own);
    }

    #[test]
    fn a_window_is_opened_again_in_time() {
        let (mut window, mut out) = (ReceiveWindow::default(), Vec::new());
        window.note(1 << 29, &mut out);
        assert!(out.is_empty());
        window.note(1 << 29, &mut out);
        let mut seen = None;
        let look = |frame: Frame<'_>| {
            seen = frame.increment();
            Ok(())
        };
        Frames::default().feed::<Malformed>(&out, look).unwrap();
        assert_eq!(seen, Some(1 << 30));
    }
}
