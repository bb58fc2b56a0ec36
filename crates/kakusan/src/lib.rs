//! Kakusan (拡散): diffusion models in Rust on candle, in the shape of Hugging Face's diffusers.
//!
//! One dependency for users: each crate of the project under its short name, and [`candle`], whose tensors they use.
//! Without features it samples from pipelines on the disk, which is what most programs need and a third of what all
//! features compile.
//!
//! | feature | adds |
//! |---|---|
//! | `hub` | pipelines, and with `train` data sets, of the Hugging Face Hub |
//! | `train` | training: `data`, and in [`pipeline`] run configurations, the loop and checkpoints |
//! | `parquet` | data sets in parquet files (`hub` with `train` includes it) |
//! | `report` | pictures, plots, the HTML report and TensorBoard's log of a training (includes `train`) |
//! | `eval` | figures of samples: Fréchet distance, KID, precision and recall (includes `train`) |
//! | `schema` | the JSON schema of configuration files (includes `train`) |
//! | `cuda` | NVIDIA devices; needs the CUDA toolkit |
//! | `nccl` | processes with a card each add their gradients by NCCL, which it needs |
//!
//! The command `kakusan`, which trains and samples from configuration files, is the crate `kakusan-cli`.
//!
//! ```
//! use kakusan::rng::Generator;
//! use kakusan::scheduler::{LinearMixScheduler, Scheduler};
//!
//! let mut rng = Generator::new(0);
//! let run = LinearMixScheduler::default().run(40).unwrap();
//! assert_eq!(run.timesteps().len(), 40);
//! assert_eq!(rng.rand(1), [0.496_256_6]);
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub use candle_core as candle;
#[cfg(feature = "train")]
pub use kakusan_data as data;
#[cfg(feature = "train")]
pub use kakusan_distributed as distributed;
#[cfg(feature = "eval")]
pub use kakusan_eval as eval;
#[cfg(feature = "hub")]
pub use kakusan_hub as hub;
pub use kakusan_models as models;
pub use kakusan_ops as ops;
pub use kakusan_pipeline as pipeline;
#[cfg(feature = "report")]
pub use kakusan_report as report;
pub use kakusan_rng as rng;
pub use kakusan_scheduler as scheduler;
pub use kakusan_weights as weights;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "train"))]
#[doc = include_str!("../../../README.md")]
struct RootReadme;

/// The code of the book: the pages of the other languages have the same, which `cargo xtask tidy` checks.
#[cfg(all(doctest, feature = "report", feature = "eval"))]
mod book {
    macro_rules! pages {
        ($($name:ident $file:literal)*) => { $(
            #[doc = include_str!(concat!("../../../docs/book/src/en/", $file))]
            struct $name;
        )* };
    }

    pages! {
        Introduction "introduction.md"
        Tutorial "tutorial.md"
        Diffusers "diffusers.md"
        Images "images.md"
        Training "training.md"
        Scaling "scaling.md"
        Cuda "cuda.md"
        Measuring "measuring.md"
        Finetuning "finetuning.md"
        Guidance "guidance.md"
        Editing "editing.md"
        Extending "extending.md"
        Serve "serve.md"
        Server "server.md"
        Inside "inside.md"
        Results "results.md"
    }
}
