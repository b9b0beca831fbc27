//! Free space where a store is or will be. Used by the rules of configs and by `doctor`.

use std::path::Path;

/// Bytes that an ordinary user may still write on the disk that holds `path` (or will, once it exists).
pub fn free_for(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|p| p.exists());
    let there = there.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes in the files of a folder, as deep as they lie; 0 where there is none.
pub fn used_by(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used_by(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
