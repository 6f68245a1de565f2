//! Secret keys from PEM: PKCS#8, PKCS#1 and SEC 1, plain or encrypted.
//!
//! Encrypted keys come in two shapes: PKCS#8 with PBES2 (RFC 8018, 6.2), which OpenSSL writes
//! today, and the older encryption of the PEM text itself (`Proc-Type: 4,ENCRYPTED`, RFC 1421).

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{self, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use md5::{Digest, Md5};
use pem::Pem;
use rustls::pki_types::PrivateKeyDer;

use super::der::{self, Reader};

/// The key in a PEM file. For an encrypted one the passphrases are tried in their order.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn parse(text: &[u8], passphrases: &[Vec<u8>]) -> Result<PrivateKeyDer<'static>, String> {
    let sections = pem::parse_many(text).map_err(|error| error.to_string())?;
    let section = sections
        .into_iter()
        .find(|section| section.tag().ends_with("PRIVATE KEY"));
    let Some(section) = section else {
        return Err("no \"-----BEGIN … PRIVATE KEY-----\" in it".into());
    };
    let is_encrypted = section.tag() == "ENCRYPTED PRIVATE KEY"
        || section
            .headers()
            .get("Proc-Type")
            .is_some_and(|value| value.contains("ENCRYPTED"));
    if !is_encrypted {
        return typed(section.tag(), section.contents().to_vec());
    }
    if passphrases.is_empty() {
        return Err("it is encrypted, and there is no ssl_password_file".into());
    }
    let mut problem = String::new();
    for passphrase in passphrases {
        match decrypted(&section, passphrase) {
            Ok(key) => return Ok(key),
            Err(why) => problem = why,
        }
    }
    Err(problem)
}

/// The passphrases of an `ssl_password_file`: its lines.
pub fn passphrases(text: &[u8]) -> Vec<Vec<u8>> {
    text.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

fn typed(tag: &str, der: Vec<u8>) -> Result<PrivateKeyDer<'static>, String> {
    match tag {
        "PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs8(der.into())),
        "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(der.into())),
        "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(der.into())),
        _ => Err(format!("a \"{tag}\" is not supported")),
    }
}

const WRONG: &str = "none of the passphrases is its own";

fn decrypted(section: &Pem, passphrase: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    if section.tag() == "ENCRYPTED PRIVATE KEY" {
        let key = open_pbes2(section.contents(), passphrase)?;
        return typed("PRIVATE KEY", key);
    }
    let info = section.headers().get("DEK-Info").unwrap_or_default();
    let (name, iv) = info.split_once(',').unwrap_or((info, ""));
    let cipher =
        Cipher::named(name).ok_or_else(|| format!("its encryption \"{name}\" is not supported"))?;
    let iv = unhex(iv.trim()).filter(|iv| iv.len() == cipher.iv_len());
    let iv = iv.ok_or("its DEK-Info has no valid initialisation vector")?;
    // OpenSSL derives the key with MD5 and takes the first eight octets of the vector for salt.
    let key = derive_md5(passphrase, &iv[..8], cipher.key_len());
    let plain = cipher.open(&key, &iv, section.contents()).ok_or(WRONG)?;
    typed(section.tag(), plain)
}

/// A block cipher in CBC mode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
}

impl Cipher {
    /// By the name in a `DEK-Info`.
    fn named(name: &str) -> Option<Cipher> {
        Some(match name.trim() {
            "AES-128-CBC" => Cipher::Aes128,
            "AES-192-CBC" => Cipher::Aes192,
            "AES-256-CBC" => Cipher::Aes256,
            "DES-EDE3-CBC" => Cipher::TripleDes,
            _ => return None,
        })
    }

    /// By its object identifier.
    fn with_oid(oid: &[u8]) -> Option<Cipher> {
        Some(match oid {
            [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 2] => Cipher::Aes128,
            [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 22] => Cipher::Aes192,
            [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42] => Cipher::Aes256,
            [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7] => Cipher::TripleDes,
            _ => return None,
        })
    }

    fn key_len(self) -> usize {
        match self {
            Cipher::Aes128 => 16,
            Cipher::Aes192 | Cipher::TripleDes => 24,
            Cipher::Aes256 => 32,
        }
    }

    fn iv_len(self) -> usize {
        if self == Cipher::TripleDes { 8 } else { 16 }
    }

    #[expect(
        deprecated,
        reason = "old keys are encrypted with it; it is only taken off"
    )]
    fn open(self, key: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let algorithm = match self {
            Cipher::Aes128 => &cipher::AES_128,
            Cipher::Aes192 => &cipher::AES_192,
            Cipher::Aes256 => &cipher::AES_256,
            Cipher::TripleDes => &cipher::DES_EDE3_FOR_LEGACY_USE_ONLY,
        };
        let context = if self == Cipher::TripleDes {
            DecryptionContext::Iv64(FixedLength::from(<[u8; 8]>::try_from(iv).ok()?))
        } else {
            DecryptionContext::Iv128(FixedLength::from(<[u8; 16]>::try_from(iv).ok()?))
        };
        let key = UnboundCipherKey::new(algorithm, key).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let mut plain = sealed.to_vec();
        let length = key.decrypt(&mut plain, context).ok()?.len();
        plain.truncate(length);
        // One padding in 256 looks right by chance: what comes out must also look like a key.
        Reader::new(&plain).sequence().is_some().then_some(plain)
    }
}

