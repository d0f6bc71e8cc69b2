//! The 32 ways in which Proxmox misbehaves (`security.md` 4.9), each with what must come of an order: how it
//! ends, how many calls were sent, and what the receipt says. (None of them may send a call twice.)

use std::time::Duration;

use authz::Outcome;
use protocol::frame::OrderState;
use pve_sim::world::{AuthId, FaultRule, Job, Kind, Mishap, NewCertificate};
use serde_json::json;

use crate::kinds::row;
use crate::rig::{Rig, each};
use crate::shape::{differences, shape};

/// How an order ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Refused,
    Aborted,
    Done,
    Warnings,
    Failed,
    Unknown,
}

fn end(outcome: &Outcome) -> End {
    match outcome {
        Outcome::Refused { .. } => End::Refused,
        Outcome::Aborted { .. } => End::Aborted,
        Outcome::Done { .. } => End::Done,
        Outcome::Warnings { .. } => End::Warnings,
        Outcome::Failed { .. } => End::Failed,
        Outcome::Unknown { .. } | Outcome::Ran { .. } => End::Unknown,
    }
}

struct Case {
    /// As `security.md` 4.9 calls it.
    name: &'static str,
    /// Which order.
    kind: &'static str,
    /// Before the order is sent.
    fault: fn(&Rig),
    /// When STARTING is written, before the last look.
    starting: fn(&Rig),
    end: End,
    /// Calls that were sent.
    sent: usize,
    /// Whether the world is as after a clean run; as before otherwise.
    changed: bool,
    says: &'static str,
}

const ROLLBACK: &str = "snapshot.rollback qemu";
const VMID: u32 = 101;

fn nothing(_: &Rig) {}

/// To the call itself.
fn call(rig: &Rig, mishap: Mishap) {
    rig.sim.fault(FaultRule::new(mishap).method("POST").contains("/rollback")).unwrap();
}

fn status(rig: &Rig, status: u16, reason: &str) {
    call(rig, Mishap::Status { status, reason: reason.into(), body: String::new(), handled: false });
}

fn upid(rig: &Rig, upid: &str) {
    call(rig, Mishap::Upid { upid: Some(upid.into()) });
}

/// A task of that type, about that guest, by that author; where there is none such.
fn stranger(node: &str, kind: &str, user: &str) -> String {
    format!("UPID:{node}:0000BEEF:0002B38C:6B025E0A:{kind}:{VMID}:{user}:")
}

fn lost(rig: &Rig) {
    call(rig, Mishap::Reset { handled: true });
}

