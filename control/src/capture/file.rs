//! Where a client keeps a capture: one file, a row of files, or a pipe.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes written at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A file ends before it has more bytes than this, and another one begins.
    pub rotate: Option<u64>,
    /// So many files are kept, the latest ones.
    pub files: usize,
    /// The capture ends before there are more bytes than this.
    pub bytes: Option<u64>,
}

/// What is written to. Only whole blocks stay in a file, also when there is no room for more.
pub struct Target {
    /// None: standard output.
    path: Option<PathBuf>,
    limits: Limits,
    file: Box<dyn Sink>,
    head: Vec<u8>,
    tail: Vec<u8>,
    buffer: Vec<u8>,
    /// Where blocks in the buffer end.
    ends: Vec<usize>,
    /// Bytes of the file, and of all files before it.
    in_file: u64,
    before: u64,
    /// Packets that are in files whole.
    packets: u64,
    number: usize,
    kept: VecDeque<PathBuf>,
}

trait Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts it to so many bytes, if it can be cut.
    fn cut(&mut self, length: u64);
}

impl Sink for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn cut(&mut self, length: u64) {
        // Best effort: what is behind is half a block.
        let _ = self.set_len(length);
    }
}

impl Sink for io::Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut locked = self.lock();
        locked.write_all(bytes)?;
        locked.flush()?;
        Ok(bytes.len())
    }

    fn cut(&mut self, _: u64) {}
}

fn create(path: &Path) -> io::Result<File> {
    // Packets are nobody else's business.
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The name of a file in a row: `edge.pcapng` becomes `edge.00001.pcapng`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.extension() {
        Some(extension) => path.with_file_name(format!("{stem}.{number:05}.{}", extension.to_string_lossy())),
        None => path.with_file_name(format!("{stem}.{number:05}")),
    }
}

