//! Weights on disk: which tensors a file holds, their values, and files written as diffusers writes them.
//!
//! [`Checkpoint`] opens safetensors, PyTorch's own format (a pickle, of which nothing is executed) and sharded
//! checkpoints of either. [`save_tensors`] writes safetensors, in shards where they are large; [`convert`] does so with
//! the tensors of a checkpoint. [`disk`] is how Kakusan changes files: atomically. This crate knows names, shapes and
//! bytes; networks and `config.json` are `kakusan-models`.
//!
//! ```
//! use kakusan_weights::{Checkpoint, Dtype, SaveOptions, TensorInfo, save_tensors};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let tensors = [("bias".to_owned(), TensorInfo { dtype: Dtype::F32, shape: vec![2] })];
//! save_tensors(dir.path(), &tensors, &SaveOptions::default(), |_| {
//!     Ok::<_, kakusan_weights::Error>([1f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect())
//! })?;
//! let checkpoint = Checkpoint::find(dir.path(), None)?;
//! assert_eq!(checkpoint.values("bias")?, [1.0, 2.0]);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod checkpoint;
mod choose;
mod convert;
pub mod disk;
mod error;
mod file;
mod index;
mod pickle;
mod safetensors_file;
mod save;
mod torch_file;
mod zip;

pub use checkpoint::{Checkpoint, TensorInfo};
pub use choose::{WeightsFile, choose_weights};
pub use convert::convert;
pub use error::{Error, Result};
pub use file::{read_text, write_file};
pub use safetensors::Dtype;
pub use save::{FloatType, SaveOptions, parse_size, save_file, save_tensors};

/// The name of the file of a model's weights, where they are in one file and of no variant.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";
