//! The load that benches share: pumps that run as they should, ten messages a second each, ticks of 100 ms.

use std::path::Path;

use forebay::engine::Pipeline;
use forebay::frame::{Asset, Input, Quality, Readings};
use forebay::pipeline::load::{LoadedPipeline, load_pipeline};
use forebay::pipeline::plan::{PlanOptions, plan, route};
use forebay::time::Timestamp;

/// Pumps; each has eight signals.
pub(crate) const ASSETS: u32 = 50;
/// Readings in a tick.
pub(crate) const READINGS: u64 = ASSETS as u64 * 8;

/// What each signal of a healthy pump is about, in the schema's order.
const MIDDLE: [f64; 8] = [2.0, 48.0, 55.0, 1.7, 6.4, 108.0, 1270.0, 36.0];

/// The shipped pump pipeline.
pub(crate) fn shipped() -> LoadedPipeline {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/pump.toml");
    load_pipeline(&path, None).expect("the shipped pipeline is right")
}

/// The same, ready to run; recorded input, so that no clock is looked at.
pub(crate) fn pipeline(loaded: &LoadedPipeline) -> Pipeline {
    let host = forebay::model::Host::default();
    let options = PlanOptions::of(loaded.base(), &host);
    plan(&loaded.spec, &loaded.schema, options).expect("the pipeline fits")
}

/// The input of tick `step`.
pub(crate) fn tick(loaded: &LoadedPipeline, step: i64) -> Input {
    let mut readings = Readings::default();
    for asset in 0..ASSETS {
        // A few milliseconds off the grid, as machines are.
        let jitter = (i64::from(asset) * 7 + step * 31) % 20 * 1000;
        let ts = Timestamp(1_700_000_000_000_000 + step * 100_000 + jitter);
        for (signal, middle) in MIDDLE.into_iter().enumerate() {
            let turn = step as f64 * 0.05 + f64::from(asset) + signal as f64;
            let value = (middle * (1.0 + 0.02 * turn.sin()) * 1000.0).round() / 1000.0;
            readings.push(asset, signal as u16, ts, value, Quality::Good);
        }
    }
    let asset = |n| Asset { id: format!("pump-{n:02}"), ..Asset::default() };
    let assets = (0..ASSETS).map(asset).collect();
    Input { route: route(&loaded.spec), assets, readings, ..Input::default() }
}
