//! SSH's wire types (RFC 4251 section 5), read strictly: lengths are exact (rule V6), nothing is reserved
//! for a length (V23), and a number has one spelling (V11).

/// What is wrong with the bytes, as a few words for a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged(pub(crate) &'static str);

pub(crate) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Damaged> {
    let (head, tail) = rest.split_at_checked(length).ok_or(Damaged("cut short"))?;
    *rest = tail;
    Ok(head)
}

pub(crate) fn take_u32(rest: &mut &[u8]) -> Result<u32, Damaged> {
    let bytes = take(rest, 4)?;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

pub(crate) fn take_u64(rest: &mut &[u8]) -> Result<u64, Damaged> {
    let bytes = take(rest, 8)?;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// `string`. Nothing is reserved for the length; it only cuts what is there (V23).
pub(crate) fn take_string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Damaged> {
    let length = take_u32(rest)?;
    take(rest, usize::try_from(length).map_err(|_| Damaged("cut short"))?)
}

/// `mpint` that is positive and minimal (V11); gives the magnitude without a leading zero.
pub(crate) fn take_positive<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Damaged> {
    match take_string(rest)? {
        [] | [0] => Err(Damaged("a number is zero")),
        [0, next, ..] if *next < 0x80 => Err(Damaged("a number has needless zeros in front")),
        [0, magnitude @ ..] => Ok(magnitude),
        [first, ..] if *first >= 0x80 => Err(Damaged("a number is negative")),
        magnitude => Ok(magnitude),
    }
}

/// V6: no trailing bytes at any level.
pub(crate) fn nothing_left(rest: &[u8]) -> Result<(), Damaged> {
    if rest.is_empty() { Ok(()) } else { Err(Damaged("bytes left over")) }
}

pub(crate) fn put_string(bytes: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("we only write keys, names and hashes");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(string);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        let read = |bytes: &[u8]| {
            let mut field = Vec::new();
            put_string(&mut field, bytes);
            take_positive(&mut field.as_slice()).map(<[u8]>::to_vec)
        };
        assert_eq!(read(&[1]), Ok(vec![1]));
        assert_eq!(read(&[0, 0x80]), Ok(vec![0x80]));
        assert_eq!(read(&[0x7f, 0]), Ok(vec![0x7f, 0]));
        for bad in [&[][..], &[0], &[0, 0], &[0, 1], &[0, 0, 0x80], &[0x80], &[0xff, 0xff]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_never_reach_beyond_what_is_there() {
        for length in [1u32, 5, 0x7fff_ffff, u32::MAX] {
            let bytes = [&length.to_be_bytes()[..], b""].concat();
            assert_eq!(take_string(&mut bytes.as_slice()), Err(Damaged("cut short")));
        }
        assert!(take_u64(&mut &[0; 7][..]).is_err());
        assert_eq!(take_u64(&mut &[0, 0, 0, 0, 0, 0, 1, 0][..]), Ok(256));
    }
}
