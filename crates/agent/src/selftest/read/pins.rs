//! Which of the pins the node's certificate matches, and for how long.

use proxmox_client::{ApiError, CertificateInfo, Client, Pin, Presented};

use crate::config::ProxmoxSettings;
use crate::selftest::report::day;
use crate::selftest::{Check, Findings};

/// The connection stands, so a pin matches: says which, until when the certificate is valid, and whether the
/// node lists it as one of its own.
pub(super) fn check(
    client: &Client,
    settings: &ProxmoxSettings,
    certificates: Option<&Result<Vec<CertificateInfo>, ApiError>>,
    findings: &mut Findings<'_>,
) {
    // That they cannot be read is said on a line of its own.
    let certificates = certificates.and_then(|list| list.as_ref().ok()).map_or(&[][..], Vec::as_slice);
    let endpoint = client.endpoint().to_string();
    let check = match client.presented() {
        Some(presented) => judge(&endpoint, settings.pins.pins(), &presented, certificates),
        None => Check::warn("pin", format!("nothing was heard from {endpoint} over TLS yet")),
    };
    findings.push(check);
}

fn judge(endpoint: &str, pins: &[Pin], presented: &Presented, certificates: &[CertificateInfo]) -> Check {
    let shown = |pin: &&Pin| [presented.leaf, presented.spki, presented.matched].contains(*pin);
    let (matched, others): (Vec<&Pin>, Vec<&Pin>) = pins.iter().partition(shown);
    let list = |pins: &[&Pin]| pins.iter().map(|pin| short(pin)).collect::<Vec<_>>().join(" and ");
    let served = certificates.iter().find(|info| fingerprint(info) == Some(*presented.leaf.sha256()));
    let name = served.and_then(|info| info.filename.as_deref());
    let mut seen = match matched.is_empty() {
        false => format!("{endpoint} shows {}", list(&matched)),
        true => format!("{endpoint} shows {}, which root wrote into `pins_dir`", short(&presented.matched)),
    };
    let end = match presented.not_after {
        Some(end) => format!("until {}", day(end)),
        None => "its end cannot be read".to_owned(),
    };
    seen.push_str(&format!(" ({}{end})", name.map(|name| format!("{name}, ")).unwrap_or_default()));
    if !others.is_empty() {
        seen.push_str(&format!("; not shown: {}", list(&others)));
    }
    if served.is_none() && !certificates.is_empty() {
        return Check::warn("pin", format!("{seen}, and that is none of the certificates that the node lists as its own")).with(
            "Look what answers there: another node of the cluster, or something in between that holds a pinned key.",
        );
    }
    Check::ok("pin", seen)
}

fn short(pin: &Pin) -> String {
    let text = pin.to_string();
    let end = text.find(':').map_or(text.len(), |colon| (colon + 17).min(text.len()));
    format!("{}…", &text[..end])
}

fn fingerprint(certificate: &CertificateInfo) -> Option<[u8; 32]> {
    let colons = certificate.fingerprint.as_deref()?;
    format!("leaf:{colons}").parse::<Pin>().ok().map(|pin| *pin.sha256())
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

    fn presented(leaf: u8, matched: Pin) -> Presented {
        Presented {
            leaf: pin("leaf", leaf),
            spki: pin("spki", leaf),
            not_after: Some(1_795_317_258),
            matched,
        }
    }

    #[test]
    fn what_was_shown_counts() {
        let node = [certificate("pve-root-ca.pem", 3), certificate("pve-ssl.pem", 1)];
        let shown = presented(1, pin("leaf", 1));
        let check = judge("https://h", &[pin("leaf", 1), pin("spki", 1), pin("leaf", 9)], &shown, &node);
        assert_eq!(check.state, State::Ok);
        assert_eq!(
            check.detail,
            "https://h shows leaf:0101010101010101… and spki:0101010101010101… (pve-ssl.pem, until 2026-11-22); not shown: leaf:0909090909090909…"
        );
        let by_ca = judge("h", &[pin("ca", 3)], &presented(1, pin("ca", 3)), &node);
        assert!(by_ca.state == State::Ok && by_ca.detail.contains("shows ca:03"), "{}", by_ca.detail);
        let foreign = judge("h", &[pin("spki", 7)], &presented(7, pin("spki", 7)), &node);
        assert_eq!(foreign.state, State::Warn, "the node does not know it");
        assert_eq!(judge("h", &[pin("spki", 7)], &presented(7, pin("spki", 7)), &[]).state, State::Ok);
        let rotated = judge("h", &[pin("leaf", 9)], &presented(1, pin("leaf", 1)), &node);
        assert!(rotated.detail.contains("root wrote"), "{}", rotated.detail);
        let strange = CertificateInfo { fingerprint: Some("x".to_owned()), ..certificate("pve-ssl.pem", 1) };
        assert_eq!(judge("h", &[pin("leaf", 1)], &shown, &[strange]).state, State::Warn);
    }
}
