use super::*;
use protocol::Sha256;

fn receipt(n: u8) -> Signed {
    Signed { payload: vec![n].into(), sig: "s".to_owned() }
}

fn trouble(n: u8) -> AgentFrame {
    AgentFrame::OrderTrouble { op: Sha256::of(&[n]), problem: "p".to_owned() }
}

fn welcome(receipts_held: u64) -> HubFrame {
    HubFrame::Welcome { v: VERSION, receipts_held }
}

fn open(held: u64) -> Session {
    let mut session = Session::default();
    assert_eq!(session.on_frame(welcome(held)), [Effect::Opened, Effect::ReadLog { first: held }]);
    session
}

fn closes(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Close { .. }])
}

#[test]
fn the_log_goes_up_in_batches_until_there_is_no_more() {
    let mut session = open(3);
    let sent = session.on_log(3, vec![receipt(3), receipt(4)]);
    assert_eq!(
        sent,
        [Effect::Send(AgentFrame::Receipts { first: 3, receipts: vec![receipt(3), receipt(4)] })]
    );
    // While a batch is on its way nothing else is read, but it is remembered.
    assert_eq!(session.on_note(Note::LogGrew), []);
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 5 }), [Effect::ReadLog { first: 5 }]);
    assert_eq!(session.on_log(5, vec![]), [], "the hub knows already");
    assert_eq!(session.on_note(Note::LogGrew), [Effect::ReadLog { first: 5 }]);
    assert_eq!(session.on_note(Note::LogGrew), []);
    // It grew while it was read: the empty answer may be of before.
    assert_eq!(session.on_log(5, vec![]), [Effect::ReadLog { first: 5 }]);
}

#[test]
fn an_empty_log_is_announced_once() {
    let mut session = open(0);
    assert_eq!(
        session.on_log(0, vec![]),
        [Effect::Send(AgentFrame::Receipts { first: 0, receipts: vec![] })]
    );
    assert_eq!(session.on_frame(HubFrame::ReceiptsStored { held: 0 }), []);
    assert_eq!(session.on_note(Note::LogGrew), [Effect::ReadLog { first: 0 }]);
    assert_eq!(session.on_log(0, vec![]), []);
}

#[test]
fn an_absent_warden_is_asked_again_at_the_next_tick() {
    let mut session = open(2);
    assert_eq!(session.on_tick(), []);
    assert_eq!(session.on_log_failed(), []);
    assert_eq!(session.on_tick(), [Effect::ReadLog { first: 2 }]);
    assert_eq!(session.on_tick(), [], "one at a time");
    assert_eq!(session.on_log(1, vec![receipt(1)]), [], "an answer to another question is not passed on");
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
            Effect::ReadLog { first: 0 }
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
            HubFrame::Welcome { v: 2, receipts_held: 0 },
        ] {
            let mut session = Session::default();
            stage.clone().map(|frame| session.on_frame(frame));
            let effects = session.on_frame(frame.clone());
            assert!(closes(&effects), "{frame:?} gave {effects:?}");
            assert!(!session.is_open());
        }
    }
    for frame in [welcome(0), HubFrame::Pending {}, HubFrame::ReportStored { seq: 1 }] {
        assert!(closes(&open(0).on_frame(frame)));
    }
    let mut session = open(4);
    session.on_log(4, vec![receipt(4)]);
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
}
