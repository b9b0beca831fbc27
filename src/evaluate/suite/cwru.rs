//! CWRU: bearings with a fault cut into them, an accelerometer at 12 kHz.
//!
//! Each diameter of fault is a bearing of its own: windows of one recording are nearly the same, and papers that divide
//! those report 99 % and more. So nothing here learns from a fault and is then asked about the same diameter. Windows and
//! features are those of `pipelines/bearing.toml`, through the engine. The answer needs normal running alone: a window is
//! faulty where it vibrates more strongly in the resonance's band than normal running did, and its fault is the one whose
//! line stands out most. Beside it: the most frequent class, the highest line alone, and boosted trees that learned from
//! the other diameters. There is one normal bearing; the first half of its recording is learned from, the second tests,
//! which is the best that can be had and easier than for the faults. The original normal recording has another rate,
//! which alone gives it away, so only one at the rate of the others is taken.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Failed, Findings, ModelUsed, Row, Run, SuiteResult, entries, written};
use crate::evaluate::metrics::classes::Classes;
use crate::evaluate::metrics::ranking::roc_auc;
use crate::evaluate::report::Figure;
use crate::evaluate::stream::windows;
use crate::frame::{Asset, Input, Quality, Readings};
use crate::model::Host;
use crate::model::boost::BoostOptions;
use crate::model::training::TrainingSet;
use crate::model::trees::{self, Target, TreesOptions};
use crate::pipeline::load::LoadedPipeline;
use crate::pipeline::plan::route;
use crate::pipeline::spec::BearingSpec;
use crate::stage::envelope::{HARMONICS, SLIP, Spectrum, envelope};
use crate::time::{Span, Timestamp};

const PIPELINE: &str = include_str!("../../../pipelines/bearing.toml");
const SCHEMA: &str = include_str!("../../../schemas/bearing.toml");
/// Of features: the faults' lines in the order of the classes after the first, then the band's strength, then others.
const FEATURES: [&str; 6] = ["bsf", "bpfi", "bpfo", "rms_2000_6000", "ftf", "kurtosis"];
const CLASSES: [&str; 4] = ["normal", "ball", "inner_race", "outer_race"];
/// The classes' places among the bearing's orders.
const ORDERS: [usize; 3] = [2, 1, 0];
const STRENGTH: usize = 3;
const RATE: f64 = 12_000.0;
/// A step of a quarter is one that ISO 20816 has looked into.
const MARGIN: f64 = 1.25;
/// Recordings say nothing of when they were made: 2026-01-01.
const START: Timestamp = Timestamp(1_767_225_600_000_000);
/// Recordings with the greatest peak of their envelope between 10 and 500 Hz, as found by others.
const GOLDEN: [(&str, f64); 2] =
    [("105_inner_race_007_0hp", 161.7), ("130_outer_race_007_0hp", 107.6)];
/// Largest recording that is read.
const MOST_BYTES: u64 = 256 << 20;

const ORIGIN: &str = "normal running, by a margin of a quarter; rule and window chosen with two diameters at 0 hp in view";

struct Recording {
    name: String,
    class: usize,
    /// Thousandths of an inch; 0 of the normal one.
    diameter: u32,
    /// Turns a second.
    speed: f64,
    samples: Vec<f64>,
}

/// A window and where it belongs.
struct Window {
    /// As [`FEATURES`].
    features: Vec<f64>,
    class: usize,
    diameter: u32,
    /// Whether it is in the first half of its recording.
    early: bool,
}

/// An answer: a class, and how much speaks for each.
type Answer = (usize, [f64; CLASSES.len()]);

fn options() -> TreesOptions {
    let boost = BoostOptions {
        rounds: 150,
        depth: 3,
        leaf_rows: 3,
        learning_rate: 0.1,
        ..BoostOptions::default()
    };
    TreesOptions { boost, holdout: 0.0, balanced: true, ..TreesOptions::default() }
}

