//! A simulated node, clients of it, and the probing of rights: each call of a story is first made by a
//! token that holds exactly what the catalogue says, then by tokens that lack one of these privileges,
//! each in a world that is put back afterwards.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxmox_client::catalog::{self, Shape};
use proxmox_client::{
    ApiError, ApiToken, Client, Delivery, ErrorClass, GuestKind, Pin, PinSet, SnapshotName, Started,
    StorageName, TaskEnd, Upid, Vmid, Volid, classify_text,
};
use pve_sim::world::{AuthId, FaultRule, Mishap, Release, Storage, World};
use pve_sim::{Sim, SimConfig};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const TEMPLATE: &str = "local:vztmpl/debian-13-standard_13.1-1_amd64.tar.zst";
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const QEMU: GuestKind = GuestKind::Qemu;
pub(crate) const LXC: GuestKind = GuestKind::Lxc;
/// All privileges of the role that a call needs, in [`Notes::rights`].
pub(crate) const NEEDS: &str = "needs";
/// All privileges beyond the role that it needs.
pub(crate) const BEYOND: &str = "beyond";
const PROBE: &str = "probe@pve!one";

/// What the loss of a privilege did to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// Refused, and the error's class names it.
    Refused,
    /// Refused without a name, as Proxmox does where one of several rights would do.
    Unnamed,
    /// The task failed and its text or log names it.
    InTask,
    /// The answer held less.
    Less,
    /// Nothing.
    Same,
}

/// What a story has shown.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) called: BTreeSet<&'static str>,
    /// By call and privilege, [`NEEDS`] or [`BEYOND`].
    pub(crate) rights: BTreeMap<(&'static str, &'static str), BTreeSet<Effect>>,
}

pub(crate) struct Bench {
    pub(crate) sim: Sim,
    pub(crate) release: Release,
    /// The acting token: the role of sixteen privileges.
    pub(crate) act: Client,
    /// The reporting token: PVEAuditor.
    pub(crate) report: Client,
    /// May everything but what is kept for root itself.
    pub(crate) admin: Client,
    probe: Client,
    notes: RefCell<Notes>,
}

/// A call that may start a task.
pub(crate) trait MayStart: Debug {
    fn upid(&self) -> Option<&Upid>;
}

impl MayStart for Upid {
    fn upid(&self) -> Option<&Upid> {
        Some(self)
    }
}

impl MayStart for Started {
    fn upid(&self) -> Option<&Upid> {
        if let Started::Task(upid) = self { Some(upid) } else { None }
    }
}

pub(crate) fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

pub(crate) fn snap(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

pub(crate) fn storage(text: &str) -> StorageName {
    text.parse().unwrap()
}

pub(crate) fn volid(text: &str) -> Volid {
    text.parse().unwrap()
}

pub(crate) fn client(sim: &Sim, token: &str, pins: PinSet) -> Client {
    let token: ApiToken = token.parse().unwrap();
    Client::new(sim.url().parse().unwrap(), pins, token).unwrap().with_node("pve1".parse().unwrap())
}

pub(crate) fn spki(sim: &Sim) -> PinSet {
    PinSet::new(vec![format!("spki:{}", sim.pins().spki).parse::<Pin>().unwrap()]).unwrap()
}

pub(crate) fn shape(name: &str) -> &'static Shape {
    catalog::shapes().find(|shape| shape.name == name).unwrap_or_else(|| panic!("no call `{name}`"))
}

/// The shared world of all stories.
fn config(release: Release, change: impl FnOnce(&mut World)) -> SimConfig {
    let mut config = SimConfig::demo();
    config.auth_failure_delay = Duration::from_millis(1);
    config.task_duration = Duration::ZERO;
    let world = &mut config.world;
    world.add_volume(TEMPLATE, 120 << 20, 1_750_000_000);
    let files = Storage::new("dir", "images,rootdir,import,iso,vztmpl", 200 * GIB);
    world.storages.insert("files".to_owned(), files);
    let access = &mut world.access;
    access.add_token("root@pam!all", None, 0);
    access.tokens.get_mut(&AuthId::parse("root@pam!all")).unwrap().privsep = false;
    access.add_user("probe@pve");
    access.add_token(PROBE, None, 0);
    for who in ["probe@pve", PROBE] {
        access.grant("/", who, "Probe");
    }
    change(world);
    world.set_release(release);
    config
}

