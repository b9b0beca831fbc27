//! Several classes: the confusion matrix, and what is made of it.

use serde::Serialize;

/// How often each class was taken for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Classes {
    /// The classes' names.
    pub labels: Vec<String>,
    /// Row: the true class. Column: what it was taken for.
    pub matrix: Vec<Vec<u64>>,
}

impl Classes {
    /// A matrix without cases.
    pub fn new(labels: Vec<String>) -> Classes {
        let matrix = vec![vec![0; labels.len()]; labels.len()];
        Classes { labels, matrix }
    }

    /// Of two columns of places in `labels`; a case outside of it is passed over.
    pub fn of(labels: Vec<String>, truth: &[usize], predicted: &[usize]) -> Classes {
        let mut classes = Classes::new(labels);
        truth.iter().zip(predicted).for_each(|(truth, found)| classes.count(*truth, *found));
        classes
    }

    /// Counts a case.
    pub fn count(&mut self, truth: usize, predicted: usize) {
        if let Some(cell) = self.matrix.get_mut(truth).and_then(|row| row.get_mut(predicted)) {
            *cell += 1;
        }
    }

    fn total(&self) -> u64 {
        self.matrix.iter().flatten().sum()
    }

    fn right(&self, class: usize) -> u64 {
        self.matrix.get(class).and_then(|row| row.get(class)).copied().unwrap_or_default()
    }

    /// Cases of a class.
    pub fn cases(&self, class: usize) -> u64 {
        self.matrix.get(class).map_or(0, |row| row.iter().sum())
    }

    /// How often a class was answered.
    pub fn answers(&self, class: usize) -> u64 {
        self.matrix.iter().filter_map(|row| row.get(class)).sum()
    }

    /// Share of the cases that are right; `None` without a case.
    pub fn accuracy(&self) -> Option<f64> {
        let right: u64 = (0..self.labels.len()).map(|class| self.right(class)).sum();
        (self.total() > 0).then(|| right as f64 / self.total() as f64)
    }

    /// Precision, recall and F1 of a class; 0 where it was never answered, or has no case.
    pub fn of_class(&self, class: usize) -> (f64, f64, f64) {
        let ratio =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let (right, cases, answers) = (self.right(class), self.cases(class), self.answers(class));
        (ratio(right, answers), ratio(right, cases), ratio(2 * right, cases + answers))
    }

    /// The mean of the classes' F1, each class weighing the same; classes with neither cases nor answers are left out.
    /// `None` without a case.
    pub fn macro_f1(&self) -> Option<f64> {
        let seen = |class: &usize| self.cases(*class) + self.answers(*class) > 0;
        let all: Vec<f64> =
            (0..self.labels.len()).filter(seen).map(|class| self.of_class(class).2).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    /// Cohen's kappa; `None` where chance alone agrees always.
    pub fn kappa(&self) -> Option<f64> {
        let all = self.total() as f64;
        let pairs = (0..self.labels.len()).map(|c| (self.cases(c) as f64, self.answers(c) as f64));
        let chance: f64 = pairs.map(|(cases, answers)| cases * answers / (all * all)).sum();
        self.accuracy().filter(|_| chance < 1.0).map(|right| (right - chance) / (1.0 - chance))
    }

    /// The accuracy of always answering the most frequent class.
    pub fn majority(&self) -> Option<f64> {
        let most = (0..self.labels.len()).map(|class| self.cases(class)).max()?;
        (self.total() > 0).then(|| most as f64 / self.total() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_nobody_has_or_names_counts_for_nothing() {
        let labels = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let classes = Classes::of(labels(), &[0, 0, 1, 1], &[0, 1, 1, 1]);
        assert_eq!(classes.matrix, [[1, 1, 0], [0, 2, 0], [0, 0, 0]]);
        assert_eq!(classes.accuracy(), Some(0.75));
        assert_eq!(classes.majority(), Some(0.5));
        assert!((classes.macro_f1().unwrap() - f64::midpoint(2.0 / 3.0, 0.8)).abs() < 1e-12);
        assert_eq!(classes.kappa(), Some(0.5));
        assert_eq!(Classes::new(labels()).macro_f1(), None);
        assert_eq!(Classes::of(labels(), &[7], &[0]).accuracy(), None);
    }
}
