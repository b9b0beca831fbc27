//! The ledger of a campaign, for people and as JSON.
//!
//! `campaign` makes it, `cli/torture` prints it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::books::Closed;
use super::far::Held;

/// What a campaign came to. Counts of readings where nothing else is said.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where the random numbers started.
    pub seed: u64,
    /// Which broker.
    pub broker: &'static str,
    /// How often the node was killed.
    pub kills: u64,
    /// How often a link was disturbed.
    pub cuts: u64,
    /// How often the disk lost its power.
    pub power_cuts: u64,
    /// Which disk that was; empty where there was no power cut.
    pub power_cuts_on: &'static str,
    /// How often the broker was restarted.
    pub broker_restarts: u64,
    /// How often the disk was filled.
    pub full_disks: u64,
    /// How often a receiver was killed.
    pub receiver_kills: u64,
    /// How often the node's clock jumped: at its starts, and once after some of them.
    pub clock_jumps: u64,
    /// How often the node ended by itself and was started again, as a supervisor does.
    pub node_exits: u64,
    /// What the broker acknowledged to the publisher.
    pub acknowledged: u64,
    /// What the node's books say it took in, each once.
    pub processed: u64,
    /// What every receiver kept, each once and with the value that was sent.
    pub delivered: u64,
    /// What was not to be used, in the undisturbed run either: the assets' clocks jump.
    pub set_aside: u64,
    /// What is not there and a loss record speaks of; scores and alarms count too.
    pub in_loss_records: u64,
    /// Records that came to a receiver again, with an id that it had, as the receivers count them; what one counted
    /// between its last answer and its own kill is not in it.
    pub duplicates_at_receiver: u64,
    /// What loss records call damaged. Nothing damages this disk, so there must be none.
    pub damaged: u64,
    /// What is neither; scores and alarms count too.
    pub unaccounted: u64,
    /// What came in two different records, or with another value, or came and should not have.
    pub wrong: u64,
    /// Scores and alarms that an undisturbed run makes.
    pub records_expected: u64,
    /// Those that every receiver kept, each once and equal.
    pub records_delivered: u64,
    /// The same for each of the node's targets, by its name.
    pub targets: BTreeMap<&'static str, AtTarget>,
    /// What loss records speak of, by lane and reason.
    pub losses: BTreeMap<String, u64>,
    /// The slowest start: from the process to a node that takes readings, links permitting.
    pub recovery_max_s: f64,
    /// The mean of all starts.
    pub recovery_mean_s: f64,
    /// How long it took.
    pub seconds: f64,
    /// Whether all that was asked for was done and the node stopped in good order.
    pub complete: bool,
    /// What this machine does not allow, or was not done for another reason.
    pub not_done: Vec<String>,
    /// The first things that are wrong.
    pub wrong_in_words: Vec<String>,
}

/// What a campaign came to at one of the node's targets, by what its receiver kept. See [`Report`].
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AtTarget {
    /// Readings kept.
    pub delivered: u64,
    /// Scores and alarms kept.
    pub records_delivered: u64,
    /// Readings, scores and alarms that a loss record there speaks of.
    pub in_loss_records: u64,
    /// Records that came again.
    pub duplicates: u64,
    /// Readings, scores and alarms that are not there, and no loss record speaks of them.
    pub unaccounted: u64,
    /// What is there twice, with another value, or should not be there.
    pub wrong: u64,
    /// How often the receiver ended by itself and was started again.
    pub exits: u64,
}

impl Report {
    /// Takes over the closed books of a target.
    pub(super) fn close(&mut self, name: &'static str, held: Held, exits: u64, closed: Closed) {
        let target = AtTarget {
            delivered: closed.delivered,
            records_delivered: closed.records_delivered,
            in_loss_records: closed.in_loss_records + closed.records_in_loss_records,
            duplicates: held.repeats,
            unaccounted: closed.unaccounted + closed.records_unaccounted,
            wrong: closed.twice + closed.strange + closed.records_strange,
            exits,
        };
        self.targets.insert(name, target);
        self.set_aside = closed.set_aside;
        self.records_expected = closed.records_expected;
        let damaged = closed.losses.iter().filter(|(name, _)| name.ends_with("damaged"));
        self.damaged = self.damaged.max(damaged.map(|(_, count)| count).sum());
        for (what, count) in closed.losses {
            let known = self.losses.entry(what).or_default();
            *known = count.max(*known);
        }
        let told = closed.told.into_iter().map(|what| format!("{name}: {what}"));
        self.wrong_in_words.extend(told);
    }

