//! Damage that no crash makes: it is refused, and says what to do. The one exception is the last record,
//! which cannot be told from an unfinished write; the ledgers' comparison with the log finds that.

use std::collections::BTreeSet;

use authz::journal::{JournalError, NonceJournal, RECORD};

use crate::model::{Image, Model};
use crate::{LATE, burn, create, dir, found, open};

const CAPACITY: u64 = 4;

/// A tombstone, a whole segment and one with the last two nonces: 11 burned, the first 6 forgotten.
fn store() -> Image {
    let model = Model::default();
    let mut journal = create(&model, CAPACITY);
    (1..=7).for_each(|n| burn(&mut journal, n).unwrap());
    assert_eq!(journal.compact(LATE, LATE, &BTreeSet::new()).unwrap(), 6);
    (8..=11).for_each(|n| burn(&mut journal, n).unwrap());
    model.image()
}

fn opened(image: &Image) -> Result<BTreeSet<u8>, JournalError> {
    let model = Model::of_image(image);
    let inspected = NonceJournal::inspect_on(&model, dir());
    let opened = open(&model, CAPACITY);
    assert_eq!(inspected.is_ok(), opened.is_ok(), "looking and opening say the same");
    if opened.is_ok() {
        // Written again, with the same bytes.
        assert_eq!(model.image(), *image, "opening destroys no evidence");
    }
    opened.map(|journal| found(&journal))
}

#[test]
fn every_flipped_bit_is_refused_or_is_in_the_last_record() {
    let store = store();
    assert_eq!(opened(&store).unwrap(), (7..=11).collect());
    let last = "nonces-000004.seg";
    let (mut refused, mut torn) = (0, 0);
    for (name, bytes) in &store {
        for bit in 0..bytes.len() * 8 {
            let mut image = store.clone();
            image.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            match opened(&image) {
                Err(error) => {
                    assert!(error.to_string().contains("root moves"), "{error}");
                    refused += 1;
                }
                Ok(there) => {
                    assert!(
                        name == last && bit / 8 >= bytes.len() - RECORD,
                        "{name} bit {bit} went unnoticed"
                    );
                    assert_eq!(there, (7..=10).collect());
                    torn += 1;
                }
            }
        }
    }
    println!("bits: {refused} refused, {torn} in the last record, 0 undetected");
    assert_eq!((refused, torn), ((1 + 4 + 2) * RECORD * 8, RECORD * 8));
}

#[test]
fn a_file_that_is_missing_in_another_place_or_not_ours_is_refused() {
    let store = store();
    let names: Vec<&String> = store.keys().collect();
    assert_eq!(names, ["nonces-000003.seg", "nonces-000004.seg", "nonces.tomb"]);
    let (third, fourth, tomb) = (&store[names[0]], &store[names[1]], &store[names[2]]);
    let image = |files: &[(&str, &[u8])]| -> Image {
        files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect()
    };
    let [s1, s2, s3, s4, s5] = [1, 2, 3, 4, 5].map(|n| format!("nonces-00000{n}.seg"));
    let t = "nonces.tomb";
    let cases: [(&str, Image, &str); 17] = [
        ("nothing", image(&[]), "000001.seg is missing"),
        ("the tombstone is gone", image(&[(&s3, third), (&s4, fourth)]), "000001.seg is missing"),
        ("all segments are gone", image(&[(t, tomb)]), "000003.seg is missing"),
        ("the first is gone", image(&[(t, tomb), (&s4, fourth)]), "000003.seg is missing"),
        (
            "one in the middle is gone",
            image(&[(t, tomb), (&s3, third), (&s5, fourth)]),
            "000004.seg is missing",
        ),
        ("swapped", image(&[(t, tomb), (&s3, fourth), (&s4, third)]), "damaged at record 8"),
        ("renumbered", image(&[(&s1, third), (&s2, fourth)]), "damaged at record 0"),
        ("twice", image(&[(t, tomb), (&s3, third), (&s4, third), (&s5, fourth)]), "damaged at record 12"),
        (
            "a cut segment and one more",
            image(&[(t, tomb), (&s3, &third[..RECORD]), (&s4, fourth)]),
            "damaged at record 9",
        ),
        (
            "a torn segment and one more",
            image(&[(t, tomb), (&s3, &third[..3 * RECORD + 1]), (&s4, fourth)]),
            "cut off",
        ),
        ("an empty segment and one more", image(&[(t, tomb), (&s3, &[]), (&s4, fourth)]), "no header"),
        (
            "two torn records",
            image(&[(t, tomb), (&s3, third), (&s4, &[&fourth[..RECORD], &[0; 2 * RECORD]].concat())]),
            "record 13",
        ),
        (
            "a torn record and a piece",
            image(&[(t, tomb), (&s3, third), (&s4, &[&fourth[..], &[7; RECORD + 1]].concat())]),
            "record 15",
        ),
        ("an empty tombstone", image(&[(t, &[]), (&s3, third), (&s4, fourth)]), "length of one record"),
        (
            "a long tombstone",
            image(&[(t, &[&tomb[..], &[0]].concat()), (&s3, third), (&s4, fourth)]),
            "length of one record",
        ),
        ("no tombstone in it", image(&[(t, &third[..RECORD]), (&s3, third), (&s4, fourth)]), "no tombstone"),
        (
            "a copy beside it",
            image(&[(t, tomb), (&s3, third), (&s4, fourth), ("nonces-000004.seg.bak", fourth)]),
            "000004.seg.bak",
        ),
    ];
    for (what, image, says) in cases {
        let error = opened(&image).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("root moves"), "{what}: {error}");
    }
    // What a crash leaves, and is no damage: a next segment without its header, a deleted one that came
    // back, an unfinished tombstone.
    for bytes in [&b""[..], &[0; 10], &[0xa5; RECORD]] {
        let image = image(&[
            (t, tomb),
            (&s3, third),
            (&s4, fourth),
            (&s5, bytes),
            (&s1, third),
            (".nonces.tomb.new", b"x"),
        ]);
        assert_eq!(opened(&image).unwrap(), (7..=11).collect());
    }
}

/// A record that follows and burns a nonce twice was made to, also where it is the last.
#[test]
fn a_nonce_that_is_burned_twice_is_refused() {
    let whole = |nonces: &[u8]| {
        let model = Model::default();
        let mut journal = create(&model, 100);
        nonces.iter().for_each(|n| burn(&mut journal, *n).unwrap());
        model.image()["nonces-000001.seg"].clone()
    };
    let mut bytes = whole(&[1, 2]);
    let forged = forge_after(&bytes, 1);
    bytes.extend(forged);
    let error = opened(&Image::from([("nonces-000001.seg".to_owned(), bytes)])).unwrap_err().to_string();
    assert!(error.contains("record 3") && error.contains("burned before"), "{error}");
}

/// A whole record for this nonce that follows these bytes.
fn forge_after(bytes: &[u8], n: u8) -> [u8; RECORD] {
    let mut record: [u8; RECORD] = *bytes.last_chunk().unwrap();
    let link = protocol::Sha256::of(&record);
    let seq = (bytes.len() / RECORD) as u64;
    record[8..16].copy_from_slice(&seq.to_be_bytes());
    record[16..32].fill(n);
    record[56..72].copy_from_slice(&link.as_bytes()[..16]);
    let check = protocol::Sha256::of(&record[..72]);
    record[72..].copy_from_slice(&check.as_bytes()[..24]);
    record
}
