//! What `h2` writes: it resets streams for what clients do on them without telling anybody else.

use h2::Reason;

use super::{HEAD, kind, split};

/// Resets that wait to be told.
const TOLD_MAX: usize = 8;

/// Reads frames as they are written.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Head and, of RST_STREAM, the code, as far as they were read.
    frame: [u8; HEAD + 4],
    at: u8,
    /// Octets of a payload that are of no interest.
    skipped: u32,
    /// Oldest first; nothing is allocated as long as clients keep to the rules.
    resets: Vec<(u32, Reason)>,
}

impl Outgoing {
    /// Takes note of the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skipped > 0 {
                let skipped = split(&mut bytes, self.skipped as usize);
                self.skipped -= skipped.len() as u32;
                continue;
            }
            let at = usize::from(self.at);
            let wanted = if at < HEAD { HEAD } else { self.frame.len() };
            let piece = split(&mut bytes, wanted - at);
            self.frame[at..at + piece.len()].copy_from_slice(piece);
            self.at += piece.len() as u8;
            if usize::from(self.at) == wanted {
                self.read();
            }
        }
    }

    /// The oldest reset that was not told yet.
    pub fn take_reset(&mut self) -> Option<(u32, Reason)> {
        (!self.resets.is_empty()).then(|| self.resets.remove(0))
    }

    /// A head, or a whole RST_STREAM, is there.
    fn read(&mut self) {
        let [l1, l2, l3, kind, _, s1, s2, s3, s4, code @ ..] = self.frame;
        if kind == kind::RST_STREAM && usize::from(self.at) == HEAD {
            return;
        }
        self.at = 0;
        if kind != kind::RST_STREAM {
            self.skipped = u32::from_be_bytes([0, l1, l2, l3]);
            return;
        }
        let code = Reason::from(u32::from_be_bytes(code));
        let is_ours = [Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::CANCEL].contains(&code);
        if !is_ours && self.resets.len() < TOLD_MAX {
            let stream = u32::from_be_bytes([s1, s2, s3, s4]);
            self.resets.push((stream, code));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_found_however_they_are_written() {
        let frames: &[&[u8]] = &[
            &[0, 0, 6, 4, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 3],
            &[0, 0, 0, 4, 1, 0, 0, 0, 0],
            &[0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, 1],
            &[0, 0, 4, 3, 0, 0, 0, 0, 9, 0, 0, 0, 0],
            &[0, 0, 1, 0, 1, 0, 0, 0, 1, 3],
            &[0, 0, 4, 3, 0, 0, 0, 1, 1, 0, 0, 0, 3],
        ];
        let bytes = frames.concat();
        for size in 1..=bytes.len() {
            let mut outgoing = Outgoing::default();
            bytes.chunks(size).for_each(|piece| outgoing.feed(piece));
            assert_eq!(outgoing.take_reset(), Some((7, Reason::PROTOCOL_ERROR)));
            assert_eq!(
                outgoing.take_reset(),
                Some((257, Reason::FLOW_CONTROL_ERROR))
            );
            assert_eq!(outgoing.take_reset(), None);
        }
    }
}
