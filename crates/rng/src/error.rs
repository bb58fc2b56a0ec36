/// What the generator refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A range of integers that holds none.
    #[error(
        "cannot draw integers from {low} to {high} (exclusive): the range is empty; `low` must be less than `high`"
    )]
    EmptyRange {
        /// The smallest value asked for.
        low: i64,
        /// One more than the largest value asked for.
        high: i64,
    },
    /// A generator for each image, and another number of images.
    #[error("there are {generators} generators for {images} images; one for each image is needed")]
    Generators {
        /// How many generators there are.
        generators: usize,
        /// How many images are drawn.
        images: usize,
    },
    /// A probability outside 0..=1, or NaN.
    #[error("{0} is not a probability: expected a number from 0 to 1")]
    Probability(f64),
    /// Bytes that are no state of a generator.
    #[error(
        "not a generator's state: {0}; expected the bytes of `Generator::state` or `torch.get_rng_state()`, unaltered"
    )]
    State(String),
}
