//! What the acting token must be allowed to do for a call, asked before a nonce is burned: an order that
//! Proxmox would refuse is refused here by name, with the lines that grant what is missing. Pure.
//!
//! Only what is certain is asked for (`pve/facts.md` 2 and 10). Where this knows less than Proxmox, Proxmox
//! refuses, and the order is used up.

use std::collections::{BTreeMap, BTreeSet};

use authz::RefusalCode;
use authz::world::Refused;
use protocol::refs::StorageId;
use protocol::{GuestKind, Vmid};
use proxmox_client::Permissions;
use proxmox_client::catalog::WRIT_AGENT;

use super::{Call, Program};

/// Privileges on a path of Proxmox's access control, one of which is enough.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Such as `/vms/101`.
    pub path: String,
    /// At least one; the first is the one that is proposed.
    pub any_of: Vec<&'static str>,
}

/// On a path.
pub fn on(path: impl Into<String>, privilege: &'static str) -> Right {
    Right { path: path.into(), any_of: vec![privilege] }
}

/// On a guest, there or not yet.
pub fn on_guest(vmid: Vmid, privilege: &'static str) -> Right {
    on(format!("/vms/{vmid}"), privilege)
}

/// On a storage.
pub fn on_storage(storage: &StorageId, privilege: &'static str) -> Right {
    on(format!("/storage/{storage}"), privilege)
}

/// To attach a network device, by the option's value. None: it names no bridge.
pub fn on_bridge(net: &str) -> Option<Right> {
    let part = |name: &str| net.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let bridge = part("bridge")?;
    let vlan = part("tag").map_or_else(String::new, |tag| format!("/{tag}"));
    Some(on(format!("/sdn/zones/localnetwork/{bridge}{vlan}"), "SDN.Use"))
}

/// To set or take away an option of a guest.
pub fn for_option(kind: GuestKind, vmid: Vmid, key: &str, value: Option<&str>) -> Vec<Right> {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let guest = |privilege| vec![on_guest(vmid, privilege)];
    let net = || {
        let mut rights = vec![on_guest(vmid, "VM.Config.Network")];
        rights.extend(value.and_then(on_bridge));
        rights
    };
    match (kind, key) {
        (_, _) if stem == "net" && key != stem => net(),
        (_, "cores" | "cpulimit" | "cpuunits" | "sockets" | "cpu" | "numa" | "vcpus") => {
            guest("VM.Config.CPU")
        }
        (_, "memory" | "swap" | "balloon" | "shares") => guest("VM.Config.Memory"),
        (_, "onboot" | "protection" | "description" | "tags" | "ostype" | "name" | "agent" | "autostart")
        | (_, "localtime") => guest("VM.Config.Options"),
        // The host's boot order is the host's business.
        (GuestKind::Qemu, "startup") => {
            vec![on_guest(vmid, "VM.Config.Options"), on("/", "Sys.Modify")]
        }
        (GuestKind::Qemu, "machine" | "scsihw" | "vga" | "tablet" | "kvm" | "acpi") => {
            guest("VM.Config.HWType")
        }
        (GuestKind::Qemu, "nameserver" | "searchdomain") => either(vmid),
        (GuestKind::Qemu, _) if stem == "ipconfig" => either(vmid),
        (GuestKind::Lxc, "hostname" | "nameserver" | "searchdomain") => guest("VM.Config.Network"),
        (GuestKind::Lxc, "features") => guest("VM.Allocate"),
        _ => Vec::new(),
    }
}

/// What cloud-init tells the guest about its network.
fn either(vmid: Vmid) -> Vec<Right> {
    vec![Right { path: format!("/vms/{vmid}"), any_of: vec!["VM.Config.Network", "VM.Config.Cloudinit"] }]
}

/// The token's rights on a path: those of the path itself where Proxmox names it, else those that the nearest
/// path above hands down.
fn held<'a>(permissions: &'a Permissions, path: &str) -> BTreeSet<&'a str> {
    let of = |privileges: &'a BTreeMap<String, bool>, here: bool| {
        privileges.iter().filter(|(_, down)| here || **down).map(|(name, _)| name.as_str()).collect()
    };
    if let Some(privileges) = permissions.get(path) {
        return of(privileges, true);
    }
    let mut above = path;
    while let Some((parent, _)) = above.rsplit_once('/') {
        above = if parent.is_empty() { "/" } else { parent };
        if let Some(privileges) = permissions.get(above) {
            return of(privileges, false);
        }
        if above == "/" {
            break;
        }
    }
    BTreeSet::new()
}

/// Whether the token may make every call of the program, undoing ones too.
///
/// # Errors
/// A refusal that names the privileges, the call and the lines that grant them.
pub fn check(program: &Program, permissions: &Permissions, identity: &str) -> Result<(), Refused> {
    let calls = program.actions.iter().flat_map(|action| [Some(&action.call), action.undo.as_ref()]);
    let mut lacking: BTreeMap<Right, &Call> = BTreeMap::new();
    for call in calls.flatten() {
        for right in call.rights() {
            let held = held(permissions, &right.path);
            if !right.any_of.iter().any(|privilege| held.contains(privilege)) {
                lacking.entry(right).or_insert(call);
            }
        }
    }
    let Some(call) = lacking.values().next() else { return Ok(()) };
    let what: Vec<String> =
        lacking.keys().map(|right| format!("{} on {}", right.any_of.join(" or "), right.path)).collect();
    let why = format!(
        "Proxmox would refuse this to the token {identity} (first: {}), which lacks {}: the order was not used up. This grants it: {}",
        call.line(),
        what.join(", "),
        grants(lacking.keys(), identity).join("; ")
    );
    Err((RefusalCode::Proxmox, why))
}

/// The lines for root on the host. A separated token has what both it and its user have
/// (`pve/facts.md` 1.4), so both are granted.
fn grants<'a>(lacking: impl Iterator<Item = &'a Right>, identity: &str) -> Vec<String> {
    let mut by_path: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for right in lacking {
        by_path.entry(&right.path).or_default().extend(right.any_of.first());
    }
    let user = identity.split('!').next().unwrap_or_default();
    let mut lines = Vec::new();
    for (path, privileges) in by_path {
        let (usual, more): (Vec<&str>, Vec<&str>) =
            privileges.into_iter().partition(|privilege| WRIT_AGENT.contains(privilege));
        let mut roles = Vec::new();
        if !usual.is_empty() {
            roles.push("WritAgent".to_owned());
        }
        for privilege in more {
            // Optional capabilities have a role each, so that each can be taken back alone.
            let role = format!("Writ-{}", privilege.replace('.', "-"));
            lines.push(format!("pveum role add {role} --privs {privilege}"));
            roles.push(role);
        }
        let roles = roles.join(",");
        let mut whom = vec![format!("--tokens {}", quoted(identity))];
        if user != "root@pam" {
            whom.insert(0, format!("--users {}", quoted(user)));
        }
        lines.push(format!("pveum acl modify {path} {} --roles {roles}", whom.join(" ")));
    }
    lines
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;
