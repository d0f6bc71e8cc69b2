//! Certificate pins: what a server must show before one byte of a token is sent to it.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};

use crate::wire::pindir::PinDir;

/// What a pin's SHA-256 is computed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinKind {
    /// The DER of the server's own certificate. Changes with every renewal.
    Leaf,
    /// The DER of the certificate's SubjectPublicKeyInfo. Proxmox keeps the key when it renews
    /// `pve-ssl.pem`, so this survives (`pve/facts.md` 11.3); ACME does not (11.4).
    Spki,
    /// The DER of a CA certificate **that the server sends in its chain** and under which the leaf
    /// verifies, with name and time. A server that does not send the CA cannot match: the stock
    /// `pve-ssl.pem` holds only the leaf.
    Ca,
}

impl PinKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Spki => "spki",
            Self::Ca => "ca",
        }
    }
}

/// A kind and a SHA-256. Text form: `spki:` and 64 hex digits (colons between the pairs allowed).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    kind: PinKind,
    sha256: [u8; 32],
}

impl Pin {
    /// A pin from its parts.
    #[must_use]
    pub const fn new(kind: PinKind, sha256: [u8; 32]) -> Self {
        Self { kind, sha256 }
    }

    /// The pin that `der` would match: hash it as `kind`.
    pub(crate) fn of(kind: PinKind, der: &[u8]) -> Self {
        Self { kind, sha256: Sha256::digest(der).into() }
    }

    /// What is hashed.
    #[must_use]
    pub const fn kind(&self) -> PinKind {
        self.kind
    }

    /// The SHA-256 itself.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), HEXLOWER.encode(&self.sha256))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let malformed = || PinError::Malformed { given: shorten(text) };
        let (kind, hex) = text.trim().split_once(':').ok_or_else(malformed)?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "leaf" => PinKind::Leaf,
            "spki" => PinKind::Spki,
            "ca" => PinKind::Ca,
            _ => return Err(malformed()),
        };
        let digits = match hex.len() {
            64 => hex.to_owned(),
            // 32 pairs and 31 colons, as `openssl x509 -fingerprint` and the Proxmox GUI print it.
            95 => {
                let pairs: Vec<&str> = hex.split(':').collect();
                if pairs.len() != 32 || pairs.iter().any(|pair| pair.len() != 2) {
                    return Err(malformed());
                }
                pairs.concat()
            }
            _ => return Err(malformed()),
        };
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| malformed())?;
        Ok(Self { kind, sha256: bytes.try_into().map_err(|_| malformed())? })
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(24).collect()
}

/// Pins, at least one. Without a pin there is no connection, so the empty set cannot be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinSet {
    pins: Vec<Pin>,
    root_copy: Option<PinDir>,
}

impl PinSet {
    /// Sorts, removes duplicates, and refuses the empty set.
    ///
    /// # Errors
    /// [`PinError::NoPin`] if `pins` is empty.
    pub fn new(mut pins: Vec<Pin>) -> Result<Self, PinError> {
        pins.sort_unstable();
        pins.dedup();
        if pins.is_empty() { Err(PinError::NoPin) } else { Ok(Self { pins, root_copy: None }) }
    }

    /// The pins, sorted.
    #[must_use]
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// Accepts a leaf that none of the pins matches if its fingerprint, written by root, is in that
    /// directory at that moment.
    /// For the host itself only: elsewhere nobody knows what that host's root wrote.
    #[must_use]
    pub fn with_root_copy(self, directory: PinDir) -> Self {
        Self { root_copy: Some(directory), ..self }
    }

    pub(crate) const fn root_copy(&self) -> Option<&PinDir> {
        self.root_copy.as_ref()
    }
}

/// A pin or pin set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The set was empty.
    #[error(
        "no pin, no connection: give at least one pin such as `spki:HEX64`; on the host, `openssl x509 -in /etc/pve/local/pve-ssl.pem -noout -fingerprint -sha256` prints the leaf's"
    )]
    NoPin,
    /// Not `KIND:HEX64`.
    #[error(
        "`{given}` is not a pin: write `leaf:`, `spki:` or `ca:` followed by the SHA-256 as 64 hex digits (colons between the pairs are fine)"
    )]
    Malformed {
        /// The start of what was given.
        given: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "cc30f73b66c1c05c81977c0b66834c713abcf06f133b3fbaceac36d248bfe792";
    /// As `GET /nodes` printed it in the recordings.
    const COLONS: &str =
        "CC:30:F7:3B:66:C1:C0:5C:81:97:7C:0B:66:83:4C:71:3A:BC:F0:6F:13:3B:3F:BA:CE:AC:36:D2:48:BF:E7:92";

    #[test]
    fn both_spellings_are_the_same_pin() {
        let plain: Pin = format!("spki:{HEX}").parse().unwrap();
        assert_eq!(format!("SPKI:{COLONS}").parse::<Pin>().unwrap(), plain);
        assert_eq!(plain.to_string(), format!("spki:{HEX}"));
        assert_eq!(plain.to_string().parse::<Pin>().unwrap(), plain);
        assert_ne!(format!("leaf:{HEX}").parse::<Pin>().unwrap(), plain);
        assert_eq!(format!("ca:{HEX}").parse::<Pin>().unwrap().kind(), PinKind::Ca);
    }

    #[test]
    fn hostile_pins_are_refused_with_the_accepted_form() {
        let shifted = format!("spki:{}", COLONS.replacen("CC:30", "CC3:0", 1));
        for bad in [
            "",
            "spki",
            "spki:",
            HEX,
            "sha256:cc30",
            &format!("spki:{}", &HEX[1..]),
            &format!("spki:{HEX}0"),
            &format!("spki:g{}", &HEX[1..]),
            &format!("spki:ä{}", &HEX[2..]),
            &shifted,
            &format!("spki:{}", ":".repeat(95)),
        ] {
            let error = bad.parse::<Pin>().unwrap_err();
            assert!(error.to_string().contains("64 hex digits"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_empty_set_cannot_be_built() {
        assert_eq!(PinSet::new(Vec::new()), Err(PinError::NoPin));
        assert!(PinError::NoPin.to_string().starts_with("no pin, no connection"));
        let pin: Pin = format!("leaf:{HEX}").parse().unwrap();
        assert_eq!(PinSet::new(vec![pin, pin]).unwrap().pins(), [pin]);
    }
}
