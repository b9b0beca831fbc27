//! Thresholds that follow their assets keep their budget, and do not learn a fault.

use forebay::pipeline::spec::AdaptSpec;
use forebay::stage::threshold::{Moved, Scale, Terms, Threshold};
use forebay::time::Span;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SPEC: AdaptSpec = AdaptSpec { alarms_a_day: 1.0, learn: 1000, reach: 4.0, depth: 0 };
const EVERY: Span = Span::seconds(60);

fn terms(spec: &AdaptSpec) -> Terms {
    Terms::new(spec, EVERY, EVERY)
}

fn following(start: f64, normal: Option<f64>) -> Threshold {
    Threshold::new(start, normal, Scale::of(start, false, true))
}

/// Normal noise, by Box and Muller.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (a, b): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

type Draw = fn(&mut ChaCha8Rng) -> f64;
/// Scores of normal running: what is drawn, and where its model had put the threshold.
const SHAPES: [(&str, Draw, f64); 4] = [
    ("normal", normal, 2.5),
    ("square", |random| normal(random).powi(2) + normal(random).powi(2), 9.0),
    ("log-normal", |random| (normal(random) / 2.0).exp(), 3.5),
    ("uniform", |random| 10.0 * random.random::<f64>(), 9.8),
];

/// Runs one asset for `days`; gives the alarms of each day after the warm-up and the threshold at the end.
fn live(
    threshold: &mut Threshold,
    terms: &Terms,
    days: usize,
    mut draw: impl FnMut() -> f64,
) -> f64 {
    let (mut alarms, mut counted, mut was_above) = (0_u32, 0_u32, false);
    let windows = days * 24 * 60;
    for n in 0..windows {
        let value = draw();
        let above = value >= threshold.now();
        if n >= 1000 {
            counted += 1;
            alarms += u32::from(above && !was_above);
        }
        was_above = above;
        threshold.take(value, above, terms);
    }
    f64::from(alarms) / (f64::from(counted) / (24.0 * 60.0))
}

#[test]
fn the_budget_is_held_on_normal_running() {
    for (name, draw, start) in SHAPES {
        let mut sum = 0.0;
        let mut before = 0.0;
        for seed in 0..6 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut fixed = following(start, None);
            let never = AdaptSpec { learn: 20_000_000, ..SPEC };
            before += live(&mut fixed, &terms(&never), 20, || draw(&mut random)) / 6.0;
            let mut threshold = following(start, None);
            sum += live(&mut threshold, &terms(&SPEC), 40, || draw(&mut random)) / 6.0;
        }
        println!(
            "{name}: {before:.2} alarms a day at the model's threshold, {sum:.2} with a budget of 1"
        );
        assert!(before > 3.0, "{name}: {before} alarms a day: nothing to gain here");
        assert!((0.3..=2.0).contains(&sum), "{name}: {sum} alarms a day");
    }
}

#[test]
fn a_threshold_that_is_too_high_comes_down() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut threshold = following(12.0, Some(0.0));
    let rate = live(&mut threshold, &terms(&SPEC), 40, || normal(&mut random));
    assert!((3.0..4.5).contains(&threshold.now()), "{}", threshold.now());
    assert!(rate < 2.5, "{rate}");
}

/// A score of 0 to 1, as our models give it: however little the budget, a fault can reach the threshold.
#[test]
fn a_bounded_score_never_gets_a_threshold_that_nothing_reaches() {
    let bounded = |index: f64| index / (1.0 + index);
    for (seed, depth) in [(5, 0), (6, 100)] {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let spec = AdaptSpec { alarms_a_day: 0.1, learn: 400, reach: 2.0, depth };
        let mut threshold = following(bounded(12.5), Some(bounded(0.3)));
        // Log-normal: its largest values are rare and far out.
        let mut draw = || bounded(normal(&mut random).exp() / 2.0);
        live(&mut threshold, &terms(&spec), 20, &mut draw);
        assert!(threshold.now() < bounded(25.0), "{}", threshold.now());
        assert!(threshold.now() > bounded(3.0), "{}", threshold.now());
        for beyond_all in [1.0, f64::from(f32::MAX)] {
            threshold.take(beyond_all, true, &terms(&spec));
            threshold.judged(Some(beyond_all), &terms(&spec));
            assert!(threshold.now() < bounded(25.0), "{}", threshold.now());
        }
    }
    // One that is at its end all the time is no normal running.
    let mut stuck = following(0.9, None);
    let told: Vec<Moved> = (0..2000).filter_map(|_| stuck.take(1.0, true, &terms(&SPEC))).collect();
    assert!(told[0].reason.contains("100.0 % of the first 1000 windows"), "{told:?}");
}

