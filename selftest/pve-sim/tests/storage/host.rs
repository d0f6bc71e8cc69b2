//! The node's own facts: who may read them, and their fields.

use serde_json::{Value, json};

use super::{ACT, ADMIN, Bench, REPORT};

#[tokio::test]
async fn an_auditor_reads_nearly_everything() {
    let b = Bench::demo().await;
    for path in [
        "",
        "/status",
        "/time",
        "/version",
        "/services",
        "/services/pveproxy/state",
        "/apt/versions",
        "/network",
        "/network/vmbr0",
        "/rrddata?timeframe=hour",
        "/disks/list",
        "/disks/smart?disk=/dev/sda",
        "/disks/zfs",
        "/disks/zfs/tank",
        "/disks/lvm",
        "/disks/lvmthin",
        "/disks/directory",
        "/hardware/pci",
        "/certificates/info",
        "/dns",
        "/subscription",
        "/report",
        "/netstat",
        "/replication",
        "/aplinfo",
        "/storage/local/status",
        "/storage/local/rrddata?timeframe=day",
        "/vzdump/defaults",
    ] {
        let answer = b.call(REPORT, "GET", &format!("/nodes/pve1{path}"), &[]).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    for (path, what) in [
        ("/apt/update", "/nodes/pve1, Sys.Modify"),
        ("/hardware/usb", "/, Sys.Modify"),
        ("/journal", "/nodes/pve1, Sys.Syslog"),
        ("/syslog", "/nodes/pve1, Sys.Syslog"),
    ] {
        let answer = b.call(REPORT, "GET", &format!("/nodes/pve1{path}"), &[]).await;
        answer.refused(403, &format!("Permission check failed ({what})"));
        assert_eq!(b.call(ADMIN, "GET", &format!("/nodes/pve1{path}"), &[]).await.status, 200, "{path}");
    }
    b.sim.stop().await;
}

#[tokio::test]
async fn recorded_fields() {
    let b = Bench::demo().await;
    let keys = |v: &Value| {
        let mut keys: Vec<String> = v.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let services = b.get(REPORT, "/nodes/pve1/services").await;
    assert_eq!(services.as_array().unwrap().len(), 23);
    let wanted = ["active-state", "desc", "name", "service", "state", "unit-state"];
    assert!(services.as_array().unwrap().iter().all(|row| keys(row) == wanted));
    let graph = b.get(REPORT, "/nodes/pve1/rrddata?timeframe=hour").await;
    assert_eq!(keys(&graph[0]), ["time"], "what was before the node ran");
    let wanted = [
        "arcsize",
        "cpu",
        "iowait",
        "loadavg",
        "maxcpu",
        "memavailable",
        "memtotal",
        "memused",
        "netin",
        "netout",
        "pressurecpusome",
        "pressureiofull",
        "pressureiosome",
        "pressurememoryfull",
        "pressurememorysome",
        "rootused",
        "roottotal",
        "swaptotal",
        "swapused",
        "time",
    ];
    let mut wanted = wanted.map(str::to_owned);
    wanted.sort();
    assert_eq!(keys(&graph[59]), wanted);
    assert_eq!(graph[59]["time"].as_i64().unwrap() - graph[58]["time"].as_i64().unwrap(), 60);
    b.call(REPORT, "GET", "/nodes/pve1/rrddata", &[])
        .await
        .wrong("timeframe", "property is missing and it is not optional");
    let log = b.call(ADMIN, "GET", "/nodes/pve1/syslog", &[("limit", "2")]).await;
    assert_eq!(log.body["data"].as_array().unwrap().len(), 2);
    assert!(log.body["total"].as_u64().unwrap() >= 3);
    assert!(log.body["data"][0]["t"].as_str().unwrap().ends_with("systemd-journald[57]: Journal started"));
    let lines = b.get(ADMIN, "/nodes/pve1/journal?lastentries=1").await;
    assert_eq!(lines.as_array().unwrap().len(), 3, "a cursor before and one after");
    b.sim.stop().await;
}

#[tokio::test]
async fn disks_and_pools() {
    let b = Bench::demo().await;
    b.call(REPORT, "GET", "/nodes/pve1/disks/smart", &[("disk", "/dev/../etc")])
        .await
        .wrong("disk", "value does not match the regex pattern");
    b.call(REPORT, "GET", "/nodes/pve1/disks/smart", &[("disk", "/dev/sdz")])
        .await
        .refused(500, "not a valid disk: '/dev/sdz'");
    let ata = b.get(REPORT, "/nodes/pve1/disks/smart?disk=/dev/sda").await;
    assert_eq!((&ata["type"], &ata["health"]), (&json!("ata"), &json!("PASSED")));
    assert!(ata["attributes"].as_array().unwrap().iter().all(|a| a["value"].is_string()));
    let nvme = b.get(REPORT, "/nodes/pve1/disks/smart?disk=/dev/nvme0n1").await;
    assert_eq!(nvme["type"], "text");
    let unused = b.get(REPORT, "/nodes/pve1/disks/list?type=unused&skipsmart=1").await;
    assert_eq!(unused.as_array().unwrap().len(), 1);
    assert_eq!((&unused[0]["health"], unused[0].get("used")), (&json!("UNKNOWN"), None));
    assert_eq!(b.get(REPORT, "/nodes/pve1/disks/zfs").await[0]["health"], "ONLINE");
    b.world(|w| w.storages.get_mut("tank").unwrap().options.insert("health".to_owned(), json!("DEGRADED")));
    let pool = b.get(REPORT, "/nodes/pve1/disks/zfs/tank").await;
    assert_eq!(pool["state"], "DEGRADED");
    assert_eq!(pool["children"][0]["children"][0]["children"][1]["state"], "FAULTED");
    let config = b.get(ADMIN, "/storage/tank").await;
    assert_eq!(config.get("health"), None, "that is no line of the configuration");
    let none = b.call(REPORT, "GET", "/nodes/pve1/disks/zfs/nosuch", &[]).await;
    assert_eq!(none.status, 500);
    b.sim.stop().await;
}

#[tokio::test]
async fn commands_take_more() {
    let b = Bench::demo().await;
    let path = "/nodes/pve1/services/pvestatd/restart";
    b.call(ACT, "POST", path, &[]).await.refused(403, "Permission check failed (/nodes/pve1, Sys.Modify)");
    let upid = b.call(ADMIN, "POST", path, &[]).await.data();
    assert!(upid.as_str().unwrap().contains(":srvrestart:pvestatd:"), "{upid}");
    assert_eq!(b.finish(upid.as_str().unwrap()).await.0, "OK");
    assert_eq!(b.call(REPORT, "GET", "/nodes/pve1/services/nosuch/state", &[]).await.status, 400);
    let upid = b.call(ADMIN, "POST", "/nodes/pve1/apt/update", &[]).await.data();
    assert!(upid.as_str().unwrap().contains(":aptupdate::"), "{upid}");
    b.call(REPORT, "GET", "/nodes/nosuch/services", &[]).await.refused(
        500,
        "hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Name or service not known",
    );
    b.sim.stop().await;
}
