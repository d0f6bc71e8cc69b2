//! Guests out of backups. Never with `force=1`: Proxmox would destroy the guest that is there *before* it reads
//! the archive, and a broken archive would leave nothing (`pve/facts.md` 7.10).
//!
//! `guest.restore_over` is carried out as a safe restore. Proxmox cannot give a guest another number, so the
//! restored guest gets a free one and keeps it. Swapped is what the number stands for: the old guest loses its
//! links and its start at boot, gets the tag `writ-replaced`, is stopped, and stays, protected, until it is
//! destroyed by an order of its own. The new one gets links, MAC addresses as ordered, and is started if that
//! was ordered.

use std::collections::{BTreeMap, BTreeSet};

use authz::RefusalCode;
use authz::order::{Order, RestoreOverParams};
use authz::world::{Refused, World};
use protocol::refs::{BackupRef, PoolName, StorageId, VolumeId};
use protocol::report::Known;
use protocol::{GuestKind, RunState, Vmid};
use proxmox_client::{ApiError, Client, Restore, StoredConfig};
use serde::{Deserialize, Serialize};

use super::backup::{client_storage, client_volid, still_this};
use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::create::{is_free, observe_new, room};
use super::destroy::still_listed;
use super::rights::{self, Right};
use super::settle::{Nets, SettleCall, is_net, linked};
use super::{Action, Program, Target, config, power};
use crate::world::{Near, Observed, client_kind, client_vmid};

/// The tag of a guest in whose place another one works.
const REPLACED: &str = "writ-replaced";

/// A guest that was put aside is as its order left it until another order comes: it has the MAC addresses, and
/// inside the addresses, of the one that works in its place.
///
/// # Errors
/// `bounds`, where it has that tag.
pub fn not_put_aside(vmid: Vmid, seen: &Observed) -> Result<(), Refused> {
    let tags = seen.config.get("tags").map_or("", String::as_str);
    if !tags.split([';', ',', ' ']).any(|tag| tag == REPLACED) {
        return Ok(());
    }
    let why = format!(
        "guest {vmid} was put aside by guest.restore_over, and another one works in its place: nothing unsigned touches it; destroy it by an order, or take the tag {REPLACED} away by a signed guest.tag"
    );
    Err((RefusalCode::Bounds, why))
}

/// A guest is made of a backup, under a free number, with an identity of its own, stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreCall {
    /// Its number and what it is.
    pub guest: Target,
    /// The backup.
    pub archive: BackupRef,
    /// Where its disks go.
    pub storage: StorageId,
    /// Its name; none: the backup's.
    pub name: Option<String>,
    /// Of a container: without the host's root; none: as in the backup.
    pub unprivileged: Option<bool>,
    /// The pool it joins.
    pub pool: Option<PoolName>,
}

/// The first free number after the guest's own.
fn fresh(vmids: &BTreeSet<Vmid>, after: Vmid) -> Option<Vmid> {
    (after.get().checked_add(1)?..).map_while(|n| Vmid::try_from(n).ok()).find(|vmid| !vmids.contains(vmid))
}

