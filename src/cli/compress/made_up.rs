//! Windows for a model of which nothing but its file is known: drawn from its baseline, or noise.
//!
//! `evidence` asks where there is no recording. The same model gets the same windows.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::evidence::Gathered;
use crate::frame::Windows;
use crate::model::ModelFile;
use crate::model::metadata::Baseline;
use crate::pipeline::spec::{ModelInput, ScoreSpec};
use crate::time::Timestamp;

/// Windows that are made up where there is no recording.
const MADE_UP: usize = 256;

/// Windows for a model of which nothing but its file is known.
pub(super) fn made_up(model: &ModelFile) -> anyhow::Result<Gathered> {
    let shape = model.row_shape();
    let noted = model.metadata();
    let named = |names: &Option<Vec<String>>, count: usize| {
        names.clone().unwrap_or_else(|| (0..count).map(|at| format!("column{at}")).collect())
    };
    let (steps, names, input) = match shape.as_deref() {
        Some([features]) => (1, named(&noted.features, *features), ModelInput::Features),
        Some([steps, channels]) => {
            (*steps, named(&noted.channels, *channels), ModelInput::Sequence)
        }
        _ => anyhow::bail!(
            "the model does not say what it takes: give the pipeline that it scores for, and recordings \
             (--pipeline, --data)"
        ),
    };
    let width = names.len();
    let baseline = noted.baseline.as_ref().filter(|baseline| baseline.inputs.len() == width);
    let numbers = drawn(baseline, width, MADE_UP * steps);
    let source = match baseline {
        Some(_) => "drawn from the model's baseline, column by column",
        None => "of noise: it says nothing of real data",
    };
    let spec = ScoreSpec {
        model: String::new(),
        output: "score".into(),
        input,
        tensor: None,
        class: None,
        batch: 256,
        state: BTreeMap::new(),
        threshold: None,
        deadline: None,
        fallback: false,
        recalibrate: None,
    };
    let mut windows = Windows {
        asset: (0..MADE_UP).map(|at| at as u32 % 2).collect(),
        start: vec![Timestamp(0); MADE_UP],
        end: vec![Timestamp(0); MADE_UP],
        coverage: vec![1.0; MADE_UP],
        ..Windows::default()
    };
    let mut channels = Vec::new();
    if input == ModelInput::Features {
        (windows.names, windows.features) = (names, numbers);
    } else {
        (windows.steps, windows.channels, windows.sequence) = (steps, width, numbers);
        channels = names;
    }
    Ok(Gathered { windows, channels, spec, faulty: None, source: source.to_owned() })
}

/// `rows` rows, each column drawn from its baseline: between two tenths in proportion. Without one, standard normal.
fn drawn(baseline: Option<&Baseline>, width: usize, rows: usize) -> Vec<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut draw = |column: usize| -> f64 {
        let Some(tenths) = baseline.and_then(|baseline| baseline.inputs.get(column)) else {
            return random.sample(StandardNormal);
        };
        let place = random.random_range(0.0..10.0);
        let low = place as usize;
        let (below, above) = (f64::from(tenths[low]), f64::from(tenths[low + 1]));
        below + (above - below) * (place - low as f64)
    };
    (0..rows).flat_map(|_| 0..width).map(&mut draw).collect()
}
