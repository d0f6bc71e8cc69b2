//! `writ run`, `writ result`.

use std::io::Read as _;
use std::path::Path;

use authz::order::{JobParams, Params};
use authz::{Kind, Namespace, Order, Outcome, SecretKey, files};
use protocol::job::{JobEnd, JobResult, MAX_SCRIPT};
use protocol::{Envelope, HostName, Nonce, Sha256};
use serde::Serialize;
use zeroize::Zeroizing;

use super::submit::deliver;
use super::wait::{self, Wanted};
use super::{Context, Session, history, now, random};
use crate::args::{PrintArgs, ResultArgs, RunArgs};
use crate::error::{Answer, Failure, Output};
use crate::prepare::{Circumstances, longest_validity, prepare_for_host};
use crate::render::{about, short};
use crate::resolve::Believed;
use crate::result::{named_by, notes, open, status};
use crate::script::{Script, ScriptError};
use crate::state::SubmittedOrder;
use crate::text::{json, span};

/// How long the order can be used if the policy allows it, seconds: a host may be away for a moment.
const VALID_S: u64 = 600;
/// Characters of a program and its arguments that are shown.
const SHOWN: usize = 120;
/// For the ways there and back, on top of what order and script may take, seconds.
const SLACK_S: u64 = 60;

pub(super) async fn run(ctx: &Context, args: RunArgs) -> Result<Answer, Failure> {
    let script = script(&args)?;
    let session = ctx.current_session().await?;
    let host = session.believed(&args.host).await?;
    let signer = ctx.signer(args.key.as_deref(), &session.config, session.purpose(Namespace::Job)).await?;
    let result_key = SecretKey::from_seed(&Zeroizing::new(random::<32>()?));
    let params = Params::JobRun(JobParams {
        script: Sha256::of(&script.bytes),
        script_len: u32::try_from(script.bytes.len()).unwrap_or(u32::MAX),
        interpreter: script.interpreter.clone(),
        args: script.args.clone(),
        user: args.user.clone(),
        env: args.env.clone(),
        timeout_s: args.timeout,
        max_output: args.max_output,
        result_key: result_key.public().to_wire(),
    });
    let valid_s = longest_validity(&session.policy, Kind::JobRun, VALID_S);
    let nonce = Nonce::from_bytes(random()?);
    let with = Circumstances { nonce, now: now(), valid_s, reason: args.reason.clone(), ticket: None };
    let mut order = prepare_for_host(&host, &session.policy, params, with)?;
    order.after = history::after(ctx, &session, &host)?;
    let payload = order.encode();
    let op = Sha256::of(&payload);
    ctx.note(&format!(
        "{} on {}, read by {}, at most {}: {}",
        about(&order),
        host.name(),
        script.interpreter,
        span(args.timeout.into()),
        shortened(&script.shown)
    ));
    ctx.note_useless(&session.policy, &signer, order.kind().namespace());
    let sig = signer.sign(order.kind().namespace(), &payload).await?;
    let randomness = sealed::Randomness::from_bytes(&Zeroizing::new(random()?));
    let sealed = sealed::seal(&host.key.to_wire(), &script.bytes, randomness).map_err(|error| {
        Failure::other(format!("the script cannot be sealed to host '{}': {error}", host.name()))
    })?;
    let envelope = Envelope { sealed: Some(sealed.into()), ..Envelope::new(payload.into(), vec![sig]) };

    // Before anything is sent: without this key nobody could ever read the result.
    session.home.save_result_key(&op, &result_key)?;
    let resume = resume(host.name(), &op);
    // Whatever the hub says, the key stays: the script may run all the same.
    let record = deliver(ctx, &session, &host, envelope, &resume).await?;
    let timeout_s = valid_s + u64::from(args.timeout) + SLACK_S;
    let job = Job { host: &host, op, record: Some(&record), key: &result_key, print: args.print };
    finish(ctx, &session, &job, timeout_s, &resume).await
}

pub(super) async fn result(ctx: &Context, args: ResultArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let op = args.op;
    let Some(key) = session.home.result_key(&op)? else {
        return Err(Failure::other(format!(
            "this machine has no key to the result of order {op}: its result was printed already or there never was one, or `writ run` ran on another machine; what became of the order is in `writ order {} {op}`",
            host.name()
        )));
    };
    let record = session.home.order(&op)?.filter(|record| record.host == *host.id());
    let job = Job { host: &host, op, record: record.as_ref(), key: &key, print: args.print };
    finish(ctx, &session, &job, args.timeout, &resume(host.name(), &op)).await
}

fn resume(host: &HostName, op: &Sha256) -> String {
    format!("writ result {host} {op}")
}

/// A script that is on its way.
struct Job<'a> {
    host: &'a Believed,
    op: Sha256,
    record: Option<&'a SubmittedOrder>,
    key: &'a SecretKey,
    print: PrintArgs,
}