impl Target {
    /// Opens the first file, or standard output.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(path: Option<&Path>, limits: Limits) -> io::Result<Self> {
        let mut target = Self {
            path: path.map(Path::to_owned),
            limits,
            file: Box::new(io::stdout()),
            head: Vec::new(),
            tail: Vec::new(),
            buffer: Vec::with_capacity(BUFFER_BYTES),
            ends: Vec::new(),
            in_file: 0,
            before: 0,
            packets: 0,
            number: 0,
            kept: VecDeque::new(),
        };
        target.open_file()?;
        Ok(target)
    }

    fn open_file(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let path = match self.limits.rotate {
            Some(_) => numbered(path, self.number),
            None => path.clone(),
        };
        self.file = Box::new(create(&path).map_err(|error| named(&path, &error))?);
        self.number += 1;
        self.kept.push_back(path);
        while self.kept.len() > self.limits.files {
            if let Some(oldest) = self.kept.pop_front() {
                fs::remove_file(&oldest).map_err(|error| named(&oldest, &error))?;
            }
        }
        Ok(())
    }

    /// Packets that are in files whole.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The files that are kept.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.kept.iter().map(PathBuf::as_path)
    }

    /// The blocks that each file begins with.
    ///
    /// # Errors
    /// What the system answers.
    pub fn head(&mut self, blocks: &[u8]) -> io::Result<()> {
        blocks.clone_into(&mut self.head);
        self.add(blocks)?;
        self.flush()
    }

    /// A block of a packet. False if there is no room for it within the limits: the capture is to end.
    ///
    /// # Errors
    /// What the system answers.
    pub fn packet(&mut self, block: &[u8]) -> io::Result<bool> {
        let with = |length: u64, tail: &[u8]| length + (block.len() + tail.len()) as u64;
        let has_packets = self.in_file > self.head.len() as u64;
        if self.limits.rotate.is_some_and(|most| with(self.in_file, &self.tail) > most) && has_packets {
            self.end_file()?;
            self.before += self.in_file;
            self.in_file = 0;
            self.open_file()?;
            let head = std::mem::take(&mut self.head);
            self.head(&head)?;
        }
        if self.limits.bytes.is_some_and(|most| with(self.before + self.in_file, &self.tail) > most) {
            return Ok(false);
        }
        self.add(block)?;
        self.packets += 1;
        Ok(true)
    }

    /// The blocks that each file ends with, as they would be now.
    pub fn tail(&mut self, blocks: &[u8]) {
        blocks.clone_into(&mut self.tail);
    }

    /// Ends the last file.
    ///
    /// # Errors
    /// What the system answers.
    pub fn finish(&mut self) -> io::Result<()> {
        self.end_file()
    }

    fn end_file(&mut self) -> io::Result<()> {
        let tail = std::mem::take(&mut self.tail);
        let ended = self.add(&tail).and_then(|()| self.flush());
        self.tail = tail;
        ended
    }

    fn add(&mut self, blocks: &[u8]) -> io::Result<()> {
        if self.buffer.len() + blocks.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(blocks);
        self.ends.push(self.buffer.len());
        self.in_file += blocks.len() as u64;
        Ok(())
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// What the system answers; whole blocks stay.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.buffer.len() {
            let error = match self.file.write(&self.buffer[written..]) {
                Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
                Ok(count) => {
                    written += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let whole = self.ends.iter().rev().find(|end| **end <= written).copied().unwrap_or(0);
            let lost = self.ends.iter().filter(|end| **end > whole).count();
            self.file.cut(self.in_file - (self.buffer.len() - whole) as u64);
            self.packets = self.packets.saturating_sub(lost as u64);
            (self.buffer, self.ends) = (Vec::new(), Vec::new());
            return Err(self.kept.back().map_or(error.kind().into(), |path| named(path, &error)));
        }
        self.buffer.clear();
        self.ends.clear();
        Ok(())
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { rotate: None, files: 3, bytes: None };

    #[test]
    fn a_row_of_files_keeps_the_latest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.pcapng");
        let mut target = Target::open(Some(&path), Limits { rotate: Some(100), ..LIMITS }).unwrap();
        target.head(&[b'h'; 20]).unwrap();
        target.tail(&[b't'; 10]);
        for at in 0..10 {
            assert!(target.packet(&[b'0' + at; 30]).unwrap());
        }
        target.finish().unwrap();
        assert_eq!(target.packets(), 10);
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().path()).collect();
        names.sort();
        assert_eq!(names, target.files().collect::<Vec<_>>());
        let text = |at: usize| String::from_utf8(fs::read(&names[at]).unwrap()).unwrap();
        assert_eq!(names.len(), 3);
        let expected = |packets: &[&str]| {
            "h".repeat(20) + &packets.iter().map(|it| it.repeat(30)).collect::<String>() + &"t".repeat(10)
        };
        assert_eq!((text(0), text(2)), (expected(&["4", "5"]), expected(&["8", "9"])));
        assert!(names[2].ends_with("edge.00004.pcapng"));
    }

    #[test]
    fn a_limit_of_bytes_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let mut target = Target::open(Some(&path), Limits { bytes: Some(100), ..LIMITS }).unwrap();
        target.head(&[0; 20]).unwrap();
        target.tail(&[1; 10]);
        assert!(target.packet(&[2; 40]).unwrap());
        assert!(!target.packet(&[3; 40]).unwrap());
        target.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 70);
    }

    struct Full(Vec<u8>, usize);

    impl Sink for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.1 - self.0.len());
            self.0.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn cut(&mut self, length: u64) {
            assert_eq!(length, 80);
        }
    }

    #[test]
    fn whole_blocks_stay_when_the_disk_is_full() {
        let mut target = Target::open(None, LIMITS).unwrap();
        target.file = Box::new(Full(Vec::new(), 95));
        target.head(&[0; 20]).unwrap();
        (0..5).for_each(|_| assert!(target.packet(&[1; 30]).unwrap()));
        assert_eq!(target.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(target.packets(), 2);
    }
}
