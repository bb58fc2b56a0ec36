use std::num::NonZeroUsize;

use clap::Args;
use kakusan::ops::{Vectors, limit_vectors, use_threads};
use kakusan::pipeline::{Error, Result};

use crate::number::whole;

/// How much of the machine's processor a command may use.
#[derive(Args, Default)]
pub(crate) struct MachineArgs {
    /// Number of threads; results do not depend on it [default: $RAYON_NUM_THREADS, or the physical cores]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=1024usize))]
    threads: Option<usize>,
    /// Limit the vector instructions, to measure and compare: avx512, avx2, neon or scalar
    /// [default: the widest here]
    #[arg(long, value_name = "VECTORS")]
    vectors: Option<Vectors>,
}

impl MachineArgs {
    /// Settles both for as long as the program runs; to be called before anything computes.
    pub(crate) fn apply(&self) -> Result<()> {
        let unfit = |error: kakusan::candle::Error| Error::Unfit(Error::from(error).to_string()); // ours has no backtrace
        if let Some(vectors) = self.vectors {
            limit_vectors(vectors).map_err(unfit)?;
        }
        let threads = match self.threads {
            Some(threads) => NonZeroUsize::new(threads),
            None => threads_of_environment()?,
        };
        use_threads(threads).map_err(unfit)?;
        Ok(())
    }
}

/// What `RAYON_NUM_THREADS` asks for; rayon takes 0 and an empty text for its own choice.
fn threads_of_environment() -> Result<Option<NonZeroUsize>> {
    const NAME: &str = "RAYON_NUM_THREADS";
    let Some(text) = std::env::var_os(NAME).filter(|text| !text.is_empty() && text != "0") else { return Ok(None) };
    match text.to_str().and_then(|text| whole(1..=1024usize)(text).ok()) {
        Some(threads) => Ok(NonZeroUsize::new(threads)),
        None => Err(Error::Unfit(format!("{NAME} is {text:?}; expected a whole number from 1 to 1024, or 0 for all"))),
    }
}
