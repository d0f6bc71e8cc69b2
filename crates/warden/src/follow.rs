//! Root's services live by this host's policy chain, and judge every document of it themselves. The warden brings
//! them what they do not have.

use protocol::runner::AnchorStatus;
use protocol::text::printable;
use protocol::{Bytes, Ed25519Key, Envelope, HostId, Sha256};

use crate::identity::Identity;
use crate::runner::Documents;

/// What a service is given at the first time.
#[derive(Debug)]
pub(crate) struct Brought {
    /// The host's first policy.
    pub(crate) policy: Bytes,
    /// What followed it.
    pub(crate) documents: Vec<Envelope>,
    /// The host.
    pub(crate) host_id: HostId,
    /// Its key.
    pub(crate) host_key: Ed25519Key,
    /// Which of its keys.
    pub(crate) host_key_gen: u32,
}

/// Why a service cannot be used although it answers.
#[derive(Debug)]
pub(crate) enum Odd {
    /// It refuses everything.
    Closed(String),
    /// It lives by something else.
    Other {
        /// By what.
        anchored: Box<AnchorStatus>,
        /// This host.
        host: HostId,
        /// This host's policy.
        policy: Sha256,
    },
    /// It took the anchor and has none.
    NotAnchored,
}

/// A service of root's, over its socket.
pub(crate) trait Follower {
    /// What it says of itself.
    type Status;
    /// Its errors.
    type Error: std::fmt::Display;

    /// Asks it.
    async fn status(&self) -> Result<Self::Status, Self::Error>;
    /// What it lives by, and why it refuses everything.
    fn lives_by(status: &Self::Status) -> (Option<&AnchorStatus>, Option<&str>);
    /// Gives it its anchor.
    async fn anchor(&self, brought: Brought) -> Result<(), Self::Error>;
    /// Gives it one more document.
    async fn take(&self, document: Envelope) -> Result<(), Self::Error>;
    /// In its words.
    fn error(odd: Odd) -> Self::Error;
}

/// Makes sure that the service works and lives by this host's policy; brings it what it does not have.
pub(crate) async fn follow<F: Follower>(
    service: &F,
    identity: &Identity,
    wanted: &Documents,
) -> Result<F::Status, F::Error> {
    let mut status = service.status().await?;
    if let (_, Some(why)) = F::lives_by(&status) {
        return Err(F::error(Odd::Closed(printable(why))));
    }
    let (host_id, host_key) = (identity.host_id, identity.host_key.public().to_wire());
    let host_key_gen = identity.host_key_gen;
    if F::lives_by(&status).0.is_none() {
        let (policy, documents) = (identity.policy_bytes.clone().into(), wanted.documents.clone());
        service.anchor(Brought { policy, documents, host_id, host_key, host_key_gen }).await?;
        tracing::info!(policy = %wanted.policy, "a service of root's lives by this host's policy now");
        status = service.status().await?;
    }
    let ours = |anchored: &AnchorStatus| {
        (anchored.host_id, anchored.host_key, anchored.host_key_gen) == (host_id, host_key, host_key_gen)
    };
    if let Some(anchored) = F::lives_by(&status).0.cloned().filter(ours) {
        let held = usize::try_from(anchored.documents).unwrap_or(usize::MAX);
        let mut changed = false;
        let news = wanted.documents.get(held..).unwrap_or_default();
        for document in news {
            service.take(document.clone()).await?;
            changed = true;
        }
        if let Some(fresh) = wanted.fresh.clone().filter(|_| anchored.fresh_at < wanted.fresh_at) {
            // Who said it may be revoked by now: then the service's policy is sooner stale.
            if let Err(error) = service.take(fresh).await {
                tracing::warn!(%error, "a service of root's does not take the last word that the policy is the newest");
            }
            changed = true;
        }
        if changed {
            status = service.status().await?;
        }
    }
    let documents = wanted.documents.len() as u64;
    match F::lives_by(&status).0 {
        Some(anchored)
            if ours(anchored) && (anchored.policy, anchored.documents) == (wanted.policy, documents) =>
        {
            Ok(status)
        }
        Some(anchored) => Err(F::error(Odd::Other {
            anchored: Box::new(anchored.clone()),
            host: host_id,
            policy: wanted.policy,
        })),
        None => Err(F::error(Odd::NotAnchored)),
    }
}