fn cases() -> Vec<Case> {
    let case = |name, fault: fn(&Rig), end, sent, changed, says| Case {
        name,
        kind: ROLLBACK,
        fault,
        starting: nothing,
        end,
        sent,
        changed,
        says,
    };
    use End::{Aborted, Done, Failed, Refused, Unknown, Warnings};
    vec![
        Case {
            starting: |rig| rig.sim.refuse_connections(),
            ..case("refused", nothing, Aborted, 0, false, "Proxmox was not called")
        },
        case(
            "hang",
            |rig| call(rig, Mishap::Hang { handled: false }),
            Aborted,
            1,
            false,
            "Proxmox started no task of it",
        ),
        case("slow drip", |rig| call(rig, Mishap::Drip { bytes: 1, ms: 2 }), Done, 1, true, "stands at"),
        Case {
            starting: |rig| drop(rig.sim.swap_certificate(NewCertificate::NewKey).unwrap()),
            ..case("TLS cert changed mid-session", nothing, Aborted, 0, false, "no configured pin matches")
        },
        Case {
            starting: |rig| drop(rig.sim.swap_certificate(NewCertificate::SameKey).unwrap()),
            ..case("legit renewal", nothing, Done, 1, true, "stands at")
        },
        case(
            "401 mid-op",
            |rig| {
                let rule = FaultRule::new(Mishap::Unauthorized { reason: None });
                rig.sim.fault(rule.method("GET").contains("UPID")).unwrap();
            },
            Done,
            1,
            true,
            "stands at",
        ),
        case(
            "403",
            |rig| status(rig, 403, "Permission check failed (/vms/101, VM.Snapshot.Rollback)"),
            Failed,
            1,
            false,
            "lacks VM.Snapshot.Rollback on /vms/101",
        ),
        case(
            "400",
            |rig| status(rig, 400, "Parameter verification failed."),
            Failed,
            1,
            false,
            "refused a parameter",
        ),
        case("500", |rig| status(rig, 500, "it broke"), Failed, 1, false, "500 it broke"),
        case("501", |rig| status(rig, 501, ""), Failed, 1, false, "no such method"),
        case(
            "595",
            |rig| call(rig, Mishap::Proxy { status: 595, reason: None, later_ms: 0 }),
            Aborted,
            1,
            false,
            "was not reached",
        ),
        case(
            "596",
            |rig| call(rig, Mishap::Proxy { status: 596, reason: None, later_ms: 1 }),
            Done,
            1,
            true,
            "stands at",
        ),
        case(
            "200 null",
            |rig| {
                let body = "{\"data\":null}".to_owned();
                call(rig, Mishap::Status { status: 200, reason: "OK".into(), body, handled: true });
            },
            Done,
            1,
            true,
            "stands at",
        ),
        case("bad UPID", |rig| upid(rig, "UPID:pve1:xyz:::"), Done, 1, true, "stands at"),
        case(
            "UPID of other node",
            |rig| upid(rig, &stranger("pve2", "qmrollback", "writ@pve!act")),
            Done,
            1,
            true,
            "stands at",
        ),
        case(
            "of other type",
            |rig| upid(rig, &stranger("pve1", "qmdestroy", "writ@pve!act")),
            Done,
            1,
            true,
            "stands at",
        ),
        case(
            "of other user",
            |rig| upid(rig, &stranger("pve1", "qmrollback", "root@pam")),
            Done,
            1,
            true,
            "stands at",
        ),
        case(
            "9-digit pstart",
            |rig| rig.change(|world| world.tasks.uptime = 0x1_0000_0000),
            Done,
            1,
            true,
            "stands at",
        ),
        // Five minutes by every clock, and it is followed still; then it ends.
        case("endless task", |rig| call(rig, Mishap::TaskEndless {}), Done, 1, true, "stands at"),
        case(
            "ERROR",
            |rig| call(rig, Mishap::TaskFail { text: "no space left on device".into(), leave_lock: false }),
            Failed,
            1,
            false,
            "no space left on device",
        ),
        case(
            "WARNINGS",
            |rig| call(rig, Mishap::TaskWarn { count: 2 }),
            Warnings,
            1,
            true,
            "simulated warning 2",
        ),
        // The worker is gone before it did anything, and its lock stays.
        case(
            "\"unexpected status\"",
            |rig| call(rig, Mishap::TaskKill {}),
            Unknown,
            1,
            false,
            "locked (rollback)",
        ),
        case(
            "log rotated away",
            |rig| call(rig, Mishap::TaskLogGone {}),
            Unknown,
            1,
            true,
            "now the guest stands at snapshot base",
        ),
        case(
            "task list empty",
            |rig| {
                lost(rig);
                let body = "{\"data\":[]}".to_owned();
                let empty = Mishap::Status { status: 200, reason: "OK".into(), body, handled: false };
                rig.sim.fault(FaultRule::new(empty).method("GET").contains("/tasks?").times(0)).unwrap();
            },
            Unknown,
            1,
            true,
            "no task of it was found",
        ),
        Case {
            starting: somebody_else,
            ..case("two candidates", lost, Unknown, 1, true, "2 tasks could be the one")
        },
        case(
            "vmid recycled between plan and exec",
            |rig| rig.replace(&row(ROLLBACK)),
            Refused,
            0,
            false,
            "is not the one that was meant",
        ),
        Case {
            kind: "guest.tag qemu",
            ..case(
                "digest race (PUT refuses)",
                |rig| rig.sim.fault(FaultRule::new(Mishap::DigestRace { vmid: None }).method("PUT")).unwrap(),
                Failed,
                1,
                false,
                "changed by someone else",
            )
        },
        Case {
            starting: |rig| {
                rig.change(|world| {
                    let guest = world.guests.get_mut(&VMID).unwrap();
                    guest.config.insert("lock".into(), json!("backup"));
                });
            },
            ..case("guest locked", nothing, Aborted, 0, false, "is locked (backup)")
        },
        case("not quorate", |rig| call(rig, Mishap::Quorum { lost: true }), Failed, 1, false, "no quorum"),
        case(
            "200 MB body",
            |rig| call(rig, Mishap::BigBody { bytes: 200_000_000 }),
            Done,
            1,
            true,
            "stands at",
        ),
        case(
            "invalid JSON/UTF-8",
            |rig| {
                call(rig, Mishap::BadText {});
                let half = Mishap::BadJson { text: None };
                rig.sim.fault(FaultRule::new(half).method("GET").contains("UPID")).unwrap();
            },
            Done,
            1,
            true,
            "stands at",
        ),
        case("answer lost after start", lost, Done, 1, true, "stands at"),
    ]
}

