//! Faults of the node: certificates, quorum, daemon, and changes behind a client's back.

use std::time::Duration;

use pve_sim::Sim;
use pve_sim::world::NewCertificate;

use super::{Pve, config_of, demo};

#[tokio::test]
async fn certificates_change_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = demo();
    config.ca_dir = Some(dir.path().to_owned());
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::of(&sim);
    let first = sim.pins();
    pve.fault(r#"{"fault":"certificate","new":"same_key"}"#).await;
    let renewed = sim.pins();
    assert_eq!((&renewed.spki, &renewed.ca), (&first.spki, &first.ca));
    assert_ne!(renewed.leaf, first.leaf);
    // The served one is the new one: the API's own list and the file agree with the pins.
    let info = pve.get("/nodes/pve1/certificates/info").await.body;
    let leaf = info["data"][1]["fingerprint"].as_str().unwrap().replace(':', "").to_lowercase();
    assert_eq!(leaf, renewed.leaf);
    assert_eq!(pve.get("/nodes").await.body["data"][0]["ssl_fingerprint"], info["data"][1]["fingerprint"]);

    let second = sim.swap_certificate(NewCertificate::NewKey).unwrap();
    assert_ne!(second.spki, first.spki);
    assert_eq!(pve.get("/version").await.status, 200, "the CA is the same");
    pve.fault(r#"{"fault":"certificate","new":"new_ca","contains":"/version"}"#).await;
    assert_eq!(pve.get("/version").await.status, 200, "this connection is older");
    let error = pve.try_call("GET", "/version", "").await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let third = sim.pins();
    assert_ne!(third.ca, first.ca);
    sim.stop().await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_written() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    pve.fault(r#"{"fault":"quorum"}"#).await;
    for (method, path, body) in [
        ("PUT", "/nodes/pve1/qemu/101/config", "name=x"),
        ("POST", "/nodes/pve1/lxc/201/snapshot", "snapname=x1"),
        ("DELETE", "/nodes/pve1/qemu/101/snapshot/before-upgrade", ""),
    ] {
        let refused = pve.call(method, path, body).await;
        assert_eq!(refused.line(), (500, "cluster not ready - no quorum?"), "{path}");
        assert_eq!(refused.body["message"], "cluster not ready - no quorum?\n");
    }
    for path in ["/cluster/resources", "/nodes/pve1/qemu/101/config", "/version"] {
        assert_eq!(pve.get(path).await.status, 200, "{path}");
    }
    pve.fault(r#"{"fault":"quorum","lost":false}"#).await;
    assert_eq!(pve.call("PUT", "/nodes/pve1/qemu/101/config", "name=x").await.status, 200);
    sim.stop().await;
}

#[tokio::test]
async fn a_restarting_daemon_interrupts_its_tasks() {
    let mut config = demo();
    config.task_duration = Duration::from_secs(600);
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::of(&sim);
    let upid = pve.call("POST", "/nodes/pve1/qemu/101/status/start", "").await.upid().to_owned();
    pve.fault(r#"{"fault":"daemon_restart","requests":2}"#).await;
    assert_eq!(pve.get("/version").await.status, 200, "the web server answers this itself");
    assert_eq!(pve.get("/nodes/pve1/tasks").await.status, 200);
    let down = pve.get("/nodes/pve1/storage/local/content").await;
    assert_eq!((down.line(), down.text.as_str()), ((595, "Connection refused"), ""), "as recorded");
    let down = pve.call("POST", "/nodes/pve1/qemu/100/snapshot", "snapname=dd").await;
    assert_eq!(down.status, 595);
    assert!(sim.world().lock().unwrap().guests[&100].snapshots.is_empty());
    assert_eq!(pve.finish(&upid).await, "received interrupt");
    sim.stop().await;
}

#[tokio::test]
async fn another_guest_under_the_same_id() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    pve.fault(r#"{"fault":"replace_guest","contains":"/qemu/101/config","nth":2}"#).await;
    let path = "/nodes/pve1/qemu/101/config";
    let before = pve.get(path).await.body["data"].clone();
    let after = pve.get(path).await.body["data"].clone();
    assert_eq!(after["name"], before["name"]);
    for key in ["smbios1", "vmgenid", "digest"] {
        assert_ne!(after[key], before[key], "{key}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn somebody_is_faster() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    for (guest, vmid, name) in [("qemu/101", 101, "name"), ("lxc/201", 201, "hostname")] {
        let path = format!("/nodes/pve1/{guest}/config");
        let digest = pve.get(&path).await.body["data"]["digest"].as_str().unwrap().to_owned();
        pve.fault(r#"{"fault":"digest_race","method":"PUT"}"#).await;
        let refused = pve.call("PUT", &path, &format!("{name}=mine&digest={digest}")).await;
        assert_eq!(refused.status, 500);
        assert!(refused.reason.contains("change"), "{refused:?}");
        assert_ne!(config_of(&sim, vmid)[name], "mine");
    }
    let answer = pve.order("faults", r#"{"fault":"digest_race"}"#).await;
    assert_eq!(answer.body["error"], "which guest? give its 'vmid'");
    assert_eq!(pve.order("faults", r#"{"fault":"replace_guest","vmid":9}"#).await.status, 400);
    sim.stop().await;
}

#[tokio::test]
async fn a_lock_somebody_else_holds() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    let text = "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout";
    pve.fault(r#"{"fault":"flock","method":"POST"}"#).await;
    let upid = pve.call("POST", "/nodes/pve1/qemu/101/snapshot", "snapname=flk").await.upid().to_owned();
    assert_eq!(pve.finish(&upid).await, text);
    let log = pve.get(&format!("/nodes/pve1/tasks/{upid}/log")).await.body;
    assert_eq!(log["data"][0]["t"], "trying to acquire lock...", "as recorded");
    assert!(!sim.world().lock().unwrap().guests[&101].snapshots.contains_key("flk"));

    // Without a matcher it waits for whoever takes the lock next; looking takes none.
    pve.fault(r#"{"fault":"flock","vmid":101}"#).await;
    assert_eq!(pve.get("/nodes/pve1/qemu/101/config").await.status, 200);
    let refused = pve.call("PUT", "/nodes/pve1/qemu/101/config", "name=x").await;
    assert_eq!(refused.line(), (500, text));
    assert_eq!(pve.call("PUT", "/nodes/pve1/qemu/101/config", "name=x").await.status, 200);
    let answer = pve.order("faults", r#"{"fault":"flock","vmid":999}"#).await;
    assert_ne!(answer.status, 200, "there is no such guest");
    sim.stop().await;
}

#[tokio::test]
async fn a_machine_without_its_disk_does_not_start() {
    let mut config = demo();
    config.world.stock.gone.insert("local-lvm:vm-101-disk-0".to_owned());
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::of(&sim);
    let upid = pve.call("POST", "/nodes/pve1/qemu/101/status/start", "").await.upid().to_owned();
    assert_eq!(pve.finish(&upid).await, "no such logical volume pve/vm-101-disk-0");
    assert!(sim.world().lock().unwrap().guests[&101].running.is_none());
    sim.stop().await;
}

#[tokio::test]
async fn answers_are_packed_for_those_who_ask() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    let ask = async |path: &str| {
        let request = pve.request("GET", &format!("/api2/json{path}"), "").header("Accept-Encoding", "gzip");
        request.send().await.unwrap()
    };
    let packed = ask("/cluster/resources").await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
    assert!(!ask("/version").await.headers().contains_key("content-encoding"), "too short");
    sim.stop().await;
}
