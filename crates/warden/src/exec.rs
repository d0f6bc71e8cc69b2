//! Carries out a program: each call once, its task followed to the end, the world read again before it is
//! called done. What was decided is not decided again here; where something is not as it must be, the
//! program ends, what can be put right is put right, and the outcome says what was done and what was not.
//!
//! Nothing is ever sent a second time, with one exception that the design makes: Proxmox's answer "can't lock
//! file … got timeout" is certain to have changed nothing, so the call may be made again, a few times.

mod early;
mod same;

use std::collections::BTreeSet;
use std::time::Duration;

use authz::{Order, Outcome};
use protocol::frame::OrderState;
use proxmox_client::{
    ApiError, Delivery, Doubt, ErrorClass, FindTask, FoundTask, TaskEnd, TaskFilter, TaskSource, Upid,
};

use crate::hold::{self, Point};
use crate::ledger::{OpenOrder, Stage};
use crate::ops::{Action, Call, Judged, Program, Sent};
use crate::orders::{Progress, write_stage};
use crate::warden::Warden;
use crate::world::{self, Wanted};
use crate::{now, safe};

/// How often a call is made again that Proxmox was too busy to begin, and the pauses before that.
const BUSY_PAUSES_S: [u64; 3] = [2, 5, 10];
/// How long a guest that high availability manages may take to follow.
const HA_PATIENCE: Duration = Duration::from_secs(180);
/// The pause between two looks at a guest that may take time to follow.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a request that starts no task may go on after its answer was lost: Proxmox waits ten seconds for a
/// guest's lock (`pve/facts.md` 5.2).
const AT_ONCE_PATIENCE: Duration = Duration::from_secs(15);
/// Tasks that are looked through for those that were there before.
const KNOWN_TASKS: u32 = 500;

/// Where an order's progress is written down; unsigned steps have nothing to write.
pub(crate) struct Book<'a> {
    /// The order's file.
    pub open: &'a mut OpenOrder,
    /// The order, to be compared with the world again right before each call.
    pub order: &'a Order,
    /// Who wants to know.
    pub progress: &'a Progress,
}

/// How one call ended.
enum End {
    /// Done, as the world shows.
    Done(Done),
    /// Certainly not done.
    Not { upid: Option<String>, why: String, refused: bool },
    /// Nobody can say.
    Unknown { upid: Option<String>, why: String },
}

struct Done {
    upid: Option<String>,
    seen: String,
    warnings: Option<(u32, Vec<String>)>,
}

impl End {
    /// Before anything was sent.
    fn not_sent(why: String) -> Self {
        Self::Not { upid: None, why, refused: false }
    }
}

/// What happened so far.
#[derive(Default)]
struct Past {
    upid: Option<String>,
    seen: Vec<String>,
    warnings: u32,
    lines: Vec<String>,
}

impl Past {
    fn add(&mut self, done: Done) {
        self.upid = done.upid.or(self.upid.take());
        self.seen.push(done.seen);
        if let Some((count, lines)) = done.warnings {
            self.warnings = self.warnings.saturating_add(count);
            self.lines.extend(lines);
        }
    }

    fn outcome(self) -> Outcome {
        let seen = safe(&self.seen.join("; "));
        match self.upid {
            Some(upid) if self.warnings > 0 => Outcome::Warnings {
                upid,
                count: self.warnings,
                lines: self.lines.iter().take(10).map(|line| safe(line)).collect(),
                seen,
            },
            upid => Outcome::Done { upid, seen },
        }
    }
}

/// Carries out a whole program. The claim on what it works on is the caller's.
pub(crate) async fn run(warden: &Warden, program: &Program, mut book: Option<Book<'_>>) -> Outcome {
    let mut past = Past::default();
    let mut made = None;
    for (at, action) in program.actions.iter().enumerate() {
        let end = one(warden, at, action, made.as_ref(), &mut book).await;
        let order = book.as_ref().map(|book| book.order);
        let more = at + 1 < program.actions.len();
        if more {
            hold::before(Point::Between).await;
        }
        match same::guest(warden, action, order, end).await {
            End::Done(done) => past.add(done),
            end => return ended_early(warden, program, order, at, past, end).await,
        }
        if more {
            made = match same::note(warden, action, made).await {
                Ok(made) => made,
                Err(why) => {
                    return ended_early(warden, program, order, at + 1, past, End::not_sent(why)).await;
                }
            };
        }
        if more {
            hold::at(Point::Between).await;
        }
    }
    past.outcome()
}

