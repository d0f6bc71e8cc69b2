//! Certificates in the form of Proxmox VE: an own CA and a leaf for the node.
//!
//! Proxmox VE makes RSA keys (4096 bits for the CA, 2048 for the leaf). The `ring` back end cannot
//! generate RSA keys, so both keys here are ECDSA P-256; names, extensions and lifetimes agree.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use crate::world::NewCertificate;

const DAY: u64 = 86_400;
/// Proxmox VE replaces a leaf that would live longer than two years.
const LEAF_DAYS: u64 = 729;
const CA_DAYS: u64 = 3650;
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const LEAF: &str = "pve-ssl.pem";
const LEAF_KEY: &str = "pve-ssl.key";
const FILES: [&str; 4] = [CA, CA_KEY, LEAF, LEAF_KEY];

/// SHA-256 values a client may pin, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// Of the leaf certificate (DER).
    pub leaf: String,
    /// Of the leaf's SubjectPublicKeyInfo (DER).
    pub spki: String,
    /// Of the CA certificate (DER).
    pub ca: String,
}

/// Why the certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Making a key or a certificate failed.
    #[error("cannot make the simulator's certificates")]
    Make(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("cannot read or write {}; check that the directory exists and is writable", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{} is damaged; delete it and start again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The TLS library refused key or certificate.
    #[error(
        "the TLS library refuses the certificates; delete ca.pem, ca.key, pve-ssl.pem and pve-ssl.key and start again"
    )]
    Refused(#[from] rustls::Error),
}

/// Keys and certificates of a simulated node.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    leaf_pem: String,
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: Vec<u8>,
    names: Vec<String>,
    ca_subject: String,
    leaf_subject: String,
    /// What all this was made of, by file name.
    files: BTreeMap<&'static str, String>,
}

/// Writes a file only its owner can read.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())
}

fn hex256(data: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(data))
}

fn validity(params: &mut CertificateParams, unix: u64, days: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix.saturating_sub(DAY));
    params.not_after = epoch + Duration::from_secs(unix + (days - 1) * DAY);
}

/// The unit in the CA's name. Proxmox VE puts a random UUID there; deriving it from the key keeps the
/// issuer name stable over restarts without another file.
fn ca_id(key: &KeyPair) -> String {
    let mut id = hex256(key.public_key_raw());
    id.truncate(32);
    for at in [20, 16, 12, 8] {
        id.insert(at, '-');
    }
    id
}

fn ca_params(key: &KeyPair, unix: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "Proxmox Virtual Environment");
    name.push(DnType::OrganizationalUnitName, ca_id(key));
    name.push(DnType::OrganizationName, "PVE Cluster Manager CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, unix, CA_DAYS);
    params
}

fn leaf_params(node: &str, node_ip: &str, unix: u64) -> Result<CertificateParams, rcgen::Error> {
    let domain = format!("{node}.sim.local");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        SanType::DnsName("localhost".try_into()?),
        SanType::DnsName(node.try_into()?),
        SanType::DnsName(domain.as_str().try_into()?),
    ];
    if let Ok(ip) = node_ip.parse() {
        params.subject_alt_names.push(SanType::IpAddress(ip));
    }
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationalUnitName, "PVE Cluster Node");
    name.push(DnType::OrganizationName, "Proxmox Virtual Environment");
    name.push(DnType::CommonName, domain);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, unix, LEAF_DAYS);
    Ok(params)
}

