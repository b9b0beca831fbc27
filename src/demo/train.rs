//! The two models that the pump pipeline ships with, made from the simulated plant by the project's own code.
//!
//! `cli/demo --make-models` calls [`make_models`]. The anomaly model learns from healthy pumps alone; the failure-risk
//! model from bearing wear and cavitation. Both are then tested on other plants, with other pumps, and on kinds of
//! fault that neither has seen. The same code gives the same bytes: every seed is in this file.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::fault::{FaultKind, FaultPlan};
use super::windows::{Label, Labelled, Run, WindowsError, windows_of};
use crate::evaluate::metrics::ranking::roc_auc;
use crate::frame::Windows;
use crate::model::logistic::{self, LogisticOptions, LogisticReport};
use crate::model::pca::{self, PcaOptions, TrainReport};
use crate::model::training::{TrainError, TrainingSet};
use crate::model::{Model, ModelError, Runtime};
use crate::pipeline::names;
use crate::pipeline::spec::PipelineSpec;
use crate::schema::Schema;
use crate::time::Span;

/// Pumps in each plant.
const PUMPS: usize = 12;
/// Plants without faults, to learn what is normal.
const HEALTHY_SEEDS: [u64; 8] = [101, 102, 103, 104, 105, 106, 107, 108];
/// Plants with faults, to learn what precedes a failure.
const FAULTY_SEEDS: [u64; 6] = [201, 202, 203, 204, 205, 206];
/// Plants to test on.
const TEST_SEEDS: [u64; 6] = [901, 902, 903, 904, 905, 906];
/// Kinds that the failure-risk model learns from.
const TAUGHT: [FaultKind; 2] = [FaultKind::BearingWear, FaultKind::Cavitation];
/// Neighbouring windows say the same: one a half-minute is enough to learn from.
const LEARN_EVERY: Span = Span::seconds(30);

/// How much to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How many of the seeds of each kind.
    pub plants: usize,
    /// How long each plant runs.
    pub length: Span,
}

impl Effort {
    /// What the shipped models are made with.
    pub const FULL: Effort = Effort { plants: 8, length: Span::seconds(90 * 60) };
}

/// The models as files, and how good they are.
#[derive(Clone, Debug)]
pub struct Made {
    /// ONNX file of the anomaly model.
    pub anomaly: Vec<u8>,
    /// ONNX file of the failure-risk model.
    pub failure_risk: Vec<u8>,
    /// What they can do.
    pub report: MakeReport,
}

/// How good the models are on plants that they have not seen.
#[derive(Clone, Debug, Serialize)]
pub struct MakeReport {
    /// How the anomaly model came out.
    pub anomaly: TrainReport,
    /// How the failure-risk model came out.
    pub failure_risk: LogisticReport,
    /// Healthy windows in the test.
    pub healthy: usize,
    /// Share of them at or above the anomaly model's threshold.
    pub anomaly_false: f64,
    /// Share of them at or above the failure-risk model's threshold.
    pub risk_false: f64,
    /// One for each kind of fault.
    pub kinds: Vec<KindReport>,
}

/// How good the models are on one kind of fault.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// The kind.
    pub kind: FaultKind,
    /// Windows of it in the test.
    pub windows: usize,
    /// Whether the failure-risk model learned from this kind. The anomaly model learned from none.
    pub taught: bool,
    /// ROC-AUC of the anomaly score.
    pub anomaly_auc: Option<f64>,
    /// Share of its windows at or above the anomaly model's threshold.
    pub anomaly_found: f64,
    /// ROC-AUC of the failure risk.
    pub risk_auc: Option<f64>,
    /// Share of its windows at or above the failure-risk model's threshold.
    pub risk_found: f64,
}

