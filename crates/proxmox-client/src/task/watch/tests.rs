//! The watch loop on a script of answers, in paused time.

use std::sync::Mutex;

use super::*;
use crate::wire::error::Failure;
use crate::wire::transport::error_answer;

async fn follow(script: &mut Script, limit: Duration) -> Observed {
    watch(script, Pace::USUAL, limit).await
}

/// Answers in order; the last one for ever.
struct Script {
    steps: Vec<fn() -> Result<TaskStatus, ApiError>>,
    polls: Mutex<Vec<Instant>>,
}

impl Script {
    fn new(steps: &[fn() -> Result<TaskStatus, ApiError>]) -> Self {
        Self { steps: steps.to_vec(), polls: Mutex::new(Vec::new()) }
    }

    fn polls(&self) -> Vec<Instant> {
        self.polls.lock().unwrap().clone()
    }
}

impl StatusSource for Script {
    async fn status(&mut self) -> Result<TaskStatus, ApiError> {
        let n = {
            let mut polls = self.polls.lock().unwrap();
            polls.push(Instant::now());
            polls.len() - 1
        };
        self.steps[n.min(self.steps.len() - 1)]()
    }
}

fn error(failure: Failure) -> ApiError {
    ApiError::new("GET", "/x", &"https://pve1:8006".into(), &"tester@pve!full".into(), failure)
}

fn answer(status: u16, body: &str) -> Result<TaskStatus, ApiError> {
    Err(error(Failure::Answer(error_answer(status, None, body.as_bytes()))))
}

