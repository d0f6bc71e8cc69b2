//! Orders and receipts as a person reads them. Pure; every foreign word is made safe.

use authz::order::{Class, JobParams, Params, SessionParams};
use authz::receipt::Signer;
use authz::{Event, Order, Outcome, Receipt};
use protocol::text::printable;
use protocol::{GuestIdentity, Sha256, SnapshotRef, Tag};

use crate::text::{bytes, fields, span, utc};

/// The order, all of it: nothing that is signed is left out.
pub fn order(order: &Order, op: &Sha256) -> String {
    let kind = order.kind();
    let class = match kind.class() {
        Class::Benign => "benign",
        Class::Disruptive => "DISRUPTIVE",
        Class::Destructive => "DESTRUCTIVE",
    };
    let mut rows = vec![(
        "host",
        format!(
            "{} (id {}, key {}, generation {})",
            order.host.name, order.host.id, order.host.key, order.host.generation
        ),
    )];
    if let Some(guest) = &order.guest {
        rows.push(("guest", format!("{} {} '{}'", guest.kind, guest.vmid, guest.name)));
    }
    if let Some(cluster) = &order.host.cluster {
        rows.push(("cluster", cluster.clone()));
    }
    rows.push(("effect", effect(order)));
    match &order.params {
        Params::JobRun(params) => script(params, &mut rows),
        Params::SessionOpen(params) => session(params, &mut rows),
        Params::GuestStart(_)
        | Params::GuestTag(_)
        | Params::SnapshotCreate(_)
        | Params::SnapshotRollback(_)
        | Params::SnapshotDelete(_) => {}
    }
    if let Some(guest) = &order.guest {
        identity(&guest.identity, &mut rows);
    }
    if let Some(state) = order.pre.state {
        rows.push(("only if", format!("the guest is {state}")));
    }
    if let Some(digest) = &order.pre.digest {
        rows.push(("only if", format!("its configuration has digest {digest}")));
    }
    if let Some(wanted) = &order.pre.snapshot {
        rows.push(("only if", format!("there is {}", snapshot(wanted))));
    }
    if let Some(plan) = &order.plan {
        rows.push(("plan", format!("{} (challenge {})", plan.sha256, plan.challenge)));
    }
    if let Some(after) = &order.after {
        let strict = if after.strict { "exactly" } else { "at least" };
        rows.push((
            "only if",
            format!("the host's log has {strict} {} entries ({})", after.size, after.head),
        ));
    }
    let validity = span(order.exp.saturating_sub(order.nbf));
    rows.push(("valid", format!("{} to {} ({validity})", utc(order.nbf), utc(order.exp))));
    rows.push(("policy", format!("version {} ({})", order.policy.version, order.policy.sha256)));
    rows.push(("signers", format!("at least {}", order.min_signers)));
    rows.push(("nonce", format!("{} (usable once)", order.nonce)));
    rows.push(("reason", or_none(order.reason.as_str())));
    if let Some(ticket) = &order.ticket {
        rows.push(("ticket", ticket.to_string()));
    }
    rows.push(("SHA-256", op.to_string()));
    format!("Order {kind} ({class})\n{}", fields(&rows))
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none given".to_owned() } else { text.to_owned() }
}

