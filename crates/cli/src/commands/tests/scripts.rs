//! `writ run` and `writ result` against a host that really opens and seals, and against lies.

use authz::order::{JobParams, Params};
use authz::{Namespace, Order, Outcome, RefusalCode, SecretKey};
use protocol::job::{JobEnd, JobResult};
use protocol::{Envelope, Sha256, Signed};

use super::{Desk, text};
use crate::error::{Answer, Failure};
use crate::judge::JudgeError;
use crate::result::ResultError;
use crate::testing::{alice, ended, host_key, mallory, policy, receipt, sealed_to};

/// What the host runs: the signed parameters, and the script that it opened.
fn opened(envelope: &Envelope) -> (JobParams, Vec<u8>) {
    let armored = &envelope.sigs[0];
    authz::sshsig::verify(armored, Namespace::Job, &envelope.payload.0, &alice().public()).unwrap();
    let order = Order::decode(&envelope.payload.0).unwrap();
    let Params::JobRun(params) = order.params else { panic!("not a script") };
    let sealed = &envelope.sealed.as_ref().unwrap().0;
    let script = sealed::open(&host_key(1).seed(), sealed, protocol::job::MAX_SCRIPT).unwrap().to_vec();
    assert_eq!((Sha256::of(&script), script.len()), (params.script, params.script_len as usize));
    assert_eq!(*order.policy.sha256.as_bytes(), *policy().hash().as_bytes());
    (params, script)
}

fn ran(op: Sha256, sealed: &[u8]) -> Signed {
    let result = Sha256::of(sealed);
    receipt(1, None, ended(op, Outcome::Ran { result, size: sealed.len() as u64, duration_ms: 1_200 }))
}

fn result(op: Sha256) -> JobResult {
    JobResult {
        v: 1,
        op,
        end: JobEnd::Exited { code: 7 },
        stdout: b"out\xff\x1b[2J".to_vec().into(),
        stderr: b"err".to_vec().into(),
        truncated: false,
        duration_ms: 1_200,
        leftovers_killed: 0,
    }
}

/// Seals to the key that the order names. (Our fake of a seal needs only the public half.)
fn seal(params: &JobParams, result: &JobResult) -> Vec<u8> {
    let bytes = serde_json::to_vec(result).unwrap();
    sealed::seal(&params.result_key, &bytes, sealed::Randomness::from_bytes(&[0x32; 64])).unwrap()
}

impl Desk {
    /// Scripts are carried out by this host.
    fn runs(&self, host: impl Fn(&Envelope) -> (Signed, Vec<u8>) + Send + 'static) {
        self.hub.says.lock().unwrap().runner = Some(Box::new(host));
    }

    pub(super) fn runs_honestly(&self) {
        self.runs(|envelope| {
            let (params, _) = opened(envelope);
            let sealed = seal(&params, &result(envelope.id()));
            (ran(envelope.id(), &sealed), sealed)
        });
    }

