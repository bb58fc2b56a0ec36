//! Editing by sampling: from a picture instead of noise (`start.rs`), only a part of it (`mask.rs`), back to its noise
//! (`invert.rs`), from one noise to another (`interpolate.rs`), and over several settings at once (`grid.rs`).

mod grid;
mod interpolate;
mod invert;
mod mask;
mod start;

pub use grid::Axis;
pub use interpolate::{Interpolation, slerp};
pub use invert::Inversion;
pub(crate) use mask::Known;
pub(crate) use start::Start;
pub use start::in_turns;

/// Images that are drawn at the same time: more are drawn in several samplings.
const MOST_AT_ONCE: usize = 64;
