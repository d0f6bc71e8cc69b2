//! Revocation lists made by the real `ssh-keygen -k`, taken into a policy: whatever `ssh-keygen -Q` calls
//! revoked by the list is revoked by the policy, and nothing else is.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::path::Path;

use authz::policy::krl::{self, Part, Section, Unknown};
use authz::policy::{Authority, Credential, Operator, PolicyDocument, Role, Root};
use authz::{Namespace, OperatorKey, Policy, SecretKey};
use scenarios::process::{Output, run};
use tempfile::TempDir;

/// A directory with keys and certificates made by the real tool.
struct Desk {
    dir: TempDir,
    certificates: Vec<Certificate>,
}

struct Certificate {
    /// Of the key; the file is `NAME-cert.pub` in a folder of its own.
    file: String,
    key: &'static str,
    ca: &'static str,
    serial: u64,
    id: String,
}

const KEYS: [&str; 4] = ["alice", "bob", "rsa", "ecdsa"];
const CAS: [&str; 2] = ["ca", "second"];

impl Desk {
    async fn keygen(&self, args: &[&str]) -> Output {
        run(Path::new("ssh-keygen"), args, &[], self.dir.path(), b"").await.unwrap()
    }

    async fn made() -> Self {
        let mut desk = Self { dir: tempfile::tempdir().unwrap(), certificates: Vec::new() };
        for name in [&KEYS[..], &CAS[..]].concat() {
            let kind: &[&str] = match name {
                "rsa" => &["-t", "rsa", "-b", "3072"],
                "ecdsa" => &["-t", "ecdsa"],
                _ => &["-t", "ed25519"],
            };
            let out = desk.keygen(&[&["-q", "-N", "", "-C", name, "-f", name], kind].concat()).await;
            assert!(out.ok(), "{}", out.text());
        }
        for (ca, serial, id) in [
            ("ca", 0, "not numbered"),
            ("ca", 1, "one"),
            ("ca", 4, "four"),
            ("ca", 5, "five"),
            ("ca", 10, "ten"),
            ("ca", 11, "eleven"),
            ("ca", 1001, "a thousand and one"),
            ("ca", 1002, "a thousand and two"),
            ("ca", 70_000, "many"),
            ("second", 5, "five"),
            ("second", 6, "six"),
        ] {
            let (key, folder) = ("alice", format!("{ca}-{serial}"));
            std::fs::create_dir(desk.dir.path().join(&folder)).unwrap();
            let public = format!("{folder}/{key}.pub");
            std::fs::copy(desk.dir.path().join("alice.pub"), desk.dir.path().join(&public)).unwrap();
            let number = serial.to_string();
            let out = desk.keygen(&["-q", "-s", ca, "-I", id, "-n", "alice", "-z", &number, &public]).await;
            assert!(out.ok(), "{}", out.text());
            let file = format!("{folder}/{key}-cert.pub");
            desk.certificates.push(Certificate { file, key, ca, serial, id: id.to_owned() });
        }
        desk
    }

    fn line(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.pub"))).unwrap().trim().to_owned()
    }

    fn key(&self, name: &str) -> OperatorKey {
        OperatorKey::from_line(&self.line(name)).unwrap()
    }

    /// Everybody with a key, two CAs, and a root key that no list here revokes.
    fn policy(&self) -> PolicyDocument {
        let root = Credential::from(SecretKey::from_seed(&[1; 32]).public());
        let operator = |name: &str, keys| Operator { name: name.parse().unwrap(), keys };
        let mut operators: Vec<Operator> =
            KEYS.iter().map(|name| operator(name, vec![self.key(name).into()])).collect();
        operators[1].keys.extend(
            CAS.iter()
                .map(|ca| Credential::Authority(Authority::new(self.key(ca), vec!["alice".to_owned()]))),
        );
        operators.push(operator("root", vec![root]));
        PolicyDocument {
            v: 1,
            version: 1,
            prev: None,
            issued_at: 1_763_000_000,
            operators,
            roles: vec![Role {
                name: "root".parse().unwrap(),
                namespaces: vec![Namespace::Policy],
                members: vec!["root".parse().unwrap()],
            }],
            root: Root { role: "root".parse().unwrap(), threshold: 1 },
            rules: vec![],
            protected: vec![],
            bounds: Default::default(),
            freshness_s: None,
            revoked: vec![],
        }
    }

