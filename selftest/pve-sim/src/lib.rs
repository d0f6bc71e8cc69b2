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
//!
//! # What is not simulated
//!
//! Tickets and CSRF tokens, backup and restore, create, clone and destroy, HA, clusters, pools,
//! pending configuration changes, the short file lock (a second operation meets the `lock` line at
//! once), and the answers to requests whose header block is malformed or too large, which the HTTP
//! library gives itself.

mod http;
mod sim;
mod tls;
pub mod world;

pub use http::RequestLine;
pub use sim::{Sim, SimConfig, SimError};
pub use tls::{Pins, TlsError, write_private};