impl Identity {
    /// Reads the files of `dir`, makes what is missing, and writes it back; without a directory
    /// everything is fresh. A missing `pve-ssl.pem` beside its key is signed anew, which is what a
    /// renewal of Proxmox VE does: the leaf changes, its public key does not.
    pub(crate) fn open(
        dir: Option<&Path>,
        node: &str,
        node_ip: &str,
        unix: u64,
    ) -> Result<Identity, TlsError> {
        let mut files = BTreeMap::new();
        if let Some(dir) = dir {
            let failed = |source| TlsError::File { path: dir.to_owned(), source };
            std::fs::create_dir_all(dir).map_err(failed)?;
            for name in FILES {
                let path = dir.join(name);
                match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        files.insert(name, text);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(source) => return Err(TlsError::File { path, source }),
                }
            }
        }
        Identity::complete(files, dir, node, node_ip, unix)
    }

    /// Makes what is missing among the files, and writes what was made.
    fn complete(
        mut files: BTreeMap<&'static str, String>,
        dir: Option<&Path>,
        node: &str,
        node_ip: &str,
        unix: u64,
    ) -> Result<Identity, TlsError> {
        let found: Vec<&str> = files.keys().copied().collect();
        let damaged = |name: &str| TlsError::Damaged { path: dir.unwrap_or(Path::new("")).join(name) };
        let mut key = |name: &'static str| -> Result<KeyPair, TlsError> {
            if let Some(pem) = files.get(name) {
                return KeyPair::from_pem(pem).map_err(|_| damaged(name));
            }
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            files.insert(name, key.serialize_pem());
            Ok(key)
        };
        let ca_key = key(CA_KEY)?;
        let leaf_key = key(LEAF_KEY)?;
        let ca_params = ca_params(&ca_key, unix);
        let wanted = leaf_params(node, node_ip, unix)?;
        let names = wanted.subject_alt_names.iter().map(san_text).collect();
        let ca_pem = match files.get(CA) {
            Some(pem) => pem.clone(),
            None => ca_params.self_signed(&ca_key)?.pem(),
        };
        let leaf_pem = match files.get(LEAF) {
            Some(pem) => pem.clone(),
            None => wanted.signed_by(&leaf_key, &Issuer::from_params(&ca_params, &ca_key))?.pem(),
        };
        files.insert(CA, ca_pem.clone());
        files.insert(LEAF, leaf_pem.clone());
        for (name, text) in files.iter().filter(|(name, _)| !found.contains(name)) {
            if let Some(path) = dir.map(|d| d.join(name)) {
                write_private(&path, text).map_err(|source| TlsError::File { path, source })?;
            }
        }
        let der =
            |name: &str, pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged(name));
        let identity = Identity {
            ca: der(CA, &ca_pem)?,
            leaf: der(LEAF, &leaf_pem)?,
            key: leaf_key.serialize_der(),
            ca_pem,
            leaf_pem,
            names,
            ca_subject: format!(
                "/CN=Proxmox Virtual Environment/OU={}/O=PVE Cluster Manager CA",
                ca_id(&ca_key)
            ),
            leaf_subject: format!("/OU=PVE Cluster Node/O=Proxmox Virtual Environment/CN={node}.sim.local"),
            files,
        };
        identity.spki().ok_or_else(|| damaged(LEAF))?;
        Ok(identity)
    }

    /// Another certificate, kept in `dir` if there is one.
    pub(crate) fn replaced(
        &self,
        new: NewCertificate,
        dir: Option<&Path>,
        node: &str,
        node_ip: &str,
        unix: u64,
    ) -> Result<Identity, TlsError> {
        let mut files = self.files.clone();
        let old: &[&str] = match new {
            NewCertificate::SameKey => &[LEAF],
            NewCertificate::NewKey => &[LEAF, LEAF_KEY],
            NewCertificate::NewCa => &FILES,
        };
        files.retain(|name, _| !old.contains(name));
        Identity::complete(files, dir, node, node_ip, unix)
    }

    /// What accepts connections with this certificate.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        Ok(TlsAcceptor::from(Arc::new(self.server_config()?)))
    }

    fn spki(&self) -> Option<Vec<u8>> {
        let leaf = webpki::EndEntityCert::try_from(&self.leaf).ok()?;
        Some(leaf.subject_public_key_info().to_vec())
    }

    /// The values a client may pin.
    pub(crate) fn pins(&self) -> Pins {
        Pins {
            leaf: hex256(&self.leaf),
            spki: hex256(&self.spki().unwrap_or_default()),
            ca: hex256(&self.ca),
        }
    }

    /// The leaf's fingerprint as `GET /nodes` shows it.
    pub(crate) fn fingerprint(&self) -> String {
        colons(&self.leaf)
    }

    /// The rows of `certificates/info`.
    pub(crate) fn info(&self) -> Vec<Value> {
        let row = |file: &str, pem: &str, der: &CertificateDer<'_>, subject: &str, san: &[String]| {
            let (from, until) = lifetime(der).unwrap_or_default();
            json!({
                "filename": file, "pem": pem, "fingerprint": colons(der), "subject": subject,
                "issuer": self.ca_subject,
                "san": san, "notbefore": from, "notafter": until,
                "public-key-type": "id-ecPublicKey", "public-key-bits": 256,
            })
        };
        let (ca, leaf) = (self.ca_subject.as_str(), self.leaf_subject.as_str());
        vec![
            row("pve-root-ca.pem", &self.ca_pem, &self.ca, ca, &[]),
            row("pve-ssl.pem", &self.leaf_pem, &self.leaf, leaf, &self.names),
        ]
    }

    /// The server side of TLS: 1.2 and 1.3, HTTP/1.1 only.
    fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.clone(), self.ca.clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn san_text(san: &SanType) -> String {
    match san {
        SanType::IpAddress(ip) => ip.to_string(),
        SanType::DnsName(name) => name.as_str().to_owned(),
        _ => String::new(),
    }
}

