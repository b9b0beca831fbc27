//! The files that records are kept in: one open file of NDJSON, and finished ones.
//!
//! `desk` owns it. The open file (`records-00000001.open`) is appended to and synced; a finished one becomes what
//! [`Pack`] asks for, with the ids of its records beside it (`records-00000001.ids`), on a thread of its own. It promises
//! that a kill at any moment loses no synced record: the open file stays until everything made of it is on disk, and a
//! torn last line is cut when it is opened again.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde::Deserialize;

use super::ReceiveError;
use super::ids::{DIGEST_LEN, Ids, digest};
use crate::record::Record;

/// Makes a table at the second path of the NDJSON at the first.
pub type MakeTable = fn(&Path, &Path) -> Result<(), String>;

/// What finished files become.
#[derive(Clone, Copy, Debug)]
pub struct Pack {
    /// They stay, as `records-00000001.ndjson`.
    pub ndjson: bool,
    /// A table is made of each, with this ending.
    pub table: Option<(&'static str, MakeTable)>,
}

/// The folder and its open file.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    pack: Pack,
    /// Of the open file.
    number: u64,
    file: File,
    /// Bytes in it that are whole lines.
    bytes: u64,
    packing: Option<JoinHandle<Result<(), ReceiveError>>>,
    finished: u64,
    /// Held as long as the folder is in use.
    _lock: File,
}

impl Shelf {
    /// Opens a folder: learns the ids of all that is in it, and finishes what was left unfinished.
    pub(super) fn open(folder: &Path, pack: Pack, ids: &mut Ids) -> Result<Shelf, ReceiveError> {
        fs::create_dir_all(folder).map_err(|e| failed(folder, "cannot be made", e))?;
        let path = folder.join(".lock");
        let lock = File::create(&path).map_err(|e| failed(&path, "cannot be made", e))?;
        if lock.try_lock().is_err() {
            return Err(ReceiveError::InUse(folder.to_owned()));
        }
        let mut open = Vec::new();
        let mut last = 0;
        for (number, ending) in numbered(folder)? {
            last = last.max(number);
            match ending.as_str() {
                "ids" => learn(&path_of(folder, number, "ids"), ids)?,
                "open" => open.push(number),
                _ => {}
            }
        }
        let mut bytes = 0;
        for number in &open {
            let path = path_of(folder, *number, "open");
            bytes = mend(&path, ids).map_err(|e| failed(&path, "cannot be read", e))?;
        }
        let number = match open.pop() {
            // Nothing newer was begun, so this one goes on.
            Some(number) if number == last => number,
            other => {
                open.extend(other);
                bytes = 0;
                last + 1
            }
        };
        for number in &open {
            finish(folder, *number, pack)?;
        }
        let (file, packing) = (append_to(folder, number)?, None);
        let folder = folder.to_owned();
        Ok(Shelf { folder, pack, number, file, bytes, packing, finished: 0, _lock: lock })
    }

    /// Bytes of the open file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files finished so far.
    pub(super) fn finished(&self) -> u64 {
        self.finished
    }

    /// Adds whole lines. After an error the file is as before, and there may be room another time.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(lines) {
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::End(0))?;
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Waits until the disk has all of it. After an error nobody knows what it has: the receiver has to end.
    pub(super) fn sync(&self) -> Result<(), ReceiveError> {
        let path = path_of(&self.folder, self.number, "open");
        self.file.sync_data().map_err(|e| failed(&path, "cannot be synced", e))
    }

    /// Finishes the open file and begins another.
    pub(super) fn roll(&mut self) -> Result<(), ReceiveError> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.wait()?;
        let file = append_to(&self.folder, self.number + 1)?;
        let (folder, number, pack) = (self.folder.clone(), self.number, self.pack);
        (self.file, self.bytes, self.number) = (file, 0, number + 1);
        let packing = std::thread::Builder::new().name("packing".into());
        let packing = packing.spawn(move || finish(&folder, number, pack));
        self.packing = Some(packing.map_err(|_| ReceiveError::Ended("packing"))?);
        Ok(())
    }

    /// Waits for the file that is being finished.
    fn wait(&mut self) -> Result<(), ReceiveError> {
        if let Some(packing) = self.packing.take() {
            packing.join().unwrap_or(Err(ReceiveError::Ended("packing")))?;
            self.finished += 1;
        }
        Ok(())
    }

    /// Finishes everything.
    pub(super) fn close(&mut self) -> Result<(), ReceiveError> {
        self.roll()?;
        self.wait()?;
        let path = path_of(&self.folder, self.number, "open");
        fs::remove_file(&path).map_err(|e| failed(&path, "cannot be removed", e))
    }
}

