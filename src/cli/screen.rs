//! Standard error as a person sees it: notes and log lines above, live lines below, and neither breaks the other.
//!
//! `main` makes the one [`Screen`] and hands it to the log and to the subcommands. Where standard error is no
//! terminal, live lines are not drawn; notes and log lines are written all the same.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// Standard error; clones draw on the same one.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    lines: MultiProgress,
}

impl Screen {
    /// Writes a note for the person who started this.
    pub(super) fn note(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }

    /// Adds a live line below those that are there.
    pub(super) fn line(&self, bar: ProgressBar) -> ProgressBar {
        self.lines.add(bar)
    }

    fn write(&self, text: &[u8]) {
        // If standard error is gone there is nobody left to tell.
        self.lines.suspend(|| drop(io::stderr().lock().write_all(text)));
    }
}

/// The look of a line, from one of indicatif's templates.
pub(super) fn look(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A log line that is being written; it appears as a whole.
#[derive(Debug)]
pub struct LogLine {
    screen: Screen,
    text: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        self.screen.write(&self.text);
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine { screen: self.clone(), text: Vec::new() }
    }
}
