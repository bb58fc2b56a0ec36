//! What is learnt: image sets in memory, the sources they come from, and shuffled batches made ahead of need.
//!
//! [`load`] reads MNIST or Fashion-MNIST from the first source that answers: a folder of IDX files, the Hugging Face Hub, or, for
//! MNIST, digits [drawn](draw_digits) by this crate's own code. The images stay bytes in an [`ImageSet`]; a [`Loader`] shuffles
//! them as torch's `DataLoader` does and turns them into numbers from 0 to 1, one batch ahead of the training.
//!
//! ```
//! use std::{num::NonZeroUsize, sync::Arc};
//! use kakusan_data::{Loader, draw_digits};
//! use kakusan_rng::Generator;
//!
//! let images = Arc::new(draw_digits(&[1, 8, 4], 100, 0)?);
//! let loader = Loader::new(images, NonZeroUsize::new(128).unwrap());
//! assert_eq!(loader.steps_per_epoch(), 3);
//!
//! let mut rng = Generator::new(0);
//! let sizes: Vec<usize> = loader.epoch(&mut rng).map(|batch| batch.labels.len()).collect();
//! assert_eq!(sizes, [128, 128, 44]);
//! # Ok::<(), kakusan_data::Error>(())
//! ```

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod config;
mod drawn;
mod error;
mod idx;
mod image_set;
mod loader;
mod parquet;
mod source;

pub use config::{DataConfig, DatasetName, SourceKind};
pub use drawn::draw_digits;
pub use error::Error;
pub use image_set::ImageSet;
pub use loader::{Batch, Batches, Loader};
pub use source::{Loaded, Skipped, SourceUsed, load};
