//! What a server must show. Every refusal happens before the token is sent.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

mod common;

use common::{Ca, Identity, React, Server, client, client_at, params, server_config};
use proxmox_client::{Delivery, ErrorClass, Pin, PinKind};
use rcgen::{KeyPair, date_time_ymd};

const VERSION: &str = r#"{"version":"9.1.8","release":"9.1","repoid":"x"}"#;

async fn serve(identity: &Identity) -> Server {
    let config = server_config(identity.chain.clone(), &identity.key, rustls::ALL_VERSIONS);
    Server::start(config, |_, _| React::ok(VERSION)).await
}

/// The error of a connection that must not happen, after checking that nothing was sent.
async fn refused(server: &Server, pins: Vec<Pin>) -> proxmox_client::ApiError {
    let error = client(server, pins).version().await.unwrap_err();
    assert_eq!(server.count(), 0, "a request, and with it the token, was sent");
    assert_eq!(error.class(), ErrorClass::Untrusted, "{error}");
    assert_eq!(error.delivery(), Delivery::NotSent);
    error
}

#[tokio::test]
async fn the_right_leaf_or_key_is_accepted_in_both_tls_versions() {
    let identity = Identity::self_signed(&["somewhere.else"]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = server_config(identity.chain.clone(), &identity.key, &[version]);
        let server = Server::start(config, |_, _| React::ok(VERSION)).await;
        for pin in [identity.leaf_pin(), identity.spki_pin()] {
            assert_eq!(client(&server, vec![pin]).version().await.unwrap().release, "9.1");
        }
        assert!(server.last().head.to_lowercase().contains("authorization: pveapitoken="));
    }
}

#[tokio::test]
async fn one_matching_pin_of_several_is_enough() {
    let (identity, next) = (Identity::self_signed(&["localhost"]), Identity::self_signed(&["localhost"]));
    let server = serve(&identity).await;
    client(&server, vec![next.spki_pin(), next.leaf_pin(), identity.spki_pin()]).version().await.unwrap();
}

#[tokio::test]
async fn a_wrong_pin_is_refused_and_both_fingerprints_are_named() {
    let (identity, other) = (Identity::self_signed(&["localhost"]), Identity::self_signed(&["localhost"]));
    let server = serve(&identity).await;
    let error = refused(&server, vec![other.leaf_pin(), other.spki_pin()]).await;
    let text = error.to_string();
    assert!(text.contains(&identity.leaf_pin().to_string()), "{text}");
    assert!(text.contains(&identity.spki_pin().to_string()), "{text}");
    assert!(text.contains("compare") && text.contains("re-pin"), "{text}");
    let mismatch = error.pin_mismatch().unwrap();
    assert_eq!((mismatch.leaf, mismatch.spki), (identity.leaf_pin(), Some(identity.spki_pin())));
    assert_eq!(mismatch.wanted.len(), 2);
}

#[tokio::test]
async fn the_right_hash_under_the_wrong_kind_is_refused() {
    let identity = Identity::self_signed(&["localhost"]);
    let server = serve(&identity).await;
    let (leaf, spki) = (*identity.leaf_pin().sha256(), *identity.spki_pin().sha256());
    for pin in [
        Pin::new(PinKind::Spki, leaf),
        Pin::new(PinKind::Leaf, spki),
        Pin::new(PinKind::Ca, leaf),
        Pin::new(PinKind::Ca, spki),
    ] {
        refused(&server, vec![pin]).await;
    }
}

