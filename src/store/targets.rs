//! Whom records are kept for, and how far each of them is, at a start.
//!
//! `Store::open` calls [`known`] before the lanes are surveyed. A target is a far side by its name: those that the config
//! names now, and those that the index still has something settled for. It promises that no target is sent less than it
//! lacks: a new one starts where the slowest is, and an index that is lost takes along what was settled, not the records.

use std::collections::BTreeMap;

use super::checkpoint::LaneBooks;
use super::error::StoreError;
use super::kv::Kv;
use super::open::StoreOptions;
use super::settled::Settled;
use super::{marks, survey};
use crate::record::Lane;

/// What the index has settled of each target, by lane.
type Known = BTreeMap<String, [Option<Settled>; 4]>;

/// The names of all targets, those of the config first and in its order, and of each lane what each target has.
pub(super) fn known(
    kv: &dyn Kv,
    options: &StoreOptions,
    books: [LaneBooks; 4],
) -> Result<(Vec<String>, [Vec<Settled>; 4]), StoreError> {
    let mut known = in_index(kv)?;
    follow_a_new_name(kv, &options.targets, &mut known)?;
    let mut names = options.targets.clone();
    names.extend(known.keys().filter(|name| !options.targets.contains(name)).cloned());
    let mut all: [Vec<Settled>; 4] = Default::default();
    let mut has_new = false;
    for ((lane, books), all) in Lane::ALL.into_iter().zip(books).zip(&mut all) {
        let of = |name: &String| known.get(name).and_then(|lanes| lanes[lane as usize].clone());
        let slowest = names.iter().filter_map(of).map(|settled| settled.upto()).min();
        let start = start(options, lane, books, slowest)?;
        for name in &names {
            let settled = of(name);
            if settled.is_none() {
                // Written down, or the next start would put a target that took nothing where the fastest is by then.
                marks::put_settled(kv, name, lane, &start)?;
                has_new = true;
            }
            all.push(settled.unwrap_or_else(|| start.clone()));
        }
        finish_losses(kv, options, lane, &names, all)?;
    }
    if has_new {
        kv.flush()?;
    }
    Ok((names, all))
}

fn in_index(kv: &dyn Kv) -> Result<Known, StoreError> {
    let mut known = Known::new();
    for lane in Lane::ALL {
        for (name, settled) in marks::settled(kv, lane)? {
            known.entry(name).or_default()[lane as usize] = Some(settled);
        }
    }
    Ok(known)
}

/// If exactly one target is new and one is no longer configured, it was renamed.
fn follow_a_new_name(
    kv: &dyn Kv,
    configured: &[String],
    known: &mut Known,
) -> Result<(), StoreError> {
    let new: Vec<&String> = configured.iter().filter(|name| !known.contains_key(*name)).collect();
    let old: Vec<String> =
        known.keys().filter(|name| !configured.contains(name)).cloned().collect();
    if let ([new], [old]) = (new.as_slice(), old.as_slice())
        && let Some(settled) = known.remove(old)
    {
        marks::forget(kv, old)?;
        for (lane, settled) in Lane::ALL.into_iter().zip(&settled) {
            if let Some(settled) = settled {
                marks::put_settled(kv, new, lane, settled)?;
            }
        }
        kv.flush()?;
        known.insert((*new).clone(), settled);
    }
    Ok(())
}

/// Where a target starts that is new on a lane: with the slowest, if there is one.
fn start(
    options: &StoreOptions,
    lane: Lane,
    books: LaneBooks,
    slowest: Option<u64>,
) -> Result<Settled, StoreError> {
    let mut start = Settled::default();
    start.insert(1, slowest.unwrap_or(books.floor));
    // An index that is lost takes along how far the targets were. What was durable and is deleted had left, all of
    // it where nothing is there; what is there is sent again.
    if slowest.is_none() {
        let first = survey::first_number(&options.path, lane)?.unwrap_or(u64::MAX);
        start.insert(1, (first - 1).min(books.last));
    }
    Ok(start)
}

/// Finishes what a loss or a thinning was in the middle of: `settled` is what each target has of the lane.
fn finish_losses(
    kv: &dyn Kv,
    options: &StoreOptions,
    lane: Lane,
    names: &[String],
    settled: &mut [Settled],
) -> Result<(), StoreError> {
    let marks = marks::marks(kv, lane)?;
    let swap = marks.iter().find_map(|mark| mark.thinned.as_ref());
    survey::finish_thinning(&options.path, lane, swap)?;
    let gone: Vec<(u64, u64)> = marks.iter().flat_map(|mark| mark.gone.clone()).collect();
    if gone.is_empty() {
        return Ok(());
    }
    // Durable with the end of the recovery, before the next loss takes a mark's place.
    for (name, settled) in names.iter().zip(settled) {
        for (from, to) in &gone {
            settled.insert(*from, *to);
        }
        marks::put_settled(kv, name, lane, settled)?;
    }
    Ok(())
}
