//! The far end of a stream: what stands where a session's process would. It does what the near end asks.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | [`UP`], [`DOWN`] or [`ECHO`] |
//! | 1 to 8 | how many bytes, big-endian |
//!
//! UP: so many bytes follow, and one comes back at their end. DOWN: so many come back. ECHO: so many
//! follow, each comes back at once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;

use super::CHUNK;
use crate::Fallible;
use crate::part::READY;

/// To the far end.
pub(crate) const UP: u8 = b'U';
/// From the far end.
pub(crate) const DOWN: u8 = b'D';
/// There and back.
pub(crate) const ECHO: u8 = b'E';
/// Bytes of a command.
pub(crate) const COMMAND: usize = 9;

/// A command's bytes.
pub(crate) fn command(kind: u8, bytes: u64) -> [u8; COMMAND] {
    let mut command = [kind; COMMAND];
    command[1..].copy_from_slice(&bytes.to_be_bytes());
    command
}

/// Obeys until the end of data. Blocks.
pub(crate) fn serve(mut stream: impl Read + Write) -> io::Result<()> {
    let mut buffer = super::noise(CHUNK);
    loop {
        let mut command = [0; COMMAND];
        match stream.read_exact(&mut command) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [kind, bytes @ ..] = command;
        let mut left = u64::from_be_bytes(bytes);
        let part = |left: u64| usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        while left > 0 {
            let count = match kind {
                UP => some(stream.read(&mut buffer[..part(left)]))?,
                DOWN => {
                    stream.write_all(&buffer[..part(left)])?;
                    part(left)
                }
                ECHO => {
                    let count = some(stream.read(&mut buffer[..part(left)]))?;
                    stream.write_all(&buffer[..count])?;
                    stream.flush()?;
                    count
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            left -= count as u64;
        }
        if kind == UP {
            stream.write_all(&[kind])?;
        }
        stream.flush()?;
    }
}

fn some(read: io::Result<usize>) -> io::Result<usize> {
    match read? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// The same on standard input and output, as a session's process.
pub(crate) fn standard_streams() -> Fallible<()> {
    let (input, output) =
        (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    Ok(serve(Both(input.into(), output.into()))?)
}

/// The same for everybody who connects.
pub(crate) fn listen() -> Fallible<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    println!("{READY} {}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        std::thread::spawn(|| serve(stream));
    }
}

struct Both(File, File);

impl Read for Both {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn it_does_what_it_is_asked_and_nothing_else() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let obeying = std::thread::spawn(move || serve(far));
        let mut one = [0; 1];
        near.write_all(&command(UP, 3)).unwrap();
        near.write_all(b"abc").unwrap();
        near.read_exact(&mut one).unwrap();
        near.write_all(&command(ECHO, 1)).unwrap();
        near.write_all(b"x").unwrap();
        near.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"x");
        near.write_all(&command(DOWN, 100_000)).unwrap();
        near.read_exact(&mut vec![0; 100_000]).unwrap();
        near.write_all(&command(b'?', 1)).unwrap();
        assert_eq!(obeying.join().unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
