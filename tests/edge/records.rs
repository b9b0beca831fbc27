//! Records as an engine would make them.

use std::collections::BTreeMap;

use forebay::record::{AlarmRecord, AlarmState, Lane, Outgoing, Record, ScoreRecord, Severity};
use forebay::time::Timestamp;

/// The n-th scored window.
pub fn score(n: u64) -> Outgoing {
    let record = Record::Score(ScoreRecord {
        id: format!("score-{n}"),
        node: "gw".into(),
        pipeline: "pumps".into(),
        asset: format!("pump/{}", n % 3),
        tags: BTreeMap::new(),
        window_start: Timestamp(n as i64),
        window_end: Timestamp(n as i64 + 1),
        features: (0..8).map(|f| (format!("signal_{f}.mean"), Some(n as f64))).collect(),
        scores: BTreeMap::from([("anomaly".into(), Some(0.5))]),
        threshold: Some(0.9),
        coverage: 1.0,
        model: Some("pca".into()),
        model_version: Some("1".into()),
        models: Vec::new(),
        contributions: Vec::new(),
    });
    Outgoing { lane: Lane::Score, record }
}

/// The n-th scored window, with values that hardly compress.
pub fn random_score(n: u64) -> Outgoing {
    let mut outgoing = score(n);
    if let Record::Score(score) = &mut outgoing.record {
        score.features.values_mut().for_each(|value| *value = Some(fastrand::f64()));
    }
    outgoing
}

/// The n-th alarm.
pub fn alarm(n: u64) -> Outgoing {
    let record = Record::Alarm(AlarmRecord {
        id: format!("alarm-{n}"),
        node: "gw".into(),
        pipeline: "pumps".into(),
        asset: "pump-1".into(),
        tags: BTreeMap::new(),
        name: "anomaly".into(),
        state: AlarmState::Unacknowledged,
        severity: Severity::High,
        at: Timestamp(n as i64),
        on: "anomaly".into(),
        value: Some(1.0),
        limit: 0.9,
        by: None,
        reason: None,
        until: None,
        contributions: Vec::new(),
    });
    Outgoing { lane: Lane::Alarm, record }
}
