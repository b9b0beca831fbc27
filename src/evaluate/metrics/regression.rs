//! Numbers against numbers: errors, and the score for remaining life.

/// Root of the mean squared error; `None` where there is nothing to compare.
pub fn rmse(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    mean(truth, predicted, |d| d * d).map(f64::sqrt)
}

/// Mean absolute error; `None` where there is nothing to compare.
pub fn mae(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    mean(truth, predicted, f64::abs)
}

/// The score for remaining life of NASA's turbofan data (Saxena et al., PHM 2008): a sum, in which being late (too much
/// life promised) costs more than being early. 0 is perfect; `None` where there is nothing to compare.
pub fn nasa_score(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    let cost = |d: f64| if d < 0.0 { (-d / 13.0).exp() - 1.0 } else { (d / 10.0).exp() - 1.0 };
    mean(truth, predicted, cost).map(|mean| mean * truth.len().min(predicted.len()) as f64)
}

/// Truth with nothing above `cap`: far from its end a machine shows no wear, and no model can tell more.
pub fn capped(truth: &[f64], cap: f64) -> Vec<f64> {
    truth.iter().map(|life| life.min(cap)).collect()
}

/// What always answering the same comes to by the NASA score, at best: as [`best_constant_rmse`].
pub fn best_constant_nasa(truth: &[f64]) -> Option<f64> {
    let of = |constant| nasa_score(truth, &vec![constant; truth.len()]);
    let mut low = truth.iter().copied().fold(f64::INFINITY, f64::min);
    let mut high = truth.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // A sum of convex costs has one lowest place.
    for _ in 0..60 {
        let third = (high - low) / 3.0;
        if of(low + third)? < of(high - third)? { high -= third } else { low += third }
    }
    of(low)
}

/// What always answering the mean of `truth` comes to: the best constant, by RMSE, found on the answers themselves.
pub fn best_constant_rmse(truth: &[f64]) -> Option<f64> {
    let constant = truth.iter().sum::<f64>() / truth.len() as f64;
    rmse(truth, &vec![constant; truth.len()])
}

fn mean(truth: &[f64], predicted: &[f64], cost: impl Fn(f64) -> f64) -> Option<f64> {
    let count = truth.len().min(predicted.len());
    let sum: f64 = truth.iter().zip(predicted).map(|(truth, found)| cost(found - truth)).sum();
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_costs_more_than_an_early_one() {
        let (early, late) = (nasa_score(&[50.0], &[40.0]), nasa_score(&[50.0], &[60.0]));
        assert!((early.unwrap() - ((10.0_f64 / 13.0).exp() - 1.0)).abs() < 1e-12);
        assert!((late.unwrap() - (1.0_f64.exp() - 1.0)).abs() < 1e-12);
        assert_eq!(nasa_score(&[7.0, 9.0], &[7.0, 9.0]), Some(0.0));
        assert_eq!(nasa_score(&[], &[]), None);
        assert_eq!(rmse(&capped(&[200.0, 10.0], 125.0), &[125.0, 10.0]), Some(0.0));
        assert_eq!(best_constant_rmse(&[1.0, 3.0]), Some(1.0));
    }

    #[test]
    fn no_constant_is_better_than_the_best() {
        let truth = [3.0, 17.5, 40.0, 125.0, 125.0];
        let best = best_constant_nasa(&truth).unwrap();
        let on_grid = (0..=1250).map(|tenth| f64::from(tenth) / 10.0);
        let found = on_grid.map(|c| nasa_score(&truth, &[c; 5]).unwrap()).fold(f64::MAX, f64::min);
        assert!((best - found).abs() < 1e-2 * found && best <= found, "{best} {found}");
        assert_eq!(best_constant_nasa(&[]), None);
    }
}
