//! THE FENCE: `writ-privileged` does the three things that only root's command line can do on a Proxmox host.
//!
//! | exception | program | by whose word |
//! |---|---|---|
//! | create a container with `keyctl` from a golden image | `pct create` | a signed `guest.create` |
//! | mount and unmount a USB disk by its filesystem's UUID | a systemd mount unit and `systemctl` | a signed `usb.mount`, `usb.unmount` |
//! | read SMART where the API cannot | `smartctl --json -n standby` | nobody's: it only reads |
//!
//! The warden hands over the signed *envelope*, and it is verified here again: against a policy that root has named
//! beforehand, and a nonce journal of this service's own. So a stolen warden can neither invent an order nor
//! replay one. Each program has an absolute path, arguments made from typed fields, no environment of ours, a time
//! limit and an output limit. Nothing in this crate ever opens a network connection.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | `privileged.toml` |
//! | [`service`] | what it lives by, its start and its end |
//! | [`server`] | the socket |
//! | [`orders`] | a signed order, from request to forgotten end |
//! | [`create`] | pure: the arguments of `pct create` |
//! | [`golden`] | a golden image: found, copied, compared |
//! | [`disks`] | which disk a filesystem is on, and what is mounted |
//! | [`mounts`] | mount units: their names, their text, and what is done with them |
//! | [`smart`] | SMART: arguments, answer, and how often |
//! | [`ledger`] | how far an order has come, as it is kept |
//! | [`run`] | starts one program, and ends it |
//!
//! What is absent on purpose: a request with a command, an argument or a path in it, a fourth exception, a second
//! run of anything.

pub mod config;
pub mod create;
pub mod disks;
pub mod golden;
pub mod hold;
pub mod ledger;
pub mod mounts;
pub mod orders;
pub mod run;
pub mod server;
pub mod service;
pub mod smart;

pub use config::PrivilegedConfig;
pub use service::{Service, StartError};

/// The host's clock, unix seconds. The one place where it is read.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a program said, as it may stand in an answer: printable, and not longer than
/// [`protocol::privileged::MAX_SAID`]; the end of it, because that is where programs say what went wrong.
pub(crate) fn said(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = protocol::text::printable(text.trim());
    if shown.len() > protocol::privileged::MAX_SAID {
        let mut from = shown.len() - protocol::privileged::MAX_SAID + 4;
        while !shown.is_char_boundary(from) {
            from += 1;
        }
        shown = format!("… {}", shown[from..].trim_start());
    }
    shown
}
