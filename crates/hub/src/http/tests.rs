use authz::{Namespace, statement};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use protocol::desired::DesiredState;
use protocol::{Envelope, Sha256, Signed};
use serde_json::{Value, json};

use super::*;
use crate::testing::{TestHost, TestHub, alice, bob, mallory, operators};

fn concrete(path: &str) -> String {
    path.replace("{id}", "1").replace("{host_id}", &"01".repeat(16)).replace("{op}", &"02".repeat(32))
}

#[tokio::test]
async fn every_api_route_refuses_without_a_token() {
    let hub = TestHub::new().await;
    let mut guarded = 0;
    for route in routes() {
        let expected_open = !route.path.starts_with("/api/v1/") || route.path.starts_with("/api/v1/login");
        assert_eq!(route.access == Access::Open, expected_open, "{} {}", route.method, route.path);
        if route.access == Access::Open {
            continue;
        }
        guarded += 1;
        for token in [None, Some(""), Some("x"), Some("' OR 1=1 --")] {
            let (status, body) =
                hub.call(route.method.clone(), &concrete(route.path), token, Value::Null).await;
            let code = if token.is_some() { "bad_token" } else { "no_token" };
            assert_eq!((status, &body["code"]), (StatusCode::UNAUTHORIZED, &json!(code)), "{}", route.path);
        }
    }
    assert_eq!(guarded, 24);
}

