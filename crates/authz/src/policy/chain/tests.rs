//! Each case of `security.md` 4.13 that a chain decides, with the code it is refused by.

use protocol::Fingerprint;

use super::*;
use crate::canonical::MAX_INTEGER;
use crate::policy::tests::{alice, bob, document, helpdesk, mallory};
use crate::policy::{Authority, Credential, PolicyDocument};
use crate::secret::SecretKey;

const NOW: u64 = 1_763_770_000;

/// Alice and bob are the root, both of them; carol is in the helpdesk.
fn first() -> PolicyDocument {
    let mut first = document();
    first.root.threshold = 2;
    first.freshness_s = Some(7 * 24 * 3_600);
    first
}

fn chain() -> Chain {
    Chain::new(Policy::decode(&first().encode()).unwrap())
}

fn after(chain: &Chain) -> PolicyDocument {
    PolicyDocument::next_after(chain.current(), NOW)
}

fn signed(payload: Vec<u8>, keys: &[SecretKey]) -> Envelope {
    let sigs = keys.iter().map(|key| key.sign(Namespace::Policy, &payload)).collect();
    Envelope::new(payload.into(), sigs)
}

fn policy(document: &PolicyDocument, keys: &[SecretKey]) -> Envelope {
    signed(document.encode(), keys)
}

fn revocation(chain: &Chain, what: Revoked, keys: &[SecretKey]) -> Envelope {
    let word = Revocation {
        v: 1,
        revoke: what,
        policy: chain.current().into(),
        issued_at: NOW,
        reason: "laptop stolen".parse().unwrap(),
    };
    signed(word.encode(), keys)
}

fn key(key: &SecretKey) -> Revoked {
    Revoked::Key { key: key.public().fingerprint() }
}

fn fresh(chain: &Chain, issued_at: u64, keys: &[SecretKey]) -> Envelope {
    signed(Freshness { v: 1, fresh: chain.current().into(), issued_at }.encode(), keys)
}

fn code(chain: &Chain, envelope: &Envelope) -> RefusalCode {
    let mut copy = chain.clone();
    let refusal = copy.accept(envelope, NOW).expect_err("must be refused");
    assert_eq!(format!("{copy:?}"), format!("{chain:?}"), "a refusal changes nothing");
    assert!(refusal.why.len() > 20, "{}", refusal.why);
    refusal.code
}

#[test]
fn a_next_version_needs_the_old_and_the_new_root() {
    let mut chain = chain();
    let mut next = after(&chain);
    next.operators[2].keys.push(mallory().public().into());
    assert_eq!(code(&chain, &policy(&next, &[])), RefusalCode::Unsigned);
    assert_eq!(code(&chain, &policy(&next, &[alice()])), RefusalCode::Threshold);
    assert_eq!(code(&chain, &policy(&next, &[alice(), alice()])), RefusalCode::Threshold, "one twice");
    assert_eq!(code(&chain, &policy(&next, &[alice(), helpdesk()])), RefusalCode::Threshold, "no root");
    let stranger = SecretKey::from_seed(&[0x77; 32]);
    assert_eq!(code(&chain, &policy(&next, &[stranger])), RefusalCode::UnknownSigner);
    let good = policy(&next, &[alice(), bob()]);
    // One invalid signature refuses all of it (2.3), by a known key as well as by a stranger's.
    for extra in [helpdesk(), SecretKey::from_seed(&[0x78; 32])] {
        let mut bad = good.clone();
        bad.sigs.push(extra.sign(Namespace::Policy, b"other bytes"));
        assert!(chain.accept(&bad, NOW).is_err());
    }
    let mut elsewhere = good.clone();
    elsewhere.sigs[1] = bob().sign(Namespace::Op, &elsewhere.payload.0);
    assert_eq!(code(&chain, &elsewhere), RefusalCode::Namespace);

    let Ok(Accepted::Advanced { policy, signers }) = chain.accept(&good, NOW) else { panic!("accepted") };
    assert_eq!((policy.version, signers.len()), (2, 2));
    assert_eq!(chain.current().document(), &next);
    assert_eq!(chain.accept(&good, NOW).unwrap(), Accepted::Known, "again is no error");
}

