//! `writ-hub`: a courier without authority.
//!
//! The hub carries reports up and orders down. It keeps what operators and hosts give it, and it
//! checks signatures where a check keeps rubbish out or makes a list truthful; but nobody believes
//! anything because the hub says so. Hosts verify orders, operators' tools verify statements and
//! receipts. Steal the hub, its database and its TLS key, and no guest is in danger.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | `hub.toml` |
//! | [`init`] | makes a new hub's directory |
//! | `operators` | who may log in |
//! | [`tls`] | TLS 1.3; proof of possession of device keys |
//! | `store` | everything durable, in SQLite |
//! | `live` | who is connected now, and who waits for news |
//! | `http` | the routes, their guard, and how requests fail |
//! | `channel` | the agents' live channel |
//! | `tunnel` | sessions: brings both ends together and copies what it cannot read |
//! | `questions` | operators' questions to wardens, while they are answered |
//! | `server` | listening, connections, a clean end |
//! | `upkeep` | forgetting what nobody needs any more |
//!
//! Not built yet: PostgreSQL, replicas, the batch carrier for agents behind proxies, web pages, backup
//! and migrate commands.

mod app;
mod channel;
pub mod config;
mod http;
pub mod init;
mod live;
mod operators;
mod questions;
mod server;
mod store;
pub mod tls;
mod tunnel;
mod upkeep;

pub use app::{Clock, Environment, Limits};
pub use config::HubConfig;
pub use operators::OperatorsError;
pub use server::{HubError, RunningHub, serve, serve_in};
pub use store::OpenError;

#[cfg(test)]
mod testing;