#[tokio::test]
async fn hostile_requests_get_a_failure_with_a_code() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let host = "01".repeat(16);
    let (post, get, put) = ("POST", "GET", "PUT");
    let huge = vec![b'['; request::MAX_BODY + 1];
    let order = |payload: &[u8], sigs: Vec<String>| {
        serde_json::to_vec(&Envelope::new(payload.to_vec().into(), sigs)).unwrap()
    };
    let sig = || vec!["s".to_owned()];
    let cases: Vec<(&str, String, Vec<u8>, u16, &str)> = vec![
        (get, "/".into(), vec![], 404, "not_found"),
        (get, "/api/v1/unknown".into(), vec![], 404, "not_found"),
        (get, "/api/v1/hosts/".into(), vec![], 404, "not_found"),
        (get, "/api/v1/../../etc/passwd".into(), vec![], 404, "not_found"),
        ("DELETE", "/api/v1/hosts".into(), vec![], 405, "wrong_method"),
        (get, "/api/v1/login".into(), vec![], 405, "wrong_method"),
        (put, "/healthz".into(), vec![], 405, "wrong_method"),
        (post, "/api/v1/login".into(), vec![], 400, "bad_request"),
        (post, "/api/v1/login".into(), b"{\"payload\":1}".to_vec(), 400, "bad_request"),
        (post, "/api/v1/login".into(), huge.clone(), 413, "too_large"),
        (post, "/api/v1/login".into(), "[".repeat(100_000).into(), 400, "bad_request"),
        (post, "/api/v1/login".into(), vec![0xff, 0xfe], 400, "bad_request"),
        (post, "/api/v1/enrollments".into(), b"{}".to_vec(), 400, "bad_request"),
        (post, "/api/v1/enrollments".into(), huge, 413, "too_large"),
        (get, "/api/v1/enrollments/one".into(), vec![], 400, "bad_request"),
        (get, "/api/v1/enrollments/-1".into(), vec![], 400, "bad_request"),
        (get, "/api/v1/enrollments/77".into(), vec![], 404, "no_such_enrollment"),
        (get, format!("/api/v1/enrollments/{}", u64::MAX), vec![], 404, "no_such_enrollment"),
        (post, "/api/v1/enrollments/77/reject".into(), vec![], 404, "no_such_enrollment"),
        (get, "/api/v1/hosts/nobody".into(), vec![], 400, "bad_request"),
        (get, format!("/api/v1/hosts/{host}"), vec![], 404, "no_such_host"),
        (get, format!("/api/v1/hosts/{}", host.to_uppercase().replace('0', "A")), vec![], 400, "bad_request"),
        (get, format!("/api/v1/hosts/{host}/desired"), vec![], 404, "no_such_host"),
        (put, format!("/api/v1/hosts/{host}/desired"), b"{\"guest\":[]}".to_vec(), 404, "no_such_host"),
        (put, format!("/api/v1/hosts/{host}/desired"), b"{\"guests\":[]}".to_vec(), 400, "bad_request"),
        (get, format!("/api/v1/hosts/{host}/receipts?first=-1"), vec![], 400, "bad_request"),
        (get, format!("/api/v1/hosts/{host}/receipts?frist=1"), vec![], 400, "bad_request"),
        (get, format!("/api/v1/hosts/{host}/log/checkpoint"), vec![], 404, "no_such_host"),
        (get, format!("/api/v1/hosts/{host}/log/proof"), vec![], 400, "bad_request"),
        (get, format!("/api/v1/hosts/{host}/log/proof?entry=-1&size=1"), vec![], 400, "bad_request"),
        (
            get,
            format!("/api/v1/hosts/{host}/log/proof?entry=1&size=99999999999999999999"),
            vec![],
            400,
            "bad_request",
        ),
        (get, format!("/api/v1/hosts/{host}/log/proof?entry=1&size=2"), vec![], 404, "no_such_host"),
        (get, format!("/api/v1/hosts/{host}/orders"), vec![], 404, "no_such_host"),
        (get, format!("/api/v1/hosts/{host}/orders/abc"), vec![], 400, "bad_request"),
        (post, format!("/api/v1/hosts/{host}/orders"), order(b"x", sig()), 404, "no_such_host"),
        (post, format!("/api/v1/hosts/{host}/orders"), order(b"", sig()), 422, "bad_order"),
        (post, format!("/api/v1/hosts/{host}/orders"), order(b"x", vec![]), 422, "bad_order"),
        (post, format!("/api/v1/hosts/{host}/orders"), order(b"x", vec!["s".into(); 9]), 422, "bad_order"),
        (post, format!("/api/v1/hosts/{host}/orders"), order(&[0; 65_537], sig()), 422, "bad_order"),
        (
            post,
            format!("/api/v1/hosts/{host}/orders"),
            order(b"x", vec!["s".repeat(16_385)]),
            422,
            "bad_order",
        ),
        (post, "/agent/v1/enroll/begin".into(), b"{\"secret\":\"!\"}".to_vec(), 400, "bad_request"),
        (post, "/agent/v1/enroll/begin".into(), b"{\"secret\":\"AAAA\"}".to_vec(), 404, "unknown_code"),
        (get, "/agent/v1/channel".into(), vec![], 403, "unknown_device"),
    ];
    for (method, path, body, status, code) in cases {
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from(body))
            .unwrap();
        let (got, failure) = hub.send(request).await;
        assert_eq!(
            (got.as_u16(), failure["code"].as_str()),
            (status, Some(code)),
            "{method} {path} {failure}"
        );
        assert!(failure["message"].as_str().is_some_and(|text| text.len() > 10), "{failure}");
    }
    let (status, body) = hub.call(Method::GET, "/healthz", None, Value::Null).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"ok": true})));
}

#[tokio::test]
async fn a_login_works_once_and_only_here() {
    let hub = TestHub::new().await;
    let pin = hub.app.pin;
    let refused = |answer: (StatusCode, Value), status: u16, code: &str| {
        assert_eq!((answer.0.as_u16(), &answer.1["code"]), (status, &json!(code)));
    };
    let good = statement::sign_login(pin, hub.challenge().await, &alice());
    assert_eq!(hub.try_login(&good).await.0, StatusCode::OK);
    refused(hub.try_login(&good).await, 401, "bad_challenge");

    let elsewhere = statement::sign_login(Sha256::of(b"other hub"), hub.challenge().await, &alice());
    refused(hub.try_login(&elsewhere).await, 403, "other_hub");
    let stranger = statement::sign_login(pin, hub.challenge().await, &mallory());
    refused(hub.try_login(&stranger).await, 403, "unknown_operator");
    let invented = statement::sign_login(pin, Sha256::of(b"mine"), &alice());
    refused(hub.try_login(&invented).await, 401, "bad_challenge");

    let signed = statement::sign_login(pin, hub.challenge().await, &alice());
    let other_purpose = Signed { sig: alice().sign(Namespace::Op, &signed.payload.0), ..signed.clone() };
    refused(hub.try_login(&other_purpose).await, 403, "bad_signature");
    // The attempt used the challenge up.
    refused(hub.try_login(&signed).await, 401, "bad_challenge");
    let spaced = Signed { payload: [signed.payload.0.as_slice(), b" "].concat().into(), ..signed };
    refused(hub.try_login(&spaced).await, 400, "bad_login");

    let late = statement::sign_login(pin, hub.challenge().await, &alice());
    hub.pass(60);
    refused(hub.try_login(&late).await, 401, "bad_challenge");
}

