//! What a second signer must know: who signed so far, how many are wanted, and what changed on the host since
//! the order was prepared. Pure.

use authz::lookup::{self, Signatory};
use authz::{Order, Params, Policy};
use protocol::report::{GuestConfigReport, GuestReport, HostReport, Known};
use protocol::{GuestIdentity, HostName, RunState, SnapshotRef};

use crate::render;
use crate::text::utc;

/// How many signers, and of which role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// At least one.
    pub signers: u32,
    /// The role whose members count.
    pub role: HostName,
}

impl Needed {
    /// By the policy, or by the order where it wants more. None where the policy lets nobody order it.
    pub fn of(order: &Order, policy: &Policy) -> Option<Self> {
        let rule = policy.rule(order.kind())?;
        Some(Self { signers: lookup::signers_needed(order, policy)?, role: rule.role.clone() })
    }
}

/// Why one more signature by `new` would be worth nothing, if so. `new` as the policy names it.
pub fn useless(order: &Order, policy: &Policy, by: &[Signatory], new: &Signatory) -> Option<String> {
    let Signatory { operator, key } = new;
    if by.iter().any(|by| by.operator == *operator) {
        return Some(format!(
            "{operator} signed this order already, and one operator counts once: have another operator cosign"
        ));
    }
    if by.iter().any(|by| by.key == *key) {
        return Some(format!(
            "key {} signed this order already, and one key counts once: use another key",
            key.fingerprint()
        ));
    }
    let rule = policy.rule(order.kind())?;
    // Whether the policy is outdated changes how many are wanted, not who counts.
    let have = |by: &[Signatory]| lookup::count(order, policy, by, false).map_or(0, |count| count.have);
    let more = have(&[by, std::slice::from_ref(new)].concat());
    (more <= have(by)).then(|| {
        format!(
            "signatures for {} count only by role {}, and {operator} has not got it",
            order.kind(),
            rule.role
        )
    })
}

/// A fact that the order names, against the last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Which.
    pub what: &'static str,
    /// As signed.
    pub signed: String,
    /// As reported.
    pub now: Now,
}

/// What the report says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// The same.
    Same,
    /// Something else: the host will refuse.
    Changed(String),
    /// Nothing, and why.
    Unread(String),
}

impl Fact {
    /// A fact that was read.
    pub fn new<T: PartialEq>(what: &'static str, signed: &T, now: &T, shown: impl Fn(&T) -> String) -> Self {
        let same = signed == now;
        Self { what, signed: shown(signed), now: if same { Now::Same } else { Now::Changed(shown(now)) } }
    }

    /// A fact that was not.
    pub fn unread(what: &'static str, signed: String, why: &str) -> Self {
        Self { what, signed, now: Now::Unread(why.to_owned()) }
    }

    /// Whether the host would refuse because of it.
    pub fn is_changed(&self) -> bool {
        matches!(self.now, Now::Changed(_))
    }

    /// In words; the caller makes them safe for the terminal.
    pub fn sentence(&self) -> String {
        match &self.now {
            Now::Same => format!("unchanged: {}", self.signed),
            Now::Changed(now) => format!("CHANGED: signed was {}, reported is {now}", self.signed),
            Now::Unread(why) => format!("not known now ({why}), signed was {}", self.signed),
        }
    }
}

/// Everything that the order relies on, against the report: guest, identity, state, digest, snapshot, policy.
pub fn facts(order: &Order, report: &HostReport) -> Vec<Fact> {
    let mut facts = Vec::new();
    let policy = format!("version {} ({})", order.policy.version, order.policy.sha256);
    facts.push(match &report.warden {
        Known::Known(warden) => Fact::new(
            "policy",
            &policy,
            &{ format!("version {} ({})", warden.policy_version, warden.policy) },
            String::clone,
        ),
        Known::Unknown(why) => Fact::unread("policy", policy, why),
    });
    let Some(wanted) = &order.guest else { return facts };
    let shown = format!("{} {} '{}'", wanted.kind, wanted.vmid, wanted.name);
    let guest = match &report.guests {
        Known::Unknown(why) => {
            facts.push(Fact::unread("guest", shown, why));
            return facts;
        }
        Known::Known(guests) => guests.iter().find(|guest| guest.vmid == wanted.vmid),
    };
    let Some(guest) = guest else {
        facts.push(Fact { what: "guest", signed: shown, now: Now::Changed("no such guest".to_owned()) });
        return facts;
    };
    let now = format!("{} {} '{}'", guest.kind, guest.vmid, guest.name);
    facts.push(Fact::new("guest", &shown, &now, String::clone));
    match &guest.config {
        Known::Known(config) => configured(order, &wanted.identity, config, &mut facts),
        Known::Unknown(why) => {
            facts.push(Fact::unread("identity", identity(&wanted.identity), why));
            facts.extend(
                order.pre.digest.clone().map(|digest| Fact::unread("digest", digest.to_string(), why)),
            );
        }
    }
    if let Some(state) = &order.pre.state {
        facts.push(match guest.state {
            RunState::Unknown => Fact::unread("state", state.to_string(), "it could not be read"),
            _ => Fact::new("state", state, &guest.state, ToString::to_string),
        });
    }
    facts.extend(snapshot(order, guest));
    facts
}

