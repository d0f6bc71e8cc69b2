//! `writ hosts`, `writ host`.

use protocol::api::{DesiredView, HostView, PlanView};
use protocol::enroll::HostStatement;
use protocol::report::HostReport;
use protocol::{Fingerprint, HostId, HostName};
use serde::Serialize;

use super::{Context, now};
use crate::args::{HostArgs, HostsArgs};
use crate::error::{Answer, Failure};
use crate::render_host::{channel, host};
use crate::resolve::{Believed, Distrust};
use crate::text::{age, json, table};

/// One row for programs. `name` is what an operator signed, never the hub's word.
#[derive(Serialize)]
struct Row<'a> {
    name: Option<&'a HostName>,
    site: Option<&'a HostName>,
    host_id: HostId,
    host_key: Option<Fingerprint>,
    vouched_by: Option<&'a HostName>,
    online: bool,
    last_seen: Option<u64>,
    report_at: Option<u64>,
    receipts_held: u64,
    /// Why it is not believed.
    refused: Option<String>,
}

impl<'a> Row<'a> {
    fn new(view: &'a HostView, verdict: &'a Result<Believed, Distrust>) -> Self {
        let host = verdict.as_ref().ok();
        Self {
            name: host.map(Believed::name),
            site: host.map(|host| &host.statement.site),
            host_id: view.host_id,
            host_key: host.map(|host| host.key.fingerprint()),
            vouched_by: host.map(|host| &host.vouched_by),
            online: view.online,
            last_seen: view.last_seen,
            report_at: view.report_at,
            receipts_held: view.receipts_held,
            refused: verdict.as_ref().err().map(ToString::to_string),
        }
    }
}

pub(super) async fn list(ctx: &Context, args: HostsArgs) -> Result<Answer, Failure> {
    if let Some(name) = args.forget {
        return if ctx.home()?.forget(&name)? {
            Ok(Answer::ok(format!("Forgot '{name}'. The next operator-signed statement will be believed.\n")))
        } else {
            Err(Failure::other(format!("this machine knows no host '{name}'")))
        };
    }
    let session = ctx.session()?;
    let roster = session.roster().await?;
    let failures = roster
        .rows
        .iter()
        .filter_map(|(_, verdict)| verdict.as_ref().err().map(ToString::to_string))
        .collect();
    let rows: Vec<Row<'_>> = roster.rows.iter().map(|(view, verdict)| Row::new(view, verdict)).collect();
    if args.json {
        return Ok(Answer::with(json(&rows), failures));
    }
    if rows.is_empty() {
        return Ok(Answer::ok("No hosts: bring one in with `writ enroll new`.\n"));
    }
    let now = now();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| match (row.name, row.site, &row.refused) {
            (Some(name), Some(site), None) => vec![
                name.to_string(),
                site.to_string(),
                channel(row.online, row.last_seen, now),
                row.report_at.map_or_else(|| "none yet".to_owned(), |at| age(at, now)),
                row.host_id.to_string(),
            ],
            (_, _, refused) => vec![
                "REFUSED".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                format!("{}  {}", row.host_id, refused.as_deref().unwrap_or_default()),
            ],
        })
        .collect();
    Ok(Answer::with(table(&["NAME", "SITE", "CHANNEL", "LAST REPORT", "ID"], &cells), failures))
}

/// One host for programs.
#[derive(Serialize)]
struct Page<'a> {
    statement: &'a HostStatement,
    vouched_by: &'a HostName,
    online: bool,
    last_seen: Option<u64>,
    report_at: Option<u64>,
    /// As reported through the hub, not signed.
    report: Option<HostReport>,
    desired: Option<DesiredView>,
    plan: Option<PlanView>,
}

pub(super) async fn show(ctx: &Context, args: HostArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let believed = session.believed(&args.host).await?;
    let detail = session.detail(&believed).await?;
    if !args.json {
        return Ok(Answer::ok(host(&believed, &detail, now())));
    }
    Ok(Answer::ok(json(&Page {
        statement: &believed.statement,
        vouched_by: &believed.vouched_by,
        online: detail.host.online,
        last_seen: detail.host.last_seen,
        report_at: detail.host.report_at,
        report: detail.report,
        desired: detail.desired,
        plan: detail.plan,
    })))
}
