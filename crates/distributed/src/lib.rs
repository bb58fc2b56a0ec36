//! Processes that train together.
//!
//! A [`Group`] has a rank, a size and one collective operation, [`Group::all_to_all`]; gathering, waiting for each
//! other and comparing facts follow from it. There is one for a process [alone](Alone), for [threads](Threads) of one
//! process, and for processes that are connected by [TCP](Tcp). The command `kakusan` has one more, for those that
//! `mpirun` starts.
//!
//! A member that fails tells the others why by [`Group::abort`]; one that dies is noticed. In both cases the collective
//! operations of all others fail and name it, so that none waits for ever.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod agree;
mod alone;
mod error;
mod group;
mod mail;
mod tcp;
mod threads;

pub use agree::agree;
pub use alone::Alone;
pub use error::{Error, Result};
pub use group::Group;
pub use tcp::{Rendezvous, Tcp};
pub use threads::Threads;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
