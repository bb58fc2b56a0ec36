//! Classes and their labels: several labels may stand for one class, such as those of `data.clusters`.

use std::collections::{BTreeMap, BTreeSet};

/// What a model's labels stand for: the class of each, and how often a class takes which of its labels.
///
/// ```
/// use kakusan_pipeline::Labels;
///
/// let names = [(0, "cat"), (1, "cat"), (2, "dog")].map(|(label, name)| (label, name.to_owned())).into();
/// let labels = Labels::new(names).with_counts([(0, 300), (1, 100), (2, 350)].into()); // images of each label
/// assert_eq!(labels.by_class(), [("cat", vec![0, 1]), ("dog", vec![2])]);
/// assert_eq!(labels.in_turn(&[vec![0, 1]])[..8], [0, 0, 1, 0, 0, 0, 1, 0]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    names: BTreeMap<u32, String>,
    counts: BTreeMap<u32, u64>,
}

impl Labels {
    /// Labels of classes of these names. The labels of a class are taken equally often.
    pub fn new(names: BTreeMap<u32, String>) -> Self {
        Self { names, counts: BTreeMap::new() }
    }

    /// The same for a training that had so many images of each label. If each label is a class of its own, that says
    /// nothing and is dropped.
    #[must_use]
    pub fn with_counts(mut self, counts: BTreeMap<u32, u64>) -> Self {
        let distinct: BTreeSet<&String> = self.names.values().collect();
        self.counts = if distinct.len() < self.names.len() { counts } else { BTreeMap::new() };
        self
    }

    /// Those of the images of a training.
    #[cfg(feature = "train")]
    pub fn of_images(images: &kakusan_data::ImageSet) -> Self {
        Self::new(images.names_by_label()).with_counts(images.counts_by_label())
    }

    /// The name of the class of each label that the model was trained on; empty if they were not saved.
    pub fn names(&self) -> &BTreeMap<u32, String> {
        &self.names
    }

    /// How many images of the training had each label, if several labels are one class; else empty.
    pub fn counts(&self) -> &BTreeMap<u32, u64> {
        &self.counts
    }

    /// The name of a label's class, or else its number.
    pub fn name(&self, label: u32) -> String {
        self.names.get(&label).cloned().unwrap_or_else(|| label.to_string())
    }

    /// The classes, in the order of their first labels, and the labels of each.
    pub fn by_class(&self) -> Vec<(&str, Vec<u32>)> {
        let mut classes: Vec<(&str, Vec<u32>)> = vec![];
        let mut places = BTreeMap::new();
        for (&label, name) in &self.names {
            let place = *places.entry(name).or_insert(classes.len());
            match classes.get_mut(place) {
                Some((_, labels)) => labels.push(label),
                None => classes.push((name, vec![label])),
            }
        }
        classes
    }

    /// The labels of the class, if there is only one: then no name is needed to mean it.
    pub fn only_class(&self) -> Option<Vec<u32>> {
        match self.by_class().as_mut_slice() {
            [(_, labels)] => Some(std::mem::take(labels)),
            _ => None,
        }
    }

    /// One label after another for classes that take turns, to be repeated. A class takes each of its labels as often
    /// as the training had images of it, or else equally often.
    ///
    /// ```
    /// use kakusan_pipeline::Labels;
    ///
    /// let labels = Labels::default();
    /// assert_eq!(labels.in_turn(&[vec![7], vec![2]]), [7, 2]);
    /// assert_eq!(labels.in_turn(&[vec![0, 1], vec![2]]), [0, 2, 1, 2]);
    /// ```
    pub fn in_turn(&self, classes: &[Vec<u32>]) -> Vec<u32> {
        let classes: Vec<Vec<u32>> = classes.iter().map(|labels| turns(labels, &self.counts)).collect();
        let rounds = classes.iter().map(Vec::len).max().unwrap_or(0);
        let of_round = |round: usize| {
            classes.iter().filter(|labels| !labels.is_empty()).map(move |labels| labels[round % labels.len()])
        };
        (0..rounds).flat_map(of_round).collect()
    }

    /// Whether the training of a model with `count` labels had images of a label, as far as the names say: it has a
    /// name, or none has. The last label may stand for "no class" and needs no name.
    ///
    /// ```
    /// use kakusan_pipeline::Labels;
    ///
    /// let names = [(1, "1"), (4, "4"), (8, "8")].map(|(label, name)| (label, name.to_owned())).into();
    /// let labels = Labels::new(names);
    /// assert!(labels.include(4, 11) && labels.include(10, 11));
    /// assert!(!labels.include(3, 11) && !labels.include(11, 11)); // not trained on 3
    /// ```
    pub fn include(&self, label: u32, count: usize) -> bool {
        let place = label as usize;
        place < count && (self.names.is_empty() || self.names.contains_key(&label) || place + 1 == count)
    }
}

/// The labels of one class, one after another: the next one is always that which is furthest behind its share.
fn turns(labels: &[u32], counts: &BTreeMap<u32, u64>) -> Vec<u32> {
    /// So many turns for each label, on average: shares are as exact as that.
    const TURNS: usize = 16;
    /// More labels are taken equally often.
    const MOST: usize = 1024;
    let counts: Option<Vec<i128>> = labels.iter().map(|label| Some(i128::from(*counts.get(label)?))).collect();
    let Some(counts) = counts.filter(|counts| (2..=MOST).contains(&counts.len())) else { return labels.to_vec() };
    let (all, mut taken) = (counts.iter().sum::<i128>(), vec![0; labels.len()]);
    let next = |turn: usize| {
        let behind = |&i: &usize| counts[i] * turn as i128 - taken[i] * all;
        let next = (0..labels.len()).rev().max_by_key(behind).unwrap_or(0); // the first of several
        taken[next] += 1;
        labels[next]
    };
    (1..=TURNS * labels.len()).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_taken_as_often_as_there_are_images() {
        let counted = |counts: &[(u32, u64)]| {
            let names = counts.iter().map(|&(label, _)| (label, "one".to_owned()));
            Labels::new(names.collect()).with_counts(counts.iter().copied().collect())
        };
        let labels = counted(&[(3, 700), (4, 0), (5, 250), (9, 50)]);
        let order = labels.in_turn(&[vec![3, 4, 5, 9], vec![1]]);
        assert_eq!(order.len(), 2 * 64);
        for length in [20, 40, 64] {
            let of = |label| order[..2 * length].iter().filter(|&&taken| taken == label).count();
            assert_eq!(of(1), length);
            for (&label, &count) in labels.counts() {
                let share = length as f64 * count as f64 / 1000.0;
                assert!((of(label) as f64 - share).abs() < 1.0, "{label}: {} of {share}", of(label));
            }
        }
        assert_eq!(labels.in_turn(&[vec![3, 4, 6]]), [3, 4, 6]); // nothing is known of 6
        let huge = counted(&[(0, u64::MAX), (1, u64::MAX)]);
        assert_eq!(huge.in_turn(&[vec![0, 1]])[..4], [0, 1, 0, 1]);
        assert!(counted(&[(0, 0), (1, 0)]).in_turn(&[vec![0, 1]]).iter().all(|label| *label == 0));
    }
}
