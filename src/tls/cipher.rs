//! OpenSSL's notation for ciphers, groups and versions, and what of it there is here.

use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite};

/// A cipher suite of TLS 1.2 with what OpenSSL knows of it.
struct Suite {
    /// OpenSSL's name.
    name: &'static str,
    suite: SupportedCipherSuite,
    /// The classes it is in, beside those that all are in.
    classes: &'static [&'static str],
}

/// In the order that OpenSSL gives them: the strongest first.
const SUITES: [Suite; 6] = [
    Suite {
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite: aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        classes: &["aECDSA", "ECDSA", "AES", "AES256", "AESGCM", "FIPS"],
    },
    Suite {
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        suite: aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        classes: &["aRSA", "AES", "AES256", "AESGCM", "FIPS"],
    },
    Suite {
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite: aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        classes: &["aECDSA", "ECDSA", "CHACHA20"],
    },
    Suite {
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        suite: aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        classes: &["aRSA", "CHACHA20"],
    },
    Suite {
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite: aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        classes: &["aECDSA", "ECDSA", "AES", "AES128", "AESGCM", "FIPS"],
    },
    Suite {
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        suite: aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        classes: &["aRSA", "AES", "AES128", "AESGCM", "FIPS"],
    },
];

/// The classes that all of [`SUITES`] are in.
const COMMON: [&str; 10] = [
    "ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "ECDH", "TLSv1.2", "AEAD",
];

/// What OpenSSL has by these names and no suite here belongs to.
const EMPTY: &[&str] = &[
    "aNULL",
    "eNULL",
    "NULL",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "LOW",
    "MEDIUM",
    "RC4",
    "RC2",
    "DES",
    "3DES",
    "MD5",
    "SHA",
    "SHA1",
    "SHA256",
    "SHA384",
    "PSK",
    "kPSK",
    "aPSK",
    "ECDHEPSK",
    "DHEPSK",
    "RSAPSK",
    "SRP",
    "kSRP",
    "aSRP",
    "DSS",
    "aDSS",
    "RSA",
    "kRSA",
    "DH",
    "DHE",
    "EDH",
    "kDHE",
    "kEDH",
    "ADH",
    "AECDH",
    "kDHr",
    "kDHd",
    "kDH",
    "aDH",
    "kECDHr",
    "kECDHe",
    "kECDH",
    "aECDH",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "SEED",
    "IDEA",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "GOST",
    "aGOST",
    "kGOST",
    "AESCCM",
    "AESCCM8",
    "CBC",
    "SSLv2",
    "SSLv3",
    "TLSv1",
    "TLSv1.0",
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
];

/// What a list came to.
#[derive(Debug)]
pub struct Chosen<T> {
    /// In order of preference.
    pub items: Vec<T>,
    /// Names that were asked for and are not there.
    pub without_meaning: Vec<String>,
}

/// The suites of TLS 1.2 that a list in OpenSSL's notation (`ssl_ciphers`) leaves.
pub fn suites(list: &str) -> Chosen<SupportedCipherSuite> {
    let mut active: Vec<&Suite> = Vec::new();
    let mut dead: Vec<&str> = Vec::new();
    let mut without_meaning = Vec::new();
    for word in list.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        let (sign, name) = match word.as_bytes()[0] {
            sign @ (b'!' | b'-' | b'+') => (sign, &word[1..]),
            // @STRENGTH sorts as they are sorted anyway, @SECLEVEL rules out what is not here.
            b'@' => continue,
            _ => (b'=', word),
        };
        let found = || SUITES.iter().filter(|suite| suite.is_in(name));
        let is_in = |of: &&Suite| found().any(|suite| suite.name == of.name);
        match sign {
            b'!' => {
                active.retain(|suite| !is_in(suite));
                dead.extend(found().map(|suite| suite.name));
            }
            b'-' => active.retain(|suite| !is_in(suite)),
            b'+' => active.sort_by_key(|suite| is_in(suite)),
            _ => {
                for suite in found() {
                    let is_new = active.iter().all(|known| known.name != suite.name);
                    if is_new && !dead.contains(&suite.name) {
                        active.push(suite);
                    }
                }
                if found().next().is_none() && !is_empty_class(name) {
                    without_meaning.push(name.to_owned());
                }
            }
        }
    }
    Chosen {
        items: active.iter().map(|suite| suite.suite).collect(),
        without_meaning,
    }
}

impl Suite {
    /// Whether it is what a name, a class or a conjunction (`ECDHE+AESGCM`) means.
    fn is_in(&self, name: &str) -> bool {
        name.split('+').all(|class| {
            self.name == class
                || standard_name(self.suite.suite()) == class
                || COMMON.contains(&class)
                || self.classes.contains(&class)
        })
    }
}

fn is_empty_class(name: &str) -> bool {
    let is_known = |class: &str| EMPTY.contains(&class) || COMMON.contains(&class);
    name.split('+').any(is_known)
}

