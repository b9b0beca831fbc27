//! `forebay estimate`: what a pipeline costs on the link and on the disk, before anyone buys a data plan.
//!
//! A recording goes through the engine as in `replay`; what comes of it into a real store in a folder for temporary
//! files, which says what it takes up; and out of it as the parcels that an uplink would send, whose bytes are counted
//! as the uplink counts them. The readings go into a journal beside it, cut into ticks as if each had come at its time,
//! and the engine's memory into checkpoints: what a node writes, and nobody sees, but the flash. It promises the product's own numbers for this recording, scaled to a day; it does not
//! know how the next day differs from the recorded one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::args::EstimateArgs;
use super::recordings::none_failed;
use super::screen::Screen;
use super::{Outcome, print};
use crate::config::{HttpConfig, MqttConfig, MqttEncoding, StoreConfig, UplinkMqttConfig};
use crate::engine::Engine;
use crate::frame::{Input, Readings};
use crate::pipeline::plan::PlanOptions;
use crate::record::{Lane, Outgoing, Record, Step};
use crate::store::{Committed, Durability, Ledger, Outbox, Receipts, Store, StoreOptions};
use crate::time::{Span, Tick, Timestamp};
use crate::uplink::HttpUplink;
use crate::uplink::mqtt::Form;

/// Level of compression: what the uplink takes on a link of 50 KB/s to 5 MB/s.
const LEVEL: i32 = 9;
/// Most bytes of lines of a parcel, as the uplink's own default.
const PARCEL_BYTES: usize = 512 << 10;
/// Readings of one tick share an entry of the journal: `store.tick` by default.
const TICK: Span = Span::millis(100);
/// Records of one moment share a tick, and with that a block on the disk.
const MOMENT: Span = Span::seconds(1);
const DAY: f64 = 86_400.0;

/// What it comes to.
#[derive(Debug, Serialize)]
struct Estimate {
    /// What the recording spans, in days.
    days: f64,
    /// How long records were gathered for a parcel, in seconds.
    gather_s: f64,
    /// Bytes and records a day.
    lanes: BTreeMap<Lane, LaneEstimate>,
    /// All lanes together.
    total: LaneEstimate,
    written: WrittenEstimate,
}

/// Bytes that a node writes to its disk a day, as `forebay_store_written_bytes_total` counts them.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are printed, and say what they are")]
struct WrittenEstimate {
    /// Every tick's readings.
    journal_bytes: f64,
    /// The engine's memory, as often as a node saves it by default.
    checkpoint_bytes: f64,
    /// What came of them.
    record_bytes: f64,
    total_bytes: f64,
}

/// A day of one lane.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct LaneEstimate {
    records: f64,
    /// As the store keeps them, while they wait.
    disk_bytes: f64,
    /// Parcels over HTTP.
    http_bytes: f64,
    /// Parcels over MQTT.
    mqtt_parcels_bytes: f64,
    /// The same with the dictionary.
    mqtt_dictionary_bytes: f64,
    /// A publish a record, as plain JSON.
    mqtt_records_bytes: f64,
}

/// Prints what a recording costs.
pub(super) fn estimate(args: &EstimateArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir().context("a folder for temporary files cannot be made")?;
    let mut kept = Kept::new(folder.path())?;
    let mut journal = Journal::new(folder.path())?;
    run(args, screen, &mut kept, &mut journal)?;
    kept.flush()?;
    let (Some(from), Some(to)) = (kept.first, kept.last) else {
        anyhow::bail!(
            "no record came of it: the recording is shorter than a window, or too much of it is missing"
        );
    };
    let days = to.since(from).as_seconds() / DAY;
    anyhow::ensure!(days > 0.0, "all records are of one moment: give a longer recording");
    let mut lanes = BTreeMap::new();
    for lane in Lane::ALL {
        if let Some(times) = kept.times.get(&lane) {
            lanes.insert(lane, kept.cost(lane, times, args.gather)?.a_day(days));
        }
    }
    let total = lanes.values().fold(LaneEstimate::default(), LaneEstimate::plus);
    let written = journal.written(kept.outbox.stats().written.records as f64 / days);
    let estimate = Estimate { days, gather_s: args.gather.as_seconds(), lanes, total, written };
    let text = if args.json { serde_json::to_string(&estimate)? + "\n" } else { table(&estimate)? };
    print(&text)?;
    Ok(Outcome::Fine)
}