/// What became of a program that a crash interrupted at `stage`. Later calls are not made: whoever wants them
/// signs a new order.
pub(crate) async fn resume(warden: &Warden, program: &Program, mut book: Book<'_>) -> Outcome {
    let unreadable =
        || Outcome::Unknown { upid: None, why: safe("how far the order had come cannot be read any more") };
    let (at, end) = match book.open.stage.clone() {
        Stage::Verified {} => {
            let why = "the warden ended after the nonce was burned and before Proxmox was called";
            return Outcome::Aborted { why: safe(why) };
        }
        Stage::Starting { action, t0, known } => match program.actions.get(action) {
            Some(named) => (action, settle(warden, action, named, &known, t0, &mut Some(&mut book)).await),
            None => return unreadable(),
        },
        Stage::Running { action, upid } => match (program.actions.get(action), upid.parse::<Upid>()) {
            (Some(named), Ok(upid)) => (action, follow(warden, &named.call, &upid).await),
            _ => return unreadable(),
        },
        Stage::Handing { .. } => return unreadable(),
    };
    let end = match program.actions.get(at) {
        Some(action) => same::guest(warden, action, Some(book.order), end).await,
        None => end,
    };
    let mut past = Past::default();
    for done in &program.actions[..at] {
        past.seen.push(format!("{} was done before", done.call.line()));
    }
    match end {
        End::Done(done) if at + 1 == program.actions.len() => {
            past.add(done);
            past.outcome()
        }
        End::Done(done) => {
            past.add(done);
            let why = "the warden ended after this call, and what was to follow was not done".to_owned();
            ended_early(warden, program, Some(book.order), at + 1, past, End::not_sent(why)).await
        }
        end => ended_early(warden, program, Some(book.order), at, past, end).await,
    }
}

/// The program does not go on: what can be put right is put right, and the outcome says all of it.
async fn ended_early(
    warden: &Warden,
    program: &Program,
    order: Option<&Order>,
    at: usize,
    past: Past,
    end: End,
) -> Outcome {
    let mut right = Vec::new();
    for action in program.actions[..at.min(program.actions.len())].iter().rev() {
        if let Some(undo) = &action.undo {
            right.push(early::put_right(warden, order, action, undo).await);
        }
    }
    let tell = |why: String| safe(&early::words(&why, at, program.actions.len(), &past.seen, &right));
    match end {
        End::Not { why, refused: false, upid: None } if at == 0 => {
            Outcome::Aborted { why: tell(format!("{why}; Proxmox changed nothing")) }
        }
        End::Not { upid, why, .. } => Outcome::Failed { upid, why: tell(why) },
        End::Unknown { upid, why } => Outcome::Unknown { upid, why: tell(why) },
        End::Done(done) => Outcome::Unknown { upid: done.upid, why: tell(done.seen) },
    }
}

/// STARTING, the one call, RUNNING, the end.
async fn one(
    warden: &Warden,
    at: usize,
    action: &Action,
    made: Option<&same::Made>,
    book: &mut Option<Book<'_>>,
) -> End {
    let call = &action.call;
    let (t0, known) = match before(warden, call).await {
        Ok(before) => before,
        Err(error) => return End::not_sent(format!("the node's tasks could not be read ({error})")),
    };
    if let Some(book) = book {
        hold::before(Point::Starting).await;
        book.open.stage = Stage::Starting { action: at, t0, known: known.clone() };
        if let Err(why) = write_stage(warden, book.open) {
            return End::not_sent(format!("{why}; Proxmox was not called"));
        }
        let _ = book.progress.try_send(OrderState::Starting);
        hold::at(Point::Starting).await;
        // Disks can be slow and operators quick: the world is looked at once more, right before the call.
        // Proxmox has no compare-and-set for most calls, so a moment remains.
        if let Err(why) = still_so(warden, book.order, at, action).await {
            return End::not_sent(format!("{why}; Proxmox was not called"));
        }
    }
    if let Some(made) = made
        && let Err(why) = made.still_there(warden, call).await
    {
        return End::not_sent(format!("{why}; Proxmox was not called"));
    }
    if let Err(why) = call.ready(&warden.near()).await {
        return End::not_sent(format!("{why}; Proxmox was not called"));
    }
    hold::before(Point::Called).await;
    match send(warden, call).await {
        Ok(Sent::Task(upid)) => {
            hold::at(Point::Called).await;
            running(warden, at, call, upid, book).await
        }
        Ok(Sent::AtOnce) => {
            hold::at(Point::Called).await;
            judge(warden, call, None, None).await
        }
        Err(error) => match error.delivery() {
            Delivery::NotSent => End::not_sent(format!("Proxmox was not reached: {error}")),
            Delivery::Answered => not_taken(warden, call, format!("Proxmox refused: {error}")).await,
            Delivery::MaybeExecuted => {
                tracing::warn!(call = call.line(), %error, "the answer was lost; looking for what became of it");
                settle(warden, at, action, &known, t0, &mut book.as_mut()).await
            }
        },
    }
}

