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

/// One label after another for classes that take turns, each of which takes its own labels in turn; to be repeated.
///
/// ```
/// use kakusan_pipeline::labels_in_turn;
///
/// assert_eq!(labels_in_turn(&[vec![0, 1], vec![2]]), [0, 2, 1, 2]);
/// assert_eq!(labels_in_turn(&[vec![7], vec![2]]), [7, 2]);
/// ```
pub fn labels_in_turn(classes: &[Vec<u32>]) -> Vec<u32> {
    let rounds = classes.iter().map(Vec::len).max().unwrap_or(0);
    let of_round = |round: usize| {
        classes.iter().filter(|labels| !labels.is_empty()).map(move |labels| labels[round % labels.len()])
    };
    (0..rounds).flat_map(of_round).collect()
}

/// Whether a model with `count` labels can draw a label: one that has a name, or any if `names` is empty. The last
/// label may stand for "no class" and needs no name.
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
