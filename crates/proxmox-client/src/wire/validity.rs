//! When a certificate ends. Only for reports: what is trusted is decided by pins.

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode as _, Header, Reader, SliceReader, Tag};

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
