//! What was done on the recorded nodes themselves, between requests or by requests that were not
//! kept. Each entry happens just before the exchange of its name.

use std::time::Duration;

use pve_sim::Sim;
use pve_sim::world::{
    AuthId, Config, Fault, FaultRule, Guest, Injection, Job, Kind, Mishap, Now, Release, Running, SavedGuest,
    Storage, StorageJob, Vzdump, World,
};
use serde_json::{Value, json};

/// Until this exchange comes, tasks that run are left running.
pub(crate) fn keeps_running(release: Release, name: &str) -> bool {
    let busy = ["longtask-status-running", "concurrent-config-during", "concurrent-snaplist-during"];
    release == Release::V9
        && (busy.contains(&name)
            || (name.starts_with("longtask-")
                && name != "longtask-stopped-task-log"
                && name != "longtask-config-after"))
}

fn set(w: &mut World, vmid: u32, key: &str, value: Option<Value>) {
    let config = &mut w.guests.get_mut(&vmid).unwrap().config;
    match value {
        Some(value) => config.insert(key.to_owned(), value),
        None => config.remove(key),
    };
}

fn halt(w: &mut World, vmid: u32) {
    w.guests.get_mut(&vmid).unwrap().running = None;
}

fn start(w: &mut World, vmid: u32, now: Now) {
    w.guests.get_mut(&vmid).unwrap().running = Some(Running { pid: 700 + vmid, since: now.unix });
}

/// A task nobody's kept request began, to its end.
fn task(w: &mut World, kind: Kind, vmid: u32, job: Job, now: Now) -> String {
    let who = AuthId::parse("tester@pve!full");
    let upid = w.begin(now, &who, kind, vmid, job);
    finish(w, now);
    upid
}

/// Lets everything that runs end now.
pub(crate) fn finish(w: &mut World, now: Now) {
    for _ in 0..50 {
        let mut any = false;
        for task in w.tasks.all.iter_mut().filter(|t| t.ended.is_none()) {
            task.due = Duration::ZERO;
            any = true;
        }
        if !any {
            return;
        }
        w.settle_all(now);
    }
    panic!("a task does not end: {:?}", w.tasks.all.iter().find(|t| t.ended.is_none()));
}

fn container(vmid: u32, disk: &str, memory: u32) -> Guest {
    let config = json!({
        "hostname": format!("ct{vmid}"), "rootfs": format!("{disk},size=1G"), "memory": memory, "swap": 512,
        "ostype": "unmanaged", "arch": "amd64", "unprivileged": 1,
    });
    let config: Config = config.as_object().unwrap().clone().into_iter().collect();
    Guest::new(Kind::Lxc, config)
}

/// A backup job that was ordered without the kept requests.
fn vzdump(vmid: u32, mode: &str, bwlimit: u32) -> Job {
    let words = [("storage", "local"), ("mode", mode), ("node", "pve1")];
    Job::Storage(StorageJob::Vzdump(Box::new(Vzdump {
        vmids: vec![vmid],
        words: words.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
        storage: "local".to_owned(),
        mode: mode.to_owned(),
        bwlimit,
        lockwait: 180,
        ..Vzdump::default()
    })))
}

fn begin(w: &mut World, vmid: u32, job: Job, now: Now) -> String {
    let Job::Storage(job) = job else { unreachable!() };
    w.begin_storage(now, &AuthId::parse("tester@pve!full"), "vzdump", &vmid.to_string(), job)
}

fn snapshot(name: &str, vmstate: bool) -> Job {
    Job::Snapshot { name: name.to_owned(), description: String::new(), vmstate }
}

/// A backup of the container 200 that is simply there.
fn backup(w: &mut World, volid: &str, ctime: i64) {
    w.add_volume(volid, 1_024, ctime);
    let config = w.guests[&200].config.clone();
    w.stock.volumes.get_mut(volid).unwrap().saved = Some(SavedGuest { kind: Kind::Lxc, config });
}