/// The end of a script for programs.
#[derive(Serialize)]
struct Page<'a> {
    op: &'a Sha256,
    host: &'a HostName,
    success: bool,
    exit_status: u8,
    end: &'a JobEnd,
    /// None when it is not UTF-8.
    stdout: Option<&'a str>,
    /// Base64; only when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<&'a protocol::Bytes>,
    stderr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<&'a protocol::Bytes>,
    truncated: bool,
    duration_ms: u64,
    leftovers_killed: u32,
    /// Verified.
    receipt: &'a authz::Receipt,
}

/// Waits for receipt and result, and says what they say.
async fn finish(
    ctx: &Context,
    session: &Session,
    job: &Job<'_>,
    timeout_s: u64,
    resume: &str,
) -> Result<Answer, Failure> {
    let Job { host, op, record, key, print } = job;
    let after = record.and_then(|record| record.version).unwrap_or(0);
    let sent = record.map(|record| &record.envelope);
    let wanted = Wanted { host, op, sent, after, result: true, timeout_s, resume };
    let story = wait::for_receipt(ctx, session, &wanted).await?;
    let end = story.end.as_ref().and_then(|receipt| receipt.order_outcome().map(|(_, end)| (receipt, end)));
    let (Some((receipt, outcome)), Some(sealed)) = (end, &story.result) else {
        return not_run(session, job, &story);
    };
    let Some(expected) = named_by(outcome) else { return not_run(session, job, &story) };
    let result = open(sealed, expected, key, op)?;
    let code = status(&result.end);
    ctx.note(&format!(
        "order {}: {} after {}.{} s, as host '{}' signed",
        short(op),
        result.end,
        result.duration_ms / 1000,
        result.duration_ms % 1000 / 100,
        host.name()
    ));
    let limit = record.and_then(|record| match Order::decode(&record.envelope.payload.0).ok()?.params {
        Params::JobRun(params) => Some(params.max_output),
        _ => None,
    });
    let mut answer = Answer {
        notes: notes(&result, limit),
        status: code,
        forget: Some(session.home.result_key_path(op)),
        ..Answer::default()
    };
    let JobResult { stdout, stderr, .. } = &result;
    if print.json {
        let text = |bytes: &'_ protocol::Bytes| std::str::from_utf8(&bytes.0).is_err();
        answer.stdout = json(&Page {
            op,
            host: host.name(),
            success: code == 0,
            exit_status: code,
            end: &result.end,
            stdout: std::str::from_utf8(&stdout.0).ok(),
            stdout_base64: text(stdout).then_some(stdout),
            stderr: std::str::from_utf8(&stderr.0).ok(),
            stderr_base64: text(stderr).then_some(stderr),
            truncated: result.truncated,
            duration_ms: result.duration_ms,
            leftovers_killed: result.leftovers_killed,
            receipt,
        });
    } else {
        answer.output = Some(Output { stdout: result.stdout.0, stderr: result.stderr.0, raw: print.raw });
    }
    Ok(answer)
}

/// Refused, aborted, failed or unknown: as with any other order.
fn not_run(session: &Session, job: &Job<'_>, story: &crate::judge::Story) -> Result<Answer, Failure> {
    let Job { host, op, record, print, .. } = job;
    let outcome = story.end.as_ref().and_then(|receipt| receipt.order_outcome());
    // Only here is it certain that there will never be a result: a refused order may come again.
    if let Some((_, Outcome::Aborted { .. })) = outcome {
        session.home.forget_result_key(op)?;
    }
    let mine = record.map(|record| &record.envelope);
    let mut page = wait::answer(story, host, op, mine, &session.policy, print.json);
    if page.failures.is_empty() {
        page.failures
            .push("the host signed an end of the order that is not a script's: see `writ order`".into());
    }
    // Standard output is for what scripts print.
    let stdout = if print.json { page.stdout } else { String::new() };
    Ok(Answer::with(stdout, page.failures))
}

/// One or two lines of a terminal.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes in all)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

fn script(args: &RunArgs) -> Result<Script, Failure> {
    let Some(path) = &args.script else { return Ok(Script::from_words(&args.args, random()?)?) };
    let most = MAX_SCRIPT as u64;
    let (bytes, called) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(most + 1).read_to_end(&mut bytes).map_err(|error| {
            Failure::other(format!(
                "the script cannot be read from standard input ({error}): nothing was sent"
            ))
        })?;
        (bytes, "script from standard input".to_owned())
    } else {
        match files::read_limited(path, most) {
            Err(files::FileError::TooLarge { .. }) => return Err(ScriptError::TooLong.into()),
            other => (other?, path.display().to_string()),
        }
    };
    Ok(Script::from_bytes(bytes, args.interpreter.clone(), &args.args, &called)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_shown_in_part() {
        assert_eq!(shortened("uptime -p"), "uptime -p");
        let long = shortened(&"ü".repeat(5_000));
        assert!(long.starts_with("üü") && long.ends_with("ü… (10000 bytes in all)") && long.len() < 300);
    }
}
