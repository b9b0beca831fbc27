//! The wire format: what the bytes of a parcel are. Records as NDJSON, one a line, compressed with zstd or not.
//!
//! `uplink/http` and `uplink/mqtt` write it; `receive` and the demo's receiver read it. It promises that what is read
//! stays within [`PARCEL_MAX`] whatever was sent. `docs/operations.md`'s "Wire format" tells it to those who write a receiver.

use std::io::{self, Read};

use crate::record::Record;

/// Largest parcel that is read, before and after decompression.
pub const PARCEL_MAX: usize = 16 << 20;
/// Media type of a parcel.
pub const NDJSON: &str = "application/x-ndjson";
/// Of records: names of fields and usual values, so that small parcels are small. A frame names it by its number, which
/// is in its first bytes. How it is made stands in CONTRIBUTING.md; a new one gets a new number and stands beside this.
const DICTIONARY: &[u8] = include_bytes!("records-1.zdict");
/// The four bytes that a zstd frame starts with; no record does.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a parcel cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not zstd, or damaged.
    #[error("the parcel is not zstd, or it is damaged: {0}")]
    Zstd(io::Error),
    /// Larger than is read.
    #[error("the parcel is larger than {PARCEL_MAX} bytes")]
    TooLarge,
    /// A line that is no record.
    #[error("line {line}: {reason}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Compresses a parcel's lines, with Forebay's dictionary or without; the frame carries a checksum.
///
/// # Errors
/// Memory is short.
pub fn pack(lines: &[u8], level: i32, with_dictionary: bool) -> io::Result<Vec<u8>> {
    let dictionary = if with_dictionary { DICTIONARY } else { &[] };
    let mut frame = zstd::bulk::Compressor::with_dictionary(level, dictionary)?;
    frame.include_checksum(true)?;
    frame.compress(lines)
}

/// Whether a body is a zstd frame, whatever its sender says of it.
pub fn is_zstd(body: &[u8]) -> bool {
    body.starts_with(&ZSTD_MAGIC)
}

/// A parcel's lines, from a zstd frame or as they are.
///
/// # Errors
/// It is damaged or too large.
pub fn unpack(body: &[u8]) -> Result<Vec<u8>, WireError> {
    if body.len() > PARCEL_MAX {
        return Err(WireError::TooLarge);
    }
    if !is_zstd(body) {
        return Ok(body.to_vec());
    }
    let mut lines = Vec::new();
    // Frames that were made without it do not use it.
    zstd::Decoder::with_dictionary(body, DICTIONARY)
        .and_then(|frame| frame.take(PARCEL_MAX as u64 + 1).read_to_end(&mut lines))
        .map_err(WireError::Zstd)?;
    if lines.len() > PARCEL_MAX { Err(WireError::TooLarge) } else { Ok(lines) }
}

/// The records of a parcel, each with its line as it came.
///
/// # Errors
/// A line is no record, or has no id.
pub fn records(lines: &[u8]) -> Result<Vec<(Record, &[u8])>, WireError> {
    let mut records = Vec::new();
    for (number, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let wrong = |reason: String| WireError::Line { line: number + 1, reason };
        let record: Record =
            serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        if record.id().is_empty() {
            return Err(wrong("a record without an id".into()));
        }
        records.push((record, line));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS: &str = r#"{"type":"loss","id":"a","node":"n","lane":"raw","count":1,"first_tick":1,"last_tick":2,"reason":"lane limit","at":"2026-01-01T00:00:00Z"}"#;

    #[test]
    fn what_is_packed_is_read_again_and_damage_is_noticed() {
        let lines = format!("{LOSS}\n{LOSS}\n").into_bytes();
        assert_eq!(unpack(&lines).unwrap(), lines);
        assert_eq!(records(&lines).unwrap().len(), 2);
        for with_dictionary in [false, true] {
            let packed = pack(&lines, 3, with_dictionary).unwrap();
            assert_eq!(unpack(&packed).unwrap(), lines);
            for at in 4..packed.len() {
                let mut damaged = packed.clone();
                damaged[at] ^= 1;
                assert!(unpack(&damaged).map_or(true, |read| read == lines), "byte {at}");
            }
            for end in 5..packed.len() {
                assert!(unpack(&packed[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = pack(&vec![b' '; PARCEL_MAX + 1], 3, false).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(matches!(unpack(&bomb), Err(WireError::TooLarge)));
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let error = records(format!("{LOSS}\n\n{{}}\n").as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("line 3: "), "{error}");
        let nameless = LOSS.replace("\"id\":\"a\"", "\"id\":\"\"");
        assert!(records(nameless.as_bytes()).unwrap_err().to_string().contains("without an id"));
    }
}