/// Of `guest.restore_over`.
pub(super) fn program_over(
    order: &Order,
    params: &RestoreOverParams,
    old: Target,
    world: &World,
) -> Result<Program, Refused> {
    let bad = |why: &str| (RefusalCode::BadOrder, why.to_owned());
    let unread =
        |what: &str, why: &str| (RefusalCode::Precondition, format!("{what} could not be read: {why}"));
    let archive = order.pre.backups.iter().flatten().find(|backup| backup.volid == params.archive);
    let archive = archive.ok_or_else(|| bad("the order does not state its archive"))?.clone();
    let digest =
        order.pre.digest.as_ref().ok_or_else(|| bad("the order does not state pre.digest"))?.to_string();
    let now = match &world.guest {
        Known::Known(guest) => match &guest.config {
            Known::Known(config) => config,
            Known::Unknown(why) => return Err(unread("the guest's configuration", why)),
        },
        Known::Unknown(why) => return Err(unread("the guest", why)),
    };
    let vmids = match &world.vmids {
        Known::Known(vmids) => vmids,
        Known::Unknown(why) => return Err(unread("the numbers of all guests", why)),
    };
    let vmid = fresh(vmids, old.vmid).ok_or_else(|| bad("there is no free number after the guest's own"))?;
    let new = Target { kind: old.kind, vmid };
    let option = |key: &str| now.get(key).cloned();
    let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let settle = |options, nets| Action::free(Call::Settle(SettleCall { guest: new, options, nets }));
    let volid = archive.volid.clone();
    let (storage, name, unprivileged, pool) = (params.storage.clone(), None, None, None);
    let restore = RestoreCall { guest: new, archive, storage, name, unprivileged, pool };
    let mut actions = vec![
        Action::free(Call::Restore(restore)),
        settle(text(&[("onboot", "0"), ("protection", "1")]), Nets::Down {}),
    ];
    // The old guest is touched only now, and only if it is still the one that was signed.
    let (set, back) = out_of_the_way(now);
    let put = |options: BTreeMap<String, Option<String>>, digest: Option<&str>| {
        Call::Config(config::ConfigCall { guest: old, options, digest: digest.map(str::to_owned) })
    };
    actions.push(Action::on_guest(put(set, Some(&digest))).or_else(put(back, None)));
    if order.pre.state == Some(RunState::Running) {
        actions.push(Action::on_guest(power::stop(old)));
    }
    let onboot = option("onboot").unwrap_or_else(|| "0".to_owned());
    let nets = Nets::AsIn { archive: volid, macs: !params.unique };
    actions.push(settle(text(&[("onboot", &onboot)]), nets));
    if params.start {
        actions.push(Action::free(power::start(new)));
    }
    Ok(Program { actions })
}

type Options = BTreeMap<String, Option<String>>;

/// What the old guest's options become, and what they were.
fn out_of_the_way(now: &BTreeMap<String, String>) -> (Options, Options) {
    let tags = now.get("tags").map_or("", String::as_str);
    let mut all: BTreeSet<&str> = tags.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).collect();
    all.insert(REPLACED);
    let mut set: Options = [
        ("onboot", "0".to_owned()),
        ("protection", "1".to_owned()),
        ("tags", all.into_iter().collect::<Vec<_>>().join(";")),
    ]
    .map(|(key, value)| (key.to_owned(), Some(value)))
    .into();
    let nets = now.iter().filter(|(key, _)| is_net(key));
    set.extend(nets.map(|(key, line)| (key.clone(), Some(linked(line, false)))));
    let before = |key: &String| match (key.as_str(), now.get(key)) {
        // Never less protected than it was found, and no harm in more.
        ("protection", _) => Some("1".to_owned()),
        ("onboot", None) => Some("0".to_owned()),
        (_, value) => value.cloned(),
    };
    let back = set.keys().map(|key| (key.clone(), before(key))).collect();
    (set, back)
}

/// What the backup's guest had that a restored one must have too.
const SAME: [&str; 10] =
    ["cores", "sockets", "memory", "swap", "ostype", "arch", "bios", "machine", "scsihw", "cpu"];

/// The volumes that are in the backup, by slot: vzdump's own list of a virtual machine's, and of a container
/// its root filesystem and the mount points that say `backup=1`.
fn saved_slots(stored: &StoredConfig, kind: GuestKind) -> BTreeSet<String> {
    match kind {
        GuestKind::Lxc => {
            let backed_up = |(key, value): &(&String, &String)| {
                key.as_str() == "rootfs"
                    || (key.starts_with("mp")
                        && !value.starts_with('/')
                        && value.split(',').any(|p| p == "backup=1"))
            };
            stored.options.iter().filter(backed_up).map(|(key, _)| key.clone()).collect()
        }
        GuestKind::Qemu => stored
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("#qmdump#map:")?.split(':').next().map(str::to_owned))
            .collect(),
    }
}

