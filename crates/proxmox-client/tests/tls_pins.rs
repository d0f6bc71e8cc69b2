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
