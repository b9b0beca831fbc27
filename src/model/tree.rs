//! One regression tree, grown on histograms of gradients.
//!
//! `boost` grows many of them, `trees` writes them into ONNX files. Features are float32, as a model is given them, and
//! cuts lie between two float32 values, so a row goes the same way here and in a runtime. The gain and the leaves are
//! those of Chen and Guestrin, "XGBoost" (KDD 2016), equations 5 to 7; histograms, and the larger child's as the
//! parent's less its sister's, are those of Ke et al., "LightGBM" (NIPS 2017). A missing value goes to the side where
//! it gained more. The same rows give the same tree.

/// A tree: nodes by number, the root first.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Node {
    /// Rows whose `feature` is at most `cut` go to `below`, others to `above`.
    Split {
        /// Which feature.
        feature: usize,
        /// The cut.
        cut: f32,
        /// Whether rows without the feature go to `below`.
        missing_below: bool,
        /// The node for small values.
        below: usize,
        /// The node for large values.
        above: usize,
    },
    /// What the tree adds for the rows that end here.
    Leaf(f32),
}

impl Tree {
    /// What the tree adds for `row`, whose NaN are missing.
    pub fn value(&self, row: &[f32]) -> f32 {
        let mut at = 0;
        loop {
            match self.nodes[at] {
                Node::Leaf(value) => return value,
                Node::Split { feature, cut, missing_below, below, above } => {
                    let value = row[feature];
                    let goes_below = if value.is_nan() { missing_below } else { value <= cut };
                    at = if goes_below { below } else { above };
                }
            }
        }
    }
}

/// Rows with their features in bins.
pub(super) struct Binned {
    /// By feature, ascending: the greatest value of each bin but the last, and the smallest of the bin after it.
    gaps: Vec<Vec<(f32, f32)>>,
    /// Feature after feature: the bin of each row. A missing value has the bin after the last.
    bins: Vec<u16>,
    rows: usize,
}

/// Most bins of one feature.
pub(super) const MOST_BINS: usize = 65_000;

impl Binned {
    /// Puts `rows` of `width` features into at most `most` bins a feature: each value its own while there are enough,
    /// else about as many rows in each.
    pub(super) fn of(rows: &[f32], width: usize, most: usize) -> Binned {
        let most = most.clamp(2, MOST_BINS);
        let count = rows.len() / width.max(1);
        let mut binned = Binned { gaps: Vec::new(), bins: Vec::new(), rows: count };
        for feature in 0..width {
            let column = || rows.iter().skip(feature).step_by(width).copied();
            let mut sorted: Vec<f32> = column().filter(|value| !value.is_nan()).collect();
            sorted.sort_by(f32::total_cmp);
            let gaps = gaps(&sorted, most);
            let missing = gaps.len() as u16 + 1;
            binned.bins.extend(column().map(|value| {
                if value.is_nan() {
                    missing
                } else {
                    gaps.partition_point(|gap| gap.0 < value) as u16
                }
            }));
            binned.gaps.push(gaps);
        }
        binned
    }

    /// How many bins a feature has.
    pub(super) fn bins(&self, feature: usize) -> usize {
        self.gaps[feature].len() + 1
    }

    fn column(&self, feature: usize) -> &[u16] {
        &self.bins[feature * self.rows..(feature + 1) * self.rows]
    }
}

/// Between which of the sorted values bins end.
fn gaps(sorted: &[f32], most: usize) -> Vec<(f32, f32)> {
    let mut distinct = sorted.to_vec();
    distinct.dedup_by(|a, b| *a == *b);
    let all: Vec<(f32, f32)> = distinct.windows(2).map(|pair| (pair[0], pair[1])).collect();
    if distinct.len() <= most {
        return all;
    }
    let places = (0..most).map(|k| sorted[k * (sorted.len() - 1) / most]);
    let mut ends: Vec<usize> =
        places.map(|value| distinct.partition_point(|one| *one < value)).collect();
    ends.dedup();
    // Above the greatest value there is none.
    ends.into_iter().filter_map(|end| all.get(end).copied()).collect()
}