impl RestoreCall {
    /// Compares with the backup's own configuration.
    fn judge_seen(&self, seen: &Observed, stored: &StoredConfig) -> Judged {
        let guest = self.guest;
        if let Some(lock) = &seen.lock {
            return Judged::Otherwise(format!("{guest} is there and locked ({lock}): it is not finished"));
        }
        let mut wrong = Vec::new();
        for key in SAME {
            if let Some(then) = stored.get(key)
                && seen.config.get(key).is_none_or(|now| now != then)
            {
                wrong.push(format!("{key} differs"));
            }
        }
        let slots = saved_slots(stored, guest.kind);
        for slot in &slots {
            match seen.slots.get(slot) {
                None => wrong.push(format!("{slot} is missing")),
                Some(volume) if volume.split_once(':').is_none_or(|(s, _)| s != self.storage.as_str()) => {
                    wrong.push(format!("{slot} is not on {}", self.storage));
                }
                Some(_) => {}
            }
        }
        if slots.is_empty() || seen.slots.is_empty() {
            wrong.push("it has no disks".to_owned());
        }
        let then: BTreeSet<String> =
            stored.options.iter().filter(|(k, _)| is_net(k)).map(|(_, v)| v.to_ascii_uppercase()).collect();
        if seen.identity.macs.iter().any(|mac| then.iter().any(|line| line.contains(mac.as_str()))) {
            wrong.push("it has a MAC address of the backup's guest".to_owned());
        }
        let uuid = stored.get("smbios1").unwrap_or("").to_ascii_lowercase();
        if seen.identity.smbios_uuid.as_ref().is_some_and(|own| uuid.contains(own.as_str())) {
            wrong.push("it has the UUID of the backup's guest".to_owned());
        }
        if seen.state != RunState::Stopped {
            wrong.push(format!("it is {}", seen.state));
        }
        if wrong.is_empty() {
            let slots = slots.into_iter().collect::<Vec<_>>().join(", ");
            let name = protocol::text::printable(&seen.name);
            Judged::Done(format!(
                "{guest} ({name}) was made of {} ({slots}), with an identity of its own",
                self.archive.volid
            ))
        } else {
            Judged::Otherwise(format!(
                "{guest} was made and is not what the backup holds: {}",
                wrong.join("; ")
            ))
        }
    }

    fn owner(&self) -> Target {
        let named = self.archive.volid.backup_owner();
        named.map_or(self.guest, |(kind, vmid)| Target { kind, vmid })
    }
}

impl Answers for RestoreCall {
    fn line(&self) -> String {
        let Self { guest, archive, storage, .. } = self;
        let name = self.name.as_ref().map_or(String::new(), |name| format!(" name={name}"));
        let pool = self.pool.as_ref().map_or(String::new(), |pool| format!(" pool={pool}"));
        let unprivileged = match (guest.kind, self.unprivileged) {
            (GuestKind::Qemu, _) => String::new(),
            (_, Some(given)) => format!(" unprivileged={}", u8::from(given)),
            (_, None) => " unprivileged=(as in the backup)".to_owned(),
        };
        format!(
            "POST {} vmid={} archive={} storage={storage} unique=1 start=0 onboot=0{unprivileged}{name}{pool}",
            guest.kind, guest.vmid, archive.volid
        )
    }

    fn task(&self) -> Option<TaskName> {
        let name = match self.guest.kind {
            GuestKind::Qemu => "qmrestore",
            GuestKind::Lxc => "vzrestore",
        };
        Some(TaskName { types: vec![name], id: self.guest.vmid.to_string() })
    }

