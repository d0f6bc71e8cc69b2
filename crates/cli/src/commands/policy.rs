//! `writ policy …`: the first policy, and the chain of those after it.

mod chain;
mod import;
mod words;

use std::path::{Path, PathBuf};

use authz::policy::PolicyDocument;
use authz::policy::allowed_signers::export;
use authz::policy::diff::diff;
use authz::{OperatorKey, Policy, files};
use protocol::HostName;

use super::{Context, Session, now, write_new};
use crate::args::PolicyCommand;
use crate::error::{Answer, Failure};
use crate::policy_file::{describe, first_policy, runner_hint};
use crate::state::{StateError, read_policy};

/// Largest public key file, in bytes.
const MAX_KEY: u64 = 64 * 1024;
/// Largest policy file that is worth a look, in bytes: an edited one has spaces.
const MAX_EDITED: u64 = 1024 * 1024;
/// In place of a file: the policy that this machine trusts.
const CURRENT: &str = "current";

pub(super) async fn run(ctx: &Context, command: PolicyCommand) -> Result<Answer, Failure> {
    match command {
        PolicyCommand::Init { operators, roots, root_threshold, guests, output, force } => {
            let (keys, roots) = (read_keys(operators)?, read_keys(roots)?);
            let document: PolicyDocument = first_policy(keys, roots, root_threshold, guests, now())?;
            let bytes = document.encode();
            let policy = decode(&output, &bytes)?;
            write_new(&output, &bytes, force)?;
            Ok(Answer::ok(format!(
                "{}\nWritten to {}. Hosts will accept exactly these bytes; keep them.\n{}Next: writ login --hub https://… --pin HEX --key FILE --policy {}\n",
                describe(&policy),
                output.display(),
                runner_hint(&policy).unwrap_or_default(),
                output.display()
            )))
        }
        PolicyCommand::Show { file } => {
            let policy = match file {
                Some(path) => read_policy(&path)?.0,
                None => ctx.home()?.policy()?.0,
            };
            let hint = runner_hint(&policy).map(|hint| format!("\n{hint}")).unwrap_or_default();
            Ok(Answer::ok(format!("{}{hint}", describe(&policy))))
        }
        PolicyCommand::Next { output, force } => {
            let (current, _) = ctx.home()?.policy()?;
            let document = PolicyDocument::next_after(&current, now());
            write_new(&output, &pretty(&output, &document)?, force)?;
            Ok(Answer::ok(format!(
                "A draft of version {} is in {}. Edit it, then: writ policy fmt {}\n",
                document.version,
                output.display(),
                output.display()
            )))
        }
        PolicyCommand::Fmt { file } => {
            let document = read_draft(&file)?;
            let canonical = document.encode();
            let policy = decode(&file, &canonical)?;
            files::write_atomic(&file, &canonical)?;
            Ok(Answer::ok(format!(
                "{} is policy version {} now, SHA-256 {}.\n",
                file.display(),
                policy.version(),
                policy.hash()
            )))
        }
        PolicyCommand::Diff { old, new } => {
            let old = named(ctx, &old)?;
            let new = named(ctx, &new)?;
            Ok(Answer::ok(shown(&old, &new)))
        }
        PolicyCommand::Sign { file, key } => chain::sign(ctx, &file, key.as_deref()).await,
        PolicyCommand::Apply { file, sigs, wait } => chain::apply(ctx, &file, sigs, wait).await,
        PolicyCommand::Status {} => chain::status(ctx).await,
        PolicyCommand::Revoke { key, ca, serial, key_id, reason, sign_with } => {
            let what = words::revoked(key.as_deref(), ca, serial, key_id.as_deref())?;
            words::revoke(ctx, what, &reason, sign_with.as_deref()).await
        }
        PolicyCommand::Import { allowed_signers, krl, draft, output, force, ignore_unknown_sha1 } => {
            let into = match (draft, output) {
                (Some(draft), None) => import::Place::Draft(draft),
                (None, Some(path)) => import::Place::New { path, force },
                _ => return Err(Failure::other("name a draft, or with -o where to begin one")),
            };
            match (allowed_signers, krl, &into) {
                (Some(file), None, import::Place::Draft(draft)) => import::allowed_signers(&file, draft),
                (None, Some(file), _) => import::krl(ctx, &file, &into, ignore_unknown_sha1),
                _ => Err(Failure::other("name a file: --allowed-signers with a draft, or --krl")),
            }
        }
        PolicyCommand::Export {} => Ok(Answer::ok(export(&ctx.home()?.policy()?.0))),
        PolicyCommand::Refresh { key } => words::refresh(ctx, key.as_deref()).await,
    }
}

