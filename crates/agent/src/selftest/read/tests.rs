use super::*;
use pve_sim::{Sim, SimConfig};
use std::path::PathBuf;

struct Bench {
    sim: Sim,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let config = SimConfig { auth_failure_delay: std::time::Duration::ZERO, ..SimConfig::demo() };
        Self { sim: Sim::start(config).await.unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn token(&self, line: &str) -> PathBuf {
        let path = self.dir.path().join("token");
        authz::files::write_atomic(&path, line.as_bytes()).unwrap();
        path
    }

    async fn run(&self, token: &str, pin: &str) -> Vec<Check> {
        let line = self.sim.token(token);
        let pins = [format!("spki:{pin}")];
        let settings = ProxmoxSettings::from_parts(&self.sim.url(), &pins, self.token(&line), None).unwrap();
        read(&settings).await
    }
}

fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.check == name).unwrap_or_else(|| panic!("no {name} in {checks:#?}"))
}

#[tokio::test]
async fn a_healthy_host_is_ok_and_nothing_is_changed() {
    let bench = Bench::new().await;
    let checks = bench.run("writ@pve!report", &bench.sim.pins().spki).await;
    assert!(checks.iter().all(|check| check.ok), "{checks:#?}");
    let names: Vec<_> = checks.iter().map(|check| check.check).collect();
    assert_eq!(
        names,
        ["token file", "pin", "version", "permissions", "node", "certificate", "storages", "guests"]
    );
    assert!(check(&checks, "permissions").seen.contains("change nothing"));
    assert!(check(&checks, "guests").seen.contains("101 db"));
    assert!(bench.sim.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn each_fault_is_named() {
    let bench = Bench::new().await;
    let spki = bench.sim.pins().spki;
    let wrong = bench.run("writ@pve!report", &"0".repeat(64)).await;
    assert!(!check(&wrong, "pin").ok && wrong.len() == 2, "{wrong:#?}");
    assert_eq!(bench.sim.requests().len(), 0, "no token was shown to the wrong key");
    let expired = bench.run("writ@pve!expired", &spki).await;
    assert!(check(&expired, "token").seen.contains("expired"), "{expired:#?}");
    let powerless = bench.run("writ@pve!noacl", &spki).await;
    let permissions = check(&powerless, "permissions");
    assert!(!permissions.ok && permissions.todo.as_ref().unwrap().contains("pveum acl modify"));
    assert!(!check(&powerless, "node").ok, "{powerless:#?}");
    let acting = bench.run("writ@pve!act", &spki).await;
    assert!(check(&acting, "permissions").seen.contains("PowerMgmt"), "{acting:#?}");
    let open = bench.token(&bench.sim.token("writ@pve!report"));
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let pins = [format!("spki:{spki}")];
    let checks = read(&ProxmoxSettings::from_parts(&bench.sim.url(), &pins, open, None).unwrap()).await;
    assert!(checks[0].seen.contains("chmod 600"), "{checks:#?}");
    let url = bench.sim.url();
    let token = bench.token(&bench.sim.token("writ@pve!report"));
    bench.sim.stop().await;
    let checks = read(&ProxmoxSettings::from_parts(&url, &pins, token, None).unwrap()).await;
    assert!(check(&checks, "api").seen.contains("cannot connect"), "{checks:#?}");
}
