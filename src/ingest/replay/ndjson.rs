//! NDJSON recordings: one JSON object a line, read by the same decoder as messages.
//!
//! Called by [`super::Recording`]. The recording's settings are fields here, and may be paths (`data.time`).

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::columns::{no_such_signal, time_column};
use super::source::Source;
use super::{RecordingError, RecordingOptions, Warnings};
use crate::decode::time::TimeFormat;
use crate::decode::{DecodeOptions, Decoder, Rows};
use crate::frame::Input;
use crate::pipeline::spec::JsonFormat;
use crate::time::Timestamp;

/// Longest line that is taken; longer ones are skipped and counted.
const LINE_MAX: usize = 16 << 20;

/// An NDJSON file being read.
pub(super) struct NdjsonRows {
    path: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    decoder: Decoder,
    asset: String,
    pub(super) gathered: Rows,
    line: Vec<u8>,
    pub(super) rows: u64,
    lines: u64,
}

impl NdjsonRows {
    pub(super) fn open(
        path: &Path,
        source: Source,
        options: &RecordingOptions<'_>,
        asset: Option<String>,
    ) -> Result<NdjsonRows, RecordingError> {
        let spec = &options.spec;
        if let Some(signal) =
            spec.signals.keys().find(|name| options.schema.signals.iter().all(|s| s.name != **name))
        {
            return Err(no_such_signal(signal, options.schema));
        }
        if spec.value.is_some() && spec.signal.is_none() {
            return Err(RecordingError::ValueAlone);
        }
        let time = match &spec.time {
            Some(field) => field.clone(),
            None => time_field(path, &source.head)?,
        };
        let format = JsonFormat {
            time: Some(time),
            signals: spec.signals.clone(),
            signal: spec.signal.clone(),
            value: spec.value.clone(),
            asset: spec.asset.clone(),
            ..JsonFormat::default()
        };
        let times =
            TimeFormat::recording(spec.unit, spec.time_format.as_deref(), spec.zone.as_deref())?;
        let limit = DecodeOptions { message_max: LINE_MAX };
        let decoder =
            Decoder::for_lines(options.route.clone(), &format, times, options.schema, limit)?;
        Ok(NdjsonRows {
            path: path.to_owned(),
            reader: BufReader::with_capacity(256 << 10, source.reader),
            decoder,
            asset: asset.unwrap_or_default(),
            gathered: Rows::new(options.route.clone()),
            line: Vec::new(),
            rows: 0,
            lines: 0,
        })
    }

    /// The readings of the next `limit` lines; `None` at the end.
    pub(super) fn next_batch(
        &mut self,
        limit: usize,
        warnings: &mut Warnings,
    ) -> Result<Option<Input>, RecordingError> {
        let mut taken = 0;
        while taken < limit && self.advance(warnings)? {
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            self.rows += 1;
            taken += 1;
            self.take_line(warnings);
        }
        for name in self.gathered.unknown_signals() {
            warnings.add("fields that the schema does not know", || format!("`{name}`"));
        }
        Ok((taken > 0).then(|| self.gathered.take()))
    }

    fn take_line(&mut self, warnings: &mut Warnings) {
        let line = self.lines;
        match self.decoder.decode(&self.asset, &self.line, Timestamp::MIN, &mut self.gathered) {
            Err(error) => {
                warnings.add("lines skipped", || format!("line {line}: {}", error.fact()));
            }
            Ok(decoded) => {
                for _ in 0..decoded.rejected {
                    warnings.add("values refused", || match &decoded.fault {
                        Some(fault) => format!("line {line}: {}", fault.fact()),
                        None => format!("line {line}"),
                    });
                }
            }
        }
    }

    /// Reads the next line, of whatever length, without keeping more of it than is allowed.
    fn advance(&mut self, warnings: &mut Warnings) -> Result<bool, RecordingError> {
        self.line.clear();
        let mut size = 0;
        loop {
            let part = self.reader.fill_buf().map_err(|source| RecordingError::Read {
                path: self.path.clone(),
                place: format!("line {}", self.lines),
                reason: source.to_string(),
            })?;
            let end = part.iter().position(|&b| b == b'\n');
            let used = end.map_or(part.len(), |end| end + 1);
            size += used;
            if size <= LINE_MAX {
                self.line.extend_from_slice(part.get(..used).unwrap_or_default());
            }
            self.reader.consume(used);
            if end.is_some() || used == 0 {
                break;
            }
        }
        if size == 0 {
            return Ok(false);
        }
        self.lines += 1;
        if size > LINE_MAX {
            self.line.clear();
            let line = self.lines;
            warnings.add("lines skipped", || {
                format!("line {line} has {size} bytes; {LINE_MAX} are allowed")
            });
        }
        Ok(true)
    }
}

/// The field that is probably the time, from the first line.
fn time_field(path: &Path, head: &[u8]) -> Result<String, RecordingError> {
    let first = head.split(|&b| b == b'\n').find(|line| !line.trim_ascii().is_empty());
    let object: serde_json::Map<String, serde_json::Value> =
        first.and_then(|line| serde_json::from_slice(line).ok()).unwrap_or_default();
    let names: Vec<String> = object.keys().cloned().collect();
    match time_column(&names).and_then(|index| names.get(index)) {
        Some(name) => Ok(name.replace('\\', "\\\\").replace('.', "\\.")),
        None => Err(RecordingError::NoTimeColumn {
            path: path.to_owned(),
            found: super::columns::listed(&names),
        }),
    }
}
