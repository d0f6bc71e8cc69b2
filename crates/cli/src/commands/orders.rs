//! `writ orders`, `writ order`.

use authz::{Order, Outcome, Policy, Receipt};
use protocol::api::OrderView;
use protocol::text::printable;
use protocol::{HostName, Sha256};
use serde::Serialize;

use super::wait::{Stage, Wanted};
use super::{Context, Session, now, wait};
use crate::args::{HostArgs, OrderArgs};
use crate::error::{Answer, Failure};
use crate::judge::{Aftermath, JudgeError, believe_about, story, weight};
use crate::render;
use crate::resolve::Believed;
use crate::state::SubmittedOrder;
use crate::text::{json, table, utc};

/// One order for programs: the hub's words, and what the host signed.
#[derive(Serialize)]
struct Page<'a> {
    op: Sha256,
    submitted_by: &'a HostName,
    submitted_at: u64,
    delivered: bool,
    online: bool,
    /// The hub's or agent's word, not signed; so is everything above.
    progress: Option<String>,
    problem: Option<&'a String>,
    /// Verified, in order of arrival.
    receipts: Vec<Receipt>,
    /// Why the hub's receipts are not believed.
    refused: Option<String>,
    /// What a refusal leaves open, in words.
    warnings: Vec<String>,
}

impl<'a> Page<'a> {
    /// `mine` is what this machine sent of it.
    fn new(view: &'a OrderView, host: &Believed, mine: Option<&SubmittedOrder>, policy: &Policy) -> Self {
        let receipts = view.receipts.iter().map(|r| believe_about(&r.receipt, host, &view.op)).collect();
        let (receipts, refused) = match receipts {
            Ok(receipts) => (receipts, None),
            Err(error) => (Vec::new(), Some(JudgeError::to_string(&error))),
        };
        let mut page = Self {
            op: view.op,
            submitted_by: &view.submitted_by,
            submitted_at: view.submitted_at,
            delivered: view.delivered,
            online: view.online,
            progress: view.progress.as_ref().map(|progress| progress.state.to_string()),
            problem: view.problem.as_ref(),
            receipts,
            refused,
            warnings: Vec::new(),
        };
        if let Some((place, outcome)) = page.end() {
            let mut envelope = mine.map_or(&view.envelope, |record| &record.envelope).clone();
            // What was sent last says nothing about the refusal of what was sent before.
            let came = view.receipts.get(place).map(|receipt| receipt.version);
            if mine.is_some_and(|record| record.version.is_none() || came <= record.version) {
                envelope.sigs.clear();
            }
            let aftermath = Aftermath::of(outcome, &view.op, Some(&envelope), policy, false);
            page.warnings = aftermath.sentences(host.name(), now());
        }
        page
    }

    /// The end that says most, and its place: a success is not undone by the refusal of a copy.
    fn end(&self) -> Option<(usize, &Outcome)> {
        let ends = self.receipts.iter().enumerate();
        let ends = ends.filter_map(|(place, r)| r.order_outcome().map(|(_, outcome)| (place, outcome, r)));
        ends.max_by_key(|(_, _, receipt)| weight(receipt)).map(|(place, outcome, _)| (place, outcome))
    }

    /// How it ended by the host's signed word, else how far the hub says it is.
    fn state(&self, view: &OrderView, host: &Believed) -> String {
        if let Some(reason) = &self.refused {
            return format!("NOT BELIEVED: {reason}");
        }
        match self.end() {
            Some((_, outcome)) => outcome.to_string(),
            None => {
                let stage = Stage::of(&self.receipts);
                format!("{} (unsigned)", wait::progress(view, host.name(), stage))
            }
        }
    }
}

pub(super) async fn list(ctx: &Context, args: HostArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let views = session.hub.orders(host.id()).await?;
    let mut pages = Vec::new();
    for view in &views {
        let mine = mine(&session, &host, &view.op)?;
        pages.push(Page::new(view, &host, mine.as_ref(), &session.policy));
    }
    let failures = pages
        .iter()
        .filter_map(|page| page.refused.as_ref().map(|reason| format!("order {}: {reason}", page.op)))
        .collect();
    if args.json {
        return Ok(Answer::with(json(&pages), failures));
    }
    if pages.is_empty() {
        return Ok(Answer::ok(format!("No orders for host '{}' yet.\n", host.name())));
    }
    let rows: Vec<Vec<String>> = pages
        .iter()
        .zip(&views)
        .map(|(page, view)| {
            // What the payload says is only shown; who it counts for is the host's business.
            let what = match Order::decode(&view.envelope.payload.0) {
                Ok(order) if Sha256::of(&view.envelope.payload.0) == view.op => render::about(&order),
                _ => "(not readable)".to_owned(),
            };
            vec![
                utc(page.submitted_at),
                page.submitted_by.to_string(),
                what,
                page.op.to_string(),
                [vec![page.state(view, &host)], page.warnings.clone()].concat().join("; "),
            ]
        })
        .collect();
    Ok(Answer::with(
        table(&["SUBMITTED (UNSIGNED)", "BY (UNSIGNED)", "ORDER", "OP", "STATE"], &rows),
        failures,
    ))
}

