//! A hub that takes and delivers an order and denies it: its unsigned no must not lead to a second order.

use authz::Order;
use protocol::Sha256;

use super::super::fake_hub::{no, ok};
use super::{Desk, text};
use crate::error::Failure;
use crate::hub::{Hub, HubError};
use crate::testing::{done, ended, receipt};
use crate::text::utc;

/// Everything that a hub can answer which is no success, and nothing at all.
fn denials() -> Vec<(u16, String)> {
    let accepted = protocol::api::OrderAccepted { op: Sha256::of(b"another"), version: 1, online: true };
    vec![
        no(409, "conflict"),
        no(500, "internal"),
        no(401, "bad_token"),
        no(422, "full"),
        no(413, "too_large"),
        no(400, "bad_request"),
        no(404, "no_host"),
        (502, "<html>".into()),
        (302, String::new()),
        (200, "{}".into()),
        ok(&accepted),
        (0, String::new()),
    ]
}

#[tokio::test]
async fn a_script_that_the_hub_denies_to_have_taken_is_still_valid_and_its_result_readable() {
    let desk = Desk::ready().await;
    desk.runs_honestly();
    let mut known: Vec<String> = vec![];
    for denial in denials() {
        desk.hub.says.lock().unwrap().denies_orders = Some(denial.clone());
        let error = desk.run(&["run", "web1", "--", "id"]).await.unwrap_err();
        let keys = desk.result_keys();
        let Some(op) = keys.iter().find(|op| !known.contains(op)) else {
            panic!("{denial:?}: the key to the result is gone: {error}")
        };
        assert!(matches!(error, Failure::Uncertain { .. }), "{denial:?}: {error}");
        let said = error.to_string();
        for says in [
            "STILL VALID until ",
            "do not sign a replacement before then",
            &format!("`writ result web1 {op}`"),
        ] {
            assert!(said.contains(says), "{denial:?}: {says:?} is missing in: {said}");
        }
        // It ran, and the host's signed word can be had.
        let answer = desk.run(&["result", "web1", op]).await.unwrap();
        assert_eq!((answer.status, answer.failures.len()), (7, 0), "{denial:?}: {answer:?}");
        known.clone_from(&keys);
    }
}

#[tokio::test]
async fn an_order_that_the_hub_denies_to_have_taken_is_still_valid() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    let bytes = std::fs::read(&order).unwrap();
    let (op, exp) = (Sha256::of(&bytes).to_string(), utc(Order::decode(&bytes).unwrap().exp));
    desk.judged_by(|op| receipt(1, None, ended(op, done())));
    for denial in denials() {
        desk.hub.says.lock().unwrap().denies_orders = Some(denial.clone());
        let error = desk.run(&["submit", text(&order)]).await.unwrap_err().to_string();
        let resume = format!("`writ order web1 {op} --wait`");
        for says in [&format!("STILL VALID until {exp}, do not sign a replacement before then"), &resume] {
            assert!(error.contains(says), "{denial:?}: {says:?} is missing in: {error}");
        }
        assert!(!error.contains("the hub refuses"), "{denial:?}: {error}");
        let honest_no = matches!(denial.0, 400 | 401 | 404 | 409 | 413 | 422 | 500);
        assert_eq!(error.contains("its word only"), honest_no, "{denial:?}: {error}");
    }
    let story = desk.run(&["order", "web1", &op, "--wait"]).await.unwrap();
    assert!(story.failures.is_empty() && story.stdout.contains("receipt verified"), "{story:?}");
}

#[tokio::test]
async fn a_hub_that_forgets_an_order_while_it_is_waited_for_takes_nothing_back() {
    let desk = Desk::ready().await;
    desk.runs_honestly();
    let order = desk.signed_order().await;
    for denial in [no(404, "no_order"), no(401, "bad_token"), no(500, "internal"), (200, "{}".into())] {
        desk.hub.says.lock().unwrap().denies_order = Some(denial.clone());
        for words in [
            vec!["run", "web1", "--", "id"],
            vec!["submit", text(&order), "--sig", text(&desk.path("order.json.sig"))],
        ] {
            desk.hub.says.lock().unwrap().runner.take_if(|_| words[0] == "submit");
            let error = desk.run(&words).await.unwrap_err().to_string();
            assert!(
                error.contains("STILL VALID until ") && error.contains("see `writ "),
                "{denial:?}: {error}"
            );
        }
        desk.runs_honestly();
    }
    // What this machine did not send it cannot vouch for.
    let other = Sha256::of(b"another").to_string();
    let error = desk.run(&["order", "web1", &other, "--wait"]).await.unwrap_err();
    assert!(matches!(error, Failure::Hub(HubError::Malformed { .. })), "{error}");
}

#[tokio::test]
async fn only_what_failed_before_a_byte_was_sent_is_certain() {
    let desk = Desk::ready().await;
    let address = || desk.hub.address.parse().unwrap();
    let wrong = Hub::new(address(), Sha256::of(b"another hub"), Some("t")).unwrap();
    let error = wrong.hosts().await.unwrap_err();
    assert!(matches!(error, HubError::WrongPin { .. }) && !error.is_uncertain(), "{error}");
    // Nobody listens, and nobody speaks TLS.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let free = format!("https://{}", listener.local_addr().unwrap());
    let hub = Hub::new(free.parse().unwrap(), desk.hub.pin, Some("t")).unwrap();
    let (error, ()) = tokio::join!(hub.hosts(), async { drop(listener.accept().await.unwrap()) });
    let error = error.unwrap_err();
    assert!(error.is_passing() && !error.is_uncertain(), "{error}");
    drop(listener);
    let error = hub.hosts().await.unwrap_err();
    assert!(error.is_passing() && !error.is_uncertain(), "{error}");
    // Taken, and no answer: asking again helps, and what came of it is open.
    desk.hub.says.lock().unwrap().denies_order = Some((0, String::new()));
    let hub = Hub::new(address(), desk.hub.pin, Some("t")).unwrap();
    let id = protocol::HostId::from_bytes([1; 16]);
    let error = hub.order(&id, &Sha256::of(b"o"), 0, 0).await.unwrap_err();
    assert!(error.is_passing() && error.is_uncertain(), "{error}");
}