    pub(super) fn result_keys(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("home/results")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn printed(answer: &Answer) -> (&[u8], &[u8]) {
    let output = answer.output.as_ref().unwrap();
    (&output.stdout, &output.stderr)
}

#[tokio::test]
async fn a_program_runs_and_its_output_comes_back_under_seal() {
    let desk = Desk::ready().await;
    desk.runs(|envelope| {
        let (params, script) = opened(envelope);
        assert!(script.starts_with(b"exec 'echo' 'it'\\''s' '$HOME'\n# "), "{script:?}");
        assert_eq!((params.interpreter.as_str(), params.user.as_str()), ("/bin/sh", "www-data"));
        assert_eq!((params.timeout_s, params.max_output, params.args.len()), (60, 65_536, 0));
        let sealed = seal(&params, &result(envelope.id()));
        (ran(envelope.id(), &sealed), sealed)
    });
    let words = ["run", "web1", "--user", "www-data", "--timeout", "60s", "--max-output", "64KiB"];
    let answer = desk.run(&[&words[..], &["--", "echo", "it's", "$HOME"]].concat()).await.unwrap();
    assert_eq!(printed(&answer), (b"out\xff\x1b[2J".as_slice(), b"err".as_slice()));
    assert_eq!((answer.status, answer.failures.len(), answer.notes.len()), (7, 0, 0), "{answer:?}");
    // Until it is printed the key stays.
    assert!(answer.forget.as_ref().unwrap().exists());
    let says = desk.hub.says.lock().unwrap();
    let sent = String::from_utf8(says.heard("POST", "/orders").unwrap().to_vec()).unwrap();
    let envelope: Envelope = serde_json::from_str(&sent).unwrap();
    assert!(!sent.contains("echo") && !String::from_utf8_lossy(&envelope.payload.0).contains("echo"));
    let kept = std::fs::read_to_string(desk.path(&format!("home/orders/{}.json", envelope.id()))).unwrap();
    assert!(kept.contains("payload") && !kept.contains("sealed"), "{kept}");
}

/// The hub reads the hash of the script, so nobody may be able to tell it from the words.
#[tokio::test]
async fn the_same_words_are_another_script_each_time() {
    let desk = Desk::ready().await;
    let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let scripts = seen.clone();
    desk.runs(move |envelope| {
        let (params, script) = opened(envelope);
        let salt = script.strip_prefix(b"exec 'login' '1234'\n# ").unwrap();
        assert!(salt.len() == 33 && salt[..32].iter().all(u8::is_ascii_hexdigit), "{script:?}");
        scripts.lock().unwrap().insert(params.script.to_string());
        let sealed = seal(&params, &result(envelope.id()));
        (ran(envelope.id(), &sealed), sealed)
    });
    for _ in 0..3 {
        desk.run(&["run", "web1", "--", "login", "1234"]).await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_script_brings_its_interpreter_arguments_and_environment() {
    let desk = Desk::ready().await;
    let file = desk.path("up.sh");
    std::fs::write(&file, "#!/bin/bash\necho hi\n").unwrap();
    desk.runs(|envelope| {
        let (params, script) = opened(envelope);
        assert_eq!(script, b"#!/bin/bash\necho hi\n");
        assert_eq!(params.interpreter.as_str(), "/bin/bash");
        assert_eq!(params.args.iter().map(|arg| arg.as_str()).collect::<Vec<_>>(), ["--all", "x y"]);
        assert_eq!((params.env[0].name.as_str(), params.env[0].value.as_str()), ("DRY_RUN", "a=b"));
        let end = JobEnd::TimedOut {};
        let messy = JobResult { end, truncated: true, leftovers_killed: 1, ..result(envelope.id()) };
        let sealed = seal(&params, &messy);
        (ran(envelope.id(), &sealed), sealed)
    });
    let words = ["run", "web1", "--script", text(&file), "--env", "DRY_RUN=a=b", "--json"];
    let answer = desk.run(&[&words[..], &["--", "--all", "x y"]].concat()).await.unwrap();
    assert_eq!(answer.status, 124);
    let notes = answer.notes.join("; ");
    for says in ["time limit", "more output than the order let keep 1.0 MiB", "1 process"] {
        assert!(notes.contains(says), "{notes}");
    }
    let page: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(page["exit_status"], 124);
    assert_eq!(page["end"]["end"], "timed_out");
    assert_eq!((&page["stderr"], &page["stdout"]), (&"err".into(), &serde_json::Value::Null));
    assert_eq!(page["stdout_base64"], String::from(protocol::Bytes(b"out\xff\x1b[2J".to_vec())));
    assert!(page["receipt"]["event"]["outcome"]["outcome"] == "ran" && !answer.stdout.contains('\u{1b}'));

    std::fs::write(&file, "#!/usr/bin/env python3\n").unwrap();
    let error = desk.run(&["run", "web1", "--script", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("--interpreter"), "{error}");
    std::fs::write(&file, vec![b'#'; protocol::job::MAX_SCRIPT + 1]).unwrap();
    let error = desk.run(&["run", "web1", "--script", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("longer than 256 KiB"), "{error}");
    assert_eq!(desk.result_keys().len(), 1, "nothing was made for what was not sent");
}

/// What a lying hub or a wrong host shows: the receipt, and the result.
type Lie = crate::commands::fake_hub::Runner;

#[tokio::test]
async fn results_and_receipts_that_do_not_fit_are_never_printed() {
    let desk = Desk::ready().await;
    let lies: [(&str, Lie); 6] = [
        (
            "altered",
            Box::new(|envelope| {
                let mut sealed = seal(&opened(envelope).0, &result(envelope.id()));
                let receipt = ran(envelope.id(), &sealed);
                *sealed.last_mut().unwrap() ^= 1;
                (receipt, sealed)
            }),
        ),
        (
            "another result",
            Box::new(|envelope| {
                let (params, id) = (opened(envelope).0, envelope.id());
                let other = seal(&params, &JobResult { end: JobEnd::Exited { code: 0 }, ..result(id) });
                (ran(id, &seal(&params, &result(id))), other)
            }),
        ),
        (
            "another key",
            Box::new(|envelope| {
                let bytes = serde_json::to_vec(&result(envelope.id())).unwrap();
                let sealed = sealed_to(&mallory(), &bytes);
                (ran(envelope.id(), &sealed), sealed)
            }),
        ),
        (
            "another order",
            Box::new(|envelope| {
                let sealed = seal(&opened(envelope).0, &result(Sha256::of(b"another")));
                (ran(envelope.id(), &sealed), sealed)
            }),
        ),
        (
            "forged receipt",
            Box::new(|envelope| {
                let sealed = seal(&opened(envelope).0, &result(envelope.id()));
                let real = ran(envelope.id(), &sealed);
                let host = crate::testing::believed(1, "web1");
                let forged = authz::Receipt::verify(&real, host.id(), &host.key).unwrap().sign(&mallory());
                (forged, sealed)
            }),
        ),
        (
            "receipt of another order",
            Box::new(|envelope| {
                let sealed = seal(&opened(envelope).0, &result(envelope.id()));
                (ran(Sha256::of(b"another"), &sealed), sealed)
            }),
        ),
    ];
    for (i, (what, lie)) in lies.into_iter().enumerate() {
        desk.runs(lie);
        let error = desk.run(&["run", "web1", "--", "id"]).await.unwrap_err();
        let right = match what {
            "altered" | "another result" => matches!(error, Failure::Result(ResultError::Altered { .. })),
            "another key" => matches!(error, Failure::Result(ResultError::Sealed(_))),
            "another order" => matches!(error, Failure::Result(ResultError::OtherOrder { .. })),
            "forged receipt" => matches!(error, Failure::Judge(JudgeError::Forged { .. })),
            _ => matches!(error, Failure::Judge(JudgeError::OtherOrder { .. })),
        };
        assert!(right, "{what}: {error}");
        // The real result may still come.
        assert_eq!(desk.result_keys().len(), i + 1, "{what}");
    }
}

#[tokio::test]
async fn a_result_can_be_read_later_and_once() {
    let desk = Desk::ready().await;
    // The first answer is a lie, so that nothing is printed yet.
    desk.runs(|envelope| {
        let sealed = seal(&opened(envelope).0, &result(envelope.id()));
        (ran(envelope.id(), b"other bytes"), sealed)
    });
    desk.run(&["run", "web1", "--", "id"]).await.unwrap_err();
    let keys = desk.result_keys();
    let op = keys[0].as_str();
    let key = std::fs::read_to_string(desk.path(&format!("home/results/{op}"))).unwrap();
    let key = SecretKey::from_openssh(&key, None).unwrap();
    // An honest hub now.
    {
        let mut says = desk.hub.says.lock().unwrap();
        let envelope: Envelope = serde_json::from_slice(says.heard("POST", "/orders").unwrap()).unwrap();
        let bytes = serde_json::to_vec(&result(envelope.id())).unwrap();
        let sealed = sealed_to(&key, &bytes);
        says.shows(ran(envelope.id(), &sealed), sealed);
    }
    let answer = desk.run(&["result", "web1", op]).await.unwrap();
    assert_eq!((printed(&answer).1, answer.status), (b"err".as_slice(), 7));
    std::fs::remove_file(answer.forget.unwrap()).unwrap();
    let error = desk.run(&["result", "web1", op]).await.unwrap_err().to_string();
    assert!(error.contains("printed already") && error.contains("writ order web1"), "{error}");
}

#[tokio::test]
async fn a_script_that_did_not_run_says_which_rule() {
    let desk = Desk::ready().await;
    let why = || "the account does not exist".parse().unwrap();
    desk.judged_by(move |op| {
        receipt(1, None, ended(op, Outcome::Refused { code: RefusalCode::User, why: why() }))
    });
    let answer = desk.run(&["run", "web1", "--", "id"]).await.unwrap();
    assert!(answer.failures[0].contains("refused (user): the account does not exist"), "{answer:?}");
    assert!(answer.stdout.is_empty() && answer.output.is_none());
    assert_eq!(desk.result_keys().len(), 1, "a refused order may come again");
    let answer = desk.run(&["run", "web1", "--json", "--", "id"]).await.unwrap();
    assert!(answer.stdout.contains("\"code\": \"user\"") && answer.failures.len() == 1, "{answer:?}");

    desk.judged_by(move |op| receipt(1, None, ended(op, Outcome::Aborted { why: why() })));
    let answer = desk.run(&["run", "web1", "--", "id"]).await.unwrap();
    assert!(answer.failures[0].contains("aborted, nothing changed"), "{answer:?}");
    assert_eq!(desk.result_keys().len(), 2, "never a result, so no key");
    desk.judged_by(move |op| receipt(1, None, ended(op, Outcome::Unknown { upid: None, why: why() })));
    let answer = desk.run(&["run", "web1", "--", "id"]).await.unwrap();
    assert!(answer.failures[0].contains("unknown: "), "{answer:?}");
    // Not an end that a script can have.
    desk.judged_by(|op| receipt(1, None, ended(op, crate::testing::done())));
    let answer = desk.run(&["run", "web1", "--", "id"]).await.unwrap();
    assert!(answer.failures[0].contains("not a script's"), "{answer:?}");
}

#[tokio::test]
async fn an_environment_that_cannot_be_signed_is_refused_and_leaves_no_key() {
    let desk = Desk::ready().await;
    let error = desk.run(&["run", "web1", "--env", "A=1", "--env", "A=2", "--", "id"]).await.unwrap_err();
    assert!(error.to_string().contains("each name once"), "{error}");
    assert!(!desk.path("home/results").exists() || desk.result_keys().is_empty());
}

#[tokio::test]
async fn orders_lists_scripts_by_their_account() {
    let desk = Desk::ready().await;
    desk.runs_honestly();
    desk.run(&["run", "web1", "--user", "www-data", "--", "id"]).await.unwrap();
    let listed = desk.run(&["orders", "web1"]).await.unwrap().stdout;
    assert!(
        listed.contains("job.run as www-data") && listed.contains("the script ran for 1.2 s"),
        "{listed}"
    );
    let op = desk.result_keys()[0].clone();
    let shown = desk.run(&["order", "web1", &op]).await.unwrap().stdout;
    assert!(shown.contains("run a script as www-data, once") && shown.contains("the script ran"), "{shown}");
    let waited = desk.run(&["order", "web1", &op, "--wait"]).await.unwrap();
    assert!(waited.failures.is_empty() && waited.stdout.contains("its result"), "{waited:?}");
}
