//! What is asked of the cluster: nodes, resources, storages, rights, pools, jobs.

use proxmox_client::{
    Checksum, Content, ContentFilter, Delivery, DownloadUrl, ErrorClass, Fetched, NewStorage, ResourceFilter,
    ResourceKind, StorageBacking, TaskEnd, Upload,
};
use pve_sim::world::{Pool, Release, WRIT_AGENT, World};
use serde_json::json;

use crate::bench::{Bench, Notes, spki, storage, vmid, volid};

fn shape(world: &mut World) {
    world.add_peer("pve2", true);
    world.add_peer("pve3", false);
    let guest = world.guests[&100].clone();
    world.peers.get_mut("pve2").unwrap().world.guests.insert(150, guest);
    let members = Pool {
        comment: Some("of the lab".to_owned()),
        guests: [101, 200].into(),
        storages: ["tank".to_owned()].into(),
    };
    world.access.pools.insert("lab".to_owned(), members);
    world.access.pools.insert("lab/web".to_owned(), Pool { guests: [100].into(), ..Pool::default() });
    let job = json!({"target": "pve2", "source": "pve1", "type": "local", "schedule": "*/15", "fail_count": 2, "rate": 10, "comment": "twice"});
    world.stock.replications.insert("101-0".to_owned(), job.as_object().unwrap().clone());
    let job = json!({"vmid": "100,201", "storage": "local", "schedule": "02:30", "mode": "snapshot", "prune-backups": {"keep-last": "3"}});
    world.stock.backup_jobs.insert("nightly".to_owned(), job.as_object().unwrap().clone());
    let job = json!({"all": 1, "exclude": "100,101,102,200,201,150", "storage": "local", "schedule": "sat 01:00", "enabled": 0});
    world.stock.backup_jobs.insert("off".to_owned(), job.as_object().unwrap().clone());
    world.guests.get_mut(&101).unwrap().config.insert("tags".to_owned(), json!("prod;db"));
}

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::with(release, shape).await;
    nodes(&b).await;
    resources(&b).await;
    storages(&b).await;
    configured(&b).await;
    fetched(&b).await;
    rights(&b).await;
    pools(&b).await;
    jobs(&b).await;
    b.into_notes()
}

async fn nodes(b: &Bench) {
    let nodes = b.by(&b.report, "nodes", async |c| c.nodes().await).await;
    let seen: Vec<_> = nodes.iter().map(|n| (n.node.as_str(), n.status.as_deref().unwrap())).collect();
    assert_eq!(seen, [("pve1", "online"), ("pve2", "online"), ("pve3", "offline")]);
    assert_eq!(nodes[0].ssl_fingerprint, Some(b.world(|w| w.fingerprint.clone())));
    let status = b.by(&b.report, "cluster status", async |c| c.cluster_status().await).await;
    let whole = status.iter().find(|entry| entry.kind.as_deref() == Some("cluster")).unwrap();
    assert_eq!((whole.name.as_deref(), whole.nodes, whole.quorate), (Some("sim"), Some(3), Some(true)));
    let local: Vec<_> =
        status.iter().filter(|e| e.local == Some(true)).map(|e| (e.name.clone(), e.ip.clone())).collect();
    assert_eq!(local, [(Some("pve1".to_owned()), Some(b.world(|w| w.node_ip.clone())))]);
    // In a cluster the local node is found by asking.
    let nobody = proxmox_client::Client::new(
        b.sim.url().parse().unwrap(),
        spki(&b.sim),
        b.sim.tokens().0.parse().unwrap(),
    );
    assert_eq!(nobody.unwrap().node().await.unwrap().as_str(), "pve1");
    let away = b.report.clone().with_node("pve3".parse().unwrap()).node_status().await.unwrap_err();
    assert_eq!((away.class(), away.status()), (ErrorClass::NodeUnreachable, Some(595)));
    let nosuch = b.report.clone().with_node("nosuch".parse().unwrap()).node_status().await.unwrap_err();
    assert_eq!(nosuch.class(), ErrorClass::NotFound, "{nosuch}");
    let options = b.by(&b.report, "cluster options", async |c| c.cluster_options().await).await;
    assert_eq!(options["keyboard"], "en-us");
    assert!(!b.act.vmid_is_free(vmid(150)).await.unwrap(), "another node's");
}

