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

impl Error {
    /// The message by which a member tells the others that rank `rank` failed: the rank in four bytes (little-endian),
    /// and the reason in UTF-8. Implementations of [`Group::abort`](crate::Group::abort) send it.
    pub fn end_message(rank: usize, reason: &str) -> Vec<u8> {
        [&(rank as u32).to_le_bytes(), reason.as_bytes()].concat()
    }

    /// What an [end message](Self::end_message) from rank `sender` says, whatever its bytes are.
    pub fn from_end_message(sender: usize, message: &[u8]) -> Self {
        match message.split_first_chunk() {
            Some((rank, reason)) => {
                let reason = String::from_utf8_lossy(reason).into_owned();
                Self::Failed { rank: u32::from_le_bytes(*rank) as usize, reason }
            }
            None => Self::Failed { rank: sender, reason: "it did not say why".to_owned() },
        }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