fn remove(w: &mut World, vmid: u32) {
    w.guests.remove(&vmid);
    w.access.pools.get_mut("lab").unwrap().guests.remove(&vmid);
}

/// Something done to the node.
type Deed = fn(&mut World, Now);
/// Something that begins a task; its UPID.
type Order = fn(&mut World, Now) -> String;
/// A fault of the simulator.
type Wrong = fn() -> FaultRule;

/// Deeds on the node of 9.1.8.
const NINE: &[(&str, Deed)] = &[
    ("lxc-list", |w, _| {
        w.guests.insert(202, container(202, "local:202/vm-202-disk-0.raw", 64));
        w.access.pools.get_mut("lab").unwrap().guests.remove(&202);
    }),
    ("snap-list-one", |w, now| {
        w.add_snapshot(200, "before", "vor dem Update", now);
    }),
    ("snap-list-after-rollback", |w, _| {
        w.guests.get_mut(&200).unwrap().snapshots.get_mut("before").unwrap().description =
            "changed".to_owned();
    }),
    ("vzdump-ct", |w, _| set(w, 200, "lock", None)),
    // A backup made by hand with other settings.
    ("content-none", |w, _| {
        backup(w, "local:backup/vzdump-lxc-200-2026_11_22-03_16_18.tar.gz", 1_795_317_378);
    }),
    ("qemu-config", |w, _| {
        // Both machines have no system inside that would hear a request to shut down.
        for vmid in [100, 101] {
            w.guests.get_mut(&vmid).unwrap().deaf = true;
        }
    }),
    ("qemu-snap-list-vmstate", |w, now| {
        task(w, Kind::Qemu, 100, snapshot("live1", true), now);
    }),
    ("vzdump-bk-ok", |w, _| {
        for path in ["/vms/100", "/storage/local"] {
            w.access.grant(path, "tester@pve!bk", "Backups");
        }
    }),
    ("qemu-start-warnings", |w, _| {
        let disk = json!("local:101/vm-101-disk-0.raw,iothread=1,size=1G");
        set(w, 101, "scsi0", Some(disk));
        set(w, 101, "scsihw", Some(json!("virtio-scsi-pci")));
        set(w, 101, "serial0", Some(json!("socket")));
        set(w, 101, "vga", Some(json!("none")));
    }),
    ("qemu-status-paused", |w, _| {
        w.guests.get_mut(&101).unwrap().paused = true;
    }),
    ("qemu-config-put", |w, _| halt(w, 101)),
    ("qemu-locked-snap", |w, _| {
        set(w, 100, "lock", Some(json!("snapshot")));
        set(w, 100, "description", Some(json!("neu2")));
    }),
    ("killed-vzdump", |w, _| {
        w.stock.bwlimit = 512;
        w.injections.push(Injection { task: "vzdump".to_owned(), fault: Fault::Kill });
    }),
    ("backup-attrs", |w, _| {
        w.stock.bwlimit = 0;
        set(w, 101, "lock", None);
        set(w, 100, "lock", None);
    }),
    ("lxc-create-200", |w, _| remove(w, 200)),
    ("storage-status", |w, _| remove(w, 203)),
    ("pool", |w, now| start(w, 200, now)),
    ("node-unreachable-595", |w, _| w.add_peer("pve2", false)),
    ("storage-inactive-list", |w, _| {
        halt(w, 200);
        let mut offl = Storage::new("dir", "backup", 0).with("is_mountpoint", "1").with("path", "/srv/off");
        offl.active = false;
        w.storages.insert("offl".to_owned(), offl);
    }),
    ("storage-disabled-list", |w, _| {
        w.storages.get_mut("offl").unwrap().enabled = false;
    }),
    ("privsep-token-acl-but-user-has-none", |w, _| {
        w.storages.get_mut("offl").unwrap().enabled = true;
        w.access.grant("/vms", "limited@pve!sep", "Tester");
    }),
    ("user-expired-401", |w, _| {
        w.access.users.get_mut("limited@pve").unwrap().expire = 1;
    }),
    ("snap-desc-del", |w, now| {
        task(w, Kind::Qemu, 100, snapshot("longdesc", false), now);
    }),
    // Its address was known for a while only.
    ("cluster-resources-final", |w, _| drop(w.peers.remove("pve2"))),
    ("task-status-wrong-node-upid", |w, _| w.add_peer("pve2", false)),
    ("json-snaplist", |w, now| {
        let job = Job::Snapshot { name: "js1".to_owned(), description: "äöü".to_owned(), vmstate: false };
        task(w, Kind::Qemu, 100, job, now);
    }),
];

