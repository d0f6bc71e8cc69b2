//! The commands against a hub over real TLS, honest and lying.

mod audit;
mod doubt;
mod op;
mod plans;
mod scripts;
mod sessions;

use std::path::{Path, PathBuf};

use authz::sshsig::Claim;
use authz::statement::{Standing, verify_host, verify_login};
use authz::{Order, Outcome, RefusalCode};
use clap::Parser as _;
use protocol::api::EnrollmentApprove;
use protocol::enroll::{EnrollmentAnswer, EnrollmentCode};
use protocol::{Ed25519Key, HostId, Sha256, Signed};

use super::dispatch;
use super::fake_hub::FakeHub;
use crate::agent::Agent;
use crate::args::Cli;
use crate::error::{Answer, Failure};
use crate::hub::HubError;
use crate::testing::{
    NOW, alice, believed, done, ended, guest, host_key, mallory, name, policy, receipt, report, view,
};

pub(super) struct Desk {
    pub(super) dir: tempfile::TempDir,
    pub(super) hub: FakeHub,
}

impl Desk {
    pub(super) async fn new() -> Self {
        Self::at(FakeHub::start().await)
    }

    fn at(hub: FakeHub) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = alice().to_openssh("alice").unwrap();
        authz::files::write_atomic(&dir.path().join("id"), key.as_bytes()).unwrap();
        std::fs::write(dir.path().join("policy.json"), policy().document().encode()).unwrap();
        Self { dir, hub }
    }

    /// Logged in, with web1 and its report at the hub.
    pub(super) async fn ready() -> Self {
        let desk = Self::new().await;
        desk.login().await.unwrap();
        let mut says = desk.hub.says.lock().unwrap();
        says.hosts = vec![view(1, "web1")];
        says.report = Some(report(vec![guest(101)]));
        drop(says);
        desk
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(super) async fn run(&self, words: &[&str]) -> Result<Answer, Failure> {
        self.run_with(Agent::default(), words).await
    }

    async fn run_with(&self, agent: Agent, words: &[&str]) -> Result<Answer, Failure> {
        dispatch(self.parse(words), agent).await
    }

    fn parse(&self, words: &[&str]) -> Cli {
        let home = self.path("home");
        let head = ["writ", "--quiet", "--home", home.to_str().unwrap()];
        Cli::try_parse_from(head.iter().chain(words)).unwrap()
    }

    async fn login(&self) -> Result<Answer, Failure> {
        let pin = self.hub.pin.to_string();
        self.login_with(&pin).await
    }

    async fn login_with(&self, pin: &str) -> Result<Answer, Failure> {
        let (key, policy) = (self.path("id"), self.path("policy.json"));
        let words = ["login", "--hub", &self.hub.address, "--pin", pin];
        let files = ["--key", text(&key), "--policy", text(&policy)];
        self.run(&[words.as_slice(), files.as_slice()].concat()).await
    }

    /// Prepares and signs an order, and gives its file.
    pub(super) async fn signed_order(&self) -> PathBuf {
        let order = self.path("order.json");
        self.run(&["op", "snapshot.rollback", "web1", "101", "before-update", "-o", text(&order)])
            .await
            .unwrap();
        self.run(&["sign", text(&order)]).await.unwrap();
        order
    }

    pub(super) fn judged_by(&self, judge: impl Fn(Sha256) -> Signed + Send + 'static) {
        self.hub.says.lock().unwrap().judge = Some(Box::new(judge));
    }
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn login_signs_for_the_pinned_hub_and_renews() {
    let desk = Desk::new().await;
    assert!(desk.login().await.unwrap().stdout.contains("as alice"));
    assert!(desk.run(&["login"]).await.unwrap().failures.is_empty());
    let signed: Signed = {
        let says = desk.hub.says.lock().unwrap();
        let (_, _, login) = says.heard.iter().rfind(|(_, path, _)| path.ends_with("/login")).unwrap();
        serde_json::from_slice(login).unwrap()
    };
    let known = |_: &Claim<'_>| Some(Standing { verify_required: false, max_validity_s: 0 });
    let key = verify_login(&signed, &desk.hub.pin, &Sha256::of(b"c"), NOW, known).unwrap();
    assert_eq!(key, alice().public().into());
    desk.hub.says.lock().unwrap().logged_out = true;
    let error = desk.run(&["hosts"]).await.unwrap_err();
    assert!(matches!(error, Failure::Hub(HubError::Login)) && error.to_string().contains("writ login"));
}

#[tokio::test]
async fn a_login_needs_no_key_file_where_an_agent_holds_one_key() {
    let desk = Desk::new().await;
    let (pin, policy) = (desk.hub.pin.to_string(), desk.path("policy.json"));
    let words = ["login", "--hub", &desk.hub.address, "--pin", &pin, "--policy", text(&policy)];
    let error = desk.run(&words).await.unwrap_err().to_string();
    assert!(error.contains("also needs --key FILE"), "{error}");
    let agent = crate::agent::fake::holding(desk.dir.path(), vec![(alice(), "alice")]);
    desk.run_with(agent.clone(), &words).await.unwrap();
    desk.hub.says.lock().unwrap().hosts = vec![view(1, "web1")];
    desk.hub.says.lock().unwrap().report = Some(report(vec![guest(101)]));
    let order = desk.path("order.json");
    desk.run(&["op", "guest.start", "web1", "101", "-o", text(&order)]).await.unwrap();
    let error = desk.run(&["sign", text(&order)]).await.unwrap_err().to_string();
    assert!(error.contains("SSH_AUTH_SOCK"), "{error}");
    desk.run_with(agent, &["sign", text(&order)]).await.unwrap();
    let armored = std::fs::read_to_string(desk.path("order.json.sig")).unwrap();
    let bytes = std::fs::read(&order).unwrap();
    authz::sshsig::verify(&armored, authz::Namespace::Op, &bytes, &alice().public()).unwrap();
}

#[tokio::test]
async fn another_key_than_the_pinned_one_gets_nothing() {
    let desk = Desk::new().await;
    let wrong = Sha256::of(b"another hub").to_string();
    let error = desk.login_with(&wrong).await.unwrap_err().to_string();
    assert!(error.contains(&desk.hub.pin.to_string()) && error.contains(&wrong), "{error}");
    assert!(!desk.path("home/config.toml").exists() && !desk.path("home/token").exists());
    assert!(desk.hub.says.lock().unwrap().heard.is_empty());
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_gets_nothing() {
    let desk = Desk::at(FakeHub::start_with_stolen_certificate().await);
    let error = desk.login().await.unwrap_err();
    assert!(matches!(error, Failure::Hub(HubError::Unreachable { .. })), "{error}");
    assert!(error.to_string().contains("cannot prove that it holds the key"), "{error}");
    assert!(desk.hub.says.lock().unwrap().heard.is_empty());
}

#[tokio::test]
async fn enrollment_believes_only_the_host_that_knows_the_code() {
    let desk = Desk::new().await;
    desk.login().await.unwrap();
    let new = ["enroll", "new", "--name", "web1", "--site", "berlin", "--code-only"];
    let printed = desk.run(&new).await.unwrap().stdout;
    let code: EnrollmentCode = printed.trim_end().parse().unwrap();
    assert_eq!((printed.lines().count(), code.hub_spki), (1, desk.hub.pin));
    for (_, _, body) in &desk.hub.says.lock().unwrap().heard {
        let k = Sha256::from_bytes(code.k).to_string();
        assert!(!String::from_utf8_lossy(body).contains(&k), "K went to the hub");
    }

    let answer = |k: &[u8; 32]| answer_of(1, k, code.policy);
    desk.hub.says.lock().unwrap().answer = Some(answer(&[0; 32]));
    let error = desk.run(&["enroll", "approve", "web1"]).await.unwrap_err().to_string();
    assert!(error.contains("does not prove"), "{error}");
    assert!(desk.hub.says.lock().unwrap().heard("POST", "approve").is_none());

    desk.hub.says.lock().unwrap().answer = Some(answer(&code.k));
    let shown = desk.run(&["enroll", "approve", "7"]).await.unwrap().stdout;
    assert!(shown.contains(&host_key(1).public().fingerprint().to_string()), "{shown}");
    let says = desk.hub.says.lock().unwrap();
    let sent: EnrollmentApprove = serde_json::from_slice(says.heard("POST", "approve").unwrap()).unwrap();
    let (statement, by) = verify_host(&sent.statement, &policy(), NOW).unwrap();
    assert_eq!((statement.name, by), (name("web1"), name("alice")));
    assert!(!desk.path("home/enrollments/7.json").exists(), "K is kept no longer than needed");
    assert!(desk.path("home/hosts/web1.json").exists());
}

fn answer_of(host: u8, k: &[u8; 32], policy: Sha256) -> EnrollmentAnswer {
    let (host_id, key) = (HostId::from_bytes([host; 16]), host_key(host));
    let (host_key, device_key) = (key.public().to_wire(), Ed25519Key::from_bytes([3; 32]));
    EnrollmentAnswer {
        v: 1,
        host_id,
        host_key,
        host_key_gen: 1,
        device_key,
        device_cert: authz::enroll::certify_device(host_id, 1, device_key, &key),
        policy,
        proof: authz::enroll::proof(k, &policy, &host_id, &host_key, &device_key),
        hostname: "pve1".into(),
    }
}

#[tokio::test]
async fn the_hubs_word_that_a_host_is_approved_costs_no_secret() {
    let desk = Desk::new().await;
    desk.login().await.unwrap();
    let new = ["enroll", "new", "--name", "web1", "--site", "berlin", "--code-only"];
    let code: EnrollmentCode = desk.run(&new).await.unwrap().stdout.trim_end().parse().unwrap();
    let good = answer_of(1, &code.k, code.policy);
    let mut by_mallory = view(1, "web1");
    by_mallory.statement = authz::statement::sign_host(&crate::testing::statement(1, "web1"), &mallory());
    let lies = [
        (None, vec![view(1, "web1")]),
        (Some(good.clone()), vec![]),
        // Vouched for by an operator, but not the host that knows the code.
        (Some(good.clone()), vec![view(2, "web1")]),
        (Some(good.clone()), vec![view(1, "db1")]),
        (Some(good.clone()), vec![by_mallory]),
        (Some(answer_of(2, &[0; 32], code.policy)), vec![view(2, "web1")]),
    ];
    for (answer, hosts) in lies {
        {
            let mut says = desk.hub.says.lock().unwrap();
            (says.approved, says.answer, says.hosts) = (true, answer, hosts);
        }
        let error = desk.run(&["enroll", "approve", "web1"]).await.unwrap_err().to_string();
        assert!(error.contains("the hub says that enrollment 7") && error.contains("do not use"), "{error}");
        assert!(desk.path("home/enrollments/7.json").exists(), "K is gone after: {error}");
        assert!(!desk.path("home/hosts/web1.json").exists(), "believed after: {error}");
    }
    {
        let mut says = desk.hub.says.lock().unwrap();
        (says.answer, says.hosts) = (Some(good), vec![view(1, "web1")]);
    }
    let said = desk.run(&["enroll", "approve", "web1"]).await.unwrap().stdout;
    assert!(said.contains("approved already: alice vouches"), "{said}");
    assert!(!desk.path("home/enrollments/7.json").exists());
    // Its name is known from the statement now.
    let list = desk.run(&["enroll", "list"]).await.unwrap().stdout;
    assert!(list.contains("web1") && !list.contains("made elsewhere"), "{list}");
    desk.run(&["hosts", "--forget", "web1"]).await.unwrap();
    let list = desk.run(&["enroll", "list"]).await.unwrap().stdout;
    assert!(list.contains("(not kept here)") && !list.contains("made elsewhere"), "{list}");
}

#[tokio::test]
async fn a_stripped_order_is_shown_as_still_dangerous() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    let exp = crate::text::utc(Order::decode(&std::fs::read(&order).unwrap()).unwrap().exp);
    desk.judged_by(|op| {
        let why = "the order carries no signature".parse().unwrap();
        receipt(1, None, ended(op, Outcome::Refused { code: RefusalCode::Unsigned, why }))
    });
    let answer = desk.run(&["submit", text(&order)]).await.unwrap();
    let op = Sha256::of(&std::fs::read(&order).unwrap()).to_string();
    let resumed = desk.run(&["order", "web1", &op, "--wait"]).await.unwrap();
    assert_eq!(resumed, answer);
    for shown in [&answer.stdout, &answer.failures[0]] {
        for says in [&format!("STILL VALID until {exp}"), "refused (unsigned)", "the hub altered the order"] {
            assert!(shown.contains(says), "{says:?} is missing in {shown}");
        }
    }
    let as_json = desk.run(&["order", "web1", &op, "--wait", "--json"]).await.unwrap().stdout;
    assert!(as_json.contains("\"still_valid\": true"), "{as_json}");
    for words in [vec!["order", "web1", &op], vec!["orders", "web1"]] {
        let shown = desk.run(&words).await.unwrap().stdout;
        assert!(shown.contains(&format!("STILL VALID until {exp}")), "{shown}");
        assert!(shown.to_lowercase().contains("unsigned)"), "{shown}");
    }
    // What the hub does next.
    desk.judged_by(|op| receipt(1, Some((4, Sha256::of(b"x"))), ended(op, done())));
    desk.run(&["submit", text(&order)]).await.unwrap();
    let shown = desk.run(&["orders", "web1"]).await.unwrap().stdout;
    assert!(shown.contains("done: ") && !shown.contains("STILL VALID"), "{shown}");
}

#[tokio::test]
async fn a_replaced_order_leaves_no_signature_of_the_old_one() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    let sig = desk.path("order.json.sig");
    assert!(sig.exists());
    let again = ["op", "snapshot.rollback", "web1", "101", "before-update", "-o", text(&order)];
    desk.run(&again).await.unwrap_err();
    assert!(sig.exists(), "refused without --force, so nothing is touched");
    desk.run(&[again.as_slice(), &["--force"]].concat()).await.unwrap();
    assert!(!sig.exists());
    desk.run(&["sign", text(&order)]).await.unwrap();
}

