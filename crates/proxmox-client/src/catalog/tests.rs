//! The catalogue as a whole.

use std::collections::BTreeSet;

use super::*;

#[test]
fn names_and_places_are_unique() {
    let mut names = BTreeSet::new();
    let mut places = BTreeSet::new();
    for shape in shapes() {
        assert!(names.insert(shape.name), "{} twice", shape.name);
        assert!(
            places.insert((shape.verb.as_str(), shape.path)),
            "{} {} twice",
            shape.verb.as_str(),
            shape.path
        );
        let mut params = BTreeSet::new();
        for param in shape.params {
            assert!(params.insert(param.name), "{}: {} twice", shape.name, param.name);
            assert!(!shape.path.contains(&format!("{{{}}}", param.name)), "{}: {}", shape.name, param.name);
        }
    }
}

#[test]
fn privileges_stand_on_the_right_side_of_the_role() {
    for shape in shapes() {
        for privilege in shape.needs {
            assert!(
                WRIT_AGENT.contains(privilege),
                "{} needs {privilege}, which is beyond the role",
                shape.name
            );
        }
        for privilege in shape.beyond {
            assert!(!WRIT_AGENT.contains(privilege), "{}: {privilege} is in the role", shape.name);
        }
    }
}

#[test]
fn a_wrong_value_is_kept_and_the_first_one_speaks() {
    static PING: Call<()> = Call::new("ping", Verb::Post, "/nodes/{node}/x/{id}", nothing)
        .params(&[param::flag("force"), param::form("snapname", Form::ConfigId)]);
    let wrong = |request: Request<()>| request.wrong.unwrap_or_default();
    assert_eq!(PING.at(&["a", "b"]).segments, ["nodes", "a", "x", "b"]);
    assert!(wrong(PING.at(&["a"])).contains("{id}"));
    assert!(wrong(PING.at(&["a", "b", "c"])).contains("fewer places"));
    assert!(wrong(PING.at(&["a", "b"]).set("other", 1)).contains("no parameter `other`"));
    assert!(wrong(PING.at(&["a", "b"]).flag("force", true).flag("force", false)).contains("twice"));
    let first = PING.at(&["a", "b"]).set("snapname", "..").set("force", "yes");
    assert!(wrong(first).contains("snapname"));
    let good = PING.at(&["a", "b"]).flag("force", true).opt("snapname", None::<&str>);
    assert!(good.wrong.is_none() && good.params == [("force".to_owned(), "1".to_owned())]);
}

#[test]
fn paths_find_their_call() {
    let call = |method: &str, path: &str| understand(method, path, 200, None, b"{\"data\":null}").call;
    assert_eq!(call("GET", "/version"), Some("version"));
    assert_eq!(call("GET", "/nodes/pve1/tasks/UPID%3Ax/log?start=0"), Some("task log"));
    assert_eq!(call("GET", "/nodes/pve1/qemu/100/config"), Some("qemu config"));
    assert_eq!(call("PATCH", "/version"), None);
    assert_eq!(call("GET", "/nosuch"), None);
    assert_eq!(call("GET", ""), None);
}

#[test]
fn hostile_answers_are_never_taken_for_success() {
    for body in ["", "{", "[]", "null", "<html>", "{\"dat\":1}", "{\"data\":{}}", "{\"data\":[1]}"] {
        let read = understand("GET", "/nodes/pve1/qemu/100/config", 200, None, body.as_bytes());
        assert!(matches!(read.outcome, Understood::Unreadable(_)), "{body}: {read:?}");
    }
    let read = understand("GET", "/version", 418, Some("teapot"), b"");
    assert!(matches!(read.outcome, Understood::Refused { class: crate::ErrorClass::Other, .. }), "{read:?}");
}
