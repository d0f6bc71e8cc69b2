//! What changes between two policies, line by line, as a person has to see it before signing. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use protocol::{Fingerprint, HostName};

mod bounds;

use super::{Operator, PolicyDocument, Role, Rule};

/// In which direction a line moves the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Somebody may more, or fewer are needed.
    Loosens,
    /// Somebody may less, or more are needed.
    Tightens,
    /// Neither, or that cannot be said of the line alone.
    Changes,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which direction.
    pub effect: Effect,
    /// What, from what, to what.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Effect::Loosens => write!(f, "+ {}  (loosens)", self.what),
            Effect::Tightens => write!(f, "- {}  (tightens)", self.what),
            Effect::Changes => write!(f, "~ {}", self.what),
        }
    }
}

struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, effect: Effect, what: impl Into<String>) {
        self.0.push(Change { effect, what: what.into() });
    }

    /// A number of which more is looser.
    fn limit<T: PartialOrd + fmt::Display>(&mut self, what: &str, old: T, new: T) {
        if old != new {
            let effect = if new > old { Effect::Loosens } else { Effect::Tightens };
            self.add(effect, format!("{what}: {old} -> {new}"));
        }
    }

    /// A number of which more is tighter.
    fn demand<T: PartialOrd + fmt::Display>(&mut self, what: &str, old: T, new: T) {
        if old != new {
            let effect = if new < old { Effect::Loosens } else { Effect::Tightens };
            self.add(effect, format!("{what}: {old} -> {new}"));
        }
    }

    /// A permission.
    fn flag(&mut self, what: &str, old: bool, new: bool) {
        let word = |yes| if yes { "yes" } else { "no" };
        if old != new {
            let effect = if new { Effect::Loosens } else { Effect::Tightens };
            self.add(effect, format!("{what}: {} -> {}", word(old), word(new)));
        }
    }

    /// Elements of a set that gives rights.
    fn members<T: Ord + fmt::Display>(&mut self, what: &str, old: &[T], new: &[T]) {
        let (old, new): (BTreeSet<&T>, BTreeSet<&T>) = (old.iter().collect(), new.iter().collect());
        for gone in old.difference(&new) {
            self.add(Effect::Tightens, format!("{what}: without {gone}"));
        }
        for came in new.difference(&old) {
            self.add(Effect::Loosens, format!("{what}: with {came}"));
        }
    }
}

/// All differences, in the order of a policy. Empty only where nothing but version, prev and date differ.
pub fn diff(old: &PolicyDocument, new: &PolicyDocument) -> Vec<Change> {
    let mut changes = Changes(Vec::new());
    operators(&mut changes, &old.operators, &new.operators);
    roles(&mut changes, &old.roles, &new.roles);
    if old.root.role != new.root.role {
        let what = format!("root role: {} -> {}", old.root.role, new.root.role);
        changes.add(Effect::Changes, what);
    }
    changes.demand("signers for a new policy", old.root.threshold, new.root.threshold);
    rules(&mut changes, &old.rules, &new.rules);
    protected(&mut changes, old, new);
    bounds::bounds(&mut changes, &old.bounds, &new.bounds);
    freshness(&mut changes, old.freshness_s, new.freshness_s);
    for key in new.revoked.iter().filter(|key| !old.revoked.contains(key)) {
        changes.add(Effect::Tightens, format!("key {key} is revoked"));
    }
    for key in old.revoked.iter().filter(|key| !new.revoked.contains(key)) {
        changes.add(Effect::Loosens, format!("key {key} is not in the list of revoked keys any more"));
    }
    revoked_certificates(&mut changes, old, new);
    changes.0
}

