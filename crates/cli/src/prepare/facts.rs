//! The facts that an order names, out of a [`World`]. The world came through the hub and is not signed:
//! whatever cannot be named, or could disguise what is signed, is refused here.

use std::collections::BTreeMap;

use authz::world::{self, GuestNow, SnapshotNow, World};
use protocol::refs::{BackupRef, DiskSlot, StorageId, VolumeId, VolumeRef};
use protocol::report::Known;
use protocol::text::printable;
use protocol::{GuestKind, GuestRef, HostName, RunState, SnapshotName, SnapshotRef, Vmid};

use super::PrepareError;
use authz::order::{MAX_SNAPSHOTS, Preconditions};

/// What was asked, and who answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) host: &'a HostName,
    pub(super) world: &'a World,
}

/// A guest that is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest<'a> {
    pub(super) vmid: Vmid,
    pub(super) now: &'a GuestNow,
    host: &'a HostName,
}

impl<'a> Facts<'a> {
    /// The value, or that it is missing.
    pub(super) fn known<T>(
        self,
        value: &'a Known<T>,
        what: impl Into<String>,
    ) -> Result<&'a T, PrepareError> {
        known(self.host, value, what)
    }

    /// A guest that can be told from others, and whose words disguise nothing.
    pub(super) fn guest(self, vmid: Vmid) -> Result<Guest<'a>, PrepareError> {
        let now = self.known(&self.world.guest, format!("how guest {vmid} is"))?;
        let guest = Guest { vmid, now, host: self.host };
        if now.identity.is_empty() {
            let why = "it has no UUID, no network device and no volume";
            return Err(guest.unknown("an identity", why));
        }
        guest.check_disguise()?;
        Ok(guest)
    }

    /// A storage in Proxmox's configuration.
    pub(super) fn storage(self, storage: &StorageId) -> Result<(), PrepareError> {
        let all = self.known(&self.world.storages, "its storages")?;
        if all.contains_key(storage) {
            return Ok(());
        }
        let names = all.keys().map(StorageId::as_str);
        Err(PrepareError::not_there(format!("host '{}'", self.host), "storage", storage.as_str(), names))
    }

    /// Backups, all that were asked for.
    pub(super) fn backups(self) -> Result<&'a [BackupRef], PrepareError> {
        self.known(&self.world.backups, "the backups").map(Vec::as_slice)
    }

    /// Whether the backups on that storage are among them.
    pub(super) fn listed(self, storage: &StorageId) -> Result<(), PrepareError> {
        let Some(why) = self.world.unlisted.get(storage) else { return Ok(()) };
        let what = format!("the backups on storage {storage}");
        Err(PrepareError::Unknown { host: self.host.clone(), what, why: printable(why) })
    }

    /// One backup with its facts.
    pub(super) fn backup(self, volid: &VolumeId) -> Result<&'a BackupRef, PrepareError> {
        let all = self.backups()?;
        all.iter().find(|backup| backup.volid == *volid).ok_or_else(|| {
            if let Err(unlisted) = self.listed(&volid.storage()) {
                return unlisted;
            }
            let names = all.iter().map(|backup| backup.volid.as_str());
            PrepareError::not_there(format!("host '{}'", self.host), "backup", volid.as_str(), names)
        })
    }
}

/// More than an order has room for.
pub(super) fn at_most(most: usize, count: usize, what: &str, remedy: &str) -> Result<(), PrepareError> {
    if count <= most {
        return Ok(());
    }
    let why = format!("there are {count} {what}, and an order names at most {most}: {remedy}");
    Err(PrepareError::Pointless(why))
}

fn known<'a, T>(
    host: &HostName,
    value: &'a Known<T>,
    what: impl Into<String>,
) -> Result<&'a T, PrepareError> {
    match value {
        Known::Known(value) => Ok(value),
        Known::Unknown(why) => {
            Err(PrepareError::Unknown { host: host.clone(), what: what.into(), why: printable(why) })
        }
    }
}

impl<'a> Guest<'a> {
    fn unknown(&self, what: &str, why: &str) -> PrepareError {
        let what = format!("{what} of guest {}", self.vmid);
        PrepareError::Unknown { host: self.host.clone(), what, why: why.to_owned() }
    }