/// The recording through the engine, record by record into the store.
fn run(
    args: &EstimateArgs,
    screen: &Screen,
    kept: &mut Kept,
    journal: &mut Journal,
) -> anyhow::Result<()> {
    let pipeline = args.offline.pipeline(&args.pipeline)?;
    let host = args.offline.host();
    let options = PlanOptions::of(pipeline.base(), &host);
    let mut engine = pipeline.engine("gateway-1", options)?;
    let recordings = args.offline.recordings(&args.data, &pipeline, screen);
    recordings.each(|input| {
        let now = input.latest();
        journal.put(&input)?;
        kept.put(engine.step(vec![input], now).records)?;
        journal.checkpoint(&engine)
    })?;
    kept.put(engine.finish().records)?;
    none_failed(&mut engine)
}

/// The journal and the checkpoints of a node that the readings come to.
struct Journal {
    ledger: Ledger,
    tick: u64,
    /// The readings' first and last time.
    span: Option<(Timestamp, Timestamp)>,
    checkpoints: u32,
}

impl Journal {
    fn new(folder: &Path) -> anyhow::Result<Journal> {
        let config = StoreConfig { path: folder.join("journal"), ..StoreConfig::default() };
        let mut options = StoreOptions::new(&config, "gateway-1", Timestamp(0));
        options.free_floor = 0;
        // When it is synced changes nothing of what is written.
        options.durability = Durability::Interval(std::time::Duration::from_hours(1));
        let mut store = Store::open(&options)?;
        store.ledger.finish_recovery()?;
        Ok(Journal { ledger: store.ledger, tick: 0, span: None, checkpoints: 0 })
    }

    /// Cuts readings into ticks and writes each.
    fn put(&mut self, input: &Input) -> anyhow::Result<()> {
        let readings = &input.readings;
        let mut order: Vec<usize> = (0..readings.len()).collect();
        order.sort_by_key(|at| readings.ts.get(*at).copied());
        let tick_of = |at: &usize| readings.ts.get(*at).map(|ts| ts.floor(TICK));
        for tick in order.chunk_by(|a, b| tick_of(a) == tick_of(b)) {
            let mut own = Input { route: input.route.clone(), ..Input::default() };
            for at in tick {
                let Readings { asset, signal, ts, value, quality } = readings;
                let row = (asset.get(*at), signal.get(*at), ts.get(*at));
                let (Some(asset), Some(signal), Some(ts)) = row else { continue };
                let (first, last) = self.span.unwrap_or((*ts, *ts));
                self.span = Some((first.min(*ts), last.max(*ts)));
                let Some(known) = input.assets.get(*asset as usize) else { continue };
                let place = own.assets.iter().position(|asset| asset == known);
                let place = place.unwrap_or_else(|| {
                    own.assets.push(known.clone());
                    own.assets.len() - 1
                });
                let value = value.get(*at).copied().unwrap_or(f64::NAN);
                let quality = quality.get(*at).copied().unwrap_or_default();
                own.readings.push(place as u32, *signal, *ts, value, quality);
            }
            self.tick += 1;
            let tick = Tick { seq: self.tick, now: Timestamp(self.tick as i64) };
            let step = Step { tick, input: vec![own], records: Vec::new() };
            self.ledger.commit(&step, &mut Receipts::default())?;
        }
        Ok(())
    }

    /// Saves the engine's memory as it is now, and lets go of the journal before it.
    fn checkpoint(&mut self, engine: &Engine) -> anyhow::Result<()> {
        let mut checkpoint = engine.checkpoint()?;
        checkpoint.tick.seq = self.tick;
        self.ledger.checkpoint(&checkpoint)?;
        self.checkpoints += 1;
        Ok(())
    }

