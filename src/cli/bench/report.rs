//! What a bench came to: as one JSON object, and as a text for people.

use std::fmt::Write;

use serde::Serialize;

use super::SIGNALS;
use super::latency::Latency;
use super::node::Numbers;
use super::run::Run;
use crate::cli::args::{BenchArgs, BenchBroker};

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Cores that this machine lets us use.
    pub(super) cores: usize,
    /// What else was running: the load average of the last minute before the first measurement.
    pub(super) load_average: f64,
    /// Seconds of each measurement.
    pub(super) seconds: f64,
    /// Assets that sent.
    pub(super) assets: u32,
    /// Messages that could be under way without acknowledgement.
    pub(super) in_flight: u16,
    /// Size of the program, bytes.
    pub(super) binary: u64,
    /// One entry a broker.
    pub(super) brokers: Vec<BrokerReport>,
}

/// The measurements with one broker.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BrokerReport {
    /// `mosquitto` or `rumqttd`.
    pub(super) broker: &'static str,
    /// The bare subscriber with manual acknowledgements.
    pub(super) bare: Run,
    /// The node.
    pub(super) node: Run,
    /// The node's share of what the bare subscriber took.
    pub(super) ratio: f64,
    /// More of the node under this load.
    pub(super) loaded: NodeNumbers,
    /// What kept it from taking more.
    pub(super) limit: String,
    /// The node at the fixed rate.
    pub(super) paced: Run,
    /// More of it.
    pub(super) paced_numbers: NodeNumbers,
    /// From the message that completes a window to its score record at a dashboard.
    pub(super) latency: Latency,
}

/// What only a node has.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct NodeNumbers {
    /// Microseconds of processor time a reading.
    pub(super) cpu_us_per_reading: f64,
    /// Bytes written to disk a reading, as the kernel counts them.
    pub(super) disk_bytes_per_reading: f64,
    /// Resident memory before the load, models loaded, bytes.
    pub(super) idle: u64,
    /// Ticks.
    pub(super) ticks: f64,
    /// Readings a tick.
    pub(super) readings_per_tick: f64,
    /// Share of the time that the engine spent in steps.
    pub(super) step_share: f64,
    /// Share of the time that it spent making them durable, waiting for the disk included.
    pub(super) commit_share: f64,
    /// Milliseconds a commit.
    pub(super) commit_ms: f64,
    /// Windows scored.
    pub(super) scores: f64,
    /// Records made.
    pub(super) records: f64,
    /// 99 % of ticks with records had them at the feeds within so many milliseconds of their closing (the upper end of
    /// the histogram's bucket).
    pub(super) publish_p99_ms: Option<f64>,
}

impl NodeNumbers {
    /// From what the node said before and after.
    pub(super) fn new(run: &Run, idle: u64, before: &Numbers, after: &Numbers) -> NodeNumbers {
        let more = |name: &str| after.sum(name) - before.sum(name);
        let readings = (run.taken * SIGNALS as u64).max(1) as f64;
        let ticks = more("forebay_commit_seconds_count");
        let commit = more("forebay_commit_seconds_sum");
        let old = before.buckets("forebay_publish_seconds");
        let buckets: Vec<(f64, f64)> = after
            .buckets("forebay_publish_seconds")
            .into_iter()
            .enumerate()
            .map(|(i, (bound, count))| (bound, count - old.get(i).map_or(0.0, |b| b.1)))
            .collect();
        let all = buckets.last().map_or(0.0, |bucket| bucket.1);
        let p99 = buckets.iter().find(|bucket| all > 0.0 && bucket.1 >= 0.99 * all);
        NodeNumbers {
            cpu_us_per_reading: run.cpu_us_per_message / SIGNALS as f64,
            disk_bytes_per_reading: run.written as f64 / readings,
            idle,
            ticks,
            readings_per_tick: readings / ticks.max(1.0),
            step_share: more("forebay_step_seconds_sum") / run.seconds,
            commit_share: commit / run.seconds,
            commit_ms: commit * 1e3 / ticks.max(1.0),
            scores: more("forebay_scores_total"),
            records: more("forebay_records_total"),
            publish_p99_ms: p99.map(|bucket| bucket.0 * 1e3),
        }
    }
}

impl BrokerReport {
    pub(super) fn new(
        broker: BenchBroker,
        bare: Run,
        (node, loaded): (Run, NodeNumbers),
        (paced, paced_numbers): (Run, NodeNumbers),
        latency: Latency,
    ) -> BrokerReport {
        let broker = match broker {
            BenchBroker::Mosquitto => "mosquitto",
            BenchBroker::Rumqttd => "rumqttd",
        };
        let ratio = node.messages_per_s / bare.messages_per_s.max(1.0);
        let limit = limit(cores(), &node, &loaded);
        BrokerReport { broker, bare, node, ratio, loaded, limit, paced, paced_numbers, latency }
    }
}