/// `AA:BB:…` over the SHA-256 of a certificate.
fn colons(der: &[u8]) -> String {
    let bytes = Sha256::digest(der);
    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    pairs.join(":")
}

/// One DER element: tag, content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f).min(4))?;
        let length = bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The seconds since 1970 between which a certificate is valid.
fn lifetime(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // version, serial number, signature algorithm and issuer come first
    for _ in 0..4 {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest)?;
    let (tag, from, rest) = element(validity)?;
    let from = timestamp(tag, from)?;
    let (tag, until, _) = element(rest)?;
    Some((from, timestamp(tag, until)?))
}

/// A UTCTime (two-digit year) or GeneralizedTime.
fn timestamp(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(if tag == 0x17 { 2 } else { 4 })?;
    let mut year: i64 = year.parse().ok()?;
    if tag == 0x17 {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let part = |at: usize| -> Option<i64> { rest.get(at..at + 2)?.parse().ok() };
    let (month, day) = (part(0)?, part(2)?);
    // Days since 1970 by the civil-calendar formula with years starting in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    Some(days * 86_400 + part(4)? * 3600 + part(6)? * 60 + part(8)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_317_258;

    fn open(dir: Option<&Path>) -> Identity {
        Identity::open(dir, "pve1", "192.0.2.10", NOW).unwrap()
    }

    #[test]
    fn lifetimes_are_read_back() {
        let identity = open(None);
        let (from, until) = lifetime(&identity.leaf).unwrap();
        assert_eq!(from, i64::try_from(NOW - DAY).unwrap());
        assert_eq!(until - from, i64::try_from(LEAF_DAYS * DAY).unwrap());
        for cut in 0..identity.leaf.len().min(200) {
            assert_eq!(lifetime(&identity.leaf[..cut]), None, "cut at {cut}");
        }
        assert_eq!(timestamp(0x18, b"20500101000000Z"), Some(2_524_608_000));
        assert_eq!(timestamp(0x17, b"000229235959Z"), Some(951_868_799));
    }

    #[test]
    fn restart_keeps_everything_and_renewal_keeps_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(Some(dir.path())).pins();
        assert_eq!(open(Some(dir.path())).pins(), first);
        std::fs::remove_file(dir.path().join("pve-ssl.pem")).unwrap();
        let renewed = Identity::open(Some(dir.path()), "pve1", "192.0.2.10", NOW + 9).unwrap().pins();
        assert_ne!(renewed.leaf, first.leaf);
        assert_eq!((renewed.spki, renewed.ca), (first.spki, first.ca));
        use std::os::unix::fs::PermissionsExt as _;
        for name in ["ca.key", "ca.pem", "pve-ssl.key", "pve-ssl.pem"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn replacements_keep_what_they_should() {
        let dir = tempfile::tempdir().unwrap();
        for dir in [None, Some(dir.path())] {
            let first = open(dir);
            let replaced = |new| first.replaced(new, dir, "pve1", "192.0.2.10", NOW + 9).unwrap().pins();
            let pins = first.pins();
            for (new, key_stays, ca_stays) in [
                (NewCertificate::SameKey, true, true),
                (NewCertificate::NewKey, false, true),
                (NewCertificate::NewCa, false, false),
            ] {
                let now = replaced(new);
                assert_ne!(now.leaf, pins.leaf, "{new:?}");
                assert_eq!(now.spki == pins.spki, key_stays, "{new:?}");
                assert_eq!(now.ca == pins.ca, ca_stays, "{new:?}");
                if dir.is_some() {
                    assert_eq!(open(dir).pins(), now, "the files agree");
                }
            }
        }
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.key"), "no key").unwrap();
        let error = Identity::open(Some(dir.path()), "pve1", "", NOW).err().unwrap();
        assert!(error.to_string().contains("ca.key is damaged"), "{error}");
    }
}
