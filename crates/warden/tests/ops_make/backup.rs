//! `backup.create`, `.delete`, `.prune`, `.protect`.

use authz::order::{
    BackupDeleteParams, BackupMode, BackupOwner, BackupParams, BackupProtectParams, BackupPruneParams,
    Compression, Order, Params, Preconditions,
};
use authz::{Outcome, RefusalCode};
use protocol::GuestKind;
use protocol::refs::BackupRef;
use protocol::report::Known;
use pve_sim::world::Fault;

use crate::rig::{Lxc, Qemu, Rig, code, vmid};

async fn create(rig: &Rig, kind: GuestKind, n: u32, protected: bool) -> Order {
    let params = BackupParams {
        storage: "local".parse().unwrap(),
        mode: BackupMode::Snapshot,
        compress: Compression::Zstd,
        protected,
        notes: "before {{node}} is upgraded".parse().unwrap(),
    };
    let mut order = rig.on_guest(kind, n, Params::BackupCreate(params)).await;
    order.pre =
        Preconditions { state: order.pre.state, digest: order.pre.digest, ..Preconditions::default() };
    order
}

fn owner(kind: GuestKind, n: u32) -> BackupOwner {
    BackupOwner { vmid: vmid(n), kind }
}

fn delete(rig: &Rig, kind: GuestKind, n: u32, backups: &[BackupRef]) -> Order {
    let remove = backups.iter().map(|b| b.volid.clone()).collect();
    let mut order = rig.order(Params::BackupDelete(BackupDeleteParams { owner: owner(kind, n), remove }));
    order.pre.backups = Some(backups.to_vec());
    order
}

fn protect(rig: &Rig, kind: GuestKind, n: u32, backup: &BackupRef, protected: bool) -> Order {
    let volume = backup.volid.clone();
    let params = BackupProtectParams { owner: owner(kind, n), volume, protected };
    let mut order = rig.order(Params::BackupProtect(params));
    order.pre.backups = Some(vec![backup.clone()]);
    order
}

#[tokio::test]
async fn a_backup_is_taken_found_and_removes_none() {
    for (kind, n) in [(Qemu, 100), (Lxc, 200), (Qemu, 101)] {
        let rig = Rig::start().await;
        // A retention of one: Proxmox's default would remove the older one.
        rig.change(|w| {
            let local = w.storages.get_mut("local").unwrap();
            local.options.insert("prune-backups".into(), "keep-last=5".into());
        });
        let old = rig.back_up(kind, n).await;
        let outcome = rig.submit(&create(&rig, kind, n, true).await).await;
        assert!(outcome.is_success(), "{outcome}");
        let now = rig.backups(kind, n).await;
        assert!(now.len() == 2 && now.contains(&old), "{now:?}");
        let new = now.iter().find(|b| **b != old).unwrap();
        assert!(outcome.to_string().contains(new.volid.as_str()), "{outcome}");
        assert!(outcome.to_string().contains("protected"), "{outcome}");
    }
}

#[tokio::test]
async fn a_container_that_was_suspended_instead_is_told() {
    let rig = Rig::start().await;
    rig.change(|w| w.storages.get_mut("local").unwrap().content.push_str(",rootdir"));
    rig.set(200, "rootfs", "local:200/vm-200-disk-0.raw,size=4G");
    let outcome = rig.submit(&create(&rig, Lxc, 200, false).await).await;
    let Outcome::Warnings { count: 1, lines, .. } = &outcome else { panic!("{outcome}") };
    assert!(lines[0].as_str().contains("was suspended"), "{lines:?}");
}

#[tokio::test]
async fn a_backup_that_fails_or_whose_answer_is_lost() {
    let rig = Rig::start().await;
    rig.inject("vzdump", Fault::Fail { text: "job errors".into(), leave_lock: false });
    let outcome = rig.submit(&create(&rig, Qemu, 101, false).await).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome}");
    let order = create(&rig, Qemu, 101, false).await;
    rig.sim.drop_answer_next("POST", "/vzdump");
    let outcome = rig.submit(&order).await;
    assert!(outcome.is_success(), "{outcome}");
    assert_eq!(rig.backups(Qemu, 101).await.len(), 1);
    rig.later(2);
    rig.inject("vzdump", Fault::Kill);
    let outcome = rig.submit(&create(&rig, Qemu, 102, false).await).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome}");
    assert_eq!(rig.count("POST", "/vzdump"), 3);
}

