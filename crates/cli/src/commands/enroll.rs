//! `writ enroll …`: first trust comes from the operator's machine, never from the hub.

use std::collections::BTreeMap;
use std::time::Duration;

use authz::enroll::verify_answer;
use authz::{Namespace, lookup};
use protocol::Sha256;
use protocol::api::{EnrollmentApprove, EnrollmentNew, EnrollmentState, EnrollmentView};
use protocol::enroll::{EnrollmentAnswer, EnrollmentCode, HostStatement};
use serde::Serialize;
use tokio::time::Instant;

use super::{Context, Session, now, or_interrupt, random};
use crate::args::EnrollCommand;
use crate::error::{Answer, Failure};
use crate::policy_file::runner_hint;
use crate::resolve::compare_with_memory;
use crate::state::PendingEnrollment;
use crate::text::{fields, json, table, utc};

const LONGEST_S: u64 = 7 * 86_400;
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(ctx: &Context, command: EnrollCommand) -> Result<Answer, Failure> {
    let session = match command {
        // A new host begins with the newest policy.
        EnrollCommand::New { .. } => ctx.current_session().await?,
        _ => ctx.session()?,
    };
    match command {
        EnrollCommand::New { name, site, expires, code_only } => {
            new(&session, PendingEnrollmentNames { name, site }, expires, code_only).await
        }
        EnrollCommand::List { json } => list(&session, json).await,
        EnrollCommand::Approve { which, wait, key } => {
            let pending = find(&session, &which).await?;
            let hint = format!("go on with `writ enroll approve {} --wait 60s`", pending.id);
            or_interrupt(&hint, approve(ctx, &session, &pending, wait, key.as_deref())).await
        }
        EnrollCommand::Reject { which } => {
            // By number also what another machine started: refusing needs no secret.
            let id = match which.parse::<u64>() {
                Ok(id) => id,
                Err(_) => find(&session, &which).await?.id,
            };
            session.hub.reject(id).await?;
            session.home.forget_enrollment(id)?;
            Ok(Answer::ok(format!("Enrollment {id} is rejected; its code is void.\n")))
        }
    }
}

struct PendingEnrollmentNames {
    name: protocol::HostName,
    site: protocol::HostName,
}

async fn new(
    session: &Session,
    names: PendingEnrollmentNames,
    expires_in_s: u64,
    code_only: bool,
) -> Result<Answer, Failure> {
    if expires_in_s == 0 || expires_in_s > LONGEST_S {
        return Err(Failure::other("an enrollment code can be valid for 1s to 7d: correct --expires"));
    }
    let PendingEnrollmentNames { name, site } = names;
    if session.home.memory()?.contains_key(&name) {
        return Err(Failure::other(format!(
            "this machine already knows a host '{name}': choose another name, or forget it first with `writ hosts --forget {name}`"
        )));
    }
    let secret: [u8; 16] = random()?;
    let k: [u8; 32] = random()?;
    let created = session
        .hub
        .enroll(&EnrollmentNew {
            secret_sha256: Sha256::of(&secret),
            policy: session.policy_bytes.clone().into(),
            expires_in_s,
        })
        .await?;
    let policy = *session.policy.hash();
    let id = created.id;
    // K is stored before the code is shown: a code that cannot be approved later helps nobody.
    let pending = PendingEnrollment { id, name: name.clone(), site, policy, k: Sha256::from_bytes(k) };
    session.home.save_enrollment(&pending)?;
    let code = EnrollmentCode {
        hub: session.config.hub.to_string(),
        hub_spki: session.config.pin,
        secret,
        policy,
        k,
    }
    .encode();
    if code_only {
        return Ok(Answer::ok(format!("{code}\n")));
    }
    Ok(Answer::ok(format!(
        "Enrollment {id} for host '{name}', usable once until {}.\n\n{code}\n\n\
         The code is secret: whoever has it can enroll in the host's place. It is not shown again.\n\
         On the host, as root:  writ-agent enroll\n\
         and paste the code when asked (or use --code-file FILE; never as an argument).\n\
         Then here:             writ enroll approve {name} --wait 60s\n{}",
        utc(created.expires_at),
        runner_hint(&session.policy).unwrap_or_default()
    )))
}

fn state_word(state: EnrollmentState) -> &'static str {
    match state {
        EnrollmentState::WaitingForHost => "waiting for the host",
        EnrollmentState::WaitingForApproval => "waiting for approval",
        EnrollmentState::Approved => "approved",
        EnrollmentState::Rejected => "rejected",
        EnrollmentState::Expired => "expired",
    }
}

#[derive(Serialize)]
struct Row<'a> {
    /// As given on this machine, or as signed for the host that answered; none where neither is known.
    name: Option<&'a protocol::HostName>,
    #[serde(flatten)]
    view: &'a EnrollmentView,
}