/// What is revoked at one place of a CA is at all, so they have lines of their own.
fn revoked_certificates(changes: &mut Changes, old: &PolicyDocument, new: &PolicyDocument) {
    let of = |document: &PolicyDocument| -> BTreeMap<Fingerprint, (BTreeSet<u64>, BTreeSet<String>)> {
        let mut all: BTreeMap<_, (BTreeSet<u64>, BTreeSet<String>)> = BTreeMap::new();
        let keys = document.operators.iter().flat_map(|operator| &operator.keys);
        for authority in keys.filter_map(super::Credential::authority) {
            let (serials, ids) = all.entry(authority.ca.fingerprint()).or_default();
            serials.extend(&authority.revoked_serials);
            ids.extend(authority.revoked_key_ids.iter().cloned());
        }
        all
    };
    let (before, after) = (of(old), of(new));
    // Of a CA that is gone no certificate counts; its own line says so.
    for (ca, (serials, ids)) in &after {
        let none = Default::default();
        let (old_serials, old_ids) = before.get(ca).unwrap_or(&none);
        let mut line = |effect, which: String| {
            let not = if effect == Effect::Tightens { "are revoked" } else { "are not revoked any more" };
            changes.add(effect, format!("certificates {which} of CA {ca} {not}"));
        };
        for (effect, came) in [
            (Effect::Tightens, serials.difference(old_serials).copied().collect::<BTreeSet<u64>>()),
            (Effect::Loosens, old_serials.difference(serials).copied().collect()),
        ] {
            if !came.is_empty() {
                line(effect, format!("with serials {}", ranges(&came)));
            }
        }
        for id in ids.difference(old_ids) {
            line(Effect::Tightens, format!("with key id {id:?}"));
        }
        for id in old_ids.difference(ids) {
            line(Effect::Loosens, format!("with key id {id:?}"));
        }
    }
}

