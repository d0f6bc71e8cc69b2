//! OpenSSH's key revocation lists (`PROTOCOL.krl` 1.7; `security.md` 1.5), read once to write what they
//! revoke into a policy. Pure.
//!
//! A KRL has no checksum and does not say how long it is: one that is cut between two sections is a KRL with
//! fewer revocations. So whoever imports one sees how much it holds. Within that, every byte is judged: what
//! OpenSSH ignores (flags, reserved fields, order of hashes) is refused where it is not as OpenSSH writes it.
//! Only extensions that the format itself calls ignorable are passed over, and they are listed.

use crate::wire::{Damaged, take, take_positive, take_string, take_u32, take_u64};

mod resolve;

pub use resolve::{Added, Resolved, Unknown, import, resolve};

/// Largest file, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Most serial numbers that one range or bitmap may revoke.
pub const MAX_SERIALS: u64 = 1_024;
/// Most that one file may hold of revocations, and of sections.
pub const MAX_ENTRIES: usize = 4_096;
/// Longest bitmap, in bytes: it spans eight serial numbers for each.
const MAX_BITMAP: usize = 8 * 1024;

const MAGIC: &[u8] = b"SSHKRL\n\0";
const FORMAT: u32 = 1;

/// Why a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {why}")]
pub struct KrlError {
    /// Where in the file, in bytes from 0.
    pub offset: usize,
    /// Cause and remedy.
    pub why: String,
}

/// A whole file, byte for byte: nothing in it is left out, so it could be written again from this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Krl<'a> {
    /// Of the list, by whoever keeps it: `ssh-keygen -z`; often 0.
    pub version: u64,
    /// Unix seconds, by the clock of the machine that made it.
    pub generated_at: u64,
    /// Of whoever made it; not to be shown unescaped.
    pub comment: &'a str,
    /// At least one.
    pub sections: Vec<Section<'a>>,
}

/// Something and the byte where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// In the file, from 0.
    pub offset: usize,
    /// What is there.
    pub is: T,
}

