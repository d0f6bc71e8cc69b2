//! A signed order, from request to forgotten end.
//!
//! Up to COMMITTED nothing has a side effect but a copy of an image, and a refusal can be asked again. From
//! there on the order is carried out whoever is still listening, once, and a crash at any point ends in a true
//! answer or in `unknown`, never in a second run. One order at a time.

use std::sync::Arc;
use std::time::Duration;

use anchored::{Denied, NotBurned as Kept, chain};
use authz::order::{CreateParams, Order, Params, TemplateSource};
use authz::{Authorized, RefusalCode};
use protocol::privileged::PrivilegedAnswer;
use protocol::{Envelope, Sha256};
use tokio::sync::mpsc;

use crate::config::PrivilegedConfig;
use crate::golden::{self, Image};
use crate::hold::{self, Point};
use crate::ledger::Stage;
use crate::mounts::{Mount, Unmount};
use crate::run::{self, How, Program};
use crate::service::{Service, Work, answer_of};
use crate::{create, now, said};

/// Who wants to know how far it is; nobody has to listen.
pub type Progress = mpsc::Sender<PrivilegedAnswer>;

/// What is said when we do not know ourselves.
pub(crate) const PANIC: &str =
    "writ-privileged made a mistake; what became of the order is known after a restart";
/// Most orders whose end the warden has not taken yet.
const WAITING: usize = 64;
/// An order waits so long for another one's end, or a reading's.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most orders that can be settled until a restart.
const SETTLED: usize = 65_536;

/// An order that passed every check.
#[derive(Debug)]
pub enum Plan {
    /// `pct create`.
    Create {
        /// The arguments.
        args: Vec<String>,
        /// The copy that they name.
        image: Image,
    },
    /// A USB disk.
    Mount(Mount),
    /// A USB disk.
    Unmount(Unmount),
}

impl Plan {
    /// The order against this host, as far as root sees it. Blocks.
    pub fn make(config: &PrivilegedConfig, order: &Order) -> Result<Self, Denied> {
        match &order.params {
            Params::GuestCreate(params) => Self::create(config, params),
            Params::UsbMount(params) => Mount::plan(config, order, params).map(Self::Mount),
            Params::UsbUnmount(params) => Unmount::plan(config, order, params).map(Self::Unmount),
            _ => Err(not_ours(order)),
        }
    }

    fn create(config: &PrivilegedConfig, params: &CreateParams) -> Result<Self, Denied> {
        let TemplateSource::Golden { volume, sha256 } = &params.template else {
            let why = "only a container from a golden image needs root: the warden makes the others itself";
            return Err(Denied::new(RefusalCode::Kind, why));
        };
        let image = golden::fetch(config, volume, sha256)?;
        let bad = || Denied::new(RefusalCode::BadOrder, "this is no order for an unprivileged container");
        let args = create::arguments(params, image.path()).ok_or_else(bad)?;
        Ok(Self::Create { args, image })
    }

    /// Does it. Blocks.
    pub fn execute(self, config: &PrivilegedConfig) -> Stage {
        match self {
            Self::Create { args, image } => {
                let timeout = Duration::from_secs(config.create_timeout_s);
                let stage = pct(&Program { path: &config.stand_ins.pct, args, timeout });
                drop(image);
                stage
            }
            Self::Mount(mount) => mount.execute(config),
            Self::Unmount(unmount) => unmount.execute(config),
        }
    }
}

fn not_ours(order: &Order) -> Denied {
    let why = format!(
        "an order of kind {} is none of what only root can do: a container from a golden image, or a USB disk",
        order.kind()
    );
    Denied::new(RefusalCode::Kind, why)
}

fn pct(program: &Program<'_>) -> Stage {
    let ran = match run::run(program) {
        Ok(ran) => ran,
        Err(error) if error.nothing_ran() => return Stage::NotStarted { why: error.to_string() },
        Err(error) => return Stage::Unknown { why: error.to_string() },
    };
    let text = said(&[ran.stdout, ran.stderr].concat());
    match ran.how {
        How::Exited(0) => Stage::Did { seen: "pct create ended well".to_owned() },
        How::Exited(code) => Stage::Failed { why: format!("pct create ended with {code}: {text}") },
        How::Signaled(signal) => Stage::Unknown {
            why: format!(
                "pct create was ended by signal {signal}; a part of the container may be there: {text}"
            ),
        },
        How::TimedOut => Stage::Unknown {
            why: format!(
                "pct create took longer than {} s and was ended; a part of the container may be there: {text}",
                program.timeout.as_secs()
            ),
        },
    }
}