/// Runs what is there.
pub(super) fn run(run: &Run<'_>) -> SuiteResult {
    let settings = format!("{:?} {FEATURES:?} {MARGIN}", options());
    let (pipeline, mut findings) = written(PIPELINE, SCHEMA, &settings)?;
    let bearing = pipeline.spec.window().and_then(|window| window.bearing.as_ref());
    let bearing = bearing.ok_or("the pipeline knows no bearing")?;
    let (mut described, mut peaks) = (Vec::new(), Vec::new());
    for recording in recordings(run.folder, &mut findings)? {
        (run.say)(&format!("cwru: {}", recording.name));
        peaks.extend(peak(&recording, bearing, &mut findings));
        described.extend(describe(&recording, &pipeline, run.host)?);
    }
    if !peaks.is_empty() {
        let share = peaks.iter().filter(|found| **found).count() as f64 / peaks.len() as f64;
        let chance = 2.0 * SLIP * (1..=HARMONICS).sum::<usize>() as f64 * 120.0 / 490.0;
        let part = format!("{} of the races", peaks.len());
        let row = Row::new(part, "highest peak on the fault's line", share);
        findings.rows.push(row.floor("chance", chance).threshold("none"));
    }
    let split = by_bearing(&described, run, &mut findings);
    findings.part("bearings that were not seen", split);
    findings.unless_empty("no recordings that index.csv knows")
}

/// Of a race's fault, whether the envelope's highest peak is on its line; of one with a known peak, how far off.
fn peak(recording: &Recording, bearing: &BearingSpec, findings: &mut Findings) -> Option<bool> {
    let order = bearing.orders()?[ORDERS[recording.class.checked_sub(1)?]];
    let line = order * recording.speed;
    let strikes = envelope(&recording.samples, RATE, bearing.band?);
    let (found, _) = Spectrum::of(&strikes, RATE).peak(10.0, 500.0)?;
    if let Some((_, golden)) = GOLDEN.iter().find(|golden| golden.0 == recording.name) {
        let row = Row::new(&recording.name, "Hz from the known peak", (found - golden).abs());
        let row = row.lower_is_better().floor("geometry", (line - golden).abs());
        findings.rows.push(row.bar(0.5, "envelope of another program").threshold("none"));
    }
    let is_on = |harmonic: usize| {
        let line = line * harmonic as f64;
        (found - line).abs() <= SLIP * line
    };
    (recording.class >= 2).then(|| (1..=HARMONICS).any(is_on))
}

/// A recording's windows, as the pipeline has them.
fn describe(
    recording: &Recording,
    pipeline: &LoadedPipeline,
    host: &Host,
) -> Result<Vec<Window>, Failed> {
    let mut readings = Readings::default();
    for (at, &value) in recording.samples.iter().enumerate() {
        let ts = START.plus(Span(at as i64 * 1_000_000 / RATE as i64));
        readings.push(0, 0, ts, value, Quality::Good);
        if at % RATE as usize == 0 {
            readings.push(0, 1, ts, recording.speed * 60.0, Quality::Good);
        }
    }
    let assets = vec![Asset { id: recording.name.clone(), ..Asset::default() }];
    let input = Input { route: route(&pipeline.spec), assets, readings, ..Input::default() };
    let length = recording.samples.len() as f64 / RATE;
    let mut described = Vec::new();
    for windows in windows(pipeline, host, [input])? {
        let place = |name: &str| {
            let name = format!("vibration.{name}");
            windows.names.iter().position(|n| *n == name).ok_or(format!("no feature {name}"))
        };
        let places: Vec<usize> = FEATURES.iter().map(|n| place(n)).collect::<Result<_, _>>()?;
        for (row, end) in windows.features.chunks_exact(windows.names.len()).zip(&windows.end) {
            let features: Vec<f64> = places.iter().map(|&at| row[at]).collect();
            let early = end.since(START).as_seconds() <= length / 2.0;
            let (class, diameter) = (recording.class, recording.diameter);
            if features.iter().all(|value| value.is_finite()) {
                described.push(Window { features, class, diameter, early });
            }
        }
    }
    Ok(described)
}