/// In place of a name. Of a code that is used up nothing is kept, so nobody knows where it was made.
fn nameless(state: EnrollmentState) -> &'static str {
    match state {
        EnrollmentState::WaitingForHost | EnrollmentState::WaitingForApproval => "(made elsewhere)",
        EnrollmentState::Approved | EnrollmentState::Rejected | EnrollmentState::Expired => "(not kept here)",
    }
}

async fn list(session: &Session, as_json: bool) -> Result<Answer, Failure> {
    let views = session.hub.enrollments().await?;
    let pending = session.home.enrollments()?;
    let memory = session.home.memory()?;
    let names: BTreeMap<u64, _> = pending.iter().map(|p| (p.id, &p.name)).collect();
    let name_of = |view: &EnrollmentView| {
        // Once a host is approved only its signed statement is kept here.
        let known = view.answer.as_ref().filter(|_| view.state == EnrollmentState::Approved);
        let signed = known.and_then(|answer| {
            memory.values().find(|s| s.host_id == answer.host_id && s.host_key == answer.host_key)
        });
        names.get(&view.id).copied().or(signed.map(|statement| &statement.name))
    };
    if as_json {
        let rows: Vec<_> = views.iter().map(|view| Row { name: name_of(view), view }).collect();
        return Ok(Answer::ok(json(&rows)));
    }
    if views.is_empty() {
        return Ok(Answer::ok("No enrollments: start one with `writ enroll new`.\n"));
    }
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| {
            vec![
                view.id.to_string(),
                name_of(view).map_or_else(|| nameless(view.state).to_owned(), ToString::to_string),
                state_word(view.state).to_owned(),
                view.created_by.to_string(),
                utc(view.expires_at),
                view.answer.as_ref().map_or_else(|| "-".to_owned(), |answer| answer.hostname.clone()),
            ]
        })
        .collect();
    Ok(Answer::ok(table(&["ID", "NAME", "STATE", "MADE BY", "EXPIRES", "HOSTNAME (UNPROVEN)"], &rows)))
}

/// The enrollment that a number or a name means, with its K: only this machine has it.
async fn find(session: &Session, which: &str) -> Result<PendingEnrollment, Failure> {
    let elsewhere = || {
        Failure::other(format!(
            "this machine has no pending enrollment '{which}': approve on the machine where `writ enroll new` was run, and see `writ enroll list`"
        ))
    };
    let mut named: Vec<PendingEnrollment> = session.home.enrollments()?;
    if let Some(by_id) = which.parse::<u64>().ok().and_then(|id| named.iter().position(|p| p.id == id)) {
        return Ok(named.swap_remove(by_id));
    }
    named.retain(|pending| pending.name.as_str() == which);
    if named.len() > 1 {
        // Old codes of the same name may be used up; only the hub knows.
        let views = session.hub.enrollments().await?;
        let open = |id| {
            views.iter().any(|view| {
                let waits = matches!(
                    view.state,
                    EnrollmentState::WaitingForHost | EnrollmentState::WaitingForApproval
                );
                view.id == id && waits
            })
        };
        named.retain(|pending| open(pending.id));
    }
    match (named.pop(), named.pop()) {
        (Some(one), None) => Ok(one),
        (Some(a), Some(b)) => Err(Failure::other(format!(
            "there are several open enrollments for '{which}' ({}, {}, …): name one by its number",
            b.id, a.id
        ))),
        (None, _) => Err(elsewhere()),
    }
}

