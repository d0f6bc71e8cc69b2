//! The device key: who this agent is to the hub. It proves nothing but that; the host key in the
//! warden vouches for it.

use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use protocol::Ed25519Key;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Name of the key's file in the state directory.
pub const FILE: &str = "device.key";

/// Why there is no device key.
#[derive(Debug, thiserror::Error)]
pub enum DeviceKeyError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something else is in the file.
    #[error("{path} is not a device key (32 bytes): restore it, or delete it and enroll the host again", path = .0.display())]
    Damaged(PathBuf),
    /// The TLS library refuses it.
    #[error(
        "the device key cannot be made into a client certificate; this is a fault of the program, please report it"
    )]
    Certificate(#[source] rcgen::Error),
    /// The key cannot be encoded.
    #[error("the device key cannot be encoded; this is a fault of the program, please report it")]
    Encode,
}

/// The agent's transport key. Never printed.
pub struct DeviceKey(SigningKey);

impl DeviceKey {
    /// The key in the state directory, if there is one.
    pub fn open(state_dir: &Path) -> Result<Option<Self>, DeviceKeyError> {
        let path = state_dir.join(FILE);
        match files::read_secret(&path) {
            Ok(bytes) => {
                let seed: Zeroizing<[u8; 32]> =
                    Zeroizing::new(bytes.as_slice().try_into().map_err(|_| DeviceKeyError::Damaged(path))?);
                Ok(Some(Self(SigningKey::from_bytes(&seed))))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The key in the state directory, or a new one from `seed`, durable before it is used: a key
    /// that the hub knows and the host forgot would lock the host out.
    pub fn open_or_create(state_dir: &Path, seed: &[u8; 32]) -> Result<Self, DeviceKeyError> {
        if let Some(key) = Self::open(state_dir)? {
            return Ok(key);
        }
        files::write_atomic(&state_dir.join(FILE), seed)?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// Its public half.
    pub fn public(&self) -> Ed25519Key {
        Ed25519Key::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// A self-signed certificate, only a wrapper: the hub looks at the key in it.
    pub fn client_cert(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), DeviceKeyError> {
        let der = self.0.to_pkcs8_der().map_err(|_| DeviceKeyError::Encode)?;
        let key = PrivatePkcs8KeyDer::from(der.as_bytes().to_vec());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)
            .map_err(DeviceKeyError::Certificate)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "writ device");
        let cert = params.self_signed(&pair).map_err(DeviceKeyError::Certificate)?;
        Ok((cert.der().clone(), PrivateKeyDer::Pkcs8(key)))
    }
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceKey({})", self.public().fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DeviceKey::open(dir.path()).unwrap().is_none());
        let first = DeviceKey::open_or_create(dir.path(), &[1; 32]).unwrap();
        let again = DeviceKey::open_or_create(dir.path(), &[2; 32]).unwrap();
        assert_eq!(first.public(), again.public());
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(format!("{first:?}").starts_with("DeviceKey(SHA256:"));
    }

    #[test]
    fn damaged_or_open_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        files::write_atomic(&dir.path().join(FILE), b"short").unwrap();
        assert!(matches!(DeviceKey::open(dir.path()), Err(DeviceKeyError::Damaged(_))));
        DeviceKey::open_or_create(dir.path(), &[1; 32]).unwrap_err();
        std::fs::set_permissions(dir.path().join(FILE), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = DeviceKey::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn the_certificate_carries_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = DeviceKey::open_or_create(dir.path(), &[1; 32]).unwrap();
        let (cert, _) = key.client_cert().unwrap();
        let spki = webpki::EndEntityCert::try_from(&cert).unwrap().subject_public_key_info();
        assert!(spki.ends_with(key.public().as_bytes()));
    }
}