#[test]
fn the_new_root_signs_too() {
    // Carol takes bob's place. Old: alice and bob. New: alice and carol.
    let mut chain = chain();
    let mut next = after(&chain);
    next.roles[0].members = vec!["alice".parse().unwrap(), "carol".parse().unwrap()];
    assert_eq!(code(&chain, &policy(&next, &[alice(), bob()])), RefusalCode::Threshold);
    assert_eq!(code(&chain, &policy(&next, &[alice(), helpdesk()])), RefusalCode::Threshold);
    assert!(chain.accept(&policy(&next, &[alice(), bob(), helpdesk()]), NOW).is_ok());
    // From now on bob is nobody for the policy.
    let third = after(&chain);
    assert_eq!(code(&chain, &policy(&third, &[alice(), bob()])), RefusalCode::Threshold);
    assert!(chain.accept(&policy(&third, &[helpdesk(), alice()]), NOW).is_ok());
}

/// All keys may be replaced at once: the new ones are strangers to the old policy, and count for the new one.
#[test]
fn all_root_keys_rotate() {
    let mut chain = chain();
    let (a2, b2) = (|| SecretKey::from_seed(&[0xa2; 32]), || SecretKey::from_seed(&[0xb2; 32]));
    let mut next = after(&chain);
    next.operators[0].keys = vec![a2().public().into()];
    next.operators[1].keys = vec![b2().public().into()];
    assert_eq!(code(&chain, &policy(&next, &[alice(), bob()])), RefusalCode::Threshold);
    assert_eq!(code(&chain, &policy(&next, &[a2(), b2()])), RefusalCode::UnknownSigner);
    let with_stranger = policy(&next, &[alice(), bob(), a2(), b2(), mallory()]);
    assert_eq!(code(&chain, &with_stranger), RefusalCode::UnknownSigner);
    let all = policy(&next, &[alice(), bob(), a2(), b2()]);
    let Ok(Accepted::Advanced { signers, .. }) = chain.accept(&all, NOW) else { panic!("accepted") };
    let of = |key: SecretKey| key.public().fingerprint();
    let keys: Vec<Fingerprint> = signers.iter().map(|signer| signer.key).collect();
    assert_eq!(
        keys,
        [of(alice()), of(bob()), of(a2()), of(b2())],
        "each once, also who only the new one lists"
    );
    let third = after(&chain);
    assert_eq!(code(&chain, &policy(&third, &[alice(), bob()])), RefusalCode::UnknownSigner, "removed");
}

#[test]
fn versions_are_neither_skipped_nor_repeated_nor_forked() {
    let mut chain = chain();
    let both = [alice(), bob()];
    let second = after(&chain);
    chain.accept(&policy(&second, &both), NOW).unwrap();
    let mut third = after(&chain);
    chain.accept(&policy(&third, &both), NOW).unwrap();

    let mut fork = second.clone();
    fork.bounds.start = false;
    assert_eq!(code(&chain, &policy(&fork, &both)), RefusalCode::Chain, "fork at 2");
    third.bounds.tags = false;
    assert_eq!(code(&chain, &policy(&third, &both)), RefusalCode::Chain, "fork at the head");
    assert_eq!(chain.accept(&policy(&second, &both), NOW).unwrap(), Accepted::Known, "2 after 3");
    let mut skip = after(&chain);
    skip.version += 1;
    assert_eq!(code(&chain, &policy(&skip, &both)), RefusalCode::Chain, "5 after 3");
    // The hash before it is right, the number is not: neither may a chain count back, nor stand.
    for version in [2, 3] {
        let mut back = after(&chain);
        back.version = version;
        assert_eq!(code(&chain, &policy(&back, &both)), RefusalCode::Chain, "{version} after 3");
    }
    let mut foreign = after(&chain);
    foreign.prev = Some(Sha256::of(b"another"));
    assert_eq!(code(&chain, &policy(&foreign, &both)), RefusalCode::Chain, "another chain");
    let mut old = after(&chain);
    old.issued_at = 1;
    assert_eq!(code(&chain, &policy(&old, &both)), RefusalCode::Chain, "older than the one before");
    let mut first_again = first();
    first_again.bounds.start = false;
    assert_eq!(code(&chain, &policy(&first_again, &both)), RefusalCode::Chain, "another first");
    let mut senseless = after(&chain);
    senseless.rules[0].threshold = 0;
    assert_eq!(code(&chain, &policy(&senseless, &both)), RefusalCode::BadOrder);
    assert_eq!(chain.current().version(), 3);
    for (version, hash, there) in [
        (1, first().encode(), true),
        (2, second.encode(), true),
        (2, first().encode(), false),
        (0, vec![], false),
    ] {
        let policy = PolicyRef { version, sha256: Sha256::of(&hash) };
        assert_eq!(chain.contains(&policy), there, "{version}");
        assert_eq!(chain.has(&policy.sha256), version != 0, "by hash alone, whatever the number");
    }
}

