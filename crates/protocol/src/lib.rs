//! What crosses a wire in Writ: between agent and hub, between the operator's tool and the hub,
//! and on a host between the agent and the warden.
//!
//! This crate is pure: no sockets, no files, no clocks, no randomness. Bytes from outside become
//! one of these types once, at the edge ("parse, don't validate"), and every newtype here can be
//! made only from text or bytes that satisfy its rule.
//!
//! | module | carries |
//! |---|---|
//! | [`ids`] | host ids, nonces, hashes, VMIDs, names |
//! | [`text`] | text that is safe to show to a person |
//! | [`envelope`] | signed bytes: a payload and the SSHSIG signatures over it |
//! | [`note`] | a host's signed checkpoints, as text |
//! | [`enroll`] | the enrollment code and the host's answer to it |
//! | [`guest`] | what a guest is beyond its VMID |
//! | [`refs`] | volumes, backups, disks, storages and slots as an order names them |
//! | [`report`] | HostReport: what a host knows about itself; unknown is a value |
//! | [`desired`] | desired state and the operator's TOML document |
//! | [`plan`] | steps, and what waits for a signature |
//! | [`frame`] | the live channel between agent and hub |
//! | [`job`] | what became of a script |
//! | [`tunnel`] | the data connections of a session: frames of ciphertext |
//! | [`ask`] | questions to a host's warden that change nothing |
//! | [`local`] | the warden's unix socket |
//! | [`runner`] | the runner's unix socket |
//! | [`privileged`] | the unix socket of what only root can do |
//! | [`api`] | the hub's `/api/v1` for operators |
//! | [`config`] | configuration files: unknown keys are refused with the nearest known name |
//!
//! Nothing here decides who may do what: that is `authz`.

pub mod api;
pub mod ask;
pub mod config;
pub mod desired;
pub mod enroll;
pub mod envelope;
pub mod frame;
pub mod guest;
pub mod ids;
pub mod job;
pub mod local;
pub mod note;
pub mod plan;
pub mod privileged;
pub mod refs;
pub mod report;
pub mod runner;
pub mod text;
pub mod tunnel;

pub use envelope::{Bytes, Envelope, Signed};
pub use guest::{GuestIdentity, GuestRef, RunState, SnapshotRef};
pub use ids::{
    Ed25519Key, EnvName, Fingerprint, ForwardTarget, GuestKind, HostId, HostName, IdError, Interpreter,
    Nonce, Sha256, SnapshotName, Tag, TunnelId, UserName, Vmid,
};
pub use note::Note;
