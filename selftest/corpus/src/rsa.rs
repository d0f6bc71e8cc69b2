//! RSA signatures from seeds, right and wrong: only for making test data. Nothing here is constant in time,
//! and no key of it guards anything.

use sha2::{Digest as _, Sha512};

/// A number, least significant limb first.
type Big = Vec<u64>;

/// A key whose primes follow from a seed.
#[derive(Clone)]
pub struct RsaKey {
    e: u64,
    n: Big,
    d: Big,
}

/// How far after its seed's number each prime lies, in steps of 2: found once by [`search`], so that writing the
/// corpus does not search again. (bits of the modulus, e, offsets of p and q)
const PRIMES: [(usize, u64, [u64; 2]); 4] = [
    (1024, 65_537, [18, 56]),
    (2048, 65_537, [357, 135]),
    (3072, 65_537, [522, 986]),
    (3072, 3, [2581, 1223]),
];

impl RsaKey {
    /// The shortest that counts.
    pub fn bits3072() -> Self {
        Self::of(2)
    }

    /// Too short.
    pub fn bits2048() -> Self {
        Self::of(1)
    }

    /// Far too short.
    pub fn bits1024() -> Self {
        Self::of(0)
    }

    /// 3072 bits with the exponent 3.
    pub fn exponent3() -> Self {
        Self::of(3)
    }

    fn of(which: usize) -> Self {
        let (bits, e, offsets) = PRIMES[which];
        let [p, q] = [0, 1].map(|side| candidate(bits / 2, e, side, offsets[usize::from(side)]));
        let n = product(&p, &q);
        let phi = product(&minus_one(&p), &minus_one(&q));
        // d = (1 + k phi) / e, for the k that makes it whole.
        let rest = modulo(&phi, e);
        let k = (1..e).find(|k| (1 + k * rest).is_multiple_of(e)).unwrap();
        let mut d = product(&phi, &[k]);
        increment(&mut d, 1);
        Self { e, n, d: quotient(&d, e) }
    }

    /// Big-endian.
    pub fn e(&self) -> Vec<u8> {
        self.e.to_be_bytes().to_vec()
    }

    /// Big-endian.
    pub fn n(&self) -> Vec<u8> {
        to_be(&self.n)
    }

    /// Bytes of the modulus.
    pub fn size(&self) -> usize {
        self.n().len()
    }

    /// PKCS #1 v1.5: `00 01 FF… 00 info digest`.
    pub fn padded(&self, info: &[u8], digest: &[u8]) -> Vec<u8> {
        let filler = self.size() - 3 - info.len() - digest.len();
        [&[0, 1][..], &vec![0xff; filler], &[0], info, digest].concat()
    }

    /// The power of whatever was padded, as long as the modulus.
    pub fn sign(&self, padded: &[u8]) -> Vec<u8> {
        let power = to_be(&power(&from_be(padded), &self.d, &self.n));
        [vec![0; self.size() - power.len()], power].concat()
    }
}

/// What stands before a digest of this length (RFC 8017 section 9.2).
pub fn info(length: usize) -> &'static [u8] {
    match length {
        20 => &[0x30, 0x21, 0x30, 0x09, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 0x14],
        32 => &[0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20],
        _ => &[0x30, 0x51, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 0x40],
    }
}

/// Finds the offsets of [`PRIMES`] anew.
pub fn search() -> Vec<[u64; 2]> {
    PRIMES
        .iter()
        .map(|(bits, e, _)| {
            [0, 1].map(|side| {
                (0..).find(|offset| is_prime(&candidate(bits / 2, *e, side, *offset), *e)).unwrap()
            })
        })
        .collect()
}

/// The two highest bits are set, so that the product has exactly the bits that it shall have.
fn candidate(bits: usize, e: u64, side: u8, offset: u64) -> Big {
    let mut bytes = Vec::new();
    for block in 0..bits.div_ceil(512) {
        let seed = format!("corpus rsa {bits} {e} {side} {block}");
        bytes.extend_from_slice(&Sha512::digest(seed.as_bytes()));
    }
    bytes.truncate(bits / 8);
    bytes[0] |= 0xc0;
    let last = bytes.len() - 1;
    bytes[last] |= 1;
    let mut number = from_be(&bytes);
    increment(&mut number, 2 * offset);
    number
}

/// Trial division, then Fermat's test with 2, which is enough for numbers that nobody chose.
fn is_prime(number: &[u64], e: u64) -> bool {
    let small = (3..20_000u64).step_by(2).all(|small| modulo(number, small) != 0);
    small && modulo(number, e) > 1 && power(&[2], &minus_one(number), number) == [1]
}

fn from_be(bytes: &[u8]) -> Big {
    let limb = |chunk: &[u8]| chunk.iter().fold(0u64, |limb, byte| limb << 8 | u64::from(*byte));
    trimmed(bytes.rchunks(8).map(limb).collect())
}

fn to_be(number: &[u64]) -> Vec<u8> {
    let bytes: Vec<u8> = number.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect();
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
}

fn trimmed(mut number: Big) -> Big {
    while number.last() == Some(&0) {
        number.pop();
    }
    number
}

fn increment(number: &mut Big, by: u64) {
    let mut carry = by;
    for limb in number.iter_mut() {
        let (sum, over) = limb.overflowing_add(carry);
        *limb = sum;
        carry = u64::from(over);
    }
    if carry != 0 {
        number.push(carry);
    }
}

