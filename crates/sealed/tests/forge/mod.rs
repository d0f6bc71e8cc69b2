//! Makes sealed files, good and bad, straight from the format's text and with nothing of the crate.
//! What it makes carries a right MAC and right chunks wherever the attack allows, so that a reader
//! without the one check would open it.

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use curve25519_dalek::MontgomeryPoint;
use data_encoding::BASE64_NOPAD;
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use protocol::Ed25519Key;
use sealed::OpenError;
use sha2::{Digest as _, Sha256};

pub(crate) const CHUNK: usize = 65536;
pub(crate) const HOST: [u8; 32] = [7; 32];
pub(crate) const OTHER: [u8; 32] = [8; 32];
pub(crate) const TEXT: &[u8] = b"sealed by a forger\n";
const EPHEMERAL: [u8; 32] = [0x42; 32];
const FILE_KEY: [u8; 16] = *b"YELLOW SUBMARINE";
const NONCE: [u8; 16] = [0x17; 16];
const LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";

/// A bad file, and how it must be refused.
pub(crate) struct Case {
    /// Class and name.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) refused: OpenError,
}

pub(crate) fn public(seed: &[u8; 32]) -> Ed25519Key {
    Ed25519Key::from_bytes(SigningKey::from_bytes(seed).verifying_key().to_bytes())
}

pub(crate) fn other_key() -> OpenError {
    OpenError::OtherKey { ours: public(&HOST).fingerprint() }
}

fn b64(bytes: &[u8]) -> String {
    BASE64_NOPAD.encode(bytes)
}

fn hkdf(salt: &[u8], ikm: &[u8], info: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), ikm).expand(info, &mut out).unwrap();
    out
}

fn encrypt(key: &[u8; 32], nonce: [u8; 12], text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    let cipher = ChaCha20Poly1305::new(key.into());
    let tag = cipher.encrypt_inout_detached(&Nonce::from(nonce), b"", out.as_mut_slice().into()).unwrap();
    out.extend_from_slice(&tag);
    out
}

/// One stanza in parts, for the host's key unless changed.
struct Parts {
    tag: Vec<u8>,
    share: Vec<u8>,
    body: Vec<u8>,
}

fn converted(seed: &[u8; 32]) -> MontgomeryPoint {
    SigningKey::from_bytes(seed).verifying_key().to_montgomery()
}

fn tag(seed: &[u8; 32]) -> Vec<u8> {
    Sha256::digest(public(seed).blob())[..4].to_vec()
}

/// The body for a shared secret, whatever it is.
fn wrap(seed: &[u8; 32], share: &[u8; 32], shared: &[u8; 32], label: &[u8], file_key: &[u8]) -> Vec<u8> {
    let salt = [*share, converted(seed).0].concat();
    encrypt(&hkdf(&salt, shared, label), [0; 12], file_key)
}

fn parts_with(seed: &[u8; 32], file_key: &[u8]) -> Parts {
    let share = MontgomeryPoint::mul_base_clamped(EPHEMERAL).0;
    let tweak = hkdf(&public(seed).blob(), b"", LABEL);
    // The older text's order of the two steps, which is the other one than the crate's.
    let shared = converted(seed).mul_clamped(tweak).mul_clamped(EPHEMERAL).0;
    let body = wrap(seed, &share, &shared, LABEL, file_key);
    Parts { tag: tag(seed), share: share.to_vec(), body }
}

fn parts() -> Parts {
    parts_with(&HOST, &FILE_KEY)
}

impl Parts {
    /// The stanza's lines, the body wrapped at 64 columns with a shorter last line.
    fn stanza(&self) -> String {
        let mut text = format!("-> ssh-ed25519 {} {}\n", b64(&self.tag), b64(&self.share));
        let body = b64(&self.body);
        for line in body.as_bytes().chunks(64) {
            text += &format!("{}\n", str::from_utf8(line).unwrap());
        }
        if body.len().is_multiple_of(64) {
            text.push('\n');
        }
        text
    }

    fn head(&self) -> String {
        format!("age-encryption.org/v1\n{}---", self.stanza())
    }

