//! `gzip_static`: a file that lies beside the one asked for, compressed beforehand.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::http::exchange::Exchange;
use crate::http::message::Method;
use crate::http::modules::gzip;
use crate::ring::{File, FileKind, Metadata};

use super::directory;

/// Whether such files are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No.
    Off,
    /// Where the client accepts them.
    On,
    /// For every client.
    Always,
}

impl Mode {
    /// The words of the directive, in the order of the variants.
    pub const WORDS: &[&str] = &["off", "on", "always"];

    /// The variant of an index into [`Mode::WORDS`].
    pub fn of(index: Option<usize>) -> Self {
        match index {
            Some(1) => Mode::On,
            Some(2) => Mode::Always,
            _ => Mode::Off,
        }
    }
}

/// What was found.
#[derive(Default)]
pub struct Packed {
    /// The compressed file, where it is to be sent.
    pub file: Option<(File, Metadata)>,
    /// Whether it is sent depends on the client.
    pub varies: bool,
}

/// Looks for `path` with `.gz` behind it.
pub async fn find(ex: &mut Exchange, mode: Mode, path: &mut Vec<u8>) -> Packed {
    if mode == Mode::Off || !matches!(ex.request.method_kind(), Method::Get | Method::Head) {
        return Packed::default();
    }
    let generation = ex.generation();
    let conf = &generation.location(ex.location).gzip;
    ex.response.clear_answer();
    let wanted = mode == Mode::Always || gzip::is_wanted_by_client(ex, conf);
    if !wanted && !conf.is_varying() {
        return Packed::default();
    }
    let length = path.len();
    path.extend_from_slice(b".gz");
    let opened = File::open(Path::new(OsStr::from_bytes(path))).await;
    let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let file = match opened {
        Ok((file, metadata)) if metadata.kind == FileKind::Regular => Some((file, metadata)),
        Ok(_) => None,
        Err(error) => {
            let missing = [libc::ENOENT, libc::ENOTDIR, libc::ENAMETOOLONG];
            if !missing.contains(&error.raw_os_error().unwrap_or(0)) {
                directory::failed(ex, "open()", path, &error);
            }
            None
        }
    };
    path.truncate(length);
    Packed {
        varies: mode == Mode::On && file.is_some(),
        file: file.filter(|_| wanted),
    }
}