    /// A day of it.
    fn written(&self, record_bytes: f64) -> WrittenEstimate {
        let written = self.ledger.stats().written;
        let seconds = self.span.map_or(0.0, |(first, last)| last.since(first).as_seconds());
        let journal_bytes = (written.journal as f64 / seconds.max(1.0) * DAY).round();
        let every = StoreConfig::default().checkpoint_every.as_seconds();
        let each = written.checkpoints as f64 / f64::from(self.checkpoints.max(1));
        let checkpoint_bytes = (each * DAY / every).round();
        let record_bytes = record_bytes.round();
        let total_bytes = journal_bytes + checkpoint_bytes + record_bytes;
        WrittenEstimate { journal_bytes, checkpoint_bytes, record_bytes, total_bytes }
    }
}

/// When a record would have been made.
fn time_of(record: &Record) -> Timestamp {
    match record {
        Record::Score(score) => score.window_end,
        Record::Alarm(alarm) => alarm.at,
        Record::Loss(loss) => loss.at,
        Record::Model(model) => model.at,
        Record::Notice(notice) => notice.at,
        Record::Verdict(verdict) => verdict.given,
        Record::Aggregate(aggregate) => {
            let times = aggregate.signals.values().flatten().map(|one| one.last_at);
            times.max().unwrap_or_default()
        }
        Record::Raw(raw) => {
            let times = raw.signals.values().flatten().map(|reading| reading.0);
            times.max().unwrap_or_default()
        }
    }
}

