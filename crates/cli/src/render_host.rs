//! A host's report as a person reads it. Pure. Unknown is shown as unknown, with the reason, and
//! nothing here is signed: the page says so.

use std::fmt::Write as _;

use protocol::api::{HostDetail, PlanView};
use protocol::report::{GuestReport, HostReport, Known, NodeReport, StorageReport, Usage, WardenReport};
use protocol::text::printable;

use crate::render::snapshot;
use crate::resolve::Believed;
use crate::text::{age, bytes, fields, span, table, utc};

/// Everything about one host.
pub fn host(believed: &Believed, detail: &HostDetail, now: u64) -> String {
    let statement = &believed.statement;
    let view = &detail.host;
    let mut text = format!("Host {}\n", believed.name());
    text.push_str(&fields(&[
        ("id", statement.host_id.to_string()),
        ("site", statement.site.to_string()),
        ("host key", format!("{} (generation {})", believed.key.fingerprint(), statement.host_key_gen)),
        ("vouched by", format!("{} on {}", believed.vouched_by, utc(statement.issued_at))),
        ("channel", channel(view.online, view.last_seen, now)),
    ]));
    match &detail.report {
        Some(report) => text.push_str(&report_page(report, now)),
        None => text.push_str("\nNo report has arrived yet: is writ-agent running on the host?\n"),
    }
    text.push('\n');
    text.push_str(&desired_and_plan(detail));
    text
}

/// Whether the channel is open, in words.
pub fn channel(online: bool, last_seen: Option<u64>, now: u64) -> String {
    match (online, last_seen) {
        (true, _) => "online".to_owned(),
        (false, Some(seen)) => format!("offline, last seen {}", age(seen, now)),
        (false, None) => "never seen".to_owned(),
    }
}

fn report_page(report: &HostReport, now: u64) -> String {
    let mut text = format!(
        "\nReport of {} ({}), as reported through the hub, not signed\n",
        utc(report.collected_at),
        age(report.collected_at, now)
    );
    let mut rows = vec![("agent", report.agent_version.clone())];
    match &report.warden {
        Known::Known(warden) => rows.extend(warden_rows(warden)),
        Known::Unknown(why) => rows.push(("warden", unknown(why))),
    }
    match &report.node {
        Known::Known(node) => rows.extend(node_rows(node)),
        Known::Unknown(why) => rows.push(("node", unknown(why))),
    }
    rows.push((
        "certificate",
        match &report.certificate {
            Known::Known(c) => format!("{} until {} ({})", c.filename, utc(c.not_after), c.fingerprint),
            Known::Unknown(why) => unknown(why),
        },
    ));
    text.push_str(&fields(&rows));
    text.push_str("\nStorages\n");
    match &report.storages {
        Known::Known(storages) if storages.is_empty() => text.push_str("  none reported\n"),
        Known::Known(storages) => {
            let rows: Vec<_> = storages.iter().map(storage_row).collect();
            text.push_str(&table(&["  NAME", "KIND", "ACTIVE", "DATA", "METADATA"], &rows));
        }
        Known::Unknown(why) => line(&mut text, &unknown(why)),
    }
    text.push_str("\nGuests\n");
    match &report.guests {
        Known::Known(guests) if guests.is_empty() => text.push_str("  none reported\n"),
        Known::Known(guests) => text.push_str(&guests_page(guests)),
        Known::Unknown(why) => line(&mut text, &unknown(why)),
    }
    text
}

fn line(text: &mut String, words: &str) {
    let _ = writeln!(text, "  {}", printable(words));
}

fn unknown(why: &str) -> String {
    format!("unknown ({why})")
}

fn warden_rows(warden: &WardenReport) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("warden", format!("{}, {} in its log", warden.version, entries(warden.log_size))),
        ("policy", format!("version {} ({})", warden.policy_version, warden.policy)),
    ];
    if let Some(why) = &warden.closed {
        rows.push(("REFUSES", format!("every order and step: {}", printable(why))));
    }
    rows
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".into() } else { format!("{count} entries") }
}

fn node_rows(node: &NodeReport) -> Vec<(&'static str, String)> {
    let load: Vec<String> = node.load.iter().map(|load| format!("{load:.2}")).collect();
    vec![
        ("node", format!("{}, up {}", node.name, span(node.uptime_s))),
        ("Proxmox VE", node.pve_version.clone()),
        ("kernel", node.kernel.clone()),
        ("CPU", format!("{:.0} % of {}, load {}", node.cpu * 100.0, node.cpus, load.join(" "))),
        ("memory", usage(&node.memory)),
        ("root disk", usage(&node.rootfs)),
        ("swap", usage(&node.swap)),
        (
            "clock",
            match &node.clock_offset_s {
                Known::Known(0) => "in step with the host".to_owned(),
                Known::Known(offset) => format!("API is {offset} s off the host's clock"),
                Known::Unknown(why) => unknown(why),
            },
        ),
    ]
}

/// `used of total (percent)`; a total of zero has no percentage.
pub fn usage(usage: &Usage) -> String {
    let percent = u128::from(usage.used) * 100;
    match percent.checked_div(u128::from(usage.total)) {
        Some(percent) => format!("{} of {} ({percent} %)", bytes(usage.used), bytes(usage.total)),
        None => format!("{} of {}", bytes(usage.used), bytes(usage.total)),
    }
}

fn known_usage(known: &Known<Usage>) -> String {
    match known {
        Known::Known(value) => usage(value),
        Known::Unknown(why) => unknown(why),
    }
}

