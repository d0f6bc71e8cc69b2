use super::*;
use crate::policy::tests::{alice, bob, document, helpdesk, mallory};
use crate::policy::words::Revoked;
use crate::policy::{Authority, Credential, Policy, PolicyDocument};
use crate::secret::SecretKey;
use crate::wire::put_string;
use protocol::{Fingerprint, Sha256};

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, bytes);
    out
}

fn strings(all: &[&[u8]]) -> Vec<u8> {
    all.iter().flat_map(|one| string(one)).collect()
}

fn tagged(kind: u8, data: &[u8]) -> Vec<u8> {
    [&[kind][..], &string(data)].concat()
}

fn numbers(all: &[u64]) -> Vec<u8> {
    all.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn head(version: u64, date: u64, comment: &str) -> Vec<u8> {
    let head = [b"SSHKRL\n\0", &1u32.to_be_bytes()[..], &numbers(&[version, date, 0])].concat();
    [head, string(b""), string(comment.as_bytes())].concat()
}

fn file(sections: &[Vec<u8>]) -> Vec<u8> {
    [head(7, 1_763_000_000, "by hand"), sections.concat()].concat()
}

fn certificates_of(ca: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(1, &[strings(&[ca, b""]), parts.concat()].concat())
}

fn extension(name: &str, critical: u8) -> Vec<u8> {
    [string(name.as_bytes()), vec![critical], string(b"contents")].concat()
}

fn blob(key: &SecretKey) -> Vec<u8> {
    key.public().to_wire().blob()
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec()
}

fn hashes(mut all: Vec<Vec<u8>>) -> Vec<u8> {
    all.sort();
    all.iter().flat_map(|hash| string(hash)).collect()
}

fn ca() -> SecretKey {
    SecretKey::from_seed(&[0xca; 32])
}

/// The shared policy, with a CA that vouches for alice and for bob.
fn with_ca() -> PolicyDocument {
    let mut document = document();
    for (place, name) in [(0, "alice"), (1, "bob")] {
        let authority = Authority::new(ca().public().into(), vec![name.to_owned()]);
        document.operators[place].keys.push(Credential::Authority(authority));
    }
    document
}

/// One of everything, in the order in which `ssh-keygen` writes it.
fn good() -> Vec<u8> {
    file(&[
        certificates_of(
            &blob(&ca()),
            &[
                tagged(0x20, &numbers(&[3, 300, 9])),
                tagged(0x21, &numbers(&[20, 25])),
                tagged(0x22, &[numbers(&[1000]), string(&[0x01, 0x00, 0x05])].concat()),
                tagged(0x23, &strings(&[b"alice laptop", b"bob"])),
                tagged(0x39, &extension("cert-bloom-serial", 0)),
            ],
        ),
        tagged(2, &strings(&[&blob(&helpdesk()), &blob(&mallory())])),
        tagged(255, &extension("bloom-explicit-key", 0)),
        tagged(3, &hashes(vec![sha1(&blob(&bob()))])),
        tagged(
            5,
            &hashes(vec![Sha256::of(b"one").as_bytes().to_vec(), Sha256::of(b"two").as_bytes().to_vec()]),
        ),
    ])
}

/// Written again from what was read.
fn encode(krl: &Krl<'_>) -> Vec<u8> {
    let of = |e: &Extension<'_>| [string(e.name.as_bytes()), vec![0], string(e.contents)].concat();
    let part = |part: &Part<'_>| match part {
        Part::Serials(all) => tagged(0x20, &numbers(&all.iter().map(|at| at.is).collect::<Vec<_>>())),
        Part::Range(range) => tagged(0x21, &numbers(&[range.is.0, range.is.1])),
        Part::Bitmap(At { is: (first, bits), .. }) => {
            let zero: &[u8] = if bits[0] >= 0x80 { &[0] } else { &[] };
            tagged(0x22, &[numbers(&[*first]), string(&[zero, bits].concat())].concat())
        }
        Part::KeyIds(ids) => {
            tagged(0x23, &ids.iter().flat_map(|id| string(id.is.as_bytes())).collect::<Vec<_>>())
        }
        Part::Extension(extension) => tagged(0x39, &of(extension)),
    };
    let section = |section: &Section<'_>| match section {
        Section::Certificates { ca, parts } => {
            certificates_of(ca.is.unwrap_or_default(), &parts.iter().map(part).collect::<Vec<_>>())
        }
        Section::Keys(keys) => tagged(2, &keys.iter().flat_map(|key| string(key.is)).collect::<Vec<_>>()),
        Section::Sha1(all) => tagged(3, &all.iter().flat_map(|hash| string(&hash.is)).collect::<Vec<_>>()),
        Section::Sha256(all) => tagged(5, &all.iter().flat_map(|hash| string(&hash.is)).collect::<Vec<_>>()),
        Section::Extension(extension) => tagged(255, &of(extension)),
    };
    let head = head(krl.version, krl.generated_at, krl.comment);
    [head, krl.sections.iter().flat_map(section).collect()].concat()
}

