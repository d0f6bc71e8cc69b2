//! What makes several nodes one cluster: peers, quorum, and high availability.

pub(in crate::world) mod rows;
pub(in crate::world) mod views;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{AuthId, Exit, Job, Kind, Now, Refusal, Task, Upid, World};

/// Another node of the cluster.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Whether it can be reached; requests for an offline one end in 595.
    pub online: bool,
    /// Its guests, storages and tasks. Users and ACL entries are the cluster's.
    pub world: Box<World>,
}

/// What belongs to the cluster as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The cluster's name; `None` for a node that is in no cluster.
    pub name: Option<String>,
    /// Without a quorum everything can be read and nothing can be written.
    pub quorate: bool,
    /// `GET /cluster/options`.
    pub options: BTreeMap<String, Value>,
    /// Requests to the HA manager that it has not carried out yet.
    pub(in crate::world) requests: Vec<(Duration, u32, HaRequest)>,
    /// How long the HA manager takes to carry a request out, after the task that filed it ended.
    pub ha_delay: Duration,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            name: None,
            quorate: true,
            options: BTreeMap::from([("keyboard".to_owned(), json!("en-us"))]),
            requests: Vec::new(),
            ha_delay: Duration::from_millis(100),
        }
    }
}

/// A guest under the HA manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaResource {
    /// The requested state: `started`, `stopped`, `disabled` or `ignored`.
    pub state: String,
    /// Free text.
    pub comment: Option<String>,
    /// How often it is restarted on its node.
    pub max_restart: u32,
    /// How often it is moved to another one.
    pub max_relocate: u32,
}

impl HaResource {
    /// With the defaults of Proxmox VE.
    pub fn new(state: &str) -> HaResource {
        HaResource { state: state.to_owned(), comment: None, max_restart: 1, max_relocate: 1 }
    }
}

/// What may be asked of the HA manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HaRequest {
    /// Start the guest.
    Start,
    /// Stop or shut it down.
    Stop,
}

impl World {
    /// Adds a node to the cluster, with a world of its own and no guests.
    pub fn add_peer(&mut self, name: &str, online: bool) {
        let mut world = World::empty(self.fresh_bytes());
        world.node = name.to_owned();
        world.node_ip = format!("192.0.2.{}", 11 + self.peers.len());
        world.fingerprint = self.fingerprint.clone();
        world.storages = self.storages.clone();
        self.cluster.name.get_or_insert_with(|| "sim".to_owned());
        self.peers.insert(name.to_owned(), Peer { online, world: Box::new(world) });
    }

    /// Whether a request for this node can be handled here: the 500 of a name that cannot be
    /// resolved, or the 595 of a node that cannot be reached. It comes after the permission check
    /// and before the parameter check, as in the real router.
    pub fn reach(&self, node: &str) -> Result<(), Refusal> {
        if node == self.node || node == "localhost" {
            return Ok(());
        }
        if self.peers.contains_key(node) {
            return Err(Refusal::unreachable());
        }
        // What the resolver says depends on the machine's name service; these are the recorded ones.
        let why = match self.release {
            crate::world::Release::V8 => "Temporary failure in name resolution",
            crate::world::Release::V9 => "Name or service not known",
        };
        Err(Refusal::internal(format!(
            "hostname lookup '{node}' failed - failed to get address info for: {node}: {why}"
        )))
    }

    /// Runs `work` in the world of an online peer, with the cluster's users in it; `None` when the
    /// node is this one, unknown or offline.
    pub fn at_peer<T>(&mut self, node: &str, work: impl FnOnce(&mut World) -> T) -> Option<T> {
        if !self.peers.get(node)?.online {
            return None;
        }
        let mut peer = self.peers.remove(node)?;
        let there = &mut *peer.world;
        let others = self.peers.values().flat_map(|p| p.world.guests.keys());
        there.elsewhere = self.guests.keys().chain(others).copied().collect();
        there.release = self.release;
        there.task_duration = self.task_duration;
        there.cluster.quorate = self.cluster.quorate;
        std::mem::swap(&mut there.access, &mut self.access);
        std::mem::swap(&mut there.injections, &mut self.injections);
        let done = work(there);
        std::mem::swap(&mut there.access, &mut self.access);
        std::mem::swap(&mut there.injections, &mut self.injections);
        self.peers.insert(node.to_owned(), peer);
        Some(done)
    }

    /// Whether any node of the cluster has a guest with this id.
    pub fn vmid_taken(&self, vmid: u32) -> bool {
        self.guests.contains_key(&vmid) || self.peers.values().any(|p| p.world.guests.contains_key(&vmid))
    }

    /// [`World::settle`] here and on every peer, and the HA manager's turn.
    pub fn settle_all(&mut self, now: Now) {
        let (due, later) = self.cluster.requests.drain(..).partition(|(due, ..)| *due <= now.mono);
        self.cluster.requests = later;
        let due: Vec<(Duration, u32, HaRequest)> = due;
        for (_, vmid, request) in due {
            self.carry_out(now, vmid, request);
        }
        self.settle(now);
        let names: Vec<String> = self.peers.keys().cloned().collect();
        for name in names {
            self.at_peer(&name, |there| there.settle(now));
        }
    }

    /// When [`World::settle_all`] has something to do next.
    pub fn next_due_all(&self) -> Option<Duration> {
        let requests = self.cluster.requests.iter().map(|(due, ..)| *due);
        let peers = self.peers.values().filter_map(|p| p.world.next_due());
        requests.chain(peers).chain(self.next_due()).min()
    }

