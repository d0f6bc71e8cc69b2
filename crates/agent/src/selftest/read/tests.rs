use std::path::PathBuf;

use pve_sim::world::{FaultRule, Mishap, NewCertificate};
use pve_sim::{Sim, SimConfig};

use super::*;
use crate::selftest::{State, Verdict};

struct Bench {
    sim: Sim,
    dir: tempfile::TempDir,
}

/// What a run found.
struct Found {
    checks: Vec<Check>,
    verdict: Verdict,
    node: Option<String>,
    version: Option<String>,
}

impl Bench {
    async fn new() -> Self {
        let config = SimConfig { auth_failure_delay: Duration::ZERO, ..SimConfig::demo() };
        Self { sim: Sim::start(config).await.unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn token(&self, line: &str) -> PathBuf {
        let path = self.dir.path().join("token");
        authz::files::write_atomic(&path, line.as_bytes()).unwrap();
        path
    }

    fn settings(&self, token: &str, pins: &[String]) -> ProxmoxSettings {
        let file = self.token(&self.sim.token(token));
        ProxmoxSettings::from_parts(&self.sim.url(), pins, file, None).unwrap()
    }

    async fn run(&self, token: &str, role: Option<Role>) -> Found {
        let pins = self.sim.pins();
        let pins = [format!("spki:{}", pins.spki), format!("leaf:{}", "0".repeat(64))];
        run(&self.settings(token, &pins), role).await
    }
}

async fn run(settings: &ProxmoxSettings, role: Option<Role>) -> Found {
    let mut findings = Findings::default();
    read(settings, role, false, &mut findings).await;
    Found {
        verdict: findings.verdict(),
        node: findings.node.clone(),
        version: findings.version.clone(),
        checks: findings.checks().to_vec(),
    }
}

impl Found {
    fn check(&self, name: &str) -> &Check {
        let found = self.checks.iter().find(|check| check.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {:#?}", self.checks))
    }
}

#[tokio::test]
async fn a_healthy_host_is_ok_and_nothing_is_changed() {
    let bench = Bench::new().await;
    let found = bench.run("writ@pve!report", None).await;
    assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
    assert_eq!(found.node.as_deref(), Some("pve1"));
    assert!(found.version.is_some());
    for name in [
        "token file",
        "api",
        "pin",
        "clock",
        "permissions",
        "node",
        "cluster",
        "resources",
        "storage",
        "thin pools",
        "vms",
        "containers",
        "guest",
        "config",
        "snapshots",
        "tasks",
        "certificate",
        "disks",
        "smart",
        "ha",
        "replication",
    ] {
        assert!(found.check(name).passed(), "{name}");
    }
    assert!(found.check("permissions").detail.contains("change nothing"));
    assert!(found.check("vms").detail.contains("101 db (stopped)"));
    assert!(found.check("resources").detail.contains("5 guests, of which 5 on this node"));
    let pin = &found.check("pin").detail;
    assert!(
        pin.contains("(pve-ssl.pem, until ") && pin.contains("not shown: leaf:0000000000000000…"),
        "{pin}"
    );
    let offline = found.checks.iter().find(|check| check.detail.starts_with("offl ")).unwrap();
    assert!(offline.state == State::Warn && offline.detail.contains("not active"), "{offline}");
    assert_eq!(found.checks.iter().filter(|check| check.name == "storage").count(), 4);
    assert!(bench.sim.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn the_newest_task_is_read_where_there_is_one() {
    let bench = Bench::new().await;
    let settings = bench.settings("writ@pve!act", &[format!("spki:{}", bench.sim.pins().spki)]);
    let client = settings.client().unwrap();
    let vmid = "101".parse().unwrap();
    let upid =
        client.snapshot_delete(proxmox_client::GuestKind::Qemu, vmid, &"nosuch".parse().unwrap()).await;
    client.wait_task(&upid.unwrap(), Duration::from_secs(10)).await;
    let found = bench.run("writ@pve!report", None).await;
    assert!(found.check("tasks").detail.contains("qmdelsnapshot 101 by writ@pve!act"));
    assert_eq!(found.check("task status").detail, "snapshot 'nosuch' does not exist");
    assert!(found.check("task log").detail.contains("TASK ERROR"));
}

#[tokio::test]
async fn a_token_is_compared_with_its_role() {
    let bench = Bench::new().await;
    let act = bench.run("writ@pve!act", None).await;
    let seen = &act.check("permissions").detail;
    assert!(act.verdict == Verdict::Ok && seen.contains("all 16 privileges"), "{seen}");
    let report = bench.run("writ@pve!report", Some(Role::Act)).await;
    assert_eq!(report.verdict, Verdict::Failed);
    let check = report.check("permissions");
    assert!(check.detail.contains("lacks 13 of the role WritAgent: VM.PowerMgmt on /vms"), "{check}");
    // The report token has Sys.Audit on /access, so it sees that its user has the role.
    assert!(check.detail.contains("its user has all of it"), "{check}");
    assert!(
        check.remedy.as_deref().unwrap().contains("--tokens 'writ@pve!report' --roles WritAgent"),
        "{check}"
    );
    let as_report = bench.run("writ@pve!act", Some(Role::Report)).await;
    assert_eq!(as_report.check("permissions").state, State::Warn);
}

#[tokio::test]
async fn a_token_without_rights_gets_a_line_for_each_thing() {
    let bench = Bench::new().await;
    let found = bench.run("writ@pve!noacl", None).await;
    assert_eq!(found.verdict, Verdict::Failed);
    let permissions = found.check("permissions");
    let remedy = permissions.remedy.as_deref().unwrap();
    assert_eq!(
        remedy,
        "pveum acl modify / --users 'writ@pve' --roles PVEAuditor\npveum acl modify / --tokens 'writ@pve!noacl' --roles PVEAuditor"
    );
    for (name, privilege) in [("node", "Sys.Audit on /nodes/pve1"), ("thin pools", "Sys.Audit on /")] {
        let check = found.check(name);
        assert!(!check.passed() && check.detail.contains(privilege), "{check}");
    }
    let again = found.checks.iter().filter(|check| check.remedy.as_deref() == Some(remedy)).count();
    assert_eq!(again, 1, "the lines that grant it are said once: {:#?}", found.checks);
    // Lists are filtered silently, so empty ones are no failure of their own.
    assert!(found.check("vms").passed() && found.check("certificate").passed(), "it went on to the end");
}

#[tokio::test]
async fn a_part_that_is_refused_stops_nothing() {
    let bench = Bench::new().await;
    {
        let world = bench.sim.world();
        let access = &mut world.lock().unwrap().access;
        access.acl.retain(|entry| entry.who.to_string() != "writ@pve!report");
        access.grant("/", "writ@pve!report", "PVEAuditor");
        access.grant("/vms/200", "writ@pve!report", "NoAccess");
        access.grant("/storage", "writ@pve!report", "NoAccess");
    }
    let found = bench.run("writ@pve!report", None).await;
    let permissions = found.check("permissions");
    assert!(permissions.detail.contains("Datastore.Audit on /storage (for storages)"), "{permissions}");
    assert!(!permissions.detail.contains("VM.Audit"), "{permissions}");
    assert!(found.check("storage").detail.contains("none that the token may see"));
    assert!(found.check("containers").detail.contains("201 mail"));
    assert!(found.check("snapshots").passed());
}

#[tokio::test]
async fn no_guests_at_all_is_well() {
    let bench = Bench::new().await;
    bench.sim.world().lock().unwrap().guests.clear();
    let found = bench.run("writ@pve!report", None).await;
    assert_eq!(found.verdict, Verdict::Ok, "{:#?}", found.checks);
    assert!(found.check("guest").detail.contains("none on this node"));
}

#[tokio::test]
async fn each_fault_of_the_connection_is_named() {
    let bench = Bench::new().await;
    let spki = [format!("spki:{}", bench.sim.pins().spki)];
    let wrong = run(&bench.settings("writ@pve!report", &[format!("spki:{}", "0".repeat(64))]), None).await;
    assert!(!wrong.check("pin").passed() && wrong.checks.len() == 2, "{:#?}", wrong.checks);
    assert_eq!(bench.sim.requests().len(), 0, "no token was shown to the wrong key");
    let expired = bench.run("writ@pve!expired", None).await;
    assert!(expired.check("token").detail.contains("expired"), "{:#?}", expired.checks);
    let settings = bench.settings("writ@pve!report", &spki);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&settings.token_file, mode).unwrap();
    let open = run(&settings, None).await;
    assert!(open.checks[0].detail.contains("chmod 600"), "{:#?}", open.checks);
    let settings = bench.settings("writ@pve!report", &spki);
    bench.sim.stop().await;
    let gone = run(&settings, None).await;
    assert!(gone.check("api").detail.contains("cannot connect"), "{:#?}", gone.checks);
}

/// Only "it is not here" is well; another refusal of the same status is not.
#[tokio::test]
async fn a_500_is_a_warning_with_its_text() {
    let bench = Bench::new().await;
    let cases = [
        ("/disks/list", "disks", "got timeout", State::Warn),
        ("/disks/smart", "smart", "malformed JSON string, neither tag nor array", State::Warn),
        ("/disks/smart", "smart", "Error getting S.M.A.R.T. data: Exit code: 2", State::Ok),
        ("/replication", "replication", "unable to read jobs", State::Warn),
        ("/cluster/ha", "ha", "unable to read lrm status", State::Warn),
    ];
    for (path, name, text, state) in cases {
        let fault = Mishap::Error { text: text.to_owned() };
        bench.sim.fault(FaultRule::new(fault).contains(path)).unwrap();
        let found = bench.run("writ@pve!report", None).await;
        let check = found.check(name);
        assert!(check.state == state && check.detail.contains(text), "{path}: {check}");
    }
    assert!(is_not_here_text("command '/sbin/vgs' failed: failed to execute: No such file or directory"));
    assert!(!is_not_here_text("got timeout") && !is_not_here_text(""));
    assert!(!is_not_here_text("unable to open file '/etc/pve/x': No such file or directory"));
}

/// A node of a cluster is known by its certificate where the token may not ask.
#[tokio::test]
async fn the_node_of_a_cluster_is_found_or_asked_for_once() {
    let bench = Bench::new().await;
    {
        let world = bench.sim.world();
        let mut world = world.lock().unwrap();
        world.add_peer("pve2", true);
        // Each node has a certificate of its own.
        world.peers.get_mut("pve2").unwrap().world.fingerprint = ["11"; 32].join(":");
    }
    let found = bench.run("writ@pve!noacl", None).await;
    assert_eq!(found.node.as_deref(), Some("pve1"), "{:#?}", found.checks);
    assert!(found.check("node").detail.contains("known by its certificate only"), "{:#?}", found.checks);
    let audits = bench.run("writ@pve!report", None).await;
    assert!(audits.verdict == Verdict::Ok && audits.check("node").state == State::Ok, "{:#?}", audits.checks);

    let named = |name: &str| {
        let spki = [format!("spki:{}", bench.sim.pins().spki)];
        let mut settings = bench.settings("writ@pve!report", &spki);
        settings.node = Some(name.parse().unwrap());
        settings
    };
    let unknown = run(&named("pve9"), None).await;
    let failed: Vec<&Check> = unknown.checks.iter().filter(|check| !check.passed()).collect();
    assert!(failed.len() == 1 && failed[0].detail.contains("no node pve9"), "{:#?}", unknown.checks);
    assert!(failed[0].remedy.as_deref().unwrap().contains("--node NAME"), "{:#?}", failed[0]);
    for left_out in ["clock", "storage", "vms", "disks", "certificate", "replication"] {
        assert!(unknown.checks.iter().all(|check| check.name != left_out), "{left_out}");
    }
    assert!(unknown.check("cluster").passed() && unknown.check("ha").passed());

    // Nobody lists the certificate that was shown.
    bench.sim.world().lock().unwrap().fingerprint = ["00"; 32].join(":");
    let lost = bench.run("writ@pve!noacl", None).await;
    let about = lost.checks.iter().filter(|check| check.name == "node").collect::<Vec<_>>();
    assert!(
        about.len() == 1 && about[0].remedy.as_deref() == Some("Name the node: --node NAME."),
        "{about:?}"
    );
}

#[tokio::test]
async fn another_certificate_ends_it_with_one_sentence() {
    for given in [true, false] {
        let bench = Bench::new().await;
        let swap = Mishap::Certificate { new: NewCertificate::NewKey };
        bench.sim.fault(FaultRule::new(swap).contains("/access/permissions")).unwrap();
        // What is already connected stays so; the next connection sees it.
        let close = Mishap::Reset { handled: false };
        bench.sim.fault(FaultRule::new(close).contains("/cluster/status")).unwrap();
        let spki = [format!("spki:{}", bench.sim.pins().spki)];
        let mut findings = Findings::default();
        findings.pins_given = given;
        read(&bench.settings("writ@pve!report", &spki), None, false, &mut findings).await;
        let said: Vec<&Check> =
            findings.checks().iter().filter(|check| check.detail.contains("presented leaf:")).collect();
        assert_eq!(said.len(), 1, "{:#?}", findings.checks());
        assert_eq!(said[0].detail.contains("`sed "), !given, "{}", said[0].detail);
        assert_eq!(findings.checks().last(), Some(said[0]), "it is the last one");
    }
}

/// Read as Proxmox's smaller answers: rights on one guest, or in a pool, and only templates.
#[tokio::test]
async fn narrow_tokens_and_templates_come_to_an_end() {
    let bench = Bench::new().await;
    {
        let world = bench.sim.world();
        let mut world = world.lock().unwrap();
        world.access.grant("/vms/101", "writ@pve!noacl", "WritAgent");
        world.access.grant("/pool/x", "writ@pve!noacl", "WritAgent");
        for guest in world.guests.values_mut() {
            guest.running = None;
            guest.config.insert("template".to_owned(), 1.into());
        }
    }
    let found = bench.run("writ@pve!noacl", None).await;
    assert!(found.check("vms").detail.contains("101 db"), "{:#?}", found.checks);
    assert!(found.check("config").passed() && found.check("replication").passed());
}

#[test]
fn clocks_may_differ_by_five_seconds() {
    let judge = |node, took| judge_clock(node, 1_000, Duration::from_secs(took));
    for (node, took, state) in [
        (1_000, 0, State::Ok),
        (1_005, 0, State::Ok),
        (995, 0, State::Ok),
        (1_006, 0, State::Warn),
        (994, 0, State::Warn),
        // Within ten seconds of waiting the answer may have been made at any of them.
        (1_010, 10, State::Ok),
        (1_000, 10, State::Ok),
        (1_017, 10, State::Warn),
    ] {
        assert_eq!(judge(node, took).state, state, "{node} after {took} s");
    }
    assert!(judge(1_100, 0).detail.contains("100 s ahead of"));
    assert!(judge(900, 0).detail.contains("100 s behind"));
    assert!(judge(u64::MAX, 0).state == State::Warn && judge(0, 0).state == State::Warn);
}
