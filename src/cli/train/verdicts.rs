//! What operators said of alarms, as training data: `--verdicts`.
//!
//! The records carry the rows of each alarm's worst window; its features are computed anew, by the pipeline's own
//! `window`, or are the samples themselves. Windows of the recordings that lie in the time of a verdict are what it says,
//! too. Of several verdicts on one alarm the last one counts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use super::collect::Collected;
use super::net::class_names;
use super::{TrainArgs, TrainKind};
use crate::command::Verdict;
use crate::model::training::TrainingSet;
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::names::window_signals;
use crate::pipeline::spec::WindowSpec;
use crate::record::VerdictRecord;
use crate::stage::features::{Feature, Scene, describe};
use crate::time::Step;

/// What any record says of itself.
#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

/// Adds the windows of `--verdicts` to what was collected, and says of all windows in their time what they were.
pub(super) fn add(
    args: &TrainArgs,
    pipeline: &LoadedPipeline,
    collected: &mut Collected,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.kind != TrainKind::RemainingLife,
        "`--verdicts` say whether there was a fault, and nothing of how long a machine still runs"
    );
    let mut verdicts = BTreeMap::new();
    for path in
        args.verdicts.iter().map(|path| files(path)).collect::<anyhow::Result<Vec<_>>>()?.concat()
    {
        read(&path, &pipeline.spec.name, &mut verdicts)?;
    }
    let known: Vec<VerdictRecord> =
        verdicts.into_values().filter(|v| v.verdict != Verdict::Unsure).collect();
    anyhow::ensure!(
        !known.is_empty(),
        "there is nothing to learn from `--verdicts`: none says `true` or `false` of an alarm of pipeline `{}`",
        pipeline.spec.name
    );
    if matches!(args.kind, TrainKind::Classifier | TrainKind::Trees) && collected.classes.is_empty()
    {
        collected.classes = vec![0; collected.set.len()];
    }
    let windows = Windows::of(pipeline)?;
    let names = class_names(&args.net, collected)?;
    // A time that is both has had a fault.
    for is_fault in [false, true] {
        let says = if is_fault { Verdict::True } else { Verdict::False };
        for verdict in known.iter().filter(|v| v.verdict == says) {
            let class = if is_fault { class_of(verdict, &names)? } else { 0 };
            mark(collected, &windows, verdict, class);
        }
    }
    Ok(())
}

/// The file itself, or the finished ones of a folder that `receive` keeps.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let shown = path.display();
    let found: Vec<PathBuf> = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("`{shown}` cannot be read"))?;
    let files: Vec<PathBuf> = found
        .into_iter()
        .filter(|file| file.extension().is_some_and(|end| end == "ndjson"))
        .collect();
    anyhow::ensure!(
        !files.is_empty(),
        "folder `{shown}` has no `.ndjson` file: `receive --format ndjson` keeps records in such"
    );
    Ok(files)
}

/// The verdicts of a file, the last on each alarm of this pipeline.
fn read(
    path: &Path,
    pipeline: &str,
    verdicts: &mut BTreeMap<(String, String, i64), VerdictRecord>,
) -> anyhow::Result<()> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("`{shown}` cannot be read"))?;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("`{shown}` cannot be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = || {
            format!(
                "`{shown}`, line {}: this is no record; expected NDJSON as `receive --format ndjson` and `store export` write it",
                number + 1
            )
        };
        let kind: Kind = serde_json::from_str(&line).with_context(wrong)?;
        if kind.r#type != "verdict" {
            continue;
        }
        let verdict: VerdictRecord = serde_json::from_str(&line).with_context(wrong)?;
        if verdict.pipeline != pipeline {
            continue;
        }
        let about = (verdict.asset.clone(), verdict.name.clone(), verdict.window_start.0);
        match verdicts.get(&about) {
            Some(other) if other.given > verdict.given => {}
            _ => drop(verdicts.insert(about, verdict)),
        }
    }
    Ok(())
}

/// The number of the class that a confirmed fault is of.
fn class_of(verdict: &VerdictRecord, classes: &[String]) -> anyhow::Result<usize> {
    if classes.len() <= 2 {
        return Ok(1);
    }
    let fault = verdict.fault.as_deref().unwrap_or_default();
    classes.iter().skip(1).position(|class| class == fault).map(|at| at + 1).with_context(|| {
        format!(
            "the verdict of {} on `{}` of asset {} names the fault `{fault}`; expected one of the classes: {}",
            verdict.given,
            verdict.name,
            verdict.asset,
            classes[1..].join(", ")
        )
    })
}

