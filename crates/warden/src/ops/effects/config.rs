//! Options: configuration, size, tags, who looks after the guest.

use std::collections::BTreeMap;

use authz::order::{Amount, Order, Params};
use protocol::GuestKind;
use protocol::report::Known;

use super::{Effects, Subject};

/// True when the order is about this.
pub(super) fn tell(effects: &mut Effects, order: &Order, subject: &Subject<'_>) -> bool {
    let called = &subject.called;
    match &order.params {
        Params::GuestTag(params) => {
            let tags: Vec<_> = params.tags.iter().map(ToString::to_string).collect();
            let tags = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
            effects.say(format!("the tags of {called} become: {tags}"));
        }
        Params::GuestConfig(params) => {
            effects.say(format!("{} option(s) of {called} change", params.changes.len()));
            for change in &params.changes {
                let show = |value: Option<&str>| {
                    value.map_or("not set".to_owned(), |value| {
                        format!("\"{}\"", protocol::text::printable(value))
                    })
                };
                let (old, new) =
                    (change.old.as_ref().map(|v| v.as_str()), change.new.as_ref().map(|v| v.as_str()));
                effects.say(format!("{}: {} becomes {}", change.key.as_str(), show(old), show(new)));
            }
            if params.changes.len() > 1 && subject.kind == Some(GuestKind::Qemu) {
                effects.say(
                    "Proxmox writes the options one after the other: an error leaves those before it changed",
                );
            }
            waiting(effects, subject, params.changes.iter().map(|change| change.key.as_str()));
            for change in &params.changes {
                hidden(effects, change.key.as_str(), change.new.as_ref().map(|new| new.as_str()));
            }
        }
        Params::GuestResize(params) => {
            let cores = match subject.kind {
                Some(GuestKind::Lxc) => "cores",
                _ => "cores per socket",
            };
            let amounts = [
                ("cores", cores, params.cores),
                ("sockets", "sockets", params.sockets),
                ("memory", "MiB of memory", params.memory_mib),
                ("swap", "MiB of swap", params.swap_mib),
            ];
            let given: Vec<(&str, &str, Amount)> =
                amounts.into_iter().filter_map(|(key, words, amount)| Some((key, words, amount?))).collect();
            for (_, words, Amount { old, new }) in &given {
                let old = old.map_or("Proxmox's default".to_owned(), |old| old.to_string());
                effects.say(format!("{called} gets {new} {words} instead of {old}"));
            }
            let smaller = given.iter().any(|(_, _, amount)| amount.old.is_some_and(|old| amount.new < old));
            if smaller && subject.runs {
                effects.say("a running guest that uses more than it is left with may lose programs or stop");
            }
            waiting(effects, subject, given.iter().map(|(key, ..)| *key));
        }
        Params::GuestAdopt(params) => {
            effects.say(format!("{called} gets an instance id, and orders and steps are compared with it"));
            if params.protect {
                effects.say("Proxmox's protection is switched on: it cannot be destroyed, restored over, or lose a disk before that is switched off");
            }
            effects.say("nothing else changes in it");
        }
        Params::GuestRelease(_) => {
            effects.say(format!("the instance id of {called} is forgotten"));
            effects.say("nothing changes in the guest; Proxmox's protection stays as it is");
        }
        _ => return false,
    }
    true
}

/// Options that a running guest takes at once, whatever it is (`pve/facts.md` 5.4).
const AT_ONCE: &[&str] = &["cpulimit", "cpuunits", "description", "onboot", "protection", "startup", "tags"];

/// Which of the options wait for the guest's next start.
fn waiting<'a>(effects: &mut Effects, subject: &Subject<'_>, keys: impl Iterator<Item = &'a str>) {
    if !subject.runs {
        return;
    }
    let config = match subject.guest.map(|guest| &guest.config) {
        Some(Known::Known(config)) => Some(config),
        _ => None,
    };
    let late: Vec<&str> = keys.filter(|key| !at_once(subject.kind, key, config)).collect();
    if !late.is_empty() {
        effects.say(format!(
            "the guest runs: {} may wait for its next start by Proxmox (a reboot from inside is none); the receipt says what waits",
            late.join(", ")
        ));
    }
}

fn at_once(kind: Option<GuestKind>, key: &str, config: Option<&BTreeMap<String, String>>) -> bool {
    if AT_ONCE.contains(&key) {
        return true;
    }
    match kind {
        Some(GuestKind::Lxc) => {
            matches!(key, "cores" | "memory" | "swap" | "hostname") || key.starts_with("net")
        }
        _ => {
            let hotplug =
                config.and_then(|config| config.get("hotplug")).map_or("network,disk,usb", String::as_str);
            let plugged = |what: &str| hotplug == "1" || hotplug.split([',', ';']).any(|word| word == what);
            match key {
                "name" | "shares" | "balloon" | "hotplug" => true,
                "cores" | "sockets" => false,
                "memory" => plugged("memory"),
                key => key.starts_with("net") && plugged("network"),
            }
        }
    }
}

/// What changing an option does besides.
fn hidden(effects: &mut Effects, key: &str, new: Option<&str>) {
    match key {
        "protection" if new != Some("1") => {
            effects.say("without protection the guest can be destroyed, restored over, and lose disks");
        }
        key if key.starts_with("net") => {
            effects.say(match new {
                Some(_) => "a network device that is changed is unplugged for a moment; without an address of its own it gets a new one",
                None => "the guest loses this network device and its address",
            });
            if new.is_some_and(|new| !new.split(',').any(|part| part == "firewall=1")) {
                effects.say("Proxmox's firewall is not before this network device");
            }
        }
        "bios" | "machine" | "scsihw" | "ostype" => {
            effects.say(format!("after a change of {key} the system inside may not start"));
        }
        _ => {}
    }
}