fn storage_row(storage: &StorageReport) -> Vec<String> {
    vec![
        format!("  {}", storage.name),
        storage.kind.clone(),
        if storage.active { "yes" } else { "NO" }.to_owned(),
        known_usage(&storage.usage),
        storage.metadata.as_ref().map_or_else(|| "-".to_owned(), known_usage),
    ]
}

fn guests_page(guests: &[GuestReport]) -> String {
    let rows: Vec<Vec<String>> = guests
        .iter()
        .map(|guest| {
            let (tags, note) = match &guest.config {
                Known::Known(config) => {
                    let lock = config.lock.as_ref().map(|lock| format!("locked: {lock}"));
                    let protection = config.protection.then(|| "protected".to_owned());
                    let notes: Vec<String> = lock.into_iter().chain(protection).collect();
                    (
                        if config.tags.is_empty() { "-".into() } else { config.tags.join(",") },
                        notes.join(", "),
                    )
                }
                Known::Unknown(why) => ("unknown".to_owned(), format!("configuration {}", unknown(why))),
            };
            let snapshots = match &guest.snapshots {
                Known::Known(snapshots) => snapshots.len().to_string(),
                Known::Unknown(_) => "unknown".to_owned(),
            };
            vec![
                format!("  {}", guest.vmid),
                guest.kind.to_string(),
                guest.name.clone(),
                guest.state.to_string(),
                guest.uptime_s.map_or_else(|| "-".to_owned(), span),
                guest.memory.as_ref().map_or_else(|| "-".to_owned(), usage),
                tags,
                snapshots,
                note,
            ]
        })
        .collect();
    let header = ["  VMID", "KIND", "NAME", "STATE", "UP", "MEMORY", "TAGS", "SNAPSHOTS", ""];
    let mut text = table(&header, &rows);
    for guest in guests {
        match &guest.snapshots {
            Known::Known(snapshots) => {
                for taken in snapshots {
                    line(&mut text, &format!("{}: {}", guest.vmid, snapshot(taken)));
                }
            }
            Known::Unknown(why) => line(&mut text, &format!("{}: snapshots {}", guest.vmid, unknown(why))),
        }
    }
    text
}

/// What is wanted of a host, and its last plan.
pub fn desired_and_plan(detail: &HostDetail) -> String {
    let mut text = String::new();
    match &detail.desired {
        Some(desired) => {
            let _ = writeln!(
                text,
                "Desired state: generation {}, {} guest(s), set by {} on {}",
                desired.generation,
                desired.state.guests.len(),
                desired.set_by,
                utc(desired.set_at)
            );
        }
        None => text.push_str("Desired state: none (set one with `writ apply`)\n"),
    }
    match &detail.plan {
        Some(view) => text.push_str(&plan(view, detail.desired.as_ref().map(|desired| desired.generation))),
        None => text.push_str("Plan: the host has not sent one yet\n"),
    }
    text
}

/// A plan: steps, and what waits for whom.
pub fn plan(view: &PlanView, wanted: Option<u64>) -> String {
    let plan = &view.plan;
    let mut text =
        format!("Plan for generation {}, of {} (not signed)", plan.generation, utc(view.received_at));
    let outdated = wanted.is_some_and(|wanted| wanted != plan.generation);
    if outdated {
        text.push_str(" (OUTDATED: not for the desired state above)");
    }
    text.push('\n');
    // An empty plan says nothing when it is about something else, or when the host had trouble.
    if plan.is_converged() && !outdated && view.problem.is_none() {
        text.push_str("  nothing left to do: everything wanted is so\n");
    }
    for step in &plan.steps {
        line(&mut text, &format!("step: {step}"));
    }
    for waiting in &plan.waiting {
        line(
            &mut text,
            &format!("waiting: guest {}: {}; needs {}", waiting.vmid, waiting.want, waiting.needs),
        );
    }
    if let Some(problem) = &view.problem {
        line(&mut text, &format!("problem: {problem}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, believed, guest, report, view};

    fn detail(report: Option<HostReport>) -> HostDetail {
        HostDetail { host: view(1, "web1"), report, desired: None, plan: None }
    }

    #[test]
    fn unknown_is_shown_as_unknown_with_the_reason() {
        let mut blind = guest(102);
        blind.snapshots = Known::Unknown("403".into());
        blind.config = Known::Unknown("locked out".into());
        let text = host(&believed(1, "web1"), &detail(Some(report(vec![guest(101), blind]))), NOW);
        for says in [
            "(12 s ago), as reported through the hub, not signed",
            "node         unknown (the node was not asked)",
            "unknown (timed out)",
            "102: snapshots unknown (403)",
            "configuration unknown (locked out)",
            "101: snapshot 'before-update' of 2026-11-22 04:13:58Z, parent 'first'",
            "vouched by  alice",
            "Desired state: none",
        ] {
            assert!(text.contains(says), "{says:?} is missing in\n{text}");
        }
        assert!(host(&believed(1, "web1"), &detail(None), NOW).contains("No report has arrived"));
    }

    #[test]
    fn hostile_reports_cannot_move_the_cursor() {
        let evil = "x\u{1b}[2J\u{202e}\r\n".to_owned();
        let mut hostile = guest(101);
        hostile.name = evil.clone();
        hostile.snapshots = Known::Unknown(evil.clone());
        let mut page = report(vec![hostile]);
        page.node = Known::Unknown(evil.clone());
        page.agent_version = evil.clone();
        page.storages = Known::Known(vec![StorageReport {
            name: evil.clone(),
            kind: evil.clone(),
            active: false,
            usage: Known::Known(Usage { used: u64::MAX, total: 0 }),
            metadata: Some(Known::Unknown(evil)),
        }]);
        let text = host(&believed(1, "web1"), &detail(Some(page)), NOW);
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\r']), "{text:?}");
    }
}
