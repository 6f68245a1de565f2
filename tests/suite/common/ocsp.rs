//! An OCSP responder: `openssl ocsp` behind an HTTP server of the test.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, CustomExtension, SerialNumber};

use super::backend::{Backend, Req};
use super::tls::{Authority, Identity};

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A responder on 127.0.0.1, running until dropped.
pub struct Responder {
    /// Where it listens.
    pub backend: Backend,
    state: Arc<Mutex<State>>,
}

struct State {
    dir: PathBuf,
    /// Serial numbers and `V` for good or `R` for revoked.
    known: Vec<(u8, char)>,
    /// How long answers hold.
    options: Vec<String>,
    /// What is answered in place of that.
    instead: Option<Vec<u8>>,
}

impl Responder {
    /// One that signs as the authority and knows no certificate.
    pub fn start(ca: &Authority) -> Responder {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringway-ocsp-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("ca.pem"), &ca.cert).unwrap();
        let state = Arc::new(Mutex::new(State {
            dir,
            known: Vec::new(),
            options: vec!["-nmin".into(), "60".into()],
            instead: None,
        }));
        let shared = Arc::clone(&state);
        let backend = Backend::http(move |req| shared.lock().unwrap().answer(req));
        let responder = Responder { backend, state };
        responder.sign_as(&ca.cert, &ca.key);
        responder
    }

    /// Its URL, with `localhost` as the host.
    pub fn url(&self) -> String {
        format!("http://localhost:{}", self.backend.port)
    }

    /// The certificate with this number is good (`V`) or revoked (`R`).
    pub fn set(&self, serial: u8, status: char) {
        let known = &mut self.state.lock().unwrap().known;
        known.retain(|(other, _)| *other != serial);
        known.push((serial, status));
    }

    /// Signs with another certificate and key from now on.
    pub fn sign_as(&self, cert: &str, key: &str) {
        let dir = &self.state.lock().unwrap().dir;
        fs::write(dir.join("signer.pem"), cert).unwrap();
        fs::write(dir.join("signer.key"), key).unwrap();
    }

    /// As `openssl ocsp` is told how long answers hold; nothing, and they do not say.
    pub fn options(&self, options: &[&str]) {
        self.state.lock().unwrap().options = options.iter().map(ToString::to_string).collect();
    }

    /// Answers like this whatever is asked.
    pub fn answer_with(&self, answer: impl Into<Vec<u8>>) {
        self.state.lock().unwrap().instead = Some(answer.into());
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.backend.requests()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Ok(state) = self.state.lock() {
            let _ = fs::remove_dir_all(&state.dir);
        }
    }
}

impl State {
    fn answer(&self, req: &Req) -> Vec<u8> {
        if let Some(instead) = &self.instead {
            return instead.clone();
        }
        let question = req.target.rsplit('/').next().unwrap();
        fs::write(self.dir.join("request"), decode(question)).unwrap();
        let mut index = String::new();
        for (serial, status) in &self.known {
            let revoked = if *status == 'R' { "260101000000Z" } else { "" };
            writeln!(
                index,
                "{status}\t491231235959Z\t{revoked}\t{serial:02X}\tunknown\t/CN={serial}"
            )
            .unwrap();
        }
        fs::write(self.dir.join("index"), index).unwrap();
        let output = Command::new("openssl")
            .current_dir(&self.dir)
            .args(["ocsp", "-index", "index", "-CA", "ca.pem"])
            .args(["-rsigner", "signer.pem", "-rkey", "signer.key"])
            .args(["-reqin", "request", "-respout", "response"])
            .args(&self.options)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        answer(&fs::read(self.dir.join("response")).unwrap())
    }
}

/// A response in an answer of HTTP.
pub fn answer(response: &[u8]) -> Vec<u8> {
    let kind = "Content-Type: application/ocsp-response\r\n";
    super::resp("200 OK", kind, response)
}

/// Base64 in a URL.
fn decode(text: &str) -> Vec<u8> {
    let text = text
        .replace("%2B", "+")
        .replace("%2F", "/")
        .replace("%3D", "");
    let digit = |c: char| match c {
        'A'..='Z' => c as u32 - 'A' as u32,
        'a'..='z' => c as u32 - 'a' as u32 + 26,
        '0'..='9' => c as u32 - '0' as u32 + 52,
        '+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    let (mut bits, mut count) = (0, 0);
    for c in text.trim_end_matches('=').chars() {
        (bits, count) = ((bits << 6 | digit(c)) & 0xffff, count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

impl Authority {
    /// A certificate with this number that names a responder.
    pub fn sign_for(&self, names: &[&str], serial: u8, responder: &str) -> Identity {
        self.sign_with(names, |params| name_responder(params, serial, responder))
    }

    /// Another authority below it, with this number, that names a responder.
    pub fn below(&self, name: &str, serial: u8, responder: &str) -> Authority {
        self.authority(name, |params| name_responder(params, serial, responder))
    }
}

/// Puts in the extension with one AccessDescription of id-ad-ocsp with a URI.
fn name_responder(params: &mut CertificateParams, serial: u8, url: &str) {
    params.serial_number = Some(SerialNumber::from(vec![serial]));
    if url.is_empty() {
        return;
    }
    let uri = [&[0x86, url.len() as u8], url.as_bytes()].concat();
    let oid = [6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1];
    let one = [&[0x30, (oid.len() + uri.len()) as u8], &oid[..], &uri].concat();
    let list = [&[0x30, one.len() as u8], &one[..]].concat();
    let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], list);
    params.custom_extensions.push(extension);
}
