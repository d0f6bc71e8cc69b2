//! The plan.
//!
//! The order inside a guest follows from what invalidates what. Replacing tags is compare-and-set
//! against the digest that was read, so nothing that could change the configuration may come
//! before it in the same round: starting a guest can apply pending changes, and taking a snapshot
//! writes into the same file. So tags come first, then the start, and a snapshot only in a round
//! without new tags, one a guest and round: whatever fails, at most one change of the
//! configuration has to be looked at.

use std::collections::{BTreeMap, BTreeSet};

use protocol::desired::{DesiredGuest, DesiredState};
use protocol::guest::{GuestRef, RunState};
use protocol::plan::{Plan, Step, Waiting};
use protocol::report::{GuestConfigReport, GuestReport, Known};
use protocol::{Tag, Vmid};

/// What to do next, and what cannot be done now.
///
/// `desired` is the state in force and its generation; `observed` all guests of the host;
/// `in_flight` the guests on which an order is being carried out.
pub fn plan(
    desired: Option<(u64, &DesiredState)>,
    observed: &[GuestReport],
    in_flight: &BTreeSet<Vmid>,
) -> Plan {
    let Some((generation, state)) = desired else {
        return Plan::default();
    };
    let seen: BTreeMap<Vmid, &GuestReport> = observed.iter().map(|guest| (guest.vmid, guest)).collect();
    let mut plan = Plan { generation, ..Plan::default() };
    for want in by_vmid(state) {
        if in_flight.contains(&want.vmid) {
            plan.wait(want, summary(want), "the order that is being carried out on it to end");
            continue;
        }
        match seen.get(&want.vmid) {
            None => plan.wait(
                want,
                format!("the guest {}", want.name),
                format!(
                    "VMID {} does not exist on this host: create or restore it, or take it out of the desired state",
                    want.vmid
                ),
            ),
            Some(guest) if guest.name != want.name => plan.wait(
                want,
                summary(want),
                format!(
                    "VMID {} is now called {}, not {}: it may be another guest; correct the name in the desired state if it is the one that is meant",
                    want.vmid, guest.name, want.name
                ),
            ),
            Some(guest) => plan_guest(&mut plan, want, guest),
        }
    }
    plan
}

/// The plan when the list of guests could not be read: everything waits for another reading.
pub fn plan_unread(desired: Option<(u64, &DesiredState)>, why: &str) -> Plan {
    let Some((generation, state)) = desired else {
        return Plan::default();
    };
    let mut plan = Plan { generation, ..Plan::default() };
    for want in by_vmid(state) {
        plan.wait(want, summary(want), format!("another reading of the guests ({why})"));
    }
    plan
}

/// A hub could deliver a list that was never checked; order must not depend on it.
fn by_vmid(state: &DesiredState) -> Vec<&DesiredGuest> {
    let mut guests: Vec<&DesiredGuest> = state.guests.iter().collect();
    guests.sort_by_key(|guest| guest.vmid);
    guests
}

/// Adds to a plan.
trait Waits {
    fn wait(&mut self, want: &DesiredGuest, what: impl Into<String>, needs: impl Into<String>);
}

impl Waits for Plan {
    fn wait(&mut self, want: &DesiredGuest, what: impl Into<String>, needs: impl Into<String>) {
        self.waiting.push(Waiting { vmid: want.vmid, want: what.into(), needs: needs.into() });
    }
}

/// What is wanted of a guest that the world does not already show.
enum Gap<'a> {
    Start,
    Tags(&'a BTreeSet<Tag>),
    Snapshot(&'a protocol::SnapshotName),
}

impl Gap<'_> {
    fn words(&self) -> String {
        match self {
            Self::Start => "running".to_owned(),
            Self::Tags(tags) => words_of_tags(tags),
            Self::Snapshot(name) => format!("snapshot {name}"),
        }
    }
}

