//! Certificates: V15, V16.

use authz::Namespace;
use authz::RefusalCode::{self, Certificate, Presence, Revoked as RevokedCode, UnknownSigner};
use authz::policy::words::{Revocation, Revoked};
use authz::policy::{Authority, Credential};
use protocol::Fingerprint;

use crate::base::{Case, Class, Desk, Draft, NOW, authority, ca, class};
use crate::forge::{Key, strings};

/// What is made wrong.
type Change<'a> = &'a dyn Fn(&mut Cert);

/// A certificate from its fields, so that each can be made wrong.
#[derive(Clone)]
pub(super) struct Cert {
    pub(super) subject: Key,
    pub(super) serial: u64,
    pub(super) role: u32,
    pub(super) key_id: Vec<u8>,
    pub(super) principals: Vec<Vec<u8>>,
    pub(super) times: (u64, u64),
    pub(super) critical: Vec<u8>,
    pub(super) ca: Key,
    /// Instead of the CA's own blob.
    pub(super) ca_blob: Option<Vec<u8>>,
}

impl Cert {
    /// For alice, as usual.
    pub(super) fn of(subject: &Key) -> Self {
        Self {
            subject: subject.clone(),
            serial: 7,
            role: 1,
            key_id: b"alice's laptop".to_vec(),
            principals: vec![b"alice".to_vec()],
            times: (NOW - 3_600, NOW + 3_600),
            critical: vec![],
            ca: ca(),
            ca_blob: None,
        }
    }

    /// The certificate.
    pub(super) fn blob(&self) -> Vec<u8> {
        let name = self.subject.name();
        let name = name.strip_suffix("@openssh.com").unwrap_or(name);
        let principals: Vec<&[u8]> = self.principals.iter().map(Vec::as_slice).collect();
        let ca = self.ca_blob.clone().unwrap_or_else(|| self.ca.blob());
        let unsigned = [
            strings(&[format!("{name}-cert-v01@openssh.com").as_bytes(), b"a nonce of the CA"]),
            self.subject.public_fields(),
            self.serial.to_be_bytes().to_vec(),
            self.role.to_be_bytes().to_vec(),
            strings(&[&self.key_id, &strings(&principals)]),
            self.times.0.to_be_bytes().to_vec(),
            self.times.1.to_be_bytes().to_vec(),
            strings(&[&self.critical, b"", b"", &ca]),
        ]
        .concat();
        let inner = self.ca.inner(&unsigned, b"sha512");
        [unsigned, strings(&[&inner])].concat()
    }

    /// The order, signed by the certified key.
    pub(super) fn sign(&self, desk: &Desk) -> Draft {
        desk.one(self.armor(&desk.payload()))
    }

    pub(super) fn armor(&self, payload: &[u8]) -> Vec<u8> {
        self.subject.parts_as(&self.blob(), Namespace::Op, "sha512", payload).armor()
    }
}

/// Three forms of certified keys; none of them is alice's own key.
fn subjects() -> [Key; 3] {
    [Key::seeded(0x11), Key::p256(), Key::sk_ed25519(1)]
}

