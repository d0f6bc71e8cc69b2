//! `writ cosign`, and the signature files beside an order.

use std::path::{Path, PathBuf};

use authz::lookup::{self, Count, Signatory};
use authz::plan::Plan;
use authz::world::World;
use authz::{Order, Policy, files};
use protocol::Envelope;
use protocol::ask::{Question, Reply};
use protocol::text::printable;

use super::sign::{shown, signature_path};
use super::{Context, Session, now, planned, read_order, write_new};
use crate::args::CosignArgs;
use crate::cosigning::{Fact, Needed, facts, useless};
use crate::error::{Answer, Failure};
use crate::live;
use crate::planned::{deadline, describe};
use crate::resolve::{Believed, Memory, check_order_name};
use crate::text::{age, fields, span, utc};

/// Where the signatures of an order lie: FILE.sig as ssh-keygen has it, then FILE.sig.2 to FILE.sig.8.
pub(super) fn signature_paths(order: &Path) -> impl Iterator<Item = PathBuf> {
    let first = signature_path(order);
    (1..=Envelope::MAX_SIGNATURES).map(move |nth| match nth {
        1 => first.clone(),
        nth => {
            let mut name = first.as_os_str().to_owned();
            name.push(format!(".{nth}"));
            name.into()
        }
    })
}

