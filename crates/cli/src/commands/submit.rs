//! `writ submit`.

use authz::verify::CLOCK_SKEW_S;
use authz::{Order, files};
use protocol::Envelope;

use super::cosign::{forecast, host_of, signature, signatures_beside};
use super::sign::signature_path;
use super::wait::Wanted;
use super::{Context, Session, now, read_order, wait};
use crate::args::SubmitArgs;
use crate::error::{Answer, Failure};
use crate::hub::HubError;
use crate::resolve::Believed;
use crate::state::SubmittedOrder;
use crate::text::utc;

pub(super) async fn run(ctx: &Context, args: SubmitArgs) -> Result<Answer, Failure> {
    let mut readable = None;
    let (session, host, payload) = match &args.raw {
        Some(name) => {
            let payload = files::read_limited(&args.order, Envelope::MAX_PAYLOAD as u64)?;
            let session = ctx.session()?;
            let host = session.believed(name).await?;
            (session, host, payload)
        }
        None => {
            let (payload, order) = read_order(&args.order)?;
            let session = ctx.session()?;
            let host = host_of(&session, &order).await?;
            readable = Some(order);
            (session, host, payload)
        }
    };
    let sigs = signatures(&args)?;
    let envelope = Envelope::new(payload.into(), sigs);
    // It is sent all the same: the host decides, and its refusal is signed.
    let stale = session.home.policy_is_stale(now());
    for why in readable.iter().flat_map(|order| forecast(order, &envelope, &session.policy, stale)) {
        ctx.note(&format!("note: the host will refuse: {why}"));
    }
    if let Some(why) = readable.as_ref().and_then(|order| crate::planned::too_late(order, now())) {
        ctx.note(&format!("note: the host will refuse: {why}"));
    }
    send(ctx, &session, &host, envelope, &args).await
}

async fn send(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    envelope: Envelope,
    args: &SubmitArgs,
) -> Result<Answer, Failure> {
    let op = envelope.id();
    let resume = format!("writ order {} {op} --wait", host.name());
    let record = deliver(ctx, session, host, envelope, &resume).await?;
    let after = record.version.unwrap_or(0);
    let wanted = Wanted {
        host,
        op: &op,
        sent: Some(&record.envelope),
        after,
        result: false,
        timeout_s: args.timeout,
        resume: &resume,
    };
    let story = wait::for_receipt(ctx, session, &wanted).await?;
    Ok(wait::answer(&story, host, &op, Some(&record.envelope), &session.policy, args.json))
}

/// Hands an order to the hub, once. Gives what is kept of it; `resume` is the command that goes on with it.
pub(super) async fn deliver(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    envelope: Envelope,
    resume: &str,
) -> Result<SubmittedOrder, Failure> {
    let op = envelope.id();
    // What is under seal nobody here can read again, so it is not kept.
    let mut record = SubmittedOrder {
        host: *host.id(),
        envelope: Envelope { sealed: None, ..envelope.clone() },
        version: None,
    };
    // Before sending: if the answer is lost, the order may be on its way all the same. An older
    // record keeps its version, which is the right one for what was sent then.
    if session.home.order(&op)?.is_none() {
        session.home.save_order(&record)?;
    }
    let taken = match session.hub.submit(host.id(), &envelope).await {
        Ok(accepted) if accepted.op != op => Err(HubError::OtherOrder { sent: op, said: accepted.op }),
        taken => taken,
    };
    let accepted = taken.map_err(|error| {
        if error.is_uncertain() { uncertain(error, &envelope, resume) } else { error.into() }
    })?;
    ctx.note(&format!("order {op} is at the hub, for host '{}'", host.name()));
    record.version = Some(accepted.version);
    session.home.save_order(&record)?;
    if !accepted.online {
        ctx.note(&format!("host '{}' is offline, the order waits at the hub", host.name()));
    }
    Ok(record)
}

/// What is known of an order that was sent, when the hub does not say that it has it. Its unsigned no must
/// not lead to a second order: with the first one in hand it can have both carried out.
pub(super) fn uncertain(error: HubError, envelope: &Envelope, resume: &str) -> Failure {
    let exp = Order::decode(&envelope.payload.0).ok().map(|order| order.exp);
    let danger = match exp {
        // The host's clock decides; by ours it is over.
        Some(exp) if now() > exp.saturating_add(CLOCK_SKEW_S) => {
            format!("the order was valid until {} and may have been carried out", utc(exp))
        }
        Some(exp) => format!(
            "the order may be carried out all the same and is STILL VALID until {}, do not sign a replacement before then",
            utc(exp)
        ),
        None => "what was sent may reach the host all the same, do not sign a replacement".to_owned(),
    };
    Failure::Uncertain { why: error.as_its_word(), danger, resume: resume.to_owned(), source: error.into() }
}

fn signatures(args: &SubmitArgs) -> Result<Vec<String>, Failure> {
    if args.sigs.len() > Envelope::MAX_SIGNATURES {
        return Err(Failure::other(format!(
            "an order can carry at most {} signatures: name fewer with --sig",
            Envelope::MAX_SIGNATURES
        )));
    }
    if !args.sigs.is_empty() {
        return args.sigs.iter().map(|path| signature(path)).collect();
    }
    let beside: Vec<_> = signatures_beside(&args.order)?.into_iter().map(|(_, armored)| armored).collect();
    if beside.is_empty() && args.raw.is_none() {
        return Err(Failure::other(format!(
            "{} is not signed (there is no {}): run `writ sign {}`, or name a signature with --sig",
            args.order.display(),
            signature_path(&args.order).display(),
            args.order.display()
        )));
    }
    Ok(beside)
}
