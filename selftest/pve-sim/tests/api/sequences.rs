//! The main sequences in the demo world.

use std::time::Duration;

use pve_sim::Sim;
use serde_json::Value;

use super::{Pve, demo};

#[tokio::test]
async fn snapshot_then_rollback_then_delete() {
    let mut config = demo();
    config.task_duration = Duration::from_millis(400);
    let sim = Sim::start(config).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    let guest = "/nodes/pve1/qemu/100";
    let before = pve.get(&act, &format!("{guest}/config")).await.body["data"].clone();
    assert!(before["memory"].is_string());

    let body = "snapname=s1&description=a%3Db%26c";
    let upid = pve.call(&act, "POST", &format!("{guest}/snapshot"), body).await.body["data"].clone();
    let upid = upid.as_str().unwrap();
    let during = pve.get(&act, &format!("{guest}/snapshot")).await.body;
    assert_eq!(during["data"][0]["snapstate"], "prepare");
    assert_eq!(pve.get(&act, &format!("{guest}/config")).await.body["data"]["lock"], "snapshot");
    let active = pve.get(&act, "/nodes/pve1/tasks?source=active").await.body;
    assert_eq!((&active["total"], &active["data"][0]["status"]), (&1.into(), &"RUNNING".into()));
    assert_eq!(active["data"][0]["user"], "writ@pve!act");
    assert_eq!(pve.finish(&act, upid).await.0, "OK");
    let after = pve.get(&act, &format!("{guest}/snapshot")).await.body;
    assert_eq!(after["data"][0]["description"], "a=b&c");
    assert_eq!(after["data"][0].get("snapstate"), None);
    assert_eq!(after["data"][1]["parent"], "s1");

    let upid = pve.call(&act, "POST", &format!("{guest}/snapshot/s1/rollback"), "").await.body;
    let locked = pve.get(&act, &format!("{guest}/status/current")).await.body;
    assert_eq!(locked["data"]["lock"], "rollback");
    assert_eq!(pve.finish(&act, upid["data"].as_str().unwrap()).await.0, "OK");
    let config = pve.get(&act, &format!("{guest}/config")).await.body["data"].clone();
    assert_ne!(config["vmgenid"], before["vmgenid"]);
    assert_eq!(config["smbios1"], before["smbios1"]);
    let status = pve.get(&act, &format!("{guest}/status/current")).await.body;
    assert_eq!(status["data"]["status"], "stopped");

    let upid = pve.call(&act, "DELETE", &format!("{guest}/snapshot/s1"), "").await.body;
    assert_eq!(pve.finish(&act, upid["data"].as_str().unwrap()).await.0, "OK");
    let list = pve.get(&act, &format!("{guest}/snapshot")).await.body;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    sim.stop().await;
}

#[tokio::test]
async fn compare_and_set_differs_between_the_kinds() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    for (guest, name, text) in [
        ("qemu/101", "name", "checksum mismatch (file change by other user?)"),
        ("lxc/201", "hostname", "detected modified configuration - file changed by other user? Try again."),
    ] {
        let path = format!("/nodes/pve1/{guest}/config");
        let digest = pve.get(&act, &path).await.body["data"]["digest"].clone();
        let digest = digest.as_str().unwrap();
        let first = pve.call(&act, "PUT", &path, &format!("{name}=one&digest={digest}")).await;
        assert_eq!((first.status, &first.body["data"]), (200, &Value::Null));
        let second = pve.call(&act, "PUT", &path, &format!("{name}=two&digest={digest}")).await;
        assert_eq!((second.status, second.reason.as_str()), (500, text));
        assert_eq!(second.body["message"], format!("{text}\n"));
        assert_eq!(pve.get(&act, &path).await.body["data"][name], "one");
        let unknown = pve.call(&act, "PUT", &path, "nosuch=1&onboot=yes").await;
        assert_eq!(unknown.status, 400);
        assert_eq!(unknown.body["errors"].as_object().unwrap().len(), 2);
    }
    let path = "/nodes/pve1/qemu/101/config";
    let upid = pve.call(&act, "POST", path, "memory=2048&delete=onboot").await.body["data"].clone();
    let (exit, _) = pve.finish(&act, upid.as_str().unwrap()).await;
    assert_eq!(exit, "OK");
    let config = pve.get(&act, path).await.body["data"].clone();
    assert_eq!((&config["memory"], config.get("onboot")), (&"2048".into(), None));
    let none = pve.call(&act, "POST", "/nodes/pve1/lxc/201/config", "cores=2").await;
    assert_eq!(none.reason, "Method 'POST /nodes/pve1/lxc/201/config' not implemented");
    sim.stop().await;
}