    /// Makes a list of these files; one that is named `spec` is written first.
    async fn list(&self, options: &[&str], spec: &str, files: &[&str]) -> Vec<u8> {
        std::fs::write(self.dir.path().join("spec"), spec).unwrap();
        let out = self.keygen(&[&["-q", "-k", "-f", "krl"], options, files].concat()).await;
        assert!(out.ok(), "{}", out.text());
        std::fs::read(self.dir.path().join("krl")).unwrap()
    }

    /// What `ssh-keygen -Q` says of a file.
    async fn is_revoked(&self, file: &str) -> bool {
        let out = self.keygen(&["-Q", "-f", "krl", file]).await;
        let revoked = out.text().contains("REVOKED");
        assert!(revoked != out.text().contains(": ok") && revoked != out.ok(), "{}", out.text());
        revoked
    }

    /// Takes the list into the policy, and holds both against each other. How many files are revoked.
    async fn compare(&self, bytes: &[u8]) -> usize {
        let list = krl::parse(bytes).unwrap();
        let mut document = self.policy();
        let resolved = krl::resolve(&list, &document, Unknown::Refuse).unwrap();
        let added = krl::import(&mut document, &resolved.revoked);
        assert_eq!((added.new.len(), added.known.len()), (resolved.revoked.len(), 0));
        let policy = Policy::decode(&document.encode()).unwrap();
        let mut count = 0;
        for name in [&KEYS[..], &CAS[..]].concat() {
            let theirs = self.is_revoked(&format!("{name}.pub")).await;
            assert_eq!(policy.is_revoked(&self.key(name)), theirs, "{name}");
            count += usize::from(theirs);
        }
        for certificate in &self.certificates {
            let Certificate { file, key, ca, serial, id } = certificate;
            let theirs = self.is_revoked(file).await;
            let by_ca = document.operators[1].keys.iter().filter_map(Credential::authority);
            let ours = policy.is_revoked(&self.key(key))
                || policy.is_revoked(&self.key(ca))
                || by_ca.filter(|authority| authority.ca == self.key(ca)).any(|authority| {
                    authority.revoked_serials.contains(serial) || authority.revoked_key_ids.contains(id)
                });
            assert_eq!(ours, theirs, "{file}");
            count += usize::from(theirs);
        }
        count
    }
}

/// What it is called, options, what stands in `spec`, files, and how many of the desk's keys and certificates that
/// revokes.
type Row<'a> = (&'a str, Vec<&'a str>, String, Vec<&'a str>, usize);

