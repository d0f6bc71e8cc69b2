//! `writ orders`, `writ order`, `writ receipts`.

use authz::{Order, Receipt};
use protocol::api::OrderView;
use protocol::text::printable;
use protocol::{HostName, Sha256};
use serde::Serialize;

use super::{Context, wait};
use crate::args::{HostArgs, OrderArgs};
use crate::error::{Answer, Failure};
use crate::judge::{Chain, JudgeError, believe_about, story};
use crate::render;
use crate::resolve::Believed;
use crate::text::{json, table, utc};

/// One order for programs: the hub's words, and what the host signed.
#[derive(Serialize)]
struct Page<'a> {
    op: Sha256,
    submitted_by: &'a HostName,
    submitted_at: u64,
    delivered: bool,
    online: bool,
    /// The hub's or agent's word, not signed.
    progress: Option<String>,
    problem: Option<&'a String>,
    /// Verified, in order of arrival.
    receipts: Vec<Receipt>,
    /// Why the hub's receipts are not believed.
    refused: Option<String>,
}

impl<'a> Page<'a> {
    fn new(view: &'a OrderView, host: &Believed) -> Self {
        let receipts = view.receipts.iter().map(|r| believe_about(&r.receipt, host, &view.op)).collect();
        let (receipts, refused) = match receipts {
            Ok(receipts) => (receipts, None),
            Err(error) => (Vec::new(), Some(JudgeError::to_string(&error))),
        };
        Self {
            op: view.op,
            submitted_by: &view.submitted_by,
            submitted_at: view.submitted_at,
            delivered: view.delivered,
            online: view.online,
            progress: view.progress.as_ref().map(|progress| progress.state.to_string()),
            problem: view.problem.as_ref(),
            receipts,
            refused,
        }
    }

    /// The last end that the host signed, else how far the hub says it is.
    fn state(&self, view: &OrderView, host: &Believed) -> String {
        if let Some(reason) = &self.refused {
            return format!("NOT BELIEVED: {reason}");
        }
        match self.receipts.iter().rev().find_map(Receipt::order_outcome) {
            Some((_, outcome)) => outcome.to_string(),
            None => wait::progress(view, host.name(), !self.receipts.is_empty()),
        }
    }
}

pub(super) async fn list(ctx: &Context, args: HostArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let views = session.hub.orders(host.id()).await?;
    let pages: Vec<Page<'_>> = views.iter().map(|view| Page::new(view, &host)).collect();
    let failures = pages
        .iter()
        .filter_map(|page| page.refused.as_ref().map(|reason| format!("order {}: {reason}", page.op)))
        .collect();
    if args.json {
        return Ok(Answer { stdout: json(&pages), failures });
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
                Ok(order) if Sha256::of(&view.envelope.payload.0) == view.op => {
                    format!("{} {}", order.kind(), order.guest.vmid)
                }
                _ => "(not readable)".to_owned(),
            };
            vec![
                utc(page.submitted_at),
                page.submitted_by.to_string(),
                what,
                page.state(view, &host),
                page.op.to_string(),
            ]
        })
        .collect();
    Ok(Answer { stdout: table(&["SUBMITTED", "BY", "ORDER", "STATE", "OP"], &rows), failures })
}

pub(super) async fn show(ctx: &Context, args: OrderArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let op = args.op;
    if args.wait {
        let mine = session.home.order(&op)?.filter(|record| record.host == *host.id());
        let after = mine.and_then(|record| record.version).unwrap_or(0);
        let story = wait::for_receipt(ctx, &session, &host, &op, after, args.timeout).await?;
        return Ok(wait::answer(&story, &host, &op, args.json));
    }
    let view = session.hub.order(host.id(), &op, 0, 0).await?;
    // Judged as a whole: one bad receipt and nothing of it is shown as true.
    story(&view, 0, &host, &op)?;
    let page = Page::new(&view, &host);
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
        "\nSubmitted by {} on {}, {} signature(s)\n",
        view.submitted_by,
        utc(view.submitted_at),
        view.envelope.sigs.len()
    ));
    text.push_str(&format!("  {}\n", printable(&page.state(&view, &host))));
    if !page.receipts.is_empty() {
        let rows: Vec<_> = page.receipts.iter().map(render::receipt_row).collect();
        text.push_str("\nReceipts, all verified\n");
        text.push_str(&table(&["ENTRY", "TIME", "EVENT", "OUTCOME"], &rows));
    }
    Ok(Answer::ok(text))
}

/// A verified log for programs.
#[derive(Serialize)]
struct Log {
    held: u64,
    /// All verified, in their places.
    receipts: Vec<Receipt>,
    /// Why the log ends here.
    refused: Option<String>,
}

pub(super) async fn receipts(ctx: &Context, args: HostArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let mut chain = Chain::default();
    let mut log = Log { held: 0, receipts: Vec::new(), refused: None };
    'pages: loop {
        let first = chain.next();
        let page = session.hub.receipts(host.id(), first).await?;
        // A log grows while it is read, and never shrinks.
        log.held = log.held.max(page.held);
        for signed in &page.receipts {
            match chain.push(signed, &host) {
                Ok(receipt) => log.receipts.push(receipt),
                // After the first bad entry nothing more can be proven.
                Err(error) => {
                    log.refused = Some(error.to_string());
                    break 'pages;
                }
            }
        }
        if page.receipts.is_empty() || chain.next() >= page.held {
            break;
        }
        ctx.note(&format!("{} of {} entries verified", chain.next(), page.held));
    }
    if log.refused.is_none() {
        log.refused = chain.finish(log.held).err().map(|error| error.to_string());
    }
    let failures =
        log.refused.iter().map(|reason| format!("the log of host '{}': {reason}", host.name())).collect();
    if args.json {
        return Ok(Answer { stdout: json(&log), failures });
    }
    let rows: Vec<_> = log.receipts.iter().map(render::receipt_row).collect();
    let mut stdout = table(&["ENTRY", "TIME", "EVENT", "OUTCOME"], &rows);
    stdout.push_str(&format!(
        "{} entries verified with key {}{}\n",
        log.receipts.len(),
        host.key.fingerprint(),
        if log.refused.is_some() { "; then the log is NOT BELIEVED" } else { "" }
    ));
    Ok(Answer { stdout, failures })
}
