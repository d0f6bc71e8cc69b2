//! The README's quick start, run as it stands there: every marked block, in order, in one shell, with the
//! binaries that a newcomer would have built. Only the directory and the two ports are exchanged, so that
//! the test can run beside others.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::path::Path;

use scenarios::bins::Bins;
use scenarios::process::run;

/// How a service says that it is ready, on its output.
const READY: [(&str, &str); 5] = [
    ("pve-sim", "https://127.0.0.1"),
    ("hub", "listening on"),
    ("warden", "ready"),
    ("runner", "ready"),
    ("agent", "."),
];

/// What follows `<!-- quickstart:`, and the code of the block below it.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for part in text.split("<!-- quickstart: ").skip(1) {
        let (what, rest) = part.split_once(" -->").unwrap();
        let code = rest.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
        found.push((what.to_owned(), code.to_owned()));
    }
    found
}

fn script(readme: &str) -> String {
    let mut script =
        String::from("set -eu\npids=\ntrap 'code=$?; kill $pids 2>/dev/null; wait; exit $code' EXIT\n");
    for (what, code) in blocks(readme) {
        match what.strip_prefix("service ") {
            None => script.push_str(&code),
            Some(name) => {
                let (_, ready) = READY.iter().find(|(service, _)| *service == name).unwrap();
                let command = code.trim_end();
                assert_eq!(command.lines().count(), 1, "a service is one command: {command}");
                // The test's own deadline ends a wait that never ends.
                script.push_str(&format!(
                    "{command} >$TRY/{name}.log 2>&1 &\npids=\"$pids $!\"\nuntil grep -q '{ready}' $TRY/{name}.log; do kill -0 $! || {{ cat $TRY/{name}.log >&2; exit 1; }}; sleep 0.05; done\n"
                ));
            }
        }
    }
    script
}

#[tokio::test]
async fn the_quick_start_works_as_written() {
    let bins = Bins::ready().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [pve, hub] = ports.each_ref().map(|listener| listener.local_addr().unwrap().port().to_string());
    drop(ports);
    let script = script(&readme)
        .replace("cargo build --workspace --bins\n", "")
        .replace("$PWD/target/debug", &bins.path("").display().to_string())
        .replace("export TRY=/tmp/writ-try", &format!("export TRY={}", dir.path().display()))
        .replace("18006", &pve)
        .replace("18440", &hub);
    // The host connects while the operator types: the first desired state may arrive before it does.
    let out = run(Path::new("sh"), &["-c", &script], &[], dir.path(), b"").await.unwrap();
    assert_eq!(out.code, Some(0), "{}\n{}\nscript:\n{script}", out.stdout, out.stderr);
    for says in [
        "web1",
        "everything wanted is so",
        "done: the guest stands at snapshot before-update",
        "receipt verified",
        "entries verified",
        "runs this once",
        "load average",
    ] {
        assert!(out.text().contains(says), "the quick start does not say {says:?}:\n{}", out.text());
    }
    let original = std::fs::read(dir.path().join("hosts.toml")).unwrap();
    for copy in ["copied.toml", "synced.toml", "piped.toml"] {
        assert_eq!(std::fs::read(dir.path().join(copy)).unwrap(), original, "{copy}");
    }
}

/// Every command of ours that a document shows exists, with these options.
#[tokio::test]
async fn every_documented_command_exists() {
    let bins = Bins::ready().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    documents.extend(std::fs::read_dir(root.join("runbooks")).unwrap().map(|entry| entry.unwrap().path()));
    let mut checked = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        let code = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
        for line in code.flat_map(str::lines).flat_map(|line| line.split(['|', ';'])) {
            // A command inside a command is a line of its own in the same document.
            let line = line.split("$(").next().unwrap_or_default();
            let words: Vec<&str> =
                line.rsplit(" -- ").next().unwrap_or_default().split_whitespace().collect();
            let Some(at) = words
                .iter()
                .position(|w| ["writ", "writ-agent", "writ-hub", "writ-runner", "writ-warden"].contains(w))
            else {
                continue;
            };
            // The command and its options with their values' places kept; --help ends before anything is done.
            let options = words[at + 1..].iter().filter(|w| w.starts_with("--")).copied();
            let command = words[at + 1..]
                .iter()
                .take_while(|w| w.chars().all(|c| c.is_ascii_lowercase() || c == '.'))
                .take(2);
            let path: Vec<&str> = command.copied().filter(|w| *w != "web1").collect();
            let out = help(&bins, words[at], &path, &root).await;
            let out = match out {
                Some(text) => text,
                // The second word was an argument, not a command.
                None => help(&bins, words[at], &path[..path.len().saturating_sub(1)], &root)
                    .await
                    .unwrap_or_else(|| panic!("{}: no such command: {line}", document.display())),
            };
            for option in options {
                let option = option.split('=').next().unwrap();
                assert!(out.contains(option), "{}: {option} is no option of: {line}", document.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 15, "only {checked} commands were found: were the documents rewritten?");
}

async fn help(bins: &Bins, program: &str, path: &[&str], directory: &Path) -> Option<String> {
    let args = [path, &["--help"]].concat();
    let out = run(&bins.path(program), &args, &[], directory, b"").await.unwrap();
    out.ok().then_some(out.stdout)
}

/// The role in the runbook is the one that the simulator grants, and so the one the tests ran with.
#[test]
fn the_runbooks_role_is_the_tested_role() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let runbook = std::fs::read_to_string(root.join("runbooks/install-and-enroll.md")).unwrap();
    let line = runbook.lines().find(|line| line.starts_with("pveum role add WritAgent")).unwrap();
    let privileges: Vec<&str> = line.split('"').nth(1).unwrap().split(' ').collect();
    assert_eq!(privileges.len(), 16);
    let simulator = std::fs::read_to_string(root.join("selftest/pve-sim/src/world/access/mod.rs")).unwrap();
    for privilege in privileges {
        assert!(
            simulator.contains(&format!("\"{privilege}\"")),
            "{privilege} is not in the simulator's role"
        );
    }
}
