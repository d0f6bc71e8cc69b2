//! The catalogue (`security.md` 4.2), a function per block.

mod armor;
mod blob;
mod certificates;
mod chain;
mod curves;
mod more;
mod payload;
mod rsa;
mod semantic;
mod signers;
mod tokens;
mod world;

use crate::base::Class;

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
        world::classes(),
        chain::classes(),
        more::classes(),
    ]
    .concat()
}
