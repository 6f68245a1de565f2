//! `cargo fuzz run config`: no text makes the configuration parser panic, and what it prints of a
//! text parses again to the same.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ringway::config::{failure, parse_text, print};

fuzz_target!(|text: &[u8]| {
    let (nodes, sources) = parse_text(Path::new("fuzz.conf"), text);
    if let Some(error) = failure(&nodes) {
        error.render(&sources);
    }
    let printed = print(&nodes);
    let (again, _) = parse_text(Path::new("again.conf"), &printed);
    assert_eq!(failure(&again), None);
    assert_eq!(print(&again), printed);
});
