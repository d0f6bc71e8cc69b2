//! Operators with keys of every type: `writ` signs from files, by ssh-agent, with certificates and with security
//! keys, believes none of them, and M of N operators order together.
//!
//! Keys are made by the machine's own ssh-keygen at run time. Security keys are played by `sk-dummy.so` of
//! Debian's `openssh-tests`; where it is not installed that test says so and does nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use authz::policy::{Authority, Bounds, Credential, Operator, PolicyDocument, Role, Root, Rule};
use authz::{Kind, Namespace, OperatorKey, Policy, lookup};
use scenarios::bins::Bins;
use scenarios::process::{Output, Process, run};
use scenarios::stand::{Stand, expect};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const TYPES: [(&str, &[&str]); 5] = [
    ("ed25519", &["-t", "ed25519"]),
    ("ecdsa256", &["-t", "ecdsa", "-b", "256"]),
    ("ecdsa384", &["-t", "ecdsa", "-b", "384"]),
    ("ecdsa521", &["-t", "ecdsa", "-b", "521"]),
    ("rsa3072", &["-t", "rsa", "-b", "3072"]),
];

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A directory with keys, an order, and a `writ` that never logged in.
struct Desk {
    dir: TempDir,
    writ: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/authz/fixtures/orders");
        std::fs::copy(golden.join("snapshot.rollback.json"), dir.path().join("order.json")).unwrap();
        Self { dir, writ: Bins::ready().unwrap().path("writ") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    async fn tool(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
        run(Path::new(program), args, env, self.dir.path(), b"").await.unwrap()
    }

    async fn new_key(&self, name: &str, options: &[&str]) {
        let args = [&["-q", "-N", "", "-C", name, "-f", name], options].concat();
        let out = self.tool("ssh-keygen", &args, &[]).await;
        assert!(out.ok(), "{}", out.text());
    }

    async fn certify(&self, name: &str) {
        let public = format!("{name}.pub");
        let args = ["-q", "-s", "ca", "-I", "id", "-n", "alice", "-V", "+8h", &public];
        let out = self.tool("ssh-keygen", &args, &[]).await;
        assert!(out.ok(), "{}", out.text());
    }

    /// An agent of our own, ended when it is dropped.
    async fn agent(&self) -> (Process, String) {
        let socket = self.text("agent.sock");
        let args = ["-D", "-a", &socket];
        let agent = Process::start("ssh-agent", Path::new("ssh-agent"), &args, &[], self.dir.path()).unwrap();
        let started = tokio::time::Instant::now();
        while UnixStream::connect(&socket).await.is_err() {
            assert!(started.elapsed().as_secs() < 20, "ssh-agent listens");
            tokio::task::yield_now().await;
        }
        (agent, socket)
    }

    async fn add(&self, name: &str, socket: &str) {
        let out = self.tool("ssh-add", &["-q", name], &[("SSH_AUTH_SOCK", socket)]).await;
        assert!(out.ok(), "{}", out.text());
    }

    fn policy(&self, key: &str) -> Policy {
        policy_of(vec![("alice", vec![self.key(key).into()])], 1)
    }

    fn by_ca(&self) -> Policy {
        let ca = Authority::new(self.key("ca"), vec!["alice".to_owned()]);
        // Certificates do not count for changes of the policy, so somebody has a key.
        let zoe = authz::SecretKey::from_seed(&[0x20; 32]).public();
        policy_of(vec![("alice", vec![Credential::Authority(ca)]), ("zoe", vec![zoe.into()])], 1)
    }

    fn key(&self, name: &str) -> OperatorKey {
        key_at(&self.at(&format!("{name}.pub")))
    }

    /// `writ sign --key KEY`, without any login.
    async fn sign(&self, key: &str, env: &[(&str, &str)]) -> Output {
        let home = self.text("home");
        let path = std::env::var("PATH").unwrap();
        let defaults = [("WRIT_HOME", home.as_str()), ("SSH_AUTH_SOCK", ""), ("PATH", path.as_str())];
        let args = ["--verbose", "sign", "order.json", "--force", "--key", key];
        run(&self.writ, &args, &[&defaults, env].concat(), self.dir.path(), b"").await.unwrap()
    }

    /// The same, and it is a signature that a host counts.
    async fn signs(&self, what: &str, key: &str, env: &[(&str, &str)], policy: &Policy) -> Output {
        let _ = std::fs::remove_file(self.at("order.json.sig"));
        let out = self.sign(key, env).await;
        assert!(out.ok(), "{what}: {}", out.text());
        let (sig, order) = (self.read("order.json.sig"), std::fs::read(self.at("order.json")).unwrap());
        let by = lookup::judge(&sig, Namespace::Op, &order, policy, now());
        assert_eq!(by.unwrap().operator.as_str(), "alice", "{what}");
        assert!(lookup::judge(&sig, Namespace::Op, b"other", policy, now()).is_err(), "{what}");
        out
    }

    /// Nothing is signed, and the reason is said.
    async fn refuses(&self, what: &str, key: &str, env: &[(&str, &str)], says: &str) {
        let _ = std::fs::remove_file(self.at("order.json.sig"));
        let out = self.sign(key, env).await;
        assert!(!out.ok() && out.stderr.contains(says), "{what}: {}", out.text());
        assert!(!self.at("order.json.sig").exists(), "{what}");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).unwrap()
    }

