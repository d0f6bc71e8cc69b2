//! What is read before anything is changed, and what forbids the test.

use std::collections::BTreeSet;

use proxmox_client::{
    ApiError, Client, ErrorClass, GuestConfig, GuestKind, GuestStatus, NodeName, PendingOption, ResourceKind,
    RunState, SnapshotList, StorageStatus, TaskEntry, TaskFilter, TaskSource, Upid, Vmid,
};

use super::marks::another;
use super::steps::{World, busy};
use super::{Guest, PREFIX};
use crate::selftest::read::words;
use crate::selftest::report::{count, percent};
use crate::selftest::{Check, Findings, Verdict};

/// So many tasks of a guest are known before the test.
const KNOWN_TASKS: u32 = 500;
/// A snapshot on a storage that runs full corrupts guests (`pve/facts.md` 6.7).
const FULL: u64 = 95;

/// Why it does not go on. Nothing was changed so far.
#[derive(Debug)]
pub(super) struct Stop {
    checks: Vec<Check>,
    verdict: Verdict,
}

impl Stop {
    fn refused(check: Check) -> Self {
        Self { checks: vec![check], verdict: Verdict::Refused }
    }

    fn unread(name: &'static str, error: &ApiError) -> Self {
        let check = Check::fail(name, format!("nothing was changed, because of {}", words(error)));
        Self { checks: vec![check], verdict: Verdict::Failed }
    }

    pub(super) fn tell(self, findings: &mut Findings<'_>) -> Verdict {
        self.checks.into_iter().for_each(|check| findings.push(check));
        self.verdict
    }
}

/// A guest, and a client for its node.
pub(super) struct Found {
    pub(super) client: Client,
    pub(super) node: NodeName,
    pub(super) kind: GuestKind,
    /// The guest's name.
    pub(super) title: Option<String>,
}

/// Where the guest is; in a cluster any node may be asked.
pub(super) async fn find(client: Client, wanted: Option<&NodeName>, vmid: Vmid) -> Result<Found, Stop> {
    let resources = client.cluster_resources().await.map_err(|error| Stop::unread("guest", &error))?;
    let found = resources.into_iter().find_map(|entry| {
        let kind = match entry.kind {
            ResourceKind::Qemu => GuestKind::Qemu,
            ResourceKind::Lxc => GuestKind::Lxc,
            _ => return None,
        };
        let node: NodeName = entry.node?.parse().ok()?;
        (entry.vmid == Some(vmid)).then_some((kind, node, entry.name))
    });
    let Some((kind, node, title)) = found else {
        let text = format!("there is no guest {vmid}, or {} may not see it", client.identity());
        return Err(Stop::refused(
            Check::fail("guest", text).with(format!("Correct the number, or grant VM.Audit on /vms/{vmid}.")),
        ));
    };
    if let Some(wanted) = wanted.filter(|wanted| **wanted != node) {
        let text = format!("guest {vmid} is on {node}, not on {wanted}");
        return Err(Stop::refused(
            Check::fail("guest", text).with(format!("Say --node {node}, or leave it away.")),
        ));
    }
    Ok(Found { client: client.with_node(node.clone()), node, kind, title })
}

/// The guest as it was.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) ran: bool,
    pub(super) config: GuestConfig,
    pub(super) snapshots: SnapshotList,
    /// Tasks that are no doing of this test.
    pub(super) tasks: Vec<Upid>,
}

impl Before {
    /// The snapshot the guest descended from.
    pub(super) fn parent(&self) -> Option<&str> {
        self.snapshots.current.parent.as_deref().or(self.config.parent())
    }
}

/// What the decision is made from.
#[derive(Debug)]
struct Facts {
    status: GuestStatus,
    config: GuestConfig,
    snapshots: SnapshotList,
    feature: bool,
    /// Running ones.
    tasks: Vec<TaskEntry>,
    /// Options that wait for the next start; unknown on a version without that list.
    pending: Option<Vec<String>>,
    /// The privileges on the guest; unknown if they could not be read.
    rights: Option<BTreeSet<String>>,
    /// Unknown if they could not be read.
    storages: Option<Vec<StorageStatus>>,
}