#[tokio::test]
async fn an_order_cannot_call_a_host_by_anothers_name() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    desk.hub.says.lock().unwrap().hosts.push(view(2, "db1"));
    desk.run(&["hosts"]).await.unwrap();
    let real = Order::decode(&std::fs::read(&order).unwrap()).unwrap();
    let file = desk.path("evil.json");
    let sig = desk.path("order.json.sig");
    let id = |host: u8| HostId::from_bytes([host; 16]);
    // Both names known; only the id's; only the name's.
    let lies = [(1, "db1", "'web1'"), (1, "harmless", "'web1'"), (9, "db1", "'db1' is host 0202")];
    for (host, called, says) in lies {
        let mut lie = real.clone();
        (lie.host.id, lie.host.name) = (id(host), name(called));
        std::fs::write(&file, lie.encode()).unwrap();
        for words in [
            vec!["show", text(&file)],
            vec!["sign", text(&file)],
            vec!["submit", text(&file), "--sig", text(&sig)],
        ] {
            let error = desk.run(&words).await.unwrap_err().to_string();
            assert!(error.contains(called) && error.contains(says), "{words:?}: {error}");
        }
        assert!(!desk.path("evil.json.sig").exists());
    }
    assert!(desk.hub.says.lock().unwrap().heard("POST", "/orders").is_none());
    // Submit also asks the hub's roster, on a machine that remembers nothing.
    let mut lie = real.clone();
    lie.host.name = name("db1");
    std::fs::write(&file, lie.encode()).unwrap();
    for host in ["web1", "db1"] {
        desk.run(&["hosts", "--forget", host]).await.unwrap();
    }
    let error = desk.run(&["submit", text(&file), "--sig", text(&sig)]).await.unwrap_err().to_string();
    assert!(error.contains("'db1'") && error.contains("'web1'"), "{error}");
    // Unknown by name and id: may be read and signed, with a word about it.
    let mut unknown = real;
    (unknown.host.id, unknown.host.name) = (id(9), name("new1"));
    std::fs::write(&file, unknown.encode()).unwrap();
    let shown = desk.run(&["show", text(&file)]).await.unwrap().stdout;
    assert!(shown.contains("does not know that host yet"), "{shown}");
    desk.run(&["sign", "--unseen-plan", text(&file)]).await.unwrap();
    let known = desk.run(&["show", text(&order)]).await.unwrap().stdout;
    assert!(!known.contains("does not know"), "{known}");
}