    fn script(&self, name: &str, text: &str) -> String {
        std::fs::write(self.at(name), text).unwrap();
        std::fs::set_permissions(self.at(name), std::fs::Permissions::from_mode(0o700)).unwrap();
        self.text(name)
    }
}

fn key_at(path: &Path) -> OperatorKey {
    OperatorKey::from_line(std::fs::read_to_string(path).unwrap().trim()).unwrap()
}

fn policy_of(operators: Vec<(&str, Vec<Credential>)>, rollbacks: u32) -> Policy {
    let document = document(operators, rollbacks);
    Policy::decode(&document.encode()).unwrap()
}

fn document(operators: Vec<(&str, Vec<Credential>)>, rollbacks: u32) -> PolicyDocument {
    let operators: Vec<Operator> =
        operators.into_iter().map(|(name, keys)| Operator { name: name.parse().unwrap(), keys }).collect();
    let rule = |kind, threshold| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold,
        standing: true,
        max_validity_s: 3_600,
    };
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: now(),
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Op, Namespace::Policy, Namespace::Enroll],
            members: operators.iter().map(|operator| operator.name.clone()).collect(),
        }],
        operators,
        rules: vec![rule(Kind::SnapshotRollback, rollbacks), rule(Kind::GuestTag, 1)],
        bounds: Bounds::default(),
        revoked: vec![],
    }
}

