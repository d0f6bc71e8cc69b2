//! Certificates made by the tool, as usual and as they must not be.

use authz::policy::{Authority, Credential};
use authz::{Policy, RefusalCode};

use crate::desk::{Desk, Expected, Table, Tally, order, policy};
use crate::forge::{Parts, Token, blob_of};

/// Rule V15 against what `ssh-keygen` certifies and accepts.
#[tokio::test]
async fn certificates() {
    use RefusalCode::{BadSignature, Certificate, Presence, Revoked, UnknownSigner};
    let (desk, order) = (Desk::new(), order());
    for (name, options) in [
        ("ca", &["-t", "ed25519"][..]),
        ("other", &["-t", "ed25519"]),
        ("ca-rsa", &["-t", "rsa", "-b", "3072"]),
        ("ca-rsa2048", &["-t", "rsa", "-b", "2048"]),
        ("ca-ec", &["-t", "ecdsa", "-b", "521"]),
        ("alice", &["-t", "ecdsa", "-b", "256"]),
    ] {
        desk.new_key(name, options).await;
    }
    let mut table = Table { desk, order: order.clone(), tally: Tally::default(), rows: 0 };
    let authority = |desk: &Desk, ca: &str| Authority::new(desk.key(ca), vec!["alice".to_owned()]);
    let window = ["-n", "alice", "-V", "+8h"];
    let many: String = (0..16).map(|n| format!("p{n},")).collect::<String>() + "alice";
    let cases: [(&str, &str, &[&str], Expected); 22] = [
        ("as usual", "ca", &["-n", "alice", "-V", "+8h"], (None, true)),
        ("several principals", "ca", &["-n", "bob,alice", "-V", "+8h"], (None, true)),
        ("an extension", "ca", &["-n", "alice", "-V", "+8h", "-O", "extension:a@b=c"], (None, true)),
        ("RSA CA", "ca-rsa", &["-n", "alice", "-V", "+8h"], (None, true)),
        ("RSA CA, SHA-256", "ca-rsa", &["-n", "alice", "-V", "+8h", "-t", "rsa-sha2-256"], (None, true)),
        ("ECDSA CA", "ca-ec", &["-n", "alice", "-V", "+8h"], (None, true)),
        (
            "RSA CA, SHA-1",
            "ca-rsa",
            &["-n", "alice", "-V", "+8h", "-t", "ssh-rsa"],
            (Some(Certificate), true),
        ),
        ("other CA", "other", &window, (Some(UnknownSigner), false)),
        ("for a host", "ca", &["-h", "-n", "alice", "-V", "+8h"], (Some(Certificate), false)),
        ("nobody", "ca", &["-V", "+8h"], (Some(Certificate), false)),
        ("somebody else", "ca", &["-n", "bob", "-V", "+8h"], (Some(UnknownSigner), false)),
        ("a longer name", "ca", &["-n", "alice2", "-V", "+8h"], (Some(UnknownSigner), false)),
        ("another case", "ca", &["-n", "Alice", "-V", "+8h"], (Some(UnknownSigner), false)),
        ("a wildcard", "ca", &["-n", "alice,*", "-V", "+8h"], (Some(Certificate), true)),
        ("17 principals", "ca", &["-n", &many, "-V", "+8h"], (Some(Certificate), true)),
        ("17 hours", "ca", &["-n", "alice", "-V", "+17h"], (Some(Certificate), true)),
        ("for ever", "ca", &["-n", "alice"], (Some(Certificate), true)),
        ("expired", "ca", &["-n", "alice", "-V", "-2h:-1h"], (Some(Certificate), false)),
        ("not yet", "ca", &["-n", "alice", "-V", "+1h:+2h"], (Some(Certificate), false)),
        (
            "force-command",
            "ca",
            &["-n", "alice", "-V", "+8h", "-O", "force-command=true"],
            (Some(Certificate), true),
        ),
        (
            "an unknown critical option",
            "ca",
            &["-n", "alice", "-V", "+8h", "-O", "critical:a@b=c"],
            (Some(Certificate), true),
        ),
        (
            "verify-required of no security key",
            "ca",
            &["-n", "alice", "-V", "+8h", "-O", "verify-required"],
            (Some(Certificate), true),
        ),
    ];
    for (what, ca, options, expected) in cases {
        let listed = if ca == "other" { "ca" } else { ca };
        table.desk.certify(ca, "alice", options).await;
        let sig = table.desk.sign("alice-cert.pub", &[], &[], &order).await;
        let line = format!("cert-authority {}", table.desk.line(listed));
        let by_ca = policy(Credential::Authority(authority(&table.desk, listed)));
        table.row(what, &line, &by_ca, sig.as_bytes(), expected).await;
    }
    // A CA whose key is too weak, which no policy can list.
    table.desk.certify("ca-rsa2048", "alice", &window).await;
    let sig = table.desk.sign("alice-cert.pub", &[], &[], &order).await;
    let line = format!("cert-authority {}", table.desk.line("ca-rsa2048"));
    let by_ca = policy(Credential::Authority(authority(&table.desk, "ca")));
    table.row("RSA-2048 CA", &line, &by_ca, sig.as_bytes(), (Some(RefusalCode::KeyType), true)).await;

    // The policy's own window, revocation of each thing (V16), and PIN.
    let line = format!("cert-authority {}", table.desk.line("ca"));
    table.desk.certify("ca", "alice", &["-n", "alice", "-V", "+8h", "-z", "7"]).await;
    let sig = table.desk.sign("alice-cert.pub", &[], &[], &order).await;
    let base = authority(&table.desk, "ca");
    let hour = Authority { max_validity_s: 3_600, ..base.clone() };
    let week = Authority { max_validity_s: 7 * 24 * 3_600, ..base.clone() };
    let serial = Authority { revoked_serials: vec![6, 7], ..base.clone() };
    let key_id = Authority { revoked_key_ids: vec!["the id".to_owned()], ..base.clone() };
    let others = Authority { revoked_serials: vec![8], revoked_key_ids: vec!["the".into()], ..base.clone() };
    let pin = Authority { verify_required: true, ..base.clone() };
    for (what, authority, code) in [
        ("a window of an hour", hour, Some(Certificate)),
        ("serial revoked", serial, Some(Revoked)),
        ("key id revoked", key_id, Some(Revoked)),
        ("others revoked", others, None),
        ("PIN of no security key", pin.clone(), Some(Presence)),
    ] {
        let policy = policy(Credential::Authority(authority));
        table.row(what, &line, &policy, sig.as_bytes(), (code, true)).await;
    }
    for (what, name) in [("CA revoked", "ca"), ("certified key revoked", "alice")] {
        let mut document = by_ca.document().clone();
        document.revoked.push(table.desk.key(name).fingerprint());
        let policy = Policy::decode(&document.encode()).unwrap();
        table.row(what, &line, &policy, sig.as_bytes(), (Some(Revoked), true)).await;
    }
    table.desk.certify("ca", "alice", &["-n", "alice", "-V", "+100h"]).await;
    let sig = table.desk.sign("alice-cert.pub", &[], &[], &order).await;
    let by_week = policy(Credential::Authority(week));
    table.row("a policy of a week", &line, &by_week, sig.as_bytes(), (None, true)).await;

    // Another key with this certificate, and the certificate with another byte.
    table.desk.certify("ca", "alice", &window).await;
    let good = Parts::of(&table.desk.sign("alice-cert.pub", &[], &[], &order).await);
    let mut forged = good.clone();
    let at = forged.key.windows(6).position(|bytes| bytes == b"the id").unwrap();
    forged.key[at] ^= 1;
    table.row("a changed certificate", &line, &by_ca, &forged.armor(), (Some(Certificate), false)).await;
    let plain = Parts::of(&table.desk.sign("other", &[], &[], &order).await);
    let swapped = Parts { inner: plain.inner, ..good };
    table
        .row(
            "another key's signature",
            &line,
            &by_ca,
            &swapped.armor(),
            (Some(RefusalCode::Malformed), false),
        )
        .await;

    // Security keys: what the certificate demands, and what the policy demands.
    for token in [Token::ed25519(), Token::p256()] {
        std::fs::write(table.desk.at("sk.pub"), token.line("ssh:")).unwrap();
        for (demands, options) in
            [(false, &window[..]), (true, &["-n", "alice", "-V", "+8h", "-O", "verify-required"])]
        {
            table.desk.certify("ca", "sk", options).await;
            let cert = blob_of(&table.desk.line("sk-cert"));
            for flags in [0u8, 1, 5] {
                let sig = token.sign(cert.clone(), "ssh:", "sha512", flags, &order);
                for authority in [&base, &pin] {
                    let enough = flags & 1 == 1 && (flags == 5 || !(demands || authority.verify_required));
                    let policy = policy(Credential::Authority(authority.clone()));
                    let expected = if enough { (None, true) } else { (Some(Presence), true) };
                    let what = format!("{} cert, flags {flags}, demands {demands}", token.name());
                    table.row(&what, &line, &policy, &sig.armor(), expected).await;
                }
            }
            let other = token.sign(cert, "ssh:", "sha512", 1, b"other");
            table.row("other bytes", &line, &by_ca, &other.armor(), (Some(BadSignature), false)).await;
        }
    }
    println!("{} certificates; by ssh-keygen alone: {:?}", table.rows, table.tally.only_theirs);
}
