//! How the members of a group find each other: all know where rank 0 listens, and it tells each where the others do.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::frame::{self, Kind};
use crate::{Error, Result};

/// Changes whenever what is said on a connection changes.
const PROTOCOL: u32 = 1;
const NAME: &[u8; 7] = b"kakusan";
/// How long one attempt to connect takes, and how long a stranger may take to say who it is.
const ATTEMPT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// The meeting place of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// The number of this member, from 0.
    pub rank: usize,
    /// How many members there are.
    pub size: usize,
    /// The name or address of rank 0's host. If it is a loopback address, all listen only there.
    pub address: String,
    /// The port at which rank 0 listens.
    pub port: u16,
    /// How long the members wait for each other.
    pub timeout: Duration,
}

/// What a member says first on a connection.
#[derive(Debug, Clone, Copy)]
struct Hello {
    rank: usize,
    size: usize,
    /// Of the group that rank 0 forms; 0 in what is said to rank 0.
    session: u64,
    /// Where it listens.
    port: u16,
}

impl Hello {
    fn write(&self) -> Vec<u8> {
        let mut text = NAME.to_vec();
        text.extend(PROTOCOL.to_le_bytes());
        text.extend((self.rank as u32).to_le_bytes());
        text.extend((self.size as u32).to_le_bytes());
        text.extend(self.session.to_le_bytes());
        text.extend(self.port.to_le_bytes());
        text
    }

    /// `None` of a stranger; the version of the protocol if it is another one.
    fn read(text: &[u8]) -> Option<std::result::Result<Self, u32>> {
        let (version, text) = text.strip_prefix(NAME)?.split_first_chunk()?;
        let version = u32::from_le_bytes(*version);
        if version != PROTOCOL {
            return Some(Err(version));
        }
        let (rank, text) = text.split_first_chunk()?;
        let (size, text) = text.split_first_chunk()?;
        let (session, text) = text.split_first_chunk()?;
        let (port, _) = text.split_first_chunk()?;
        let [rank, size] = [rank, size].map(|number| u32::from_le_bytes(*number) as usize);
        Some(Ok(Self { rank, size, session: u64::from_le_bytes(*session), port: u16::from_le_bytes(*port) }))
    }
}

/// A connection, and what the other side said.
type Guest = (TcpStream, Hello);

impl Rendezvous {
    /// A connection with each other member, by rank.
    pub(super) fn connect(&self) -> Result<Vec<Option<TcpStream>>> {
        let Self { rank, size, .. } = *self;
        if rank >= size || u32::try_from(size).is_err() {
            return Err(Error::Join(format!("there is no rank {rank} in a group of {size}")));
        }
        let until = Instant::now() + self.timeout;
        let streams = if rank == 0 { self.lead(until)? } else { self.follow(until)? };
        for stream in streams.iter().flatten() {
            stream.set_nonblocking(false).map_err(|e| Error::Join(format!("a connection cannot be used: {e}")))?;
        }
        Ok(streams)
    }