#[tokio::test]
async fn every_type_signs_from_a_file_by_the_agent_and_with_a_certificate() {
    let desk = Desk::new();
    let (_agent, socket) = desk.agent().await;
    let env = [("SSH_AUTH_SOCK", socket.as_str())];
    desk.new_key("ca", &["-t", "ed25519"]).await;
    let by_ca = desk.by_ca();
    for (name, options) in TYPES {
        desk.new_key(name, options).await;
        desk.certify(name).await;
        let (plain, public, cert) = (desk.policy(name), format!("{name}.pub"), format!("{name}-cert.pub"));
        desk.signs(&format!("{name}, file"), name, &[], &plain).await;
        desk.signs(&format!("{name}, public file beside the private"), &public, &[], &plain).await;
        desk.signs(&format!("{name}, certificate beside the private"), &cert, &[], &by_ca).await;
        desk.add(name, &socket).await;
        // The private key is away while the agent signs.
        std::fs::rename(desk.at(name), desk.at("away")).unwrap();
        desk.signs(&format!("{name}, agent"), &public, &env, &plain).await;
        desk.signs(&format!("{name}, certificate in the agent"), &cert, &env, &by_ca).await;
        std::fs::rename(desk.at(&cert), desk.at("cert-away")).unwrap();
        let out = desk.tool("ssh-add", &["-q", "-D"], &env).await;
        assert!(out.ok(), "{}", out.text());
        std::fs::rename(desk.at("away"), desk.at(name)).unwrap();
        desk.add(name, &socket).await;
        std::fs::rename(desk.at("cert-away"), desk.at(&cert)).unwrap();
        std::fs::rename(desk.at(name), desk.at("away")).unwrap();
        desk.signs(&format!("{name}, its key in the agent, certificate here"), &cert, &env, &by_ca).await;
        // Without a name: the only one.
        let out = desk.tool("ssh-add", &["-q", "-D"], &env).await;
        assert!(out.ok(), "{}", out.text());
        desk.refuses(&format!("{name}, gone"), &public, &env, "`ssh-add` it").await;
        std::fs::rename(desk.at("away"), desk.at(name)).unwrap();
    }
    // A signature of ours is one of theirs.
    let allowed = format!("alice {}", desk.read("rsa3072.pub"));
    std::fs::write(desk.at("allowed"), allowed).unwrap();
    desk.signs("rsa", "rsa3072", &[], &desk.policy("rsa3072")).await;
    let args = ["-Y", "verify", "-f", "allowed", "-I", "alice", "-n", "op.v1@writ", "-s", "order.json.sig"];
    let order = std::fs::read(desk.at("order.json")).unwrap();
    let theirs = run(Path::new("ssh-keygen"), &args, &[], desk.dir.path(), &order).await.unwrap();
    assert!(theirs.ok(), "{}", theirs.text());
}

