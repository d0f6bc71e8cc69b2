//! `writ connect`: a session, from the signed grant to its last byte.

use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use authz::order::{Params, SessionMode, SessionParams};
use authz::{Kind, Namespace, Outcome, PublicKey, RefusalCode, SecretKey};
use protocol::api::TunnelAnswer;
use protocol::text::printable;
use protocol::{Envelope, HostName, Nonce, Sha256, TunnelId};
use reqwest::Upgraded;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::{Context, Session, history, now, random};
use crate::args::{ConnectArgs, GrantArgs, Mode, ModeArgs};
use crate::error::{Answer, Failure};
use crate::hub::HubError;
use crate::judge::{Aftermath, believe_about, session_host_key};
use crate::prepare::{Circumstances, longest_validity, prepare_for_host};
use crate::resolve::Believed;
use crate::session_dir::SessionDir;
use crate::signals::Signals;
use crate::ssh_config::{Route, connect_words};
use crate::text::span;
use crate::tunnel::{Ended, relay, stdin, stdout};

/// How long a grant can be used, seconds: it is, at once. Long enough for a host's clock that is off.
const VALID_S: u64 = 300;
/// One session may end while the next begins, and hub and host hear of it a moment later.
const TRIES: u32 = 12;
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });

pub(super) async fn run(ctx: &Context, args: ConnectArgs) -> Result<Answer, Failure> {
    session_mode(&args.mode)?;
    if args.ssh_config {
        return ssh_config(ctx, &args);
    }
    if std::io::stdout().is_terminal() || std::io::stdin().is_terminal() {
        return Err(Failure::other(format!(
            "`writ connect` relays bytes for ssh and is no shell: use `writ ssh {host}`, or see `writ connect --ssh-config {host}`",
            host = args.host
        )));
    }
    let (input, output) = (stdin()?, stdout()?);
    let mut signals = Signals::listen().map_err(|error| {
        Failure::other(format!("signals cannot be listened for ({error}): nothing was sent"))
    })?;
    serve(ctx, args, input, output, async move { _ = signals.next().await }).await
}

/// The same over any input and output.
pub(super) async fn serve<I, O>(
    ctx: &Context,
    args: ConnectArgs,
    input: I,
    output: O,
    stop: impl Future<Output = ()>,
) -> Result<Answer, Failure>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    tokio::pin!(stop);
    let opened = tokio::select! {
        opened = open(ctx, &args) => opened?,
        () = &mut stop => {
            let hint = "if the host had opened a session already, it ends by itself: nobody has its key";
            return Err(Failure::Interrupted(hint.to_owned()));
        }
    };
    // The files stay until the relay ends: ssh asks for them when it pleases.
    let Opened { files: _files, data } = opened;
    Ok(match relay(input, output, data, stop).await? {
        Ended::There(why) if !is_ordinary(&why) => Answer {
            notes: vec![format!("the host ended the session: {why}")],
            status: 255,
            ..Answer::default()
        },
        Ended::There(_) | Ended::Here | Ended::Stopped => Answer::default(),
    })
}

/// The client left and its sshd ended: nothing to tell. (In the words of runner and warden; should they
/// change, one line too many is printed.)
fn is_ordinary(why: &str) -> bool {
    why.is_empty() || why.contains("ended: the client left")
}

/// A session that waits for its client.
struct Opened {
    files: SessionDir,
    data: Upgraded,
}

async fn open(ctx: &Context, args: &ConnectArgs) -> Result<Opened, Failure> {
    let session = ctx.current_session().await?;
    let host = session.believed(&args.host).await?;
    let purpose = session.purpose(Namespace::Session);
    let signer = ctx.signer(args.grant.key.as_deref(), &session.config, purpose).await?;
    let directory = match &args.session_dir {
        Some(directory) => directory.clone(),
        None => session.home.session_dir(&args.host),
    };
    // Before anything is sent: ssh was started before us and will look for the key.
    let files = SessionDir::open(&directory, &SecretKey::from_seed(&Zeroizing::new(random::<32>()?)))?;
    let GrantArgs { user, idle, max, reason, key: _ } = &args.grant;
    let mode = session_mode(&args.mode)?;
    ctx.note(&summary(&args.host, &args.grant, &args.mode)?);
    let params = Params::SessionOpen(SessionParams {
        key: files.key().to_wire(),
        user: user.clone(),
        mode,
        forwards: args.mode.forwards.clone(),
        idle_s: *idle,
        max_s: *max,
    });
    let valid_s = longest_validity(&session.policy, Kind::SessionOpen, VALID_S);
    let nonce = Nonce::from_bytes(random()?);
    let with = Circumstances { nonce, now: now(), valid_s, reason: reason.clone(), ticket: None };
    let mut order = prepare_for_host(&host, &session.policy, params, with)?;
    order.after = history::after(ctx, &session, &host)?;
    let payload = order.encode();
    ctx.note_useless(&session.policy, &signer, order.kind().namespace());
    let sig = signer.sign(order.kind().namespace(), &payload).await?;
    let envelope = Envelope::new(payload.into(), vec![sig]);
    let answer = ask(&session, &host, &envelope, *idle).await?;
    let (tunnel, host_key) = judged(&session, &host, &envelope, &answer, *idle)?;
    // From here on ssh can tell this host from anybody in between.
    files.believe(&args.host, &host_key)?;
    let data = session.hub.dial(&tunnel).await?;
    Ok(Opened { files, data })
}