/// The store, and what went into it.
struct Kept {
    ledger: Ledger,
    outbox: Outbox,
    committed: Committed,
    /// Records of one moment that are not in the store yet.
    moment: (Timestamp, Vec<Outgoing>),
    tick: u64,
    /// By lane, each record's time and bytes of its line, in order.
    times: BTreeMap<Lane, Vec<(Timestamp, usize)>>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Kept {
    fn new(folder: &Path) -> anyhow::Result<Kept> {
        let config = StoreConfig { path: folder.join("store"), ..StoreConfig::default() };
        let mut options = StoreOptions::new(&config, "gateway-1", Timestamp(0));
        options.lane_limits = [u64::MAX / 8; 4];
        options.free_floor = 0;
        let mut store = Store::open(&options)?;
        let committed = store.ledger.finish_recovery()?.committed;
        let outbox = store.outboxes.pop().context("the store has no outbox")?;
        Ok(Kept {
            ledger: store.ledger,
            outbox,
            committed,
            moment: (Timestamp::MIN, Vec::new()),
            tick: 0,
            times: BTreeMap::new(),
            first: None,
            last: None,
        })
    }

    fn put(&mut self, records: Vec<Outgoing>) -> anyhow::Result<()> {
        for outgoing in records {
            let time = time_of(&outgoing.record);
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = Some(self.last.map_or(time, |last| last.max(time)));
            let bytes = serde_json::to_vec(&outgoing.record)?.len() + 1;
            self.times.entry(outgoing.lane).or_default().push((time, bytes));
            let moment = time.floor(MOMENT);
            if moment != self.moment.0 {
                self.flush()?;
                self.moment.0 = moment;
            }
            self.moment.1.push(outgoing);
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let records = std::mem::take(&mut self.moment.1);
        if !records.is_empty() {
            self.tick += 1;
            let tick = Tick { seq: self.tick, now: Timestamp(self.tick as i64) };
            let step = Step { tick, input: Vec::new(), records };
            self.committed = self.ledger.commit(&step, &mut Receipts::default())?.0;
        }
        Ok(())
    }

    /// What a lane's records came to in the recording.
    fn cost(
        &self,
        lane: Lane,
        times: &[(Timestamp, usize)],
        gather: Span,
    ) -> anyhow::Result<LaneEstimate> {
        let disk_bytes = self.outbox.stats().lane(lane).queued_bytes as f64;
        let mut cost =
            LaneEstimate { records: times.len() as f64, disk_bytes, ..LaneEstimate::default() };
        let http = HttpUplink::new(&HttpConfig::to("https://collector.example/forebay"))?;
        let mqtt = |encoding, dictionary| {
            let broker = MqttConfig::default();
            let config =
                UplinkMqttConfig { broker, encoding, topic: None, dictionary, in_flight: 1 };
            Form::new(&config, "gateway-1")
        };
        let records = mqtt(MqttEncoding::Records, false)?;
        let parcels = mqtt(MqttEncoding::Parcels, false)?;
        let with_dictionary = mqtt(MqttEncoding::Parcels, true)?;
        let mut from = 1;
        let mut rest = times;
        while !rest.is_empty() {
            let (count, bytes) = together(rest, gather);
            let parcel = self.outbox.peek(lane, self.committed, bytes, from)?;
            let parcel = parcel.context("the store has lost a record")?;
            cost.http_bytes += http.wire_bytes(&parcel, LEVEL)? as f64;
            cost.mqtt_parcels_bytes += parcels.wire_bytes(&parcel, LEVEL)? as f64;
            cost.mqtt_dictionary_bytes += with_dictionary.wire_bytes(&parcel, LEVEL)? as f64;
            cost.mqtt_records_bytes += records.wire_bytes(&parcel, LEVEL)? as f64;
            from += count as u64;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(cost)
    }
}

/// How many records go in one parcel, and their bytes.
fn together(times: &[(Timestamp, usize)], gather: Span) -> (usize, usize) {
    let start = times.first().map_or(Timestamp::MIN, |(time, _)| *time);
    let (mut count, mut sum) = (0, 0);
    for (time, bytes) in times {
        let late = time.since(start) > gather && *time != start;
        if count > 0 && (late || sum + bytes > PARCEL_BYTES) {
            break;
        }
        count += 1;
        sum += bytes;
    }
    (count, sum)
}

impl LaneEstimate {
    fn map(self, change: impl Fn(f64) -> f64) -> LaneEstimate {
        LaneEstimate {
            records: change(self.records),
            disk_bytes: change(self.disk_bytes),
            http_bytes: change(self.http_bytes),
            mqtt_parcels_bytes: change(self.mqtt_parcels_bytes),
            mqtt_dictionary_bytes: change(self.mqtt_dictionary_bytes),
            mqtt_records_bytes: change(self.mqtt_records_bytes),
        }
    }

    fn a_day(self, days: f64) -> LaneEstimate {
        self.map(|sum| (sum / days).round())
    }

    fn plus(self, other: &LaneEstimate) -> LaneEstimate {
        LaneEstimate {
            records: self.records + other.records,
            disk_bytes: self.disk_bytes + other.disk_bytes,
            http_bytes: self.http_bytes + other.http_bytes,
            mqtt_parcels_bytes: self.mqtt_parcels_bytes + other.mqtt_parcels_bytes,
            mqtt_dictionary_bytes: self.mqtt_dictionary_bytes + other.mqtt_dictionary_bytes,
            mqtt_records_bytes: self.mqtt_records_bytes + other.mqtt_records_bytes,
        }
    }
}

fn table(estimate: &Estimate) -> anyhow::Result<String> {
    let mut text = String::new();
    let size = |bytes: f64| bytesize::ByteSize::b(bytes as u64).display().si().to_string();
    writeln!(
        text,
        "A day of this, from {:.2} days of recording; parcels gather for {} s.\n",
        estimate.days, estimate.gather_s
    )?;
    writeln!(
        text,
        "{:<9}{:>11}{:>12}{:>12}{:>14}{:>14}{:>14}",
        "lane", "records", "disk", "HTTP", "MQTT parcels", "+ dictionary", "MQTT records"
    )?;
    let lanes = estimate.lanes.iter().map(|(lane, costs)| (lane.name(), costs));
    for (name, costs) in lanes.chain([("all", &estimate.total)]) {
        writeln!(
            text,
            "{:<9}{:>11}{:>12}{:>12}{:>14}{:>14}{:>14}",
            name,
            costs.records,
            size(costs.disk_bytes),
            size(costs.http_bytes),
            size(costs.mqtt_parcels_bytes),
            size(costs.mqtt_dictionary_bytes),
            size(costs.mqtt_records_bytes)
        )?;
    }
    let WrittenEstimate { journal_bytes, checkpoint_bytes, record_bytes, total_bytes } =
        estimate.written;
    writeln!(
        text,
        "\nWritten to the disk a day: {} (journal {}, checkpoints {}, records {}), beside what the index and the file \
         system add.",
        size(total_bytes),
        size(journal_bytes),
        size(checkpoint_bytes),
        size(record_bytes)
    )?;
    writeln!(text, "\nBytes on the link are without TCP and TLS: add a tenth.")?;
    Ok(text)
}
