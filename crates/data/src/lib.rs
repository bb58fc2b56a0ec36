//! Training data: image sets, the sources they are loaded from, and shuffled batches that are prepared in advance.
//!
//! [`load`] reads MNIST, Fashion-MNIST, CIFAR-10 or a folder of pictures from the first available source. With the
//! feature `hub` it also reads any image set of the Hugging Face Hub. For MNIST the last source is digits that this
//! crate [draws](draw_digits). Pictures of any size are resized and cropped to one size, as torchvision does. A program
//! passes its own images as an [`ImageSet`], either in memory or through [`ReadImages`]. [`inspect`] looks at a set
//! before a training: sizes, modes, bad files, duplicates.
//!
//! An [`ImageSet`] stores the images as bytes; a large set is decoded on demand instead. A [`Loader`] shuffles them as
//! torch's `DataLoader` does, converts them to numbers from 0 to 1, and prepares a few batches ahead of the training.
//!
//! Features: `hub` (the Hugging Face Hub; includes `parquet`) and `parquet` (folders of parquet files). None is enabled
//! by default.
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
//! let mut sizes = vec![];
//! for batch in loader.epoch(&mut rng) {
//!     sizes.push(batch?.labels.len());
//! }
//! assert_eq!(sizes, [128, 128, 44]);
//! # Ok::<(), kakusan_data::Error>(())
//! ```

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod archive;
mod augment;
mod cifar;
mod class;
mod clusters;
mod config;
mod dataset;
mod drawn;
mod error;
mod folder;
#[cfg(feature = "hub")]
mod hub;
mod idx;
mod image_set;
mod inspect;
mod jpeg;
mod loader;
#[cfg(feature = "parquet")]
mod parquet;
mod photos;
mod picture;
mod raster;
mod resize;
mod source;
mod splits;
mod tables;
mod tree;

pub use augment::Augmentation;
pub use class::Class;
pub use config::{DataConfig, Resolution, Validation};
pub use dataset::{DatasetName, SourceKind};
pub use drawn::draw_digits;
pub use error::Error;
pub use image_set::{ImageSet, ReadImages};
#[cfg(feature = "hub")]
pub use inspect::inspect_with_hub;
pub use inspect::{Inspected, Inspection, inspect};
pub use loader::{Batch, Batches, Loader};
pub use photos::{BadImage, OnBadImage};
pub use picture::{ReadPicture, decode_mask, decode_picture, read_mask, read_pictures};
pub use raster::Mode;
#[cfg(feature = "hub")]
pub use source::load_with_hub;
pub use source::{Loaded, Skipped, SourceUsed, load};
