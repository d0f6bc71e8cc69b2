//! Disks and what lies on them. All of it runs tools on the host, so one call at a time.

use serde::Deserialize;

use crate::catalog::{Call, Calls, Data, Form, Kind, Param, object, rows};
use crate::client::Client;
use crate::value::lenient;
use crate::wire::error::ApiError;

static DISKS: Call<Vec<Disk>> = Call::get("disks", "/nodes/{node}/disks/list", rows)
    .params(&[
        Param { name: "include-partitions", kind: Kind::Flag },
        Param { name: "skipsmart", kind: Kind::Flag },
        Param { name: "type", kind: Kind::Word(&["unused", "journal_disks"]) },
    ])
    .needs(&["Sys.Audit"])
    .slow();
static SMART: Call<Smart> = Call::get("smart", "/nodes/{node}/disks/smart", object)
    .params(&[
        Param { name: "disk", kind: Kind::Form(Form::Device) },
        Param { name: "healthonly", kind: Kind::Flag },
    ])
    .needs(&["Sys.Audit"])
    .slow();
static ZFS: Call<Vec<ZfsPool>> =
    Call::get("zfs pools", "/nodes/{node}/disks/zfs", rows).needs(&["Sys.Audit"]).slow();
static ZFS_POOL: Call<ZfsDetail> =
    Call::get("zfs pool", "/nodes/{node}/disks/zfs/{name}", object).needs(&["Sys.Audit"]).slow();
static LVM: Call<Vec<VolumeGroup>> =
    Call::get("lvm", "/nodes/{node}/disks/lvm", volume_groups).needs(&["Sys.Audit"]).slow();
static LVM_THIN: Call<Vec<ThinPool>> =
    Call::get("lvmthin list", "/nodes/{node}/disks/lvmthin", rows).needs(&["Sys.Audit"]).slow();
static DIRECTORIES: Call<Vec<DirectoryMount>> =
    Call::get("directories", "/nodes/{node}/disks/directory", rows).needs(&["Sys.Audit"]).slow();

pub(super) static CALLS: Calls = &[&DISKS, &SMART, &ZFS, &ZFS_POOL, &LVM, &LVM_THIN, &DIRECTORIES];

// None of these answers is recorded (the recorded host had no disks of its own): fields as the
// schema has them, and the ones its web interface shows besides.

/// One entry of `GET /nodes/{node}/disks/list`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Disk {
    /// `/dev/sda`.
    #[serde(default, deserialize_with = "lenient::string")]
    pub devpath: String,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub size: Option<u64>,
    /// `hdd`, `ssd`, `nvme`, `usb`, `unknown`.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Model.
    #[serde(default, deserialize_with = "lenient::text")]
    pub model: Option<String>,
    /// Maker.
    #[serde(default, deserialize_with = "lenient::text")]
    pub vendor: Option<String>,
    /// Serial number.
    #[serde(default, deserialize_with = "lenient::text")]
    pub serial: Option<String>,
    /// World wide name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub wwn: Option<String>,
    /// `PASSED`, `OK`, `FAILED`, `UNKNOWN`: SMART's own verdict.
    #[serde(default, deserialize_with = "lenient::text")]
    pub health: Option<String>,
    /// Percent of life **left**; absent where the disk does not tell (`N/A`).
    #[serde(default, deserialize_with = "lenient::f64")]
    pub wearout: Option<f64>,
    /// Turns a minute; 0 for a disk without, -1 where unknown.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub rpm: Option<f64>,
    /// `LVM`, `ZFS`, `partitions`, `mounted`, `BIOS boot`, …; absent if unused.
    #[serde(default, deserialize_with = "lenient::text")]
    pub used: Option<String>,
    /// Whether it is mounted.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub mounted: Option<bool>,
    /// Whether it has a GUID partition table.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub gpt: Option<bool>,
    /// The disk a partition is on.
    #[serde(default, deserialize_with = "lenient::text")]
    pub parent: Option<String>,
    /// A lasting name below `/dev/disk/by-id`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub by_id_link: Option<String>,
}

/// `GET /nodes/{node}/disks/smart`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Smart {
    /// `PASSED`, `FAILED`, `UNKNOWN`, `OK` (SAS).
    #[serde(default, deserialize_with = "lenient::text")]
    pub health: Option<String>,
    /// `ata`: see `attributes`; `text`: see `text` (NVMe, SAS).
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Of ATA disks.
    #[serde(default)]
    pub attributes: Vec<SmartAttribute>,
    /// What smartctl printed, for others.
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    /// Percent of life left.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub wearout: Option<f64>,
}

/// One attribute of an ATA disk.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct SmartAttribute {
    /// Its number; 5 reallocated, 194 temperature, 197 pending, 198 uncorrectable.
    #[serde(default, deserialize_with = "lenient::text")]
    pub id: Option<String>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Normalised: high is good.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub value: Option<f64>,
    /// The worst `value` ever.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub worst: Option<f64>,
    /// Below it the disk counts as failing.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub threshold: Option<f64>,
    /// `-`, `past` or `NOW`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub fail: Option<String>,
    /// As the maker counts.
    #[serde(default, deserialize_with = "lenient::text")]
    pub raw: Option<String>,
}

/// One entry of `GET /nodes/{node}/disks/zfs`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ZfsPool {
    /// Its name.
    #[serde(default, deserialize_with = "lenient::string")]
    pub name: String,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub size: Option<u64>,
    /// Bytes used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub alloc: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub free: Option<u64>,
    /// Fragmentation, percent.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub frag: Option<u64>,
    /// Deduplication factor, 1 for none.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub dedup: Option<f64>,
    /// `ONLINE`, `DEGRADED`, `FAULTED`, `SUSPENDED`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub health: Option<String>,
}