/// A part of the file that revokes things of one sort. None is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section<'a> {
    /// Certificates of one CA, or of any.
    Certificates {
        /// The CA's key in wire form; none: any CA.
        ca: At<Option<&'a [u8]>>,
        /// Which of its certificates.
        parts: Vec<Part<'a>>,
    },
    /// Keys in wire form, of any type; no certificates.
    Keys(Vec<At<&'a [u8]>>),
    /// SHA-1 hashes of keys in wire form, ascending.
    Sha1(Vec<At<[u8; 20]>>),
    /// SHA-256 hashes of keys in wire form, ascending.
    Sha256(Vec<At<[u8; 32]>>),
    /// Nothing that revokes.
    Extension(Extension<'a>),
}

/// Which certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// By serial number; never 0.
    Serials(Vec<At<u64>>),
    /// From the first to the last, at most [`MAX_SERIALS`].
    Range(At<(u64, u64)>),
    /// First serial number, and a bit for each from there on, big-endian without leading zeros.
    Bitmap(At<(u64, &'a [u8])>),
    /// By key id.
    KeyIds(Vec<At<&'a str>>),
    /// Nothing that revokes.
    Extension(Extension<'a>),
}

/// Something that the format lets readers ignore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension<'a> {
    /// What it calls itself: plain ASCII.
    pub name: &'a str,
    /// For those who know it.
    pub contents: &'a [u8],
}

/// Reads a file, or refuses all of it.
pub fn parse(bytes: &[u8]) -> Result<Krl<'_>, KrlError> {
    let mut file = Reader { rest: bytes, end: bytes.len(), whole: true };
    if bytes.is_empty() {
        return Err(file.refuse(
            "the file is empty, which OpenSSH takes for \"nothing is revoked\": if that is meant, nothing needs \
             importing; otherwise make the KRL anew",
        ));
    }
    if bytes.len() > MAX_BYTES {
        return Err(file.refuse("the file is larger than 1 MiB: revoke the CA instead of its certificates"));
    }
    if !bytes.starts_with(MAGIC) {
        let why = if MAGIC.starts_with(bytes) {
            CUT
        } else {
            "this is no KRL (it does not begin with SSHKRL): of a list of public keys, make one with \
             ssh-keygen -k -f KRL LIST"
        };
        return Err(file.refuse(why));
    }
    file.take(MAGIC.len())?;
    let before = file.at();
    let format = file.u32()?;
    if format != FORMAT {
        return Err(refuse(before, format!("KRL format {format} is not known, only {FORMAT} is")));
    }
    let (version, generated_at) = (file.u64()?, file.u64()?);
    let before = file.at();
    if file.u64()? != 0 {
        return Err(refuse(
            before,
            "it has flags, and the format defines none: the file is damaged or newer",
        ));
    }
    file.reserved()?;
    let comment = file.string()?.text("the comment")?;
    let mut left = MAX_ENTRIES;
    let mut sections = Vec::new();
    while !file.is_empty() {
        file.count(&mut left, 1)?;
        sections.push(section(&mut file, &mut left)?);
    }
    if sections.is_empty() {
        return Err(file.refuse("it ends after its head and revokes nothing: cut short, or made of no keys"));
    }
    Ok(Krl { version, generated_at, comment, sections })
}

/// Of a file that ends before it is complete.
const CUT: &str = "the file is cut short: copy it again from where it was made";

/// `byte section_type, string section_data`.
fn section<'a>(file: &mut Reader<'a>, left: &mut usize) -> Result<Section<'a>, KrlError> {
    let before = file.at();
    match file.byte()? {
        1 => certificates(file.string()?, left),
        2 => Ok(Section::Keys(file.string()?.list(before, left, key)?)),
        3 => Ok(Section::Sha1(file.string()?.hashes(before, left)?)),
        5 => Ok(Section::Sha256(file.string()?.hashes(before, left)?)),
        255 => Ok(Section::Extension(extension(file.string()?, before)?)),
        4 => Err(refuse(
            before,
            "it has a signature inside, which OpenSSH does not support any more and nobody checks: make it without \
             one, and sign the file with ssh-keygen -Y sign",
        )),
        other => {
            Err(refuse(before, format!("section type {other} is not known: the file is damaged or newer")))
        }
    }
}

/// A key's wire form is strings after one another, of which the first is its type.
fn key<'a>(entry: Reader<'a>) -> Result<&'a [u8], KrlError> {
    let (offset, blob) = (entry.at(), entry.rest);
    let mut fields = entry;
    let name = fields.string()?.text("the type of a key")?;
    if name.contains("-cert-v0") {
        return Err(refuse(
            offset,
            "a certificate stands in a list of keys: make the KRL anew with ssh-keygen -k",
        ));
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) || fields.is_empty() {
        return Err(refuse(offset, "this is no key: the file is damaged"));
    }
    while !fields.is_empty() {
        fields.string()?;
    }
    Ok(blob)
}

fn certificates<'a>(mut data: Reader<'a>, left: &mut usize) -> Result<Section<'a>, KrlError> {
    let offset = data.at();
    let ca = data.string()?;
    let ca = At { offset, is: if ca.is_empty() { None } else { Some(key(ca)?) } };
    data.reserved()?;
    let mut parts = Vec::new();
    while !data.is_empty() {
        data.count(left, 1)?;
        parts.push(part(&mut data, left)?);
    }
    if parts.is_empty() {
        return Err(refuse(offset, EMPTY));
    }
    Ok(Section::Certificates { ca, parts })
}

/// Of a list without anything in it.
const EMPTY: &str = "a section revokes nothing, which the format forbids: the file is damaged";