/// `sign --explain` shows what `sign` shows, and needs neither a key nor a login.
#[tokio::test]
async fn explaining_an_order_touches_no_key() {
    let desk = Desk::new().await;
    let orders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../authz/fixtures/orders");
    for kind in ["guest.destroy", "host.rebind", "job.run"] {
        let file = desk.path("explained.json");
        std::fs::copy(orders.join(format!("{kind}.json")), &file).unwrap();
        let said = desk.run(&["sign", "--explain", text(&file)]).await.unwrap().stdout;
        let op = Sha256::of(&std::fs::read(&file).unwrap()).to_string();
        assert!(said.starts_with(&format!("Order {kind} (DESTRUCTIVE)")), "{said}");
        assert!(said.contains(&op) && said.contains("does not know that host yet"), "{said}");
        assert_eq!(said, desk.run(&["show", text(&file)]).await.unwrap().stdout);
        assert!(!desk.path("explained.json.sig").exists());
    }
    let head = ["writ", "sign", "--explain", "order.json"];
    assert!(Cli::try_parse_from(head.iter().chain(&["--key", "id"])).is_err(), "no key is named for nothing");
}

#[tokio::test]
async fn apply_lists_what_the_host_signed_about_its_steps() {
    let desk = Desk::ready().await;
    let file = desk.path("hosts.toml");
    std::fs::write(&file, "[[host.web1.guest]]\nvmid = 101\nname = \"db\"\n").unwrap();
    let step = |generation, what: &str| authz::Event::Step {
        generation,
        kind: "guest.start".into(),
        vmid: Some(101.try_into().unwrap()),
        what: what.parse().unwrap(),
        outcome: done(),
    };
    {
        let mut says = desk.hub.says.lock().unwrap();
        let plan = protocol::plan::Plan { generation: 3, ..Default::default() };
        says.plan = Some(protocol::api::PlanView { received_at: 0, plan, problem: None });
        says.receipts = vec![receipt(1, None, step(2, "old news")), receipt(1, None, step(3, "start 101"))];
        says.held = 2;
    }
    let answer = desk.run(&["apply", text(&file)]).await.unwrap();
    assert!(answer.stdout.contains("everything wanted is so"), "{answer:?}");
    assert!(answer.stdout.contains("start 101: done: ") && !answer.stdout.contains("old news"), "{answer:?}");
    assert!(answer.failures.is_empty());
    desk.hub.says.lock().unwrap().receipts = vec![receipt(2, None, step(3, "forged"))];
    let answer = desk.run(&["apply", text(&file)]).await.unwrap();
    assert!(!answer.stdout.contains("forged: done") && answer.failures.len() == 1, "{answer:?}");
}

