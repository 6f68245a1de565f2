//! Files from disk: `root`, `alias`, `index`, `try_files`, `autoindex`, `gzip_static`, ranges and
//! validators; and the header filters `expires` and `charset`.
//!
//! Files are opened and read by the ring, so that a slow disk holds up one request and not the
//! worker. A large file goes from the page cache to the socket without passing user space.

mod autoindex;
mod charset;
mod conditional;
mod directory;
mod expires;
mod file;
mod path;
mod precompressed;
mod range;
mod send;
mod try_files;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Arity, Contexts, Node, Reader, Result, Row, Word};
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::message::Method;
use crate::http::phases::Outcome;
use crate::http::respond::{self, Reply};
use crate::http::scope::{Compiler, Scope};
use crate::inherit;
use crate::observe::Level;
use crate::ring::{File, FileKind};
use crate::vars::Template;

use super::mime_set::MimeSet;

use conditional::ModifiedSince;
use file::Found;
use precompressed::Packed;

pub use path::{document_root, realpath_root, request_filename};

const HSL: Contexts = Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION);
const HSLI: Contexts = HSL.or(Contexts::LOCATION_IF);
const SL: Contexts = Contexts::SERVER.or(Contexts::LOCATION);
type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("root", HSLI, Arity::One, path::set_root)
        .default("html")
        .doc("Directory that URIs are paths in."),
    R::custom("alias", Contexts::LOCATION, Arity::One, path::set_root)
        .doc("Path that replaces the location's part of the URI."),
    R::custom("index", HSL, Arity::AtLeast(1), add_index)
        .default("index.html")
        .doc("Files that stand for a directory, the first that exists."),
    R::custom("try_files", SL, Arity::AtLeast(2), try_files::read)
        .doc("Paths of which the first that exists is served, and what else is done."),
    R::flag("autoindex", HSLI.without(Contexts::LOCATION_IF), |s| {
        &mut s.statics.autoindex
    })
    .default("off")
    .doc("List directories that have no index file."),
    R::flag("autoindex_exact_size", HSL, |s| &mut s.statics.exact_size)
        .default("on")
        .doc("Listings show bytes instead of K, M and G."),
    R::flag("autoindex_localtime", HSL, |s| &mut s.statics.local_time)
        .default("off")
        .doc("Listings show local time instead of GMT."),
    R::custom(
        "expires",
        HSLI,
        Arity::Between(1, 2),
        expires::RawExpires::read,
    )
    .default("off")
    .doc("Sends Expires and Cache-Control."),
    R::flag("etag", HSL, |s| &mut s.statics.etag)
        .default("on")
        .doc("Send an ETag with files."),
    R::choice("if_modified_since", HSL, ModifiedSince::WORDS, |s| {
        &mut s.statics.modified_since
    })
    .default("exact")
    .doc("How If-Modified-Since is compared with the last change."),
    R::number("max_ranges", HSL, |s| &mut s.statics.max_ranges)
        .doc("Ranges sent at most for one request; 0 switches ranges off."),
    R::choice("gzip_static", HSL, precompressed::Mode::WORDS, |s| {
        &mut s.statics.precompressed
    })
    .default("off")
    .doc("Send a file's .gz instead, to clients that accept it."),
    R::word("charset", HSLI, |s| &mut s.statics.charset)
        .default("off")
        .doc("Charset to name in Content-Type."),
    R::custom(
        "charset_types",
        HSL,
        Arity::AtLeast(1),
        |reader, s, node| {
            MimeSet::add(
                &mut s.statics.charset_types,
                charset::TYPES_IN_ALL,
                reader,
                node,
            );
            Ok(())
        },
    )
    .default(
        "text/html text/xml text/plain text/vnd.wap.wml application/javascript application/rss+xml",
    )
    .doc("MIME types that charset is for, besides text/html."),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    root: Option<path::RawRoot>,
    index: Option<Vec<Word>>,
    try_files: Option<Vec<Word>>,
    autoindex: Option<bool>,
    exact_size: Option<bool>,
    local_time: Option<bool>,
    expires: Option<expires::RawExpires>,
    etag: Option<bool>,
    modified_since: Option<usize>,
    max_ranges: Option<u64>,
    charset: Option<Word>,
    charset_types: Option<Arc<MimeSet>>,
    precompressed: Option<usize>,
}

