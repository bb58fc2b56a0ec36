//! A fake Hugging Face Hub on a loopback port, for tests: it serves files from memory by the Hub's protocol, records
//! the requests, and can simulate faults. Included by path, so not every test uses all of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// The commit of every revision.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A fault of the Hub.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Every request gets this status, this `X-Error-Code` and, if not empty, this header line.
    Refuse(u16, &'static str, &'static str),
    /// The first so many requests have this fault, later ones none.
    Times(usize, Box<Fault>),
    /// The first so many requests have no fault, later ones this one.
    Later(usize, Box<Fault>),
    /// HEAD succeeds; GET gets an error page with this status.
    GetStatus(u16),
    /// HEAD succeeds; GET gets an error page with status 200.
    ErrorPage,
    /// The body ends half-way, before the announced length.
    CutShort,
    /// The body is half the file, with the right length announced.
    Half,
    /// One byte in the middle is wrong; the length is right.
    Altered,
    /// More bytes than HEAD announced.
    TooLong,
    /// The ETag is another file's.
    WrongEtag,
    /// The `ETag` is as given.
    Etag(&'static str),
    /// Headers whose lower-case line contains this are missing.
    Without(&'static str),
    /// Accepts the connection and never answers.
    Silent,
    /// Sends half of the body, then nothing.
    StandStill,
    /// Answers with something that is not HTTP.
    Rubbish,
    /// HEAD and GET redirect to this address, with the Hub's headers, as it does for large files.
    RedirectTo(String),
    /// Redirects to this address without the file's headers, as to a login page or another host name.
    MovedTo(&'static str),
    /// Redirects to itself forever.
    Loop,
    /// Ignores ranges and sends the whole file.
    NoRanges,
    /// Serves files, but no listing.
    NoListing,
    /// The same, with another fault.
    Unlisted(Box<Fault>),
    /// Closes the connection on a request for a file whose path contains this.
    Drop(&'static str),
    /// Files whose path contains this are at another commit.
    OtherCommit(&'static str),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// The first and the last requested byte.
    pub(crate) range: Option<(usize, usize)>,
}

/// What another part of the fake Hub answers.
pub(crate) enum Answer {
    /// A status line without the protocol, header lines and a body.
    Send(String, String, Vec<u8>),
    /// Closes the connection.
    Close,
    /// Keeps the connection open as long, without an answer.
    Wait(Duration),
}

/// Answers some of the requests, with their bodies.
type Part = dyn Fn(&Request, &[u8]) -> Option<Answer> + Send + Sync;

#[derive(Default)]
struct State {
    /// URL path without revision → bytes and their SHA-256.
    files: HashMap<String, (Arc<Vec<u8>>, String)>,
    requests: Vec<Request>,
    fault: Option<Fault>,
    part: Option<Arc<Part>>,
    /// Requests whose path contains this are cut off before their body is read.
    cut: Option<&'static str>,
}

/// Serves until the process ends.
pub(crate) struct FakeHub {
    url: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || answer(stream, &state));
            }
        });
        Self { url, state }
    }

    /// The endpoint, `http://127.0.0.1:port`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Serves `bytes` as `path` of `datasets/owner/name` or of the model `owner/name`, at every revision.
    pub(crate) fn serve(&self, repo: &str, path: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        let etag = sha256(&bytes);
        self.state().files.insert(format!("/{repo}/{path}"), (Arc::new(bytes), etag));
    }

    /// Serves every file below `folder`, under its relative path.
    pub(crate) fn serve_folder(&self, repo: &str, folder: &Path) {
        let mut open = vec![folder.to_owned()];
        while let Some(current) = open.pop() {
            for entry in std::fs::read_dir(current).expect("a folder to serve") {
                let path = entry.expect("its entry").path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(folder).expect("below").to_str().expect("UTF-8").replace('\\', "/");
                    self.serve(repo, &name, std::fs::read(&path).expect("a file to serve"));
                }
            }
        }
    }

    /// Asks `part` first what to answer.
    pub(crate) fn answer_with(&self, part: impl Fn(&Request, &[u8]) -> Option<Answer> + Send + Sync + 'static) {
        self.state().part = Some(Arc::new(part));
    }

    /// From now on, closes the connection in the middle of requests whose path contains `part`; `None` for no more.
    pub(crate) fn cut(&self, part: Option<&'static str>) {
        self.state().cut = part;
    }

    /// Sets the fault from now on; `None` for no fault.
    pub(crate) fn fault(&self, fault: impl Into<Option<Fault>>) {
        self.state().fault = fault.into();
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of ours panics")
    }
}

