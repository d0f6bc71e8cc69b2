//! `--selftest=read`: can everything be read that a report needs?

use protocol::report::{HostReport, Known};
use proxmox_client::{ApiError, Permissions};

use super::Check;
use crate::collect::Collector;
use crate::config::ProxmoxSettings;
use crate::sentence;

/// Privilege, paths of which one is enough, and what it is for.
const NEEDED: [(&str, &[&str], &str); 3] = [
    ("Sys.Audit", &["/"], "node, thin pools and certificate"),
    ("VM.Audit", &["/", "/vms"], "guests"),
    ("Datastore.Audit", &["/", "/storage"], "storages"),
];

/// Makes all checks. When nothing can be read at all the later ones are left out: they would only
/// repeat the first failure.
pub async fn read(settings: &ProxmoxSettings) -> Vec<Check> {
    let client = match settings.client() {
        Ok(client) => client,
        Err(error) => return vec![Check::fail("token file", sentence(&error))],
    };
    let mut checks =
        vec![Check::ok("token file", format!("{} for {}", settings.token_file.display(), client.identity()))];
    match client.version().await {
        Ok(version) => {
            let pins: Vec<String> = settings.pins.pins().iter().map(ToString::to_string).collect();
            checks.push(Check::ok(
                "pin",
                format!("{} shows what is pinned ({})", client.endpoint(), pins.join(" or ")),
            ));
            checks.push(check_version(&version));
        }
        Err(error) => {
            checks.push(failed_first_call(&error));
            return checks;
        }
    }
    checks.push(match client.permissions().await {
        Ok(permissions) => check_permissions(&permissions, client.identity()),
        Err(error) => Check::fail("permissions", error.to_string()),
    });
    let report = Collector::new(client, None).collect().await;
    checks.extend(check_report(&report));
    checks
}

fn check_version(version: &proxmox_client::Version) -> Check {
    match version.major() {
        Some(8 | 9) => Check::ok("version", format!("Proxmox VE {}", version.version)),
        _ => Check::fail_with(
            "version",
            format!("Proxmox VE {:?}", version.version),
            "use Proxmox VE 8 or 9; nothing else was tried",
        ),
    }
}

fn failed_first_call(error: &ApiError) -> Check {
    let check = if error.pin_mismatch().is_some() {
        "pin"
    } else if error.status() == Some(401) {
        "token"
    } else {
        "api"
    };
    Check::fail(check, error.to_string())
}

/// Whether the token may read what a report needs, on the path itself or inherited from above.
fn check_permissions(permissions: &Permissions, identity: &str) -> Check {
    let holds =
        |privilege: &str, path: &str| permissions.get(path).is_some_and(|held| held.contains_key(privilege));
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(privilege, paths, _)| !paths.iter().any(|path| holds(privilege, path)))
        .map(|(privilege, _, purpose)| format!("{privilege} (for {purpose})"))
        .collect();
    if !missing.is_empty() {
        return Check::fail_with(
            "permissions",
            format!("the token lacks {}", missing.join(", ")),
            format!(
                "`pveum acl modify / --tokens '{identity}' --roles PVEAuditor`, and the same for its user with --users"
            ),
        );
    }
    let mut acting: Vec<&str> = permissions
        .values()
        .flat_map(|held| held.keys())
        .map(String::as_str)
        .filter(|privilege| !privilege.ends_with(".Audit"))
        .collect();
    acting.sort_unstable();
    acting.dedup();
    if acting.is_empty() {
        Check::ok("permissions", "the token may read what a report needs, and change nothing")
    } else {
        Check::ok(
            "permissions",
            format!(
                "the token may read what a report needs; it may also change things ({}), which the agent never needs: prefer a token with the role PVEAuditor",
                acting.join(", ")
            ),
        )
    }
}

/// A check for each section of the report.
fn check_report(report: &HostReport) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.push(match &report.node {
        Known::Unknown(why) => Check::fail("node", why),
        Known::Known(node) => match &node.clock_offset_s {
            Known::Unknown(why) => {
                Check::fail("node", format!("{}, but its clock is unknown: {why}", node.name))
            }
            Known::Known(offset) => Check::ok(
                "node",
                format!("{}, {}, kernel {}, clock {offset:+} s", node.name, node.pve_version, node.kernel),
            ),
        },
    });
    checks.push(match &report.certificate {
        Known::Unknown(why) => Check::fail("certificate", why),
        Known::Known(cert) => Check::ok("certificate", format!("{} {}", cert.filename, cert.fingerprint)),
    });
    checks.push(check_storages(report));
    checks.push(check_guests(report));
    checks
}

fn check_storages(report: &HostReport) -> Check {
    let storages = match &report.storages {
        Known::Unknown(why) => return Check::fail("storages", why),
        Known::Known(storages) => storages,
    };
    let mut problems = Vec::new();
    let mut words = Vec::new();
    for storage in storages {
        words.push(format!(
            "{} ({}{})",
            storage.name,
            storage.kind,
            if storage.active { "" } else { ", not active" }
        ));
        if let (true, Known::Unknown(why)) = (storage.active, &storage.usage) {
            problems.push(format!("{}: {why}", storage.name));
        }
        if let (true, Some(Known::Unknown(why))) = (storage.active, &storage.metadata) {
            problems.push(format!("metadata of {}: {why}", storage.name));
        }
    }
    if problems.is_empty() {
        Check::ok("storages", format!("{}: {}", storages.len(), words.join(", ")))
    } else {
        Check::fail("storages", problems.join("; "))
    }
}

fn check_guests(report: &HostReport) -> Check {
    let guests = match &report.guests {
        Known::Unknown(why) => return Check::fail("guests", why),
        Known::Known(guests) => guests,
    };
    let mut problems = Vec::new();
    let mut words = Vec::new();
    for guest in guests {
        words.push(format!("{} {}", guest.vmid, guest.name));
        if let Known::Unknown(why) = &guest.config {
            problems.push(format!("configuration of {}: {why}", guest.vmid));
        }
        if let Known::Unknown(why) = &guest.snapshots {
            problems.push(format!("snapshots of {}: {why}", guest.vmid));
        }
    }
    if problems.is_empty() {
        Check::ok("guests", format!("{}: {}", guests.len(), words.join(", ")))
    } else {
        Check::fail("guests", problems.join("; "))
    }
}

#[cfg(test)]
mod tests;
