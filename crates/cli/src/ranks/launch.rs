//! How this process was started as one of several: what mpirun, torchrun or Slurm leave in the environment.

use kakusan::pipeline::{Error, Result};

/// This process among those that were started together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// How many of them run on this machine, as far as the launcher says.
    pub(crate) local_size: usize,
    /// The number of this one among them; it chooses the card.
    pub(crate) local_rank: usize,
    pub(crate) by: Launcher,
}

/// What started them, and how they find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Launcher {
    /// An MPI library's launcher; by TCP if it also passes on a meeting place.
    Mpi { place: Option<Place> },
    /// By TCP: torchrun's variables, or Slurm's.
    Tcp(Place),
}

/// Where rank 0 waits for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) port: u16,
}

/// The environment, in which an empty variable counts as unset.
struct Environment<F>(F);

impl Launch {
    /// Reads the environment; `None` if this process was started alone.
    ///
    /// # Errors
    /// When variables contradict each other or are half set.
    pub(crate) fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let env = Environment(lookup);
        let variables = env.pair("RANK", "WORLD_SIZE")?;
        let mpirun = env.pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")?;
        if let (Some(mpirun), Some(variables)) = (mpirun, variables)
            && mpirun != variables
        {
            return Err(Error::Unfit(format!(
                "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE say rank {} of {}, but RANK and WORLD_SIZE say {} of {}: \
                 unset one pair",
                mpirun.0, mpirun.1, variables.0, variables.1
            )));
        }
        // batch scripts inherit variables of their job; those of a step are of its processes
        let slurm = match env.get("SLURM_STEP_ID") {
            Some(_) => env.pair("SLURM_PROCID", "SLURM_NTASKS")?,
            None => None,
        };
        let mpich = env.pair("PMI_RANK", "PMI_SIZE")?;
        let found = if let Some(pair) = mpirun {
            Some((pair, Launcher::Mpi { place: env.place(pair.1)? }))
        } else if let Some(pair) = variables {
            match env.place(pair.1)? {
                Some(place) => Some((pair, Launcher::Tcp(place))),
                None if pair.1 == 1 => None,
                None => {
                    let reason = "RANK and WORLD_SIZE are set, but MASTER_ADDR and MASTER_PORT are not: they name the \
                                  host of rank 0 and a free port there";
                    return Err(Error::Unfit(reason.into()));
                }
            }
        } else if let (Some(pair), Some(_), true) = (mpich, slurm, cfg!(feature = "mpi")) {
            Some((pair, Launcher::Mpi { place: None }))
        } else if let Some(pair) = slurm {
            Some((pair, Launcher::Tcp(env.slurm_place()?)))
        } else if let Some(pair) = mpich {
            Some((pair, Launcher::Mpi { place: env.place(pair.1)? }))
        } else {
            None
        };
        let Some(((rank, size), by)) = found else { return Ok(None) };
        let local_size = env.local_size()?.unwrap_or(1).clamp(1, size);
        let local_rank = env.local_rank()?.unwrap_or(rank % local_size);
        if local_rank >= size {
            return Err(Error::Unfit(format!(
                "LOCAL_RANK is {local_rank}, but there are {size} processes, counted from 0"
            )));
        }
        Ok(Some(Self { rank, size, local_size, local_rank, by }))
    }
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|text| !text.trim().is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::Unfit(format!("{name} is `{text}`; expected a whole number"))),
        }
    }

    /// A rank and the number of ranks.
    fn pair(&self, rank_name: &str, size_name: &str) -> Result<Option<(usize, usize)>> {
        match (self.number(rank_name)?, self.number(size_name)?) {
            (None, None) => Ok(None),
            (Some(rank), Some(size)) if rank < size => Ok(Some((rank, size))),
            (Some(rank), Some(size)) => {
                Err(Error::Unfit(format!("{rank_name} is {rank}, but {size_name} is {size}: ranks are counted from 0")))
            }
            (rank, _) => {
                let (set, unset) = if rank.is_some() { (rank_name, size_name) } else { (size_name, rank_name) };
                Err(Error::Unfit(format!(
                    "{set} is set, but {unset} is not: a launcher sets both; to train in one process, unset {set}"
                )))
            }
        }
    }

    /// The meeting place in MASTER_ADDR and MASTER_PORT.
    fn place(&self, size: usize) -> Result<Option<Place>> {
        match (self.get("MASTER_ADDR"), self.port()?) {
            (Some(address), Some(port)) => {
                // there, torchrun itself listens at that port
                let taken = self.get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|text| text == "True");
                Ok(Some(Place { address, port: port.saturating_add(u16::from(taken)) }))
            }
            (None, None) => Ok(None),
            _ if size == 1 => Ok(None),
            (Some(_), None) => Err(Error::Unfit("MASTER_ADDR is set, but MASTER_PORT is not".into())),
            (None, Some(_)) => Err(Error::Unfit("MASTER_PORT is set, but MASTER_ADDR is not".into())),
        }
    }

    fn port(&self) -> Result<Option<u16>> {
        let Some(number) = self.number("MASTER_PORT")? else { return Ok(None) };
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(Error::Unfit(format!("MASTER_PORT is {number}; expected a port from 1 to 65535"))),
        }
    }

    /// The first host of a Slurm step, and a port that follows from the job.
    fn slurm_place(&self) -> Result<Place> {
        const FIRST: usize = 20_000;
        const PORTS: usize = 10_000;
        let job = self.number("SLURM_JOB_ID")?.unwrap_or(0) + self.number("SLURM_STEP_ID")?.unwrap_or(0);
        let port = self.port()?.unwrap_or((FIRST + job % PORTS) as u16);
        let hosts =
            ["SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"].iter().find_map(|name| self.get(name));
        let one_host = self.number("SLURM_STEP_NUM_NODES")? == Some(1) || self.number("SLURM_NNODES")? == Some(1);
        let address = match (self.get("MASTER_ADDR"), hosts) {
            (Some(address), _) => address,
            (None, _) if one_host => "127.0.0.1".to_owned(),
            (None, Some(hosts)) => first_host(&hosts),
            (None, None) => self.get("SLURM_LAUNCH_NODE_IPADDR").ok_or_else(|| {
                let reason =
                    "Slurm names no host: set MASTER_ADDR to that of rank 0, and MASTER_PORT to a free port there";
                Error::Unfit(reason.into())
            })?,
        };
        Ok(Place { address, port })
    }

    /// How many of the processes are on this machine.
    fn first_number(&self, names: &[&str]) -> Result<Option<usize>> {
        for name in names {
            if let Some(number) = self.number(name)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn local_rank(&self) -> Result<Option<usize>> {
        self.first_number(&["OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"])
    }

    fn local_size(&self) -> Result<Option<usize>> {
        let told = self.first_number(&["OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS"])?;
        if told.is_some() {
            return Ok(told);
        }
        // such as `2(x3),1`: two on each of three machines, one on the last
        let tasks = self.get("SLURM_STEP_TASKS_PER_NODE");
        Ok(tasks.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()))
    }
}