#[tokio::test]
async fn passphrases_and_old_files_and_certificates_that_ended() {
    let desk = Desk::new();
    let out = desk.tool("ssh-keygen", &["-q", "-t", "ecdsa", "-N", "open sesame", "-f", "locked"], &[]).await;
    assert!(out.ok(), "{}", out.text());
    let askpass = desk.script("askpass", "#!/bin/sh\necho open sesame\n");
    let env = [("SSH_ASKPASS", askpass.as_str()), ("SSH_ASKPASS_REQUIRE", "force"), ("DISPLAY", ":9")];
    desk.signs("ssh-keygen asks for the passphrase", "locked", &env, &desk.policy("locked")).await;
    let wrong = desk.script("askpass", "#!/bin/sh\necho wrong\n");
    let env = [("SSH_ASKPASS", wrong.as_str()), ("SSH_ASKPASS_REQUIRE", "force"), ("DISPLAY", ":9")];
    desk.refuses("a wrong passphrase", "locked", &env, "ssh-keygen did not sign").await;

    desk.new_key("old", &["-t", "rsa", "-b", "3072", "-m", "PEM"]).await;
    assert!(desk.read("old").starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    desk.signs("PEM", "old", &[], &desk.policy("old")).await;
    std::fs::rename(desk.at("old.pub"), desk.at("away.pub")).unwrap();
    desk.refuses("PEM alone", "old", &[], "ssh-keygen -y -f").await;

    // Files that do not belong together.
    desk.new_key("one", &["-t", "ecdsa"]).await;
    desk.new_key("two", &["-t", "ecdsa"]).await;
    std::fs::copy(desk.at("two.pub"), desk.at("one.pub")).unwrap();
    desk.refuses("another public half", "one.pub", &[], "is not the private half").await;
    std::fs::set_permissions(desk.at("two"), std::fs::Permissions::from_mode(0o644)).unwrap();
    desk.refuses("readable by all", "two", &[], "chmod 600").await;
    desk.new_key("weak", &["-t", "rsa", "-b", "2048"]).await;
    desk.refuses("a short RSA key", "weak", &[], "3072 to 8192 bits").await;

    desk.new_key("ca", &["-t", "ed25519"]).await;
    desk.new_key("late", &["-t", "ed25519"]).await;
    let args = ["-q", "-s", "ca", "-I", "id", "-n", "alice", "-V", "20200101:20200102", "late.pub"];
    assert!(desk.tool("ssh-keygen", &args, &[]).await.ok());
    desk.refuses("a certificate of the past", "late-cert.pub", &[], "it has expired").await;
}

#[tokio::test]
async fn an_ssh_keygen_that_lies_signs_nothing() {
    let desk = Desk::new();
    desk.new_key("mine", &["-t", "ecdsa"]).await;
    desk.new_key("theirs", &["-t", "ecdsa"]).await;
    let real = desk.tool("sh", &["-c", "command -v ssh-keygen"], &[]).await.stdout.trim().to_owned();
    let theirs = desk.text("theirs");
    let bin = desk.text("bin");
    std::fs::create_dir(&bin).unwrap();
    for (what, body, says) in [
        ("another key", format!("exec {real} -q -Y sign -n op.v1@writ -f {theirs}"), "by another key"),
        (
            "another purpose",
            format!("exec {real} -q -Y sign -n file -f {}", desk.text("mine")),
            "by another key",
        ),
        (
            "other bytes",
            format!("cat >/dev/null; echo x | {real} -q -Y sign -n op.v1@writ -f {}", desk.text("mine")),
            "over other bytes",
        ),
        ("nothing", "cat >/dev/null".to_owned(), "over other bytes"),
        ("a flood", "cat >/dev/null; exec yes".to_owned(), "is no SSH signature"),
        ("no", "exit 9".to_owned(), "exit status 9"),
    ] {
        desk.script("bin/ssh-keygen", &format!("#!/bin/sh\n{body}\n"));
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
        desk.refuses(what, "mine", &[("PATH", &path)], says).await;
    }
    desk.refuses("none there", "mine", &[("PATH", "/nonexistent")], "is not installed").await;
}

/// Between `writ` and a real agent: changes what is asked or what is answered.
fn proxy(listen: &Path, real: String, change: impl Fn(bool, &mut Vec<u8>) + Send + 'static) {
    let _ = std::fs::remove_file(listen);
    let listener = UnixListener::bind(listen).unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = UnixStream::connect(&real).await.unwrap();
            let Ok(length) = near.read_u32().await else { continue };
            let mut message = vec![0; length as usize];
            near.read_exact(&mut message).await.unwrap();
            let signing = message[0] == 13;
            if signing {
                change(true, &mut message);
            }
            far.write_u32(message.len() as u32).await.unwrap();
            far.write_all(&message).await.unwrap();
            let length = far.read_u32().await.unwrap();
            let mut answer = vec![0; length as usize];
            far.read_exact(&mut answer).await.unwrap();
            if signing {
                change(false, &mut answer);
            }
            near.write_u32(answer.len() as u32).await.unwrap();
            near.write_all(&answer).await.unwrap();
        }
    });
}

/// The blob of a public key line, as it stands in agent messages.
fn wire_of(line: &str) -> Vec<u8> {
    let blob = key_blob(line);
    [&u32::try_from(blob.len()).unwrap().to_be_bytes()[..], &blob].concat()
}

fn key_blob(line: &str) -> Vec<u8> {
    data_encoding::BASE64.decode(line.split_whitespace().nth(1).unwrap().as_bytes()).unwrap()
}