    fn file(&self) -> Vec<u8> {
        file(&self.head())
    }
}

fn mac(file_key: &[u8], head: &[u8]) -> Vec<u8> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(&hkdf(b"", file_key, b"header")).unwrap();
    hmac.update(head);
    hmac.finalize().into_bytes().to_vec()
}

fn with_mac_line(head: &str, line: &str, payload: &[u8]) -> Vec<u8> {
    [head.as_bytes(), line.as_bytes(), payload].concat()
}

fn good_mac(head: &str) -> String {
    format!(" {}\n", b64(&mac(&FILE_KEY, head.as_bytes())))
}

/// A nonce of the counter and the flag.
pub(crate) fn nonce(counter: u64, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&counter.to_be_bytes());
    nonce[11] = last.into();
    nonce
}

fn payload_with(file_key: &[u8], chunks: &[(&[u8], [u8; 12])]) -> Vec<u8> {
    let key = hkdf(&NONCE, file_key, b"payload");
    let mut out = NONCE.to_vec();
    for (text, nonce) in chunks {
        out.extend(encrypt(&key, *nonce, text));
    }
    out
}

fn payload(chunks: &[(&[u8], [u8; 12])]) -> Vec<u8> {
    payload_with(&FILE_KEY, chunks)
}

/// A file with this text up to `---`; MAC and payload are right.
fn file(head: &str) -> Vec<u8> {
    with_mac_line(head, &good_mac(head), &payload(&[(TEXT, nonce(0, true))]))
}

/// A good file with these chunks.
pub(crate) fn file_of(chunks: &[(&[u8], [u8; 12])]) -> Vec<u8> {
    let head = parts().head();
    with_mac_line(&head, &good_mac(&head), &payload(chunks))
}

/// A good file.
pub(crate) fn good() -> Vec<u8> {
    parts().file()
}

