//! Orders that Proxmox's API carries out: the live world is compared with what was signed, the plan with what
//! would be done now, and then the program runs once.

use std::sync::Arc;

use authz::world::Refused;
use authz::{Authorized, Order, Outcome, RefusalCode};
use protocol::Envelope;
use protocol::frame::OrderState;

use super::{Denied, Progress, Written, commit, finish, fresh, unreadable, verify};
use crate::exec::{self, Book};
use crate::hold::{self, Point};
use crate::ledger::OpenOrder;
use crate::ops::{self, Program};
use crate::queue::Claim;
use crate::warden::Warden;
use crate::world::{self, Wanted};

/// Verifies against the live world and carries out.
pub(super) async fn carry_out(
    warden: &Arc<Warden>,
    envelope: &Envelope,
    authorized: &Authorized<Order>,
    progress: &Progress,
) -> Result<Written, Denied> {
    let Accepted { mut open, order, program, _claim } =
        accept(warden, envelope, authorized, progress).await?;
    let book = Book { open: &mut open, order: &order, progress };
    let outcome = exec::run(warden, &program, Some(book)).await;
    let outcome = warden.care(&open.op, &order, outcome).await;
    hold::at(Point::Judged).await;
    Ok(finish(warden, &open, &order, outcome).await)
}

/// An order whose nonce is burned and of which nothing has been sent.
struct Accepted {
    open: OpenOrder,
    order: Order,
    program: Program,
    _claim: Claim,
}

async fn accept(
    warden: &Arc<Warden>,
    envelope: &Envelope,
    authorized: &Authorized<Order>,
    progress: &Progress,
) -> Result<Accepted, Denied> {
    let refuse = |code, why: String| Denied::from(authorized.refuse(authorized.get().kind(), code, why));
    fresh(warden, authorized)?;
    let wanted = ops::resources(authorized.get());
    let (claim, waited) = warden
        .queue
        .claim(wanted, authorized.op(), || drop(progress.try_send(OrderState::Queued)))
        .await
        .map_err(|full| refuse(RefusalCode::Busy, full.to_string()))?;
    // Time passed: it may be too late now, or somebody may have revoked a key.
    let renewed = if waited { Some(verify(warden, envelope)?) } else { None };
    let authorized = renewed.as_ref().unwrap_or(authorized);
    fresh(warden, authorized)?;
    let order = authorized.get();
    let (mut seen, observed) = world::read(&warden.near(), &Wanted::of_order(order))
        .await
        .map_err(|error| refuse(RefusalCode::Proxmox, format!("the guest could not be read: {error}")))?;
    let numbered = order.guest.as_ref().map(|guest| guest.vmid);
    warden.recognize(&mut seen, numbered).map_err(|(code, why)| refuse(code, why))?;
    authz::world::check(order, &seen).map_err(|(code, why)| refuse(code, why))?;
    warden.can_care(order).map_err(|(code, why)| refuse(code, why))?;
    let mut program = ops::program_of(order, &seen).map_err(|(code, why)| refuse(code, why))?;
    ops::complete(&mut program, observed.as_ref());
    may(warden, &program).await.map_err(|(code, why)| refuse(code, why))?;
    warden.plan_holds(order, &seen, &program).map_err(|(code, why)| refuse(code, why))?;
    let open = OpenOrder::new(authorized).with_program(program.clone());
    let open = commit(warden, authorized, open, progress).await?;
    Ok(Accepted { open, order: order.clone(), program, _claim: claim })
}

/// The token may do all of it. Asked each time: rights change, and a right that is lacking would otherwise cost
/// the order.
pub(crate) async fn may(warden: &Warden, program: &Program) -> Result<(), Refused> {
    let all = warden.client.permissions().await.map_err(|error| {
        (RefusalCode::Proxmox, format!("what the token may do could not be read: {error}"))
    })?;
    ops::rights::check(program, &all, warden.client.identity())
}

/// What became of an order that a crash interrupted. Calls Proxmox to change nothing but what puts things
/// right.
pub(super) async fn resume(warden: &Warden, open: &mut OpenOrder, order: &Order) -> Outcome {
    let (silent, _) = tokio::sync::mpsc::channel(1);
    let Some(program) = open.program.clone() else { return unreadable() };
    let outcome = exec::resume(warden, &program, Book { open, order, progress: &silent }).await;
    warden.care(&open.op.clone(), order, outcome).await
}