async fn resources(b: &Bench) {
    let all = b.by(&b.report, "cluster resources", async |c| c.cluster_resources().await).await;
    let count = |kind: ResourceKind| all.iter().filter(|row| row.kind == kind).count();
    assert_eq!(
        [ResourceKind::Qemu, ResourceKind::Lxc, ResourceKind::Node, ResourceKind::Pool].map(count),
        [4, 2, 3, 2]
    );
    let db = all.iter().find(|row| row.vmid == Some(vmid(101))).unwrap();
    assert_eq!(
        (db.name.as_deref(), db.pool.as_deref(), &db.tags[..]),
        (Some("db"), Some("lab"), &["prod".to_owned(), "db".to_owned()][..])
    );
    assert_eq!(
        (db.status.as_deref(), db.maxmem, db.node.as_deref()),
        (Some("stopped"), Some(4 << 30), Some("pve1"))
    );
    let tank = all
        .iter()
        .find(|row| row.storage.as_deref() == Some("tank") && row.node.as_deref() == Some("pve1"))
        .unwrap();
    let (used, total) = b.world(|w| (w.storages["tank"].used, w.storages["tank"].total));
    assert_eq!(
        (tank.disk, tank.maxdisk, tank.plugintype.as_deref()),
        (Some(used), Some(total), Some("zfspool"))
    );
    for (filter, kinds) in [
        (ResourceFilter::Guests, vec![ResourceKind::Qemu, ResourceKind::Lxc]),
        (ResourceFilter::Storages, vec![ResourceKind::Storage]),
        (ResourceFilter::Nodes, vec![ResourceKind::Node]),
        (ResourceFilter::Sdn, vec![ResourceKind::Other(if b.is_9() { "network" } else { "sdn" }.to_owned())]),
    ] {
        let some = b.by(&b.report, "cluster resources", async |c| c.cluster_resources_of(filter).await).await;
        assert!(!some.is_empty() && some.iter().all(|row| kinds.contains(&row.kind)), "{filter:?}");
    }
    let figures = b.by(&b.report, "metrics export", async |c| c.metrics(true, None).await).await;
    let memory = figures.iter().find(|one| one.id == "qemu/101" && one.metric == "mem_total").unwrap();
    assert_eq!((memory.value, memory.kind.as_deref()), (Some((4_u64 << 30) as f64), Some("gauge")));
    assert!(b.report.metrics(false, Some(b.now() + 3600)).await.unwrap().is_empty());
}

async fn storages(b: &Bench) {
    let configs = b.by(&b.report, "storage configs", async |c| c.storage_configs().await).await;
    let names: Vec<&str> = configs.iter().map(|config| config.storage.as_str()).collect();
    assert_eq!(names, ["files", "local", "local-lvm", "offl", "tank"]);
    let local = &configs[1];
    assert_eq!((local.plugin.as_deref(), local.disabled), (Some("dir"), false));
    assert_eq!(local.content, ["backup", "iso", "snippets", "vztmpl"]);
    let list = b.by(&b.report, "storage list", async |c| c.storage_list().await).await;
    for row in &list {
        let world = b.world(|w| w.storages[&row.storage].clone());
        let total = if world.active { world.total } else { 0 };
        assert_eq!(
            (row.total, row.active, row.plugin.as_ref()),
            (Some(total), Some(world.active), Some(&world.plugin))
        );
        assert_eq!(row.used_fraction.is_some(), world.active, "{row:?}");
    }
    let some = b.by(&b.report, "storage list", async |c| c.storages_for(Content::Rootdir).await).await;
    assert_eq!(
        some.iter().map(|row| row.storage.as_str()).collect::<Vec<_>>(),
        ["files", "local-lvm", "tank"]
    );
    let one = b.by(&b.report, "storage status", async |c| c.storage_status(&storage("tank")).await).await;
    let row = list.iter().find(|row| row.storage == "tank").unwrap();
    assert_eq!((one.total, one.used, one.avail), (row.total, row.used, row.avail));
    let filter = ContentFilter { content: Some(Content::Images), vmid: Some(vmid(101)) };
    // An auditor is not shown them.
    let volumes =
        b.ok("storage content", async |c| c.storage_content(&storage("local-lvm"), filter).await).await;
    assert_eq!(volumes.len(), 1);
    assert_eq!((volumes[0].vmid, volumes[0].size), (Some(vmid(101)), Some(32 << 30)));
    let error = b.report.storage_content(&storage("offl"), ContentFilter::default()).await.unwrap_err();
    assert!(error.message().unwrap().contains("unable to activate storage"), "{error}");
}