/// The small bad files, all of which are kept under `tests/cases`.
pub(crate) fn small_cases() -> Vec<Case> {
    use OpenError::{Damaged, NotSealed, OtherKind, Several};
    let mut cases = Vec::new();
    let mut add = |name: &str, refused: OpenError, bytes: Vec<u8>| {
        cases.push(Case { name: name.to_owned(), bytes, refused });
    };
    let head = parts().head();
    let stanza = parts().stanza();
    let version = "age-encryption.org/v1\n";
    let replaced = |from: &str, to: &str| {
        assert_eq!(head.matches(from).count(), 1, "{from:?}");
        file(&head.replacen(from, to, 1))
    };

    add("not_age/empty", NotSealed, Vec::new());
    add("not_age/text", NotSealed, b"hello world\n".to_vec());
    add("not_age/version_2", NotSealed, replaced("/v1\n", "/v2\n"));
    add("not_age/version_10", NotSealed, replaced("/v1\n", "/v10\n"));
    add("not_age/version_crlf", NotSealed, replaced("/v1\n", "/v1\r\n"));
    add("not_age/version_space", NotSealed, replaced("/v1\n", "/v1 \n"));
    add("not_age/version_upper", NotSealed, replaced("age-", "AGE-"));
    add("not_age/leading_line", NotSealed, file(&format!("\n{head}")));
    add("not_age/byte_order_mark", NotSealed, file(&format!("\u{feff}{head}")));
    let pem = data_encoding::BASE64.encode(&good());
    let lines: Vec<&str> = pem.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    let label = "AGE ENCRYPTED FILE-----";
    let armored = format!("-----BEGIN {label}\n{}\n-----END {label}\n", lines.join("\n"));
    add("not_age/armored", NotSealed, armored.into_bytes());

    let x25519 = "-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\n\
                  EmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U\n";
    let other = parts_with(&OTHER, &FILE_KEY).stanza();
    add("recipients/none", Damaged, file(&format!("{version}---")));
    add("recipients/other_key", other_key(), file(&format!("{version}{other}---")));
    add("recipients/two_keys", Several, file(&format!("{version}{stanza}{other}---")));
    add("recipients/two_keys_other_first", Several, file(&format!("{version}{other}{stanza}---")));
    add("recipients/ours_twice", Several, file(&format!("{version}{stanza}{stanza}---")));
    add("recipients/x25519", OtherKind("X25519"), file(&format!("{version}{x25519}---")));
    add("recipients/x25519_first", OtherKind("X25519"), file(&format!("{version}{x25519}{stanza}---")));
    add("recipients/x25519_second", Several, file(&format!("{version}{stanza}{x25519}---")));
    let grease = "-> >_%-grease x9 AAAA\n\n";
    add(
        "recipients/grease_first",
        OtherKind("unknown to us"),
        file(&format!("{version}{grease}{stanza}---")),
    );
    add("recipients/grease_second", Several, file(&format!("{version}{stanza}{grease}---")));
    let scrypt = "-> scrypt rF0/NwblUHHTpgQgRpe5CQ 10\ngUjEymFKMVXQEKdMMHL24oYexjE3TIC0O0zGSqJ2aUY\n";
    add("recipients/passphrase", OtherKind("scrypt"), file(&format!("{version}{scrypt}---")));
    add("recipients/kind_case", OtherKind("unknown to us"), replaced("ssh-ed25519", "ssh-Ed25519"));
    add("recipients/kind_longer", OtherKind("unknown to us"), replaced("ssh-ed25519 ", "ssh-ed25519x "));

    let (tag, share, body) = (b64(&parts().tag), b64(&parts().share), b64(&parts().body));
    add("stanza/no_arguments", Damaged, replaced(&format!("-> ssh-ed25519 {tag} {share}"), "->"));
    add("stanza/empty_arguments", Damaged, replaced(&format!("-> ssh-ed25519 {tag} {share}"), "-> "));
    add("stanza/kind_alone", Damaged, replaced(&format!(" {tag} {share}"), ""));
    add("stanza/no_share", Damaged, replaced(&format!(" {share}"), ""));
    add("stanza/no_tag", Damaged, replaced(&format!(" {tag}"), ""));
    add("stanza/three_arguments", Damaged, replaced(&share, &format!("{share} more")));
    add("stanza/arguments_swapped", Damaged, replaced(&format!("{tag} {share}"), &format!("{share} {tag}")));
    add("stanza/double_space", Damaged, replaced(&format!("{tag} "), &format!("{tag}  ")));
    add("stanza/leading_space", Damaged, replaced("-> ", "->  "));
    add("stanza/trailing_space", Damaged, replaced(&share, &format!("{share} ")));
    add("stanza/tabulator", Damaged, replaced(&format!("{tag} "), &format!("{tag}\t")));
    add("stanza/kind_tabulator", Damaged, replaced("ssh-ed25519 ", "ssh-ed25519\t"));
    add("stanza/no_space_after_arrow", Damaged, replaced("-> ", "->"));
    add("stanza/other_arrow", Damaged, replaced("-> ", "=> "));
    add("stanza/no_arrow", Damaged, replaced("-> ", ""));
    add("stanza/crlf", Damaged, replaced(&format!("{share}\n"), &format!("{share}\r\n")));
    add("stanza/body_crlf", Damaged, replaced(&format!("{body}\n"), &format!("{body}\r\n")));
    add("stanza/blank_line_before", Damaged, replaced("-> ", "\n-> "));
    add("stanza/blank_line_after", Damaged, replaced("---", "\n---"));
    add("stanza/8_bit_kind", Damaged, replaced("ssh-ed25519", "ssh-ed25519é"));
    add("stanza/zero_in_kind", Damaged, replaced("ssh-ed25519 ", "ssh-ed25519\0 "));
    for (name, len) in [("short", 3), ("long", 5), ("empty", 0), ("whole", 32)] {
        let whole = Sha256::digest(public(&HOST).blob());
        let bytes = Parts { tag: whole[..len].to_vec(), ..parts() }.file();
        add(&format!("stanza/tag_{name}"), Damaged, bytes);
    }
    for (name, len) in [("short", 31), ("long", 33), ("double", 64)] {
        let mut share = [parts().share, vec![0; 32]].concat();
        share.truncate(len);
        add(&format!("stanza/share_{name}"), Damaged, Parts { share, ..parts() }.file());
    }

    for (name, good) in [("tag", &tag), ("share", &share), ("body", &body)] {
        add(&format!("base64/{name}_padded"), Damaged, replaced(good, &format!("{good}=")));
        add(&format!("base64/{name}_spare_bits"), Damaged, replaced(good, &spare_bit(good)));
        add(&format!("base64/{name}_cut"), Damaged, replaced(good, &good[..good.len() - 1]));
        add(
            &format!("base64/{name}_space"),
            Damaged,
            replaced(good, &format!("{} {}", &good[..3], &good[3..])),
        );
        add(
            &format!("base64/{name}_line"),
            Damaged,
            replaced(good, &format!("{}\n{}", &good[..3], &good[3..])),
        );
        // The other alphabet, where there is a difference.
        let url = good.replace('+', "-").replace('/', "_");
        if url != *good {
            add(&format!("base64/{name}_url_alphabet"), Damaged, replaced(good, &url));
        }
    }

    add("body/missing", Damaged, replaced(&format!("{body}\n"), ""));
    add("body/empty", Damaged, replaced(&body, ""));
    add("body/second_line", Damaged, replaced(&format!("{body}\n"), &format!("{body}\n\n")));
    add("body/two_short_lines", Damaged, replaced(&body, &format!("{}\n{}", &body[..20], &body[20..])));
    add("body/one_line_of_64", Damaged, replaced(&format!("{body}\n"), &format!("{}\n", "A".repeat(64))));
    add("body/line_of_65", Damaged, replaced(&format!("{body}\n"), &format!("{}\n", "A".repeat(65))));
    // Every length is in order but for the file key, which must be 16 bytes.
    for len in [0, 15, 17, 24, 32, 48] {
        let file_key = vec![0x55; len];
        let head = parts_with(&HOST, &file_key).head();
        let line = format!(" {}\n", b64(&mac(&file_key, head.as_bytes())));
        let payload = payload_with(&file_key, &[(TEXT, nonce(0, true))]);
        add(&format!("body/file_key_of_{len}"), Damaged, with_mac_line(&head, &line, &payload));
    }

    let rest = payload(&[(TEXT, nonce(0, true))]);
    let good_line = good_mac(&head);
    let text = good_line.trim();
    let mut mac_case = |name: &str, line: String| {
        add(&format!("mac/{name}"), Damaged, with_mac_line(&head, &line, &rest));
    };
    let mut flipped = mac(&FILE_KEY, head.as_bytes());
    flipped[31] ^= 1;
    mac_case("flipped", format!(" {}\n", b64(&flipped)));
    mac_case("zero", format!(" {}\n", b64(&[0; 32])));
    mac_case("missing", "\n".into());
    mac_case("empty", " \n".into());
    mac_case("no_line", String::new());
    mac_case("short", format!(" {}\n", b64(&mac(&FILE_KEY, head.as_bytes())[..16])));
    mac_case("long", format!(" {text}AAAA\n"));
    mac_case("no_space", format!("{text}\n"));
    mac_case("two_spaces", format!("  {text}\n"));
    mac_case("trailing_space", format!(" {text} \n"));
    mac_case("second_argument", format!(" {text} AAAA\n"));
    mac_case("crlf", format!(" {text}\r\n"));
    mac_case("no_line_end", format!(" {text}"));
    mac_case("padded", format!(" {text}=\n"));
    mac_case("spare_bits", format!(" {}\n", spare_bit(text)));
    mac_case("with_the_space", format!(" {}\n", b64(&mac(&FILE_KEY, format!("{head} ").as_bytes()))));
    mac_case("without_the_mark", format!(" {}\n", b64(&mac(&FILE_KEY, &head.as_bytes()[..head.len() - 3]))));
    mac_case("of_another_file_key", format!(" {}\n", b64(&mac(&[9; 16], head.as_bytes()))));
    add("mac/other_mark", Damaged, replaced("---", "==="));
    add("mac/mark_of_two", Damaged, with_mac_line(head.strip_suffix('-').unwrap(), &good_line, &rest));
    add("mac/mark_of_four", Damaged, with_mac_line(&format!("{head}-"), &good_line, &rest));

    for (name, share) in low_order_points() {
        // All that a sealer can know without the host: the shared secret is all zero.
        let body = wrap(&HOST, &share, &[0; 32], LABEL, &FILE_KEY);
        let parts = Parts { share: share.to_vec(), body, ..parts() };
        add(&format!("agreement/low_order_{name}"), Damaged, parts.file());
    }
    let public_share = MontgomeryPoint::mul_base_clamped(EPHEMERAL).0;
    let untweaked = converted(&HOST).mul_clamped(EPHEMERAL).0;
    let body = wrap(&HOST, &public_share, &untweaked, LABEL, &FILE_KEY);
    add("agreement/no_tweak", Damaged, Parts { body, ..parts() }.file());
    let tweaked =
        converted(&HOST).mul_clamped(hkdf(&public(&HOST).blob(), b"", LABEL)).mul_clamped(EPHEMERAL).0;
    let body = wrap(&HOST, &public_share, &tweaked, b"age-encryption.org/v1/X25519", &FILE_KEY);
    add("agreement/other_label", Damaged, Parts { body, ..parts() }.file());
    let body = wrap(&OTHER, &public_share, &tweaked, LABEL, &FILE_KEY);
    add("agreement/other_salt", Damaged, Parts { body, ..parts() }.file());
    let for_other = Parts { tag: parts().tag, ..parts_with(&OTHER, &FILE_KEY) };
    add("agreement/our_tag_other_key", Damaged, for_other.file());
    let for_us = Parts { tag: for_other_tag(), ..parts() };
    add("agreement/other_tag_our_key", other_key(), for_us.file());

    add("stream/no_nonce", Damaged, with_mac_line(&head, &good_line, b""));
    add("stream/short_nonce", Damaged, with_mac_line(&head, &good_line, &NONCE[..15]));
    add("stream/no_chunk", Damaged, with_mac_line(&head, &good_line, &NONCE));
    add("stream/chunk_within_tag", Damaged, with_mac_line(&head, &good_line, &rest[..16 + 15]));
    add("stream/tag_alone", Damaged, with_mac_line(&head, &good_line, &rest[..16 + 16]));
    add("stream/not_final", Damaged, file_of(&[(TEXT, nonce(0, false))]));
    add("stream/empty_not_final", Damaged, file_of(&[(b"", nonce(0, false))]));
    add("stream/counter_from_one", Damaged, file_of(&[(TEXT, nonce(1, true))]));
    let mut odd = nonce(0, true);
    odd[11] = 2;
    add("stream/flag_of_two", Damaged, file_of(&[(TEXT, odd)]));
    add("stream/two_short_chunks", Damaged, file_of(&[(TEXT, nonce(0, false)), (TEXT, nonce(1, true))]));
    add("stream/two_final_chunks", Damaged, file_of(&[(TEXT, nonce(0, true)), (TEXT, nonce(1, true))]));
    add("stream/trailing_byte", Damaged, [good(), vec![0]].concat());
    add("stream/trailing_line", Damaged, [good(), b"\n".to_vec()].concat());
    add("stream/file_twice", Damaged, [good(), good()].concat());
    let mut other_nonce = good();
    let at = other_nonce.len() - rest.len();
    other_nonce[at] ^= 0x80;
    add("stream/other_nonce", Damaged, other_nonce);
    let foreign = payload_with(&[9; 16], &[(TEXT, nonce(0, true))]);
    add("stream/payload_of_another_file", Damaged, with_mac_line(&head, &good_line, &foreign));
    cases
}

