//! A guest's configuration: the digest for compare-and-set, and the facts that identify a guest.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::catalog::{Both, Call, Calls, Data, Form, Kind, Param, json, rows};
use crate::client::Client;
use crate::guest::property::PropertyString;
use crate::value::ids::{GuestKind, SnapshotName, Vmid};
use crate::value::lenient;
use crate::wire::error::ApiError;

const READ: &[Param] = &[
    Param { name: "current", kind: Kind::Flag },
    Param { name: "snapshot", kind: Kind::Form(Form::ConfigId) },
];
static READ_CONFIG: Both<GuestConfig> = Both {
    qemu: Call::get("qemu config", "/nodes/{node}/qemu/{vmid}/config", |data| {
        GuestConfig::read(GuestKind::Qemu, data)
    })
    .params(READ)
    .needs(&["VM.Audit"]),
    lxc: Call::get("lxc config", "/nodes/{node}/lxc/{vmid}/config", |data| {
        GuestConfig::read(GuestKind::Lxc, data)
    })
    .params(READ)
    .needs(&["VM.Audit"]),
};
static PENDING: Both<Vec<PendingOption>> = Both {
    qemu: Call::get("qemu pending", "/nodes/{node}/qemu/{vmid}/pending", rows).needs(&["VM.Audit"]),
    lxc: Call::get("lxc pending", "/nodes/{node}/lxc/{vmid}/pending", rows).needs(&["VM.Audit"]),
};

pub(super) static CALLS: Calls = &[&READ_CONFIG.qemu, &READ_CONFIG.lxc, &PENDING.qemu, &PENDING.lxc];

/// One option of `GET .../pending`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PendingOption {
    /// The option; also `digest`.
    pub key: String,
    /// What the guest has now.
    #[serde(default, deserialize_with = "lenient::text")]
    pub value: Option<String>,
    /// What it will have after its next start.
    #[serde(default, deserialize_with = "lenient::text")]
    pub pending: Option<String>,
    /// 1 if it will be gone after the next start, 2 if that was forced; absent otherwise.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub delete: Option<u64>,
}

impl PendingOption {
    /// Whether the next start changes it.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.pending.is_some() || self.delete.is_some_and(|delete| delete != 0)
    }
}

/// `GET .../config`. Never write one back as a whole: secrets read back masked (`pve/facts.md` 3.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// SHA-1 of the whole config file, snapshots and lock included. Pass it when changing anything.
    pub digest: String,
    /// Every other key, scalars as text (`memory` is `"64"` or `64` depending on the guest's kind).
    pub raw: BTreeMap<String, String>,
    kind: GuestKind,
}

impl GuestConfig {
    /// `None` without a digest: a config that cannot be compared is not one.
    pub(crate) fn from_fields(kind: GuestKind, fields: Map<String, Value>) -> Option<Self> {
        let mut raw: BTreeMap<String, String> =
            fields.into_iter().filter_map(|(key, value)| Some((key, lenient::as_text(&value)?))).collect();
        let digest = raw.remove("digest").filter(|digest| !digest.is_empty())?;
        Some(Self { digest, raw, kind })
    }

    fn read(kind: GuestKind, data: Data) -> Result<Self, String> {
        Self::from_fields(kind, json(data)?).ok_or_else(|| "a guest configuration without digest".to_owned())
    }

    /// Virtual machine or container.
    #[must_use]
    pub const fn kind(&self) -> GuestKind {
        self.kind
    }