#[tokio::test]
async fn an_agent_that_lies_signs_nothing() {
    let desk = Desk::new();
    let (_agent, socket) = desk.agent().await;
    for name in ["ecdsa256", "rsa3072"] {
        let (_, options) = TYPES.into_iter().find(|(known, _)| *known == name).unwrap();
        let other = format!("{name}-other");
        for key in [name, &other] {
            desk.new_key(key, options).await;
            desk.add(key, &socket).await;
            std::fs::remove_file(desk.at(key)).unwrap();
        }
        let (mine, theirs) =
            (wire_of(&desk.read(&format!("{name}.pub"))), wire_of(&desk.read(&format!("{other}.pub"))));
        let between = desk.at("proxy.sock");
        let env = [("SSH_AUTH_SOCK", between.to_str().unwrap())];
        let public = format!("{name}.pub");
        proxy(&between, socket.clone(), |_, _| {});
        desk.signs(&format!("{name}, honest"), &public, &env, &desk.policy(name)).await;
        let from = mine.len();
        proxy(&between, socket.clone(), move |asking, message| {
            if asking {
                message.splice(1..=from, theirs.clone());
            }
        });
        desk.refuses(&format!("{name}, another key"), &public, &env, "by another key").await;
        proxy(&between, socket.clone(), move |asking, message| {
            if asking {
                let last = message.len() - 5;
                message[last] ^= 1;
            }
        });
        desk.refuses(&format!("{name}, other bytes"), &public, &env, "over other bytes").await;
        proxy(&between, socket.clone(), |asking, message| {
            if !asking {
                message.truncate(message.len() - 1);
            }
        });
        desk.refuses(&format!("{name}, cut short"), &public, &env, "does not answer as an ssh-agent").await;
        if name == "rsa3072" {
            // SHA-1, as agents of long ago make it for flags that are not set.
            proxy(&between, socket.clone(), |asking, message| {
                if asking {
                    let last = message.len() - 1;
                    message[last] = 0;
                }
            });
            desk.refuses("SHA-1", &public, &env, "ssh-agent").await;
        }
    }
}

/// Where Debian's `openssh-tests` has it, or `$WRIT_SK_DUMMY`.
fn sk_dummy() -> Option<String> {
    let places = [
        std::env::var("WRIT_SK_DUMMY").unwrap_or_default(),
        "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so".to_owned(),
    ];
    places.into_iter().find(|place| Path::new(place).is_file())
}

#[tokio::test]
async fn security_keys_sign_with_a_touch_only() {
    let Some(dummy) = sk_dummy() else {
        println!("SKIPPED: sk-dummy.so is not here: apt install openssh-tests, or name it in $WRIT_SK_DUMMY");
        return;
    };
    let desk = Desk::new();
    let env = [("SSH_SK_PROVIDER", dummy.as_str())];
    desk.new_key("ca", &["-t", "ed25519"]).await;
    for kind in ["ed25519-sk", "ecdsa-sk"] {
        desk.new_key(kind, &["-t", kind, "-w", &dummy]).await;
        let out = desk.signs(kind, kind, &env, &desk.policy(kind)).await;
        assert!(out.stderr.contains("Touch your security key"), "{}", out.text());
        desk.certify(kind).await;
        desk.signs(kind, &format!("{kind}-cert.pub"), &env, &desk.by_ca()).await;
        let lazy = format!("{kind}-lazy");
        desk.new_key(&lazy, &["-t", kind, "-w", &dummy, "-O", "no-touch-required"]).await;
        desk.refuses(&lazy, &lazy, &env, "nobody touched the security key").await;
    }
}

/// The stand with these operators, and what they sign with.
struct Together {
    stand: Stand,
    _agent: Process,
    socket: String,
}

