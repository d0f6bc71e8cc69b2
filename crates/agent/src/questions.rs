//! Questions of operators to the warden. They change nothing, so all there is to guard is the host's time:
//! the hub decides how many it sends, and a stolen one can send any number. Few are with the warden at
//! once, few wait, so many go to it in a minute, and every other one is answered with a no at once.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use protocol::ask::{Question, Reply};
use protocol::frame::AgentFrame;
use tokio::time::Instant;

use crate::sentence;
use crate::warden::{Warden, WardenError};

/// Most questions that the warden is asked at once.
pub const AT_ONCE: usize = 4;
/// Most that wait for their turn.
pub const WAITING: usize = 12;
/// Most that go to the warden within [`MINUTE`]: each makes it read Proxmox.
pub const PER_MINUTE: usize = 120;
const MINUTE: Duration = Duration::from_secs(60);

/// The questions of one live channel. Dropping this forgets them all: nothing depends on the answers.
pub struct Questions {
    warden: Warden,
    asked: FuturesUnordered<BoxFuture<'static, AgentFrame>>,
    waiting: VecDeque<(u64, Question)>,
    /// When the last ones went to the warden, at most [`PER_MINUTE`].
    handed: VecDeque<Instant>,
}

impl Questions {
    /// None yet.
    pub fn new(warden: Warden) -> Self {
        let (waiting, handed) = (VecDeque::new(), VecDeque::new());
        Self { warden, asked: FuturesUnordered::new(), waiting, handed }
    }

    /// Takes one. Gives back a frame for the hub if it is not asked.
    pub fn ask(&mut self, id: u64, question: Question) -> Option<AgentFrame> {
        let no = |code: &str, why: String| {
            Some(AgentFrame::Answer { id, reply: Reply::Refused { code: code.to_owned(), why } })
        };
        if !question.is_bounded() {
            return no("size", "the question is longer than a host answers: ask for less".to_owned());
        }
        if self.asked.len() >= AT_ONCE {
            if self.waiting.len() >= WAITING {
                let many = AT_ONCE + WAITING;
                return no("busy", format!("{many} questions are with this host already: ask again later"));
            }
            self.waiting.push_back((id, question));
            return None;
        }
        self.hand_over(id, question)
    }

    /// The next answer for the hub. Can be dropped and called again; waits while there is none.
    pub async fn next(&mut self) -> AgentFrame {
        let Some(frame) = self.asked.next().await else {
            return std::future::pending().await;
        };
        while self.asked.len() < AT_ONCE
            && let Some((id, question)) = self.waiting.pop_front()
        {
            if let Some(refused) = self.hand_over(id, question) {
                self.asked.push(Box::pin(std::future::ready(refused)));
            }
        }
        frame
    }

    fn hand_over(&mut self, id: u64, question: Question) -> Option<AgentFrame> {
        let now = Instant::now();
        while self.handed.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            self.handed.pop_front();
        }
        if self.handed.len() >= PER_MINUTE {
            let why = format!("this host answers at most {PER_MINUTE} questions a minute: ask again later");
            return Some(AgentFrame::Answer { id, reply: Reply::Refused { code: "rate".to_owned(), why } });
        }
        self.handed.push_back(now);
        let warden = self.warden.clone();
        self.asked.push(Box::pin(async move {
            let reply = warden.ask(question).await.unwrap_or_else(|error| no_answer(&error));
            AgentFrame::Answer { id, reply }
        }));
        None
    }
}