/// Verifies and carries out. Spawned by the server, so it does not end with the connection.
pub async fn order(service: Arc<Service>, envelope: Envelope, progress: Progress) -> PrivilegedAnswer {
    let op = envelope.id();
    let Ok(mut work) = tokio::time::timeout(PATIENCE, service.work.clone().lock_owned()).await else {
        let why = "another order is being carried out: submit it again when that one has ended";
        return answer_of(Denied::new(RefusalCode::Busy, why));
    };
    let plan = match accept(&service, &mut work, &envelope, &progress).await {
        Ok(plan) => plan,
        Err(answer) => {
            tracing::info!(%op, ?answer, "order refused");
            return answer;
        }
    };
    let stage = execute(&service, &op, plan, &progress).await;
    tracing::info!(%op, ?stage, "order ended");
    let answer = finish(&service, &op, stage).await;
    drop(work);
    answer
}

async fn accept(
    service: &Arc<Service>,
    work: &mut Work,
    envelope: &Envelope,
    progress: &Progress,
) -> Result<Plan, PrivilegedAnswer> {
    let keeper = &service.keeper;
    let verified = keeper.with_ledger(|anchor, ledger| anchor.verify(envelope, ledger.floor(), now()));
    let authorized = verified.and_then(|verified| verified).map_err(answer_of)?;
    let op = *authorized.op();
    if work.settled.contains(&op) {
        let why = "the warden has been told that this order never came, so it is refused from now on: prepare and sign a new one";
        return Err(answer_of(Denied::new(RefusalCode::Replay, why)));
    }
    let nonce = authorized.get().nonce;
    if let Some(why) = keeper.with_ledger(|_, ledger| ledger.replayed(&nonce, &op)).map_err(answer_of)? {
        return Err(answer_of(Denied::new(RefusalCode::Replay, why)));
    }
    let closed = |error: &dyn std::error::Error| {
        answer_of(Denied::new(RefusalCode::Closed, format!("{}; nothing was accepted", chain(error))))
    };
    let waiting = keeper.with_ledger(|_, ledger| ledger.jobs().list()).map_err(answer_of)?;
    if waiting.map_err(|error| closed(&error))?.len() >= WAITING {
        let why = format!("the ends of {WAITING} orders wait for the warden to take them: see its log");
        return Err(answer_of(Denied::new(RefusalCode::Busy, why)));
    }
    let plan = make_plan(service, &authorized).await.map_err(answer_of)?;
    hold::at(Point::Verified).await;
    // Also the test for a full disk, while refusing still costs nothing.
    keeper
        .with_ledger(|_, ledger| ledger.jobs().write(&op, &Stage::Accepted {}))
        .map_err(answer_of)?
        .map_err(|error| closed(&error))?;
    hold::at(Point::Accepted).await;
    // An image takes its time to copy: the order's own may be over by now.
    let again = keeper
        .with_ledger(|anchor, ledger| anchor.verify(envelope, ledger.floor(), now()))
        .and_then(|again| again.map(drop));
    let burned = again.map_err(Kept::Denied).and_then(|()| keeper.burn(&authorized));
    if let Err(kept) = burned {
        // A file that says ACCEPTED of an order that was not goes now or at the next start.
        let answer = match kept {
            Kept::Denied(denied) => answer_of(denied),
            Kept::Disk(error) => {
                service.fail(&error);
                let why =
                    format!("{}; nothing was started, and the order's nonce may be burned", chain(&error));
                // "Refused" would say that the order can be used again.
                return Err(PrivilegedAnswer::NotStarted { why });
            }
        };
        let _ = keeper.with_ledger(|_, ledger| ledger.jobs().remove(&op));
        return Err(answer);
    }
    let _ = progress.try_send(PrivilegedAnswer::Committed {});
    hold::at(Point::Committed).await;
    Ok(plan)
}

