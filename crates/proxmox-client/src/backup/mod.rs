//! Backups: made now, made by jobs, and what they hold.

pub(crate) mod jobs;
pub(crate) mod vzdump;

use crate::catalog::Calls;

/// The calls of each part.
pub(crate) static CALLS: &[Calls] = &[vzdump::CALLS, jobs::CALLS];