/// What an operator is told when the warden gave no answer.
fn no_answer(error: &WardenError) -> Reply {
    tracing::warn!("a question was not answered: {}", sentence(error));
    match error {
        WardenError::Refused { code, why } => Reply::Refused { code: code.clone(), why: why.clone() },
        other => Reply::Refused { code: "warden".to_owned(), why: sentence(other) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWarden, soon};
    use protocol::local::{WardenAnswer, WardenRequest};

    fn question(n: u64) -> Question {
        Question::Plan { draft: n.to_be_bytes().to_vec().into() }
    }

    fn refused(frame: &AgentFrame) -> (u64, &str) {
        match frame {
            AgentFrame::Answer { id, reply: Reply::Refused { code, why } } if !why.is_empty() => (*id, code),
            other => panic!("a refusal was expected, not {other:?}"),
        }
    }

    /// A warden that says the question back.
    fn echo(request: &WardenRequest, _: u64) -> Vec<WardenAnswer> {
        let WardenRequest::Ask { question: Question::Plan { draft } } = request else {
            panic!("nobody may ask for {request:?}")
        };
        vec![WardenAnswer::Answered { reply: Reply::World { json: draft.clone() } }]
    }

    #[tokio::test]
    async fn each_question_gets_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let warden = FakeWarden::start(dir.path(), echo);
        let mut questions = Questions::new(Warden::new(&warden.socket));
        for id in 0..(AT_ONCE + WAITING) as u64 {
            assert_eq!(questions.ask(id, question(id)), None, "{id}");
        }
        assert_eq!(refused(&questions.ask(99, question(99)).unwrap()), (99, "busy"));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..AT_ONCE + WAITING {
            let AgentFrame::Answer { id, reply } = soon(questions.next()).await else { panic!() };
            assert_eq!(reply, Reply::World { json: id.to_be_bytes().to_vec().into() });
            seen.insert(id);
        }
        assert_eq!(seen.len(), AT_ONCE + WAITING);
        assert!(warden.changes().is_empty());
    }

    /// `security.md` 4.8, "resources": 100 000 plan requests cost the warden a bounded number, and this
    /// process a bounded memory; each is answered all the same.
    #[tokio::test(start_paused = true)]
    async fn a_flood_reaches_the_warden_in_drops() {
        let dir = tempfile::tempdir().unwrap();
        let warden = FakeWarden::start(dir.path(), echo);
        let mut questions = Questions::new(Warden::new(&warden.socket));
        let (mut answers, mut refusals) = (0, 0);
        for id in 0..100_000_u64 {
            match questions.ask(id, question(id)) {
                None => assert!(questions.asked.len() <= AT_ONCE && questions.waiting.len() <= WAITING),
                Some(frame) => {
                    assert!(["busy", "rate"].contains(&refused(&frame).1));
                    refusals += 1;
                }
            }
            // As the channel does: an answer now and then.
            if id % 1_000 == 0 {
                match soon(questions.next()).await {
                    AgentFrame::Answer { reply: Reply::World { .. }, .. } => answers += 1,
                    frame => {
                        refused(&frame);
                        refusals += 1;
                    }
                }
            }
        }
        let left = questions.asked.len() + questions.waiting.len();
        assert_eq!(answers + refusals + left, 100_000, "each is answered or still with the warden");
        let asked = warden.asked.lock().unwrap().len();
        assert!((AT_ONCE..=PER_MINUTE).contains(&asked), "{asked}");
        assert!(questions.handed.len() <= PER_MINUTE);
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let warden = FakeWarden::start(dir.path(), |_, _| {
            let json = vec![b'x'; protocol::ask::MAX_REPLY + 1].into();
            vec![WardenAnswer::Answered { reply: Reply::World { json } }]
        });
        let mut questions = Questions::new(Warden::new(&warden.socket));
        let long = Question::Plan { draft: vec![0; protocol::Envelope::MAX_PAYLOAD + 1].into() };
        assert_eq!(refused(&questions.ask(1, long).unwrap()), (1, "size"));
        assert_eq!(refused(&questions.ask(2, Question::Plan { draft: vec![].into() }).unwrap()), (2, "size"));
        assert!(warden.asked.lock().unwrap().is_empty());
        assert_eq!(questions.ask(3, question(3)), None);
        assert_eq!(refused(&soon(questions.next()).await), (3, "size"));
    }

    #[tokio::test]
    async fn a_warden_that_is_away_or_says_no_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut questions = Questions::new(Warden::new(&dir.path().join("nobody.sock")));
        assert_eq!(questions.ask(1, question(1)), None);
        assert_eq!(refused(&soon(questions.next()).await), (1, "warden"));
        let no = |_: &WardenRequest, _| {
            vec![WardenAnswer::Refused { code: "not_enrolled".into(), why: "nobody enrolled it".into() }]
        };
        let warden = FakeWarden::start(dir.path(), no);
        let mut questions = Questions::new(Warden::new(&warden.socket));
        assert_eq!(questions.ask(2, question(2)), None);
        assert_eq!(refused(&soon(questions.next()).await), (2, "not_enrolled"));
        // An answer to something else is none.
        let warden = FakeWarden::start(dir.path(), |_, _| vec![WardenAnswer::Forgotten {}]);
        let mut questions = Questions::new(Warden::new(&warden.socket));
        assert_eq!(questions.ask(3, question(3)), None);
        assert_eq!(refused(&soon(questions.next()).await), (3, "warden"));
    }
}
