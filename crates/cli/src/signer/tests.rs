use authz::policy::Policy;
use authz::sshsig::Claim;
use authz::statement::{Standing, verify_host, verify_login};

use super::*;
use crate::agent::fake::{framed, holding, list as identities, serve, signature};
use crate::testing::{NOW, alice, mallory, policy, statement};

/// What `ssh-keygen -t ed25519` writes for a key with a passphrase, as far as it can be read without one.
fn encrypted(key: &authz::PublicKey) -> String {
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

/// No policy, so no key is better than another.
const ANY: Purpose<'static> = Purpose { policy: None, namespace: Some(Namespace::Op), now: NOW };

/// What an honest agent signs.
fn to_sign(key: &SecretKey, message: &[u8]) -> [u8; 64] {
    use ed25519_dalek::Signer as _;
    ed25519_dalek::SigningKey::from_bytes(&key.seed())
        .sign(&sshsig::to_sign(Namespace::Op, message))
        .to_bytes()
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    files::write_atomic(&path, text.as_bytes()).unwrap();
    path
}

fn vouched(signed: &Signed, policy: &Policy) -> bool {
    verify_host(signed, policy, NOW).is_ok()
}

#[tokio::test]
async fn an_agent_signs_what_a_file_signs() {
    let dir = tempfile::tempdir().unwrap();
    let agent = holding(dir.path(), vec![(mallory(), "mallory"), (alice(), "alice@desk")]);
    let public = write(dir.path(), "id.pub", &format!("{} alice@desk\n", alice().public()));
    let signer = Signer::choose(Some(&public), None, &agent, ANY).await.unwrap();
    assert!(matches!(signer.via, Via::Agent { .. }) && *signer.public() == alice().public().into());
    for namespace in Namespace::ALL {
        let armored = signer.sign(*namespace, b"order").await.unwrap();
        assert_eq!(armored, alice().sign(*namespace, b"order"));
    }
    assert!(vouched(&signer.vouch(&statement(1, "web1")).await.unwrap(), &policy()));
    let (hub, challenge) = (Sha256::of(b"hub"), Sha256::of(b"c"));
    let login = signer.login(hub, challenge).await.unwrap();
    let known = |_: &Claim<'_>| Some(Standing { verify_required: false, max_validity_s: 0 });
    let key = verify_login(&login, &hub, &challenge, NOW, known).unwrap();
    assert_eq!(key, alice().public().into());
    // The same statements as authz makes them.
    let file = Signer::from(alice());
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
        let signer = Signer::choose(None, stored, &agent, ANY).await.unwrap();
        assert_eq!(*signer.public(), alice().public().into());
    }
    // What is named must be there.
    let error = Signer::choose(Some(&absent), None, &agent, ANY).await.unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
    let error = Signer::choose(None, Some(&absent), &Agent::default(), ANY).await.unwrap_err().to_string();
    assert!(error.contains("your login's key file") && error.contains("ssh-agent"), "{error}");

    let agent = holding(dir.path(), vec![(alice(), "alice"), (mallory(), "spare")]);
    let error = Signer::choose(None, None, &agent, ANY).await.unwrap_err().to_string();
    for says in [&alice().public().fingerprint().to_string(), "spare", "--key FILE.pub"] {
        assert!(error.contains(says), "{error}");
    }
    // The policy knows one of them.
    let policy = policy();
    let purpose = Purpose { policy: Some(&policy), ..ANY };
    for namespace in [Some(Namespace::Op), None] {
        let signer = Signer::choose(None, None, &agent, Purpose { namespace, ..purpose }).await.unwrap();
        assert_eq!(*signer.public(), alice().public().into());
    }
    // No operator key is valid for receipts, so none is better.
    let receipts = Purpose { namespace: Some(Namespace::Receipt), ..purpose };
    assert!(matches!(Signer::choose(None, None, &agent, receipts).await, Err(SignerError::Several { .. })));
    let agent = holding(dir.path(), vec![(alice(), "one"), (mallory(), "spare"), (alice(), "again")]);
    let error = Signer::choose(None, None, &agent, purpose).await.unwrap_err().to_string();
    assert!(error.contains("one, in your policy") && !error.contains("spare, in your policy"), "{error}");
    let agent = holding(dir.path(), vec![]);
    assert!(matches!(Signer::choose(None, None, &agent, ANY).await, Err(SignerError::NoKey)));
}

