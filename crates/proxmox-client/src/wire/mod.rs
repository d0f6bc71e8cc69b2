//! Down to the wire: where a node is, what it must prove, how a request is sent, and what went
//! wrong.

pub(crate) mod classify;
pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod named;
pub(crate) mod pin;
pub(crate) mod pindir;
pub(crate) mod presented;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod transport;
pub(crate) mod validity;
pub(crate) mod weight;
