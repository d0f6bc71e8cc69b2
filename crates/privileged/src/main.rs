//! `writ-privileged`: not built yet; says so and fails, so that nobody mistakes it for a working
//! service.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "writ-privileged: the three root-only operations are not built yet in version {}: do not install this unit",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::FAILURE
}
