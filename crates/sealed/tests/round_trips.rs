//! What was sealed comes back, and only what may be sealed is.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use ed25519_dalek::SigningKey;
use protocol::Ed25519Key;
use sealed::{MAX_PLAINTEXT, Randomness, SealError, open, seal, sealed_len};

const SEED: [u8; 32] = [7; 32];

fn key() -> Ed25519Key {
    Ed25519Key::from_bytes(SigningKey::from_bytes(&SEED).verifying_key().to_bytes())
}

/// The same on every run; different for every `number`.
fn randomness(number: u8) -> Randomness {
    Randomness::from_bytes(&std::array::from_fn(|at| (at as u8).wrapping_mul(7).wrapping_add(number)))
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn kept(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/cases/good/{name}.age", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn round_trips_of_every_kind_of_length() {
    for (number, len) in [0, 1, 16, 65535, 65536, 65537, 131072, 200_000].into_iter().enumerate() {
        let plaintext = text(len);
        let sealed = seal(&key(), &plaintext, randomness(number as u8)).unwrap();
        assert_eq!(sealed.len(), sealed_len(len), "{len}");
        assert_eq!(**open(&SEED, &sealed, len).unwrap(), plaintext, "{len}");
        let inside = sealed.windows(16).any(|window| plaintext.windows(16).take(50).any(|w| w == window));
        assert!(!inside, "{len}: the plaintext can be seen");
    }
}

#[test]
fn many_keys_and_many_random_bytes_agree() {
    for number in 1..60 {
        let seed = [number; 32];
        let key = Ed25519Key::from_bytes(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        let sealed = seal(&key, b"text", randomness(number)).unwrap();
        assert_eq!(**open(&seed, &sealed, 4).unwrap(), *b"text");
    }
}

/// The bytes are frozen: what was sealed by an older release, and by the real age, opens.
#[test]
fn kept_files_open_and_are_made_the_same() {
    if std::env::var_os("WRIT_WRITE_CASES").is_some() {
        let path = format!("{}/tests/cases/good/ours.age", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, seal(&key(), b"sealed by writ\n", randomness(1)).unwrap()).unwrap();
    }
    let ours = kept("ours");
    assert_eq!(**open(&SEED, &ours, 100).unwrap(), *b"sealed by writ\n");
    assert_eq!(seal(&key(), b"sealed by writ\n", randomness(1)).unwrap(), ours);
    // age 1.1.1: printf 'sealed by age\n' | age -R host.pub
    assert_eq!(**open(&SEED, &kept("by_age"), 100).unwrap(), *b"sealed by age\n");
}

#[test]
fn nothing_of_one_file_is_in_another() {
    let plaintext = text(100);
    let (a, b) =
        (seal(&key(), &plaintext, randomness(1)).unwrap(), seal(&key(), &plaintext, randomness(2)).unwrap());
    // Version line, type and tag are the same; share, body, MAC, nonce and chunk are not.
    assert_eq!(a[..43], b[..43]);
    for range in [44..87, 88..131, 136..179, 180..196, 196..a.len()] {
        let same = range.clone().filter(|at| a[*at] == b[*at]).count();
        assert!(same < 12, "{range:?}: {same} bytes are the same");
    }
}

#[test]
fn nothing_is_sealed_to_a_key_that_hides_nothing() {
    let hex = |text: &str| -> [u8; 32] {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    };
    // Small order: the eight points of the torsion group, and three of their second spellings.
    let weak = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0100000000000000000000000000000000000000000000000000000000000080",
    ];
    for point in weak {
        let error = seal(&Ed25519Key::from_bytes(hex(point)), b"x", randomness(1)).unwrap_err();
        assert_eq!(error, SealError::Key, "{point}");
    }
    let mut others = [0, 0];
    for y in 2..30 {
        // No point at all, or a point; the same point spelled with y + p only if that fits 255 bits.
        let mut small = [0; 32];
        small[0] = y;
        let mut second = [0xff; 32];
        second[31] = 0x7f;
        let is_point = seal(&Ed25519Key::from_bytes(small), b"x", randomness(1)).is_ok();
        others[usize::from(is_point)] += 1;
        if y < 19 {
            second[0] = 0xed + y;
            let error = seal(&Ed25519Key::from_bytes(second), b"x", randomness(1)).unwrap_err();
            assert_eq!(error, SealError::Key, "{y} in its second spelling");
        }
    }
    assert!(others[0] > 5 && others[1] > 5, "both kinds were tried: {others:?}");
}

#[test]
fn unfilled_randomness_and_too_much_are_refused() {
    let full: [u8; Randomness::LEN] = [1; 64];
    for part in [0..16, 16..48, 48..64, 0..64] {
        let mut bytes = full;
        bytes[part].fill(0);
        let error = seal(&key(), b"x", Randomness::from_bytes(&bytes)).unwrap_err();
        assert_eq!(error, SealError::Randomness);
    }
    let large = vec![0; MAX_PLAINTEXT + 1];
    let error = seal(&key(), &large, Randomness::from_bytes(&full)).unwrap_err();
    assert_eq!(error, SealError::TooLarge { limit: MAX_PLAINTEXT });
    assert_eq!(format!("{:?}", Randomness::from_bytes(&full)), "Randomness", "never printed");
}
