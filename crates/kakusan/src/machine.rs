use std::num::NonZeroUsize;

use clap::Args;
use kakusan::ops::{Vectors, limit_vectors, use_threads};
use kakusan::pipeline::{Error, Result};

/// How much of the machine's processor a command may use.
#[derive(Args, Default)]
pub(crate) struct MachineArgs {
    /// Compute on so many threads; no result depends on it [default: $RAYON_NUM_THREADS, or the physical cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
    /// Use no wider vector instructions than these, to measure and compare: avx512, avx2, neon or scalar
    /// [default: the widest here]
    #[arg(long, value_name = "VECTORS")]
    vectors: Option<Vectors>,
}

impl MachineArgs {
    /// Settles both for as long as the program runs; to be called before anything computes.
    pub(crate) fn apply(&self) -> Result<()> {
        // the first line: candle may add where it happened, which helps nobody who chose a wrong option
        let unfit = |error: candle_core::Error| Error::Unfit(error.to_string().lines().take(1).collect());
        if let Some(vectors) = self.vectors {
            limit_vectors(vectors).map_err(unfit)?;
        }
        let from_env = || std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok();
        use_threads(self.threads.or_else(from_env)).map_err(unfit)?;
        Ok(())
    }
}

fn threads(text: &str) -> std::result::Result<NonZeroUsize, String> {
    const MOST: usize = 1024;
    let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= MOST);
    count.ok_or_else(|| format!("expected a number from 1 to {MOST}"))
}