async fn configured(b: &Bench) {
    let kinds = [
        StorageBacking::Dir { path: "/mnt/pve/extra".to_owned() },
        StorageBacking::ZfsPool { pool: "rpool/extra".to_owned() },
        StorageBacking::LvmThin { vg: "pve".to_owned(), pool: "data".to_owned() },
    ];
    for backing in kinds {
        let name = storage("extra");
        let new = NewStorage::new(name.clone(), backing.clone(), vec![Content::Images, Content::Rootdir]);
        b.by(&b.admin, "storage add", async |c| c.storage_add(&new).await).await;
        let configs = b.admin.storage_configs().await.unwrap();
        let added = configs.iter().find(|config| config.storage == "extra").unwrap();
        assert!(backing.is(added), "{added:?}");
        assert_eq!(added.content, ["images", "rootdir"]);
        if let StorageBacking::Dir { .. } = backing {
            let said = |key: &str| added.raw.get(key).map(String::as_str);
            assert_eq!((said("is_mountpoint"), said("create-base-path")), (Some("1"), Some("0")));
        }
        let twice = b.admin.storage_add(&new).await.unwrap_err();
        assert!(twice.message().unwrap().contains("already defined"), "{twice}");

        b.by(&b.admin, "storage remove", async |c| c.storage_remove(&name).await).await;
        assert!(!b.world(|w| w.storages.contains_key("extra")));
        let gone = b.admin.storage_remove(&name).await.unwrap_err();
        assert!(gone.message().unwrap().contains("does not exist"), "{gone}");
        assert_eq!(gone.delivery(), Delivery::Answered);
    }
    let nothing =
        NewStorage::new(storage("extra"), StorageBacking::Dir { path: "/mnt/extra".to_owned() }, vec![]);
    b.unsent(async |c| c.storage_add(&nothing).await).await;
}