fn configured(order: &Order, signed: &GuestIdentity, config: &GuestConfigReport, facts: &mut Vec<Fact>) {
    facts.push(Fact::new("identity", signed, &config.identity, identity));
    if let Some(digest) = &order.pre.digest {
        facts.push(Fact::new("digest", &digest.to_string(), &config.digest, String::clone));
    }
}

fn snapshot(order: &Order, guest: &GuestReport) -> Option<Fact> {
    let wanted = order.pre.snapshot.as_ref();
    let new = match &order.params {
        Params::SnapshotCreate(params) => Some(&params.snapshot),
        _ => None,
    };
    let name = wanted.map(|snapshot| &snapshot.name).or(new)?;
    let shown =
        |found: &Option<SnapshotRef>| found.as_ref().map_or("none of that name".to_owned(), render::snapshot);
    let wanted = wanted.cloned();
    Some(match &guest.snapshots {
        Known::Unknown(why) => Fact::unread("snapshot", shown(&wanted), why),
        Known::Known(all) => {
            let now = all.iter().find(|snapshot| snapshot.name == *name).cloned();
            Fact::new("snapshot", &wanted, &now, shown)
        }
    })
}

/// What makes a guest this one, in a line.
pub fn identity(identity: &GuestIdentity) -> String {
    let GuestIdentity { smbios_uuid, vmgenid, meta_ctime, macs, volids, giid } = identity;
    let facts = [
        smbios_uuid.as_ref().map(|uuid| format!("UUID {uuid}")),
        vmgenid.as_ref().map(|id| format!("generation id {id}")),
        meta_ctime.map(|time| format!("created {}", utc(time))),
        (!macs.is_empty()).then(|| format!("MAC {}", macs.join(", "))),
        (!volids.is_empty()).then(|| format!("volumes {}", volids.join(", "))),
        giid.as_ref().map(|id| format!("instance id {id}")),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, alice, guest, mallory, name, order, policy, report, snapshot as snap};

    fn signatory(operator: &str, key: &authz::SecretKey) -> Signatory {
        Signatory { operator: name(operator), key: key.public().into() }
    }

    fn changed(change: impl Fn(&mut GuestReport)) -> Vec<&'static str> {
        let mut now = guest(101);
        change(&mut now);
        let facts = facts(&order(), &report(vec![guest(100), now]));
        facts.iter().filter(|fact| fact.is_changed()).map(|fact| fact.what).collect()
    }

    fn config(guest: &mut GuestReport) -> &mut GuestConfigReport {
        match &mut guest.config {
            Known::Known(config) => config,
            Known::Unknown(_) => unreachable!(),
        }
    }

    #[test]
    fn each_fact_that_moved_is_named() {
        assert!(changed(|_| {}).is_empty());
        assert_eq!(changed(|guest| guest.name = "other".into()), ["guest"]);
        assert_eq!(changed(|guest| guest.state = RunState::Running), ["state"]);
        assert_eq!(changed(|guest| config(guest).digest = "e".repeat(40)), ["digest"]);
        assert_eq!(changed(|guest| config(guest).identity.macs.clear()), ["identity"]);
        assert_eq!(changed(|guest| config(guest).identity.vmgenid = Some("new".into())), ["identity"]);
        let retaken = |time, parent| {
            changed(|guest| guest.snapshots = Known::Known(vec![snap("before-update", time, parent)]))
        };
        assert_eq!(retaken(NOW - 3_000, Some("first")), Vec::<&str>::new());
        assert_eq!(retaken(NOW - 2_999, Some("first")), ["snapshot"]);
        assert_eq!(retaken(NOW - 3_000, None), ["snapshot"]);
        assert_eq!(changed(|guest| guest.snapshots = Known::Known(vec![])), ["snapshot"]);
        let gone = facts(&order(), &report(vec![guest(100)]));
        assert!(gone.iter().any(|fact| fact.sentence().contains("no such guest")), "{gone:?}");
    }

    #[test]
    fn what_was_not_read_is_neither_the_same_nor_changed() {
        let mut now = guest(101);
        (now.state, now.config) = (RunState::Unknown, Known::Unknown("locked".into()));
        now.snapshots = Known::Unknown("timed out".into());
        for fact in facts(&order(), &report(vec![now])).iter().filter(|fact| fact.what != "guest") {
            assert!(matches!(fact.now, Now::Unread(_)), "{fact:?}");
            assert!(fact.sentence().contains("not known now"), "{fact:?}");
        }
        let mut unread = report(vec![]);
        unread.guests = Known::Unknown("timed out".into());
        assert!(facts(&order(), &unread).iter().all(|fact| matches!(fact.now, Now::Unread(_))));
    }

    #[test]
    fn one_person_or_one_key_counts_once() {
        let (order, policy) = (order(), policy());
        let one = [signatory("alice", &alice())];
        let why = |new| useless(&order, &policy, &one, &new).unwrap_or_default();
        assert!(why(signatory("alice", &mallory())).contains("counts once"));
        assert!(why(signatory("bob", &alice())).contains("one key counts once"));
        assert!(why(signatory("carol", &mallory())).contains("count only by role operators"));
        assert_eq!(useless(&order, &policy, &[], &one[0]), None);
        let needed = Needed::of(&order, &policy).unwrap();
        assert_eq!((needed.signers, needed.role.as_str()), (1, "operators"));
        let raised = Order { min_signers: 3, ..order };
        assert_eq!(Needed::of(&raised, &policy).unwrap().signers, 3);
    }
}
