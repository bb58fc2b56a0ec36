/// RePaint's way from noise to image (Lugmayr et al. 2022, appendix B): the places of the model calls among `steps`
/// steps, the last step's being 0, and how many steps are undone after each. Every `length` steps as many are undone,
/// until they have been done `times` times.
pub(crate) fn jumps(steps: usize, length: usize, times: usize) -> Vec<(usize, usize)> {
    let mut left = vec![0; steps];
    (0..steps.saturating_sub(length)).step_by(length.max(1)).for_each(|place| left[place] = times.saturating_sub(1));
    let (mut place, mut calls) = (steps, vec![]);
    while place > 0 {
        place -= 1;
        let undone = if left[place] > 0 { length } else { 0 };
        left[place] = left[place].saturating_sub(1);
        calls.push((place, undone));
        place += undone;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_undone_and_done_again() {
        let places: Vec<usize> = jumps(5, 3, 3).into_iter().map(|(place, _)| place).collect();
        assert_eq!(places, [4, 3, 2, 1, 0, 2, 1, 0, 2, 1, 0]);
        assert_eq!(jumps(3, 5, 9), [(2, 0), (1, 0), (0, 0)]);
        assert_eq!(jumps(4, 2, 2), [(3, 0), (2, 0), (1, 0), (0, 2), (1, 0), (0, 0)]);
    }
}
