//! Other users of the host: whom the warden lets ask, and who can read what we keep. Needs root and
//! `setpriv` for a second user; elsewhere it says that it checked nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use scenarios::process::Output;
use scenarios::stand::Stand;

/// Nobody, on every Linux.
const OTHER: u32 = 65534;

fn possible() -> bool {
    let setpriv = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("setpriv").is_file()));
    let possible = rustix::process::getuid().is_root() && setpriv;
    if !possible {
        println!("NOT CHECKED: another user's view needs root and setpriv");
    }
    possible
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs something as nobody.
async fn as_other(stand: &Stand, program: &str, args: &[&str]) -> Output {
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", program];
    stand.tool("setpriv", &[&user[..], args].concat()).await.unwrap()
}

/// Lets nobody walk through the stand's own directory; what is in it protects itself.
async fn open_stand() -> Stand {
    let stand = Stand::enrolled().await.unwrap();
    set_mode(stand.path(), 0o711);
    std::fs::copy(stand.bin("writ-agent"), stand.at("writ-agent")).unwrap();
    set_mode(&stand.at("writ-agent"), 0o755);
    stand
}

#[tokio::test]
async fn the_warden_answers_only_the_users_it_is_told_to() {
    if !possible() {
        return;
    }
    let mut stand = open_stand().await;
    let own = stand.at("other");
    std::fs::create_dir(&own).unwrap();
    set_mode(&own, 0o700);
    chown(&own, Some(OTHER), Some(OTHER)).unwrap();
    let config = stand.read("agent.toml").unwrap();
    let state = |name: &str| format!("\"{}\"", stand.text(name));
    stand.write("other.toml", &config.replacen(&state("agent"), &state("other"), 1)).unwrap();
    set_mode(&stand.at("other.toml"), 0o644);
    let (agent, toml) = (stand.text("writ-agent"), stand.text("other.toml"));
    let args = ["status", "--config", toml.as_str()];

    let out = as_other(&stand, &agent, &args).await;
    let line = out.stdout.lines().find(|line| line.contains("warden:")).unwrap_or_default().to_owned();
    assert_eq!(out.code, Some(1), "{}", out.text());
    assert!(line.starts_with("fail") && line.contains("refuses (peer)"), "{}", out.text());
    assert!(line.contains("user id 65534 may not ask") && line.contains("allowed_uids"), "{line}");
    let log = stand.warden.as_mut().unwrap().line_with("may not connect").await.unwrap();
    assert!(log.contains("uid=65534"), "the warden's log names the uid: {log}");

    // The agent's own user is answered meanwhile, and the other one as soon as it is listed.
    let own = stand.run("writ-agent", &["status", "--config", &stand.text("agent.toml")]).await.unwrap();
    assert!(own.ok(), "{}", own.text());
    stand.warden.take().unwrap().stop().await;
    let warden = stand.read("warden.toml").unwrap();
    stand.write("warden.toml", &warden.replacen("allowed_uids = [", "allowed_uids = [65534, ", 1)).unwrap();
    stand.start_warden(&[]).await.unwrap();
    let out = as_other(&stand, &agent, &args).await;
    let line = out.stdout.lines().find(|line| line.contains(" warden ")).unwrap_or_default();
    assert!(line.starts_with("ok") && line.contains("host key SHA256:"), "{}", out.text());
}

/// Every file below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(below(&path));
        }
        all.push(path);
    }
    all
}

#[tokio::test]
async fn nobody_else_can_read_what_is_kept() {
    if !possible() {
        return;
    }
    let stand = open_stand().await;
    stand.rollback_order("order.json").await.unwrap();
    assert!(stand.writ(&["submit", "order.json"]).await.unwrap().ok());
    let open = stand.at("open");
    std::fs::write(&open, "hello").unwrap();
    set_mode(&open, 0o644);
    let out = as_other(&stand, "cat", &[&open.display().to_string()]).await;
    assert_eq!(out.stdout, "hello", "the check can fail: {}", out.text());

    let mut secrets = 0;
    for state in ["agent", "warden", "hub", "operator"] {
        let directory = stand.at(state);
        assert_eq!(mode(&directory), 0o700, "{state}");
        for path in below(&directory) {
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            // The lock files hold nothing, but have no reason to be an exception.
            assert_eq!(mode(&path), wanted, "{}", path.display());
            let out = as_other(&stand, "cat", &[&path.display().to_string()]).await;
            assert!(
                !out.ok() && out.stderr.contains("Permission denied"),
                "{}: {}",
                path.display(),
                out.text()
            );
            secrets += usize::from(path.is_file());
        }
        // Even where somebody opened the directory, the files in it stay closed.
        set_mode(&directory, 0o755);
        for path in below(&directory).into_iter().filter(|path| path.is_file()) {
            let out = as_other(&stand, "cat", &[&path.display().to_string()]).await;
            assert!(!out.ok() && out.stdout.is_empty(), "{}: {}", path.display(), out.text());
        }
        set_mode(&directory, 0o700);
    }
    assert!(secrets >= 12, "host key, journal, log, device key, tokens, database: {secrets}");
}
