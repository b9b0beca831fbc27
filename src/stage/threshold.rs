//! A threshold that follows its asset: so high that normal running passes it as often as the budget of false alarms
//! allows, and no oftener.
//!
//! `alarm` keeps one for each asset where its settings have `adapt`. It starts from the model's threshold (or the
//! pipeline's), learns the tail of what is normal ([`Tail`]), and tells when it has moved. What guards it against
//! learning a fault: no value at or above the threshold in force is learned, only that there was one, and nothing while the
//! alarm is on; the warm-up counts only if hardly anything was above the model's threshold in it; and it never goes further from the
//! model's threshold than `reach` allows. It reckons on a [`Scale`] on which large values are the wrong ones and none is
//! the last: a score of 0 to 1 must not get a threshold of 1, which nothing reaches.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::tail::Tail;
use crate::pipeline::spec::AdaptSpec;
use crate::time::Span;

/// The share of the warm-up's values that is the tail. The paper takes 2 %; of a warm-up of 1000 windows that is 20
/// peaks, the least of which anything can be said.
const TAIL_SHARE: f64 = 0.05;
/// More of the warm-up than this above the model's threshold is no normal running.
const ABOVE_MAX: f64 = 0.02;
/// It is told when it has moved by this share of the way from the normal level to the model's threshold.
const STEP: f64 = 0.05;
/// The greatest share of all windows that a budget may be.
pub const SHARE_MAX: f64 = 0.01;

const DAY: f64 = 86_400e6;

/// The settings, in windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Share of windows that may pass the threshold.
    share: f64,
    /// Windows of the warm-up, and how many of them are its tail, with the one below it.
    learn: u64,
    top: usize,
    reach: f64,
    depth: usize,
    /// Windows so close share samples.
    gap: u64,
}

impl Terms {
    /// The settings for windows of `length` that start `every` so often.
    pub fn new(spec: &AdaptSpec, length: Span, every: Span) -> Terms {
        let gap = (length.0 - 1).max(0) as u64 / every.0.max(1) as u64;
        Terms {
            share: share(spec.alarms_a_day, every),
            // As many windows that share nothing.
            learn: u64::from(spec.learn) * (gap + 1),
            top: (f64::from(spec.learn) * TAIL_SHARE).ceil() as usize + 1,
            reach: spec.reach,
            depth: usize::from(spec.depth),
            gap,
        }
    }
}

/// The share of all windows that so many alarms a day are.
pub fn share(alarms_a_day: f64, every: Span) -> f64 {
    alarms_a_day * every.0 as f64 / DAY
}

/// One asset's threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// The model's, or the pipeline's: where it started.
    start: f64,
    /// What follows is on this scale.
    scale: Scale,
    /// The start.
    origin: f64,
    /// In force.
    now: f64,
    /// The last that was told.
    told: f64,
    /// Whether the last value was beyond it, or the alarm on.
    was_beyond: bool,
    /// Where normal values lie: the median of the training data, or else the mean of the warm-up.
    normal: Option<f64>,
    /// The last normal values, where it follows their mean.
    recent: VecDeque<f64>,
    phase: Phase,
    /// Whether it was told that nothing can be learned here.
    is_stuck: bool,
}

/// The odds of 1 and more: beyond every threshold.
const TOP: f64 = 1e12;

/// How values are reckoned with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scale {
    /// As they are.
    Plain,
    /// Low ones are the wrong ones: with their sign turned.
    Below,
    /// Between 0 and 1: as odds, `value / (1 - value)`. Of a model of ours that is how many times the edge of normal.
    Odds,
}

impl Scale {
    /// The one for a threshold that starts at `start`, of a score or of something else.
    pub fn of(start: f64, below: bool, is_score: bool) -> Scale {
        match below {
            true => Scale::Below,
            false if is_score && 0.0 < start && start < 1.0 => Scale::Odds,
            false => Scale::Plain,
        }
    }

    fn reckoned(self, value: f64) -> f64 {
        match self {
            Scale::Plain => value,
            Scale::Below => -value,
            Scale::Odds if value >= 1.0 => TOP,
            Scale::Odds => value / (1.0 - value),
        }
    }

