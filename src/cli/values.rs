//! Numbers of the command line that have bounds, and how people write them.

/// A share: `1%` or `0.01`.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let share = match text.strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "write a share from 0 to 1, or a percentage (`1%`)".to_owned())
}

/// A share that leaves something.
pub(super) fn part(text: &str) -> Result<f64, String> {
    let part = share(text).ok().filter(|part| *part <= 0.9);
    part.ok_or_else(|| "write a share from 0 to 0.9, or a percentage (`25%`)".to_owned())
}

/// A factor that makes nothing smaller.
pub(super) fn at_least_one(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| *factor >= 1.0 && factor.is_finite());
    factor.ok_or_else(|| "write a number that is 1 or more".to_owned())
}
