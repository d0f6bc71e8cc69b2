//! The way to the hub: TLS 1.3 pinned to the hub's key, the device key as client certificate.

pub mod connect;
pub mod data;
pub mod http;
pub mod tls;

pub use connect::{HubStream, connect};
pub use data::{DataStream, dial};
pub use http::{HubClient, HubError};
pub use tls::{HubPins, PinMismatch};
