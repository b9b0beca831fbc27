//! A model's file as it lies on the disk: read, checked for damage and signature, not yet in the hands of a runtime.
//!
//! `session` loads what is read here; `cli model` shows it. It promises that nothing of an untrusted file is looked at,
//! and that no file larger than [`MAX_BYTES`] is read, nor weights beside it larger than [`MAX_WEIGHTS`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ModelError;
use super::metadata::Metadata;
use super::onnx::{self, Parsed, Signature};
use super::signature::{self, PublicKey, Trust};

/// Largest ONNX file that is taken.
pub const MAX_BYTES: u64 = 256 << 20;

/// Most bytes of weights beside it.
pub const MAX_WEIGHTS: u64 = 4 << 30;

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
    /// Reads the file `path`, or the model in the folder `path`, if `trust` allows it.
    pub fn read(path: &Path, trust: &Trust) -> Result<ModelFile, ModelError> {
        let path = &in_folder(path)?;
        let mut file = ModelFile::alone(path, trust)?;
        if let Some(weights) = &mut file.parsed.weights {
            weights.look(path)?;
            if weights.bytes > MAX_WEIGHTS {
                let (found, limit) = (weights.bytes, MAX_WEIGHTS);
                return Err(ModelError::TooLarge { path: path.to_owned(), found, limit });
            }
            weights.hash()?;
            file.digest = onnx::digest(format!("{} {:?}", file.digest, weights.digests).as_bytes());
            file.check_beside()?;
        }
        Ok(file)
    }

    /// Reads the file, and nothing beside it.
    fn alone(path: &Path, trust: &Trust) -> Result<ModelFile, ModelError> {
        let failed = |source| ModelError::Read { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(failed)?.len();
        if found > MAX_BYTES {
            return Err(ModelError::TooLarge { path: path.to_owned(), found, limit: MAX_BYTES });
        }
        ModelFile::new(path, std::fs::read(path).map_err(failed)?, trust)
    }

    /// All files of the model in `path`: its own, and those beside it, whatever has become of them. Of one that cannot be
    /// read, `path`.
    pub fn files(path: &Path, trust: &Trust) -> Vec<PathBuf> {
        let read = in_folder(path).and_then(|path| ModelFile::alone(&path, trust));
        let Ok(file) = read else { return vec![path.to_owned()] };
        let weights = file.parsed.weights.iter();
        let beside = weights.flat_map(|w| w.names().map(|name| w.folder.join(name)));
        std::iter::once(file.path.clone()).chain(beside).collect()
    }

    /// The file with this content, if `trust` allows it; `path` names it. All its weights must be inside.
    pub fn of(path: &Path, bytes: Vec<u8>, trust: &Trust) -> Result<ModelFile, ModelError> {
        let file = ModelFile::new(path, bytes, trust)?;
        match &file.parsed.weights {
            Some(_) => Err(ModelError::External { path: path.to_owned() }),
            None => Ok(file),
        }
    }

    fn new(path: &Path, bytes: Vec<u8>, trust: &Trust) -> Result<ModelFile, ModelError> {
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

    /// Of a model that is signed, the weights beside it must be those that were signed with it.
    fn check_beside(&self) -> Result<(), ModelError> {
        let beside = self.beside();
        let noted = self.metadata().beside.as_ref();
        let wrong = match noted {
            Some(noted) => beside.iter().find(|(name, digest)| noted.get(*name) != Some(digest)),
            None if self.signed_by.is_some() => beside.iter().next(),
            None => None,
        };
        match wrong {
            Some((name, _)) => Err(ModelError::Untrusted {
                path: self.path.clone(),
                reason: format!("has weights in `{name}` that are not those it was signed with"),
            }),
            None => Ok(()),
        }
    }

    /// The digests of the files beside it that hold its weights, by name.
    pub fn beside(&self) -> BTreeMap<String, String> {
        self.parsed.weights.as_ref().map(|weights| weights.digests.clone()).unwrap_or_default()
    }

    /// Bytes of the model, its weights beside it included, but nothing else that is in their files.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64 + self.parsed.weights.as_ref().map_or(0, |weights| weights.used)
    }

    /// The shape of one row of its input; `None` where it does not say.
    pub fn row_shape(&self) -> Option<Vec<usize>> {
        self.parsed.trial_shape(1).map(|shape| shape.into_iter().skip(1).collect())
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

/// The model's file: `path`, or the only ONNX file in the folder `path`.
fn in_folder(path: &Path) -> Result<PathBuf, ModelError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let failed = |source| ModelError::Read { path: path.to_owned(), source };
    let mut found: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(failed)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (last, others) => Err(ModelError::Folder {
            path: path.to_owned(),
            found: others + usize::from(last.is_some()),
        }),
    }
}