/// The compiled form.
pub struct Conf {
    root: path::Root,
    index: Vec<Template<Exchange>>,
    try_files: Option<try_files::TryFiles>,
    autoindex: Option<autoindex::Style>,
    expires: Option<expires::Expires>,
    etag: bool,
    modified_since: ModifiedSince,
    max_ranges: u64,
    charset: Option<charset::Charset>,
    precompressed: precompressed::Mode,
}

impl Raw {
    /// Fills what is not written here from the enclosing block. `try_files` stays where it is.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; root, index, autoindex, exact_size, local_time, expires, etag,
            modified_since, max_ranges, charset, charset_types, precompressed);
    }

    /// The compiled form.
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        let index = match &self.index {
            Some(words) => words
                .iter()
                .map(|word| c.template(word))
                .collect::<Result<_>>()?,
            None => vec![Template::constant(b"index.html")],
        };
        let words = self.try_files.as_deref().unwrap_or(&[]);
        Ok(Conf {
            root: path::Root::compile(self.root.as_ref(), c)?,
            index,
            try_files: try_files::TryFiles::compile(words, c)?,
            autoindex: self.autoindex.unwrap_or(false).then_some(autoindex::Style {
                exact_size: self.exact_size.unwrap_or(true),
                local_time: self.local_time.unwrap_or(false),
                utf8: false,
            }),
            expires: self
                .expires
                .as_ref()
                .map(|raw| raw.compile(c))
                .transpose()?,
            etag: self.etag.unwrap_or(true),
            modified_since: ModifiedSince::compile(self.modified_since)?,
            max_ranges: self.max_ranges.unwrap_or(u64::MAX),
            charset: charset::Charset::compile(
                self.charset.as_ref(),
                self.charset_types.as_ref(),
                c,
            )?,
            precompressed: precompressed::Mode::of(self.precompressed),
        })
    }
}

/// `expires`: to be called before the configuration's own fields are added.
#[inline]
pub fn expire(ex: &mut Exchange, conf: &Conf) {
    if let Some(expires) = &conf.expires {
        expires.apply(ex);
    }
}

/// `charset`: to be called before the body is compressed.
#[inline]
pub fn name_charset(ex: &mut Exchange, conf: &Conf) {
    if let Some(charset) = &conf.charset {
        charset.apply(ex);
    }
}

/// `try_files`. `None`: go on to the content, with the URI that was found.
pub async fn try_files(ex: &mut Exchange) -> Option<Outcome> {
    let generation = ex.generation();
    let conf = &generation.location(ex.location).statics;
    match &conf.try_files {
        None => None,
        Some(try_files) => try_files.run(ex, &conf.root).await,
    }
}

/// Answers with the file that the URI leads to.
pub async fn serve(ex: &mut Exchange, client: &mut Client) -> Outcome {
    let generation = ex.generation();
    let conf = &generation.location(ex.location).statics;
    if !matches!(
        ex.request.method_kind(),
        Method::Get | Method::Head | Method::Post
    ) {
        return Outcome::Answer(Reply::status(405));
    }
    let mut path = Vec::with_capacity(256);
    if !conf.root.map(ex, &mut path) {
        return Outcome::Answer(Reply::status(500));
    }
    if ex.request.uri.ends_with(b"/") {
        return directory::serve(ex, client, conf, path).await;
    }
    let Packed { file, varies } = precompressed::find(ex, conf.precompressed, &mut path).await;
    if let Some((file, metadata)) = file {
        let found = Found {
            file,
            metadata,
            packed: true,
            varies,
        };
        return file::respond(ex, client, conf, found).await;
    }
    let opened = File::open(Path::new(OsStr::from_bytes(&path))).await;
    let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = match opened {
        Ok(opened) => opened,
        Err(error) => return directory::failed(ex, "open()", &path, &error),
    };
    match metadata.kind {
        FileKind::Directory => Outcome::Answer(respond::add_slash(ex)),
        FileKind::Other => {
            let path = String::from_utf8_lossy(&path);
            ex.log(
                Level::Crit,
                format_args!("\"{path}\" is not a regular file"),
            );
            Outcome::Answer(Reply::status(404))
        }
        FileKind::Regular if ex.request.method_kind() == Method::Post => {
            Outcome::Answer(Reply::status(405))
        }
        FileKind::Regular => {
            let found = Found {
                file,
                metadata,
                packed: false,
                varies,
            };
            file::respond(ex, client, conf, found).await
        }
    }
}

fn add_index(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    s.statics
        .index
        .get_or_insert_default()
        .extend_from_slice(node.args());
    Ok(())
}