/// The signatures that lie beside an order.
pub(super) fn signatures_beside(order: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut found = Vec::new();
    for path in signature_paths(order) {
        match signature(&path) {
            Ok(armored) => found.push((path, armored)),
            Err(Failure::File(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// One signature file; what is in it is not judged.
pub(super) fn signature(path: &Path) -> Result<String, Failure> {
    let bytes = files::read_limited(path, Envelope::MAX_ARMOR as u64)?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::other(format!("{} is not an SSH signature: sign with `writ sign`", path.display()))
    })
}

/// The host that an order is for, as this machine believes it.
pub(super) async fn host_of(session: &Session, order: &Order) -> Result<Believed, Failure> {
    let roster = session.roster().await?;
    let known: Memory = roster
        .believed()
        .map(|(_, host)| (host.name().clone(), host.statement.clone()))
        .chain(session.home.memory()?)
        .collect();
    check_order_name(&order.host.name, &order.host.id, &known)?;
    let host = roster.by_id(&order.host.id)?.1.clone();
    if order.host.key != host.key.fingerprint() || order.host.generation != host.statement.host_key_gen {
        return Err(Failure::OtherKey { host: host.name().clone() });
    }
    Ok(host)
}

/// What comes after signing, as far as the signers are `counted`.
pub(super) fn next(order: &Order, counted: Option<&Count>, policy: Option<&Policy>, file: &Path) -> String {
    let file = file.display();
    let role = policy.and_then(|policy| policy.rule(order.kind())).map(|rule| &rule.role);
    match counted.zip(role) {
        Some((Count { have, need, .. }, role)) if have < need => format!(
            "{have} of {need} signatures. Next: another operator of role {role}, with {file} and its .sig files, runs\n  \
             writ cosign {file}\n"
        ),
        Some((Count { missing: Some(missing), .. }, _)) => format!(
            "Not enough yet: {missing}. Next: an operator of the role that is missing, with {file} and its .sig files, runs\n  \
             writ cosign {file}\n"
        ),
        _ => format!("Next: writ submit {file}\n"),
    }
}

/// What a host would say to these signatures, by the policy of this machine; nothing where they are good and
/// enough. `stale` says that the last word of that policy's freshness is too old.
pub(super) fn forecast(order: &Order, envelope: &Envelope, policy: &Policy, stale: bool) -> Vec<String> {
    if order.policy.version != policy.version() || order.policy.sha256 != *policy.hash() {
        return vec![format!(
            "the order was made under policy version {} ({}), this machine trusts version {} ({})",
            order.policy.version,
            order.policy.sha256,
            policy.version(),
            policy.hash()
        )];
    }
    let namespace = order.kind().namespace();
    let judged = envelope
        .sigs
        .iter()
        .map(|armored| lookup::judge(armored, namespace, &envelope.payload.0, policy, now()));
    let (good, bad): (Vec<_>, Vec<_>) = judged.partition(Result::is_ok);
    if !bad.is_empty() {
        return bad.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    }
    let by: Vec<Signatory> = good.into_iter().flatten().collect();
    match lookup::count(order, policy, &by, stale) {
        Err((_, why)) => vec![why],
        Ok(count) => count.missing.map(|why| format!("{why}: see `writ cosign`")).into_iter().collect(),
    }
}

pub(super) async fn run(ctx: &Context, args: CosignArgs) -> Result<Answer, Failure> {
    let CosignArgs { order: file, key, output } = args;
    let (bytes, order) = read_order(&file)?;
    let beside = signatures_beside(&file)?;
    if beside.is_empty() {
        return Err(Failure::other(format!(
            "{} is not signed yet (there is no {}): be the first with `writ sign {}`",
            file.display(),
            signature_path(&file).display(),
            file.display()
        )));
    }
    let output = match output {
        Some(output) => output,
        None => signature_paths(&file).find(|path| !path.exists()).ok_or_else(|| {
            Failure::other(format!("an order can carry at most {} signatures", Envelope::MAX_SIGNATURES))
        })?,
    };
    if output.exists() {
        return Err(Failure::Exists(output));
    }
    // A revocation that this machine has not heard of would let it sign in vain.
    let session = ctx.current_session().await?;
    let by = judged(&session, &order, &bytes, &beside)?;
    let stale = stale(&session, &order);
    let host = host_of(&session, &order).await?;
    // A new plan would take the place of the one that the order is bound to, so none is asked for.
    let plan = planned::checked(&file, &order, &host)?;
    let detail = session.detail(&host).await?;
    let now = now();

    // All of it, even with --quiet: nobody signs what they have not seen.
    let mut text = shown(ctx, &bytes, &order)?;
    text.push_str(&plan.as_ref().map(|plan| describe(plan, &order, host.name(), now)).unwrap_or_default());
    text.push_str(&signed_so_far(&beside, &by));
    let checked = detail.report.as_ref().map(|report| facts(&order, report)).unwrap_or_default();
    match &detail.report {
        Some(report) => {
            let when = format!("{} ({})", utc(report.collected_at), age(report.collected_at, now));
            let head = format!("Since it was prepared, by the report of {when}");
            text.push_str(&since(&checked, &head, detail.host.online));
        }
        None => {
            text.push_str("Since then: not known, the host has not reported yet; it reads every fact again\n")
        }
    }
    let seen = look(&session, &host, &order, plan.as_ref()).await;
    text.push_str(&match &seen {
        Ok(facts) => since(facts, "As the host sees it now", true),
        Err(why) => format!("As the host sees it now: not known ({why}); it compares everything again\n"),
    });
    let until = if order.plan.is_some() { deadline(&order) } else { order.exp };
    let left = span(until.saturating_sub(now));
    text.push_str(&fields(&[("time left", if now > until { "none, it EXPIRED".to_owned() } else { left })]));
    eprint!("{text}");

    if now > order.exp {
        return Err(Failure::other(format!(
            "the order expired at {}: prepare a new one with `writ op`, and sign that",
            utc(order.exp)
        )));
    }
    planned::in_time(&order)?;
    if let Some(why) = stale {
        return Err(Failure::other(why));
    }
    let seen = seen.unwrap_or_default();
    let moved: Vec<_> =
        checked.iter().chain(&seen).filter(|fact| fact.is_changed()).map(|fact| fact.what).collect();
    if !moved.is_empty() {
        return Err(Failure::other(format!(
            "{} changed since the order was prepared, so the host can only refuse it: nothing was signed; prepare a new order with `writ op`",
            moved.join(", ")
        )));
    }

    let namespace = order.kind().namespace();
    let signer = ctx.signer(key.as_deref(), &session.config, session.purpose(namespace)).await?;
    let operator = lookup::operator_of(&signer.public().claim(), &session.policy, namespace)
        .map_err(|error| Failure::other(format!("{error} of this machine: nothing was signed")))?;
    let new = Signatory { operator: operator.name.clone(), key: signer.public().key().clone() };
    if let Some(why) = useless(&order, &session.policy, &by, &new) {
        return Err(Failure::other(format!("{why}; nothing was signed")));
    }
    let by = [by.as_slice(), std::slice::from_ref(&new)].concat();
    let stale = session.home.policy_is_stale(now);
    let count = lookup::count(&order, &session.policy, &by, stale)
        .map_err(|(_, why)| Failure::other(format!("{why}: nothing was signed")))?;
    if let Some(Needed { role, .. }) = Needed::of(&order, &session.policy) {
        let (need, have) = (count.need, count.have);
        eprintln!("The policy wants {need} signer(s) of role {role}; with yours there are {have}.");
        if let Some(missing) = count.missing.as_ref().filter(|_| have >= need) {
            eprintln!("They are not enough: {missing}.");
        }
    }
    let armored = signer.sign(namespace, &bytes).await?;
    // As the host will: also what only the policy knows, such as a PIN or a certificate's longest validity.
    lookup::judge(&armored, namespace, &bytes, &session.policy, super::now())
        .map_err(|error| Failure::other(format!("the host would refuse your signature: {error}")))?;
    write_new(&output, armored.as_bytes(), false)?;
    Ok(Answer::ok(format!(
        "Signed as {} with {} for {namespace}: {}\n{}",
        new.operator,
        signer.public().fingerprint(),
        output.display(),
        next(&order, Some(&count), Some(&session.policy), &file)
    )))
}

/// What changed, by the host's own look; in words why it is not known.
async fn look(
    session: &Session,
    host: &Believed,
    order: &Order,
    plan: Option<&Plan>,
) -> Result<Vec<Fact>, String> {
    let changed = |why: &str| {
        let signed = "everything that the order states".to_owned();
        vec![Fact { what: "in all", signed, now: crate::cosigning::Now::Changed(format!("refused: {why}")) }]
    };
    let look = live::look(order);
    if look == protocol::ask::Look::default() {
        return Err("there is nothing to look at for an order of this kind".to_owned());
    }
    match session.hub.ask(host.id(), &Question::Look(look)).await {
        Ok(Reply::World { json }) => match serde_json::from_slice::<World>(&json.0) {
            Ok(world) => Ok(live::facts(order, plan, &world)),
            Err(_) => Err("what came back cannot be read: are host and writ of the same version?".to_owned()),
        },
        Ok(Reply::Refused { code, why }) if code == "precondition" => Ok(changed(&why)),
        Ok(Reply::Refused { why, .. }) => Err(printable(&why)),
        Ok(Reply::Plan { .. }) => Err("something else than was asked for came back".to_owned()),
        Err(error) => Err(printable(&error.to_string())),
    }
}

/// One bad signature refuses the whole order (2.3), so nobody adds a good one to it.
fn judged(
    session: &Session,
    order: &Order,
    bytes: &[u8],
    beside: &[(PathBuf, String)],
) -> Result<Vec<Signatory>, Failure> {
    let namespace = order.kind().namespace();
    let judge = |(path, armored): &(PathBuf, String)| {
        lookup::judge(armored, namespace, bytes, &session.policy, now()).map_err(|error| {
            Failure::other(format!(
                "{} does not count: {error}; the host would refuse the whole order, so remove that file, or have it signed again",
                path.display()
            ))
        })
    };
    beside.iter().map(judge).collect()
}

fn stale(session: &Session, order: &Order) -> Option<String> {
    let policy = &session.policy;
    (order.policy.version != policy.version() || order.policy.sha256 != *policy.hash()).then(|| {
        format!(
            "the order was made under policy version {} ({}), this machine trusts version {} ({}): prepare it again",
            order.policy.version,
            order.policy.sha256,
            policy.version(),
            policy.hash()
        )
    })
}

fn signed_so_far(beside: &[(PathBuf, String)], by: &[Signatory]) -> String {
    let rows: Vec<_> = beside
        .iter()
        .zip(by)
        .map(|((path, _), by)| {
            ("signed", format!("by {} with key {} ({})", by.operator, by.key.fingerprint(), path.display()))
        })
        .collect();
    format!("Signatures, checked\n{}", fields(&rows))
}

fn since(facts: &[Fact], head: &str, online: bool) -> String {
    let rows: Vec<_> = facts.iter().map(|fact| (fact.what, fact.sentence())).collect();
    let online = if online { "" } else { "; the host is OFFLINE" };
    let head = format!("{head}, through the hub, not signed{online}");
    format!("{}\n{}", printable(&head), fields(&rows))
}