async fn fetched(b: &Bench) {
    let offers = b.ok("appliance list", async |c| c.appliances().await).await;
    let debian = offers.iter().find(|offer| offer.os.as_deref() == Some("debian-12")).unwrap();
    let name = debian.template.clone().unwrap();
    b.run("appliance download", async |c| c.appliance_download(&storage("local"), &name).await).await;
    assert!(b.world(|w| w.volume(&format!("local:vztmpl/{name}")).is_some()));

    let url = "https://images.invalid/a.iso";
    let plan = DownloadUrl::new(Fetched::Iso, "a.iso", url);
    b.unsent(async |c| {
        c.download_url(&storage("local"), &DownloadUrl::new(Fetched::Iso, "a b.iso", url)).await
    })
    .await;
    b.unsent(async |c| c.download_url(&storage("local"), &plan.clone().from_unverified_server()).await).await;
    b.unsent(async |c| {
        c.download_url(&storage("local"), &plan.clone().checksum(Checksum::Sha256("12".into()))).await
    })
    .await;
    let wrong = plan.clone().checksum(Checksum::Sha256("0".repeat(64)));
    let end =
        b.end_by(&b.admin, "download-url", async |c| c.download_url(&storage("local"), &wrong).await).await;
    assert!(matches!(&end, TaskEnd::Failed { text, .. } if text.contains("checksum mismatch")), "{end:?}");
    let end =
        b.end_by(&b.admin, "download-url", async |c| c.download_url(&storage("local"), &plan).await).await;
    assert_eq!(end, TaskEnd::Ok);
    let error = b.no("download-url", async |c| c.download_url(&storage("local"), &plan).await).await;
    assert!(
        matches!(error.class(), ErrorClass::Permission { privilege, .. } if privilege == "Sys.AccessNetwork")
    );

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.iso");
    std::fs::write(&file, vec![7_u8; 70_000]).unwrap();
    let good = Upload::new(Fetched::Iso, &file);
    b.unsent(async |c| c.upload(&storage("local"), &good.clone().filename("../x.iso")).await).await;
    b.unsent(async |c| {
        c.upload(&storage("local"), &Upload::new(Fetched::Iso, directory.path()).filename("d.iso")).await
    })
    .await;
    b.run("upload", async |c| c.upload(&storage("local"), &good).await).await;
    let held = b.act.volume_info(&volid("local:iso/own.iso")).await.unwrap();
    assert_eq!(held.size, Some(70_000));
    let broken = good.clone().filename("other.iso").checksum(Checksum::Sha512("0".repeat(128)));
    let text = b.fails("upload", async |c| c.upload(&storage("local"), &broken).await).await;
    assert!(text.contains("checksum mismatch"), "{text}");
    // Only who may allocate on the storage removes what is no backup.
    let iso = volid("local:iso/own.iso");
    let error = b.no("volume delete", async |c| c.volume_delete(&iso).await).await;
    assert!(
        matches!(error.class(), ErrorClass::Permission { privilege, .. } if privilege == "Datastore.Allocate")
    );
    let end = b.end_by(&b.admin, "volume delete", async |c| c.volume_delete(&iso).await).await;
    assert_eq!(end, TaskEnd::Ok);
    assert!(b.world(|w| w.volume(iso.as_str()).is_none()));
}

async fn rights(b: &Bench) {
    let own = b.ok("permissions", async |c| c.permissions().await).await;
    let held: Vec<&str> = own["/"].keys().map(String::as_str).collect();
    let mut role = WRIT_AGENT.to_vec();
    role.sort_unstable();
    assert_eq!(held, role);
    let mut ours = proxmox_client::catalog::WRIT_AGENT.to_vec();
    ours.sort_unstable();
    assert_eq!(ours, role, "both sides mean the same role");
    let on = b.ok("permissions", async |c| c.permissions_on("/vms/100").await).await;
    assert!(on["VM.Backup"] && on.len() == role.len());
    let theirs = b.by(&b.admin, "permissions", async |c| c.permissions_of("writ@pve!report").await).await;
    assert!(theirs["/"].contains_key("Pool.Audit") && !theirs["/"].contains_key("VM.Backup"));
    b.unsent(async |c| c.permissions_on("vms").await).await;
    let error = b.no("token", async |c| c.token_info().await).await;
    assert!(matches!(error.class(), ErrorClass::Permission { .. }), "a token is not its own user");
    let info = b.by(&b.admin, "token", async |c| c.token_info().await).await;
    assert_eq!((info.privsep, info.expire), (Some(is_separated(b)), Some(0)));
    let role = b.ok("role", async |c| c.role("WritAgent").await).await;
    assert_eq!(role.iter().map(String::as_str).collect::<Vec<_>>(), held);
    assert_eq!(b.act.role("nosuch").await.unwrap_err().class(), ErrorClass::NotFound);
}

/// Whether the administrator's token is separated, in the world.
fn is_separated(b: &Bench) -> bool {
    let id = pve_sim::world::AuthId::parse(b.admin.identity());
    b.world(|w| w.access.tokens[&id].privsep)
}