/// `byte cert_section_type, string cert_section_data`.
fn part<'a>(section: &mut Reader<'a>, left: &mut usize) -> Result<Part<'a>, KrlError> {
    let before = section.at();
    let kind = section.byte()?;
    let mut data = section.string()?;
    let offset = data.at();
    match kind {
        0x20 => {
            let mut serials = Vec::new();
            while !data.is_empty() {
                data.count(left, 1)?;
                let offset = data.at();
                serials.push(At { offset, is: not_zero(offset, data.u64()?)? });
            }
            if serials.is_empty() { Err(refuse(before, EMPTY)) } else { Ok(Part::Serials(serials)) }
        }
        0x21 => {
            let (first, last) = (not_zero(offset, data.u64()?)?, data.u64()?);
            data.nothing_left()?;
            if first > last {
                return Err(refuse(
                    offset,
                    format!("the range from serial {first} to {last} is upside down"),
                ));
            }
            if last - first >= MAX_SERIALS {
                return Err(refuse(offset, too_many(&format!("the range of serials {first} to {last}"))));
            }
            data.count(left, usize::try_from(last - first).unwrap_or(usize::MAX).saturating_add(1))?;
            Ok(Part::Range(At { offset, is: (first, last) }))
        }
        0x22 => {
            let first = data.u64()?;
            let bits = data.bits()?;
            data.nothing_left()?;
            let serials = usize::try_from(bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>())
                .unwrap_or(usize::MAX);
            if bits.len() > MAX_BITMAP || serials as u64 > MAX_SERIALS {
                return Err(refuse(offset, too_many(&format!("the bitmap of serials from {first} on"))));
            }
            // Also where a number of it would be above 2^64.
            let highest =
                bits.len() as u64 * 8 - 1 - u64::from(bits.first().map_or(0, |b| b.leading_zeros()));
            if first.checked_add(highest).is_none() {
                return Err(refuse(offset, "a bitmap goes beyond the largest serial number"));
            }
            if first == 0 && bits.last().is_some_and(|byte| byte & 1 == 1) {
                not_zero(offset, 0)?;
            }
            data.count(left, serials)?;
            Ok(Part::Bitmap(At { offset, is: (first, bits) }))
        }
        0x23 => Ok(Part::KeyIds(data.list(before, left, |entry| entry.text("a key id"))?)),
        0x39 => Ok(Part::Extension(extension(data, before)?)),
        other => Err(refuse(
            before,
            format!("certificate section type {other:#04x} is not known: the file is damaged or newer"),
        )),
    }
}

fn too_many(what: &str) -> String {
    format!("{what} has more than {MAX_SERIALS} of them: revoke the CA, or the certificates by key id")
}

/// 0 is what a CA writes that does not count its certificates. OpenSSH refuses to load a list with it.
fn not_zero(offset: usize, serial: u64) -> Result<u64, KrlError> {
    if serial == 0 {
        let why =
            "serial 0 cannot be revoked, it stands for \"not numbered\": revoke such certificates by key id";
        return Err(refuse(offset, why));
    }
    Ok(serial)
}

/// The serial numbers of a bitmap, ascending.
fn serials_of(first: u64, bits: &[u8]) -> impl Iterator<Item = u64> {
    let each = bits.iter().rev().enumerate().flat_map(|(place, byte)| {
        (0..8_u64).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| place as u64 * 8 + bit)
    });
    each.map(move |bit| first.saturating_add(bit))
}

/// `string name, boolean critical, string contents`.
fn extension(mut data: Reader<'_>, before: usize) -> Result<Extension<'_>, KrlError> {
    let name = data.string()?.text("the name of an extension")?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse(before, "an extension has no proper name: the file is damaged"));
    }
    let at = data.at();
    match data.byte()? {
        0 => {}
        1 => {
            let why = format!("extension {name} is critical and not known here: make the KRL without it");
            return Err(refuse(before, why));
        }
        other => return Err(refuse(at, format!("{other} is neither yes nor no: the file is damaged"))),
    }
    let contents = data.string()?.rest;
    data.nothing_left()?;
    Ok(Extension { name, contents })
}

fn refuse(offset: usize, why: impl Into<String>) -> KrlError {
    KrlError { offset, why: why.into() }
}

