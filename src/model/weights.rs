//! Weights that lie beside a model's file instead of in it, as exporters write models of more than 2 GB, and often smaller.
//!
//! `file` asks for them when it reads a model. It promises that only files in the model's own folder are opened, that
//! each is as large as the model says, and that all of them are hashed: they are a part of the model's digest, and of
//! what is signed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataLocation;

use super::ModelError;
use super::onnx::{element_size, hex};

/// The files beside a model that it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Their folder.
    pub folder: PathBuf,
    /// By name, as the model has it: how large each must be at least.
    needed: BTreeMap<String, u64>,
    /// By name: SHA-256 in hex, once they have been hashed.
    pub digests: BTreeMap<String, String>,
    /// Bytes of all of these files.
    pub bytes: u64,
    /// Bytes of them that tensors are in: exporters that write into a file which is there already leave the old ones.
    pub used: u64,
}

impl Weights {
    /// Which files the model at `path` needs. `None`: all its weights are inside.
    pub(super) fn of(path: &Path, proto: &pb::ModelProto) -> Result<Option<Weights>, ModelError> {
        let (mut needed, mut parts) = (BTreeMap::new(), BTreeSet::new());
        let mut graphs: Vec<&pb::GraphProto> = proto.graph.iter().collect();
        while let Some(graph) = graphs.pop() {
            let attributes = graph.node.iter().flat_map(|node| &node.attribute);
            graphs.extend(attributes.clone().flat_map(|a| a.g.iter().chain(&a.graphs)));
            let inner = attributes.flat_map(|a| a.t.iter().chain(&a.tensors));
            for tensor in graph.initializer.iter().chain(inner) {
                if tensor.data_location == Some(DataLocation::External as i32) {
                    let Place { name, start, end } =
                        place(tensor).map_err(|reason| fault(path, reason))?;
                    parts.insert((name.clone(), start, end));
                    let most: &mut u64 = needed.entry(name).or_default();
                    *most = (*most).max(end);
                }
            }
        }
        if needed.is_empty() {
            return Ok(None);
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut lengths = parts.iter().map(|(_, start, end)| end - start);
        let used = lengths.try_fold(0_u64, u64::checked_add);
        let used = used.ok_or_else(|| fault(path, "its weights are beyond any size".into()))?;
        Ok(Some(Weights { folder: folder.to_owned(), needed, used, ..Weights::default() }))
    }

    /// The files, as the model names them.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.needed.keys()
    }

    /// Looks at the files: are they there, in this folder, and large enough.
    pub(super) fn look(&mut self, path: &Path) -> Result<(), ModelError> {
        let home = self.folder.canonicalize().map_err(|e| unread(&self.folder, e))?;
        self.bytes = 0;
        for (name, needed) in &self.needed {
            let file = self.folder.join(name);
            let real = file.canonicalize().map_err(|e| unread(&file, e))?;
            if !real.starts_with(&home) {
                return Err(fault(path, format!("its weights `{name}` lie outside of its folder")));
            }
            let found = std::fs::metadata(&real).map_err(|e| unread(&file, e))?.len();
            if found < *needed {
                let reason =
                    format!("its weights `{name}` have {found} bytes; it needs {needed} of them");
                return Err(fault(path, reason));
            }
            self.bytes = self.bytes.saturating_add(found);
        }
        Ok(())
    }

    /// Reads the weights beside it into `proto`, whose graph then needs no other file.
    pub(super) fn take_in(&self, proto: &mut pb::ModelProto) -> Result<(), ModelError> {
        let mut open: BTreeMap<String, File> = BTreeMap::new();
        let graph = proto.graph.iter_mut();
        for tensor in graph.flat_map(|graph| &mut graph.initializer) {
            if tensor.data_location != Some(DataLocation::External as i32) {
                continue;
            }
            let place = place(tensor).map_err(|reason| fault(&self.folder, reason))?;
            let path = self.folder.join(&place.name);
            let unread = |e| unread(&path, e);
            let file = match open.entry(place.name) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(File::open(&path).map_err(unread)?),
            };
            let mut bytes = vec![0; (place.end - place.start) as usize];
            file.seek(SeekFrom::Start(place.start)).map_err(unread)?;
            file.read_exact(&mut bytes).map_err(unread)?;
            tensor.raw_data = bytes;
            tensor.data_location = None;
            tensor.external_data.clear();
        }
        Ok(())
    }

    /// Reads and hashes them.
    pub(super) fn hash(&mut self) -> Result<(), ModelError> {
        for name in self.needed.keys() {
            let path = self.folder.join(name);
            let mut hasher = Sha256::new();
            let mut file = File::open(&path).map_err(|e| unread(&path, e))?;
            io::copy(&mut file, &mut hasher).map_err(|e| unread(&path, e))?;
            self.digests.insert(name.clone(), hex(&hasher.finalize()));
        }
        Ok(())
    }
}

fn fault(path: &Path, reason: String) -> ModelError {
    ModelError::NotOnnx { path: path.to_owned(), reason }
}

fn unread(path: &Path, source: io::Error) -> ModelError {
    ModelError::Read { path: path.to_owned(), source }
}

/// In which file a tensor is, from which byte to which.
struct Place {
    name: String,
    start: u64,
    end: u64,
}

fn place(tensor: &pb::TensorProto) -> Result<Place, String> {
    let said = |key: &str| {
        let entry = tensor.external_data.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.as_str())
    };
    let number = |key: &str| said(key).map(|value| value.parse::<u64>().ok());
    let tensor_name = &tensor.name;
    let Some(name) = said("location") else {
        return Err(format!(
            "tensor `{tensor_name}` is in another file, but in none that it names"
        ));
    };
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !inside {
        return Err(format!(
            "tensor `{tensor_name}` is in `{name}`, which is outside of its folder"
        ));
    }
    let (Some(offset), length) = (number("offset").unwrap_or(Some(0)), number("length")) else {
        return Err(format!("tensor `{tensor_name}` is at no place in `{name}`"));
    };
    let count = tensor.dims.iter().try_fold(1_u64, |count, dim| {
        u64::try_from(*dim).ok().and_then(|dim| count.checked_mul(dim))
    });
    let size = count.zip(element_size(tensor.data_type)).and_then(|(n, size)| n.checked_mul(size));
    let length = match (length, size) {
        (Some(Some(length)), Some(size)) if length != size => {
            return Err(format!("tensor `{tensor_name}` has {length} bytes of {size} in `{name}`"));
        }
        (Some(Some(length)), _) => length,
        (None, Some(size)) => size,
        _ => return Err(format!("tensor `{tensor_name}` has no length in `{name}`")),
    };
    let end = offset.checked_add(length);
    let end = end.ok_or_else(|| format!("tensor `{tensor_name}` ends beyond any file"))?;
    Ok(Place { name: name.to_owned(), start: offset, end })
}
