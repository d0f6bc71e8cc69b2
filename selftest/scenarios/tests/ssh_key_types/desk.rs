//! The tool, the host that decides, and the comparison of both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use authz::policy::{Bounds, Credential, Operator, PolicyDocument, Role, Root};
use authz::verify::{HostFacts, verify};
use authz::{Namespace, OperatorKey, Policy, RefusalCode, SecretKey};
use protocol::{Envelope, Fingerprint, HostId};
use scenarios::process::{Output, run};
use tempfile::TempDir;

pub(crate) const NAMESPACE: &str = "op.v1@writ";

/// Why we refuse what the tool accepts: the rule, and words of ours.
pub(crate) const STRICTER: [(&str, &str); 15] = [
    ("V2", "armor is not exactly"),
    ("V3", "version is not 1"),
    ("V4", "reserved field in use"),
    ("V8", "are not accepted"),
    ("V8", "RSA keys must have 3072 to 8192 bits"),
    ("V8", "exponent must be odd, at least 65537"),
    ("V9", "signature type differs from key type"),
    ("V11", "needless zeros in front"),
    ("V11", "not as long as the modulus"),
    ("V12", "nobody touched the security key"),
    ("V12", "wants PIN or biometric"),
    ("V12", "flags that mean something else"),
    ("V12", "its application must begin with ssh:"),
    ("V15", "the certificate does not count"),
    ("V16", "is revoked by this host's policy"),
];

/// A directory with keys made by the real tool.
pub(crate) struct Desk(pub(crate) TempDir);

impl Desk {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) async fn keygen(&self, args: &[&str], env: &[(&str, &str)], stdin: &[u8]) -> Output {
        run(Path::new("ssh-keygen"), args, env, self.0.path(), stdin).await.unwrap()
    }

    pub(crate) async fn new_key(&self, name: &str, options: &[&str]) {
        let out = self.keygen(&[&["-q", "-N", "", "-C", name, "-f", name], options].concat(), &[], b"").await;
        assert!(out.ok(), "ssh-keygen makes a key: {}", out.text());
    }

    pub(crate) fn line(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(&format!("{name}.pub"))).unwrap().trim().to_owned()
    }

    pub(crate) fn key(&self, name: &str) -> OperatorKey {
        OperatorKey::from_line(&self.line(name)).unwrap()
    }

    /// Certifies NAME.pub for alice into NAME-cert.pub.
    pub(crate) async fn certify(&self, ca: &str, name: &str, options: &[&str]) {
        let public = format!("{name}.pub");
        let args = [&["-q", "-s", ca, "-I", "the id"], options, &[public.as_str()]].concat();
        let out = self.keygen(&args, &[], b"").await;
        assert!(out.ok(), "ssh-keygen -s: {}", out.text());
    }

    pub(crate) async fn sign(
        &self,
        key: &str,
        options: &[&str],
        env: &[(&str, &str)],
        message: &[u8],
    ) -> String {
        let args = [&["-q", "-Y", "sign", "-f", key, "-n", NAMESPACE], options].concat();
        let out = self.keygen(&args, env, message).await;
        assert!(out.ok(), "ssh-keygen -Y sign: {}", out.text());
        out.stdout
    }

    /// Whether `ssh-keygen -Y verify` accepts, for this line of allowed_signers after the principal.
    pub(crate) async fn theirs(&self, line: &str, sig: &[u8], message: &[u8]) -> Output {
        std::fs::write(self.at("allowed"), format!("alice {line}\n")).unwrap();
        std::fs::write(self.at("sig"), sig).unwrap();
        let args = ["-Y", "verify", "-f", "allowed", "-I", "alice", "-n", NAMESPACE, "-s", "sig"];
        self.keygen(&args, &[], message).await
    }
}

/// An order that the format was frozen with: its signatures are checked before its contents.
pub(crate) fn order() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/authz/fixtures/orders");
    std::fs::read(folder.join("snapshot.rollback.json")).unwrap()
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Alice may sign orders with this; who could change the policy takes no part.
pub(crate) fn policy(credential: Credential) -> Policy {
    let operator = |name: &str, key| Operator { name: name.parse().unwrap(), keys: vec![key] };
    let role = |name: &str, namespace, member: &str| Role {
        name: name.parse().unwrap(),
        namespaces: vec![namespace],
        members: vec![member.parse().unwrap()],
    };
    let root = SecretKey::from_seed(&[0xee; 32]).public().into();
    let document = PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: Root { role: "root".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: 1,
        operators: vec![operator("alice", credential), operator("root", root)],
        roles: vec![role("ops", Namespace::Op, "alice"), role("root", Namespace::Policy, "root")],
        rules: vec![],
        bounds: Bounds::default(),
        revoked: vec![],
    };
    Policy::decode(&document.encode()).unwrap()
}

/// What a host says of the signature; that the order is for another host comes later.
pub(crate) fn ours(policy: &Policy, sig: &[u8], message: &[u8]) -> Result<(), (RefusalCode, String)> {
    // What is not UTF-8 cannot even be put into an envelope.
    let Ok(sig) = std::str::from_utf8(sig) else {
        return Err((RefusalCode::Malformed, "armor is not exactly".to_owned()));
    };
    let envelope = Envelope::new(message.to_vec().into(), vec![sig.to_owned()]);
    let host = HostFacts {
        clock: authz::clock::State::Trusted,
        floor: 0,
        stale: false,
        plans: None,
        id: HostId::from_bytes([0xee; 16]),
        key: Fingerprint::of_key_blob(b"none"),
        generation: 1,
        log: None,
    };
    match verify(&envelope, policy, &host, now()) {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.authenticated => Ok(()),
        Err(refusal) => Err((refusal.code, refusal.why)),
    }
}

/// Counts of the comparison; panics where law 1 or law 2 is broken.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) both: usize,
    pub(crate) neither: usize,
    pub(crate) only_theirs: BTreeMap<&'static str, usize>,
}

impl Tally {
    pub(crate) fn count(&mut self, what: &str, ours: Result<(), (RefusalCode, String)>, theirs: bool) {
        match (ours, theirs) {
            (Ok(()), true) => self.both += 1,
            (Ok(()), false) => panic!("law 1: we accept what ssh-keygen refuses: {what}"),
            (Err((_, why)), true) => {
                let known = STRICTER.iter().find(|(_, words)| why.contains(words));
                let (_, words) = known.unwrap_or_else(|| panic!("law 2: {what}: no listed reason: {why}"));
                *self.only_theirs.entry(words).or_default() += 1;
            }
            (Err(_), false) => self.neither += 1,
        }
    }
}

/// The same numbers on every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// What is expected: our code if we refuse, and whether the tool accepts.
pub(crate) type Expected = (Option<RefusalCode>, bool);

pub(crate) struct Table {
    pub(crate) desk: Desk,
    pub(crate) order: Vec<u8>,
    pub(crate) tally: Tally,
    pub(crate) rows: usize,
}

impl Table {
    pub(crate) async fn row(
        &mut self,
        what: &str,
        line: &str,
        policy: &Policy,
        sig: &[u8],
        expected: Expected,
    ) {
        let verdict = ours(policy, sig, &self.order);
        let theirs = self.desk.theirs(line, sig, &self.order).await;
        let code = verdict.as_ref().err().map(|(code, _)| *code);
        assert_eq!((code, theirs.ok()), expected, "{what}: {verdict:?}; ssh-keygen: {}", theirs.text());
        self.tally.count(what, verdict, theirs.ok());
        self.rows += 1;
    }
}
