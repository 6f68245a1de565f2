//! A normal path begins with a slash, has no dot segments, and stays as it is when sent again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::uri::{Escape, escape, normalize};

fuzz_target!(|data: (bool, &[u8])| {
    let (merge_slashes, target) = data;
    let mut path = Vec::new();
    let Ok(uri) = normalize(target, merge_slashes, &mut path) else {
        return;
    };
    if uri.simple {
        assert!(path.is_empty());
        path.extend_from_slice(uri.path.of(target));
    }
    assert_eq!(path.first(), Some(&b'/'));
    assert!(
        path.split(|byte| *byte == b'/')
            .all(|part| part != b"." && part != b"..")
    );
    let mut sent = Vec::new();
    escape(&path, Escape::Path, &mut sent);
    let mut again = Vec::new();
    // A NUL is the one byte that a normal path cannot hold unless it was sent raw.
    if path.contains(&0) {
        return;
    }
    let uri = normalize(&sent, merge_slashes, &mut again).expect("a normal path is a path");
    let again = if uri.simple {
        uri.path.of(&sent)
    } else {
        &again[..]
    };
    assert_eq!(again, path);
});