#[tokio::test]
async fn tokens_end_by_time_and_with_their_key() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let (status, me) = hub.get("/api/v1/me", &token).await;
    assert_eq!((status, &me["operator"]), (StatusCode::OK, &json!("alice")));
    hub.pass(12 * 3_600 - 1);
    assert_eq!(hub.get("/api/v1/me", &token).await.0, StatusCode::OK);
    hub.pass(1);
    assert_eq!(hub.get("/api/v1/me", &token).await.0, StatusCode::UNAUTHORIZED);

    let token = hub.login(&alice()).await;
    let text = operators().lines().filter(|line| !line.starts_with("alice")).collect::<String>();
    hub.set_operators(&text);
    assert_eq!(hub.get("/api/v1/me", &token).await.0, StatusCode::UNAUTHORIZED);
    // A file that cannot be read lets nobody in, and says so.
    hub.set_operators("bob ssh-dss AAAA");
    let (status, body) = hub.get("/api/v1/me", &token).await;
    assert_eq!((status.as_u16(), &body["code"]), (503, &json!("operators")));
    hub.set_operators(&operators());
    assert_eq!(hub.get("/api/v1/me", &token).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_database_holds_no_token_and_no_secret() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    hub.new_code(&token, b"the secret of a code", 60).await;
    hub.app.store.close().await;
    let mut checked = 0;
    for file in std::fs::read_dir(hub.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for secret in [token.as_bytes(), b"the secret of a code"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
        checked += usize::from(bytes.starts_with(b"SQLite format 3"));
    }
    assert_eq!(checked, 1);
}

#[tokio::test]
async fn a_code_is_used_by_one_answer() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let (host, other) = (TestHost::new(1), TestHost::new(2));
    let begin = |secret: &str| json!({"secret": data_encoding::BASE64.encode(secret.as_bytes())});
    let id = hub.new_code(&token, b"s1", 600).await;
    let (status, body) = hub.post("/agent/v1/enroll/begin", "", begin("s1")).await;
    assert_eq!(status, StatusCode::OK);
    let policy = data_encoding::BASE64.encode(crate::testing::POLICY);
    assert_eq!(body["policy"], json!(policy));

    for device in [None, Some(other.device)] {
        let (status, body) = hub.finish(device, b"s1", &host.answer()).await;
        assert_eq!((status.as_u16(), &body["code"]), (403, &json!("wrong_device")));
    }
    let mut answer = host.answer();
    answer.policy = Sha256::of(b"another policy");
    assert_eq!(hub.finish(Some(host.device), b"s1", &answer).await.0.as_u16(), 422);
    for _ in 0..2 {
        let (status, body) = hub.finish(Some(host.device), b"s1", &host.answer()).await;
        assert_eq!((status, body), (StatusCode::OK, json!({"id": id, "state": "waiting_for_approval"})));
    }
    let (status, body) = hub.finish(Some(other.device), b"s1", &other.answer()).await;
    assert_eq!((status.as_u16(), &body["code"]), (409, &json!("used")));
    let (status, body) = hub.post("/agent/v1/enroll/begin", "", begin("s1")).await;
    assert_eq!((status.as_u16(), &body["code"]), (409, &json!("used")));
    // The answer may be repeated for ever, so that a lost reply locks nobody out.
    hub.pass(10_000);
    assert_eq!(hub.finish(Some(host.device), b"s1", &host.answer()).await.0, StatusCode::OK);

    let token = hub.login(&alice()).await;
    hub.new_code(&token, b"s2", 600).await;
    hub.pass(600);
    let (status, body) = hub.post("/agent/v1/enroll/begin", "", begin("s2")).await;
    assert_eq!((status.as_u16(), &body["code"]), (410, &json!("expired")));
    assert_eq!(hub.finish(Some(other.device), b"s2", &other.answer()).await.0.as_u16(), 410);

    let again = json!({"secret_sha256": Sha256::of(b"s1"), "policy": "AAAA", "expires_in_s": 5});
    assert_eq!(hub.post("/api/v1/enrollments", &token, &again).await.1["code"], json!("exists"));
    for (policy, expires, code) in
        [("", 5, "bad_policy"), ("AAAA", 0, "bad_expiry"), ("AAAA", 604_801, "bad_expiry")]
    {
        let new = json!({"secret_sha256": Sha256::of(b"s3"), "policy": policy, "expires_in_s": expires});
        let (status, body) = hub.post("/api/v1/enrollments", &token, new).await;
        assert_eq!((status.as_u16(), &body["code"]), (422, &json!(code)));
    }
}