impl Bench {
    pub(crate) async fn new(release: Release) -> Self {
        Self::with(release, |_| {}).await
    }

    pub(crate) async fn with(release: Release, change: impl FnOnce(&mut World)) -> Self {
        let sim = Sim::start(config(release, change)).await.unwrap();
        let (report, act) = sim.tokens();
        let of = |token: &str| client(&sim, token, spki(&sim));
        let (act, report, admin, probe) =
            (of(&act), of(&report), of(&sim.token("root@pam!all")), of(&sim.token(PROBE)));
        Self { sim, release, act, report, admin, probe, notes: RefCell::default() }
    }

    pub(crate) fn into_notes(self) -> Notes {
        self.notes.into_inner()
    }

    pub(crate) fn is_9(&self) -> bool {
        self.release == Release::V9
    }

    pub(crate) fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let world = self.sim.world();
        let mut world = world.lock().unwrap();
        world.settle_all(self.sim.now());
        look(&mut world)
    }

    /// A line of a guest's configuration as the simulated node has it, empty if it has none.
    pub(crate) fn line(&self, guest: u32, key: &str) -> String {
        self.world(|w| match w.guests[&guest].config.get(key) {
            None => String::new(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        })
    }

    pub(crate) fn runs(&self, guest: u32) -> bool {
        self.world(|w| w.guests[&guest].running.is_some())
    }

    pub(crate) fn fault(&self, rule: FaultRule) {
        self.sim.fault(rule).unwrap();
    }

    pub(crate) fn mishap(&self, mishap: Mishap) {
        self.fault(FaultRule::new(mishap));
    }

    /// How many requests that change something have reached the node.
    pub(crate) fn mutations(&self) -> usize {
        self.sim.requests().iter().filter(|request| request.method != "GET").count()
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.sim.now().unix).unwrap()
    }

    /// The names of the calls the node has seen since the first `from` requests.
    fn seen(&self, from: usize) -> Vec<&'static str> {
        let requests = self.sim.requests();
        let name = |line: &pve_sim::RequestLine| {
            let path = line.path.strip_prefix("/api2/json").unwrap_or(&line.path);
            catalog::understand(&line.method, path, 200, None, b"{}").call.unwrap_or("(none)")
        };
        requests[from..].iter().map(name).collect()
    }

    /// Makes a call of the catalogue as the acting token, after its rights were probed.
    pub(crate) async fn ok<T: Debug>(
        &self,
        name: &str,
        call: impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) -> T {
        self.by(&self.act, name, call).await
    }

    /// The same as somebody else.
    pub(crate) async fn by<T: Debug>(
        &self,
        who: &Client,
        name: &str,
        call: impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) -> T {
        let shape = shape(name);
        self.probe(shape, &call).await;
        let from = self.sim.requests().len();
        let answer = call(who).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(self.seen(from), [shape.name], "one request of that call");
        self.notes.borrow_mut().called.insert(shape.name);
        answer
    }

    /// A call that is refused.
    pub(crate) async fn no<T: Debug>(
        &self,
        name: &str,
        call: impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) -> ApiError {
        let from = self.sim.requests().len();
        let error = call(&self.act).await.unwrap_err();
        assert_eq!(self.seen(from), [name]);
        assert_eq!(error.delivery(), Delivery::Answered, "{error}");
        error
    }

    /// A call that is refused before anything is sent.
    pub(crate) async fn unsent<T: Debug>(&self, call: impl AsyncFn(&Client) -> Result<T, ApiError>) {
        let from = self.sim.requests().len();
        let error = call(&self.act).await.unwrap_err();
        assert_eq!((error.class(), error.delivery()), (ErrorClass::Parameter, Delivery::NotSent), "{error}");
        assert_eq!(self.sim.requests().len(), from, "{error}");
    }

    /// Makes a call and follows its task to the end.
    pub(crate) async fn end<T: MayStart>(
        &self,
        name: &str,
        call: impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) -> TaskEnd {
        self.end_by(&self.act, name, call).await
    }

    pub(crate) async fn end_by<T: MayStart>(
        &self,
        who: &Client,
        name: &str,
        call: impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) -> TaskEnd {
        let answer = self.by(who, name, call).await;
        match answer.upid() {
            Some(upid) => {
                assert_eq!(upid.user(), who.identity());
                who.wait_task(upid, LIMIT).await
            }
            None => TaskEnd::Ok,
        }
    }

    /// [`Bench::end`] that ends well.
    pub(crate) async fn run<T: MayStart>(
        &self,
        name: &str,
        call: impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) {
        assert_eq!(self.end(name, call).await, TaskEnd::Ok, "{name}");
    }

    /// The text a call's task fails with.
    pub(crate) async fn fails<T: MayStart>(
        &self,
        name: &str,
        call: impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) -> String {
        match self.end(name, call).await {
            TaskEnd::Failed { text, .. } => text,
            other => panic!("{name} should fail: {other:?}"),
        }
    }

    async fn probe<T: Debug>(
        &self,
        shape: &'static Shape,
        call: &impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) {
        let all: BTreeSet<&'static str> = shape.needs.iter().chain(shape.beyond).copied().collect();
        let (exact, _) = self.attempt(&all, call).await;
        let exact = match exact {
            Ok(answer) => format!("{answer:?}").len(),
            Err(error) => panic!("{} with all that it needs, {all:?}: {error}", shape.name),
        };
        for lost in shape.needs {
            let left = all.iter().copied().filter(|held| held != lost).collect();
            self.note(shape, lost, &[lost], exact, self.attempt(&left, call).await);
        }
        if !shape.needs.is_empty() {
            let left = shape.beyond.iter().copied().collect();
            self.note(shape, NEEDS, shape.needs, exact, self.attempt(&left, call).await);
        }
        if !shape.beyond.is_empty() {
            let left = shape.needs.iter().copied().collect();
            self.note(shape, BEYOND, shape.beyond, exact, self.attempt(&left, call).await);
        }
    }

    fn note<T: Debug>(
        &self,
        shape: &'static Shape,
        key: &'static str,
        lost: &[&str],
        exact: usize,
        (answer, said): (Result<T, ApiError>, Vec<String>),
    ) {
        let names = |class: &ErrorClass| match class {
            ErrorClass::Permission { privilege, .. } => privilege.split('|').any(|one| lost.contains(&one)),
            _ => false,
        };
        let effect = match answer {
            Err(error) => match error.class() {
                class if names(&class) => Effect::Refused,
                ErrorClass::Permission { privilege, .. } if privilege == "Permission check failed" => {
                    Effect::Unnamed
                }
                _ => panic!("{} without {lost:?}: {error}", shape.name),
            },
            Ok(_) if said.iter().any(|line| names(&classify_text(line))) => Effect::InTask,
            // What changes from second to second does not change so much.
            Ok(answer) if format!("{answer:?}").len() + 16 < exact => Effect::Less,
            Ok(_) => Effect::Same,
        };
        self.notes.borrow_mut().rights.entry((shape.name, key)).or_default().insert(effect);
    }

    /// Makes a call with a token that holds just this, and undoes it. With the end and the log of the
    /// task it started.
    async fn attempt<T>(
        &self,
        held: &BTreeSet<&str>,
        call: &impl AsyncFn(&Client) -> Result<T, ApiError>,
    ) -> (Result<T, ApiError>, Vec<String>) {
        let saved = self.world(|w| {
            let saved = w.clone();
            let known = held.iter().filter(|privilege| w.access.knows(privilege));
            let role = known.map(|privilege| (*privilege).to_owned()).collect();
            w.access.roles.insert("Probe".to_owned(), role);
            saved
        });
        let before = saved.tasks.all.len();
        let answer = call(&self.probe).await;
        let said = self.world(|w| {
            let mut said = Vec::new();
            for task in &w.tasks.all[before..] {
                said.extend(task.ended.iter().map(|(exit, _)| exit.to_string()));
                said.extend(task.log.iter().cloned());
            }
            *w = saved;
            said
        });
        (answer, said)
    }
}

/// Seconds since 1970.
pub(crate) fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Lets `work` go on while the clock of its pauses and timeouts runs fast.
pub(crate) async fn hurried<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(Duration::from_millis(2)) => {}
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(500)).await;
        tokio::time::resume();
    }
}