#[tokio::test]
async fn a_lying_list_of_hosts_is_shown_and_refused() {
    let desk = Desk::ready().await;
    let answer = desk.run(&["hosts"]).await.unwrap();
    assert!(answer.failures.is_empty() && answer.stdout.contains("web1"), "{answer:?}");
    let mut lie = view(2, "web2");
    lie.name = name("db1");
    desk.hub.says.lock().unwrap().hosts.push(lie);
    for words in [["hosts", "--quiet"], ["hosts", "--json"]] {
        let answer = desk.run(&words).await.unwrap();
        assert!(answer.failures[0].contains("'db1', but the operator-signed statement says 'web2'"));
    }
    assert!(desk.run(&["hosts"]).await.unwrap().stdout.contains("REFUSED"));
    let error = desk.run(&["host", "db1"]).await.unwrap_err().to_string();
    assert!(error.contains("the hub is wrong or lying"), "{error}");
    // A real statement, by an operator, about another host under a known name.
    desk.hub.says.lock().unwrap().hosts = vec![view(9, "web1")];
    let error = desk.run(&["host", "web1"]).await.unwrap_err().to_string();
    assert!(error.contains("writ hosts --forget web1"), "{error}");
    desk.run(&["hosts", "--forget", "web1"]).await.unwrap();
    desk.run(&["host", "web1"]).await.unwrap();
}

