//! What the node says of itself, its cluster, storages, certificates and disks.

use proxmox_client::{
    ApiError, CertificateInfo, Disk, ErrorClass, Resource, ResourceKind, StorageStatus, ThinPool,
};

use super::Seen;
use super::place::Found;
use crate::selftest::report::{count, day, percent, size, some_of};
use crate::selftest::{Check, Findings};
use crate::unix_now;

/// Percent from which a storage or pool is worth a look.
const FULL: u64 = 90;
const DAY: u64 = 86_400;
/// Proxmox renews its own certificate in the last 14 days (`pve/facts.md` 11.3), ACME in the last 30.
const RENEWED_BY: u64 = 13 * DAY;

/// Name, version and kernel.
pub(super) async fn node(seen: &Seen<'_>, found: &Found, findings: &mut Findings<'_>) {
    let name = found.name.to_string();
    findings.node = Some(name.clone());
    if found.by_certificate {
        findings.push(
            Check::warn(
                "node",
                format!("{name}, known by its certificate only: the token may not ask which node answers"),
            )
            .with(format!(
                "A configuration has to name it (node = \"{name}\"), or the token needs Sys.Audit on /."
            )),
        );
    }
    findings.push(match seen.client.node_status().await {
        Err(error) => seen.needed("node", &error),
        Ok(status) => {
            let mut words = vec![name];
            words.extend(status.pveversion);
            words.extend(
                status.current_kernel.release.or(status.kversion).map(|kernel| format!("kernel {kernel}")),
            );
            words.extend(status.uptime.map(|seconds| format!("up {} h", seconds / 3600)));
            words.extend(status.memory.total.map(|bytes| format!("{} memory", size(bytes))));
            Check::ok("node", words.join(", "))
        }
    });
}

/// All nodes, quorum, and everything the token sees. How many guests it sees on this node.
pub(super) async fn cluster(seen: &Seen<'_>, findings: &mut Findings<'_>) -> Option<usize> {
    findings.push(match seen.client.cluster_status().await {
        Err(error) => seen.needed("cluster", &error),
        Ok(entries) => {
            let is =
                |kind: &'static str| entries.iter().filter(move |entry| entry.kind.as_deref() == Some(kind));
            let offline: Vec<String> = is("node")
                .filter(|entry| entry.online == Some(false))
                .filter_map(|entry| entry.name.clone())
                .collect();
            match is("cluster").next() {
                None => Check::ok("cluster", "none, a single node"),
                Some(cluster) if cluster.quorate == Some(false) => {
                    Check::warn("cluster", "no quorum: reading works, changing does not")
                        .with("Bring the other nodes back (`pvecm status`).")
                }
                Some(cluster) => {
                    let name = cluster.name.as_deref().unwrap_or("without a name");
                    let nodes = count(is("node").count(), "node");
                    match offline.is_empty() {
                        true => Check::ok("cluster", format!("{name}, {nodes}, quorate")),
                        false => Check::warn("cluster", format!("{name}, offline: {}", some_of(&offline))),
                    }
                }
            }
        }
    });
    if seen.over() {
        return None;
    }
    match seen.client.cluster_resources().await {
        Err(error) => {
            findings.push(seen.needed("resources", &error));
            None
        }
        Ok(resources) => {
            let guests = guests_of(&resources);
            let here = guests.iter().filter(|guest| guest.node == findings.node).count();
            let of = |kind: &ResourceKind, what: &str| {
                count(resources.iter().filter(|entry| entry.kind == *kind).count(), what)
            };
            let on_this = match findings.node {
                Some(_) => format!(", of which {here} on this node"),
                None => String::new(),
            };
            findings.push(Check::ok(
                "resources",
                format!(
                    "{}, {}, {}{on_this}",
                    of(&ResourceKind::Node, "node"),
                    of(&ResourceKind::Storage, "storage"),
                    count(guests.len(), "guest")
                ),
            ));
            Some(here)
        }
    }
}

fn guests_of(resources: &[Resource]) -> Vec<&Resource> {
    resources.iter().filter(|entry| matches!(entry.kind, ResourceKind::Qemu | ResourceKind::Lxc)).collect()
}

