use super::*;
use crate::session::results::WINDOW;

fn receipt(n: u8) -> Signed {
    Signed { payload: vec![n].into(), sig: "s".to_owned() }
}

fn trouble(n: u8) -> AgentFrame {
    AgentFrame::OrderTrouble { op: Sha256::of(&[n]), problem: "p".to_owned() }
}

fn welcome(receipts_held: u64) -> HubFrame {
    HubFrame::Welcome { v: VERSION, receipts_held }
}

/// Past Welcome, at a warden that has no results.
fn open(held: u64) -> Session {
    let mut session = Session::default();
    let begins = [Effect::Opened, Effect::ReadLog { first: held }, Effect::ListResults];
    assert_eq!(session.on_frame(welcome(held)), begins);
    assert_eq!(session.on_results(vec![]), []);
    session
}

/// The same, with the log announced.
fn settled(held: u64) -> Session {
    let mut session = open(held);
    assert_eq!(session.on_log(held, vec![], None).len(), 1);
    session
}

fn op(n: u8) -> Sha256 {
    Sha256::of(&[n])
}

fn sealed() -> Bytes {
    b"sealed".to_vec().into()
}

fn sends_result(n: u8) -> Effect {
    Effect::Send(AgentFrame::JobResult { op: op(n), sealed: sealed() })
}

fn tunnel(n: u8) -> TunnelId {
    TunnelId::from_bytes([n; 16])
}

fn report(log_size: u64) -> Note {
    use protocol::report::{HostReport, WardenReport};
    let unknown = || "not read".to_owned();
    let warden = WardenReport {
        version: "0.1.0".to_owned(),
        host_key: crate::testing::host_key().public().fingerprint(),
        policy_version: 1,
        policy: op(0),
        log_size,
        closed: None,
    };
    Note::Report(Box::new(HostReport {
        v: 1,
        collected_at: 1,
        boot_id: "b".to_owned(),
        agent_version: "0.1.0".to_owned(),
        warden: Known::Known(warden),
        node: Known::Unknown(unknown()),
        certificate: Known::Unknown(unknown()),
        guests: Known::Unknown(unknown()),
        storages: Known::Unknown(unknown()),
    }))
}

fn closes(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Close { .. }])
}

#[test]
fn the_log_goes_up_in_batches_until_there_is_no_more() {
    let mut session = open(3);
    let sent = session.on_log(3, vec![receipt(3), receipt(4)], None);
    assert_eq!(
        sent,
        [Effect::Send(AgentFrame::Receipts {
            first: 3,
            receipts: vec![receipt(3), receipt(4)],
            checkpoint: None
        })]
    );
    // While a batch is on its way nothing else is read, but it is remembered.
    assert_eq!(session.on_note(Note::LogGrew), []);
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 5 }), [Effect::ReadLog { first: 5 }]);
    assert_eq!(session.on_log(5, vec![], None), [], "the hub knows already");
    assert_eq!(session.on_note(Note::LogGrew), [Effect::ReadLog { first: 5 }]);
    assert_eq!(session.on_note(Note::LogGrew), []);
    // It grew while it was read: the empty answer may be of before.
    assert_eq!(session.on_log(5, vec![], None), [Effect::ReadLog { first: 5 }]);
}

#[test]
fn an_empty_log_is_announced_once() {
    let mut session = open(0);
    assert_eq!(
        session.on_log(0, vec![], None),
        [Effect::Send(AgentFrame::Receipts { first: 0, receipts: vec![], checkpoint: None })]
    );
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 0 }), []);
    assert_eq!(session.on_note(Note::LogGrew), [Effect::ReadLog { first: 0 }]);
    assert_eq!(session.on_log(0, vec![], None), []);
}

/// A hub with a slow disk, and an order that was waiting there.
#[test]
fn the_log_may_grow_before_the_announcement_is_answered() {
    let mut session = settled(2);
    assert_eq!(session.on_note(Note::LogGrew), [Effect::ReadLog { first: 2 }]);
    assert_eq!(session.on_log(2, vec![receipt(2)], None).len(), 1);
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 2 }), [], "this is about the empty one");
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 3 }), [Effect::ReadLog { first: 3 }]);
    assert_eq!(session.on_log(3, vec![receipt(3)], None).len(), 1);
    assert!(closes(&session.on_frame(HubFrame::ReceiptsStored { held: 3 })), "there was only one");
}

