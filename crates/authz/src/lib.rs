//! Who may order what. Everything here decides; nothing here acts.
//!
//! | module | decides |
//! |---|---|
//! | [`namespace`] | which authority a signature is for |
//! | [`keys`] | which public keys exist for us |
//! | [`secret`] | signing with a private one |
//! | [`sshsig`] | whether an armored SSHSIG is a signature at all: our strict profile |
//! | [`order`] | what an order says; one spelling per order |
//! | [`lookup`] | whose signature it is, by a policy |
//! | [`world`] | whether the live world is the one that the signer saw |
//! | [`policy`] | who may order which kind, and the bounds of unsigned change |
//! | [`plan`] | what an order would do, signed by the host that would do it |
//! | [`clock`] | what a host may believe about the time |
//! | [`verify`] | whether this host may carry out this order now: gives [`Authorized`] |
//! | [`journal`] | whether its nonce was ever used: the durable store |
//! | [`case`] | one case of the corpus, as files: the same decision for whoever has them |
//! | [`refusal`] | the rules by which a host refuses, one code each |
//! | [`receipt`] | what the host says happened, signed |
//! | [`log`] | the host's chain of receipts on disk |
//! | [`merkle`] | whether an entry is in a log, and whether a log continues another |
//! | [`checkpoint`] | what a host says its whole log is, signed |
//! | [`statement`] | operators' signed statements: host names, logins |
//! | [`enroll`] | proofs and certificates of enrollment |
//! | [`files`] | durable writes, and secrets in 0600 files |
//!
//! The specification is `security.md` sections 1 and 2; rules are cited as V1 to V24 where they
//! are enforced. Operators sign with Ed25519, ECDSA, RSA, security keys, or certificates for these;
//! hosts, devices and sessions have Ed25519 keys only. No sockets, no processes, no clock:
//! `now` and randomness are arguments. Files are touched by [`journal`], [`log`], [`policy::store`],
//! [`case`] and [`files`] only.

pub mod canonical;
pub mod case;
pub mod checkpoint;
pub mod clock;
pub mod enroll;
pub mod files;
pub mod journal;
pub mod keys;
pub mod log;
pub mod lookup;
pub mod merkle;
pub mod namespace;
pub mod order;
pub mod plan;
pub mod policy;
pub mod receipt;
pub mod refusal;
pub mod secret;
mod signers;
pub mod sshsig;
pub mod statement;
pub mod verify;
mod wire;
pub mod world;

pub use checkpoint::{Checkpoint, Origin};
pub use keys::{KeyBytes, KeyError, OperatorIdentity, OperatorKey, PublicKey};
pub use namespace::Namespace;
pub use order::{Kind, Order, Params};
pub use policy::Policy;
pub use receipt::{Event, Outcome, Receipt};
pub use refusal::{Refusal, RefusalCode};
pub use secret::SecretKey;
pub use verify::Authorized;