/// A line for each storage, and the thin pools.
pub(super) async fn storages(seen: &Seen<'_>, findings: &mut Findings<'_>) {
    match seen.client.storage_list().await {
        Err(error) => findings.push(seen.needed("storage", &error)),
        Ok(list) if list.is_empty() => findings.push(
            Check::warn("storage", "none that the token may see")
                .with("If there is one, the token lacks Datastore.Audit on /storage; see `permissions`."),
        ),
        Ok(mut list) => {
            list.sort_by(|a, b| a.storage.cmp(&b.storage));
            list.iter().for_each(|storage| findings.push(judge_storage(storage)));
        }
    }
    if seen.over() {
        return;
    }
    findings.push(match seen.client.lvmthin().await {
        Err(error) => match error.class() {
            ErrorClass::Permission { .. } => seen.needed("thin pools", &error),
            _ => seen.useful("thin pools", &error),
        },
        Ok(pools) => judge_pools(&pools),
    });
}

fn judge_storage(storage: &StorageStatus) -> Check {
    let kind = storage.plugin.as_deref().unwrap_or("of an unknown kind");
    let content = storage.content.as_deref().filter(|text| !text.is_empty()).unwrap_or("nothing");
    let name = format!("{} ({kind}, for {content})", storage.storage);
    if storage.enabled == Some(false) {
        return Check::ok("storage", format!("{name}: disabled"));
    }
    if storage.active != Some(true) {
        return Check::warn("storage", format!("{name}: not active, so what lies on it cannot be reached"))
            .with("Look at it on the host: `pvesm status`.");
    }
    match storage.used.zip(storage.total).and_then(|(used, total)| Some((percent(used, total)?, total))) {
        None => Check::ok("storage", format!("{name}: active, Proxmox gives no numbers")),
        Some((full, total)) => {
            let fill = format!("{name}: active, {full} % of {} used", size(total));
            if full >= FULL {
                Check::warn("storage", fill).with("Free space on it.")
            } else {
                Check::ok("storage", fill)
            }
        }
    }
}

/// A pool whose data or metadata runs full corrupts the guests on it.
fn judge_pools(pools: &[ThinPool]) -> Check {
    if pools.is_empty() {
        return Check::ok("thin pools", "none");
    }
    let mut worst = 0;
    let words: Vec<String> = pools
        .iter()
        .map(|pool| {
            let mut share = |used: Option<u64>, total: Option<u64>| {
                let full = used.zip(total).and_then(|(used, total)| percent(used, total));
                worst = worst.max(full.unwrap_or(0));
                full.map_or_else(|| "unknown".to_owned(), |full| format!("{full} %"))
            };
            let data = share(pool.used, pool.lv_size);
            let metadata = share(pool.metadata_used, pool.metadata_size);
            format!("{}/{}: data {data}, metadata {metadata}", pool.vg.as_deref().unwrap_or("?"), pool.lv)
        })
        .collect();
    let text = words.join("; ");
    if worst >= FULL {
        return Check::warn("thin pools", text)
            .with("Free space, or extend the pool (`lvextend`): a full one corrupts the guests on it.");
    }
    Check::ok("thin pools", text)
}

/// A line for each certificate with its end.
pub(super) fn certificates(
    seen: &Seen<'_>,
    list: Result<Vec<CertificateInfo>, ApiError>,
    findings: &mut Findings<'_>,
) {
    match list {
        Err(error) => findings.push(seen.needed("certificate", &error)),
        Ok(list) if list.is_empty() => findings.push(Check::warn("certificate", "Proxmox lists none")),
        Ok(list) => {
            let now = unix_now();
            list.iter().for_each(|certificate| findings.push(judge_certificate(certificate, now)));
        }
    }
}

fn days(seconds: u64) -> String {
    count(usize::try_from(seconds / DAY).unwrap_or(usize::MAX), "day")
}

