//! Hostile and mistaken requests to every call on a guest.

use super::Bench;

/// Method and path below a guest of every call with an effect.
const CALLS: [(&str, &str); 22] = [
    ("PUT", "config"),
    ("POST", "clone"),
    ("POST", "template"),
    ("PUT", "resize"),
    ("POST", "migrate"),
    ("POST", "vncproxy"),
    ("POST", "termproxy"),
    ("POST", "status/start"),
    ("POST", "status/stop"),
    ("POST", "status/shutdown"),
    ("POST", "status/reboot"),
    ("POST", "status/suspend"),
    ("POST", "status/resume"),
    ("POST", "snapshot"),
    ("POST", "snapshot/s1/rollback"),
    ("DELETE", "snapshot/s1"),
    ("PUT", "snapshot/s1/config"),
    ("DELETE", ""),
    ("GET", "config"),
    ("GET", "pending"),
    ("GET", "status/current"),
    ("GET", "feature"),
];

#[tokio::test]
async fn rights_come_before_existence() {
    let mut bench = Bench::demo().await;
    bench.token = bench.sim.token("writ@pve!noacl");
    for kind in ["qemu", "lxc"] {
        for (method, path) in CALLS {
            for vmid in ["100", "999"] {
                let answer = bench.call(method, &format!("/{kind}/{vmid}/{path}"), &[]).await;
                assert_eq!(answer.status, 403, "{method} {kind} {path}: {answer:?}");
                assert!(
                    answer.reason.starts_with(&format!("Permission check failed (/vms/{vmid}, ")),
                    "{answer:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn nonsense_is_a_400_and_never_an_effect() {
    let bench = Bench::with(|w| Bench::allow(w, &["VM.Console", "VM.Migrate"])).await;
    let before = bench.world(|w| w.tasks.all.len());
    for kind in ["qemu", "lxc"] {
        for (method, path) in CALLS {
            let unknown =
                bench.call(method, &format!("/{kind}/100/{path}"), &[("no such", "\u{0}'\"")]).await;
            unknown.is_about("no such", "not defined in schema");
            for vmid in ["abc", "99", "-1", "1000000000", "%00"] {
                let bad = bench.call(method, &format!("/{kind}/{vmid}/{path}"), &[]).await;
                assert_eq!(bad.status, 400, "{method} {kind}/{vmid}/{path}: {bad:?}");
            }
        }
    }
    bench.world(|w| {
        assert_eq!(w.tasks.all.len(), before);
        assert_eq!(w.guests.len(), 5);
    });
}

#[tokio::test]
async fn the_wrong_kind_is_not_there() {
    let bench = Bench::demo().await;
    for (path, file) in [("qemu/200", "qemu-server/200"), ("lxc/100", "lxc/100")] {
        for call in ["config", "status/current", "pending", "snapshot"] {
            let answer = bench.call("GET", &format!("/{path}/{call}"), &[]).await;
            answer.is(500, &format!("Configuration file 'nodes/pve1/{file}.conf' does not exist"));
        }
        let gone = bench.call("DELETE", &format!("/{path}"), &[]).await;
        gone.is(500, &format!("Configuration file 'nodes/pve1/{file}.conf' does not exist"));
    }
    for (method, path) in [
        ("POST", "lxc/200/config"),
        ("POST", "lxc/200/agent/ping"),
        ("PUT", "lxc/200/unlink"),
        ("POST", "lxc/200/move_disk"),
        ("POST", "qemu/100/move_volume"),
        ("PATCH", "qemu/100"),
    ] {
        assert_eq!(bench.call(method, &format!("/{path}"), &[]).await.status, 501, "{method} {path}");
    }
}

#[tokio::test]
async fn absurd_numbers_break_nothing() {
    let bench = Bench::demo().await;
    let most = i64::MAX.to_string();
    let params = [("cores", most.as_str()), ("sockets", &most), ("memory", &most)];
    bench.call("PUT", "/qemu/101/config", &params).await.data();
    bench.ok("POST", "/qemu/101/status/start", &[]).await;
    bench.get("/qemu/101/status/current").await;
    bench.ok("POST", "/qemu/101/snapshot", &[("snapname", "s1"), ("vmstate", "1")]).await;
    let more = bench.call("PUT", "/qemu/101/config", &[("balloon", "9223372036854775808")]).await;
    more.is_about("balloon", "'integer'");
    let disk = format!("local-lvm:{}", "9".repeat(300));
    assert_eq!(bench.call("PUT", "/qemu/101/config", &[("scsi1", &disk)]).await.status, 500);
    for size in ["+99999999T", "18446744073709551615", &format!("{}T", "9".repeat(300))] {
        let answer = bench.call("PUT", "/qemu/102/resize", &[("disk", "scsi0"), ("size", size)]).await;
        assert_eq!(answer.status, 500, "{size}");
    }
    let twice = bench.call("PUT", "/qemu/101/config", &[("tags", "a"), ("tags", "b")]).await;
    twice.is_about("tags", "ARRAY");
    bench.get("/qemu/101/config").await;
}
