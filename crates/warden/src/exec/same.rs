//! Whether what is done is done to the guest that was meant, or to the one that the program itself has made.

use std::time::Duration;

use authz::Order;
use authz::world::World;
use protocol::GuestIdentity;
use protocol::report::Known;
use proxmox_client::ApiError;

use super::End;
use crate::ops::{Action, Call, Target};
use crate::warden::Warden;
use crate::world::{self, Observed};

/// Looks at a guest before it counts as unreadable, and the pause between them.
const LOOKS: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A guest that the program made, as it was after the last call on it. Numbers are used again even in the
/// middle of a program.
pub(super) struct Made {
    guest: Target,
    identity: GuestIdentity,
}

impl Made {
    /// It is still there, where a call is about it.
    pub(super) async fn still_there(&self, warden: &Warden, call: &Call) -> Result<(), String> {
        if call.made_guest() != Some(self.guest) {
            return Ok(());
        }
        let now = identity(warden, self.guest).await?;
        self.compare(&now, &[])
    }

    fn compare(&self, now: &GuestIdentity, may_differ: &[&str]) -> Result<(), String> {
        let differ: Vec<&str> =
            self.identity.differences(now).into_iter().filter(|fact| !may_differ.contains(fact)).collect();
        match differ.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "guest {} is not the one that this order made: {} differ(s)",
                self.guest.vmid,
                differ.join(", ")
            )),
        }
    }
}

/// What the program made is remembered, and what it got since: its options can bring other network devices.
pub(super) async fn note(
    warden: &Warden,
    action: &Action,
    before: Option<Made>,
) -> Result<Option<Made>, String> {
    let Some(guest) = action.call.made_guest().filter(|_| !action.guarded) else { return Ok(before) };
    let identity = identity(warden, guest).await.map_err(|why| format!("{why}, so nothing more was done"))?;
    if let Some(before) = before {
        before.compare(&identity, &["macs"])?;
    }
    Ok(Some(Made { guest, identity }))
}

async fn identity(warden: &Warden, guest: Target) -> Result<GuestIdentity, String> {
    let (kind, vmid) = (world::client_kind(guest.kind), world::client_vmid(guest.vmid));
    let config = patiently(|| warden.client.guest_config(kind, vmid)).await;
    config
        .map(|config| world::identity(&config))
        .map_err(|error| format!("whether {guest} is still the one that was made could not be read: {error}"))
}

async fn patiently<T, F: Future<Output = Result<T, ApiError>>>(read: impl Fn() -> F) -> Result<T, ApiError> {
    for _ in 1..LOOKS {
        match read().await {
            Ok(read) => return Ok(read),
            Err(error) => tracing::warn!(%error, "cannot look at the guest yet"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    read().await
}

/// The order's guest, where a call is guarded, is the one that was signed.
pub(super) async fn meant(warden: &Warden, order: &Order, action: &Action) -> Result<(), String> {
    let Some(meant) = order.guest.as_ref().filter(|_| action.guarded) else { return Ok(()) };
    let seen = world::observe(&warden.client, meant.kind, meant.vmid).await.map_err(unread)?;
    is_meant(warden, order, &seen)
}

/// The same, for a call that is worth some patience.
pub(super) async fn still_meant(warden: &Warden, order: &Order, action: &Action) -> Result<(), String> {
    let Some(meant) = order.guest.as_ref().filter(|_| action.guarded) else { return Ok(()) };
    let seen = patiently(|| world::observe(&warden.client, meant.kind, meant.vmid)).await.map_err(unread)?;
    is_meant(warden, order, &seen)
}

fn unread(error: ApiError) -> String {
    format!("the world could not be read again: {error}")
}

fn is_meant(warden: &Warden, order: &Order, seen: &Observed) -> Result<(), String> {
    let Some(meant) = &order.guest else { return Ok(()) };
    let mut now = World::unread("only the guest matters here");
    now.guest = Known::Known(seen.guest_now());
    // An adopted guest is named with its instance id, which Proxmox does not tell.
    warden.recognize(&mut now, Some(meant.vmid)).map_err(|(_, why)| why)?;
    match &now.guest {
        Known::Known(guest) => authz::world::guest(meant, guest).map_err(|(_, why)| why),
        Known::Unknown(why) => Err(why.clone()),
    }
}

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
