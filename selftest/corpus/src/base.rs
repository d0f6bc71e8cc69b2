//! The people, the policy, the host and the order that every case starts from, and how a case is written down.

use authz::case::{ClockWord, HostFile, Judge, LogFile, PlansFile};
use authz::plan::{Plan, draft_of};
use authz::policy::{Authority, Bounds, Credential, Operator, PolicyDocument, Role, Root, Rule};
use authz::{Kind, Namespace, Order, RefusalCode};
use protocol::{Envelope, Sha256, Vmid};
use serde::{Deserialize, Serialize};

use crate::forge::{Key, secret};

/// The host's clock in every case that does not say otherwise.
pub const NOW: u64 = 1_763_770_000;
/// CLOCK_BOOTTIME of a host that makes plans.
pub const BOOTTIME: u64 = 5_000;
/// The complete rollback order whose bytes are frozen in crate authz.
const ORDER: &[u8] = include_bytes!("../../../crates/authz/fixtures/orders/snapshot.rollback.json");

/// `expect.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// `accept` or `refuse`
    pub decision: String,
    /// The code of a refusal.
    pub code: Option<RefusalCode>,
    /// The rule that decides: V1 to V24, or a section of the specification.
    pub rule: String,
    /// One line for people.
    pub why: String,
}

/// One case, not yet on disk.
#[derive(Debug, Clone)]
pub struct Case {
    /// `payload`
    pub payload: Vec<u8>,
    /// `sig.asc`, `sig.2.asc`, …
    pub sigs: Vec<Vec<u8>>,
    /// `policy.json`
    pub policy: Vec<u8>,
    /// `host.json`
    pub host: HostFile,
    /// `expect.json`
    pub expect: Expect,
}

/// Cases of one kind of attack.
#[derive(Debug, Clone)]
pub struct Class {
    /// Folder name.
    pub name: String,
    /// At least three.
    pub cases: Vec<Case>,
}

/// A class by name. Two ways to the same bytes are one case.
pub fn class(name: &str, cases: Vec<Case>) -> Class {
    let mut once: Vec<Case> = Vec::new();
    for case in cases {
        if !once.iter().any(|other| other.is_same(&case)) {
            once.push(case);
        }
    }
    Class { name: name.to_owned(), cases: once }
}

impl Case {
    /// Whether the host is asked the same.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.payload, &self.sigs, &self.policy, &self.host)
            == (&other.payload, &other.sigs, &other.policy, &other.host)
    }
}

/// A case without its expectation.
#[derive(Debug, Clone)]
pub struct Draft(Case);

impl Draft {
    /// Refused by this rule.
    pub fn refuse(self, code: RefusalCode, rule: &str, why: &str) -> Case {
        self.expect("refuse", Some(code), rule, why)
    }

    /// Accepted, though it looks odd.
    pub fn accept(self, rule: &str, why: &str) -> Case {
        self.expect("accept", None, rule, why)
    }

    fn expect(mut self, decision: &str, code: Option<RefusalCode>, rule: &str, why: &str) -> Case {
        self.0.expect =
            Expect { decision: decision.to_owned(), code, rule: rule.to_owned(), why: why.to_owned() };
        self.0
    }
}

/// What a case is made on.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The policy.
    pub policy: PolicyDocument,
    /// The host.
    pub host: HostFile,
    /// The order, bound to the policy when it is encoded.
    pub order: Order,
}

/// Alice, bob, carol of the helpdesk, and dave of the backup team.
fn people(alice: Credential) -> Vec<Operator> {
    let operator = |name: &str, keys| Operator { name: name.parse().unwrap(), keys };
    vec![
        operator("alice", vec![alice]),
        operator("bob", vec![Key::seeded(0xb0).credential()]),
        operator("carol", vec![Key::seeded(0xcc).credential()]),
        operator("dave", vec![Key::seeded(0xdd).credential()]),
    ]
}

