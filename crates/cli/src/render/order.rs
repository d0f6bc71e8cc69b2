//! An order as a person reads it, all of it: nothing that is signed is left out.

use authz::Order;
use authz::order::{Class, HostRef, LogAnchor, PlanRef, PolicyRef, Preconditions};
use protocol::refs::{BackupRef, DiskRef, HaState, VolumeRef};
use protocol::text::SafeText;
use protocol::{GuestIdentity, GuestRef, Sha256};

use super::kinds::{Rows, kind};
use super::snapshot;
use crate::text::{bytes, fields, span, utc};

/// The order, all of it, and its SHA-256 last.
pub fn order(order: &Order, op: &Sha256) -> String {
    // Taken apart, so that a new field cannot be forgotten here.
    let Order { params, host, guest, pre, plan, nonce, nbf, exp, after, policy, min_signers, reason, ticket } =
        order;
    let class = match order.kind().class() {
        Class::Benign => "benign",
        Class::Disruptive => "DISRUPTIVE",
        Class::Destructive => "DESTRUCTIVE",
    };
    let HostRef { id, key, generation, cluster, name } = host;
    let mut rows = vec![("host", format!("{name} (id {id}, key {key}, generation {generation})"))];
    rows.extend(cluster.iter().map(|cluster| ("cluster", cluster.clone())));
    if let Some(GuestRef { vmid, kind, name, identity: _ }) = guest {
        rows.push(("guest", format!("{kind} {vmid} '{name}'")));
    }
    kind(params, pre, &mut rows);
    if let Some(guest) = guest {
        identity(&guest.identity, &mut rows);
    }
    preconditions(pre, &mut rows);
    match plan {
        Some(PlanRef { sha256, challenge }) => {
            rows.push(("plan", format!("{sha256} (challenge {challenge})")));
        }
        None => rows.push(("plan", "none".into())),
    }
    if let Some(LogAnchor { size, head, strict }) = after {
        let strict = if *strict { "exactly" } else { "at least" };
        rows.push(("only if", format!("the host's log has {strict} {size} entries ({head})")));
    }
    let validity = seconds(exp.saturating_sub(*nbf));
    rows.push(("valid", format!("{} to {}, {validity}", utc(*nbf), utc(*exp))));
    let PolicyRef { version, sha256 } = policy;
    rows.push(("policy", format!("version {version} ({sha256})")));
    rows.push(("signers", format!("at least {min_signers}, signing for {}", order.kind().namespace())));
    rows.push(("nonce", format!("{nonce} (usable once)")));
    rows.push(("reason", or_none(reason)));
    rows.extend(ticket.iter().map(|ticket| ("ticket", ticket.to_string())));
    rows.push(("SHA-256", op.to_string()));
    format!("Order {} ({class})\n{}", order.kind(), fields(&rows))
}

/// A text, or that there is none.
pub(super) fn or_none(text: &SafeText) -> String {
    if text.as_str().is_empty() { "none given".to_owned() } else { text.to_string() }
}

/// Bytes to the last one, and as people say them.
pub(super) fn size(count: u64) -> String {
    if count < 1024 { format!("{count} bytes") } else { format!("{count} bytes ({})", bytes(count)) }
}

/// Seconds to the last one, and as people say them.
pub(super) fn seconds(count: u64) -> String {
    let said = span(count);
    if said == format!("{count} s") { said } else { format!("{count} s ({said})") }
}

fn identity(identity: &GuestIdentity, rows: &mut Rows) {
    let GuestIdentity { smbios_uuid, vmgenid, meta_ctime, macs, volids, giid } = identity;
    let facts = [
        smbios_uuid.as_ref().map(|uuid| format!("UUID {uuid}")),
        vmgenid.as_ref().map(|id| format!("generation id {id}")),
        meta_ctime.map(|time| format!("created {}", utc(time))),
        (!macs.is_empty()).then(|| format!("MAC {}", macs.join(", "))),
        (!volids.is_empty()).then(|| format!("volumes {}", volids.join(", "))),
        giid.as_ref().map(|id| format!("instance id {id}")),
    ];
    rows.extend(facts.into_iter().flatten().map(|fact| ("identity", fact)));
}

fn preconditions(pre: &Preconditions, rows: &mut Rows) {
    let Preconditions {
        state,
        digest,
        config_sha256,
        snapshot: one,
        volumes,
        snapshots,
        protection,
        ha,
        replication,
        backups,
        disk,
    } = pre;
    let mut only = |fact: String| rows.push(("only if", fact));
    if let Some(state) = state {
        only(format!("the guest is {state}"));
    }
    if let Some(digest) = digest {
        only(format!("its configuration has digest {digest}"));
    }
    if let Some(hash) = config_sha256 {
        only(format!("its configuration's options have SHA-256 {hash}"));
    }
    if let Some(wanted) = one {
        only(format!("there is {}", snapshot(wanted)));
    }
    if let Some(all) = snapshots {
        only(if all.is_empty() {
            "it has no snapshots".into()
        } else {
            format!("it has exactly these snapshots ({}):", all.len())
        });
        all.iter().for_each(|one| only(format!("  {}", snapshot(one))));
    }
    for VolumeRef { volid, size: count, format } in volumes.iter().flatten() {
        only(format!("volume {volid} has {} as {format}", size(*count)));
    }
    if volumes.as_ref().is_some_and(Vec::is_empty) {
        only("it has no volumes".into());
    }
    if let Some(on) = protection {
        only(format!("its protection is {}", if *on { "on" } else { "off" }));
    }
    if let Some(ha) = ha {
        only(match ha {
            HaState::Unmanaged => "high availability does not know it (unmanaged)".into(),
            HaState::Started | HaState::Stopped | HaState::Disabled | HaState::Ignored => {
                format!("high availability wants it {ha}")
            }
        });
    }
    if let Some(jobs) = replication {
        let names: Vec<_> = jobs.iter().map(ToString::to_string).collect();
        only(if names.is_empty() {
            "it is not replicated".into()
        } else {
            format!("its replication jobs are exactly {}", names.join(", "))
        });
    }
    for BackupRef { volid, size: count, ctime } in backups.iter().flatten() {
        only(format!("backup {volid} has {} and is of {}", size(*count), utc(*ctime)));
    }
    if let Some(DiskRef { serial, wwn, size: count }) = disk {
        let wwn = wwn.as_ref().map_or("no WWN".to_owned(), |wwn| format!("WWN {wwn}"));
        only(format!("the disk has serial number {serial}, {wwn} and {}", size(*count)));
    }
}