#[tokio::test]
async fn a_file_with_a_passphrase_is_left_alone_while_the_agent_holds_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = alice().public();
    let file = write(dir.path(), "id", &encrypted(&key));
    assert_eq!(openssh_public_half(&encrypted(&key)), Some((key.blob(), true)));
    let plain = alice().to_openssh("alice").unwrap();
    assert_eq!(openssh_public_half(&plain), Some((key.blob(), false)));
    let listed = framed(&identities(&[(key.blob(), "desk")]));
    let agent = serve(dir.path(), move |_| listed.clone());
    let signer = Signer::choose(Some(&file), None, &agent, ANY).await.unwrap();
    assert!(matches!(&signer.via, Via::Agent { asked, .. } if *asked == key.into()), "{signer:?}");
    // The file's mode still counts.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Signer::choose(Some(&file), None, &agent, ANY).await.unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    // A file without a passphrase asks nobody.
    let file = write(dir.path(), "plain", &plain);
    let gone = Agent::at(dir.path().join("absent"));
    assert!(matches!(
        Signer::choose(Some(&file), None, &gone, ANY).await,
        Ok(Signer { via: Via::File(_), .. })
    ));
}

#[tokio::test]
async fn lying_agents_and_wrong_files_sign_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let identity = OperatorIdentity::from(alice().public());
    let good = to_sign(&alice(), b"x");
    let answers = [
        ("random bytes", signature(&[7; 64])),
        ("another key", signature(&to_sign(&mallory(), b"x"))),
        ("other bytes", signature(&to_sign(&alice(), b"y"))),
        ("cut short", signature(&good[..63])),
        ("too long", signature(&[&good[..], &[0]].concat())),
        ("of another type", {
            let mut body = signature(&good);
            body[9] = b'S';
            body
        }),
        ("nothing", {
            let mut body = signature(&good);
            body.truncate(5);
            body[1..5].fill(0);
            body
        }),
    ];
    for (what, answer) in answers {
        let agent = serve(dir.path(), move |_| framed(&answer));
        let via = Via::Agent { agent, asked: identity.clone() };
        let signer = Signer { identity: identity.clone(), via, now: NOW };
        let error = signer.sign(Namespace::Op, b"x").await.unwrap_err();
        assert!(matches!(error, SignerError::Wrong { .. }), "{what}: {error}");
    }

    let public = write(dir.path(), "id.pub", &alice().public().to_string());
    let agent = holding(dir.path(), vec![(mallory(), "mallory")]);
    let error = Signer::choose(Some(&public), None, &agent, ANY).await.unwrap_err();
    assert!(matches!(error, SignerError::NotHeld { .. }), "{error}");
    let error = Signer::choose(Some(&public), None, &Agent::default(), ANY).await.unwrap_err().to_string();
    assert!(error.contains("SSH_AUTH_SOCK"), "{error}");
    for (text, says) in [
        ("ssh-dss AAAA alice", "keys of type ssh-dss are not accepted"),
        ("ssh-rsa AAAA alice", "not an OpenSSH public key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA alice", "not an OpenSSH public key"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n", "ssh-keygen -y -f"),
        ("garbage", "not an OpenSSH private key"),
        (&format!("{BEGIN}\nAAAA\n{END}\n"), "not an OpenSSH private key"),
    ] {
        let file = write(dir.path(), "bad", text);
        let error = Signer::choose(Some(&file), None, &agent, ANY).await.unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let error = Signer::choose(Some(dir.path()), None, &agent, ANY).await.unwrap_err().to_string();
    assert!(error.contains("not a plain file"), "{error}");
}

#[test]
fn damaged_key_files_name_no_key() {
    let whole = encrypted(&alice().public());
    let body: String = whole.lines().filter(|line| !line.starts_with('-')).collect();
    // Up to the end of the public key, any cut is noticed.
    for cut in (0..152).step_by(4) {
        let short = format!("{BEGIN}\n{}\n{END}\n", &body[..cut]);
        assert_eq!(openssh_public_half(&short), None, "{cut}");
    }
    assert_eq!(openssh_public_half(&whole.replace(END, "")), None);
    assert_eq!(openssh_public_half(&whole.replace("b3Blb", "!3Blb")), None);
}
