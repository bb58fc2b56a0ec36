//! A group of processes that `mpirun` or a batch system has started, connected by MPI.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kakusan::distributed::{Error, Group, Result};
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use mpi::{Count, Threading};

/// Marks the length of a message that ends the group.
const END: u64 = 1 << 63;

/// A member of the group.
///
/// A process that dies is MPI's affair: `mpirun` ends the others. A member that fails is known to the others when they
/// come to their next operation.
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    ended: AtomicBool,
    /// One operation at a time, from whatever thread.
    turn: Mutex<()>,
    /// MPI is finalised when it is dropped.
    _universe: Universe,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Mpi({} of {})", self.rank, self.size)
    }
}

impl Mpi {
    /// Initialises MPI, which is possible once in a process.
    ///
    /// # Errors
    /// When MPI was initialised before, or allows only one thread.
    pub(super) fn join() -> Result<Self> {
        let joined = mpi::initialize_with_threading(Threading::Serialized);
        let Some((universe, threading)) = joined else {
            return Err(Error::Join("MPI was initialised before".to_owned()));
        };
        if threading < Threading::Funneled {
            return Err(Error::Join("this MPI library does not allow threads".to_owned()));
        }
        let world = universe.world();
        let [rank, size] = [world.rank(), world.size()].map(|n| usize::try_from(n).unwrap_or(0));
        Ok(Self { rank, size, ended: AtomicBool::new(false), turn: Mutex::new(()), _universe: universe })
    }

    /// Exchanges the lengths of all messages, then the messages. Those that end the group have marked lengths; all
    /// members see them, and then exchange these alone.
    fn exchange(&self, messages: &[&[u8]], mark: u64) -> Result<Vec<Vec<u8>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let world = SimpleCommunicator::world();
        let outgoing: Vec<u64> = messages.iter().map(|message| message.len() as u64 | mark).collect();
        let mut incoming = vec![0u64; self.size];
        world.all_to_all_into(&outgoing[..], &mut incoming[..]);
        let ends = outgoing.iter().chain(&incoming).any(|length| length & END != 0);
        let (send, receive) = (Places::new(&outgoing, ends)?, Places::new(&incoming, ends)?);
        // an empty vector's pointer is 1, which Open MPI takes for MPI_IN_PLACE
        let (mut sent, mut received) = (Vec::with_capacity(send.total.max(1)), vec![0; receive.total.max(1)]);
        for (message, count) in messages.iter().zip(&send.counts) {
            sent.extend_from_slice(&message[..*count as usize]);
        }
        world.all_to_all_varcount_into(
            &Partition::new(&sent[..], &send.counts[..], &send.starts[..]),
            &mut PartitionMut::new(&mut received[..], &receive.counts[..], &receive.starts[..]),
        );
        let mut rest = &received[..];
        let mut all = vec![];
        for count in receive.counts {
            let (message, more) = rest.split_at(count as usize);
            all.push(message.to_vec());
            rest = more;
        }
        match (0..self.size).find(|&rank| rank != self.rank && incoming[rank] & END != 0) {
            Some(rank) => {
                self.ended.store(true, Ordering::Relaxed);
                Err(Error::from_end_message(rank, &all[rank]))
            }
            None => Ok(all),
        }
    }
}

/// Where the messages lie in one buffer.
struct Places {
    counts: Vec<Count>,
    starts: Vec<Count>,
    total: usize,
}

impl Places {
    /// Of messages of these lengths; if the group ends, only of the marked ones.
    fn new(lengths: &[u64], ends: bool) -> Result<Self> {
        let (mut counts, mut starts, mut total) = (vec![], vec![], 0);
        for (rank, length) in lengths.iter().enumerate() {
            let length = if ends && length & END == 0 { 0 } else { length & !END };
            let count = |number| {
                Count::try_from(number).map_err(|_| Error::Message { rank, reason: "it exceeds 2 GiB".to_owned() })
            };
            starts.push(count(total)?);
            counts.push(count(length)?);
            total += length;
            count(total)?;
        }
        Ok(Self { counts, starts, total: total as usize })
    }
}

impl Group for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_to_all(&self, messages: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        if messages.len() != self.size {
            let reason = format!("{} messages were given for {} members", messages.len(), self.size);
            return Err(Error::Message { rank: self.rank, reason });
        }
        self.exchange(messages, 0)
    }

    fn abort(&self, rank: usize, reason: &str) -> bool {
        if !self.ended.swap(true, Ordering::Relaxed) {
            let message = Error::end_message(rank, reason);
            let _ = self.exchange(&vec![&message[..]; self.size], END); // others may fail at the same time
        }
        true
    }
}
