/// Why a group cannot be formed, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The group cannot be formed.
    #[error("{0}")]
    Join(String),
    /// A member told the others that it cannot go on.
    #[error("rank {rank} failed: {reason}")]
    Failed {
        /// The member.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// A member is gone, or does not answer.
    #[error("rank {rank} is lost: {reason}")]
    Lost {
        /// The member.
        rank: usize,
        /// How it was noticed.
        reason: String,
    },
    /// The members differ in what must be the same.
    #[error("the processes do not belong together: {}", .0.join("; "))]
    Differ(
        /// Each difference, with both ranks and values.
        Vec<String>,
    ),
    /// A message that is not what its sender should have sent, or too long.
    #[error("a message between rank {rank} and this one is wrong: {reason}")]
    Message {
        /// The other member.
        rank: usize,
        /// What is wrong.
        reason: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
