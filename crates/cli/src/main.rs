//! `writ`: see the library.

use std::process::ExitCode;

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    cli::run().await
}