#[tokio::test]
async fn an_order_is_prepared_signed_sent_and_its_receipt_verified() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    let bytes = std::fs::read(&order).unwrap();
    let op = Sha256::of(&bytes);
    assert_eq!(Order::decode(&bytes).unwrap().host.name, name("web1"));
    let armored = std::fs::read_to_string(desk.path("order.json.sig")).unwrap();
    authz::sshsig::verify(&armored, authz::Namespace::Op, &bytes, &alice().public()).unwrap();
    assert!(matches!(desk.run(&["sign", text(&order)]).await, Err(Failure::Exists(_))));

    desk.judged_by(|op| receipt(1, None, ended(op, done())));
    let answer = desk.run(&["submit", text(&order)]).await.unwrap();
    assert!(answer.failures.is_empty() && answer.stdout.contains("receipt verified"), "{answer:?}");

    desk.judged_by(|op| {
        let why = "used before".parse().unwrap();
        receipt(1, None, ended(op, Outcome::Refused { code: RefusalCode::Replay, why }))
    });
    let answer = desk.run(&["submit", text(&order)]).await.unwrap();
    assert!(answer.failures[0].contains("refused (replay)"), "{answer:?}");
    assert!(answer.stdout.contains("carried out before"), "{answer:?}");
    let resumed = desk.run(&["order", "web1", &op.to_string(), "--wait"]).await.unwrap();
    assert_eq!(resumed, answer);
}

