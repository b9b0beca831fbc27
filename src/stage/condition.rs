//! An alarm's state on one asset, and what each event makes of it: the state machine of ISA-18.2.
//!
//! `alarm` decides which event has come; this file knows no values, limits or delays. Three facts make the state, and
//! five events change them:
//!
//! | state                      | raise | clear             | acknowledge | shelve | unshelve, or its time is over |
//! |----------------------------|-------|-------------------|-------------|--------|-------------------------------|
//! | `normal` (NORM)            | UNACK | –                 | refused     | SHLVD  | refused                       |
//! | `unacknowledged` (UNACK)   | –     | NORM, RTNUN if latched | ACKED  | SHLVD  | refused                       |
//! | `acknowledged` (ACKED)     | –     | NORM              | refused     | SHLVD  | refused                       |
//! | `returned` (RTNUN)         | UNACK | –                 | NORM        | SHLVD  | refused                       |
//! | `shelved` (SHLVD)          | silent | silent           | refused     | SHLVD, to the new time | UNACK if it is on, else RTNUN if latched and owed, else NORM |
//!
//! RTNUN is for latched alarms: any other is done with when it clears, as if that acknowledged it. A shelved alarm goes
//! on being judged in silence; one that is on when its shelving ends is raised again, whoever had acknowledged it
//! before.

use serde::{Deserialize, Serialize};

use crate::record::AlarmState;
use crate::time::Timestamp;

/// The facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Condition {
    /// The value is beyond its limit, and has been for long enough.
    on: bool,
    /// Somebody still has to acknowledge it.
    owed: bool,
    /// Silent until then.
    shelved_until: Option<Timestamp>,
}

/// What can happen to an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The value has been beyond `raise` for `on_delay`.
    Raise,
    /// The value has been within `clear` for `off_delay`.
    Clear,
    /// An operator has seen it.
    Acknowledge,
    /// An operator wants silence until then.
    Shelve(Timestamp),
    /// An operator, or the clock, ends the silence.
    Unshelve,
}

/// What an event came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A change to say.
    Says(AlarmState),
    /// Nothing that anybody is told.
    Silent,
    /// The event does not fit the state: nothing has changed.
    Refused,
}

impl Condition {
    /// Whether the value is beyond its limit, shelved or not.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// When its shelving ends, if it is shelved.
    pub(super) fn shelved_until(&self) -> Option<Timestamp> {
        self.shelved_until
    }

    /// The state that these facts make.
    pub(super) fn state(&self) -> AlarmState {
        match (self.shelved_until.is_some(), self.on, self.owed) {
            (true, ..) => AlarmState::Shelved,
            (false, true, true) => AlarmState::Unacknowledged,
            (false, true, false) => AlarmState::Acknowledged,
            (false, false, true) => AlarmState::Returned,
            (false, false, false) => AlarmState::Normal,
        }
    }

    /// Whether the state lets this happen.
    pub(super) fn allows(&self, event: Event) -> bool {
        match event {
            Event::Raise | Event::Clear | Event::Shelve(_) => true,
            Event::Acknowledge => self.owed && self.shelved_until.is_none(),
            Event::Unshelve => self.shelved_until.is_some(),
        }
    }

