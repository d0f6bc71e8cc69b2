//! The engine through the real binary, as root and, from there, again as an ordinary user.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: tests of the runner start ssh, and themselves again to be killed"
)]

mod client;
mod common;
mod ends;
mod jobs;
mod session_ends;
mod sessions;

use common::*;
use runner::engine::job;

#[test]
fn the_stages_are_not_for_people() {
    for stage in ["supervise", "exec-as"] {
        let output = std::process::Command::new(binary())
            .arg(stage)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{stage}");
    }
}

#[test]
fn all_of_this_as_an_ordinary_user() {
    again_as_an_ordinary_user("all_of_this_as_an_ordinary_user");
}

#[test]
fn all_of_it_is_found_in_a_pid_namespace() {
    again_in_a_pid_namespace("all_of_it_is_found_in_a_pid_namespace");
}

/// Not a test: what [`act`] starts.
#[test]
fn acting() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "runner" => {
                let script = std::env::var("SCRIPT").unwrap();
                let engine = match std::env::var("CGROUPS").unwrap().as_str() {
                    "0" => engine().without_cgroups(),
                    _ => engine(),
                };
                let job = job::start(&engine, jobs::spec(&script)).await.unwrap();
                println!("\n{}", serde_json::to_string(job.leftover()).unwrap());
                job.wait().await;
            }
            "signals" => {
                let end = jobs::run("exec grep -E '^Sig(Blk|Ign)' /proc/self/status").await;
                let lines: Vec<String> = jobs::text(&end.stdout).lines().map(str::to_owned).collect();
                println!("\n{}", serde_json::to_string(&lines).unwrap());
            }
            "session" => session_ends::act_as_runner().await,
            other => panic!("no role {other}"),
        }
    });
}