pub(super) fn classes() -> Vec<Class> {
    let desk = Desk::by_ca();
    let each = |name: &str, code: RefusalCode, changes: &[(&str, Change<'_>)]| {
        let mut cases = Vec::new();
        for subject in subjects() {
            for (why, change) in changes {
                let mut cert = Cert::of(&subject);
                change(&mut cert);
                cases.push(cert.sign(&desk).refuse(code, "V15", why));
            }
        }
        class(&format!("cert-{name}"), cases)
    };
    let named = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
    let option = |name: &str, data: &str| strings(&[name.as_bytes(), data.as_bytes()]);
    let nested = Cert::of(&ca()).blob();
    vec![
        each("no-principals", Certificate, &[("nobody named: anybody", &|c| c.principals.clear())]),
        each(
            "other-principal",
            UnknownSigner,
            &[
                ("for mallory", &|c| c.principals = named(&["mallory"])),
                ("another case", &|c| c.principals = named(&["Alice"])),
                ("a longer name", &|c| c.principals = named(&["alice2"])),
            ],
        ),
        each(
            "wildcard-principal",
            Certificate,
            &[
                ("everybody", &|c| c.principals = named(&["*"])),
                ("alice and everybody", &|c| c.principals = named(&["alice", "*"])),
                ("one letter open", &|c| c.principals = named(&["alic?"])),
            ],
        ),
        each(
            "comma-principal",
            Certificate,
            &[
                ("two in one", &|c| c.principals = named(&["alice,bob"])),
                ("a comma behind", &|c| c.principals = named(&["alice,"])),
                ("a space", &|c| c.principals = named(&["alice bob"])),
            ],
        ),
        each(
            "many-principals",
            Certificate,
            &[
                ("17", &|c| c.principals = vec![b"alice".to_vec(); 17]),
                ("257", &|c| c.principals = vec![b"alice".to_vec(); 257]),
            ],
        ),
        each(
            "expired",
            Certificate,
            &[
                ("an hour ago", &|c| c.times = (NOW - 7_200, NOW - 3_600)),
                ("this second", &|c| c.times = (NOW - 3_600, NOW)),
            ],
        ),
        each(
            "not-yet",
            Certificate,
            &[
                ("in a second", &|c| c.times = (NOW + 1, NOW + 3_600)),
                ("in a year", &|c| c.times = (NOW + 31_536_000, NOW + 31_539_600)),
            ],
        ),
        each(
            "host",
            Certificate,
            &[
                ("for a host", &|c| c.role = 2),
                ("for nothing", &|c| c.role = 0),
                ("for something new", &|c| c.role = 3),
            ],
        ),
        strangers(),
        plain_as_ca(),
        each(
            "certificate-as-ca",
            Certificate,
            &[
                ("the CA is a certificate of itself", &|c| c.ca_blob = Some(nested.clone())),
                ("the CA is alice's certificate", &|c| {
                    (c.ca, c.ca_blob) = (Key::seeded(0x11), Some(Cert::of(&Key::seeded(0x11)).blob()));
                }),
            ],
        ),
        each(
            "unknown-critical",
            Certificate,
            &[
                ("an option of the future", &|c| c.critical = option("future@example.org", "")),
                ("an option without a name", &|c| c.critical = option("", "")),
            ],
        ),
        each(
            "force-command",
            Certificate,
            &[("a command", &|c| c.critical = option("force-command", "true"))],
        ),
        each(
            "source-address",
            Certificate,
            &[("addresses", &|c| c.critical = option("source-address", "10.0.0.0/8"))],
        ),
        verify_required(&option("verify-required", "")),
        revoked(
            "serial",
            |desk, _| {
                authority_of(desk).revoked_serials.push(7);
            },
            |cert| Some(Revoked::Serial { ca: fingerprint(&cert.ca), serial: 7 }),
        ),
        revoked(
            "key-id",
            |desk, _| {
                authority_of(desk).revoked_key_ids.push("alice's laptop".to_owned());
            },
            |cert| {
                Some(Revoked::KeyId { ca: fingerprint(&cert.ca), key_id: "alice's laptop".parse().unwrap() })
            },
        ),
        revoked(
            "ca",
            |desk, cert| desk.policy.revoked.push(fingerprint(&cert.ca)),
            |cert| Some(Revoked::Key { key: fingerprint(&cert.ca) }),
        ),
        revoked(
            "inner-key",
            |desk, cert| desk.policy.revoked.push(fingerprint(&cert.subject)),
            |cert| Some(Revoked::Key { key: fingerprint(&cert.subject) }),
        ),
        each(
            "lifetime",
            Certificate,
            &[
                ("16 hours and a second", &|c| c.times = (NOW - 8 * 3_600, NOW + 8 * 3_600 + 1)),
                ("for ever", &|c| c.times = (0, u64::MAX)),
                ("no time at all", &|c| c.times = (NOW, NOW)),
            ],
        ),
    ]
}

fn fingerprint(key: &Key) -> Fingerprint {
    Fingerprint::of_key_blob(&key.blob())
}

fn authority_of(desk: &mut Desk) -> &mut Authority {
    match &mut desk.policy.operators[0].keys[0] {
        Credential::Authority(authority) => authority,
        other => panic!("a CA, not {other:?}"),
    }
}

/// CAs that are not alice's.
fn strangers() -> Class {
    let desk = Desk::by_ca();
    let mut cases: Vec<Case> = Vec::new();
    for subject in subjects() {
        let cert = Cert { ca: Key::seeded(0x66), ..Cert::of(&subject) };
        cases.push(cert.sign(&desk).refuse(UnknownSigner, "V15", "a CA of nobody"));
        let helpdesk = Authority::new(Key::seeded(0x67).operator_key(), vec!["alice".to_owned()]);
        let desk = desk.but(|desk| desk.policy.operators[2].keys.push(Credential::Authority(helpdesk)));
        let cert = Cert { ca: Key::seeded(0x67), ..Cert::of(&subject) };
        cases.push(cert.sign(&desk).refuse(
            UnknownSigner,
            "V14",
            "a CA of the helpdesk, which orders nothing",
        ));
    }
    class("cert-foreign-ca", cases)
}

fn plain_as_ca() -> Class {
    let desk = Desk::by_ca();
    let mut cases: Vec<Case> = Vec::new();
    for subject in subjects() {
        let cert = Cert { ca: Key::seeded(0xb0), ..Cert::of(&subject) };
        cases.push(cert.sign(&desk).refuse(UnknownSigner, "V15", "bob's own key certifies alice"));
    }
    cases.push(desk.signed(&[&ca()]).refuse(UnknownSigner, "V15", "the CA's key signs the order itself"));
    class("cert-plain-key-as-ca", cases)
}

fn verify_required(option: &[u8]) -> Class {
    let mut cases: Vec<Case> = Vec::new();
    for flags in [1, 5] {
        for subject in [Key::sk_ed25519(flags), Key::sk_p256(flags)] {
            let demanding = Cert { critical: option.to_vec(), ..Cert::of(&subject) };
            let pin = Authority { verify_required: true, ..authority() };
            let strict = Desk::with(Credential::Authority(pin));
            for draft in [demanding.sign(&Desk::by_ca()), Cert::of(&subject).sign(&strict)] {
                cases.push(if flags == 5 {
                    draft.accept("V12", "a PIN is demanded, and was given")
                } else {
                    draft.refuse(Presence, "V12", "a PIN is demanded, and was not given")
                });
            }
        }
    }
    let plain = Cert { critical: option.to_vec(), ..Cert::of(&Key::seeded(0x11)) };
    cases.push(plain.sign(&Desk::by_ca()).refuse(Certificate, "V15", "a PIN of a key that has none"));
    class("cert-verify-required", cases)
}

/// Revoked in the policy, and by a word beside it.
fn revoked(name: &str, change: impl Fn(&mut Desk, &Cert), word: impl Fn(&Cert) -> Option<Revoked>) -> Class {
    let mut cases: Vec<Case> = Vec::new();
    for subject in subjects() {
        let cert = Cert::of(&subject);
        let desk = Desk::by_ca().but(|desk| change(desk, &cert));
        cases.push(cert.sign(&desk).refuse(RevokedCode, "V16", "revoked in the policy"));
        if let Some(revoke) = word(&cert) {
            let policy = authz::Policy::decode(&Desk::by_ca().policy.encode()).unwrap();
            let word = Revocation {
                v: 1,
                revoke,
                policy: (&policy).into(),
                issued_at: NOW - 60,
                reason: "lost".parse().unwrap(),
            };
            let desk = Desk::by_ca().after_word(&word.encode());
            cases.push(cert.sign(&desk).refuse(RevokedCode, "V16", "revoked by a word beside the policy"));
        }
    }
    class(&format!("cert-revoked-{name}"), cases)
}