#[tokio::test]
async fn a_storage_that_is_away_gets_no_backup() {
    let rig = Rig::start().await;
    let mut order = create(&rig, Qemu, 101, false).await;
    let Params::BackupCreate(params) = &mut order.params else { unreachable!() };
    params.storage = "offl".parse().unwrap();
    let outcome = rig.submit(&order).await;
    assert!(!outcome.is_success(), "{outcome}");
    assert_eq!(rig.mutations().len(), 0);
}

#[tokio::test]
async fn each_backup_is_deleted_by_a_call_of_its_own() {
    let rig = Rig::start().await;
    let (one, two, three) =
        (rig.back_up(Lxc, 200).await, rig.back_up(Lxc, 200).await, rig.back_up(Lxc, 200).await);
    let before = rig.mutations().len();
    let remove = [one.clone(), two.clone()];
    let params = BackupPruneParams {
        owner: owner(Lxc, 200),
        storage: "local".parse().unwrap(),
        remove: remove.iter().map(|b| b.volid.clone()).collect(),
        keep: vec![three.volid.clone()],
    };
    let mut prune = rig.order(Params::BackupPrune(params));
    prune.pre.backups = Some(vec![one, two, three.clone()]);
    let (plan, order) = rig.plan(&prune).await.unwrap();
    assert_eq!(plan.calls.len(), 2, "{:?}", plan.calls);
    rig.sim.drop_answer_next("DELETE", "/content/");
    let outcome = rig.submit(&order).await;
    assert!(outcome.is_success(), "{outcome}");
    assert_eq!(rig.backups(Lxc, 200).await, std::slice::from_ref(&three));
    assert_eq!(rig.mutations().len(), before + 2);
    assert_eq!(rig.count("DELETE", "prunebackups"), 0);
    let outcome = rig.submit(&delete(&rig, Lxc, 200, &[three])).await;
    assert!(outcome.is_success(), "{outcome}");
}

#[tokio::test]
async fn a_protected_backup_stays_and_the_next_one_is_not_touched() {
    let rig = Rig::start().await;
    let (one, two) = (rig.back_up(Qemu, 101).await, rig.back_up(Qemu, 101).await);
    let outcome = rig.submit(&protect(&rig, Qemu, 101, &one, true)).await;
    assert!(outcome.is_success(), "{outcome}");
    let outcome = rig.submit(&delete(&rig, Qemu, 101, &[one.clone(), two.clone()])).await;
    assert_eq!(code(&outcome), RefusalCode::Precondition, "{outcome}");
    assert!(outcome.to_string().contains("lift that with backup.protect"), "{outcome}");
    assert_eq!(rig.backups(Qemu, 101).await.len(), 2);
    rig.sim.drop_answer_next("PUT", "/content/");
    let outcome = rig.submit(&protect(&rig, Qemu, 101, &one, false)).await;
    assert!(outcome.is_success(), "{outcome}");
    let outcome = rig.submit(&delete(&rig, Qemu, 101, &[one, two])).await;
    assert!(outcome.is_success(), "{outcome}");
}

#[tokio::test]
async fn another_backup_of_that_name_lives() {
    let rig = Rig::start().await;
    let one = rig.back_up(Qemu, 101).await;
    let order = delete(&rig, Qemu, 101, std::slice::from_ref(&one));
    rig.change(|w| w.stock.volumes.get_mut(one.volid.as_str()).unwrap().size += 1);
    assert_eq!(code(&rig.submit(&order).await), RefusalCode::Precondition);
    // Or one whose name says that it is another guest's.
    let mut foreign = rig.order(Params::BackupDelete(BackupDeleteParams {
        owner: owner(Qemu, 100),
        remove: vec![one.volid.clone()],
    }));
    foreign.pre.backups = Some(vec![one]);
    assert!(matches!(rig.submit(&foreign).await, Outcome::Refused { .. }));
    assert_eq!(rig.count("DELETE", ""), 0);
}

#[tokio::test]
async fn a_storage_that_is_away_hides_its_own_backups_only() {
    let rig = Rig::start().await;
    let one = rig.back_up(Qemu, 101).await;
    let all = rig.backups_on(Qemu, 101, vec![]).await;
    assert_eq!(all.backups, Known::Known(vec![one]));
    assert_eq!(all.unlisted.keys().map(ToString::to_string).collect::<Vec<_>>(), ["offl"]);
    // Where it is asked for by name, nothing is known.
    let named = rig.backups_on(Qemu, 101, ["local", "offl"].map(|s| s.parse().unwrap()).into()).await;
    assert!(matches!(named.backups, Known::Unknown(why) if why.contains("offl")));
}