fn judge_certificate(certificate: &CertificateInfo, now: u64) -> Check {
    let name = certificate.filename.as_deref().unwrap_or("without a name");
    let Some(end) = certificate.notafter else {
        return Check::warn("certificate", format!("{name}: its end is unknown"));
    };
    let text = format!("{name}: until {}", day(end));
    let remedy =
        "Renew it (`pvecm updatecerts --force`, or the ACME order), and pin again if the key changes.";
    match end.checked_sub(now) {
        None => Check::warn("certificate", format!("{text}, which is over")).with(remedy),
        Some(left) if left < RENEWED_BY => {
            let text = format!("{text}, {} left, and Proxmox should have renewed it", days(left));
            Check::warn("certificate", text).with(remedy)
        }
        Some(left) => Check::ok("certificate", format!("{text}, {} left", days(left))),
    }
}

/// The disks, and whether one of them tells its health.
pub(super) async fn disks(seen: &Seen<'_>, findings: &mut Findings<'_>) {
    let disks = match seen.client.disks(false).await {
        Err(error) => {
            findings.push(seen.useful("disks", &error));
            if seen.over() {
                return;
            }
            findings.push(Check::ok("smart", "not asked, for want of a list of disks"));
            return;
        }
        Ok(disks) => disks,
    };
    if disks.is_empty() {
        findings.push(Check::ok("disks", "none: not available here, as in a container or on a nested host"));
        findings.push(Check::ok("smart", "not available here, there is no disk"));
        return;
    }
    let words: Vec<String> = disks
        .iter()
        .map(|disk| {
            let kind = disk.kind.as_deref().unwrap_or("unknown");
            match disk.size {
                Some(bytes) => format!("{} ({kind}, {})", disk.devpath, size(bytes)),
                None => format!("{} ({kind})", disk.devpath),
            }
        })
        .collect();
    findings.push(Check::ok("disks", some_of(&words)));
    // Every disk that is asked wakes up; one answer shows whether asking works.
    let Some(disk) = quietest(&disks) else { return };
    findings.push(match seen.client.smart(&disk.devpath, true).await {
        Err(error) => {
            let check = seen.useful("smart", &error);
            Check { detail: format!("{}: {}", disk.devpath, check.detail), ..check }
        }
        Ok(smart) => judge_health(&disk.devpath, smart.health.as_deref()),
    });
}

/// One without moving parts, if there is one.
fn quietest(disks: &[Disk]) -> Option<&Disk> {
    disks.iter().min_by_key(|disk| match disk.kind.as_deref() {
        Some("nvme") => 0,
        Some("ssd") => 1,
        Some("hdd") => 2,
        _ => 3,
    })
}

fn judge_health(device: &str, health: Option<&str>) -> Check {
    match health.map(str::trim) {
        Some(good @ ("PASSED" | "OK")) => {
            Check::ok("smart", format!("{device} says {good}; the others were not asked, to let them sleep"))
        }
        None | Some("" | "UNKNOWN") => Check::ok("smart", format!("{device}: not available here")),
        Some(bad) => Check::warn("smart", format!("{device} says {bad}"))
            .with("Look at that disk (`smartctl -a`), and at its backups."),
    }
}

/// HA, where it can be read.
pub(super) async fn ha(seen: &Seen<'_>, findings: &mut Findings<'_>) {
    findings.push(match seen.client.ha_status().await {
        Err(error) => seen.useful("ha", &error),
        Ok(entries) => {
            let services: Vec<String> = entries
                .iter()
                .filter(|entry| entry.kind.as_deref() == Some("service"))
                .filter_map(|entry| entry.sid.clone())
                .collect();
            if services.is_empty() {
                Check::ok("ha", "manages no guest")
            } else {
                Check::ok("ha", format!("manages {}: {}", services.len(), some_of(&services)))
            }
        }
    });
}