/// A host may be enrolled under any version: the chain begins there.
#[test]
fn a_chain_may_begin_late() {
    let mut late = first();
    (late.version, late.prev) = (7, Some(Sha256::of(b"version 6")));
    let mut chain = Chain::new(Policy::decode(&late.encode()).unwrap());
    let next = after(&chain);
    assert_eq!(next.version, 8);
    assert!(chain.accept(&policy(&next, &[alice(), bob()]), NOW).is_ok());
    assert!(!chain.contains(&PolicyRef { version: 6, sha256: Sha256::of(b"version 6") }));
}

#[test]
fn one_signature_takes_a_key_away_for_ever() {
    let mut chain = chain();
    let mut laptop = after(&chain);
    let spare = SecretKey::from_seed(&[0xa3; 32]);
    laptop.operators[0].keys.push(spare.public().into());
    chain.accept(&policy(&laptop, &[alice(), bob()]), NOW).unwrap();

    // Anybody listed, or the key itself; nobody else.
    assert_eq!(code(&chain, &revocation(&chain, key(&alice()), &[mallory()])), RefusalCode::UnknownSigner);
    let theirs = revocation(&chain, key(&alice()), &[helpdesk()]);
    let Ok(Accepted::Revoked { what, signers }) = chain.accept(&theirs, NOW) else { panic!("accepted") };
    assert_eq!((what, signers[0].operator.as_str()), (key(&alice()), "carol"));
    assert!(chain.current().is_revoked(&alice().public()) && !chain.current().is_revoked(&spare.public()));
    assert_eq!(chain.accept(&theirs, NOW).unwrap(), Accepted::Known);
    // What alice's old key signs is worth nothing now, and her other key carries on.
    let third = after(&chain);
    assert_eq!(third.revoked, [alice().public().fingerprint()], "the next draft takes it in");
    assert_eq!(code(&chain, &policy(&third, &[alice(), bob()])), RefusalCode::Revoked);
    assert_eq!(code(&chain, &revocation(&chain, key(&bob()), &[alice()])), RefusalCode::Revoked);
    // A version signed before anybody knew does not bring the key back.
    let mut unaware = third;
    unaware.revoked.clear();
    chain.accept(&policy(&unaware, &[spare, bob()]), NOW).unwrap();
    assert!(chain.current().is_revoked(&alice().public()));
}

#[test]
fn the_key_itself_may_say_that_it_is_lost() {
    let mut chain = chain();
    let lost = revocation(&chain, key(&helpdesk()), &[helpdesk()]);
    assert!(matches!(chain.accept(&lost, NOW), Ok(Accepted::Revoked { .. })));
}

#[test]
fn nobody_can_revoke_the_last_who_could_change_the_policy() {
    let mut chain = chain();
    let all = revocation(&chain, key(&bob()), &[alice()]);
    assert_eq!(code(&chain, &all), RefusalCode::Threshold);
    // Nor can a next version that was signed before a revocation.
    let mut next = after(&chain);
    next.root.threshold = 1;
    chain.accept(&policy(&next, &[alice(), bob()]), NOW).unwrap();
    let mut back = after(&chain);
    back.root.threshold = 2;
    let taken = revocation(&chain, key(&bob()), &[alice()]);
    chain.accept(&taken, NOW).unwrap();
    assert!(chain.accept(&policy(&back, &[alice()]), NOW).is_err());
    assert_eq!(chain.current().document().root.threshold, 1);
}

