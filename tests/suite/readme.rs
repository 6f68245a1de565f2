//! The configurations in README.md do what it says of them, with addresses exchanged and nothing
//! else.

use crate::common::*;
use crate::stream_ssl_preread::{hello, named};

const README: &str = include_str!("../../README.md");

/// The one block of configuration in README that has `mark` in it, as a whole file. `addresses` are
/// what becomes of the addresses in it.
fn configuration(mark: &str, addresses: &[(&str, &str)]) -> String {
    let blocks = README.split("```nginx\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    let found: Vec<&str> = blocks.filter(|block| block.contains(mark)).collect();
    let [block] = found[..] else {
        panic!("{} blocks with {mark}", found.len());
    };
    let mut conf = format!("%%MODULES%%\nevents {{}}\n{block}");
    for (old, new) in addresses {
        assert!(conf.contains(old), "{old} in {conf}");
        conf = conf.replace(old, new);
    }
    conf
}

#[test]
fn a_database_has_a_standby() {
    let (mut first, standby) = (named("first"), named("standby"));
    let addresses = [
        ("listen 5432", "listen 127.0.0.1:%%P0%%"),
        ("10.0.0.2:5432", "127.0.0.1:%%B0%%"),
        ("10.0.0.3:5432", "127.0.0.1:%%B1%%"),
    ];
    let conf = configuration("upstream db", &addresses);
    let s = full(&conf, &[&first, &standby]);
    let answer = || s.connect().send("select").rest();
    assert_eq!(answer(), b"first");
    first.stop();
    assert_eq!(answer(), b"standby");
    assert_eq!(answer(), b"standby");
}

#[test]
fn tls_goes_by_its_name_and_ssh_beside_it() {
    let [shop, api, other, ssh] = ["shop", "api", "other", "ssh"].map(named);
    let addresses = [
        ("listen 443", "listen 127.0.0.1:%%P0%%"),
        ("10.0.0.4:443", "127.0.0.1:%%B0%%"),
        ("10.0.0.5:443", "127.0.0.1:%%B1%%"),
        ("10.0.0.6:443", "127.0.0.1:%%B2%%"),
        ("10.0.0.7:22", "127.0.0.1:%%B3%%"),
    ];
    let conf = configuration("ssl_preread on", &addresses);
    let s = full(&conf, &[&shop, &api, &other, &ssh]);
    let answer = |bytes: &[u8]| String::from_utf8(s.connect().send(bytes).rest()).unwrap();
    for (name, expected) in [
        ("shop.example", "shop"),
        ("v2.api.example", "api"),
        ("www.example", "other"),
        ("", "other"),
    ] {
        assert_eq!(answer(&hello(name, &[], true, 1000)), expected, "{name}");
    }
    assert_eq!(answer(b"SSH-2.0-OpenSSH_9.2\r\n"), "ssh");
}