/// Replication, where it can be read.
pub(super) async fn replication(seen: &Seen<'_>, findings: &mut Findings<'_>) {
    findings.push(match seen.client.replication_status(None).await {
        Err(error) => seen.useful("replication", &error),
        Ok(jobs) => {
            let failed: Vec<String> =
                jobs.iter().filter_map(|job| Some(format!("{}: {}", job.id, job.error.as_ref()?))).collect();
            match (jobs.len(), failed.is_empty()) {
                (0, _) => Check::ok("replication", "no jobs"),
                (number, true) => Check::ok(
                    "replication",
                    format!("{}, the last run of each was good", count(number, "job")),
                ),
                (_, false) => {
                    Check::warn("replication", some_of(&failed)).with("See `pvesr status` on the node.")
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::State;

    fn storage(active: bool, used: Option<u64>, total: Option<u64>) -> StorageStatus {
        StorageStatus {
            storage: "local".to_owned(),
            plugin: Some("dir".to_owned()),
            content: Some("iso,backup".to_owned()),
            active: Some(active),
            enabled: Some(true),
            used,
            total,
            ..StorageStatus::default()
        }
    }

    #[test]
    fn storages_say_whether_they_are_there_and_how_full() {
        let check = judge_storage(&storage(true, Some(24_748_855_296), Some(270_553_174_016)));
        assert_eq!(check.state, State::Ok);
        assert_eq!(check.detail, "local (dir, for iso,backup): active, 10 % of 251.9 GiB used");
        assert_eq!(judge_storage(&storage(true, Some(90), Some(100))).state, State::Warn);
        assert_eq!(judge_storage(&storage(false, Some(0), Some(0))).state, State::Warn);
        // A backup server tells no size; a disabled storage is meant to be off.
        assert!(judge_storage(&storage(true, Some(0), Some(0))).detail.ends_with("no numbers"));
        assert!(judge_storage(&storage(true, None, None)).detail.ends_with("no numbers"));
        let off = StorageStatus { enabled: Some(false), ..storage(false, None, None) };
        assert!(judge_storage(&off).state == State::Ok && judge_storage(&off).detail.ends_with("disabled"));
        assert_eq!(judge_storage(&StorageStatus::default()).state, State::Warn, "every field may be absent");
    }

    #[test]
    fn pools_are_as_full_as_their_fuller_half() {
        let pool = |used, metadata_used| ThinPool {
            lv: "data".to_owned(),
            vg: Some("pve".to_owned()),
            lv_size: Some(1000),
            used,
            metadata_size: Some(100),
            metadata_used,
        };
        assert_eq!(judge_pools(&[pool(Some(300), Some(2))]).detail, "pve/data: data 30 %, metadata 2 %");
        assert_eq!(judge_pools(&[pool(Some(300), Some(2)), pool(Some(1), Some(95))]).state, State::Warn);
        assert_eq!(judge_pools(&[pool(None, None)]).detail, "pve/data: data unknown, metadata unknown");
        assert_eq!(judge_pools(&[]).state, State::Ok);
    }

    #[test]
    fn certificates_near_their_end_are_a_warning() {
        let until = |notafter| CertificateInfo { notafter, ..CertificateInfo::default() };
        let now = 1_795_317_258;
        assert_eq!(judge_certificate(&until(Some(now + 14 * DAY)), now).state, State::Ok);
        assert_eq!(judge_certificate(&until(Some(now + 12 * DAY)), now).state, State::Warn);
        assert!(judge_certificate(&until(Some(now - 1)), now).detail.ends_with("which is over"));
        assert_eq!(judge_certificate(&until(None), now).state, State::Warn);
    }

    #[test]
    fn the_disk_that_is_asked_does_not_spin() {
        let disk = |path: &str, kind: &str| Disk {
            devpath: path.to_owned(),
            kind: Some(kind.to_owned()),
            ..Disk::default()
        };
        let disks = [disk("/dev/sda", "hdd"), disk("/dev/sdb", "ssd"), disk("/dev/sdc", "usb")];
        assert_eq!(quietest(&disks).unwrap().devpath, "/dev/sdb");
        assert!(quietest(&[]).is_none());
        for (health, state) in [
            (Some("PASSED"), State::Ok),
            (Some("OK"), State::Ok),
            (Some("UNKNOWN"), State::Ok),
            (None, State::Ok),
            (Some("FAILED!"), State::Warn),
        ] {
            assert_eq!(judge_health("/dev/sda", health).state, state, "{health:?}");
        }
    }
}
