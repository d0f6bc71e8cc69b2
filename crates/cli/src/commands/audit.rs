//! `writ audit …`, and `writ receipts`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use authz::files::{self, FileError, read_limited};
use authz::merkle::{Frontier, leaf_hash};
use authz::statement::verify_host;
use authz::{Checkpoint, Origin, PublicKey, Receipt};
use protocol::{HostName, Note, Sha256, Signed};
use serde::Serialize;

use super::history::{advance, kept, newest, no_step_back};
use super::{Context, Session, now};
use crate::args::{AuditCommand, CompareArgs, ExportArgs, HostArgs, VerifyArgs};
use crate::audit::{self, Page, Subject};
use crate::error::{Answer, Failure};
use crate::history::{Anchor, HistoryError, check_continues, compare, origin};
use crate::judge::Chain;
use crate::render;
use crate::resolve::Believed;
use crate::state::Home;
use crate::text::{json, table, utc};

const LOG: &str = "log.jsonl";
const CHECKPOINT: &str = "checkpoint";
const STATEMENT: &str = "host.json";
const HEADER: [&str; 4] = ["ENTRY", "TIME", "EVENT", "OUTCOME"];

pub(super) async fn run(ctx: &Context, command: AuditCommand) -> Result<Answer, Failure> {
    match command {
        AuditCommand::Log(args) => log(ctx, args).await,
        AuditCommand::Export(args) => export(ctx, args).await,
        AuditCommand::Verify(args) => verify(ctx, &args),
        AuditCommand::Checkpoint { host } => checkpoint(ctx, &host),
        AuditCommand::Compare(args) => compare_with(ctx, args).await,
        AuditCommand::Forget { host } => forget(ctx, &host),
    }
}

/// A verified log for programs.
#[derive(Serialize)]
struct Log {
    held: u64,
    /// All verified, in their places.
    receipts: Vec<Receipt>,
    /// Entries under the host's newest checkpoint; none when the hub has no checkpoint.
    checkpoint: Option<u64>,
    root: Option<Sha256>,
    /// Why the log ends here.
    refused: Option<String>,
}

pub(super) async fn log(ctx: &Context, args: HostArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let newest = newest(&session, &host).await?;
    if let Some((_, newest)) = &newest {
        no_step_back(ctx, &session, &host, newest)?;
    }
    let mut receipts = Vec::new();
    let read = read(ctx, &session, &host, newest.as_ref().map(|(_, newest)| newest), |_, receipt| {
        receipts.push(receipt);
        Ok(())
    })
    .await?;
    if let (Some((note, newest)), None) = (&newest, &read.refused) {
        read.check(&host, newest)?;
        advance(ctx, &session, &host, note, newest, read.anchor).await?;
    }
    let newest = newest.map(|(_, newest)| newest);
    let log = Log {
        held: read.held,
        receipts,
        checkpoint: newest.map(|newest| newest.size),
        root: newest.map(|newest| newest.root),
        refused: read.refused,
    };
    let failures =
        log.refused.iter().map(|reason| format!("the log of host '{}': {reason}", host.name())).collect();
    if args.json {
        return Ok(Answer::with(json(&log), failures));
    }
    let rows: Vec<_> = log.receipts.iter().map(render::receipt_row).collect();
    let mut stdout = table(&HEADER, &rows);
    stdout.push_str(&format!(
        "{} entries verified with key {}{}\n",
        log.receipts.len(),
        host.key.fingerprint(),
        if log.refused.is_some() { "; then the log is NOT BELIEVED" } else { "" }
    ));
    stdout.push_str(&match newest {
        _ if log.refused.is_some() => String::new(),
        Some(Checkpoint { size, root }) => {
            format!("the first {size} are the log that the host signed as a whole (root {root})\n")
        }
        None => {
            "the hub has no checkpoint: whether the last entries are missing nobody can tell\n".to_owned()
        }
    });
    Ok(Answer::with(stdout, failures))
}

/// A log that was read from a hub.
struct Read {
    held: u64,
    /// Why it ends here.
    refused: Option<String>,
    /// Root of as many entries as the checkpoint has.
    root: Option<Sha256>,
    /// The last entry under the checkpoint.
    anchor: Option<Anchor>,
}

