//! `writ show`, `writ sign`.

use std::path::{Path, PathBuf};

use authz::Order;
use authz::lookup::{self, Signatory};
use protocol::Sha256;

use super::cosign::next;
use super::{Context, now, planned, read_order, write_new};
use crate::args::SignArgs;
use crate::error::{Answer, Failure};
use crate::render;
use crate::resolve::{Memory, check_order_name};
use crate::signer::{Purpose, Signer};
use crate::state::StateError;

/// Where `ssh-keygen -Y sign` puts it too.
pub(super) fn signature_path(order: &Path) -> PathBuf {
    let mut name = order.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// The order as a person reads it, if its host is called what this machine calls it.
pub(super) fn shown(ctx: &Context, bytes: &[u8], order: &Order) -> Result<String, Failure> {
    // An order can be read on a machine that never logged in: it knows no host.
    let known = match ctx.home().and_then(|home| Ok(home.memory()?)) {
        Err(Failure::State(StateError::NoHome | StateError::NoPolicy)) => Memory::new(),
        other => other?,
    };
    let mut text = render::order(order, &Sha256::of(bytes));
    if !check_order_name(&order.host.name, &order.host.id, &known)? {
        text.push_str(
            "  note: this machine does not know that host yet, its name above is only what the file says\n",
        );
    }
    Ok(text)
}

pub(super) fn show(ctx: &Context, path: &Path) -> Result<Answer, Failure> {
    let (bytes, order) = read_order(path)?;
    Ok(Answer::ok(shown_with_plan(ctx, path, &bytes, &order)?.0))
}

/// The order, and the plan that lies beside it; or why the plan that it is bound to is not shown.
fn shown_with_plan(
    ctx: &Context,
    path: &Path,
    bytes: &[u8],
    order: &Order,
) -> Result<(String, Option<String>), Failure> {
    let text = shown(ctx, bytes, order)?;
    Ok(match planned::shown(ctx, path, order)? {
        Ok(plan) => (text + &plan, None),
        Err(why) => (format!("{text}Plan\n  NOT SHOWN: {why}\n"), Some(why)),
    })
}

pub(super) async fn sign(ctx: &Context, args: SignArgs) -> Result<Answer, Failure> {
    let (bytes, order) = read_order(&args.order)?;
    if args.explain {
        return Ok(Answer::ok(shown_with_plan(ctx, &args.order, &bytes, &order)?.0));
    }
    let output = args.output.unwrap_or_else(|| signature_path(&args.order));
    if output.exists() && !args.force {
        return Err(Failure::Exists(output));
    }
    // Even with --quiet: nobody signs what they have not seen.
    let (text, unseen) = shown_with_plan(ctx, &args.order, &bytes, &order)?;
    eprint!("{text}");
    if let Some(why) = unseen.filter(|_| !args.unseen_plan) {
        return Err(Failure::other(format!(
            "nobody signs what cannot be shown: {why}; nothing was signed (--unseen-plan signs all the same)"
        )));
    }
    planned::in_time(&order)?;
    let home = ctx.home()?;
    let namespace = order.kind().namespace();
    // A policy is not needed to sign, but where there is one a useless signature is worth a word.
    let policy = home.policy().ok().map(|(policy, _)| policy);
    let purpose = Purpose { policy: policy.as_ref(), namespace: Some(namespace), now: now() };
    let key = match &args.key {
        // Without a login, too.
        Some(path) => Signer::choose(Some(path), None, &ctx.agent, purpose).await?,
        None => ctx.signer(None, &home.config()?, purpose).await?,
    };
    if let Some(policy) = &policy {
        ctx.note_useless(policy, &key, namespace);
    }
    let counted = policy.as_ref().and_then(|policy| {
        let operator = lookup::operator_of(&key.public().claim(), policy, namespace).ok()?;
        let by = Signatory { operator: operator.name.clone(), key: key.public().key().clone() };
        lookup::count(&order, policy, &[by], home.policy_is_stale(now())).ok()
    });
    write_new(&output, key.sign(namespace, &bytes).await?.as_bytes(), args.force)?;
    Ok(Answer::ok(format!(
        "Signed with {} for {namespace}: {}\n{}",
        key.public().fingerprint(),
        output.display(),
        next(&order, counted.as_ref(), policy.as_ref(), &args.order)
    )))
}
