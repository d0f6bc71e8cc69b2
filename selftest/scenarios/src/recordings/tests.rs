//! The judge on exchanges made by hand: it must be able to say no.

use super::*;

fn verdict(line: &str) -> Verdict {
    match Exchange::parse(line.as_bytes()) {
        Ok(exchange) => Judge::default().judge(&exchange).1,
        Err(why) => Verdict::Unknown(why),
    }
}

fn get(path: &str, status: u16, reason: &str, body: &str) -> Verdict {
    let line = serde_json::json!({
        "name": "x",
        "request": {"method": "GET", "url": format!("https://10.0.0.1:8006/api2/json{path}")},
        "response": {"status": status, "reason": reason, "body_raw": body},
    });
    verdict(&line.to_string())
}

#[test]
fn what_is_as_it_should_be_is_understood() {
    assert_eq!(get("/version", 200, "OK", r#"{"data":{"version":"9.1.8"}}"#), Verdict::Understood);
    assert_eq!(get("/access/domains", 200, "OK", r#"{"data":[]}"#), Verdict::Understood);
    assert_eq!(get("/version", 401, "Authentication failed!", ""), Verdict::Understood);
    assert_eq!(get("/version", 595, "Connection refused", ""), Verdict::Understood);
    let text = r#"{"data":null,"message":"Permission check failed (/vms/100, VM.Audit)\n"}"#;
    assert_eq!(get("/nodes/a/qemu/100/config", 403, "", text), Verdict::Understood);
}

#[test]
fn what_cannot_be_read_is_wrong() {
    for (path, body) in [
        ("/version", "<html>"),
        ("/version", ""),
        ("/version", r#"{"data":"9.1.8"}"#),
        ("/nodes/a/qemu/100/config", r#"{"data":{"name":"without a digest"}}"#),
        ("/access/domains", r#"{"success":1}"#),
    ] {
        assert!(matches!(get(path, 200, "OK", body), Verdict::Wrong(_)), "{path} {body}");
    }
}

#[test]
fn what_no_rule_names_is_unknown() {
    assert!(matches!(get("/version", 418, "teapot", ""), Verdict::Unknown(_)));
    assert!(matches!(get("/version", 500, "", ""), Verdict::Unknown(_)));
    for line in ["", "{}", "[]", "nonsense", r#"{"request_raw":"GET / HTTP/1.0","response_raw":"what?"}"#] {
        assert!(matches!(verdict(line), Verdict::Unknown(_)), "{line}");
    }
}

#[test]
fn an_expectation_that_is_not_met_is_wrong() {
    let line = |expect: &str| {
        serde_json::json!({
            "name": "x", "expect": expect,
            "request": {"method": "GET", "url": "/api2/json/nodes/a/qemu/100/config"},
            "response": {"status": 500, "body_raw": r#"{"data":null,"message":"VM is locked (backup)\n"}"#},
        })
        .to_string()
    };
    assert_eq!(verdict(&line("Locked backup")), Verdict::Understood);
    assert!(matches!(verdict(&line("Locked snapshot")), Verdict::Wrong(_)));
    assert!(matches!(verdict(&line("data")), Verdict::Wrong(_)));
}

#[test]
fn a_log_that_contradicts_its_status_is_wrong() {
    let upid = "UPID:pve1:0000016B:0002B38C:6B025E0A:vzcreate:200:tester@pve!full:";
    let exchange = |what: &str, body: &str| Exchange {
        name: "x".to_owned(),
        method: "GET".to_owned(),
        target: format!("/api2/json/nodes/pve1/tasks/{upid}/{what}"),
        status: 200,
        reason: "OK".to_owned(),
        body: body.as_bytes().to_vec(),
        encoding: None,
        expect: None,
    };
    let mut judge = Judge::default();
    let status = r#"{"data":{"status":"stopped","exitstatus":"OK"}}"#;
    assert_eq!(judge.judge(&exchange("status", status)).1, Verdict::Understood);
    let log = |line: &str| format!(r#"{{"total":1,"data":[{{"n":1,"t":"{line}"}}]}}"#);
    assert_eq!(judge.judge(&exchange("log", &log("TASK OK"))).1, Verdict::Understood);
    assert!(matches!(judge.judge(&exchange("log", &log("TASK ERROR: no"))).1, Verdict::Wrong(_)));
}

#[test]
fn raw_exchanges_are_taken_apart() {
    let raw = |response: &str| {
        let line = serde_json::json!({"request_raw": "GET /api2/json/version HTTP/1.1\r\n\r\n", "response_raw": response});
        Exchange::parse(line.to_string().as_bytes())
    };
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n";
    let exchange = raw(two).unwrap();
    assert_eq!(
        (exchange.status, exchange.body.as_slice(), exchange.target.as_str()),
        (200, &b"{}"[..], "/api2/json/version")
    );
    assert_eq!(raw("HTTP/1.1 500 a b c\r\n\r\n").unwrap().reason, "a b c");
    for bad in ["", "HTTP/1.1 200 OK\r\n", "\u{1}\u{2}", "HTTP/1.1 99999 x\r\n\r\n"] {
        assert!(raw(bad).is_err(), "{bad:?}");
    }
    // A length that is larger than what there is.
    assert_eq!(raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nab").unwrap().body, b"ab");
}

#[test]
fn the_sum_is_the_last_line_and_nothing_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    std::fs::write(&file, "\nnonsense\n").unwrap();
    let (text, counts) = read(&[&file]).unwrap();
    assert!(text.ends_with("\n1 exchanges, 0 understood, 1 unknown, 0 wrong\n"), "{text}");
    assert!(!counts.is_good() && text.contains("a.jsonl:2"));
    std::fs::write(&file, "").unwrap();
    assert!(!read(&[&file]).unwrap().1.is_good());
    assert!(read(&[dir.path().join("none")]).is_err());
}
