//! HTTP/2 in frames: what RFC 9113 (sections 3 to 8) and RFC 7541 demand of a server. The cases are
//! in the files of this name; each runs in plain TCP with prior knowledge and in TLS.
//!
//! `RINGWAY_H2_CASE=text` runs only the cases with this text in their names. nginx is reported on,
//! not judged.

use crate::common::frames::{Check, H2};
use crate::common::tls::Identity;
use crate::common::wire::Wire;
use crate::common::*;

/// A name that begins with the section (RFC 9113, or 7541 where it says so), and what to do on a
/// connection whose settings are exchanged. The name begins with `!` if the case does that itself.
pub type Case = (&'static str, fn(&mut H2) -> Check);

/// Where a case runs.
#[derive(Clone, Copy, Debug)]
pub enum Over {
    /// Plain TCP, with prior knowledge.
    Tcp,
    /// TLS, by ALPN.
    Tls,
}

/// A server, with its backends.
pub struct Site {
    /// The server.
    pub server: Server,
    echo: Backend,
    _silent: Backend,
}

impl Site {
    /// Start one; `more` goes into its server block.
    pub fn start(more: &str) -> Site {
        let (echo, silent) = (Backend::echo(), Backend::silent());
        let own = Identity::new(&["localhost"]);
        let (listen, http2) = match is_nginx() {
            true => ("http2", ""),
            false => ("", "http2 on;"),
        };
        let server = Setup::http(&format!(
            "server {{
                listen 127.0.0.1:%%P0%% {listen};
                listen 127.0.0.1:%%P1%% ssl {listen};
                {http2}
                ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
                client_max_body_size 0;
                location / {{ proxy_pass http://127.0.0.1:%%B0%%; proxy_http_version 1.1; }}
                location /hold {{ proxy_pass http://127.0.0.1:%%B1%%; }}
                location /stuck {{ proxy_pass http://127.0.0.1:%%B1%%; proxy_http_version 1.1;
                    proxy_request_buffering off; }}
                location /ok {{ return 200 ok; }}
                location /empty {{ return 204; }}
                location /big {{ alias %%DIR%%/big; }}
                {more}
            }}"
        ));
        let server = server
            .backends(&[&echo, &silent])
            .file("c.pem", own.cert)
            .file("k.pem", own.key)
            .file("big", Rng(2).bytes(BIG))
            .start();
        Site {
            server,
            echo,
            _silent: silent,
        }
    }

    /// Connect.
    #[track_caller]
    pub fn connect(&self, over: Over) -> H2 {
        H2::over(match over {
            Over::Tcp => Wire::tcp(self.server.port(0)),
            Over::Tls => Wire::tls(self.server.port(1), &["h2"]),
        })
    }
}

/// The length of `/big`.
pub const BIG: usize = 200_000;

/// Run all cases and tell which fail.
#[track_caller]
pub fn run(over: Over, cases: &[Case]) {
    let site = Site::start("");
    let only = std::env::var("RINGWAY_H2_CASE").unwrap_or_default();
    let (mut failures, mut lines) = (Vec::new(), 0);
    for (name, case) in cases.iter().filter(|case| case.0.contains(&only)) {
        let before = site.echo.requests();
        let mut client = site.connect(over);
        let started = match name.starts_with('!') {
            true => Ok(()),
            false => client.start(&[]),
        };
        let mut result = started.and_then(|()| case(&mut client));
        if name.contains("malformed") && result.is_ok() && site.echo.requests() > before {
            result = Err("it reached the backend".into());
        }
        if result.is_ok() && client.was_refused() {
            lines += 1;
            if !holds_within(PATIENCE, || logged(&site) >= lines) {
                result = Err("nothing is in the error log".into());
            }
        }
        lines = logged(&site);
        if let Err(e) = result {
            failures.push(format!("{name}: {e}"));
        }
    }
    if failures.is_empty() {
        return;
    }
    let (failed, all) = (failures.len(), cases.len());
    let text = format!(
        "{failed} of {all} fail ({over:?}):\n  {}",
        failures.join("\n  ")
    );
    match is_nginx() {
        true => eprintln!("{text}"),
        false => panic!("{text}\n{}", site.server.error_log()),
    }
}

/// Lines in the error log about what clients did.
fn logged(site: &Site) -> usize {
    if is_nginx() {
        return usize::MAX - 1;
    }
    let log = site.server.error_log();
    log.matches(" client sent ").count() + log.matches(" client broke ").count()
}