/// Says of the windows in the verdict's time what they were, and adds the alarm's worst one where it is missing.
fn mark(collected: &mut Collected, windows: &Windows, verdict: &VerdictRecord, class: usize) {
    let (from, to) = (verdict.window_start, verdict.window_end);
    let asset = collected.assets.iter().position(|asset| *asset == verdict.asset);
    let asset = asset.unwrap_or_else(|| {
        collected.assets.push(verdict.asset.clone());
        collected.assets.len() - 1
    }) as u32;
    let (set, classes) = (&mut collected.set, &mut collected.classes);
    let mut has_it = false;
    for index in 0..set.len() {
        if set.assets[index] != asset || set.starts[index] >= to || set.ends[index] <= from {
            continue;
        }
        has_it |= set.starts[index] == verdict.peak_start;
        set.judged.insert(index, class > 0);
        if let Some(of) = classes.get_mut(index) {
            *of = class;
        }
    }
    if has_it {
        return;
    }
    match windows.numbers(verdict, set) {
        Ok(numbers) => {
            set.judged.insert(set.len(), class > 0);
            set.rows.extend(numbers);
            set.assets.push(asset);
            set.starts.push(verdict.peak_start);
            set.ends.push(verdict.peak_start.plus(windows.spec.length));
            if !classes.is_empty() {
                classes.push(class);
            }
        }
        Err(reason) => tracing::warn!(
            asset = verdict.asset,
            alarm = verdict.name,
            window = %verdict.peak_start,
            reason,
            "a verdict's window cannot be learned from"
        ),
    }
}

/// How the pipeline makes windows.
struct Windows<'a> {
    spec: &'a WindowSpec,
    features: Vec<Feature>,
    signals: Vec<String>,
    step: Step,
}

impl<'a> Windows<'a> {
    fn of(pipeline: &'a LoadedPipeline) -> anyhow::Result<Windows<'a>> {
        let spec = pipeline.spec.window().context("the pipeline has no `window`")?;
        let grid = pipeline.spec.grid().context("the pipeline has no `resample`")?;
        let features: Result<Vec<Feature>, String> =
            spec.features.iter().map(|name| name.parse()).collect();
        Ok(Windows {
            spec,
            features: features.map_err(anyhow::Error::msg)?,
            signals: window_signals(&pipeline.schema, spec),
            step: grid.every,
        })
    }

    /// What a model is given of the alarm's worst window.
    fn numbers(&self, verdict: &VerdictRecord, set: &TrainingSet) -> Result<Vec<f64>, String> {
        if verdict.signals.is_empty() {
            // Too long for its rows to be kept: its features were, as the pipeline made them then.
            let number = |name: &String| verdict.features.get(name).copied().flatten();
            let numbers: Option<Vec<f64>> = set.names.iter().map(number).collect();
            return numbers
                .filter(|_| set.steps == 0)
                .ok_or_else(|| "the record has neither its rows nor all of its features".into());
        }
        let steps = self.step.count(self.spec.length) as usize;
        let mut columns = Vec::with_capacity(self.signals.len());
        for signal in &self.signals {
            let mut column = vec![f64::NAN; steps];
            for reading in verdict.signals.get(signal).into_iter().flatten() {
                // Instants of a fraction lie between two microseconds.
                let after = reading.0.since(verdict.peak_start).as_seconds() * self.step.rate();
                let off = (after - after.round()).abs() / self.step.rate();
                match column.get_mut(after.round() as usize).filter(|_| after >= 0.0 && off < 3e-6)
                {
                    Some(sample) => *sample = reading.1,
                    None => return Err("the pipeline's windows are other ones now".into()),
                }
            }
            columns.push(column);
        }
        let known = columns.iter().flatten().filter(|value| !value.is_nan()).count();
        let share = known as f64 / (steps * columns.len()).max(1) as f64;
        if share < self.spec.min_coverage {
            return Err(format!(
                "{:.0} % of the pipeline's window are known, and `min_coverage` is {:.0} %",
                share * 100.0,
                self.spec.min_coverage * 100.0
            ));
        }
        let mut numbers = Vec::new();
        if set.steps > 0 {
            numbers.extend((0..steps).flat_map(|step| columns.iter().map(move |c| c[step])));
        } else {
            // Fault lines need the shaft's speed; windows with them are too long for their rows to be kept.
            let scene = Scene { rate: self.step.rate(), bearing: None };
            for column in &columns {
                describe(column, scene, &self.features, &mut numbers);
            }
        }
        Ok(numbers)
    }
}