impl Read {
    /// Whether these are the entries whose checkpoint the host signed.
    fn check(&self, host: &Believed, newest: &Checkpoint) -> Result<(), HistoryError> {
        match self.root {
            Some(found) if found != newest.root => {
                let (host, size, signed) = (host.name().clone(), newest.size, newest.root);
                Err(HistoryError::OtherEntries { host, size, signed, found })
            }
            _ => Ok(()),
        }
    }
}

/// Reads the hub's copy of a log to its end, or to its first bad entry.
async fn read(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    newest: Option<&Checkpoint>,
    mut each: impl FnMut(&Signed, Receipt) -> Result<(), Failure>,
) -> Result<Read, Failure> {
    let (mut chain, mut tree) = (Chain::default(), Frontier::default());
    let mut read = Read { held: 0, refused: None, root: None, anchor: None };
    let signed = newest.map_or(0, |newest| newest.size);
    if signed == 0 {
        read.root = Some(tree.root());
    }
    'pages: loop {
        let page = session.hub.receipts(host.id(), chain.next()).await?;
        // A log grows while it is read, and never shrinks.
        read.held = read.held.max(page.held);
        for signed_entry in &page.receipts {
            match chain.push(signed_entry, host) {
                Ok(receipt) => {
                    tree.push(leaf_hash(&signed_entry.payload.0));
                    if tree.size() == signed {
                        let head = Sha256::of(&signed_entry.payload.0);
                        (read.root, read.anchor) = (Some(tree.root()), Some(Anchor { size: signed, head }));
                    }
                    each(signed_entry, receipt)?;
                }
                // After the first bad entry nothing more can be proven.
                Err(error) => {
                    read.refused = Some(error.to_string());
                    break 'pages;
                }
            }
        }
        if page.receipts.is_empty() || chain.next() >= page.held {
            break;
        }
        ctx.note(&format!("{} of {} entries verified", chain.next(), page.held));
    }
    if read.refused.is_none() {
        // What the host signed as a whole must be there, whatever the hub announces.
        read.refused = chain.finish(read.held.max(signed)).err().map(|error| error.to_string());
    }
    Ok(read)
}

async fn export(ctx: &Context, args: ExportArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let directory = args.directory.as_path();
    prepare(directory)?;
    let newest = newest(&session, &host).await?;
    let path = directory.join(LOG);
    let fail = |source| FileError::io("write", &path, source);
    let mut file = BufWriter::new(File::create_new(&path).map_err(fail)?);
    let mut size = 0;
    let read = read(ctx, &session, &host, newest.as_ref().map(|(_, newest)| newest), |signed, _| {
        let mut line = serde_json::to_vec(signed).map_err(|error| Failure::other(error.to_string()))?;
        line.push(b'\n');
        size += 1;
        Ok(file.write_all(&line).map_err(fail)?)
    })
    .await?;
    file.into_inner().map_err(|error| fail(error.into_error()))?.sync_all().map_err(fail)?;
    let statement = serde_json::to_vec(&host.signed).map_err(|error| Failure::other(error.to_string()))?;
    files::write_atomic(&directory.join(STATEMENT), &statement)?;
    if let Some((note, _)) = &newest {
        files::write_atomic(&directory.join(CHECKPOINT), note.as_str().as_bytes())?;
    }
    // Only now: what is written is evidence, also of a hub that lies.
    if let (Some((note, newest)), None) = (&newest, &read.refused) {
        read.check(&host, newest)?;
        advance(ctx, &session, &host, note, newest, read.anchor).await?;
    }
    let failures =
        read.refused.iter().map(|why| format!("the log of host '{}': {why}", host.name())).collect();
    Ok(Answer::with(
        format!(
            "{size} entries of host '{}' written to {}\nCheck them anywhere, without a hub:\n  writ audit verify {}\n",
            host.name(),
            directory.display(),
            directory.display()
        ),
        failures,
    ))
}

/// An empty directory; made if absent.
fn prepare(directory: &Path) -> Result<(), Failure> {
    let fail = |source| FileError::io("create directory", directory, source);
    std::fs::create_dir_all(directory).map_err(fail)?;
    match std::fs::read_dir(directory).map_err(fail)?.next() {
        None => Ok(()),
        Some(_) => Err(Failure::other(format!(
            "{} is not empty: name a new directory, nothing is overwritten",
            directory.display()
        ))),
    }
}

