use super::*;
use crate::testing::FakeWarden;
use protocol::RunState;
use pve_sim::{Sim, SimConfig};

async fn sim() -> Sim {
    Sim::start(SimConfig { auth_failure_delay: std::time::Duration::ZERO, ..SimConfig::demo() })
        .await
        .unwrap()
}

fn client(sim: &Sim, token: &str) -> Client {
    let pin = format!("spki:{}", sim.pins().spki).parse().unwrap();
    let pins = proxmox_client::PinSet::new(vec![pin]).unwrap();
    Client::new(sim.url().parse().unwrap(), pins, sim.token(token).parse().unwrap()).unwrap()
}

fn known<T>(part: &Known<T>) -> &T {
    match part {
        Known::Known(value) => value,
        Known::Unknown(why) => panic!("unknown: {why}"),
    }
}

fn why<T: std::fmt::Debug>(part: &Known<T>) -> &str {
    match part {
        Known::Unknown(why) => why,
        Known::Known(value) => panic!("known: {value:?}"),
    }
}

#[tokio::test]
async fn a_report_says_what_the_node_has() {
    let sim = sim().await;
    sim.world().lock().unwrap().guests.get_mut(&101).unwrap().config.insert("tags".into(), "prod;a".into());
    let dir = tempfile::tempdir().unwrap();
    let warden = FakeWarden::start(dir.path(), |_, _| vec![]);
    let collector = Collector::new(client(&sim, "writ@pve!report"), Some(Warden::new(&warden.socket)));
    let report = collector.collect().await;
    assert_eq!((report.v, report.agent_version.as_str()), (1, VERSION));
    assert_eq!(report.boot_id.len(), 36);
    assert_eq!(known(&report.warden).host_key, crate::testing::host_key().public().fingerprint());
    let node = known(&report.node);
    assert_eq!(node.name, "pve1");
    assert!(known(&node.clock_offset_s).abs() <= 1);
    assert!(known(&report.certificate).fingerprint.contains(':'));
    let guests = known(&report.guests);
    let shown: Vec<_> =
        guests.iter().map(|guest| (guest.vmid.get(), guest.kind.to_string(), guest.name.as_str())).collect();
    assert_eq!(
        shown,
        [
            (100, "qemu".to_owned(), "web"),
            (101, "qemu".to_owned(), "db"),
            (102, "qemu".to_owned(), "files"),
            (200, "lxc".to_owned(), "dns"),
            (201, "lxc".to_owned(), "mail")
        ]
    );
    assert_eq!((guests[0].state, guests[1].state), (RunState::Running, RunState::Stopped));
    assert!(guests[0].uptime_s.is_some() && guests[1].uptime_s.is_none());
    let db = known(&guests[1].config);
    assert_eq!(db.tags, ["a", "prod"]);
    assert_eq!(db.identity.volids, ["local-lvm:vm-101-disk-0"]);
    assert_eq!(db.identity.macs.len(), 1);
    assert!(
        db.identity.smbios_uuid.is_some()
            && db.identity.vmgenid.is_some()
            && db.identity.meta_ctime.is_some()
    );
    let names: Vec<_> = known(&guests[1].snapshots).iter().map(|snapshot| snapshot.name.as_str()).collect();
    assert_eq!(names, ["before-upgrade"]);
    let storages = known(&report.storages);
    let thin = storages.iter().find(|storage| storage.name == "local-lvm").unwrap();
    assert_eq!(known(thin.metadata.as_ref().unwrap()).total, 4 << 30);
    assert!(thin.active && known(&thin.usage).used > 0);
    let offline = storages.iter().find(|storage| storage.name == "offl").unwrap();
    assert!(!offline.active && offline.metadata.is_none());
    assert!(why(&offline.usage).contains("not active"));
    assert!(sim.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn what_cannot_be_read_is_unknown_with_the_reason() {
    let sim = sim().await;
    let nothing = std::path::Path::new("/nonexistent/warden.sock");
    let report = Collector::new(client(&sim, "writ@pve!expired"), Some(Warden::new(nothing))).collect().await;
    assert!(why(&report.warden).contains("writ-warden runs"));
    for text in [why(&report.node), why(&report.certificate), why(&report.guests), why(&report.storages)] {
        assert!(text.contains("token"), "{text}");
    }
    let url = client(&sim, "writ@pve!report");
    sim.stop().await;
    let report = Collector::new(url, None).collect().await;
    assert!(why(&report.guests).contains("cannot connect"));
    assert!(why(&report.warden).contains("no warden"));
}

#[tokio::test]
async fn without_rights_on_the_pools_only_the_metadata_is_unknown() {
    let sim = sim().await;
    {
        let world = sim.world();
        let mut world = world.lock().unwrap();
        // Everything but Sys.Audit on `/`.
        for who in ["writ@pve", "writ@pve!report"] {
            let who = pve_sim::world::AuthId::parse(who);
            world.access.acl.retain(|entry| entry.who != who);
        }
        for who in ["writ@pve", "writ@pve!report"] {
            for path in ["/vms", "/storage", "/nodes"] {
                world.access.grant(path, who, "PVEAuditor");
            }
        }
    }
    let report = Collector::new(client(&sim, "writ@pve!report"), None).collect().await;
    known(&report.node);
    assert_eq!(known(&report.guests).len(), 5);
    let thin = known(&report.storages).iter().find(|storage| storage.name == "local-lvm").unwrap();
    known(&thin.usage);
    assert!(why(thin.metadata.as_ref().unwrap()).contains("Sys.Audit"), "{thin:?}");
}

#[tokio::test]
async fn a_half_made_snapshot_makes_only_that_list_unknown() {
    let sim = sim().await;
    {
        let world = sim.world();
        let mut world = world.lock().unwrap();
        let snapshot = world.guests.get_mut(&101).unwrap().snapshots.get_mut("before-upgrade").unwrap();
        snapshot.snapstate = Some("delete".to_owned());
    }
    let report = Collector::new(client(&sim, "writ@pve!report"), None).collect().await;
    let guests = known(&report.guests);
    assert!(why(&guests[1].snapshots).contains("half"), "{:?}", guests[1].snapshots);
    known(&guests[0].snapshots);
}

#[test]
fn of_pools_of_one_size_the_fullest_counts() {
    let storage = StorageStatus {
        storage: "thin".into(),
        plugin: Some("lvmthin".into()),
        active: Some(true),
        total: Some(1000),
        used: Some(10),
        ..StorageStatus::default()
    };
    let pool = |size: u64, used: Option<u64>| ThinPool {
        lv: "data".into(),
        lv_size: Some(size),
        metadata_size: Some(100),
        metadata_used: used,
        ..ThinPool::default()
    };
    let of = |pools: &[ThinPool]| storage_report(&storage, Ok(pools)).metadata.unwrap();
    assert_eq!(known(&of(&[pool(1000, Some(3)), pool(1000, Some(9)), pool(900, Some(99))])).used, 9);
    assert!(why(&of(&[pool(900, Some(1))])).contains("no thin pool has the size"));
    assert!(why(&of(&[pool(1000, Some(3)), pool(1000, None)])).contains("no metadata numbers"));
    assert!(why(&storage_report(&storage, Err(&"403".to_owned())).metadata.unwrap()).contains("403"));
    assert_eq!(offset(5, 7), -2);
    assert_eq!(offset(u64::MAX, 0), i64::MAX);
}