/// `EncryptedPrivateKeyInfo` with PBES2: PBKDF2 and a block cipher.
fn open_pbes2(der: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, String> {
    const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
    const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
    let damaged = || "it is damaged".to_owned();
    let unsupported = || "its encryption is not supported".to_owned();
    let mut whole = Reader::new(der).sequence().ok_or_else(damaged)?;
    let mut scheme = whole.sequence().ok_or_else(damaged)?;
    let sealed = whole.expect(der::OCTET_STRING).ok_or_else(damaged)?;
    if scheme.expect(der::OID).ok_or_else(damaged)?.content != PBES2 {
        return Err(unsupported());
    }
    let mut scheme = scheme.sequence().ok_or_else(damaged)?;
    let mut derivation = scheme.sequence().ok_or_else(damaged)?;
    let mut encryption = scheme.sequence().ok_or_else(damaged)?;
    if derivation.expect(der::OID).ok_or_else(damaged)?.content != PBKDF2 {
        return Err(unsupported());
    }
    let (salt, rounds, hash) = pbkdf2_parameters(derivation).ok_or_else(unsupported)?;
    let oid = encryption.expect(der::OID).ok_or_else(damaged)?;
    let cipher = Cipher::with_oid(oid.content).ok_or_else(unsupported)?;
    let iv = encryption.expect(der::OCTET_STRING).ok_or_else(damaged)?;
    let mut key = vec![0; cipher.key_len()];
    pbkdf2::derive(hash, rounds, salt, passphrase, &mut key);
    let plain = cipher.open(&key, iv.content, sealed.content);
    plain.ok_or_else(|| WRONG.into())
}

/// Salt, rounds and hash of PBKDF2.
fn pbkdf2_parameters(mut of: Reader<'_>) -> Option<(&[u8], NonZeroU32, pbkdf2::Algorithm)> {
    let mut parameters = of.sequence()?;
    let salt = parameters.expect(der::OCTET_STRING)?.content;
    let rounds = parameters.expect(der::INTEGER)?.number()?;
    parameters.optional(der::INTEGER);
    let hash = match parameters.optional(der::SEQUENCE) {
        None => pbkdf2::PBKDF2_HMAC_SHA1,
        Some(hash) => match hash.reader().expect(der::OID)?.content.split_last()? {
            (7, [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2]) => pbkdf2::PBKDF2_HMAC_SHA1,
            (9, [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2]) => pbkdf2::PBKDF2_HMAC_SHA256,
            (10, [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2]) => pbkdf2::PBKDF2_HMAC_SHA384,
            (11, [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2]) => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return None,
        },
    };
    Some((salt, NonZeroU32::new(rounds)?, hash))
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one round.
fn derive_md5(passphrase: &[u8], salt: &[u8], length: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(length + 16);
    let mut last = Vec::new();
    while key.len() < length {
        let mut hash = Md5::new();
        hash.update(&last);
        hash.update(passphrase);
        hash.update(salt);
        last = hash.finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(length);
    key
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)
            .ok()
            .filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl ecparam -name prime256v1 -genkey -noout`, encrypted in each of the ways with the
    /// passphrase "secret".
    const PLAIN: &str = include_str!("testdata/ec.key");
    const PBES2: &str = include_str!("testdata/ec-pbes2.key");
    const PBES2_3DES: &str = include_str!("testdata/ec-pbes2-3des.key");
    const OLD_AES: &str = include_str!("testdata/ec-old-aes.key");
    const OLD_3DES: &str = include_str!("testdata/ec-old-3des.key");

    #[test]
    fn encrypted_keys_are_decrypted() {
        let plain = parse(PLAIN.as_bytes(), &[]).unwrap();
        let words = passphrases(b"wrong\r\nsecret\n\n");
        assert_eq!(words.len(), 2);
        for text in [OLD_AES, OLD_3DES] {
            assert_eq!(parse(text.as_bytes(), &words), Ok(plain.clone_key()));
        }
        for text in [PBES2, PBES2_3DES] {
            let key = parse(text.as_bytes(), &words).unwrap();
            assert!(matches!(&key, PrivateKeyDer::Pkcs8(_)));
            // The same number is in both shapes.
            let number = &plain.secret_der()[7..39];
            assert!(key.secret_der().windows(32).any(|part| part == number));
        }
        for text in [PBES2, OLD_AES] {
            let wrong = parse(text.as_bytes(), &passphrases(b"nothing"));
            assert_eq!(wrong, Err(WRONG.into()));
            let none = parse(text.as_bytes(), &[]).unwrap_err();
            assert!(none.contains("ssl_password_file"), "{none}");
        }
    }
}
