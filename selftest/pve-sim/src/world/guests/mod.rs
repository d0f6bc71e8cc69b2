//! QEMU virtual machines and LXC containers: their configuration and identity.

pub(in crate::world) mod agent;
pub(in crate::world) mod config;
pub(in crate::world) mod disks;
pub(in crate::world) mod lifecycle;
pub(in crate::world) mod options;
pub(in crate::world) mod pending;
pub(in crate::world) mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::world::{Agent, Snapshot};

/// A guest configuration, including `lock` and `parent`, without the digest.
pub type Config = BTreeMap<String, Value>;

/// The two kinds of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl Kind {
    /// The path segment of the API.
    pub fn segment(self) -> &'static str {
        match self {
            Kind::Qemu => "qemu",
            Kind::Lxc => "lxc",
        }
    }

    /// The prefix of this kind's task types.
    pub fn task_prefix(self) -> &'static str {
        match self {
            Kind::Qemu => "qm",
            Kind::Lxc => "vz",
        }
    }

    /// How texts call such a guest.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Qemu => "VM",
            Kind::Lxc => "CT",
        }
    }

    /// The directory of its configuration files below `nodes/NODE`.
    pub fn config_dir(self) -> &'static str {
        match self {
            Kind::Qemu => "qemu-server",
            Kind::Lxc => "lxc",
        }
    }
}

/// The process of a running guest.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// Its process id.
    pub pid: u32,
    /// When it was started, in seconds since 1970.
    pub since: i64,
}

/// A guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Virtual machine or container.
    pub kind: Kind,
    /// The current configuration.
    pub config: Config,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Set while the guest runs.
    pub running: Option<Running>,
    /// Changes that take effect at the next start; `None` deletes the key.
    pub pending: BTreeMap<String, Option<Value>>,
    /// Whether a running guest is paused.
    pub paused: bool,
    /// Whether the guest ignores the request to shut down.
    pub deaf: bool,
    /// The guest agent inside a machine; `None` when none answers, whatever `agent` in the
    /// configuration says.
    pub agent: Option<Agent>,
    /// Network addresses inside a running container, as `ADDRESS/PREFIX`.
    pub addresses: Vec<String>,
    /// Sizes of volumes whose lines do not tell them, such as unused ones.
    pub(in crate::world) sizes: BTreeMap<String, u64>,
}

impl Guest {
    /// A stopped guest without snapshots.
    pub fn new(kind: Kind, config: Config) -> Guest {
        Guest {
            kind,
            config,
            snapshots: BTreeMap::new(),
            running: None,
            pending: BTreeMap::new(),
            paused: false,
            deaf: false,
            agent: None,
            addresses: vec!["192.0.2.20/24".to_owned()],
            sizes: BTreeMap::new(),
        }
    }

    /// Whether it is a template.
    pub fn is_template(&self) -> bool {
        self.config.get("template") == Some(&json!(1))
    }

    /// Starts it: what was pending takes effect, and a machine suspended to disk is awake again.
    pub(in crate::world) fn launch(&mut self, running: Running) {
        self.apply_pending();
        if self.lock() == Some("suspended") {
            self.config.remove("lock");
            self.config.remove("vmstate");
        }
        self.paused = false;
        self.running = Some(running);
    }

    /// Stops it hard.
    pub(in crate::world) fn halt(&mut self) {
        self.running = None;
        self.paused = false;
    }