#[test]
fn a_fault_is_not_learned() {
    // Slowly, over five days after ten normal ones: from no fault to one ten deviations wide.
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let spec = AdaptSpec { reach: 2.0, ..SPEC };
    let terms = terms(&spec);
    let mut threshold = following(3.0, Some(0.0));
    live(&mut threshold, &terms, 10, || normal(&mut random));
    let (mut on, mut first) = (false, None);
    for n in 0..5 * 24 * 60 {
        let value = normal(&mut random) + 10.0 * f64::from(n) / (5.0 * 24.0 * 60.0);
        // An alarm stays on until the value is well below.
        on = value >= threshold.now() || (on && value >= 0.75 * threshold.now());
        if on {
            first = first.or(Some(n));
        }
        threshold.take(value, on, &terms);
        assert!(threshold.now() <= 6.0 + 1e-9, "{}", threshold.now());
    }
    assert!(on, "the alarm is on at the end");
    assert!(first.is_some_and(|n| n < 3 * 24 * 60), "{first:?}");
}

#[test]
fn a_warm_up_in_a_fault_does_not_count_and_says_so() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut threshold = following(2.4, Some(0.0));
    let terms = terms(&SPEC);
    let mut told = Vec::new();
    for n in 0..6000 {
        let value = normal(&mut random) + if n < 2500 { 2.0 } else { 0.0 };
        let on = value >= threshold.now();
        told.extend(threshold.take(value, on, &terms));
    }
    let Moved { before, now, reason } = &told[0];
    assert_eq!((*before, *now), (2.4, 2.4));
    assert!(reason.contains("% of the first 1000 windows were beyond it"), "{reason}");
    // It is told once, and a warm-up of normal running that follows counts.
    assert!(told[1].now != 2.4 && told[1].reason.contains("peaks of normal running"), "{told:?}");
    assert!((2.5..5.0).contains(&threshold.now()));
}

#[test]
fn scores_of_few_values_move_nothing() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut threshold = following(9.5, None);
    let mut told = Vec::new();
    for _ in 0..5000 {
        let value = f64::from(random.random_range(0..9_u8));
        told.extend(threshold.take(value, false, &terms(&SPEC)));
    }
    assert_eq!(threshold.now(), 9.5);
    assert_eq!(told.len(), 1);
    assert!(told[0].reason.contains("too few to tell"), "{told:?}");
}

#[test]
fn values_that_wander_are_followed_where_the_file_says_so() {
    // A level that goes up and down by two deviations in a week: DSPOT holds the budget with a threshold that goes along.
    let spec = AdaptSpec { depth: 60, ..SPEC };
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut threshold = following(4.0, Some(0.0));
    let mut n = 0.0_f64;
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    let mut sum = 0.0;
    for _ in 0..28 {
        sum += live(&mut threshold, &terms(&spec), 1, || {
            n += 1.0;
            normal(&mut random) + (n / (7.0 * 24.0 * 60.0) * std::f64::consts::TAU).sin() * 2.0
        });
        if n > 2000.0 {
            (least, most) = (least.min(threshold.now()), most.max(threshold.now()));
        }
    }
    println!("{:.2} alarms a day, threshold {least:.2} to {most:.2}", sum / 28.0);
    assert!(most - least > 2.0, "{least} to {most}");
    assert!(sum / 28.0 < 3.0, "{}", sum / 28.0);
}

#[test]
fn windows_that_share_samples_are_one_alarm() {
    // Each window is the mean of ten samples and the next shares nine of them.
    let every = Span::seconds(6);
    let terms = Terms::new(&AdaptSpec { alarms_a_day: 2.0, ..SPEC }, EVERY, every);
    let mut total = 0.0;
    for seed in 0..6 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut samples = [0.0; 10];
        let mut threshold = following(3.2, Some(0.0));
        let (mut alarms, mut on) = (0, false);
        let windows = 40 * 24 * 600;
        for n in 0..windows {
            samples[n % 10] = normal(&mut random);
            let value = samples.iter().sum::<f64>() / 10_f64.sqrt();
            let now = threshold.now();
            let is_on = value >= now || (on && value >= 0.9 * now);
            let was_on = std::mem::replace(&mut on, is_on);
            alarms += u32::from(on && !was_on && n > 3000);
            threshold.take(value, on, &terms);
        }
        total += f64::from(alarms) / 40.0 / 6.0;
    }
    println!("{total:.2} alarms a day with a budget of 2");
    assert!((0.6..=4.0).contains(&total), "{total}");
}
