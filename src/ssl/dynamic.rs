//! Certificates whose files are named by variables: read for each handshake.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::observe::os_error;
use crate::ring::File;
use crate::tls::cert::{self, Problem};
use crate::tls::{Server, server};
use crate::vars::{Subject, Template};

/// The most that is read of a file, in bytes.
const FILE_MAX: usize = 1 << 20;

/// What stands before PEM that is given in place of a file.
const INLINE: &[u8] = b"data:";

/// Certificates and their keys as they are written.
pub struct Dynamic<S: 'static> {
    /// Certificate and key.
    pub pairs: Vec<(Template<S>, Template<S>)>,
    /// Where relative paths start.
    pub prefix: PathBuf,
    /// Of encrypted keys.
    pub passphrases: Vec<Vec<u8>>,
}

impl<S: Subject> Dynamic<S> {
    /// `server` with the certificates for the handshake under way, of which `s` knows the name.
    ///
    /// # Errors
    /// One cannot be loaded. The text is for the log, at `error`.
    pub async fn load(&self, s: &mut S, server: &Server) -> Result<Server, String> {
        let mut certificates = Vec::with_capacity(self.pairs.len());
        for (certificate, key) in &self.pairs {
            let one = self.load_pair(s, certificate, key).await?;
            certificates.push(Arc::new(one));
        }
        Ok(server.with_certificates(certificates))
    }

    /// The first of the certificates; none if its name comes to nothing.
    ///
    /// # Errors
    /// As [`Dynamic::load`].
    pub async fn load_first(&self, s: &mut S) -> Result<Option<CertifiedKey>, String> {
        let Some((certificate, key)) = self.pairs.first() else {
            return Ok(None);
        };
        if certificate.with(s, |_, text| text.is_empty()) {
            return Ok(None);
        }
        self.load_pair(s, certificate, key).await.map(Some)
    }

    async fn load_pair(
        &self,
        s: &mut S,
        certificate: &Template<S>,
        key: &Template<S>,
    ) -> Result<CertifiedKey, String> {
        let (chain, chain_name) = self.read(s, certificate, "certificate").await?;
        let (key, key_name) = self.read(s, key, "certificate key").await?;
        let provider = server::provider();
        cert::certified(&chain, &key, &self.passphrases, &provider).map_err(|problem| match problem
        {
            Problem::Certificate(why) => format!("cannot load certificate \"{chain_name}\": {why}"),
            Problem::Key(why) => format!(
                "cannot load certificate key \"{key_name}\": {why} (certificate \"{chain_name}\")"
            ),
        })
    }

    /// The PEM that a value means, and how to call it.
    async fn read(
        &self,
        s: &mut S,
        value: &Template<S>,
        what: &str,
    ) -> Result<(Vec<u8>, String), String> {
        let mut text = Vec::new();
        value.eval(s, &mut text);
        if let Some(pem) = text.strip_prefix(INLINE) {
            return Ok((pem.to_vec(), "data:".into()));
        }
        let path = self.prefix.join(OsStr::from_bytes(&text));
        let name = path.display().to_string();
        let read = async {
            let file = File::open(&path).await?;
            let mut content = Vec::new();
            while content.len() < FILE_MAX {
                let offset = content.len() as u64;
                let (result, piece) = file.read_at(Vec::with_capacity(16 << 10), offset).await;
                if result? == 0 {
                    break;
                }
                content.extend_from_slice(&piece);
            }
            io::Result::Ok(content)
        };
        match read.await {
            Ok(content) => Ok((content, name)),
            Err(error) => Err(format!(
                "cannot load {what} \"{name}\": it cannot be read {}",
                os_error(&error)
            )),
        }
    }
}
