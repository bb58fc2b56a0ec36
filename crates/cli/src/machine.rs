use std::num::NonZeroUsize;

use clap::Args;
use kakusan::ops::{Vectors, limit_vectors, share_of_cores, use_threads};
use kakusan::pipeline::{Error, Result};

use crate::number::whole;

/// How much of the machine's processor a command may use.
#[derive(Args, Default)]
pub(crate) struct MachineArgs {
    /// Number of threads; it does not change the results [default: $RAYON_NUM_THREADS, or the physical cores]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=1024usize))]
    threads: Option<usize>,
    /// Limit the vector instructions, for measurements and comparisons: avx512, avx2, neon or scalar [default: the
    /// widest that this machine has]
    #[arg(long, value_name = "VECTORS")]
    vectors: Option<Vectors>,
}

impl MachineArgs {
    /// Sets the threads and vector instructions of the whole process. Call it before any computation.
    pub(crate) fn apply(&self) -> Result<()> {
        self.apply_to_one_of(1)
    }

    /// The same for one of so many processes on this machine: by default each takes its share of the cores.
    pub(crate) fn apply_to_one_of(&self, processes: usize) -> Result<()> {
        let unfit = |error: kakusan::candle::Error| Error::Unfit(Error::from(error).to_string()); // without backtrace
        if let Some(vectors) = self.vectors {
            limit_vectors(vectors).map_err(unfit)?;
        }
        let threads = match self.threads {
            Some(threads) => NonZeroUsize::new(threads),
            None => threads_of_environment()?.or((processes > 1).then(|| share_of_cores(processes))),
        };
        use_threads(threads).map_err(unfit)?;
        Ok(())
    }
}

/// The value of `RAYON_NUM_THREADS`. Like rayon, treats 0 and an empty text as unset.
fn threads_of_environment() -> Result<Option<NonZeroUsize>> {
    const NAME: &str = "RAYON_NUM_THREADS";
    let Some(text) = std::env::var_os(NAME).filter(|text| !text.is_empty() && text != "0") else { return Ok(None) };
    match text.to_str().and_then(|text| whole(1..=1024usize)(text).ok()) {
        Some(threads) => Ok(NonZeroUsize::new(threads)),
        None => Err(Error::Unfit(format!("{NAME} is {text:?}; expected a whole number from 1 to 1024, or 0 for all"))),
    }
}