/// Each diameter, answered without having seen it.
fn by_bearing(windows: &[Window], run: &Run<'_>, findings: &mut Findings) -> Result<(), Failed> {
    let mut diameters: Vec<u32> = windows.iter().map(|w| w.diameter).filter(|d| *d > 0).collect();
    diameters.sort_unstable();
    diameters.dedup();
    let normal: Vec<&Window> = windows.iter().filter(|w| w.class == 0 && w.early).collect();
    if diameters.is_empty() || normal.is_empty() {
        let needed = format!("Accuracy needs a fault and a normal recording, at {RATE} Hz.");
        findings.notes.push(needed);
        return Ok(());
    }
    let greatest = |at: &dyn Fn(&Window) -> f64| normal.iter().map(|w| at(w)).fold(0.0, f64::max);
    let line = greatest(&|w| lines(w)[0]);
    let strength = greatest(&|w| w.features[STRENGTH]) * MARGIN;
    let mut all: [Vec<Answer>; 2] = Default::default();
    let (mut truth, mut all_trees) = (Vec::new(), Some(Vec::new()));
    for &diameter in &diameters {
        let is_test = |w: &Window| if w.class == 0 { !w.early } else { w.diameter == diameter };
        let (test, train): (Vec<&Window>, Vec<&Window>) = windows.iter().partition(|w| is_test(w));
        let part = format!("{diameter} mil, never seen");
        let trees = match learn(&train) {
            Ok(bytes) => {
                findings.models.push(ModelUsed::of(&part, &bytes));
                Some(ask(&bytes, &test, run)?)
            }
            Err(error) => {
                findings.notes.push(format!("{part}: no trees beside it: {error}."));
                None
            }
        };
        let answers = [
            test.iter().map(|w| highest(w, w.features[STRENGTH], strength)).collect(),
            test.iter().map(|w| highest(w, lines(w)[0], line)).collect(),
        ];
        let own: Vec<usize> = test.iter().map(|w| w.class).collect();
        findings.rows.extend(rows(&part, &own, &answers, trees.as_deref()));
        truth.extend(own);
        all_trees = all_trees.zip(trees).map(|(all, own)| [all, own].concat());
        all.iter_mut().zip(answers).for_each(|(all, own)| all.extend(own));
    }
    findings.rows.extend(rows("all diameters", &truth, &all, all_trees.as_deref()));
    let caption =
        "all diameters, each never seen; rows: what was so, columns: what it was taken for";
    findings.figures.push(Figure::Classes(tally(&truth, &all[0]), caption.into()));
    findings.notes.push(format!(
        "Confusion over all diameters (rows: truth; columns: answer; {}): {:?}. The normal windows in it are the second \
half of one recording, counted once a diameter. What answers is a rule: is the band from 2 to 6 kHz a quarter stronger \
than normal running ever had it, and if so, which line is the highest. Trees that learn from other bearings' faults do \
worse with so few bearings.",
        CLASSES.join(", "),
        tally(&truth, &all[0]).matrix
    ));
    Ok(())
}

fn tally(truth: &[usize], answers: &[Answer]) -> Classes {
    let taken: Vec<usize> = answers.iter().map(|answer| answer.0).collect();
    Classes::of(CLASSES.map(str::to_owned).to_vec(), truth, &taken)
}

