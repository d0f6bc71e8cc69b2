//! A host, a policy and orders for the unit tests.

use authz::order::{HostRef, JobParams, PolicyRef, Preconditions, SessionMode, SessionParams};
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Kind, Namespace, Order, Params, SecretKey};
use protocol::{Envelope, HostId, Nonce, Sha256};

use anchored::Anchor;

use crate::ledger::WHO;

/// The clock of the unit tests.
pub(crate) const NOW: u64 = 1_763_770_000;
/// The host.
pub(crate) const HOST_ID: HostId = HostId::from_bytes([0x11; 16]);

/// The host's key.
pub(crate) fn host() -> SecretKey {
    SecretKey::from_seed(&[0x4b; 32])
}

/// Alice, who may order scripts and sessions.
pub(crate) fn policy() -> PolicyDocument {
    let rule = |kind, standing, max_validity_s| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold: 1,
        standing,
        max_validity_s,
    };
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: NOW,
        operators: vec![Operator {
            name: "alice".parse().unwrap(),
            keys: vec![SecretKey::from_seed(&[7; 32]).public().into()],
        }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Job, Namespace::Session, Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: vec![rule(Kind::JobRun, true, 3600), rule(Kind::SessionOpen, false, 600)],
        bounds: Bounds {
            guests: vec![],
            start: false,
            tags: false,
            snapshots: false,
            max_snapshots_per_guest: 0,
            max_pool_used_percent: 80,
            max_changes_per_hour: 0,
            ..Bounds::default()
        },
        revoked: vec![],
    }
}

/// What the runner of the unit tests lives by.
pub(crate) fn anchor() -> Anchor {
    Anchor::parse(WHO, &policy().encode(), HOST_ID, host().public().to_wire(), 1).unwrap()
}

fn order(params: Params) -> Order {
    Order {
        params,
        host: HostRef {
            id: HOST_ID,
            key: host().public().fingerprint(),
            generation: 1,
            cluster: None,
            name: "web1".parse().unwrap(),
        },
        guest: None,
        pre: Preconditions::default(),
        plan: None,
        nonce: Nonce::from_bytes([0x22; 16]),
        nbf: NOW - 10,
        exp: NOW + 500,
        after: None,
        policy: PolicyRef { version: 1, sha256: Sha256::of(&policy().encode()) },
        min_signers: 1,
        reason: "test".parse().unwrap(),
        ticket: None,
    }
}

/// An order to run this script.
pub(crate) fn job(script: &[u8]) -> Order {
    order(Params::JobRun(JobParams {
        script: Sha256::of(script),
        script_len: u32::try_from(script.len()).unwrap(),
        interpreter: "/bin/sh".parse().unwrap(),
        args: vec![],
        user: "root".parse().unwrap(),
        env: vec![],
        timeout_s: 60,
        max_output: 65536,
        result_key: SecretKey::from_seed(&[0x77; 32]).public().to_wire(),
    }))
}

/// An order to open a session.
pub(crate) fn session() -> Order {
    order(Params::SessionOpen(SessionParams {
        key: SecretKey::from_seed(&[0x78; 32]).public().to_wire(),
        user: "root".parse().unwrap(),
        mode: SessionMode::Full {},
        forwards: vec![],
        idle_s: 600,
        max_s: 3600,
    }))
}

/// Signed by Alice for what it is.
pub(crate) fn sign(order: &Order) -> Envelope {
    sign_as(order, order.kind().namespace(), 7)
}

/// Signed for some authority by the key that this seed gives.
pub(crate) fn sign_as(order: &Order, namespace: Namespace, seed: u8) -> Envelope {
    let payload = order.encode();
    let sigs = vec![SecretKey::from_seed(&[seed; 32]).sign(namespace, &payload)];
    Envelope::new(payload.into(), sigs)
}
