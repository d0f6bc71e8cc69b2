use authz::statement::sign_host;

use super::*;
use crate::testing::{NOW, believed, host_key, mallory, name, policy, statement, view, view_of};

fn roster(views: Vec<HostView>) -> Roster {
    Roster::judge(views, &policy(), &Memory::new(), NOW)
}

fn memory(statements: &[HostStatement]) -> Memory {
    statements.iter().map(|s| (s.name.clone(), s.clone())).collect()
}

#[test]
fn an_honest_hub_is_believed() {
    let roster = roster(vec![view(1, "web1"), view(2, "db1")]);
    let (_, host) = roster.by_name(&name("db1")).unwrap();
    assert_eq!(*host.id(), HostId::from_bytes([2; 16]));
    assert_eq!(host.vouched_by, name("alice"));
    assert_eq!(roster.by_id(host.id()).unwrap().1.name(), &name("db1"));
}

#[test]
fn a_renamed_host_is_refused_under_both_names() {
    let mut lie = view(1, "web1");
    lie.name = name("db1");
    let roster = roster(vec![lie]);
    for asked in ["db1", "web1"] {
        let error = roster.by_name(&name(asked)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "the hub calls host {} 'db1', but the operator-signed statement says 'web1': the hub is wrong or lying",
                HostId::from_bytes([1; 16])
            )
        );
    }
    assert!(roster.by_id(&HostId::from_bytes([1; 16])).is_err());
}

#[test]
fn swapped_statements_are_refused() {
    let (mut a, mut b) = (view(1, "web1"), view(2, "db1"));
    std::mem::swap(&mut a.statement, &mut b.statement);
    // The names too, so that only the host id gives the lie away.
    std::mem::swap(&mut a.name, &mut b.name);
    let roster = roster(vec![a, b]);
    assert!(roster.rows.iter().all(|(_, verdict)| matches!(verdict, Err(Distrust::Swapped { .. }))));
    assert!(roster.by_name(&name("web1")).unwrap_err().to_string().contains("wrong or lying"));
}

#[test]
fn forged_and_unsigned_statements_are_refused() {
    let mut forged = view(1, "web1");
    forged.statement = sign_host(&statement(1, "web1"), &mallory());
    let mut by_host = view(1, "web1");
    by_host.statement = sign_host(&statement(1, "web1"), &host_key(1));
    let mut unsigned = view(1, "web1");
    unsigned.statement.sig = String::new();
    let mut altered = view(1, "web1");
    let place = altered.statement.payload.0.windows(6).position(|w| w == b"berlin").unwrap();
    altered.statement.payload.0[place] = b'B';
    for lie in [forged, by_host, unsigned, altered] {
        let roster = roster(vec![lie]);
        assert!(matches!(roster.rows[0].1, Err(Distrust::Statement { .. })), "{:?}", roster.rows[0].1);
        let error = roster.by_name(&name("web1")).unwrap_err().to_string();
        assert!(error.contains("is not believed") && error.contains("do not believe it"), "{error}");
    }
    let mut strange = statement(1, "web1");
    strange.v = 2;
    assert!(matches!(roster(vec![view_of(&strange)]).rows[0].1, Err(Distrust::Version { version: 2, .. })));
}

#[test]
fn a_name_once_believed_keeps_its_host_key_and_generation() {
    let known = memory(&[statement(1, "web1")]);
    let check = |s: &HostStatement| judge(&view_of(s), &policy(), &known, NOW);
    check(&statement(1, "web1")).unwrap();
    check(&statement(2, "db1")).unwrap();
    let changes = [
        (statement(2, "web1"), "another host than"),
        (HostStatement { host_key: host_key(9).public().to_wire(), ..statement(1, "web1") }, "host key"),
        (HostStatement { host_key_gen: 2, ..statement(1, "web1") }, "generation"),
    ];
    for (statement, says) in changes {
        let error = check(&statement).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("writ hosts --forget web1"), "{error}");
    }
    let error = check(&statement(1, "web2")).unwrap_err().to_string();
    assert!(error.contains("knows it as 'web1'") && error.contains("--forget web1"), "{error}");
}

#[test]
fn two_hosts_of_one_name_are_both_refused() {
    let roster = roster(vec![view(1, "web1"), view(2, "web1"), view(3, "db1")]);
    assert!(roster.by_name(&name("web1")).unwrap_err().to_string().contains("two hosts"));
    roster.by_name(&name("db1")).unwrap();
}

#[test]
fn unknown_names_say_what_to_do() {
    let roster = roster(vec![view(1, "web1")]);
    assert!(roster.by_name(&name("wbe1")).unwrap_err().to_string().contains("did you mean 'web1'"));
    assert!(roster.by_id(&HostId::from_bytes([9; 16])).unwrap_err().to_string().contains("writ hosts"));
    let empty = Roster::judge(vec![], &policy(), &Memory::new(), NOW);
    assert!(empty.by_name(&name("web1")).unwrap_err().to_string().contains("writ enroll new"));
    assert_eq!(believed(1, "web1").key, host_key(1).public());
}
