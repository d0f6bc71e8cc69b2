use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::agent::Agent;
use crate::testing::{alice, mallory, policy};

/// A KRL of version 3 with these sections: a type and its data.
fn list(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"SSHKRL\n\0\0\0\0\x01".to_vec();
    for number in [3_u64, 1_763_000_000, 0] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend([string(b""), string(b"of \x1b[2Jhome")].concat());
    for (kind, data) in sections {
        bytes.push(*kind);
        bytes.extend(string(data));
    }
    bytes
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn take_in(bytes: &[u8], document: &mut PolicyDocument, ignore: bool) -> Result<String, Failure> {
    taken_in(Path::new("old.krl"), bytes, &policy(), Path::new("next.json"), document, ignore)
}

#[test]
fn it_says_what_the_list_is_and_what_changes() {
    let stranger = mallory().public();
    let bytes = list(&[(2, string(&stranger.to_wire().blob()))]);
    let mut document = PolicyDocument::next_after(&policy(), 1_763_000_001);
    let text = take_in(&bytes, &mut document, false).unwrap();
    let key = stranger.fingerprint();
    assert_eq!(document.revoked, [key]);
    for says in [
        "old.krl: KRL version 3 of 2025-11-13 02:13:20Z",
        "1 section(s), SHA-256 ",
        "It revokes 1 key(s), 0 certificate(s) by serial and 0 by key id.",
        "1 key(s), 0 certificate(s) by serial and 0 by key id are new.",
        &format!("- key {key} is revoked  (tightens)"),
        "writ policy sign next.json",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let text = take_in(&bytes, &mut document, false).unwrap();
    assert!(text.contains(&format!("already revoked: key {key}")) && text.contains("0 key(s), 0"), "{text}");
}

#[test]
fn errors_name_the_file_the_place_and_what_to_do() {
    let hash = list(&[(3, string(&[7; 20]))]);
    let root = list(&[(2, string(&alice().public().to_wire().blob()))]);
    for (bytes, says) in [
        (&b""[..], "old.krl, at byte 0: the file is empty"),
        (&hash[..hash.len() - 1], "at byte 56: the file is cut short: copy it again"),
        (&hash, "--ignore-unknown-sha1"),
        (&root, "with what old.krl revokes, "),
        (&root, "writ policy next"),
    ] {
        let mut document = PolicyDocument::next_after(&policy(), 0);
        let error = take_in(bytes, &mut document, false).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    let mut document = PolicyDocument::next_after(&policy(), 0);
    let text = take_in(&hash, &mut document, true).unwrap();
    assert!(text.contains("NOT revoked") && document.revoked.is_empty(), "{text}");
}

#[test]
fn a_draft_is_begun_or_added_to_and_nothing_is_written_on_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("policy.json"), policy().document().encode()).unwrap();
    let key = mallory().public().fingerprint();
    std::fs::write(at("krl"), list(&[(2, string(&mallory().public().to_wire().blob()))])).unwrap();
    std::fs::write(at("bad"), b"SSHKRL\n\0").unwrap();
    let home = Some(dir.path().to_owned());
    let ctx = Context { home, quiet: true, verbose: false, agent: Agent::default() };
    let new = |force| Place::New { path: at("next.json"), force };

    assert!(krl(&ctx, &at("bad"), &new(false), false).is_err() && !at("next.json").exists());
    krl(&ctx, &at("krl"), &new(false), false).unwrap();
    let next = Policy::decode(&std::fs::read(at("next.json")).unwrap()).unwrap();
    assert_eq!((next.version(), next.document().prev), (2, Some(*policy().hash())));
    assert_eq!(next.document().revoked, [key]);
    assert!(matches!(krl(&ctx, &at("krl"), &new(false), false), Err(Failure::Exists(_))));
    krl(&ctx, &at("krl"), &new(true), false).unwrap();

    // What was changed in a draft stays.
    let mut draft = PolicyDocument::next_after(&policy(), 0);
    draft.bounds.max_changes_per_hour = 3;
    std::fs::write(at("draft.json"), draft.encode()).unwrap();
    let place = Place::Draft(at("draft.json"));
    assert!(krl(&ctx, &at("bad"), &place, false).is_err());
    assert_eq!(std::fs::read(at("draft.json")).unwrap(), draft.encode());
    krl(&ctx, &at("krl"), &place, false).unwrap();
    draft.revoked.push(key);
    assert_eq!(std::fs::read(at("draft.json")).unwrap(), draft.encode());
}
