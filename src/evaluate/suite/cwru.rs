//! CWRU: bearings with a fault cut into them, an accelerometer at 12 kHz.
//!
//! Each diameter of fault is a bearing of its own, so a diameter is held out whole: windows of one recording are nearly
//! the same, and papers that divide those report 99 % and more. There is one normal bearing; the first half of its
//! recording trains, the second tests, which is the best that can be had and easier than for the faults. The original
//! normal recording has another rate, which alone gives it away, so only one at the rate of the others is taken. Each
//! window is described by what stands out of its envelope's spectrum at the bearing's fault lines, and by its own shape.
//! Floors: the most frequent class, and the highest fault line without any learning.

use std::path::Path;

use super::{Fault, Findings, ModelUsed, Row, Run, SuiteResult};
use crate::evaluate::metrics::classes::Classes;
use crate::model::boost::BoostOptions;
use crate::model::training::TrainingSet;
use crate::model::trees::{self, Target, TreesOptions};
use crate::stage::envelope::{HARMONICS, SLIP, Spectrum, envelope, prominence};
use crate::stage::features::{Feature, describe};
use crate::time::{Span, Timestamp};

const CLASSES: [&str; 4] = ["normal", "ball", "inner_race", "outer_race"];
/// Lines of the 6205-2RS bearing at the drive end, as multiples of the shaft's speed, in the order of the classes after
/// the first. A ball strikes both races each turn, hence twice its spin.
const LINES: [f64; 3] = [4.7135, 5.4152, 3.5848];
const CAGE: f64 = 0.39828;
const RATE: f64 = 12_000.0;
const CORNER: f64 = 2000.0;
/// Samples of a window: a second, so that lines are 1 Hz apart.
const WINDOW: usize = 12_000;
/// Recordings with the greatest peak of their envelope between 10 and 500 Hz, as found by others.
const GOLDEN: [(&str, f64); 2] =
    [("105_inner_race_007_0hp", 161.7), ("130_outer_race_007_0hp", 107.6)];
/// Largest recording that is read.
const MOST_BYTES: u64 = 256 << 20;
/// Of each line also by how much it stands out more than both others: one bearing a fault is too few for trees to find
/// that out. Nothing of how strongly the machine vibrates: that tells bearings apart, not faults.
const NAMES: [&str; 8] =
    ["ball", "inner", "outer", "ball_over", "inner_over", "outer_over", "cage", "kurtosis"];

const ORIGIN: &str = "training rows; features chosen with test results in view";

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
    features: Vec<f64>,
    class: usize,
    diameter: u32,
    /// Whether it is in the first half of its recording.
    early: bool,
}

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
    let mut findings = Findings::default();
    findings.config(&format!("{:?} {LINES:?} {CAGE} {CORNER} {WINDOW} {NAMES:?}", options()));
    let mut windows = Vec::new();
    let (mut found, mut races) = (0, 0);
    for recording in recordings(run.folder, &mut findings)? {
        (run.say)(&format!("cwru: {}", recording.name));
        let spectrum = Spectrum::of(&envelope(&recording.samples, RATE, CORNER), RATE);
        let peak = spectrum.peak(10.0, 500.0).map_or(0.0, |peak| peak.0);
        if let Some((_, golden)) = GOLDEN.iter().find(|golden| golden.0 == recording.name) {
            findings.rows.push(
                Row::new(&recording.name, "Hz from the known peak", (peak - golden).abs())
                    .lower_is_better()
                    .floor("geometry", (line(&recording) - golden).abs())
                    .bar(0.5, "envelope of another program")
                    .threshold("none"),
            );
        }
        if recording.class >= 2 {
            races += 1;
            found += usize::from(is_on_line(peak, line(&recording)));
        }
        windows.extend(described(&recording));
    }
    if races > 0 {
        let share = found as f64 / f64::from(races);
        let chance = 2.0 * SLIP * (1..=HARMONICS).sum::<usize>() as f64 * 120.0 / 490.0;
        findings.rows.push(
            Row::new(format!("{races} of the races"), "highest peak on the fault's line", share)
                .floor("chance", chance)
                .threshold("none"),
        );
    }
    let split = bearings(&windows, run, &mut findings);
    findings.part("bearings that were not seen", split);
    findings.unless_empty("no recordings that index.csv knows")
}