#[tokio::test]
async fn what_ssh_keygen_revokes_is_revoked_here() {
    let desk = Desk::made().await;
    let sha = |kind: &str, name: &str| format!("{kind}: {}\n", desk.line(name));
    let odd: String = (0..200).map(|n| format!("serial: {}\n", 801 + 2 * n)).collect();
    let table: Vec<Row<'_>> = vec![
        ("a key", vec![], String::new(), vec!["bob.pub"], 1),
        ("keys of all types", vec![], String::new(), vec!["bob.pub", "rsa.pub", "ecdsa.pub"], 3),
        ("a key with its certificates", vec![], String::new(), vec!["alice.pub"], 12),
        ("a CA", vec![], String::new(), vec!["ca.pub"], 10),
        ("SHA-1", vec![], sha("sha1", "rsa") + &sha("sha1", "bob"), vec!["spec"], 2),
        ("SHA-256", vec![], sha("sha256", "ecdsa") + &sha("sha256", "bob"), vec!["spec"], 2),
        ("a certificate by serial", vec![], String::new(), vec!["ca-11/alice-cert.pub"], 1),
        ("one without a number, by id", vec![], String::new(), vec!["ca-0/alice-cert.pub"], 1),
        ("of two CAs", vec![], String::new(), vec!["ca-5/alice-cert.pub", "second-5/alice-cert.pub"], 2),
        ("a serial", vec!["-s", "ca.pub"], "serial: 5\n".to_owned(), vec!["spec"], 1),
        ("a range", vec!["-s", "ca.pub"], "serial: 4-10\n".to_owned(), vec!["spec"], 3),
        ("far apart", vec!["-s", "ca.pub"], "serial: 1\nserial: 70000\n".to_owned(), vec!["spec"], 2),
        ("every second one", vec!["-s", "ca.pub"], odd, vec!["spec"], 1),
        ("ids", vec!["-s", "ca.pub"], "id: five\nid: ten\nid: nobody\n".to_owned(), vec!["spec"], 2),
        ("any CA", vec!["-s", "none"], "serial: 5\nid: six\n".to_owned(), vec!["spec"], 3),
        (
            "everything",
            vec!["-s", "ca.pub", "-z", "12"],
            format!(
                "serial: 1\nserial: 1000-1005\nid: many\n{}{}",
                sha("sha1", "rsa"),
                sha("sha256", "ecdsa")
            ),
            vec!["spec", "bob.pub", "second.pub"],
            4 + 2 + 2 + 1 + 1,
        ),
    ];
    for (what, options, spec, files, count) in table {
        let bytes = desk.list(&options, &spec, &files).await;
        assert_eq!(desk.compare(&bytes).await, count, "{what}");
    }
    // What is there stays when more is added, and the version is read.
    let bytes = desk.list(&["-u", "-z", "13"], "", &["rsa.pub", "ca-4/alice-cert.pub"]).await;
    assert_eq!(krl::parse(&bytes).unwrap().version, 13);
    assert_eq!(desk.compare(&bytes).await, 11);
}

#[tokio::test]
async fn all_three_ways_to_write_serials_were_read() {
    let desk = Desk::made().await;
    let odd: String = (0..200).map(|n| format!("serial: {}\n", 801 + 2 * n)).collect();
    let spec = format!("serial: 1\nserial: 70000\nserial: 100-160\n{odd}");
    let bytes = desk.list(&["-s", "ca.pub"], &spec, &["spec"]).await;
    let list = krl::parse(&bytes).unwrap();
    let mut seen = [0; 3];
    for section in &list.sections {
        let Section::Certificates { parts, .. } = section else { panic!("{section:?}") };
        for part in parts {
            match part {
                Part::Serials(_) => seen[0] += 1,
                Part::Range(_) => seen[1] += 1,
                Part::Bitmap(_) => seen[2] += 1,
                Part::KeyIds(_) | Part::Extension(_) => panic!("{part:?}"),
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    let resolved = krl::resolve(&list, &desk.policy(), Unknown::Refuse).unwrap();
    assert_eq!(resolved.revoked.len(), 2 + 61 + 200);
}

#[tokio::test]
async fn lists_that_revoke_nothing_or_are_no_lists_are_refused() {
    let desk = Desk::made().await;
    let bytes = desk.list(&[], "", &[]).await;
    assert!(krl::parse(&bytes).unwrap_err().why.contains("revokes nothing"));
    assert!(krl::parse(desk.line("bob").as_bytes()).unwrap_err().why.contains("no KRL"));
    // A CA that the policy does not know, and a range that stands for "all".
    let bytes = desk.list(&["-s", "bob.pub"], "serial: 5\n", &["spec"]).await;
    let error = krl::resolve(&krl::parse(&bytes).unwrap(), &desk.policy(), Unknown::Refuse).unwrap_err();
    assert!(error.why.contains(&desk.key("bob").fingerprint().to_string()), "{error}");
    let bytes = desk.list(&["-s", "ca.pub"], "serial: 1-18446744073709551615\n", &["spec"]).await;
    assert!(krl::parse(&bytes).unwrap_err().why.contains("revoke the CA"));
    // ssh-keygen would call the same list good as long as it is whole.
    let bytes = desk.list(&[], "", &["bob.pub", "alice.pub"]).await;
    for length in 0..bytes.len() {
        assert!(krl::parse(&bytes[..length]).is_err(), "{length}");
    }
}