    /// Files a request with the HA manager for a guest it manages, and answers the UPID of the
    /// `hastart` or `hastop` task. That task has ended when this returns; the guest itself changes
    /// later, in a task of `root@pam`, which is why a client must look at the guest and not at the
    /// task. `None` when the guest is not under HA (or its state is `ignored`): start or stop it
    /// as usual.
    ///
    /// To be asked by the handlers of `status/start`, `status/stop` and `status/shutdown` after
    /// their own checks.
    pub fn ha_request(&mut self, now: Now, who: &AuthId, vmid: u32, request: HaRequest) -> Option<String> {
        let kind = self.guests.get(&vmid)?.kind;
        let (delay, duration) = (self.cluster.ha_delay, self.task_duration);
        let resource = self.ha.get_mut(&vmid)?;
        if resource.state == "ignored" {
            return None;
        }
        let (task, state) = match request {
            HaRequest::Start => ("hastart", "started"),
            HaRequest::Stop => ("hastop", "stopped"),
        };
        state.clone_into(&mut resource.state);
        let verb = task.trim_start_matches("ha");
        let log = vec![format!("Requesting HA {verb} for {} {vmid}", kind.label())];
        self.cluster.requests.push((now.mono + duration + delay, vmid, request));
        Some(self.finished_task(now, who, task, &vmid.to_string(), log))
    }

    /// Lets the HA manager bring a guest into a state somebody set at its resource.
    pub(crate) fn ha_pursue(&mut self, now: Now, vmid: u32, request: HaRequest) {
        self.cluster.requests.push((now.mono + self.cluster.ha_delay, vmid, request));
    }

    /// Records a task that is over already.
    pub(in crate::world) fn finished_task(
        &mut self,
        now: Now,
        who: &AuthId,
        kind: &str,
        id: &str,
        log: Vec<String>,
    ) -> String {
        let upid = Upid {
            node: self.node.clone(),
            pid: self.tasks.fresh_pid(),
            pstart: self.tasks.jiffies(now),
            starttime: now.unix,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: who.clone(),
        };
        let text = upid.to_string();
        // An ended task is never applied, so its job does not matter.
        let mut task = Task { upid, job: Job::Start, due: now.mono, log, ended: None, fate: None };
        task.end(Exit::Ok, now);
        self.tasks.all.push(task);
        text
    }

    fn carry_out(&mut self, now: Now, vmid: u32, request: HaRequest) {
        let Some((kind, runs)) = self.guests.get(&vmid).map(|g| (g.kind, g.running.is_some())) else {
            return;
        };
        let job = match (request, runs) {
            (HaRequest::Start, false) => Job::Start,
            (HaRequest::Stop, true) => Job::Shutdown,
            _ => return,
        };
        self.begin(now, &AuthId::parse("root@pam"), kind, vmid, job);
    }

    /// The HA manager's name for a guest: `vm:100` or `ct:200`.
    pub fn ha_sid(&self, vmid: u32) -> String {
        match self.guests.get(&vmid).map(|g| g.kind) {
            Some(Kind::Lxc) => format!("ct:{vmid}"),
            _ => format!("vm:{vmid}"),
        }
    }

    /// What the HA manager says a guest's state is: the requested one once it is reached.
    pub fn ha_state(&self, vmid: u32) -> Option<&str> {
        let resource = self.ha.get(&vmid)?;
        let runs = self.guests.get(&vmid).is_some_and(|g| g.running.is_some());
        Some(match (resource.state.as_str(), runs) {
            ("started", false) => "starting",
            ("stopped", true) => "request_stop",
            (state, _) => state,
        })
    }

    /// The `ha` entry of `…/status/current`.
    pub fn ha_view(&self, vmid: u32) -> Value {
        match self.ha.get(&vmid) {
            None => json!({"managed": 0}),
            Some(resource) => json!({"managed": 1, "state": resource.state}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono: Duration::from_millis(ms), unix: 1_795_317_258 }
    }

    #[test]
    fn an_ha_request_ends_before_the_guest_changes() {
        let mut w = World::demo();
        let who = AuthId::parse("writ@pve!act");
        assert_eq!(w.ha_request(at(0), &who, 101, HaRequest::Start), None, "not managed");
        w.ha.insert(101, HaResource::new("stopped"));
        let upid = w.ha_request(at(0), &who, 101, HaRequest::Start).unwrap();
        assert!(upid.contains(":hastart:101:writ@pve!act:"), "{upid}");
        let ended = w.tasks.find(&upid).unwrap().ended.clone().unwrap();
        assert_eq!(ended.0, Exit::Ok);
        assert_eq!(w.ha_state(101), Some("starting"));
        w.settle_all(at(149));
        assert_eq!(w.tasks.all.len(), 1, "nobody started it yet");
        assert_eq!(w.next_due_all(), Some(Duration::from_millis(150)));
        w.settle_all(at(150));
        w.settle_all(at(200));
        assert!(w.guests[&101].running.is_some());
        assert_eq!(w.ha_state(101), Some("started"));
        w.ha_request(at(300), &who, 101, HaRequest::Stop).unwrap();
        w.settle_all(at(450));
        w.settle_all(at(600));
        assert!(w.guests[&101].running.is_none());
    }

    #[test]
    fn peers_lend_their_world_with_the_clusters_users() {
        let mut w = World::demo();
        w.add_peer("pve2", true);
        w.add_peer("pve3", false);
        let users = w.access.users.len();
        let seen = w.at_peer("pve2", |there| (there.node.clone(), there.access.users.len()));
        assert_eq!(seen, Some(("pve2".to_owned(), users)));
        assert_eq!(w.access.users.len(), users);
        assert_eq!(w.at_peer("pve3", |_| ()), None);
        assert_eq!(w.at_peer("pve1", |_| ()), None);
        assert_eq!(w.reach("pve3").unwrap_err().status, 595);
        assert_eq!(w.reach("nosuch").unwrap_err().status, 500);
        assert!(w.reach("localhost").is_ok());
    }
}
