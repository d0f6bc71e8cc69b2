use std::time::Duration;

use serde_json::json;

use super::*;
use crate::world::{Fault, Injection};

fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), unix: 1_795_317_258 }
}

fn who() -> AuthId {
    AuthId::parse("writ@pve!act")
}

fn exit(w: &World, upid: &str) -> String {
    let ended = w.tasks.find(upid).unwrap().ended.clone();
    ended.map_or("running".to_owned(), |(e, _)| e.to_string())
}

fn clone_of(newid: u32) -> Job {
    Job::Clone(Box::new(CloneOrder {
        newid,
        snapshot: None,
        name: None,
        description: None,
        storage: None,
        format: None,
        full: true,
        pool: None,
    }))
}

#[test]
fn a_clone_locks_the_copy_of_a_machine_and_the_original_of_a_container() {
    let mut w = World::demo();
    let machine = w.begin(at(0), &who(), Kind::Qemu, 101, clone_of(140));
    let container = w.begin(at(0), &who(), Kind::Lxc, 201, clone_of(240));
    assert_eq!(w.guests[&140].lock(), Some("clone"));
    assert_eq!(w.guests[&101].lock(), None);
    assert_eq!((w.guests[&240].lock(), w.guests[&201].lock()), (Some("create"), Some("disk")));
    let again = w.begin(at(1), &who(), Kind::Qemu, 101, clone_of(140));
    assert_eq!(exit(&w, &again), "VM 140 already exists on node 'pve1'");
    w.settle(at(50));
    assert_eq!((exit(&w, &machine), exit(&w, &container)), ("OK".to_owned(), "OK".to_owned()));
    assert!([140, 240, 201].iter().all(|id| w.guests[id].lock().is_none()));
    assert_eq!(w.guests[&240].config["rootfs"], "tank:subvol-240-disk-0,size=8G");
}

#[test]
fn a_clone_that_ends_early_leaves_nothing_unless_it_is_killed() {
    let mut w = World::demo();
    let stopped = w.begin(at(0), &who(), Kind::Lxc, 201, clone_of(240));
    w.interrupt(&stopped, at(1));
    assert_eq!(exit(&w, &stopped), "interrupted by signal");
    assert!(!w.guests.contains_key(&240));
    assert_eq!(w.guests[&201].lock(), None);
    w.injections.push(Injection { task: "vzclone".to_owned(), fault: Fault::Kill });
    let killed = w.begin(at(100), &who(), Kind::Lxc, 201, clone_of(241));
    w.settle(at(150));
    assert_eq!(exit(&w, &killed), "unexpected status");
    assert_eq!((w.guests[&241].lock(), w.guests[&201].lock()), (Some("create"), Some("disk")));
}

#[test]
fn a_create_without_room_takes_itself_back() {
    let mut w = World::demo();
    let disk = NewDisk {
        key: "scsi0".to_owned(),
        storage: "local".to_owned(),
        bytes: 1 << 42,
        format: None,
        rest: Vec::new(),
    };
    let order =
        CreateOrder { config: Config::new(), disks: vec![disk], template: None, pool: None, start: false };
    let upid = w.begin(at(0), &who(), Kind::Qemu, 150, Job::Create(Box::new(order)));
    assert_eq!(w.guests[&150].lock(), Some("create"));
    w.settle(at(50));
    assert!(exit(&w, &upid).contains("not enough space"), "{}", exit(&w, &upid));
    assert!(!w.guests.contains_key(&150));
}

#[test]
fn room_comes_back_with_the_guest() {
    let mut w = World::demo();
    let used = w.storages["local"].used;
    let change = ("scsi1".to_owned(), Some(json!("local:8")));
    w.change(Kind::Qemu, 101, &[change]).unwrap();
    assert_eq!(w.storages["local"].used, used + (8 << 30));
    let job = Job::Destroy { purge: true, unreferenced: false, force: false };
    w.begin(at(0), &who(), Kind::Qemu, 101, job);
    w.settle(at(50));
    assert_eq!(w.storages["local"].used, used);
}

#[test]
fn boot_order_takes_the_first_of_each() {
    let set =
        |keys: &[(&str, &str)]| -> Config { keys.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect() };
    let all = set(&[("ide2", "local:iso/a.iso,media=cdrom"), ("net0", "virtio"), ("scsi0", "a:b")]);
    assert_eq!(default_boot(&all), "scsi0;ide2;net0");
    assert_eq!(default_boot(&set(&[("scsihw", "lsi"), ("memory", "64")])), "");
}
