//! What the tables beside this file do not reach: words, and the smallest cases.

use super::*;

/// Sentences name what they are about; a flood of names is cut, with the number of those left out.
#[test]
fn sentences_name_what_they_are_about() {
    let names = |count: u32| list(1..=count);
    assert_eq!((names(0), names(1), names(2)), ("none".into(), "1".into(), "1, 2".into()));
    assert_eq!(names(8), "1, 2, 3, 4, 5, 6, 7, 8");
    assert_eq!(names(11), "1, 2, 3, 4, 5, 6, 7, 8 and 3 more");
    let (order, mut world) = true_order(Kind::GuestStart);
    guest_of(&mut world).kind = GuestKind::Lxc;
    assert_eq!(check(&order, &world).unwrap_err().1, "guest 101 is a lxc guest now, not a qemu one");
    let (order, mut world) = true_order(Kind::GuestStart);
    guest_of(&mut world).identity.vmgenid = None;
    assert!(check(&order, &world).unwrap_err().1.contains("rolled back, restored or cloned"));
    // An order cannot be read without the guest that it needs; nor is one carried out.
    let nobodys = Order { guest: None, ..order };
    assert_eq!(check(&nobodys, &world).unwrap_err().0, RefusalCode::BadOrder);
}

/// Nobody knows the state: an order that says so is not the same as a guest that says so.
#[test]
fn an_unknown_state_equals_nothing() {
    let (mut order, mut world) = true_order(Kind::GuestStop);
    order.pre.state = Some(RunState::Unknown);
    guest_of(&mut world).state = RunState::Unknown;
    assert_eq!(check(&order, &world).unwrap_err().0, RefusalCode::Precondition);
}

/// For unsigned steps there is no order: the same questions about the guest, and every lock counts.
#[test]
fn a_step_is_about_the_very_guest_too() {
    let (order, mut world) = true_order(Kind::GuestResume);
    let meant = order.guest.unwrap();
    assert_eq!(guest(&meant, guest_of(&mut world)), Ok(()));
    guest_of(&mut world).lock = Some("suspended".into());
    assert_eq!(guest(&meant, guest_of(&mut world)).unwrap_err().0, RefusalCode::Busy);
    guest_of(&mut world).name.push('x');
    assert_eq!(guest(&meant, guest_of(&mut world)).unwrap_err().0, RefusalCode::GuestIdentity);
}

#[test]
fn the_only_snapshot_is_named_like_any_other() {
    let (mut order, _) = true_order(Kind::DiskDetach);
    order.pre.snapshots.as_mut().unwrap().truncate(1);
    let mut world = world_of(&order);
    check(&order, &world).unwrap();
    seen(&mut guest_of(&mut world).snapshots)[0].name = "other".into();
    assert!(check(&order, &world).unwrap_err().1.contains("does not name (other)"));
}

/// A case of the corpus says what it says: no key twice, and nothing is lost.
#[test]
fn a_world_round_trips_and_names_each_key_once() {
    let (_, mut world) = true_order(Kind::BackupPrune);
    world.unlisted.insert("pbs1".parse().unwrap(), "away".into());
    let text = serde_json::to_string(&world).unwrap();
    assert_eq!(serde_json::from_str::<World>(&text).unwrap(), world);
    let list = text.replacen(r#"{"pbs1":"away"}"#, "[]", 1);
    let error = serde_json::from_str::<World>(&list).unwrap_err().to_string();
    assert!(error.contains("an object that names each key once"), "{error}");
    for (once, twice) in [
        (r#""unlisted":{"pbs1":"away""#, r#""unlisted":{"pbs1":"away","pbs1":"here""#),
        (r#""storages":{"known":{"#, r#""storages":{"known":{"local":{"unknown":"x"},"#),
    ] {
        let bad = text.replacen(once, twice, 1);
        assert_ne!(bad, text, "{text}");
        let error = serde_json::from_str::<World>(&bad).unwrap_err().to_string();
        assert!(error.contains("a key stands there twice"), "{error}");
    }
}