/// Somebody else with the token rolls the guest back as well, after the tasks that there are were noted; the
/// guest looks as before, or the last look would end it.
fn somebody_else(rig: &Rig) {
    let now = rig.sim.now();
    rig.change(|world| {
        let guests = world.guests.clone();
        let job = Job::Rollback { name: "base".into(), start: false };
        world.begin(now, &AuthId::parse("writ@pve!act"), Kind::Qemu, VMID, job);
        world.settle(now);
        world.guests = guests;
    });
}

async fn try_out(case: &Case) -> Vec<String> {
    let rig = Rig::start().await;
    let row = row(case.kind);
    rig.change(|world| (row.set_up)(world, rig.sim.now()));
    let saved = rig.save();
    let envelope = rig.envelope(&row).await;
    assert!(rig.submit(&envelope).await.is_success(), "a clean run");
    let clean = shape(&rig.save());
    rig.restore(&saved);

    let envelope = rig.envelope(&row).await;
    (case.fault)(&rig);
    let since = rig.sim.request_count();
    let before = shape(&rig.save());
    let endless = case.name == "endless task";
    let clock = rig.sim.now().unix;
    // Long after any timeout of ours it still is what is waited for; then somebody ends it.
    let somebody = async {
        while endless && rig.sim.now().unix - clock < 300 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let now = rig.sim.now();
        rig.change(|world| {
            for task in world.tasks.all.iter_mut().filter(|task| endless && task.ended.is_none()) {
                task.due = now.mono;
            }
        });
    };
    let submit = rig.submit_with(&envelope, |state| {
        if *state == OrderState::Starting {
            (case.starting)(&rig);
        }
    });
    let (outcome, ()) = tokio::join!(submit, somebody);
    let mut wrong = Vec::new();
    let mut hold = |good: bool, what: String| {
        if !good {
            wrong.push(format!("{}: {what}\n  receipt: {outcome}", case.name));
        }
    };
    hold(end(&outcome) == case.end, format!("{:?} expected", case.end));
    let text = match &outcome {
        Outcome::Warnings { lines, .. } => {
            lines.iter().map(|line| line.as_str()).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    };
    hold(text.contains(case.says), format!("says {:?} expected", case.says));
    let sent = rig.mutations(since);
    hold(sent.len() == case.sent, format!("{} calls expected, sent: {sent:?}", case.sent));
    hold(!endless || rig.sim.now().unix - clock >= 300, "it was not waited for".into());
    let now = without_tasks(shape(&rig.save()));
    let meant = without_tasks(if case.changed { clean } else { before });
    // What the fault itself did to the guest is no doing of the warden's.
    let own = matches!(case.name, "\"unexpected status\"" | "digest race (PUT refuses)" | "guest locked");
    hold(own || now == meant, format!("the world: {:?}", differences(&meant, &now)));
    if case.name == "refused" {
        rig.sim.listen_again().await;
    }
    rig.at_rest();
    wrong
}

fn without_tasks(
    mut shape: std::collections::BTreeMap<String, String>,
) -> std::collections::BTreeMap<String, String> {
    shape.retain(|key, _| !key.starts_with("ended well"));
    shape
}

#[test]
fn all_thirty_two_ways_of_an_evil_proxmox() {
    let cases = cases();
    assert_eq!(cases.len(), 32);
    let names: std::collections::BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), 32);
    let wrong = each(&cases, try_out);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
