use authz::policy::Policy;
use authz::statement::{verify_host, verify_login};

use super::*;
use crate::agent::fake::{framed, holding, list as identities, serve, signature};
use crate::testing::{alice, mallory, policy, statement};

/// What `ssh-keygen -t ed25519` writes for a key with a passphrase, as far as it can be read without one.
fn encrypted(key: &PublicKey) -> String {
    let mut bytes = b"openssh-key-v1\0".to_vec();
    let mut put = |string: &[u8]| {
        bytes.extend_from_slice(&u32::try_from(string.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(string);
    };
    put(b"aes256-ctr");
    put(b"bcrypt");
    put(&[7; 24]);
    bytes.extend_from_slice(&1u32.to_be_bytes());
    let mut put = |string: &[u8]| {
        bytes.extend_from_slice(&u32::try_from(string.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(string);
    };
    put(&key.blob());
    put(&[0x55; 144]);
    let body = String::from(Bytes(bytes));
    let lines: Vec<&str> =
        body.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
}

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    files::write_atomic(&path, text.as_bytes()).unwrap();
    path
}

fn vouched(signed: &Signed, policy: &Policy) -> bool {
    verify_host(signed, policy).is_ok()
}

#[tokio::test]
async fn an_agent_signs_what_a_file_signs() {
    let dir = tempfile::tempdir().unwrap();
    let agent = holding(dir.path(), vec![(mallory(), "mallory"), (alice(), "alice@desk")]);
    let public = write(dir.path(), "id.pub", &format!("{} alice@desk\n", alice().public()));
    let signer = Signer::choose(Some(&public), None, &agent).await.unwrap();
    assert!(matches!(signer, Signer::Agent { .. }) && signer.public() == alice().public());
    for namespace in Namespace::ALL {
        let armored = signer.sign(*namespace, b"order").await.unwrap();
        assert_eq!(armored, alice().sign(*namespace, b"order"));
    }
    assert!(vouched(&signer.vouch(&statement(1, "web1")).await.unwrap(), &policy()));
    let (hub, challenge) = (Sha256::of(b"hub"), Sha256::of(b"c"));
    let login = signer.login(hub, challenge).await.unwrap();
    assert_eq!(verify_login(&login, &hub, &challenge, |_| true).unwrap(), alice().public());
    // The same statements as authz makes them.
    let file = Signer::File(alice());
    assert_eq!(
        file.login(hub, challenge).await.unwrap(),
        authz::statement::sign_login(hub, challenge, &alice())
    );
    let vouched = file.vouch(&statement(1, "web1")).await.unwrap();
    assert_eq!(vouched, authz::statement::sign_host(&statement(1, "web1"), &alice()));
}

#[tokio::test]
async fn without_a_key_file_the_only_key_of_the_agent_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let agent = holding(dir.path(), vec![(alice(), "alice")]);
    for stored in [None, Some(absent.as_path())] {
        let signer = Signer::choose(None, stored, &agent).await.unwrap();
        assert_eq!(signer.public(), alice().public());
    }
    // What is named must be there.
    let error = Signer::choose(Some(&absent), None, &agent).await.unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
    let error = Signer::choose(None, Some(&absent), &Agent::default()).await.unwrap_err().to_string();
    assert!(error.contains("your login's key file") && error.contains("ssh-agent"), "{error}");

    let agent = holding(dir.path(), vec![(alice(), "alice"), (mallory(), "spare")]);
    let error = Signer::choose(None, None, &agent).await.unwrap_err().to_string();
    for says in [&alice().public().fingerprint().to_string(), "spare", "--key FILE.pub"] {
        assert!(error.contains(says), "{error}");
    }
    let agent = holding(dir.path(), vec![]);
    assert!(matches!(Signer::choose(None, None, &agent).await, Err(SignerError::NoKey)));
}

#[tokio::test]
async fn a_file_with_a_passphrase_is_left_alone_while_the_agent_holds_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = alice().public();
    let file = write(dir.path(), "id", &encrypted(&key));
    assert_eq!(public_half_of_encrypted(&encrypted(&key)), Some(key));
    let plain = alice().to_openssh("alice").unwrap();
    assert_eq!(public_half_of_encrypted(&plain), None);
    let listed = framed(&identities(&[(key.blob(), "desk")]));
    let agent = serve(dir.path(), move |_| listed.clone());
    let signer = Signer::choose(Some(&file), None, &agent).await.unwrap();
    assert!(matches!(&signer, Signer::Agent { key: held, .. } if *held == key), "{signer:?}");
    // The file's mode still counts.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Signer::choose(Some(&file), None, &agent).await.unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    // A file without a passphrase asks nobody.
    let file = write(dir.path(), "plain", &plain);
    let gone = Agent::at(dir.path().join("absent"));
    assert!(matches!(Signer::choose(Some(&file), None, &gone).await, Ok(Signer::File(_))));
}

#[tokio::test]
async fn lying_agents_and_wrong_files_sign_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let signer = |agent| Signer::Agent { agent, key: alice().public() };
    let agent = serve(dir.path(), |_| framed(&signature(&[7; 64])));
    let error = signer(agent).sign(Namespace::Op, b"x").await.unwrap_err();
    assert!(matches!(error, SignerError::Wrong(_)), "{error}");

    let public = write(dir.path(), "id.pub", &alice().public().to_string());
    let agent = holding(dir.path(), vec![(mallory(), "mallory")]);
    let error = Signer::choose(Some(&public), None, &agent).await.unwrap_err();
    assert!(matches!(error, SignerError::NotHeld { .. }), "{error}");
    let error = Signer::choose(Some(&public), None, &Agent::default()).await.unwrap_err().to_string();
    assert!(error.contains("SSH_AUTH_SOCK"), "{error}");
    for (text, says) in [
        ("ssh-rsa AAAA alice", "keys of type ssh-rsa are not accepted"),
        ("sk-ssh-ed25519@openssh.com AAAA alice", "not accepted"),
        ("garbage", "not an OpenSSH private key"),
        (&format!("{BEGIN}\nAAAA\n{END}\n"), "not an OpenSSH private key"),
    ] {
        let file = write(dir.path(), "bad", text);
        let error = Signer::choose(Some(&file), None, &agent).await.unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let error = Signer::choose(Some(dir.path()), None, &agent).await.unwrap_err().to_string();
    assert!(error.contains("not a plain file"), "{error}");
}

#[test]
fn damaged_key_files_name_no_key() {
    let whole = encrypted(&alice().public());
    let body: String = whole.lines().filter(|line| !line.starts_with('-')).collect();
    // Up to the end of the public key, any cut is noticed.
    for cut in (0..152).step_by(4) {
        let short = format!("{BEGIN}\n{}\n{END}\n", &body[..cut]);
        assert_eq!(public_half_of_encrypted(&short), None, "{cut}");
    }
    assert_eq!(public_half_of_encrypted(&whole.replace(END, "")), None);
    assert_eq!(public_half_of_encrypted(&whole.replace("b3Blb", "!3Blb")), None);
}
