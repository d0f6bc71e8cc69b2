//! The table of kinds against the rows: what a host carries out is tried out, or there is a reason.

use std::collections::{BTreeMap, BTreeSet};

use authz::Kind;
use protocol::GuestKind;

use crate::kinds::all;

/// Kinds without a row, and where they are tried out instead.
const WITHOUT: [(Kind, &str); 12] = [
    (Kind::UsbMount, "root's service does it, Proxmox is not called: privileged's own tests"),
    (Kind::UsbUnmount, "as usb.mount"),
    (Kind::PlanApprove, "carries out nothing by itself: its steps are orders or unsigned steps"),
    (Kind::JobRun, "the runner does it, Proxmox is not called: jobs_and_sessions"),
    (Kind::SessionOpen, "as job.run"),
    (Kind::PolicyUpdate, "the warden's own state: jobs_and_sessions, policies"),
    (Kind::KeyRevoke, "as policy.update"),
    (Kind::HostRebind, "the warden's own state"),
    (Kind::LogReanchor, "the warden's own state"),
    (Kind::AgentUpdate, "root's service does it"),
    (Kind::GuestAdopt, "also the warden's own state, which no simulated world takes back: ops_guest, care"),
    (Kind::GuestRelease, "as guest.adopt"),
];

/// Kinds that guests of one type only can have, or that are about none.
const ONE_TYPE: [Kind; 5] =
    [Kind::GuestSuspend, Kind::GuestResume, Kind::StorageAdd, Kind::StorageRemove, Kind::TemplateDownload];

#[test]
fn every_kind_that_a_host_carries_out_has_a_row() {
    let mut rows: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for row in all() {
        let kind: Kind = row.name.split(' ').next().unwrap().parse().unwrap();
        rows.entry(kind).or_default().insert(row.guest.to_string());
        assert!(names.insert(row.name), "{} is there twice", row.name);
    }
    let without: BTreeMap<Kind, &str> = WITHOUT.into();
    for kind in Kind::ALL {
        let why = without.get(kind);
        assert_ne!(
            rows.contains_key(kind),
            why.is_some(),
            "{kind}: a row, or a reason why it has none ({why:?})"
        );
        let Some(types) = rows.get(kind) else { continue };
        // About a guest, or about what was one's: both types, because Proxmox has other calls for each.
        if !ONE_TYPE.contains(kind) {
            let both = [GuestKind::Lxc, GuestKind::Qemu].map(|kind| kind.to_string()).into();
            assert_eq!(*types, both, "{kind}");
        }
    }
}
