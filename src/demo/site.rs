//! What the demo's node reads: the shipped pump pipeline, its schema and its models, carried in the program, so that
//! the demo needs no other file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files, by their path in the folder.
const FILES: [(&str, &[u8]); 4] = [
    ("pipelines/pump.toml", include_bytes!("../../pipelines/pump.toml")),
    ("schemas/pump.toml", include_bytes!("../../schemas/pump.toml")),
    (
        "pipelines/models/pump-anomaly.onnx",
        include_bytes!("../../pipelines/models/pump-anomaly.onnx"),
    ),
    (
        "pipelines/models/pump-failure-risk.onnx",
        include_bytes!("../../pipelines/models/pump-failure-risk.onnx"),
    ),
];

/// Files of a site for the plant's recordings that are not those above.
const RECORDED: [(&str, &[u8]); 2] = [
    ("pipelines/plant.toml", include_bytes!("plant.toml")),
    (
        "config.toml",
        b"# Every key, with its default: the config.toml of Forebay's repository.\nnode = \"plant\"\n\n\
          [mqtt]\nurl = \"mqtt://127.0.0.1:1883\"\n",
    ),
];

/// Writes them into `folder` and gives the pipeline's path.
pub fn lay_out(folder: &Path) -> io::Result<PathBuf> {
    write(folder, &FILES)
}

/// Writes a site for the plant's recordings into `folder`: a small pipeline with one model, the schema, a config. Gives the
/// pipeline's path.
pub fn lay_out_recorded(folder: &Path) -> io::Result<PathBuf> {
    write(folder, &FILES[1..3])?;
    write(folder, &RECORDED)
}

fn write(folder: &Path, files: &[(&str, &[u8])]) -> io::Result<PathBuf> {
    for (name, content) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
    }
    Ok(files.first().map_or_else(PathBuf::new, |(name, _)| folder.join(name)))
}