#[tokio::test]
async fn tokens_see_their_own_tasks_and_auditors_all() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (report, act)) = (Pve::of(&sim), sim.tokens());
    let upid = pve.call(&act, "POST", "/nodes/pve1/lxc/201/status/start", "").await.body["data"].clone();
    let upid = upid.as_str().unwrap();
    pve.finish(&act, upid).await;
    let status = format!("/nodes/pve1/tasks/{upid}/status");
    assert_eq!(pve.get(&report, &status).await.status, 200);
    let blind = sim.token("writ@pve!noacl");
    let refused = pve.get(&blind, &status).await;
    assert_eq!(refused.reason, "Permission check failed (/nodes/pve1, Sys.Audit)");
    assert_eq!(pve.get(&blind, "/nodes/pve1/tasks").await.text, r#"{"data":[]}"#);
    let stop = pve.call(&report, "DELETE", &format!("/nodes/pve1/tasks/{upid}"), "").await;
    assert_eq!(stop.reason, "Permission check failed (/nodes/pve1, Sys.Modify)");
    let late = pve.get(&act, "/nodes/pve1/tasks?vmid=201&typefilter=vzstart&since=1").await.body;
    assert_eq!(late["total"], 1);
    for none in ["vmid=200", "typefilter=vzstop", "until=1", "userfilter=nobody", "errors=1"] {
        let list = pve.get(&act, &format!("/nodes/pve1/tasks?{none}")).await;
        assert_eq!(list.text, r#"{"data":[]}"#, "{none}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn an_interrupted_task_leaves_its_lock() {
    let mut config = demo();
    config.task_duration = Duration::from_secs(600);
    let sim = Sim::start(config).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    let body = "snapname=half";
    let upid = pve.call(&act, "POST", "/nodes/pve1/qemu/101/snapshot", body).await.body["data"].clone();
    let upid = upid.as_str().unwrap();
    let stop = pve.call(&act, "DELETE", &format!("/nodes/pve1/tasks/{upid}"), "").await;
    assert_eq!(stop.text, r#"{"data":null}"#);
    assert_eq!(pve.finish(&act, upid).await.0, "received interrupt");
    let config = pve.get(&act, "/nodes/pve1/qemu/101/config").await.body;
    assert_eq!(config["data"]["lock"], "snapshot");
    sim.stop().await;
}

#[tokio::test]
async fn node_facts() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (report, act)) = (Pve::of(&sim), sim.tokens());
    let thin = pve.get(&report, "/nodes/pve1/disks/lvmthin").await.body;
    assert!(thin["data"][0]["metadata_used"].as_u64().unwrap() > 0);
    let certs = pve.get(&report, "/nodes/localhost/certificates/info").await.body;
    let leaf = certs["data"][1]["fingerprint"].as_str().unwrap().replace(':', "").to_lowercase();
    assert_eq!(leaf, sim.pins().leaf);
    let nodes = pve.get(&report, "/nodes").await.body;
    assert_eq!(nodes["data"][0]["ssl_fingerprint"], certs["data"][1]["fingerprint"]);
    assert_eq!(pve.get(&act, "/cluster/nextid").await.body["data"], "103");
    let blind = sim.token("writ@pve!noacl");
    let row = &pve.get(&blind, "/nodes").await.body["data"][0];
    assert_eq!((row.get("cpu"), row.get("mem")), (None, None));
    assert_eq!(pve.get(&blind, "/nodes/pve1/qemu").await.text, r#"{"data":[]}"#);
    let expired = pve.get(&sim.token("writ@pve!expired"), "/version").await;
    assert_eq!((expired.status, expired.reason.as_str()), (401, "Authentication failed!"));
    let none = pve.get("", "/version").await;
    assert_eq!((none.reason.as_str(), none.text.as_str()), ("No ticket", ""));
    sim.stop().await;
}

#[tokio::test]
async fn restart_keeps_the_pins() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = demo();
    config.ca_dir = Some(dir.path().to_owned());
    let first = Sim::start(config.clone()).await.unwrap();
    let (pins, addr) = (first.pins(), first.addr());
    first.stop().await;
    config.listen = addr;
    let second = Sim::start(config.clone()).await.unwrap();
    assert_eq!(second.pins(), pins);
    let busy = Sim::start(config).await.err().unwrap();
    assert!(busy.to_string().contains("choose another address"), "{busy}");
    second.stop().await;
}

/// What the runbook says may be left out today may really be left out.
#[tokio::test]
async fn the_runbooks_smaller_role_is_enough_for_what_is_built() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let runbook = std::fs::read_to_string(root.join("runbooks/install-and-enroll.md")).unwrap();
    let smaller = runbook.lines().find(|line| line.starts_with("VM.Audit VM.PowerMgmt")).unwrap();
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    {
        let world = sim.world();
        let mut world = world.lock().unwrap();
        // The user's other role would lend its rights to no separated token, but away with it.
        world.access.acl.retain(|entry| entry.role == "WritAgent");
        let role = smaller.split(' ').map(str::to_owned).collect();
        world.access.roles.insert("WritAgent".to_owned(), role);
    }
    for path in [
        "/cluster/resources",
        "/cluster/status",
        "/access/permissions",
        "/nodes/pve1/status",
        "/nodes/pve1/time",
        "/nodes/pve1/storage",
        "/nodes/pve1/disks/lvmthin",
        "/nodes/pve1/certificates/info",
        "/nodes/pve1/qemu",
        "/nodes/pve1/qemu/101/feature?feature=snapshot",
        "/nodes/pve1/qemu/101/status/current",
        "/nodes/pve1/qemu/101/snapshot/before-upgrade/config",
        "/nodes/pve1/tasks",
    ] {
        assert_eq!(pve.get(&act, path).await.status, 200, "{path}");
    }
    for guest in ["qemu/101", "lxc/201"] {
        let path = format!("/nodes/pve1/{guest}");
        let digest = pve.get(&act, &format!("{path}/config")).await.body["data"]["digest"].clone();
        let tags = format!("tags=a&digest={}", digest.as_str().unwrap());
        assert_eq!(pve.call(&act, "PUT", &format!("{path}/config"), &tags).await.status, 200);
        for (what, body) in [("snapshot", "snapname=s1"), ("snapshot/s1/rollback", ""), ("status/start", "")]
        {
            let answer = pve.call(&act, "POST", &format!("{path}/{what}"), body).await;
            assert_eq!(answer.status, 200, "{guest} {what}: {answer:?}");
            assert_eq!(
                pve.finish(&act, answer.body["data"].as_str().unwrap()).await.0,
                "OK",
                "{guest} {what}"
            );
        }
    }
    for (path, body, lacks) in [
        ("qemu/101/config", "memory=512", "VM.Config.Memory"),
        ("lxc/201/config", "cores=1", "VM.Config.CPU"),
    ] {
        let refused = pve.call(&act, "PUT", &format!("/nodes/pve1/{path}"), body).await;
        assert!(refused.status == 403 && refused.reason.contains(lacks), "really smaller: {refused:?}");
    }
    sim.stop().await;
}
