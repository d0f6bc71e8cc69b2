//! Orders that are bound to a plan, against a hub that lies about it (`security.md` 2.3, 2.4).

use authz::plan::Plan;
use protocol::ask::{Question, Reply};
use protocol::{HostId, Nonce};

use super::*;
use crate::commands::fake_hub::{no, ok};
use crate::testing::{plan_of, world};

const ROLLBACK: [&str; 5] = ["op", "snapshot.rollback", "web1", "101", "before-update"];

impl Desk {
    /// The hub answers plan questions like this; [`Desk::world`] answers the others.
    fn plans(&self, mut answer: impl FnMut(Order) -> (u16, String) + Send + 'static) {
        self.hub.says.lock().unwrap().asked = Some(Box::new(move |question| match question {
            Question::Plan { draft } => answer(Order::decode_draft(&draft.0).unwrap()),
            Question::Look(_) => ok(&Reply::World { json: serde_json::to_vec(&world(101)).unwrap().into() }),
        }));
    }

    fn asked(&self) -> Vec<Question> {
        let says = self.hub.says.lock().unwrap();
        let asked = says.heard.iter().filter(|(_, path, _)| path.ends_with("/ask"));
        asked.map(|(_, _, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    async fn prepared(&self, file: &str) -> Result<Answer, Failure> {
        let order = self.path(file);
        self.run(&[&ROLLBACK[..], &["-o", text(&order), "--force"]].concat()).await
    }
}

fn plan(plan: &Plan, key: &authz::SecretKey) -> (u16, String) {
    ok(&Reply::Plan { plan: plan.sign(key) })
}

#[tokio::test]
async fn a_destructive_order_is_bound_to_the_hosts_plan() {
    let desk = Desk::ready().await;
    let said = desk.prepared("order.json").await.unwrap().stdout;
    for says in [
        "Plan, computed and signed by host 'web1' for exactly this order",
        "everything since the snapshot is lost",
        "POST /nodes/pve1/qemu/101/snapshot/before-update/rollback",
        "sign and submit before ",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }
    let file = desk.path("order.json");
    let order = Order::decode(&std::fs::read(&file).unwrap()).unwrap();
    let draft = Order { plan: None, ..order.clone() };
    // First for the facts, then for the plan.
    let asked = desk.asked();
    assert!(matches!(asked[..], [Question::Look(_), _]), "{asked:?}");
    assert_eq!(asked[1], Question::Plan { draft: draft.encode().into() });
    let signed: Signed =
        serde_json::from_slice(&std::fs::read(desk.path("order.json.plan")).unwrap()).unwrap();
    let (_, name) = Plan::verify(&signed, &order.host.id, &host_key(1).public(), &draft).unwrap();
    assert_eq!(order.plan, Some(name));
    // Shown again to whoever signs, and signed for.
    for words in [vec!["show", text(&file)], vec!["sign", "--explain", text(&file)]] {
        let shown = desk.run(&words).await.unwrap().stdout;
        assert!(shown.contains("everything since the snapshot is lost"), "{shown}");
    }
    desk.run(&["sign", text(&file)]).await.unwrap();

    // Benign kinds do without, unless asked for; and leave no plan of an order that is gone.
    let start = ["op", "guest.start", "web1", "101", "--force", "-o", text(&file)];
    let said = desk.run(&start).await.unwrap().stdout;
    assert!(!said.contains("Plan, computed") && !desk.path("order.json.plan").exists(), "{said}");
    let plans = desk.asked().iter().filter(|asked| matches!(asked, Question::Plan { .. })).count();
    assert!(!desk.path("order.json.sig").exists() && plans == 1);
    let said = desk.run(&[&start[..], &["--plan"]].concat()).await.unwrap().stdout;
    assert!(said.contains("Plan, computed") && desk.path("order.json.plan").exists(), "{said}");
}

/// A stolen hub swaps the plan of another host or guest, replays an old one, alters effects, signs its own,
/// or answers something else: nothing is written and nothing can be signed.
#[tokio::test]
async fn a_hub_that_lies_about_plans_gets_no_order_written() {
    let desk = Desk::ready().await;
    type Lie = fn(Order) -> (u16, String);
    let lies: [(&str, Lie); 9] = [
        ("not signed by the host's key", |draft| plan(&plan_of(&draft), &mallory())),
        ("not signed by the host's key", |draft| plan(&plan_of(&draft), &host_key(2))),
        ("is for another order", |draft| {
            let mut other = draft;
            other.guest.as_mut().unwrap().vmid = 102.try_into().unwrap();
            plan(&plan_of(&other), &host_key(1))
        }),
        ("is for another order", |draft| {
            let old = Order { nonce: Nonce::from_bytes([1; 16]), ..draft };
            plan(&plan_of(&old), &host_key(1))
        }),
        ("is of host", |draft| {
            plan(&Plan { host: HostId::from_bytes([2; 16]), ..plan_of(&draft) }, &host_key(1))
        }),
        ("not signed by the host's key", |draft| {
            let mut altered = plan_of(&draft).sign(&host_key(1));
            let text = String::from_utf8(altered.payload.0.clone()).unwrap();
            altered.payload = text.replace("is lost", "is kept").into_bytes().into();
            ok(&Reply::Plan { plan: altered })
        }),
        ("something else came back", |_| ok(&Reply::World { json: vec![].into() })),
        ("computes no plan", |_| {
            ok(&Reply::Refused { code: "proxmox".into(), why: "\u{1b}[2Jit is away".into() })
        }),
        ("could not be asked (offline", |_| no(409, "offline")),
    ];
    for (says, lie) in lies {
        desk.plans(lie);
        let error = desk.prepared("order.json").await.unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\u{1b}'), "{says}: {error}");
        assert!(!desk.path("order.json").exists() && !desk.path("order.json.plan").exists(), "{says}");
    }
}

/// What lies beside an order is judged again by everybody who signs.
#[tokio::test]
async fn a_plan_that_does_not_belong_stops_the_signature() {
    let desk = Desk::ready().await;
    desk.prepared("order.json").await.unwrap();
    desk.prepared("other.json").await.unwrap();
    let (file, beside) = (desk.path("order.json"), desk.path("order.json.plan"));
    let own = std::fs::read(&beside).unwrap();
    let other = std::fs::read(desk.path("other.json.plan")).unwrap();
    let mut forged: Signed = serde_json::from_slice(&own).unwrap();
    forged.payload.0[20] ^= 1;
    for (bad, says) in [
        (other, "another order"),
        (serde_json::to_vec(&forged).unwrap(), "not signed by the host's key"),
        (b"{}".to_vec(), "is not a plan"),
        (vec![b'['; 100_000], "is not a plan"),
    ] {
        std::fs::write(&beside, bad).unwrap();
        for words in
            [vec!["show", text(&file)], vec!["sign", "--explain", text(&file)], vec!["sign", text(&file)]]
        {
            let error = desk.run(&words).await.unwrap_err().to_string();
            assert!(error.contains(says), "{words:?}: {error}");
        }
    }
    assert!(!desk.path("order.json.sig").exists());
    // A plan beside an order that is bound to none belongs to another one.
    std::fs::write(&beside, &own).unwrap();
    let bound = Order::decode(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::write(&file, Order { plan: None, ..bound.clone() }.encode()).unwrap();
    let error = desk.run(&["sign", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("belongs to another order"), "{error}");
    // Without the file, and on a machine that does not know the host, nothing is shown as true.
    std::fs::write(&file, bound.encode()).unwrap();
    std::fs::remove_file(&beside).unwrap();
    let shown = desk.run(&["show", text(&file)]).await.unwrap().stdout;
    assert!(shown.contains("NOT SHOWN") && shown.contains("order.json.plan"), "{shown}");
    let error = desk.run(&["sign", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("nobody signs") && error.contains("--unseen-plan"), "{error}");
    std::fs::write(&beside, &own).unwrap();
    desk.run(&["hosts", "--forget", "web1"]).await.unwrap();
    let shown = desk.run(&["show", text(&file)]).await.unwrap().stdout;
    assert!(shown.contains("NOT SHOWN") && !shown.contains("is lost"), "{shown}");
    let error = desk.run(&["sign", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("writ hosts") && error.contains("nothing was signed"), "{error}");
    assert!(!desk.path("order.json.sig").exists());
    desk.run(&["sign", "--unseen-plan", text(&file)]).await.unwrap();
    assert!(desk.path("order.json.sig").exists());
}

/// A hub or a person that holds an order back for longer than the host remembers its plan.
#[tokio::test]
async fn what_the_host_has_forgotten_is_not_signed() {
    let desk = Desk::ready().await;
    desk.prepared("order.json").await.unwrap();
    let file = desk.path("order.json");
    let order = Order::decode(&std::fs::read(&file).unwrap()).unwrap();
    let draft = Order { plan: None, nbf: order.nbf - 901, exp: order.nbf + 600, ..order };
    let signed = plan_of(&draft).sign(&host_key(1));
    let (old, _) = crate::planned::bind(draft, &signed, &host_key(1).public()).unwrap();
    std::fs::write(&file, old.encode()).unwrap();
    std::fs::write(desk.path("order.json.plan"), serde_json::to_vec(&signed).unwrap()).unwrap();
    let shown = desk.run(&["show", text(&file)]).await.unwrap().stdout;
    assert!(shown.contains("TOO LATE since"), "{shown}");
    let error = desk.run(&["sign", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("forgets a plan after 15 min") && error.contains("nothing was signed"), "{error}");
    assert!(!desk.path("order.json.sig").exists());
}

/// The second signer sees what changed; and asks for no second plan, which would replace the first.
#[tokio::test]
async fn a_cosigner_checks_the_plan_and_looks_again() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    let beside = desk.path("order.json.plan");
    let own = std::fs::read(&beside).unwrap();
    let before = desk.asked().len();
    let cosign = ["cosign", text(&order)];
    std::fs::remove_file(&beside).unwrap();
    let error = desk.run(&cosign).await.unwrap_err().to_string();
    assert!(error.contains("there is no") && error.contains("order.json.plan"), "{error}");
    std::fs::write(&beside, &own[..own.len() - 3]).unwrap();
    assert!(desk.run(&cosign).await.unwrap_err().to_string().contains("is not a plan"));
    std::fs::write(&beside, &own).unwrap();
    type Change = fn(&mut authz::world::GuestNow);
    let changes: [(&str, Change); 3] = [
        ("digest", |now| now.digest = "e".repeat(40)),
        ("plan's config", |now| {
            now.config = protocol::report::Known::Known([("cores".to_owned(), "9".to_owned())].into());
        }),
        ("snapshot", |now| now.snapshots = protocol::report::Known::Known(vec![])),
    ];
    for (what, change) in changes {
        desk.hub.says.lock().unwrap().asked = Some(Box::new(move |question| {
            assert!(matches!(question, Question::Look(_)), "no second plan is asked for");
            let mut seen = world(101);
            let protocol::report::Known::Known(now) = &mut seen.guest else { unreachable!() };
            change(now);
            ok(&Reply::World { json: serde_json::to_vec(&seen).unwrap().into() })
        }));
        let error = desk.run(&cosign).await.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("changed since"), "{what}: {error}");
    }
    // Unchanged, or not to be asked: it goes on to whose key it is. (Alice signed already.)
    desk.plans(|_| panic!("no second plan is asked for"));
    let error = desk.run(&cosign).await.unwrap_err().to_string();
    assert!(error.contains("counts once"), "{error}");
    desk.hub.says.lock().unwrap().asked = None;
    let error = desk.run(&cosign).await.unwrap_err().to_string();
    assert!(error.contains("counts once"), "{error}");
    let asked = desk.asked();
    assert!(asked[before..].iter().all(|question| matches!(question, Question::Look(_))), "{asked:?}");
    assert!(asked.len() >= before + 4);
}