/// Reads everything and decides.
pub(super) async fn look(
    guest: &Guest,
    allow_stop: bool,
    findings: &mut Findings<'_>,
) -> Result<Before, Stop> {
    let Guest { client, kind, vmid, .. } = guest;
    let (kind, vmid) = (*kind, *vmid);
    let status = client.guest_status(kind, vmid).await.map_err(|error| Stop::unread("guest", &error))?;
    let config = client.guest_config(kind, vmid).await.map_err(|error| Stop::unread("config", &error))?;
    let snapshots = client.snapshots(kind, vmid).await.map_err(|error| Stop::unread("snapshots", &error))?;
    let feature =
        client.feature_snapshot(kind, vmid).await.map_err(|error| Stop::unread("feature", &error))?;
    let filter = TaskFilter {
        source: TaskSource::All,
        vmid: Some(vmid),
        limit: Some(KNOWN_TASKS),
        ..TaskFilter::default()
    };
    let tasks = client.tasks(&filter).await.map_err(|error| Stop::unread("tasks", &error))?;
    let pending = match client.guest_pending(kind, vmid).await {
        Ok(options) => {
            let waiting = options.into_iter().filter(PendingOption::is_pending);
            Some(waiting.map(|option| option.key).collect::<Vec<_>>())
        }
        Err(error) if error.class() == ErrorClass::NoSuchMethod => None,
        Err(error) => {
            let text = "refused: the changes that wait for its next start cannot be read, and a rollback would lose them";
            let check = Check::fail("pending", format!("{text}: {}", words(&error)));
            return Err(Stop::refused(check.with("Try again, or take another guest.")));
        }
    };
    let path = format!("/vms/{vmid}");
    let rights = client.permissions_on(&path).await.ok();
    let rights = rights.map(|found| found.into_keys().collect());
    let storages = client.storage_list().await.ok();
    doubts(&config, storages.as_deref()).into_iter().for_each(|check| findings.push(check));
    let known = tasks.iter().map(|task| task.upid.clone()).collect();
    let running = tasks.into_iter().filter(TaskEntry::is_running).collect();
    let facts = Facts { status, config, snapshots, feature, tasks: running, pending, rights, storages };
    let checks = forbids(&facts, allow_stop);
    if !checks.is_empty() {
        return Err(Stop { checks, verdict: Verdict::Refused });
    }
    let ran = facts.status.status == RunState::Running;
    findings.push(Check::ok(
        "guest",
        format!(
            "{}, {}, {}, digest {}",
            guest.label(),
            if ran { "running" } else { "stopped" },
            count(facts.snapshots.snapshots.len(), "snapshot"),
            facts.config.digest
        ),
    ));
    Ok(Before { ran, config: facts.config, snapshots: facts.snapshots, tasks: known })
}

/// Looks once more, just before the first change: what came in between is seen here, and what comes now is
/// seen beside the own snapshot.
pub(super) async fn still(guest: &Guest, before: &Before) -> Result<(), Stop> {
    let no = |name, why: String, remedy: &str| {
        Err(Stop::refused(Check::fail(name, format!("refused: {why}")).with(remedy)))
    };
    let world = World::read(guest).await.map_err(|error| Stop::unread("guest", &error))?;
    let task = busy(guest).await.map_err(|error| Stop::unread("tasks", &error))?;
    if let Some(upid) = task {
        return no("tasks", format!("a task of it has begun: {upid}"), "Wait until it has ended.");
    }
    if let Some(other) = world.snapshots.snapshots.iter().find(|other| other.name.starts_with(PREFIX)) {
        return no(
            "snapshots",
            format!("another selftest has begun: {}", other.name),
            "Wait until it has ended.",
        );
    }
    if let Some(why) = another(&before.config, &world.config, true) {
        return no(
            "guest",
            format!("another guest has this number now: {why}"),
            "Look at it, then begin again.",
        );
    }
    if world.config.digest != before.config.digest || world.runs() != before.ran {
        return no(
            "guest",
            "somebody changed, started or stopped it a moment ago".to_owned(),
            "Begin again once nobody works on it.",
        );
    }
    Ok(())
}