    /// Sums the targets up: what any of them lacks is not delivered, what is wrong at one is wrong.
    pub(super) fn sum_up(&mut self) {
        let all = || self.targets.values();
        let least = |of: fn(&AtTarget) -> u64| all().map(of).min().unwrap_or_default();
        (self.delivered, self.records_delivered) =
            (least(|at| at.delivered), least(|at| at.records_delivered));
        self.in_loss_records = all().map(|at| at.in_loss_records).max().unwrap_or_default();
        self.duplicates_at_receiver = all().map(|at| at.duplicates).sum();
        self.unaccounted = all().map(|at| at.unaccounted).sum();
        self.wrong += all().map(|at| at.wrong).sum::<u64>();
        if self.processed != self.acknowledged {
            let (ours, theirs) = (self.processed, self.acknowledged);
            self.wrong_in_words.push(format!(
                "the node's books have {ours} readings, and {theirs} were acknowledged"
            ));
        }
    }

    /// Whether everything is accounted for.
    pub fn closes(&self) -> bool {
        self.complete
            && self.acknowledged > 0
            && self.unaccounted == 0
            && self.wrong == 0
            && self.damaged == 0
            && self.processed == self.acknowledged
    }

    /// For people.
    pub fn told(&self) -> String {
        let mut text = String::new();
        self.tell(&mut text).expect("invariant: writing to a string does not fail");
        text
    }

    fn tell(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "seed {}, {}, {:.0} s", self.seed, self.broker, self.seconds)?;
        let done = [
            ("kills", self.kills),
            ("cuts and other faults of links", self.cuts),
            ("power cuts", self.power_cuts),
            ("restarts of the broker", self.broker_restarts),
            ("kills of a receiver", self.receiver_kills),
            ("jumps of the node's clock", self.clock_jumps),
            ("full disks", self.full_disks),
            ("ends of the node by itself", self.node_exits),
        ];
        for (what, count) in done {
            writeln!(out, "  {count:>10}  {what}")?;
        }
        if !self.power_cuts_on.is_empty() {
            writeln!(out, "              (power was cut on {})", self.power_cuts_on)?;
        }
        writeln!(
            out,
            "  {:>10.2}  s the slowest recovery, {:.2} s the mean",
            self.recovery_max_s, self.recovery_mean_s
        )?;
        writeln!(out, "readings")?;
        let readings = [
            ("acknowledged by the broker", self.acknowledged),
            ("processed by the node, each once", self.processed),
            ("delivered, each once and as sent", self.delivered),
            ("set aside for their times, as in an undisturbed run", self.set_aside),
        ];
        for (what, count) in readings {
            writeln!(out, "  {count:>10}  {what}")?;
        }
        writeln!(out, "scores and alarms")?;
        writeln!(out, "  {:>10}  made by an undisturbed run", self.records_expected)?;
        writeln!(out, "  {:>10}  delivered, each once and equal", self.records_delivered)?;
        writeln!(out, "both")?;
        let both = [
            ("named in loss records", self.in_loss_records),
            ("records that came again and were known by their ids", self.duplicates_at_receiver),
            ("damaged, say loss records", self.damaged),
            ("wrong: another value, or more than once", self.wrong),
            ("UNACCOUNTED", self.unaccounted),
        ];
        for (what, count) in both {
            writeln!(out, "  {count:>10}  {what}")?;
        }
        for (name, at) in &self.targets {
            writeln!(
                out,
                "target {name}: {} readings and {} scores and alarms delivered, {} in loss records, {} came again, {} \
                 wrong, {} unaccounted",
                at.delivered,
                at.records_delivered,
                at.in_loss_records,
                at.duplicates,
                at.wrong,
                at.unaccounted
            )?;
        }
        for (what, count) in &self.losses {
            writeln!(out, "loss records of {what}: {count}")?;
        }
        self.not_done.iter().try_for_each(|what| writeln!(out, "not done: {what}"))?;
        self.wrong_in_words.iter().try_for_each(|what| writeln!(out, "wrong: {what}"))?;
        let verdict = if self.closes() { "the ledger closes" } else { "THE LEDGER DOES NOT CLOSE" };
        writeln!(out, "{verdict}")
    }
}
