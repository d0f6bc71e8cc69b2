//! Guests: power, configuration, creation.

use authz::order::{
    AdoptParams, Amount, ConfigChange, ConfigParams, CreateParams, NetParams, NoParams, PowerOffParams,
    Preconditions, RebootParams, ResizeParams, SuspendParams, TagParams, TemplateSource,
};

use protocol::RunState;

use super::super::order::{seconds, size};
use super::{Rows, also, effect, either, or_none, started};
use crate::text::utc;

pub(super) fn start(NoParams {}: &NoParams, rows: &mut Rows) {
    effect(rows, "start the guest");
}

pub(super) fn tag(TagParams { tags }: &TagParams, rows: &mut Rows) {
    effect(rows, format!("set its tags to exactly: {}", or_none(tags)));
}

pub(super) fn shutdown(PowerOffParams { timeout_s, force }: &PowerOffParams, rows: &mut Rows) {
    effect(rows, format!("ask the guest to shut down, and wait at most {}", seconds((*timeout_s).into())));
    also(
        rows,
        either(
            *force,
            "a guest that takes longer is switched off: what it had not written is LOST",
            "a guest that takes longer goes on running, and the order fails",
        ),
    );
}

pub(super) fn stop(NoParams {}: &NoParams, rows: &mut Rows) {
    effect(rows, "switch the guest off, as if its plug were pulled: what it had not written is LOST");
}

pub(super) fn reboot(RebootParams { timeout_s }: &RebootParams, rows: &mut Rows) {
    let wait = seconds((*timeout_s).into());
    effect(rows, format!("ask the guest to shut down, wait at most {wait}, and start it again"));
    also(rows, "changes of its configuration that wait for a restart take effect");
}

pub(super) fn suspend(SuspendParams { to_disk }: &SuspendParams, rows: &mut Rows) {
    effect(
        rows,
        either(
            *to_disk,
            "write the guest's memory to disk and stop it; its next start goes on from there",
            "pause the guest; it keeps its memory and does nothing until it is resumed",
        ),
    );
    also(rows, "its connections break, and its clock stands still meanwhile");
}

pub(super) fn resume(NoParams {}: &NoParams, pre: &Preconditions, rows: &mut Rows) {
    effect(
        rows,
        match pre.state {
            Some(RunState::Stopped) => "start the guest from its memory on disk, where it was suspended",
            Some(RunState::Running | RunState::Unknown) | None => {
                "let the paused guest go on where it stopped"
            }
        },
    );
    also(rows, "its clock is behind until the guest sets it");
}

pub(super) fn config(ConfigParams { changes }: &ConfigParams, rows: &mut Rows) {
    effect(rows, format!("change {} of the guest's options", changes.len()));
    for ConfigChange { key, old, new } in changes {
        let show = |value: &Option<authz::order::ConfigValue>| {
            value.as_ref().map_or("not set".to_owned(), |value| format!("'{value}'"))
        };
        rows.push(("option", format!("{key}: now {}, then {}", show(old), show(new))));
    }
    also(rows, "on a running guest some options change at once and others at its next start");
}

pub(super) fn resize(ResizeParams { cores, sockets, memory_mib, swap_mib }: &ResizeParams, rows: &mut Rows) {
    effect(rows, "change the guest's processors or memory");
    for (what, unit, amount) in [
        ("cores", "", cores),
        ("sockets", "", sockets),
        ("memory", " MiB", memory_mib),
        ("swap", " MiB", swap_mib),
    ] {
        if let Some(Amount { old, new }) = amount {
            let old = old.map_or("not set".to_owned(), |old| format!("{old}{unit}"));
            rows.push((what, format!("now {old}, then {new}{unit}")));
        }
    }
    also(
        rows,
        "less takes effect at a virtual machine's next start, and at once in a container, which can kill programs",
    );
}

pub(super) fn create(params: &CreateParams, rows: &mut Rows) {
    let CreateParams {
        vmid,
        kind,
        name,
        template,
        storage,
        disk,
        cores,
        memory_mib,
        net,
        unprivileged,
        onboot,
        start,
        pool,
        tags,
    } = params;
    effect(
        rows,
        format!("make the new guest {kind} {vmid} '{name}' on storage {storage}; {}", started(*start)),
    );
    match template {
        TemplateSource::Archive { volume, sha256 } => {
            rows.push(("from", format!("template {volume}, SHA-256 {sha256}")));
        }
        TemplateSource::Backup { volume, size: bytes, ctime } => {
            rows.push(("from", format!("backup {volume} of {}, {}", utc(*ctime), size(*bytes))));
            also(rows, "the guest that it is a backup of stays as it is, and so does the backup");
            also(
                rows,
                "it gets MAC addresses and a UUID of its own; inside, it is the same machine with the same addresses and keys",
            );
        }
        TemplateSource::Golden { volume, sha256 } => {
            rows.push((
                "from",
                format!(
                    "golden image {volume}, SHA-256 {sha256}, by root's pct: may NEST and keep keys (keyctl)"
                ),
            ));
        }
        TemplateSource::Guest { vmid, digest } => {
            rows.push(("from", format!("a full clone of template {vmid}, configuration digest {digest}")));
        }
    }
    let like =
        if let TemplateSource::Backup { .. } = template { "as in the backup" } else { "as the template's" };
    let disk = disk.map_or(like.to_owned(), size);
    rows.push(("disk", disk));
    rows.push(("cores", cores.to_string()));
    rows.push(("memory", format!("{memory_mib} MiB")));
    match net {
        None if matches!(template, TemplateSource::Backup { .. }) => {
            rows.push(("network", "the backup's devices, with new MAC addresses and without a link".into()));
        }
        None => rows.push(("network", "none".into())),
        Some(NetParams { bridge, vlan, firewall }) => {
            let vlan = vlan.map_or("no VLAN".to_owned(), |vlan| format!("VLAN {vlan}"));
            let firewall = either(*firewall, "behind Proxmox's firewall", "WITHOUT Proxmox's firewall");
            rows.push(("network", format!("bridge {bridge}, {vlan}, {firewall}")));
        }
    }
    rows.push((
        "rights",
        either(
            *unprivileged,
            "unprivileged",
            "PRIVILEGED: root in the container is close to root on the host",
        ),
    ));
    rows.push(("on boot", either(*onboot, "started with the host", "not started with the host")));
    rows.push(("pool", pool.as_ref().map_or("none".to_owned(), ToString::to_string)));
    rows.push(("tags", or_none(tags)));
    also(rows, "its disks use space on the storage");
}

pub(super) fn adopt(AdoptParams { protect }: &AdoptParams, rows: &mut Rows) {
    effect(rows, "let Writ manage the guest from now on, by desired state too");
    also(
        rows,
        either(*protect, "Proxmox's protection is switched on", "Proxmox's protection stays as it is"),
    );
}

pub(super) fn release(NoParams {}: &NoParams, rows: &mut Rows) {
    effect(rows, "let Writ no longer manage the guest; the guest itself stays as it is");
    also(rows, "desired state no longer touches it, and signed orders about it still can");
}
