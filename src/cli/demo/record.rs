//! `forebay demo --record`: the simulated plant's readings as recordings, and a site that they fit, to try the other
//! commands on.

use std::path::Path;

use anyhow::Context;

use super::super::args::DemoArgs;
use super::super::{Outcome, Screen, print, write_whole};
use crate::demo::fault::{FaultKind, FaultPlan};
use crate::demo::plant::{Plant, PlantOptions, asset_id};
use crate::demo::pump::Signal;
use crate::demo::site;
use crate::demo::windows::{GROWN, START};
use crate::time::Span;

/// Plant time, unless told otherwise.
const USUAL: Span = Span::seconds(8 * 3600);
/// One row a pump and second: a time at which all its sensors are due.
const EVERY_MS: i64 = 1000;

/// Writes everything and says where it is.
pub(super) fn record(folder: &Path, args: &DemoArgs, screen: &Screen) -> anyhow::Result<Outcome> {
    let length = args.duration.unwrap_or(USUAL);
    let pumps = usize::from(args.pumps);
    screen.note(&format!("simulating {length} of {pumps} pumps without faults, and as long with"));
    let mut faults = FaultPlan::of_kinds(&KINDS, length, pumps, args.seed);
    for fault in &mut faults.faults {
        fault.start = Span(fault.start.0 + length.0);
        fault.end = Span(fault.end.0 + length.0);
    }
    let mut plant = Plant::new(PlantOptions { seed: args.seed, pumps, faults });
    for (name, until) in [("normal.csv", length), ("faults.csv", Span(2 * length.0))] {
        let rows = csv(&mut plant, until).context("the recording cannot be made")?;
        write_whole(&folder.join(name), &rows)?;
        print(&format!("{}\n", folder.join(name).display()))?;
    }
    let failed = || format!("`{}` cannot be written", folder.display());
    let pipeline = site::lay_out_recorded(folder).with_context(failed)?;
    print(&format!("{}\n{}\n", pipeline.display(), folder.join("config.toml").display()))?;
    Ok(Outcome::Fine)
}

/// Faults of the pump; those of sensors are not for models to find.
const KINDS: [FaultKind; 3] =
    [FaultKind::BearingWear, FaultKind::Cavitation, FaultKind::BlockedFilter];

/// A row for each pump and second: time, asset, what the sensors read, and the number of the fault in [`KINDS`], from 1,
/// once it has grown; 0 for none.
fn csv(plant: &mut Plant, until: Span) -> csv::Result<Vec<u8>> {
    let mut rows = csv::Writer::from_writer(Vec::new());
    let names = Signal::ALL.map(Signal::name);
    rows.write_record(["time", "asset"].iter().chain(&names).chain(&["fault"]))?;
    let mut samples = Vec::new();
    while plant.elapsed() < until {
        let at = plant.elapsed();
        samples.clear();
        plant.step(&mut samples);
        if at.0 / 1000 % EVERY_MS != 0 {
            continue;
        }
        for sample in &samples {
            let mut row = vec![START.plus(at).to_string(), asset_id(sample.pump)];
            row.extend(sample.values.iter().map(|v| v.map_or_else(String::new, |v| v.to_string())));
            row.push(fault(plant.faults(), sample.pump, at).to_string());
            rows.write_record(&row)?;
        }
    }
    rows.into_inner().map_err(|error| error.into_error().into())
}

fn fault(faults: &FaultPlan, pump: usize, at: Span) -> usize {
    let mut grown = faults.faults.iter().filter(|f| f.pump == pump && f.severity(at) >= GROWN);
    let kind = grown.next().map(|fault| fault.kind);
    KINDS.iter().position(|known| Some(*known) == kind).map_or(0, |index| index + 1)
}