fn verify(ctx: &Context, args: &VerifyArgs) -> Result<Answer, Failure> {
    let directory = args.directory.as_path();
    let path = directory.join(LOG);
    let open =
        || File::open(&path).map(BufReader::new).map_err(|source| FileError::io("read", &path, source));
    let reading = |source| FileError::io("read", &path, source);
    let claimed = audit::claimed_origin(open()?).map_err(reading)?;
    let (subject, believed_by, home) = match &args.host_key {
        Some(key) => {
            let key = host_key(key)?;
            let Some(origin) = claimed else {
                return Err(Failure::other(format!(
                    "{} does not begin with an entry of a host's log: whose it is cannot be told",
                    path.display()
                )));
            };
            (Subject { origin, key }, "given with --host-key".to_owned(), None)
        }
        None => {
            let home = ctx.home()?;
            let (subject, by) = stated(&home, directory, claimed)?;
            (subject, by, Some(home))
        }
    };
    let checkpoint = match read_limited(&directory.join(CHECKPOINT), Note::MAX as u64) {
        Ok(bytes) => Some(note(&directory.join(CHECKPOINT), &bytes)?),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let kept = match &home {
        Some(home) => home.kept_checkpoint(&subject.origin)?.map(|kept| kept.note),
        None => None,
    };
    let kept = kept.map(|note| Checkpoint::verify(&note, &subject.origin, &subject.key)).transpose();
    let kept = kept.map_err(|error| Failure::other(format!("what this machine keeps: {error}")))?;
    let page = audit::verify(open()?, &subject, checkpoint.as_ref(), kept.as_ref()).map_err(reading)?;
    let failures: Vec<String> = page
        .problems
        .iter()
        .map(|problem| match problem.entry {
            Some(entry) => format!("entry {entry}: {}", problem.what),
            None => problem.what.clone(),
        })
        .collect();
    let stdout = if args.json { json(&page) } else { shown(&page, &subject, &believed_by) };
    let alarm = page.contradicts;
    Ok(Answer { alarm, ..Answer::with(stdout, failures) })
}

fn shown(page: &Page, subject: &Subject, believed_by: &str) -> String {
    let rows: Vec<_> = page.entries.iter().map(render::receipt_row).collect();
    let mut text = table(&HEADER, &rows);
    text.push_str(&format!(
        "{} entries of host {}, signed by its key {} (generation {}, {believed_by})\n",
        page.size,
        page.host,
        subject.key.fingerprint(),
        page.generation
    ));
    if let (Some(first), Some(last)) = (page.first_time, page.last_time) {
        text.push_str(&format!("  from {} to {}, by the host's clock\n", utc(first), utc(last)));
    }
    text.push_str(&format!("  root {}\n", page.root));
    if let Some(signed) = page.checkpoint {
        text.push_str(&format!("  the first {signed} are under the host's signed checkpoint\n"));
    }
    if let Some(kept) = page.continues {
        text.push_str(&format!("  they continue the {kept} entries that this machine saw\n"));
    }
    for note in &page.notes {
        text.push_str(&format!("  note: {note}\n"));
    }
    text.push_str(if page.problems.is_empty() { "All is well.\n" } else { "NOT BELIEVED beyond that.\n" });
    text
}

/// The host's key from the statement in the directory or in this machine's memory.
fn stated(home: &Home, directory: &Path, claimed: Option<Origin>) -> Result<(Subject, String), Failure> {
    let path = directory.join(STATEMENT);
    let (statement, by) = match read_limited(&path, 64 * 1024) {
        Ok(bytes) => {
            let signed: Signed = serde_json::from_slice(&bytes)
                .map_err(|_| Failure::other(format!("{} is no signed statement", path.display())))?;
            let (policy, _) = home.policy()?;
            let (statement, by) = verify_host(&signed, &policy, now())
                .map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
            {
                let by = format!("'{}' by the word of operator {by}", statement.name);
                (statement, by)
            }
        }
        Err(error) if error.is_not_found() => {
            let known = claimed.and_then(|claimed| {
                home.memory().ok()?.into_values().find(|known| known.host_id == claimed.host)
            });
            let known = known.ok_or_else(|| {
                Failure::other(format!(
                    "there is no statement {} and this machine does not know the host: name its key with --host-key",
                    path.display()
                ))
            })?;
            let by = format!("'{}', known to this machine", known.name);
            (known, by)
        }
        Err(error) => return Err(error.into()),
    };
    let key = PublicKey::try_from(statement.host_key)
        .map_err(|error| Failure::other(format!("the host's key in the statement: {error}")))?;
    let origin = Origin { host: statement.host_id, generation: statement.host_key_gen };
    Ok((Subject { origin, key }, by))
}

/// `ssh-ed25519 AAAA…`, or a file with such a line.
fn host_key(words: &str) -> Result<PublicKey, Failure> {
    let line = if words.starts_with("ssh-") {
        words.to_owned()
    } else {
        String::from_utf8_lossy(&read_limited(Path::new(words), 16 * 1024)?).into_owned()
    };
    PublicKey::from_line(&line).map_err(|error| Failure::other(format!("--host-key: {error}")))
}

fn note(path: &Path, bytes: &[u8]) -> Result<Note, Failure> {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::other(format!("{} is no checkpoint of a host's log", path.display())))
}

