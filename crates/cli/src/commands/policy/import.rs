//! `writ policy import`: what OpenSSH's files say, into the next policy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use authz::policy::krl::{self, KrlError, Unknown};
use authz::policy::words::Revoked;
use authz::policy::{PolicyDocument, allowed_signers};
use authz::{Policy, files};
use protocol::Sha256;
use protocol::text::printable;

use super::{decode, read_draft, shown};
use crate::commands::{Context, now, write_new};
use crate::error::{Answer, Failure};
use crate::text::utc;

/// Which policy gets it.
pub(super) enum Place {
    /// A draft, which is replaced.
    Draft(PathBuf),
    /// A new draft after the policy that this machine trusts.
    New {
        /// Where it is written.
        path: PathBuf,
        /// Whether something there is replaced.
        force: bool,
    },
}

pub(super) fn allowed_signers(file: &Path, draft: &Path) -> Result<Answer, Failure> {
    let bytes = files::read_limited(file, allowed_signers::MAX_BYTES as u64)?;
    let fail = |error| Failure::other(format!("{}, {error}", file.display()));
    let entries = allowed_signers::parse(&bytes).map_err(fail)?;
    let mut document = read_draft(draft)?;
    allowed_signers::import(&mut document, &entries).map_err(fail)?;
    decode(draft, &document.encode())?;
    files::write_atomic(draft, &document.encode())?;
    Ok(Answer::ok(format!(
        "{} line(s) read. Look at what it comes to: writ policy diff current {}\n",
        entries.len(),
        draft.display()
    )))
}

pub(super) fn krl(
    ctx: &Context,
    file: &Path,
    into: &Place,
    ignore_unknown_sha1: bool,
) -> Result<Answer, Failure> {
    let bytes = files::read_limited(file, krl::MAX_BYTES as u64)?;
    let (current, _) = ctx.home()?.policy()?;
    let (path, mut document) = match into {
        Place::Draft(draft) => (draft, read_draft(draft)?),
        Place::New { path, .. } => (path, PolicyDocument::next_after(&current, now())),
    };
    let text = taken_in(file, &bytes, &current, path, &mut document, ignore_unknown_sha1)?;
    match into {
        Place::Draft(draft) => files::write_atomic(draft, &document.encode())?,
        Place::New { path, force } => write_new(path, &document.encode(), *force)?,
    }
    Ok(Answer::ok(text))
}

/// The whole of it except for writing: changes the document and says what a person has to know of that.
fn taken_in(
    file: &Path,
    bytes: &[u8],
    current: &Policy,
    path: &Path,
    document: &mut PolicyDocument,
    ignore_unknown_sha1: bool,
) -> Result<String, Failure> {
    let fail =
        |error: KrlError| Failure::other(format!("{}, {}", file.display(), printable(&error.to_string())));
    let list = krl::parse(bytes).map_err(fail)?;
    let unknown = if ignore_unknown_sha1 { Unknown::Ignore } else { Unknown::Refuse };
    let resolved = krl::resolve(&list, document, unknown).map_err(fail)?;
    let added = krl::import(document, &resolved.revoked);
    let next = decode(path, &document.encode()).map_err(|error| {
        Failure::other(format!(
            "with what {} revokes, {error}; write a draft (writ policy next), replace in it what is revoked, and \
             import into that draft",
            file.display()
        ))
    })?;
    let mut text = String::new();
    let comment = if list.comment.is_empty() { String::new() } else { format!(", {:?}", list.comment) };
    let _ = writeln!(
        text,
        "{}: KRL version {} of {}{}, {} section(s), SHA-256 {}\n  It revokes {}. Nothing shows whether it is the \
         newest or complete: compare with where it was made.",
        file.display(),
        list.version,
        utc(list.generated_at),
        printable(&comment),
        list.sections.len(),
        Sha256::of(bytes),
        counted(&resolved.revoked)
    );
    for name in &resolved.extensions {
        let _ = writeln!(text, "  note: extension {name} was ignored, as the format allows");
    }
    if resolved.any_ca {
        text.push_str("  note: what it revokes for any CA is revoked for those that are in the policy now\n");
    }
    for hash in &resolved.unknown {
        let _ = writeln!(text, "  note: SHA-1 hash {hash} is of no key in the policy: ignored, NOT revoked");
    }
    for known in &added.known {
        let _ = writeln!(text, "  already revoked: {}", printable(&known.to_string()));
    }
    let _ = writeln!(text, "{} are new.\n", counted(&added.new));
    text.push_str(&shown(current, &next));
    let _ = writeln!(text, "\nThe draft is in {}. Next: writ policy sign {}", path.display(), path.display());
    Ok(text)
}

/// So many of each sort.
fn counted(revoked: &[Revoked]) -> String {
    let count = |of: fn(&Revoked) -> bool| revoked.iter().filter(|what| of(what)).count();
    format!(
        "{} key(s), {} certificate(s) by serial and {} by key id",
        count(|what| matches!(what, Revoked::Key { .. })),
        count(|what| matches!(what, Revoked::Serial { .. })),
        count(|what| matches!(what, Revoked::KeyId { .. }))
    )
}

#[cfg(test)]
mod tests;
