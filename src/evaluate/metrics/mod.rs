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