    fn shown(self, value: f64) -> f64 {
        match self {
            Scale::Plain => value,
            Scale::Below => -value,
            Scale::Odds => value / (1.0 + value),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    WarmUp(WarmUp),
    Follows(Tail),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct WarmUp {
    seen: u64,
    /// Values at or above the start.
    above: u64,
    /// Sum of the others.
    sum: f64,
    /// The largest, each with its number.
    top: Vec<(u64, f64)>,
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The threshold before.
    pub before: f64,
    /// The threshold now.
    pub now: f64,
    /// Why.
    pub reason: String,
}

impl Threshold {
    /// One that starts at `start`; `normal` is the median of the training data, where it is known.
    pub fn new(start: f64, normal: Option<f64>, scale: Scale) -> Threshold {
        let origin = scale.reckoned(start);
        Threshold {
            start,
            scale,
            origin,
            now: origin,
            told: origin,
            was_beyond: false,
            normal: normal.map(|normal| scale.reckoned(normal)),
            recent: VecDeque::new(),
            phase: Phase::WarmUp(WarmUp::default()),
            is_stuck: false,
        }
    }

    /// The threshold in force.
    pub fn now(&self) -> f64 {
        self.shown(self.now)
    }

    /// As people see it: the start to the last digit.
    fn shown(&self, value: f64) -> f64 {
        if value == self.origin { self.start } else { self.scale.shown(value) }
    }

    /// Where normal values lie, once that is known.
    pub fn normal(&self) -> Option<f64> {
        self.normal.map(|normal| self.scale.shown(normal))
    }

    /// Where it started.
    pub fn start(&self) -> f64 {
        self.start
    }

    /// Learns from a window's value, which has been judged already; `is_on`: whether the alarm is.
    pub fn take(&mut self, value: f64, is_on: bool, terms: &Terms) -> Option<Moved> {
        let value = self.scale.reckoned(value);
        if value.abs() >= f64::from(f32::MAX) {
            return None; // no number to learn from: a score that went beyond all
        }
        let (centre, now) = (self.centre(), self.now);
        let is_beyond = is_on || value >= now;
        let was_beyond = std::mem::replace(&mut self.was_beyond, is_beyond);
        match &mut self.phase {
            Phase::WarmUp(warm_up) => {
                warm_up.take(value, value - centre, self.origin, terms);
                let is_over = warm_up.seen >= terms.learn;
                if !is_beyond {
                    self.remember(value, terms.depth);
                }
                if is_over { self.end_warm_up(terms) } else { None }
            }
            Phase::Follows(tail) => {
                match (is_beyond, was_beyond) {
                    (true, true) => return None,
                    (true, false) => tail.take_open(now - centre),
                    (false, _) => drop(tail.take(value - centre, terms.gap)),
                }
                if !is_beyond {
                    self.remember(value, terms.depth);
                }
                self.follow(terms)
            }
        }
    }

    /// What an operator says of the last alarm: false, so that what went up to `peak` is normal here; or true.
    pub fn judged(&mut self, false_peak: Option<f64>, terms: &Terms) -> Option<Moved> {
        let centre = self.centre();
        // What `reach` never allows would only make all else look small.
        let furthest = self.normal.map_or(f64::INFINITY, |n| n + (self.origin - n) * terms.reach);
        let peak = false_peak.map(|peak| self.scale.reckoned(peak).min(furthest) - centre);
        let Phase::Follows(tail) = &mut self.phase else { return None };
        tail.close(peak);
        self.follow(terms)
    }

    /// The mean of the last normal values; 0 where it does not follow them.
    fn centre(&self) -> f64 {
        self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64
    }

    fn remember(&mut self, value: f64, depth: usize) {
        if depth > 0 {
            self.recent.truncate(depth);
            if self.recent.len() == depth {
                self.recent.pop_front();
            }
            self.recent.push_back(value);
        }
    }

    fn end_warm_up(&mut self, terms: &Terms) -> Option<Moved> {
        let Phase::WarmUp(warm_up) = &mut self.phase else { return None };
        let WarmUp { seen, above, sum, mut top } = std::mem::take(warm_up);
        let share = above as f64 / seen as f64;
        if share > ABOVE_MAX {
            let percent = share * 100.0;
            return self.stays(format!(
                "{percent:.1} % of the first {seen} windows were beyond it: this is a fault, or a model that does not fit this asset"
            ));
        }
        let normal = *self.normal.get_or_insert(sum / (seen - above).max(1) as f64);
        if normal >= self.origin {
            self.normal = None;
            return self.stays("normal running lies beyond it".into());
        }
        let centre = self.centre();
        let furthest = normal + (self.origin - normal) * terms.reach;
        top.retain(|(_, value)| value + centre < furthest);
        let tail = Tail::of_largest(seen, top, terms.gap);
        let (peaks, distinct) = tail.peaks();
        if tail.value_passed(terms.share).is_none() {
            return self.stays(format!(
                "the largest values of {seen} windows are {peaks} with {distinct} different ones: too few to tell how rare larger ones are"
            ));
        }
        self.phase = Phase::Follows(tail);
        self.is_stuck = false;
        self.follow(terms)
    }

    /// Nothing is learned; told once.
    fn stays(&mut self, reason: String) -> Option<Moved> {
        let first = !std::mem::replace(&mut self.is_stuck, true);
        first.then(|| Moved { before: self.now(), now: self.now(), reason })
    }

    /// Goes where the tail says; tells if that is far enough.
    fn follow(&mut self, terms: &Terms) -> Option<Moved> {
        let (Phase::Follows(tail), Some(normal)) = (&self.phase, self.normal) else { return None };
        let way = self.origin - normal;
        let least = normal + way / terms.reach;
        let most = normal + way * terms.reach;
        let wanted = tail.value_passed(terms.share)? + self.centre();
        self.now = wanted.clamp(least, most);
        if (self.now - self.told).abs() < STEP * way {
            return None;
        }
        let (peaks, _) = tail.peaks();
        let bound = if wanted < self.now {
            ", held at the least that `reach` allows"
        } else if wanted > self.now {
            ", held at the most that `reach` allows"
        } else {
            ""
        };
        let reason = format!("{peaks} peaks of normal running put it there{bound}");
        let before = std::mem::replace(&mut self.told, self.now);
        Some(Moved { before: self.shown(before), now: self.now(), reason })
    }
}

impl WarmUp {
    fn take(&mut self, value: f64, centred: f64, start: f64, terms: &Terms) {
        self.seen += 1;
        if value >= start {
            self.above += 1;
        } else {
            self.sum += value;
        }
        // Of windows that share samples, the largest.
        let shares = |(number, _): &(u64, f64)| self.seen - number <= terms.gap;
        if let Some(at) = self.top.iter().position(shares) {
            if self.top[at].1 >= centred {
                return;
            }
            self.top.remove(at);
        }
        let place = self.top.partition_point(|(_, other)| *other >= centred);
        if place < terms.top {
            self.top.insert(place, (self.seen, centred));
            self.top.truncate(terms.top);
        }
    }
}