fn for_other_tag() -> Vec<u8> {
    tag(&OTHER)
}

/// The same bytes with a bit set that belongs to none of them.
fn spare_bit(text: &str) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (rest, last) = text.split_at(text.len() - 1);
    let at = alphabet.find(last).unwrap();
    assert_eq!(at % 4, 0, "the last character of {text} has spare bits");
    format!("{rest}{}", &alphabet[at + 1..at + 2])
}

/// Points with which X25519 gives zero for every clamped scalar (RFC 7748 section 6.1), in all
/// spellings below 2^255: u = 0, 1, -1, the two of order 8, and p, p + 1.
fn low_order_points() -> Vec<(&'static str, [u8; 32])> {
    let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap();
    vec![
        ("0", [0; 32]),
        ("1", hex("0100000000000000000000000000000000000000000000000000000000000000")),
        ("order_8_a", hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
        ("order_8_b", hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")),
        ("minus_1", hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
        ("p", hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
        ("p_plus_1", hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
    ]
}

/// The bad files of more than one chunk, made anew each time: they are large.
pub(crate) fn large_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let full = vec![0x61; CHUNK];
    let more = vec![0x62; CHUNK];
    let (full, more, tail) = (full.as_slice(), more.as_slice(), TEXT);
    let mut add = |name: &str, bytes: Vec<u8>| {
        let name = format!("large/{name}");
        cases.push(Case { name, bytes, refused: OpenError::Damaged });
    };
    let (a, b, c) = (nonce(0, false), nonce(1, false), nonce(2, true));
    let whole = file_of(&[(full, a), (more, b), (tail, c)]);
    assert_eq!(**sealed::open(&HOST, &whole, usize::MAX).unwrap(), *[full, more, tail].concat());

    add("last_chunk_empty", file_of(&[(full, a), (b"", nonce(1, true))]));
    add("full_not_final", file_of(&[(full, a)]));
    add("two_none_final", file_of(&[(full, a), (tail, b)]));
    add("two_full_none_final", file_of(&[(full, a), (more, b)]));
    add("two_final", file_of(&[(full, nonce(0, true)), (tail, nonce(1, true))]));
    add("first_final_only", file_of(&[(full, nonce(0, true)), (tail, b)]));
    add("after_a_full_final_empty", file_of(&[(full, nonce(0, true)), (b"", nonce(1, true))]));
    add("swapped_nonces", file_of(&[(full, b), (more, a), (tail, c)]));
    add("first_again", file_of(&[(full, a), (full, a), (tail, c)]));
    add("one_left_out", file_of(&[(full, a), (tail, c)]));
    add("first_left_out", file_of(&[(more, b), (tail, c)]));
    let mut little = [0; 12];
    little[0] = 1;
    little[11] = 1;
    add("counter_little_endian", file_of(&[(full, a), (tail, little)]));
    add("counter_stays", file_of(&[(full, a), (tail, nonce(0, true))]));
    add("chunk_longer", file_of(&[(&[full, b"x"].concat(), nonce(0, true))]));
    add("chunk_shorter_in_between", file_of(&[(&full[1..], a), (tail, nonce(1, true))]));

    let begin = whole.len() - (2 * (CHUNK + 16) + tail.len() + 16);
    let (header, chunks) = whole.split_at(begin);
    let (first, rest) = chunks.split_at(CHUNK + 16);
    let (second, third) = rest.split_at(CHUNK + 16);
    add("swapped", [header, second, first, third].concat());
    add("last_first", [header, third, first, second].concat());
    add("last_cut_off", [header, first, second].concat());
    add("last_two_cut_off", [header, first].concat());
    add("last_again", [header, first, second, third, third].concat());
    add("middle_cut_out", [header, first, third].concat());
    for cut in [1, 15, 16, 17, tail.len() + 15, tail.len() + 16, tail.len() + 17, CHUNK] {
        add(&format!("cut_by_{cut}"), whole[..whole.len() - cut].to_vec());
    }
    let exact = file_of(&[(full, nonce(0, true))]);
    assert!(sealed::open(&HOST, &exact, CHUNK).is_ok());
    for tail in [1, 16, 17, CHUNK + 16] {
        add(&format!("trailing_{tail}"), [exact.clone(), vec![0; tail]].concat());
    }
    let mut flipped = whole.clone();
    flipped[begin + CHUNK + 16] ^= 1;
    add("second_flipped", flipped);
    cases
}
