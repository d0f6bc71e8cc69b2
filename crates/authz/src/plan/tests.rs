use super::*;
use crate::order::tests::{NOW, rollback};
use crate::order::{NoParams, Params};

fn host_key() -> SecretKey {
    SecretKey::from_seed(&[0x40; 32])
}

fn host() -> HostId {
    HostId::from_bytes([0x11; 16])
}

const BOOT: u64 = 5_000;

fn plan(order: &Order, n: u8) -> Plan {
    Plan {
        v: 1,
        host: host(),
        host_key_gen: 1,
        draft: draft_of(order),
        kind: order.kind(),
        vmid: order.guest.as_ref().map(|guest| guest.vmid),
        effects: vec!["disk scsi0 goes back to 2025-11-21".parse().unwrap()],
        calls: vec!["POST /nodes/pve1/qemu/101/snapshot/before/rollback".parse().unwrap()],
        config_sha256: Some(Sha256::of(b"config")),
        challenge: Sha256::of(&[n]),
        boot_id: "boot-a".parse().unwrap(),
        boottime_s: BOOT,
        time: NOW,
        log_size: 7,
    }
}

/// The draft, what the host signed, and the order that names it.
fn bound(n: u8) -> (Order, Plan, Signed, Order) {
    let draft = Order { nonce: protocol::Nonce::from_bytes([n; 16]), ..rollback() };
    let plan = plan(&draft, n);
    let signed = plan.sign(&host_key());
    let (read, name) = Plan::verify(&signed, &host(), &host_key().public(), &draft).unwrap();
    assert_eq!(read, plan);
    let order = Order { plan: Some(name), ..draft.clone() };
    (draft, plan, signed, order)
}

fn refused(book: &PlanBook, order: &Order, at: u64) -> String {
    let (code, why) = book.find(order, at).expect_err("must be refused");
    assert_eq!(code, RefusalCode::Plan);
    why
}

#[test]
fn only_the_hosts_own_word_about_this_order_is_believed() {
    let (draft, plan, signed, order) = bound(1);
    let verify = |signed: &Signed, draft: &Order| Plan::verify(signed, &host(), &host_key().public(), draft);
    // The order with its plan is the same draft.
    assert!(verify(&signed, &order).is_ok());
    let mallory = plan.sign(&SecretKey::from_seed(&[9; 32]));
    assert!(matches!(verify(&mallory, &draft), Err(PlanError::Signature(_))));
    let receipt = Signed { sig: host_key().sign(Namespace::Receipt, &signed.payload.0), ..signed.clone() };
    assert!(matches!(verify(&receipt, &draft), Err(PlanError::Signature(_))), "signed for another purpose");
    let mut altered = signed.clone();
    let at = altered.payload.0.windows(5).position(|w| w == b"scsi0").unwrap();
    altered.payload.0[at] = b'x';
    assert!(matches!(verify(&altered, &draft), Err(PlanError::Signature(_))));
    for (what, change) in [
        ("nonce", (|o| o.nonce = protocol::Nonce::from_bytes([7; 16])) as fn(&mut Order)),
        ("exp", |o| o.exp += 1),
        ("min_signers", |o| o.min_signers = 2),
        ("reason", |o| o.reason = "other".parse().unwrap()),
        ("params", |o| o.params = Params::SnapshotDelete(NoParams {})),
    ] {
        let mut other = draft.clone();
        change(&mut other);
        assert!(matches!(verify(&signed, &other), Err(PlanError::OtherOrder)), "{what}");
    }
    let lying = Plan { kind: Kind::SnapshotDelete, ..plan.clone() }.sign(&host_key());
    assert!(matches!(verify(&lying, &draft), Err(PlanError::OtherOrder)));
    let elsewhere = Plan { host: HostId::from_bytes([9; 16]), ..plan.clone() }.sign(&host_key());
    assert!(matches!(verify(&elsewhere, &draft), Err(PlanError::OtherHost { .. })));
    let line = plan.effects[0].clone();
    for bad in [
        Plan { v: 2, ..plan.clone() },
        Plan { effects: vec![line.clone(); MAX_LINES + 1], ..plan.clone() },
        Plan { calls: vec![line; MAX_LINES + 1], ..plan.clone() },
        Plan { boottime_s: u64::MAX, ..plan.clone() },
        Plan { time: u64::MAX, ..plan.clone() },
        Plan { log_size: u64::MAX, ..plan.clone() },
    ] {
        assert!(matches!(verify(&bad.sign(&host_key()), &draft), Err(PlanError::Bound(_))));
    }
    let spaced = [signed.payload.0.as_slice(), b" "].concat();
    let sig = host_key().sign(Namespace::Plan, &spaced);
    let spaced = Signed { payload: spaced.into(), sig };
    assert!(matches!(verify(&spaced, &draft), Err(PlanError::Payload(_))));
}

/// What a plan may hold at most is held, and one more is not: see the test above.
#[test]
fn limits_are_the_last_that_is_allowed() {
    let (draft, plan, ..) = bound(1);
    let line = plan.effects[0].clone();
    for full in [
        Plan { effects: vec![line.clone(); MAX_LINES], ..plan.clone() },
        Plan { calls: vec![line; MAX_LINES], ..plan.clone() },
        Plan { boottime_s: MAX_INTEGER, time: MAX_INTEGER, log_size: MAX_INTEGER, ..plan },
    ] {
        let (read, _) = Plan::verify(&full.sign(&host_key()), &host(), &host_key().public(), &draft).unwrap();
        assert_eq!(read, full);
    }
    assert_eq!(LIFE_S, 900, "a quarter of an hour, as the refusal says");
}