/// `1-3, 7`.
fn ranges(numbers: &BTreeSet<u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let one = |(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn operators(changes: &mut Changes, old: &[Operator], new: &[Operator]) {
    let named = |list: &[Operator], name: &HostName| list.iter().find(|o| o.name == *name).cloned();
    let lines = |operator: Option<Operator>| -> Vec<String> {
        let keys = operator.map(|operator| operator.keys).unwrap_or_default();
        keys.iter().map(super::Credential::describe).collect()
    };
    let names: BTreeSet<&HostName> = old.iter().chain(new).map(|operator| &operator.name).collect();
    for name in names {
        let (before, after) = (named(old, name), named(new, name));
        match (before.is_some(), after.is_some()) {
            (true, false) => changes.add(Effect::Tightens, format!("operator {name} is removed")),
            (false, true) => changes.add(Effect::Loosens, format!("operator {name} is added")),
            _ => {}
        }
        changes.members(&format!("keys of {name}"), &lines(before), &lines(after));
    }
}

fn roles(changes: &mut Changes, old: &[Role], new: &[Role]) {
    let names: BTreeSet<&HostName> = old.iter().chain(new).map(|role| &role.name).collect();
    for name in names {
        let of = |list: &[Role]| list.iter().find(|role| role.name == *name).cloned();
        let (before, after) = (of(old), of(new));
        let members = |role: &Option<Role>| role.as_ref().map_or_else(Vec::new, |r| r.members.clone());
        let namespaces = |role: &Option<Role>| -> Vec<String> {
            role.iter().flat_map(|role| &role.namespaces).map(|n| n.as_str().to_owned()).collect()
        };
        changes.members(&format!("members of role {name}"), &members(&before), &members(&after));
        changes.members(&format!("role {name} may sign"), &namespaces(&before), &namespaces(&after));
    }
}

fn rules(changes: &mut Changes, old: &[Rule], new: &[Rule]) {
    for before in old.iter().filter(|rule| !new.iter().any(|other| other.kind == rule.kind)) {
        changes.add(Effect::Tightens, format!("{}: nobody may order it any more", before.kind));
    }
    for after in new {
        let kind = after.kind;
        let Some(before) = old.iter().find(|rule| rule.kind == kind) else {
            let what = format!("{kind}: may be ordered by {} of role {}", after.threshold, after.role);
            changes.add(Effect::Loosens, what);
            continue;
        };
        if before.role != after.role {
            changes.add(Effect::Changes, format!("{kind}, role: {} -> {}", before.role, after.role));
        }
        for role in before.also.iter().filter(|role| !after.also.contains(role)) {
            changes.add(Effect::Loosens, format!("{kind}: needs nobody of role {role} any more"));
        }
        for role in after.also.iter().filter(|role| !before.also.contains(role)) {
            changes.add(Effect::Tightens, format!("{kind}: needs one of role {role} too"));
        }
        changes.demand(&format!("{kind}, signers"), before.threshold, after.threshold);
        changes.flag(&format!("{kind}, without a plan"), before.standing, after.standing);
        changes.limit(&format!("{kind}, valid for seconds"), before.max_validity_s, after.max_validity_s);
    }
}

fn protected(changes: &mut Changes, old: &PolicyDocument, new: &PolicyDocument) {
    let lines = |document: &PolicyDocument| -> Vec<String> {
        let one = |p: &super::Protection| {
            let more = p.extra.map_or_else(|| "never".to_owned(), |extra| format!("{extra} signers more"));
            format!("{}-{}, {more}", p.guests.0, p.guests.1)
        };
        document.protected.iter().map(one).collect()
    };
    let (before, after) = (lines(old), lines(new));
    for gone in before.iter().filter(|line| !after.contains(line)) {
        changes.add(Effect::Loosens, format!("guests are not protected any more: {gone}"));
    }
    for came in after.iter().filter(|line| !before.contains(line)) {
        changes.add(Effect::Tightens, format!("guests are protected: {came}"));
    }
}

fn freshness(changes: &mut Changes, old: Option<u64>, new: Option<u64>) {
    let word = |age: Option<u64>| age.map_or_else(|| "any age".to_owned(), |age| format!("{age} s"));
    if old != new {
        // Any age is the longest.
        let looser = new.unwrap_or(u64::MAX) > old.unwrap_or(u64::MAX);
        let effect = if looser { Effect::Loosens } else { Effect::Tightens };
        let what = format!("age of the last word that it is the newest: {} -> {}", word(old), word(new));
        changes.add(effect, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Kind;
    use crate::policy::tests::{document, mallory, rule};
    use crate::policy::{Authority, Credential, Protection};

    #[test]
    fn revoked_certificates_have_lines_of_their_own() {
        let authority = |serials: &[u64], ids: &[&str]| {
            let mut authority = Authority::new(mallory().public().into(), vec!["alice".to_owned()]);
            authority.revoked_serials = serials.to_vec();
            authority.revoked_key_ids = ids.iter().map(|id| (*id).to_owned()).collect();
            let mut document = document();
            document.operators[0].keys.push(Credential::Authority(authority));
            document
        };
        let ca = mallory().public().fingerprint();
        let lines =
            |old: &_, new: &_| -> Vec<String> { diff(old, new).iter().map(ToString::to_string).collect() };
        let (old, new) = (authority(&[1], &["x"]), authority(&[9, 1, 2, 3, u64::MAX], &["x", "y"]));
        assert_eq!(
            lines(&old, &new),
            [
                format!(
                    "- certificates with serials 2-3, 9, {} of CA {ca} are revoked  (tightens)",
                    u64::MAX
                ),
                format!("- certificates with key id \"y\" of CA {ca} are revoked  (tightens)"),
            ]
        );
        assert!(lines(&new, &old).iter().all(|line| line.ends_with("not revoked any more  (loosens)")));
        // With a CA that is new they come along, with one that goes there is nothing to say.
        assert_eq!(lines(&document(), &new).len(), 4);
        assert_eq!(lines(&new, &document()).len(), 1);
    }

    #[test]
    fn every_field_has_its_line_and_its_direction() {
        let old = document();
        assert_eq!(diff(&old, &old), []);
        let mut same = old.clone();
        (same.version, same.issued_at) = (2, old.issued_at + 1);
        assert_eq!(diff(&old, &same), []);
        let guest = |n: u32| protocol::Vmid::try_from(n).unwrap();
        type Edit = fn(&mut PolicyDocument);
        let table: Vec<(Edit, Effect, &str)> = vec![
            (|d| d.roles[0].members.truncate(1), Effect::Tightens, "members of role ops: without bob"),
            (
                |d| d.roles[1].members.push("bob".parse().unwrap()),
                Effect::Loosens,
                "members of role helpdesk: with bob",
            ),
            (
                |d| d.roles[0].namespaces.truncate(2),
                Effect::Tightens,
                "role ops may sign: without enroll.v1@writ",
            ),
            (|d| d.root.threshold = 2, Effect::Tightens, "signers for a new policy: 1 -> 2"),
            (|d| d.root.role = "helpdesk".parse().unwrap(), Effect::Changes, "root role: ops -> helpdesk"),
            (|d| d.rules.truncate(1), Effect::Tightens, "snapshot.delete: nobody may order it any more"),
            (
                |d| d.rules.push(rule(Kind::GuestStart, 1)),
                Effect::Loosens,
                "guest.start: may be ordered by 1 of role ops",
            ),
            (|d| d.rules[1].threshold = 1, Effect::Loosens, "snapshot.delete, signers: 2 -> 1"),
            (|d| d.rules[0].threshold = 2, Effect::Tightens, "snapshot.rollback, signers: 1 -> 2"),
            (
                |d| d.rules[0].standing = false,
                Effect::Tightens,
                "snapshot.rollback, without a plan: yes -> no",
            ),
            (
                |d| d.rules[0].max_validity_s = 60,
                Effect::Tightens,
                "snapshot.rollback, valid for seconds: 3600 -> 60",
            ),
            (
                |d| d.rules[1].also.push("helpdesk".parse().unwrap()),
                Effect::Tightens,
                "snapshot.delete: needs one of role helpdesk too",
            ),
            (|d| d.bounds.start = false, Effect::Tightens, "unsigned changes, start a guest: yes -> no"),
            (|d| d.bounds.guests.clear(), Effect::Tightens, "unsigned changes, guests: without 100-199"),
            (|d| d.bounds.max_changes_per_hour = 31, Effect::Loosens, "unsigned changes per hour: 30 -> 31"),
            (
                |d| d.freshness_s = Some(7200),
                Effect::Tightens,
                "age of the last word that it is the newest: any age -> 7200 s",
            ),
        ];
        for (edit, effect, what) in table {
            let mut new = old.clone();
            edit(&mut new);
            assert_eq!(diff(&old, &new), [Change { effect, what: what.to_owned() }]);
            // And back: the opposite.
            let back = match effect {
                Effect::Loosens => Effect::Tightens,
                Effect::Tightens => Effect::Loosens,
                Effect::Changes => Effect::Changes,
            };
            let changes = diff(&new, &old);
            assert!(changes.len() == 1 && changes[0].effect == back, "{what}: {changes:?}");
        }
        let mut guarded = old.clone();
        guarded.protected.push(Protection { guests: (guest(100), guest(110)), extra: None });
        assert_eq!(diff(&old, &guarded)[0].to_string(), "- guests are protected: 100-110, never  (tightens)");
        let mut keys = old.clone();
        keys.operators[0].keys.push(mallory().public().into());
        let key = mallory().public().fingerprint();
        assert_eq!(diff(&old, &keys)[0].to_string(), format!("+ keys of alice: with {key}  (loosens)"));
        let mut gone = old.clone();
        gone.operators.pop();
        let lines: Vec<String> = diff(&old, &gone).iter().map(ToString::to_string).collect();
        assert!(lines[0] == "- operator carol is removed  (tightens)" && lines.len() == 2, "{lines:?}");
        let mut revoked = old.clone();
        revoked.revoked.push(key);
        assert_eq!(diff(&old, &revoked)[0].to_string(), format!("- key {key} is revoked  (tightens)"));
    }
}