    /// A configuration value that is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.config.get(key).and_then(Value::as_str)
    }

    /// The guest's name (`hostname` of a container).
    pub fn name(&self) -> &str {
        let key = match self.kind {
            Kind::Qemu => "name",
            Kind::Lxc => "hostname",
        };
        self.text(key).unwrap_or_default()
    }

    /// The `lock` line.
    pub fn lock(&self) -> Option<&str> {
        self.text("lock")
    }

    /// `VM is locked (backup)` if a lock is set.
    pub fn check_lock(&self) -> Result<(), String> {
        match self.lock() {
            Some(lock) => Err(format!("{} is locked ({lock})", self.kind.label())),
            None => Ok(()),
        }
    }

    /// A digest over the whole configuration: current values, lock, and every snapshot.
    ///
    /// Proxmox VE uses SHA-1 of the file. The text hashed here is another one anyway, so this is
    /// SHA-256 cut to the same forty hex digits.
    pub fn digest(&self) -> String {
        let parts = json!({"config": self.config, "snapshots": self.snapshots, "pending": self.pending});
        let text = parts.to_string();
        HEXLOWER.encode(&Sha256::digest(text.as_bytes())[..20])
    }

    /// Key and volume id of every disk or mount point that is part of the guest.
    pub fn volumes(&self) -> Vec<(&str, &str)> {
        self.config
            .iter()
            .filter(|(key, _)| is_volume_key(self.kind, key))
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
            .filter(|(_, text)| !text.contains("media=cdrom"))
            .map(|(key, text)| (key, text.split(',').next().unwrap_or_default()))
            .collect()
    }

    /// Volume ids the guest holds on to: disks, unused ones, and those only a snapshot knows.
    pub fn held_volumes(&self) -> BTreeSet<String> {
        let snapshots = self.snapshots.values().map(|s| &s.config);
        std::iter::once(&self.config)
            .chain(snapshots)
            .flatten()
            .filter(|(key, _)| {
                is_volume_key(self.kind, key) || numbered(key, "unused") || key.as_str() == "vmstate"
            })
            .map(|(_, value)| value)
            // A change that waits for the next start has its volume already.
            .chain(
                self.pending
                    .iter()
                    .filter(|(k, _)| is_volume_key(self.kind, k))
                    .filter_map(|(_, v)| v.as_ref()),
            )
            .filter_map(Value::as_str)
            .filter(|text| !text.contains("media=cdrom"))
            .map(|text| text.split(',').next().unwrap_or_default())
            .filter(|volume| volume.contains(':'))
            .map(str::to_owned)
            .collect()
    }

    /// The size of the first disk in bytes, from its `size=` property.
    pub fn max_disk(&self) -> u64 {
        let key = match self.kind {
            Kind::Qemu => "scsi0",
            Kind::Lxc => "rootfs",
        };
        self.text(key)
            .and_then(|t| t.split(',').find_map(|p| p.strip_prefix("size=")))
            .map(parse_size)
            .unwrap_or_default()
    }

    /// Memory in bytes; QEMU keeps it as text, LXC as a number, both in MiB.
    pub fn max_mem(&self) -> u64 {
        let mib = match self.config.get("memory") {
            Some(Value::String(text)) => text.parse().unwrap_or(512),
            Some(value) => value.as_u64().unwrap_or(512),
            None => 512,
        };
        mib << 20
    }
}

/// Whether the option `key` is a disk or a mount point.
pub(crate) fn is_volume_key(kind: Kind, key: &str) -> bool {
    match kind {
        Kind::Qemu => {
            ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"].iter().any(|p| numbered(key, p))
        }
        Kind::Lxc => key == "rootfs" || numbered(key, "mp"),
    }
}

/// Whether `key` is `prefix` followed by digits only.
pub(crate) fn numbered(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// `8G`, `52429K` or a plain number of bytes.
pub(crate) fn parse_size(text: &str) -> u64 {
    let shift = match text.as_bytes().last() {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        _ => 0,
    };
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    digits.parse::<u64>().unwrap_or_default() << shift
}

/// Bytes as the configuration writes them: in the largest unit that leaves no remainder.
pub(crate) fn format_size(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    let fits = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match fits {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// Writes the lines that tell one machine from another.
pub(crate) fn set_identity(kind: Kind, config: &mut Config, uuid: &str, genid: &str, mac: &str, ctime: i64) {
    match kind {
        Kind::Qemu => {
            config.insert("smbios1".to_owned(), json!(format!("uuid={uuid}")));
            config.insert("vmgenid".to_owned(), json!(genid));
            let meta = format!("creation-qemu=10.1.2,ctime={ctime}");
            config.insert("meta".to_owned(), json!(meta));
            let net = format!("virtio={mac},bridge=vmbr0,firewall=1");
            config.insert("net0".to_owned(), json!(net));
        }
        Kind::Lxc => {
            let net = format!("name=eth0,bridge=vmbr0,hwaddr={mac},ip=dhcp,type=veth");
            config.insert("net0".to_owned(), json!(net));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_volumes() {
        let config = Config::from([
            ("scsi0".to_owned(), json!("local-lvm:vm-1-disk-0,size=8G")),
            ("ide2".to_owned(), json!("local:iso/a.iso,media=cdrom")),
            ("scsihw".to_owned(), json!("virtio-scsi-single")),
            ("memory".to_owned(), json!("64")),
        ]);
        let guest = Guest::new(Kind::Qemu, config);
        assert_eq!(guest.max_disk(), 8 << 30);
        assert_eq!(guest.max_mem(), 64 << 20);
        assert_eq!(guest.volumes(), [("scsi0", "local-lvm:vm-1-disk-0")]);
        assert_eq!(parse_size("52429K"), 53_687_296);
    }

    #[test]
    fn digest_covers_lock_and_is_stable() {
        let mut guest = Guest::new(Kind::Lxc, Config::new());
        let before = guest.digest();
        assert_eq!(before.len(), 40);
        guest.config.insert("lock".to_owned(), json!("backup"));
        assert_ne!(guest.digest(), before);
        guest.config.remove("lock");
        assert_eq!(guest.digest(), before);
    }
}
