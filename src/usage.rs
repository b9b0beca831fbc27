//! What a process has used: processor time, memory, bytes written. From `/proc`, so on Linux alone.
//!
//! `cli` asks before and after its work; `model` asks what another process takes. It does not see children.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in user and system mode, of all its threads.
    pub cpu: Duration,
    /// Resident memory now, bytes.
    pub resident: u64,
    /// Most resident memory so far, bytes.
    pub peak: u64,
    /// Bytes that it had written to disks (page cache that was dropped again is not taken off).
    pub written: u64,
}

/// `/proc` counts processor time in hundredths of a second on every Linux.
const CLOCK_TICK: Duration = Duration::from_millis(10);

impl Usage {
    /// What `process` has used; this process if `None`. Errors where there is no `/proc` or no such process.
    pub fn of(process: Option<u32>) -> std::io::Result<Usage> {
        let folder = process.map_or_else(|| "/proc/self".to_owned(), |id| format!("/proc/{id}"));
        let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}"));
        let status = read("status")?;
        let kib = |name: &str| field(&status, name).unwrap_or_default() * 1024;
        Ok(Usage {
            cpu: CLOCK_TICK * ticks(&read("stat")?),
            resident: kib("VmRSS:"),
            peak: kib("VmHWM:"),
            // Not readable for another user's process; the other numbers still are.
            written: read("io").ok().and_then(|io| field(&io, "write_bytes:")).unwrap_or_default(),
        })
    }

    /// What was used since `earlier`; memory is as it is now.
    #[must_use]
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written: self.written.saturating_sub(earlier.written),
            ..self
        }
    }
}

/// Processor time of the threads of `process`, added up by name. Threads that have ended are not in it.
pub fn threads(process: u32) -> std::io::Result<BTreeMap<String, Duration>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end between listing and reading.
        let stat = std::fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
        let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map(|n| n.0);
        if let Some(name) = name {
            *all.entry(name.to_owned()).or_default() += CLOCK_TICK * ticks(&stat);
        }
    }
    Ok(all)
}

/// Processor time that the whole machine has spent on work since it started, all cores together.
pub fn machine() -> std::io::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal: the fourth and fifth are waiting, the last is not ours.
    let busy =
        all.split_whitespace().skip(1).take(7).enumerate().filter(|(i, _)| ![3, 4].contains(i));
    Ok(CLOCK_TICK * busy.filter_map(|(_, n)| n.parse::<u32>().ok()).sum())
}

/// The number behind `name` in a file of lines `name  number`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time of `/proc/…/stat`. The second field is a name in brackets and may have spaces in it.
fn ticks(stat: &str) -> u32 {
    let rest = stat.rsplit_once(')').map_or(stat, |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_brackets_are_passed_over() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 1 0 5";
        assert_eq!(ticks(stat), 175);
        assert_eq!(field("VmHWM:\t  123 kB\nVmRSS:\t  45 kB\n", "VmRSS:"), Some(45));
    }

    #[test]
    fn this_process_uses_something() {
        let before = Usage::of(None).unwrap();
        assert!(before.resident > 100_000 && before.peak >= before.resident / 2);
        // This thread alone does not end before it is counted: what the process used may be of threads that are gone.
        let at_least = Duration::from_millis(30);
        let mine = || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            threads(std::process::id()).unwrap().get(name.trim_end()).copied()
        };
        let mut sum = 0_u64;
        while mine().unwrap() < at_least {
            sum = (0..1_000_000).fold(sum, |a, b: u64| std::hint::black_box(a ^ b));
        }
        assert!(Usage::of(None).unwrap().cpu >= at_least);
        assert!(machine().unwrap() >= at_least);
        assert!(Usage::of(Some(u32::MAX)).is_err());
    }
}