#[test]
fn certificates_and_cas_are_revoked_in_each_way() {
    let ca = SecretKey::from_seed(&[0xca; 32]).public();
    let mut with_ca = first();
    let authority = Authority::new(ca.into(), vec!["carol".to_owned()]);
    with_ca.operators[2].keys.push(Credential::Authority(authority));
    let mut chain = Chain::new(Policy::decode(&with_ca.encode()).unwrap());
    let name = Fingerprint::of_key_blob(&crate::keys::KeyBytes::key_bytes(&ca));
    let id: protocol::text::SafeText = "carol@laptop".parse().unwrap();
    for what in [
        Revoked::Serial { ca: name, serial: 7 },
        Revoked::KeyId { ca: name, key_id: id.clone() },
        Revoked::Key { key: name },
    ] {
        let word = revocation(&chain, what, &[alice()]);
        assert!(matches!(chain.accept(&word, NOW), Ok(Accepted::Revoked { .. })));
    }
    let blob = crate::keys::KeyBytes::key_bytes(&ca).into_owned();
    let policy = chain.current();
    assert!(policy.is_revoked(&ca));
    for (serial, key_id, gone) in [(7, "x", true), (8, "carol@laptop", true), (8, "carol", false)] {
        assert_eq!(
            policy.is_certificate_revoked(&blob, serial, key_id.as_bytes()),
            gone,
            "{serial} {key_id}"
        );
    }
    assert!(!policy.is_certificate_revoked(b"another CA", 7, b"carol@laptop"));
    let next = after(&chain);
    for taken in chain.current().taken() {
        assert!(next.says(taken) && !with_ca.says(taken), "{taken}");
    }
    let elsewhere = alice().public().fingerprint();
    assert!(!next.says(&Revoked::Serial { ca: elsewhere, serial: 7 }), "of another CA");
    assert!(!next.says(&Revoked::Serial { ca: name, serial: 8 }));
    assert!(!next.says(&Revoked::KeyId { ca: elsewhere, key_id: id.clone() }));
    assert!(!next.says(&Revoked::KeyId { ca: name, key_id: "carol".parse().unwrap() }));
    let Credential::Authority(authority) = &next.operators[2].keys[1] else { panic!("the CA") };
    assert_eq!((authority.revoked_serials.as_slice(), authority.revoked_key_ids.len()), (&[7][..], 1));
    assert_eq!(next.revoked, [name]);
}

#[test]
fn words_of_another_chain_do_not_count_here() {
    let mut other = first();
    other.bounds.start = false;
    let other = Chain::new(Policy::decode(&other.encode()).unwrap());
    let mut chain = chain();
    assert_eq!(code(&chain, &revocation(&other, key(&helpdesk()), &[alice()])), RefusalCode::Chain);
    assert_eq!(code(&chain, &fresh(&other, NOW, &[alice()])), RefusalCode::Chain);
    let refusal = chain.clone().accept(&fresh(&other, NOW, &[alice()]), NOW).unwrap_err();
    assert!(refusal.why.contains("which is not of this host's chain"), "{refusal}");
    // Signed under a newer policy than this host has: it learns that it is behind.
    let mut ahead = chain.clone();
    ahead.accept(&policy(&after(&ahead.clone()), &[alice(), bob()]), NOW).unwrap();
    let refusal = chain.accept(&revocation(&ahead, key(&helpdesk()), &[alice()]), NOW).unwrap_err();
    assert!(refusal.why.contains("deliver the newer policy first"), "{refusal}");
}

#[test]
fn freshness_runs_out_and_comes_back() {
    let mut chain = chain();
    let issued = first().issued_at;
    assert_eq!(chain.fresh_at(), issued);
    let week = 7 * 24 * 3_600;
    assert!(!chain.is_stale(issued + week) && chain.is_stale(issued + week + 1));
    assert_eq!(chain.accept(&fresh(&chain.clone(), NOW, &[helpdesk()]), NOW).unwrap(), Accepted::Fresh(NOW));
    assert!(!chain.is_stale(NOW + week) && chain.is_stale(NOW + week + 1));
    assert_eq!(chain.fresh_at(), NOW);
    let ahead = fresh(&chain, NOW + AHEAD_S, &[alice()]);
    assert_eq!(
        chain.clone().accept(&ahead, NOW).unwrap(),
        Accepted::Fresh(NOW + AHEAD_S),
        "a day is allowed"
    );
    // Older ones change nothing, replays neither, and the far future is no way out.
    assert_eq!(chain.accept(&fresh(&chain.clone(), NOW - 5, &[alice()]), NOW).unwrap(), Accepted::Known);
    assert_eq!(chain.accept(&fresh(&chain.clone(), NOW, &[helpdesk()]), NOW).unwrap(), Accepted::Known);
    assert_eq!(AHEAD_S, 86_400, "a day");
    assert_eq!(code(&chain, &fresh(&chain, NOW + AHEAD_S + 1, &[alice()])), RefusalCode::TooEarly);
    assert_eq!(code(&chain, &fresh(&chain, NOW + 9, &[mallory()])), RefusalCode::UnknownSigner);
    // The word for an older policy says nothing about the newer one.
    let old = fresh(&chain, NOW + 60, &[alice()]);
    chain.accept(&policy(&after(&chain.clone()), &[alice(), bob()]), NOW).unwrap();
    assert_eq!(chain.accept(&old, NOW).unwrap(), Accepted::Known);
    let mut forever = first();
    forever.freshness_s = None;
    assert!(!Chain::new(Policy::decode(&forever.encode()).unwrap()).is_stale(u64::MAX));
}

