//! The unix sockets between the processes of one host: agent, warden, runner.
//!
//! | module | does |
//! |---|---|
//! | [`bind`] | listens on a path, and takes it away again |
//! | [`framed`] | frames of `protocol::local` on a connection, with file descriptors (`SCM_RIGHTS`) |
//!
//! Who may connect is decided by the peer's uid (`SO_PEERCRED`), which the kernel states; file modes only
//! keep noise away.

pub mod bind;
pub mod framed;

pub use bind::{BindError, Listener, bind};
pub use framed::{Framed, SocketError};