/// What this machine sent of an order to this host.
fn mine(session: &Session, host: &Believed, op: &Sha256) -> Result<Option<SubmittedOrder>, Failure> {
    Ok(session.home.order(op)?.filter(|record| record.host == *host.id()))
}

pub(super) async fn show(ctx: &Context, args: OrderArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let op = args.op;
    let mine = mine(&session, &host, &op)?;
    if args.wait {
        let after = mine.as_ref().and_then(|record| record.version).unwrap_or(0);
        let resume = format!("writ order {} {op} --wait", host.name());
        let sent = mine.as_ref().map(|record| &record.envelope);
        let timeout_s = args.timeout;
        let wanted = Wanted { host: &host, op: &op, sent, after, result: false, timeout_s, resume: &resume };
        let story = wait::for_receipt(ctx, &session, &wanted).await?;
        return Ok(wait::answer(&story, &host, &op, sent, &session.policy, args.json));
    }
    let view = session.hub.order(host.id(), &op, 0, 0).await?;
    // Judged as a whole: one bad receipt and nothing of it is shown as true.
    story(&view, 0, &host, &op)?;
    let page = Page::new(&view, &host, mine.as_ref(), &session.policy);
    if args.json {
        return Ok(Answer::ok(json(&page)));
    }
    let payload = &view.envelope.payload.0;
    let mut text = match Order::decode(payload) {
        _ if Sha256::of(payload) != op => {
            return Err(Failure::other(format!(
                "the hub shows other bytes than those of order {op}: the hub is wrong or lying"
            )));
        }
        Ok(order) => render::order(&order, &op),
        Err(error) => format!("Order {op}\n  not readable: {}\n", printable(&error.to_string())),
    };
    text.push_str(&format!(
        "\nSubmitted by {} on {}, {} signature(s) (the hub's words, unsigned)\n",
        view.submitted_by,
        utc(view.submitted_at),
        view.envelope.sigs.len()
    ));
    text.push_str(&format!("  {}\n", printable(&page.state(&view, &host))));
    for warning in &page.warnings {
        text.push_str(&format!("  {}\n", printable(warning)));
    }
    if !page.receipts.is_empty() {
        let rows: Vec<_> = page.receipts.iter().map(render::receipt_row).collect();
        text.push_str("\nReceipts, all verified\n");
        text.push_str(&table(&["ENTRY", "TIME", "EVENT", "OUTCOME"], &rows));
    }
    Ok(Answer::ok(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, alice, believed, done, ended, name, order, policy, receipt};
    use authz::{Namespace, RefusalCode};
    use protocol::Envelope;
    use protocol::api::OrderReceipt;

    fn view(outcomes: &[Outcome]) -> OrderView {
        let payload = order().encode();
        let sigs = vec![alice().sign(Namespace::Op, &payload)];
        let envelope = Envelope::new(payload.into(), sigs);
        let op = envelope.id();
        let receipts = (1..).zip(outcomes).map(|(version, outcome)| OrderReceipt {
            version,
            receipt: receipt(1, None, ended(op, outcome.clone())),
        });
        OrderView {
            op,
            version: 9,
            submitted_by: name("alice"),
            submitted_at: NOW,
            delivered: true,
            online: true,
            progress: None,
            problem: Some("the disk is full".into()),
            result: None,
            receipts: receipts.collect(),
            envelope,
        }
    }

    fn refused(code: RefusalCode) -> Outcome {
        Outcome::Refused { code, why: "because".parse().unwrap() }
    }

    #[test]
    fn a_success_is_not_hidden_by_a_later_refusal() {
        let host = believed(1, "web1");
        for later in [RefusalCode::Replay, RefusalCode::Unsigned] {
            let view = view(&[done(), refused(later)]);
            let page = Page::new(&view, &host, None, &policy());
            assert!(page.state(&view, &host).starts_with("done: "), "{}", page.state(&view, &host));
            assert!(page.warnings.is_empty());
        }
    }

    #[test]
    fn words_that_nobody_signed_are_marked() {
        let (host, view) = (believed(1, "web1"), view(&[]));
        let state = Page::new(&view, &host, None, &policy()).state(&view, &host);
        assert!(state.contains("the disk is full") && state.ends_with("(unsigned)"), "{state}");
    }

    #[test]
    fn the_hub_is_accused_only_of_what_was_sent_before_the_refusal() {
        let (host, view) = (believed(1, "web1"), view(&[refused(RefusalCode::Unsigned)]));
        let said = |version| {
            let record = SubmittedOrder { host: *host.id(), envelope: view.envelope.clone(), version };
            Page::new(&view, &host, Some(&record), &policy()).warnings.join("; ")
        };
        assert!(said(Some(0)).contains("the hub altered the order"), "{}", said(Some(0)));
        // The refusal is older than the signatures that were sent last, or nothing is known.
        for version in [Some(1), None] {
            assert!(!said(version).contains("altered") && !said(version).is_empty());
        }
    }
}
