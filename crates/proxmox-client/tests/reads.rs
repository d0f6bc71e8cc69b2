//! What the cluster and a node are asked, and what is made of the answers: recorded ones where there
//! are any, else ones made after Proxmox's schema.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

mod common;

use common::{React, Server};
use proxmox_client::{
    Client, Delivery, ErrorClass, JournalFilter, ResourceFilter, TaskFilter, TaskResult, Timeframe, Vmid,
};

/// A client whose every answer has that `data`, and the targets it asked for.
async fn answering(data: &'static str) -> (Server, Client) {
    Server::pinned(move |_, _| React::ok(data)).await
}

fn asked(server: &Server) -> String {
    server.last().target.strip_prefix("/api2/json").unwrap().to_owned()
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

#[tokio::test]
async fn resources_are_filtered_by_kind() {
    let (server, client) = answering(
        r#"[{"type":"qemu","id":"qemu/100","vmid":"100","status":"frozen","tags":"a;b","new":[1]},{"type":"quantum","id":"x"}]"#,
    )
    .await;
    let guests = client.cluster_resources_of(ResourceFilter::Guests).await.unwrap();
    assert_eq!((guests[0].vmid, guests[0].status.as_deref()), (Some(vmid(100)), Some("frozen")));
    assert_eq!(asked(&server), "/cluster/resources?type=vm");
}

#[tokio::test]
async fn numbers_for_guests() {
    // Recorded: a string.
    let (server, client) = answering(r#""100""#).await;
    assert_eq!(client.next_vmid().await.unwrap(), vmid(100));
    assert!(client.vmid_is_free(vmid(100)).await.unwrap());
    assert_eq!(asked(&server), "/cluster/nextid?vmid=100");
    let refusing = |body: &'static str| {
        Server::pinned(move |_, _| React::json("400 Parameter verification failed.", body))
    };
    let (_server, client) =
        refusing(r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"vmid":"VM 100 already exists"}}"#).await;
    assert!(!client.vmid_is_free(vmid(100)).await.unwrap());
    let (_server, client) =
        refusing(r#"{"data":null,"message":"no","errors":{"vmid":"something else"}}"#).await;
    assert_eq!(client.vmid_is_free(vmid(100)).await.unwrap_err().class(), ErrorClass::Parameter);
}

#[tokio::test]
async fn ha_and_replication() {
    let (_server, client) = answering(
        r#"[{"id":"quorum","type":"quorum","node":"pve1","status":"OK","quorate":1},
            {"id":"service:vm:100","type":"service","sid":"vm:100","node":"pve1","status":"pve1 (dreaming)","state":"dreaming","request_state":"started"}]"#,
    )
    .await;
    let entries = client.ha_status().await.unwrap();
    assert_eq!((entries[0].vmid(), entries[0].quorate), (None, Some(true)));
    assert_eq!((entries[1].vmid(), entries[1].state.as_deref()), (Some(vmid(100)), Some("dreaming")));

    let (_server, client) =
        answering(r#"[{"sid":"ct:200","type":"ct","state":"started","max_restart":"1"}]"#).await;
    let resources = client.ha_resources().await.unwrap();
    assert_eq!((resources[0].vmid(), resources[0].max_restart), (Some(vmid(200)), Some(1)));

    let (server, client) = answering(
        r#"[{"id":"100-0","guest":"100","type":"local","target":"pve2","last_sync":1795317658,"duration":3.5,"fail_count":2,"error":"no route"}]"#,
    )
    .await;
    let jobs = client.replication_status(Some(vmid(100))).await.unwrap();
    assert_eq!((jobs[0].guest, jobs[0].fail_count, jobs[0].duration), (Some(vmid(100)), Some(2), Some(3.5)));
    assert_eq!(asked(&server), "/nodes/pve1/replication?guest=100");
    assert!(client.replication_jobs().await.unwrap()[0].error.is_some());
    for bad in ["", "100", "99-0", "100-", "100-x", "../x", "100-0/../.."] {
        let error = client.replication_state(bad).await.unwrap_err();
        assert_eq!((error.class(), error.delivery()), (ErrorClass::Parameter, Delivery::NotSent), "{bad}");
    }
}

#[tokio::test]
async fn pools_flat_and_nested() {
    // As recorded, cut.
    let (server, client) = answering(
        r#"{"poolid":"lab","members":[{"type":"lxc","node":"pve1","vmid":200,"name":"ct200","status":"running","id":"lxc/200","uptime":0}]}"#,
    )
    .await;
    let pool = client.pool("lab").await.unwrap();
    assert_eq!((pool.poolid.as_str(), pool.members[0].vmid), ("lab", Some(vmid(200))));
    assert_eq!(asked(&server), "/pools/lab");
    let (server, client) = answering(r#"[{"poolid":"a/b","members":[]}]"#).await;
    assert_eq!(client.pool("a/b").await.unwrap().poolid, "a/b");
    assert_eq!(asked(&server), "/pools?poolid=a%2Fb");
    assert!(client.pool("a/c").await.is_err());
    assert_eq!(client.pools().await.unwrap().len(), 1);
    assert_eq!(client.pool("../access").await.unwrap_err().delivery(), Delivery::NotSent);
}

#[tokio::test]
async fn metrics_options_and_rights() {
    let (server, client) = answering(
        r#"{"data":[{"id":"qemu/100","metric":"mem_used","type":"gauge","timestamp":1795317658,"value":"1.5e+9"}]}"#,
    )
    .await;
    let metrics = client.metrics(true, Some(5)).await.unwrap();
    assert_eq!((metrics[0].id.as_str(), metrics[0].value), ("qemu/100", Some(1.5e9)));
    assert_eq!(asked(&server), "/cluster/metrics/export?local-only=1&history=1&start-time=5");

    let (_server, client) =
        answering(r#"{"keyboard":"de","migration":{"type":"secure"},"max_workers":4,"x":null}"#).await;
    let options = client.cluster_options().await.unwrap();
    assert_eq!((options["keyboard"].as_str(), options["max_workers"].as_str()), ("de", "4"));
    assert_eq!((options["migration"].as_str(), options.len()), (r#"{"type":"secure"}"#, 3));

    let (server, client) = answering(r#"{"/vms/100":{"VM.Audit":1,"VM.Snapshot":0}}"#).await;
    let rights = client.permissions_on("/vms/100").await.unwrap();
    assert_eq!((rights["VM.Audit"], rights["VM.Snapshot"]), (true, false));
    assert_eq!(asked(&server), "/access/permissions?path=%2Fvms%2F100");
    assert!(client.permissions_on("/vms/101").await.unwrap().is_empty());
    client.permissions_of("tester@pve!full").await.unwrap();
    assert_eq!(asked(&server), "/access/permissions?userid=tester%40pve%21full");
    for bad in ["vms", "/vms/../access", ""] {
        assert_eq!(client.permissions_on(bad).await.unwrap_err().delivery(), Delivery::NotSent, "{bad}");
    }

    // Recorded.
    let (server, client) = answering(r#"{"privsep":1,"expire":0}"#).await;
    let token = client.token_info().await.unwrap();
    assert_eq!((token.privsep, token.expire, token.comment), (Some(true), Some(0), None));
    assert_eq!(asked(&server), "/access/users/tester%40pve/token/full");
}

#[tokio::test]
async fn tasks_by_result_and_author() {
    let (server, client) = answering("[]").await;
    let filter = TaskFilter {
        user: Some("tester".to_owned()),
        results: vec![TaskResult::Error, TaskResult::Unknown],
        ..TaskFilter::default()
    };
    client.tasks(&filter).await.unwrap();
    assert_eq!(
        asked(&server),
        "/nodes/pve1/tasks?source=archive&userfilter=tester&statusfilter=error%2Cunknown"
    );
    client.cluster_tasks().await.unwrap();
    assert_eq!(asked(&server), "/cluster/tasks");
}

#[tokio::test]
async fn disks_and_what_lies_on_them() {
    let (server, client) = answering(
        r#"[{"devpath":"/dev/sda","size":"500107862016","type":"ssd","health":"PASSED","wearout":97,"rpm":"0","used":"LVM","gpt":1},
            {"devpath":"/dev/sdb","size":5e11,"health":"UNKNOWN","wearout":"N/A","rpm":-1}]"#,
    )
    .await;
    let disks = client.disks(false).await.unwrap();
    assert_eq!(
        (disks[0].size, disks[0].wearout, disks[0].gpt),
        (Some(500_107_862_016), Some(97.0), Some(true))
    );
    assert_eq!((disks[1].wearout, disks[1].rpm, disks[1].used.clone()), (None, Some(-1.0), None));
    assert_eq!(asked(&server), "/nodes/pve1/disks/list?skipsmart=1");

    let (server, client) = answering(
        r#"{"health":"PASSED","type":"ata","attributes":[{"id":"194","name":"Temperature_Celsius","value":67,"worst":50,"threshold":0,"fail":"-","raw":"33 (Min/Max 20/50)"}]}"#,
    )
    .await;
    let smart = client.smart("/dev/sda", true).await.unwrap();
    assert_eq!((smart.health.as_deref(), smart.attributes[0].value), (Some("PASSED"), Some(67.0)));
    assert_eq!(asked(&server), "/nodes/pve1/disks/smart?disk=%2Fdev%2Fsda&healthonly=1");
    for bad in ["/dev/disk/by-id/wwn-0x5", "sda", "/dev/../etc", "/dev/sda;x", ""] {
        assert_eq!(client.smart(bad, true).await.unwrap_err().delivery(), Delivery::NotSent, "{bad}");
    }

    let (_server, client) = answering(
        r#"[{"name":"rpool","size":1000,"alloc":"400","free":600,"frag":3,"dedup":1.0,"health":"DEGRADED"}]"#,
    )
    .await;
    assert_eq!(client.zfs_pools().await.unwrap()[0].alloc, Some(400));
    let (_server, client) = answering(
        r#"{"name":"rpool","state":"DEGRADED","errors":"No known data errors","children":[{"name":"rpool","children":[{"name":"mirror-0","children":[{"name":"/dev/sda3","state":"FAULTED","read":3,"write":0,"cksum":0,"msg":"too many errors"}]}]}]}"#,
    )
    .await;
    let pool = client.zfs_pool("rpool").await.unwrap();
    let disk = &pool.children[0].children[0].children[0];
    assert_eq!((disk.state.as_deref(), disk.read, pool.scan), (Some("FAULTED"), Some(3), None));
    let (_server, client) = answering(
        r#"{"leaf":0,"children":[{"name":"pve","size":1000,"free":16,"leaf":0,"lvcount":3,"children":[{"name":"/dev/sda3","size":1000,"free":16,"leaf":1}]}]}"#,
    )
    .await;
    let groups = client.lvm().await.unwrap();
    assert_eq!((groups[0].lvcount, groups[0].children[0].name.as_str()), (Some(3), "/dev/sda3"));
    let (_server, client) = answering("null").await;
    assert!(client.directories().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_host_itself() {
    // As recorded.
    let (_server, client) = answering(
        r#"[{"unit-state":"not-found","state":"dead","desc":"chrony.service","active-state":"inactive","name":"chrony","service":"chrony"}]"#,
    )
    .await;
    let services = client.services().await.unwrap();
    assert_eq!(
        (services[0].service.as_str(), services[0].active_state.as_deref()),
        ("chrony", Some("inactive"))
    );
    let (server, client) = answering(r#"{"service":"pveproxy","state":"running"}"#).await;
    assert_eq!(client.service("pveproxy").await.unwrap().state.as_deref(), Some("running"));
    assert_eq!(asked(&server), "/nodes/pve1/services/pveproxy/state");

    let (server, client) =
        answering(r#"[{"Package":"pve-manager","Version":"9.1.9","OldVersion":"9.1.8","Origin":"Proxmox"}]"#)
            .await;
    let updates = client.updates().await.unwrap();
    assert_eq!(
        (updates[0].package.as_str(), updates[0].old_version.as_deref()),
        ("pve-manager", Some("9.1.8"))
    );
    client.package_versions().await.unwrap();
    assert_eq!(asked(&server), "/nodes/pve1/apt/versions");

    let (_server, client) = answering(
        r#"[{"iface":"vmbr0","type":"bridge","active":1,"cidr":"192.0.2.2/24","bridge_ports":"eno1","mtu":"1500","families":["inet"]}]"#,
    )
    .await;
    let network = client.network().await.unwrap();
    assert_eq!((network[0].active, network[0].mtu), (Some(true), Some(1500)));
    let (_server, client) = answering(r#"{"search":"example.test","dns1":"192.0.2.1"}"#).await;
    assert_eq!(client.dns().await.unwrap().dns1.as_deref(), Some("192.0.2.1"));
    let (_server, client) =
        answering(r#"[{"busnum":1,"devnum":2,"vendid":"0x1d6b","prodid":"0x0002","speed":"480","class":9}]"#)
            .await;
    assert_eq!(client.usb_devices().await.unwrap()[0].class, Some(9));
    let (_server, client) =
        answering(r#"{"status":"notfound","message":"There is no subscription key","serverid":"X"}"#).await;
    assert_eq!(client.subscription().await.unwrap().status.as_deref(), Some("notfound"));
    let (_server, client) = answering(r#"[{"vmid":"100","dev":"net0","in":"12","out":34}]"#).await;
    let traffic = client.guest_traffic().await.unwrap();
    assert_eq!(
        (traffic[0].vmid, traffic[0].received, traffic[0].sent),
        (Some(vmid(100)), Some(12), Some(34))
    );
}

#[tokio::test]
async fn what_happened() {
    let (server, client) = answering(r#"["s=a;i=1;b=c","line 1","line 2","s=a;i=3;b=c"]"#).await;
    let journal = client.journal(&JournalFilter { last: Some(2), ..JournalFilter::default() }).await.unwrap();
    assert_eq!((journal.lines.len(), journal.start.as_deref()), (2, Some("s=a;i=1;b=c")));
    assert_eq!(asked(&server), "/nodes/pve1/journal?lastentries=2");
    let next =
        JournalFilter { since: Some(1), until: Some(2), from: journal.end, ..JournalFilter::default() };
    client.journal(&next).await.unwrap();
    assert_eq!(asked(&server), "/nodes/pve1/journal?since=1&until=2&startcursor=s%3Da%3Bi%3D3%3Bb%3Dc");
    let both = JournalFilter { since: Some(1), last: Some(2), ..JournalFilter::default() };
    assert_eq!(client.journal(&both).await.unwrap_err().delivery(), Delivery::NotSent);
    let (_server, client) = answering(r#"["only a line"]"#).await;
    assert_eq!(client.journal(&JournalFilter::default()).await.unwrap().lines, ["only a line"]);

    // As recorded, cut: points without measurements come first.
    let (server, client) =
        answering(r#"[{"time":1795314600},{"time":1795317180,"cpu":0.99,"memused":2197787989.33333,"loadavg":"3.8","x":null}]"#).await;
    let points = client.node_rrd(Timeframe::Hour).await.unwrap();
    assert!(points[0].values.is_empty());
    assert_eq!(
        (points[1].time, points[1].values["loadavg"], points[1].values.len()),
        (1_795_317_180, 3.8, 3)
    );
    assert_eq!(asked(&server), "/nodes/pve1/rrddata?timeframe=hour&cf=AVERAGE");

    let (server, client) = Server::pinned(|_, _| {
        React::json(
            "200 OK",
            r#"{"total":2179,"data":[{"t":"Nov 22 03:05:24 pve1 systemd","n":1},{"n":2,"t":"b"}]}"#,
        )
    })
    .await;
    let log = client.syslog(0, 2, Some("pveproxy")).await.unwrap();
    assert_eq!((log.total, log.lines.len()), (2179, 2));
    assert_eq!(asked(&server), "/nodes/pve1/syslog?start=0&limit=2&service=pveproxy");
}

#[tokio::test]
async fn hostile_answers_are_errors_and_no_empty_lists() {
    for data in ["7", "\"x\"", "{}", "[7]", "[null]", "[[]]", "true"] {
        let (_server, client) = answering(data).await;
        assert!(client.ha_status().await.is_err(), "{data}");
        assert!(client.disks(true).await.is_err(), "{data}");
        assert!(client.node_rrd(Timeframe::Day).await.is_err(), "{data}");
        assert!(client.cluster_resources().await.is_err(), "{data}");
        assert!(client.next_vmid().await.is_err(), "{data}");
    }
    for data in ["7", "[]", "null", "[{}]"] {
        let (_server, client) = answering(data).await;
        assert!(client.version().await.is_err(), "{data}");
        assert!(client.node_status().await.is_err(), "{data}");
        assert!(client.dns().await.is_err() && client.subscription().await.is_err(), "{data}");
        assert!(client.smart("/dev/sda", true).await.is_err() && client.lvm().await.is_err(), "{data}");
        assert!(client.token_info().await.is_err() && client.pool("lab").await.is_err(), "{data}");
    }
}
