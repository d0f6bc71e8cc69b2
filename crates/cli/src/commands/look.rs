//! The facts that orders are made of: asked of the host itself, and for a host that does not answer taken
//! from its last report, as far as that tells them.

use std::fmt;

use authz::RefusalCode;
use authz::world::World;
use protocol::ask::{Look, Owner, Question, Reply};
use protocol::report::{HostReport, Known};
use protocol::text::printable;
use protocol::{GuestKind, Vmid};

use super::{Context, Session, now};
use crate::args::LookArgs;
use crate::error::{Answer, Failure};
use crate::hub::HubError;
use crate::prepare::{Wish, of_report};
use crate::render_world::{self, Shown};
use crate::resolve::Believed;
use crate::text::{self, age, utc};

/// A world, and who told it.
pub(super) struct Told {
    pub(super) world: World,
    pub(super) source: Source,
}

/// Whose word it is. Never a signed one.
pub(super) enum Source {
    Host { name: String },
    Report { collected_at: u64, why: String },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { name } => write!(
                f,
                "Facts as {name} told them just now, through the hub, not signed; the host reads them again."
            ),
            Self::Report { collected_at, why } => write!(
                f,
                "Facts from the report of {} ({}), as reported through the hub, not signed; the host reads them again.\n\
                 (It was asked for newer ones: {why}.)",
                utc(*collected_at),
                age(*collected_at, now())
            ),
        }
    }
}

/// `writ look`
pub(super) async fn run(ctx: &Context, args: LookArgs) -> Result<Answer, Failure> {
    let LookArgs { host, vmid, kind: was, json } = args;
    let session = ctx.current_session().await?;
    let believed = session.believed(&host).await?;
    let look = match vmid {
        // Whose backups they are can be asked only with its kind.
        Some(vmid) => {
            let report = session.detail(&believed).await?.report;
            let kind = report.and_then(|report| kind_of(&report, vmid));
            let owner = was.or(kind).map(|kind| Owner { vmid, kind });
            let guest = was.is_none().then_some(vmid);
            Look { guest, owner, ..Look::default() }
        }
        None => Look { backing: true, disks: true, vmids: true, ..Look::default() },
    };
    let world = match ask(&session, &believed, look).await {
        Ok(world) => world,
        Err(Unanswered::Hub(error)) => return Err(error.into()),
        Err(Unanswered::No(why)) => return Err(no(&believed, &why)),
        Err(Unanswered::Host(why)) => {
            let gone = match (vmid, was) {
                (Some(vmid), None) => format!(
                    " (if the guest is gone: `writ look {host} {vmid} --type qemu` or `lxc` shows the backups there are of it)"
                ),
                _ => String::new(),
            };
            return Err(Failure::other(format!("host '{host}' was asked, and did not tell: {why}{gone}")));
        }
    };
    let shown = match (vmid, was) {
        (None, _) => Shown::Host,
        (Some(vmid), None) => Shown::Guest(vmid),
        (Some(_), Some(_)) => Shown::Backups,
    };
    if json {
        return Ok(Answer::ok(text::json(&world)));
    }
    let source = Source::Host { name: host.to_string() };
    Ok(Answer::ok(format!("{}{source}\n", render_world::world(&world, shown))))
}

/// What a guest is, as last reported.
pub(super) fn kind_of(report: &HostReport, vmid: Vmid) -> Option<GuestKind> {
    let Known::Known(guests) = &report.guests else { return None };
    guests.iter().find(|guest| guest.vmid == vmid).map(|guest| guest.kind)
}

/// What the wish needs to know.
pub(super) async fn facts(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    wish: &Wish,
    report: Option<&HostReport>,
) -> Result<Told, Failure> {
    let why = match ask(session, host, wish.look()).await {
        Ok(world) => {
            return Ok(Told { world, source: Source::Host { name: host.name().to_string() } });
        }
        Err(Unanswered::Hub(error @ (HubError::Refused { .. } | HubError::Status { .. }))) => {
            error.to_string()
        }
        Err(Unanswered::Hub(error)) => return Err(error.into()),
        Err(Unanswered::Host(why)) => why,
        Err(Unanswered::No(why)) => return Err(no(host, &why)),
    };
    let Some(report) = report else {
        return Err(Failure::other(format!(
            "host '{0}' does not tell what the order must name ({why}), and it has not reported yet either: is writ-agent running there? See `writ host {0}`",
            host.name()
        )));
    };
    ctx.note(&format!(
        "host '{}' was asked, and did not answer ({why}): its last report is used",
        host.name()
    ));
    let world = of_report(report, wish.guest());
    Ok(Told { world, source: Source::Report { collected_at: report.collected_at, why } })
}

fn no(host: &Believed, why: &str) -> Failure {
    Failure::other(format!("host '{0}' says: {why}. See `writ host {0}`", host.name()))
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// The hub did not pass the question on, or the answer back.
    Hub(HubError),
    /// The host answered something else.
    Host(String),
    /// The host looked, and it is not there.
    No(String),
}

/// One question to a host. What it says is believed by nobody: an order that is made of it is compared again.
pub(super) async fn ask(session: &Session, host: &Believed, look: Look) -> Result<World, Unanswered> {
    match session.hub.ask(host.id(), &Question::Look(look)).await.map_err(Unanswered::Hub)? {
        Reply::World { json } => serde_json::from_slice(&json.0).map_err(|error| {
            Unanswered::Host(format!("its answer cannot be read: {}", printable(&error.to_string())))
        }),
        Reply::Refused { code, why } if code == RefusalCode::Precondition.to_string() => {
            Err(Unanswered::No(printable(&why)))
        }
        Reply::Refused { code, why } => {
            Err(Unanswered::Host(format!("{}: {}", printable(&code), printable(&why))))
        }
        Reply::Plan { .. } => Err(Unanswered::Host("it answered another question".to_owned())),
    }
}
