//! Faults of tasks, and what the task calls answer.

use pve_sim::Sim;
use pve_sim::world::Upid;

use super::{Pve, demo};

const START: &str = "/nodes/pve1/qemu/101/status/start";
const SNAPSHOT: &str = "/nodes/pve1/qemu/101/snapshot";

#[tokio::test]
async fn ends_after_a_200() {
    let mut config = demo();
    // Long enough for the fault to reach the task while it runs.
    config.task_duration = std::time::Duration::from_millis(20);
    let sim = Sim::start(config).await.unwrap();
    let pve = Pve::of(&sim);
    for (i, (order, exit, lock)) in [
        (r#"{"fault":"task_fail","text":"disk full"}"#, "disk full", None),
        (r#"{"fault":"task_warn","count":3}"#, "WARNINGS: 3", None),
        (r#"{"fault":"task_fail","text":"half","leave_lock":true}"#, "half", Some("snapshot")),
        (r#"{"fault":"task_kill"}"#, "unexpected status", Some("snapshot")),
    ]
    .into_iter()
    .enumerate()
    {
        pve.fault(&order.replace('}', r#","contains":"/snapshot"}"#)).await;
        let answer = pve.call("POST", SNAPSHOT, &format!("snapname=s{i}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(pve.finish(answer.upid()).await, exit);
        let mut world = sim.world().lock().unwrap().clone();
        let guest = world.guests.get_mut(&101).unwrap();
        assert_eq!(guest.config.get("lock").and_then(|l| l.as_str()), lock, "{order}");
        sim.world().lock().unwrap().guests.get_mut(&101).unwrap().config.remove("lock");
    }
    sim.stop().await;
}

#[tokio::test]
async fn endless_late_lost_and_foreign() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    pve.fault(r#"{"fault":"task_endless","method":"POST"}"#).await;
    let endless = pve.call("POST", START, "").await;
    let active = pve.get("/nodes/pve1/tasks?source=active").await;
    assert_eq!(active.body["data"][0]["upid"], endless.upid());
    let path = format!("/nodes/pve1/tasks/{}", endless.upid());
    assert_eq!(pve.get(&format!("{path}/status")).await.body["data"]["status"], "running");
    assert_eq!(pve.call("DELETE", &path, "").await.text, r#"{"data":null}"#);
    assert_eq!(pve.finish(endless.upid()).await, "received interrupt");
    assert_eq!(pve.call("DELETE", &path, "").await.text, r#"{"data":null}"#, "finished: null too");

    pve.fault(r#"{"fault":"task_late","lookups":2,"method":"POST"}"#).await;
    let late = pve.call("POST", START, "").await;
    let status = format!("/nodes/pve1/tasks/{}/status", late.upid());
    for _ in 0..2 {
        let missing = pve.get(&status).await;
        assert_eq!((missing.status, &missing.body["errors"]["upid"]), (400, &"no such task".into()));
    }
    assert_eq!(pve.finish(late.upid()).await, "OK");

    pve.fault(r#"{"fault":"task_log_gone","method":"POST"}"#).await;
    let gone = pve.call("POST", "/nodes/pve1/qemu/101/status/stop", "").await;
    let path = format!("/nodes/pve1/tasks/{}", gone.upid());
    assert_eq!(pve.get(&format!("{path}/status")).await.status, 400);
    let log = pve.get(&format!("{path}/log")).await;
    assert_eq!(log.body["data"][0]["t"], "unable to open file - No such file or directory");
    let list = pve.get("/nodes/pve1/tasks?source=all&typefilter=qmstop").await;
    assert_eq!(list.body["data"][0]["upid"], gone.upid());

    pve.fault(r#"{"fault":"upid","method":"POST"}"#).await;
    let other = pve.call("POST", START, "").await;
    assert!(Upid::parse(other.upid()).is_some());
    assert!(sim.world().lock().unwrap().tasks.find(other.upid()).is_none());
    let foreign = "UPID:pve2:0000016B:0002B38C:6B025E0A:vzstart:200:other@pve:";
    pve.fault(&format!(r#"{{"fault":"upid","upid":"{foreign}","method":"POST"}}"#)).await;
    assert_eq!(pve.call("POST", START, "").await.upid(), foreign);
    sim.stop().await;
}

#[tokio::test]
async fn logs_by_page_and_as_a_file() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    let upid = pve.call("POST", START, "").await.upid().to_owned();
    pve.finish(&upid).await;
    let short = pve.request("GET", &format!("/api2/json/nodes/pve1/tasks/{upid}/log?download=1"), "");
    let short = short.send().await.unwrap();
    let name = short.headers()["content-disposition"].to_str().unwrap().to_owned();
    assert!(name.starts_with("attachment; filename=\"task-pve1-qmstart-20"), "{name}");
    assert_eq!(short.headers()["content-type"], "text/plain");
    assert!(short.text().await.unwrap().ends_with("TASK OK\n"));
    {
        let world = sim.world();
        let mut world = world.lock().unwrap();
        let task = world.tasks.all.last_mut().unwrap();
        task.log = (0..120).map(|i| format!("line number {i}")).collect();
    }
    let log = format!("/nodes/pve1/tasks/{upid}/log");
    for (query, first, count) in [
        ("", 1, 50),
        ("?start=100", 101, 20),
        ("?start=5&limit=3", 6, 3),
        ("?limit=0", 1, 120),
        ("?start=500", 0, 0),
    ] {
        let page = pve.get(&format!("{log}{query}")).await.body;
        let rows = page["data"].as_array().unwrap();
        assert_eq!((page["total"].as_u64(), rows.len()), (Some(120), count), "{query}");
        assert_eq!(rows.first().map_or(0, |r| r["n"].as_u64().unwrap()), first, "{query}");
    }
    // A long one comes packed, although this client did not ask for that.
    let long = pve.request("GET", &format!("/api2/json{log}?download=1"), "").send().await.unwrap();
    assert_eq!(long.headers()["content-encoding"], "gzip");
    let packed = long.bytes().await.unwrap();
    assert!(packed.starts_with(&[0x1f, 0x8b, 8, 8]));
    assert!(packed.windows(8).any(|w| w == b"mber 119"));
    assert_eq!(pve.get(&format!("{log}?download=1&limit=3")).await.status, 400);
    sim.stop().await;
}

#[tokio::test]
async fn cluster_tasks_forget_a_tokens_own() {
    let sim = Sim::start(demo()).await.unwrap();
    let act = Pve::of(&sim);
    let upid = act.call("POST", START, "").await.upid().to_owned();
    act.finish(&upid).await;
    assert_eq!(act.get("/cluster/tasks").await.body["data"][0]["upid"], upid.as_str());
    {
        let world = sim.world();
        let mut world = world.lock().unwrap();
        // Everything but Sys.Audit.
        world.access.roles.get_mut("WritAgent").unwrap().remove("Sys.Audit");
        world.access.acl.retain(|line| line.role != "PVEAuditor");
    }
    assert_eq!(act.get("/cluster/tasks").await.text, r#"{"data":[]}"#);
    assert_eq!(act.get("/nodes/pve1/tasks").await.body["total"], 1, "its own, here");
    sim.stop().await;
}
