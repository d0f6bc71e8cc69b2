//! `writ sessions`: what the hub says about them. What hosts signed is in their logs.

use protocol::api::TunnelView;

use super::{Context, now};
use crate::args::{SessionsArgs, SessionsCommand};
use crate::error::{Answer, Failure};
use crate::render::short;
use crate::text::{age, bytes, json, span, table, utc};

pub(super) async fn run(ctx: &Context, args: SessionsArgs) -> Result<Answer, Failure> {
    let session = ctx.session()?;
    match (args.command, args.host) {
        (Some(SessionsCommand::Close { id }), _) => {
            let view = session.hub.close_tunnel(&id).await?;
            if view.id != id {
                return Err(Failure::other(format!(
                    "asked to close session {id}, the hub answers about {}: the hub is wrong or lying",
                    view.id
                )));
            }
            Ok(Answer::ok(match view.closed_at {
                Some(_) => format!("Session {id} is closed, says the hub.\n"),
                None => format!("Session {id} is being closed, says the hub.\n"),
            }))
        }
        (None, Some(name)) => {
            let host = session.believed(&name).await?;
            let views = session.hub.tunnels(host.id()).await?;
            if let Some(other) = views.iter().find(|view| view.host_id != *host.id()) {
                return Err(Failure::other(format!(
                    "asked about host {}, the hub lists a session of host {}: the hub is wrong or lying",
                    host.id(),
                    other.host_id
                )));
            }
            if args.json {
                return Ok(Answer::ok(json(&views)));
            }
            if views.is_empty() {
                return Ok(Answer::ok(format!("No sessions on host '{name}' yet.\n")));
            }
            let rows: Vec<_> = views.iter().map(|view| row(view, now())).collect();
            let header =
                ["SESSION (ALL UNSIGNED)", "OPERATOR", "OPENED", "STATE", "TO HOST", "FROM HOST", "ORDER"];
            Ok(Answer::ok(table(&header, &rows)))
        }
        // clap demands one of the two.
        (None, None) => Err(Failure::other("name a host: `writ sessions HOST`")),
    }
}

fn row(view: &TunnelView, now: u64) -> Vec<String> {
    let state = match view.closed_at {
        None => format!("open for {}", span(now.saturating_sub(view.opened_at))),
        Some(closed) => {
            let why = view.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("closed {}{why}", age(closed, now))
        }
    };
    vec![
        view.id.to_string(),
        view.operator.to_string(),
        utc(view.opened_at),
        state,
        bytes(view.bytes_to_host),
        bytes(view.bytes_from_host),
        short(&view.op),
    ]
}