/// Proxmox refused. What has no task is carried out by the very request, one part after the other
/// (`pve/facts.md` 5.5), so what it says is not all there is to know.
async fn not_taken(warden: &Warden, call: &Call, why: String) -> End {
    if call.task().is_some() {
        return End::Not { upid: None, why, refused: true };
    }
    match look(warden, call, None).await {
        Ok(Judged::Otherwise(seen)) => End::Not {
            upid: None,
            why: format!("{why}; but the world is not as it was: {seen}"),
            refused: true,
        },
        Ok(_) => End::Not { upid: None, why, refused: true },
        Err(error) => {
            let why = format!("{why}; what became of it cannot be read: {error}");
            End::Unknown { upid: None, why }
        }
    }
}

/// Sends it. Only where Proxmox says that it could not even begin is it sent again.
async fn send(warden: &Warden, call: &Call) -> Result<Sent, ApiError> {
    let mut pauses = BUSY_PAUSES_S.iter();
    loop {
        match call.send(&warden.client).await {
            Err(error) if error.delivery() == Delivery::Answered && error.class() == ErrorClass::Busy => {
                let Some(pause) = pauses.next() else { return Err(error) };
                tracing::info!(call = call.line(), %error, pause, "Proxmox is busy and began nothing; again soon");
                tokio::time::sleep(Duration::from_secs(*pause)).await;
            }
            sent => return sent,
        }
    }
}

/// The node's clock, and the tasks of this name that there are, before the call is made.
async fn before(warden: &Warden, call: &Call) -> Result<(u64, BTreeSet<String>), ApiError> {
    let Some(name) = call.task() else { return Ok((now(), BTreeSet::new())) };
    // The warden runs on the node, so without Sys.Audit its own clock is nearly as good.
    let clock = warden.client.node_clock().await.unwrap_or_else(|_| now()).saturating_sub(2);
    let filter = TaskFilter {
        source: TaskSource::All,
        vmid: name.id.parse().ok(),
        since: Some(clock.saturating_sub(60)),
        limit: Some(KNOWN_TASKS),
        ..TaskFilter::default()
    };
    let tasks = warden.client.tasks(&filter).await?;
    let known = tasks.iter().map(|task| &task.upid).filter(|upid| upid.id() == name.id);
    Ok((clock, known.map(|upid| upid.as_str().to_owned()).collect()))
}

/// The world is still the one that was signed. Before the first call that is all of it; before a later one the
/// program itself has changed something, and the guest must still be the same one.
async fn still_so(warden: &Warden, order: &Order, at: usize, action: &Action) -> Result<(), String> {
    if at == 0 {
        let unread = |error: ApiError| format!("the world could not be read again: {error}");
        let (mut seen, _) = world::read(&warden.near(), &Wanted::of_order(order)).await.map_err(unread)?;
        let numbered = order.guest.as_ref().map(|guest| guest.vmid);
        warden.recognize(&mut seen, numbered).map_err(|(_, why)| why)?;
        return authz::world::check(order, &seen).map_err(|(_, why)| why);
    }
    same::meant(warden, order, action).await
}

async fn running(warden: &Warden, at: usize, call: &Call, upid: Upid, book: &mut Option<Book<'_>>) -> End {
    if !is_mine(call, &upid, warden.client.identity()) {
        let why = format!("Proxmox answered with a task that is not ours ({upid})");
        return End::Unknown { upid: Some(upid.to_string()), why };
    }
    if let Some(book) = book {
        note_running(warden, book, at, &upid).await;
    }
    follow(warden, call, &upid).await
}

async fn note_running(warden: &Warden, book: &mut Book<'_>, at: usize, upid: &Upid) {
    hold::before(Point::Running).await;
    book.open.stage = Stage::Running { action: at, upid: upid.to_string() };
    if let Err(why) = write_stage(warden, book.open) {
        // It runs; a crash now would find it by STARTING.
        tracing::error!(op = %book.open.op, %why, "cannot write down that the task runs");
    }
    let _ = book.progress.try_send(OrderState::Running { upid: upid.to_string() });
    hold::at(Point::Running).await;
}

