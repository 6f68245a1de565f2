//! `try_files`: the first of several paths that exists, before the content is made.

use crate::config::{ConfigError, Node, Reader, Result, Word, value};
use crate::http::exchange::Exchange;
use crate::http::phases::{Outcome, Target};
use crate::http::respond::Reply;
use crate::http::scope::{Compiler, Scope};
use crate::observe::{Level, os_error};
use crate::ring::{self, FileKind};
use crate::vars::Template;

use super::path::Root;

/// The compiled directive.
pub struct TryFiles {
    candidates: Vec<Candidate>,
    fallback: Fallback,
}

struct Candidate {
    name: Template<Exchange>,
    directory: bool,
}

/// What is done when nothing was found.
enum Fallback {
    /// `=404`
    Status(u16),
    /// A URI, or a named location.
    Jump(Template<Exchange>),
}

/// Reads the directive; the words are compiled later.
pub fn read(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    if let Some(status) = node.args().last().and_then(|last| last.strip("="))
        && parse_status(status).is_none()
    {
        let status = String::from_utf8_lossy(status);
        return Err(ConfigError::at(
            node.span(),
            format!("invalid code \"{status}\""),
        ));
    }
    value::once(&mut s.statics.try_files, node.args().to_vec(), node)
}

impl TryFiles {
    /// Compiles the words of the directive.
    pub fn compile(words: &[Word], c: &mut Compiler) -> Result<Option<TryFiles>> {
        let Some((last, names)) = words.split_last() else {
            return Ok(None);
        };
        let mut candidates = Vec::with_capacity(names.len());
        for word in names {
            let (name, directory) = match &*word.bytes {
                [name @ .., b'/'] => (name, true),
                name => (name, false),
            };
            let name = Template::compile_bytes(name, word, &mut c.vars)?;
            candidates.push(Candidate { name, directory });
        }
        let fallback = match last.strip("=").and_then(parse_status) {
            Some(status) => Fallback::Status(status),
            None => Fallback::Jump(c.template(last)?),
        };
        Ok(Some(TryFiles {
            candidates,
            fallback,
        }))
    }

    /// Looks for the files. `None`: one was found and is the exchange's URI now.
    pub async fn run(&self, ex: &mut Exchange, root: &Root) -> Option<Outcome> {
        let Some(replaced) = root.replaced(ex) else {
            return Some(Outcome::Answer(Reply::status(500)));
        };
        let (mut path, mut name) = (ex.store.lend(), ex.store.lend());
        let mut found = None;
        for candidate in &self.candidates {
            name.clear();
            candidate.name.eval(ex, &mut name);
            // With an alias, names made from the URI begin with what the alias stands for.
            if replaced > 0 && !root.is_whole() && name.starts_with(&ex.request.uri[..replaced]) {
                name.drain(..replaced);
            }
            path.clear();
            root.write(ex, &mut path);
            path.extend_from_slice(&name);
            if exists(ex, &path, candidate.directory).await {
                found = Some(candidate);
                break;
            }
        }
        if let Some(candidate) = found {
            take(ex, root, replaced, &name, candidate.directory);
        }
        ex.store.give_back(path);
        ex.store.give_back(name);
        match found {
            Some(_) => None,
            None => Some(self.fall_back(ex)),
        }
    }

    fn fall_back(&self, ex: &mut Exchange) -> Outcome {
        match &self.fallback {
            Fallback::Status(status) => Outcome::Answer(Reply::status(*status)),
            Fallback::Jump(template) => {
                let mut target = Vec::new();
                template.eval(ex, &mut target);
                match target.first() {
                    Some(b'@') => Outcome::Jump(Target::Named(target)),
                    _ => Outcome::Jump(Target::Uri(target)),
                }
            }
        }
    }
}

/// Makes the name that was found the exchange's URI.
fn take(ex: &mut Exchange, root: &Root, replaced: usize, name: &[u8], directory: bool) {
    let request = &mut ex.request;
    if root.is_whole() {
        // nginx lets a directory behind a regex location's alias keep its URI.
        if directory {
            return;
        }
        request.uri.clear();
        request.uri_behind_alias = true;
    } else {
        request.uri.truncate(replaced);
    }
    request.uri.extend_from_slice(name);
}

async fn exists(ex: &Exchange, path: &[u8], directory: bool) -> bool {
    match ring::stat(path).await {
        Ok(metadata) => directory == (metadata.kind == FileKind::Directory),
        Err(error) => {
            let code = error.raw_os_error().unwrap_or(0);
            if ![libc::ENOENT, libc::ENOTDIR, libc::ENAMETOOLONG].contains(&code) {
                let (path, error) = (String::from_utf8_lossy(path), os_error(&error));
                ex.log(
                    Level::Crit,
                    format_args!("stat() \"{path}\" failed {error}"),
                );
            }
            false
        }
    }
}

fn parse_status(text: &[u8]) -> Option<u16> {
    u16::try_from(value::parse_number(text)?)
        .ok()
        .filter(|status| *status <= 999)
}