/// Why no models were made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The pipeline gives no windows.
    #[error(transparent)]
    Windows(#[from] WindowsError),
    /// Nothing could be learned.
    #[error("cannot make the {model} model: {source}")]
    Train {
        /// Which.
        model: &'static str,
        /// Why.
        source: TrainError,
    },
    /// A model that was made cannot be run.
    #[error("the new {model} model cannot be tested: {source}")]
    Model {
        /// Which.
        model: &'static str,
        /// Why.
        source: Box<ModelError>,
    },
    /// The new model has no output `score`.
    #[error("the new {0} model has no output `score`")]
    NoScore(&'static str),
}

/// Makes both models for the features that `pipeline` computes, and tests them on `runtime`.
pub fn make_models(
    pipeline: &PipelineSpec,
    schema: &Schema,
    runtime: &'static Runtime,
    effort: Effort,
) -> Result<Made, MakeError> {
    let learn = |seeds: &[u64], kinds: &[FaultKind]| {
        simulate(pipeline, schema, seeds, kinds, effort, Some(LEARN_EVERY))
    };
    let healthy = learn(&HEALTHY_SEEDS, &[])?;
    let set = training_set(pipeline, schema, "pump-anomaly", &healthy.windows);
    let failed = |model| move |source| MakeError::Train { model, source };
    let (anomaly, anomaly_report) =
        pca::train(&set, &PcaOptions::default()).map_err(failed("anomaly"))?;

    // Each taught kind on four of twelve pumps, four stay healthy.
    let kinds = TAUGHT.repeat(4);
    let faulty = learn(&FAULTY_SEEDS, &kinds)?;
    let (clear, labels) = clear(&faulty);
    let set = training_set(pipeline, schema, "pump-failure-risk", &clear);
    let (failure_risk, risk_report) = logistic::train(&set, &labels, &LogisticOptions::default())
        .map_err(failed("failure-risk"))?;

    let test = simulate(pipeline, schema, &TEST_SEEDS, &FaultKind::ALL.repeat(2), effort, None)?;
    let anomalies = scores("anomaly", runtime, &anomaly, &test.windows)?;
    let risks = scores("failure-risk", runtime, &failure_risk, &test.windows)?;
    let limits = [anomaly_report.threshold, LogisticOptions::default().threshold];
    let columns = [Column::new(anomalies, limits[0]), Column::new(risks, limits[1])];
    let of = |label: Label| test.labels.iter().map(|l| *l == label).collect::<Vec<bool>>();
    let healthy = of(Label::Healthy);
    let kinds = FaultKind::ALL.map(|kind| {
        let faulty = of(Label::Faulty(kind));
        let [anomaly, risk] = &columns;
        KindReport {
            kind,
            windows: faulty.iter().filter(|f| **f).count(),
            taught: TAUGHT.contains(&kind),
            anomaly_auc: anomaly.auc(&healthy, &faulty),
            anomaly_found: anomaly.share(&faulty),
            risk_auc: risk.auc(&healthy, &faulty),
            risk_found: risk.share(&faulty),
        }
    });
    let report = MakeReport {
        anomaly: anomaly_report,
        failure_risk: risk_report,
        healthy: healthy.iter().filter(|h| **h).count(),
        anomaly_false: columns[0].share(&healthy),
        risk_false: columns[1].share(&healthy),
        kinds: kinds.into(),
    };
    Ok(Made { anomaly, failure_risk, report })
}

/// A model's answers for all windows of the test; NaN where it had none.
struct Column {
    scores: Vec<f64>,
    limit: f64,
}

impl Column {
    fn new(scores: Vec<f64>, limit: f64) -> Column {
        Column { scores, limit }
    }

    /// Share of the windows `which` that are at or above the limit.
    fn share(&self, which: &[bool]) -> f64 {
        let of = || self.scores.iter().zip(which).filter(|(_, which)| **which).map(|(s, _)| *s);
        of().filter(|score| *score >= self.limit).count() as f64 / of().count().max(1) as f64
    }

    /// How well it tells the two kinds of windows apart.
    fn auc(&self, healthy: &[bool], faulty: &[bool]) -> Option<f64> {
        let all = self.scores.iter().zip(healthy.iter().zip(faulty));
        let known = all.filter(|(score, (h, f))| !score.is_nan() && (**h || **f));
        let (scores, labels): (Vec<f64>, Vec<bool>) =
            known.map(|(score, (_, faulty))| (*score, *faulty)).unzip();
        roc_auc(&scores, &labels)
    }
}

/// What `model` answers for each window; NaN where a feature is missing.
fn scores(
    name: &'static str,
    runtime: &'static Runtime,
    model: &[u8],
    windows: &Windows,
) -> Result<Vec<f64>, MakeError> {
    let failed = |source| MakeError::Model { model: name, source: Box::new(source) };
    let mut model = Model::from_bytes(runtime, Path::new(name), model).map_err(failed)?;
    let whole: Vec<usize> = (0..windows.len())
        .filter(|&index| windows.row(index).iter().all(|value| value.is_finite()))
        .collect();
    let batch: Vec<f64> = whole.iter().flat_map(|&index| windows.row(index)).copied().collect();
    let outputs = model.run_all(&batch, &[whole.len(), windows.names.len()]).map_err(failed)?;
    let output = outputs.into_iter().find(|(output, _)| output == "score");
    let (_, output) = output.ok_or(MakeError::NoScore(name))?;
    let mut scores = vec![f64::NAN; windows.len()];
    for (&index, score) in whole.iter().zip(output.values) {
        scores[index] = score;
    }
    Ok(scores)
}

/// The windows that are clearly healthy or clearly faulty, and whether each is faulty.
fn clear(all: &Labelled) -> (Windows, Vec<bool>) {
    let is_clear = |at: &usize| all.labels[*at] != Label::Unclear;
    let clear: Vec<usize> = (0..all.labels.len()).filter(is_clear).collect();
    let labels = clear.iter().map(|&at| matches!(all.labels[at], Label::Faulty(_))).collect();
    (all.windows.picked(clear), labels)
}

fn training_set(
    pipeline: &PipelineSpec,
    schema: &Schema,
    name: &str,
    windows: &Windows,
) -> TrainingSet {
    let mut set = names::training_set(pipeline, schema, name, false);
    set.push(windows);
    set
}

impl fmt::Display for MakeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, r) = (&self.anomaly, &self.failure_risk);
        writeln!(
            f,
            "anomaly       PCA, {} of {} features' directions kept, learned from {} healthy windows, threshold {:.3}",
            a.components, a.features, a.fitted, a.threshold
        )?;
        writeln!(
            f,
            "failure risk  logistic regression, learned from {} windows, {} of them before a failure",
            r.fitted, r.faulty
        )?;
        writeln!(f, "\nTested on other plants with other pumps:")?;
        writeln!(
            f,
            "{:<16}{:>9}{:>16}{:>8}{:>20}{:>8}",
            "fault", "windows", "anomaly AUC", "found", "failure-risk AUC", "found"
        )?;
        let auc = |auc: Option<f64>| auc.map_or("-".to_owned(), |auc| format!("{auc:.3}"));
        let share = |share: f64| format!("{:.1}%", 100.0 * share);
        for kind in &self.kinds {
            let taught = if kind.taught { " (taught)" } else { "" };
            writeln!(
                f,
                "{:<16}{:>9}{:>16}{:>8}{:>20}{:>8}",
                kind.kind.name(),
                kind.windows,
                auc(kind.anomaly_auc),
                share(kind.anomaly_found),
                auc(kind.risk_auc) + taught,
                share(kind.risk_found)
            )?;
        }
        let (a, r) = (share(self.anomaly_false), share(self.risk_false));
        write!(f, "{:<16}{:>9}{:>16}{:>8}{:>20}{:>8}", "healthy", self.healthy, "", a, "", r)
    }
}

/// Runs plants one after the other; each pump of each plant is an asset of its own.
fn simulate(
    pipeline: &PipelineSpec,
    schema: &Schema,
    seeds: &[u64],
    kinds: &[FaultKind],
    effort: Effort,
    every: Option<Span>,
) -> Result<Labelled, WindowsError> {
    let mut all = Labelled::default();
    for (number, &seed) in seeds.iter().take(effort.plants.max(1)).enumerate() {
        let faults = FaultPlan::of_kinds(kinds, effort.length, PUMPS, seed);
        let run = Run { seed, pumps: PUMPS, length: effort.length, faults, every };
        let mut more = windows_of(pipeline, schema, &run)?;
        more.windows.asset.iter_mut().for_each(|asset| *asset += (number * PUMPS) as u32);
        all.append(more);
    }
    Ok(all)
}
