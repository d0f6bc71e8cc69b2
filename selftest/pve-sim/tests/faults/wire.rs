//! Faults of connections and answers.

use std::time::{Duration, Instant};

use pve_sim::Sim;
use pve_sim::world::{FaultPlan, FaultRule, Mishap};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{DEADLINE, Pve, config_of, demo};

const CONFIG: &str = "/nodes/pve1/qemu/101/config";

#[tokio::test]
async fn nobody_listens_for_a_while() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    sim.refuse_connections();
    let end = Instant::now() + DEADLINE;
    while !pve.try_call("GET", "/version", "").await.is_err_and(|e| e.is_connect()) {
        assert!(Instant::now() < end, "somebody still listens");
    }
    sim.listen_again().await;
    assert_eq!(pve.get("/version").await.status, 200);

    // With a matcher the request is not handled, and the door opens by itself.
    pve.fault(r#"{"fault":"refuse","ms":1,"method":"PUT"}"#).await;
    assert!(pve.try_call("PUT", CONFIG, "name=x").await.is_err());
    assert_eq!(config_of(&sim, 101)["name"], "db");
    let end = Instant::now() + DEADLINE;
    while pve.try_call("GET", "/version", "").await.is_err() {
        assert!(Instant::now() < end, "nobody listens again");
    }
    sim.stop().await;
}

#[tokio::test]
async fn answers_that_never_come() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    for (order, name) in [
        (r#"{"fault":"hang","method":"PUT"}"#, "db"),
        (r#"{"fault":"hang","method":"PUT","handled":true}"#, "handled"),
    ] {
        pve.fault(order).await;
        let body = "name=handled";
        let patience = Duration::from_millis(300);
        let hung = tokio::time::timeout(patience, pve.try_call("PUT", CONFIG, body)).await;
        assert!(hung.is_err(), "{order}: {hung:?}");
        assert_eq!(config_of(&sim, 101)["name"], name, "{order}");
    }
    assert_eq!(sim.requests().len(), 2, "both were seen");
    sim.stop().await;
}

#[tokio::test]
async fn lost_before_and_after() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    for (handled, name) in [(false, "db"), (true, "lost")] {
        sim.fault(FaultRule::new(Mishap::Reset { handled }).method("put").contains("/101/")).unwrap();
        assert!(pve.try_call("PUT", CONFIG, "name=lost").await.is_err());
        assert_eq!(config_of(&sim, 101)["name"], name);
    }
    assert!(sim.faults().is_empty());
    sim.stop().await;
}

