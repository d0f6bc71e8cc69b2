//! Every fault of the simulator against a read and against a mutation: what the client calls it,
//! whether it may have had an effect, how often the mutation arrived, and what is found of it later.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proxmox_client::{
    ApiError, ConfigChange, Delivery, Doubt, ErrorClass, FindTask, FoundTask, RunState, TaskEnd, Upid,
    classify_text,
};
use pve_sim::world::{FAULT_EXAMPLES, FaultRule, Mishap, Release};

use crate::bench::{Bench, LIMIT, Notes, QEMU, hurried, snap, vmid};

/// What the fault does to a request.
#[derive(Debug, Clone, PartialEq)]
enum Met {
    /// The call succeeds.
    Fine,
    /// It fails like this.
    Error(ErrorClass, Delivery),
}

/// What is known of the mutation in the end.
#[derive(Debug, Clone, Copy)]
enum Became {
    /// It was carried out; its task is found.
    Done,
    /// It was carried out after its answer.
    DoneLater,
    /// It was not.
    Nothing,
    /// Carried out, and its task tells of the fault.
    Ends(fn(&TaskEnd) -> bool),
}

struct Case {
    /// As in [`FAULT_EXAMPLES`], or a variant of one.
    fault: &'static str,
    read: Met,
    mutation: Met,
    became: Became,
    /// How often the mutation reached the node.
    arrived: usize,
}

const fn fails(class: ErrorClass, delivery: Delivery) -> Met {
    Met::Error(class, delivery)
}

const AMBIGUOUS: Met = fails(ErrorClass::Ambiguous, Delivery::MaybeExecuted);
const ODD: Met = fails(ErrorClass::Other, Delivery::MaybeExecuted);

const fn case(fault: &'static str, read: Met, mutation: Met, became: Became) -> Case {
    Case { fault, read, mutation, became, arrived: 1 }
}

fn failed(end: &TaskEnd, what: &str) -> bool {
    matches!(end, TaskEnd::Failed { text, .. } if text.contains(what))
}

