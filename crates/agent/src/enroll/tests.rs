use super::*;
use crate::testing::{FakeWarden, HOST, Reply, TlsHub, Upgrade, host_key};
use authz::enroll::{certify_device, proof, verify_answer};
use protocol::local::WardenAnswer;
use std::sync::{Arc, Mutex};

const POLICY: &[u8] = b"{\"policy\":1}\n";
const K: [u8; 32] = [9; 32];
const SECRET: [u8; 16] = [5; 16];

/// Vouches as the real one does.
fn warden_answer(request: &WardenRequest) -> Vec<WardenAnswer> {
    let WardenRequest::Enroll { policy, policy_sha256, k, device_key } = request else {
        panic!("only asked to enroll: {request:?}")
    };
    assert_eq!(Sha256::of(&policy.0), *policy_sha256);
    assert_eq!(k.0, K);
    let key = host_key();
    let host_key = key.public().to_wire();
    vec![WardenAnswer::Enrolled {
        host_id: HOST,
        host_key,
        host_key_gen: 1,
        device_cert: certify_device(HOST, 1, *device_key, &key),
        proof: proof(&k.0, policy_sha256, &HOST, &host_key, device_key),
    }]
}

/// A hub that takes a code once, like the real one; `lose` answers to finish are lost.
struct HubRules {
    policy: Vec<u8>,
    taken: Option<EnrollmentAnswer>,
    state: EnrollmentState,
    lose: u32,
    begins: u32,
}