/// Storages of the guest of which nobody can tell whether they run full. The list leaves out what the token
/// may not see, without a word.
fn doubts(config: &GuestConfig, storages: Option<&[StorageStatus]>) -> Vec<Check> {
    let Some(storages) = storages else {
        return vec![Check::warn(
            "storage",
            "the storages cannot be read, so nobody looked how full they are",
        )];
    };
    let doubt = |name: &str| {
        let Some(found) = storages.iter().find(|storage| storage.storage == name) else {
            let text = format!("its storage {name} is not in the list, so nobody looked whether it is full");
            return Some(Check::warn("storage", text).with(format!(
                "Look yourself (`pvesm status --storage {name}`), or grant Datastore.Audit on /storage/{name}."
            )));
        };
        let full = found.used.zip(found.total).and_then(|(used, total)| percent(used, total));
        // One that is off forbids the test.
        (full.is_none() && found.active != Some(false)).then(|| {
            let text = format!(
                "Proxmox gives no numbers for its storage {name}, so nobody knows whether it is full"
            );
            Check::warn("storage", text).with(format!("Look yourself: `pvesm status --storage {name}`."))
        })
    };
    let volumes = config.volids();
    let used: BTreeSet<&str> = volumes.values().filter_map(|volid| volid.split(':').next()).collect();
    used.into_iter().filter_map(doubt).collect()
}

/// All reasons against it, each with what to do.
fn forbids(facts: &Facts, allow_stop: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut no = |name, detail: String, remedy: &str| {
        checks.push(Check::fail(name, format!("refused: {detail}")).with(remedy));
    };
    let Facts { status, config, snapshots, .. } = facts;
    if status.template == Some(true) || config.template() {
        no("guest", "it is a template".to_owned(), "Take another guest.");
    }
    if config.protection() {
        no("guest", "it is protected".to_owned(), "Take another guest, or take its protection off.");
    }
    if status.ha.as_ref().and_then(|ha| ha.managed) == Some(true) {
        no("guest", "HA manages it and would fight a rollback".to_owned(), "Take another guest.");
    }
    if let Some(lock) = config.lock().or(status.lock.as_deref()) {
        no(
            "guest",
            format!("it is locked ({lock})"),
            "Wait until that operation has ended; root can clear a lock that a crash left (`qm unlock`, `pct unlock`).",
        );
    }
    for task in &facts.tasks {
        no("tasks", format!("a task of it is running: {}", task.upid), "Wait until it has ended.");
    }
    for snapshot in &snapshots.snapshots {
        if snapshot.name.starts_with(PREFIX) {
            no(
                "snapshots",
                format!("it has a snapshot {}: another selftest is at work, or left it", snapshot.name),
                "Wait a minute; if it stays and no task of the guest runs, delete it (`qm delsnapshot`, `pct delsnapshot`).",
            );
        } else if let Some(state) = &snapshot.snapstate {
            no(
                "snapshots",
                format!("its snapshot {} is half made or half deleted ({state})", snapshot.name),
                "Remove the leftover on the host first.",
            );
        }
    }
    if !facts.feature {
        no(
            "feature",
            "its volumes cannot be snapshotted (raw files on dir or nfs, LVM without thin pool, bind mounts)"
                .to_owned(),
            "Take another guest, on zfspool, lvmthin, btrfs, rbd, or with qcow2 disks.",
        );
    }
    // Those of a stopped guest are lost as well.
    if let Some(waiting) = facts.pending.as_ref().filter(|waiting| !waiting.is_empty()) {
        no(
            "pending",
            format!(
                "changes wait for its next start, and a rollback would lose them: {}",
                waiting.join(", ")
            ),
            "Start it, or start it anew, so that they count; or revert them.",
        );
    }
    forbids_running(facts, allow_stop, &mut no);
    if let Some(rights) = facts.rights.as_ref().filter(|rights| !rights.contains("VM.Snapshot")) {
        let detail = format!("the token lacks VM.Snapshot on it (it has {})", some(rights));
        no("permissions", detail, "See `--selftest=read --role act` with this token file for what to grant.");
    }
    let volumes = config.volids();
    let used: BTreeSet<&str> = volumes.values().filter_map(|volid| volid.split(':').next()).collect();
    for storage in facts.storages.iter().flatten().filter(|storage| used.contains(storage.storage.as_str())) {
        let full = storage.used.zip(storage.total).and_then(|(used, total)| percent(used, total));
        if storage.active == Some(false) {
            let detail = format!("its storage {} is not active", storage.storage);
            no("storage", detail, "Look at it on the host: `pvesm status`.");
        } else if let Some(full) = full.filter(|full| *full >= FULL) {
            no(
                "storage",
                format!("its storage {} is {full} % full", storage.storage),
                "Free space on it first.",
            );
        }
    }
    checks
}

