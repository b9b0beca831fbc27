//! Where the bytes of a recording come from: a file or standard input, gzip or not, counted as they are read.
//!
//! Called by [`super::Recording::open`]. Looks at the beginning without taking it away, so that the kind of file and
//! its separator can be found out on a pipe too.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::RecordingError;

/// How much of a recording is looked at before it is read.
const HEAD_SIZE: usize = 64 << 10;
const READ_SIZE: usize = 256 << 10;

/// A recording's bytes, unpacked.
pub(super) struct Source {
    /// All bytes, those of `head` among them.
    pub(super) reader: Box<dyn Read + Send>,
    /// The first bytes.
    pub(super) head: Vec<u8>,
    /// Whether `head` is all there is.
    pub(super) whole: bool,
    /// Bytes read so far, before unpacking.
    pub(super) read: Arc<AtomicU64>,
    /// Bytes there are, before unpacking; `None` for a pipe.
    pub(super) total: Option<u64>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source, RecordingError> {
        let fail = |source| RecordingError::Open { path: path.to_owned(), source };
        let read = Arc::new(AtomicU64::new(0));
        let (raw, total): (Box<dyn Read + Send>, _) = if is_stdin(path) {
            (Box::new(io::stdin()), None)
        } else {
            let metadata = std::fs::metadata(path).map_err(fail)?;
            if metadata.is_dir() {
                return Err(RecordingError::Folder { path: path.to_owned() });
            }
            // A named pipe has no length worth showing.
            let total = metadata.is_file().then_some(metadata.len());
            (Box::new(File::open(path).map_err(fail)?), total)
        };
        let counted = Counted { inner: raw, read: Arc::clone(&read) };
        let mut buffered = BufReader::with_capacity(READ_SIZE, counted);
        let packed = io::BufRead::fill_buf(&mut buffered).map_err(fail)?.starts_with(&[0x1f, 0x8b]);
        let mut reader: Box<dyn Read + Send> =
            if packed { Box::new(MultiGzDecoder::new(buffered)) } else { Box::new(buffered) };
        let mut head = Vec::new();
        reader.by_ref().take(HEAD_SIZE as u64).read_to_end(&mut head).map_err(fail)?;
        let whole = head.len() < HEAD_SIZE;
        if head.iter().all(u8::is_ascii_whitespace) && whole {
            return Err(RecordingError::Empty { path: path.to_owned() });
        }
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err(RecordingError::Utf16 { path: path.to_owned() });
        }
        if let Some(rest) = head.strip_prefix(b"\xef\xbb\xbf") {
            head = rest.to_vec();
        }
        let reader = Box::new(Cursor::new(head.clone()).chain(reader));
        Ok(Source { reader, head, whole, read, total })
    }
}

/// Whether `path` stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        self.read.fetch_add(size as u64, Ordering::Relaxed);
        Ok(size)
    }
}
