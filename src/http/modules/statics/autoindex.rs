//! `autoindex`: a page that lists a directory.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;

use crate::base::clock;
use crate::http::uri::{self, Escape};
use crate::ring;

/// Columns of a name before its date.
const NAME_WIDTH: usize = 50;

/// How a page looks.
#[derive(Clone, Copy)]
pub struct Style {
    /// Sizes in bytes, not rounded to K, M, G.
    pub exact_size: bool,
    /// Times of the local zone instead of GMT.
    pub local_time: bool,
    /// Names are UTF-8, so that a column is a character.
    pub utf8: bool,
}

/// One line of the page.
struct Entry {
    name: Vec<u8>,
    directory: bool,
    size: u64,
    modified: i64,
}

/// The page for the directory at `path`, whose URI is `uri`.
///
/// # Errors
/// The directory cannot be read.
pub async fn page(path: &[u8], uri: &[u8], style: Style) -> io::Result<Vec<u8>> {
    let path = OsStr::from_bytes(path).to_owned();
    let entries = ring::blocking(move || read(&path)).await??;
    Ok(render(&entries, uri, style))
}

/// Directories first, then by name. What is hidden stays hidden.
fn read(path: &OsStr) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().into_vec();
        if name.starts_with(b".") {
            continue;
        }
        // A link that leads nowhere is listed as what it is; a file that has gone is not.
        let metadata = match std::fs::metadata(entry.path()).or_else(|_| entry.metadata()) {
            Ok(metadata) => metadata,
            Err(_) => continue,
        };
        entries.push(Entry {
            name,
            directory: metadata.is_dir(),
            size: metadata.len(),
            modified: metadata.mtime(),
        });
    }
    entries.sort_by(|a, b| (!a.directory, &a.name).cmp(&(!b.directory, &b.name)));
    Ok(entries)
}

fn render(entries: &[Entry], uri: &[u8], style: Style) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + entries.len() * 160);
    out.extend_from_slice(b"<html>\r\n<head><title>Index of ");
    escape_html(uri, &mut out);
    out.extend_from_slice(b"</title></head>\r\n<body>\r\n<h1>Index of ");
    escape_html(uri, &mut out);
    out.extend_from_slice(b"</h1><hr><pre><a href=\"../\">../</a>\r\n");
    for entry in entries {
        render_entry(entry, style, &mut out);
    }
    out.extend_from_slice(b"</pre><hr></body>\r\n</html>\r\n");
    out
}

fn render_entry(entry: &Entry, style: Style, out: &mut Vec<u8>) {
    out.extend_from_slice(b"<a href=\"");
    uri::escape(&entry.name, Escape::Component, out);
    out.extend_from_slice(if entry.directory { b"/\">" } else { b"\">" });
    let text = if style.utf8 {
        std::str::from_utf8(&entry.name).ok()
    } else {
        None
    };
    let width = text.map_or(entry.name.len(), |text| text.chars().count());
    if width > NAME_WIDTH {
        let shown = NAME_WIDTH - 3;
        let cut = text
            .and_then(|text| text.char_indices().nth(shown))
            .map_or(shown, |(at, _)| at);
        escape_html(&entry.name[..cut], out);
        out.extend_from_slice(b"..&gt;</a>");
    } else {
        escape_html(&entry.name, out);
        let slash = entry.directory && width < NAME_WIDTH;
        out.extend_from_slice(if slash { b"/</a>" } else { b"</a>" });
        out.resize(out.len() + NAME_WIDTH - width - usize::from(slash), b' ');
    }
    out.push(b' ');
    clock::format_listing(entry.modified, style.local_time, out);
    out.push(b' ');
    let mut text = String::new();
    let _ = match (entry.directory, style.exact_size) {
        (true, true) => write!(text, "{:>19}", "-"),
        (false, true) => write!(text, "{:>19}", entry.size),
        (true, false) => write!(text, "{:>7}", "-"),
        (false, false) => write!(text, "{:>7}", rounded(entry.size)),
    };
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A size in at most four digits and a unit.
fn rounded(size: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let in_units = |unit: u64| size / unit + u64::from(size % unit >= unit / 2);
    match size {
        GIB.. => format!("{}G", in_units(GIB)),
        MIB.. => format!("{}M", in_units(MIB)),
        10_000.. => format!("{}K", in_units(KIB)),
        _ => size.to_string(),
    }
}

fn escape_html(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded() {
        for (size, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10K"),
            (3_000_000, "3M"),
            ((1 << 20) - 1, "1024K"),
            (5 << 30, "5G"),
        ] {
            assert_eq!(rounded(size), text);
        }
    }

    #[test]
    fn names_are_cut_and_escaped() {
        let entry = |name: &str, directory| Entry {
            name: name.into(),
            directory,
            size: 7,
            modified: 0,
        };
        let style = Style {
            exact_size: false,
            local_time: false,
            utf8: true,
        };
        let entries = [entry("a<b", true), entry(&"ü".repeat(51), false)];
        let page = String::from_utf8(render(&entries, b"/x&/", style)).unwrap();
        let short = format!(
            "<a href=\"a%3Cb/\">a&lt;b/</a>{} 01-Jan-1970 00:00",
            " ".repeat(46)
        );
        assert!(page.contains(&short), "{page}");
        let long = format!(
            ">{}..&gt;</a> 01-Jan-1970 00:00       7\r\n",
            "ü".repeat(47)
        );
        assert!(page.contains(&long), "{page}");
        assert!(page.contains("<h1>Index of /x&amp;/</h1>"));
    }
}