/// The frequency of a recording's fault.
fn line(recording: &Recording) -> f64 {
    recording.class.checked_sub(1).map_or(0.0, |fault| LINES[fault] * recording.speed)
}

fn is_on_line(peak: f64, line: f64) -> bool {
    (1..=HARMONICS).any(|harmonic| {
        let line = line * harmonic as f64;
        (peak - line).abs() <= SLIP * line
    })
}

fn described(recording: &Recording) -> Vec<Window> {
    let count = recording.samples.len() / WINDOW;
    let windows = recording.samples.chunks_exact(WINDOW).enumerate();
    let described = windows.map(|(at, samples)| {
        let mean = samples.iter().sum::<f64>() / WINDOW as f64;
        let samples: Vec<f64> = samples.iter().map(|value| value - mean).collect();
        let strikes = envelope(&samples, RATE, CORNER);
        let spectrum = Spectrum::of(&strikes, RATE);
        let stands = |factor: f64| prominence(&spectrum, factor * recording.speed).unwrap_or(0.0);
        let [ball, inner, outer] = LINES.map(stands);
        let over = |line: f64, a: f64, b: f64| line - a.max(b);
        let overs = [over(ball, inner, outer), over(inner, ball, outer), over(outer, ball, inner)];
        let mut features = vec![ball, inner, outer];
        features.extend(overs);
        features.push(stands(CAGE));
        describe(&samples, Span((1e6 / RATE) as i64), &[Feature::Kurtosis], &mut features);
        let (class, diameter) = (recording.class, recording.diameter);
        Window { features, class, diameter, early: at * 2 < count }
    });
    described.collect()
}

/// Each diameter answered by a model of the others.
fn bearings(windows: &[Window], run: &Run<'_>, findings: &mut Findings) -> Result<(), Fault> {
    let mut diameters: Vec<u32> = windows.iter().map(|w| w.diameter).filter(|d| *d > 0).collect();
    diameters.sort_unstable();
    diameters.dedup();
    if diameters.len() < 2 || !windows.iter().any(|w| w.class == 0) {
        findings.notes.push("Accuracy needs two diameters and a normal recording.".into());
        return Ok(());
    }
    let names = CLASSES.map(str::to_owned).to_vec();
    let (mut all, mut all_lines) = (Classes::new(names.clone()), Classes::new(names.clone()));
    for &diameter in &diameters {
        let is_test = |w: &Window| if w.class == 0 { !w.early } else { w.diameter == diameter };
        let (test, train): (Vec<&Window>, Vec<&Window>) = windows.iter().partition(|w| is_test(w));
        let (bytes, limit) = learn(&train, &names)?;
        let part = format!("{diameter} mil, never seen");
        findings.models.push(ModelUsed::of(&part, &bytes));
        let taken = ask(&bytes, &test, run)?;
        let truth: Vec<usize> = test.iter().map(|w| w.class).collect();
        let by_line: Vec<usize> = test.iter().map(|w| highest(w, limit)).collect();
        let (own, lines) = (
            Classes::of(names.clone(), &truth, &taken),
            Classes::of(names.clone(), &truth, &by_line),
        );
        for ((&truth, taken), line) in truth.iter().zip(&taken).zip(by_line) {
            all.count(truth, *taken);
            all_lines.count(truth, line);
        }
        findings.rows.extend(rows(&part, &own, &lines));
    }
    findings.rows.extend(rows("all diameters", &all, &all_lines));
    findings.notes.push(format!(
        "Confusion over all diameters (rows: truth; columns: answer; {}): {:?}. The normal windows in it are the second \
half of one recording, counted once a diameter. The features are the second set that was tried; the first, with strength of vibration, gave \
0.266 on two diameters at 0 hp. Both are below the highest line, which learns nothing.",
        CLASSES.join(", "),
        all.matrix
    ));
    Ok(())
}

fn rows(part: &str, found: &Classes, lines: &Classes) -> Vec<Row> {
    let row = |metric: &str, of: &dyn Fn(&Classes) -> Option<f64>| {
        let row = Row::new(part, metric, of(found)?).threshold(ORIGIN);
        Some(row.floor("highest line", of(lines).unwrap_or_default()))
    };
    let majority = found.majority().unwrap_or_default();
    let accuracy = row("accuracy", &Classes::accuracy).map(|r| r.floor("majority", majority));
    accuracy.into_iter().chain(row("macro-F1", &Classes::macro_f1)).collect()
}

