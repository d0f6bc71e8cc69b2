//! The text before the payload: version line, one stanza, MAC.
//!
//! With one stanza of one type every field has a fixed width, so nothing is searched for, collected
//! or allocated: each field is cut off, decoded into an array, and its end must be where it belongs.

use data_encoding::BASE64_NOPAD;

use crate::error::OpenError;

/// Up to the line end and with it.
const VERSION: &[u8] = b"age-encryption.org/v1\n";
const STANZA: &[u8] = b"-> ";
const KIND: &[u8] = b"ssh-ed25519";
const END: &[u8] = b"---";

/// Bytes of a header with its MAC line.
pub(crate) const LEN: usize = 22 + 66 + 44 + 48;

/// What the one stanza says.
pub(crate) struct Stanza {
    /// Which key: the first bytes of the SSH key's SHA-256.
    pub(crate) tag: [u8; 4],
    /// The sealer's ephemeral public key.
    pub(crate) share: [u8; 32],
    /// The wrapped file key.
    pub(crate) body: [u8; 32],
}

/// A header that is spelled as it must be. Nothing in it is authenticated yet.
pub(crate) struct Header<'a> {
    pub(crate) stanza: Stanza,
    /// What the MAC is over.
    pub(crate) covered: &'a [u8],
    pub(crate) mac: [u8; 32],
    /// All behind the header: nonce and chunks.
    pub(crate) rest: &'a [u8],
}

/// Decodes the header of a sealed file.
pub(crate) fn decode(sealed: &[u8]) -> Result<Header<'_>, OpenError> {
    let rest = sealed.strip_prefix(VERSION).ok_or(OpenError::NotSealed)?;
    let rest = rest.strip_prefix(STANZA).ok_or(OpenError::Damaged)?;
    let kind = argument(rest).ok_or(OpenError::Damaged)?;
    if kind != KIND {
        return Err(OpenError::OtherKind(type_name(kind)));
    }
    let (stanza, rest) = stanza(rest).ok_or(OpenError::Damaged)?;
    if rest.starts_with(STANZA) {
        return Err(OpenError::Several);
    }
    let after = rest.strip_prefix(END).ok_or(OpenError::Damaged)?;
    let covered = &sealed[..sealed.len() - after.len()];
    let (mac, rest) =
        after.strip_prefix(b" ").and_then(|text| field(text, b'\n')).ok_or(OpenError::Damaged)?;
    Ok(Header { stanza, covered, mac, rest })
}

/// Appends the text up to and with `---`, which is what the MAC is over.
pub(crate) fn encode(stanza: &Stanza, out: &mut Vec<u8>) {
    out.extend_from_slice(VERSION);
    out.extend_from_slice(STANZA);
    out.extend_from_slice(KIND);
    for (end, bytes) in
        [(&b" "[..], &stanza.tag[..]), (b" ", &stanza.share), (b"\n", &stanza.body), (b"\n", b"")]
    {
        out.extend_from_slice(end);
        out.extend_from_slice(BASE64_NOPAD.encode(bytes).as_bytes());
    }
    out.extend_from_slice(END);
}

/// Appends the MAC and ends the header.
pub(crate) fn encode_mac(mac: &[u8; 32], out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(BASE64_NOPAD.encode(mac).as_bytes());
    out.push(b'\n');
}

/// The first argument of a stanza: visible ASCII up to a space or a line end (age.md, ABNF).
fn argument(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !byte.is_ascii_graphic())?;
    (end > 0 && matches!(text[end], b' ' | b'\n')).then(|| &text[..end])
}

/// `ssh-ed25519 TAG SHARE`, and the body in its one line.
fn stanza(text: &[u8]) -> Option<(Stanza, &[u8])> {
    let rest = text.strip_prefix(KIND)?.strip_prefix(b" ")?;
    let (tag, rest) = field(rest, b' ')?;
    let (share, rest) = field(rest, b'\n')?;
    let (body, rest) = field(rest, b'\n')?;
    Some((Stanza { tag, share, body }, rest))
}

/// The base64 of `N` bytes and the byte that must follow it.
fn field<const N: usize>(text: &[u8], end: u8) -> Option<([u8; N], &[u8])> {
    let (text, rest) = text.split_at_checked(BASE64_NOPAD.encode_len(N))?;
    let mut bytes = [0; N];
    // Refuses padding, other alphabets and bits left over: canonical spellings only.
    BASE64_NOPAD.decode_mut(text, &mut bytes).ok()?;
    Some((bytes, rest.strip_prefix(&[end])?))
}

/// A stanza's type as it may be repeated to a user: a stranger's text is not.
fn type_name(kind: &[u8]) -> &'static str {
    const KNOWN: [&str; 8] = [
        "X25519",
        "scrypt",
        "ssh-rsa",
        "mlkem768x25519",
        "p256tag",
        "mlkem768p256tag",
        "piv-p256",
        "tpm-ecc",
    ];
    KNOWN.into_iter().find(|known| known.as_bytes() == kind).unwrap_or("unknown to us")
}