/// A rule of role ops.
pub fn rule(kind: Kind, threshold: u32) -> Rule {
    Rule { kind, role: "ops".parse().unwrap(), also: vec![], threshold, standing: true, max_validity_s: 3600 }
}

fn role(name: &str, namespaces: &[Namespace], members: &[&str]) -> Role {
    Role {
        name: name.parse().unwrap(),
        namespaces: namespaces.to_vec(),
        members: members.iter().map(|member| member.parse().unwrap()).collect(),
    }
}

impl Desk {
    /// Alice has an Ed25519 key.
    pub fn new() -> Self {
        Self::of(&Key::ed25519())
    }

    /// Alice has this key.
    pub fn of(key: &Key) -> Self {
        Self::with(key.credential())
    }

    /// Alice has certificates by the CA.
    pub fn by_ca() -> Self {
        Self::with(Credential::Authority(authority()))
    }

    /// Alice has this credential. Where that is a CA, a key of hers besides, so that the root has keys.
    pub fn with(credential: Credential) -> Self {
        use Namespace::{Enroll, Job, Login, Op, Session};
        let is_ca = credential.authority().is_some();
        let mut operators = people(credential);
        if is_ca {
            operators[0].keys.push(Key::ed25519().credential());
        }
        let minutes = Rule { standing: false, max_validity_s: 600, ..rule(Kind::SessionOpen, 1) };
        let policy = PolicyDocument {
            v: 1,
            version: 1,
            prev: None,
            issued_at: NOW - 700_000,
            operators,
            roles: vec![
                role("ops", &[Op, Job, Session, Namespace::Policy, Enroll, Login], &["alice", "bob"]),
                role("helpdesk", &[Enroll], &["carol"]),
                role("backup", &[Op], &["dave"]),
            ],
            root: Root { role: "ops".parse().unwrap(), threshold: 1 },
            rules: vec![
                rule(Kind::SnapshotRollback, 1),
                rule(Kind::SnapshotDelete, 2),
                rule(Kind::JobRun, 1),
                minutes,
            ],
            protected: vec![],
            bounds: Bounds { guests: vec![(vmid(100), vmid(199))], ..Bounds::default() },
            freshness_s: None,
            revoked: vec![],
        };
        let order = Order::decode(ORDER).unwrap();
        let host = HostFile {
            judge: Judge::Order,
            now: NOW,
            clock: ClockWord::Trusted,
            floor: NOW - 700_000,
            id: order.host.id,
            key: order.host.key,
            generation: order.host.generation,
            stale: false,
            log: Some(LogFile { size: 7, heads: vec![(6, Sha256::of(b"six")), (7, Sha256::of(b"seven"))] }),
            burned: vec![],
            plans: Some(PlansFile { boottime_s: BOOTTIME, live: vec![] }),
            words: vec![],
            world: None,
        };
        Self { policy, host, order }
    }

    /// Changed.
    pub fn but(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut other = self.clone();
        change(&mut other);
        other
    }

    /// What the order is made under: the policy after all words.
    fn bound(&self) -> Order {
        let mut order = self.order.clone();
        let latest = self.host.words.iter().rev().find(|word| {
            matches!(
                authz::policy::words::Word::decode(&word.payload.0),
                Ok(authz::policy::words::Word::Policy(_))
            )
        });
        let bytes = latest.map_or_else(|| self.policy.encode(), |word| word.payload.0.clone());
        // A case about another policy has said so already.
        if order.policy.sha256 == Order::decode(ORDER).unwrap().policy.sha256 {
            order.policy.version =
                if latest.is_some() { self.policy.version + 1 } else { self.policy.version };
            order.policy.sha256 = Sha256::of(&bytes);
        }
        order
    }

    /// The order's bytes.
    pub fn payload(&self) -> Vec<u8> {
        self.bound().encode()
    }