/// Asks for the session. The one before may be about to end: a plain no for that reason, by the hub or
/// signed by the host, has burned nothing, so the same grant is shown again a few times.
async fn ask(
    session: &Session,
    host: &Believed,
    envelope: &Envelope,
    idle_s: u32,
) -> Result<TunnelAnswer, Failure> {
    let mut tries = 1;
    loop {
        let answer = session.hub.open_tunnel(host.id(), envelope).await;
        let passing = match &answer {
            Ok(TunnelAnswer::Refused { receipt }) => {
                let receipt = believe_about(receipt, host, &envelope.id())?;
                let outcome = receipt.order_outcome().map(|(_, outcome)| outcome);
                matches!(outcome, Some(Outcome::Refused { code: RefusalCode::Sessions, .. }))
            }
            Err(HubError::Refused { code, .. }) => code == "session_exists",
            Ok(_) | Err(_) => false,
        };
        if !passing || tries == TRIES {
            return answer.map_err(|error| no_answer(error, host, idle_s));
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn no_answer(error: HubError, host: &Believed, idle_s: u32) -> Failure {
    let name = host.name();
    if !error.is_uncertain() {
        return error.into();
    }
    let remedy = match &error {
        HubError::Refused { code, .. } if code == "session_exists" => {
            format!("; see `writ sessions {name}`, and end one with `writ sessions close ID`")
        }
        _ => String::new(),
    };
    Failure::other(format!("{error}{remedy}; {}", harmless(host, idle_s)))
}

/// Nobody but the host signs that it opened nothing.
fn harmless(host: &Believed, idle_s: u32) -> String {
    format!(
        "should host '{}' have opened a session, it ends by itself after {} idle: nobody has its key",
        host.name(),
        span(idle_s.into())
    )
}

/// What the hub's answer is worth: only the host's own signed word opens a session.
fn judged(
    session: &Session,
    host: &Believed,
    envelope: &Envelope,
    answer: &TunnelAnswer,
    idle_s: u32,
) -> Result<(TunnelId, PublicKey), Failure> {
    let (op, name): (Sha256, _) = (envelope.id(), host.name());
    match answer {
        TunnelAnswer::Ready { id, receipt } => Ok((*id, session_host_key(receipt, host, &op)?)),
        TunnelAnswer::Refused { receipt } => {
            let receipt = believe_about(receipt, host, &op)?;
            let Some((_, outcome)) = receipt.order_outcome() else {
                return Err(Failure::other(format!(
                    "the hub says that host '{name}' refused the session, and shows no refusal by it: the hub is wrong or lying"
                )));
            };
            let mut sentence = match outcome {
                Outcome::Refused { .. } => format!("host '{name}' did not open the session: {outcome}"),
                Outcome::Aborted { .. } => {
                    format!("the session on host '{name}' did not come about: {outcome}")
                }
                other => {
                    format!("there is no session on host '{name}' any more, or there never was: {other}")
                }
            };
            if Aftermath::of(outcome, &op, Some(envelope), &session.policy, false).altered {
                sentence.push_str(
                    "; the host did not see the signature that you sent: the hub altered the order, or the host lives by another policy",
                );
            }
            Err(Failure::Other(sentence))
        }
        TunnelAnswer::Trouble { problem } => Err(Failure::other(format!(
            "the hub says that the session on host '{name}' did not come about: {} (its word, not signed); {}",
            printable(problem),
            harmless(host, idle_s)
        ))),
    }
}

/// What the options mean, if they make sense together.
pub(super) fn session_mode(args: &ModeArgs) -> Result<SessionMode, Failure> {
    match (args.mode, &args.command) {
        (Mode::Exec, Some(command)) => Ok(SessionMode::Exec { command: command.clone() }),
        (Mode::Exec, None) => Err(Failure::other("--mode exec allows one command: name it with --command")),
        (_, Some(_)) => {
            Err(Failure::other("--command is the one command of --mode exec: add that, or leave it out"))
        }
        (Mode::Forward, None) if args.forwards.is_empty() => Err(Failure::other(
            "--mode forward allows only what is listed: name targets with --forward or, for `writ ssh`, -L",
        )),
        (Mode::Full, None) => Ok(SessionMode::Full {}),
        (Mode::Sftp, None) => Ok(SessionMode::Sftp {}),
        (Mode::Forward, None) => Ok(SessionMode::Forward {}),
    }
}

/// What is signed for, in one line.
pub(super) fn summary(host: &HostName, grant: &GrantArgs, mode: &ModeArgs) -> Result<String, Failure> {
    let GrantArgs { user, idle, max, .. } = grant;
    let targets: Vec<&str> = mode.forwards.iter().map(|target| target.as_str()).collect();
    let forwards =
        if targets.is_empty() { String::new() } else { format!(", forwards to {}", targets.join(" and ")) };
    Ok(format!(
        "{} on {host} as {user}: {}{forwards}; at most {}, {} idle",
        Kind::SessionOpen,
        session_mode(mode)?,
        span((*max).into()),
        span((*idle).into())
    ))
}

fn ssh_config(ctx: &Context, args: &ConnectArgs) -> Result<Answer, Failure> {
    let home = ctx.home()?;
    let directory = args.session_dir.clone().unwrap_or_else(|| home.session_dir(&args.host));
    let directory = absolute(directory)?;
    let grant = GrantArgs { key: args.grant.key.clone().map(absolute).transpose()?, ..args.grant.clone() };
    let program = std::env::current_exe().map_err(crate::openssh::OpenSshError::OwnPath)?;
    let home = absolute(home.root().to_owned())?;
    let proxy = connect_words(&program, &home, &args.host, &grant, &args.mode, &directory);
    let route = Route { host: &args.host, user: &grant.user, directory: &directory, proxy };
    Ok(Answer::ok(route.block()?))
}

/// ssh may start us anywhere.
pub(super) fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(&path).map_err(|source| authz::files::FileError::io("find", &path, source))?)
}
