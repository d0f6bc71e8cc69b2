//! The state of the simulated node: a pure core.
//!
//! Nothing here reads a clock or the operating system's random source: every function that depends
//! on time takes a [`Now`], and fresh identities are derived from a seed the caller gives.

mod access;
mod cluster;
mod demo;
mod error;
mod guests;
mod scale;
mod storage;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest, Sha256};

// Each part by its own name, whatever room it stands in.
use guests::{agent, disks, lifecycle, options, pending, snapshots};
use storage::{backup, calendar, depot, restore, retention, volumes};
use tasks::{effects, faults, jobs};

pub use access::{Access, AclEntry, AuthId, Pool, Privileges, Token, User, WRIT_AGENT};
pub use agent::Agent;
pub(crate) use backup::unknown_variables;
pub use backup::{Progress, Vzdump};
pub use calendar::Date;
pub use cluster::{Cluster, HaRequest, HaResource, Peer};
pub use depot::{Marked, StorageJob};
pub use disks::{Feature, NewDisk};
pub use error::Refusal;
pub use faults::{FAULT_EXAMPLES, FaultPlan, FaultRule, Mishap, NewCertificate};
pub use guests::{Config, Guest, Kind, Running};
pub use jobs::{Fault, Injection, Job};
pub use lifecycle::{CloneOrder, CreateOrder, MoveOrder};
pub use restore::Restore;
pub use retention::{Candidate, Keep, Mark};
pub use scale::MAX_GUESTS;
pub use snapshots::Snapshot;
pub use storage::{Storage, ThinPool};
pub use tasks::{Exit, Task, TaskFilter, Tasks, Upid};
pub use volumes::{SavedGuest, Stock, Volume, VolumeName};

pub(crate) use disks::{MAX_DISK, is_cdrom, parse_new_disk, size_of, volumes_of};
pub(crate) use guests::{is_volume_key, numbered, parse_size};
pub(crate) use lifecycle::volume_at;
pub(crate) use options::{Need, option_spec};
pub(crate) use pending::bridge_path;

/// The instant a request is handled at: the wall clock, and a monotonic clock for durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Time since the simulator's start, which no clock change can move.
    pub mono: Duration,
    /// Seconds since 1970.
    pub unix: i64,
}

/// Which Proxmox VE is simulated. Where the two differ, the code asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// 8.4.14.
    V8,
    /// 9.1.8.
    #[default]
    V9,
}

/// Everything the simulated node knows.
#[derive(Debug, Clone)]
pub struct World {
    /// Which Proxmox VE it is.
    pub release: Release,
    /// The node's name, `pve1` in the demo.
    pub node: String,
    /// The node's address as it appears in `/cluster/status` and in the certificate.
    pub node_ip: String,
    /// Users, tokens, roles and ACL entries.
    pub access: Access,
    /// Guests by VMID.
    pub guests: BTreeMap<u32, Guest>,
    /// Storages by id.
    pub storages: BTreeMap<String, Storage>,
    /// Volumes that are no disks of guests, backup and replication jobs.
    pub stock: Stock,
    /// Running and finished tasks.
    pub tasks: Tasks,
    /// How long a task runs before its effect is applied.
    pub task_duration: Duration,
    /// Faults ordered for coming tasks.
    pub injections: Vec<Injection>,
    /// Guests whose file somebody else locks when it is wanted next.
    pub flocked: BTreeSet<u32>,
    /// Rows of `certificates/info`; filled when the simulator starts.
    pub certificates: Vec<Value>,
    /// `ssl_fingerprint` of `GET /nodes`; filled when the simulator starts.
    pub fingerprint: String,
    /// The other nodes of the cluster by name.
    pub peers: BTreeMap<String, Peer>,
    /// Guests of the other nodes, as a peer knows them while it handles a request.
    pub(crate) elsewhere: BTreeSet<u32>,
    /// Guests under the HA manager by VMID.
    pub ha: BTreeMap<u32, HaResource>,
    /// Name, quorum and options of the cluster.
    pub cluster: Cluster,
    seed: [u8; 32],
    counter: u64,
}

