//! A private key, and signing with it.

use std::fmt;

use protocol::Ed25519Key;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::keys::{KeyError, PublicKey};
use crate::namespace::Namespace;
use crate::sshsig;

/// A private Ed25519 key. Zeroed when dropped, never printed.
pub struct SecretKey {
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl SecretKey {
    /// From 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey(Ed25519Key::from_bytes(key.verifying_key().to_bytes()));
        Self { key, public }
    }

    /// Reads an OpenSSH private key file's text.
    pub fn from_openssh(text: &str, passphrase: Option<&str>) -> Result<Self, KeyError> {
        let mut file = PrivateKey::from_openssh(text).map_err(|_| KeyError::NotAPrivateKey)?;
        let name = file.algorithm().to_string();
        if name != "ssh-ed25519" {
            return Err(KeyError::Unsupported(name));
        }
        if file.is_encrypted() {
            let passphrase = passphrase.ok_or(KeyError::NeedsPassphrase)?;
            file = file.decrypt(passphrase).map_err(|_| KeyError::WrongPassphrase)?;
        }
        let KeypairData::Ed25519(pair) = file.key_data() else {
            return Err(KeyError::Unsupported(name));
        };
        Ok(Self::from_seed(&pair.private.to_bytes()))
    }

    /// An unencrypted OpenSSH private key file, for a 0600 file of its own.
    pub fn to_openssh(&self, comment: &str) -> Result<Zeroizing<String>, KeyError> {
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(self.key.as_bytes()));
        PrivateKey::new(pair, comment)
            .and_then(|file| file.to_openssh(LineEnding::LF))
            .map_err(|_| KeyError::NotAPrivateKey)
    }

    /// The 32 secret bytes, for opening what was sealed to this key.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// A plain Ed25519 signature, for the formats that are no SSHSIG. Whoever calls it sees to it that
    /// `message` cannot be taken for what an SSHSIG signs, which begins with these six letters.
    pub(crate) fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        self.key.sign(message).to_bytes()
    }

    /// Armored SSHSIG over `message`, with SHA-512 as `ssh-keygen` does by default.
    pub fn sign(&self, namespace: Namespace, message: &[u8]) -> String {
        use ed25519_dalek::Signer as _;
        let signed = sshsig::signed_bytes(namespace, sshsig::Hash::Sha512, message);
        sshsig::armor(&self.public, namespace, &self.key.sign(&signed).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_keys_round_trip_and_do_not_print() {
        let key = SecretKey::from_seed(&[5; 32]);
        let text = key.to_openssh("host").unwrap();
        let again = SecretKey::from_openssh(&text, None).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(format!("{key:?}"), format!("SecretKey({})", key.public().fingerprint()));
        assert_eq!(SecretKey::from_openssh("garbage", None).unwrap_err(), KeyError::NotAPrivateKey);
    }
}
