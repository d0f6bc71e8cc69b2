//! A control group (version 2) of one's own, where one can be had: killing it is one write that no fork
//! outruns, and a job that is orphaned twice over can still be found by it.
//!
//! Under systemd this needs `Delegate=yes` in the runner's unit. No controller is switched on, so processes
//! may live in inner nodes too. Without a group everything works by parentage alone.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::tree::Stat;
use super::wire::Token;

/// Group names start so; the token follows.
const PREFIX: &str = "writ-";
/// Deepest nest of groups that is cleaned up; a job may make groups below its own.
const DEEPEST: usize = 16;

/// One group, ours. Dropping it removes it and what was made below, unless somebody still lives in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one below the group that this process is in.
    pub(crate) fn create(token: &Token) -> io::Result<Self> {
        let dir = place(token)?;
        fs::create_dir(&dir)?;
        Ok(Self { dir })
    }

    /// The one that an earlier run of the runner made, if it is still where this one would make it.
    pub(crate) fn find(token: &Token) -> Option<Self> {
        Self::adopt(&place(token).ok()?, token)
    }

    /// The group that a state file names, if it can be a group of ours at all and still exists.
    pub(crate) fn adopt(dir: &Path, token: &Token) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let below = cgroup2_mounts(&mounts).any(|(_, mount)| dir.starts_with(mount));
        let plain = dir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let named = dir.file_name()?.to_str()? == format!("{PREFIX}{}", token.as_str());
        (below && plain && named && dir.is_dir()).then(|| Self { dir: dir.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts a process into it.
    pub(crate) fn admit(&self, pid: u32) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.procs"), format!("{pid}\n"))
    }

    /// Kills everybody in it and below (Linux 5.14; where that is missing, the members are found one by one).
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.dir.join("cgroup.kill"), "1\n");
    }

    /// Who is in it and below.
    pub(crate) fn members(&self) -> Vec<Stat> {
        let mut found = Vec::new();
        for dir in self.tree() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            // 0 stands for a process outside of our view.
            let pids = text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1);
            found.extend(pids.filter_map(Stat::read).filter(|stat| stat.alive));
        }
        found
    }

    /// Parents before children.
    fn tree(&self) -> Vec<PathBuf> {
        let mut found = vec![self.dir.clone()];
        let mut next = 0;
        while let Some(dir) = found.get(next).cloned() {
            next += 1;
            let deep = dir.components().count() - self.dir.components().count() >= DEEPEST;
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if !deep && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in self.tree().iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn place(token: &Token) -> io::Result<PathBuf> {
    Ok(own_dir()?.join(format!("{PREFIX}{}", token.as_str())))
}

/// Where the group that this process is in can be seen.
fn own_dir() -> io::Result<PathBuf> {
    let group = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    locate(&group, &mounts).ok_or_else(|| io::Error::other("no cgroup2 mount shows this process's group"))
}

/// From the texts of /proc/self/cgroup and /proc/self/mountinfo. The mount point differs (unified, hybrid,
/// containers), so it is never assumed.
fn locate(group: &str, mounts: &str) -> Option<PathBuf> {
    let own = Path::new(group.lines().find_map(|line| line.strip_prefix("0::"))?);
    cgroup2_mounts(mounts).find_map(|(root, mount)| {
        let below = own.strip_prefix(&root).ok()?;
        below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
            .then(|| if below.as_os_str().is_empty() { mount.clone() } else { mount.join(below) })
    })
}

/// (which group is mounted, where), see proc(5) on mountinfo.
fn cgroup2_mounts(mounts: &str) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        (kind.split(' ').next()? == "cgroup2")
            .then(|| Some((unescape(place.next()?), unescape(place.next()?))))
            .flatten()
    })
}

/// Space, tab, newline and backslash stand there as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(plain.iter().fold(text.to_owned(), |text, (code, sign)| text.replace(code, sign)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let unified = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let bound = "50 1 0:38 /lxc/105 /run/odd\\040place rw - cgroup2 cgroup2 rw\n";
        let at = |group, mounts| locate(group, mounts).map(|path| path.to_str().unwrap().to_owned());
        let unit = "0::/system.slice/writ-runner.service\n";
        assert_eq!(at(unit, unified).as_deref(), Some("/sys/fs/cgroup/system.slice/writ-runner.service"));
        assert_eq!(
            at("8:pids:/x\n0::/\n", hybrid).as_deref(),
            Some("/sys/fs/cgroup/unified"),
            "hybrid, at the root"
        );
        assert_eq!(at("0::/lxc/105/a\n", bound).as_deref(), Some("/run/odd place/a"));
        assert_eq!(at("0::/elsewhere\n", bound), None, "our group is not shown by this mount");
        assert_eq!(at("0::/../up\n", unified), None, "a group outside of our namespace");
        assert_eq!(at("8:pids:/x\n", unified), None, "no version 2 at all");
        for hostile in ["", "\n", "0::", "x - cgroup2", " - ", "1 2 3 - cgroup2 x", "1 2 3 / - cgroup2"] {
            assert_eq!(at("0::/\n", hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn a_state_file_cannot_name_somebody_elses_group() {
        let token: Token = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let places = cgroup2_mounts(&mounts).map(|(_, mount)| mount).chain(["/tmp".into()]);
        for mount in places {
            for name in ["", "system.slice", "writ-", "x/../writ-0123456789abcdef0123456789abcdef"] {
                assert!(Cgroup::adopt(&mount.join(name), &token).is_none(), "{}", mount.join(name).display());
            }
        }
        let dir = tempfile::Builder::new().prefix("writ-").tempdir().unwrap();
        let named = dir.path().join(format!("{PREFIX}{}", token.as_str()));
        fs::create_dir(&named).unwrap();
        assert!(Cgroup::adopt(&named, &token).is_none(), "not on a cgroup2 mount");
    }
}