#[test]
fn everything_that_a_list_says_is_found() {
    let bytes = good();
    let krl = parse(&bytes).unwrap();
    assert_eq!((krl.version, krl.generated_at, krl.comment), (7, 1_763_000_000, "by hand"));
    assert_eq!(encode(&krl), bytes);
    let resolved = resolve(&krl, &with_ca(), Unknown::Refuse).unwrap();
    let ca = ca().public().fingerprint();
    let serials: Vec<u64> = resolved
        .revoked
        .iter()
        .filter_map(|what| match what {
            Revoked::Serial { ca: of, serial } if *of == ca => Some(*serial),
            _ => None,
        })
        .collect();
    assert_eq!(serials, [3, 300, 9, 20, 21, 22, 23, 24, 25, 1000, 1002, 1016]);
    let key_id = |id: &str| Revoked::KeyId { ca, key_id: id.parse().unwrap() };
    assert_eq!(resolved.revoked[12..14], [key_id("alice laptop"), key_id("bob")]);
    let keys = [helpdesk(), mallory(), bob()].map(|key| Revoked::Key { key: key.public().fingerprint() });
    assert_eq!(resolved.revoked[14..17], keys);
    let hashes: Vec<Revoked> = resolved.revoked[17..].to_vec();
    assert_eq!(hashes.len(), 2);
    assert!(hashes.contains(&Revoked::Key { key: Fingerprint::of_key_blob(b"one") }));
    assert_eq!(resolved.extensions, ["cert-bloom-serial", "bloom-explicit-key"]);
    assert!(!resolved.any_ca && resolved.unknown.is_empty());

    let mut draft = with_ca();
    draft.revoked.push(mallory().public().fingerprint());
    let added = import(&mut draft, &resolved.revoked);
    assert_eq!((added.new.len(), added.known.len()), (18, 1));
    let policy = Policy::decode(&draft.encode()).unwrap();
    assert!(policy.is_revoked(&helpdesk().public()) && !policy.is_revoked(&alice().public()));
    for (serial, id, gone) in [(25, "x", true), (26, "x", false), (1001, "x", false), (1, "bob", true)] {
        assert_eq!(policy.is_certificate_revoked(&blob(&super::tests::ca()), serial, id.as_bytes()), gone);
    }
    // Once more changes nothing.
    let again = import(&mut draft, &resolved.revoked);
    assert_eq!((again.new.len(), again.known.len()), (0, 19));
    assert_eq!(draft.encode(), policy.document().encode());
}

#[test]
fn a_file_that_ends_early_is_refused_or_visibly_less() {
    let bytes = good();
    let whole = parse(&bytes).unwrap().sections.len();
    let mut shorter = Vec::new();
    for length in 0..bytes.len() {
        match parse(&bytes[..length]) {
            // The format cannot tell: only between two sections.
            Ok(krl) => {
                assert_eq!(encode(&krl), bytes[..length]);
                shorter.push(krl.sections.len());
            }
            Err(error) => assert!(
                ["cut short", "is empty", "ends after its head"].iter().any(|says| error.why.contains(says)),
                "{length}: {error}"
            ),
        }
    }
    assert_eq!(shorter, (1..whole).collect::<Vec<_>>());
    for tail in [&b"\0"[..], b"\n", b"\xff", b"\x02\0\0\0\0", b"\x01\0\0\0\x08\0\0\0\0\0\0\0\0", &good()] {
        assert!(parse(&[&bytes, tail].concat()).is_err(), "{tail:?}");
    }
}

