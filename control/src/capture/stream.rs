//! How a capture goes over the management socket: after the answer that it begins, parts with a kind and a length.

use std::io::{self, Read, Write};

/// Most bytes of a part.
const PART_BYTES_MAX: usize = 4 << 20;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The blocks that each file begins with.
    Head = b'H',
    /// A block of a packet.
    Packet = b'P',
    /// The blocks that each file ends with, as they would be now. Sent each second, which finds out whether the client is still there.
    Tail = b'T',
    /// The end: an answer, as JSON.
    End = b'E',
}

/// Writes a part.
///
/// # Errors
/// What the socket answers.
pub fn write(mut target: impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    target.write_all(&[kind as u8])?;
    target.write_all(&length.to_le_bytes())?;
    target.write_all(bytes)
}

/// Reads a part into `bytes`.
///
/// # Errors
/// What the socket answers; `InvalidData` for what is no part.
pub fn read(mut source: impl Read, bytes: &mut Vec<u8>) -> io::Result<Kind> {
    let mut head = [0; 5];
    source.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let kind =
        [Kind::Head, Kind::Packet, Kind::Tail, Kind::End].into_iter().find(|known| *known as u8 == kind);
    let length = u32::from_le_bytes(length) as usize;
    let Some(kind) = kind.filter(|_| length <= PART_BYTES_MAX) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what comes is no part of a capture"));
    };
    bytes.resize(length, 0);
    source.read_exact(bytes)?;
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let mut wire = Vec::new();
        write(&mut wire, Kind::Head, b"section").unwrap();
        write(&mut wire, Kind::End, b"").unwrap();
        let (mut source, mut bytes) = (wire.as_slice(), Vec::new());
        assert_eq!(
            (read(&mut source, &mut bytes).unwrap(), bytes.as_slice()),
            (Kind::Head, b"section".as_slice())
        );
        assert_eq!((read(&mut source, &mut bytes).unwrap(), bytes.as_slice()), (Kind::End, b"".as_slice()));
        assert!(read(&mut source, &mut bytes).is_err());
        assert!(read(&b"X\0\0\0\0"[..], &mut bytes).is_err());
        assert!(read(&b"P\xff\xff\xff\xff"[..], &mut bytes).is_err());
    }
}