/// The first host of a list in Slurm's notation: `node07` of `node[07-09,12],login`.
fn first_host(list: &str) -> String {
    let (mut host, mut rest) = (String::new(), list.chars());
    while let Some(c) = rest.next() {
        match c {
            ',' => break,
            '[' => {
                let range: String = rest.by_ref().take_while(|&c| c != ']').collect();
                host.extend(range.chars().take_while(char::is_ascii_digit));
            }
            c => host.push(c),
        }
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the environment `text`, of `NAME=VALUE` words, says.
    fn of(text: &str) -> Result<Option<Launch>> {
        Launch::from_lookup(|name| {
            text.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        })
    }

    fn tcp(rank: usize, size: usize, local: (usize, usize), address: &str, port: u16) -> Option<Launch> {
        let place = Place { address: address.to_owned(), port };
        Some(Launch { rank, size, local_rank: local.0, local_size: local.1, by: Launcher::Tcp(place) })
    }

    #[test]
    fn every_launcher_is_known() {
        assert_eq!(of("").unwrap(), None);
        let torch = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500";
        assert_eq!(of(torch).unwrap(), tcp(3, 4, (1, 2), "10.0.0.1", 29500));
        let agent = format!("{torch} TORCHELASTIC_USE_AGENT_STORE=True");
        assert_eq!(of(&agent).unwrap(), tcp(3, 4, (1, 2), "10.0.0.1", 29501));
        assert_eq!(of("RANK=0 WORLD_SIZE=1").unwrap(), None);

        let mpirun = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2";
        let mpi = |place| Some(Launch { rank: 1, size: 2, local_rank: 1, local_size: 2, by: Launcher::Mpi { place } });
        assert_eq!(of(mpirun).unwrap(), mpi(None));
        let place = Place { address: "a".to_owned(), port: 7 };
        let also = format!("{mpirun} RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=7 SLURM_NTASKS=9 SLURM_PROCID=0");
        assert_eq!(of(&also).unwrap(), mpi(Some(place)));
        let mpich = of("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALNRANKS=2").unwrap();
        assert_eq!(mpich, mpi(None));

        let step = "SLURM_STEP_ID=2 SLURM_JOB_ID=12345 SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NTASKS=7 SLURM_STEP_TASKS_PER_NODE=2(x3),1";
        let nodes = format!("{step} SLURM_STEP_NODELIST=node[07-09,12],login SLURM_LAUNCH_NODE_IPADDR=10.9.9.9");
        assert_eq!(of(&nodes).unwrap(), tcp(5, 7, (1, 2), "node07", 22347));
        assert_eq!(
            of(&format!("{step} SLURM_LAUNCH_NODE_IPADDR=10.9.9.9")).unwrap(),
            tcp(5, 7, (1, 2), "10.9.9.9", 22347)
        );
        assert_eq!(of(&format!("{nodes} SLURM_STEP_NUM_NODES=1")).unwrap(), tcp(5, 7, (1, 2), "127.0.0.1", 22347));
        assert_eq!(of(&format!("{nodes} MASTER_ADDR=b MASTER_PORT=9")).unwrap(), tcp(5, 7, (1, 2), "b", 9));
        assert_eq!(of("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_ID=1").unwrap(), None); // in a batch script, not in a step
    }

    #[test]
    fn what_is_half_set_or_contradicts_itself_is_refused() {
        for (text, words) in [
            ("RANK=1", "RANK is set, but WORLD_SIZE is not"),
            ("WORLD_SIZE=2", "WORLD_SIZE is set, but RANK is not"),
            ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1", "RANK is 2, but WORLD_SIZE is 2: ranks are counted"),
            ("RANK=x WORLD_SIZE=2", "RANK is `x`; expected a whole number"),
            ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR and MASTER_PORT are not"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a", "MASTER_ADDR is set, but MASTER_PORT is not"),
            ("RANK=0 WORLD_SIZE=2 MASTER_PORT=1", "MASTER_PORT is set, but MASTER_ADDR is not"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", "MASTER_PORT is 70000; expected a port"),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=2 MASTER_ADDR=a MASTER_PORT=1", "LOCAL_RANK is 2"),
            (
                "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 RANK=0 WORLD_SIZE=3 MASTER_ADDR=a MASTER_PORT=1",
                "rank 0 of 2, but RANK and WORLD_SIZE say 0 of 3",
            ),
            ("SLURM_STEP_ID=0 SLURM_PROCID=0", "SLURM_PROCID is set, but SLURM_NTASKS is not"),
            ("SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2", "Slurm names no host"),
        ] {
            let said = of(text).unwrap_err().to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
