//! `writ-hub init`: a directory with everything a hub needs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use protocol::Sha256;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::config::{self, HubUrl};
use crate::operators;
use crate::tls::{self, TlsError};

/// Why nothing was set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is there.
    #[error("{path} exists already and is left as it is: choose another --dir, or remove it if no host and no operator needs that hub any more", path = .0.display())]
    Exists(PathBuf),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// No key or certificate.
    #[error("no TLS key and certificate could be made for {host}: is the host name in --url valid?")]
    Certificate {
        /// For whom.
        host: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// The certificate that was made cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    /// Of the new key.
    pub pin: Sha256,
    /// `hub.toml`.
    pub config: PathBuf,
    /// The operators file.
    pub operators: PathBuf,
}

/// Makes directory, key, certificate, `hub.toml` and an operators file without operators. Nothing
/// that exists is overwritten; `listen` defaults to every IPv4 address and the port of `url`.
pub fn init(directory: &Path, url: &HubUrl, listen: Option<SocketAddr>) -> Result<Initialised, InitError> {
    let listen = listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], url.port())));
    let mut names = ["hub.toml", "tls.crt", "tls.key", "operators", "state"].iter();
    if let Some(name) = names.find(|name| directory.join(name).symlink_metadata().is_ok()) {
        return Err(InitError::Exists(directory.join(name)));
    }
    let (cert, key) = self_signed(url.host())
        .map_err(|source| InitError::Certificate { host: url.host().to_owned(), source })?;
    files::prepare_state_dir(directory)?;
    files::prepare_state_dir(&directory.join("state"))?;
    files::write_atomic(&directory.join("tls.key"), key.as_bytes())?;
    files::write_atomic(&directory.join("tls.crt"), cert.as_bytes())?;
    let operators = directory.join("operators");
    files::write_atomic(&operators, operators::EMPTY.as_bytes())?;
    let text = config::render(&[("listen", &listen.to_string()), ("url", url.as_str())]);
    // Last: with it the directory is complete.
    let config = directory.join("hub.toml");
    files::write_atomic(&config, text.as_bytes())?;
    Ok(Initialised { pin: tls::pin_of_file(&directory.join("tls.crt"))?, config, operators })
}

/// Certificate and key as PEM. The dates in it mean nothing: everybody pins the key.
fn self_signed(host: &str) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "writ-hub");
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HubConfig;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn what_init_makes_can_be_served_and_is_never_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("hub");
        let url: HubUrl = "https://hub.example:8440".parse().unwrap();
        let made = init(&dir, &url, None).unwrap();
        let config = HubConfig::load(&made.config).unwrap();
        assert_eq!(config.listen, "0.0.0.0:8440".parse().unwrap());
        assert_eq!(tls::load(&config.tls_cert, &config.tls_key).unwrap().pin, made.pin);
        for (path, mode) in
            [(&dir, 0o700), (&config.state_dir, 0o700), (&config.tls_key, 0o600), (&made.operators, 0o600)]
        {
            assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        let before = std::fs::read(&config.tls_key).unwrap();
        assert!(matches!(init(&dir, &url, None), Err(InitError::Exists(_))));
        // Even when only one piece of a hub is left.
        std::fs::remove_file(&made.config).unwrap();
        std::fs::remove_file(&config.tls_cert).unwrap();
        assert!(matches!(init(&dir, &url, None), Err(InitError::Exists(_))));
        assert_eq!(std::fs::read(&config.tls_key).unwrap(), before);
        assert!(init(&parent.path().join("no/parent"), &url, None).is_err());
    }
}
