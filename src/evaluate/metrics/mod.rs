//! Measures of how good answers are, each from columns of one length: no files, no engine, no clock.
//!
//! [`binary`] (verdicts against labels), [`ranking`] (scores against labels), [`classes`] (several classes),
//! [`regression`] (numbers, remaining life), [`calibration`] (chances), [`events`] (times of faults and of alarms),
//! [`nab`] and [`changepoint`] (the scores of two public benchmarks). The trainers use them too. A measure that is not
//! defined (nothing to compare, one class only) is `None` and never a number. A row whose score is NaN must be left out
//! before; each file says what it does where one comes all the same.

pub mod binary;
pub mod calibration;
pub mod changepoint;
pub mod classes;
pub mod events;
pub mod nab;
pub mod ranking;
pub mod regression;

use std::time::Duration;

/// The time below which so many in a hundred of the `sorted` ones lie (nearest rank); `None` of none.
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&values, 99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&values, 100), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&values[..1], 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 50), None);
    }
}
