//! Signatures made wrong on purpose: the verdict of both, for each.

use authz::policy::{Credential, VerifiedKey};
use authz::{KeyError, OperatorKey, RefusalCode};
use data_encoding::BASE64;
use sha2::{Digest as _, Sha512};

use crate::PLAIN;
use crate::desk::{Desk, Table, Tally, order, policy};
use crate::forge::{Parts, Token, add, mpint, strings, subtract, take, tbs};

#[tokio::test]
async fn crafted_signatures() {
    use RefusalCode::{KeyType, Malformed, Presence, UnknownSigner};
    const BAD: RefusalCode = RefusalCode::BadSignature;
    let (desk, order) = (Desk::new(), order());
    for (name, options) in PLAIN {
        desk.new_key(name, options).await;
    }
    for (name, options) in [("rsa2048", &["-t", "rsa", "-b", "2048"][..]), ("dsa", &["-t", "dsa"])] {
        desk.new_key(name, options).await;
    }
    let mut table = Table { desk, order: order.clone(), tally: Tally::default(), rows: 0 };

    // The order of each curve.
    let n256 = "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551";
    let n384 =
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973";
    let n521 = concat!(
        "01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
        "FA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409"
    );
    for (name, n, bits) in [("ecdsa256", n256, "256"), ("ecdsa384", n384, "384"), ("ecdsa521", n521, "521")] {
        let n = data_encoding::HEXUPPER.decode(n.as_bytes()).unwrap();
        let (line, key) = (table.desk.line(name), table.desk.key(name));
        let plain = policy(key.clone().into());
        let good = Parts::of(&table.desk.sign(name, &[], &[], &order).await);
        let mut rest = good.inner.as_slice();
        take(&mut rest);
        let numbers = take(&mut rest);
        let mut rest = numbers.as_slice();
        let (r, s) = (take(&mut rest), take(&mut rest));
        let with = |r: &[u8], s: &[u8]| good.with_inner(|_, signature| *signature = strings(&[r, s])).armor();
        let zeros = |number: &[u8]| [&[0], number].concat();
        let high = mpint(&subtract(&n, &s));
        let plus = mpint(&add(&n, &s));
        let half: &[u8] = if s[0] == 0 { &s[1..] } else { &s };
        for (what, sig, expected) in [
            ("as made", good.armor(), (None, true)),
            ("n - s, the other valid one", with(&r, &high), (None, true)),
            ("r and s changed places", with(&s, &r), (Some(BAD), false)),
            ("s + n", with(&r, &plus), (Some(Malformed), false)),
            ("s = n", with(&r, &mpint(&n)), (Some(Malformed), false)),
            ("r = n", with(&mpint(&n), &s), (Some(Malformed), false)),
            ("r = 0", with(b"", &s), (Some(Malformed), false)),
            ("s = 0", with(&r, b""), (Some(Malformed), false)),
            ("r = s = 0", with(b"", b""), (Some(Malformed), false)),
            ("r spelled 0", with(&[0], &s), (Some(Malformed), false)),
            ("r = s = 1", with(&[1], &[1]), (Some(BAD), false)),
            ("r with a zero in front", with(&zeros(&zeros(&r)), &s), (Some(Malformed), true)),
            ("s with zeros in front", with(&r, &zeros(&zeros(&s))), (Some(Malformed), true)),
            ("r negative", with(&[&[0x80], &r[1..]].concat(), &s), (Some(Malformed), false)),
            ("s cut", with(&r, &half[..half.len() - 1]), (Some(BAD), false)),
        ] {
            // A number may begin with 0x80 or more once its last byte is gone.
            if what == "s cut" && half[0] >= 0x80 {
                continue;
            }
            table.row(&format!("{name}: {what}"), &line, &plain, &sig, expected).await;
        }
        let trailing = good.with_inner(|_, signature| signature.push(0)).armor();
        table.row("trailing in the numbers", &line, &plain, &trailing, (Some(Malformed), false)).await;
        let mut after = good.clone();
        after.inner.push(0);
        table.row("trailing after", &line, &plain, &after.armor(), (Some(Malformed), false)).await;
        for other in
            ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
                .into_iter()
                .filter(|other| !other.ends_with(bits))
        {
            let sig = good.with_inner(|name, _| *name = other.as_bytes().to_vec()).armor();
            table.row(&format!("{name} named {other}"), &line, &plain, &sig, (Some(Malformed), false)).await;
        }
        // The same point compressed, off the curve, on a curve of another name, and as infinity.
        let mut rest = key.blob();
        let (kind, curve, point) = (take(&mut rest), take(&mut rest), take(&mut rest));
        let half = (point.len() - 1) / 2;
        let compressed = [&[2 + (point[2 * half] & 1)], &point[1..=half]].concat();
        let mut off = point.clone();
        off[2 * half] ^= 1;
        let hybrid = [&[6 + (point[2 * half] & 1)], &point[1..]].concat();
        for (what, blob, code) in [
            ("compressed", strings(&[&kind, &curve, &compressed]), Malformed),
            ("hybrid", strings(&[&kind, &curve, &hybrid]), Malformed),
            ("infinity", strings(&[&kind, &curve, &[0]]), Malformed),
            ("off the curve", strings(&[&kind, &curve, &off]), UnknownSigner),
            ("curve renamed", strings(&[&kind, b"nistp999", &point]), Malformed),
        ] {
            assert!(OperatorKey::from_blob(blob.clone()).is_err(), "{name}: no policy lists it: {what}");
            let sig = Parts { key: blob, ..good.clone() }.armor();
            table.row(&format!("{name}: {what}"), &line, &plain, &sig, (Some(code), false)).await;
        }
    }

    for name in ["rsa3072", "rsa4096"] {
        let (line, key) = (table.desk.line(name), table.desk.key(name));
        let plain = policy(key.clone().into());
        let good = Parts::of(&table.desk.sign(name, &[], &[], &order).await);
        let named = |other: &str| good.with_inner(|name, _| *name = other.as_bytes().to_vec()).armor();
        let mut rest = key.blob();
        let (kind, e, n) = (take(&mut rest), take(&mut rest), take(&mut rest));
        let key = |e: &[u8], n: &[u8]| Parts { key: strings(&[&kind, e, n]), ..good.clone() }.armor();
        for (what, sig, expected) in [
            ("as made", good.armor(), (None, true)),
            ("SHA-512 called SHA-256", named("rsa-sha2-256"), (Some(BAD), false)),
            ("called SHA-1", named("ssh-rsa"), (Some(Malformed), false)),
            ("called Ed25519", named("ssh-ed25519"), (Some(Malformed), false)),
            ("zero in front", good.with_inner(|_, s| s.insert(0, 0)).armor(), (Some(Malformed), false)),
            (
                "one byte short",
                good.with_inner(|_, s| s.truncate(s.len() - 1)).armor(),
                (Some(Malformed), false),
            ),
            ("empty", good.with_inner(|_, s| s.clear()).armor(), (Some(Malformed), false)),
            ("all zeros", good.with_inner(|_, s| s.fill(0)).armor(), (Some(BAD), false)),
            ("all ones", good.with_inner(|_, s| s.fill(0xff)).armor(), (Some(BAD), false)),
            ("modulus with zeros in front", key(&e, &[&[0], n.as_slice()].concat()), (Some(Malformed), true)),
            (
                "exponent with zeros in front",
                key(&[&[0, 0], e.as_slice()].concat(), &n),
                (Some(Malformed), true),
            ),
            ("exponent 1", key(&[1], &n), (Some(KeyType), false)),
            ("exponent 3", key(&[3], &n), (Some(KeyType), false)),
            ("even exponent", key(&[1, 0, 2], &n), (Some(KeyType), false)),
            ("exponent of 2^33 and more", key(&[2, 0, 0, 0, 1], &n), (Some(KeyType), false)),
            ("modulus and exponent swapped", key(&n, &e), (Some(KeyType), false)),
        ] {
            table.row(&format!("{name}: {what}"), &line, &plain, &sig, expected).await;
        }
    }
    // Exponent 1: the padded hash is its own signature, made without a private key.
    let mut rest = table.desk.key("rsa3072").blob().to_vec();
    let n = {
        let mut rest = rest.as_slice();
        (take(&mut rest), take(&mut rest), take(&mut rest)).2
    };
    rest.clear();
    let weak = strings(&[b"ssh-rsa", &[1], &n]);
    let digest = Sha512::digest(tbs("sha512", &order));
    let info = [0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 0x40];
    let mut padded = vec![0, 1];
    padded.resize(384 - 1 - info.len() - digest.len(), 0xff);
    padded.push(0);
    padded.extend_from_slice(&info);
    padded.extend_from_slice(&digest);
    let forged = Parts {
        key: weak.clone(),
        inner: strings(&[b"rsa-sha2-512", &padded]),
        ..Parts::of(&table.desk.sign("rsa3072", &[], &[], &order).await)
    };
    let line = format!("ssh-rsa {}", BASE64.encode(&weak));
    assert!(matches!(OperatorKey::from_line(&line), Err(KeyError::Refused(_))));
    let anybody = policy(table.desk.key("ed25519").into());
    table.row("rsa: forged for exponent 1", &line, &anybody, &forged.armor(), (Some(KeyType), true)).await;

    for name in ["rsa2048", "dsa"] {
        let line = table.desk.line(name);
        let refused = OperatorKey::from_line(&line).unwrap_err();
        assert!(matches!(refused, KeyError::Refused(_) | KeyError::NeverAccepted(_)), "{name}: {refused}");
        let sig = table.desk.sign(name, &[], &[], &order).await;
        table.row(name, &line, &anybody, sig.as_bytes(), (Some(KeyType), true)).await;
    }

    for token in [Token::ed25519(), Token::p256()] {
        let (name, line) = (token.name(), token.line("ssh:"));
        let key = OperatorKey::from_line(&line).unwrap();
        let plain = policy(key.clone().into());
        let verified = VerifiedKey { key, verify_required: true };
        let verified = policy(Credential::Verified(verified));
        let sign = |flags| token.sign(token.blob("ssh:"), "ssh:", "sha512", flags, &order);
        for (what, flags, plain_says, verified_says) in [
            ("nothing", 0x00, Some(Presence), Some(Presence)),
            ("touch", 0x01, None, Some(Presence)),
            ("PIN without touch", 0x04, Some(Presence), Some(Presence)),
            ("touch and PIN", 0x05, None, None),
            ("attested data", 0x41, Some(Presence), Some(Presence)),
            ("extension data", 0x81, Some(Presence), Some(Presence)),
            ("a reserved bit", 0x03, Some(Presence), Some(Presence)),
            ("all", 0xff, Some(Presence), Some(Presence)),
        ] {
            let sig = sign(flags).armor();
            table.row(&format!("{name}: {what}"), &line, &plain, &sig, (plain_says, true)).await;
            table.row(&format!("{name}: {what}, PIN"), &line, &verified, &sig, (verified_says, true)).await;
        }
        if let Token::P256(_) = token {
            let sig = token.webauthn(&order).armor();
            table.row("made by a browser", &line, &plain, &sig, (Some(Malformed), true)).await;
        }
        let mut lifted = sign(0);
        let at = lifted.inner.len() - 5;
        lifted.inner[at] = 1;
        table.row("flags are signed", &line, &plain, &lifted.armor(), (Some(BAD), false)).await;
        let mut counted = sign(1);
        *counted.inner.last_mut().unwrap() ^= 1;
        table.row("the counter is signed", &line, &plain, &counted.armor(), (Some(BAD), false)).await;
        let mut short = sign(1);
        short.inner.pop();
        table.row("counter cut", &line, &plain, &short.armor(), (Some(Malformed), false)).await;
        let mut long = sign(1);
        long.inner.push(0);
        table.row("bytes after the counter", &line, &plain, &long.armor(), (Some(Malformed), false)).await;
        let other = token.sign(token.blob("ssh:other"), "ssh:other", "sha512", 1, &order).armor();
        table.row("another application", &line, &plain, &other, (Some(UnknownSigner), false)).await;
        let evil = token.sign(token.blob("https://evil"), "https://evil", "sha512", 1, &order).armor();
        let evil_line = token.line("https://evil");
        assert!(matches!(OperatorKey::from_line(&evil_line), Err(KeyError::Refused(_))));
        table.row("an application of the web", &evil_line, &plain, &evil, (Some(KeyType), true)).await;
    }

    // What every type shares.
    let good = Parts::of(&table.desk.sign("ecdsa384", &[], &[], &order).await);
    let (line, plain) = (table.desk.line("ecdsa384"), policy(table.desk.key("ecdsa384").into()));
    for (what, parts, expected) in [
        ("version 0", Parts { version: 0, ..good.clone() }, (Some(Malformed), true)),
        ("version 2", Parts { version: 2, ..good.clone() }, (Some(Malformed), false)),
        ("reserved in use", Parts { reserved: b"x".to_vec(), ..good.clone() }, (Some(Malformed), true)),
        ("hash renamed", Parts { hash: b"sha256".to_vec(), ..good.clone() }, (Some(BAD), false)),
        ("hash unknown", Parts { hash: b"sha384".to_vec(), ..good.clone() }, (Some(Malformed), false)),
    ] {
        table.row(what, &line, &plain, &parts.armor(), expected).await;
    }
    let text = [good.armor().as_slice(), b"hello\n"].concat();
    table.row("text after the armor", &line, &plain, &text, (Some(Malformed), true)).await;
    println!("{} crafted signatures; by ssh-keygen alone: {:?}", table.rows, table.tally.only_theirs);
}