/// What kept the node from taking more, in a sentence.
fn limit(cores: usize, run: &Run, numbers: &NodeNumbers) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let ours = run.cores + run.broker_cores.unwrap_or_default() + run.load_cores;
    let others = (run.machine_cores - ours).max(0.0);
    let busiest = run.threads.iter().max_by(|a, b| a.1.total_cmp(b.1));
    let (busiest, busy) = busiest.map_or(("", 0.0), |(name, share)| (name.as_str(), *share));
    let commits = percent(numbers.commit_share);
    let all_busy = run.machine_cores > 0.93 * cores as f64;
    let mut why = if all_busy && ours > others {
        let broker = match run.broker_cores {
            Some(broker) => format!("the broker {broker:.2}, load generator and receiver"),
            None => "broker, load generator and receiver".to_owned(),
        };
        format!(
            "the processor: all {cores} cores are busy, the node with {:.2} of them, {broker} {:.2}",
            run.cores, run.load_cores
        )
    } else if busy > 0.85 {
        format!("one thread of the node, `{busiest}`: it is busy {} of the time", percent(busy))
    } else if numbers.commit_share + numbers.step_share > 0.85 {
        format!(
            "the disk: {commits} of the engine's time is commits of {:.1} ms each, most of it waiting for the sync",
            numbers.commit_ms
        )
    } else {
        format!(
            "what comes before the node: its busiest thread is busy {} of the time, and {commits} of the engine's \
             time is commits",
            percent(busy)
        )
    };
    if others > 0.2 {
        let _ = write!(why, "; something else on this machine uses {others:.2}");
    }
    // Writing to a String cannot fail.
    let _ = write!(
        why,
        "; a tick holds {:.0} messages, so each sync of {:.1} ms acknowledges as many",
        numbers.readings_per_tick / SIGNALS as f64,
        numbers.commit_ms
    );
    why
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Report {
    /// Nothing measured yet.
    pub(super) fn new(args: &BenchArgs) -> Report {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let binary = std::env::current_exe().and_then(std::fs::metadata).map_or(0, |m| m.len());
        Report {
            cores: cores(),
            load_average: load.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default(),
            seconds: args.duration.as_seconds(),
            assets: args.assets,
            in_flight: args.in_flight,
            binary,
            brokers: Vec::new(),
        }
    }

    /// Whether everything that was sent was taken.
    pub(super) fn is_complete(&self) -> bool {
        let runs = self.brokers.iter().flat_map(|b| [&b.bare, &b.node, &b.paced]);
        runs.into_iter().all(|run| run.sent > 0 && run.taken == run.sent)
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let mut text = String::new();
        self.tell(&mut text).expect("invariant: writing to a string does not fail");
        text
    }

    fn tell(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{} cores, load average before {:.1}; {} assets, messages of {SIGNALS} signals, QoS 1, {} in flight, \
             {} s each; program {:.1} MB",
            self.cores,
            self.load_average,
            self.assets,
            self.in_flight,
            self.seconds,
            mb(self.binary)
        )?;
        self.brokers.iter().try_for_each(|broker| broker.tell(out))
    }
}

impl BrokerReport {
    fn tell(&self, out: &mut String) -> std::fmt::Result {
        let (l, p) = (&self.loaded, &self.paced_numbers);
        writeln!(out, "\n{}", self.broker)?;
        for (what, run) in [("bare subscriber", &self.bare), ("node", &self.node)] {
            let lost = run.sent - run.taken.min(run.sent);
            let lost = if lost > 0 { format!("; {lost} never came") } else { String::new() };
            writeln!(
                out,
                "  {what:<18}{:>9.0} messages/s {:>10.0} readings/s {:>7.1} us CPU/message{lost}",
                run.messages_per_s, run.readings_per_s, run.cpu_us_per_message
            )?;
        }
        writeln!(out, "  {:<18}{:>9.2}", "node / bare", self.ratio)?;
        writeln!(out, "  {:<18}{}", "limit", self.limit)?;
        writeln!(
            out,
            "  {:<18}{:>9.2} us CPU/reading, {:.1} bytes to disk/reading, {:.0} readings a tick",
            "under load", l.cpu_us_per_reading, l.disk_bytes_per_reading, l.readings_per_tick
        )?;
        writeln!(
            out,
            "  {:<18}{:>9.1} MB idle, {:.1} MB under load, {:.1} MB at most",
            "memory",
            mb(l.idle),
            mb(self.node.resident),
            mb(self.node.peak)
        )?;
        let ms = |value: Option<f64>| value.map_or("?".to_owned(), |ms| format!("{ms:.1}"));
        writeln!(
            out,
            "  at {:.0} readings/s: publish to score record p50 {} ms, p99 {} ms, at most {} ms ({} records)",
            self.paced.readings_per_s,
            ms(self.latency.p50_ms),
            ms(self.latency.p99_ms),
            ms(self.latency.most_ms),
            self.latency.records
        )?;
        writeln!(
            out,
            "      tick's closing to its scores and alarms at the feeds: 99 % within {} ms; {:.2} us CPU/reading, \
             {:.0} bytes to disk/reading, {:.1} MB",
            ms(p.publish_p99_ms),
            p.cpu_us_per_reading,
            p.disk_bytes_per_reading,
            mb(self.paced.resident)
        )
    }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
