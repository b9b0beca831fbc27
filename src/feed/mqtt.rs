//! Scores, alarms, notices and verdicts on the site's own broker: flat JSON, retained, for dashboards that speak MQTT;
//! and answers to the commands that came from there.
//!
//! `node` runs [`MqttFeed::run`] as a task of its own with a subscription to the feed. It promises to slow nobody
//! down: what it cannot send in time is skipped, oldest first, and counted. After a reconnect it publishes
//! each alarm's latest change again, so that no dashboard keeps one that is over. It delivers nothing for sure:
//! that is the uplink's work.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::MqttConfig;
use crate::feed::command::broker::Reply;
use crate::link::mqtt::{Dial, Gone, Qos, Role};
use crate::link::pump::Pump;
use crate::link::topic::{Names, Template, below};
use crate::link::{Backoff, LinkStatus, SetupError};
use crate::record::{AlarmRecord, AlarmState, Record};
use crate::time::{Span, monotonic, now};

/// A connection that held this long was a good one: the next wait starts small again.
const STEADY_AFTER: Duration = Duration::from_mins(2);
/// Publishes on the way at a time.
const WINDOW: u16 = 64;
/// Topics whose latest alarm is remembered: one an asset, and one an alarm of it.
const ALARMS_MAX: usize = 8192;

/// What was published, counted since the start.
#[derive(Debug, Default)]
pub struct FeedCounts {
    /// Publishes handed to the broker.
    pub published: AtomicU64,
    /// Events skipped because the broker was away or slow.
    pub skipped: AtomicU64,
}

/// The site's broker as a place to show scores and alarms.
#[derive(Debug)]
pub struct MqttFeed {
    dial: Dial,
    topic: Template,
    counts: Arc<FeedCounts>,
    alarms: HashMap<String, Bytes>,
    /// Answers to commands.
    replies: Option<mpsc::Receiver<Reply>>,
}

impl MqttFeed {
    /// Checks the settings. `topic` is a template such as `forebay/{node}/{pipeline}/{asset}/{type}`. The client's
    /// name is the one of the node's source with `-feed` behind it: two clients with one name throw each other out.
    ///
    /// # Errors
    /// Whatever would make every connection fail.
    pub fn new(
        config: &MqttConfig,
        node: &str,
        topic: &str,
        counts: Arc<FeedCounts>,
    ) -> Result<MqttFeed, SetupError> {
        let mut config = config.clone();
        let client_id = config.client_id.take().unwrap_or_else(|| format!("forebay-{node}"));
        let role = Role::Publisher { window: WINDOW };
        let dial = Dial::new(&config, &format!("{client_id}-feed"), role)?;
        let topic = Template::parse(topic)?;
        Ok(MqttFeed { dial, topic, counts, alarms: HashMap::new(), replies: None })
    }

    /// The same, which also sends these answers.
    #[must_use]
    pub fn answering(self, replies: mpsc::Receiver<Reply>) -> MqttFeed {
        MqttFeed { replies: Some(replies), ..self }
    }

