use super::*;

fn refusal() -> PrivilegedAnswer {
    PrivilegedAnswer::Refused { code: "replay".into(), why: "burned".into() }
}

/// A refusal says that nothing was done only where nothing was accepted.
#[test]
fn answers_mean_no_more_than_they_say() {
    let not_accepted = |says: Says| matches!(says, Says::End(Ending::NotAccepted(_)));
    assert!(not_accepted(judge(Asked::Order, false, refusal())));
    assert!(matches!(judge(Asked::Order, true, refusal()), Says::Nothing(_)));
    assert!(matches!(judge(Asked::Outcome, false, refusal()), Says::Nothing(_)));
    assert!(not_accepted(judge(Asked::Outcome, false, PrivilegedAnswer::NotKnown {})));
    assert!(matches!(judge(Asked::Order, false, PrivilegedAnswer::NotKnown {}), Says::Nothing(_)));
    assert!(matches!(judge(Asked::Outcome, false, PrivilegedAnswer::Started {}), Says::Nothing(_)));
    assert!(matches!(judge(Asked::Order, false, PrivilegedAnswer::Done {}), Says::Nothing(_)));
    assert_eq!(judge(Asked::Order, true, PrivilegedAnswer::Started {}), Says::More(true));
    for asked in [Asked::Order, Asked::Outcome] {
        let did = judge(asked, true, PrivilegedAnswer::Did { seen: "x\u{1b}[2J".into() });
        assert!(matches!(did, Says::End(Ending::Did(seen)) if !seen.contains('\u{1b}')));
        let unknown = judge(asked, false, PrivilegedAnswer::Unknown { why: "x".into() });
        assert!(matches!(unknown, Says::End(Ending::Unknown { settled: true, .. })));
    }
}

#[test]
fn endless_words_are_cut() {
    assert!(said(&"ä".repeat(100_000)).len() <= 2 * MAX_SAID);
}
