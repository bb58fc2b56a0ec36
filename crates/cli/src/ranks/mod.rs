//! A training by several processes: how they find each other, and what those other than rank 0 say.

mod launch;
#[cfg(feature = "mpi")]
mod mpi;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kakusan::distributed::{Alone, Error as GroupError, Group, Rendezvous, Tcp, agree};
use kakusan::ops::vectors;
use kakusan::pipeline::{Error, Result};
use sha2::{Digest, Sha256};

pub(crate) use self::launch::Launch;
use self::launch::{Launcher, Place};
use crate::failure;
use crate::terminal::{say, warn};

/// How long the processes wait for each other at the start.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How this process was started; `None` if alone.
pub(crate) fn launch() -> Result<Option<Launch>> {
    Launch::from_lookup(|name| std::env::var(name).ok())
}

/// Waits for the other processes.
pub(crate) fn join(launch: Option<Launch>) -> Result<Arc<dyn Group>> {
    match launch {
        Some(launch) if launch.size > 1 => match &launch.by {
            Launcher::Mpi { place } => by_mpi(&launch, place.as_ref()),
            Launcher::Tcp(place) => by_tcp(&launch, place),
        },
        _ => Ok(Arc::new(Alone)),
    }
}

/// Checks that all processes run the same program and compute alike.
pub(crate) fn check_same_program(group: &dyn Group) -> Result<()> {
    const INSTRUCTIONS: &str = "the instruction set";
    if group.size() == 1 {
        return Ok(());
    }
    let facts = [("the program", program()), (INSTRUCTIONS, vectors().to_string())];
    let facts = facts.map(|(name, value)| (name.to_owned(), value)).into();
    agree(group, &facts).map_err(|error| match error {
        GroupError::Differ(mut differences) => {
            for text in differences.iter_mut().filter(|text| text.starts_with(INSTRUCTIONS)) {
                *text += " (the last bits of a result depend on it: pass the same --vectors to all)";
            }
            GroupError::Differ(differences).into()
        }
        other => other.into(),
    })
}

/// The version of this program, and the SHA-256 of its file.
fn program() -> String {
    let hash = || -> std::io::Result<String> {
        let mut digest = Sha256::new();
        // the program that runs, even if its file was replaced meanwhile
        let running = Path::new("/proc/self/exe");
        let path = if running.exists() { running.to_owned() } else { std::env::current_exe()? };
        let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
        }
        Ok(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    };
    let version = env!("CARGO_PKG_VERSION");
    hash().map_or_else(|_| version.to_owned(), |hash| format!("kakusan {version} ({hash})"))
}

fn by_tcp(launch: &Launch, place: &Place) -> Result<Arc<dyn Group>> {
    let Launch { rank, size, .. } = *launch;
    let Place { address, port } = place.clone();
    if rank == 0 {
        let others = if size == 2 { "another process".to_owned() } else { format!("{} other processes", size - 1) };
        say(&format!("Waiting for {others} at {address}:{port}."));
    }
    Ok(Arc::new(Tcp::join(&Rendezvous { rank, size, address, port, timeout: TIMEOUT })?))
}

#[cfg(feature = "mpi")]
fn by_mpi(launch: &Launch, _place: Option<&Place>) -> Result<Arc<dyn Group>> {
    let group = mpi::Mpi::join()?;
    if (group.rank(), group.size()) == (launch.rank, launch.size) {
        return Ok(Arc::new(group));
    }
    Err(Error::Unfit(format!(
        "the launcher says rank {} of {}, but this command's MPI library says {} of {}: build the command with the MPI \
         library that the launcher belongs to",
        launch.rank,
        launch.size,
        group.rank(),
        group.size()
    )))
}

#[cfg(not(feature = "mpi"))]
fn by_mpi(launch: &Launch, place: Option<&Place>) -> Result<Arc<dyn Group>> {
    if let Some(place) = place {
        return by_tcp(launch, place);
    }
    Err(Error::Unfit(format!(
        "an MPI launcher started {} processes, but this command was built without MPI: build it with \
         `cargo build --release -p kakusan-cli --features mpi`, which needs an MPI library and libclang, or let them \
         connect by TCP with `mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 ...`, where HOST is that of rank 0",
        launch.size
    )))
}

/// The end of a rank other than 0 by an error: rank 0 says why, unless it cannot know.
pub(crate) fn end_quietly(group: &dyn Group, error: &Error) -> ExitCode {
    let leader_knows = match error {
        Error::Group(GroupError::Failed { .. }) => true,
        Error::Group(GroupError::Lost { rank: 0, .. }) => false,
        Error::Group(GroupError::Lost { rank, reason }) => group.abort(*rank, reason),
        own => group.abort(group.rank(), &own.to_string()),
    };
    if leader_knows {
        return failure::code(error);
    }
    warn(&format!("rank {}:", group.rank()));
    failure::show(error)
}
