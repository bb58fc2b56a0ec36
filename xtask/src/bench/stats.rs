//! Statistics of a few repetitions.

/// The median of some numbers, and their spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    /// The interquartile range in % of the median.
    pub(crate) noise: f64,
    pub(crate) rounds: usize,
}

impl Summary {
    /// `None` for no numbers.
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = quantile(&sorted, 0.5)?;
        let spread = quantile(&sorted, 0.75)? - quantile(&sorted, 0.25)?;
        Some(Self { median, least: *sorted.first()?, noise: 100.0 * spread / median, rounds: sorted.len() })
    }
}

/// The quantile of sorted numbers, interpolated linearly as numpy does.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_interquartile_range() {
        let summary = Summary::of(&[4.0, 1.0, 2.0, 3.0, 100.0]).unwrap();
        assert_eq!(summary, Summary { median: 3.0, least: 1.0, noise: 100.0 * 2.0 / 3.0, rounds: 5 });
        assert_eq!(Summary::of(&[1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Summary::of(&[7.0]).unwrap(), Summary { median: 7.0, least: 7.0, noise: 0.0, rounds: 1 });
        assert_eq!(Summary::of(&[]), None);
    }
}
