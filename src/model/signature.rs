//! Who made a model: an ed25519 signature over its file, and whom a node trusts.
//!
//! `cli model` signs and makes keys, `session` asks [`Trust`] before a file's content is looked at. The signature is
//! one more entry of `metadata_props`, written behind the last byte (a protobuf message may be continued by appending),
//! so that signing changes nothing in front of it: what is signed is the SHA-256 of all that came before. It promises
//! that one changed bit anywhere is found. It does not keep private keys: they are files of whoever signs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tracing::warn;
use tract_onnx::pb;

use super::ModelError;
use super::metadata::json;
use super::onnx::hex;

/// The key of the entry.
const KEY: &str = "forebay.signature";
/// The note of the digests of files beside it.
pub(super) const BESIDE: &str = "forebay.beside";
/// What is signed begins with this, so that a signature means nothing for any other purpose.
const CONTEXT: &[u8] = b"forebay model signature 1\n";
/// Hex digits of a key's name.
const NAME: usize = 16;

/// A public key, written as 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Its short name, which signatures carry.
    pub fn name(&self) -> String {
        hex(&Sha256::digest(self.0)).chars().take(NAME).collect()
    }

    /// The key that somebody names: by its 64 hex digits, or by a file of these or of the private key.
    pub fn named(text: &str) -> Result<PublicKey, String> {
        let path = Path::new(text);
        if !path.is_file() {
            return text.parse().map_err(|error| format!("{error}, or the file of a key"));
        }
        if let Ok(key) = SigningKey::read(path) {
            return Ok(key.public());
        }
        let digits = std::fs::read_to_string(path).map_err(|e| format!("{text}: {e}"))?;
        digits.trim().parse().map_err(|_| format!("{text} holds no ed25519 key, private or public"))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<PublicKey, String> {
        let bytes = unhex(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(PublicKey).ok_or_else(|| {
            "a public key is 64 hex digits, as `forebay model keygen` prints them".to_owned()
        })
    }
}

/// Why something could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key's file cannot be read.
    #[error("the private key {path} cannot be read: {reason}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// It holds no ed25519 key.
    #[error(
        "{path} holds no ed25519 private key (PKCS#8, PEM): make one with `forebay model keygen`"
    )]
    NotEd25519 {
        /// The file.
        path: String,
    },
    /// The system has no randomness to make one from.
    #[error("no key can be made: the system gives no random numbers")]
    Random,
}

/// A private key.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new one, and the PEM file to keep it in.
    pub fn make() -> Result<(SigningKey, String), KeyError> {
        let random = SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| KeyError::Random)?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| KeyError::Random)?;
        let body = BASE64_STANDARD.encode(document.as_ref());
        let lines: Vec<&str> = (0..body.len())
            .step_by(64)
            .filter_map(|at| body.get(at..body.len().min(at + 64)))
            .collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        Ok((SigningKey(pair), pem))
    }

    /// Reads one from a PEM file: ours, or `openssl genpkey -algorithm ed25519`'s.
    pub fn read(path: &Path) -> Result<SigningKey, KeyError> {
        let shown = || path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|e| KeyError::Read { path: shown(), reason: e.to_string() })?;
        let foreign = |_| KeyError::NotEd25519 { path: shown() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(&bytes).map_err(foreign)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map(SigningKey)
            .map_err(|_| KeyError::NotEd25519 { path: shown() })
    }

    /// The key that others check with.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// The file `bytes` with this key's signature; one that was there is replaced. `beside` are the digests of the files
    /// that hold its weights, where it has some: they are noted, and so signed too.
    pub fn sign(&self, bytes: &[u8], beside: &BTreeMap<String, String>) -> Vec<u8> {
        let (unsigned, _) = split(bytes);
        let mut signed = unsigned.to_vec();
        let noted = note(BESIDE, &json(beside));
        if !beside.is_empty() && !signed.ends_with(&noted) {
            signed.extend(noted);
        }
        let signature = self.0.sign(&message(&signed));
        signed.extend(entry(&self.public().name(), signature.as_ref()));
        signed
    }
}

/// A signature, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The name of the key that made it, as it says.
    pub key: String,
    bytes: Vec<u8>,
}

/// A file without its signature, and the signature.
pub fn split(file: &[u8]) -> (&[u8], Option<Signature>) {
    let size = entry(&"0".repeat(NAME), &[0; 64]).len();
    let unsigned = (file, None);
    let Some((front, last)) = file.len().checked_sub(size).map(|at| file.split_at(at)) else {
        return unsigned;
    };
    let Ok(proto) = pb::ModelProto::decode(last) else { return unsigned };
    let [note] = proto.metadata_props.as_slice() else { return unsigned };
    let parts: Vec<&str> = note.value.split(':').collect();
    match (note.key.as_str(), parts.as_slice()) {
        (KEY, ["ed25519", key, digits]) => match unhex(digits) {
            // Written otherwise it would say the same, and one signed model would have many digests.
            Some(bytes) if entry(key, &bytes) == last => {
                (front, Some(Signature { key: (*key).to_owned(), bytes }))
            }
            _ => unsigned,
        },
        _ => unsigned,
    }
}

/// Whom a node believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    keys: Vec<PublicKey>,
    required: bool,
}

impl Trust {
    /// Believes these keys; where `required`, nobody else.
    pub fn new(keys: Vec<PublicKey>, required: bool) -> Trust {
        Trust { keys, required }
    }

    /// Whether a model without a signature of one of the keys is refused.
    pub fn requires(&self) -> bool {
        self.required
    }

    /// Who signed the file `bytes`; an error if a signature is wrong, or missing where one is required.
    pub(super) fn check(&self, path: &Path, bytes: &[u8]) -> Result<Option<PublicKey>, ModelError> {
        let refused = |reason: String| Err(ModelError::Untrusted { path: path.to_owned(), reason });
        let unless_required = |reason: String| {
            if self.required {
                return refused(reason);
            }
            if !self.keys.is_empty() {
                let path = path.display();
                warn!(%path, "the model {reason}; it is used all the same, unless `models.require_signature` is set");
            }
            Ok(None)
        };
        let (unsigned, signature) = split(bytes);
        let Some(signature) = signature else {
            return unless_required(if bytes.is_empty() {
                "is empty; put models in their place by renaming, as `mv` does".into()
            } else {
                "is not signed, or cut short; sign it with `forebay model sign`".into()
            });
        };
        let Some(key) = self.keys.iter().find(|key| key.name() == signature.key) else {
            return unless_required(format!(
                "is signed with the key {}, which `models.keys` does not hold",
                signature.key
            ));
        };
        match UnparsedPublicKey::new(&ED25519, key.0).verify(&message(unsigned), &signature.bytes) {
            Ok(()) => Ok(Some(*key)),
            Err(_) => {
                refused(format!("was changed after it was signed with the key {}", signature.key))
            }
        }
    }
}

fn message(unsigned: &[u8]) -> Vec<u8> {
    [CONTEXT, &Sha256::digest(unsigned)].concat()
}

/// The signature as what is appended to the file.
fn entry(key: &str, signature: &[u8]) -> Vec<u8> {
    note(KEY, &format!("ed25519:{key}:{}", hex(signature)))
}

/// A note as what is appended to the file.
fn note(key: &str, value: &str) -> Vec<u8> {
    let note = pb::StringStringEntryProto { key: key.into(), value: value.into() };
    pb::ModelProto { metadata_props: vec![note], ..pb::ModelProto::default() }.encode_to_vec()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