fn identity(identity: &GuestIdentity, rows: &mut Vec<(&'static str, String)>) {
    let GuestIdentity { smbios_uuid, vmgenid, meta_ctime, macs, volids, giid } = identity;
    let facts = [
        smbios_uuid.as_ref().map(|uuid| format!("UUID {uuid}")),
        vmgenid.as_ref().map(|id| format!("generation id {id}")),
        meta_ctime.map(|time| format!("created {}", utc(time))),
        (!macs.is_empty()).then(|| format!("MAC {}", macs.join(", "))),
        (!volids.is_empty()).then(|| format!("volumes {}", volids.join(", "))),
        giid.as_ref().map(|id| format!("instance id {id}")),
    ];
    rows.extend(facts.into_iter().flatten().map(|fact| ("identity", fact)));
}

/// One line: what will be done.
fn effect(order: &Order) -> String {
    let name = order.pre.snapshot.as_ref().map_or("?", |snapshot| snapshot.name.as_str());
    match &order.params {
        Params::GuestStart(_) => "start the guest".to_owned(),
        Params::GuestTag(params) => {
            let tags: Vec<_> = params.tags.iter().map(Tag::as_str).collect();
            format!(
                "set its tags to exactly: {}",
                if tags.is_empty() { "none".into() } else { tags.join(", ") }
            )
        }
        Params::SnapshotCreate(params) => format!("take snapshot '{}' without memory", params.snapshot),
        Params::SnapshotRollback(params) => format!(
            "roll back to snapshot '{name}': everything since is LOST, a running guest is stopped hard; {}",
            if params.start { "started afterwards" } else { "not started afterwards" }
        ),
        Params::SnapshotDelete(_) => format!("delete snapshot '{name}' for good"),
        Params::JobRun(params) => format!("run a script as {}, once", params.user),
        Params::SessionOpen(params) => format!("open an SSH session as {}: {}", params.user, params.mode),
    }
}

fn script(params: &JobParams, rows: &mut Vec<(&'static str, String)>) {
    let JobParams { script, script_len, interpreter, args, user: _, env, timeout_s, max_output, result_key } =
        params;
    rows.push(("script", format!("{script_len} bytes, SHA-256 {script}, read by {interpreter}")));
    rows.extend(args.iter().map(|arg| ("argument", format!("{:?}", arg.as_str()))));
    rows.extend(env.iter().map(|var| ("environment", format!("{}={:?}", var.name, var.value.as_str()))));
    let kept = bytes((*max_output).into());
    rows.push(("limits", format!("killed after {}, {kept} of output kept", span((*timeout_s).into()))));
    rows.push(("result to", format!("key {}", result_key.fingerprint())));
}

fn session(params: &SessionParams, rows: &mut Vec<(&'static str, String)>) {
    let SessionParams { key, user: _, mode: _, forwards, idle_s, max_s } = params;
    rows.extend(forwards.iter().map(|target| ("forward to", target.to_string())));
    let (idle, max) = (span((*idle_s).into()), span((*max_s).into()));
    rows.push(("limits", format!("ends after {idle} idle, and after {max} in any case")));
    rows.push(("client key", key.fingerprint().to_string()));
}

/// What an order is about, in a few words: its kind, and the guest or the account.
pub fn about(order: &Order) -> String {
    match (&order.params, &order.guest) {
        (Params::JobRun(JobParams { user, .. }) | Params::SessionOpen(SessionParams { user, .. }), _) => {
            format!("{} as {user}", order.kind())
        }
        (_, Some(guest)) => format!("{} {}", order.kind(), guest.vmid),
        (_, None) => order.kind().to_string(),
    }
}

/// A snapshot with what makes it this one.
pub fn snapshot(snapshot: &SnapshotRef) -> String {
    let parent =
        snapshot.parent.as_deref().map_or_else(|| "none".to_owned(), |p| format!("'{}'", printable(p)));
    format!("snapshot '{}' of {}, parent {parent}", snapshot.name, utc(snapshot.time))
}

/// How it ended, with Proxmox's task and warnings.
pub fn outcome(outcome: &Outcome) -> String {
    let upid = match outcome {
        Outcome::Refused { .. } | Outcome::Aborted { .. } | Outcome::Ran { .. } => None,
        Outcome::Warnings { upid, .. } => Some(upid),
        Outcome::Done { upid, .. } | Outcome::Failed { upid, .. } | Outcome::Unknown { upid, .. } => {
            upid.as_ref()
        }
    };
    let mut text = printable(&outcome.to_string());
    if let Outcome::Warnings { lines, .. } = outcome {
        for line in lines {
            text.push_str(&format!("\n    warning: {}", printable(line.as_str())));
        }
    }
    if let Some(upid) = upid {
        text.push_str(&format!("\n    Proxmox task {}", printable(upid)));
    }
    text
}

/// Who signed, as the host names them.
pub fn signers(signers: &[Signer]) -> String {
    if signers.is_empty() {
        return "nobody known".to_owned();
    }
    signers.iter().map(|s| s.operator.to_string()).collect::<Vec<_>>().join(", ")
}

/// A receipt as a row: time, place, event, outcome.
pub fn receipt_row(receipt: &Receipt) -> Vec<String> {
    let place = receipt.entry.map_or_else(|| "-".to_owned(), |entry| entry.seq.to_string());
    let (event, how) = match &receipt.event {
        Event::Enrolled { policy_version, policy, .. } => {
            ("enrolled".to_owned(), format!("under policy version {policy_version} ({policy})"))
        }
        Event::OrderCommitted { op, kind, signers: by } => {
            (format!("order {} {kind}", short(op)), format!("committed, signed by {}", signers(by)))
        }
        Event::SessionReady { op, host_key } => (
            format!("order {} session.open", short(op)),
            format!("the session is open, its SSH host key is {}", host_key.fingerprint()),
        ),
        Event::Order { op, kind, vmid, outcome, .. } => {
            let vmid = vmid.map(|vmid| format!(" {vmid}")).unwrap_or_default();
            (
                format!("order {} {}{vmid}", short(op), kind.as_deref().unwrap_or("(unread)")),
                outcome.to_string(),
            )
        }
        Event::StepStarted { generation, what, .. } => {
            (format!("step of generation {generation}: {what}"), "started".to_owned())
        }
        Event::Step { generation, what, outcome, .. } => {
            (format!("step of generation {generation}: {what}"), outcome.to_string())
        }
    };
    vec![place, utc(receipt.time), event, how]
}

/// Enough of a hash to recognise it in a list; never used to name anything to a machine.
pub fn short(hash: &Sha256) -> String {
    hash.to_string().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::prepare_for_host;
    use crate::prepare::{Circumstances, Wish, prepare};
    use crate::testing::session as session_params;
    use crate::testing::{NOW, believed, done, ended, guest, job, policy, receipt, report, with};
    use protocol::Nonce;

    #[test]
    fn a_typed_order_shows_everything_that_is_signed() {
        let with = Circumstances {
            nonce: Nonce::from_bytes([7; 16]),
            now: NOW,
            valid_s: 600,
            reason: "undo the update".parse().unwrap(),
            ticket: Some("OPS-118".parse().unwrap()),
        };
        let wish = Wish::Rollback { snapshot: "before-update".parse().unwrap(), start: false };
        let made = prepare(
            &believed(1, "web1"),
            &policy(),
            &report(vec![guest(101)]),
            101.try_into().unwrap(),
            &wish,
            with,
        )
        .unwrap();
        let op = Sha256::of(&made.encode());
        let text = order(&made, &op);
        for says in [
            "Order snapshot.rollback (DESTRUCTIVE)",
            "web1",
            "qemu 101 'db'",
            "everything since is LOST",
            "not started afterwards",
            "UUID 11111111-2222-3333-4444-555555555555",
            "MAC BC:24:11:00:00:01",
            "local-lvm:vm-101-disk-0",
            "the guest is stopped",
            "parent 'first'",
            "2026-11-22 05:03:58Z to 2026-11-22 05:13:58Z (10 min)",
            "undo the update",
            "OPS-118",
            &op.to_string(),
            &made.nonce.to_string(),
            &made.policy.sha256.to_string(),
            &made.host.key.to_string(),
        ] {
            assert!(text.contains(says), "{says:?} is missing in\n{text}");
        }
    }

    #[test]
    fn a_started_step_is_a_row() {
        let event = Event::StepStarted {
            generation: 4,
            kind: "guest.start".into(),
            vmid: 101.try_into().unwrap(),
            what: "start qemu 101".parse().unwrap(),
        };
        let host = believed(1, "web1");
        let signed = receipt(1, Some((3, Sha256::of(b"before"))), event);
        let row = receipt_row(&Receipt::verify(&signed, host.id(), &host.key).unwrap());
        assert_eq!([&row[0], &row[2], &row[3]], ["3", "step of generation 4: start qemu 101", "started"]);
    }

    #[test]
    fn scripts_and_sessions_show_everything_that_is_signed() {
        let host = believed(1, "web1");
        let mut params = job();
        params.args = vec!["--all".parse().unwrap(), "two words".parse().unwrap()];
        params.env = vec![authz::order::EnvVar { name: "A".parse().unwrap(), value: "b c".parse().unwrap() }];
        let made = prepare_for_host(&host, &policy(), Params::JobRun(params.clone()), with()).unwrap();
        assert_eq!(about(&made), "job.run as root");
        let text = order(&made, &Sha256::of(b"op"));
        for says in [
            "Order job.run (DESTRUCTIVE)",
            "run a script as root, once",
            "14 bytes",
            &params.script.to_string(),
            "read by /bin/sh",
            "\"--all\"",
            "\"two words\"",
            "A=\"b c\"",
            "killed after 60 s, 1000 B of output kept",
            &params.result_key.fingerprint().to_string(),
        ] {
            assert!(text.contains(says), "{says:?} is missing in\n{text}");
        }
        assert!(!text.contains("guest"), "{text}");
        let made = prepare_for_host(&host, &policy(), Params::SessionOpen(session_params()), with()).unwrap();
        assert_eq!(about(&made), "session.open as www-data");
        let text = order(&made, &Sha256::of(b"op"));
        for says in [
            "open an SSH session as www-data: shell, commands and sftp",
            "forward to  127.0.0.1:8006",
            "ends after 10 min idle, and after 8 h in any case",
            &session_params().key.fingerprint().to_string(),
        ] {
            assert!(text.contains(says), "{says:?} is missing in\n{text}");
        }
        let ready = Event::SessionReady { op: Sha256::of(b"op"), host_key: session_params().key };
        let signed = receipt(1, None, ready);
        let row = receipt_row(&Receipt::verify(&signed, host.id(), &host.key).unwrap());
        assert!(row[2].contains("session.open") && row[3].contains("SHA256:"), "{row:?}");
        let ran = Outcome::Ran { result: Sha256::of(b"r"), size: 300, duration_ms: 1_250 };
        assert_eq!(outcome(&ran), "the script ran for 1.2 s; its result (300 bytes) is sealed");
    }

    #[test]
    fn a_hosts_words_cannot_move_the_cursor() {
        let evil = "UPID\u{1b}[2K\u{202e}\n";
        let ended_badly = Outcome::Failed { upid: Some(evil.into()), why: "x".parse().unwrap() };
        assert!(!outcome(&ended_badly).contains(['\u{1b}', '\u{202e}']));
        let believed = believed(1, "web1");
        let signed = receipt(1, None, ended(Sha256::of(b"o"), done()));
        let row = receipt_row(&Receipt::verify(&signed, believed.id(), &believed.key).unwrap());
        assert_eq!(row[0], "-");
        assert!(row[3].starts_with("done: "));
    }
}