    fn rights(&self) -> Vec<Right> {
        let mut all = vec![
            rights::on_guest(self.owner().vmid, "VM.Backup"),
            rights::on_storage(&self.storage, "Datastore.AllocateSpace"),
        ];
        // In a pool the right on the pool is enough, so nothing is certain then.
        if self.pool.is_none() {
            all.push(rights::on_guest(self.guest.vmid, "VM.Allocate"));
        }
        all
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let volid = client_volid(&self.archive.volid);
        let mut restore =
            Restore::new(client_vmid(self.guest.vmid), volid.clone(), client_storage(&self.storage))
                .unique()
                .option("onboot", 0);
        if self.guest.kind == GuestKind::Lxc {
            let unprivileged = match self.unprivileged {
                Some(given) => given,
                None => client.backup_config(&volid).await?.get("unprivileged") == Some("1"),
            };
            restore = restore.unprivileged(unprivileged);
        }
        if let Some(name) = &self.name {
            let key = match self.guest.kind {
                GuestKind::Qemu => "name",
                GuestKind::Lxc => "hostname",
            };
            restore = restore.option(key, name);
        }
        if let Some(pool) = &self.pool {
            restore = restore.pool(pool.as_str());
        }
        Ok(client.restore(client_kind(self.guest.kind), &restore).await?.into())
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let seen = match observe_new(client, self.guest).await? {
            Ok(seen) => seen,
            Err(judged) => return Ok(judged),
        };
        let stored = client.backup_config(&client_volid(&self.archive.volid)).await?;
        let judged = self.judge_seen(&seen, &stored);
        let volumes: Vec<VolumeId> = seen.slots.values().filter_map(|volume| volume.parse().ok()).collect();
        Ok(match judged {
            Judged::Done(_) if still_listed(client, &volumes).await?.len() != seen.slots.len() => {
                Judged::Otherwise(format!(
                    "{} was made, and not all of its disks are on their storage",
                    self.guest
                ))
            }
            judged => judged,
        })
    }

    async fn ready(&self, near: &Near<'_>) -> Result<(), String> {
        is_free(near.client, self.guest).await?;
        still_this(near.client, self.owner(), &self.archive).await?;
        // What comes out of a backup is never less than what is in it.
        room(near.client, &self.storage, self.archive.size).await?;
        let volid = client_volid(&self.archive.volid);
        let stored = near
            .client
            .backup_config(&volid)
            .await
            .map_err(|error| format!("what is in {} could not be read: {error}", self.archive.volid))?;
        match stored.kind() {
            Some(kind) if kind == client_kind(self.guest.kind) => Ok(()),
            _ => Err(format!("{} does not hold a guest of type {}", self.archive.volid, self.guest.kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmid(n: u32) -> Vmid {
        Vmid::try_from(n).unwrap()
    }

    #[test]
    fn the_fresh_number_is_the_first_free_one_after_the_guests() {
        let taken: BTreeSet<Vmid> = [100, 101, 102, 104].map(vmid).into();
        assert_eq!(fresh(&taken, vmid(101)), Some(vmid(103)));
        assert_eq!(fresh(&taken, vmid(104)), Some(vmid(105)));
        assert_eq!(fresh(&taken, vmid(999_999_999)), None);
    }

    #[test]
    fn the_old_guest_is_put_out_of_the_way_and_back() {
        let now: BTreeMap<String, String> =
            [("tags", "web;a"), ("onboot", "1"), ("net0", "virtio=A,bridge=b")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into();
        let (set, back) = out_of_the_way(&now);
        assert_eq!(set["tags"].as_deref(), Some("a;web;writ-replaced"));
        assert_eq!(set["net0"].as_deref(), Some("virtio=A,bridge=b,link_down=1"));
        assert_eq!(back["tags"].as_deref(), Some("web;a"));
        assert_eq!(back["net0"].as_deref(), Some("virtio=A,bridge=b"));
        assert_eq!((back["onboot"].as_deref(), back["protection"].as_deref()), (Some("1"), Some("1")));
        let (_, back) = out_of_the_way(&BTreeMap::new());
        assert_eq!((back["tags"].as_deref(), back["onboot"].as_deref()), (None, Some("0")));
    }

    #[test]
    fn what_is_in_a_backup() {
        let vm = "scsi0: local:100/a,size=1G\nscsi1: local:100/b,backup=0\n#qmdump#map:scsi0:drive-scsi0:local:raw:\n";
        assert_eq!(saved_slots(&StoredConfig::parse(vm), GuestKind::Qemu), ["scsi0".to_owned()].into());
        let ct = "rootfs: x:1\nmp0: /mnt/a,mp=/a,backup=1\nmp1: x:2,mp=/b,backup=1\nmp2: x:3,mp=/c\n";
        let slots = saved_slots(&StoredConfig::parse(ct), GuestKind::Lxc);
        assert_eq!(slots, ["mp1".to_owned(), "rootfs".to_owned()].into());
    }
}
