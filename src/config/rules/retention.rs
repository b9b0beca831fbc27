//! The rules of what a lane gives up. Part of `rules`.

use super::super::{KeepConfig, RetentionConfig, StoreConfig};
use super::Rules;
use crate::diagnose::{Problem, Spot};
use crate::record::Lane;
use crate::time::Span;

/// The longest age and interval that make sense.
const AGE_MAX: Span = Span::seconds(20 * 366 * 24 * 3600);
const THIN_MAX: Span = Span::seconds(24 * 3600);

impl Rules<'_> {
    /// `[store.alarm]` to `[store.raw]`; `spot` is `[store]`.
    pub(super) fn retention(&mut self, spot: Spot<'_>, store: &StoreConfig) {
        for (lane, retention) in Lane::ALL.into_iter().zip(store.retention()) {
            let spot = spot.key(lane.name());
            if lane == Lane::Alarm {
                self.alarms_stay(spot, retention);
                continue;
            }
            let RetentionConfig { max_age, thin, .. } = retention;
            if let Some(age) = max_age {
                self.between(spot.key("max_age"), "`max_age`", age, Span::seconds(60), AGE_MAX);
            }
            if thin == Span::ZERO {
                continue;
            }
            self.between(spot.key("thin"), "`thin`", thin, Span::seconds(1), THIN_MAX);
            if let Some(age) = max_age.filter(|age| *age < thin) {
                let problem = Problem::error(
                    spot.key("thin"),
                    "records are dropped before an interval of them is over",
                )
                .found(format!("`thin` of {thin}, `max_age` of {age}"))
                .expected("`thin` shorter than `max_age`, or \"0s\"");
                self.tell(problem);
            }
        }
    }

    /// Alarms are neither dropped nor thinned.
    fn alarms_stay(&mut self, spot: Spot<'_>, retention: RetentionConfig) {
        let asked = [
            ("max_age", retention.max_age.is_some()),
            ("keep", retention.keep == KeepConfig::Oldest),
            ("thin", spot.key("thin").exact && retention.thin > Span::ZERO),
        ];
        for (key, _) in asked.into_iter().filter(|(_, is_asked)| *is_asked) {
            let problem = Problem::error(
                spot.key(key),
                format!("`{key}` cannot be set for alarms: they are never dropped or thinned"),
            )
            .found(format!("`{key}` below `store.alarm`"))
            .expected(format!(
                "no `{key}` there; `alarm_limit` says when alarms push out other lanes"
            ));
            self.tell(problem);
        }
    }
}