    fn known<T>(&self, value: &'a Known<T>, what: &str) -> Result<&'a T, PrepareError> {
        known(self.host, value, format!("{what} of guest {}", self.vmid))
    }

    /// As an order names it.
    pub(super) fn reference(&self) -> GuestRef {
        let GuestNow { kind, name, identity, .. } = self.now;
        GuestRef { vmid: self.vmid, kind: *kind, name: name.clone(), identity: identity.clone() }
    }

    /// Whether it runs, or that this is not known.
    pub(super) fn state(&self) -> Result<RunState, PrepareError> {
        match self.now.state {
            RunState::Unknown => Err(self.unknown("the state", "it could not be read")),
            known => Ok(known),
        }
    }

    /// The options of its configuration.
    pub(super) fn config(&self) -> Result<&'a BTreeMap<String, String>, PrepareError> {
        self.known(&self.now.config, "the configuration")
    }

    /// Preconditions with the configuration's digest, and with its SHA-256 where that is known.
    pub(super) fn configured(&self) -> Result<Preconditions, PrepareError> {
        let digest = self.now.digest.parse().map_err(|error: protocol::IdError| {
            self.unknown("the configuration's digest", &error.to_string())
        })?;
        Ok(Preconditions {
            digest: Some(digest),
            config_sha256: self.now.config.as_known().map(world::config_sha256),
            ..Preconditions::default()
        })
    }

    /// Preconditions of what changes the run state.
    pub(super) fn powered(&self) -> Result<Preconditions, PrepareError> {
        Ok(Preconditions { state: Some(self.state()?), ha: Some(self.ha()?), ..Preconditions::default() })
    }

    fn ha(&self) -> Result<protocol::refs::HaState, PrepareError> {
        self.known(&self.now.ha, "the state wanted by high availability").copied()
    }

    /// Preconditions of what loses data of the guest: everything that could be lost or get in the way.
    pub(super) fn losing(&self, volumes: Vec<VolumeRef>) -> Result<Preconditions, PrepareError> {
        let snapshots = self.snapshots()?;
        at_most(
            MAX_SNAPSHOTS,
            snapshots.len(),
            "snapshots of the guest",
            "delete some first with snapshot.delete",
        )?;
        let snapshots = snapshots.iter().map(|snapshot| self.snapshot_ref(snapshot));
        Ok(Preconditions {
            volumes: Some(volumes),
            snapshots: Some(snapshots.collect::<Result<_, _>>()?),
            protection: Some(*self.known(&self.now.protection, "the protection")?),
            ha: Some(self.ha()?),
            replication: Some(self.known(&self.now.replication, "the replication jobs")?.clone()),
            ..self.configured()?
        })
    }

    /// The same of what ends the guest. Proxmox ends a stopped one only; that one which runs is stopped hard
    /// by the same order has to be said.
    pub(super) fn ending(&self, stop: bool, remedy: &'static str) -> Result<Preconditions, PrepareError> {
        let state = self.state()?;
        if state != RunState::Stopped && !stop {
            return Err(PrepareError::State { vmid: self.vmid, state, remedy });
        }
        // In the order of the identity, which is sorted: each of them, with its facts.
        let volids = &self.now.identity.volids;
        let volumes = volids.iter().map(|volid| self.volume(volid)).collect::<Result<Vec<_>, _>>()?;
        Ok(Preconditions { state: Some(state), ..self.losing(volumes)? })
    }

