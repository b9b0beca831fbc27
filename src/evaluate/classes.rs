//! Which class was said against which it was: everything that a report says of a model that tells classes apart.

use serde::Serialize;

use super::detection::Judged;
use super::floors::STEPS;
use super::metrics::classes::Classes;

/// One class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassRates {
    /// Its name.
    pub name: String,
    /// Rows that are of it.
    pub rows: u64,
    /// Rows that were said to be.
    pub said: u64,
    /// Share of the rows said to be of it that are.
    pub precision: f64,
    /// Share of its rows that were said to be.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

/// How good answers are, over all classes.
#[derive(Clone, Debug, Serialize)]
pub struct Overall {
    /// Who answers.
    pub name: &'static str,
    /// Share of the rows that are right.
    pub accuracy: Option<f64>,
    /// Mean F1 of the classes, each weighing the same.
    pub macro_f1: Option<f64>,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
}

impl Overall {
    fn of(name: &'static str, classes: &Classes) -> Overall {
        let (accuracy, macro_f1, kappa) = (classes.accuracy(), classes.macro_f1(), classes.kappa());
        Overall { name, accuracy, macro_f1, kappa }
    }
}

/// Everything that is said of classes.
#[derive(Clone, Debug, Serialize)]
pub struct ClassReport {
    /// Rows that have a class and an answer.
    pub rows: u64,
    /// Rows without an answer, which are in none of the numbers.
    pub unanswered: u64,
    /// How often each class was taken for each.
    pub confusion: Classes,
    /// The model.
    pub overall: Overall,
    /// Those that look at nothing.
    pub floors: Vec<Overall>,
    /// By class.
    pub classes: Vec<ClassRates>,
}

impl ClassReport {
    /// Of all assets together. `names` are those of the truth, the first of them normal running; `labels` the model's
    /// classes. A name that is none of them is a class of its own, which the model never answers.
    pub fn of(judged: &[Judged], names: &[String], labels: &[String]) -> ClassReport {
        let (places, labels) = places(names, labels);
        let mut confusion = Classes::new(labels);
        let each: Vec<Vec<(usize, usize)>> = judged
            .iter()
            .map(|one| {
                let answered = one.classes.iter();
                answered.filter_map(|(is, said)| Some((*places.get(*is)?, (*said)?))).collect()
            })
            .collect();
        each.iter().flatten().for_each(|(is, said)| confusion.count(*is, *said));
        let all: usize = judged.iter().map(|one| one.classes.len()).sum();
        let rows: usize = each.iter().map(Vec::len).sum();
        let rates = |(place, name): (usize, &String)| {
            let (precision, recall, f1) = confusion.of_class(place);
            let (rows, said) = (confusion.cases(place), confusion.answers(place));
            ClassRates { name: name.clone(), rows, said, precision, recall, f1 }
        };
        ClassReport {
            rows: rows as u64,
            unanswered: (all - rows) as u64,
            overall: Overall::of("the model", &confusion),
            floors: floors(&confusion.labels, &each),
            classes: confusion.labels.iter().enumerate().map(rates).collect(),
            confusion,
        }
    }
}

/// The most frequent class, and the most frequent one at each row's place in its recording.
fn floors(labels: &[String], each: &[Vec<(usize, usize)>]) -> Vec<Overall> {
    let answer = |said: &dyn Fn(usize) -> usize| {
        let mut classes = Classes::new(labels.to_vec());
        let rows = each.iter().flat_map(|rows| rows.iter().enumerate());
        rows.for_each(|(row, (is, _))| classes.count(*is, said(row)));
        classes
    };
    let most = |rows: &mut dyn Iterator<Item = usize>| {
        let mut counts = vec![0_u64; labels.len()];
        rows.for_each(|is| counts[is] += 1);
        let most =
            counts.iter().enumerate().max_by_key(|(place, count)| (**count, usize::MAX - place));
        most.map_or(0, |(place, _)| place)
    };
    let frequent = most(&mut each.iter().flatten().map(|(is, _)| *is));
    let mut floors = vec![Overall::of("always the most frequent", &answer(&|_| frequent))];
    if each.len() > 1 {
        let longest = each.iter().map(Vec::len).max().unwrap_or(0);
        let wide = longest.div_ceil(STEPS).max(1);
        let at = |step: usize| {
            let rows = each.iter().flat_map(|rows| rows.iter().skip(step * wide).take(wide));
            most(&mut rows.map(|(is, _)| *is))
        };
        let timetable: Vec<usize> = (0..longest.div_ceil(wide)).map(at).collect();
        floors.push(Overall::of("clock only", &answer(&|row| timetable[row / wide])));
    }
    floors
}

/// Which of the model's classes each name of the truth is, and all classes. A number is the place of a class, unless a
/// class is called so; so it is with normal running, which is the first, where the others are numbers.
fn places(names: &[String], labels: &[String]) -> (Vec<usize>, Vec<String>) {
    let mut all = labels.to_vec();
    let named = |name: &str| labels.iter().position(|label| label == name);
    let numbered = |name: &str| name.parse().ok().filter(|place| *place < labels.len());
    let are_numbers = names.iter().skip(1).all(|name| numbered(name).is_some());
    let mut place = |(at, name): (usize, &String)| {
        let is_first = (are_numbers && !labels.is_empty()).then_some(0);
        let other = || if at == 0 { named("0").or(is_first) } else { numbered(name) };
        let known = named(name).or_else(other);
        known.unwrap_or_else(|| {
            all.push(name.clone());
            all.len() - 1
        })
    };
    let places = names.iter().enumerate().map(&mut place).collect();
    (places, all)
}