/// A revocation is written into a draft once, and a person reads what it is about.
#[test]
fn what_is_taken_away_is_written_once() {
    let ca = SecretKey::from_seed(&[0xca; 32]).public();
    let mut document = first();
    let authority = Authority::new(ca.into(), vec!["carol".to_owned()]);
    document.operators[2].keys.push(Credential::Authority(authority));
    let ca = Fingerprint::of_key_blob(&crate::keys::KeyBytes::key_bytes(&ca));
    let alices = alice().public().fingerprint();
    for (what, says) in [
        (key(&alice()), format!("key {alices}")),
        (Revoked::Serial { ca, serial: 7 }, format!("certificate 7 of CA {ca}")),
        (Revoked::KeyId { ca, key_id: "c".parse().unwrap() }, format!("certificates \"c\" of CA {ca}")),
    ] {
        assert_eq!(what.to_string(), says);
        assert!(document.take_away(&what), "{what}");
        let once = document.clone();
        assert!(!document.take_away(&what), "{what} again");
        assert_eq!(document, once);
    }
    let before = document.clone();
    assert!(!document.take_away(&Revoked::Serial { ca: alices, serial: 7 }), "no CA of that name");
    assert_eq!(document, before);
    // 2^53 is a number still, wherever it stands (V19).
    let policy = PolicyRef { version: MAX_INTEGER, sha256: Sha256::of(b"") };
    let revoke = Revoked::Serial { ca, serial: MAX_INTEGER };
    let reason = "x".parse().unwrap();
    let word = Revocation { v: 1, revoke, policy: policy.clone(), issued_at: MAX_INTEGER, reason };
    assert!(Word::decode(&word.encode()).is_ok());
    for spoil in [
        (|w| {
            if let Revoked::Serial { serial, .. } = &mut w.revoke {
                *serial += 1;
            }
        }) as fn(&mut Revocation),
        |w| w.policy.version += 1,
        |w| w.issued_at += 1,
    ] {
        let mut bad = word.clone();
        spoil(&mut bad);
        assert!(Word::decode(&bad.encode()).is_err(), "{bad:?}");
    }
}

/// Only what a known operator signed belongs in the log, with the names of who did.
#[test]
fn a_refusal_says_whose_valid_signatures_it_carries() {
    let mut other = first();
    other.bounds.start = false;
    let other = Chain::new(Policy::decode(&other.encode()).unwrap());
    let chain = chain();
    let refusal = |envelope: &Envelope| chain.clone().accept(envelope, NOW).expect_err("must be refused");
    let alices = vec![Signer { operator: "alice".parse().unwrap(), key: alice().public().fingerprint() }];

    let foreign = refusal(&fresh(&other, NOW, &[alice()]));
    assert_eq!((foreign.code, foreign.authenticated), (RefusalCode::Chain, true));
    assert_eq!(foreign.signers, alices);
    // One signature by nobody is enough to refuse the words that a single one is good for.
    for word in [
        fresh(&chain, NOW, &[alice(), mallory()]),
        fresh(&chain, NOW, &[mallory(), alice()]),
        revocation(&chain, key(&helpdesk()), &[alice(), mallory()]),
    ] {
        let stranger = refusal(&word);
        assert_eq!((stranger.code, stranger.authenticated), (RefusalCode::UnknownSigner, true));
        assert_eq!(stranger.signers, alices);
    }
    let nobodys = refusal(&fresh(&chain, NOW, &[mallory()]));
    assert_eq!((nobodys.authenticated, nobodys.signers), (false, vec![]));
}

