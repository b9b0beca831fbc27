//! A model's file as it lies on the disk: read, checked for damage and signature, not yet in the hands of a runtime.
//!
//! `session` loads what is read here; `cli model` shows it. It promises that nothing of an untrusted file is looked at,
//! and that no file larger than [`MAX_BYTES`] is read.

use std::path::{Path, PathBuf};

use super::ModelError;
use super::metadata::Metadata;
use super::onnx::{self, Parsed, Signature};
use super::signature::{self, PublicKey, Trust};

/// Largest file that is taken.
pub const MAX_BYTES: u64 = 256 << 20;

/// A model's file. See the module.
#[derive(Debug)]
pub struct ModelFile {
    /// Where it is, or what it is called.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
    /// SHA-256 of it, in hex.
    pub digest: String,
    /// The name of the key that it says it is signed with.
    pub signed_with: Option<String>,
    /// Whose signature it has, of those that are trusted.
    pub signed_by: Option<PublicKey>,
    pub(super) parsed: Parsed,
}

impl ModelFile {
    /// Reads the file `path`, if `trust` allows it.
    pub fn read(path: &Path, trust: &Trust) -> Result<ModelFile, ModelError> {
        let failed = |source| ModelError::Read { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(failed)?.len();
        if found > MAX_BYTES {
            return Err(ModelError::TooLarge { path: path.to_owned(), found, limit: MAX_BYTES });
        }
        ModelFile::of(path, std::fs::read(path).map_err(failed)?, trust)
    }

    /// The file with this content, if `trust` allows it; `path` names it.
    pub fn of(path: &Path, bytes: Vec<u8>, trust: &Trust) -> Result<ModelFile, ModelError> {
        let signed_by = trust.check(path, &bytes)?;
        Ok(ModelFile {
            parsed: onnx::parse(path, &bytes)?,
            path: path.to_owned(),
            digest: onnx::digest(&bytes),
            signed_with: signature::split(&bytes).1.map(|signature| signature.key),
            signed_by,
            bytes,
        })
    }

    /// What goes in and what comes out.
    pub fn signature(&self) -> &Signature {
        &self.parsed.signature
    }

    /// Its contract.
    pub fn metadata(&self) -> &Metadata {
        &self.parsed.metadata
    }

    /// Its name in records: what it says, else the file's name.
    pub fn name(&self) -> String {
        let stem = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.metadata().name.clone().unwrap_or_else(stem)
    }

    /// Its version in records: what it says, else the start of its digest.
    pub fn version(&self) -> String {
        let digest = || self.digest.chars().take(12).collect();
        self.metadata().version.clone().unwrap_or_else(digest)
    }
}
