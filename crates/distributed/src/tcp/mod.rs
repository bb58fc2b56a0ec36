//! A group over TCP: a connection between each two members, a thread for each that reads it.

mod frame;
mod rendezvous;

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::frame::Kind;
pub use self::rendezvous::Rendezvous;
use crate::mail::{Inbox, Mail, check};
use crate::{Error, Group, Result};

/// A member says so often that it is alive, however long it computes or writes.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// One from which nothing arrives for so long is lost: its machine or the network is down.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the end of a group may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// A member of a group of processes that are connected by TCP, each with each.
///
/// The connections are neither encrypted nor authenticated, as usual for such groups: use a network that you trust.
///
/// ```
/// use std::time::Duration;
///
/// use kakusan_distributed::{Group, Rendezvous, Tcp};
///
/// # let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
/// let join = move |rank| {
///     let timeout = Duration::from_secs(60);
///     Tcp::join(&Rendezvous { rank, size: 2, address: "127.0.0.1".to_owned(), port, timeout })
/// };
/// let other = std::thread::spawn(move || join(1)?.all_gather(b"one"));
/// assert_eq!(join(0)?.all_gather(b"zero")?, [&b"zero"[..], b"one"]);
/// # other.join().unwrap()?;
/// # Ok::<(), kakusan_distributed::Error>(())
/// ```
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    /// By rank; `None` for this member.
    peers: Arc<Vec<Option<Peer>>>,
    inbox: Mutex<Inbox>,
    ended: AtomicBool,
    /// Whether rank 0 knows why, if it has ended.
    leader_knows: AtomicBool,
    /// Dropped to end the thread that says that this member is alive.
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Peer {
    /// Locked while a message is written.
    stream: Mutex<TcpStream>,
}

impl Peer {
    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tcp {
    /// Waits for the other members at the meeting place, and connects with each.
    ///
    /// # Errors
    /// When a member does not come in time, there are two with one rank, or one was started for another number of
    /// members or speaks another version of the protocol. The error names it.
    pub fn join(rendezvous: &Rendezvous) -> Result<Self> {
        let streams = rendezvous.connect()?;
        let failed = |e: io::Error| Error::Join(format!("a connection cannot be used: {e}"));
        let (rank, size) = (rendezvous.rank, rendezvous.size);
        let (arrived, arrivals) = channel();
        let (stop, stopped) = channel();
        let mut peers = vec![];
        let mut threads = vec![];
        for (peer, stream) in streams.into_iter().enumerate() {
            let Some(stream) = stream else {
                peers.push(None);
                continue;
            };
            stream.set_nodelay(true).map_err(failed)?;
            stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
            stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
            let (reader, arrived) = (stream.try_clone().map_err(failed)?, arrived.clone());
            threads.push(spawn("reader", move || receive(reader, peer, &arrived))?);
            peers.push(Some(Peer { stream: Mutex::new(stream) }));
        }
        let peers = Arc::new(peers);
        let all = peers.clone();
        let tell = move || {
            while stopped.recv_timeout(ALIVE_EVERY) == Err(RecvTimeoutError::Timeout) {
                for peer in all.iter().flatten() {
                    // while a message is written, the other side sees that
                    if let Ok(mut stream) = peer.stream.try_lock() {
                        let _ = frame::write(&mut *stream, Kind::Alive, &[]);
                    }
                }
            }
        };
        threads.push(spawn("alive", tell)?);
        let inbox = Mutex::new(Inbox::new(rank, size, arrivals));
        let (ended, leader_knows) = (AtomicBool::new(false), AtomicBool::new(true));
        Ok(Self { rank, peers, inbox, ended, leader_knows, stop: Some(stop), threads })
    }

    fn peers(&self) -> impl Iterator<Item = (usize, &Peer)> {
        // beginning behind this rank, so that not all send to the same one at once
        let (before, after) = self.peers.split_at(self.rank);
        let after = (self.rank..).zip(after);
        after.chain((0..).zip(before)).filter_map(|(rank, peer)| Some((rank, peer.as_ref()?)))
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(format!("kakusan-tcp-{name}")).spawn(work);
    thread.map_err(|e| Error::Join(format!("no thread can be started: {e}")))
}

/// Reads a connection to its end.
fn receive(mut stream: TcpStream, peer: usize, arrived: &Sender<(usize, Mail)>) {
    loop {
        let mail = match frame::read(&mut stream, frame::MOST) {
            Ok((Kind::Alive, _)) => continue,
            Ok((Kind::Data, message)) => Mail::Data(message),
            Ok((Kind::End, message)) => Mail::End(Error::from_end_message(peer, &message)),
            Ok((kind, _)) => Mail::Lost(format!("it sent a message of the kind {kind:?}")),
            Err(e) => Mail::Lost(match e.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    "its connection was closed, so it has died or was stopped".to_owned()
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    format!("nothing was heard of it for {} seconds", SILENCE.as_secs())
                }
                _ => e.to_string(),
            }),
        };
        let is_last = matches!(mail, Mail::Lost(_));
        if arrived.send((peer, mail)).is_err() || is_last {
            return;
        }
    }
}

impl Group for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.peers.len()
    }

    fn all_to_all(&self, messages: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        check(self, messages)?;
        let mut inbox = self.inbox();
        for (rank, peer) in self.peers() {
            let length = messages[rank].len() as u64;
            if length > frame::MOST {
                return Err(Error::Message { rank, reason: format!("its {length} bytes are too many") });
            }
            // If this fails, the other side is gone: the thread that reads from there knows why.
            if frame::write(&mut *peer.stream(), Kind::Data, messages[rank]).is_err() {
                let _ = peer.stream().shutdown(Shutdown::Write);
            }
        }
        let all = inbox.collect(messages[self.rank]);
        if let Err(Error::Failed { .. }) = all {
            self.ended.store(true, Ordering::Relaxed);
        }
        all
    }

    fn abort(&self, rank: usize, reason: &str) -> bool {
        if self.ended.swap(true, Ordering::Relaxed) {
            return self.leader_knows.load(Ordering::Relaxed);
        }
        let message = Error::end_message(rank, reason);
        let mut leader_knows = self.rank == 0;
        for (peer, connection) in self.peers() {
            let mut stream = connection.stream();
            let _ = stream.set_write_timeout(Some(FAREWELL));
            leader_knows |= frame::write(&mut *stream, Kind::End, &message).is_ok() && peer == 0;
        }
        self.leader_knows.store(leader_knows, Ordering::Relaxed);
        leader_knows
    }
}

impl Drop for Tcp {
    /// Says that nothing more will come, and waits for a moment until the others have read everything and say so, too:
    /// a connection that is closed before may lose what is on its way.
    fn drop(&mut self) {
        self.stop = None;
        for peer in self.peers.iter().flatten() {
            let _ = peer.stream().shutdown(Shutdown::Write);
        }
        self.inbox().drain(FAREWELL);
        for peer in self.peers.iter().flatten() {
            let _ = peer.stream().shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
