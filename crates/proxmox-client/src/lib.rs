//! The Proxmox VE API, as Writ uses it.
//!
//! A [`Client`] talks to one node over TLS that is **pinned**: a connection is used only when the
//! server's leaf certificate, its public key, or a CA in the chain it sends matches a [`Pin`] of a
//! non-empty [`PinSet`]. There is no way to switch that off, no plain HTTP, no redirect and no
//! proxy. An expired certificate that matches a `leaf` or `spki` pin is accepted: the pin, not the
//! calendar, is the trust decision, and Proxmox signs its own certificates.
//!
//! # What the API makes hard, and where it is handled
//!
//! * **A 200 is not success.** Most mutations answer with a [`Upid`] and fail later, inside the
//!   task. [`Client::wait_task`] follows the task to a [`TaskEnd`]; `WARNINGS: n` is success,
//!   `unexpected status` is *unknown*, not failure.
//! * **A lost answer is not failure either.** [`ApiError::delivery`] says whether the request was
//!   never sent, was answered, or may have been executed. Mutations are never sent twice;
//!   [`Client::find_task`] looks for the task a lost answer would have named, and says so where it
//!   cannot be told.
//! * **The task's end is not the guest's.** [`Client::power_end`] follows a guest that HA manages to the
//!   state wanted.
//! * **Everything is a 500.** [`ApiError::class`] sorts the texts (locked, busy, no quorum, changed
//!   config, unknown guest) and each error's sentence says what to do.
//! * **Types wobble.** `"101"`, `1.5e+15`, `""` for false, absent keys: decoding is lenient for
//!   values and strict for identities (VMID, UPID, digest).
//! * **A bad token costs three seconds a call.** After the first 401 further calls fail at once for
//!   thirty seconds.
//! * **Workers are few.** At most two requests are in flight per client; answers are capped at
//!   1 MiB, lists and logs at 16 MiB, while they stream, and counted before they are parsed, so that
//!   none costs ten times its size.
//! * **A task is not believed blindly.** A mutation that is answered with a task of another node, guest,
//!   kind or author is an error; what happened is then not known.
//!
//! Identifiers ([`Vmid`], [`NodeName`], [`SnapshotName`], [`Upid`]) are parsed types, because they
//! become path segments: a snapshot called `..` would turn "delete this snapshot" into "destroy
//! this guest" once the URL is normalised.
//!
//! This crate never starts a process and depends on no other crate of the workspace.

mod access;
mod backup;
pub mod catalog;
mod client;
mod cluster;
mod console;
mod guest;
mod node;
mod storage;
mod task;
mod value;
mod wire;

pub use access::{Permissions, TokenInfo};
pub use backup::jobs::{BackupJob, IncludedGuest, IncludedVolume, UncoveredGuest};
pub use backup::vzdump::{Backup, BackupDefaults, BackupMode, Compression, StoredConfig};
pub use catalog::Started;
pub use client::Client;
pub use cluster::ha::{HaEntry, HaResource};
pub use cluster::metrics::Metric;
pub use cluster::pool::Pool;
pub use cluster::replication::ReplicationJob;
pub use cluster::{ClusterEntry, NodeEntry, Resource, ResourceFilter, ResourceKind, Version};
pub use console::{ConsoleSocket, ConsoleTicket};
pub use guest::agent::{ExecStatus, GuestAddress, GuestInterface, GuestSystem};
pub use guest::change::ConfigChange;
pub use guest::config::{GuestConfig, PendingOption};
pub use guest::create::{CreateLxc, CreateQemu, DestroyFirst, Restore};
pub use guest::disk::{GrowBy, GrowTo, MoveVolume};
pub use guest::lifecycle::{CloneGuest, Destroy, DiskFormat};
pub use guest::power::Shutdown;
pub use guest::property::{PropertyError, PropertyString};
pub use guest::snapshot::{
    CurrentState, Feature, FeatureAnswer, NewSnapshot, Snapshot, SnapshotConfig, SnapshotList,
};
pub use guest::status::{GuestStatus, HaStatus, RunState};
pub use node::disk::{
    DirectoryMount, Disk, Smart, SmartAttribute, ThinPool, VolumeGroup, ZfsDetail, ZfsDevice, ZfsPool,
};
pub use node::history::{Journal, JournalFilter, RrdPoint, Timeframe};
pub use node::system::{Dns, GuestTraffic, Interface, Package, Service, Subscription, UsbDevice};
pub use node::{CertificateInfo, CpuInfo, KernelInfo, NodeStatus, NodeTime, Usage};
pub use storage::content::{ContentFilter, Verification, Volume, VolumeChange, VolumeInfo};
pub use storage::fetch::{Appliance, Checksum, DownloadUrl, Fetched};
pub use storage::list::{Content, StorageConfig, StorageState, StorageStatus};
pub use storage::manage::{NewStorage, StorageBacking};
pub use storage::prune::{Mark, PruneItem, PruneScope, Retention};
pub use storage::upload::Upload;
pub use storage::volid::{StorageName, Volid, VolidError, VolumeKind, VolumeTime};
pub use task::find::{Doubt, FindTask, FoundTask};
pub use task::power::{PowerEnd, PowerOutcome};
pub use task::wait::WaitOptions;
pub use task::watch::{TaskEnd, TaskStatus};
pub use task::{LogLine, TaskEntry, TaskFilter, TaskLog, TaskResult, TaskSource};
pub use value::ids::{GuestKind, IdError, NodeName, SnapshotName, Vmid};
pub use value::upid::{Upid, UpidError};
pub use wire::classify::{ErrorClass, classify_text};
pub use wire::endpoint::{Endpoint, EndpointError};
pub use wire::error::{ApiError, ClientError, Delivery};
pub use wire::pin::{Pin, PinError, PinKind, PinSet};
pub use wire::pindir::{PinDir, PinDirError};
pub use wire::presented::Presented;
pub use wire::tls::PinMismatch;
pub use wire::token::{ApiToken, TokenError};
