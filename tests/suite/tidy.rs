//! The house rules that a program can check: layers, leftovers, unsafe code, line and file lengths,
//! sleeps, and the generated page of directives.

use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::Chars;

/// Lower layers first; those on one line do not know each other. A file uses its own layer and
/// lower ones.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["ring"],
    &["tls"],
    &["relay"],
    &["config"],
    &["observe"],
    &["vars"],
    &["limits", "ssl"],
    &["upstream"],
    &["http", "stream"],
    &["gateway"],
    &["worker"],
    &["master"],
    &["demo", "quick"],
    &["cli"],
    &["main", "lib"],
];

const LINE_MAX: usize = 100;

/// A line with a string in it: texts stay in one piece, so that they can be searched for.
const LINE_MAX_TEXT: usize = 120;

const FILE_MAX: usize = 700;

/// An unsafe block that spans more lines does more than one call.
const UNSAFE_MAX: usize = 10;

/// A source file with its path relative to the root of the package.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, directory: &str) -> bool {
        self.path.starts_with(directory)
    }

    /// Lines with their numbers, 1-based.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
    }

    /// As [`Source::lines`], without comments and what is between quotes on one line.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(at, line)| (at, code_of(line)))
    }
}

/// A line without its comment and its string literals.
fn code_of(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.chars().peekable();
    let mut is_quoted = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' if is_quoted => {
                rest.next();
            }
            '\'' if !is_quoted => skip_character(&mut rest),
            '"' => is_quoted = !is_quoted,
            '/' if !is_quoted && rest.peek() == Some(&'/') => break,
            _ if is_quoted => {}
            _ => out.push(c),
        }
    }
    out
}

/// Skips what follows the first quote of a character literal; nothing after that of a lifetime.
fn skip_character(rest: &mut Peekable<Chars>) {
    let mut ahead = rest.clone();
    let is_escape = ahead.next() == Some('\\');
    if is_escape {
        ahead.next();
    }
    if is_escape || ahead.next() == Some('\'') {
        *rest = ahead;
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below the directories.
fn sources(directories: &[&str]) -> Vec<Source> {
    let mut waiting: Vec<PathBuf> = directories.iter().map(|d| root().join(d)).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(Source {
                text: fs::read_to_string(&path).unwrap(),
                path: path.strip_prefix(root()).unwrap().display().to_string(),
            });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 1, "no sources in {directories:?}");
    found
}

/// Fails with all places at once.
#[track_caller]
fn none(rule: &str, places: &[String]) {
    assert!(places.is_empty(), "{rule}:\n  {}", places.join("\n  "));
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&name))
}

/// The names right below the crate's root that a line of code mentions. `depth` is how many modules
/// deep the file is.
fn named_from_root(code: &str, depth: usize) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        names.extend(leading_names(&code[at + "crate::".len()..]));
    }
    let supers = "super::".repeat(depth);
    for (at, _) in code.match_indices(&supers) {
        names.extend(leading_names(
            code[at + supers.len()..].trim_start_matches("super::"),
        ));
    }
    names
}

/// The first name of a path, or of each path between braces.
fn leading_names(path: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = |text: &str| -> String { text.chars().take_while(|c| is_name(*c)).collect() };
    match path.strip_prefix('{') {
        Some(list) => list.split(',').map(|item| first(item.trim())).collect(),
        None => vec![first(path)],
    }
}

#[test]
fn modules_use_only_lower_layers() {
    let mut places = Vec::new();
    for source in sources(&["src"]) {
        let module = source
            .path
            .trim_start_matches("src/")
            .trim_end_matches(".rs");
        let module = module.trim_end_matches("/mod");
        let mut parts = module.split('/');
        let own = parts.next().unwrap();
        let depth = 1 + parts.count();
        let Some(at) = layer(own) else {
            places.push(format!(
                "{}: \"{own}\" has no place among the layers",
                source.path
            ));
            continue;
        };
        for (number, code) in source.code() {
            for name in named_from_root(&code, depth) {
                let is_lower = name == own || layer(&name).is_none_or(|other| other < at);
                if !is_lower {
                    places.push(format!("{}:{number}: {own} uses {name}", source.path));
                }
            }
        }
    }
    none("a layer uses what is above or beside it", &places);
}

#[test]
fn only_ring_names_the_ring_crates() {
    let mut places = Vec::new();
    for source in sources(&["src"]).iter().filter(|s| !s.is_in("src/ring/")) {
        for (number, code) in source.code() {
            if code.contains("tokio_uring") || code.contains("io_uring::") {
                places.push(format!("{}:{number}", source.path));
            }
        }
    }
    none("tokio-uring and io-uring belong behind src/ring", &places);
}