impl Together {
    async fn new() -> Self {
        let mut stand = Stand::new().await.unwrap();
        stand.start_sim().await.unwrap();
        stand.init_hub().await.unwrap();
        let keys = stand.at("keys");
        let make = async |args: &[&str]| {
            let out = run(Path::new("ssh-keygen"), args, &[], &keys, b"").await.unwrap();
            expect("ssh-keygen", &out).unwrap();
        };
        make(&["-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", "ana"]).await;
        make(&["-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", "bob"]).await;
        make(&["-q", "-t", "ed25519", "-N", "", "-f", "carol"]).await;
        make(&["-q", "-t", "ecdsa", "-N", "", "-f", "ca"]).await;
        make(&["-q", "-s", "ca", "-I", "carol", "-n", "carol", "-V", "+8h", "carol.pub"]).await;
        let line = |name: &str| std::fs::read_to_string(keys.join(format!("{name}.pub"))).unwrap();
        let operators = format!("ana {}bob {}carol cert-authority {}", line("ana"), line("bob"), line("ca"));
        stand.write("hub/operators", &operators).unwrap();
        stand.start_hub().await.unwrap();
        let key = |name: &str| key_at(&keys.join(format!("{name}.pub")));
        let ca = Credential::Authority(Authority::new(key("ca"), vec!["carol".to_owned()]));
        let policy = document(
            vec![("ana", vec![key("ana").into()]), ("bob", vec![key("bob").into()]), ("carol", vec![ca])],
            2,
        );
        stand.write_work("policy.json", &policy.encode()).unwrap();

        // Bob's key lives in an agent, and another one that is nobody's.
        let socket = stand.text("agent.sock");
        let args = ["-D", "-a", &socket];
        let agent =
            Process::start("ssh-agent", Path::new("ssh-agent"), &args, &[], &stand.at("logs")).unwrap();
        let started = tokio::time::Instant::now();
        while UnixStream::connect(&socket).await.is_err() {
            assert!(started.elapsed().as_secs() < 20, "ssh-agent listens");
            tokio::task::yield_now().await;
        }
        for name in ["bob", "alice"] {
            let out =
                run(Path::new("ssh-add"), &["-q", name], &[("SSH_AUTH_SOCK", &socket)], &keys, b"").await;
            expect("ssh-add", &out.unwrap()).unwrap();
        }
        std::fs::remove_file(keys.join("bob")).unwrap();
        Self { stand, _agent: agent, socket }
    }

    /// `writ` as one of them: an own state directory, and for bob his agent.
    async fn writ(&self, who: &str, args: &[&str]) -> Output {
        let home = self.stand.text(&format!("home-{who}"));
        let socket = if who == "bob" { self.socket.as_str() } else { "" };
        let env = [("WRIT_HOME", home.as_str()), ("SSH_AUTH_SOCK", socket)];
        run(&self.stand.bin("writ"), args, &env, &self.stand.at("work"), b"").await.unwrap()
    }

    async fn login(&self, who: &str, key: Option<&str>) -> Output {
        let (hub, pin) = (self.stand.hub_url(), &self.stand.hub_pin);
        let mut args = vec!["login", "--hub", &hub, "--pin", pin, "--policy", "policy.json"];
        let file = key.map(|key| self.stand.text(&format!("keys/{key}")));
        args.extend(file.iter().flat_map(|file| ["--key", file.as_str()]));
        self.writ(who, &args).await
    }
}

fn says(out: &Output, code: i32, words: &str) {
    assert!(out.code == Some(code) && out.text().contains(words), "wanted {words:?}: {}", out.text());
}