/// By an agent that did not hand the script over, and asked for results when there was none yet.
#[test]
fn an_end_in_the_log_is_a_reason_to_ask_for_results() {
    let mut session = open(2);
    let (words, result) = (|| "x".parse().unwrap(), op(3));
    let entry = |outcome| {
        let event = authz::Event::Order { op: op(1), kind: None, vmid: None, signers: vec![], outcome };
        let (host, boot_id) = (protocol::HostId::from_bytes([1; 16]), "b".to_owned());
        let receipt = Receipt { v: 1, host, host_key_gen: 1, boot_id, time: 1, entry: None, event };
        receipt.sign(&crate::testing::host_key())
    };
    let other = entry(Outcome::Unknown { upid: None, why: words() });
    assert_eq!(session.on_log(2, vec![receipt(2), other], None).len(), 1);
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 4 }), [Effect::ReadLog { first: 4 }]);
    let ran = entry(Outcome::Ran { result, size: 1, duration_ms: 1 });
    let effects = session.on_log(4, vec![ran], None);
    assert!(matches!(effects[..], [Effect::Send(_), Effect::ListResults]), "{effects:?}");
    assert_eq!(session.on_results(vec![op(1)]), []);
    // After its receipt, as always.
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 5 }), [Effect::ReadLog { first: 5 }]);
    assert_eq!(session.on_log(5, vec![], None), [Effect::ReadResult { op: op(1) }]);
}

#[test]
fn an_absent_warden_is_asked_again_at_the_next_tick() {
    let mut session = open(2);
    assert_eq!(session.on_tick(), []);
    assert_eq!(session.on_log_failed(), []);
    assert_eq!(session.on_tick(), [Effect::ReadLog { first: 2 }]);
    assert_eq!(session.on_tick(), [], "one at a time");
    assert_eq!(
        session.on_log(1, vec![receipt(1)], None),
        [],
        "an answer to another question is not passed on"
    );
    assert_eq!(session.on_tick(), [Effect::ReadLog { first: 2 }]);
}

#[test]
fn pending_stays_and_keeps_what_makes_sense_later() {
    let mut session = Session::default();
    assert_eq!(session.on_frame(HubFrame::Pending {}), []);
    assert_eq!(session.on_frame(HubFrame::Heartbeat {}), []);
    assert_eq!(session.on_note(Note::Order(trouble(1))), []);
    assert_eq!(session.on_note(Note::LogGrew), []);
    for generation in [1, 2] {
        let plan = Plan { generation, ..Plan::default() };
        assert_eq!(session.on_note(Note::Plan { plan, problem: None }), []);
    }
    let effects = session.on_frame(welcome(0));
    let latest = Plan { generation: 2, ..Plan::default() };
    assert_eq!(
        effects,
        [
            Effect::Opened,
            Effect::Send(trouble(1)),
            Effect::Send(AgentFrame::Plan { plan: latest, problem: None }),
            Effect::ReadLog { first: 0 },
            Effect::ListResults,
        ]
    );
}

#[test]
fn what_waits_survives_a_connection_and_is_bounded() {
    let mut session = open(0);
    session.begin();
    assert!(!session.is_open());
    for n in 0..=255 {
        session.on_note(Note::Order(trouble(n)));
    }
    session.not_sent(trouble(7));
    session.not_sent(AgentFrame::Heartbeat {});
    session.begin();
    let effects = session.on_frame(welcome(0));
    let sent: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::Send(_))).collect();
    assert_eq!(sent.len(), BACKLOG);
    assert_eq!(sent[0], &Effect::Send(trouble(1)), "the oldest made room");
    assert_eq!(sent[BACKLOG - 1], &Effect::Send(trouble(7)));
}