#[tokio::test]
async fn a_forged_receipt_is_an_error_and_never_success() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    let host = believed(1, "web1");
    let forgeries: [Box<dyn Fn(Sha256) -> Signed + Send>; 3] = [
        Box::new(move |op| {
            let real = receipt(1, None, ended(op, done()));
            authz::Receipt::verify(&real, host.id(), &host.key).unwrap().sign(&mallory())
        }),
        Box::new(|op| receipt(2, None, ended(op, done()))),
        Box::new(|_| receipt(1, None, ended(Sha256::of(b"another order"), done()))),
    ];
    for forge in forgeries {
        desk.judged_by(forge);
        let error = desk.run(&["submit", text(&order)]).await.unwrap_err();
        assert!(matches!(error, Failure::Judge(_)), "{error}");
    }
}

#[tokio::test]
async fn a_log_with_a_hole_is_named() {
    let desk = Desk::ready().await;
    let first = receipt(1, Some((0, Sha256::from_bytes([0; 32]))), ended(Sha256::of(b"o"), done()));
    desk.hub.says.lock().unwrap().receipts = vec![first];
    desk.hub.says.lock().unwrap().held = 1;
    assert!(desk.run(&["receipts", "web1"]).await.unwrap().failures.is_empty());
    // The same page again instead of the next one.
    desk.hub.says.lock().unwrap().held = 2;
    let answer = desk.run(&["receipts", "web1"]).await.unwrap();
    assert!(answer.failures[0].contains("entry 1"), "{answer:?}");
}

#[tokio::test]
async fn apply_sends_nothing_when_one_name_is_wrong() {
    let desk = Desk::ready().await;
    let file = desk.path("hosts.toml");
    let document =
        "[[host.web1.guest]]\nvmid = 101\nname = \"db\"\n\n[[host.web2.guest]]\nvmid = 101\nname = \"db\"\n";
    std::fs::write(&file, document).unwrap();
    let error = desk.run(&["apply", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("hosts.toml, line 5") && error.contains("nothing was sent"), "{error}");
    assert!(desk.hub.says.lock().unwrap().heard("PUT", "").is_none());
}

#[tokio::test]
async fn unsigned_or_damaged_orders_go_only_where_they_are_meant_to() {
    let desk = Desk::ready().await;
    let order = desk.path("damaged.bin");
    std::fs::write(&order, b"{\"v\":1}").unwrap();
    assert!(matches!(desk.run(&["submit", text(&order)]).await, Err(Failure::NotAnOrder { .. })));
    desk.judged_by(|op| {
        let why = "not signed".parse().unwrap();
        receipt(1, None, ended(op, Outcome::Refused { code: RefusalCode::Unsigned, why }))
    });
    let answer = desk.run(&["submit", text(&order), "--raw", "web1"]).await.unwrap();
    assert!(answer.failures[0].contains("refused (unsigned)"), "{answer:?}");
}
