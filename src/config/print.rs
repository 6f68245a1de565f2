//! Trees back to text, and the dump of `-T`.

use std::io::{self, Write};

use super::source::Sources;
use super::tree::{Node, Word};

/// The directives in canonical form, one a line, blocks indented by four blanks. Parsing the result
/// gives the same words and blocks.
pub fn print(nodes: &[Node]) -> Vec<u8> {
    let mut out = Vec::new();
    print_list(nodes, 0, &mut out);
    out
}

/// What `-T` prints: each file once, in reading order, its exact bytes under a line with its name.
pub fn dump(sources: &Sources, out: &mut impl Write) -> io::Result<()> {
    for (path, text) in sources.files() {
        writeln!(out, "# configuration file {}:", path.display())?;
        out.write_all(text)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

// Recursion is bounded by the parser's limit on nesting.
fn print_list(nodes: &[Node], depth: usize, out: &mut Vec<u8>) {
    for node in nodes.iter().filter(|node| node.failure.is_none()) {
        indent(depth, out);
        for (index, word) in node.words.iter().enumerate() {
            if index > 0 {
                out.push(b' ');
            }
            print_word(word, out);
        }
        match &node.block {
            None => out.push(b';'),
            Some(block) => {
                out.extend_from_slice(b" {\n");
                print_list(block, depth + 1, out);
                indent(depth, out);
                out.push(b'}');
            }
        }
        out.push(b'\n');
    }
}

fn indent(depth: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + depth * 4, b' ');
}

fn print_word(word: &Word, out: &mut Vec<u8>) {
    let quoted = word.quoted || !can_stand_bare(&word.bytes);
    if quoted {
        out.push(b'"');
    }
    for (index, &byte) in word.bytes.iter().enumerate() {
        match byte {
            b'\\' if !stays_as_written(word.bytes.get(index + 1)) => out.extend_from_slice(b"\\\\"),
            b'"' if quoted => out.extend_from_slice(b"\\\""),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => out.push(byte),
        }
    }
    if quoted {
        out.push(b'"');
    }
}

/// Whether a backslash before `next` can be written alone, so that regexes stay readable.
fn stays_as_written(next: Option<&u8>) -> bool {
    next.is_some_and(|byte| {
        let ends_an_escape = matches!(byte, b'"' | b'\'' | b'\\' | b't' | b'r' | b'n');
        let is_written_as_escape = matches!(byte, b'\t' | b'\r' | b'\n');
        !ends_an_escape && !is_written_as_escape && *byte != b'$'
    })
}

fn can_stand_bare(bytes: &[u8]) -> bool {
    let Some(first) = bytes.first() else {
        return false;
    };
    let mut before = b' ';
    let inside = bytes.iter().all(|&byte| {
        let plain = match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b';' | b'"' | b'\'' => false,
            b'{' => before == b'$',
            _ => true,
        };
        before = byte;
        plain
    });
    // A byte order mark is dropped at the start of a file.
    inside && !matches!(first, b'}' | b'#') && !bytes.starts_with(b"\xef\xbb\xbf")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::parse::parse_text;
    use super::super::tree::failure;
    use super::*;

    /// What must survive printing: words and blocks, not places and quotes.
    fn shape(nodes: &[Node]) -> String {
        let each = nodes
            .iter()
            .filter(|node| node.failure.is_none())
            .map(|node| {
                let words: Vec<_> = node.words.iter().map(|word| &word.bytes).collect();
                format!("{words:?}{:?}", node.block.as_deref().map(shape))
            });
        each.collect()
    }

    fn reparsed(nodes: &[Node]) -> String {
        let (again, _) = parse_text(Path::new("again"), &print(nodes));
        assert!(
            failure(&again).is_none(),
            "{:?}",
            String::from_utf8_lossy(&print(nodes))
        );
        shape(&again)
    }

    #[test]
    fn printing_is_canonical() {
        let text =
            b"a  b;# c\nif ($x ~ \"\\.(a|b){2}\"){return 200 'it\\'s \"x\"';}\nl ~ \\.php$ { }";
        let expected = "a b;\nif ($x ~ \"\\.(a|b){2}\" ) {\n    return 200 \"it's \\\"x\\\"\";\n}\n\
                        l ~ \\.php$ {\n}\n";
        let (nodes, _) = parse_text(Path::new("a"), text);
        assert_eq!(String::from_utf8(print(&nodes)).unwrap(), expected);
    }

    #[test]
    fn the_dump_has_exact_bytes() {
        let (_, sources) = parse_text(Path::new("/x/a.conf"), b"a\r\n \xff;");
        let mut out = Vec::new();
        dump(&sources, &mut out).unwrap();
        assert_eq!(out, b"# configuration file /x/a.conf:\na\r\n \xff;\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn any_text_parses_and_prints_to_the_same_tree(
            text in vec(prop_oneof![
                4 => proptest::sample::select(b" \t\r\n;;{{}}\"'\\$#ab)t".as_slice()),
                1 => any::<u8>(),
            ], 0..120)
        ) {
            let (nodes, _) = parse_text(Path::new("a"), &text);
            prop_assert_eq!(reparsed(&nodes), shape(&nodes));
        }

        #[test]
        fn any_words_survive(
            words in vec(vec(prop_oneof![
                2 => proptest::sample::select(b" \t\r\n;{}\"'\\$#a)tn".as_slice()),
                1 => any::<u8>(),
            ], 0..12), 1..5)
        ) {
            let span = crate::config::Span { file: 0, line: 1, column: 1 };
            let words = words.into_iter().map(|bytes| Word::new(bytes, span)).collect();
            let nodes = [Node::new(words, span)];
            prop_assert_eq!(reparsed(&nodes), shape(&nodes));
        }
    }
}
