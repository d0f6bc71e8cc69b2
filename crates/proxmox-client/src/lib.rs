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
//!   [`Client::find_tasks`] looks for the task a lost answer would have named.
//! * **Everything is a 500.** [`ApiError::class`] sorts the texts (locked, busy, no quorum, changed
//!   config, unknown guest) and each error's sentence says what to do.
//! * **Types wobble.** `"101"`, `1.5e+15`, `""` for false, absent keys: decoding is lenient for
//!   values and strict for identities (VMID, UPID, digest).
//! * **A bad token costs three seconds a call.** After the first 401 further calls fail at once for
//!   thirty seconds.
//! * **Workers are few.** At most two requests are in flight per client; answers are capped at
//!   16 MiB while they stream.
//!
//! Identifiers ([`Vmid`], [`NodeName`], [`SnapshotName`], [`Upid`]) are parsed types, because they
//! become path segments: a snapshot called `..` would turn "delete this snapshot" into "destroy
//! this guest" once the URL is normalised.
//!
//! This crate never starts a process and depends on no other crate of the workspace.

mod classify;
mod client;
mod config;
mod endpoint;
mod error;
mod guests;
mod ids;
mod lenient;
mod pin;
mod task;
mod task_api;
mod tls;
mod token;
mod transport;
mod types;
mod upid;

pub use classify::{ErrorClass, classify_text};
pub use client::Client;
pub use config::GuestConfig;
pub use endpoint::{Endpoint, EndpointError};
pub use error::{ApiError, ClientError, Delivery};
pub use guests::{CurrentState, Snapshot, SnapshotList};
pub use ids::{GuestKind, IdError, NodeName, SnapshotName, Vmid};
pub use pin::{Pin, PinError, PinKind, PinSet};
pub use task::{TaskEnd, TaskStatus};
pub use task_api::{LogLine, TaskEntry, TaskFilter, TaskLog, TaskSource};
pub use tls::PinMismatch;
pub use token::{ApiToken, TokenError};
pub use types::{
    CertificateInfo, CpuInfo, GuestStatus, HaStatus, KernelInfo, NodeEntry, NodeStatus, NodeTime,
    Permissions, Resource, ResourceKind, RunState, StorageStatus, ThinPool, Usage, Version,
};
pub use upid::{Upid, UpidError};
