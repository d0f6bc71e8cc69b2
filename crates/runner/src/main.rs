//! `writ-runner`: not built yet; says so and fails, so that nobody mistakes it for a working service.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "writ-runner: signed scripts and sessions are not built yet in version {}: do not install this unit",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::FAILURE
}