/// Lines of the table: of the rule, beside the highest line and the trees.
fn rows(
    part: &str,
    truth: &[usize],
    [own, line]: &[Vec<Answer>; 2],
    trees: Option<&[Answer]>,
) -> Vec<Row> {
    let row = |metric: &str, of: &dyn Fn(&[Answer]) -> Option<f64>| {
        let row = Row::new(part, metric, of(own)?).threshold(ORIGIN);
        let row = row.floor("highest line", of(line).unwrap_or_default());
        let Some(trees) = trees.and_then(of) else { return Some(row) };
        Some(row.floor("trees of the other diameters", trees))
    };
    let majority = tally(truth, own).majority().unwrap_or_default();
    let accuracy = row("accuracy", &|answers| tally(truth, answers).accuracy());
    let areas = row("macro-AUROC", &|answers| macro_auroc(truth, answers));
    let faulty: Vec<bool> = truth.iter().map(|class| *class > 0).collect();
    let found = row("faulty or not, AUROC", &|answers| {
        let scores: Vec<f64> = answers.iter().map(|(_, of)| -of[0]).collect();
        roc_auc(&scores, &faulty)
    });
    let accuracy = accuracy.map(|row| row.floor("majority", majority));
    accuracy.into_iter().chain(areas).chain(found).collect()
}

/// The mean over classes of the area under each one's curve against all others.
fn macro_auroc(truth: &[usize], answers: &[Answer]) -> Option<f64> {
    let area = |class: usize| {
        let scores: Vec<f64> = answers.iter().map(|(_, of)| of[class]).collect();
        roc_auc(&scores, &truth.iter().map(|t| *t == class).collect::<Vec<_>>())
    };
    let areas: Vec<f64> = (0..CLASSES.len()).filter_map(area).collect();
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

/// A window's lines, highest first.
fn lines(window: &Window) -> [f64; STRENGTH] {
    let mut lines = [window.features[0], window.features[1], window.features[2]];
    lines.sort_by(|a, b| b.total_cmp(a));
    lines
}

/// The fault whose line stands out most, where `measure` is above the limit of normal running. For a fault speaks how far
/// its line is above the highest other one; for none, how small the measure is.
fn highest(window: &Window, measure: f64, limit: f64) -> Answer {
    let is_faulty = measure > limit;
    let [first, second, _] = lines(window);
    let mut of = [-measure; CLASSES.len()];
    for (of, line) in of[1..].iter_mut().zip(&window.features) {
        let over = if *line == first { line - second } else { line - first };
        *of = if is_faulty { over } else { f64::NEG_INFINITY };
    }
    let best = window.features[..STRENGTH].iter().position(|line| *line == first);
    (best.filter(|_| is_faulty).map_or(0, |fault| fault + 1), of)
}

/// A model of these windows.
fn learn(windows: &[&Window]) -> Result<Vec<u8>, Failed> {
    let of: Vec<usize> = windows.iter().map(|w| w.class).collect();
    let time = |at: usize| START.plus(Span::seconds(at as i64));
    let names = CLASSES.map(str::to_owned).to_vec();
    let set = TrainingSet {
        name: "cwru".into(),
        names: FEATURES.map(str::to_owned).to_vec(),
        rows: windows.iter().flat_map(|w| &w.features).copied().collect(),
        assets: vec![0; windows.len()],
        starts: (0..windows.len()).map(time).collect(),
        ends: (0..windows.len()).map(|at| time(at + 1)).collect(),
        ..TrainingSet::default()
    };
    Ok(trees::train(&set, Target::Classes { of: &of, names: &names }, &options())?.0)
}

fn ask(bytes: &[u8], windows: &[&Window], run: &Run<'_>) -> Result<Vec<Answer>, Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes)?;
    let rows: Vec<f64> = windows.iter().flat_map(|w| &w.features).copied().collect();
    let outputs = run.host.open(&path)?.run_all(&rows, &[windows.len(), FEATURES.len()])?;
    let classes = outputs.into_iter().find(|(name, _)| name == "classes").map(|(_, output)| output);
    let values = classes.ok_or("the model has no output `classes`")?.values;
    let (chances, _) = values.as_chunks();
    let answer = |of: [f64; CLASSES.len()]| {
        ((0..of.len()).max_by(|&a, &b| of[a].total_cmp(&of[b])).unwrap_or(0), of)
    };
    Ok(chances.iter().copied().map(answer).collect())
}

/// The recordings that are both in the index and in the folder, at the rate of the faults.
fn recordings(folder: &Path, findings: &mut Findings) -> Result<Vec<Recording>, Failed> {
    let reader = csv::Reader::from_path(folder.join("index.csv"));
    let mut reader = reader.map_err(|error| format!("index.csv: {error}"))?;
    let headers = reader.headers()?.clone();
    let place = |name: &str| {
        headers.iter().position(|h| h == name).ok_or(format!("index.csv: no column `{name}`"))
    };
    let (file, fault, diameter) = (place("file")?, place("fault")?, place("diameter_mil")?);
    let (rpm, rate) = (place("rpm_in_file")?, place("fs_hz")?);
    let nominal = place("rpm_nominal")?;
    let set = headers.iter().position(|header| header == "set");
    let mut recordings = Vec::new();
    let mut unknown: BTreeSet<PathBuf> = entries(folder)?.filter(|path| is_npy(path)).collect();
    for row in reader.records() {
        let row = row?;
        let cell = |column: usize| row.get(column).unwrap_or_default().trim();
        let path = folder.join(Path::new(cell(file)).file_name().unwrap_or_default());
        if !path.is_file() {
            continue;
        }
        unknown.remove(&path);
        let class = CLASSES.iter().position(|name| *name == cell(fault));
        let at_the_fan = set.is_some_and(|set| cell(set).contains("FE"));
        let other = match class {
            _ if cell(rate).parse::<f64>().ok() != Some(RATE) => {
                format!("is sampled at {} Hz", cell(rate))
            }
            _ if at_the_fan => "is of the fan end's bearing".to_owned(),
            None => format!("has the fault `{}`", cell(fault)),
            Some(_) => String::new(),
        };
        let (Some(class), "") = (class, other.as_str()) else {
            findings.notes.push(format!("{}: {other}, left out.", cell(file)));
            continue;
        };
        let speed = |column: usize| {
            cell(column).parse::<f64>().ok().filter(|rpm| rpm.is_finite() && *rpm > 0.0)
        };
        let turns = speed(rpm).or_else(|| speed(nominal));
        let turns = turns.ok_or_else(|| format!("index.csv: no speed, but `{}`", cell(nominal)));
        let read = turns.map_err(Failed::from).and_then(|turns| Ok((turns, npy(&path)?)));
        let Some((turns, samples)) = findings.part(cell(file), read) else { continue };
        recordings.push(Recording {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            class,
            diameter: cell(diameter).parse::<f64>().unwrap_or(0.0) as u32,
            speed: turns / 60.0,
            samples,
        });
    }
    for path in unknown {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        findings.notes.push(format!("{name}: not in index.csv, left out."));
    }
    Ok(recordings)
}

fn is_npy(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "npy")
}