fn failed(path: &Path, what: &'static str, source: io::Error) -> ReceiveError {
    ReceiveError::Folder { path: path.to_owned(), what, source }
}

fn path_of(folder: &Path, number: u64, ending: &str) -> PathBuf {
    folder.join(format!("records-{number:08}.{ending}"))
}

/// The files of a folder, in order: number and ending.
fn numbered(folder: &Path) -> Result<Vec<(u64, String)>, ReceiveError> {
    let unreadable = |e| failed(folder, "cannot be read", e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let parts = name.to_str().and_then(|name| name.strip_prefix("records-")?.split_once('.'));
        let Some((number, ending)) = parts else { continue };
        if let Ok(number) = number.parse() {
            found.push((number, ending.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

fn append_to(folder: &Path, number: u64) -> Result<File, ReceiveError> {
    let path = path_of(folder, number, "open");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|e| failed(&path, "cannot be made", e))?;
    sync_folder(folder)?;
    Ok(file)
}

fn sync_folder(folder: &Path) -> Result<(), ReceiveError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| failed(folder, "cannot be synced", e))
}

fn learn(path: &Path, ids: &mut Ids) -> Result<(), ReceiveError> {
    let bytes = fs::read(path).map_err(|e| failed(path, "cannot be read", e))?;
    let (digests, _) = bytes.as_chunks::<DIGEST_LEN>();
    for digest in digests {
        ids.insert(u128::from_be_bytes(*digest));
    }
    Ok(())
}

/// Hands over the records that a folder has as NDJSON, in the order in which they came.
///
/// # Errors
/// A file cannot be read.
pub fn kept(folder: &Path, mut take: impl FnMut(Record)) -> Result<(), ReceiveError> {
    for (number, ending) in numbered(folder)? {
        if ending != "ndjson" && ending != "open" {
            continue;
        }
        let path = path_of(folder, number, &ending);
        let lines = fs::read(&path).map_err(|e| failed(&path, "cannot be read", e))?;
        // The last line may be half written: it is not answered yet.
        lines.split(|byte| *byte == b'\n').flat_map(serde_json::from_slice).for_each(&mut take);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Line {
    id: String,
}

/// Hands over the ids of a file of NDJSON, line by line, and says how many bytes of it are whole lines.
fn read(path: &Path, mut take: impl FnMut(u128)) -> io::Result<u64> {
    let mut lines = BufReader::with_capacity(1 << 18, File::open(path)?);
    let (mut good, mut line) = (0, Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        let Some(Ok(Line { id })) = line.strip_suffix(b"\n").map(serde_json::from_slice) else {
            break;
        };
        take(digest(&id));
        good += line.len() as u64;
        line.clear();
    }
    Ok(good)
}

/// Cuts what a kill left half written, and makes sure that the disk has the rest.
fn mend(path: &Path, ids: &mut Ids) -> io::Result<u64> {
    let good = read(path, |digest| {
        ids.insert(digest);
    })?;
    let file = File::options().write(true).open(path)?;
    let torn = file.metadata()?.len() - good;
    if torn > 0 {
        tracing::warn!(file = %path.display(), bytes = torn, "a line that was never answered was cut off");
        file.set_len(good)?;
    }
    file.sync_all()?;
    Ok(good)
}

/// Makes of a file what is asked for, then lets go of it.
fn finish(folder: &Path, number: u64, pack: Pack) -> Result<(), ReceiveError> {
    let open = path_of(folder, number, "open");
    let mut digests = Vec::new();
    let read = read(&open, |digest| digests.extend_from_slice(&digest.to_be_bytes()));
    let bytes = read.map_err(|e| failed(&open, "cannot be read", e))?;
    if bytes == 0 {
        return fs::remove_file(&open).map_err(|e| failed(&open, "cannot be removed", e));
    }
    if let Some((ending, table)) = pack.table {
        let made = table(&open, &path_of(folder, number, ending));
        made.map_err(|reason| ReceiveError::Pack { path: open.clone(), reason })?;
    }
    let ids = path_of(folder, number, "ids");
    let part = path_of(folder, number, "ids.part");
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(&digests)?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&part, &ids))
        .map_err(|e| failed(&ids, "cannot be written", e))?;
    // What replaces the open file has to be in the folder before it goes.
    sync_folder(folder)?;
    let done = if pack.ndjson {
        fs::rename(&open, path_of(folder, number, "ndjson"))
    } else {
        fs::remove_file(&open)
    };
    done.map_err(|e| failed(&open, "cannot be finished", e))?;
    sync_folder(folder)
}
