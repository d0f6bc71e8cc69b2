//! What will be different when an order is carried out, in sentences: what was asked for, and what Proxmox
//! does besides and does not mention (`pve/facts.md` 5 to 7). Pure; this is what an operator signs.

mod config;
mod disk;
mod end;
mod make;
mod power;
mod snapshot;

use authz::order::Order;
use authz::world::{GuestNow, World};
use protocol::report::Known;
use protocol::text::SafeText;
use protocol::{GuestKind, RunState, Vmid};

use super::Program;

/// The sentences and the calls.
pub fn describe(order: &Order, world: &World, program: &Program) -> (Vec<SafeText>, Vec<SafeText>) {
    let mut effects = Effects { lines: Vec::new() };
    let guest = match &world.guest {
        Known::Known(guest) => Some(guest),
        Known::Unknown(_) => None,
    };
    effects.of(order, guest, program);
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

/// What an order is about, for sentences.
struct Subject<'a> {
    /// The guest as it is now.
    guest: Option<&'a GuestNow>,
    /// What the order's guest is.
    kind: Option<GuestKind>,
    /// Whether it runs.
    runs: bool,
    /// `qemu 101 (db)`; empty without one.
    called: String,
    /// The order's guest's number.
    vmid: Option<Vmid>,
    /// What will be done.
    program: &'a Program,
}

impl Subject<'_> {
    /// The guest's number, in words.
    fn number(&self) -> String {
        self.vmid.map_or_else(String::new, |vmid| vmid.to_string())
    }
}

/// The sentences so far.
struct Effects {
    lines: Vec<String>,
}

impl Effects {
    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn of(&mut self, order: &Order, guest: Option<&GuestNow>, program: &Program) {
        let subject = Subject {
            guest,
            program,
            vmid: order.guest.as_ref().map(|guest| guest.vmid),
            kind: order.guest.as_ref().map(|guest| guest.kind),
            runs: guest.is_some_and(|guest| guest.state == RunState::Running),
            called: order
                .guest
                .as_ref()
                .map_or_else(String::new, |guest| format!("{} {} ({})", guest.kind, guest.vmid, guest.name)),
        };
        let told = power::tell(self, order, &subject)
            || snapshot::tell(self, order, &subject)
            || config::tell(self, order, &subject)
            || disk::tell(self, order, &subject)
            || make::tell(self, order, &subject)
            || end::tell(self, order, &subject);
        if !told {
            self.say(format!("{} of {}", order.kind(), subject.called));
        }
    }

    /// High availability acts by itself.
    fn managed(&mut self, order: &Order) {
        if let Some(ha) = order.pre.ha.filter(|ha| *ha != protocol::refs::HaState::Unmanaged) {
            self.say(format!("high availability wants this guest {ha}, and may act against this"));
        }
    }
}