    /// Rank 0: waits for all others, then tells each where the others listen.
    fn lead(&self, until: Instant) -> Result<Vec<Option<TcpStream>>> {
        let place = SocketAddr::new(self.listens_at(), self.port);
        let listener = TcpListener::bind(place).map_err(|e| {
            let place = format!("{}:{}", self.address, self.port);
            Error::Join(match e.kind() {
                ErrorKind::AddrInUse => format!("rank 0 cannot listen at {place}: the port is in use, choose another"),
                _ => format!("rank 0 cannot listen at {place}: {e}"),
            })
        })?;
        let mut guests: Vec<Option<Guest>> = (0..self.size).map(|_| None).collect();
        let session = session();
        while guests.iter().skip(1).any(Option::is_none) {
            let Some((mut stream, text)) = accept(&listener, until)? else {
                let absent = guests.iter().enumerate().skip(1).filter(|(_, guest)| guest.is_none());
                let absent: Vec<String> = absent.map(|(rank, _)| rank.to_string()).collect();
                return Err(Error::Join(format!(
                    "rank 0 waited {} seconds at {}:{} for the ranks {}: start one process for each rank",
                    self.timeout.as_secs(),
                    self.address,
                    self.port,
                    absent.join(", ")
                )));
            };
            let mut refuse = |reason: String| {
                let _ = frame::write(&mut stream, Kind::Refuse, reason.as_bytes());
                Error::Join(reason)
            };
            let hello = match Hello::read(&text) {
                None => continue, // a stranger
                Some(Err(version)) => {
                    let reason =
                        format!("a process speaks version {version} of the protocol, rank 0 version {PROTOCOL}");
                    return Err(refuse(format!("{reason}: use the same program everywhere")));
                }
                Some(Ok(hello)) => hello,
            };
            let Hello { rank, size, .. } = hello;
            if size != self.size || rank >= size {
                let reason =
                    format!("rank {rank} was started as one of {size} processes, rank 0 as one of {}", self.size);
                return Err(refuse(reason));
            }
            if rank == 0 || guests[rank].is_some() {
                refuse(format!("there is a rank {rank} already at {}:{}", self.address, self.port));
                continue;
            }
            guests[rank] = Some((stream, hello));
        }
        let places: Vec<Option<SocketAddr>> = guests
            .iter()
            .map(|guest| {
                guest.as_ref().and_then(|(stream, hello)| Some((stream.peer_addr().ok()?.ip(), hello.port).into()))
            })
            .collect();
        for (stream, hello) in guests.iter_mut().flatten() {
            // for another host, a member on this one is where this one is
            let from_here = stream.peer_addr().is_ok_and(|addr| addr.ip().is_loopback());
            let here = stream.local_addr().map(|addr| addr.ip());
            let seen = |place: &Option<SocketAddr>| match (place, &here) {
                (Some(place), Ok(here)) if place.ip().is_loopback() && !from_here => {
                    SocketAddr::new(*here, place.port()).to_string()
                }
                (Some(place), _) => place.to_string(),
                (None, _) => "-".to_owned(),
            };
            let text = places.iter().map(seen).collect::<Vec<_>>().join("\n");
            let welcome = [&session.to_le_bytes(), text.as_bytes()].concat();
            frame::write(stream, Kind::Welcome, &welcome).map_err(|e| lost(hello.rank, &e))?;
        }
        Ok(guests.into_iter().map(|guest| guest.map(|(stream, _)| stream)).collect())
    }

    /// The others: connect to rank 0, then to those with lower ranks, and wait for those with higher ones.
    fn follow(&self, until: Instant) -> Result<Vec<Option<TcpStream>>> {
        let at = format!("{}:{}", self.address, self.port);
        let no_place = |e: io::Error| Error::Join(format!("rank {} cannot listen: {e}", self.rank));
        let listener = TcpListener::bind(SocketAddr::new(self.listens_at(), 0)).map_err(no_place)?;
        let port = listener.local_addr().map_err(no_place)?.port();
        let mut leader = reach(&(self.address.as_str(), self.port), until).map_err(|e| {
            let seconds = self.timeout.as_secs();
            Error::Join(format!("rank {} tried for {seconds} seconds to reach rank 0 at {at}: {e}", self.rank))
        })?;
        let hello = Hello { rank: self.rank, size: self.size, session: 0, port };
        let ended = |e: &io::Error| Error::Join(format!("rank 0 at {at} does not take rank {}: {e}", self.rank));
        let left = until.saturating_duration_since(Instant::now()).max(ATTEMPT);
        leader.set_read_timeout(Some(left)).map_err(|e| ended(&e))?;
        frame::write(&mut leader, Kind::Hello, &hello.write()).map_err(|e| ended(&e))?;
        let text = match frame::read(&mut leader, frame::MOST_OF_STRANGERS).map_err(|e| ended(&e))? {
            (Kind::Welcome, text) => text,
            (Kind::Refuse, reason) => return Err(Error::Join(String::from_utf8_lossy(&reason).into_owned())),
            _ => return Err(Error::Join(format!("what answers at {at} is not rank 0"))),
        };
        let wrong = || Error::Join(format!("rank 0 at {at} does not say where the others are"));
        let (session, places) = text.split_first_chunk().ok_or_else(wrong)?;
        let hello = Hello { session: u64::from_le_bytes(*session), ..hello };
        let places: Vec<String> = String::from_utf8_lossy(places).lines().map(str::to_owned).collect();
        if places.len() != self.size {
            return Err(wrong());
        }
        let mut streams: Vec<Option<TcpStream>> = (0..self.size).map(|_| None).collect();
        streams[0] = Some(leader);
        let until = Instant::now() + self.timeout.min(Duration::from_secs(60)); // all are there
        for rank in 1..self.rank {
            let mut stream = reach(&places[rank].as_str(), until).map_err(|e| lost(rank, &e))?;
            frame::write(&mut stream, Kind::Hello, &hello.write()).map_err(|e| lost(rank, &e))?;
            streams[rank] = Some(stream);
        }
        while let Some(absent) = (self.rank + 1..self.size).find(|&rank| streams[rank].is_none()) {
            let Some((stream, text)) = accept(&listener, until)? else {
                return Err(lost(absent, &ErrorKind::TimedOut.into()));
            };
            if let Some(Ok(guest)) = Hello::read(&text)
                && guest.session == hello.session
                && guest.rank > self.rank
                && let Some(place) = streams.get_mut(guest.rank)
            {
                *place = Some(stream);
            }
        }
        Ok(streams)
    }

