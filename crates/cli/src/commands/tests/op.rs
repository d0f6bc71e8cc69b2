//! `writ op KIND` and `writ look` against hosts that answer, do not answer, and hubs that lie.

use authz::Policy;
use authz::order::{Binding, Kind, Params};
use authz::policy::Rule;
use protocol::ask::{Look, Question, Reply};

use super::*;
use crate::testing::{host_key, plan_of, policy};

fn told() -> Vec<u8> {
    std::fs::read(format!("{}/fixtures/worlds/machine.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn everything() -> Policy {
    let mut document = policy().document().clone();
    let role = document.rules[0].role.clone();
    let rule = |kind: &Kind| Rule {
        kind: *kind,
        role: role.clone(),
        also: vec![],
        threshold: 1,
        standing: matches!(kind.binding(), Binding::PlanOrStanding | Binding::Standing),
        max_validity_s: 600,
    };
    document.rules =
        Kind::ALL.iter().filter(|kind| kind.namespace() == authz::Namespace::Op).map(rule).collect();
    Policy::decode(&document.encode()).unwrap()
}

/// Logged in with a policy for every kind; the host answers questions with `reply`.
async fn desk(reply: impl Fn(&Look) -> (u16, String) + Send + 'static) -> Desk {
    let desk = Desk::new().await;
    std::fs::write(desk.path("policy.json"), everything().document().encode()).unwrap();
    desk.login().await.unwrap();
    let mut says = desk.hub.says.lock().unwrap();
    says.hosts = vec![view(1, "web1")];
    says.report = Some(report(vec![guest(101)]));
    says.asked = Some(Box::new(move |question| match question {
        Question::Look(look) => reply(look),
        Question::Plan { draft } => {
            let plan = plan_of(&authz::Order::decode_draft(&draft.0).unwrap()).sign(&host_key(1));
            (200, serde_json::to_string(&Reply::Plan { plan }).unwrap())
        }
    }));
    drop(says);
    desk
}

fn world(json: Vec<u8>) -> (u16, String) {
    (200, serde_json::to_string(&Reply::World { json: json.into() }).unwrap())
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[tokio::test]
async fn an_order_is_made_of_what_the_host_tells() {
    let desk = desk(|_| world(told())).await;
    let file = desk.path("order.json");
    let line = format!("op disk.move web1 101 scsi0 --to local-zfs -o {}", text(&file));
    let said = desk.run(&words(&line)).await.unwrap().stdout;
    assert!(said.contains("move disk scsi0 (local-lvm:vm-101-disk-0)"), "{said}");
    assert!(said.contains("Facts as web1 told them just now") && !said.contains("report"), "{said}");
    let order = authz::Order::decode(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((order.kind(), order.plan.is_none()), (Kind::DiskMove, true));
    let asked: Question = {
        let says = desk.hub.says.lock().unwrap();
        serde_json::from_slice(says.heard("POST", "/ask").unwrap()).unwrap()
    };
    let look = Look { guest: Some(101.try_into().unwrap()), backing: true, ..Look::default() };
    assert_eq!(asked, Question::Look(look));
}

/// What loses a guest is shown before, written with the host's plan, and never without it.
#[tokio::test]
async fn the_worst_is_bound_to_a_plan_and_can_be_looked_at_before() {
    let desk = desk(|_| world(told())).await;
    let seen = desk.run(&words("op guest.destroy web1 101 --purge --preview")).await.unwrap().stdout;
    assert!(seen.contains("DESTROY the guest for good, with 3 volume(s) and 2 snapshot(s)"), "{seen}");
    assert!(seen.contains("bound to a plan") && seen.contains("Nothing was written"), "{seen}");
    let file = desk.path("order.json");
    assert!(!file.exists());
    let line = format!("op guest.destroy web1 101 -o {}", text(&file));
    let said = desk.run(&words(&line)).await.unwrap().stdout;
    assert!(said.contains("Plan, computed and signed by host 'web1'"), "{said}");
    let order = authz::Order::decode(&std::fs::read(&file).unwrap()).unwrap();
    assert!(order.plan.is_some() && matches!(order.params, Params::GuestDestroy(_)));
}

/// Preview of what goes and what stays; whose backups they are is in the report.
#[tokio::test]
async fn pruning_is_previewed() {
    let desk = desk(|look| {
        assert!(look.owner.is_some_and(|owner| owner.kind == protocol::GuestKind::Qemu));
        world(told())
    })
    .await;
    let line = "op backup.prune web1 101 --storage local --keep-last 1 --preview";
    let said = desk.run(&words(line)).await.unwrap().stdout;
    assert_eq!((said.matches("\n  goes").count(), said.matches("\n  stays").count()), (3, 1), "{said}");
    desk.hub.says.lock().unwrap().report = None;
    let error = desk.run(&words(line)).await.unwrap_err().to_string();
    assert!(error.contains("--type"), "{error}");
}

/// A host that does not answer: the report is enough for some kinds, and for the others it is said why not.
#[tokio::test]
async fn without_an_answer_the_report_has_to_do() {
    let refused = serde_json::to_string(&Reply::Refused {
        code: "proxmox".into(),
        why: "403\u{1b}[2J Forbidden".into(),
    });
    let garbage = serde_json::to_string(&Reply::World { json: b"{\"guest\":".to_vec().into() });
    let plan = plan_of(&crate::testing::order()).sign(&host_key(1));
    for (status, body) in [
        (409, "{\"code\":\"offline\",\"message\":\"the host is not connected\"}".to_owned()),
        (404, "not a hub's words".to_owned()),
        (200, refused.unwrap()),
        (200, garbage.unwrap()),
        (200, serde_json::to_string(&Reply::Plan { plan }).unwrap()),
    ] {
        let answer = body.clone();
        let desk = desk(move |_| (status, answer.clone())).await;
        let said = desk.run(&words("op guest.start web1 101 --preview")).await.unwrap().stdout;
        assert!(said.contains("Facts from the report of") && said.contains("It was asked"), "{body}: {said}");
        assert!(!said.contains('\u{1b}'), "{said}");
        let error = desk.run(&words("op guest.destroy web1 101 --preview")).await.unwrap_err().to_string();
        assert!(error.contains("reports do not tell it"), "{error}");
        assert!(desk.run(&words("look web1 101")).await.is_err());
        desk.hub.says.lock().unwrap().report = None;
        let error = desk.run(&words("op guest.start web1 101")).await.unwrap_err().to_string();
        assert!(error.contains("writ-agent"), "{error}");
    }
}

#[tokio::test]
async fn looking_shows_the_world_and_writes_nothing() {
    let desk = desk(|_| world(told())).await;
    let said = desk.run(&words("look web1 101")).await.unwrap().stdout;
    assert!(said.contains("qemu 101 'db', stopped") && said.contains("not signed"), "{said}");
    let said = desk.run(&words("look web1")).await.unwrap().stdout;
    assert!(said.contains("WD-WX11D1234567"), "{said}");
    let json = desk.run(&words("look web1 101 --json")).await.unwrap().stdout;
    let read: authz::world::World = serde_json::from_str(&json).unwrap();
    assert_eq!(read, serde_json::from_slice(&told()).unwrap());
}
