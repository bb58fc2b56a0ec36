//! What is learnt: image sets, the sources they come from, and shuffled batches made ahead of need.
//!
//! [`load`] reads MNIST, Fashion-MNIST, CIFAR-10, a folder of pictures or a data set of the Hugging Face Hub from the first source that answers;
//! for MNIST the last are digits [drawn](draw_digits) by this crate's own code. Pictures of any size become images of one size as torchvision
//! makes them. The images stay bytes in an [`ImageSet`], or are decoded when they are needed if they are too many for that; a [`Loader`]
//! shuffles them as torch's `DataLoader` does and turns them into numbers from 0 to 1, some batches ahead of the training.
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
//! let sizes: Vec<usize> = loader.epoch(&mut rng).map(|batch| Ok(batch?.labels.len())).collect::<Result<_, kakusan_data::Error>>()?;
//! assert_eq!(sizes, [128, 128, 44]);
//! # Ok::<(), kakusan_data::Error>(())
//! ```

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod archive;
mod cifar;
mod class;
mod config;
mod dataset;
mod drawn;
mod error;
mod folder;
mod idx;
mod image_set;
mod jpeg;
mod loader;
mod parquet;
mod photos;
mod raster;
mod resize;
mod source;
mod splits;
mod tree;

pub use class::Class;
pub use config::{DataConfig, Resolution};
pub use dataset::{DatasetName, SourceKind};
pub use drawn::draw_digits;
pub use error::Error;
pub use image_set::ImageSet;
pub use loader::{Batch, Batches, Loader};
pub use photos::{BadImage, OnBadImage};
pub use source::{Loaded, Skipped, SourceUsed, load};