    /// Takes an event in. `latch`: whether it stays until somebody acknowledges it.
    pub(super) fn take(&mut self, event: Event, latch: bool) -> Outcome {
        if !self.allows(event) {
            return Outcome::Refused;
        }
        let before = self.clone();
        match event {
            Event::Raise if !self.on => (self.on, self.owed) = (true, true),
            Event::Raise => {}
            Event::Clear => {
                self.owed &= latch || !self.on;
                self.on = false;
            }
            Event::Acknowledge => self.owed = false,
            Event::Shelve(until) => self.shelved_until = Some(until),
            Event::Unshelve => {
                self.shelved_until = None;
                self.owed |= self.on;
            }
        }
        let moved = self.shelved_until != before.shelved_until;
        if moved || self.state() != before.state() {
            Outcome::Says(self.state())
        } else {
            Outcome::Silent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AlarmState::{Acknowledged, Normal, Returned, Shelved, Unacknowledged};
    use Outcome::{Refused, Says, Silent};

    fn condition(on: bool, owed: bool, shelved: bool) -> Condition {
        Condition { on, owed, shelved_until: shelved.then_some(Timestamp(7)) }
    }

    /// Every event, with and without a latch where that matters.
    fn events() -> [(Event, bool); 6] {
        [
            (Event::Raise, false),
            (Event::Clear, false),
            (Event::Clear, true),
            (Event::Acknowledge, true),
            (Event::Shelve(Timestamp(9)), true),
            (Event::Unshelve, true),
        ]
    }

    /// Every state and every event: what is said, and the facts after it.
    #[test]
    fn the_table_holds_in_every_state_for_every_event() {
        // By state: raise, clear, clear of a latched one, acknowledge, shelve, unshelve.
        let table = [
            (
                (false, false),
                Normal,
                [Says(Unacknowledged), Silent, Silent, Refused, Says(Shelved), Refused],
            ),
            (
                (true, true),
                Unacknowledged,
                [Silent, Says(Normal), Says(Returned), Says(Acknowledged), Says(Shelved), Refused],
            ),
            (
                (true, false),
                Acknowledged,
                [Silent, Says(Normal), Says(Normal), Refused, Says(Shelved), Refused],
            ),
            (
                (false, true),
                Returned,
                [Says(Unacknowledged), Silent, Silent, Says(Normal), Says(Shelved), Refused],
            ),
        ];
        for ((on, owed), state, outcomes) in table {
            assert_eq!(condition(on, owed, false).state(), state);
            for ((event, latch), expected) in events().into_iter().zip(outcomes) {
                let mut one = condition(on, owed, false);
                assert_eq!(one.take(event, latch), expected, "{state:?} {event:?} latch {latch}");
                match expected {
                    Says(state) => assert_eq!(one.state(), state),
                    _ => assert_eq!(one, condition(on, owed, false), "{state:?} {event:?}"),
                }
            }
        }
    }

    /// The same states, shelved: silent but for the operator, and judged all the same.
    #[test]
    fn a_shelved_alarm_is_judged_in_silence() {
        let ends = [
            ((false, false), Normal),
            ((true, true), Unacknowledged),
            ((true, false), Unacknowledged),
            ((false, true), Returned),
        ];
        for ((on, owed), end) in ends {
            for (event, latch) in events() {
                let (mut open, mut one) = (condition(on, owed, false), condition(on, owed, true));
                let said = one.take(event, latch);
                match event {
                    Event::Raise | Event::Clear => {
                        assert_eq!((said, one.state()), (Silent, Shelved));
                        open.take(event, latch);
                        assert_eq!(
                            (one.on, one.owed),
                            (open.on, open.owed),
                            "{on} {owed} {event:?}"
                        );
                    }
                    Event::Acknowledge => {
                        assert_eq!((said, one), (Refused, condition(on, owed, true)));
                    }
                    Event::Shelve(until) => {
                        assert_eq!((said, one.shelved_until), (Says(Shelved), Some(until)));
                    }
                    Event::Unshelve => assert_eq!((said, one.state()), (Says(end), end)),
                }
            }
        }
    }

    #[test]
    fn what_was_on_before_it_was_shelved_is_raised_again_only_if_it_still_is() {
        for (latch, after) in [(false, Normal), (true, Returned)] {
            let mut one = Condition::default();
            for event in [Event::Raise, Event::Shelve(Timestamp(1)), Event::Clear] {
                one.take(event, latch);
            }
            assert_eq!(one.take(Event::Unshelve, latch), Says(after));
        }
        let mut seen = Condition::default();
        for event in [Event::Raise, Event::Acknowledge, Event::Shelve(Timestamp(1))] {
            seen.take(event, false);
        }
        assert_eq!(seen.take(Event::Unshelve, false), Says(Unacknowledged));
    }

    #[test]
    fn a_shelving_can_be_prolonged_and_says_so() {
        let mut one = condition(false, false, true);
        assert_eq!(one.take(Event::Shelve(Timestamp(8)), false), Says(Shelved));
        assert_eq!(one.take(Event::Shelve(Timestamp(8)), false), Silent, "to the same moment");
        assert_eq!(one.shelved_until(), Some(Timestamp(8)));
    }
}
