//! A world out of a host's last report, for hosts that do not answer questions. It knows the least: what no
//! report tells is unknown, and an order that must name it cannot be prepared.

use std::collections::BTreeMap;

use authz::world::{GuestNow, SnapshotNow, World};
use protocol::Vmid;
use protocol::report::{GuestConfigReport, GuestReport, HostReport, Known};

const UNTOLD: &str = "reports do not tell it, and the host was not asked";

/// What the report tells that an order about this guest could name.
pub fn of_report(report: &HostReport, vmid: Option<Vmid>) -> World {
    let guest = match (&report.guests, vmid) {
        (_, None) => Known::Unknown(UNTOLD.to_owned()),
        (Known::Unknown(why), Some(_)) => Known::Unknown(format!("it could not read its guests: {why}")),
        (Known::Known(guests), Some(vmid)) => match guests.iter().find(|guest| guest.vmid == vmid) {
            Some(guest) => guest_now(guest),
            None => Known::Unknown(format!("it reports no guest {vmid}")),
        },
    };
    let storages = match &report.storages {
        Known::Unknown(why) => Known::Unknown(why.clone()),
        Known::Known(storages) => {
            let named = storages.iter().filter_map(|storage| storage.name.parse().ok());
            Known::Known(named.map(|name| (name, untold())).collect::<BTreeMap<_, _>>())
        }
    };
    World { guest, storages, ..World::unread(UNTOLD) }
}

fn untold<T>() -> Known<T> {
    Known::Unknown(UNTOLD.to_owned())
}

fn guest_now(guest: &GuestReport) -> Known<GuestNow> {
    let GuestConfigReport { digest, identity, tags: _, lock, protection } = match &guest.config {
        Known::Known(config) => config,
        Known::Unknown(why) => return Known::Unknown(format!("its configuration could not be read: {why}")),
    };
    let snapshots = match &guest.snapshots {
        Known::Unknown(why) => Known::Unknown(why.clone()),
        Known::Known(snapshots) => Known::Known(
            snapshots
                .iter()
                .map(|snapshot| SnapshotNow {
                    name: snapshot.name.to_string(),
                    time: Some(snapshot.time),
                    parent: snapshot.parent.clone(),
                    unfinished: None,
                })
                .collect(),
        ),
    };
    Known::Known(GuestNow {
        kind: guest.kind,
        name: guest.name.clone(),
        identity: identity.clone(),
        digest: digest.clone(),
        config: untold(),
        lock: lock.clone(),
        // Not told; the host refuses what cannot be done to a template.
        template: false,
        state: guest.state,
        snapshots,
        consistent: true,
        volumes: untold(),
        protection: Known::Known(*protection),
        ha: untold(),
        replication: untold(),
    })
}