/// The cut between two values that is written with the fewest digits, `low <= cut < high`, and of such the one nearest
/// to the middle. Every cut in the gap divides the rows seen alike, but the limits of machines are round numbers.
fn roundest(low: f32, high: f32) -> f32 {
    let within = |cut: f32| low <= cut && cut < high;
    if within(0.0) {
        return 0.0;
    }
    let (from, to) = (f64::from(low), f64::from(high));
    let middle = f64::midpoint(from, to);
    let largest = from.abs().max(to.abs()).log10().floor() as i32;
    // Nine digits tell all float32 values apart.
    let rounded = (largest - 9..=largest).rev().find_map(|digit| {
        let steps = 10_f64.powi(digit.abs());
        let round = |value: f64| {
            if digit < 0 {
                (value * steps).round() / steps
            } else {
                (value / steps).round() * steps
            }
        };
        Some(round(middle) as f32).filter(|cut| within(*cut))
    });
    rounded.unwrap_or(low)
}

/// How a tree may grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) depth: usize,
    /// Least rows in a leaf.
    pub(super) leaf_rows: usize,
    /// Penalty on the leaves' squares.
    pub(super) l2: f64,
    /// Leaves are multiplied by it.
    pub(super) rate: f64,
}

/// First and second derivatives of the loss, and how many rows.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    gradient: f64,
    curvature: f64,
    rows: f64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.gradient += other.gradient;
        self.curvature += other.curvature;
        self.rows += other.rows;
    }

    fn less(self, other: Sum) -> Sum {
        Sum {
            gradient: self.gradient - other.gradient,
            curvature: self.curvature - other.curvature,
            rows: self.rows - other.rows,
        }
    }
}

/// The best way to divide a node.
#[derive(Clone, Copy, Debug)]
struct Division {
    gain: f64,
    feature: usize,
    /// Bins up to this one go below.
    bin: usize,
    /// So many bins after it are empty: dividing there divides the same rows.
    empty: usize,
    missing_below: bool,
}

/// Grows trees on one set of rows.
pub(super) struct Grower<'a> {
    pub(super) data: &'a Binned,
    pub(super) limits: Limits,
    /// By row: first and second derivative of the loss.
    pub(super) slopes: &'a [(f64, f64)],
    /// The features that may be looked at.
    pub(super) features: &'a [usize],
}

/// By feature that may be looked at, and by bin, the one for missing values last: the sums over its rows.
type Histogram = Vec<Vec<Sum>>;