#[test]
fn unsafe_code_is_one_call_with_its_reason() {
    let mut places = Vec::new();
    for source in sources(&["src"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, code) in source.code() {
            let is_block = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if !is_block.into_iter().any(|word| word == "unsafe") {
                continue;
            }
            // The comment stands above the statement, which may begin some lines earlier.
            let above = &lines[number.saturating_sub(8)..number];
            if !above
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
            {
                places.push(format!("{}:{number}: no SAFETY comment", source.path));
            }
            let length = block_length(&lines[number - 1..]);
            if !source.is_in("src/ring/") && length > UNSAFE_MAX {
                places.push(format!(
                    "{}:{number}: a block of {length} lines",
                    source.path
                ));
            }
        }
    }
    none(
        "unsafe code outside src/ring is one libc call, and says why it is sound",
        &places,
    );
}

/// How many lines the block behind the first `unsafe` spans.
fn block_length(lines: &[&str]) -> usize {
    let first = code_of(lines[0]);
    let start = first.find("unsafe").unwrap_or(0);
    let mut open = 0;
    for (at, line) in lines.iter().enumerate() {
        let code = code_of(line);
        for c in code[if at == 0 { start } else { 0 }..].chars() {
            open += i32::from(c == '{') - i32::from(c == '}');
            if c == '}' && open == 0 {
                return at + 1;
            }
        }
    }
    lines.len()
}

#[test]
fn nothing_is_left_over() {
    // Put together here, so that this file does not find itself.
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let marks = [["FIX", "ME"], ["X", "XX"]].map(|parts| parts.concat());
    let ignored = ["#[", "ignore"].concat();
    let mut places = Vec::new();
    for source in sources(&[
        "src",
        "tests",
        "benches",
        "fuzz/fuzz_targets",
        "loadtest/src",
    ]) {
        for (number, line) in source.lines() {
            let words = || line.split(|c: char| !c.is_alphanumeric());
            let is_left = macros.iter().any(|name| line.contains(name.as_str()))
                || marks.iter().any(|mark| words().any(|word| word == mark))
                || line.trim_start().starts_with(&ignored);
            if is_left {
                places.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    none("something is not finished", &places);
}

#[test]
fn lines_and_files_are_short() {
    let mut places = Vec::new();
    for source in sources(&[
        "src",
        "tests",
        "benches",
        "fuzz/fuzz_targets",
        "loadtest/src",
    ]) {
        for (number, line) in source.lines() {
            let width = line.chars().count();
            let has_text = line.contains('"');
            if width > if has_text { LINE_MAX_TEXT } else { LINE_MAX } {
                places.push(format!("{}:{number}: {width} characters", source.path));
            }
        }
        let count = source.text.lines().count();
        if count > FILE_MAX {
            places.push(format!(
                "{}: {count} lines are usually two ideas",
                source.path
            ));
        }
    }
    none("at most 100 characters a line, 700 lines a file", &places);
}

#[test]
fn sleeps_in_tests_say_why() {
    let mut places = Vec::new();
    for source in sources(&["tests"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, code) in source.code() {
            let near = &lines[number.saturating_sub(3)..number];
            if code.contains("sleep(") && !near.iter().any(|line| line.contains("//")) {
                places.push(format!("{}:{number}", source.path));
            }
        }
    }
    none(
        "a test that sleeps is slow or flaky; a comment above says why it must",
        &places,
    );
}

#[test]
fn documents_name_files_that_are_there() {
    let known = sources(&["src", "tests", "benches", "loadtest/src"]);
    let mut places = Vec::new();
    for page in ["README.md", "docs/architecture.md", "docs/threats.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for (at, line) in text.lines().enumerate() {
            let quoted = line.split('`').skip(1).step_by(2);
            for name in quoted.filter(|name| name.ends_with(".rs")) {
                let tail = format!("/{name}");
                let is_it = |source: &Source| format!("/{}", source.path).ends_with(&tail);
                if !known.iter().any(is_it) {
                    places.push(format!("{page}:{}: {name}", at + 1));
                }
            }
        }
    }
    none("a file is named that does not exist", &places);
}

#[test]
fn the_page_of_directives_is_up_to_date() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .arg("directives")
        .output()
        .unwrap();
    let page = "docs/nginx-compatibility.md";
    let written = fs::read(root().join(page)).unwrap_or_default();
    assert!(
        output.stdout == written,
        "{page} differs from what the directives say; write it again with\n  \
         cargo run -q -- directives > {page}"
    );
}
