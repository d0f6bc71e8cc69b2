//! `writ policy revoke` and `refresh`: what one signature can say.

use std::path::Path;

use authz::order::PolicyRef;
use authz::policy::chain::Accepted;
use authz::policy::words::{Freshness, Revocation, Revoked};
use authz::{Namespace, OperatorKey, Policy, files};
use protocol::text::SafeText;
use protocol::{Envelope, Fingerprint};

use super::chain::{judge, take};
use super::follow;
use crate::commands::{Context, Session, now};
use crate::error::{Answer, Failure};
use crate::state::StateError;

/// What the options mean.
pub(super) fn revoked(
    key: Option<&str>,
    ca: Option<Fingerprint>,
    serial: Option<u64>,
    key_id: Option<&str>,
) -> Result<Revoked, Failure> {
    match (key, ca, serial, key_id) {
        (Some(key), None, None, None) => Ok(Revoked::Key { key: fingerprint(key)? }),
        (None, Some(ca), None, None) => Ok(Revoked::Key { key: ca }),
        (None, Some(ca), Some(serial), None) => Ok(Revoked::Serial { ca, serial }),
        (None, Some(ca), None, Some(id)) => {
            let key_id = SafeText::try_from(id.to_owned())
                .map_err(|error| Failure::other(format!("this key id cannot be revoked by name: {error}")))?;
            Ok(Revoked::KeyId { ca, key_id })
        }
        _ => Err(Failure::other("name a key, or a CA with --serial or --key-id")),
    }
}

/// A fingerprint as it is, or of a public key file.
fn fingerprint(key: &str) -> Result<Fingerprint, Failure> {
    if let Ok(fingerprint) = key.parse() {
        return Ok(fingerprint);
    }
    let path = Path::new(key);
    let bytes = files::read_limited(path, 64 * 1024)?;
    let fail = |why| StateError::Key { path: path.to_owned(), why };
    let text = std::str::from_utf8(&bytes).map_err(|_| fail(authz::KeyError::NotAKey))?;
    Ok(OperatorKey::from_line(text.trim()).map_err(fail)?.fingerprint())
}

/// Whom it takes what from, in words.
fn meaning(what: &Revoked, policy: &Policy) -> String {
    let all =
        || policy.document().operators.iter().flat_map(|o| o.keys.iter().map(move |key| (&o.name, key)));
    match what {
        Revoked::Key { key } => match all().find(|(_, credential)| credential.fingerprint() == *key) {
            Some((name, credential)) if credential.authority().is_some() => {
                format!("CA {key}: no certificate by it stands for {name} any more")
            }
            Some((name, _)) => format!("key {key} of {name}"),
            None => format!("key {key}, which stands in no policy: certificates for it count no more"),
        },
        Revoked::Serial { .. } | Revoked::KeyId { .. } => what.to_string(),
    }
}

pub(super) async fn revoke(
    ctx: &Context,
    what: Revoked,
    reason: &str,
    key: Option<&Path>,
) -> Result<Answer, Failure> {
    let mut session = ctx.session()?;
    follow(ctx, &mut session).await?;
    let meaning = meaning(&what, &session.policy);
    // Before any key is touched.
    ctx.note(&format!("revoking, for ever: {meaning}"));
    let word = Revocation {
        v: 1,
        revoke: what,
        policy: PolicyRef::from(&session.policy),
        issued_at: now(),
        reason: SafeText::sanitize(reason),
    };
    let accepted = say(ctx, &session, word.encode(), key).await?;
    let news = if accepted == Accepted::Known { "It was revoked already" } else { "Revoked" };
    Ok(Answer::ok(format!(
        "{news}: {meaning}.\nHosts that are connected refuse it from now on, others when they are back; `writ receipts HOST` shows it in the host's signed log. Write it into the next policy too: `writ policy next` does.\n"
    )))
}

pub(super) async fn refresh(ctx: &Context, key: Option<&Path>) -> Result<Answer, Failure> {
    let mut session = ctx.session()?;
    follow(ctx, &mut session).await?;
    let word = Freshness { v: 1, fresh: PolicyRef::from(&session.policy), issued_at: now() };
    say(ctx, &session, word.encode(), key).await?;
    Ok(Answer::ok(format!(
        "You said that policy version {} is still the newest.\n",
        session.policy.version()
    )))
}

/// Signs, judges as a host will, and sends.
async fn say(
    ctx: &Context,
    session: &Session,
    payload: Vec<u8>,
    key: Option<&Path>,
) -> Result<Accepted, Failure> {
    let signer = ctx.signer(key, &session.config, session.purpose(Namespace::Policy)).await?;
    let armored = signer.sign(Namespace::Policy, &payload).await?;
    let envelope = Envelope::new(payload.into(), vec![armored]);
    let accepted = judge(session, &envelope)?;
    session.hub.submit_policy(&envelope).await?;
    take(session, &envelope)?;
    Ok(accepted)
}
