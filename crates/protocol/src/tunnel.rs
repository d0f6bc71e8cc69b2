//! The data connections of a session. The agent dials `GET` [`AGENT_DATA_PATH`] and the operator's tool
//! `GET /api/v1/tunnels/{tunnel}/data`, both with `Upgrade:` [`UPGRADE`]; after `101` both speak frames:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | kind: 0 TunnelData, 1 TunnelClose |
//! | 1 to 3 | length of what follows, big-endian, at most [`MAX_DATA`] |
//! | 4 to end | ciphertext of the session, or why it was closed (UTF-8) |
//!
//! The hub copies these bytes from one end to the other and looks at none of them, so that it costs
//! nothing to relay and the session's end can tell the other end why it ended. What is inside is SSH; the
//! frames protect nothing.
//!
//! Around them stand the control frames of the live channel ([`crate::frame`]): TunnelOpen, TunnelReady,
//! TunnelError, TunnelClose.

/// Name of the protocol in the HTTP upgrade.
pub const UPGRADE: &str = "writ-tunnel/1";
/// Where the agent dials, with its device key: this, a slash and the tunnel's id.
pub const AGENT_DATA_PATH: &str = "/agent/v1/tunnels";
/// Bytes before each payload.
pub const HEADER: usize = 4;
/// Longest payload of one frame, bytes.
pub const MAX_DATA: usize = 64 * 1024;
/// Longest reason in a TunnelClose, bytes.
pub const MAX_WHY: usize = 1024;

const DATA: u8 = 0;
const CLOSE: u8 = 1;

/// Why bytes are not frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// A kind that is neither data nor close.
    #[error("the tunnel carried a frame of kind {0}: are both ends of the same version?")]
    Kind(u8),
    /// Over the limit.
    #[error(
        "the tunnel carried a frame of {0} bytes, more than its kind may have: are both ends of the same version?"
    )]
    TooLong(usize),
}

/// The header of a TunnelData of `len` bytes; none when that is 0 or over [`MAX_DATA`].
pub fn data_header(len: usize) -> Option<[u8; HEADER]> {
    if !(1..=MAX_DATA).contains(&len) {
        return None;
    }
    let [.., high, middle, low] = len.to_be_bytes();
    Some([DATA, high, middle, low])
}

/// A whole TunnelClose. A longer reason is cut.
pub fn close_frame(why: &str) -> Vec<u8> {
    let mut end = why.len().min(MAX_WHY);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    let [.., high, middle, low] = end.to_be_bytes();
    [&[CLOSE, high, middle, low], &why.as_bytes()[..end]].concat()
}

/// What [`Decoder::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Session bytes; a frame may come in several pieces.
    Data(&'a [u8]),
    /// The other end closed, with its reason made printable; nothing that follows counts.
    Close(String),
}

/// Takes frames apart as their bytes come. Holds at most one header and one reason; data is handed
/// through without a copy.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER],
    have: usize,
    data_left: usize,
    closing: Option<(usize, Vec<u8>)>,
}

impl Decoder {
    /// Takes one piece off the front of `input`; none when more bytes are needed.
    pub fn take<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, TunnelError> {
        loop {
            if self.data_left > 0 {
                let (piece, rest) = input.split_at(self.data_left.min(input.len()));
                *input = rest;
                self.data_left -= piece.len();
                return Ok((!piece.is_empty()).then_some(Piece::Data(piece)));
            }
            if let Some((length, why)) = &mut self.closing {
                let (piece, rest) = input.split_at((*length - why.len()).min(input.len()));
                *input = rest;
                why.extend_from_slice(piece);
                let whole = why.len() == *length;
                return Ok(whole.then(|| Piece::Close(crate::text::printable(&String::from_utf8_lossy(why)))));
            }
            let (piece, rest) = input.split_at((HEADER - self.have).min(input.len()));
            *input = rest;
            self.header[self.have..self.have + piece.len()].copy_from_slice(piece);
            self.have += piece.len();
            if self.have < HEADER {
                return Ok(None);
            }
            self.have = 0;
            let [kind, high, middle, low] = self.header;
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            match kind {
                DATA if length > MAX_DATA => return Err(TunnelError::TooLong(length)),
                DATA => self.data_left = length,
                CLOSE if length > MAX_WHY => return Err(TunnelError::TooLong(length)),
                CLOSE => self.closing = Some((length, Vec::new())),
                other => return Err(TunnelError::Kind(other)),
            }
        }
    }

    /// Whether the bytes so far end between two frames.
    pub const fn is_between_frames(&self) -> bool {
        self.have == 0 && self.data_left == 0 && self.closing.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Result<(Vec<u8>, Option<String>), TunnelError> {
        let (mut decoder, mut data) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(piece) = decoder.take(&mut input)? {
                match piece {
                    Piece::Data(bytes) => data.extend_from_slice(bytes),
                    Piece::Close(why) => return Ok((data, Some(why))),
                }
            }
        }
        Ok((data, None))
    }

    #[test]
    fn frames_survive_any_splitting() {
        let mut stream = Vec::new();
        for payload in [&b"hello"[..], &[7; 300], b"x"] {
            stream.extend_from_slice(&data_header(payload.len()).unwrap());
            stream.extend_from_slice(payload);
        }
        stream.extend_from_slice(&close_frame("idle for 600 s\u{1b}[31m"));
        stream.extend_from_slice(b"ignored");
        let want = ([&b"hello"[..], &[7; 300], b"x"].concat(), Some("idle for 600 s?[31m".to_owned()));
        for size in 1..stream.len() {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(decode(&chunks).unwrap(), want, "{size}");
        }
        assert_eq!(decode(&[&close_frame("")]).unwrap().1.as_deref(), Some(""));
        let largest = [&data_header(MAX_DATA).unwrap()[..], &[1; MAX_DATA]].concat();
        assert_eq!(decode(&[&largest]).unwrap().0.len(), MAX_DATA);
    }

    #[test]
    fn hostile_headers_are_errors() {
        assert_eq!(decode(&[&[2, 0, 0, 1]]), Err(TunnelError::Kind(2)));
        assert_eq!(decode(&[&[0, 0xff, 0xff, 0xff]]), Err(TunnelError::TooLong(0xff_ffff)));
        assert_eq!(decode(&[&[0, 1, 0, 1]]), Err(TunnelError::TooLong(65537)));
        assert_eq!(decode(&[&[1, 0, 4, 1]]), Err(TunnelError::TooLong(1025)));
        // An empty data frame carries nothing and does no harm; the encoder makes none.
        assert_eq!(decode(&[&[0, 0, 0, 0, 0, 0, 0, 1, 9]]).unwrap().0, [9]);
        assert_eq!((data_header(0), data_header(MAX_DATA + 1)), (None, None));
        assert_eq!(close_frame(&"ü".repeat(1000)).len(), HEADER + MAX_WHY);
        let mut decoder = Decoder::default();
        assert!(decoder.is_between_frames());
        decoder.take(&mut &[0, 0][..]).unwrap();
        assert!(!decoder.is_between_frames());
    }
}