fn running() -> Result<TaskStatus, ApiError> {
    Ok(TaskStatus::Running)
}
fn ended() -> Result<TaskStatus, ApiError> {
    Ok(TaskStatus::Ended { exitstatus: Some("OK".to_owned()) })
}
fn missing() -> Result<TaskStatus, ApiError> {
    answer(
        400,
        r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"upid":"no such task"}}"#,
    )
}
fn unauthorized() -> Result<TaskStatus, ApiError> {
    answer(401, "")
}
fn gateway() -> Result<TaskStatus, ApiError> {
    answer(596, "")
}
fn unreachable() -> Result<TaskStatus, ApiError> {
    answer(595, "")
}
fn reset() -> Result<TaskStatus, ApiError> {
    Err(error(Failure::Interrupted { cause: "connection reset".to_owned() }))
}
fn refused() -> Result<TaskStatus, ApiError> {
    Err(error(Failure::Connect { cause: "Connection refused".to_owned() }))
}
fn nameless() -> Result<TaskStatus, ApiError> {
    answer(
        500,
        r#"{"data":null,"message":"hostname lookup 'pve1' failed - Temporary failure in name resolution\n"}"#,
    )
}
fn forbidden() -> Result<TaskStatus, ApiError> {
    answer(403, r#"{"data":null,"message":"Permission check failed (/nodes/pve1, Sys.Audit)\n"}"#)
}

const MINUTE: Duration = Duration::from_secs(60);

fn done() -> Observed {
    Observed::Ended(Some("OK".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn polling_starts_fast_and_slows_down() {
    let mut script = Script::new(&[running]);
    assert_eq!(follow(&mut script, 10 * MINUTE).await, Observed::Running);
    let polls = script.polls();
    for pair in polls.windows(2) {
        let (gap, elapsed) = (pair[1] - pair[0], pair[0] - polls[0]);
        assert!(gap >= FIRST_PAUSE.min(10 * MINUTE - elapsed), "{gap:?} after {elapsed:?}");
        // A twentieth, once that is more than the first pause; two seconds at most in the first minute.
        let most = (elapsed / 20).max(FIRST_PAUSE) + Duration::from_millis(2);
        assert!(gap <= most, "{gap:?} after {elapsed:?}");
        assert!(elapsed >= MINUTE || gap <= Duration::from_secs(2) + Duration::from_millis(2));
    }
    // Beyond the first minute no minute holds more than 25, the last look at the deadline apart.
    let late: Vec<Instant> =
        polls[..polls.len() - 1].iter().copied().filter(|poll| *poll - polls[0] >= MINUTE).collect();
    for (at, poll) in late.iter().enumerate() {
        let within = late[at..].iter().take_while(|other| **other - *poll < MINUTE).count();
        assert!(within <= 25, "{within} looks within a minute");
    }
    // 20 in the first second, some 80 until the pauses reach two seconds.
    assert!(polls.len() < 20 + 80 + 10 + 9 * 25 + 2, "{}", polls.len());
    let total = polls[polls.len() - 1] - polls[0];
    assert!(total >= 10 * MINUTE && total < 10 * MINUTE + Duration::from_millis(5), "{total:?}");
}

#[tokio::test(start_paused = true)]
async fn what_copies_a_whole_guest_is_looked_at_every_ten_seconds() {
    assert_eq!((Pace::of("vzdump"), Pace::of("qmsnapshot")), (Pace::LONG, Pace::USUAL));
    let mut script = Script::new(&[running]);
    assert_eq!(watch(&mut script, Pace::LONG, 20 * MINUTE).await, Observed::Running);
    let polls = script.polls();
    let longest = polls.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest >= Duration::from_secs(10) && longest < Duration::from_millis(10_010), "{longest:?}");
    assert!(polls.len() < 20 + 110 + 100 + 10, "{}", polls.len());
}

#[tokio::test(start_paused = true)]
async fn trouble_on_the_way_is_survived() {
    let mut script = Script::new(&[
        running,
        refused,
        reset,
        gateway,
        unreachable,
        unauthorized,
        nameless,
        running,
        missing,
        ended,
    ]);
    assert_eq!(follow(&mut script, MINUTE).await, done());
    assert_eq!(script.polls().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_task_may_be_missing_for_a_moment_but_not_for_long() {
    assert_eq!(follow(&mut Script::new(&[missing, missing, missing, ended]), MINUTE).await, done());
    for steps in [&[missing as fn() -> _][..], &[running, missing]] {
        let started = Instant::now();
        let Observed::Lost(why) = follow(&mut Script::new(steps), 10 * MINUTE).await else { panic!("lost") };
        assert!(why.contains("no such task"), "{why}");
        let took = started.elapsed();
        assert!(took >= MISSING_LIMIT && took < MISSING_LIMIT + Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn trouble_of_two_kinds_that_take_turns_ends() {
    /// The same two in turn, for ever.
    struct Turns(bool, [fn() -> Result<TaskStatus, ApiError>; 2]);
    impl StatusSource for Turns {
        async fn status(&mut self) -> Result<TaskStatus, ApiError> {
            self.0 = !self.0;
            self.1[usize::from(self.0)]()
        }
    }
    for (steps, limit) in [([missing, gateway], MISSING_LIMIT), ([gateway, refused], TROUBLE_LIMIT)] {
        let started = Instant::now();
        let seen = watch(&mut Turns(false, steps), Pace::USUAL, 60 * MINUTE).await;
        assert!(matches!(seen, Observed::Lost(_)), "{seen:?}");
        let took = started.elapsed();
        assert!(took >= limit && took < limit + Duration::from_secs(6), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn endless_trouble_ends_as_unknown_not_as_failure() {
    for step in [unauthorized as fn() -> _, gateway, refused] {
        let started = Instant::now();
        let Observed::Lost(_) = follow(&mut Script::new(&[running, step]), 60 * MINUTE).await else {
            panic!("lost")
        };
        assert!(
            started.elapsed() >= TROUBLE_LIMIT && started.elapsed() < TROUBLE_LIMIT + Duration::from_secs(5)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_during_trouble_does_not_claim_the_task_runs() {
    assert!(matches!(
        follow(&mut Script::new(&[running, refused]), Duration::from_secs(3)).await,
        Observed::Lost(_)
    ));
    assert_eq!(follow(&mut Script::new(&[running]), Duration::ZERO).await, Observed::Running);
    assert_eq!(follow(&mut Script::new(&[ended]), Duration::ZERO).await, done());
    assert_eq!(follow(&mut Script::new(&[ended]), Duration::MAX).await, done());
}

#[tokio::test(start_paused = true)]
async fn what_waiting_cannot_cure_ends_at_once() {
    let started = Instant::now();
    let Observed::Lost(why) = follow(&mut Script::new(&[forbidden]), MINUTE).await else { panic!("lost") };
    assert!(why.contains("Sys.Audit"));
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn recorded_exits_are_sorted() {
    let recorded: Vec<String> =
        serde_json::from_str(include_str!("../../../tests/fixtures/exits.json")).unwrap();
    assert!(recorded.len() >= 18);
    for text in &recorded {
        let exit = classify_exit(Some(text));
        match text.as_str() {
            "OK" => assert_eq!(exit, Exit::Ok),
            "WARNINGS: 1" => assert_eq!(exit, Exit::Warnings(1)),
            "unexpected status" => assert!(matches!(exit, Exit::Unknown(_))),
            _ => assert_eq!(exit, Exit::Failed(text.clone())),
        }
    }
}

#[test]
fn odd_exits() {
    assert!(matches!(classify_exit(None), Exit::Unknown(_)));
    assert!(matches!(classify_exit(Some("")), Exit::Unknown(_)));
    assert!(matches!(
        classify_exit(Some("unable to get last line from task log - No such file")),
        Exit::Unknown(_)
    ));
    assert_eq!(classify_exit(Some("WARNINGS: 99999999999")), Exit::Warnings(u32::MAX));
    for failed in ["ok", "OK!", "WARNINGS: many", "WARNINGS: -1", "WARNINGS: 1x", "received interrupt"] {
        assert_eq!(classify_exit(Some(failed)), Exit::Failed(failed.to_owned()));
    }
}