/// Deeds on the node of 8.4.14.
const EIGHT: &[(&str, Deed)] = &[
    ("lxc-snap-dup", |w, now| {
        w.add_snapshot(200, "before", "", now);
    }),
    ("lxc-start-again", |w, now| {
        backup(w, "local:backup/vzdump-lxc-200-2026_11_22-03_36_47.tar.zst", 1_795_318_607);
        start(w, 200, now);
    }),
    ("locked-snap", |w, _| set(w, 100, "lock", Some(json!("backup")))),
    ("lxc-status-running", |w, now| start(w, 200, now)),
];

/// Requests that were not kept, but whose tasks later ones ask for: under the recorded UPID.
const TASKS: [(Release, &str, &str, Order); 2] = [
    (
        Release::V9,
        "longtask-status-running",
        "UPID:pve1:00000221:0003BDA9:6B0260B3:vzdump:101:tester@pve!full:",
        |w, now| begin(w, 101, vzdump(101, "snapshot", 1024), now),
    ),
    (
        Release::V8,
        "task-log-beyond",
        "UPID:pve8:000000AD:0004F56C:6B0263D1:qmdelsnapshot:100:tester@pve!full:",
        |w, now| {
            set(w, 100, "lock", None);
            task(w, Kind::Qemu, 100, Job::DeleteSnapshot { name: "before".to_owned(), force: false }, now)
        },
    ),
];

/// What somebody did on the node that the simulator has as a fault.
const FAULTS: [(Release, &str, Wrong); 2] = [
    (Release::V9, "flock-timeout-snapshot", || {
        FaultRule::new(Mishap::Flock { vmid: None }).method("POST").contains("/qemu/100/snapshot")
    }),
    (Release::V9, "pvedaemon-down-get", || FaultRule::new(Mishap::DaemonRestart { ms: 0, requests: 2 })),
];

fn deeds(release: Release) -> &'static [(&'static str, Deed)] {
    match release {
        Release::V9 => NINE,
        Release::V8 => EIGHT,
    }
}

/// The exchanges something happens before.
pub(crate) fn names(release: Release) -> Vec<&'static str> {
    let tasks = TASKS.iter().filter(|t| t.0 == release).map(|t| t.1);
    let faults = FAULTS.iter().filter(|f| f.0 == release).map(|f| f.1);
    deeds(release).iter().map(|d| d.0).chain(tasks).chain(faults).collect()
}

/// Lets happen what happened before this exchange. The answer is the UPID of a task that later
/// requests ask for under the one recorded.
pub(crate) fn before(release: Release, name: &str, sim: &Sim) -> Option<(&'static str, String)> {
    let now = sim.now();
    for (_, _, fault) in FAULTS.iter().filter(|f| f.0 == release && f.1 == name) {
        sim.fault(fault()).unwrap();
    }
    let world = sim.world();
    let w = &mut *world.lock().unwrap();
    for (_, deed) in deeds(release).iter().filter(|d| d.0 == name) {
        deed(w, now);
    }
    let (_, _, upid, begin) = TASKS.iter().find(|t| t.0 == release && t.1 == name)?;
    Some((upid, begin(w, now)))
}