/// What concerns certificates and the whole node is below.
fn cases() -> Vec<Case> {
    use Became::{Done, DoneLater, Ends, Nothing};
    vec![
        case(r#"{"fault":"hang"}"#, AMBIGUOUS, AMBIGUOUS, Nothing),
        case(r#"{"fault":"hang","handled":true}"#, AMBIGUOUS, AMBIGUOUS, Done),
        case(r#"{"fault":"drip","bytes":40,"ms":1}"#, Met::Fine, Met::Fine, Done),
        case(r#"{"fault":"reset"}"#, Met::Fine, AMBIGUOUS, Nothing),
        case(r#"{"fault":"reset","handled":true}"#, Met::Fine, AMBIGUOUS, Done),
        case(
            r#"{"fault":"unauthorized"}"#,
            fails(ErrorClass::Auth, Delivery::Answered),
            fails(ErrorClass::Auth, Delivery::Answered),
            Nothing,
        ),
        case(
            r#"{"fault":"error","text":"got timeout"}"#,
            fails(ErrorClass::Other, Delivery::Answered),
            fails(ErrorClass::Other, Delivery::Answered),
            Nothing,
        ),
        case(r#"{"fault":"status","status":502,"reason":"Bad","body":"x"}"#, AMBIGUOUS, AMBIGUOUS, Nothing),
        case(
            r#"{"fault":"status","status":504,"reason":"Late","body":"","handled":true}"#,
            AMBIGUOUS,
            AMBIGUOUS,
            Done,
        ),
        case(
            r#"{"fault":"proxy","status":595}"#,
            Met::Fine,
            fails(ErrorClass::NodeUnreachable, Delivery::NotSent),
            Nothing,
        ),
        case(r#"{"fault":"proxy","status":596,"later_ms":50}"#, AMBIGUOUS, AMBIGUOUS, DoneLater),
        case(r#"{"fault":"proxy","status":599}"#, AMBIGUOUS, AMBIGUOUS, Done),
        case(r#"{"fault":"upid"}"#, Met::Fine, Met::Fine, Done),
        // That of somebody else is not taken for the request's.
        case(
            r#"{"fault":"upid","upid":"UPID:pve2:0000016B:0002B38C:6B025E0A:vzstart:200:other@pve:"}"#,
            ODD,
            ODD,
            Done,
        ),
        case(
            r#"{"fault":"task_fail","text":"disk full","leave_lock":false}"#,
            Met::Fine,
            Met::Fine,
            Ends(|end| failed(end, "disk full")),
        ),
        case(
            r#"{"fault":"task_kill"}"#,
            Met::Fine,
            Met::Fine,
            Ends(|end| matches!(end, TaskEnd::Unknown { why } if why.contains("unexpected status"))),
        ),
        case(
            r#"{"fault":"task_warn","count":2}"#,
            Met::Fine,
            Met::Fine,
            Ends(|end| matches!(end, TaskEnd::Warnings { count: 2, lines } if lines.len() == 2)),
        ),
        case(
            r#"{"fault":"task_endless"}"#,
            Met::Fine,
            Met::Fine,
            Ends(|end| matches!(end, TaskEnd::StillRunning { .. })),
        ),
        case(r#"{"fault":"task_late","lookups":3}"#, Met::Fine, Met::Fine, Ends(|end| *end == TaskEnd::Ok)),
        case(
            r#"{"fault":"task_log_gone"}"#,
            Met::Fine,
            Met::Fine,
            Ends(|end| matches!(end, TaskEnd::Unknown { why } if why.contains("no such task"))),
        ),
        case(r#"{"fault":"big_body","bytes":200000000}"#, ODD, ODD, Done),
        case(r#"{"fault":"bad_json"}"#, ODD, ODD, Done),
        case(r#"{"fault":"bad_text"}"#, ODD, ODD, Done),
        case(r#"{"fault":"no_data"}"#, ODD, ODD, Done),
        case(r#"{"fault":"replace_guest","vmid":101}"#, Met::Fine, Met::Fine, Done),
        case(r#"{"fault":"digest_race","vmid":101}"#, Met::Fine, Met::Fine, Done),
        case(
            r#"{"fault":"flock","vmid":101}"#,
            Met::Fine,
            Met::Fine,
            Ends(
                |end| matches!(end, TaskEnd::Failed { text, .. } if classify_text(text) == ErrorClass::Busy),
            ),
        ),
        case(
            r#"{"fault":"daemon_restart","ms":0,"requests":1}"#,
            Met::Fine,
            fails(ErrorClass::NodeUnreachable, Delivery::NotSent),
            Nothing,
        ),
    ]
}

/// Those with tests of their own below, because they last.
const APART: [&str; 3] = ["refuse", "certificate", "quorum"];

pub(crate) async fn story(release: Release) -> Notes {
    let b = Bench::new(release).await;
    let kind = |order: &str| {
        let order: serde_json::Value = serde_json::from_str(order).unwrap();
        order["fault"].as_str().unwrap().to_owned()
    };
    let met: BTreeSet<String> =
        cases().iter().map(|case| kind(case.fault)).chain(APART.map(str::to_owned)).collect();
    let known: BTreeSet<String> = FAULT_EXAMPLES.iter().map(|(order, _)| kind(order)).collect();
    assert_eq!(met, known, "every fault of the simulator is met");
    for case in cases() {
        read(&b, &case).await;
        mutation(&b, &case).await;
    }
    refused(&b).await;
    quorum(&b).await;
    races(&b).await;
    without_audit(&b).await;
    paused(&b).await;
    b.into_notes()
}

fn order(b: &Bench, fault: &str, method: &str, part: &str) {
    let rule = FaultRule::parse(&serde_json::from_str(fault).unwrap()).unwrap();
    b.fault(rule.method(method).contains(part));
}

fn verdict<T>(answer: &Result<T, ApiError>) -> Met {
    match answer {
        Ok(_) => Met::Fine,
        Err(error) => Met::Error(error.class(), error.delivery()),
    }
}

/// Where nothing ever comes the clock runs on, but not before the node has the request.
async fn patient<T>(b: &Bench, fault: &str, work: impl Future<Output = T>) -> T {
    if !fault.contains("hang") {
        return work.await;
    }
    let (from, begun) = (b.sim.requests().len(), Instant::now());
    let mut work = std::pin::pin!(work);
    while b.sim.requests().len() == from {
        assert!(begun.elapsed() < LIMIT);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::task::yield_now() => {}
        }
    }
    hurried(work).await
}

/// A fresh client: what one fault did to another must not count.
fn fresh(b: &Bench) -> proxmox_client::Client {
    crate::bench::client(&b.sim, &b.sim.tokens().1, crate::bench::spki(&b.sim))
}

async fn read(b: &Bench, case: &Case) {
    let client = fresh(b);
    order(b, case.fault, "GET", "/status/current");
    let from = b.sim.requests().len();
    let answer = patient(b, case.fault, client.guest_status(QEMU, vmid(101))).await;
    assert_eq!(verdict(&answer), case.read, "{}: {answer:?}", case.fault);
    if let Ok(status) = answer {
        assert_eq!(status.status, RunState::Stopped);
    }
    assert!(b.sim.requests().len() - from <= 3, "{}", case.fault);
    b.sim.clear_faults();
}

async fn mutation(b: &Bench, case: &Case) {
    let client = fresh(b);
    let guest = vmid(101);
    let name = snap("fault");
    // What was there before is not taken for this one's, though it began in the same second.
    let since = client.node_clock().await.unwrap();
    let there = client.find_tasks(since, "qmsnapshot", guest, client.identity()).await.unwrap();
    let known: Vec<Upid> = there.into_iter().map(|task| task.upid).collect();
    order(b, case.fault, "POST", "/snapshot");
    let before = b.mutations();
    let answer = patient(b, case.fault, client.snapshot_create(QEMU, guest, &name, "")).await;
    assert_eq!(verdict(&answer), case.mutation, "{}: {answer:?}", case.fault);
    b.sim.clear_faults();

    let asker = fresh(b);
    let find = async || {
        let (task_types, id, user) = (&["qmsnapshot"], guest.to_string(), asker.identity());
        asker.find_task_of(&FindTask { since, task_types, id: &id, user, known: &known }).await
    };
    let wait = async |upid: Upid| asker.wait_task(&upid, LIMIT).await;
    match case.became {
        Became::Nothing => {
            let early = find().await;
            assert!(
                matches!(early, FoundTask::CannotTell(Doubt::TooEarly { .. })),
                "{}: {early:?}",
                case.fault
            );
            b.sim.set_clock(i64::try_from(since).unwrap() + 60);
            let late = find().await;
            assert!(matches!(late, FoundTask::NotFound), "{}: {late:?}", case.fault);
            b.sim.set_clock(i64::try_from(crate::bench::unix()).unwrap());
        }
        Became::Done | Became::DoneLater => {
            let begun = Instant::now();
            let found = loop {
                match find().await {
                    FoundTask::Found(upid) => break upid,
                    FoundTask::CannotTell(Doubt::TooEarly { .. })
                        if matches!(case.became, Became::DoneLater) => {}
                    other => panic!("{}: {other:?}", case.fault),
                }
                assert!(begun.elapsed() < LIMIT);
            };
            assert_eq!(wait(found).await, TaskEnd::Ok, "{}", case.fault);
            assert!(b.world(|w| w.guests[&101].snapshots.contains_key("fault")), "{}", case.fault);
        }
        Became::Ends(fits) => {
            let upid = answer.unwrap();
            let end = match case.fault.contains("endless") {
                true => asker.wait_task(&upid, Duration::from_millis(1)).await,
                false => hurried(wait(upid.clone())).await,
            };
            assert!(fits(&end), "{}: {end:?}", case.fault);
            let FoundTask::Found(found) = find().await else { panic!("{}", case.fault) };
            assert_eq!(found, upid);
        }
    }
    assert_eq!(b.mutations() - before, case.arrived, "{}: sent once", case.fault);
    if case.fault.contains(r#""upid""#) {
        // The answer named a task that never was: it is lost, and the right one is found.
        let end = hurried(client.wait_task(&answer_upid(b), LIMIT)).await;
        assert!(matches!(end, TaskEnd::Unknown { .. }), "{end:?}");
    }
    b.world(|w| {
        let guest = w.guests.get_mut(&101).unwrap();
        guest.snapshots.remove("fault");
        guest.config.remove("lock");
        guest.config.insert("parent".into(), "before-upgrade".into());
        w.flocked.clear();
    });
}

/// A UPID of the right form that nobody knows.
fn answer_upid(b: &Bench) -> Upid {
    let text = format!("UPID:pve1:0FFFFFFF:00000001:{:08X}:qmsnapshot:101:{}:", b.now(), b.act.identity());
    text.parse().unwrap()
}

/// Nobody listens.
async fn refused(b: &Bench) {
    b.mishap(Mishap::Refuse { ms: 3_600_000 });
    let before = b.sim.requests().len();
    let client = fresh(b);
    let unreachable = fails(ErrorClass::NodeUnreachable, Delivery::NotSent);
    assert_eq!(verdict(&client.version().await), unreachable);
    assert_eq!(verdict(&client.start(QEMU, vmid(101)).await), unreachable);
    assert_eq!(b.sim.requests().len(), before);
    assert!(matches!(
        client.find_task(b.now(), "qmstart", vmid(101), client.identity()).await,
        FoundTask::CannotTell(Doubt::NotListed(_))
    ));
    b.sim.listen_again().await;
    client.version().await.unwrap();
    // The connection is cut with the request, and nobody listens then: a read is tried again and
    // meets the closed door, a mutation is not sent again.
    order(b, r#"{"fault":"refuse","ms":3600000}"#, "POST", "/start");
    assert_eq!(verdict(&client.start(QEMU, vmid(101)).await), AMBIGUOUS);
    b.sim.listen_again().await;
    assert!(!b.runs(101));
}

async fn quorum(b: &Bench) {
    b.mishap(Mishap::Quorum { lost: true });
    let client = fresh(b);
    client.guest_status(QEMU, vmid(101)).await.unwrap();
    let no_quorum = fails(ErrorClass::NoQuorum, Delivery::Answered);
    let before = b.mutations();
    assert_eq!(verdict(&client.start(QEMU, vmid(101)).await), no_quorum);
    assert_eq!(b.mutations() - before, 1);
    b.mishap(Mishap::Quorum { lost: false });
    let upid = client.start(QEMU, vmid(101)).await.unwrap();
    assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    let upid = client.stop(QEMU, vmid(101)).await.unwrap();
    assert_eq!(client.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
}

/// A token that may not read the node's clock finds its own task all the same, and says of another's
/// that it cannot see it.
async fn without_audit(b: &Bench) {
    b.world(|w| {
        let few = ["VM.Audit".to_owned(), "VM.Snapshot".to_owned()];
        w.access.roles.insert("Few".to_owned(), few.into());
        w.access.grant("/", "writ@pve!noacl", "Few");
    });
    let few = crate::bench::client(&b.sim, &b.sim.token("writ@pve!noacl"), crate::bench::spki(&b.sim));
    let (guest, since) = (vmid(102), b.now());
    assert!(few.node_clock().await.is_err());
    order(b, r#"{"fault":"reset","handled":true}"#, "POST", "/snapshot");
    let lost = few.snapshot_create(QEMU, guest, &snap("lost"), "").await;
    assert_eq!(verdict(&lost), AMBIGUOUS);
    let FoundTask::Found(upid) = few.find_task(since, "qmsnapshot", guest, few.identity()).await else {
        panic!("its own task")
    };
    assert_eq!(few.wait_task(&upid, LIMIT).await, TaskEnd::Ok);
    let none = few.find_task(since - 100, "qmstart", guest, few.identity()).await;
    assert!(matches!(none, FoundTask::NotFound), "{none:?}");
    let hidden = few.find_task(since, "qmsnapshot", guest, b.act.identity()).await;
    assert!(matches!(hidden, FoundTask::CannotTell(Doubt::Hidden { .. })), "{hidden:?}");
}

/// What a digest and the short lock are for.
async fn races(b: &Bench) {
    let client = fresh(b);
    let change = async |digest: &str| {
        let change = ConfigChange::new(digest).set("onboot", 0);
        client.change_config_now(QEMU, vmid(101), &change).await
    };
    for fault in [r#"{"fault":"digest_race"}"#, r#"{"fault":"replace_guest"}"#] {
        let seen = client.guest_config(QEMU, vmid(101)).await.unwrap();
        order(b, fault, "PUT", "/config");
        let answer = change(&seen.digest).await;
        assert_eq!(verdict(&answer), fails(ErrorClass::DigestMismatch, Delivery::Answered), "{fault}");
        let now = client.guest_config(QEMU, vmid(101)).await.unwrap();
        assert_eq!(now.smbios_uuid() == seen.smbios_uuid(), fault.contains("race"));
    }
    let seen = client.guest_config(QEMU, vmid(101)).await.unwrap();
    order(b, r#"{"fault":"flock"}"#, "PUT", "/config");
    assert_eq!(verdict(&change(&seen.digest).await), fails(ErrorClass::Busy, Delivery::Answered));
    change(&seen.digest).await.unwrap();
}

/// One bad answer costs one request; then nothing is sent for thirty seconds.
async fn paused(b: &Bench) {
    let client = fresh(b);
    b.mishap(Mishap::Unauthorized { reason: None });
    let error = client.version().await.unwrap_err();
    let reason = if b.is_9() { "Authentication failed!" } else { "invalid token value!" };
    assert_eq!((error.status(), error.reason()), (Some(401), Some(reason)));
    let before = b.sim.requests().len();
    for _ in 0..3 {
        assert_eq!(verdict(&client.nodes().await), fails(ErrorClass::Auth, Delivery::NotSent));
        assert_eq!(verdict(&client.stop(QEMU, vmid(101)).await), fails(ErrorClass::Auth, Delivery::NotSent));
    }
    assert_eq!(b.sim.requests().len(), before);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    client.nodes().await.unwrap();
}