#[test]
fn a_plan_is_used_once_within_its_life_and_for_its_order() {
    let (_, plan, signed, order) = bound(1);
    let mut book = PlanBook::default();
    assert!(
        refused(&book, &order, BOOT).contains("does not remember"),
        "another host, or a copy of the disk"
    );
    book.remember(plan.clone(), &signed);
    assert!(!book.is_empty());
    assert_eq!(book.find(&order, BOOT).unwrap(), &plan);
    assert!(book.find(&order, BOOT + LIFE_S).is_ok());
    assert!(refused(&book, &order, BOOT + LIFE_S + 1).contains("over 15 minutes old"));
    assert!(refused(&book, &order, BOOT - 1).contains("over 15 minutes old"), "a clock that runs back");
    assert!(refused(&book, &Order { plan: None, ..order.clone() }, BOOT).contains("bound to no plan"));

    let mut other = order.clone();
    other.plan.as_mut().unwrap().challenge = Sha256::of(b"guess");
    assert!(refused(&book, &other, BOOT).contains("another challenge"));
    let mut other = order.clone();
    other.plan.as_mut().unwrap().sha256 = Sha256::of(b"guess");
    assert!(refused(&book, &other, BOOT).contains("does not remember"));
    let mut other = order.clone();
    other.guest.as_mut().unwrap().name = "db2".into();
    assert!(refused(&book, &other, BOOT).contains("not the one that the plan was computed for"));

    book.used(&order);
    assert!(book.is_empty());
    assert!(refused(&book, &order, BOOT).contains("does not remember"), "used twice");
    book.used(&Order { plan: None, ..order });
}

#[test]
fn a_flood_of_plans_takes_no_more_than_its_room() {
    let mut book = PlanBook::default();
    let orders: Vec<Order> = (0..40u8)
        .map(|n| {
            let mut draft = Order { nonce: protocol::Nonce::from_bytes([n; 16]), ..rollback() };
            draft.guest.as_mut().unwrap().vmid = protocol::Vmid::try_from(200 + u32::from(n)).unwrap();
            let plan = plan(&draft, n);
            let signed = plan.sign(&host_key());
            book.remember(plan.clone(), &signed);
            let name = PlanRef { sha256: Sha256::of(&signed.payload.0), challenge: plan.challenge };
            Order { plan: Some(name), ..draft }
        })
        .collect();
    assert_eq!(book.len(), MAX_LIVE);
    assert!(book.find(&orders[7], BOOT).is_err(), "the oldest went");
    assert!(book.find(&orders[8], BOOT).is_ok() && book.find(&orders[39], BOOT).is_ok());
    // A newer plan about the same guest takes the place of the older one.
    let (_, first, signed, order) = bound(1);
    book.remember(first, &signed);
    let (_, second, signed, newer) = bound(2);
    book.remember(second, &signed);
    assert!(book.find(&order, BOOT).is_err() && book.find(&newer, BOOT).is_ok());
}

#[test]
fn only_what_is_different_each_time_may_differ() {
    let (_, plan, ..) = bound(1);
    let again = Plan {
        challenge: Sha256::of(b"another"),
        boot_id: "boot-b".parse().unwrap(),
        boottime_s: 9,
        time: 9,
        log_size: 9,
        ..plan.clone()
    };
    assert!(plan.same_effects(&again));
    type Change = fn(&mut Plan);
    let changes: [Change; 9] = [
        |p| p.v = 2,
        |p| p.host = HostId::from_bytes([9; 16]),
        |p| p.host_key_gen = 2,
        |p| p.draft = Sha256::of(b"x"),
        |p| p.kind = Kind::SnapshotDelete,
        |p| p.vmid = None,
        |p| p.effects.clear(),
        |p| p.calls.clear(),
        |p| p.config_sha256 = None,
    ];
    for change in changes {
        let mut other = again.clone();
        change(&mut other);
        assert!(!plan.same_effects(&other), "{other:?}");
    }
}

/// What a host is asked about names no plan, whatever its kind; what it carries out does where it must.
#[test]
fn a_draft_is_read_as_a_draft_only() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/orders/plan.approve.json");
    let golden = std::fs::read(file).unwrap();
    let order = Order::decode(&golden).unwrap();
    let draft = Order { plan: None, ..order.clone() };
    assert!(Order::decode(&draft.encode()).is_err(), "an approval without a plan approves nothing");
    assert_eq!(Order::decode_draft(&draft.encode()).unwrap(), draft);
    assert!(Order::decode_draft(&golden).is_err(), "a draft names no plan yet");
    let (draft, .., bound) = bound(1);
    assert_eq!(Order::decode_draft(&draft.encode()).unwrap(), draft);
    assert!(Order::decode_draft(&bound.encode()).is_err());
    for bad in [&b""[..], b"{}", b"null", &[draft.encode(), b" ".to_vec()].concat()] {
        assert!(Order::decode_draft(bad).is_err());
    }
}