/// Reads one request, sends one answer and closes the connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(&stream);
    let Some((request, length)) = read_request(&mut reader) else { return };
    let (part, cut) = {
        let state = state.lock().expect("no thread of ours panics");
        (state.part.clone(), state.cut.is_some_and(|cut| request.path.contains(cut)))
    };
    let mut body = vec![0; if cut { length / 2 } else { length }];
    if reader.read_exact(&mut body).is_err() || cut {
        state.lock().expect("no thread of ours panics").requests.push(request);
        return;
    }
    let answer = part.and_then(|part| part(&request, &body));
    let (file, listing, fault) = {
        let mut state = state.lock().expect("no thread of ours panics");
        state.requests.push(request.clone());
        let mut fault = state.fault.clone();
        if let Some(Fault::Later(times, then)) = fault {
            state.fault = Some(if times > 1 { Fault::Later(times - 1, then) } else { *then });
            fault = None;
        }
        if let Some(Fault::Times(times, of_them)) = fault {
            state.fault = (times > 1).then(|| Fault::Times(times - 1, of_them.clone()));
            fault = Some(*of_them);
        }
        let mut lists = fault != Some(Fault::NoListing);
        if let Some(Fault::Unlisted(besides)) = fault {
            lists = false;
            fault = Some(*besides);
        }
        // /owner/name/resolve/<one segment>/path, with "/datasets" before it for a dataset
        let found = request.path.split_once("/resolve/").and_then(|(repo, rest)| {
            let (_revision, path) = rest.split_once('/')?;
            state.files.get(&format!("{repo}/{path}")).cloned()
        });
        // /api/models/owner/name/revision/<one segment> and a query; "datasets" in place of "models" for a dataset
        let listing =
            request.path.strip_prefix("/api").and_then(|rest| rest.split_once("/revision/")).map(|(repo, _)| {
                let repo = repo.strip_prefix("/models").unwrap_or(repo);
                let beginning = format!("{repo}/");
                let mut names: Vec<String> =
                    state.files.keys().filter_map(|path| path.strip_prefix(&beginning)).map(str::to_owned).collect();
                names.sort();
                (repo[1..].to_owned(), names)
            });
        let listing = listing.filter(|(_, names)| lists && !names.is_empty());
        (found, listing, fault)
    };
    let head = request.method == "HEAD";
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let length = if headers.contains("Content-Length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{length}{headers}\r\n");
        if !head {
            let _ = stream.write_all(body);
        }
        let _ = stream.flush();
    };
    match answer {
        Some(Answer::Send(status, headers, body)) => return send(&status, &headers, &body),
        Some(Answer::Close) => return,
        Some(Answer::Wait(time)) => return thread::sleep(time),
        None => {}
    }
    match &fault {
        Some(Fault::Silent) => return thread::sleep(Duration::from_secs(60)),
        Some(Fault::Rubbish) => {
            let _ = stream.write_all(b"\x00\xffhello, I am no web server\r\n\r\n");
            return;
        }
        Some(Fault::Drop(part)) if file.is_some() && request.path.contains(part) => return,
        Some(Fault::Refuse(status, code, header)) => {
            return send(&format!("{status} No"), &format!("X-Error-Code: {code}\r\n{header}"), b"<h1>No</h1>");
        }
        Some(Fault::Loop) => return send("307 Moved", &format!("Location: {}\r\n", request.path), b""),
        Some(Fault::MovedTo(to)) => return send("302 Found", &format!("Location: {to}\r\n"), b""),
        Some(Fault::GetStatus(status)) if !head => return send(&format!("{status} No"), "", b"<h1>No</h1>"),
        Some(Fault::ErrorPage) if !head => return send("200 OK", "", b"<h1>Sorry</h1>"),
        _ => {}
    }
    if let Some((repo, names)) = listing {
        let siblings: Vec<String> = names.iter().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        let listing = format!("{{\"id\": \"{repo}\", \"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", siblings.join(", "));
        return send("200 OK", "Content-Type: application/json\r\n", listing.as_bytes());
    }
    if request.path.starts_with("/api/") {
        return send("404 Not Found", "X-Error-Code: RepoNotFound\r\n", b"{}");
    }
    let Some((bytes, sha)) = file else {
        return send(
            "404 Not Found",
            &format!("X-Error-Code: EntryNotFound\r\nX-Repo-Commit: {COMMIT}\r\n"),
            b"Entry not found",
        );
    };
    let mut body = bytes.as_ref().clone();
    let size = body.len();
    let mut success = "200 OK";
    let mut content_range = String::new();
    if let Some((first, last)) = request.range.filter(|&(first, last)| first <= last && last < size)
        && fault != Some(Fault::NoRanges)
    {
        body = body[first..=last].to_vec();
        success = "206 Partial Content";
        content_range = format!("Content-Range: bytes {first}-{last}/{size}\r\n");
    }
    let (length, half) = (body.len(), body.len() / 2);
    let mut etag = format!("\"{sha}\"");
    match &fault {
        Some(Fault::Half) => body.truncate(half),
        Some(Fault::Altered) => body[half] ^= 1,
        Some(Fault::TooLong) => body.extend_from_slice(b"and more"),
        Some(Fault::WrongEtag) => etag = format!("\"{}\"", sha256(b"another file")),
        Some(Fault::Etag(given)) => etag = (*given).to_owned(),
        _ => {}
    }
    let mut headers =
        format!("ETag: {etag}\r\nX-Linked-Etag: {etag}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Size: {size}\r\n");
    if let Some(Fault::OtherCommit(part)) = &fault
        && request.path.contains(part)
    {
        headers = headers.replace(COMMIT, &"f".repeat(40));
    }
    if let Some(Fault::Without(name)) = &fault {
        headers = headers.split_inclusive("\r\n").filter(|line| !line.to_lowercase().contains(name)).collect();
    }
    headers.push_str(&content_range);
    match &fault {
        Some(Fault::RedirectTo(to)) => send("302 Found", &format!("{headers}Location: {to}{}\r\n", request.path), b""),
        Some(Fault::CutShort) => send(success, &format!("{headers}Content-Length: {length}\r\n"), &body[..half]),
        Some(Fault::StandStill) if !head => {
            send(success, &format!("{headers}Content-Length: {length}\r\n"), &body[..half]);
            thread::sleep(Duration::from_secs(60));
        }
        _ if head => send("200 OK", &format!("{headers}Content-Length: {size}\r\n"), b""),
        _ => send(success, &headers, &body),
    }
}