#[test]
fn whatever_is_changed_is_refused_or_read_as_it_stands() {
    let bytes = good();
    let original = parse(&bytes).unwrap();
    let (mut read, mut refused) = (0, 0);
    for place in 0..bytes.len() {
        for flipped in [1, 2, 4, 8, 16, 32, 64, 128, 0xff] {
            let mut changed = bytes.clone();
            changed[place] ^= flipped;
            match parse(&changed) {
                // Nothing is passed over: what was read is the whole file.
                Ok(krl) => {
                    assert_eq!(encode(&krl), changed, "byte {place}, {flipped:#x}");
                    assert!(krl != original, "byte {place}, {flipped:#x}");
                    let _ = resolve(&krl, &with_ca(), Unknown::Ignore);
                    read += 1;
                }
                Err(error) => {
                    assert!(error.offset <= bytes.len() && error.why.len() > 20, "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 1_000 && refused > 1_000, "{read} {refused}");
    // Bytes gone, and bytes too many.
    for place in 0..bytes.len() {
        let without = [&bytes[..place], &bytes[place + 1..]].concat();
        let with = [&bytes[..place], &[0], &bytes[place..]].concat();
        for changed in [without, with] {
            if let Ok(krl) = parse(&changed) {
                assert_eq!(encode(&krl), changed, "{place}");
            }
        }
    }
}

#[test]
fn hostile_files_are_refused_with_the_reason() {
    let key = blob(&mallory());
    let keys = || tagged(2, &string(&key));
    let of_ca = |part: Vec<u8>| file(&[certificates_of(&blob(&ca()), &[part])]);
    let with_head = |at: usize, byte: u8| {
        let mut bytes = file(&[keys()]);
        bytes[at] = byte;
        bytes
    };
    let reserved = [&head(1, 1, "")[..36], &string(b"x"), &string(b""), &keys()].concat();
    let many: Vec<Vec<u8>> =
        (0..5).map(|n| tagged(0x21, &numbers(&[n * 2000 + 1, n * 2000 + 1000]))).collect();
    let cert = strings(&[b"ssh-ed25519-cert-v01@openssh.com", b"x"]);
    let bitmap = |first: u64, bits: &[u8]| of_ca(tagged(0x22, &[numbers(&[first]), string(bits)].concat()));
    let table: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "the file is empty"),
        (vec![b'#'; MAX_BYTES + 1], "larger than 1 MiB"),
        (b"ssh-ed25519 AAAA".to_vec(), "no KRL"),
        (b"SSHKRL\r\n\0".to_vec(), "no KRL"),
        (b"SSHKRL\n".to_vec(), "cut short"),
        (head(1, 1, ""), "ends after its head"),
        (with_head(11, 2), "format 2"),
        (with_head(11, 0), "format 0"),
        (with_head(35, 1), "flags"),
        (with_head(28, 0x80), "flags"),
        (reserved, "reserved"),
        (file(&[tagged(1, &strings(&[b"", b"x"]))]), "reserved"),
        ([head(1, 1, ""), vec![2, 0xff, 0xff, 0xff, 0xff]].concat(), "cut short"),
        ([&head(1, 1, "")[..36], &[0xff; 4]].concat(), "cut short"),
        (file(&[tagged(2, &[0xff; 4])]), "beyond its section"),
        (file(&[tagged(2, b"")]), "revokes nothing"),
        (file(&[tagged(3, b"")]), "revokes nothing"),
        (file(&[tagged(5, b"")]), "revokes nothing"),
        (file(&[certificates_of(b"", &[])]), "revokes nothing"),
        (of_ca(tagged(0x20, b"")), "revokes nothing"),
        (of_ca(tagged(0x23, b"")), "revokes nothing"),
        (file(&[tagged(0, b"x")]), "section type 0 is not known"),
        (file(&[tagged(6, b"x")]), "section type 6 is not known"),
        (of_ca(tagged(0x24, b"x")), "type 0x24 is not known"),
        (file(&[keys(), [tagged(4, &key), string(b"sig")].concat()]), "ssh-keygen -Y sign"),
        (file(&[tagged(255, &extension("x@example.org", 1)), keys()]), "critical"),
        (file(&[tagged(255, &extension("x@example.org", 2)), keys()]), "neither yes nor no"),
        (file(&[tagged(255, &extension("", 0)), keys()]), "no proper name"),
        (file(&[tagged(255, &extension("a b", 0)), keys()]), "no proper name"),
        (file(&[tagged(255, &[extension("x", 0), vec![0]].concat()), keys()]), "left over"),
        (of_ca(tagged(0x39, &extension("x@example.org", 1))), "critical"),
        (file(&[tagged(2, &string(&cert))]), "a certificate stands"),
        (file(&[certificates_of(&cert, &[tagged(0x20, &numbers(&[1]))])]), "a certificate stands"),
        (file(&[tagged(2, &string(b""))]), "beyond its section"),
        (file(&[tagged(2, &string(&string(b"ssh-ed25519")))]), "this is no key"),
        (file(&[tagged(2, &string(&strings(&[b"", b"x"])))]), "this is no key"),
        (file(&[tagged(2, &string(&[&key[..], b"x"].concat()))]), "beyond its section"),
        (file(&[tagged(3, &string(&[1; 19]))]), "20 bytes"),
        (file(&[tagged(3, &string(&[1; 32]))]), "20 bytes"),
        (file(&[tagged(5, &string(&[1; 20]))]), "32 bytes"),
        (file(&[tagged(5, &strings(&[&[2; 32], &[1; 32]]))]), "not in order"),
        (file(&[tagged(5, &strings(&[&[2; 32], &[2; 32]]))]), "not in order"),
        (of_ca(tagged(0x20, &numbers(&[0]))), "serial 0"),
        (of_ca(tagged(0x20, &[0; 7])), "beyond its section"),
        (of_ca(tagged(0x20, &[1; 9])), "beyond its section"),
        (of_ca(tagged(0x21, &numbers(&[0, 5]))), "serial 0"),
        (of_ca(tagged(0x21, &numbers(&[6, 5]))), "upside down"),
        (of_ca(tagged(0x21, &numbers(&[1, 1025]))), "more than 1024"),
        (of_ca(tagged(0x21, &numbers(&[1, u64::MAX]))), "revoke the CA"),
        (of_ca(tagged(0x21, &numbers(&[1, 2, 3]))), "left over"),
        (file(&[certificates_of(&blob(&ca()), &many)]), "more than 4096"),
        (bitmap(1, b""), "zero"),
        (bitmap(1, &[0]), "zero"),
        (bitmap(1, &[0x80]), "negative"),
        (bitmap(1, &[0, 1]), "needless"),
        (bitmap(0, &[3]), "serial 0"),
        (bitmap(u64::MAX, &[2]), "largest serial"),
        (bitmap(1, &[&[1][..], &[0; MAX_BITMAP]].concat()), "more than 1024"),
        (bitmap(1, &[0x7f; 147]), "more than 1024"),
        (of_ca(tagged(0x22, &[numbers(&[1]), string(&[1]), vec![0]].concat())), "left over"),
        (of_ca(tagged(0x23, &string(b"\xff"))), "not UTF-8"),
        ([&head(1, 1, "")[..40], &string(b"\xff"), &keys()].concat(), "not UTF-8"),
        (file(&vec![keys(); MAX_ENTRIES / 2 + 1]), "more than 4096"),
    ];
    for (bytes, says) in table {
        let error = parse(&bytes).expect_err(says);
        assert!(error.why.contains(says), "{says}: {error}");
        assert!(error.offset <= bytes.len(), "{error}");
    }
    // What is just inside.
    for bytes in [
        of_ca(tagged(0x21, &numbers(&[1, 1024]))),
        of_ca(tagged(0x21, &numbers(&[u64::MAX, u64::MAX]))),
        bitmap(0, &[2]),
        bitmap(u64::MAX - 1, &[2]),
        bitmap(1, &[&[1][..], &[0; MAX_BITMAP - 1]].concat()),
        file(&vec![keys(); MAX_ENTRIES / 2]),
    ] {
        assert_eq!(encode(&parse(&bytes).unwrap()), bytes);
    }
}

#[test]
fn what_the_policy_does_not_know_is_refused() {
    let serial = |number: u64| tagged(0x20, &numbers(&[number]));
    let stranger = mallory().public().fingerprint().to_string();
    let long = "x".repeat(513);
    let by_sha1 = hashes(vec![sha1(&blob(&mallory()))]);
    let cases = [
        (certificates_of(&blob(&mallory()), &[serial(1)]), stranger.as_str()),
        // An operator's key is no CA.
        (certificates_of(&blob(&alice()), &[serial(1)]), "add the CA first"),
        (certificates_of(&blob(&ca()), &[serial(crate::canonical::MAX_INTEGER + 1)]), "by its key id"),
        (certificates_of(&blob(&ca()), &[tagged(0x23, &string(b"a\nb"))]), "by name"),
        (certificates_of(&blob(&ca()), &[tagged(0x23, &string("a\u{202e}b".as_bytes()))]), "by name"),
        (certificates_of(&blob(&ca()), &[tagged(0x23, &string(long.as_bytes()))]), "by name"),
        (tagged(3, &by_sha1), "of no key in the policy"),
    ];
    for (section, says) in cases {
        let bytes = file(&[tagged(2, &string(&blob(&bob()))), section]);
        let error = resolve(&parse(&bytes).unwrap(), &with_ca(), Unknown::Refuse).unwrap_err();
        assert!(error.why.contains(says), "{error}");
        assert!(error.offset > file(&[tagged(2, &string(&blob(&bob())))]).len(), "{error}");
    }
    let bytes = file(&[tagged(3, &by_sha1)]);
    let resolved = resolve(&parse(&bytes).unwrap(), &with_ca(), Unknown::Ignore).unwrap();
    assert_eq!((resolved.revoked.len(), resolved.unknown.len(), resolved.unknown[0].len()), (0, 1, 40));
    // The CA's own key by SHA-1 too.
    let bytes = file(&[tagged(3, &hashes(vec![sha1(&blob(&ca()))]))]);
    let resolved = resolve(&parse(&bytes).unwrap(), &with_ca(), Unknown::Refuse).unwrap();
    assert_eq!(resolved.revoked, [Revoked::Key { key: ca().public().fingerprint() }]);
}

#[test]
fn any_ca_means_each_that_is_in_the_policy() {
    let bytes =
        file(&[certificates_of(b"", &[tagged(0x23, &string(b"laptop")), tagged(0x20, &numbers(&[4]))])]);
    let krl = parse(&bytes).unwrap();
    assert!(resolve(&krl, &document(), Unknown::Refuse).unwrap_err().why.contains("any CA"));
    let mut document = with_ca();
    let second = Authority::new(mallory().public().into(), vec!["alice".to_owned()]);
    document.operators[0].keys.push(Credential::Authority(second));
    let resolved = resolve(&krl, &document, Unknown::Refuse).unwrap();
    assert!(resolved.any_ca && resolved.revoked.len() == 4);
    import(&mut document, &resolved.revoked);
    let policy = Policy::decode(&document.encode()).unwrap();
    for key in [ca(), mallory()] {
        assert!(
            policy.is_certificate_revoked(&blob(&key), 4, b"")
                && policy.is_certificate_revoked(&blob(&key), 1, b"laptop")
        );
    }
}

#[test]
fn noise_never_panics() {
    // A good beginning, then bytes of a fixed sequence that favours lengths and types that mean something.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = [0, 0, 0, 1, 2, 3, 5, 8, 20, 32, 0x20, 0x21, 0x22, 0x23, 0x39, 255];
    for _ in 0..20_000 {
        let length = next() as usize % 120;
        let noise: Vec<u8> = (0..length).map(|_| words[next() as usize % words.len()]).collect();
        let bytes = file(&[noise]);
        if let Ok(krl) = parse(&bytes) {
            assert_eq!(encode(&krl), bytes);
        }
    }
}
