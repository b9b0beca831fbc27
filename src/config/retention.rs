//! `[store.score]`, `[store.feature]`, `[store.raw]`: what goes when an outage outlasts the disk. Part of `config`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StoreConfig;
use crate::time::Span;

impl StoreConfig {
    /// What goes, by lane.
    pub fn retention(&self) -> [RetentionConfig; 4] {
        [self.alarm, self.score, self.feature, self.raw]
    }
}

/// What a lane gives up when it is full, and before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Which records stay when the lane is full and was thinned.
    pub keep: KeepConfig,
    /// Records that were made longer ago are dropped although there is room, by the node's clock. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Before a full lane drops anything it is thinned, the oldest first: raw readings to count, lowest, highest, mean and
    /// last value of intervals so long; of scored windows the worst of each interval and its last stay, of features the
    /// last. The second time intervals are ten times as long. "0s": it is not thinned.
    pub thin: Span,
}

/// Which records stay when a lane is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeepConfig {
    /// The newest: the oldest are dropped for them.
    #[default]
    Newest,
    /// The oldest: what comes while the lane is full is dropped.
    Oldest,
}

impl RetentionConfig {
    pub(super) fn is_usual(&self) -> bool {
        *self == RetentionConfig::default()
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        RetentionConfig { keep: KeepConfig::Newest, max_age: None, thin: Span::seconds(60) }
    }
}