#[tokio::test]
async fn scripted_answers() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    for (order, status, reason, text, name) in [
        (r#"{"fault":"unauthorized"}"#, 401, "Authentication failed!", "", "db"),
        (r#"{"fault":"unauthorized","reason":"no"}"#, 401, "no", "", "db"),
        (
            r#"{"fault":"error","text":"got timeout"}"#,
            500,
            "got timeout",
            r#""message":"got timeout\n""#,
            "db",
        ),
        (r#"{"fault":"status","status":503,"reason":"busy","body":"later"}"#, 503, "busy", "later", "db"),
        (r#"{"fault":"proxy","status":595}"#, 595, "Connection refused", "", "db"),
        (r#"{"fault":"proxy","status":596}"#, 596, "Connection timed out", "", "596"),
        (r#"{"fault":"proxy","status":597}"#, 597, "Broken pipe", "", "597"),
        (r#"{"fault":"proxy","status":599,"reason":"odd"}"#, 599, "odd", "", "599"),
        (
            r#"{"fault":"status","status":200,"reason":"OK","body":"{}","handled":true}"#,
            200,
            "OK",
            "{}",
            "200",
        ),
    ] {
        pve.fault(order).await;
        let answer = pve.call("PUT", CONFIG, &format!("name={status}")).await;
        assert_eq!(answer.line(), (status, reason), "{order}");
        assert!(
            if text.is_empty() { answer.text.is_empty() } else { answer.text.contains(text) },
            "{answer:?}"
        );
        assert_eq!(config_of(&sim, 101)["name"], name, "{order}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn handled_after_its_answer() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    pve.fault(r#"{"fault":"proxy","status":596,"later_ms":30,"method":"PUT"}"#).await;
    let answer = pve.call("PUT", CONFIG, "name=late").await;
    assert_eq!(answer.status, 596);
    let end = Instant::now() + DEADLINE;
    while config_of(&sim, 101)["name"] != "late" {
        assert!(Instant::now() < end, "the handler does not go on");
        tokio::task::yield_now().await;
    }
    sim.stop().await;
}

#[tokio::test]
async fn strange_bodies() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    let usual = pve.get("/version").await;
    pve.fault(r#"{"fault":"drip","bytes":5,"ms":1}"#).await;
    let dripped = pve.get("/version").await;
    assert_eq!((dripped.status, &dripped.body), (200, &usual.body));
    pve.fault(r#"{"fault":"bad_json"}"#).await;
    let half = pve.get("/version").await;
    assert_eq!(half.status, 200);
    assert!(serde_json::from_str::<serde_json::Value>(&half.text).is_err(), "{half:?}");
    pve.fault(r#"{"fault":"no_data"}"#).await;
    assert_eq!(pve.get("/version").await.text, "{}");

    pve.fault(r#"{"fault":"big_body"}"#).await;
    let mut large = pve.request("GET", "/api2/json/version", "").send().await.unwrap();
    assert_eq!(large.content_length(), Some(200_000_011));
    let first = large.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(br#"{"data":"xxx"#));
    drop(large);
    pve.fault(r#"{"fault":"big_body","bytes":3}"#).await;
    assert_eq!(pve.get("/version").await.text, r#"{"data":"xxx"}"#);
    sim.stop().await;
}

#[tokio::test]
async fn the_n_th_matching_request() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    pve.fault(r#"[{"fault":"error","text":"x","contains":"/version","nth":2,"times":2},{"fault":"no_data","method":"POST"}]"#).await;
    let list = pve.client.get(format!("{}/sim/faults", pve.base)).send().await.unwrap();
    assert_eq!(super::read(list).await.unwrap().body.as_array().unwrap().len(), 2);
    let mut seen = Vec::new();
    for _ in 0..5 {
        assert_eq!(pve.get("/nodes").await.status, 200);
        seen.push(pve.get("/version").await.status);
    }
    assert_eq!(seen, [200, 500, 500, 200, 200]);
    assert_eq!(sim.faults().len(), 1);
    let cleared = pve.client.delete(format!("{}/sim/faults", pve.base)).send().await.unwrap();
    assert_eq!((cleared.status().as_u16(), sim.faults().len()), (200, 0));
    for bad in ["", "{", "[]x", "{}", r#"{"fault":"nosuch"}"#, r#"[{"fault":"hang","nth":0}]"#, "5"] {
        let answer = pve.order("faults", bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.body["error"].as_str().unwrap().len() > 10, "{answer:?}");
    }
    assert!(sim.faults().is_empty(), "nothing of a bad order counts");
    sim.stop().await;
}

#[tokio::test]
async fn a_seed_gives_the_same_faults_again() {
    let mut runs = Vec::new();
    for seed in [3, 3, 4] {
        let mut config = demo();
        config.faults = FaultPlan::default();
        config.faults.by_seed(seed, 0.5);
        let sim = Sim::start(config).await.unwrap();
        let pve = Pve::of(&sim);
        let mut run = Vec::new();
        for i in 0..24 {
            let (method, body) = if i % 3 == 0 { ("PUT", "name=x") } else { ("GET", "") };
            run.push(pve.try_call(method, CONFIG, body).await.map_or(0, |a| a.status));
        }
        runs.push(run);
        sim.stop().await;
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    assert!(runs[0].contains(&200) && runs[0].iter().any(|s| *s != 200), "{runs:?}");
}

#[tokio::test]
async fn plain_http_is_sent_away() {
    let sim = Sim::start(demo()).await.unwrap();
    for (request, status) in [
        ("GET /api2/json/version HTTP/1.1\r\nHost: x\r\n\r\n", "301"),
        ("POST /x HTTP/1.1\r\nHost: x\r\n\r\n", "308"),
        ("hello\r\n\r\n", "308"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(sim.addr()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(text.contains(&format!("Location: https://{}/", sim.addr())), "{text}");
    }
    assert!(sim.requests().is_empty());
    sim.stop().await;
}

#[tokio::test]
async fn the_web_interfaces_form() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    let call = |path: &str| pve.request("GET", &format!("/api2/extjs{path}"), "").send();
    let refused = super::read(call("/nodes/nosuch/status").await.unwrap()).await.unwrap();
    assert_eq!(refused.line(), (200, "OK"));
    let text = "hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Name or service not known\n";
    let wanted = serde_json::json!({"success": 0, "status": 500, "data": null, "message": text});
    assert_eq!(refused.body, wanted, "as recorded");
    let good = super::read(call("/version").await.unwrap()).await.unwrap();
    assert_eq!((&good.body["success"], &good.body["data"]["release"]), (&1.into(), &"9.1".into()));
    sim.stop().await;
}

#[tokio::test]
async fn the_last_answer_of_a_connection_says_so() {
    let sim = Sim::start(demo()).await.unwrap();
    let pve = Pve::of(&sim);
    let connection = |answer: reqwest::Response| answer.headers()["connection"].to_str().unwrap().to_owned();
    let usual = pve.request("GET", "/api2/json/version", "").send().await.unwrap();
    assert_eq!(connection(usual), "Keep-Alive");
    let last = pve.request("GET", "/api2/json/version", "").header("Connection", "close");
    assert_eq!(connection(last.send().await.unwrap()), "close");
    let refused = pve.request("GET", "/api2/json/nosuch", "").send().await.unwrap();
    assert_eq!(connection(refused), "close");
    sim.stop().await;
}