#[tokio::test]
async fn the_pinned_certificate_with_another_key_is_refused_in_both_tls_versions() {
    let victim = Identity::self_signed(&["localhost"]);
    let attacker = KeyPair::generate().unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = server_config(victim.chain.clone(), &attacker, &[version]);
        let server = Server::start(config, |_, _| React::ok(VERSION)).await;
        for pin in [victim.leaf_pin(), victim.spki_pin()] {
            let error = refused(&server, vec![pin]).await;
            assert!(error.pin_mismatch().is_none(), "the pin matched; the signature must not: {error}");
            assert!(error.to_string().contains("BadSignature"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_renewed_certificate_with_the_same_key_keeps_its_spki_pin() {
    let old = Identity::self_signed(&["localhost"]);
    let key = KeyPair::from_pem(&old.key.serialize_pem()).unwrap();
    let renewed = Identity::with_key(&["localhost", "pve1"], key);
    assert_ne!(old.leaf_pin(), renewed.leaf_pin());
    let server = serve(&renewed).await;
    refused(&server, vec![old.leaf_pin()]).await;
    client(&server, vec![old.spki_pin()]).version().await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_accepted_by_its_own_pin_only() {
    let ca = Ca::new("Proxmox Virtual Environment");
    let mut expired = params(&["127.0.0.1"]);
    expired.not_after = date_time_ymd(2001, 1, 1);
    let identity = ca.issue(expired, true);
    let server = serve(&identity).await;
    for pin in [identity.leaf_pin(), identity.spki_pin()] {
        client(&server, vec![pin]).version().await.unwrap();
    }
    let error = client(&server, vec![ca.pin()]).version().await.unwrap_err();
    assert!(error.pin_mismatch().unwrap().ca_notes[0].contains("does not verify"), "{error}");
}

#[tokio::test]
async fn a_ca_pin_needs_the_ca_in_the_chain_the_name_and_the_signature() {
    let ca = Ca::new("Proxmox Virtual Environment");
    let good = ca.issue(params(&["127.0.0.1", "localhost"]), true);
    let server = serve(&good).await;
    client(&server, vec![ca.pin()]).version().await.unwrap();
    client_at(&format!("https://localhost:{}", server.address.port()), vec![ca.pin()])
        .version()
        .await
        .unwrap();

    let silent = serve(&ca.issue(params(&["127.0.0.1"]), false)).await;
    let error = refused(&silent, vec![ca.pin()]).await;
    assert!(error.to_string().contains("does not send that CA certificate"), "{error}");

    let elsewhere = serve(&ca.issue(params(&["pve2"]), true)).await;
    let error = refused(&elsewhere, vec![ca.pin()]).await;
    assert!(error.to_string().contains("the leaf is not for 127.0.0.1"), "{error}");

    // Anybody can append the pinned CA's certificate to a chain it did not sign.
    let mut forged = Identity::self_signed(&["127.0.0.1"]);
    forged.chain.push(ca.der());
    let forged = serve(&forged).await;
    refused(&forged, vec![ca.pin()]).await;

    // Nor does a CA of the same name help.
    let mut impostor = Ca::new("Proxmox Virtual Environment").issue(params(&["127.0.0.1"]), true);
    impostor.chain.push(ca.der());
    let impostor = serve(&impostor).await;
    refused(&impostor, vec![ca.pin()]).await;
}

#[tokio::test]
async fn a_certificate_that_is_none_is_refused() {
    let identity = Identity::self_signed(&["localhost"]);
    let junk = rustls::pki_types::CertificateDer::from(b"not a certificate".to_vec());
    let config = server_config(vec![junk], &identity.key, rustls::ALL_VERSIONS);
    let server = Server::start(config, |_, _| React::ok(VERSION)).await;
    let error = refused(&server, vec![identity.spki_pin(), identity.leaf_pin()]).await;
    assert_eq!(error.pin_mismatch().map(|mismatch| mismatch.spki), Some(None), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_not_a_trust_problem() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let pin = Identity::self_signed(&["localhost"]).leaf_pin();
    let error = client_at(&format!("https://127.0.0.1:{port}"), vec![pin]).version().await.unwrap_err();
    assert_eq!((error.class(), error.delivery()), (ErrorClass::NodeUnreachable, Delivery::NotSent));
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn what_was_presented_is_known_after_the_connection_and_only_then() {
    let mut dated = params(&["localhost"]);
    dated.not_after = date_time_ymd(2030, 1, 31);
    let key = KeyPair::generate().unwrap();
    let cert = dated.self_signed(&key).unwrap();
    let identity = Identity { chain: vec![cert.der().clone()], key };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = server_config(identity.chain.clone(), &identity.key, &[version]);
        let server = Server::start(config, |_, _| React::ok(VERSION)).await;
        for pin in [identity.leaf_pin(), identity.spki_pin()] {
            let client = client(&server, vec![pin]);
            assert_eq!(client.presented(), None);
            client.version().await.unwrap();
            let presented = client.presented().unwrap();
            assert_eq!((presented.leaf, presented.spki), (identity.leaf_pin(), identity.spki_pin()));
            assert_eq!((presented.not_after, presented.matched), (Some(1_896_048_000), pin));
        }
    }
    // A copy of the certificate without its key proves nothing, and is not reported either.
    let config = server_config(identity.chain.clone(), &KeyPair::generate().unwrap(), rustls::ALL_VERSIONS);
    let server = Server::start(config, |_, _| React::ok(VERSION)).await;
    let client = client(&server, vec![identity.spki_pin()]);
    client.version().await.unwrap_err();
    assert_eq!(client.presented(), None);
}

#[tokio::test]
async fn a_mismatch_shows_both_fingerprints_and_how_to_re_pin() {
    let (identity, other) = (Identity::self_signed(&["localhost"]), Identity::self_signed(&["localhost"]));
    let server = serve(&identity).await;
    for (old, new) in [(other.spki_pin(), identity.spki_pin()), (other.leaf_pin(), identity.leaf_pin())] {
        let text = refused(&server, vec![old]).await.to_string();
        assert!(text.contains(&format!("expected {old}")), "{text}");
        assert!(text.contains(&format!("`sed -i 's/{old}/{new}/' CONFIG`")), "{text}");
    }
}

/// A directory of fingerprints as root's oneshot leaves it.
fn root_copy(pins: &[Pin]) -> (tempfile::TempDir, proxmox_client::PinDir) {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pins");
    std::fs::write(&path, pins.iter().map(|pin| format!("{pin}\n")).collect::<String>()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pins = proxmox_client::PinDir::new(directory.path());
    (directory, pins)
}

fn client_with_copy(server: &Server, pin: Pin, copy: proxmox_client::PinDir) -> proxmox_client::Client {
    let pins = proxmox_client::PinSet::new(vec![pin]).unwrap().with_root_copy(copy);
    let url = format!("https://127.0.0.1:{}", server.address.port());
    let token = common::TOKEN.parse().unwrap();
    proxmox_client::Client::new(url.parse().unwrap(), pins, token).unwrap().with_node("pve1".parse().unwrap())
}

#[tokio::test]
async fn a_changed_leaf_is_accepted_when_root_wrote_it_down() {
    let (old, new) = (Identity::self_signed(&["localhost"]), Identity::self_signed(&["localhost"]));
    let server = serve(&new).await;
    let (kept, copy) = root_copy(&[new.leaf_pin()]);
    let client = client_with_copy(&server, old.leaf_pin(), copy);
    client.version().await.unwrap();
    assert_eq!(client.presented().unwrap().matched, new.leaf_pin());
    // A mutation makes a connection anew, and root's word is asked for anew.
    let (vmid, name) = (proxmox_client::Vmid::new(100).unwrap(), "before".parse().unwrap());
    let delete =
        async || client.snapshot_delete(proxmox_client::GuestKind::Qemu, vmid, &name).await.unwrap_err();
    assert_eq!(
        (delete().await.delivery(), server.last().method.as_str()),
        (Delivery::MaybeExecuted, "DELETE")
    );
    std::fs::remove_file(kept.path().join("pins")).unwrap();
    let sent = server.count();
    let error = delete().await;
    assert_eq!((error.class(), error.delivery()), (ErrorClass::Untrusted, Delivery::NotSent), "{error}");
    assert_eq!(server.count(), sent);
}

#[tokio::test]
async fn a_changed_leaf_that_root_did_not_write_down_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (old, new) = (Identity::self_signed(&["localhost"]), Identity::self_signed(&["localhost"]));
    let server = serve(&new).await;
    let refused = async |copy: proxmox_client::PinDir| {
        let error = client_with_copy(&server, old.leaf_pin(), copy).version().await.unwrap_err();
        assert_eq!((error.class(), server.count()), (ErrorClass::Untrusted, 0));
        error.to_string()
    };
    let (_kept, copy) = root_copy(&[old.leaf_pin()]);
    assert!(refused(copy).await.contains("does not hold it either"));
    // The right fingerprint where anybody could have put it.
    let (kept, copy) = root_copy(&[new.leaf_pin()]);
    std::fs::set_permissions(kept.path().join("pins"), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(refused(copy).await.contains("writable by others"));
    assert!(refused(proxmox_client::PinDir::new("/nonexistent")).await.contains("cannot read"));
    // The right fingerprint of a certificate whose key somebody else lacks.
    let forged = server_config(new.chain.clone(), &KeyPair::generate().unwrap(), rustls::ALL_VERSIONS);
    let forged = Server::start(forged, |_, _| React::ok(VERSION)).await;
    let (_kept, copy) = root_copy(&[new.leaf_pin()]);
    let client = client_with_copy(&forged, old.leaf_pin(), copy);
    assert_eq!(client.version().await.unwrap_err().class(), ErrorClass::Untrusted);
    assert_eq!((forged.count(), client.presented()), (0, None));
}