#[tokio::test]
async fn an_ecdsa_key_an_agent_and_a_certificate_order_together() {
    let mut all = Together::new().await;
    says(&all.login("ana", Some("ana")).await, 0, "as ana");
    // Of two keys in the agent the one that the policy lists.
    says(&all.login("bob", None).await, 0, "as bob");
    says(&all.login("carol", Some("carol-cert.pub")).await, 0, "as carol until");
    says(&all.login("eve", Some("alice")).await, 1, "may not log in here");
    says(&all.login("eve", Some("carol")).await, 1, "may not log in here");

    all.stand.write_host_configs().unwrap();
    all.stand.start_runner(&[]).await.unwrap();
    all.stand.start_warden(&[]).await.unwrap();
    let code = all.writ("ana", &["enroll", "new", "--name", "web1", "--site", "berlin", "--code-only"]).await;
    expect("writ enroll new", &code).unwrap();
    expect("writ-agent enroll", &all.stand.agent_enroll(&code.stdout).await.unwrap()).unwrap();
    // A name must outlive a certificate.
    let cert = all.stand.text("keys/carol-cert.pub");
    says(
        &all.writ("ana", &["enroll", "approve", "web1", "--key", &cert]).await,
        1,
        "would end with your certificate",
    );
    says(&all.writ("ana", &["enroll", "approve", "web1"]).await, 0, "is approved");
    all.stand.start_agent().await.unwrap();
    std::fs::rename(all.stand.at("home-ana"), all.stand.at("operator")).unwrap();
    std::os::unix::fs::symlink(all.stand.at("operator"), all.stand.at("home-ana")).unwrap();
    all.stand.wait_online("web1").await.unwrap();

    let op = ["op", "snapshot.rollback", "web1", "101", "before-upgrade", "-o", "order.json"];
    says(&all.writ("ana", &op).await, 0, "writ cosign order.json");
    says(&all.writ("bob", &["cosign", "order.json"]).await, 1, "is not signed yet");
    says(&all.writ("ana", &["sign", "order.json"]).await, 0, "1 of 2 signatures");
    let alone = all.writ("ana", &["submit", "order.json"]).await;
    says(&alone, 1, "refused (threshold)");
    assert!(alone.stderr.contains("needs 2 signer(s) of role ops, this order has 1"), "{}", alone.text());

    // One person, and one key, counts once.
    says(&all.writ("ana", &["cosign", "order.json"]).await, 1, "ana signed this order already");
    let both = all.writ("bob", &["cosign", "order.json"]).await;
    says(&both, 0, "Next: writ submit order.json");
    for shown in
        ["by ana with key", "unchanged: UUID", "unchanged: version 1", "time left", "there are 2", "SHA-256"]
    {
        assert!(both.stderr.contains(shown), "{shown}: {}", both.text());
    }
    assert!(all.stand.at("work/order.json.sig.2").exists());
    says(&all.writ("bob", &["cosign", "order.json"]).await, 1, "bob signed this order already");
    let done = all.writ("bob", &["submit", "order.json"]).await;
    says(&done, 0, "done: the guest stands at snapshot before-upgrade");
    assert!(!done.stderr.contains("will refuse"), "{}", done.text());
    let log = all.stand.receipts("web1").await.unwrap();
    let both_named = |receipt: &serde_json::Value| {
        let text = receipt.to_string();
        text.contains("\"ana\"") && text.contains("\"bob\"")
    };
    assert!(log.iter().any(both_named), "{log:?}");

    // A certificate as the second signer, where the order wants more than the policy.
    let tag = ["op", "guest.tag", "web1", "101", "both", "-o", "tag.json", "--min-signers", "2"];
    says(&all.writ("ana", &[&tag[..8], &["4"]].concat()).await, 1, "can never be reached");
    says(&all.writ("ana", &tag).await, 0, "have 1 more operator(s) sign it");
    says(&all.writ("ana", &["sign", "tag.json"]).await, 0, "1 of 2 signatures");
    says(&all.writ("carol", &["cosign", "tag.json"]).await, 0, "Signed as carol");
    says(&all.writ("carol", &["submit", "tag.json"]).await, 0, "done: ");

    // A signature over something else beside it spoils the order: nobody adds a good one.
    std::fs::copy(all.stand.at("work/tag.json.sig"), all.stand.at("work/order.json.sig.3")).unwrap();
    says(&all.writ("carol", &["cosign", "order.json"]).await, 1, "order.json.sig.3 does not count");

    // What changed since: the guest is replaced by a namesake.
    let again = ["op", "guest.tag", "web1", "101", "later", "-o", "late.json", "--min-signers", "2"];
    says(&all.writ("ana", &again).await, 0, "writ cosign late.json");
    says(&all.writ("ana", &["sign", "late.json"]).await, 0, "1 of 2 signatures");
    let order: serde_json::Value =
        serde_json::from_slice(&all.stand.read_work("late.json").unwrap()).unwrap();
    let uuid = order["guest"]["identity"]["smbios_uuid"].as_str().unwrap().to_owned();
    all.stand.sim_post("replace-guest", serde_json::json!({"vmid": 101})).await.unwrap();
    let replaced = |report: &serde_json::Value| !report.is_null() && !report.to_string().contains(&uuid);
    all.stand.report_when("web1", "replaced", replaced).await.unwrap();
    let moved = all.writ("carol", &["cosign", "late.json"]).await;
    says(&moved, 1, "identity");
    says(&moved, 1, "CHANGED: signed was UUID");
    assert!(!all.stand.at("work/late.json.sig.2").exists());
    all.stand.stop().await;
}
