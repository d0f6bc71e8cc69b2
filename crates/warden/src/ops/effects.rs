//! What will be different when an order is carried out, in sentences: what was asked for, and what Proxmox
//! does besides and does not mention (`pve/facts.md` 5 to 7). Pure; this is what an operator signs.

use authz::order::{Order, Params};
use authz::world::{GuestNow, World};
use protocol::RunState;
use protocol::report::Known;
use protocol::text::SafeText;

use super::Program;

/// The sentences and the calls.
pub fn describe(order: &Order, world: &World, program: &Program) -> (Vec<SafeText>, Vec<SafeText>) {
    let mut effects = Effects { lines: Vec::new() };
    let guest = match &world.guest {
        Known::Known(guest) => Some(guest),
        Known::Unknown(_) => None,
    };
    effects.of(order, guest);
    let mut calls = Vec::new();
    for action in &program.actions {
        calls.push(action.call.line());
        if let Some(undo) = &action.undo {
            calls.push(format!("(only if a later call does not succeed) {}", undo.line()));
        }
    }
    let safe = |lines: Vec<String>| lines.iter().map(|line| SafeText::sanitize(line)).collect();
    (safe(effects.lines), safe(calls))
}

struct Effects {
    lines: Vec<String>,
}

impl Effects {
    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn of(&mut self, order: &Order, guest: Option<&GuestNow>) {
        let runs = guest.is_some_and(|guest| guest.state == RunState::Running);
        let called = order
            .guest
            .as_ref()
            .map_or_else(String::new, |guest| format!("{} {} ({})", guest.kind, guest.vmid, guest.name));
        match &order.params {
            Params::GuestStart(_) => self.say(format!("{called} is started")),
            Params::GuestTag(params) => {
                let tags: Vec<_> = params.tags.iter().map(ToString::to_string).collect();
                let tags = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
                self.say(format!("the tags of {called} become: {tags}"));
            }
            Params::SnapshotCreate(params) => {
                self.say(format!("snapshot {} of {called} is taken, without memory", params.snapshot));
            }
            Params::SnapshotRollback(params) => {
                if let Some(snapshot) = &order.pre.snapshot {
                    self.say(format!(
                        "everything that changed in {called} since snapshot {} is lost: its disks, and its configuration too",
                        snapshot.name
                    ));
                    self.newer_snapshots(snapshot.name.as_str(), guest);
                }
                if runs {
                    self.say("the running guest is stopped hard first, as if its plug were pulled");
                }
                self.say(match params.start {
                    true => "the guest is started afterwards",
                    false => "the guest stays stopped afterwards",
                });
                self.say("disks that were added since the snapshot stay, as unused disks; bind mounts are not touched");
                self.managed(order);
            }
            Params::SnapshotDelete(_) => {
                if let Some(snapshot) = &order.pre.snapshot {
                    self.say(format!(
                        "snapshot {} of {called} is deleted and cannot be brought back",
                        snapshot.name
                    ));
                }
                self.say("the guest itself stays as it is");
            }
            _ => self.say(format!("{} of {called}", order.kind())),
        }
    }

    fn newer_snapshots(&mut self, name: &str, guest: Option<&GuestNow>) {
        let Some(Known::Known(snapshots)) = guest.map(|guest| &guest.snapshots) else { return };
        let at = snapshots.iter().find(|snapshot| snapshot.name == name).and_then(|snapshot| snapshot.time);
        let newer: Vec<&str> =
            snapshots.iter().filter(|s| at.is_some() && s.time > at).map(|s| s.name.as_str()).collect();
        if !newer.is_empty() {
            self.say(format!(
                "newer snapshots ({}) stay in the list; on ZFS Proxmox refuses instead, and nothing happens",
                newer.join(", ")
            ));
        }
    }

    /// High availability acts by itself.
    fn managed(&mut self, order: &Order) {
        if let Some(ha) = order.pre.ha.filter(|ha| *ha != protocol::refs::HaState::Unmanaged) {
            self.say(format!("high availability wants this guest {ha}, and may act against this"));
        }
    }
}
