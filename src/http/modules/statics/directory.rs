//! URIs that end in a slash: the index file, a listing, or 403.

use std::io;

use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::message::Method;
use crate::http::modules::mime_set;
use crate::http::phases::{Outcome, Target};
use crate::http::respond::{Output, Reply};
use crate::observe::{Level, os_error};
use crate::ring::{self, FileKind};

use super::{Conf, autoindex};

/// Answers for the directory at `path`.
pub async fn serve(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    mut path: Vec<u8>,
) -> Outcome {
    let length = path.len();
    if let Some(outcome) = index(ex, conf, &mut path).await {
        return outcome;
    }
    path.truncate(length);
    if conf.autoindex.is_some() && matches!(ex.request.method_kind(), Method::Get | Method::Head) {
        return listing(ex, client, conf, &path).await;
    }
    let path = String::from_utf8_lossy(&path);
    ex.log(
        Level::Error,
        format_args!("directory index of \"{path}\" is forbidden"),
    );
    Outcome::Answer(Reply::status(403))
}

/// Looks for the first `index` file; `None` if the directory has none of them.
async fn index(ex: &mut Exchange, conf: &Conf, path: &mut Vec<u8>) -> Option<Outcome> {
    let directory = path.len();
    let mut is_directory = false;
    for name in &conf.index {
        path.truncate(directory);
        name.eval(ex, path);
        let name = &path[directory..];
        if name.starts_with(b"/") {
            return Some(Outcome::Jump(Target::Path(name.to_vec())));
        }
        let Err(error) = ring::stat(path).await else {
            let mut uri = ex.request.uri.clone();
            uri.extend_from_slice(&path[directory..]);
            return Some(Outcome::Jump(Target::Path(uri)));
        };
        match error.raw_os_error() {
            Some(libc::ENOTDIR | libc::ENAMETOOLONG | libc::EACCES) => {
                return Some(unreadable(ex, path, &error));
            }
            Some(libc::ENOENT) => {}
            _ => return Some(failed(ex, "stat()", path, &error)),
        }
        if !is_directory {
            if let Some(outcome) = not_a_directory(ex, path, directory).await {
                return Some(outcome);
            }
            is_directory = true;
        }
    }
    None
}

/// A file is missing; tells whether its directory is missing too. `directory` bytes of the path
/// are the directory's.
async fn not_a_directory(ex: &mut Exchange, path: &[u8], directory: usize) -> Option<Outcome> {
    // An alias without a slash at its end has none here either.
    let name = path[..directory]
        .strip_suffix(b"/")
        .unwrap_or(&path[..directory]);
    match ring::stat(if name.is_empty() { b"/" } else { name }).await {
        Ok(metadata) if metadata.kind == FileKind::Directory => None,
        Ok(_) => {
            let name = String::from_utf8_lossy(name);
            ex.log(Level::Alert, format_args!("\"{name}\" is not a directory"));
            Some(Outcome::Answer(Reply::status(500)))
        }
        Err(error) => match error.raw_os_error() {
            // An alias without a slash is the beginning of a name.
            Some(libc::ENOENT) if !path[..directory].ends_with(b"/") => None,
            Some(libc::ENOENT | libc::EACCES) => Some(unreadable(ex, path, &error)),
            _ => Some(failed(ex, "stat()", name, &error)),
        },
    }
}

fn unreadable(ex: &Exchange, path: &[u8], error: &io::Error) -> Outcome {
    let path = String::from_utf8_lossy(path);
    if error.raw_os_error() == Some(libc::EACCES) {
        ex.log(
            Level::Error,
            format_args!("\"{path}\" is forbidden {}", os_error(error)),
        );
        return Outcome::Answer(Reply::status(403));
    }
    if ex.generation.location(ex.location).core.log_not_found {
        ex.log(
            Level::Error,
            format_args!("\"{path}\" is not found {}", os_error(error)),
        );
    }
    Outcome::Answer(Reply::status(404))
}

/// Says in the log that `operation` on `path` failed, and answers by the cause: 404, 403 or 500.
pub fn failed(ex: &Exchange, operation: &str, path: &[u8], error: &io::Error) -> Outcome {
    let (level, status) = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => (Level::Error, 404),
        Some(libc::EACCES | libc::EMLINK | libc::ELOOP) => (Level::Error, 403),
        _ => (Level::Crit, 500),
    };
    if status != 404 || ex.generation.location(ex.location).core.log_not_found {
        let (path, error) = (String::from_utf8_lossy(path), os_error(error));
        ex.log(level, format_args!("{operation} \"{path}\" failed {error}"));
    }
    Outcome::Answer(Reply::status(status))
}

async fn listing(ex: &mut Exchange, client: &mut Client, conf: &Conf, path: &[u8]) -> Outcome {
    ex.response.clear_answer();
    ex.response.status = 200;
    ex.response.set_content_type(b"text/html");
    if let Some(charset) = &conf.charset {
        charset.apply(ex);
    }
    let content_type = ex.response.content_type.map(|t| t.of(&ex.response.buf));
    let charset = content_type.and_then(mime_set::charset);
    let style = autoindex::Style {
        utf8: charset.is_some_and(|c| c.eq_ignore_ascii_case(b"utf-8")),
        ..conf.autoindex.unwrap_or(autoindex::Style {
            exact_size: true,
            local_time: false,
            utf8: false,
        })
    };
    let page = match autoindex::page(path, &ex.request.uri, style).await {
        Ok(page) => page,
        Err(error) => return failed(ex, "opendir()", path, &error),
    };
    let Ok(mut output) = Output::start(ex, client).await else {
        return Outcome::Finished(crate::http::phases::Finish::Truncated);
    };
    output.push(ex, &page);
    Outcome::Finished(output.finish(ex, client, true).await)
}
