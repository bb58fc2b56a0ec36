//! A client of few lines, which can also be a bad one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads until the server closes the connection, or says nothing for the time of the stream.
    pub(crate) fn read(stream: &mut TcpStream) -> Option<Self> {
        let (mut answer, mut buffer) = (vec![], [0; 1 << 16]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..count]);
        }
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head, body: answer[end + 4..].to_vec() })
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The answer, which has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        self
    }

    /// The reason of a refusal.
    #[track_caller]
    pub(crate) fn reason(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    pub(crate) fn has(&self, header: &str) -> bool {
        self.head.to_lowercase().contains(&header.to_lowercase())
    }
}

/// A server, as a client sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) u16);

impl Client {
    pub(crate) fn connect(self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.0)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap(); // rather a failure than a test without end
        stream
    }

    /// Sends these bytes, and reads until the server closes the connection.
    pub(crate) fn raw(self, bytes: &[u8]) -> Option<Answer> {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes); // the server may answer and close before all is sent
        Answer::read(&mut stream)
    }

    /// A request with these headers in addition to the usual ones.
    pub(crate) fn send(self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        // HTTP/1.0: the answer ends with the connection
        let length = if method == "GET" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let host = if headers.to_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: localhost:{}\r\n", self.0)
        };
        let text = format!("{method} {path} HTTP/1.0\r\n{host}{length}{headers}\r\n{body}");
        self.raw(text.as_bytes()).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    pub(crate) fn get(self, path: &str) -> Answer {
        self.send("GET", path, "", "")
    }

    pub(crate) fn post(self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "Content-Type: application/json\r\n", &body.to_string())
    }

    /// The identifier of a draw that is accepted.
    #[track_caller]
    pub(crate) fn draw(self, body: &Value) -> String {
        self.post("/api/draws", body).expect(202).json()["id"].as_str().unwrap().to_owned()
    }

    /// Opens a stream of events.
    pub(crate) fn events(self, path: &str) -> Events {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        Events { lines: BufReader::new(stream), began: false }
    }

    /// Waits for the end of a draw: its last state.
    #[track_caller]
    pub(crate) fn wait(self, id: &str) -> Value {
        let last = self.events(&format!("/api/draws/{id}/events")).last();
        last.unwrap_or_else(|| panic!("no event of {id}")).1
    }
}

/// The events of a stream, as names and data.
pub(crate) struct Events {
    lines: BufReader<TcpStream>,
    began: bool,
}

impl Iterator for Events {
    type Item = (String, Value);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut name, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if !self.began {
                assert!(line.starts_with("HTTP/1.0 200"), "{line}");
                self.began = true;
            }
            if let Some(rest) = line.strip_prefix("event: ") {
                name = rest.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }
}
