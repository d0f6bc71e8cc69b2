//! Times that others wrote: when a certificate ends (only for reports: what is trusted is decided by
//! pins), and when an answer was sent.

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{DateTime, Decode as _, Header, Reader, SliceReader, Tag};

/// `notAfter` of a DER certificate, seconds since 1970; `None` if it cannot be read.
pub(crate) fn not_after(certificate: &[u8]) -> Option<u64> {
    read(certificate).ok()
}

/// `Certificate { TBSCertificate { [0] version, serial, algorithm, issuer, Validity { notBefore, notAfter } … } … }`.
fn read(certificate: &[u8]) -> der::Result<u64> {
    let mut outer = SliceReader::new(certificate)?;
    outer.tlv_bytes()?;
    outer.finish()?;
    let mut whole = SliceReader::new(certificate)?;
    enter(&mut whole)?;
    enter(&mut whole)?;
    if Tag::peek(&whole)?.is_context_specific() {
        whole.tlv_bytes()?;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        whole.tlv_bytes()?;
    }
    enter(&mut whole)?;
    whole.tlv_bytes()?;
    let end = AnyRef::decode(&mut whole)?;
    Ok(match der::Tagged::tag(&end) {
        Tag::UtcTime => end.decode_as::<UtcTime>()?.to_unix_duration(),
        _ => end.decode_as::<GeneralizedTime>()?.to_unix_duration(),
    }
    .as_secs())
}

/// A `Date` header, `Sun, 22 Nov 2026 03:13:37 GMT`, as seconds since 1970. The weekday is not looked at;
/// the two older forms of such dates nobody sends.
pub(crate) fn http_date(text: &[u8]) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = std::str::from_utf8(text).ok()?.split_once(", ")?;
    let mut words = rest.split(' ');
    let mut word = || words.next();
    let (day, month, year) = (digits(word()?, 2)?, word()?, digits(word()?, 4)?);
    let mut time = word()?.split(':');
    let mut part = || digits(time.next()?, 2);
    let (hour, minutes, seconds) = (part()?, part()?, part()?);
    if time.next().is_some() || word() != Some("GMT") || word().is_some() {
        return None;
    }
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let small = |number: u16| u8::try_from(number).ok();
    let date = DateTime::new(
        year,
        u8::try_from(month).ok()?,
        small(day)?,
        small(hour)?,
        small(minutes)?,
        small(seconds)?,
    );
    Some(date.ok()?.unix_duration().as_secs())
}

/// A number of exactly that many digits.
fn digits(text: &str, count: usize) -> Option<u16> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Steps into a SEQUENCE. What follows its end is not looked at.
fn enter(reader: &mut SliceReader<'_>) -> der::Result<()> {
    Header::decode(reader)?.tag().assert_eq(Tag::Sequence).map(drop)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["pve1".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 31);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn dates_of_answers() {
        // As recorded, with the time of the recording beside it.
        assert_eq!(http_date(b"Sun, 22 Nov 2026 03:13:37 GMT"), Some(1_795_317_217));
        assert_eq!(http_date(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for bad in [
            "",
            "Sun, ",
            "Sun, 22 Nov 2026 03:13:37",
            "Sun, 22 Nov 2026 03:13:37 UTC",
            "Sun, 22 Nov 2026 03:13:37 GMT GMT",
            "Sun, 22 Nov 2026 03:13:37:00 GMT",
            "Sun, 32 Nov 2026 03:13:37 GMT",
            "Sun, 22 Foo 2026 03:13:37 GMT",
            "Sun, 22 Nov 2026 25:13:37 GMT",
            "Sun, 22 Nov 0000 03:13:37 GMT",
            "Sun, 22 Nov +026 03:13:37 GMT",
            "Sunday, 22-Nov-26 03:13:37 GMT",
            "Sun Nov 22 03:13:37 2026",
            "Sun, 22 Nov 99999999999 03:13:37 GMT",
        ] {
            assert_eq!(http_date(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(http_date(b"\xff\xff, 22 Nov 2026 03:13:37 GMT"), None);
    }

    #[test]
    fn both_forms_of_time() {
        // 2030 is a UTCTime, 2051 a GeneralizedTime.
        assert_eq!(not_after(&certificate(2030)), Some(1_896_048_000));
        assert_eq!(not_after(&certificate(2051)), Some(2_558_736_000));
    }

    #[test]
    fn hostile_certificates_are_no_date_and_no_panic() {
        let whole = certificate(2030);
        for length in 0..whole.len().min(400) {
            let cut = &whole[..length];
            let mut bent = whole.clone();
            bent[length] = bent[length].wrapping_add(0x40);
            // Whatever comes of it, it comes back.
            let _dates = (not_after(cut), not_after(&bent));
        }
        for bad in [&b""[..], b"not a certificate", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30; 300]] {
            assert_eq!(not_after(bad), None);
        }
        assert_eq!(not_after(&whole[..whole.len() / 3]), None);
    }
}
