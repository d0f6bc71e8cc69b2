//! Power in all its forms, the agent inside, and consoles.

use std::time::Duration;

use proxmox_client::{
    ConfigChange, ErrorClass, GuestKind, PowerEnd, ResourceKind, RunState, Shutdown, TaskEnd,
};
use pve_sim::world::{Agent, HaResource, Release};

use crate::bench::{Bench, LIMIT, LXC, Notes, QEMU, vmid};

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::with(release, |world| world.cluster.ha_delay = Duration::from_millis(20)).await;
    lists(&b).await;
    for (kind, number) in [(QEMU, 100), (LXC, 200)] {
        driven(&b, kind, number).await;
    }
    refusals(&b).await;
    managed(&b).await;
    elsewhere(&b).await;
    agent(&b).await;
    consoles(&b).await;
    b.into_notes()
}

async fn lists(b: &Bench) {
    for (kind, name, want) in [(QEMU, "qemu list", vec![100, 101, 102]), (LXC, "lxc list", vec![200, 201])] {
        for full in [false, true] {
            let list = b
                .by(&b.report, name, async |c| match full {
                    true => c.guests_full(kind).await,
                    false => c.guests(kind).await,
                })
                .await;
            let mut numbers: Vec<u32> = list.iter().map(|guest| guest.vmid.get()).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, want);
            for guest in &list {
                let (runs, name) = b.world(|w| {
                    let found = &w.guests[&guest.vmid.get()];
                    let key = if kind == QEMU { "name" } else { "hostname" };
                    (found.running.is_some(), found.config[key].as_str().unwrap().to_owned())
                });
                assert_eq!(guest.status == RunState::Running, runs);
                assert_eq!((guest.name.as_ref(), guest.pid.is_some()), (Some(&name), runs));
            }
        }
    }
}

async fn driven(b: &Bench, kind: GuestKind, number: u32) {
    let guest = vmid(number);
    let name = |verb: &str| format!("{kind} {verb}");
    let state = async || {
        let status = b.ok(&name("status"), async |c| c.guest_status(kind, guest).await).await;
        assert_eq!(status.status == RunState::Running, b.runs(number));
        status
    };
    assert_eq!(state().await.status, RunState::Running);
    b.run(&name("suspend"), async |c| c.suspend(kind, guest).await).await;
    let paused = state().await;
    assert!(b.world(|w| w.guests[&number].paused));
    if kind == QEMU {
        assert_eq!(paused.qmpstatus.as_deref(), Some("paused"));
    }
    b.run(&name("resume"), async |c| c.resume(kind, guest).await).await;
    assert!(!b.world(|w| w.guests[&number].paused));
    b.run(&name("reboot"), async |c| c.reboot(kind, guest, Some(Duration::from_secs(60))).await).await;
    assert_eq!(state().await.status, RunState::Running);
    // One that does not listen.
    b.world(|w| w.guests.get_mut(&number).unwrap().deaf = true);
    let ask = Shutdown::new().timeout(Duration::from_secs(60));
    let text = b.fails(&name("shutdown"), async |c| c.shutdown(kind, guest, ask).await).await;
    assert!(b.runs(number), "{text}");
    b.unsent(async |c| c.shutdown(kind, guest, Shutdown::new().timeout(Duration::MAX)).await).await;
    b.run(&name("shutdown"), async |c| c.shutdown(kind, guest, ask.then_force_stop()).await).await;
    assert_eq!(state().await.status, RunState::Stopped);
    b.world(|w| w.guests.get_mut(&number).unwrap().deaf = false);
    b.run(&name("start"), async |c| c.start(kind, guest).await).await;
    b.run(&name("stop"), async |c| c.stop(kind, guest).await).await;
    let stopped = state().await;
    assert_eq!((stopped.status, stopped.pid), (RunState::Stopped, None));
    let upid = b.act.start(kind, guest).await.unwrap();
    let outcome = b.act.power_end(kind, guest, &upid, &RunState::Running, LIMIT).await;
    assert_eq!((outcome.task, outcome.guest), (TaskEnd::Ok, PowerEnd::Reached), "{kind}");
}

async fn refusals(b: &Bench) {
    // The two kinds tell of the same mistakes in different places.
    let text = b.fails("qemu start", async |c| c.start(QEMU, vmid(100)).await).await;
    assert!(text.contains("already running"), "{text}");
    let error = b.no("lxc start", async |c| c.start(LXC, vmid(200)).await).await;
    assert_eq!((error.status(), error.message()), (Some(500), Some("CT 200 already running")));
    b.run("qemu stop", async |c| c.stop(QEMU, vmid(101)).await).await;
    let error = b.no("lxc stop", async |c| c.stop(LXC, vmid(201)).await).await;
    assert_eq!(error.message(), Some("CT 201 not running"));
    b.run("qemu reset", async |c| c.reset(vmid(100)).await).await;
    let error = b.no("qemu reset", async |c| c.reset(vmid(101)).await).await;
    assert_eq!(error.message(), Some("VM 101 not running"));
    for kind in [QEMU, LXC] {
        let upid = b.act.start(kind, vmid(999)).await.unwrap();
        assert!(matches!(b.act.wait_task(&upid, LIMIT).await, TaskEnd::Failed { .. }));
        let error = b.act.guest_status(kind, vmid(999)).await.unwrap_err();
        assert_eq!((error.class(), error.status()), (ErrorClass::NotFound, Some(500)));
    }
}