/// A host that this machine knows, without asking a hub.
fn known_origin(home: &Home, host: &HostName) -> Result<Origin, Failure> {
    let memory = home.memory()?;
    let statement = memory.get(host).ok_or_else(|| {
        Failure::other(format!("this machine knows no host '{host}': `writ hosts` asks the hub"))
    })?;
    Ok(Origin { host: statement.host_id, generation: statement.host_key_gen })
}

fn checkpoint(ctx: &Context, host: &HostName) -> Result<Answer, Failure> {
    let home = ctx.home()?;
    match home.kept_checkpoint(&known_origin(&home, host)?)? {
        Some(kept) => Ok(Answer::ok(kept.note.as_str())),
        None => Err(Failure::other(format!(
            "this machine has not seen the log of host '{host}' yet: run `writ audit log {host}`"
        ))),
    }
}

async fn compare_with(ctx: &Context, args: CompareArgs) -> Result<Answer, Failure> {
    let path = args.file.or(args.checkpoint).unwrap_or_default();
    let theirs = note(&path, &read_limited(&path, Note::MAX as u64)?)?;
    let (origin_claimed, _) = Checkpoint::read_unverified(&theirs)
        .map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
    let session = ctx.session()?;
    let roster = session.roster().await?;
    let host = roster.by_id(&origin_claimed.host)?.1;
    let theirs = Checkpoint::verify(&theirs, &origin(host), &host.key)
        .map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
    let name = host.name();
    let Some((_, ours)) = kept(ctx, &session, host)? else {
        return Err(Failure::other(format!(
            "this machine has not seen the log of host '{name}' yet, so there is nothing to compare: run `writ audit log {name}`"
        )));
    };
    // Which is the longer one says nothing about who was lied to.
    let (older, newer) = if ours.size <= theirs.size { (&ours, &theirs) } else { (&theirs, &ours) };
    compare(name, Some(older), newer)?;
    if older != newer {
        let proof = session.hub.consistency(host.id(), older.size, newer.size).await;
        let proof = proof.map_err(|error| {
            super::history::unproven(error, |why| crate::history::not_continued(name, older, newer, why))
        })?;
        check_continues(name, older, newer, &proof)?;
    }
    Ok(Answer::ok(format!(
        "One history of host '{name}': the log of {} entries {}.\n",
        newer.size,
        match older.size {
            size if size == newer.size => "is the same on both machines".to_owned(),
            size if *older == ours =>
                format!("in {} continues the {size} that this machine saw", path.display()),
            size => format!("that this machine saw continues the {size} in {}", path.display()),
        }
    )))
}

fn forget(ctx: &Context, host: &HostName) -> Result<Answer, Failure> {
    let home = ctx.home()?;
    let origin = known_origin(&home, host)?;
    if home.forget_checkpoints(&origin.host, now())? {
        Ok(Answer::ok(format!(
            "Put aside what this machine saw of the log of '{host}'. The next checkpoint will be believed without comparison.\n"
        )))
    } else {
        Err(Failure::other(format!("this machine keeps no checkpoint of host '{host}'")))
    }
}
