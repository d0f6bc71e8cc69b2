//! `kill -9` of runner, warden, agent and hub at each point of a script's life. The real processes are held
//! or cut off there, killed and started again. Then the script ran at most once, everybody who asks is told
//! the truth of it or `unknown`, and nothing of it is left anywhere.
//!
//! | module | kills |
//! |---|---|
//! | [`points`] | runner and warden between two durable writes (`WRIT_RUNNER_HOLD_AT`, `WRIT_WARDEN_HOLD_AT`) |
//! | [`stages`] | any one of the four while the order or the result is on its way, on a [`wire`] that can be held |
//! | [`together`] | several at once, supervisors too; a runner that is not there; an order that comes twice |

mod points;
mod rig;
mod stages;
mod together;
mod wire;
