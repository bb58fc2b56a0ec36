//! What travels on a connection: a byte for the kind, the length, and so many bytes.

use std::io::{self, ErrorKind, Read, Write};

/// The most bytes of a message. The length that a stranger claims is never allocated: memory grows with what arrives.
pub(super) const MOST: u64 = 1 << 30;
/// The most bytes of what is said before a group exists.
pub(super) const MOST_OF_STRANGERS: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Hello = 1,
    Welcome,
    Refuse,
    Data,
    /// Says only that its sender is alive.
    Alive,
    End,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Hello, Self::Welcome, Self::Refuse, Self::Data, Self::Alive, Self::End];
}

pub(super) fn write(stream: &mut impl Write, kind: Kind, message: &[u8]) -> io::Result<()> {
    let mut head = [kind as u8; 9];
    head[1..].copy_from_slice(&(message.len() as u64).to_le_bytes());
    if message.len() < 1 << 14 {
        return stream.write_all(&[&head, message].concat()); // one packet
    }
    stream.write_all(&head)?;
    stream.write_all(message)
}

pub(super) fn read(stream: &mut impl Read, most: u64) -> io::Result<(Kind, Vec<u8>)> {
    let wrong = |reason: String| Err(io::Error::new(ErrorKind::InvalidData, reason));
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [code, length @ ..] = head;
    let Some(kind) = Kind::ALL.into_iter().find(|kind| *kind as u8 == code) else {
        return wrong("it is not the language of these processes".to_owned());
    };
    let length = u64::from_le_bytes(length);
    if length > most {
        return wrong(format!("it claims a message of {length} bytes"));
    }
    let mut message = vec![];
    stream.take(length).read_to_end(&mut message)?;
    match message.len() as u64 == length {
        true => Ok((kind, message)),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_and_others_are_refused() {
        let mut stream = vec![];
        write(&mut stream, Kind::Data, b"gradients").unwrap();
        write(&mut stream, Kind::Alive, b"").unwrap();
        let mut rest = &stream[..];
        assert_eq!(read(&mut rest, MOST).unwrap(), (Kind::Data, b"gradients".to_vec()));
        assert_eq!(read(&mut rest, MOST).unwrap(), (Kind::Alive, vec![]));
        assert_eq!(read(&mut rest, MOST).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        for bad in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[4, 255, 255, 255, 255, 255, 255, 255, 255], &stream[..12], &[9; 9]]
        {
            assert!(read(&mut &bad[..], MOST).is_err(), "{bad:?}");
        }
    }
}