    /// The address at which this member listens.
    fn listens_at(&self) -> IpAddr {
        if let Ok(IpAddr::V4(address)) = self.address.parse()
            && address.is_loopback()
        {
            return address.into();
        }
        if self.address == "localhost" || self.address == "::1" {
            let is_v6 = self.address == "::1";
            return if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        }
        let resolved = (self.address.as_str(), self.port).to_socket_addrs();
        let mut addresses = resolved.into_iter().flatten().peekable();
        let only_v6 = addresses.peek().is_some() && addresses.all(|address| address.is_ipv6());
        if only_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }
}

fn lost(rank: usize, e: &io::Error) -> Error {
    Error::Join(format!("rank {rank} cannot be reached: {e}"))
}

/// The next connection on which something is said; `None` when the time is over.
fn accept(listener: &TcpListener, until: Instant) -> Result<Option<(TcpStream, Vec<u8>)>> {
    let failed = |e: io::Error| Error::Join(format!("no connection can be accepted: {e}"));
    listener.set_nonblocking(true).map_err(failed)?;
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let ready = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(ATTEMPT)));
                if ready.is_ok()
                    && let Ok((Kind::Hello, text)) = frame::read(&mut stream, frame::MOST_OF_STRANGERS)
                {
                    return Ok(Some((stream, text)));
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) =>
            {
                if Instant::now() >= until {
                    return Ok(None);
                }
                sleep(PAUSE);
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Connects, again and again until the time is over: the other side may not listen yet.
fn reach(place: &impl ToSocketAddrs, until: Instant) -> io::Result<TcpStream> {
    let mut pause = PAUSE;
    loop {
        let attempt = place.to_socket_addrs().and_then(|addresses| {
            let mut outcome = Err(ErrorKind::NotFound.into());
            for address in addresses {
                outcome = TcpStream::connect_timeout(&address, ATTEMPT);
                if outcome.is_ok() {
                    break;
                }
            }
            outcome
        });
        match attempt {
            // the system may connect a port of this machine without a listener with itself
            Ok(stream) if stream.local_addr().ok() != stream.peer_addr().ok() => return Ok(stream),
            Err(e) if Instant::now() >= until => return Err(e),
            _ => sleep(pause),
        }
        pause = (2 * pause).min(Duration::from_secs(1));
    }
}

/// A number by which the members of this group know each other from those of another one.
fn session() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    now ^ u64::from(std::process::id()).rotate_left(40)
}