fn is_mine(call: &Call, upid: &Upid, user: &str) -> bool {
    call.task().is_some_and(|name| {
        name.types.contains(&upid.task_type()) && name.id == upid.id() && upid.user() == user
    })
}

/// Follows a task to its end, however long that takes, and looks at the world then.
async fn follow(warden: &Warden, call: &Call, upid: &Upid) -> End {
    let end = loop {
        match warden.client.wait_task(upid, Duration::from_secs(3600)).await {
            TaskEnd::StillRunning { .. } => tracing::info!(upid = upid.as_str(), "the task still runs"),
            end => break end,
        }
    };
    hold::before(Point::Judged).await;
    match end {
        TaskEnd::Ok => judge(warden, call, Some(upid), None).await,
        TaskEnd::Warnings { count, lines } => judge(warden, call, Some(upid), Some((count, lines))).await,
        TaskEnd::Failed { text, .. } => failed(warden, call, upid, text).await,
        TaskEnd::Unknown { why } => {
            let seen = match look(warden, call, Some(upid)).await {
                Ok(judged) => format!("now {}", judged.seen()),
                Err(error) => format!("the world could not be read again: {error}"),
            };
            End::Unknown { upid: Some(upid.to_string()), why: format!("{why}; {seen}") }
        }
        TaskEnd::StillRunning { .. } => unreachable!("the loop above ends only with an end"),
    }
}

/// Its own words, and what the world shows: a rollback that fails has stopped the guest before.
async fn failed(warden: &Warden, call: &Call, upid: &Upid, text: String) -> End {
    let judged = look(warden, call, Some(upid)).await;
    let upid = Some(upid.to_string());
    match judged {
        Ok(judged) => End::Not { upid, why: format!("{text}; now {}", judged.seen()), refused: true },
        Err(error) => {
            End::Unknown { upid, why: format!("{text}; and the world could not be read again: {error}") }
        }
    }
}

/// Success is what the world shows, not what the task said.
async fn judge(
    warden: &Warden,
    call: &Call,
    upid: Option<&Upid>,
    warnings: Option<(u32, Vec<String>)>,
) -> End {
    let managed = upid.is_some_and(|upid| upid.task_type().starts_with("ha"));
    let patience = if managed { HA_PATIENCE } else { call.patience() };
    let begun = tokio::time::Instant::now();
    let name = upid.map(ToString::to_string);
    loop {
        match look(warden, call, upid).await {
            Ok(Judged::Done(seen)) => {
                let warnings = with_asides(warden, call, upid, warnings).await;
                return End::Done(Done { upid: name, seen, warnings });
            }
            // High availability's task ends when the wish is filed, and the guest follows later.
            Ok(_) if begun.elapsed() < patience => tokio::time::sleep(LOOK_AGAIN).await,
            Ok(judged) => {
                let why = format!("Proxmox says that it is done, but {}", judged.seen());
                return End::Unknown { upid: name, why };
            }
            Err(error) => {
                let why =
                    format!("Proxmox says that it is done, but the world could not be read again: {error}");
                return End::Unknown { upid: name, why };
            }
        }
    }
}

/// Proxmox's warnings, and what it did otherwise than was asked without calling that a warning.
async fn with_asides(
    warden: &Warden,
    call: &Call,
    upid: Option<&Upid>,
    warnings: Option<(u32, Vec<String>)>,
) -> Option<(u32, Vec<String>)> {
    let asides = match upid {
        Some(upid) => call.asides(&warden.client, upid).await,
        None => Vec::new(),
    };
    if asides.is_empty() {
        return warnings;
    }
    let (count, mut lines) = warnings.unwrap_or_default();
    let more = u32::try_from(asides.len()).unwrap_or(u32::MAX);
    lines.extend(asides);
    Some((count.saturating_add(more), lines))
}

