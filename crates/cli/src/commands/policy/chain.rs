//! `writ policy sign`, `apply` and `status`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::policy::chain::Accepted;
use authz::policy::store::TakeError;
use authz::{Namespace, Policy, files};
use protocol::api::{HostPolicy, PolicyView};
use protocol::text::printable;
use protocol::{Envelope, Sha256};
use tokio::time::Instant;

use super::{decode, follow, shown};
use crate::commands::{Context, Session, now, or_interrupt, write_new};
use crate::error::{Answer, Failure};
use crate::signer::Purpose;
use crate::state::StateError;
use crate::text::table;

const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn sign(ctx: &Context, file: &Path, key: Option<&Path>) -> Result<Answer, Failure> {
    let home = ctx.home()?;
    let (current, _) = home.policy()?;
    let bytes = files::read_limited(file, Envelope::MAX_PAYLOAD as u64)?;
    let new = decode(file, &bytes).map_err(|error| {
        Failure::other(format!("{error}; if you edited it: writ policy fmt {}", file.display()))
    })?;
    let shown = shown(&current, &new);
    // Before any key is touched.
    eprint!("{shown}");
    // With a key that is named, a new operator can sign what makes them one.
    let purpose = Purpose { policy: Some(&current), namespace: Some(Namespace::Policy), now: now() };
    let signer = ctx.signer(key, &home.config()?, purpose).await?;
    let (old, next) = (&current, &new);
    if ![old, next].iter().any(|policy| is_root(policy, signer.public().key())) {
        ctx.note("note: this key is in the root role of neither policy: the signature will not count");
    }
    let armored = signer.sign(Namespace::Policy, &bytes).await?;
    let path = free_place(file)?;
    write_new(&path, armored.as_bytes(), false)?;
    Ok(Answer::ok(format!(
        "Signed policy version {}, SHA-256 {}, into {}.\nIt needs {} of role {} (version {}) and {} of role {} (version {}): then writ policy apply {}\n",
        new.version(),
        new.hash(),
        path.display(),
        current.document().root.threshold,
        current.document().root.role,
        current.version(),
        new.document().root.threshold,
        new.document().root.role,
        new.version(),
        file.display()
    )))
}

fn is_root(policy: &Policy, key: &authz::OperatorKey) -> bool {
    let operator = policy.operator_of(key).map(|operator| &operator.name);
    let role = policy.role(&policy.document().root.role);
    operator.is_some_and(|name| role.is_some_and(|role| role.members.contains(name)))
}

/// FILE.sig, FILE.sig.2, …
fn places(file: &Path) -> Vec<PathBuf> {
    let of = |ending: String| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let first = of(".sig".to_owned());
    std::iter::once(first).chain((2..=Envelope::MAX_SIGNATURES).map(|n| of(format!(".sig.{n}")))).collect()
}

fn free_place(file: &Path) -> Result<PathBuf, Failure> {
    places(file).into_iter().find(|path| !path.exists()).ok_or_else(|| {
        Failure::other(format!(
            "{} has {} signatures already, and no more are allowed: remove one",
            file.display(),
            Envelope::MAX_SIGNATURES
        ))
    })
}

pub(super) async fn apply(
    ctx: &Context,
    file: &Path,
    sigs: Vec<PathBuf>,
    wait: u64,
) -> Result<Answer, Failure> {
    let bytes = files::read_limited(file, Envelope::MAX_PAYLOAD as u64)?;
    let new = decode(file, &bytes)?;
    let sigs =
        if sigs.is_empty() { places(file).into_iter().filter(|path| path.exists()).collect() } else { sigs };
    let mut armored = Vec::new();
    for path in &sigs {
        let bytes = files::read_limited(path, Envelope::MAX_ARMOR as u64)?;
        armored.push(String::from_utf8(bytes).map_err(|_| {
            Failure::other(format!("{} is no signature: sign with `writ policy sign`", path.display()))
        })?);
    }
    let envelope = Envelope::new(bytes.into(), armored);
    let mut session = ctx.session()?;
    follow(ctx, &mut session).await?;
    // What hosts would refuse does not leave this machine.
    judge(&session, &envelope)?;
    session.hub.submit_policy(&envelope).await?;
    take(&session, &envelope)?;
    ctx.note(&format!("policy version {} is at the hub; waiting for the hosts …", new.version()));
    let hint = "the hosts get it all the same; see `writ policy status`";
    let view = or_interrupt(hint, wait_for(&session, new.hash(), wait)).await?;
    let (text, failures) = rows(&session, &view, &new).await?;
    Ok(Answer::with(text, failures))
}

