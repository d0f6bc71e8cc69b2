//! The catalogue (`security.md` 4.2), a function per block.

mod armor;
mod blob;
mod certificates;
mod curves;
mod more;
mod payload;
mod rsa;
mod semantic;
mod signers;
mod tokens;

use crate::base::Class;

/// Classes whose facts are the live world's: they come with the comparison of an order with it.
pub const WAITING: [&str; 10] = [
    "semantic-other-vmid",
    "semantic-recycled-vmid",
    "semantic-other-guest-type",
    "semantic-digest-changed",
    "semantic-config-changed",
    "semantic-snapshot-time",
    "semantic-snapshot-parent",
    "semantic-volume-added",
    "semantic-volume-resized",
    "semantic-disk-swapped",
];

/// How many classes each block of the catalogue has.
pub const BLOCKS: [(&str, usize); 8] = [
    ("armor", 18),
    ("blob", 29),
    ("primitive", 22),
    ("sk", 11),
    ("cert", 20),
    ("signers", 16),
    ("payload", 22),
    ("semantic", 30),
];

/// All of them.
pub fn all() -> Vec<Class> {
    [
        armor::classes(),
        blob::classes(),
        curves::classes(),
        rsa::classes(),
        tokens::classes(),
        certificates::classes(),
        signers::classes(),
        payload::classes(),
        semantic::classes(),
        more::classes(),
    ]
    .concat()
}
