//! The guest agent, consoles, addresses.

use pve_sim::world::{Agent, Release};

use super::Bench;

#[tokio::test]
async fn what_is_missing_is_named() {
    let bench = Bench::with(|w| {
        Bench::allow(w, &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted", "VM.Monitor"]);
    })
    .await;
    let ping = "/qemu/100/agent/ping";
    // Recorded, of a running machine.
    bench.call("POST", ping, &[]).await.is(500, "No QEMU guest agent configured");
    bench.world(|w| {
        for vmid in [100, 101] {
            w.guests.get_mut(&vmid).unwrap().config.insert("agent".to_owned(), "1".into());
        }
    });
    bench.call("POST", ping, &[]).await.is(500, "QEMU guest agent is not running");
    bench.call("POST", "/qemu/101/agent/ping", &[]).await.is(500, "VM 101 is not running");
    bench.world(|w| w.guests.get_mut(&100).unwrap().agent = Some(Agent::default()));
    assert_eq!(bench.call("POST", ping, &[]).await.data()["result"], serde_json::json!({}));
    let os = bench.get("/qemu/100/agent/get-osinfo").await;
    assert_eq!(os["result"]["id"], "debian");
    let mac = bench.get("/qemu/100/config").await["net0"].as_str().unwrap().to_lowercase();
    let interfaces = bench.get("/qemu/100/agent/network-get-interfaces").await;
    let eth0 = &interfaces["result"][1];
    assert!(mac.contains(eth0["hardware-address"].as_str().unwrap()));
    assert_eq!(eth0["ip-addresses"][0]["ip-address-type"], "ipv4");
    let answer = bench.call("POST", "/qemu/100/agent/ping", &[("x", "1")]).await;
    answer.is_about("x", "not defined in schema");
}

#[tokio::test]
async fn a_command_is_run_and_asked_after() {
    let bench = Bench::with(|w| {
        Bench::allow(w, &["VM.GuestAgent.Unrestricted"]);
        let guest = w.guests.get_mut(&100).unwrap();
        guest.config.insert("agent".to_owned(), "enabled=1".into());
        guest.agent = Some(Agent::default());
    })
    .await;
    let exec = "/qemu/100/agent/exec";
    let command = [("command", "/bin/echo"), ("command", "a b")];
    let pid = bench.call("POST", exec, &command).await.data()["pid"].to_string();
    let status = bench.call("GET", "/qemu/100/agent/exec-status", &[("pid", &pid)]).await.data();
    assert_eq!((&status["exited"], &status["out-data"]), (&1.into(), &"a b\n".into()));
    let again = bench.call("GET", "/qemu/100/agent/exec-status", &[("pid", &pid)]).await;
    assert_eq!(again.status, 500);
    bench.call("POST", exec, &[]).await.is_about("command", "not optional");
    let bad = bench.call("GET", "/qemu/100/agent/exec-status", &[("pid", "x")]).await;
    bad.is_about("pid", "'integer'");
    bench.world(|w| {
        w.access.roles.get_mut("WritAgent").unwrap().remove("VM.GuestAgent.Unrestricted");
    });
    let refused = bench.call("POST", exec, &command).await;
    refused.is(403, "Permission check failed (/vms/100, VM.GuestAgent.Unrestricted)");
    bench.world(|w| w.release = Release::V8);
    let refused = bench.call("POST", exec, &command).await;
    refused.is(403, "Permission check failed (/vms/100, VM.Monitor)");
}

#[tokio::test]
async fn consoles_and_addresses() {
    let bench = Bench::with(|w| Bench::allow(w, &["VM.Console"])).await;
    for guest in ["qemu/100", "lxc/200"] {
        let vnc = bench.call("POST", &format!("/{guest}/vncproxy"), &[("websocket", "1")]).await.data();
        for key in ["ticket", "upid", "user", "cert"] {
            assert!(vnc[key].as_str().is_some_and(|t| !t.is_empty()), "{key}: {vnc}");
        }
        assert!(vnc["port"].as_u64().unwrap() >= 5900);
        assert!(vnc["cert"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE"));
        assert_eq!(bench.finish(vnc["upid"].as_str().unwrap()).await.0, "OK");
    }
    let none = bench.call("POST", "/qemu/100/termproxy", &[]).await;
    none.is(500, "unable to find a serial interface");
    assert!(bench.call("POST", "/lxc/200/termproxy", &[]).await.data()["ticket"].is_string());
    let rows = bench.get("/lxc/200/interfaces").await;
    assert_eq!((&rows[1]["name"], &rows[1]["inet"]), (&"eth0".into(), &"192.0.2.20/24".into()));
    assert_eq!(bench.get("/lxc/201/interfaces").await, serde_json::json!([]));
    let bench = Bench::demo().await;
    let refused = bench.call("POST", "/lxc/200/vncproxy", &[]).await;
    refused.is(403, "Permission check failed (/vms/200, VM.Console)");
}