#[tokio::test]
async fn only_the_callers_own_true_statement_approves() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let host = TestHost::new(1);
    let id = hub.new_code(&token, b"s", 600).await;
    let early = hub.approve(&token, id, host.signed("web1")).await;
    assert_eq!((early.0.as_u16(), &early.1["code"]), (409, &json!("not_waiting")));
    hub.finish(Some(host.device), b"s", &host.answer()).await;

    let statement = host.statement("web1");
    let mut lies = host.statement("web1");
    lies.host_key = mallory().public().to_wire();
    let mut altered = host.signed("web1");
    let at = altered.payload.0.windows(4).position(|window| window == b"web1").unwrap();
    altered.payload.0[at] = b'W';
    let cases = [
        (statement::sign_host(&statement, &mallory()), 403, "not_your_statement"),
        (statement::sign_host(&statement, &bob()), 403, "not_your_statement"),
        (altered, 403, "not_your_statement"),
        (statement::sign_host(&lies, &alice()), 422, "other_statement"),
        (
            Signed { payload: b"{}\n".to_vec().into(), sig: alice().sign(Namespace::Enroll, b"{}\n") },
            422,
            "bad_statement",
        ),
    ];
    for (signed, status, code) in cases {
        let (got, body) = hub.approve(&token, id, signed).await;
        assert_eq!((got.as_u16(), &body["code"]), (status, &json!(code)));
    }
    for _ in 0..2 {
        let (status, body) = hub.approve(&token, id, host.signed("web1")).await;
        assert_eq!((status, &body["state"]), (StatusCode::OK, &json!("approved")));
    }
    let reject = hub.post(&format!("/api/v1/enrollments/{id}/reject"), &token, Value::Null).await;
    assert_eq!(reject.1["code"], json!("not_waiting"));
    let (_, hosts) = hub.get("/api/v1/hosts", &token).await;
    assert_eq!((hosts.as_array().unwrap().len(), &hosts[0]["name"]), (1, &json!("web1")));
    assert_eq!(hosts[0]["online"], json!(false));
}

#[tokio::test]
async fn a_host_may_enroll_again_with_another_device_key_only() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let host = TestHost::new(1);
    hub.enroll(&token, &host, "web1").await;

    let second = TestHost::new(2);
    let id = hub.new_code(&token, b"second", 600).await;
    hub.finish(Some(second.device), b"second", &second.answer()).await;
    let taken = hub.approve(&token, id, second.signed("web1")).await;
    assert_eq!((taken.0.as_u16(), &taken.1["code"]), (409, &json!("name_taken")));

    let thief = TestHost { key: mallory(), device: TestHost::new(3).device, ..TestHost::new(1) };
    let id = hub.new_code(&token, b"thief", 600).await;
    hub.finish(Some(thief.device), b"thief", &thief.answer()).await;
    let refused = hub.approve(&token, id, thief.signed("web1")).await;
    assert_eq!((refused.0.as_u16(), &refused.1["code"]), (409, &json!("other_host_key")));

    let moved = TestHost { device: TestHost::new(4).device, ..TestHost::new(1) };
    hub.enroll(&token, &moved, "web1-new").await;
    assert!(hub.app.store.host_by_device(&host.device).await.unwrap().is_none());
    let now = hub.app.store.host_by_device(&moved.device).await.unwrap().unwrap();
    assert_eq!((now.host_id, now.name.as_str()), (host.id, "web1-new"));
}