async fn pools(b: &Bench) {
    let list = b.by(&b.report, "pools", async |c| c.pools().await).await;
    let names: Vec<&str> = list.iter().map(|pool| pool.poolid.as_str()).collect();
    assert_eq!(names, ["lab", "lab/web"]);
    let lab = b.by(&b.report, "pool", async |c| c.pool("lab").await).await;
    assert_eq!(lab.comment.as_deref(), Some("of the lab"));
    let members: Vec<&str> = lab.members.iter().map(|member| member.id.as_str()).collect();
    assert_eq!(members, ["qemu/101", "lxc/200", "storage/pve1/tank"]);
    let web = b.by(&b.report, "pools", async |c| c.pool("lab/web").await).await;
    assert_eq!((web.members.len(), web.members[0].vmid), (1, Some(vmid(100))));
    b.unsent(async |c| c.pool("a//b").await).await;
    assert_eq!(b.act.pools().await.unwrap(), [], "without Pool.Audit");
    let error = b.report.pool("nosuch").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
}

async fn jobs(b: &Bench) {
    let list = b.by(&b.report, "backup jobs", async |c| c.backup_jobs().await).await;
    let nightly = list.iter().find(|job| job.id == "nightly").unwrap();
    assert_eq!((&nightly.vmids[..], nightly.enabled, nightly.all), (&[100, 201][..], Some(true), false));
    assert_eq!(
        (nightly.prune_backups.as_deref(), nightly.mode.as_deref()),
        (Some("keep-last=3"), Some("snapshot"))
    );
    assert!(nightly.next_run.unwrap() > b.now());
    let off = b.by(&b.report, "backup job", async |c| c.backup_job("off").await).await;
    assert_eq!((off.enabled, off.all, off.next_run, off.exclude.len()), (Some(false), true, None, 6));
    let inside = b.by(&b.report, "backup job volumes", async |c| c.backup_job_volumes("nightly").await).await;
    assert_eq!(inside.iter().map(|guest| guest.vmid.unwrap()).collect::<Vec<_>>(), [100, 201]);
    let disk = &inside[0].volumes[0];
    assert_eq!((disk.included, disk.name.as_deref()), (Some(true), Some("local-lvm:vm-100-disk-0")));
    let bare =
        b.by(&b.report, "guests without backup job", async |c| c.guests_without_backup_job().await).await;
    let mut numbers: Vec<u64> = bare.iter().map(|guest| guest.vmid.unwrap()).collect();
    numbers.sort_unstable();
    assert!(
        [101, 102, 200].iter().all(|number| numbers.contains(number)) && !numbers.contains(&100),
        "{numbers:?}"
    );
    b.unsent(async |c| c.backup_job("a b").await).await;
    let error = b.report.backup_job("nosuch").await.unwrap_err();
    assert_eq!(error.status(), Some(400));

    let plans = b.by(&b.report, "replication jobs", async |c| c.replication_jobs().await).await;
    let [plan] = plans.as_slice() else { panic!("{plans:?}") };
    assert_eq!(
        (plan.id.as_str(), plan.guest, plan.target.as_deref()),
        ("101-0", Some(vmid(101)), Some("pve2"))
    );
    assert_eq!(
        (plan.rate, plan.schedule.as_deref(), plan.comment.as_deref()),
        (Some(10.0), Some("*/15"), Some("twice"))
    );
    let states =
        b.by(&b.report, "replication on node", async |c| c.replication_status(Some(vmid(101))).await).await;
    assert_eq!((states.len(), states[0].fail_count), (1, Some(2)));
    assert!(b.report.replication_status(Some(vmid(100))).await.unwrap().is_empty());
    b.unsent(async |c| c.replication_state("101").await).await;
    let state = b.by(&b.report, "replication state", async |c| c.replication_state("101-0").await).await;
    assert_eq!((state.guest, state.fail_count), (Some(vmid(101)), Some(2)));
}