/// What is left of the file or of one string in it, and where that ends in the file.
#[derive(Debug, Clone, Copy)]
struct Reader<'a> {
    rest: &'a [u8],
    end: usize,
    /// Of the file, so that too little means that the file is too short.
    whole: bool,
}

impl<'a> Reader<'a> {
    fn at(&self) -> usize {
        self.end - self.rest.len()
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn refuse(&self, why: &str) -> KrlError {
        refuse(self.at(), why)
    }

    fn read<T>(&mut self, take: impl FnOnce(&mut &'a [u8]) -> Result<T, Damaged>) -> Result<T, KrlError> {
        let before = self.at();
        take(&mut self.rest).map_err(|Damaged(what)| {
            refuse(
                before,
                match what {
                    "cut short" if self.whole => CUT.to_owned(),
                    "cut short" => {
                        "a length in it reaches beyond its section: the file is damaged".to_owned()
                    }
                    _ => format!("the file is damaged: {what}"),
                },
            )
        })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], KrlError> {
        self.read(|rest| take(rest, length))
    }

    fn byte(&mut self) -> Result<u8, KrlError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn u32(&mut self) -> Result<u32, KrlError> {
        self.read(take_u32)
    }

    fn u64(&mut self) -> Result<u64, KrlError> {
        self.read(take_u64)
    }

    /// `mpint` that is positive and minimal: at least one bit is set.
    fn bits(&mut self) -> Result<&'a [u8], KrlError> {
        self.read(take_positive)
    }

    /// `string`, to be read in its turn.
    fn string(&mut self) -> Result<Self, KrlError> {
        let rest = self.read(take_string)?;
        Ok(Self { rest, end: self.at(), whole: false })
    }

    /// A field that OpenSSH leaves empty and ignores.
    fn reserved(&mut self) -> Result<(), KrlError> {
        let before = self.at();
        if self.string()?.is_empty() {
            return Ok(());
        }
        Err(refuse(before, "a reserved field is not empty: the file is damaged or newer"))
    }

    fn text(self, what: &str) -> Result<&'a str, KrlError> {
        std::str::from_utf8(self.rest)
            .map_err(|_| self.refuse(&format!("{what} is not UTF-8: make the KRL anew without it")))
    }

    /// V6: no trailing bytes at any level.
    fn nothing_left(&self) -> Result<(), KrlError> {
        if self.is_empty() { Ok(()) } else { Err(self.refuse("bytes are left over: the file is damaged")) }
    }

    fn count(&self, left: &mut usize, entries: usize) -> Result<(), KrlError> {
        *left = left.checked_sub(entries).ok_or_else(|| {
            self.refuse(&format!(
                "the file has more than {MAX_ENTRIES} sections and revocations: revoke the CA instead of its \
                 certificates"
            ))
        })?;
        Ok(())
    }

    /// Strings until the end, one at least.
    fn list<T>(
        mut self,
        before: usize,
        left: &mut usize,
        one: impl Fn(Self) -> Result<T, KrlError>,
    ) -> Result<Vec<At<T>>, KrlError> {
        let mut entries = Vec::new();
        while !self.is_empty() {
            self.count(left, 1)?;
            let offset = self.at();
            entries.push(At { offset, is: one(self.string()?)? });
        }
        if entries.is_empty() { Err(refuse(before, EMPTY)) } else { Ok(entries) }
    }

    /// Hashes in numeric order, as the format demands.
    fn hashes<const N: usize>(self, before: usize, left: &mut usize) -> Result<Vec<At<[u8; N]>>, KrlError> {
        let hashes = self.list(before, left, |entry| {
            let bytes: Result<[u8; N], _> = entry.rest.try_into();
            bytes.map_err(|_| {
                entry.refuse(&format!("a hash of {N} bytes is expected here: the file is damaged"))
            })
        })?;
        match hashes.windows(2).find(|pair| matches!(pair, [one, next] if one.is >= next.is)) {
            Some([_, next]) => Err(refuse(next.offset, "the hashes are not in order: the file is damaged")),
            _ => Ok(hashes),
        }
    }
}

#[cfg(test)]
mod tests;