    /// Publishes what comes over `events` until `stop`, or until nobody sends events any more. `record` is what an
    /// event carries.
    pub async fn run<E: Send + Sync + 'static>(
        mut self,
        mut events: broadcast::Receiver<Arc<E>>,
        record: fn(&E) -> &Record,
        status: watch::Sender<LinkStatus>,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::new(Span::seconds(30));
        let (mut down, mut told) = (None, false);
        loop {
            let began = monotonic();
            let opened = tokio::select! {
                opened = Pump::open(&self.dial, 1, |_| false) => opened,
                () = stop.cancelled() => break,
            };
            let error = match opened {
                Ok(pump) => {
                    if down.take().is_some() {
                        tracing::info!(broker = self.dial.url(), "the MQTT feed works again");
                    }
                    let refused = Vec::new();
                    let up = LinkStatus::Up { since: now(), session_present: false, refused };
                    status.send_replace(up);
                    match self.serve(pump, &mut events, record, &stop).await {
                        Some(error) => error,
                        None => break,
                    }
                }
                Err(error) => error.to_string(),
            };
            // One that was short may have been ended by another client of this name, which would not stop by itself.
            if began.elapsed() >= STEADY_AFTER {
                backoff.reset();
                told = false;
            }
            let (since, retries) = down.map_or((now(), 0), |(since, retries)| (since, retries + 1));
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(broker = self.dial.url(), error, "the MQTT feed is down");
            }
            down = Some((since, retries));
            status.send_replace(LinkStatus::Down { since, error, retries });
            if tokio::time::timeout(backoff.wait(), stop.cancelled()).await.is_ok() {
                break;
            }
        }
        status.send_replace(LinkStatus::Stopped);
    }

    // Until the connection is lost (then it says why), or there is nothing left to do.
    async fn serve<E: Send + Sync + 'static>(
        &mut self,
        mut pump: Pump,
        events: &mut broadcast::Receiver<Arc<E>>,
        record: fn(&E) -> &Record,
        stop: &CancellationToken,
    ) -> Option<String> {
        for (topic, payload) in &self.alarms {
            if pump.client.publish(topic, Qos::One, true, payload.clone()).await.is_err() {
                break;
            }
        }
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    // An error here is said by the pump in a moment.
                    Ok(event) => drop(self.publish(&pump, record(&event)).await.ok()),
                    Err(RecvError::Lagged(count)) => {
                        self.counts.skipped.fetch_add(count, Ordering::Relaxed);
                    }
                    Err(RecvError::Closed) => break,
                },
                Some(reply) = next(&mut self.replies) => drop(self.answer(&pump, reply).await.ok()),
                ended = pump.events.recv() => {
                    return Some(match ended {
                        Some(Err(lost)) => lost.to_string(),
                        _ => "the connection has ended".into(),
                    });
                }
                () = stop.cancelled() => break,
            }
        }
        pump.client.disconnect().await;
        // The pump ends with the goodbye; where the broker is gone, with an error.
        drop(pump.events.recv().await);
        None
    }

    async fn publish(&mut self, pump: &Pump, record: &Record) -> Result<(), Gone> {
        let Some((topics, payload)) = self.shown(record) else { return Ok(()) };
        // One that is too large would end the connection, and as an alarm every connection after it.
        if !topics.iter().all(|topic| pump.terms.takes(topic, &payload)) {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if matches!(record, Record::Alarm(_)) {
            for topic in &topics {
                if self.alarms.len() < ALARMS_MAX || self.alarms.contains_key(topic) {
                    self.alarms.insert(topic.clone(), payload.clone());
                }
            }
        }
        let qos = if matches!(record, Record::Score(_)) { Qos::Zero } else { Qos::One };
        for topic in topics {
            pump.client.publish(&topic, qos, true, payload.clone()).await?;
            self.counts.published.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Where a record is shown, and as what. An asset's topic has its last one of a type, whatever it is about; below it
    /// each alarm has a topic of its own, and each thing that notices and verdicts are about.
    fn shown(&self, record: &Record) -> Option<(Vec<String>, Bytes)> {
        let ((node, pipeline, asset), kind, below_it) = match record {
            Record::Score(r) => ((&r.node, &r.pipeline, &r.asset), "score", vec![]),
            Record::Alarm(r) => ((&r.node, &r.pipeline, &r.asset), "alarm", vec![r.name.as_str()]),
            Record::Notice(r) => {
                let names = vec![r.kind.name(), r.name.as_str()];
                ((&r.node, &r.pipeline, &r.asset), "notice", names)
            }
            Record::Verdict(r) => {
                ((&r.node, &r.pipeline, &r.asset), "verdict", vec![r.name.as_str()])
            }
            _ => return None,
        };
        let names = Names { node, pipeline, asset, kind, lane: "" };
        let mut topics = vec![self.topic.fill(&names)];
        if !below_it.is_empty() {
            let of =
                below_it.into_iter().fold(topics[0].clone(), |topic, name| below(&topic, name));
            topics.push(of);
        }
        Some((topics, Bytes::from(Value::Object(flat(record)).to_string())))
    }

    async fn answer(&self, pump: &Pump, Reply { topic, payload }: Reply) -> Result<(), Gone> {
        if !pump.terms.takes(&topic, &payload) {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.counts.published.fetch_add(1, Ordering::Relaxed);
        pump.client.publish(&topic, Qos::One, false, payload).await
    }
}

/// The next answer; never, where there are none.
async fn next(replies: &mut Option<mpsc::Receiver<Reply>>) -> Option<Reply> {
    match replies {
        Some(replies) => replies.recv().await,
        None => std::future::pending().await,
    }
}

/// A record as one flat object, without its lists: every score and feature a number of its own, under its own name; of an
/// alarm also whether a lamp should be on. Rows and contributions stay with the record that goes uplink.
fn flat(record: &Record) -> Map<String, Value> {
    let Ok(Value::Object(mut flat)) = serde_json::to_value(record) else { return Map::new() };
    flat.retain(|name, value| {
        let is_plain = !value.is_array() && !value.is_object() && !value.is_null();
        name != "id" && name != "type" && is_plain
    });
    let (at, tags) = match record {
        Record::Score(score) => (score.window_end, &score.tags),
        Record::Alarm(alarm) => (alarm.at, &alarm.tags),
        Record::Notice(notice) => (notice.at, &notice.tags),
        Record::Verdict(verdict) => (verdict.given, &verdict.tags),
        _ => return flat,
    };
    flat.insert("time".into(), json!(at.0.div_euclid(1000)));
    match record {
        Record::Score(score) => {
            put_all(&mut flat, "score", &score.scores);
            put_all(&mut flat, "feature", &score.features);
        }
        Record::Alarm(AlarmRecord { state, .. }) => {
            let on = matches!(state, AlarmState::Unacknowledged | AlarmState::Acknowledged);
            flat.insert("active".into(), json!(on));
        }
        Record::Verdict(verdict) => put_all(&mut flat, "feature", &verdict.features),
        _ => {}
    }
    for (name, value) in tags {
        put(&mut flat, "tag", name, json!(value));
    }
    flat
}

// A value that is missing has no field, so that no reader takes it for zero.
fn put_all(flat: &mut Map<String, Value>, kind: &str, numbers: &BTreeMap<String, Option<f64>>) {
    for (name, value) in numbers {
        if let Some(value) = value {
            put(flat, kind, name, json!(value));
        }
    }
}

// A name that is taken keeps its field, and the newcomer says what it is: `score.threshold`.
fn put(flat: &mut Map<String, Value>, kind: &str, name: &str, value: Value) {
    let key = if flat.contains_key(name) { format!("{kind}.{name}") } else { name.to_owned() };
    flat.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ScoreRecord;
    use crate::time::Timestamp;

    fn score() -> ScoreRecord {
        ScoreRecord {
            id: "x".into(),
            node: "gw".into(),
            pipeline: "pumps".into(),
            asset: "pump-07".into(),
            tags: BTreeMap::from([("site".into(), "north".into())]),
            window_start: Timestamp(0),
            window_end: Timestamp(60_000_000),
            features: BTreeMap::from([
                ("vibration_rms.mean".into(), Some(2.5)),
                ("flow.mean".into(), None),
                ("threshold".into(), Some(7.0)),
            ]),
            scores: BTreeMap::from([("anomaly".into(), Some(0.1)), ("risk".into(), None)]),
            threshold: Some(0.9),
            coverage: 1.0,
            model: None,
            model_version: None,
            models: Vec::new(),
            contributions: Vec::new(),
        }
    }

    #[test]
    fn a_score_is_flat_and_what_is_missing_is_absent() {
        let flat = flat(&Record::Score(score()));
        assert!(flat.values().all(|value| !value.is_object() && !value.is_array()));
        assert_eq!(flat["time"], 60_000);
        assert_eq!(flat["anomaly"], 0.1);
        assert_eq!(flat["vibration_rms.mean"], 2.5);
        assert_eq!(flat["threshold"], 0.9, "a feature must not hide the threshold");
        assert_eq!(flat["feature.threshold"], 7.0);
        assert_eq!(flat["site"], "north");
        assert!(!flat.contains_key("risk") && !flat.contains_key("flow.mean"));
    }
}
