//! Kakusan (拡散): diffusion models in Rust on candle, in the shape of Hugging Face's diffusers.
//!
//! One dependency for users: each crate of the project under its short name, and [`candle`], whose tensors they take. The
//! command `kakusan`, which trains and samples from configuration files, is the crate `kakusan-cli`.
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
pub use kakusan_data as data;
pub use kakusan_hub as hub;
pub use kakusan_models as models;
pub use kakusan_ops as ops;
pub use kakusan_pipeline as pipeline;
pub use kakusan_rng as rng;
pub use kakusan_scheduler as scheduler;
pub use kakusan_weights as weights;
