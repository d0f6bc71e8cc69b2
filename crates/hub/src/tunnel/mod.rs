//! Tunnels: the hub's part of a session. It brings two connections together and copies bytes that it
//! cannot read.
//!
//! A tunnel is opened by an operator's request, lives on the host's channel on which it was asked for,
//! and has one task that keeps it ([`keeper`]): wait for the host's word, wait for both data
//! connections, copy ([`relay`]), close. Everybody else finds it by its name in the [`registry`], where
//! what may happen once is a sender that is taken out.
//!
//! The row in the database is written first and closed as soon as an end is gone, so that the
//! operator's next session never waits for the last one's farewell.

mod keeper;
mod registry;
mod relay;
mod upgrade;

use std::fmt;

use protocol::text::SafeText;
use protocol::{HostName, Signed};

pub(crate) use keeper::open;
pub(crate) use registry::{ConnectError, Origin, Tunnels};
pub(crate) use upgrade::{Dialed, UpgradeError, accept};

/// The two ends of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Operator,
    Host,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "operator",
            Self::Host => "host",
        })
    }
}

/// What a host answered when it was asked for a session.
#[derive(Debug)]
pub(crate) enum HostAnswer {
    /// The session waits; signed.
    Ready(Signed),
    /// There will be none; signed.
    Refused(Signed),
    /// There will be none.
    Trouble(SafeText),
}

/// Why a tunnel was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// The request for it was dropped.
    OperatorLeft,
    /// By the host, signed.
    Refused,
    /// By the host, in its words.
    Trouble(SafeText),
    /// The host said nothing.
    NoAnswer,
    /// An end did not dial.
    NotConnected(End),
    /// An end dialed, and its connection broke before it was one.
    NotUpgraded(End),
    /// The host's channel ended or was replaced.
    ChannelEnded,
    /// The operator, or the key that they logged in with, was taken from the operators file.
    Removed,
    /// By an operator.
    ClosedBy(HostName),
    /// The hub.
    Stopping,
    /// The host's word after it was ready.
    ByHost(SafeText),
    /// An end closed its connection.
    Ended(End),
    /// An end's connection broke.
    Broken(End),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OperatorLeft => f.write_str("the operator left before the host had answered"),
            Self::Refused => f.write_str("the host refused"),
            Self::Trouble(problem) => write!(f, "the host could not open it: {problem}"),
            Self::NoAnswer => f.write_str("the host did not answer in time"),
            Self::NotConnected(end) => write!(f, "the {end}'s data connection did not come in time"),
            Self::NotUpgraded(end) => write!(f, "the {end}'s data connection broke at once"),
            Self::ChannelEnded => f.write_str("the host's channel to the hub ended"),
            Self::Removed => f.write_str("the operator's key was taken from the hub's operators file"),
            Self::ClosedBy(operator) => write!(f, "closed by {operator}"),
            Self::Stopping => f.write_str("the hub is stopping"),
            Self::ByHost(why) => write!(f, "closed by the host: {why}"),
            Self::Ended(end) => write!(f, "the {end} closed its connection"),
            Self::Broken(end) => write!(f, "the {end}'s connection broke"),
        }
    }
}

impl Why {
    /// Whether the host said so itself and need not be told.
    fn is_the_hosts_word(&self) -> bool {
        matches!(self, Self::Refused | Self::Trouble(_) | Self::ByHost(_))
    }
}