fn words_of_tags(tags: &BTreeSet<Tag>) -> String {
    let names: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    format!("tags {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn plan_guest(plan: &mut Plan, want: &DesiredGuest, guest: &GuestReport) {
    let mut gaps = Vec::new();
    match (want.tags.as_ref(), &guest.config) {
        (None, _) => {}
        (Some(tags), Known::Unknown(why)) => {
            plan.wait(want, words_of_tags(tags), format!("another reading of its configuration ({why})"));
        }
        (Some(tags), Known::Known(config)) => {
            if !same_tags(tags, &config.tags) {
                gaps.push(Gap::Tags(tags));
            }
        }
    }
    match (want.running, guest.state) {
        (None, _) | (Some(true), RunState::Running) | (Some(false), RunState::Stopped) => {}
        (Some(true), RunState::Stopped) => gaps.push(Gap::Start),
        (Some(false), RunState::Running) => {
            plan.wait(want, "stopped", "an operator: guest.shutdown needs a signed order");
        }
        (Some(wanted), RunState::Unknown) => {
            plan.wait(want, running_words(wanted), "another reading: whether it runs is unknown");
        }
    }
    match &guest.snapshots {
        Known::Unknown(why) => {
            for name in &want.snapshots {
                plan.wait(
                    want,
                    Gap::Snapshot(name).words(),
                    format!("another reading of its snapshots ({why})"),
                );
            }
        }
        Known::Known(there) => {
            let missing = want.snapshots.iter().filter(|name| !there.iter().any(|have| have.name == **name));
            gaps.extend(missing.map(Gap::Snapshot));
        }
    }
    if !gaps.is_empty() {
        close_gaps(plan, want, guest, &gaps);
    }
}

/// Turns gaps into steps, unless something about the guest forbids every step.
fn close_gaps(plan: &mut Plan, want: &DesiredGuest, guest: &GuestReport, gaps: &[Gap<'_>]) {
    let config = match blocked(guest) {
        Ok(config) => config,
        Err(needs) => {
            for gap in gaps {
                plan.wait(want, gap.words(), needs.clone());
            }
            return;
        }
    };
    let named = GuestRef {
        vmid: guest.vmid,
        kind: guest.kind,
        name: guest.name.clone(),
        identity: config.identity.clone(),
    };
    // Whether this round already changes the configuration.
    let mut changes = false;
    for gap in gaps {
        match gap {
            Gap::Start => plan.steps.push(Step::Start { guest: named.clone() }),
            Gap::Tags(tags) => {
                changes = true;
                plan.steps.push(Step::SetTags {
                    guest: named.clone(),
                    digest: config.digest.clone(),
                    tags: tags.iter().cloned().collect(),
                });
            }
            Gap::Snapshot(_) if changes => {}
            Gap::Snapshot(name) => {
                changes = true;
                plan.steps.push(Step::SnapshotCreate { guest: named.clone(), snapshot: (*name).clone() });
            }
        }
    }
}

/// The configuration that a step can be based on, or what has to happen before there can be one.
fn blocked(guest: &GuestReport) -> Result<&GuestConfigReport, String> {
    let config = match &guest.config {
        Known::Known(config) => config,
        Known::Unknown(why) => return Err(format!("another reading of its configuration ({why})")),
    };
    if let Some(lock) = &config.lock {
        return Err(format!(
            "its lock ({lock}) to go: wait for that operation to end; after a crash only root can clear it"
        ));
    }
    if config.identity.is_empty() {
        return Err("a UUID, a MAC address or a volume: without one this guest cannot be told from another"
            .to_owned());
    }
    Ok(config)
}

fn same_tags(wanted: &BTreeSet<Tag>, there: &[String]) -> bool {
    let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
    wanted.len() == there.len() && wanted.iter().all(|tag| there.contains(tag.as_str()))
}

fn running_words(wanted: bool) -> &'static str {
    if wanted { "running" } else { "stopped" }
}

/// Everything wanted of a guest, in words.
fn summary(want: &DesiredGuest) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(want.tags.as_ref().map(words_of_tags));
    words.extend(want.running.map(|wanted| running_words(wanted).to_owned()));
    words.extend(want.snapshots.iter().map(|name| format!("snapshot {name}")));
    if words.is_empty() { format!("the guest {}", want.name) } else { words.join("; ") }
}

#[cfg(test)]
mod tests;
