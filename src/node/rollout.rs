//! When a new model goes on to its next phase, and when it is taken back.
//!
//! The engine thread asks once a second and gives what is decided to itself as a command, so that it stands in the
//! journal like any operator's. Pure: counts and times in, at most one order out.

use crate::command::ModelAction;
use crate::config::RolloutConfig;
use crate::record::ModelPhase;
use crate::stage::score::{Candidate, View};
use crate::time::{Span, Timestamp};

/// Who gives these orders, in records.
pub(super) const BY: &str = "forebay";
/// A window that takes less than this is fast enough, however fast the old model was.
const FAST_MICROS: f64 = 1000.0;
/// How far a mean may be from the old one, in deviations, where there is no threshold to count by.
const FAR: f64 = 3.0;

/// What is to be done about the model on trial at `now`.
pub(super) fn decide(view: &View, policy: &RolloutConfig, now: Timestamp) -> Option<ModelAction> {
    let candidate = view.candidate.as_ref()?;
    let digest = candidate.digest.clone();
    if let Some(reason) = fault(view, candidate, policy) {
        return Some(ModelAction::Withdraw { digest, reason });
    }
    let trial = &candidate.trial;
    // Beside a model that is left alone, or never answers, there is nothing to compare with: that it answers has to do.
    let is_alone = view.quarantined_until.is_some();
    let answered = if is_alone || trial.windows == 0 { trial.answered } else { trial.both };
    let lasted = |span: Span| {
        now >= trial.since.plus(span) && (answered >= policy.windows || span == Span::ZERO)
    };
    let permille = (policy.canary_share.clamp(0.0, 1.0) * 1000.0).round() as u16;
    match candidate.phase {
        ModelPhase::Shadow if lasted(policy.shadow) => Some(if policy.canary == Span::ZERO {
            ModelAction::Promote { digest }
        } else {
            ModelAction::Canary { digest, permille }
        }),
        ModelPhase::Canary if lasted(policy.canary) => Some(ModelAction::Promote { digest }),
        ModelPhase::Promoted if lasted(policy.proof) => Some(ModelAction::Settle { digest }),
        _ => None,
    }
}

