//! How often hub, warden and runner make something durable for one job, counted by strace while some run.

use std::path::{Path, PathBuf};

use scenarios::process::Process;

use crate::Fallible;
use crate::ground::Ground;

/// What is counted, with the name of its process.
pub(crate) struct Counter {
    tracers: Vec<(&'static str, Process, PathBuf)>,
}

const STRACE: &str = "/usr/bin/strace";

impl Counter {
    /// Begins to count; fails where there is no strace or it may not look.
    pub(crate) async fn start(ground: &Ground) -> Fallible<Self> {
        if !Path::new(STRACE).exists() {
            return Err("strace is not installed".into());
        }
        let stand = &ground.stand;
        let mut tracers = Vec::new();
        for (name, config) in [("hub", "hub/hub.toml"), ("warden", "warden.toml"), ("runner", "runner.toml")]
        {
            let config = stand.text(config);
            let pid = find(&config).ok_or("a process that should run was not found")?.to_string();
            let calls = stand.at(&format!("strace-{name}"));
            let output = calls.display().to_string();
            let args = ["-f", "-e", "trace=fsync,fdatasync", "-o", &output, "-p", &pid];
            let mut tracer = Process::start("strace", Path::new(STRACE), &args, &[], &stand.at("logs"))?;
            tracer.line_with(&format!("Process {pid} attached")).await?;
            tracers.push((name, tracer, calls));
        }
        Ok(Self { tracers })
    }

    /// Stops counting; gives the counts.
    pub(crate) async fn stop(self) -> Fallible<Vec<(&'static str, usize)>> {
        let mut counts = Vec::new();
        for (name, tracer, calls) in self.tracers {
            tracer.stop().await;
            let text = std::fs::read_to_string(calls)?;
            // A call that was interrupted is written as two lines; only one of them opens a parenthesis.
            counts.push((name, text.lines().filter(|line| line.contains("sync(")).count()));
        }
        Ok(counts)
    }
}

/// The process that was started with this configuration, which nobody else has.
fn find(config: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = command.split(|byte| *byte == 0);
        words.any(|word| word == config.as_bytes()).then_some(pid)
    })
}
