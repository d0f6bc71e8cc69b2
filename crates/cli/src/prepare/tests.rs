use std::path::PathBuf;

use authz::order::Binding;
use authz::policy::Rule;
use authz::world::GuestNow;
use clap::Parser as _;
use protocol::report::Known;
use protocol::{GuestKind, RunState, Sha256};

use super::*;
use crate::args::{Asked, Cli, Command};
use crate::render;
use crate::testing::{NOW, believed, guest, policy, report, snapshot, with};

mod asked;
mod hostile;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A world as a host's warden tells it.
fn told(name: &str) -> World {
    let path = root().join(format!("fixtures/worlds/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn guest_of(world: &mut World) -> &mut GuestNow {
    match &mut world.guest {
        Known::Known(guest) => guest,
        Known::Unknown(why) => panic!("{why}"),
    }
}

fn seen<T>(known: &mut Known<T>) -> &mut T {
    match known {
        Known::Known(value) => value,
        Known::Unknown(why) => panic!("{why}"),
    }
}

fn unread<T>() -> Known<T> {
    Known::Unknown("403 Forbidden\u{1b}[2J".into())
}

/// A policy that lets alice order everything, and lets stand what may.
fn open_policy() -> Policy {
    let mut document = policy().document().clone();
    let role = document.rules[0].role.clone();
    let rule = |kind: &Kind| Rule {
        kind: *kind,
        role: role.clone(),
        also: vec![],
        threshold: 1,
        standing: matches!(kind.binding(), Binding::PlanOrStanding | Binding::Standing),
        max_validity_s: 600,
    };
    document.rules =
        Kind::ALL.iter().filter(|kind| kind.namespace() == authz::Namespace::Op).map(rule).collect();
    document.rules.extend([Kind::GuestAdopt, Kind::GuestRelease].iter().map(rule));
    Policy::decode(&document.encode()).unwrap()
}

/// The wish of a command line.
fn wish(line: &str) -> Wish {
    let line = ["writ op", line].join(" ");
    let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
    let Command::Op(command) = cli.command else { panic!("{line}: no order") };
    let Asked { host, wish, .. } = command.ask();
    assert_eq!(host.as_str(), "web1", "{line}");
    wish
}

fn made(wish: &Wish, world: &World) -> Result<Order, PrepareError> {
    prepare(&believed(1, "web1"), &open_policy(), world, wish, with())
}

/// The sentence of the refusal, in which nothing may hide.
fn refused(line: &str, world: &World) -> String {
    let error = match made(&wish(line), world) {
        Ok(order) => panic!("{line}: {order:?}"),
        Err(error) => error.to_string(),
    };
    assert_eq!(printable(&error), error, "{line}");
    assert!(error.len() < 2_000, "{line}: a sentence of {} bytes", error.len());
    error
}

fn vmid() -> Vmid {
    Vmid::try_from(101).unwrap()
}

/// The last report tells enough for the kinds that need no more than the guest.
#[test]
fn a_report_is_enough_for_what_it_tells() {
    let world = of_report(&report(vec![guest(101)]), Some(vmid()));
    for line in [
        "guest.start web1 101",
        "guest.tag web1 101 prod a prod",
        "guest.adopt web1 101",
        "guest.release web1 101",
        "snapshot.create web1 101 fresh",
        "snapshot.rollback web1 101 before-update --start",
        "snapshot.delete web1 101 first",
    ] {
        let order = made(&wish(line), &world).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(Order::decode(&order.encode()).unwrap(), order);
        assert_eq!((order.nbf, order.exp, order.nonce), (NOW, NOW + 600, Nonce::from_bytes([7; 16])));
        assert_eq!(order.host.key, believed(1, "web1").key.fingerprint());
        assert_eq!(order.policy.sha256, *open_policy().hash());
        assert!(!order.guest.as_ref().unwrap().identity.is_empty());
        assert!(order.pre.config_sha256.is_none(), "no report tells the configuration");
    }
    let order = made(&wish("snapshot.rollback web1 101 before-update"), &world).unwrap();
    assert_eq!(order.pre.snapshot, Some(snapshot("before-update", NOW - 3_000, Some("first"))));
    assert_eq!(order.pre.state, Some(RunState::Stopped));
    for line in ["guest.destroy web1 101", "guest.shutdown web1 101", "guest.grow web1 101 scsi0 +1G"] {
        let mut world = world.clone();
        if line.contains("shutdown") {
            guest_of(&mut world).state = RunState::Running;
        }
        assert!(refused(line, &world).contains("reports do not tell it"), "{line}");
    }
    let blind = protocol::report::HostReport { guests: Known::Unknown("no answer".into()), ..report(vec![]) };
    assert!(refused("guest.start web1 101", &of_report(&blind, Some(vmid()))).contains("no answer"));
    let other = of_report(&report(vec![guest(102)]), Some(vmid()));
    assert!(refused("guest.start web1 101", &other).contains("reports no guest 101"));
}

#[test]
fn what_the_policy_forbids_is_said_before_anybody_signs() {
    let long = Circumstances { valid_s: 3_601, ..with() };
    let host = believed(1, "web1");
    let world = told("machine");
    let rollback = wish("snapshot.rollback web1 101 first");
    let error = prepare(&host, &policy(), &world, &rollback, long).unwrap_err();
    assert!(matches!(error, PrepareError::Validity { max_s: 3_600, .. }));

    let mut document = policy().document().clone();
    document.rules.retain(|rule| rule.kind != Kind::SnapshotDelete);
    document.rules.iter_mut().for_each(|rule| rule.standing = false);
    let strict = Policy::decode(&document.encode()).unwrap();
    let check = |line| prepare(&host, &strict, &world, &wish(line), with());
    assert_eq!(check("snapshot.delete web1 101 first"), Err(PrepareError::NoRule(Kind::SnapshotDelete)));
    assert!(check("guest.start web1 101").is_ok());
    // The draft of a plan.
    assert!(check("snapshot.rollback web1 101 first").is_ok());
}
