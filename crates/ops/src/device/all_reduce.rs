use std::fmt::Debug;

use candle_core::{Result, Tensor};

/// Adds the numbers of several processes in an order that the library behind it chooses.
///
/// It is what data-parallel training uses where speed counts more than bits: the last bits of a sum may depend on the
/// number of processes. All processes get the same sum.
pub trait AllReduce: Debug + Send + Sync {
    /// The library's name, such as `NCCL`.
    fn name(&self) -> &'static str;

    /// Replaces `numbers`, a contiguous f32 tensor of the same length in all processes, by the sum over all processes.
    /// All call it as often and in the same order.
    ///
    /// # Errors
    /// When the tensor is on another device than the processes exchange numbers on, and when a process does not answer.
    fn sum(&self, numbers: &Tensor) -> Result<()>;
}