/// Reads the world again after a call; survives short trouble, because what happened is worth knowing.
async fn look(warden: &Warden, call: &Call, task: Option<&Upid>) -> Result<Judged, ApiError> {
    let mut pause = Duration::from_millis(200);
    loop {
        match call.judge(&warden.near(), task).await {
            Ok(judged) => return Ok(judged),
            Err(error) if pause > Duration::from_secs(8) => return Err(error),
            Err(error) => {
                tracing::warn!(call = call.line(), %error, "cannot read the world again yet");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

/// The call may or may not have arrived: find out, never call again.
async fn settle(
    warden: &Warden,
    at: usize,
    action: &Action,
    known: &BTreeSet<String>,
    t0: u64,
    book: &mut Option<&mut Book<'_>>,
) -> End {
    let call = &action.call;
    let Some(name) = call.task() else {
        return settle_at_once(warden, at, action, book).await;
    };
    let known: Vec<Upid> = known.iter().filter_map(|upid| upid.parse().ok()).collect();
    let find = FindTask {
        since: t0,
        task_types: &name.types,
        id: &name.id,
        user: warden.client.identity(),
        known: &known,
    };
    let mut unlisted = 0;
    loop {
        match warden.client.find_task_of(&find).await {
            FoundTask::Found(upid) => {
                if let Some(book) = book {
                    note_running(warden, book, at, &upid).await;
                }
                return follow(warden, call, &upid).await;
            }
            FoundTask::Several(found) => {
                let why =
                    format!("{} tasks could be the one that this call started: look at them", found.len());
                return End::Unknown { upid: None, why };
            }
            FoundTask::NotFound => return nothing_started(warden, at, action, book).await,
            FoundTask::CannotTell(Doubt::TooEarly { seconds }) => {
                // A node whose clock runs away is no reason to wait for ever.
                tokio::time::sleep(Duration::from_secs(seconds.clamp(1, 5))).await;
            }
            FoundTask::CannotTell(doubt @ Doubt::NotListed(_)) if unlisted < 60 => {
                tracing::warn!(call = call.line(), %doubt, "cannot list tasks yet");
                unlisted += 1;
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            FoundTask::CannotTell(doubt) => {
                let seen =
                    look(warden, call, None).await.map_or_else(|e| e.to_string(), |j| j.seen().to_owned());
                let why = format!("the answer was lost, and {doubt}; now {seen}");
                return End::Unknown { upid: None, why };
            }
        }
    }
}

/// There is no task to look for, only the world.
async fn settle_at_once(
    warden: &Warden,
    at: usize,
    action: &Action,
    book: &mut Option<&mut Book<'_>>,
) -> End {
    // A request without an answer may still wait for the guest's lock.
    let begun = tokio::time::Instant::now();
    let judged = loop {
        match look(warden, &action.call, None).await {
            Ok(Judged::NotDone(_)) if begun.elapsed() < AT_ONCE_PATIENCE => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            judged => break judged,
        }
    };
    match judged {
        Ok(Judged::Done(seen)) => End::Done(Done { upid: None, seen, warnings: None }),
        Ok(Judged::NotDone(seen)) if unchanged(warden, at, action, book).await => {
            End::not_sent(format!("the answer was lost, and the call had no effect: {seen}"))
        }
        Ok(judged) => {
            End::Unknown { upid: None, why: format!("the answer was lost, and now {}", judged.seen()) }
        }
        Err(error) => {
            let why = format!("the answer was lost and the world cannot be read: {error}");
            End::Unknown { upid: None, why }
        }
    }
}

async fn nothing_started(
    warden: &Warden,
    at: usize,
    action: &Action,
    book: &mut Option<&mut Book<'_>>,
) -> End {
    match look(warden, &action.call, None).await {
        // What was wanted may have been so before: a guest that stands at the snapshot already.
        Ok(judged)
            if (at == 0 || matches!(judged, Judged::NotDone(_)))
                && unchanged(warden, at, action, book).await =>
        {
            End::not_sent("Proxmox started no task of it, and the world is unchanged".to_owned())
        }
        Ok(judged) => {
            // Where the world shows it already before the call, as with a guest that stands at the snapshot it
            // is rolled back to, the look decides nothing.
            let why = format!(
                "no task of it was found, and whether it had an effect cannot be told; now {}",
                judged.seen()
            );
            End::Unknown { upid: None, why }
        }
        Err(error) => {
            let why = format!("the answer was lost and Proxmox cannot be asked: {error}");
            End::Unknown { upid: None, why }
        }
    }
}

/// The world is as it was when the order was verified. Of an unsigned step nothing more is known than that the
/// call shows no effect.
async fn unchanged(warden: &Warden, at: usize, action: &Action, book: &Option<&mut Book<'_>>) -> bool {
    match book {
        Some(book) => still_so(warden, book.order, at, action).await.is_ok(),
        None => true,
    }
}
