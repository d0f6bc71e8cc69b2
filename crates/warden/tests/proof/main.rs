//! Whether the warden keeps its promises against a Proxmox that fails at any moment: the library against
//! the simulator, in one thread, so that hours of waiting pass in no time ([`rig::Rig::fast`]).
//!
//! | module | what is tried |
//! |---|---|
//! | [`kinds`], [`bulk`] | every kind of order, one row each; new kinds are added there and nowhere else |
//! | [`table`] | no kind that a host carries out is without a row, but for those with a reason |
//! | [`calls`] | an error at each call of each kind, and each answer lost |
//! | [`reuse`] | the guest is replaced by a namesake at each moment of each kind |
//! | [`evil`] | the 32 ways in which Proxmox misbehaves (`security.md` 4.9) |
//! | [`model`] | random orders, crashes and faults by seed against a small model |
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions")]

mod bulk;
mod calls;
mod evil;
mod kinds;
mod model;
mod reuse;
mod rig;
mod shape;
mod table;
