//! Several nodes, high availability, pools, and size.

use std::time::{Duration, Instant};

use pve_sim::Sim;
use pve_sim::world::{AuthId, MAX_GUESTS};
use serde_json::{Value, json};

use super::{DEADLINE, Pve, demo};

fn names<'a>(rows: &'a Value, key: &str) -> Vec<&'a str> {
    rows["data"].as_array().unwrap().iter().filter_map(|row| row[key].as_str()).collect()
}

#[tokio::test]
async fn several_nodes() {
    let mut config = demo();
    config.world.add_peer("pve2", true);
    config.world.add_peer("pve3", false);
    let guest = config.world.guests[&100].clone();
    for node in ["pve2", "pve3"] {
        let peer = config.world.peers.get_mut(node).unwrap();
        peer.world.guests.insert(if node == "pve2" { 103 } else { 105 }, guest.clone());
    }
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::of(&sim);
    let status = pve.get("/cluster/status").await.body;
    assert_eq!(status["data"][0]["type"], "cluster");
    assert_eq!((&status["data"][0]["nodes"], &status["data"][0]["quorate"]), (&3.into(), &1.into()));
    let online: Vec<&Value> = status["data"].as_array().unwrap()[1..].iter().map(|r| &r["online"]).collect();
    assert_eq!(online, [&json!(1), &json!(1), &json!(0)]);
    assert_eq!(names(&pve.get("/nodes").await.body, "node"), ["pve1", "pve2", "pve3"]);

    for (method, path) in [("GET", "/nodes/pve3/status"), ("POST", "/nodes/pve3/qemu/105/status/start")] {
        let away = pve.call(method, path, "").await;
        assert_eq!((away.line(), away.text.as_str()), ((595, "Connection refused"), ""), "as recorded");
    }
    let nobody = pve.get("/nodes/nosuch/status").await;
    let text =
        "hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Name or service not known";
    assert_eq!(nobody.line(), (500, text));

    assert_eq!(pve.get("/nodes/pve2/qemu/103/config").await.body["data"]["name"], "web");
    // A backup of guests that are all on other nodes is nothing to do.
    for (node, vmid) in [("pve1", 103), ("pve2", 100), ("pve2", 105)] {
        let body = format!("vmid={vmid}&storage=local");
        let answer = pve.call("POST", &format!("/nodes/{node}/vzdump"), &body).await;
        assert_eq!(answer.body["data"], "OK", "{node} {vmid}: {answer:?}");
    }
    assert_eq!(pve.get("/nodes/pve1/qemu/103/config").await.status, 500);
    let stop = pve.call("POST", "/nodes/pve2/qemu/103/status/stop", "").await;
    assert!(stop.upid().starts_with("UPID:pve2:"), "{stop:?}");
    let end = Instant::now() + DEADLINE;
    let task = format!("/nodes/pve2/tasks/{}/status", stop.upid());
    while pve.get(&task).await.body["data"]["status"] != "stopped" {
        assert!(Instant::now() < end, "a peer's task does not end");
    }
    let all = pve.get("/cluster/tasks").await.body;
    assert_eq!(names(&all, "node"), ["pve2"]);
    let rows = pve.get("/cluster/resources?type=vm").await.body["data"].clone();
    let of = |vmid: u32| rows.as_array().unwrap().iter().find(|r| r["vmid"] == vmid).unwrap();
    assert_eq!((&of(103)["node"], &of(103)["status"]), (&"pve2".into(), &"stopped".into()));
    assert_eq!((&of(105)["status"], of(105).get("name")), (&"unknown".into(), None));
    assert_eq!(pve.get("/cluster/nextid").await.body["data"], "104");
    assert_eq!(pve.get("/cluster/nextid?vmid=105").await.body["errors"]["vmid"], "VM 105 already exists");
    assert_eq!(pve.get("/cluster/nextid?vmid=106").await.body["data"], "106");
    pve.order("peer", r#"{"node":"pve2","online":false}"#).await;
    assert_eq!(pve.get("/nodes/pve2/status").await.status, 595);
    sim.stop().await;
}

#[tokio::test]
async fn high_availability() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    assert_eq!(names(&pve.get("/cluster/ha/status/current").await.body, "type"), ["quorum"]);
    assert_eq!(pve.order("ha", r#"{"vmid":101,"state":"stopped"}"#).await.status, 200);
    let list = pve.get("/cluster/ha/resources").await.body["data"].clone();
    assert_eq!((&list[0]["sid"], &list[0]["state"]), (&"vm:101".into(), &"stopped".into()));
    let current = pve.get("/nodes/pve1/qemu/101/status/current").await.body;
    assert_eq!(current["data"]["ha"]["managed"], 1);
    let kinds = pve.get("/cluster/ha/status/current").await.body;
    assert_eq!(names(&kinds, "type"), ["quorum", "master", "lrm", "service"]);
    let row = pve.get("/cluster/resources?type=vm").await.body["data"].clone();
    let row = row.as_array().unwrap().iter().find(|r| r["vmid"] == 101).unwrap().clone();
    assert_eq!(row["hastate"], "stopped");
    assert_eq!(pve.call("PUT", "/cluster/ha/resources/vm:101", "state=started").await.status, 403);
    sim.world().lock().unwrap().access.roles.get_mut("WritAgent").unwrap().insert("Sys.Console".to_owned());
    assert_eq!(pve.call("PUT", "/cluster/ha/resources/vm:101", "state=started").await.status, 200);
    let end = Instant::now() + DEADLINE;
    while pve.get("/nodes/pve1/qemu/101/status/current").await.body["data"]["status"] != "running" {
        assert!(Instant::now() < end, "the HA manager does not start it");
        tokio::task::yield_now().await;
    }
    let tasks = pve.get("/nodes/pve1/tasks?typefilter=qmstart&source=all").await.body;
    assert_eq!(tasks["data"][0]["user"], "root@pam");
    for bad in ["vm:999", "ct:101", "x"] {
        assert_eq!(pve.get(&format!("/cluster/ha/resources/{bad}")).await.status, 500, "{bad}");
    }
    assert_eq!(pve.call("DELETE", "/cluster/ha/resources/vm:101", "").await.status, 200);
    assert_eq!(pve.get("/cluster/ha/resources").await.text, r#"{"data":[]}"#);
    sim.stop().await;
}

#[tokio::test]
async fn pools_and_options() {
    let mut config = demo();
    let access = &mut config.world.access;
    access.add_token("root@pam!t", None, 0);
    access.tokens.get_mut(&AuthId::parse("root@pam!t")).unwrap().privsep = false;
    let sim = Sim::start(config).await.unwrap();
    let root = Pve::with(&sim, &sim.token("root@pam!t"));
    assert_eq!(root.call("POST", "/pools", "poolid=lab").await.text, r#"{"data":null}"#);
    assert_eq!(root.call("POST", "/pools", "poolid=lab").await.status, 500);
    assert_eq!(root.call("PUT", "/pools/lab", "vms=101,200&storage=tank").await.status, 200);
    let pool = root.get("/pools/lab").await.body["data"].clone();
    assert_eq!(pool["poolid"], "lab");
    assert_eq!(pool["members"].as_array().unwrap().len(), 3);
    assert_eq!(pool["members"][0].get("pool"), None, "as recorded");
    assert_eq!(root.get("/pools/lab?type=lxc").await.body["data"]["members"].as_array().unwrap().len(), 1);
    let rows = root.get("/cluster/resources").await.body["data"].clone();
    assert_eq!(rows[0], json!({"id": "/pool/lab", "pool": "lab", "type": "pool"}), "as recorded");
    let with_pool = rows.as_array().unwrap().iter().filter(|r| r["pool"] == "lab").count();
    assert_eq!(with_pool, 3, "the pool and its two guests");
    assert_eq!(root.call("DELETE", "/pools/lab", "").await.status, 500, "not empty");
    let blind = Pve::with(&sim, &sim.token("writ@pve!noacl"));
    assert_eq!(blind.get("/pools/lab").await.reason, "Permission check failed (/pool/lab, Pool.Audit)");
    assert_eq!(blind.get("/pools").await.text, r#"{"data":[]}"#);
    let bad = root.get("/cluster/resources?type=foo").await;
    assert_eq!(
        bad.body["errors"]["type"],
        "value 'foo' does not have a value in the enumeration 'vm, storage, node, sdn'"
    );
    assert!(root.get("/cluster/options").await.body["data"]["keyboard"].is_string());
    let metrics = root.get("/cluster/metrics/export").await.body["data"]["data"].clone();
    assert!(metrics.as_array().unwrap().iter().any(|m| m["id"] == "qemu/100" && m["type"] == "gauge"));
    sim.stop().await;
}

#[tokio::test]
async fn five_thousand_guests_are_quick() {
    let mut config = demo();
    config.world.populate(MAX_GUESTS);
    config.call_delay = Duration::from_millis(1);
    let begun = Instant::now();
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::of(&sim);
    let rows = pve.get("/cluster/resources?type=vm").await.body;
    assert_eq!(rows["data"].as_array().unwrap().len(), 5_000);
    let upid = pve.call("POST", "/nodes/pve1/qemu/1001/status/start", "").await;
    assert_eq!(pve.finish(upid.upid()).await, "OK");
    // Generous: a debug build on a busy machine takes about a second.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    sim.stop().await;
}
