//! New guests. Nothing that Proxmox would choose by itself is left to it, and a new guest is started only after
//! it was looked at.

use std::collections::BTreeMap;
use std::io::Read as _;

use authz::RefusalCode;
use authz::order::{CreateParams, NetParams, TemplateSource};
use authz::world::Refused;
use protocol::plan::{DiskSize, NewGuest, Pin};
use protocol::refs::{BackupRef, BridgeName, PoolName, StorageId, VolumeId};
use protocol::{GuestKind, Sha256};
use proxmox_client::{ApiError, Client, CloneGuest, CreateLxc, ErrorClass};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::backup::{client_storage, client_volid};
use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::restore::RestoreCall;
use super::rights::{self, Right};
use super::settle::{Nets, SettleCall};
use super::{Action, Program, Target, power};
use crate::world::{Near, Observed, client_kind, client_vmid, kind_of, observe};

/// A guest that is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCall {
    /// Its number and what it is.
    pub guest: Target,
    /// Its name.
    pub name: String,
    /// Where its disks go.
    pub storage: StorageId,
    /// The pool it joins.
    pub pool: Option<PoolName>,
    /// Without the host's root.
    pub unprivileged: bool,
    /// From what.
    pub from: From,
}

/// What a guest is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum From {
    /// A template in a file; containers only.
    Archive {
        /// Which.
        volume: VolumeId,
        /// What is in it.
        sha256: Sha256,
        /// Size of the root filesystem.
        gib: u32,
        /// Its options.
        options: BTreeMap<String, String>,
    },
    /// A full clone of a template. Its options come afterwards: a clone takes none.
    Clone {
        /// The template's number.
        vmid: protocol::Vmid,
        /// The template's configuration.
        digest: String,
    },
}

/// Make it, give it its options, start it if that was ordered.
pub(super) fn program(params: &CreateParams) -> Result<Program, Refused> {
    let guest = Target { kind: params.kind, vmid: params.vmid };
    let mut options: BTreeMap<String, String> = [
        ("cores", params.cores.to_string()),
        ("memory", params.memory_mib.to_string()),
        ("onboot", u8::from(params.onboot).to_string()),
        // A guest that Writ makes is protected from the first moment on (`security.md` 2.6).
        ("protection", "1".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if !params.tags.is_empty() {
        let mut tags: Vec<_> = params.tags.iter().map(ToString::to_string).collect();
        tags.sort();
        options.insert("tags".to_owned(), tags.join(";"));
    }
    let net0 = params.net.as_ref().map(|net| net_line(params.kind, net));
    let make = |from| {
        Action::free(Call::Create(CreateCall {
            guest,
            name: params.name.to_string(),
            storage: params.storage.clone(),
            pool: params.pool.clone(),
            unprivileged: params.unprivileged,
            from,
        }))
    };
    let settle = |options, nets| Action::free(Call::Settle(SettleCall { guest, options, nets }));
    let mut actions = match &params.template {
        TemplateSource::Archive { volume, sha256 } => {
            options.extend(net0.map(|line| ("net0".to_owned(), line)));
            let whole = params.disk.map(|bytes| bytes >> 30).and_then(|gib| u32::try_from(gib).ok());
            let gib = whole
                .ok_or_else(|| (RefusalCode::BadOrder, "the order gives no size of the disk".to_owned()))?;
            vec![make(From::Archive { volume: volume.clone(), sha256: *sha256, gib, options })]
        }
        TemplateSource::Guest { vmid, digest } => {
            let clone = From::Clone { vmid: *vmid, digest: digest.to_string() };
            vec![make(clone), settle(options, Nets::Only { net0 })]
        }
        // Root's service makes it (`crate::privileged`).
        TemplateSource::Golden { .. } => {
            let why = "a container from a golden image is made by writ-privileged".to_owned();
            return Err((RefusalCode::Kind, why));
        }
        TemplateSource::Backup { volume, size, ctime } => {
            let restore = RestoreCall {
                guest,
                archive: BackupRef { volid: volume.clone(), size: *size, ctime: *ctime },
                storage: params.storage.clone(),
                name: Some(params.name.to_string()),
                unprivileged: (params.kind == GuestKind::Lxc).then_some(params.unprivileged),
                pool: params.pool.clone(),
            };
            vec![Action::free(Call::Restore(restore)), settle(options, Nets::Down {})]
        }
    };
    if params.start {
        actions.push(Action::free(power::start(guest)));
    }
    Ok(Program { actions })
}

/// The same guest as an order would have it. What a step cannot say is at its safest.
pub(super) fn unsigned(new: &NewGuest) -> CreateParams {
    let template = match &new.template {
        Pin::Archive { volume, sha256 } => {
            TemplateSource::Archive { volume: volume.clone(), sha256: *sha256 }
        }
        Pin::Guest { vmid, digest } => TemplateSource::Guest { vmid: *vmid, digest: digest.clone() },
    };
    let net = |bridge: &BridgeName| NetParams { bridge: bridge.clone(), vlan: None, firewall: true };
    CreateParams {
        vmid: new.vmid,
        kind: new.kind,
        name: new.name.clone(),
        template,
        storage: new.storage.clone(),
        disk: new.disk.map(DiskSize::get),
        cores: new.cores.get(),
        memory_mib: new.memory_mib.get(),
        net: new.bridge.as_ref().map(net),
        unprivileged: true,
        onboot: false,
        start: new.start,
        pool: None,
        tags: new.tags.clone(),
    }
}

/// A device without a MAC address: Proxmox chooses a free one.
fn net_line(kind: GuestKind, net: &NetParams) -> String {
    let vlan = net.vlan.map_or(String::new(), |vlan| format!(",tag={vlan}"));
    let firewall = u8::from(net.firewall);
    match kind {
        GuestKind::Qemu => format!("virtio,bridge={}{vlan},firewall={firewall}", net.bridge),
        GuestKind::Lxc => format!("name=eth0,bridge={}{vlan},firewall={firewall},ip=dhcp", net.bridge),
    }
}

/// The number is free on this node. Proxmox itself refuses one that another node has.
pub(super) async fn is_free(client: &Client, guest: Target) -> Result<(), String> {
    match kind_of(client, guest.vmid).await {
        Ok(None) => Ok(()),
        Ok(Some(kind)) => Err(format!("there is a {kind} guest with number {} by now", guest.vmid)),
        Err(error) => Err(format!("whether number {} is free could not be read: {error}", guest.vmid)),
    }
}

/// The storage can be used and has so many bytes left. How much a thin pool or a compressed one really has
/// room for nobody knows before; what it says is taken.
pub(super) async fn room(client: &Client, storage: &StorageId, bytes: u64) -> Result<(), String> {
    let state = client
        .storage_status(&client_storage(storage))
        .await
        .map_err(|error| format!("whether storage {storage} has room could not be read: {error}"))?;
    if state.active != Some(true) {
        return Err(format!("storage {storage} is not active"));
    }
    match state.avail {
        Some(avail) if avail >= bytes => Ok(()),
        Some(avail) => Err(format!("storage {storage} has {avail} bytes left, and {bytes} are needed")),
        None => Err(format!("storage {storage} does not say how much room it has")),
    }
}

/// SHA-256 of a file of a storage, read by this process. Proxmox tells no hash of a file, and computes none.
pub(super) async fn file_sha256(near: &Near<'_>, volume: &VolumeId) -> Result<Sha256, String> {
    let info = near
        .client
        .volume_info(&client_volid(volume))
        .await
        .map_err(|error| format!("{volume} could not be read: {error}"))?;
    let path = info.path.ok_or_else(|| format!("Proxmox does not say where {volume} is"))?;
    let under = near.root.join(path.trim_start_matches('/'));
    let hash = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(&under)?;
        let (mut sum, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Sha256::from_bytes(sum.finalize().into())),
                n => sum.update(&buffer[..n]),
            }
        }
    });
    let read: std::io::Result<Sha256> = hash.await.map_err(|error| error.to_string())?;
    read.map_err(|error| {
        format!(
            "the SHA-256 of {volume} cannot be compared, because the warden cannot read {path} ({error}): let the warden's user read that file"
        )
    })
}