impl Grower<'_> {
    /// A tree for the rows `rows`, which are put in another order.
    pub(super) fn grow(&self, rows: &mut [u32]) -> Tree {
        let mut tree = Tree { nodes: Vec::new() };
        let histogram = self.histogram(rows);
        self.node(&mut tree, rows, histogram, self.limits.depth);
        tree
    }

    /// Adds a node for `rows` and all below it; gives its number.
    fn node(&self, tree: &mut Tree, rows: &mut [u32], all: Histogram, depth: usize) -> usize {
        let number = tree.nodes.len();
        let total = self.total(rows);
        tree.nodes.push(Node::Leaf((self.limits.rate * self.leaf(total)) as f32));
        if depth == 0 || rows.len() < 2 * self.limits.leaf_rows.max(1) {
            return number;
        }
        let Some(best) = self.best(&all, total) else { return number };
        let column = self.data.column(best.feature);
        let gaps = &self.data.gaps[best.feature];
        let missing = gaps.len() + 1;
        let (mut below, mut above): (Vec<u32>, Vec<u32>) = rows.iter().copied().partition(|&row| {
            let at = usize::from(column[row as usize]);
            if at == missing { best.missing_below } else { at <= best.bin }
        });
        let (smaller, is_below) =
            if below.len() <= above.len() { (&below, true) } else { (&above, false) };
        let (few, most) = if depth > 1 {
            let few = self.histogram(smaller);
            let less = |(all, few): (&Vec<Sum>, &Vec<Sum>)| -> Vec<Sum> {
                all.iter().zip(few).map(|(all, few)| all.less(*few)).collect()
            };
            let most = all.iter().zip(&few).map(less).collect();
            (few, most)
        } else {
            (Vec::new(), Vec::new()) // leaves need none
        };
        drop(all);
        let (under, over) = if is_below { (few, most) } else { (most, few) };
        let below = self.node(tree, &mut below, under, depth - 1);
        let above = self.node(tree, &mut above, over, depth - 1);
        tree.nodes[number] = Node::Split {
            feature: best.feature,
            cut: roundest(gaps[best.bin].0, gaps[best.bin + best.empty].1),
            missing_below: best.missing_below,
            below,
            above,
        };
        number
    }

    fn total(&self, rows: &[u32]) -> Sum {
        let mut total = Sum::default();
        for &row in rows {
            let (gradient, curvature) = self.slopes[row as usize];
            total.add(Sum { gradient, curvature, rows: 1.0 });
        }
        total
    }

    fn histogram(&self, rows: &[u32]) -> Histogram {
        let of = |&feature: &usize| {
            let mut sums = vec![Sum::default(); self.data.bins(feature) + 1];
            let column = self.data.column(feature);
            for &row in rows {
                let (gradient, curvature) = self.slopes[row as usize];
                sums[usize::from(column[row as usize])].add(Sum { gradient, curvature, rows: 1.0 });
            }
            sums
        };
        self.features.iter().map(of).collect()
    }

    /// The division that lowers the loss most, if any does.
    fn best(&self, histogram: &[Vec<Sum>], total: Sum) -> Option<Division> {
        let mut best: Option<Division> = None;
        let enough =
            |sum: Sum| sum.rows + 0.5 > self.limits.leaf_rows.max(1) as f64 && sum.curvature > 1e-9;
        for (&feature, sums) in self.features.iter().zip(histogram) {
            let (missing, known) = sums.split_last()?;
            // Where nothing is missing here, what comes missing later goes with the smaller values.
            let sides: &[bool] = if missing.rows > 0.5 { &[true, false] } else { &[true] };
            for &missing_below in sides {
                let mut below = if missing_below { *missing } else { Sum::default() };
                for (bin, sum) in known.iter().enumerate().take(known.len() - 1) {
                    if sum.rows < 0.5 {
                        // Divides the rows as the bin before does.
                        if let Some(best) = &mut best
                            && (best.feature, best.missing_below) == (feature, missing_below)
                            && best.bin + best.empty + 1 == bin
                        {
                            best.empty += 1;
                        }
                        continue;
                    }
                    below.add(*sum);
                    let above = total.less(below);
                    if !enough(below) || !enough(above) {
                        continue;
                    }
                    let gain = self.worth(below) + self.worth(above) - self.worth(total);
                    if gain > 1e-9 && best.is_none_or(|best| gain > best.gain * (1.0 + 1e-12)) {
                        best = Some(Division { gain, feature, bin, empty: 0, missing_below });
                    }
                }
            }
        }
        best
    }

    fn worth(&self, sum: Sum) -> f64 {
        sum.gradient * sum.gradient / (sum.curvature + self.limits.l2)
    }

    fn leaf(&self, sum: Sum) -> f64 {
        -sum.gradient / (sum.curvature + self.limits.l2).max(1e-12)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A signal that is often at its end, and has more values than there are bins.
    #[test]
    fn a_feature_that_saturates_is_divided() {
        let saturating: Vec<f32> = (0..300).map(|n| (n as f32).min(250.0)).collect();
        let binned = Binned::of(&saturating, 1, 16);
        assert!((10..=16).contains(&binned.bins(0)), "{}", binned.bins(0));
        assert!(binned.gaps[0].iter().all(|(low, high)| low < high && *high <= 250.0));
    }

    #[test]
    fn a_cut_is_the_roundest_number_of_its_gap() {
        for (low, high, cut) in [
            (1379.0, 1381.0, 1380.0),
            (3488.0, 3513.0, 3500.0),
            (0.9931, 1.0004, 1.0),
            (8.52, 8.61, 8.6),
            (-0.3, 0.1, 0.0),
            (-13.2, -11.9, -13.0),
            (4.0, 7.0, 6.0),
            (9.5, 130.0, 100.0),
        ] {
            assert_eq!(roundest(low, high), cut, "between {low} and {high}");
        }
    }

    proptest! {
        #[test]
        fn a_cut_lies_in_its_gap(low in any::<f32>(), high in any::<f32>()) {
            prop_assume!(low.is_finite() && high.is_finite() && low < high);
            let cut = roundest(low, high);
            prop_assert!(low <= cut && cut < high, "{cut} between {low} and {high}");
            let next = low.next_up();
            prop_assert_eq!(roundest(low, next), if low <= 0.0 && 0.0 < next { 0.0 } else { low });
        }
    }
}