/// Why a model is to be taken back; nothing is wrong with most.
fn fault(view: &View, candidate: &Candidate, policy: &RolloutConfig) -> Option<String> {
    let trial = &candidate.trial;
    if candidate.quarantined_until.is_some() {
        return Some("it failed several times in a row".into());
    }
    let unanswered = trial.unanswered as f64 / trial.windows.max(1) as f64;
    if trial.windows >= policy.windows && unanswered > policy.most_unanswered {
        return Some(format!(
            "no answer for {} of {} windows; at most {} of a hundred may be without",
            trial.unanswered,
            trial.windows,
            policy.most_unanswered * 100.0
        ));
    }
    if trial.both < policy.windows {
        return None;
    }
    let (new, old) = (candidate.cost.a_row(), view.cost.a_row());
    if new > FAST_MICROS && new > old * policy.most_times_slower {
        return Some(format!("{new:.0} µs a window, the model in use {old:.0}"));
    }
    if candidate.has_threshold {
        let more = (trial.above_new as f64 - trial.above_old as f64) / trial.both as f64;
        let way_out = if more > policy.most_more_alarms {
            ""
        } else if -more > policy.most_fewer_alarms {
            "; where it is to be quieter, set `most_fewer_alarms = 1.0` in [models.rollout]"
        } else {
            return None;
        };
        return Some(format!(
            "it calls {} of {} windows abnormal, the model in use {}{way_out}",
            trial.above_new, trial.both, trial.above_old
        ));
    }
    let (new, old) = (trial.new.mean(), trial.old.mean());
    let deviation = trial.old.deviation();
    ((new - old).abs() > FAR * deviation && deviation > 0.0).then(|| {
        format!("its mean score is {new:.4}, that of the model in use {old:.4} ± {deviation:.4}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::Cost;
    use crate::stage::score::rollout::Trial;

    fn view(phase: ModelPhase, trial: Trial) -> View {
        let cost = Cost { rows: 100, micros: 1000, longest_micros: 100 };
        let candidate = Candidate {
            model: "new".into(),
            version: "2".into(),
            digest: "b".into(),
            phase,
            quarantined_until: None,
            cost,
            has_threshold: true,
            trial,
        };
        View { cost, candidate: Some(candidate), ..View::default() }
    }

    fn trial(both: u64, above_old: u64, above_new: u64) -> Trial {
        Trial { windows: both, both, above_old, above_new, ..Trial::default() }
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp(minutes * 60_000_000)
    }

    #[test]
    fn a_good_model_goes_on_when_time_and_windows_have_come() {
        let policy = RolloutConfig::default();
        let shadow = view(ModelPhase::Shadow, trial(500, 3, 3));
        assert_eq!(decide(&shadow, &policy, at(59)), None);
        let digest = || "b".to_owned();
        let canary = ModelAction::Canary { digest: digest(), permille: 100 };
        let promote = || Some(ModelAction::Promote { digest: digest() });
        assert_eq!(decide(&shadow, &policy, at(60)), Some(canary));
        let few = view(ModelPhase::Shadow, trial(29, 0, 0));
        assert_eq!(decide(&few, &policy, at(600)), None, "too few windows to say");
        let canary = view(ModelPhase::Canary, trial(500, 3, 3));
        assert_eq!(decide(&canary, &policy, at(60)), promote());
        let promoted = view(ModelPhase::Promoted, trial(500, 3, 3));
        assert_eq!(
            decide(&promoted, &policy, at(60)),
            Some(ModelAction::Settle { digest: digest() })
        );
        let at_once =
            RolloutConfig { shadow: Span::ZERO, canary: Span::ZERO, ..RolloutConfig::default() };
        assert_eq!(decide(&few, &at_once, at(0)), promote());
        // Beside one that has failed too often there is nothing to compare with.
        let some = Trial { answered: 40, windows: 5, ..trial(0, 0, 0) };
        let mut alone = view(ModelPhase::Promoted, some);
        assert_eq!(decide(&alone, &policy, at(600)), None);
        alone.quarantined_until = Some(at(601));
        assert_eq!(
            decide(&alone, &policy, at(600)),
            Some(ModelAction::Settle { digest: digest() })
        );
        let silent = view(ModelPhase::Promoted, Trial { answered: 40, ..trial(0, 0, 0) });
        assert!(decide(&silent, &policy, at(600)).is_some(), "the old one says nothing at all");
        assert_eq!(decide(&View::default(), &policy, at(600)), None);
    }

    #[test]
    fn a_bad_model_is_taken_back_with_its_numbers() {
        let policy = RolloutConfig::default();
        let reason = |view: &View| match decide(view, &policy, at(1)) {
            Some(ModelAction::Withdraw { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        let loud = view(ModelPhase::Canary, trial(100, 1, 9));
        assert!(reason(&loud).contains("9 of 100"), "{}", reason(&loud));
        let deaf = view(ModelPhase::Canary, trial(100, 9, 1));
        assert!(reason(&deaf).contains("most_fewer_alarms"), "{}", reason(&deaf));
        let quieter = RolloutConfig { most_fewer_alarms: 1.0, ..RolloutConfig::default() };
        assert_eq!(decide(&deaf, &quieter, at(1)), None);
        let mut silent = view(ModelPhase::Shadow, trial(100, 0, 0));
        silent.candidate.as_mut().unwrap().trial.unanswered = 2;
        assert!(reason(&silent).contains("2 of 100"));
        let mut slow = view(ModelPhase::Promoted, trial(100, 0, 0));
        slow.candidate.as_mut().unwrap().cost.micros = 1_000_000;
        assert!(reason(&slow).contains("10000 µs"));
        let mut broken = view(ModelPhase::Shadow, trial(0, 0, 0));
        broken.candidate.as_mut().unwrap().quarantined_until = Some(at(9));
        assert!(reason(&broken).contains("failed"));
    }
}
