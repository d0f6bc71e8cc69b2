//! Backup jobs of the cluster and replication.

use serde_json::{Value, json};

use super::{ACT, ADMIN, Bench, REPORT};

#[tokio::test]
async fn jobs_and_what_they_save() {
    let b = Bench::demo().await;
    let job = [
        ("id", "nightly"),
        ("schedule", "02:30"),
        ("storage", "local"),
        ("vmid", "100,201"),
        ("prune-backups", "keep-last=3"),
    ];
    b.call(ACT, "POST", "/cluster/backup", &job)
        .await
        .refused(403, "Permission check failed (/, Sys.Modify)");
    assert_eq!(b.call(ADMIN, "POST", "/cluster/backup", &job).await.data(), Value::Null);
    let row = &b.get(REPORT, "/cluster/backup").await[0];
    assert_eq!((&row["id"], &row["type"], &row["enabled"]), (&json!("nightly"), &json!("vzdump"), &json!(1)));
    assert_eq!(row["prune-backups"], json!({"keep-last": "3"}));
    assert!(row["next-run"].as_i64().unwrap() > 1_700_000_000);
    let missing = b.get(REPORT, "/cluster/backup-info/not-backed-up").await;
    let ids: Vec<&Value> = missing.as_array().unwrap().iter().map(|r| &r["vmid"]).collect();
    assert_eq!(ids, [101, 102, 200]);
    b.world(|w| {
        let config = &mut w.guests.get_mut(&201).unwrap().config;
        config.insert("mp0".to_owned(), json!("/srv/data,mp=/data"));
        config.insert("mp1".to_owned(), json!("tank:subvol-201-disk-1,mp=/more,size=1G"));
    });
    let volumes = b.get(REPORT, "/cluster/backup/nightly/included_volumes").await;
    let inside = |n: usize| -> Vec<(Value, Value)> {
        let rows = volumes["children"][n]["children"].as_array().unwrap();
        rows.iter().map(|r| (r["id"].clone(), r["included"].clone())).collect()
    };
    assert_eq!(inside(0), [(json!("scsi0"), json!(1))]);
    assert_eq!(inside(1), [("mp0", 0), ("mp1", 0), ("rootfs", 1)].map(|(a, b)| (json!(a), json!(b))));
    let off = [("enabled", "0"), ("all", "1")];
    assert_eq!(b.call(ADMIN, "PUT", "/cluster/backup/nightly", &off).await.data(), Value::Null);
    let job = b.get(REPORT, "/cluster/backup/nightly").await;
    assert_eq!((&job["enabled"], job.get("vmid"), job.get("next-run")), (&json!(0), None, None));
    b.call(ADMIN, "DELETE", "/cluster/backup/nosuch", &[]).await.wrong("id", "No such job 'nosuch'");
    assert_eq!(b.call(ADMIN, "DELETE", "/cluster/backup/nightly", &[]).await.data(), Value::Null);
    assert_eq!(b.get(REPORT, "/cluster/backup").await, json!([]));
    let bad = [("storage", "local"), ("all", "1"), ("schedule", "02:30"), ("mode", "fast")];
    let refused = b.call(ADMIN, "POST", "/cluster/backup", &bad).await;
    assert_eq!(refused.status, 400);
    b.call(ADMIN, "POST", "/cluster/backup", &[("storage", "local"), ("schedule", "02:30")])
        .await
        .wrong("vmid", "property is missing");
    b.sim.stop().await;
}

#[tokio::test]
async fn replication() {
    let b = Bench::demo().await;
    let job = [("id", "101-0"), ("target", "pve9"), ("type", "local")];
    b.call(ACT, "POST", "/cluster/replication", &job)
        .await
        .refused(403, "Permission check failed (/vms/101, VM.Replicate)");
    b.call(ADMIN, "POST", "/cluster/replication", &job).await.refused(500, "node 'pve9' does not exist");
    for bad in ["", "101", "101-", "99-0", "x-0", "101-0-0", "-1-0"] {
        let job = [("id", bad), ("target", "pve9"), ("type", "local")];
        assert_eq!(b.call(ADMIN, "POST", "/cluster/replication", &job).await.status, 400, "{bad}");
    }
    let row = json!({"target": "pve9", "type": "local", "schedule": "*/15", "fail_count": 2});
    b.world(|w| w.stock.replications.insert("101-0".to_owned(), row.as_object().unwrap().clone()));
    let list = b.get(REPORT, "/cluster/replication").await;
    assert_eq!((&list[0]["guest"], &list[0]["jobnum"]), (&json!(101), &json!(0)));
    let states = b.get(REPORT, "/nodes/pve1/replication?guest=101").await;
    assert_eq!((&states[0]["fail_count"], &states[0]["vmtype"]), (&json!(2), &json!("qemu")));
    assert_eq!(b.get(REPORT, "/nodes/pve1/replication?guest=100").await, json!([]));
    assert_eq!(b.get(REPORT, "/nodes/pve1/replication/101-0/status").await, states[0]);
    for (id, status) in [("101-1", 500), ("101", 400)] {
        let path = format!("/nodes/pve1/replication/{id}/status");
        assert_eq!(b.call(REPORT, "GET", &path, &[]).await.status, status, "{id}");
    }
    assert_eq!(b.call(ADMIN, "DELETE", "/cluster/replication/101-0", &[]).await.data(), Value::Null);
    b.sim.stop().await;
}