#[test]
fn a_refused_desired_state_goes_with_every_plan_until_one_is_accepted() {
    let note =
        |problem: Option<&str>| Note::Plan { plan: Plan::default(), problem: problem.map(str::to_owned) };
    let problem = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Send(AgentFrame::Plan { problem, .. }) => Some(problem),
            _ => None,
        })
    };
    let mut session = open(0);
    session.on_adopted(Some("refused 9".to_owned()));
    assert_eq!(problem(session.on_note(note(None))), Some(Some("refused 9".to_owned())));
    let both = AgentFrame::Plan { plan: Plan::default(), problem: Some("refused 9; no room".to_owned()) };
    assert_eq!(session.on_note(note(Some("no room"))), [Effect::Send(both.clone())]);
    // A connection that ends does not end the problem, nor is it told twice in one plan.
    session.not_sent(both);
    session.begin();
    assert_eq!(problem(session.on_frame(welcome(0))), Some(Some("refused 9; no room".to_owned())));
    session.on_adopted(None);
    assert_eq!(problem(session.on_note(note(None))), Some(None));
}

/// None of these may do anything but end the connection.
#[test]
fn a_hub_that_breaks_the_protocol_is_left() {
    let envelope = Envelope::new(vec![1].into(), vec![]);
    let desired = HubFrame::Desired { generation: 1, state: DesiredState::default() };
    for stage in [None, Some(HubFrame::Pending {})] {
        for frame in [
            HubFrame::Order { envelope: envelope.clone() },
            desired.clone(),
            HubFrame::ReportStored { seq: 0 },
            HubFrame::ReceiptsStored { held: 9 },
            HubFrame::JobResultStored { op: op(1) },
            HubFrame::TunnelOpen { tunnel: tunnel(1), envelope: envelope.clone() },
            HubFrame::TunnelClose { tunnel: tunnel(1), why: "x".to_owned() },
            HubFrame::Welcome { v: VERSION + 1, receipts_held: 0 },
        ] {
            let mut session = Session::default();
            stage.clone().map(|frame| session.on_frame(frame));
            let effects = session.on_frame(frame.clone());
            assert!(closes(&effects), "{frame:?} gave {effects:?}");
            assert!(!session.is_open());
        }
    }
    let never_sent = HubFrame::JobResultStored { op: op(1) };
    for frame in [welcome(0), HubFrame::Pending {}, HubFrame::ReportStored { seq: 1 }, never_sent] {
        assert!(closes(&open(0).on_frame(frame)));
    }
    let mut session = open(4);
    session.on_log(4, vec![receipt(4)], None);
    assert!(closes(&session.on_frame(HubFrame::ReceiptsStored { held: 4 })), "an endless loop otherwise");
    let bye = HubFrame::Bye { why: "x\u{1b}[2J".to_owned(), retry_after_s: u64::MAX };
    let effects = open(0).on_frame(bye);
    let [Effect::Close { why, retry_after }] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(!why.contains('\u{1b}'));
    assert_eq!(*retry_after, Duration::from_secs(3600));
}

#[test]
fn an_open_session_passes_on_what_the_hub_wants() {
    let mut session = open(0);
    let envelope = Envelope::new(vec![1].into(), vec![]);
    assert_eq!(session.on_frame(HubFrame::Order { envelope: envelope.clone() }), [Effect::Relay(envelope)]);
    let state = DesiredState::default();
    let desired = HubFrame::Desired { generation: 1, state: state.clone() };
    assert_eq!(session.on_frame(desired), [Effect::Adopt { generation: 1, state }]);
    let envelope = Envelope::new(vec![2].into(), vec![]);
    let opens = HubFrame::TunnelOpen { tunnel: tunnel(1), envelope: envelope.clone() };
    assert_eq!(session.on_frame(opens), [Effect::OpenTunnel { tunnel: tunnel(1), envelope }]);
    let closes = HubFrame::TunnelClose { tunnel: tunnel(2), why: "left\u{1b}[2J".to_owned() };
    let why = "left?[2J".to_owned();
    assert_eq!(session.on_frame(closes), [Effect::CloseTunnel { tunnel: tunnel(2), why }]);
}

#[test]
fn news_of_a_tunnel_go_up_with_the_log() {
    let mut session = settled(0);
    let over = AgentFrame::TunnelClose { tunnel: tunnel(1), why: "the session ended".to_owned() };
    assert_eq!(session.on_tunnel(over.clone()), [Effect::Send(over.clone()), Effect::ReadLog { first: 0 }]);
    // A tunnel ends with its connection: there is nothing to tell the next one.
    session.not_sent(over);
    session.begin();
    assert_eq!(
        session.on_frame(welcome(0)),
        [Effect::Opened, Effect::ReadLog { first: 0 }, Effect::ListResults]
    );
}

