//! The end of a guest. Proxmox's `DELETE` compares nothing (`security.md` 2.6), so the call right before it is
//! a change of `protection` that Proxmox makes only to the very configuration that was signed: it compares the
//! digest inside its own lock. A guest that took the number meanwhile has another digest, and lives.
//!
//! Where protection is on, that change takes it away, and it is put back when the guest is not destroyed after
//! all. Where it is off already, the change says so once more (`protection=0`): that compares just as well.
//! Switching protection on first, to take it away again, would compare the signed digest one call earlier and
//! the digest of whatever is there then right before the end: a longer way, and a weaker comparison.

use authz::RefusalCode;
use authz::order::{DestroyParams, Order};
use authz::world::Refused;
use protocol::refs::{HaState, VolumeId};
use protocol::{GuestIdentity, GuestKind, RunState};
use proxmox_client::{ApiError, Client, ContentFilter, Destroy, ErrorClass, StorageName};
use serde::{Deserialize, Serialize};

use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::rights::{self, Right};
use super::{Action, Program, Target, config, lock_of, power};
use crate::world::{client_kind, client_vmid, kind_of, observe};

/// `DELETE …/qemu/{vmid}` or `…/lxc/{vmid}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyCall {
    /// Which guest.
    pub guest: Target,
    /// By which it is known afterwards from another one with its number.
    pub identity: GuestIdentity,
    /// What must be gone with it.
    pub volumes: Vec<VolumeId>,
    /// Also out of backup jobs, replication and high availability.
    pub purge: bool,
    /// Also every other volume with its number.
    pub unreferenced: bool,
}

/// Stop it if it runs, compare and unprotect, destroy, look whether all of it is gone.
pub(super) fn program(order: &Order, params: &DestroyParams, guest: Target) -> Result<Program, Refused> {
    let pre = &order.pre;
    let missing = |what: &str| (RefusalCode::BadOrder, format!("the order does not state {what}"));
    let digest = pre.digest.as_ref().ok_or_else(|| missing("pre.digest"))?.to_string();
    let identity = order.guest.as_ref().ok_or_else(|| missing("its guest"))?.identity.clone();
    // The instance id is the warden's own note; Proxmox does not tell it.
    let identity = GuestIdentity { giid: None, ..identity };
    if !params.purge {
        let bound = match (pre.ha, pre.replication.as_deref()) {
            (Some(ha), _) if ha != HaState::Unmanaged => Some("high availability"),
            (_, Some([_, ..])) => Some("replication"),
            _ => None,
        };
        if let Some(bound) = bound {
            let why = format!(
                "the guest is in {bound}, and Proxmox does not destroy it like that: order it with params.purge, or take it out there first"
            );
            return Err((RefusalCode::Precondition, why));
        }
    }
    let mut actions = Vec::new();
    if pre.state == Some(RunState::Running) {
        actions.push(Action::on_guest(power::stop(guest)));
    }
    let compare = |value: Option<&str>| {
        Action::on_guest(config::set(guest, [("protection", value.map(str::to_owned))], Some(&digest)))
    };
    actions.push(match pre.protection {
        Some(false) => compare(Some("0")),
        _ => compare(None).or_else(config::set(guest, [("protection", Some("1".to_owned()))], None)),
    });
    let volumes = pre.volumes.iter().flatten().map(|volume| volume.volid.clone()).collect();
    let (purge, unreferenced) = (params.purge, params.destroy_unreferenced);
    actions.push(Action::on_guest(Call::Destroy(DestroyCall {
        guest,
        identity,
        volumes,
        purge,
        unreferenced,
    })));
    Ok(Program { actions })
}

impl Answers for DestroyCall {
    fn line(&self) -> String {
        let Self { guest, purge, unreferenced, .. } = self;
        format!(
            "DELETE {guest} purge={} destroy-unreferenced-disks={}",
            u8::from(*purge),
            u8::from(*unreferenced)
        )
    }

    fn task(&self) -> Option<TaskName> {
        let name = match self.guest.kind {
            GuestKind::Qemu => "qmdestroy",
            GuestKind::Lxc => "vzdestroy",
        };
        Some(TaskName { types: vec![name], id: self.guest.vmid.to_string() })
    }

    fn rights(&self) -> Vec<Right> {
        vec![rights::on_guest(self.guest.vmid, "VM.Allocate")]
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let with = Destroy { purge: self.purge, unreferenced_disks: self.unreferenced };
        let (kind, vmid) = (client_kind(self.guest.kind), client_vmid(self.guest.vmid));
        Ok(client.destroy_guest(kind, vmid, with).await?.into())
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let Target { kind, vmid } = self.guest;
        match kind_of(client, vmid).await {
            Ok(None) => {}
            Ok(Some(other)) if other != kind => {
                let seen = format!("there is no {} any more, and a {other} guest has its number", self.guest);
                return Ok(Judged::Otherwise(seen));
            }
            Ok(Some(_)) => {
                let seen = observe(client, kind, vmid).await?;
                if self.identity.differences(&seen.identity).is_empty() {
                    return Ok(Judged::NotDone(format!("{} is still there{}", self.guest, lock_of(&seen))));
                }
                let seen = format!("another guest has the number of {} now, or it was changed", self.guest);
                return Ok(Judged::Otherwise(seen));
            }
            // A right that is given on this guest alone goes with it.
            Err(error) if matches!(error.class(), ErrorClass::Permission { .. }) => {
                let seen = format!(
                    "nobody can look whether {} is gone: the token has no right on that number (any more)",
                    self.guest
                );
                return Ok(Judged::Otherwise(seen));
            }
            Err(error) => return Err(error),
        }
        let left = still_listed(client, &self.volumes).await?;
        Ok(if left.is_empty() {
            Judged::Done(format!("{} and its {} volume(s) are gone", self.guest, self.volumes.len()))
        } else {
            let left = left.join(", ");
            Judged::Otherwise(format!("{} is gone, and of its volumes {left} are still there", self.guest))
        })
    }
}

/// Those of these volumes that their storages still list.
pub(super) async fn still_listed(client: &Client, volumes: &[VolumeId]) -> Result<Vec<String>, ApiError> {
    let mut left = Vec::new();
    let storages: std::collections::BTreeSet<_> = volumes.iter().map(VolumeId::storage).collect();
    for storage in storages {
        let Ok(name) = storage.as_str().parse::<StorageName>() else { continue };
        let list = client.storage_content(&name, ContentFilter::default()).await?;
        let here = volumes.iter().filter(|volume| list.iter().any(|l| l.volid.as_str() == volume.as_str()));
        left.extend(here.map(ToString::to_string));
    }
    Ok(left)
}