/// The request without its body, and the length of the body.
fn read_request(reader: &mut impl BufRead) -> Option<(Request, usize)> {
    let mut lines = reader.lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut authorization, mut range, mut length) = (None, None, 0);
    for line in lines {
        let line = line.ok()?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = Some(value.to_owned()),
            Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                let ends = value.strip_prefix("bytes=").and_then(|ends| ends.split_once('-'));
                range = ends.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    Some((Request { method, path, authorization, range }, length))
}

/// SHA-256 by FIPS 180-4, in hex. Written here, because not all crates whose tests use this file depend on a SHA-256
/// crate.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    // The constants are the fractional parts of the roots of the first primes.
    let primes: Vec<u64> = (2u64..).filter(|n| (2..*n).all(|d| n % d != 0)).take(64).collect();
    let fraction = |root: f64| ((root - root.floor()) * 4_294_967_296.0) as u32;
    let k: Vec<u32> = primes.iter().map(|&prime| fraction((prime as f64).cbrt())).collect();
    let mut hash: Vec<u32> = primes.iter().take(8).map(|&prime| fraction((prime as f64).sqrt())).collect();

    let mut padded = bytes.to_vec();
    padded.push(0x80);
    padded.resize(padded.len() + (120 - padded.len() % 64) % 64, 0);
    padded.extend((bytes.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut w = [0u32; 64];
        for i in 0..16 {
            w[i] = u32::from_be_bytes([block[4 * i], block[4 * i + 1], block[4 * i + 2], block[4 * i + 3]]);
        }
        for i in 16..64 {
            let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
            let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
        }
        let mut v = hash.clone();
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7].wrapping_add(s1).wrapping_add(choice).wrapping_add(k[i]).wrapping_add(w[i]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let t2 = s0.wrapping_add((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(t2);
        }
        hash.iter_mut().zip(&v).for_each(|(h, v)| *h = h.wrapping_add(*v));
    }
    hash.iter().map(|word| format!("{word:08x}")).collect()
}