#[test]
fn a_result_follows_its_receipt_and_is_forgotten_when_the_hub_holds_it() {
    let mut session = settled(0);
    let ended = Note::Ended { op: op(1), ran: true };
    assert_eq!(session.on_note(ended), [Effect::ReadLog { first: 0 }]);
    let effects = session.on_log(0, vec![receipt(1)], None);
    let receipts =
        Effect::Send(AgentFrame::Receipts { first: 0, receipts: vec![receipt(1)], checkpoint: None });
    assert_eq!(effects, [receipts, Effect::ReadResult { op: op(1) }]);
    assert_eq!(session.on_result(op(1), sealed()), [sends_result(1)]);
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 1 }), [Effect::ReadLog { first: 1 }]);
    assert_eq!(session.on_log(1, vec![], None), []);
    let stored = HubFrame::JobResultStored { op: op(1) };
    assert_eq!(session.on_frame(stored.clone()), [Effect::ForgetResult { op: op(1) }]);
    assert_eq!(session.on_result_done(), []);
    assert!(closes(&session.on_frame(stored)), "it was sent once");
}

#[test]
fn a_result_waits_for_a_reading_of_the_log_that_began_after_it() {
    let mut session = open(0);
    // The first reading is under way and may be too early.
    assert_eq!(session.on_note(Note::Ended { op: op(1), ran: true }), []);
    let full: Vec<Signed> = (0..100).map(receipt).collect();
    assert_eq!(session.on_log(0, full, None).len(), 1);
    let effects = session.on_frame(HubFrame::ReceiptsStored { held: 100 });
    assert_eq!(effects, [Effect::ReadLog { first: 100 }]);
    assert_eq!(session.on_log_failed(), []);
    assert_eq!(session.on_tick(), [Effect::ReadLog { first: 100 }]);
    // One that comes meanwhile does not hold up the one before it.
    assert_eq!(session.on_note(Note::Ended { op: op(2), ran: true }), []);
    let effects = session.on_log(100, vec![receipt(9)], None);
    assert!(matches!(&effects[..], [Effect::Send(_), Effect::ReadResult { op: first }] if *first == op(1)));
    assert_eq!(session.on_result(op(1), sealed()), [sends_result(1)], "and the second one waits");
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 101 }), [Effect::ReadLog { first: 101 }]);
    assert_eq!(session.on_log(101, vec![], None), [Effect::ReadResult { op: op(2) }]);
}

#[test]
fn results_are_sent_again_on_each_connection_until_they_are_acknowledged() {
    let mut session = Session::default();
    for _ in 0..2 {
        session.begin();
        session.on_frame(welcome(0));
        assert_eq!(session.on_log(0, vec![], None).len(), 1);
        assert_eq!(session.on_results(vec![op(1)]), [Effect::ReadLog { first: 0 }]);
        assert_eq!(session.on_log(0, vec![], None), [Effect::ReadResult { op: op(1) }]);
        assert_eq!(session.on_result(op(1), sealed()), [sends_result(1)]);
        // Not twice on one connection.
        assert_eq!(
            session.on_note(Note::Ended { op: op(7), ran: false }),
            [Effect::ReadLog { first: 0 }, Effect::ListResults]
        );
        assert_eq!(session.on_results(vec![op(1)]), []);
    }
    session.begin();
    session.on_frame(welcome(0));
    let late = HubFrame::JobResultStored { op: op(1) };
    assert!(closes(&session.on_frame(late)), "that was another connection");
}

