//! A host and a policy for the unit tests.

use authz::policy::{Bounds, Operator, PolicyDocument, Role};
use authz::{Namespace, RefusalCode, SecretKey};
use protocol::HostId;

use crate::Who;
use crate::anchor::Anchor;

/// The service of the unit tests.
pub(crate) const WHO: Who = Who {
    name: "runner",
    unit: "writ-runner",
    config: "runner.toml",
    what: "script",
    not_set_up: "not set up",
    code: RefusalCode::Runner,
};
/// The host.
pub(crate) const HOST_ID: HostId = HostId::from_bytes([0x11; 16]);

/// The host's key.
pub(crate) fn host() -> SecretKey {
    SecretKey::from_seed(&[0x4b; 32])
}

/// Alice's.
pub(crate) fn policy() -> PolicyDocument {
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        issued_at: 1_763_770_000,
        operators: vec![Operator {
            name: "alice".parse().unwrap(),
            keys: vec![SecretKey::from_seed(&[7; 32]).public().into()],
        }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: vec![],
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

/// What it lives by.
pub(crate) fn anchor() -> Anchor {
    Anchor::parse(WHO, &policy().encode(), HOST_ID, host().public().to_wire(), 1).unwrap()
}