/// A column of little-endian float32 in NumPy's format, version 1.
fn npy(path: &Path) -> Result<Vec<f64>, Failed> {
    let bad = |why: &str| format!("{}: {why}", path.display());
    if std::fs::metadata(path)?.len() > MOST_BYTES {
        return Err(bad("more than 256 MiB").into());
    }
    let bytes = std::fs::read(path)?;
    let header = bytes.get(..10).filter(|start| start.starts_with(b"\x93NUMPY\x01"));
    let header = header.ok_or_else(|| bad("not NumPy's format, version 1"))?;
    let start = 10 + usize::from(u16::from_le_bytes([header[8], header[9]]));
    let text = String::from_utf8_lossy(bytes.get(10..start).unwrap_or_default());
    if !text.contains("'<f4'") {
        return Err(bad("not little-endian float32").into());
    }
    let (values, _) = bytes.get(start..).unwrap_or_default().as_chunks::<4>();
    let shape = text.split("'shape': (").nth(1).and_then(|shape| shape.split(',').next());
    let told = shape.and_then(|shape| shape.trim().parse::<usize>().ok());
    if told != Some(values.len()) {
        let told = told.map_or("another shape".into(), |told| format!("{told} told"));
        return Err(bad(&format!("{} values, {told}: cut off?", values.len())).into());
    }
    Ok(values.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect())
}
