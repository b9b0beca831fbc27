//! Formulas against scipy, numpy and river.

use forebay::stage::drift::{Adwin, Tenths, rank};
use forebay::stage::tail::{Pareto, Tail};
use forebay::time::Timestamp;
use serde_json::Value;

fn cases(of: &str) -> Vec<Value> {
    let text = std::fs::read_to_string("tests/adapt/oracle.json").unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    whole[of].as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn near(a: f64, b: f64, share: f64) -> bool {
    (a - b).abs() <= share * a.abs().max(b.abs()).max(1e-9)
}

#[test]
fn no_fit_of_scipys_is_likelier_than_ours() {
    for case in cases("pareto") {
        let (excesses, open) = (numbers(&case["excesses"]), numbers(&case["open"]));
        let fitted = Pareto::fit(&excesses, &open).unwrap();
        let best = case["likelihood"].as_f64().unwrap();
        let ours = fitted.likelihood(&excesses, &open);
        assert!(ours >= best - 1e-6 * best.abs(), "{ours} < {best}: {fitted:?} {}", case["shape"]);
        for (p, expected) in [0.1, 0.01, 0.001].into_iter().zip(numbers(&case["passed"])) {
            let found = fitted.excess(p);
            assert!(near(found, expected, 2e-3), "{p}: {found} {expected} {fitted:?}");
        }
    }
}

#[test]
fn the_tail_says_what_an_independent_computation_says() {
    for case in cases("tail") {
        let values = numbers(&case["values"]);
        let numbered = |(at, value): (usize, &f64)| (at as u64 + 1, *value);
        let mut top: Vec<(u64, f64)> = values[..1000].iter().enumerate().map(numbered).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        top.truncate(51);
        let mut tail = Tail::of_largest(1000, top, 0);
        for value in &values[1000..] {
            tail.take(*value, 0);
        }
        tail.fit();
        assert_eq!(tail.peaks().0 as u64, case["peaks"].as_u64().unwrap(), "{}", case["name"]);
        let found = tail.value_passed(case["q"].as_f64().unwrap()).unwrap();
        let expected = case["value"].as_f64().unwrap();
        assert!(near(found, expected, 2e-3), "{}: {found} {expected}", case["name"]);
    }
}

#[test]
fn distances_are_numpys_and_never_above_the_whole_d() {
    for case in cases("tenths") {
        let edges: Vec<f32> = numbers(&case["edges"]).into_iter().map(|v| v as f32).collect();
        let edges: [f32; 11] = edges.try_into().unwrap();
        let mut tenths = Tenths::default();
        for value in numbers(&case["values"]) {
            tenths.count(&edges, value);
        }
        let windows = case["windows"].as_u64().unwrap() as usize;
        let distance = tenths.distance(&edges, windows, 1.0);
        let name = &case["name"];
        assert!(near(distance.psi, case["psi"].as_f64().unwrap(), 1e-6), "{name}: {distance:?}");
        assert!(near(distance.ks, case["ks"].as_f64().unwrap(), 1e-6), "{name}: {distance:?}");
        assert!(distance.ks <= case["ks_whole"].as_f64().unwrap() + 0.02, "{name}: {distance:?}");
        assert_eq!(distance.is_sure, name != "same" && name != "few", "{name}: {distance:?}");
    }
}

#[test]
fn a_rank_is_the_place_among_the_tenths() {
    let edges = [0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 6.0, 7.0, 8.0, 9.0, 10.0];
    for (value, place) in
        [(-1.0, 0.0), (0.5, 0.05), (2.0, 0.2), (3.0, 0.4), (4.5, 0.55), (10.0, 1.0), (11.0, 1.0)]
    {
        let found = rank(&edges, value);
        assert!((found - place).abs() < 1e-9, "{value}: {found}");
    }
}

#[test]
fn features_that_take_few_values_are_not_far_from_themselves() {
    // Never another value than 2.5; a third zeros, else anything.
    let constant = [0.1_f32; 11];
    let mut tenths = Tenths::default();
    (0..500).for_each(|_| tenths.count(&constant, 0.1));
    let distance = tenths.distance(&constant, 1000, 1.0);
    assert!(distance.psi < 0.01 && !distance.is_sure, "{distance:?}");
    let edges = [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
    let mut tenths = Tenths::default();
    for n in 0..700 {
        let value = if n % 10 < 3 { 0.0 } else { f64::from(n % 10) - 3.0 + f64::from(n) / 1000.0 };
        tenths.count(&edges, value);
    }
    let distance = tenths.distance(&edges, 1000, 1.0);
    assert!(distance.psi < 0.1 && !distance.is_sure, "{distance:?}");
    (0..700).for_each(|_| tenths.count(&edges, 0.0));
    assert!(tenths.distance(&edges, 1000, 1.0).is_sure);
}

#[test]
fn adwin_sees_what_rivers_sees_at_the_same_values() {
    for case in cases("adwin") {
        let mut adwin = Adwin::default();
        let (mut detected, mut widths) = (Vec::new(), Vec::new());
        for (at, value) in numbers(&case["values"]).into_iter().enumerate() {
            if let Some(since) = adwin.take(value, Timestamp(at as i64), 0.002) {
                assert!(since.0 < at as i64);
                detected.push(at as u64);
            }
            if at % 50 == 49 {
                widths.push(adwin.len());
            }
        }
        let whole = |of: &str| -> Vec<u64> {
            case[of].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
        };
        assert_eq!(detected, whole("detected"), "{}", case["name"]);
        assert_eq!(widths, whole("widths"), "{}", case["name"]);
    }
}
