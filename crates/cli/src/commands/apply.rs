//! `writ apply`, `writ plan`.

use std::time::Duration;

use authz::{Event, files};
use protocol::api::{HostDetail, PlanView};
use protocol::text::printable;
use serde::Serialize;
use tokio::time::Instant;

use super::{Context, Session, or_interrupt};
use crate::args::{ApplyArgs, HostArgs};
use crate::document;
use crate::error::{Answer, Failure};
use crate::judge::believe;
use crate::render;
use crate::render_host::{desired_and_plan, plan as plan_text};
use crate::resolve::Believed;
use crate::text::json;

/// Largest document, in bytes.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// Most pages of receipts that are read after one host settled: a hub can go on for ever.
const MAX_PAGES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(ctx: &Context, args: ApplyArgs) -> Result<Answer, Failure> {
    let shown = args.file.display().to_string();
    let bytes = files::read_limited(&args.file, MAX_FILE)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::other(format!("{shown} is not text in UTF-8: write it as such")))?;
    let wanted = document::parse(&shown, &text)?;

    let session = ctx.session()?;
    let roster = session.roster().await?;
    // Every name first: nothing is sent when one is wrong.
    let mut work = Vec::new();
    for (name, (state, line)) in wanted {
        let host = roster.by_name(&name).map_err(|error| {
            let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
            Failure::other(format!("{shown}{line}: {error}; nothing was sent"))
        })?;
        work.push((host.1.clone(), state, host.0.receipts_held));
    }
    let mut sent: Vec<(Believed, u64, u64)> = Vec::new();
    for (host, state, held) in work {
        let accepted = session.hub.set_desired(host.id(), &state).await.map_err(|error| {
            let done: Vec<_> = sent.iter().map(|(host, ..)| host.name().to_string()).collect();
            if done.is_empty() {
                Failure::from(error)
            } else {
                Failure::other(format!(
                    "{error} (at host '{}'; already sent to {}): run the same command again",
                    host.name(),
                    done.join(", ")
                ))
            }
        })?;
        ctx.note(&format!(
            "{}: generation {}{}",
            host.name(),
            accepted.generation,
            if accepted.changed { "" } else { " (unchanged)" }
        ));
        sent.push((host, accepted.generation, held));
    }
    if args.wait == 0 {
        let lines: String = sent
            .iter()
            .map(|(host, generation, _)| format!("{}: generation {generation} sent\n", host.name()))
            .collect();
        return Ok(Answer::ok(lines));
    }
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let mut answer = Answer::default();
    for (host, generation, held) in sent {
        let hint = format!("the desired state is stored and takes effect: see `writ plan {}`", host.name());
        let wait = settle(ctx, &session, &host, generation, deadline, args.wait);
        match or_interrupt(&hint, wait).await {
            Ok(view) => {
                answer.stdout.push_str(&format!("{}: {}", host.name(), plan_text(&view, Some(generation))));
                match carried_out(&session, &host, generation, held).await {
                    Ok(lines) => answer.stdout.push_str(&lines),
                    Err(Failure::Hub(error)) => {
                        ctx.note(&format!("{}: its receipts cannot be read: {error}", host.name()));
                    }
                    Err(error) => answer.failures.push(format!("{}: {error}", host.name())),
                }
            }
            // The other hosts still deserve their line.
            Err(error @ Failure::Timeout { .. }) => answer.failures.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// What the host signed about the steps of this generation since `first` entries of its log were
/// held. The plan only says what is left to do, and nobody signed it.
async fn carried_out(
    session: &Session,
    host: &Believed,
    generation: u64,
    first: u64,
) -> Result<String, Failure> {
    let mut rows = String::new();
    let mut next = first;
    for _ in 0..MAX_PAGES {
        let page = session.hub.receipts(host.id(), next).await?;
        for signed in &page.receipts {
            let receipt = believe(signed, host)?;
            if let Event::Step { generation: of, what, outcome, .. } = &receipt.event
                && *of == generation
            {
                rows.push_str(&format!(
                    "  step, by the host's signed receipt: {}: {}\n",
                    printable(what.as_str()),
                    render::outcome(outcome)
                ));
            }
        }
        next = next.saturating_add(page.receipts.len() as u64);
        if page.receipts.is_empty() || next >= page.held {
            break;
        }
    }
    Ok(rows)
}

/// Waits until the host has nothing left to do for this generation.
async fn settle(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    generation: u64,
    deadline: Instant,
    waited_s: u64,
) -> Result<PlanView, Failure> {
    let mut told = String::new();
    loop {
        let detail = session.detail(host).await?;
        let state = progress(&detail, generation);
        match state {
            Progress::Settled(view) => return Ok(view),
            Progress::Overtaken(newer) => {
                return Err(Failure::other(format!(
                    "{}: generation {newer} was applied meanwhile, so nobody waits for {generation} any more: see `writ plan {}`",
                    host.name(),
                    host.name()
                )));
            }
            Progress::Underway(words) => {
                if told != words {
                    ctx.note(&format!("{}: {words}", host.name()));
                    told = words;
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(Failure::Timeout {
                what: format!("{}: generation {generation} is not settled ({told})", host.name()),
                waited_s,
                hint: format!("it stays stored at the hub; see `writ plan {}`", host.name()),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Progress {
    Settled(PlanView),
    Overtaken(u64),
    Underway(String),
}

/// Where a generation is, from what the hub shows.
fn progress(detail: &HostDetail, generation: u64) -> Progress {
    let newest = detail.desired.as_ref().map_or(0, |desired| desired.generation);
    match &detail.plan {
        _ if newest > generation => Progress::Overtaken(newest),
        Some(view) if view.plan.generation == generation => match &view.problem {
            None if view.plan.steps.is_empty() => Progress::Settled(view.clone()),
            None => {
                let steps: Vec<String> = view.plan.steps.iter().map(ToString::to_string).collect();
                Progress::Underway(steps.join("; "))
            }
            Some(problem) => Progress::Underway(format!("problem: {problem}")),
        },
        // About an older generation, because the host refused this one or could not look.
        Some(PlanView { problem: Some(problem), .. }) => Progress::Underway(format!("problem: {problem}")),
        _ if !detail.host.online => {
            Progress::Underway("the host is offline, the desired state waits at the hub".to_owned())
        }
        _ => Progress::Underway("waiting for the host's plan".to_owned()),
    }
}

/// A plan for programs.
#[derive(Serialize)]
struct PlanPage {
    desired: Option<protocol::api::DesiredView>,
    plan: Option<PlanView>,
}

pub(super) async fn plan(ctx: &Context, args: HostArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    let host = session.believed(&args.host).await?;
    let detail = session.detail(&host).await?;
    Ok(Answer::ok(if args.json {
        json(&PlanPage { desired: detail.desired, plan: detail.plan })
    } else {
        format!(
            "Host {}, as reported through the hub, not signed\n{}",
            host.name(),
            desired_and_plan(&detail)
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, view};
    use protocol::desired::DesiredState;
    use protocol::plan::Plan;

    fn detail(wanted: u64, planned: Option<(u64, Option<&str>)>, online: bool) -> HostDetail {
        let mut host = view(1, "web1");
        host.online = online;
        HostDetail {
            host,
            report: None,
            desired: Some(protocol::api::DesiredView {
                generation: wanted,
                set_by: "alice".parse().unwrap(),
                set_at: NOW,
                state: DesiredState::default(),
            }),
            plan: planned.map(|(generation, problem)| PlanView {
                received_at: NOW,
                plan: Plan { generation, ..Plan::default() },
                problem: problem.map(Into::into),
            }),
        }
    }

    #[test]
    fn only_a_plan_for_this_generation_without_a_problem_settles_it() {
        assert!(matches!(progress(&detail(3, Some((3, None)), true), 3), Progress::Settled(_)));
        for open in [
            detail(3, Some((2, None)), true),
            detail(3, Some((3, Some("Proxmox does not answer"))), true),
            detail(3, None, true),
            detail(3, None, false),
        ] {
            assert!(matches!(progress(&open, 3), Progress::Underway(_)));
        }
        assert!(matches!(progress(&detail(4, Some((3, None)), true), 3), Progress::Overtaken(4)));
        // A refusal of this generation comes with the plan of the one in force.
        let refused = progress(&detail(9, Some((3, Some("9 was refused"))), true), 9);
        assert!(matches!(refused, Progress::Underway(words) if words.contains("9 was refused")));
    }
}
