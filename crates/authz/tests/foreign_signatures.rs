//! Signatures that OpenSSH made once (`golden/signatures`), by the types of which no software key is made in
//! the other tests: RSA and the larger curves. The live comparison with `ssh-keygen` is in `selftest`.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::path::PathBuf;

use authz::sshsig::{SigError, decode_operator};
use authz::{Namespace, OperatorKey};
use data_encoding::BASE64;

const NAMES: [&str; 5] = ["ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-3072", "rsa-4096"];

fn golden(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn check(sig: &str, key: &OperatorKey, message: &[u8]) -> Result<(), SigError> {
    decode_operator(sig, Namespace::Op)?.verify_by(key, message)
}

fn rearm(blob: &[u8]) -> String {
    let b64 = BASE64.encode(blob);
    let lines: Vec<&str> = b64.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

#[test]
fn they_verify_for_their_message_key_and_purpose() {
    let order = golden("signatures/message.json");
    let keys = NAMES.map(|name| OperatorKey::from_line(&golden(&format!("signatures/{name}.pub"))).unwrap());
    for (name, key) in NAMES.iter().zip(&keys) {
        for hash in ["sha256", "sha512"] {
            let sig = golden(&format!("signatures/{name}.{hash}.sig"));
            assert_eq!(check(&sig, key, order.as_bytes()), Ok(()), "{name} {hash}");
            assert_eq!(check(&sig, key, b"other"), Err(SigError::Wrong), "{name} {hash}");
            for other in keys.iter().filter(|other| *other != key) {
                assert_eq!(check(&sig, other, order.as_bytes()), Err(SigError::Wrong), "{name} {hash}");
            }
            let job = decode_operator(&sig, Namespace::Job);
            assert_eq!(job, Err(SigError::Namespace { expected: Namespace::Job }));
        }
    }
}

#[test]
fn no_byte_may_be_otherwise_and_none_may_be_missing() {
    let order = golden("signatures/message.json");
    for name in NAMES {
        let key = OperatorKey::from_line(&golden(&format!("signatures/{name}.pub"))).unwrap();
        let sig = golden(&format!("signatures/{name}.sha512.sig"));
        let b64: String = sig.lines().filter(|line| !line.starts_with("-----")).collect();
        let blob = BASE64.decode(b64.as_bytes()).unwrap();
        assert_eq!(rearm(&blob), sig, "the test's armor is the tool's");
        for at in 0..blob.len() {
            assert!(check(&rearm(&blob[..at]), &key, order.as_bytes()).is_err(), "{name} cut at {at}");
            for change in [0x01, 0x80] {
                let mut bad = blob.clone();
                bad[at] ^= change;
                assert!(check(&rearm(&bad), &key, order.as_bytes()).is_err(), "{name} byte {at}");
            }
        }
    }
}

/// Keys read from lines: what an operator may have, and what is refused by name.
#[test]
fn lines_of_keys() {
    for name in NAMES {
        let line = golden(&format!("signatures/{name}.pub"));
        let key = OperatorKey::from_line(&line).unwrap();
        assert!(line.starts_with(&key.to_string()), "written as it was read");
        assert_eq!(OperatorKey::try_from(key.to_string()).unwrap(), key);
        let (kind, rest) = line.split_once(' ').unwrap();
        for other in ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com"] {
            assert_eq!(OperatorKey::from_line(&format!("{other} {rest}")).is_ok(), other == kind, "{other}");
        }
        let mut point = key.blob().to_vec();
        *point.last_mut().unwrap() ^= 0x02;
        // Another modulus is a key of somebody else; another point lies beside the curve.
        assert_eq!(OperatorKey::from_blob(point).is_ok(), name.starts_with("rsa"), "{name}");
        for cut in 0..key.blob().len() {
            assert!(OperatorKey::from_blob(key.blob()[..cut].to_vec()).is_err(), "{name} cut at {cut}");
        }
    }
    for refused in [
        "ssh-dss AAAA",
        "mldsa44-ed25519@openssh.com AAAA",
        "webauthn-sk-ecdsa-sha2-nistp256@openssh.com AAAA",
        "ssh-ed25519-cert-v01@openssh.com AAAA",
    ] {
        let error = OperatorKey::from_line(refused).unwrap_err().to_string();
        assert!(error.contains("are not accepted") && error.contains("ssh-keygen"), "{error}");
    }
}