async fn approve(
    ctx: &Context,
    session: &Session,
    pending: &PendingEnrollment,
    wait_s: u64,
    key: Option<&std::path::Path>,
) -> Result<Answer, Failure> {
    let answer = match wait_for_answer(ctx, session, pending, wait_s).await? {
        Answered::Waits(answer) => answer,
        Answered::Approved(answer) => return approved_already(session, pending, answer.as_ref()).await,
    };
    verify_answer(&answer, pending.k.as_bytes(), &pending.policy)?;
    let statement = HostStatement {
        v: 1,
        name: pending.name.clone(),
        site: pending.site.clone(),
        host_id: answer.host_id,
        host_key: answer.host_key,
        host_key_gen: answer.host_key_gen,
        device_key: answer.device_key,
        policy: pending.policy,
        issued_at: now(),
    };
    compare_with_memory(&statement, &session.home.memory()?)?;
    let shown = fields(&[
        ("name", format!("{} (site {})", statement.name, statement.site)),
        ("host id", statement.host_id.to_string()),
        ("host key", statement.host_key.fingerprint().to_string()),
        ("device key", statement.device_key.fingerprint().to_string()),
        ("hostname", format!("{} (the machine's own word)", answer.hostname)),
        ("policy", statement.policy.to_string()),
    ]);
    ctx.note(&format!("enrollment {}: the host proved that it knows the code", pending.id));
    let key = ctx.signer(key, &session.config, session.purpose(Namespace::Enroll)).await?;
    if let Err(error) = lookup::operator_of(&key.public().claim(), &session.policy, Namespace::Enroll) {
        return Err(Failure::other(format!(
            "{error} of this machine: use a key of an operator with {}",
            Namespace::Enroll
        )));
    }
    // The statement is judged whenever the host's name is used.
    if let Some(end) = key.public().valid_before() {
        return Err(Failure::other(format!(
            "a host's name would end with your certificate, {}: vouch with a key that your policy lists, or have an operator do it who has one",
            utc(end)
        )));
    }
    let signed = key.vouch(&statement).await?;
    session.hub.approve(pending.id, &EnrollmentApprove { statement: signed.clone() }).await?;
    session.home.remember_signed(&statement, &signed)?;
    session.home.forget_enrollment(pending.id)?;
    Ok(Answer::ok(format!("Host '{}' is approved; you vouch for:\n{shown}", statement.name)))
}

/// What the hub says about a code that a host used.
enum Answered {
    /// The answer waits for approval.
    Waits(EnrollmentAnswer),
    /// Somebody approved it already, says the hub.
    Approved(Option<EnrollmentAnswer>),
}

/// Forgets K only when an operator really vouched for the host that knows it: the hub's word alone
/// would let it throw away the only proof there is, and show another host under the name.
async fn approved_already(
    session: &Session,
    pending: &PendingEnrollment,
    answer: Option<&EnrollmentAnswer>,
) -> Result<Answer, Failure> {
    let PendingEnrollment { id, name, .. } = pending;
    let doubt = |why: String| {
        Failure::other(format!(
            "the hub says that enrollment {id} for host '{name}' is approved, but {why}: do not use that host; the code's secret is kept here, see `writ hosts`, or start again with `writ enroll new`"
        ))
    };
    let answer = answer.ok_or_else(|| doubt("it does not show the host's answer".to_owned()))?;
    verify_answer(answer, pending.k.as_bytes(), &pending.policy).map_err(|error| doubt(error.to_string()))?;
    let roster = session.judged().await?;
    let (_, host) = roster.by_name(name).map_err(|error| doubt(error.to_string()))?;
    let same = *host.id() == answer.host_id
        && host.statement.host_key == answer.host_key
        && host.statement.host_key_gen == answer.host_key_gen;
    if !same {
        return Err(doubt(format!(
            "the operator-signed statement for '{name}' names host {} with key {}, and host {} with key {} proved that it knows the code",
            host.id(),
            host.key.fingerprint(),
            answer.host_id,
            answer.host_key.fingerprint()
        )));
    }
    session.home.remember(host)?;
    session.home.forget_enrollment(*id)?;
    Ok(Answer::ok(format!(
        "Enrollment {id} is approved already: {} vouches for host '{name}', key {}.\n",
        host.vouched_by,
        host.key.fingerprint()
    )))
}

/// The host's answer.
async fn wait_for_answer(
    ctx: &Context,
    session: &Session,
    pending: &PendingEnrollment,
    wait_s: u64,
) -> Result<Answered, Failure> {
    let deadline = Instant::now() + Duration::from_secs(wait_s);
    let mut told = false;
    loop {
        let view = session.hub.enrollment(pending.id).await?;
        if view.id != pending.id {
            return Err(Failure::other(format!(
                "asked about enrollment {}, the hub answers about {}: the hub is wrong or lying",
                pending.id, view.id
            )));
        }
        match (view.state, view.answer) {
            (EnrollmentState::Approved, answer) => return Ok(Answered::Approved(answer)),
            (state @ (EnrollmentState::Rejected | EnrollmentState::Expired), _) => {
                return Err(Failure::other(format!(
                    "enrollment {} is {}: make a new code with `writ enroll new`",
                    pending.id,
                    state_word(state)
                )));
            }
            (EnrollmentState::WaitingForApproval, Some(answer)) => return Ok(Answered::Waits(answer)),
            (EnrollmentState::WaitingForHost | EnrollmentState::WaitingForApproval, _) => {}
        }
        if Instant::now() >= deadline {
            return Err(Failure::Timeout {
                what: format!("host '{}' has not answered", pending.name),
                waited_s: wait_s,
                hint: format!(
                    "run `writ-agent enroll` there, then `writ enroll approve {} --wait 60s`",
                    pending.id
                ),
            });
        }
        if !told {
            ctx.note(&format!("waiting for host '{}' to use its code …", pending.name));
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