/// Follows the chain as far as the hub has documents that count. What is refused is noted; it may be for
/// hosts of another chain.
pub(super) async fn follow(ctx: &Context, session: &mut Session) -> Result<(), Failure> {
    let view = session.hub.policy().await?;
    if view.documents.is_empty() {
        return Ok(());
    }
    let mut store = session.home.chain()?;
    let before = store.current().version();
    for document in &view.documents {
        match store.take(&document.envelope, now()) {
            Ok(_) => {}
            Err(authz::policy::store::TakeError::Refused(refusal)) if ctx.verbose => {
                let id = document.envelope.id();
                ctx.note(&format!(
                    "policy document {id} means nothing here ({}): {}",
                    refusal.code, refusal.why
                ));
            }
            Err(authz::policy::store::TakeError::Refused(_)) => {}
            Err(error @ authz::policy::store::TakeError::NoRoom(_)) => {
                return Err(Failure::other(error.to_string()));
            }
            Err(authz::policy::store::TakeError::Store(error)) => return Err(StateError::from(error).into()),
        }
    }
    let policy = store.current().clone();
    if policy.version() != before {
        ctx.note(&format!("policy version {} is in force now ({})", policy.version(), policy.hash()));
    }
    session.policy_bytes = policy.document().encode();
    session.policy = policy;
    Ok(())
}

fn read_keys(people: Vec<(HostName, PathBuf)>) -> Result<Vec<(HostName, OperatorKey)>, Failure> {
    let mut keys: Vec<(HostName, OperatorKey)> = Vec::new();
    for (name, path) in people {
        let bytes = files::read_limited(&path, MAX_KEY)?;
        let fail = |why| StateError::Key { path: path.clone(), why };
        let text = std::str::from_utf8(&bytes).map_err(|_| fail(authz::KeyError::NotAKey))?;
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            keys.push((name.clone(), OperatorKey::from_line(line).map_err(fail)?));
        }
        if keys.last().is_none_or(|(last, _)| *last != name) {
            return Err(fail(authz::KeyError::NotAKey).into());
        }
    }
    Ok(keys)
}

/// A policy in any spelling.
fn read_draft(path: &Path) -> Result<PolicyDocument, Failure> {
    let bytes = files::read_limited(path, MAX_EDITED)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::other(format!("{} is not a policy: {error}", path.display())))
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Policy, Failure> {
    Ok(Policy::decode(bytes).map_err(|source| StateError::Policy {
        path: path.to_owned(),
        why: source.to_string(),
        source,
    })?)
}

fn pretty(path: &Path, document: &PolicyDocument) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec_pretty(document)
        .map_err(|error| Failure::other(format!("{} cannot be written: {error}", path.display())))
}

/// A policy by file or by the word for the one in force.
fn named(ctx: &Context, which: &Path) -> Result<Policy, Failure> {
    if which == Path::new(CURRENT) {
        return Ok(ctx.home()?.policy()?.0);
    }
    Ok(read_policy(which)?.0)
}

/// What changes, and what of the revocations would be forgotten.
fn shown(old: &Policy, new: &Policy) -> String {
    let mut text = format!(
        "Policy version {} -> {}\n  SHA-256 {} -> {}\n",
        old.version(),
        new.version(),
        old.hash(),
        new.hash()
    );
    let changes = diff(old.document(), new.document());
    if changes.is_empty() {
        text.push_str("  nothing else changes\n");
    }
    for change in changes {
        text.push_str(&format!("  {}\n", protocol::text::printable(&change.to_string())));
    }
    let draft = PolicyDocument::next_after(old, 0);
    let forgotten = draft.revoked.iter().filter(|key| !new.document().revoked.contains(key));
    for key in forgotten {
        text.push_str(&format!(
            "  note: key {key} is revoked now and not in the new policy: hosts that know it keep refusing it, new hosts will not\n"
        ));
    }
    text
}
