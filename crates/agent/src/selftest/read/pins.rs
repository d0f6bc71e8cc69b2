//! Which of the pins the node's certificate matches, and for how long.

use proxmox_client::{ApiError, CertificateInfo, Client, Pin, PinKind};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use crate::config::ProxmoxSettings;
use crate::selftest::report::day;
use crate::selftest::{Check, Findings};

/// What pveproxy serves when it is there, instead of the node's own.
const CUSTOM: &str = "pveproxy-ssl.pem";
const NODE: &str = "pve-ssl.pem";
const CA: &str = "pve-root-ca.pem";

/// The connection stands, so at least one pin matches; says which, as far as the node's own list of its
/// certificates tells.
pub(super) fn check(
    client: &Client,
    settings: &ProxmoxSettings,
    certificates: &Result<Vec<CertificateInfo>, ApiError>,
    findings: &mut Findings<'_>,
) {
    let pins = settings.pins.pins();
    let certificates = match certificates {
        Ok(certificates) => certificates.as_slice(),
        // Its own line says why.
        Err(_) => &[],
    };
    findings.push(judge(&client.endpoint().to_string(), pins, certificates));
}

fn judge(endpoint: &str, pins: &[Pin], certificates: &[CertificateInfo]) -> Check {
    let mut matched = Vec::new();
    let mut others = Vec::new();
    for pin in pins {
        match shown_by(pin, certificates) {
            Some(certificate) => matched.push(format!("{} ({})", short(pin), describe(certificate))),
            None => others.push(short(pin)),
        }
    }
    if matched.is_empty() {
        let all: Vec<String> = pins.iter().map(short).collect();
        let seen = format!("{endpoint} shows what is pinned ({})", all.join(" or "));
        if certificates.is_empty() {
            return Check::ok("pin", seen);
        }
        return Check::warn(
            "pin",
            format!("{seen}, and that is none of the certificates that the node lists as its own"),
        )
        .with("Look what answers there: another node of the cluster, or something in between that holds a pinned key.");
    }
    let mut seen = format!("{endpoint} shows {}", matched.join(" and "));
    if !others.is_empty() {
        seen.push_str(&format!("; not shown: {}", others.join(", ")));
    }
    Check::ok("pin", seen)
}

fn short(pin: &Pin) -> String {
    let text = pin.to_string();
    let end = text.find(':').map_or(text.len(), |colon| (colon + 17).min(text.len()));
    format!("{}…", &text[..end])
}

/// The certificate by which the pin matches: the one that is served, or the CA.
fn shown_by<'a>(pin: &Pin, certificates: &'a [CertificateInfo]) -> Option<&'a CertificateInfo> {
    let named = |name: &str| certificates.iter().find(|info| info.filename.as_deref() == Some(name));
    let certificate = match pin.kind() {
        PinKind::Leaf | PinKind::Spki => named(CUSTOM).or_else(|| named(NODE))?,
        PinKind::Ca => named(CA)?,
    };
    let shown = match pin.kind() {
        PinKind::Leaf | PinKind::Ca => fingerprint(certificate)?,
        PinKind::Spki => public_key(certificate)?,
    };
    (shown == *pin.sha256()).then_some(certificate)
}

fn fingerprint(certificate: &CertificateInfo) -> Option<[u8; 32]> {
    let colons = certificate.fingerprint.as_deref()?;
    format!("leaf:{colons}").parse::<Pin>().ok().map(|pin| *pin.sha256())
}

/// The SHA-256 of the key of the first certificate in the file.
fn public_key(certificate: &CertificateInfo) -> Option<[u8; 32]> {
    let der = CertificateDer::from_pem_slice(certificate.pem.as_deref()?.as_bytes()).ok()?;
    let parsed = webpki::EndEntityCert::try_from(&der).ok()?;
    Some(Sha256::digest(parsed.subject_public_key_info()).into())
}

fn describe(certificate: &CertificateInfo) -> String {
    let name = certificate.filename.as_deref().unwrap_or("a certificate");
    match certificate.notafter {
        Some(end) => format!("{name}, until {}", day(end)),
        None => format!("{name}, its end is unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::State;

    fn certificate(name: &str, byte: u8) -> CertificateInfo {
        CertificateInfo {
            filename: Some(name.to_owned()),
            fingerprint: Some(vec![format!("{byte:02X}"); 32].join(":")),
            notafter: Some(1_795_317_258),
            ..CertificateInfo::default()
        }
    }

    fn pin(kind: &str, byte: u8) -> Pin {
        format!("{kind}:{}", format!("{byte:02x}").repeat(32)).parse().unwrap()
    }

    #[test]
    fn the_served_certificate_counts() {
        let node = [certificate("pve-root-ca.pem", 3), certificate("pve-ssl.pem", 1)];
        let both = [&node[..], &[certificate("pveproxy-ssl.pem", 2)]].concat();
        let check = judge("https://h", &[pin("leaf", 1), pin("leaf", 9)], &node);
        assert_eq!(check.state, State::Ok);
        assert_eq!(
            check.detail,
            "https://h shows leaf:0101010101010101… (pve-ssl.pem, until 2026-11-22); not shown: leaf:0909090909090909…"
        );
        assert_eq!(judge("h", &[pin("leaf", 2)], &both).state, State::Ok);
        assert_eq!(judge("h", &[pin("leaf", 1)], &both).state, State::Warn, "that one is not served");
        assert_eq!(judge("h", &[pin("ca", 3)], &both).state, State::Ok);
        assert_eq!(judge("h", &[pin("spki", 1)], &node).state, State::Warn, "without its text it has no key");
        assert_eq!(judge("h", &[pin("spki", 1)], &[]).state, State::Ok, "nothing is known");
        let strange = CertificateInfo {
            fingerprint: Some("x".to_owned()),
            pem: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".to_owned()),
            ..certificate("pve-ssl.pem", 1)
        };
        assert!(shown_by(&pin("leaf", 1), std::slice::from_ref(&strange)).is_none());
        assert!(shown_by(&pin("spki", 1), &[strange]).is_none());
    }
}