impl CreateCall {
    fn judge_seen(&self, seen: &Observed) -> Judged {
        let guest = self.guest;
        if let Some(lock) = &seen.lock {
            return Judged::Otherwise(format!("{guest} is there and locked ({lock}): it is not finished"));
        }
        let mut wrong = Vec::new();
        if seen.name != self.name {
            wrong.push(format!("its name is {:?}", protocol::text::printable(&seen.name)));
        }
        let option = |key: &str| seen.config.get(key).map(String::as_str);
        if guest.kind == GuestKind::Lxc && (option("unprivileged") == Some("1")) != self.unprivileged {
            wrong.push(format!("unprivileged is {}", option("unprivileged").unwrap_or("not set")));
        }
        if seen.template {
            wrong.push("it is a template".to_owned());
        }
        let elsewhere: Vec<_> = seen
            .slots
            .values()
            .filter(|volume| volume.split_once(':').is_none_or(|(s, _)| s != self.storage.as_str()))
            .map(String::as_str)
            .collect();
        if seen.slots.is_empty() || !elsewhere.is_empty() {
            wrong.push(format!("its disks are not on {}: {}", self.storage, elsewhere.join(", ")));
        }
        if let From::Archive { options, .. } = &self.from {
            let plain = options.iter().filter(|(key, _)| !super::settle::is_net(key));
            let differs = plain.filter(|(key, value)| {
                !option(key).map_or(value.as_str() == "0", |have| super::config::same(key, value, have))
            });
            wrong.extend(differs.map(|(key, _)| format!("{key} is {}", option(key).unwrap_or("not set"))));
        }
        if wrong.is_empty() {
            Judged::Done(format!("{guest} ({}) was made", protocol::text::printable(&seen.name)))
        } else {
            Judged::Otherwise(format!("{guest} is there and not as it was ordered: {}", wrong.join("; ")))
        }
    }
}

