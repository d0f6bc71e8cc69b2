//! Whether what was done was done to the guest that was meant.

use authz::Order;

use super::End;
use crate::ops::Action;
use crate::warden::Warden;
use crate::world;

/// Between the last look and the call another guest may have taken the number, and most calls compare nothing
/// themselves. So it is compared afterwards: what happened to another guest is not called done.
pub(super) async fn guest(warden: &Warden, action: &Action, order: Option<&Order>, end: End) -> End {
    let (meant, mut done) = match (end, order.and_then(|order| order.guest.as_ref())) {
        (End::Done(done), Some(meant)) if action.guarded && action.call.keeps_identity() => (meant, done),
        (end, _) => return end,
    };
    let config =
        warden.client.guest_config(world::client_kind(meant.kind), world::client_vmid(meant.vmid)).await;
    let now = match &config {
        Ok(config) => world::identity(config),
        Err(error) => {
            done.seen =
                format!("{} (whether it is still the same guest could not be read: {error})", done.seen);
            return End::Done(done);
        }
    };
    // The instance id is the warden's own word for the facts that are compared here anyway.
    let own = |fact: &&str| !matches!(*fact, "vmgenid" | "giid");
    let differ: Vec<&str> = meant.identity.differences(&now).into_iter().filter(own).collect();
    // Rolled back, a guest has the devices that it had then; its making it keeps.
    let devices = differ.iter().all(|fact| matches!(*fact, "macs" | "volids"));
    match (differ.is_empty(), action.call.brings_devices_back() && devices) {
        (true, _) => End::Done(done),
        (false, true) => {
            done.seen = format!("{}; its {} are not those that were signed", done.seen, differ.join(" and "));
            End::Done(done)
        }
        (false, false) => {
            let why = format!(
                "{}, but guest {} is not the one that was meant: {} differ(s), so it was replaced while the call was made",
                done.seen,
                meant.vmid,
                differ.join(", ")
            );
            End::Unknown { upid: done.upid, why }
        }
    }
}