/// `GET /nodes/{node}/disks/zfs/{name}`: `zpool status`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ZfsDetail {
    /// Its name.
    #[serde(default, deserialize_with = "lenient::string")]
    pub name: String,
    /// `ONLINE`, `DEGRADED`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub state: Option<String>,
    /// What is wrong; absent if nothing is.
    #[serde(default, deserialize_with = "lenient::text")]
    pub status: Option<String>,
    /// What ZFS advises.
    #[serde(default, deserialize_with = "lenient::text")]
    pub action: Option<String>,
    /// The last scrub or resilver, in words.
    #[serde(default, deserialize_with = "lenient::text")]
    pub scan: Option<String>,
    /// `No known data errors`, or what they are.
    #[serde(default, deserialize_with = "lenient::text")]
    pub errors: Option<String>,
    /// The tree of devices.
    #[serde(default)]
    pub children: Vec<ZfsDevice>,
}

/// A device, or a group of them, of a pool.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ZfsDevice {
    /// `mirror-0`, `/dev/sda3`, …
    #[serde(default, deserialize_with = "lenient::string")]
    pub name: String,
    /// `ONLINE`, `OFFLINE`, `UNAVAIL`, `REMOVED`, …; absent for headings such as `cache`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub state: Option<String>,
    /// Read errors.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub read: Option<u64>,
    /// Write errors.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub write: Option<u64>,
    /// Checksum errors.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub cksum: Option<u64>,
    /// A remark.
    #[serde(default, deserialize_with = "lenient::text")]
    pub msg: Option<String>,
    /// What it consists of.
    #[serde(default)]
    pub children: Vec<ZfsDevice>,
}

/// A volume group of `GET /nodes/{node}/disks/lvm`, and the disks it lies on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct VolumeGroup {
    /// Its name; a disk's path for what it lies on.
    #[serde(default, deserialize_with = "lenient::string")]
    pub name: String,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub size: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub free: Option<u64>,
    /// Volumes in it.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub lvcount: Option<u64>,
    /// The disks it lies on.
    #[serde(default)]
    pub children: Vec<VolumeGroup>,
}

/// One entry of `GET /nodes/{node}/disks/lvmthin` (needs Sys.Audit on `/`). A thin pool whose data
/// **or** metadata runs full corrupts the guests on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ThinPool {
    /// The pool's name.
    pub lv: String,
    /// Its volume group.
    #[serde(default, deserialize_with = "lenient::text")]
    pub vg: Option<String>,
    /// Bytes of data space.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub lv_size: Option<u64>,
    /// Bytes of data used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub used: Option<u64>,
    /// Bytes of metadata space.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub metadata_size: Option<u64>,
    /// Bytes of metadata used.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub metadata_used: Option<u64>,
}

/// One entry of `GET /nodes/{node}/disks/directory`: a disk that Proxmox mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct DirectoryMount {
    /// Where, `/mnt/pve/NAME`.
    #[serde(default, deserialize_with = "lenient::string")]
    pub path: String,
    /// What.
    #[serde(default, deserialize_with = "lenient::text")]
    pub device: Option<String>,
    /// File system.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Mount options.
    #[serde(default, deserialize_with = "lenient::text")]
    pub options: Option<String>,
    /// The systemd unit that mounts it.
    #[serde(default, deserialize_with = "lenient::text")]
    pub unitfile: Option<String>,
}

fn volume_groups(data: Data) -> Result<Vec<VolumeGroup>, String> {
    #[derive(Deserialize)]
    struct Root {
        #[serde(default)]
        children: Vec<VolumeGroup>,
    }
    object::<Root>(data).map(|root| root.children)
}

impl Client {
    /// The node's disks. With `smart`, asks each for its health, which wakes sleeping ones.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn disks(&self, smart: bool) -> Result<Vec<Disk>, ApiError> {
        self.send(DISKS.at(&[self.node().await?.as_str()]).flag("skipsmart", !smart)).await
    }

    /// A disk's SMART data, or its health only. Wakes the disk. Needs Sys.Audit on `/`; Proxmox takes
    /// plain device paths only, none below `/dev/disk/by-id`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn smart(&self, disk: &str, health_only: bool) -> Result<Smart, ApiError> {
        let request = SMART.at(&[self.node().await?.as_str()]).set("disk", disk);
        self.send(request.flag_if("healthonly", health_only)).await
    }

    /// ZFS pools with fill and health. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn zfs_pools(&self) -> Result<Vec<ZfsPool>, ApiError> {
        self.send(ZFS.at(&[self.node().await?.as_str()])).await
    }

    /// One ZFS pool: scrub, errors, devices. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn zfs_pool(&self, name: &str) -> Result<ZfsDetail, ApiError> {
        self.send(ZFS_POOL.at(&[self.node().await?.as_str(), name])).await
    }

    /// LVM volume groups and the disks they lie on. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn lvm(&self) -> Result<Vec<VolumeGroup>, ApiError> {
        self.send(LVM.at(&[self.node().await?.as_str()])).await
    }

    /// LVM thin pools with data and metadata usage. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn lvmthin(&self) -> Result<Vec<ThinPool>, ApiError> {
        self.send(LVM_THIN.at(&[self.node().await?.as_str()])).await
    }

    /// Disks that Proxmox mounts as directories. Needs Sys.Audit on `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn directories(&self) -> Result<Vec<DirectoryMount>, ApiError> {
        self.send(DIRECTORIES.at(&[self.node().await?.as_str()])).await
    }
}