/// The words of the chain that hosts follow too.
pub(super) fn judge(session: &Session, envelope: &Envelope) -> Result<Accepted, Failure> {
    let mut chain = session.home.chain()?.chain().clone();
    chain.accept(envelope, now()).map_err(|refusal| {
        Failure::other(format!("hosts would refuse it ({}): {}", refusal.code, refusal.why))
    })
}

pub(super) fn take(session: &Session, envelope: &Envelope) -> Result<(), Failure> {
    match session.home.chain()?.take(envelope, now()) {
        Ok(_) => Ok(()),
        Err(TakeError::Refused(refusal)) => Err(Failure::other(refusal.why)),
        Err(error @ TakeError::NoRoom(_)) => Err(Failure::other(error.to_string())),
        Err(TakeError::Store(error)) => Err(StateError::from(error).into()),
    }
}

/// Until every connected host says that it lives by it, or has refused something, or the time is over.
async fn wait_for(session: &Session, wanted: &Sha256, wait: u64) -> Result<PolicyView, Failure> {
    let until = Instant::now() + Duration::from_secs(wait);
    loop {
        let view = session.hub.policy().await?;
        let hosts = session.hub.hosts().await?;
        let settled = hosts.iter().filter(|host| host.online).all(|host| {
            view.hosts
                .iter()
                .find(|said| said.host_id == host.host_id)
                .is_some_and(|said| said.sha256 == *wanted || said.problem.is_some())
        });
        if settled || Instant::now() >= until {
            return Ok(view);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn status(ctx: &Context) -> Result<Answer, Failure> {
    let mut session = ctx.session()?;
    follow(ctx, &mut session).await?;
    let view = session.hub.policy().await?;
    let policy = session.policy.clone();
    let (text, failures) = rows(&session, &view, &policy).await?;
    let mut head =
        format!("This machine trusts policy version {}, SHA-256 {}\n", policy.version(), policy.hash());
    for revoked in policy.taken() {
        head.push_str(&format!("Revoked since, for ever: {}\n", printable(&revoked.to_string())));
    }
    Ok(Answer::with(format!("{head}{text}"), failures))
}

/// A line for each host, and what is wrong.
async fn rows(
    session: &Session,
    view: &PolicyView,
    policy: &Policy,
) -> Result<(String, Vec<String>), Failure> {
    let roster = session.judged().await?;
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (host, believed) in roster.believed() {
        let said = view.hosts.iter().find(|said| said.host_id == *believed.id());
        let (version, state) = standing(said, policy, host.online);
        if state.starts_with("refused") {
            failures.push(format!("host '{}' {state}", believed.name()));
        }
        rows.push(vec![believed.name().to_string(), version, state]);
    }
    let text = if rows.is_empty() {
        "There is no host yet.\n".to_owned()
    } else {
        table(&["HOST", "POLICY (HUB'S WORD)", "STATE"], &rows)
    };
    Ok((text, failures))
}

/// What is said of one host.
fn standing(said: Option<&HostPolicy>, policy: &Policy, online: bool) -> (String, String) {
    let Some(said) = said else {
        let state = if online { "has said nothing yet" } else { "offline" };
        return ("-".to_owned(), state.to_owned());
    };
    let state = if said.sha256 == *policy.hash() {
        "lives by it".to_owned()
    } else if let Some(problem) = &said.problem {
        printable(problem)
    } else if !online {
        "offline: gets it when it is back".to_owned()
    } else if said.version > policy.version() {
        "is ahead of this machine".to_owned()
    } else {
        "does not have it yet".to_owned()
    };
    (said.version.to_string(), state)
}
