//! What an order relies on, against the world as its host sees it now (`security.md` 2.3): for whoever signs
//! second. The host's answer came through the hub and is not signed: it can only stop a signature, and the
//! host compares everything again. Pure.

use std::collections::BTreeSet;

use authz::order::{Need, TemplateSource, VolumeOwner};
use authz::plan::Plan;
use authz::world::{World, check, config_sha256};
use authz::{Order, Params, RefusalCode};
use protocol::ask::{Look, Owner};
use protocol::report::Known;
use protocol::text::printable;
use protocol::{SnapshotRef, Vmid};

use crate::cosigning::{Fact, Now, identity};
use crate::render;

/// What the host is asked to look at: everything that it will compare before it carries the order out.
pub fn look(order: &Order) -> Look {
    let pre = &order.pre;
    let mut look = Look {
        guest: order.guest.as_ref().map(|guest| guest.vmid),
        disks: pre.disk.is_some(),
        ..Look::default()
    };
    let stated: BTreeSet<_> = pre.backups.iter().flatten().map(|backup| backup.volid.storage()).collect();
    let owner = match &order.params {
        Params::BackupDelete(params) => Some(Owner { vmid: params.owner.vmid, kind: params.owner.kind }),
        Params::BackupPrune(params) => Some(Owner { vmid: params.owner.vmid, kind: params.owner.kind }),
        Params::BackupProtect(params) => Some(Owner { vmid: params.owner.vmid, kind: params.owner.kind }),
        _ => order
            .guest
            .as_ref()
            .filter(|_| order.kind().needs().backups == Need::Must)
            .map(|guest| Owner { vmid: guest.vmid, kind: guest.kind }),
    };
    if owner.is_some() {
        look.owner = owner;
        look.storages = stated.into_iter().collect();
    }
    match &order.params {
        Params::BackupPrune(params) => look.storages = vec![params.storage.clone()],
        Params::GuestCreate(params) => {
            (look.vmids, look.backing) = (true, true);
            match &params.template {
                TemplateSource::Archive { .. } => {}
                TemplateSource::Guest { vmid, .. } => look.template = Some(*vmid),
                TemplateSource::Backup { volume, .. } => {
                    look.owner = volume.backup_owner().map(|(kind, vmid)| Owner { vmid, kind });
                    look.storages = vec![volume.storage()];
                }
            }
        }
        Params::VolumeDelete(params) => {
            if let VolumeOwner::Gone { .. } = params.owner {
                look.vmids = true;
                look.volumes = pre.volumes.iter().flatten().map(|volume| volume.volid.clone()).collect();
            }
        }
        Params::StorageAdd(_) | Params::StorageRemove(_) => (look.backing, look.disks) = (true, true),
        Params::BackupCreate(_)
        | Params::TemplateDownload(_)
        | Params::DiskMove(_)
        | Params::GuestRestoreOver(_) => look.backing = true,
        _ => {}
    }
    look
}

/// Everything that the order and its plan rely on, against the world now. Whether the host would refuse for
/// any reason that it compares is the last of them, in the host's own words.
pub fn facts(order: &Order, plan: Option<&Plan>, world: &World) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(meant) = &order.guest {
        guest(order, plan, meant.vmid, world, &mut facts);
    }
    facts.push(Fact {
        what: "in all",
        signed: "everything that the order states".to_owned(),
        now: match check(order, world) {
            Ok(()) => Now::Same,
            // It passes: a backup runs, or another change is under way.
            Err((RefusalCode::Busy, why)) => Now::Unread(why),
            Err((_, why)) => Now::Changed(format!("refused: {why}")),
        },
    });
    facts
}

fn guest(order: &Order, plan: Option<&Plan>, vmid: Vmid, world: &World, facts: &mut Vec<Fact>) {
    let now = match &world.guest {
        Known::Known(now) => now,
        Known::Unknown(why) => {
            facts.push(Fact::unread("guest", format!("guest {vmid}"), why));
            return;
        }
    };
    if let Some(meant) = &order.guest {
        facts.push(Fact::new("identity", &meant.identity, &now.identity, identity));
        facts.push(Fact::new("name", &meant.name, &now.name, |name| format!("'{}'", printable(name))));
    }
    if let Some(digest) = &order.pre.digest {
        facts.push(Fact::new("digest", &digest.to_string(), &now.digest, |digest| printable(digest)));
    }
    if let Some(state) = &order.pre.state {
        facts.push(Fact::new("state", state, &now.state, ToString::to_string));
    }
    if let Some(hash) = plan.and_then(|plan| plan.config_sha256) {
        let what = "plan's config";
        facts.push(match &now.config {
            Known::Known(config) => Fact::new(what, &hash, &config_sha256(config), ToString::to_string),
            Known::Unknown(why) => Fact::unread(what, hash.to_string(), why),
        });
    }
    if let Some(wanted) = &order.pre.snapshot {
        facts.push(match &now.snapshots {
            Known::Unknown(why) => Fact::unread("snapshot", render::snapshot(wanted), why),
            Known::Known(all) => {
                let found = all.iter().find(|snapshot| snapshot.name == wanted.name.as_str());
                let found = found.and_then(|now| {
                    let (name, time) = (wanted.name.clone(), now.time?);
                    Some(SnapshotRef { name, time, parent: now.parent.clone() })
                });
                Fact::new("snapshot", &Some(wanted.clone()), &found, |found| {
                    found.as_ref().map_or("none of that name".to_owned(), render::snapshot)
                })
            }
        });
    }
    if let Some(volumes) = &order.pre.volumes {
        let names = |volumes: &Vec<protocol::refs::VolumeRef>| {
            let each = volumes.iter().map(|v| format!("{} ({} bytes)", v.volid, v.size));
            each.collect::<Vec<_>>().join(", ")
        };
        facts.push(match &now.volumes {
            Known::Known(now) => {
                // Others than the stated ones may be there: what is compared is what was stated.
                let stated = |v: &&protocol::refs::VolumeRef| volumes.iter().any(|own| own.volid == v.volid);
                let now: Vec<_> = now.iter().filter(stated).cloned().collect();
                Fact::new("volumes", volumes, &now, names)
            }
            Known::Unknown(why) => Fact::unread("volumes", names(volumes), why),
        });
    }
}

#[cfg(test)]
mod tests;
