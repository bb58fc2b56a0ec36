//! Classes and their labels: several labels may stand for one class, such as those of `data.clusters`.

use std::collections::BTreeMap;

/// The classes of a model, in the order of their first labels, and the labels of each.
///
/// ```
/// use kakusan_pipeline::labels_by_class;
///
/// let names = [(0, "cat"), (1, "cat"), (2, "dog")].map(|(label, name)| (label, name.to_owned())).into();
/// assert_eq!(labels_by_class(&names), [("cat", vec![0, 1]), ("dog", vec![2])]);
/// ```
pub fn labels_by_class(names: &BTreeMap<u32, String>) -> Vec<(&str, Vec<u32>)> {
    let mut classes: Vec<(&str, Vec<u32>)> = vec![];
    let mut places = BTreeMap::new();
    for (&label, name) in names {
        let place = *places.entry(name).or_insert(classes.len());
        match classes.get_mut(place) {
            Some((_, labels)) => labels.push(label),
            None => classes.push((name, vec![label])),
        }
    }
    classes
}

/// One label after another for classes that take turns, to be repeated. A class takes each of its labels as often as it
/// has images of it by `counts`, or else equally often.
///
/// ```
/// use kakusan_pipeline::labels_in_turn;
///
/// let none = Default::default();
/// assert_eq!(labels_in_turn(&[vec![7], vec![2]], &none), [7, 2]);
/// assert_eq!(labels_in_turn(&[vec![0, 1], vec![2]], &none), [0, 2, 1, 2]);
///
/// let counts = [(0, 300), (1, 100)].into(); // images of each label
/// assert_eq!(labels_in_turn(&[vec![0, 1]], &counts)[..8], [0, 0, 1, 0, 0, 0, 1, 0]);
/// ```
pub fn labels_in_turn(classes: &[Vec<u32>], counts: &BTreeMap<u32, u64>) -> Vec<u32> {
    let classes: Vec<Vec<u32>> = classes.iter().map(|labels| turns(labels, counts)).collect();
    let rounds = classes.iter().map(Vec::len).max().unwrap_or(0);
    let of_round = |round: usize| {
        classes.iter().filter(|labels| !labels.is_empty()).map(move |labels| labels[round % labels.len()])
    };
    (0..rounds).flat_map(of_round).collect()
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

/// Whether the training of a model with `count` labels had images of a label, as far as `names` says: it has a name, or
/// none has. The last label may stand for "no class" and needs no name. A fine-tuned model may know others, too.
///
/// ```
/// use kakusan_pipeline::has_label;
///
/// let names = [(1, "1"), (4, "4"), (8, "8")].map(|(label, name)| (label, name.to_owned())).into();
/// assert!(has_label(&names, 11, 4) && has_label(&names, 11, 10));
/// assert!(!has_label(&names, 11, 3) && !has_label(&names, 11, 11)); // not trained on 3
/// ```
pub fn has_label(names: &BTreeMap<u32, String>, count: usize, label: u32) -> bool {
    let place = label as usize;
    place < count && (names.is_empty() || names.contains_key(&label) || place + 1 == count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_taken_as_often_as_there_are_images() {
        let counts: BTreeMap<u32, u64> = [(3, 700), (4, 0), (5, 250), (9, 50)].into();
        let order = labels_in_turn(&[vec![3, 4, 5, 9], vec![1]], &counts);
        assert_eq!(order.len(), 2 * 64);
        for length in [20, 40, 64] {
            let of = |label| order[..2 * length].iter().filter(|&&taken| taken == label).count();
            assert_eq!(of(1), length);
            for (&label, &count) in &counts {
                let share = length as f64 * count as f64 / 1000.0;
                assert!((of(label) as f64 - share).abs() < 1.0, "{label}: {} of {share}", of(label));
            }
        }
        assert_eq!(labels_in_turn(&[vec![3, 4, 6]], &counts), [3, 4, 6]); // nothing is known of 6
        let huge = [(0, u64::MAX), (1, u64::MAX)].into();
        assert_eq!(labels_in_turn(&[vec![0, 1]], &huge)[..4], [0, 1, 0, 1]);
        assert!(labels_in_turn(&[vec![0, 1]], &[(0, 0), (1, 0)].into()).iter().all(|label| *label == 0));
    }
}