#[tokio::test]
async fn desired_states_have_generations() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let host = TestHost::new(1);
    hub.enroll(&token, &host, "web1").await;
    let path = format!("/api/v1/hosts/{}/desired", host.id);
    assert_eq!(hub.get(&path, &token).await.1["code"], json!("no_desired_state"));
    let a = json!({"vmid": 101, "name": "a"});
    let b = json!({"vmid": 100, "name": "b", "running": true});
    for (guests, generation, changed) in [
        (vec![&a], 1, true),
        (vec![&a], 1, false),
        (vec![&a, &b], 2, true),
        // The order of writing is no change.
        (vec![&b, &a], 2, false),
        (vec![], 3, true),
    ] {
        let put = hub.call(Method::PUT, &path, Some(&token), json!({"guest": guests})).await;
        assert_eq!(put, (StatusCode::OK, json!({"generation": generation, "changed": changed})));
    }
    let put = hub.call(Method::PUT, &path, Some(&token), json!({"guest": [a, a]})).await;
    assert_eq!((put.0.as_u16(), &put.1["code"]), (422, &json!("bad_desired_state")));
    let (_, view) = hub.get(&path, &token).await;
    assert_eq!((&view["generation"], &view["set_by"]), (&json!(3), &json!("alice")));
    assert_eq!(
        serde_json::from_value::<DesiredState>(view["state"].clone()).unwrap(),
        DesiredState::default()
    );
}

#[tokio::test]
async fn the_same_order_again_waits_for_delivery_again() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let host = TestHost::new(1);
    hub.enroll(&token, &host, "web1").await;
    let store = &hub.app.store;
    let envelope = Envelope::new(b"not even JSON".to_vec().into(), vec!["junk".to_owned()]);
    let path = format!("/api/v1/hosts/{}/orders", host.id);
    let (status, body) = hub.post(&path, &token, &envelope).await;
    assert_eq!(status, StatusCode::OK, "whether it is an order is not for the hub to say: {body}");
    assert_eq!(body, json!({"op": envelope.id(), "version": 1, "online": false}));

    let first = store.next_order(&host.id).await.unwrap().unwrap();
    assert_eq!(first.envelope, envelope);
    let (_, body) = hub.post(&path, &token, &envelope).await;
    assert_eq!(body["version"], json!(2));
    // The delivery of the first submission does not count for the second.
    store.order_delivered(&host.id, &first).await.unwrap();
    let second = store.next_order(&host.id).await.unwrap().unwrap();
    store.order_delivered(&host.id, &second).await.unwrap();
    assert!(store.next_order(&host.id).await.unwrap().is_none());

    let one = format!("{path}/{}", envelope.id());
    let (_, view) = hub.get(&one, &token).await;
    assert_eq!((&view["version"], &view["delivered"]), (&json!(3), &json!(true)));
    let (_, list) = hub.get(&path, &token).await;
    assert_eq!(list, json!([view]));
    let unknown = hub.get(&format!("{path}/{}", Sha256::of(b"other")), &token).await;
    assert_eq!(unknown.1["code"], json!("no_such_order"));
}