/// The task of a guest under HA ends when the wish is filed; the guest changes later.
async fn managed(b: &Bench) {
    for (kind, number, running) in [(QEMU, 101, false), (LXC, 200, true)] {
        let guest = vmid(number);
        let (now, other, task) = match running {
            true => (RunState::Running, RunState::Stopped, "hastop"),
            false => (RunState::Stopped, RunState::Running, "hastart"),
        };
        b.world(|w| w.ha.insert(number, HaResource::new(if running { "started" } else { "stopped" })));
        b.world(|w| w.cluster.ha_delay = Duration::from_secs(3600));
        let upid = match running {
            true => b.act.shutdown(kind, guest, Shutdown::new()).await.unwrap(),
            false => b.act.start(kind, guest).await.unwrap(),
        };
        assert_eq!(upid.task_type(), task);
        assert_eq!(b.act.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
        let status = b.act.guest_status(kind, guest).await.unwrap();
        assert_eq!((&status.status, status.ha.unwrap().managed), (&now, Some(true)), "not yet");
        let still = b.act.follow_power(kind, guest, &other, Duration::ZERO).await;
        assert_eq!(still, PowerEnd::Still { state: now });
        b.world(|w| w.cluster.ha_delay = Duration::from_millis(5));
        let upid = match running {
            true => b.act.stop(kind, guest).await.unwrap(),
            false => b.act.start(kind, guest).await.unwrap(),
        };
        let outcome = b.act.power_end(kind, guest, &upid, &other, LIMIT).await;
        assert_eq!((outcome.task, outcome.guest), (TaskEnd::Ok, PowerEnd::Reached));
        assert_eq!(b.runs(number), !running);
    }
    let status = b.by(&b.report, "ha status", async |c| c.ha_status().await).await;
    let service = status.iter().find(|entry| entry.vmid() == Some(vmid(101))).unwrap();
    assert_eq!((service.state.as_deref(), service.node.as_deref()), (Some("started"), Some("pve1")));
    assert!(status.iter().any(|entry| entry.kind.as_deref() == Some("quorum")));
    let resources = b.by(&b.report, "ha resources", async |c| c.ha_resources().await).await;
    let found: Vec<_> =
        resources.iter().map(|r| (r.vmid().unwrap().get(), r.state.clone().unwrap())).collect();
    assert_eq!(found, [(101, "started".to_owned()), (200, "stopped".to_owned())]);
    b.world(|w| w.ha.clear());
}

/// A guest that is on another node now is found there.
async fn elsewhere(b: &Bench) {
    b.world(|w| {
        w.add_peer("pve2", true);
        let guest = w.guests[&101].clone();
        w.peers.get_mut("pve2").unwrap().world.guests.insert(150, guest);
    });
    let end = b.act.follow_power(QEMU, vmid(150), &RunState::Running, Duration::ZERO).await;
    assert_eq!(end, PowerEnd::Reached);
    let rows = b.act.cluster_resources().await.unwrap();
    let row = rows.iter().find(|row| row.kind == ResourceKind::Qemu && row.vmid == Some(vmid(150))).unwrap();
    assert_eq!(row.node.as_deref(), Some("pve2"));
    let there = b.act.clone().with_node("pve2".parse().unwrap());
    let upid = there.stop(QEMU, vmid(150)).await.unwrap();
    assert_eq!((upid.node(), there.wait_task(&upid, LIMIT).await), ("pve2", TaskEnd::Ok));
    // Asked of any node, a task is looked for where it runs.
    assert_eq!(b.act.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    b.world(|w| w.peers.clear());
}

async fn agent(b: &Bench) {
    let guest = vmid(100);
    let error = b.admin.agent_ping(guest).await.unwrap_err();
    assert_eq!(error.message(), Some("No QEMU guest agent configured"));
    let digest = b.act.guest_config(QEMU, guest).await.unwrap().digest;
    let on = ConfigChange::new(&digest).set("agent", "1");
    b.act.change_config_now(QEMU, guest, &on).await.unwrap();
    let upid = b.act.stop(QEMU, guest).await.unwrap();
    b.act.wait_task(&upid, LIMIT).await;
    let upid = b.act.start(QEMU, guest).await.unwrap();
    b.act.wait_task(&upid, LIMIT).await;
    assert_eq!(
        b.admin.agent_ping(guest).await.unwrap_err().message(),
        Some("QEMU guest agent is not running")
    );
    b.world(|w| w.guests.get_mut(&100).unwrap().agent = Some(Agent::default()));
    b.by(&b.admin, "qemu agent ping", async |c| c.agent_ping(guest).await).await;
    b.unsent(async |c| c.agent_exec(guest, &[], None).await).await;
    b.unsent(async |c| c.agent_exec(guest, &["", "x"], None).await).await;
    let run = async |words: &[&str], input: Option<&str>| {
        let pid = b.by(&b.admin, "qemu agent exec", async |c| c.agent_exec(guest, words, input).await).await;
        b.by(&b.admin, "qemu agent exec-status", async |c| c.agent_exec_status(guest, pid).await).await
    };
    let told = run(&["/bin/echo", "a b", "c;d"], Some("in=1&x\nä")).await;
    assert_eq!((told.exited, told.exitcode, told.out.as_deref()), (Some(true), Some(0), Some("a b c;d\n")));
    assert_eq!(run(&["/bin/false"], None).await.exitcode, Some(1));
    let lost = run(&["nosuch"], None).await;
    assert_eq!((lost.exitcode, lost.err.as_deref()), (Some(127), Some("nosuch: not found\n")));
    let network = b.by(&b.admin, "qemu agent network", async |c| c.agent_network(guest).await).await;
    let card = network.iter().find(|card| card.name == "eth0").unwrap();
    let mac = b.act.guest_config(QEMU, guest).await.unwrap().macs()["net0"].clone();
    assert_eq!(card.mac.as_ref().map(|m| m.to_ascii_uppercase()), Some(mac));
    let texts: Vec<String> =
        card.addresses.iter().map(|a| format!("{}/{}", a.address, a.prefix.unwrap())).collect();
    assert_eq!(texts, Agent::default().addresses);
    let system = b.by(&b.admin, "qemu agent osinfo", async |c| c.agent_system(guest).await).await;
    assert_eq!((system.id.as_deref(), system.version_id.as_deref()), (Some("debian"), Some("13")));
    let error = b.act.agent_ping(guest).await.unwrap_err();
    let ErrorClass::Permission { path, privilege } = error.class() else { panic!("{error}") };
    assert_eq!(path, "/vms/100");
    assert_eq!(privilege.contains("VM.GuestAgent"), b.is_9(), "{privilege}");

    b.world(|w| {
        let container = w.guests.get_mut(&200).unwrap();
        container.addresses = vec!["192.0.2.40/24".to_owned(), "2001:db8::40/64".to_owned()];
    });
    let upid = b.act.start(LXC, vmid(200)).await.unwrap();
    b.act.wait_task(&upid, LIMIT).await;
    let cards = b.ok("lxc interfaces", async |c| c.container_interfaces(vmid(200)).await).await;
    let card = cards.iter().find(|card| card.name == "eth0").unwrap();
    assert!(
        card.mac.is_some()
            && card.addresses.iter().any(|a| a.address == "192.0.2.40" && a.prefix == Some(24)),
        "{cards:?}"
    );
}

async fn consoles(b: &Bench) {
    b.world(|w| w.guests.get_mut(&100).unwrap().config.insert("serial0".into(), "socket".into()));
    for (kind, number) in [(QEMU, 100), (LXC, 200)] {
        let guest = vmid(number);
        let screen =
            b.by(&b.admin, &format!("{kind} vncproxy"), async |c| c.vnc_ticket(kind, guest).await).await;
        assert_eq!(screen.password.is_some(), kind == QEMU);
        assert!(screen.cert.as_ref().unwrap().starts_with("-----BEGIN CERTIFICATE"));
        let text = b
            .by(&b.admin, &format!("{kind} termproxy"), async |c| c.terminal_ticket(kind, guest).await)
            .await;
        assert_eq!((text.user.as_str(), text.upid.user()), ("root@pam!all", "root@pam!all"));
        assert!((5900..6000).contains(&text.port) && text.ticket.starts_with("PVEVNC:"));
        let before = b.sim.requests().len();
        let socket = b.admin.console_socket(kind, guest, &text);
        let start = format!(
            "wss://{}/api2/json/nodes/pve1/{kind}/{number}/vncwebsocket?port={}&vncticket=PVEVNC%3A",
            b.sim.addr(),
            text.port
        );
        assert!(socket.url().starts_with(&start), "{}", socket.url());
        assert_eq!(
            socket.header(),
            ("Authorization", format!("PVEAPIToken={}", b.sim.token("root@pam!all")).as_str())
        );
        assert_eq!(b.sim.requests().len(), before, "nothing is sent");
        assert!(!format!("{text:?}{socket:?}").contains("PVEVNC"));
    }
    let error = b.admin.terminal_ticket(QEMU, vmid(101)).await.unwrap_err();
    assert_eq!(error.message(), Some("unable to find a serial interface"));
}