impl HubRules {
    fn answer(&mut self, path: &str, body: &[u8]) -> Reply {
        let refuse = |status: u16, code: &str| {
            (status, format!(r#"{{"code":"{code}","message":"said the hub\u001b[2J"}}"#))
        };
        match path {
            ENROLL_BEGIN_PATH => {
                self.begins += 1;
                let EnrollBegin { secret } = serde_json::from_slice(body).unwrap();
                if secret.0 != SECRET {
                    return refuse(404, "unknown_code");
                }
                if self.taken.is_some() {
                    return refuse(409, "used");
                }
                let policy = EnrollPolicy { policy: self.policy.clone().into() };
                (200, serde_json::to_string(&policy).unwrap())
            }
            ENROLL_FINISH_PATH => {
                let EnrollFinish { answer, .. } = serde_json::from_slice(body).unwrap();
                if self.taken.as_ref().is_some_and(|taken| *taken != answer) {
                    return refuse(409, "used");
                }
                self.taken = Some(answer);
                if self.lose > 0 {
                    self.lose -= 1;
                    return (502, "bad gateway".to_owned());
                }
                let finished = EnrollFinished { id: 17, state: self.state };
                (200, serde_json::to_string(&finished).unwrap())
            }
            other => panic!("{other}"),
        }
    }
}

struct Bench {
    hub: TlsHub,
    rules: Arc<Mutex<HubRules>>,
    dir: tempfile::TempDir,
    warden: FakeWarden,
    code: EnrollmentCode,
}

impl Bench {
    async fn new() -> Self {
        let rules = Arc::new(Mutex::new(HubRules {
            policy: POLICY.to_vec(),
            taken: None,
            state: EnrollmentState::WaitingForApproval,
            lose: 0,
            begins: 0,
        }));
        let there = Arc::clone(&rules);
        let hub =
            TlsHub::start(move |path, body| there.lock().unwrap().answer(path, body), Upgrade::Right).await;
        let dir = tempfile::tempdir().unwrap();
        let warden = FakeWarden::start(dir.path(), |request, _| warden_answer(request));
        let code = EnrollmentCode {
            hub: hub.url.clone(),
            hub_spki: hub.spki,
            secret: SECRET,
            policy: Sha256::of(POLICY),
            k: K,
        };
        Self { hub, rules, dir, warden, code }
    }

    async fn enroll(&self, seed: u8) -> Result<EnrollmentDone, EnrollError> {
        let warden = Warden::new(&self.warden.socket);
        enroll(self.dir.path(), &warden, &self.code, &[seed; 32], "pve1").await
    }
}

#[tokio::test]
async fn a_code_becomes_an_enrolled_host() {
    let bench = Bench::new().await;
    let done = bench.enroll(1).await.unwrap();
    assert_eq!((done.id, done.approved, done.host_id), (17, false, HOST));
    assert_eq!(done.host_key, host_key().public().fingerprint());
    let record = HubRecord::load(bench.dir.path()).unwrap().unwrap();
    assert_eq!((record.url, record.pin, record.host_id), (bench.hub.url.clone(), bench.hub.spki, HOST));
    let answer = bench.rules.lock().unwrap().taken.clone().unwrap();
    verify_answer(&answer, &K, &Sha256::of(POLICY)).unwrap();
    assert_eq!(answer.hostname, "pve1");
    for client in bench.hub.clients.lock().unwrap().iter() {
        assert!(client.ends_with(answer.device_key.as_bytes()), "TLS proves the device key");
    }
    // Neither K nor the code's secret stays on disk.
    for file in std::fs::read_dir(bench.dir.path()).unwrap().flatten() {
        if !file.file_type().unwrap().is_file() {
            continue;
        }
        let bytes = std::fs::read(file.path()).unwrap();
        for secret in [&K[..], &SECRET[..]] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{file:?}");
            let b64 = data_encoding::BASE64.encode(secret);
            assert!(!String::from_utf8_lossy(&bytes).contains(b64.trim_end_matches('=')), "{file:?}");
        }
    }
    // Again, approved meanwhile: same host, same key, nothing new is made.
    bench.rules.lock().unwrap().state = EnrollmentState::Approved;
    assert!(bench.enroll(2).await.unwrap().approved);
}

#[tokio::test]
async fn a_lost_answer_is_repaired_by_the_same_code() {
    let bench = Bench::new().await;
    bench.rules.lock().unwrap().lose = 1;
    let error = bench.enroll(1).await.unwrap_err();
    assert!(matches!(&error, EnrollError::Hub(HubError::Refused { status: 502, .. })), "{error}");
    assert!(HubRecord::load(bench.dir.path()).unwrap().is_none());
    let first = bench.rules.lock().unwrap().taken.clone();
    bench.enroll(2).await.unwrap();
    let rules = bench.rules.lock().unwrap();
    assert_eq!(rules.taken, first, "the same answer, with the same device key");
    assert_eq!(rules.begins, 1, "the hub would not give the policy again");
}

#[tokio::test]
async fn what_cannot_be_trusted_is_refused_before_the_warden_hears_of_it() {
    let mut bench = Bench::new().await;
    bench.rules.lock().unwrap().policy = b"{\"policy\":2}\n".to_vec();
    let error = bench.enroll(1).await.unwrap_err();
    assert!(matches!(error, EnrollError::OtherPolicy { .. }), "{error}");
    assert!(error.to_string().contains("another policy"));
    bench.code.secret = [6; 16];
    let error = bench.enroll(1).await.unwrap_err().to_string();
    assert!(error.contains("404") && error.contains("said the hub") && !error.contains('\u{1b}'), "{error}");
    let begins = bench.rules.lock().unwrap().begins;
    bench.code.hub_spki = Sha256::of(b"another key");
    let error = bench.enroll(1).await.unwrap_err();
    assert!(
        matches!(&error, EnrollError::Hub(HubError::Pin { mismatch, .. }) if mismatch.shown == Some(bench.hub.spki)),
        "{error}"
    );
    assert_eq!(bench.rules.lock().unwrap().begins, begins, "the secret was not shown to the wrong key");
    bench.code.hub = "https://127.0.0.1:9".to_owned();
    assert!(bench.enroll(1).await.unwrap_err().to_string().contains("cannot reach the hub"));
    assert_eq!(bench.warden.changes(), []);
}

#[tokio::test]
async fn refusals_by_warden_and_operator_are_told() {
    let bench = Bench::new().await;
    bench.rules.lock().unwrap().state = EnrollmentState::Rejected;
    assert!(matches!(bench.enroll(1).await, Err(EnrollError::Rejected)));
    let bench = Bench::new().await;
    std::fs::remove_file(&bench.warden.socket).unwrap();
    assert!(bench.enroll(1).await.unwrap_err().to_string().contains("writ-warden runs"));
    let refusing = FakeWarden::start(bench.dir.path(), |_, _| {
        vec![WardenAnswer::Refused { code: "other_policy".into(), why: "it lives by another policy".into() }]
    });
    let error = bench.enroll(1).await.unwrap_err().to_string();
    assert!(error.contains("it lives by another policy"), "{error}");
    assert_eq!(refusing.changes().len(), 1);
}

/// A kept answer that is damaged or about another code is not used.
#[tokio::test]
async fn a_damaged_kept_answer_is_made_again() {
    let bench = Bench::new().await;
    files::write_atomic(&bench.dir.path().join(ANSWER_FILE), b"{\"code\":1}").unwrap();
    bench.enroll(1).await.unwrap();
    assert_eq!(bench.warden.changes().len(), 1);
}
