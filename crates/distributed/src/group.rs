use std::fmt::Debug;

use crate::Result;

/// A process in a group of processes that do the same work together.
///
/// All members call the same operations in the same order. If one fails or dies, the operations of all others return an
/// error that names it.
pub trait Group: Debug + Send + Sync {
    /// The number of this member, from 0.
    fn rank(&self) -> usize;

    /// How many members there are, at least 1.
    fn size(&self) -> usize;

    /// Sends `messages[r]` to rank `r`, and returns what each rank sent here, by rank. The message to itself is
    /// returned as it is.
    ///
    /// # Errors
    /// When another member failed or died, and when there is not one message for each member.
    fn all_to_all(&self, messages: &[&[u8]]) -> Result<Vec<Vec<u8>>>;

    /// Tells all others that the group ends, because `rank` (often this one) failed for this reason. It has no effect
    /// on a group that has ended already. Returns whether rank 0 knows.
    fn abort(&self, rank: usize, reason: &str) -> bool;

    /// Sends `message` to all, and returns the messages of all, by rank.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.all_to_all(&vec![message; self.size()])
    }

    /// Waits until all members are here.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    fn barrier(&self) -> Result<()> {
        self.all_gather(&[]).map(drop)
    }

    /// Whether this is rank 0, which alone writes and prints.
    fn leads(&self) -> bool {
        self.rank() == 0
    }
}