    /// The order's bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.payload()).unwrap()
    }

    /// With these bytes and signatures.
    pub fn case(&self, payload: &[u8], sigs: Vec<Vec<u8>>) -> Draft {
        Draft(Case {
            payload: payload.to_vec(),
            sigs,
            policy: self.policy.encode(),
            host: self.host.clone(),
            expect: Expect { decision: String::new(), code: None, rule: String::new(), why: String::new() },
        })
    }

    /// The order, with this one signature.
    pub fn one(&self, sig: Vec<u8>) -> Draft {
        self.case(&self.payload(), vec![sig])
    }

    /// The order, signed well by these keys.
    pub fn signed(&self, keys: &[&Key]) -> Draft {
        self.saying(&self.payload(), keys)
    }

    /// These bytes, signed well by these keys.
    pub fn saying(&self, payload: &[u8], keys: &[&Key]) -> Draft {
        self.case(payload, keys.iter().map(|key| key.sign(payload)).collect())
    }

    /// These bytes, signed by alice for `policy.v1@writ`, for the chain to judge.
    pub fn word(&self, payload: &[u8]) -> Draft {
        let sig =
            Key::ed25519().parts_as(&Key::ed25519().blob(), Namespace::Policy, "sha512", payload).armor();
        self.but(|desk| desk.host.judge = Judge::Policy).case(payload, vec![sig])
    }

    /// The next version of the policy.
    pub fn next(&self, change: impl FnOnce(&mut PolicyDocument)) -> PolicyDocument {
        let mut next = self.policy.clone();
        next.version += 1;
        next.prev = Some(Sha256::of(&self.policy.encode()));
        next.issued_at += 1;
        change(&mut next);
        next
    }

    /// The next version's text.
    pub fn next_text(&self) -> String {
        String::from_utf8(self.next(|_| {}).encode()).unwrap()
    }

    /// The host took in what alice signed.
    pub fn after_word(&self, payload: &[u8]) -> Self {
        let sig = secret(0xa1).sign(Namespace::Policy, payload);
        self.but(|desk| desk.host.words.push(Envelope::new(payload.to_vec().into(), vec![sig])))
    }

    /// Bound to a plan that the host remembers.
    pub fn planned(&self, change: impl FnOnce(&mut Plan)) -> Self {
        let mut desk = self.clone();
        let mut plan = self.plan();
        change(&mut plan);
        let signed = plan.sign(&secret(0x4b));
        desk.order = self.bound();
        desk.order.plan =
            Some(authz::order::PlanRef { sha256: Sha256::of(&signed.payload.0), challenge: plan.challenge });
        if let Some(plans) = &mut desk.host.plans {
            plans.live.push(String::from_utf8(signed.payload.0).unwrap());
        }
        desk
    }

    fn plan(&self) -> Plan {
        let order = self.bound();
        Plan {
            v: 1,
            host: order.host.id,
            host_key_gen: order.host.generation,
            draft: draft_of(&order),
            kind: order.kind(),
            vmid: order.guest.as_ref().map(|guest| guest.vmid),
            effects: vec!["guest 101 goes back to snapshot before".parse().unwrap()],
            calls: vec!["POST nodes/pve/qemu/101/snapshot/before/rollback".parse().unwrap()],
            config_sha256: None,
            challenge: Sha256::of(b"challenge"),
            boot_id: "0d6e5c1c-8a5b-4e57-9f3b-333333333333".parse().unwrap(),
            boottime_s: BOOTTIME - 60,
            time: NOW - 60,
            log_size: 7,
        }
    }
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

/// A guest's number.
pub fn vmid(number: u32) -> Vmid {
    Vmid::try_from(number).unwrap()
}

/// The CA's key.
pub fn ca() -> Key {
    Key::seeded(0xca)
}

/// Certificates by the CA for alice.
pub fn authority() -> Authority {
    Authority::new(ca().operator_key(), vec!["alice".to_owned()])
}
