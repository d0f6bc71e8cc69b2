//! pam_systemd moves a login out of the runner's cgroup into a scope of systemd-logind. Its processes are
//! found by parentage all the same; the login itself is ended here, as well as it goes.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: the runner starts signed scripts and sessions; this ends their logins"
)]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::tree::{self, Stat, boottime};

const LOGINCTL: &str = "/usr/bin/loginctl";
/// A bus that does not answer must not hold up the end.
const WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Logins of these processes that are not the one that this process belongs to itself: in development the
/// runner may have been started from somebody's shell.
pub(crate) fn foreign_scopes(processes: &[Stat]) -> Vec<String> {
    let cgroup = |pid: String| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = login(&cgroup("self".into()));
    let found: BTreeSet<String> =
        processes.iter().filter_map(|stat| login(&cgroup(stat.id.pid().to_string()))).collect();
    found.into_iter().filter(|id| Some(id) != own.as_ref()).collect()
}

/// The id in `session-ID.scope`, from the text of /proc/PID/cgroup.
fn login(cgroup: &str) -> Option<String> {
    cgroup.lines().flat_map(|line| line.split('/')).find_map(|part| {
        let id = part.strip_prefix("session-")?.strip_suffix(".scope")?;
        let good = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
        good.then(|| id.to_owned())
    })
}

/// Ends them, best effort: what matters is dead already.
pub(crate) fn terminate(logins: &[String]) {
    let started = Command::new(LOGINCTL)
        .arg("terminate-session")
        .args(logins)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else { return };
    let deadline = boottime() + WITHIN;
    while matches!(child.try_wait(), Ok(None)) && boottime() < deadline {
        tree::pause(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_login_scope_is_a_login() {
        let unified = "0::/user.slice/user-1000.slice/session-c12.scope\n";
        let hybrid =
            "5:devices:/user.slice\n1:name=systemd:/user.slice/user-0.slice/session-7.scope\n0::/x\n";
        assert_eq!(login(unified).as_deref(), Some("c12"));
        assert_eq!(login(hybrid).as_deref(), Some("7"));
        for other in [
            "",
            "0::/",
            "0::/system.slice/writ-runner.service/writ-00\n",
            "0::/user.slice/user-0.slice/user@0.service/session.slice/x.service\n",
            "0::/session-.scope\n",
            "0::/session---all.scope\n",
            "0::/session-a b.scope\n",
        ] {
            assert_eq!(login(other), None, "{other:?}");
        }
    }

    #[test]
    fn our_own_login_is_never_foreign() {
        let me = Stat::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(foreign_scopes(&[me]), Vec::<String>::new());
    }
}
