//! The harness of the integration tests: start the binary on a small configuration in a prefix of
//! its own, talk to it in bytes, and stand behind it as scripted application servers.
//!
//! The binary under test is `RINGWAY_TEST_BINARY`, by default the `ringway` of this build. Pointing
//! it at an nginx runs the same expectations against nginx: a test which expresses a deliberate
//! difference asks [`is_nginx`] and says what it skips (see [`skip_on_nginx`]).

pub mod backend;
pub mod client;
pub mod datagram;
pub mod dns;
pub mod frames;
pub mod h2_backend;
pub mod h2_client;
pub mod hpack;
pub mod load;
pub mod ocsp;
pub mod ports;
pub mod records;
pub mod server;
pub mod tls;
pub mod tls_front;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub use backend::{Backend, ok, resp};
pub use client::Conn;
pub use datagram::{UdpBackend, UdpClient, dead_udp};
pub use dns::Dns;
pub use h2_backend::H2Backend;
pub use load::Load;
pub use server::{Server, Setup, full, http, stream};

/// How long anything that must happen may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The binary under test.
pub fn binary() -> PathBuf {
    match std::env::var_os("RINGWAY_TEST_BINARY") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => PathBuf::from(env!("CARGO_BIN_EXE_ringway")),
    }
}

/// Whether the binary under test is an nginx.
pub fn is_nginx() -> bool {
    binary()
        .file_name()
        .is_some_and(|name| name.to_string_lossy().contains("nginx"))
}

/// The name the program gives itself in messages and in `Server:`.
pub fn prog() -> &'static str {
    if is_nginx() { "nginx" } else { "ringway" }
}

/// True, with a word on the test's output, if the binary is an nginx and the test expects better.
pub fn skip_on_nginx(why: &str) -> bool {
    if is_nginx() {
        eprintln!("skipped on nginx: {why}");
    }
    is_nginx()
}

/// Poll `condition` until it holds; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(PATIENCE, condition),
        "waited {PATIENCE:?} in vain for: {what}"
    );
}

/// Poll `condition` until it holds or `limit` has passed; says which.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // There is nothing to wait on but the outside world: poll.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Run curl with a time limit; `None`, with a word, on a machine without curl.
pub fn curl(args: &[&str]) -> Option<Output> {
    match Command::new("curl")
        .args(["-sS", "--max-time", "10"])
        .args(args)
        .output()
    {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("skipped: no curl on this machine");
            None
        }
    }
}

/// The text of a file, empty if it does not exist.
pub fn read(path: impl AsRef<Path>) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A small deterministic generator, so that random tests can be repeated by their seed.
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(length);
        out
    }
}

/// FNV-1a over a body: enough to tell a damaged body from a whole one.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}
