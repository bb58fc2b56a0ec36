//! Sums in an order that depends on nothing but the number of their parts.

use std::ops::Range;

/// A sum of numbered parts in the order of a balanced binary tree, however many threads or processes compute them.
///
/// The tree of parts `0..n` has a node over each range of `2^k` parts that begins at a multiple of `2^k`; at the end,
/// the nodes that no larger one covers are added from the last to the first. So a range of the parts can be summed
/// apart from the others, as far as its [nodes](Self::into_nodes) go, and these be added elsewhere: each addition has
/// the same two operands as if one place had added all parts. It holds at most `log2(n) + 1` sums from part 0 on, and
/// twice as many from another one.
///
/// ```
/// use kakusan_ops::TreeSum;
///
/// let part = |i: usize| 0.1_f32 * i as f32;
/// let add = |a: f32, b: f32| Ok::<f32, ()>(a + b);
/// let mut whole = TreeSum::new();
/// for i in 0..7 {
///     whole.add(i..i + 1, part(i), add)?;
/// }
/// // the same by two, who compute three and four of the parts
/// let mut both = TreeSum::new();
/// for range in [0..3, 3..7] {
///     let mut own = TreeSum::new();
///     for i in range {
///         own.add(i..i + 1, part(i), add)?;
///     }
///     for (parts, sum) in own.into_nodes() {
///         both.add(parts, sum, add)?;
///     }
/// }
/// assert_eq!(whole.total(add)?, both.total(add)?);
/// # Ok::<(), ()>(())
/// ```
#[derive(Debug, Clone)]
pub struct TreeSum<T> {
    nodes: Vec<(Range<usize>, T)>,
}

impl<T> Default for TreeSum<T> {
    fn default() -> Self {
        Self { nodes: vec![] }
    }
}

impl<T> TreeSum<T> {
    /// The sum of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the sum of `parts`, a node of the tree that follows those added before. `add` adds two values; the first
    /// one is of the earlier parts.
    ///
    /// # Errors
    /// That of `add`.
    pub fn add<E>(
        &mut self,
        mut parts: Range<usize>,
        mut value: T,
        mut add: impl FnMut(T, T) -> Result<T, E>,
    ) -> Result<(), E> {
        while let Some((left, sum)) = self.nodes.pop_if(|(left, _)| are_siblings(left, &parts)) {
            value = add(sum, value)?;
            parts = left.start..parts.end;
        }
        self.nodes.push((parts, value));
        Ok(())
    }

    /// The nodes that no larger one covers, with their parts, in order.
    pub fn into_nodes(self) -> Vec<(Range<usize>, T)> {
        self.nodes
    }

    /// The sum of everything that was added, from part 0 on; `None` of nothing.
    ///
    /// # Errors
    /// That of `add`.
    pub fn total<E>(self, mut add: impl FnMut(T, T) -> Result<T, E>) -> Result<Option<T>, E> {
        let mut nodes = self.nodes.into_iter().rev().map(|(_, sum)| sum);
        let Some(last) = nodes.next() else { return Ok(None) };
        nodes.try_fold(last, |right, left| add(left, right)).map(Some)
    }
}

/// Whether the two are the halves of a larger node.
fn are_siblings(left: &Range<usize>, right: &Range<usize>) -> bool {
    left.end == right.start && left.len() == right.len() && left.start.is_multiple_of(2 * left.len().max(1))
}

/// The nodes that [`TreeSum::into_nodes`] gives for `parts`.
pub fn tree_nodes(parts: Range<usize>) -> Vec<Range<usize>> {
    let mut sum = TreeSum::new();
    for part in parts {
        let Ok(()) = sum.add(part..part + 1, (), |(), ()| Ok::<_, std::convert::Infallible>(()));
    }
    sum.into_nodes().into_iter().map(|(parts, ())| parts).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Adds by writing down what is added.
    fn write(a: String, b: String) -> Result<String, Infallible> {
        Ok(format!("({a}{b})"))
    }

    fn sum(parts: Range<usize>) -> TreeSum<String> {
        let mut sum = TreeSum::new();
        for i in parts {
            sum.add(i..i + 1, char::from(b'a' + i as u8).to_string(), write).unwrap();
        }
        sum
    }

    #[test]
    fn the_tree_is_balanced() {
        assert_eq!(sum(0..0).total(write), Ok(None));
        assert_eq!(sum(0..1).total(write).unwrap().unwrap(), "a");
        assert_eq!(sum(0..3).total(write).unwrap().unwrap(), "((ab)c)");
        assert_eq!(sum(0..4).total(write).unwrap().unwrap(), "((ab)(cd))");
        assert_eq!(sum(0..7).total(write).unwrap().unwrap(), "(((ab)(cd))((ef)g))");
        assert_eq!(sum(0..16).into_nodes().len(), 1);
        assert_eq!(tree_nodes(3..10), [3..4, 4..8, 8..10]);
    }

    #[test]
    fn any_division_among_many_gives_the_same_tree() {
        for parts in 0..=26 {
            let whole = sum(0..parts).total(write).unwrap();
            for size in 1..=9 {
                let mut all = TreeSum::new();
                for rank in 0..size {
                    let range = rank * parts / size..(rank + 1) * parts / size;
                    let nodes = sum(range.clone()).into_nodes();
                    assert_eq!(nodes.iter().map(|node| node.0.clone()).collect::<Vec<_>>(), tree_nodes(range));
                    for (parts, value) in nodes {
                        all.add(parts, value, write).unwrap();
                    }
                }
                assert_eq!(all.total(write).unwrap(), whole, "{parts} parts of {size}");
            }
        }
    }
}