impl World {
    /// A node without guests, storages and users.
    pub fn empty(seed: [u8; 32]) -> World {
        World {
            release: Release::default(),
            node: "pve1".to_owned(),
            node_ip: "192.0.2.10".to_owned(),
            access: Access::with_builtin_roles(),
            guests: BTreeMap::new(),
            storages: BTreeMap::new(),
            stock: Stock::default(),
            tasks: Tasks::default(),
            task_duration: Duration::from_millis(50),
            injections: Vec::new(),
            flocked: BTreeSet::new(),
            certificates: Vec::new(),
            fingerprint: String::new(),
            peers: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            ha: BTreeMap::new(),
            cluster: Cluster::default(),
            seed,
            counter: 0,
        }
    }

    /// Replaces the seed that fresh identities come from.
    pub fn reseed(&mut self, seed: [u8; 32]) {
        self.seed = seed;
    }

    /// Thirty-two fresh bytes: the seed and a counter, hashed.
    fn fresh_bytes(&mut self) -> [u8; 32] {
        self.counter += 1;
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(self.counter.to_be_bytes());
        hash.finalize().into()
    }

    /// A fresh random-form (version 4) UUID.
    pub fn fresh_uuid(&mut self) -> String {
        let mut bytes = self.fresh_bytes();
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex = HEXLOWER.encode(&bytes[..16]);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// A fresh MAC address under the prefix Proxmox VE hands out.
    pub fn fresh_mac(&mut self) -> String {
        let b = self.fresh_bytes();
        format!("BC:24:11:{:02X}:{:02X}:{:02X}", b[0], b[1], b[2])
    }

    /// The smallest free VMID, as `/cluster/nextid` reports it.
    pub fn next_vmid(&self) -> u32 {
        (100..).find(|id| !self.guests.contains_key(id)).unwrap_or(100)
    }

    /// The guest, or the 500 that Proxmox VE gives for a missing configuration file.
    pub fn guest(&self, kind: Kind, vmid: u32) -> Result<&Guest, Refusal> {
        self.guests
            .get(&vmid)
            .filter(|g| g.kind == kind)
            .ok_or_else(|| Refusal::internal(self.no_config(kind, vmid)))
    }

    /// The guest for changing; see [`World::guest`].
    pub fn guest_mut(&mut self, kind: Kind, vmid: u32) -> Result<&mut Guest, Refusal> {
        let text = self.no_config(kind, vmid);
        self.guests.get_mut(&vmid).filter(|g| g.kind == kind).ok_or_else(|| Refusal::internal(text))
    }

    /// Takes the short lock of a guest's file, or says that somebody else kept it for too long.
    pub(crate) fn take_flock(&mut self, kind: Kind, vmid: u32) -> Result<(), String> {
        if !self.flocked.remove(&vmid) {
            return Ok(());
        }
        let file = match kind {
            Kind::Qemu => format!("/var/lock/qemu-server/lock-{vmid}.conf"),
            // Not recorded.
            Kind::Lxc => format!("/run/lock/lxc/pve-config-{vmid}.lock"),
        };
        Err(format!("can't lock file '{file}' - got timeout"))
    }

    fn no_config(&self, kind: Kind, vmid: u32) -> String {
        format!("Configuration file 'nodes/{}/{}/{vmid}.conf' does not exist", self.node, kind.config_dir())
    }

    /// The storage, or the 500 of an unknown one.
    pub fn storage(&self, id: &str) -> Result<&Storage, Refusal> {
        self.storages.get(id).ok_or_else(|| Refusal::internal(format!("storage '{id}' does not exist")))
    }

    /// Puts a fresh guest in the place of `vmid`: the same VMID, name and snapshot names, but
    /// another machine (smbios UUID, vmgenid, creation time, MAC address and so another digest).
    ///
    /// Returns false when there is no such guest.
    pub fn replace_guest(&mut self, vmid: u32, now: Now) -> bool {
        let Some(mut guest) = self.guests.remove(&vmid) else {
            return false;
        };
        let (uuid, genid, mac) = (self.fresh_uuid(), self.fresh_uuid(), self.fresh_mac());
        let renew = |config: &mut Config| {
            guests::set_identity(guest.kind, config, &uuid, &genid, &mac, now.unix);
        };
        renew(&mut guest.config);
        for snapshot in guest.snapshots.values_mut() {
            renew(&mut snapshot.config);
            snapshot.snaptime = now.unix;
        }
        guest.config.remove("lock");
        guest.running = None;
        self.guests.insert(vmid, guest);
        true
    }
}