    fn snapshots(&self) -> Result<&'a [SnapshotNow], PrepareError> {
        self.known(&self.now.snapshots, "the snapshots").map(Vec::as_slice)
    }

    /// Whether it has a snapshot of this name.
    pub(super) fn has_snapshot(&self, name: &SnapshotName) -> Result<bool, PrepareError> {
        Ok(self.snapshots()?.iter().any(|snapshot| snapshot.name == name.as_str()))
    }

    /// One snapshot with its time and its parent.
    pub(super) fn snapshot(&self, name: &SnapshotName) -> Result<SnapshotRef, PrepareError> {
        let all = self.snapshots()?;
        match all.iter().find(|snapshot| snapshot.name == name.as_str()) {
            Some(found) => self.snapshot_ref(found),
            None => {
                let names = all.iter().map(|snapshot| snapshot.name.as_str());
                let of = format!("guest {}", self.vmid);
                Err(PrepareError::not_there(of, "snapshot", name.as_str(), names))
            }
        }
    }

    fn snapshot_ref(&self, now: &SnapshotNow) -> Result<SnapshotRef, PrepareError> {
        let SnapshotNow { name, time, parent, unfinished } = now;
        let shown = printable(name);
        if let Some(parent) = parent.as_ref().filter(|parent| printable(parent) != **parent) {
            let (what, shown) = ("snapshot's parent", printable(parent));
            return Err(PrepareError::Disguised { vmid: self.vmid, what, shown });
        }
        let Ok(name) = name.parse() else {
            return Err(PrepareError::Unnameable { what: "snapshot", shown });
        };
        if let Some(step) = unfinished {
            return Err(PrepareError::Pointless(format!(
                "snapshot '{shown}' of guest {} is incomplete ({}): look at it on the host first",
                self.vmid,
                printable(step)
            )));
        }
        let time = time.ok_or_else(|| {
            self.unknown(&format!("the time of snapshot '{shown}'"), "Proxmox does not know it either")
        })?;
        Ok(SnapshotRef { name, time, parent: parent.clone() })
    }

    /// One of its volumes with its facts.
    pub(super) fn volume(&self, volid: &str) -> Result<VolumeRef, PrepareError> {
        let all = self.known(&self.now.volumes, "the volumes")?;
        if volid.parse::<VolumeId>().is_err() {
            return Err(PrepareError::Unnameable { what: "volume", shown: printable(volid) });
        }
        let found = all.iter().find(|volume| volume.volid.as_str() == volid);
        found.cloned().ok_or_else(|| {
            let what = format!("size and format of volume {}", printable(volid));
            self.unknown(&what, "it is not on its storage, or that could not be listed")
        })
    }

    /// What hangs in a slot, with its facts.
    pub(super) fn disk(&self, slot: &DiskSlot) -> Result<VolumeRef, PrepareError> {
        let config = self.config()?;
        let of = || format!("guest {}", self.vmid);
        let Some(value) = config.get(slot.as_str()) else {
            let slots = config.iter().filter(|(key, value)| {
                key.parse::<DiskSlot>().is_ok() && world::volume_in(value).contains(':')
            });
            let names = slots.map(|(key, _)| key.as_str());
            return Err(PrepareError::not_there(of(), "disk", slot.as_str(), names));
        };
        let volid = world::volume_in(value);
        if !self.now.identity.volids.iter().any(|own| own == volid) {
            return Err(PrepareError::Pointless(format!(
                "in slot {slot} of guest {} there is no volume of its own ({}), so this cannot be done to it",
                self.vmid,
                printable(volid)
            )));
        }
        self.volume(volid)
    }

    /// Proxmox never makes such words; a host or hub that sends them wants to deceive the signer.
    fn check_disguise(&self) -> Result<(), PrepareError> {
        let GuestNow { name, identity, digest, .. } = self.now;
        let words = [("name", Some(name)), ("configuration digest", Some(digest))]
            .into_iter()
            .chain([("UUID", identity.smbios_uuid.as_ref()), ("generation id", identity.vmgenid.as_ref())])
            .chain([("instance id", identity.giid.as_ref())])
            .chain(identity.macs.iter().map(|mac| ("MAC address", Some(mac))))
            .chain(identity.volids.iter().map(|volid| ("volume", Some(volid))));
        for (what, word) in words {
            if let Some(word) = word.filter(|word| printable(word) != **word) {
                let shown = printable(word);
                return Err(PrepareError::Disguised { vmid: self.vmid, what, shown });
            }
        }
        Ok(())
    }

    /// Containers have no such thing.
    pub(super) fn machine(&self, what: &str) -> Result<(), PrepareError> {
        match self.now.kind {
            GuestKind::Qemu => Ok(()),
            GuestKind::Lxc => Err(PrepareError::Pointless(format!(
                "guest {} is a container, and {what} only virtual machines",
                self.vmid
            ))),
        }
    }
}
