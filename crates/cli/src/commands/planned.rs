//! Plans: asked of the host when an order is prepared, kept as `FILE.plan` beside it, and shown again to
//! everybody who signs.

use std::path::{Path, PathBuf};

use authz::plan::Plan;
use authz::{Order, PublicKey, files};
use protocol::ask::{Question, Reply};
use protocol::text::printable;
use protocol::{Envelope, Signed};

use super::{Context, Session, now, write_new};
use crate::error::Failure;
use crate::hub::HubError;
use crate::planned::{belongs, bind, describe, is_wanted, too_late};
use crate::resolve::Believed;

/// Longest plan file in bytes: [`protocol::ask::MAX_REPLY`] in base64, and a signature.
const MAX_FILE: u64 = (protocol::ask::MAX_REPLY / 3 * 4 + 2 * Envelope::MAX_ARMOR) as u64;

/// Where the plan of an order lies.
pub(super) fn plan_path(order: &Path) -> PathBuf {
    let mut name = order.as_os_str().to_owned();
    name.push(".plan");
    name.into()
}

/// A plan that the host made for an order.
pub(super) struct Made {
    signed: Signed,
    /// For people.
    pub(super) text: String,
}

/// Asks the host for a plan and binds the order to it, where the policy wants one or the operator does. The
/// order is complete before: a plan is for exactly its bytes.
pub(super) async fn obtain(
    session: &Session,
    host: &Believed,
    order: &mut Order,
    asked_for: bool,
) -> Result<Option<Made>, Failure> {
    let kind = order.kind();
    if !asked_for && !is_wanted(kind, &session.policy) {
        return Ok(None);
    }
    let name = host.name();
    let question = Question::Plan { draft: order.encode().into() };
    let reply = session.hub.ask(host.id(), &question).await.map_err(|error| match error {
        HubError::Refused { code, message, .. } => Failure::other(format!(
            "{kind} is bound to a plan that host '{name}' computes, and it could not be asked ({code}: {message}): nothing was written"
        )),
        other => other.into(),
    })?;
    let signed = match reply {
        Reply::Plan { plan } => plan,
        Reply::Refused { code, why } => {
            return Err(Failure::other(format!(
                "host '{name}' computes no plan for this order ({}): {}; nothing was written (its word came through the hub and is not signed)",
                printable(&code),
                printable(&why)
            )));
        }
        Reply::World { .. } => {
            return Err(Failure::other(format!(
                "host '{name}' was asked for a plan and something else came back: the hub is wrong or lying"
            )));
        }
    };
    let (bound, plan) = bind(order.clone(), &signed, &host.key).map_err(|error| {
        Failure::other(format!("what came back as a plan of host '{name}' is refused: {error}"))
    })?;
    *order = bound;
    let text = describe(&plan, order, name, now());
    Ok(Some(Made { signed, text }))
}

/// Writes the plan beside its order, or removes one that belongs to an order that was replaced.
pub(super) fn keep(ctx: &Context, order: &Path, made: Option<&Made>, force: bool) -> Result<(), Failure> {
    let path = plan_path(order);
    let Some(Made { signed, .. }) = made else {
        return match std::fs::remove_file(&path) {
            Ok(()) => {
                ctx.note(&format!(
                    "removed {}: it was the plan of the order that was replaced",
                    path.display()
                ));
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(files::FileError::io("remove", &path, error).into()),
        };
    };
    let json = serde_json::to_vec(signed).expect("two strings are always JSON");
    write_new(&path, &json, force)
}

/// The plan file of an order; none where there is no such file.
fn read(order: &Path) -> Result<Option<Signed>, Failure> {
    let path = plan_path(order);
    let bytes = match files::read_limited(&path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|_| {
        Failure::other(format!("{} is not a plan: prepare the order again with `writ op`", path.display()))
    })
}

fn refused(path: &Path, error: &crate::planned::PlannedError) -> Failure {
    Failure::other(format!("{} is refused: {error}", plan_path(path).display()))
}

/// The plan beside an order as a person reads it, judged by what this machine knows of the host. A plan that is
/// there and does not belong is an error; where none is there, or nothing is known of the host, the reason comes
/// instead.
pub(super) fn shown(ctx: &Context, path: &Path, order: &Order) -> Result<Result<String, String>, Failure> {
    let Some(signed) = read(path)? else {
        return Ok(match order.plan {
            None => Ok(String::new()),
            Some(_) => Err(format!(
                "the order is bound to a plan, and there is no {}; ask whoever prepared the order for it",
                plan_path(path).display()
            )),
        });
    };
    if order.plan.is_none() {
        return Err(refused(path, &crate::planned::PlannedError::Unbound));
    }
    // The name in the order was compared with the id before.
    let known = ctx.home().ok().and_then(|home| home.memory().ok()).unwrap_or_default();
    let host = known.values().find(|statement| statement.host_id == order.host.id);
    let Some(key) = host.and_then(|statement| PublicKey::try_from(statement.host_key).ok()) else {
        return Ok(Err(format!(
            "this machine does not know the key of that host, so {} cannot be checked; `writ hosts` fetches it",
            plan_path(path).display()
        )));
    };
    let plan = belongs(order, &signed, &key).map_err(|error| refused(path, &error))?;
    Ok(Ok(describe(&plan, order, &order.host.name, now())))
}

/// The plan that an order is bound to, judged by the host's key; none where it is bound to none.
pub(super) fn checked(path: &Path, order: &Order, host: &Believed) -> Result<Option<Plan>, Failure> {
    match (read(path)?, &order.plan) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::other(format!(
            "the order is bound to a plan, and there is no {}: nobody signs what cannot be shown, so ask whoever prepared the order for that file too",
            plan_path(path).display()
        ))),
        (Some(signed), _) => {
            belongs(order, &signed, &host.key).map(Some).map_err(|error| refused(path, &error))
        }
    }
}

/// Nobody signs what the host has forgotten.
pub(super) fn in_time(order: &Order) -> Result<(), Failure> {
    too_late(order, now()).map_or(Ok(()), |why| Err(Failure::other(format!("{why}; nothing was signed"))))
}
