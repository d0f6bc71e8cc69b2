use super::*;
use crate::testing::{order, plan_of, world, world_config};
use authz::world::GuestNow;
use protocol::RunState;

fn changed(change: impl Fn(&mut GuestNow)) -> Vec<&'static str> {
    let mut seen = world(101);
    let Known::Known(now) = &mut seen.guest else { unreachable!() };
    change(now);
    let facts = facts(&order(), Some(&plan_of(&order())), &seen);
    facts.iter().filter(|fact| fact.is_changed()).map(|fact| fact.what).collect()
}

#[test]
fn what_changed_since_the_plan_is_named() {
    assert_eq!(changed(|_| {}), Vec::<&str>::new());
    assert_eq!(changed(|now| now.digest = "e".repeat(40)), ["digest", "in all"]);
    assert_eq!(changed(|now| now.state = RunState::Running), ["state", "in all"]);
    assert_eq!(changed(|now| now.identity.macs.clear()), ["identity", "in all"]);
    assert_eq!(changed(|now| now.snapshots = Known::Known(vec![])), ["snapshot", "in all"]);
    // Comments and such: only the plan, which is computed over the options, knows.
    let other = || Known::Known([("cores".to_owned(), "4".to_owned())].into());
    assert_eq!(changed(|now| now.config = other()), ["plan's config"]);
    let mut config = world_config();
    config.insert("digest".into(), "is not part of it".into());
    assert!(changed(|now| now.config = Known::Known(config.clone())).is_empty());
}

#[test]
fn what_passes_or_was_not_read_is_no_change() {
    assert!(changed(|now| now.lock = Some("backup".into())).is_empty(), "a backup ends");
    let seen = World::unread("timed out");
    let facts = facts(&order(), None, &seen);
    assert!(matches!(&facts[0].now, Now::Unread(why) if why == "timed out"), "{facts:?}");
}

/// The host is asked for everything that it will compare: with all of that answered, nothing is missing.
#[test]
fn each_kind_looks_at_what_it_states() {
    let orders = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../authz/fixtures/orders");
    let mut seen = 0;
    for file in std::fs::read_dir(orders).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let order = Order::decode(&bytes).unwrap();
        let look = look(&order);
        assert!(look.is_bounded());
        assert_eq!(look.guest, order.guest.as_ref().map(|guest| guest.vmid), "{}", order.kind());
        assert_eq!(look.owner.is_some(), order.pre.backups.is_some(), "{}", order.kind());
        assert_eq!(
            look.disks,
            order.pre.disk.is_some()
                || matches!(order.params, Params::StorageAdd(_) | Params::StorageRemove(_))
        );
        seen += 1;
    }
    assert!(seen >= 30, "{seen}");
}
