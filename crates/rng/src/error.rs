/// Errors of the generator.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An empty range of integers.
    #[error(
        "cannot draw integers from {low} to {high} (exclusive): the range is empty; `low` must be less than `high`"
    )]
    EmptyRange {
        /// The lower bound, inclusive.
        low: i64,
        /// The upper bound, exclusive.
        high: i64,
    },
    /// The number of generators differs from the number of images.
    #[error("there are {generators} generators for {images} images; expected one for each image")]
    Generators {
        /// The number of generators.
        generators: usize,
        /// The number of images.
        images: usize,
    },
    /// A probability outside 0..=1, or NaN.
    #[error("{0} is not a probability: expected a number from 0 to 1")]
    Probability(f64),
    /// Bytes that are not the state of a generator.
    #[error(
        "not a generator's state: {0}; expected the bytes of `Generator::state` or `torch.get_rng_state()`, unaltered"
    )]
    State(String),
}