    /// One raw value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.raw.get(key).map(String::as_str)
    }

    /// One value as a property string.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<PropertyString> {
        self.get(key).map(PropertyString::parse)
    }

    /// `name` of a virtual machine, `hostname` of a container.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.get(match self.kind {
            GuestKind::Qemu => "name",
            GuestKind::Lxc => "hostname",
        })
    }

    /// Tags, in the order Proxmox keeps them.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        self.get("tags").map(lenient::split_list).unwrap_or_default()
    }

    /// Whether destroying, removing disks and restoring over it are blocked.
    #[must_use]
    pub fn protection(&self) -> bool {
        self.flag("protection")
    }

    /// Whether it is a template.
    #[must_use]
    pub fn template(&self) -> bool {
        self.flag("template")
    }

    /// `backup`, `snapshot`, `migrate`, ...; survives crashes and reboots.
    #[must_use]
    pub fn lock(&self) -> Option<&str> {
        self.get("lock")
    }

    /// The snapshot the current state descends from.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.get("parent")
    }

    /// `smbios1`'s uuid: made at creation, kept by restore, new for a clone. Virtual machines only.
    #[must_use]
    pub fn smbios_uuid(&self) -> Option<&str> {
        option(self.get("smbios1")?, "uuid")
    }

    /// New after every rollback, restore and clone. Virtual machines only.
    #[must_use]
    pub fn vmgenid(&self) -> Option<&str> {
        self.get("vmgenid")
    }

    /// Creation time, seconds since 1970. Copied by a clone, so weak. Virtual machines only.
    #[must_use]
    pub fn meta_ctime(&self) -> Option<u64> {
        option(self.get("meta")?, "ctime")?.parse().ok()
    }

    /// `net0` and so on to MAC address, upper case. Containers keep it under `hwaddr`, virtual
    /// machines under the card's model (`virtio=BC:24:11:...`).
    #[must_use]
    pub fn macs(&self) -> BTreeMap<String, String> {
        self.numbered(&["net"])
            .filter_map(|(key, value)| {
                let mac =
                    parts(value).find_map(|(_, text)| is_mac(text).then(|| text.to_ascii_uppercase()))?;
                Some((key.to_owned(), mac))
            })
            .collect()
    }

    /// Disk key (`scsi0`, `rootfs`, `mp0`, `efidisk0`, `unused0`, ...) to volume id. Leaves out
    /// empty drives, host paths and mounted ISO images; a cloud-init drive is the guest's own.
    #[must_use]
    pub fn volids(&self) -> BTreeMap<String, String> {
        let keys: &[&str] = match self.kind {
            GuestKind::Qemu => &["ide", "sata", "scsi", "virtio", "efidisk", "tpmstate", "unused"],
            GuestKind::Lxc => &["mp", "unused"],
        };
        let rootfs = match self.kind {
            GuestKind::Qemu => None,
            GuestKind::Lxc => self.get("rootfs").map(|value| ("rootfs", value)),
        };
        // A suspended machine's memory is a volume of its own.
        let vmstate = self.get("vmstate").map(|value| ("vmstate", value));
        self.numbered(keys)
            .chain(rootfs)
            .chain(vmstate)
            .filter_map(|(key, value)| Some((key.to_owned(), volume(value)?.to_owned())))
            .collect()
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|text| text == "1")
    }

    /// Keys that are one of `prefixes` and a number.
    fn numbered<'a>(&'a self, prefixes: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.raw.iter().filter_map(move |(key, value)| {
            let is_one = prefixes.iter().any(|prefix| {
                key.strip_prefix(prefix)
                    .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
            });
            is_one.then_some((key.as_str(), value.as_str()))
        })
    }
}

/// The parts of a property string `default,key=val,...`; the default has an empty key.
fn parts(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value.split(',').map(|part| part.split_once('=').unwrap_or(("", part)))
}

fn option<'a>(value: &'a str, wanted: &str) -> Option<&'a str> {
    parts(value).find_map(|(key, text)| (key == wanted && !text.is_empty()).then_some(text))
}

fn volume(value: &str) -> Option<&str> {
    let volid = parts(value).find_map(|(key, text)| matches!(key, "" | "file" | "volume").then_some(text))?;
    let media_cdrom = option(value, "media") == Some("cdrom");
    let own = volid.contains(':') && !volid.starts_with('/') && (!media_cdrom || volid.contains("cloudinit"));
    own.then_some(volid)
}