/// Of a guest that is to be made: it is read, or it is not there.
pub(super) async fn observe_new(
    client: &Client,
    guest: Target,
) -> Result<Result<Observed, Judged>, ApiError> {
    match observe(client, guest.kind, guest.vmid).await {
        Ok(seen) => Ok(Ok(seen)),
        Err(error) if error.class() == ErrorClass::NotFound => {
            Ok(Err(Judged::NotDone(format!("there is no {guest}"))))
        }
        Err(error) => Err(error),
    }
}

impl Answers for CreateCall {
    fn line(&self) -> String {
        let Self { guest, name, storage, unprivileged, .. } = self;
        let pool = self.pool.as_ref().map_or(String::new(), |pool| format!(" pool={pool}"));
        match &self.from {
            From::Archive { volume, gib, options, .. } => {
                let option = |(key, value): (&String, &String)| format!("{key}={value}");
                let options = options.iter().map(option).collect::<Vec<_>>().join(" ");
                format!(
                    "POST lxc vmid={} ostemplate={volume} hostname={name} rootfs={storage}:{gib} unprivileged={} start=0{pool} {options}",
                    guest.vmid,
                    u8::from(*unprivileged)
                )
            }
            From::Clone { vmid, .. } => {
                format!(
                    "POST {}/{vmid}/clone newid={} name={name} full=1 storage={storage}{pool}",
                    guest.kind, guest.vmid
                )
            }
        }
    }

    fn task(&self) -> Option<TaskName> {
        let (name, id) = match (&self.from, self.guest.kind) {
            (From::Archive { .. }, _) => ("vzcreate", self.guest.vmid),
            // A clone's task bears the template's number.
            (From::Clone { vmid, .. }, GuestKind::Qemu) => ("qmclone", *vmid),
            (From::Clone { vmid, .. }, GuestKind::Lxc) => ("vzclone", *vmid),
        };
        Some(TaskName { types: vec![name], id: id.to_string() })
    }

    fn rights(&self) -> Vec<Right> {
        let mut all = vec![rights::on_storage(&self.storage, "Datastore.AllocateSpace")];
        // In a pool the right on the pool is enough, so nothing is certain then.
        if self.pool.is_none() {
            all.push(rights::on_guest(self.guest.vmid, "VM.Allocate"));
        }
        match &self.from {
            From::Archive { options, .. } => {
                let nets = options.iter().filter(|(key, _)| super::settle::is_net(key));
                all.extend(nets.filter_map(|(_, line)| rights::on_bridge(line)));
            }
            From::Clone { vmid, .. } => all.push(rights::on_guest(*vmid, "VM.Clone")),
        }
        all
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let storage = client_storage(&self.storage);
        let vmid = client_vmid(self.guest.vmid);
        Ok(match &self.from {
            From::Archive { volume, gib, options, .. } => {
                let mut new = CreateLxc::new(vmid, client_volid(volume), &storage, *gib).hostname(&self.name);
                for (key, value) in options {
                    new = match (key.as_str(), value.as_str()) {
                        // The client says it by itself, one way or the other.
                        ("onboot", "1") => new.start_on_boot(),
                        ("onboot", _) => new,
                        _ => new.option(key, value),
                    };
                }
                if let Some(pool) = &self.pool {
                    new = new.pool(pool.as_str());
                }
                if !self.unprivileged {
                    new = new.privileged();
                }
                client.create_lxc(&new).await?
            }
            From::Clone { vmid: template, .. } => {
                let mut clone = CloneGuest::full(vmid).name(&self.name).storage(storage);
                if let Some(pool) = &self.pool {
                    clone = clone.pool(pool.as_str());
                }
                client.clone_guest(client_kind(self.guest.kind), client_vmid(*template), &clone).await?
            }
        }
        .into())
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        Ok(match observe_new(client, self.guest).await? {
            Ok(seen) => self.judge_seen(&seen),
            Err(judged) => judged,
        })
    }

    async fn ready(&self, near: &Near<'_>) -> Result<(), String> {
        is_free(near.client, self.guest).await?;
        match &self.from {
            From::Archive { volume, sha256, gib, .. } => {
                room(near.client, &self.storage, u64::from(*gib) << 30).await?;
                let found = file_sha256(near, volume).await?;
                if found != *sha256 {
                    return Err(format!("{volume} is not the file that was meant: its SHA-256 is {found}"));
                }
                Ok(())
            }
            From::Clone { vmid, digest } => {
                room(near.client, &self.storage, 1).await?;
                let kind = client_kind(self.guest.kind);
                let config = near
                    .client
                    .guest_config(kind, client_vmid(*vmid))
                    .await
                    .map_err(|error| format!("template {vmid} could not be read again: {error}"))?;
                if config.digest != *digest || !config.template() {
                    return Err(format!("template {vmid} is not the one that was meant any more"));
                }
                let unprivileged = config.get("unprivileged") == Some("1");
                if self.guest.kind == GuestKind::Lxc && unprivileged != self.unprivileged {
                    return Err(format!(
                        "template {vmid} is {}privileged, a clone is what its template is, and the order wants the other",
                        if unprivileged { "un" } else { "" }
                    ));
                }
                Ok(())
            }
        }
    }
}
