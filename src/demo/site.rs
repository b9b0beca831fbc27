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

/// Writes them into `folder` and gives the pipeline's path.
pub fn lay_out(folder: &Path) -> io::Result<PathBuf> {
    for (name, content) in FILES {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
    }
    Ok(folder.join(FILES[0].0))
}