fn is_mac(text: &str) -> bool {
    text.len() == 17
        && text.split(':').count() == 6
        && text.split(':').all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Client {
    /// A guest's configuration, pending changes merged in.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn guest_config(&self, kind: GuestKind, vmid: Vmid) -> Result<GuestConfig, ApiError> {
        self.send(READ_CONFIG.of(kind).at(&self.guest(vmid).await?.parts())).await
    }

    /// The configuration the guest has now, without the changes that wait for its next start.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn guest_config_current(&self, kind: GuestKind, vmid: Vmid) -> Result<GuestConfig, ApiError> {
        self.send(READ_CONFIG.of(kind).at(&self.guest(vmid).await?.parts()).flag("current", true)).await
    }

    /// The configuration that a snapshot holds; its digest is that of the whole file.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn guest_config_of_snapshot(
        &self,
        kind: GuestKind,
        vmid: Vmid,
        name: &SnapshotName,
    ) -> Result<GuestConfig, ApiError> {
        self.send(READ_CONFIG.of(kind).at(&self.guest(vmid).await?.parts()).set("snapshot", name)).await
    }

    /// Every option with its present value and the one it will have after the next start.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn guest_pending(&self, kind: GuestKind, vmid: Vmid) -> Result<Vec<PendingOption>, ApiError> {
        self.send(PENDING.of(kind).at(&self.guest(vmid).await?.parts())).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(kind: GuestKind, value: Value) -> Option<GuestConfig> {
        let Value::Object(fields) = value else { panic!("an object") };
        GuestConfig::from_fields(kind, fields)
    }

    #[test]
    fn a_config_without_digest_is_refused() {
        assert!(config(GuestKind::Qemu, json!({"name": "vm100"})).is_none());
        assert!(config(GuestKind::Qemu, json!({"name": "vm100", "digest": ""})).is_none());
        assert!(config(GuestKind::Qemu, json!({"digest": null})).is_none());
    }

    #[test]
    fn volumes_and_macs_of_a_virtual_machine() {
        let config = config(
            GuestKind::Qemu,
            json!({
                "digest": "d", "protection": 1, "tags": "prod;web",
                "scsi0": "local-lvm:vm-100-disk-0,iothread=1,size=32G",
                "scsi1": "file=btr:100/vm-100-disk-1.raw,size=1G",
                "ide2": "local:iso/debian.iso,media=cdrom",
                "ide3": "none,media=cdrom",
                "ide0": "local-lvm:vm-100-cloudinit,media=cdrom",
                "sata0": "/dev/disk/by-id/x",
                "efidisk0": "local-lvm:vm-100-disk-2,efitype=4m",
                "unused0": "local:100/vm-100-disk-9.qcow2",
                "scsihw": "virtio-scsi-single",
                "net0": "virtio=bc:24:11:00:00:01,bridge=vmbr0,firewall=1",
                "net1": "bridge=vmbr1",
                "netx": "virtio=BC:24:11:00:00:09",
                "smbios1": "base64=1,uuid=1575a37c-cbc2-44a6-8cba-f4e510bb5d49",
                "meta": "creation-qemu=10.0.13,ctime=1795317658",
            }),
        )
        .unwrap();
        let volids: Vec<(String, String)> = config.volids().into_iter().collect();
        let expected = [
            ("efidisk0", "local-lvm:vm-100-disk-2"),
            ("ide0", "local-lvm:vm-100-cloudinit"),
            ("scsi0", "local-lvm:vm-100-disk-0"),
            ("scsi1", "btr:100/vm-100-disk-1.raw"),
            ("unused0", "local:100/vm-100-disk-9.qcow2"),
        ]
        .map(|(key, volid)| (key.to_owned(), volid.to_owned()));
        assert_eq!(volids, expected);
        assert_eq!(config.macs(), BTreeMap::from([("net0".to_owned(), "BC:24:11:00:00:01".to_owned())]));
        assert_eq!(config.smbios_uuid(), Some("1575a37c-cbc2-44a6-8cba-f4e510bb5d49"));
        assert_eq!(config.meta_ctime(), Some(1_795_317_658));
        assert!(config.protection());
        assert_eq!(config.tags(), ["prod", "web"]);
    }

    #[test]
    fn volumes_and_macs_of_a_container() {
        let config = config(
            GuestKind::Lxc,
            json!({
                "digest": "d", "hostname": "ct200", "memory": 128,
                "rootfs": "volume=btr:200/vm-200-disk-0.raw,size=1G",
                "mp0": "local-zfs:subvol-200-disk-1,mp=/data,size=8G",
                "mp1": "/mnt/usb,mp=/usb",
                "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:AA:BB:CC,ip=dhcp,type=veth",
                "lxc": [["lxc.idmap", "u 0 100000 65536"]],
            }),
        )
        .unwrap();
        assert_eq!(config.name(), Some("ct200"));
        assert_eq!(config.get("memory"), Some("128"));
        assert_eq!(
            config.volids().into_values().collect::<Vec<_>>(),
            ["local-zfs:subvol-200-disk-1", "btr:200/vm-200-disk-0.raw"]
        );
        assert_eq!(config.macs()["net0"], "BC:24:11:AA:BB:CC");
        assert_eq!((config.smbios_uuid(), config.vmgenid(), config.meta_ctime()), (None, None, None));
    }
}