#[tokio::test]
async fn waiting_for_news_of_an_order_ends_with_the_news() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let host = TestHost::new(1);
    hub.enroll(&token, &host, "web1").await;
    let envelope = Envelope::new(b"x".to_vec().into(), vec!["s".to_owned()]);
    let path = format!("/api/v1/hosts/{}/orders", host.id);
    hub.post(&path, &token, &envelope).await;
    let path = format!("{path}/{}?after=1&wait_s=30", envelope.id());
    let waiting = hub.get(&path, &token);
    let news = async {
        // Only now does the other future wait; it has looked and found nothing.
        while hub.app.live.watchers(&host.id) == 0 {
            tokio::task::yield_now().await;
        }
        hub.app.store.order_problem(&host.id, &envelope.id(), "no warden").await.unwrap();
        hub.app.live.order_changed(&host.id);
    };
    let ((status, view), ()) = tokio::join!(waiting, news);
    assert_eq!(
        (status, &view["version"], &view["problem"]),
        (StatusCode::OK, &json!(2), &json!("no warden"))
    );
    // The hub's end ends waiting too.
    let path = path.replace("after=1", "after=2");
    let waiting = hub.get(&path, &token);
    let end = async { hub.app.live.stop() };
    let ((status, view), ()) = tokio::join!(waiting, end);
    assert_eq!((status, &view["version"]), (StatusCode::OK, &json!(2)));
}

/// The hub judges no policy, but what no host could read it does not take either.
#[tokio::test]
async fn hostile_policy_documents_are_refused_and_store_nothing() {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let path = "/api/v1/policy";
    let good = Envelope::new(b"policy".to_vec().into(), vec!["s".to_owned()]);
    let json = |envelope: &Envelope| serde_json::to_vec(envelope).unwrap();
    let text = String::from_utf8(json(&good)).unwrap();
    let with = |payload: usize, sigs: Vec<String>| json(&Envelope::new(vec![b'x'; payload].into(), sigs));
    let sig = |length: usize| vec!["s".repeat(length)];
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("nothing", vec![], 400, "bad_request"),
        ("no JSON", b"policy".to_vec(), 400, "bad_request"),
        ("no UTF-8", vec![0xff, 0xfe], 400, "bad_request"),
        ("deep", "[".repeat(100_000).into(), 400, "bad_request"),
        ("a list", b"[]".to_vec(), 400, "bad_request"),
        ("no fields", b"{}".to_vec(), 400, "bad_request"),
        ("unknown field", text.replacen('{', "{\"n\":1,", 1).into(), 400, "bad_request"),
        ("a field twice", text.replacen('{', "{\"sigs\":[],", 1).into(), 400, "bad_request"),
        ("bytes after it", format!("{text}{text}").into(), 400, "bad_request"),
        (
            "payload no base64",
            text.replacen("\"payload\":\"", "\"payload\":\"!", 1).into(),
            400,
            "bad_request",
        ),
        ("cut", text[..text.len() - 2].into(), 400, "bad_request"),
        ("too large a body", vec![b'['; request::MAX_BODY + 1], 413, "too_large"),
        ("empty payload", with(0, sig(1)), 422, "bad_order"),
        ("too large a payload", with(65_537, sig(1)), 422, "bad_order"),
        ("unsigned", with(1, vec![]), 422, "bad_order"),
        ("nine signatures", with(1, vec!["s".into(); 9]), 422, "bad_order"),
        ("an empty signature", with(1, sig(0)), 422, "bad_order"),
        ("too long a signature", with(1, sig(16_385)), 422, "bad_order"),
        ("sealed", json(&Envelope { sealed: Some(vec![1].into()), ..good.clone() }), 422, "bad_order"),
    ];
    let post = async |body: Vec<u8>| {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from(body))
            .unwrap();
        hub.send(request).await
    };
    for (what, body, status, code) in cases {
        let (got, failure) = post(body).await;
        assert_eq!((got.as_u16(), failure["code"].as_str()), (status, Some(code)), "{what}: {failure}");
    }
    let (_, view) = hub.call(Method::GET, path, Some(&token), Value::Null).await;
    assert_eq!(view["documents"], json!([]));
    // The largest that a host would read.
    let (status, stored) = post(with(65_536, vec!["s".repeat(16_384); 8])).await;
    assert_eq!((status, &stored["n"]), (StatusCode::OK, &json!(1)));
}
