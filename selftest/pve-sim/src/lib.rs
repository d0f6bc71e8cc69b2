//! A simulated Proxmox VE node: an HTTPS API server that behaves like recordings of a real 9.1.8.
//!
//! It exists for tests and for trying things out and is never shipped. Statuses, reason phrases,
//! bodies and field sets follow recorded exchanges; where nothing was recorded, the behaviour was
//! chosen from the published sources, and the code says so.
//!
//! The state and everything that happens to it is in [`world`], a pure core: time is an argument,
//! and fresh identities come from a seed. Around it are the HTTP layer (parameter decoding, schema
//! check, permission check, envelope), TLS in the form of Proxmox VE, and [`Sim`], which starts and
//! stops it all.
//!
//! ```no_run
//! # async fn example() -> Result<(), pve_sim::SimError> {
//! let sim = pve_sim::Sim::start(pve_sim::SimConfig::demo()).await?;
//! let (report, act) = sim.tokens();
//! println!("{} {report} {act}", sim.url());
//! sim.stop().await;
//! # Ok(()) }
//! ```
//!
//! # The side door
//!
//! Requests below `/sim/` need no token and are the simulator's own; no Proxmox VE has them:
//!
//! | request | effect |
//! |---|---|
//! | `GET /sim/requests[?mutations=1]` | the requests seen; with `mutations=1` all but GET |
//! | `POST /sim/replace-guest {"vmid":101}` | another guest under the same VMID, name and snapshot names |
//! | `POST /sim/task-duration {"ms":n}` | how long tasks begun from now on run |
//! | `POST /sim/fail-next {"task":"qmrollback","text":"…"}` | the next such task ends with this text and changes nothing; with `"leave_lock":true` lock and half-made snapshot stay; with `"kill":true` it ends in `unexpected status` |
//! | `POST /sim/warn-next {"task":"…","count":n}` | the next such task ends in `WARNINGS: n` |
//! | `POST /sim/storage {"storage":"local-lvm","used_percent":n,"metadata_percent":n}` | how full a storage is |
//! | `POST /sim/drop-answer-next {"method":"POST","contains":"/rollback"}` | the next such request is carried out, then the connection is closed without an answer |
//! | `POST /sim/lose-task {"upid":"…"}` | the task's log and index entry are gone |
//! | `POST /sim/faults {…}` or `[{…},…]` | something goes wrong; see below |
//! | `GET /sim/faults`, `DELETE /sim/faults` | the faults still to come; forget them |
//! | `POST /sim/peer {"node":"pve2","online":true}` | adds a node to the cluster, or makes one (un)reachable |
//! | `POST /sim/ha {"vmid":101,"state":"started"}` | puts a guest under the HA manager; without `state` takes it away |
//!
//! # Faults
//!
//! A fault is an object such as `{"fault":"error","text":"got timeout","method":"PUT","nth":2}`.
//! Every one may carry a matcher: `method`, `contains` (a part of path and query as they were
//! sent), `nth` (the first matching request it happens to, from 1) and `times` (to how many in a
//! row; 1 if absent, 0 is all). What concerns the whole node (`refuse`, `certificate`, `quorum`,
//! `daemon_restart`, and `replace_guest`, `digest_race` and `flock` with a `vmid`) happens at once when it
//! comes without a matcher. `pve-sim faults` prints each with an example; in Rust they are
//! [`world::Mishap`], ordered with [`Sim::fault`] or given in [`SimConfig::faults`].
//!
//! Only requests of the API count, those of the side door do not. When several faults match a
//! request, those that change the node all happen, and of those that answer instead of the handler
//! the first wins. With `--fault-seed` and `--fault-rate` the number of a request decides alone, so
//! a client that sends its requests in a fixed order meets the same faults in every run.
//!
//! # What is not simulated
//!
//! `tests/replay` sends every recorded request and names what differs in `differences.json`. Beyond
//! that, and beyond what the recordings hold:
//!
//! * HTTP: an aborted connection ends without a TLS goodbye but with FIN, not RST. Answers to what is
//!   no HTTP and to a too large header block are those of the HTTP library, `Expires` and the second
//!   `Connection` header are left out. Of the formats there are `json` and `extjs`. Packed answers
//!   are valid gzip but not smaller. The limit of 1000 requests per worker does not exist.
//! * Access: groups, realms other than `pve` and `pam`, second factors, OpenID, ticket renewal after
//!   a key rotation, and most built-in roles. The number of guards on ACL changes is smaller: who
//!   may change the ACL of a path may grant any role there.
//! * Guests: nothing runs in them. CPU, memory, network and disk figures are constant, consoles
//!   connect to nobody, a guest agent answers a few commands. Of the options only those are checked
//!   and completed that [`world`] knows. Create, clone, restore, move and resize change the
//!   configuration and what storages count, there are no data behind it. Migration between nodes
//!   is refused.
//! * Storages: sizes are counted, contents do not exist. A backup holds a guest's configuration;
//!   single files of a backup cannot be listed. Storage kinds differ in names, snapshots and texts.
//!   Nothing comes or goes by itself, and backup and replication jobs never run by their schedule.
//! * Tasks take one duration whatever they do (a backup job one for each guest). Their logs have no
//!   progress lines between beginning and end.
//! * Cluster: guests do not move between nodes, users and ACL entries are shared at once, an offline
//!   node's guests keep their state, and `daemon_restart` counts for this node only. The HA manager
//!   starts and stops guests; it does not relocate, restart or fence. Firewall, Ceph and SDN beyond
//!   its list in `/cluster/resources` do not exist.
//! * A quorum is asked of every request that changes anything, except logging in and stopping a
//!   task; a real node asks a few less.
//! * Releases: 8 and 9 differ in what was recorded of both (texts of 401, privileges, fields of node
//!   and guests, log lines, the type of SDN entries) and in a few documented parameters, no more.
//! * The short file lock is never taken for long: a second operation meets the `lock` line at once,
//!   unless the fault `flock` says otherwise.

mod http;
mod sim;
mod tls;
pub mod world;

pub use http::RequestLine;
pub use sim::{Sim, SimConfig, SimError};
pub use tls::{Pins, TlsError, write_private};