/// Of an odd number.
fn minus_one(number: &[u64]) -> Big {
    let mut less = number.to_vec();
    less[0] -= 1;
    less
}

fn product(a: &[u64], b: &[u64]) -> Big {
    let mut sum = vec![0u64; a.len() + b.len()];
    for (i, x) in a.iter().enumerate() {
        let mut carry = 0u128;
        for (j, y) in b.iter().enumerate() {
            let cell = u128::from(*x) * u128::from(*y) + u128::from(sum[i + j]) + carry;
            sum[i + j] = cell as u64;
            carry = cell >> 64;
        }
        sum[i + b.len()] = carry as u64;
    }
    trimmed(sum)
}

fn modulo(number: &[u64], by: u64) -> u64 {
    let rest =
        number.iter().rev().fold(0u128, |rest, limb| (rest << 64 | u128::from(*limb)) % u128::from(by));
    rest as u64
}

fn quotient(number: &[u64], by: u64) -> Big {
    let mut rest = 0u128;
    let mut limbs: Big = number
        .iter()
        .rev()
        .map(|limb| {
            rest = rest << 64 | u128::from(*limb);
            let digit = rest / u128::from(by);
            rest %= u128::from(by);
            digit as u64
        })
        .collect();
    limbs.reverse();
    trimmed(limbs)
}

fn at_least(a: &[u64], b: &[u64]) -> bool {
    a.iter().rev().cmp(b.iter().rev()).is_ge()
}

fn take_away(a: &mut [u64], b: &[u64]) {
    let mut borrow = false;
    for (x, y) in a.iter_mut().zip(b) {
        let (less, first) = x.overflowing_sub(*y);
        let (less, second) = less.overflowing_sub(u64::from(borrow));
        *x = less;
        borrow = first || second;
    }
}

/// Montgomery's product: a b / 2^(64 size) modulo an odd n.
fn montgomery(a: &[u64], b: &[u64], n: &[u64], inverse: u64) -> Big {
    let size = n.len();
    let mut sum = vec![0u64; size + 2];
    for x in a {
        let mut carry = 0u128;
        for (j, y) in b.iter().enumerate() {
            let cell = u128::from(*x) * u128::from(*y) + u128::from(sum[j]) + carry;
            sum[j] = cell as u64;
            carry = cell >> 64;
        }
        let top = u128::from(sum[size]) + carry;
        (sum[size], sum[size + 1]) = (top as u64, (top >> 64) as u64);
        let factor = u128::from(sum[0].wrapping_mul(inverse));
        let mut carry = (factor * u128::from(n[0]) + u128::from(sum[0])) >> 64;
        for j in 1..size {
            let cell = factor * u128::from(n[j]) + u128::from(sum[j]) + carry;
            sum[j - 1] = cell as u64;
            carry = cell >> 64;
        }
        let top = u128::from(sum[size]) + carry;
        sum[size - 1] = top as u64;
        sum[size] = sum[size + 1].wrapping_add((top >> 64) as u64);
    }
    sum.truncate(size + 1);
    let mut long = n.to_vec();
    long.push(0);
    if at_least(&sum, &long) {
        take_away(&mut sum, &long);
    }
    sum.truncate(size);
    sum
}

/// base^exponent modulo an odd n; base < n.
fn power(base: &[u64], exponent: &[u64], n: &[u64]) -> Big {
    // -1/n modulo 2^64, by Newton's rule.
    let mut inverse = 1u64;
    for _ in 0..6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(n[0].wrapping_mul(inverse)));
    }
    let inverse = inverse.wrapping_neg();
    let size = n.len();
    let padded = |number: &[u64]| {
        let mut number = number.to_vec();
        number.resize(size, 0);
        number
    };
    // 2^(128 size) mod n, by doubling 1.
    let mut square = padded(&[1]);
    let mut long = n.to_vec();
    long.push(0);
    for _ in 0..128 * size {
        let mut double: Big = Vec::with_capacity(size + 1);
        let mut carry = 0;
        for limb in &square {
            double.push(limb << 1 | carry);
            carry = limb >> 63;
        }
        double.push(carry);
        if at_least(&double, &long) {
            take_away(&mut double, &long);
        }
        double.truncate(size);
        square = double;
    }
    let base = montgomery(&padded(base), &square, n, inverse);
    let mut result = montgomery(&padded(&[1]), &square, n, inverse);
    for limb in exponent.iter().rev() {
        for bit in (0..64).rev() {
            result = montgomery(&result, &result, n, inverse);
            if limb >> bit & 1 == 1 {
                result = montgomery(&result, &base, n, inverse);
            }
        }
    }
    trimmed(montgomery(&result, &padded(&[1]), n, inverse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_comes_back_and_primes_are_where_they_were_found() {
        assert_eq!(power(&[3], &[200], &[1_000_000_007]), [power_plain(3, 200, 1_000_000_007)]);
        let key = RsaKey::bits1024();
        assert_eq!(key.size(), 128);
        let padded = key.padded(info(32), &[7; 32]);
        let back = power(&from_be(&key.sign(&padded)), &[key.e], &key.n);
        assert_eq!(to_be(&back), padded[1..]);
        assert_eq!(RsaKey::bits3072().size(), 384);
    }

    fn power_plain(base: u64, exponent: u64, n: u64) -> u64 {
        (0..exponent).fold(1, |power, _| power * base % n)
    }
}