/// Without learning: the fault whose line stands out most, if it does so more than any does in normal running.
fn highest(window: &Window, limit: f64) -> usize {
    let faults = 0..LINES.len();
    let best = faults.max_by(|&a, &b| window.features[a].total_cmp(&window.features[b]));
    best.filter(|&fault| window.features[fault] > limit).map_or(0, |fault| fault + 1)
}

/// A model of these windows, and the highest fault line of the normal ones among them.
fn learn(windows: &[&Window], names: &[String]) -> Result<(Vec<u8>, f64), Fault> {
    let of: Vec<usize> = windows.iter().map(|w| w.class).collect();
    let time = |at: usize| Timestamp(at as i64 * 1_000_000);
    let set = TrainingSet {
        name: "cwru".into(),
        names: NAMES.map(str::to_owned).to_vec(),
        rows: windows.iter().flat_map(|w| &w.features).copied().collect(),
        assets: vec![0; windows.len()],
        starts: (0..windows.len()).map(time).collect(),
        ends: (0..windows.len()).map(|at| time(at + 1)).collect(),
        ..TrainingSet::default()
    };
    let (bytes, _) = trees::train(&set, Target::Classes { of: &of, names }, &options())?;
    let normal = windows.iter().filter(|w| w.class == 0);
    let limit = normal.flat_map(|w| &w.features[..LINES.len()]).copied().fold(0.0, f64::max);
    Ok((bytes, limit))
}

fn ask(bytes: &[u8], windows: &[&Window], run: &Run<'_>) -> Result<Vec<usize>, Fault> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes)?;
    let rows: Vec<f32> =
        windows.iter().flat_map(|w| &w.features).map(|&value| value as f32).collect();
    let outputs = run.host.open(&path)?.run_all(&rows, &[windows.len(), NAMES.len()])?;
    let classes = outputs.into_iter().find(|(name, _)| name == "classes").map(|(_, output)| output);
    let classes = classes.ok_or("the model has no output `classes`")?.values;
    let taken = |chances: &[f32]| {
        (0..chances.len()).max_by(|&a, &b| chances[a].total_cmp(&chances[b])).unwrap_or(0)
    };
    Ok(classes.chunks_exact(CLASSES.len()).map(taken).collect())
}

/// The recordings that are both in the index and in the folder, at the rate of the faults.
fn recordings(folder: &Path, findings: &mut Findings) -> Result<Vec<Recording>, Fault> {
    let reader = csv::Reader::from_path(folder.join("index.csv"));
    let mut reader = reader.map_err(|error| format!("index.csv: {error}"))?;
    let headers = reader.headers()?.clone();
    let place = |name: &str| {
        headers.iter().position(|h| h == name).ok_or(format!("index.csv: no column `{name}`"))
    };
    let (file, fault, diameter) = (place("file")?, place("fault")?, place("diameter_mil")?);
    let (rpm, rate) = (place("rpm_in_file")?, place("fs_hz")?);
    let nominal = place("rpm_nominal")?;
    let mut recordings = Vec::new();
    for row in reader.records() {
        let row = row?;
        let cell = |column: usize| row.get(column).unwrap_or_default().trim();
        let path = folder.join(Path::new(cell(file)).file_name().unwrap_or_default());
        let class = CLASSES.iter().position(|name| *name == cell(fault));
        let (Some(class), true) = (class, path.is_file()) else { continue };
        if cell(rate).parse::<f64>().ok() != Some(RATE) {
            continue;
        }
        let turns = cell(rpm).parse::<f64>().or_else(|_| cell(nominal).parse());
        let turns = turns.map_err(|_| format!("index.csv: no speed, but `{}`", cell(nominal)));
        let read = turns.map_err(Fault::from).and_then(|turns| Ok((turns, npy(&path)?)));
        let Some((turns, samples)) = findings.part(cell(file), read) else { continue };
        recordings.push(Recording {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            class,
            diameter: cell(diameter).parse::<f64>().unwrap_or(0.0) as u32,
            speed: turns / 60.0,
            samples,
        });
    }
    Ok(recordings)
}

/// A column of little-endian float32 in NumPy's format, version 1.
fn npy(path: &Path) -> Result<Vec<f64>, Fault> {
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
