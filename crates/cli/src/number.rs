//! Number parsers for the command line. Each has a range, and its error message states the range.
//!
//! The flags allow values that begin with a hyphen: otherwise clap takes `-3` for an unknown flag.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Parses an integer in `range`.
pub(crate) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Parses a finite number in `range`, whose ends may be infinite.
pub(crate) fn real(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number: &f64| number.is_finite() && range.contains(number));
        number.ok_or_else(|| match (range.start(), range.end()) {
            (least, most) if most.is_finite() => format!("expected a number from {least} to {most}"),
            (least, _) if least.is_finite() => format!("expected a number of at least {least}"),
            _ => "expected a finite number".to_owned(),
        })
    }
}

/// Parses `0..15` (both included), `3,5,8`, or a mixture: `0..4,7`.
pub(crate) fn numbers(text: &str) -> Result<Vec<u64>, String> {
    const MOST: u64 = 4096;
    let number = |text: &str| {
        text.trim().parse::<u64>().map_err(|_| format!("`{text}` is not a whole number from 0 to {}", u64::MAX))
    };
    let mut numbers = vec![];
    for part in text.split(',') {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last.trim_start_matches('='))?);
        if first > last || last - first >= MOST || numbers.len() as u64 + last - first >= MOST {
            return Err(format!("{first}..{last} is empty or has more than {MOST} numbers"));
        }
        numbers.extend(first..=last);
    }
    Ok(numbers)
}