#[test]
fn the_last_revocation_that_there_is_room_for() {
    let mut chain = chain();
    let gone = |n: usize| Revoked::Key { key: Fingerprint::of_key_blob(&n.to_be_bytes()) };
    let taken: Vec<Revoked> = (1..MAX_REVOCATIONS).map(gone).collect();
    chain.current = chain.current.clone().without(&taken);
    let last = revocation(&chain, gone(MAX_REVOCATIONS), &[alice()]);
    assert!(matches!(chain.accept(&last, NOW), Ok(Accepted::Revoked { .. })));
    assert_eq!(chain.current().taken().len(), MAX_REVOCATIONS);
    let more = revocation(&chain, gone(0), &[alice()]);
    assert_eq!(code(&chain, &more), RefusalCode::Size);
    assert_eq!(chain.accept(&last, NOW).unwrap(), Accepted::Known, "again takes no room");
    // The remedy that the refusal names is one: what the next version says itself takes no room beside it.
    let next = after(&chain);
    assert_eq!(next.revoked.len(), MAX_REVOCATIONS);
    chain.accept(&policy(&next, &[alice(), bob()]), NOW).unwrap();
    let more = revocation(&chain, gone(0), &[alice()]);
    assert!(matches!(chain.accept(&more, NOW), Ok(Accepted::Revoked { .. })));
    // And what was revoked stays so, also when a later version forgets it: then it takes room again.
    let mut forgetful = after(&chain);
    forgetful.revoked.clear();
    chain.accept(&policy(&forgetful, &[alice(), bob()]), NOW).unwrap();
    for n in [0, 1, MAX_REVOCATIONS] {
        let Revoked::Key { key } = gone(n) else { unreachable!("keys") };
        assert!(chain.current().has_revoked(&key), "{n}");
    }
    let full = revocation(&chain, gone(MAX_REVOCATIONS + 1), &[alice()]);
    assert_eq!(code(&chain, &full), RefusalCode::Size);
}

/// None of the documents can be taken for another one, and none has a second spelling.
#[test]
fn hostile_words() {
    let chain = chain();
    let good = [
        String::from_utf8(after(&chain).encode()).unwrap(),
        String::from_utf8(revocation(&chain, key(&bob()), &[]).payload.0).unwrap(),
        String::from_utf8(fresh(&chain, NOW, &[]).payload.0).unwrap(),
    ];
    for text in &good {
        assert!(Word::decode(text.as_bytes()).is_ok(), "{text}");
        let mut bad = vec![
            text.replacen("\"v\":1", "\"v\":2", 1),
            text.replacen("\"v\":1", "\"v\":1,\"v\":1", 1),
            text.replacen("\"v\":1,", "\"v\":1,\"revoke\":null,", 1),
            text.replacen("\"v\":1,", "\"v\":1,\"fresh\":{},", 1),
            text.replacen("\"v\":1,", "\"v\":1,\"x\":1,", 1),
            text.replacen("\"issued_at\":1763770000", "\"issued_at\":1.763770000e9", 1),
            text.replacen("\"issued_at\":1763770000", "\"issued_at\":9007199254740993", 1),
            text.replacen("\"issued_at\":1763770000", "\"issued_at\":-1", 1),
            format!("{text}{text}"),
            format!(" {text}"),
            text.trim_end().to_owned(),
            format!("\u{feff}{text}"),
        ];
        bad.extend((0..text.len()).step_by(11).map(|cut| text[..cut].to_owned()));
        for bad in bad {
            assert!(Word::decode(bad.as_bytes()).is_err(), "{bad}");
            let chain = self::chain();
            let envelope = signed(bad.into_bytes(), &[alice(), bob()]);
            assert_eq!(code(&chain, &envelope), RefusalCode::BadOrder);
        }
    }
    for deep in ["[".repeat(60_000), "{\"revoke\":".repeat(5_000)] {
        assert!(Word::decode(deep.as_bytes()).is_err());
    }
    let bidi = good[1].replace("laptop stolen", "laptop \u{202e}stolen");
    assert!(Word::decode(bidi.as_bytes()).is_err());
}
