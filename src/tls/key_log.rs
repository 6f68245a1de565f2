//! The secrets of connections, in NSS's format.

use std::fs::File;
use std::io::Write as _;

use rustls::KeyLog;

/// Writes secrets to a file, for those who look into what was recorded on the wire.
#[derive(Debug)]
pub struct SecretsTo(pub File);

impl KeyLog for SecretsTo {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = Vec::with_capacity(256);
        line.extend_from_slice(label.as_bytes());
        for part in [client_random, secret] {
            line.push(b' ');
            super::name::write_hex(part, false, &mut line);
        }
        line.push(b'\n');
        // One write for each line, which goes to the end of the file whoever else writes.
        let _ = (&self.0).write_all(&line);
    }
}