async fn make_plan(service: &Arc<Service>, authorized: &Authorized<Order>) -> Result<Plan, Denied> {
    let (service, order) = (service.clone(), authorized.get().clone());
    tokio::task::spawn_blocking(move || Plan::make(&service.config, &order))
        .await
        .unwrap_or_else(|error| Err(Denied::new(RefusalCode::Privileged, format!("{PANIC} ({error})"))))
}

/// STARTING, the programs, the end. Gives what is to be written down of it.
async fn execute(service: &Arc<Service>, op: &Sha256, plan: Plan, progress: &Progress) -> Stage {
    if let Err(why) = write(service, op, &Stage::Starting {}) {
        return Stage::NotStarted { why: format!("{why}; nothing was started") };
    }
    let _ = progress.try_send(PrivilegedAnswer::Started {});
    hold::at(Point::Starting).await;
    let doing = service.clone();
    let stage = tokio::task::spawn_blocking(move || plan.execute(&doing.config))
        .await
        .unwrap_or_else(|error| Stage::Unknown { why: format!("{PANIC} ({error})") });
    hold::at(Point::Ended).await;
    stage
}

/// Writes the end down, and only then says it.
async fn finish(service: &Service, op: &Sha256, stage: Stage) -> PrivilegedAnswer {
    let answer = stage.answer().unwrap_or_else(|| PrivilegedAnswer::Unknown { why: PANIC.to_owned() });
    match (write(service, op, &stage), stage) {
        (Ok(()), _) => {
            hold::at(Point::Stored).await;
            answer
        }
        // The next start says the same, from what is on the disk now.
        (Err(_), Stage::NotStarted { .. } | Stage::Unknown { .. }) => answer,
        (Err(why), stage) => PrivilegedAnswer::Unknown {
            why: format!("the order ended ({stage:?}), but that could not be written down: {why}"),
        },
    }
}

/// Writes how far it is. A disk that fails ends the service.
fn write(service: &Service, op: &Sha256, stage: &Stage) -> Result<(), String> {
    match service.keeper.with_ledger(|_, ledger| ledger.jobs().write(op, stage)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            service.fail(&error);
            Err(chain(&error))
        }
        Err(denied) => Err(denied.why),
    }
}

/// Answers [`protocol::privileged::PrivilegedRequest::Outcome`], once nothing is under way.
pub async fn outcome(service: &Arc<Service>, op: Sha256) -> PrivilegedAnswer {
    let mut work = service.work.lock().await;
    let known = service.keeper.with_ledger(|_, ledger| (ledger.jobs().read(&op), ledger.knows(&op)));
    let (stage, burned) = match known {
        Ok((Ok(stage), burned)) => (stage, burned),
        Ok((Err(error), _)) => return answer_of(Denied::new(RefusalCode::Closed, chain(&error))),
        Err(denied) => return answer_of(denied),
    };
    if !burned {
        if work.settled.len() >= SETTLED && !work.settled.contains(&op) {
            let why = format!("{SETTLED} unknown orders were asked about: restart writ-privileged");
            return answer_of(Denied::new(RefusalCode::Busy, why));
        }
        work.settled.insert(op);
        return PrivilegedAnswer::NotKnown {};
    }
    let unknown = |why: &str| PrivilegedAnswer::Unknown { why: why.to_owned() };
    match stage {
        Some(stage) => stage.answer().unwrap_or_else(|| unknown(PANIC)),
        None => unknown(
            "this order was accepted once, and its end was forgotten since, because the warden said that it is durable elsewhere",
        ),
    }
}

/// Answers [`protocol::privileged::PrivilegedRequest::Forget`].
pub async fn forget(service: &Arc<Service>, op: Sha256) -> PrivilegedAnswer {
    let _work = service.work.lock().await;
    match service.keeper.with_ledger(|_, ledger| ledger.jobs().remove(&op)) {
        Ok(Ok(())) => PrivilegedAnswer::Done {},
        Ok(Err(error)) => answer_of(Denied::new(RefusalCode::Closed, chain(&error))),
        Err(denied) => answer_of(denied),
    }
}
