//! Storages, what is on them, and what is put on them.

pub(crate) mod content;
pub(crate) mod fetch;
pub(crate) mod list;
pub(crate) mod manage;
pub(crate) mod prune;
pub(crate) mod upload;
pub(crate) mod volid;

use crate::catalog::Calls;

/// The calls of each part.
pub(crate) static CALLS: &[Calls] =
    &[list::CALLS, manage::CALLS, content::CALLS, prune::CALLS, fetch::CALLS, upload::CALLS];
