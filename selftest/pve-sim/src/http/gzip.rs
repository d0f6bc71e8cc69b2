//! The gzip container around uncompressed data: enough for an answer a client has to unpack.

/// Packs `data` under a file name.
pub(crate) fn store(name: &str, data: &[u8]) -> Vec<u8> {
    // deflate, with a name, no time, Unix
    let mut out = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
    out.extend(name.bytes().filter(|b| *b != 0));
    out.push(0);
    let mut rest = data;
    loop {
        let size = u16::try_from(rest.len()).unwrap_or(u16::MAX);
        let (block, tail) = rest.split_at(usize::from(size));
        rest = tail;
        out.push(u8::from(rest.is_empty()));
        out.extend(size.to_le_bytes());
        out.extend((!size).to_le_bytes());
        out.extend(block);
        if rest.is_empty() {
            break;
        }
    }
    out.extend(crc32(data).to_le_bytes());
    // The format wants the length modulo 2^32.
    out.extend((data.len() as u32).to_le_bytes());
    out
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_usual_example() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn blocks() {
        let packed = store("n", &vec![7; 70_000]);
        // head, name, two block heads, data, checksum and length
        assert_eq!(packed.len(), 10 + 2 + 5 + 65_535 + 5 + 4_465 + 8);
        assert_eq!(&packed[12..17], &[0, 0xff, 0xff, 0, 0]);
        assert_eq!(store("", b"").len(), 10 + 1 + 5 + 8);
    }
}
