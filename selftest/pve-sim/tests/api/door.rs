//! The simulator's own side door.

use pve_sim::Sim;

use super::{Pve, demo, read};

#[tokio::test]
async fn a_withheld_answer_is_carried_out() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    let order = r#"{"method":"POST","contains":"/rollback"}"#;
    assert_eq!(pve.order("drop-answer-next", order).await.status, 200);
    let path = "/nodes/pve1/qemu/101/snapshot/before-upgrade/rollback";
    let lost = pve
        .client
        .post(format!("{}/api2/json{path}", pve.base))
        .header("Authorization", format!("PVEAPIToken={act}"))
        .send()
        .await;
    assert!(lost.is_err(), "{lost:?}");
    let list = pve.get(&act, "/nodes/pve1/tasks?source=all&typefilter=qmrollback&vmid=101").await.body;
    assert_eq!(list["total"], 1);
    let upid = list["data"][0]["upid"].as_str().unwrap();
    assert_eq!(pve.finish(&act, upid).await.0, "OK");
    let seen = pve.client.get(format!("{}/sim/requests?mutations=1", pve.base)).send().await.unwrap();
    let seen = read(seen).await.body;
    assert_eq!(seen.as_array().unwrap().len(), 1, "{seen}");
    assert_eq!(seen[0]["path"], format!("/api2/json{path}"));
    let mutations = sim.requests().into_iter().filter(|r| r.method != "GET").count();
    assert_eq!(mutations, 1);

    let order = format!(r#"{{"upid":"{upid}"}}"#);
    assert_eq!(pve.order("lose-task", &order).await.status, 200);
    let gone = pve.get(&act, &format!("/nodes/pve1/tasks/{upid}/status")).await;
    assert_eq!((gone.status, &gone.body["errors"]["upid"]), (400, &"no such task".into()));
    sim.stop().await;
}

#[tokio::test]
async fn a_replaced_guest_is_another_machine() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    for guest in ["qemu/101", "lxc/200"] {
        let path = format!("/nodes/pve1/{guest}/config");
        let before = pve.get(&act, &path).await.body["data"].clone();
        let vmid = guest.split('/').next_back().unwrap();
        let order = format!(r#"{{"vmid":{vmid}}}"#);
        assert_eq!(pve.order("replace-guest", &order).await.status, 200);
        let after = pve.get(&act, &path).await.body["data"].clone();
        let changed: &[&str] = match guest {
            "qemu/101" => &["smbios1", "vmgenid", "meta", "net0", "digest"],
            _ => &["net0", "digest"],
        };
        for key in changed {
            assert_ne!(after[key], before[key], "{key}");
        }
        assert_eq!((&after["name"], &after["hostname"]), (&before["name"], &before["hostname"]));
    }
    let list = pve.get(&act, "/nodes/pve1/qemu/101/snapshot").await.body;
    assert_eq!(list["data"][0]["name"], "before-upgrade");
    sim.stop().await;
}

#[tokio::test]
async fn ordered_outcomes_and_storage() {
    let sim = Sim::start(demo()).await.unwrap();
    let (pve, (_, act)) = (Pve::of(&sim), sim.tokens());
    pve.order("task-duration", r#"{"ms":1}"#).await;
    pve.order("fail-next", r#"{"task":"qmrollback","text":"no luck today"}"#).await;
    pve.order("warn-next", r#"{"task":"qmrollback","count":2}"#).await;
    for wanted in ["no luck today", "WARNINGS: 2", "OK"] {
        let path = "/nodes/pve1/qemu/101/snapshot/before-upgrade/rollback";
        let upid = pve.call(&act, "POST", path, "").await.body["data"].clone();
        assert_eq!(pve.finish(&act, upid.as_str().unwrap()).await.0, wanted);
    }
    let order = r#"{"storage":"local-lvm","used_percent":97,"metadata_percent":50}"#;
    assert_eq!(pve.order("storage", order).await.status, 200);
    let thin = pve.get(&act, "/nodes/pve1/disks/lvmthin").await.body["data"][0].clone();
    let percent = |a: &str, b: &str| thin[a].as_u64().unwrap() * 100 / thin[b].as_u64().unwrap();
    assert_eq!(percent("metadata_used", "metadata_size"), 50);
    assert!(percent("used", "lv_size") >= 96);
    for (path, bad) in [
        ("storage", "{}"),
        ("storage", r#"{"storage":"nosuch"}"#),
        ("replace-guest", r#"{"vmid":9}"#),
        ("replace-guest", r#"{"vmid":-1}"#),
        ("fail-next", r#"{"task":"x"}"#),
        ("lose-task", "not json"),
        ("task-duration", r#"{"ms":"1"}"#),
    ] {
        let answer = pve.order(path, bad).await;
        assert_eq!(answer.status, 400, "{path} {bad}");
        assert!(answer.body["error"].is_string());
    }
    assert_eq!(pve.order("nosuch", "{}").await.status, 404);
    sim.stop().await;
}