#[test]
fn few_results_are_on_their_way_and_one_is_read_at_a_time() {
    let mut session = settled(0);
    let all: Vec<Sha256> = (0..20).map(op).collect();
    session.on_note(Note::Ended { op: op(0), ran: false });
    assert_eq!(session.on_log(0, vec![], None), []);
    assert_eq!(session.on_results(all), [Effect::ReadLog { first: 0 }]);
    let mut effects = session.on_log(0, vec![], None);
    let mut sent = 0;
    while let [.., Effect::ReadResult { op: next }] = &effects[..] {
        let next = *next;
        assert_eq!(next, op(sent));
        assert_eq!(session.next_result(), [], "one at a time");
        effects = session.on_result(next, sealed());
        sent += 1;
    }
    assert_eq!(usize::from(sent), WINDOW);
    // Acknowledged in any order; each makes room for one, after the warden forgot it.
    let stored = HubFrame::JobResultStored { op: op(3) };
    assert_eq!(session.on_frame(stored), [Effect::ForgetResult { op: op(3) }]);
    assert_eq!(session.on_frame(HubFrame::JobResultStored { op: op(0) }), []);
    assert_eq!(session.on_result_done(), [Effect::ForgetResult { op: op(0) }]);
    assert_eq!(session.on_result_done(), [Effect::ReadResult { op: op(sent) }]);
    assert_eq!(session.on_result(op(sent), sealed()).len(), 2);
    assert_eq!(session.on_result(op(sent + 1), sealed()), [sends_result(sent + 1)], "the window is full");
    // A hub that does not want some of them does not end it.
    assert_eq!(session.on_tick(), [Effect::ReadResult { op: op(sent + 2) }]);
    let late = HubFrame::JobResultStored { op: op(1) };
    assert_eq!(session.on_frame(late), []);
    let effects = session.on_result(op(sent + 2), sealed());
    assert_eq!(effects, [sends_result(sent + 2), Effect::ForgetResult { op: op(1) }]);
}

#[test]
fn an_absent_warden_is_asked_for_results_at_the_next_tick_or_report() {
    let mut session = settled(0);
    session.on_note(Note::Ended { op: op(1), ran: false });
    assert_eq!(session.on_results_failed(), []);
    assert_eq!(session.on_log(0, vec![], None), [], "not before");
    assert_eq!(session.on_tick(), [Effect::ListResults]);
    assert_eq!(session.on_results(vec![op(1)]), [Effect::ReadLog { first: 0 }]);
    assert_eq!(session.on_log(0, vec![], None), [Effect::ReadResult { op: op(1) }]);
    // It goes away in the middle: the list is made again.
    assert_eq!(session.on_results_failed(), []);
    let effects = session.on_note(report(0));
    assert!(matches!(&effects[..], [Effect::Send(_), Effect::ListResults]), "{effects:?}");
    assert_eq!(session.on_results(vec![op(1)]), [Effect::ReadLog { first: 0 }]);
    assert_eq!(session.on_log(0, vec![], None), [Effect::ReadResult { op: op(1) }]);
    assert_eq!(session.on_result(op(1), sealed()), [sends_result(1)]);
    // What the hub holds is not sent again because the warden could not be told.
    let stored = HubFrame::JobResultStored { op: op(1) };
    assert_eq!(session.on_frame(stored), [Effect::ForgetResult { op: op(1) }]);
    assert_eq!(session.on_not_forgotten(op(1)), []);
    assert_eq!(session.on_tick(), [Effect::ForgetResult { op: op(1) }]);
    assert_eq!(session.on_result_done(), [Effect::ListResults]);
    assert_eq!(session.on_results(vec![]), []);
    assert_eq!(session.on_tick(), []);
}

#[test]
fn a_result_that_cannot_be_had_holds_up_no_other() {
    let mut session = settled(0);
    session.on_note(Note::Ended { op: op(0), ran: false });
    session.on_log(0, vec![], None);
    session.on_results(vec![op(1), op(2)]);
    assert_eq!(session.on_log(0, vec![], None), [Effect::ReadResult { op: op(1) }]);
    assert_eq!(session.on_result_done(), [Effect::ReadResult { op: op(2) }]);
}

/// A warden that was started again ended scripts that nobody here waits for any more.
#[test]
fn a_log_that_grew_unseen_is_read_and_results_are_looked_for() {
    let mut session = settled(3);
    let effects = session.on_note(report(4));
    assert!(
        matches!(&effects[..], [Effect::Send(_), Effect::ReadLog { first: 3 }, Effect::ListResults]),
        "{effects:?}"
    );
    session.on_results(vec![]);
    session.on_log(3, vec![], None);
    assert!(matches!(&session.on_note(report(3))[..], [Effect::Send(_)]));
}
