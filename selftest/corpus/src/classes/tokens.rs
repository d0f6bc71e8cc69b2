//! Security keys: V12.

use authz::RefusalCode::{BadSignature, KeyType, Malformed, Presence};
use authz::policy::{Credential, VerifiedKey};

use crate::base::{Class, Desk, class};
use crate::forge::{INNER, KEY, Key, strings};

/// The same key with other flags, application or counter.
fn touched(key: &Key, change: impl Fn(&mut crate::forge::Touch)) -> Key {
    let mut other = key.clone();
    if let Key::SkEd25519(_, touch) | Key::SkP256(_, touch) = &mut other {
        change(touch);
    }
    other
}

pub(super) fn classes() -> Vec<Class> {
    let names = [
        "no-touch",
        "no-pin",
        "extra-flags",
        "flag-flipped",
        "foreign-application",
        "counter-back",
        "webauthn",
        "no-trailer",
        "trailer-twice",
        "sk-under-plain",
        "plain-under-sk",
    ];
    let mut all: Vec<Class> = names.iter().map(|name| class(&format!("sk-{name}"), vec![])).collect();
    for key in [Key::sk_ed25519(1), Key::sk_p256(1)] {
        let desk = Desk::of(&key);
        let payload = desk.payload();
        let good = key.parts(&payload);
        let (name, numbers, after) = good.inner();
        let flagged = |desk: &Desk, flags: u8| {
            desk.one(touched(&key, |touch| touch.flags = flags).sign(&desk.payload()))
        };
        let inner = |bytes: Vec<u8>| desk.one(good.with(INNER, &bytes).armor());
        let core = strings(&[&name, &numbers]);
        let mut put = |place: usize, case| all[place].cases.push(case);

        put(0, flagged(&desk, 0).refuse(Presence, "V12", "nobody touched it"));
        put(0, flagged(&desk, 4).refuse(Presence, "V12", "a PIN and no touch"));
        let pin = Credential::Verified(VerifiedKey { key: key.operator_key(), verify_required: true });
        let strict = Desk::with(pin);
        put(1, flagged(&strict, 1).refuse(Presence, "V12", "a touch, and the policy wants a PIN"));
        put(1, flagged(&strict, 0).refuse(Presence, "V12", "neither touch nor PIN"));
        put(1, flagged(&strict, 5).accept("V12", "touch and PIN, as the policy wants"));
        for flags in [0x41, 0x81, 0x03, 0xff] {
            put(2, flagged(&desk, flags).refuse(Presence, "V12", "flags that no SSH signature has"));
        }
        let untouched = touched(&key, |touch| touch.flags = 0).parts(&payload).inner();
        let lie = [strings(&[&untouched.0, &untouched.1]), [&[1], &untouched.2[1..]].concat()].concat();
        put(3, inner(lie).refuse(BadSignature, "V12", "signed without a touch, and touch written in"));
        put(
            3,
            inner([core.clone(), vec![5], after[1..].to_vec()].concat()).refuse(
                BadSignature,
                "V12",
                "a PIN written in",
            ),
        );
        put(
            3,
            inner([core.clone(), vec![1], 8u32.to_be_bytes().to_vec()].concat()).refuse(
                BadSignature,
                "V12",
                "the counter changed",
            ),
        );
        for application in [b"https://login.example".as_slice(), b"ssh", b"SSH:", b""] {
            let other = touched(&key, |touch| touch.application = application.to_vec());
            put(4, desk.one(other.sign(&payload)).refuse(KeyType, "V12", "a key made for something else"));
        }
        let work = touched(&key, |touch| touch.application = b"ssh:work".to_vec());
        let parts = work.parts(&payload).with(KEY, &key.blob());
        put(4, desk.one(parts.armor()).refuse(BadSignature, "V12", "the same key, signed for ssh:work"));
        for counter in [0, 1, 6, u32::MAX] {
            let other = touched(&key, |touch| touch.counter = counter);
            put(
                5,
                desk.one(other.sign(&payload))
                    .accept("V12", "a counter says nothing that could be relied on"),
            );
        }
        let web = b"webauthn-sk-ecdsa-sha2-nistp256@openssh.com";
        let client = br#"{"type":"webauthn.get","challenge":"","origin":"https://example.org"}"#;
        let tail = [after.clone(), strings(&[b"https://example.org", client, b""])].concat();
        let named = [strings(&[web, &numbers]), tail.clone()].concat();
        put(6, inner(named.clone()).refuse(Malformed, "V9", "what a browser makes"));
        let blob = [strings(&[web]), key.public_fields()].concat();
        put(
            6,
            desk.one(good.with(KEY, &blob).with(INNER, &named).armor()).refuse(
                KeyType,
                "V8",
                "what a browser makes, the key named so too",
            ),
        );
        put(6, inner([core.clone(), tail].concat()).refuse(Malformed, "V6", "a browser's trailer"));
        put(7, inner(core.clone()).refuse(Malformed, "V6", "no flags and no counter"));
        put(7, inner([core.clone(), vec![1]].concat()).refuse(Malformed, "V6", "no counter"));
        put(7, inner([core.clone(), after[..4].to_vec()].concat()).refuse(Malformed, "V6", "half a counter"));
        put(8, inner([core.clone(), after.clone(), after.clone()].concat()).refuse(Malformed, "V6", "twice"));
        put(
            8,
            inner([core.clone(), after.clone(), vec![0]].concat()).refuse(Malformed, "V6", "and a byte more"),
        );
        let plain = if name.starts_with(b"sk-ssh") { Key::ed25519() } else { Key::p256() };
        let plain_desk = Desk::of(&plain);
        let under = |inner: &[u8]| plain_desk.one(plain.parts(&payload).with(INNER, inner).armor());
        put(
            9,
            under(&good.fields[INNER]).refuse(
                Malformed,
                "V9",
                "a security key's signature under a plain key",
            ),
        );
        let renamed = [strings(&[plain.name().as_bytes(), &numbers]), after.clone()].concat();
        put(9, under(&renamed).refuse(Malformed, "V6", "the same, named as the plain key"));
        let plain_inner = plain.parts(&payload).fields[INNER].clone();
        put(10, inner(plain_inner.clone()).refuse(Malformed, "V9", "a plain signature under a security key"));
        let mut rest = plain_inner.as_slice();
        crate::forge::take(&mut rest);
        let plain_numbers = crate::forge::take(&mut rest);
        put(
            10,
            inner([strings(&[&name, &plain_numbers]), after.clone()].concat()).refuse(
                BadSignature,
                "V12",
                "the same, named and flagged as the security key's",
            ),
        );
    }
    all
}