fn forbids_running(facts: &Facts, allow_stop: bool, no: &mut impl FnMut(&'static str, String, &str)) {
    match &facts.status.status {
        RunState::Stopped => return,
        RunState::Other(other) => {
            return no("guest", format!("it is neither running nor stopped ({other})"), "Stop it first.");
        }
        RunState::Running => {}
    }
    if !allow_stop {
        return no(
            "guest",
            "it is running, and a rollback stops it hard".to_owned(),
            "Stop it, or say --allow-stop: it is then stopped hard, loses what it did not write, and is started again.",
        );
    }
    if let Some(state) = facts.status.qmpstatus.as_deref().filter(|state| *state != "running") {
        no("guest", format!("it is {state}, and would not be after a start"), "Resume or stop it first.");
    }
    if facts.rights.as_ref().is_none_or(|rights| !rights.contains("VM.PowerMgmt")) {
        no(
            "permissions",
            "the token may not start it again (VM.PowerMgmt), as far as it can tell".to_owned(),
            "Grant it, or stop the guest first.",
        );
    }
}

fn some(rights: &BTreeSet<String>) -> String {
    match rights.is_empty() {
        true => "nothing there".to_owned(),
        false => rights.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use proxmox_client::{HaStatus, Snapshot};

    use super::*;

    /// A configuration as the client reads it.
    async fn config_of(change: impl FnOnce(&mut pve_sim::world::World)) -> GuestConfig {
        let sim = pve_sim::Sim::start(pve_sim::SimConfig::demo()).await.unwrap();
        change(&mut sim.world().lock().unwrap());
        let pins = [format!("spki:{}", sim.pins().spki)];
        let settings =
            crate::config::ProxmoxSettings::from_parts(&sim.url(), &pins, "unused".into(), None).unwrap();
        let token = sim.token("writ@pve!act").parse().unwrap();
        let client = Client::new(settings.api, settings.pins, token).unwrap();
        client.guest_config(GuestKind::Qemu, Vmid::new(101).unwrap()).await.unwrap()
    }

    fn facts(config: GuestConfig) -> Facts {
        let status = serde_json::from_value(serde_json::json!({"vmid": 101, "status": "stopped"})).unwrap();
        let rights = ["VM.Audit", "VM.Snapshot", "VM.PowerMgmt"].map(str::to_owned);
        Facts {
            status,
            config,
            snapshots: SnapshotList::default(),
            feature: true,
            tasks: Vec::new(),
            pending: Some(Vec::new()),
            rights: Some(rights.into_iter().collect()),
            storages: Some(Vec::new()),
        }
    }

    fn snapshot(name: &str, snapstate: Option<&str>) -> Snapshot {
        Snapshot {
            name: name.to_owned(),
            snaptime: Some(1),
            parent: None,
            description: String::new(),
            vmstate: false,
            snapstate: snapstate.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn each_reason_forbids_by_itself_and_has_a_remedy() {
        let config = config_of(|_| {}).await;
        assert!(forbids(&facts(config.clone()), false).is_empty());
        type Change = fn(&mut Facts);
        let cases: &[(&str, Change)] = &[
            ("a template", |facts| facts.status.template = Some(true)),
            ("a template", |facts| drop(facts.config.raw.insert("template".to_owned(), "1".to_owned()))),
            ("protected", |facts| drop(facts.config.raw.insert("protection".to_owned(), "1".to_owned()))),
            ("HA manages", |facts| {
                facts.status.ha = Some(HaStatus { managed: Some(true), ..HaStatus::default() });
            }),
            ("locked (backup)", |facts| facts.status.lock = Some("backup".to_owned())),
            ("locked (clone)", |facts| drop(facts.config.raw.insert("lock".to_owned(), "clone".to_owned()))),
            ("lose them: memory, net1", |facts| {
                facts.pending = Some(vec!["memory".to_owned(), "net1".to_owned()]);
            }),
            ("a task of it is running", |facts| {
                let upid = "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:101:a@pve:".parse().unwrap();
                facts.tasks.push(TaskEntry { upid, endtime: None, status: None });
            }),
            ("another selftest", |facts| facts.snapshots.snapshots.push(snapshot("writ-selftest-00", None))),
            ("half made", |facts| facts.snapshots.snapshots.push(snapshot("x1", Some("prepare")))),
            ("cannot be snapshotted", |facts| facts.feature = false),
            ("is running", |facts| facts.status.status = RunState::Running),
            ("paused-ish", |facts| facts.status.status = RunState::Other("paused-ish".to_owned())),
            ("lacks VM.Snapshot", |facts| facts.rights = Some(BTreeSet::new())),
            ("is not active", |facts| {
                facts.storages = Some(vec![StorageStatus {
                    storage: "local-lvm".to_owned(),
                    active: Some(false),
                    ..StorageStatus::default()
                }]);
            }),
            ("is 96 % full", |facts| {
                facts.storages = Some(vec![StorageStatus {
                    storage: "local-lvm".to_owned(),
                    active: Some(true),
                    used: Some(96),
                    total: Some(100),
                    ..StorageStatus::default()
                }]);
            }),
        ];
        for (says, change) in cases {
            let mut facts = facts(config.clone());
            change(&mut facts);
            let checks = forbids(&facts, false);
            assert_eq!(checks.len(), 1, "{says}: {checks:?}");
            assert!(checks[0].detail.contains(says) && checks[0].remedy.is_some(), "{says}: {checks:?}");
        }
        // A storage of other guests may be as full as it likes.
        let mut other = facts(config);
        other.storages = Some(vec![StorageStatus {
            storage: "local".to_owned(),
            active: Some(false),
            ..StorageStatus::default()
        }]);
        assert!(forbids(&other, false).is_empty());
    }

    #[tokio::test]
    async fn a_running_guest_needs_more_than_a_word() {
        let mut facts = facts(config_of(|_| {}).await);
        facts.status.status = RunState::Running;
        facts.status.qmpstatus = Some("running".to_owned());
        assert!(forbids(&facts, true).is_empty());
        facts.rights = None;
        assert!(forbids(&facts, true)[0].detail.contains("VM.PowerMgmt"));
        facts.rights = Some(["VM.Snapshot".to_owned()].into());
        assert!(forbids(&facts, true)[0].detail.contains("VM.PowerMgmt"));
        facts.rights = Some(["VM.Snapshot", "VM.PowerMgmt"].map(str::to_owned).into());
        facts.status.qmpstatus = Some("paused".to_owned());
        facts.pending = Some(vec!["memory".to_owned()]);
        let checks = forbids(&facts, true);
        assert!(checks.len() == 2 && checks[0].detail.ends_with(": memory"), "{checks:?}");
    }

    #[tokio::test]
    async fn a_storage_that_nobody_can_look_at_is_told() {
        let config = config_of(|_| {}).await;
        let storage = |used, total, active| StorageStatus {
            storage: "local-lvm".to_owned(),
            used,
            total,
            active,
            ..StorageStatus::default()
        };
        assert!(doubts(&config, Some(&[storage(Some(1), Some(9), Some(true))])).is_empty());
        assert!(doubts(&config, Some(&[storage(None, None, Some(false))])).is_empty(), "that is refused");
        for (storages, says) in [
            (None, "cannot be read"),
            (Some(&[][..]), "local-lvm is not in the list"),
            (Some(&[storage(None, None, None)]), "no numbers for its storage local-lvm"),
            (Some(&[storage(Some(0), Some(0), Some(true))]), "no numbers for its storage local-lvm"),
        ] {
            let checks = doubts(&config, storages);
            assert!(checks.len() == 1 && checks[0].detail.contains(says), "{says}: {checks:?}");
        }
    }
}