/// The suites of TLS 1.3 that a list (`ssl_conf_command Ciphersuites`) names.
pub fn suites13(list: &str) -> Chosen<SupportedCipherSuite> {
    let known = aws_lc_rs::ALL_CIPHER_SUITES;
    choose(list, |name| {
        let mut of13 = known.iter().filter(|suite| suite.tls13().is_some());
        of13.find(|suite| standard_name(suite.suite()) == name)
            .copied()
    })
}

/// The suites of TLS 1.3 by default.
pub fn all_suites13() -> Vec<SupportedCipherSuite> {
    let all = aws_lc_rs::DEFAULT_CIPHER_SUITES.iter();
    all.filter(|suite| suite.tls13().is_some())
        .copied()
        .collect()
}

type Group = &'static dyn SupportedKxGroup;

/// The groups that a list (`ssl_ecdh_curve`) names.
pub fn groups(list: &str) -> Chosen<Group> {
    choose(list, |name| {
        // A question mark says that a name may be unknown.
        let name = name.trim_start_matches(['?', '*', '-']);
        Some(match &*name.to_ascii_lowercase() {
            "auto" | "x25519" => aws_lc_rs::kx_group::X25519,
            "p-256" | "prime256v1" | "secp256r1" => aws_lc_rs::kx_group::SECP256R1,
            "p-384" | "secp384r1" => aws_lc_rs::kx_group::SECP384R1,
            "x25519mlkem768" => aws_lc_rs::kx_group::X25519MLKEM768,
            "secp256r1mlkem768" => aws_lc_rs::kx_group::SECP256R1MLKEM768,
            _ => return None,
        })
    })
}

/// The groups by default, in the order that OpenSSL 3.5 and later has them.
pub fn default_groups() -> Vec<Group> {
    vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ]
}

fn choose<T>(list: &str, mut find: impl FnMut(&str) -> Option<T>) -> Chosen<T> {
    let mut chosen = Chosen {
        items: Vec::new(),
        without_meaning: Vec::new(),
    };
    for name in list.split([':', ',', ' ']).filter(|name| !name.is_empty()) {
        match find(name) {
            Some(item) => chosen.items.push(item),
            None => chosen.without_meaning.push(name.to_owned()),
        }
    }
    chosen
}

/// A suite's name in OpenSSL: `$ssl_cipher`.
pub fn openssl_name(suite: CipherSuite) -> &'static str {
    let of12 = SUITES.iter().find(|known| known.suite.suite() == suite);
    of12.map_or_else(|| standard_name(suite), |known| known.name)
}

fn standard_name(suite: CipherSuite) -> &'static str {
    match suite {
        // Those of TLS 1.3 have no key exchange in their names; rustls puts the version there.
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => suite.as_str().unwrap_or_default(),
    }
}

/// A version's name: `$ssl_protocol`.
pub fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "TLSv1.3",
    }
}

/// A group's name in OpenSSL: `$ssl_curve`.
pub fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::secp521r1 => "secp521r1",
        _ => group.as_str().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> String {
        let chosen = suites(list);
        let names = chosen.items.iter().map(|s| openssl_name(s.suite()));
        names.collect::<Vec<_>>().join(":")
    }

    /// What `openssl ciphers -s -tls1_2 LIST` prints, without the suites that are not here.
    #[test]
    fn lists_mean_what_openssl_means() {
        const ALL: &str = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
            ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:\
            ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256";
        for list in [
            "HIGH:!aNULL:!MD5",
            "DEFAULT",
            "ALL:!EXPORT:!LOW",
            "EECDH:@STRENGTH",
        ] {
            assert_eq!(names(list), ALL, "{list}");
        }
        for (list, expected) in [
            (
                "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:AES128-SHA",
                "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
            ),
            (
                "ECDHE+AESGCM:!aECDSA",
                "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",
            ),
            (
                "aRSA:+AES256:-CHACHA20",
                "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
            ),
            (
                "!AES:HIGH",
                "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305",
            ),
            (
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "ECDHE-RSA-AES128-GCM-SHA256",
            ),
            ("kRSA", ""),
            ("AES128-SHA:DHE-RSA-AES256-GCM-SHA384", ""),
        ] {
            assert_eq!(names(list), expected, "{list}");
        }
    }

    #[test]
    fn names_without_meaning_are_told() {
        let chosen = suites("AES128-SHA:HIGH:kRSA+AES:!RC4:Foo");
        assert_eq!(chosen.without_meaning, ["AES128-SHA", "Foo"]);
        let chosen = groups("X25519:secp521r1:prime256v1");
        let named: Vec<_> = chosen.items.iter().map(|g| group_name(g.name())).collect();
        assert_eq!(named, ["X25519", "prime256v1"]);
        assert_eq!(chosen.without_meaning, ["secp521r1"]);
        let chosen = suites13("TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256");
        assert_eq!(chosen.items.len(), 1);
        assert_eq!(chosen.without_meaning, ["TLS_AES_128_CCM_SHA256"]);
    }
}
