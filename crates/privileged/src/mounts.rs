//! USB disks: a systemd mount unit for each, because only PID 1 mounts where the whole host sees it. The disk is
//! known by its serial number, WWN and size, the filesystem on it by its UUID, and after mounting it is looked at
//! again: two disks can say that they have the same UUID.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anchored::Denied;
use authz::files::{self, FileError};
use authz::order::{Filesystem, MountParams, Order, UnmountParams};
use authz::{RefusalCode, world};
use protocol::refs::{DiskRef, FsUuid, MountName};

use crate::config::{Places, PrivilegedConfig};
use crate::disks::View;
use crate::ledger::Stage;
use crate::run::{self, How, Program};
use crate::said;

/// Below this every disk is mounted.
const ROOT: &str = "/mnt/writ";
/// First line of each unit of ours: no other file is touched.
const MARK: &str = "# Written by writ-privileged; replaced and removed by it.";
/// What every mount has.
const OPTIONS: &[&str] = &["nosuid", "nodev", "noexec"];

/// A mount that passed every check.
#[derive(Debug)]
pub struct Mount {
    params: MountParams,
    disk: DiskRef,
}

/// An unmount that passed every check.
#[derive(Debug)]
pub struct Unmount {
    params: UnmountParams,
}

fn no<T>(why: String) -> Result<T, Denied> {
    Err(Denied::new(RefusalCode::Precondition, why))
}

/// Where a disk of this name is mounted.
pub fn path(name: &MountName) -> String {
    format!("{ROOT}/{name}")
}

/// The unit's name, as systemd derives it from the path.
pub fn unit_name(name: &MountName) -> String {
    format!("mnt-writ-{}.mount", name.as_str().replace('-', "\\x2d"))
}

/// The unit's text.
pub fn unit_text(params: &MountParams) -> String {
    let MountParams { uuid, filesystem, name, read_only, persist: _ } = params;
    let kind = match filesystem {
        Filesystem::Ext4 => "ext4",
        Filesystem::Xfs => "xfs",
        Filesystem::Btrfs => "btrfs",
        Filesystem::Vfat => "vfat",
        Filesystem::Exfat => "exfat",
        Filesystem::Ntfs3 => "ntfs3",
    };
    let access = if *read_only { "ro" } else { "rw" };
    format!(
        "{MARK}\n[Unit]\nDescription=USB disk {name}, mounted by Writ\nJobTimeoutSec=45\n\n[Mount]\nWhat=/dev/disk/by-uuid/{uuid}\nWhere={}\nType={kind}\nOptions={},{access}\nTimeoutSec=45\n\n[Install]\nWantedBy=multi-user.target\n",
        path(name),
        OPTIONS.join(",")
    )
}

/// Which filesystem a unit of ours mounts; none for any other file.
fn uuid_of(text: &str) -> Option<FsUuid> {
    let text = text.strip_prefix(MARK)?;
    text.lines().find_map(|line| line.strip_prefix("What=/dev/disk/by-uuid/"))?.parse().ok()
}

/// A unit's file, if it is there.
enum Found {
    Nothing,
    Ours(FsUuid),
    Foreign,
}

fn look(path: &Path) -> Result<Found, Denied> {
    match files::read_limited(path, 64 * 1024) {
        Ok(bytes) => Ok(match uuid_of(&String::from_utf8_lossy(&bytes)) {
            Some(uuid) => Found::Ours(uuid),
            None => Found::Foreign,
        }),
        Err(error) if error.is_not_found() => Ok(Found::Nothing),
        Err(error) => no(error.to_string()),
    }
}

/// (kept, until the next boot)
fn files_of(places: &Places, name: &MountName) -> (PathBuf, PathBuf) {
    let unit = unit_name(name);
    (places.units.join(&unit), places.runtime_units.join(unit))
}

/// The world as it was signed: the disk, the filesystem on it, mounted or not, and on a USB bus.
fn check(config: &PrivilegedConfig, order: &Order, uuid: &FsUuid) -> Result<(View, DiskRef), Denied> {
    let view = View::read(&config.stand_ins)
        .or_else(|error| no(format!("this host's disks could not be read: {error}")))?;
    world::check(order, &view.world()).map_err(|(code, why)| Denied::new(code, why))?;
    let (Some(device), Some(disk)) = (view.device(uuid), order.pre.disk.clone()) else {
        return no(format!("there is no filesystem {uuid}"));
    };
    if !device.usb {
        return no(format!(
            "filesystem {uuid} is on {}, which is no USB disk: nothing else is mounted",
            device.name
        ));
    }
    Ok((view, disk))
}

impl Mount {
    /// Everything that can be said before anything is done. Blocks.
    pub fn plan(config: &PrivilegedConfig, order: &Order, params: &MountParams) -> Result<Self, Denied> {
        let (view, disk) = check(config, order, &params.uuid)?;
        let at = path(&params.name);
        if view.at(&at).next().is_some() {
            return no(format!("something is mounted at {at} already: choose another name"));
        }
        let (kept, runtime) = files_of(&config.stand_ins, &params.name);
        let (mine, other) = if params.persist { (kept, runtime) } else { (runtime, kept) };
        match look(&mine)? {
            Found::Nothing => {}
            Found::Ours(uuid) if uuid == params.uuid => {}
            Found::Ours(uuid) => {
                return no(format!(
                    "the name {} belongs to filesystem {uuid}: choose another one",
                    params.name
                ));
            }
            Found::Foreign => return no(format!("{} is there and not ours: move it", mine.display())),
        }
        match look(&other)? {
            Found::Nothing => Ok(Self { params: params.clone(), disk }),
            Found::Ours(_) | Found::Foreign => no(format!(
                "{} is there already: choose another name, or unmount with `forget` first",
                other.display()
            )),
        }
    }

    /// Writes the unit, starts it, looks. Blocks.
    pub fn execute(&self, config: &PrivilegedConfig) -> Stage {
        let Self { params, disk } = self;
        let (kept, runtime) = files_of(&config.stand_ins, &params.name);
        let file = if params.persist { kept } else { runtime };
        let existed = file.exists();
        let undo = |failed: Trouble| {
            let mut left = Vec::new();
            let unit = unit_name(&params.name);
            let mut step = |result: Result<(), Trouble>| {
                if let Err(trouble) = result {
                    left.push(trouble.why);
                }
            };
            step(systemctl(config, "stop", Some(&unit)));
            if params.persist && !existed {
                step(systemctl(config, "disable", Some(&unit)));
            }
            if !existed {
                step(remove(&file));
                step(systemctl(config, "daemon-reload", None));
            }
            let mounted =
                View::read(&config.stand_ins).map(|view| view.at(&path(&params.name)).next().is_some());
            match (mounted, left.is_empty()) {
                (Ok(false), true) => {
                    Stage::Failed { why: format!("{}; what was begun is undone", failed.why) }
                }
                (Ok(false), false) => Stage::Failed {
                    why: format!(
                        "{}; it is not mounted, but not all is undone: {}",
                        failed.why,
                        left.join("; ")
                    ),
                },
                (Ok(true), _) => Stage::Unknown {
                    why: format!(
                        "{}; something is mounted at {}: {}",
                        failed.why,
                        path(&params.name),
                        left.join("; ")
                    ),
                },
                (Err(error), _) => {
                    Stage::Unknown { why: format!("{}; what is mounted cannot be read: {error}", failed.why) }
                }
            }
        };
        let unit = unit_name(&params.name);
        let begun = write_unit(&file, &unit_text(params))
            .and_then(|()| systemctl(config, "daemon-reload", None))
            .and_then(|()| systemctl(config, "start", Some(&unit)))
            .and_then(|()| self.is_right(config, disk))
            .and_then(|()| if params.persist { systemctl(config, "enable", Some(&unit)) } else { Ok(()) });
        match begun {
            Ok(()) => Stage::Did {
                seen: format!(
                    "filesystem {} of the disk with serial number {} is mounted at {}{}",
                    params.uuid,
                    disk.serial,
                    path(&params.name),
                    if params.persist { ", also after a reboot" } else { "" }
                ),
            },
            Err(trouble) => undo(trouble),
        }
    }

    /// Whether what is mounted there now is the disk that was meant, as it was meant.
    fn is_right(&self, config: &PrivilegedConfig, disk: &DiskRef) -> Result<(), Trouble> {
        let at = path(&self.params.name);
        let wrong = |why: String| Err(Trouble { why });
        let view = match View::read(&config.stand_ins) {
            Ok(view) => view,
            Err(error) => return wrong(format!("what is mounted cannot be read: {error}")),
        };
        let Some(mounted) = view.at(&at).last() else {
            return wrong(format!("systemctl says that it is done, but nothing is mounted at {at}"));
        };
        let Some(device) = view.device(&self.params.uuid).filter(|device| view.is_of(mounted, device)) else {
            return wrong(format!("what is mounted at {at} is not filesystem {}", self.params.uuid));
        };
        if view.disk_of(device) != Some(disk) {
            return wrong(format!("the disk at {at} is another one than was signed, with the same UUID"));
        }
        match OPTIONS.iter().find(|option| !mounted.options.iter().any(|have| have == *option)) {
            Some(option) => wrong(format!("{at} is mounted without {option}")),
            None => Ok(()),
        }
    }
}

impl Unmount {
    /// Everything that can be said before anything is done. Blocks.
    pub fn plan(config: &PrivilegedConfig, order: &Order, params: &UnmountParams) -> Result<Self, Denied> {
        let (view, _) = check(config, order, &params.uuid)?;
        let at = path(&params.name);
        let device = view.device(&params.uuid);
        let there =
            view.at(&at).last().zip(device).is_some_and(|(mounted, device)| view.is_of(mounted, device));
        if !there {
            return no(format!("filesystem {} is not what is mounted at {at}", params.uuid));
        }
        let (kept, runtime) = files_of(&config.stand_ins, &params.name);
        let (kept, runtime) = (look(&kept)?, look(&runtime)?);
        let ours = |found: &Found| matches!(found, Found::Ours(uuid) if *uuid == params.uuid);
        if !ours(&kept) && !ours(&runtime) {
            return no(format!("{at} was not mounted by Writ: unmount it by hand"));
        }
        Ok(Self { params: params.clone() })
    }

    /// Stops the unit, looks, and removes what is not kept. Blocks.
    pub fn execute(&self, config: &PrivilegedConfig) -> Stage {
        let UnmountParams { uuid, name, forget } = &self.params;
        let (at, unit) = (path(name), unit_name(name));
        let stopped = systemctl(config, "stop", Some(&unit));
        let mounted = match View::read(&config.stand_ins) {
            Ok(view) => view.at(&at).next().is_some(),
            Err(error) => return Stage::Unknown { why: format!("what is mounted cannot be read: {error}") },
        };
        match (stopped, mounted) {
            (Err(trouble), true) => {
                return Stage::Failed { why: format!("{}; it is still mounted", trouble.why) };
            }
            (Err(trouble), false) => {
                return Stage::Unknown {
                    why: format!("{}, but nothing is mounted at {at} any more", trouble.why),
                };
            }
            (Ok(()), true) => {
                return Stage::Unknown {
                    why: format!("systemctl says that it is done, but something is mounted at {at}"),
                };
            }
            (Ok(()), false) => {}
        }
        let (kept, runtime) = files_of(&config.stand_ins, name);
        let tidied = (|| {
            if runtime.exists() {
                remove(&runtime)?;
            }
            if *forget && kept.exists() {
                systemctl(config, "disable", Some(&unit))?;
                remove(&kept)?;
            }
            systemctl(config, "daemon-reload", None)
        })();
        let seen = format!("filesystem {uuid} is not mounted at {at} any more");
        match tidied {
            Ok(()) => Stage::Did { seen },
            Err(trouble) => {
                Stage::Failed { why: format!("{seen}, but its unit could not be put away: {}", trouble.why) }
            }
        }
    }
}

/// What went wrong, in words.
#[derive(Debug)]
struct Trouble {
    why: String,
}

impl From<FileError> for Trouble {
    fn from(error: FileError) -> Self {
        Self { why: anchored::chain(&error) }
    }
}

fn write_unit(path: &Path, text: &str) -> Result<(), Trouble> {
    use std::os::unix::fs::PermissionsExt as _;

    files::write_atomic(path, text.as_bytes())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .map_err(|source| FileError::io("change", path, source))?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), Trouble> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::io("remove", path, error).into())
        }
        _ => Ok(()),
    }
}

fn systemctl(config: &PrivilegedConfig, verb: &str, unit: Option<&str>) -> Result<(), Trouble> {
    let mut args = vec!["--no-ask-password".to_owned(), verb.to_owned()];
    args.extend(unit.map(str::to_owned));
    let program = Program {
        path: &config.stand_ins.systemctl,
        args,
        timeout: Duration::from_secs(config.mount_timeout_s),
    };
    let ran = run::run(&program).map_err(|error| Trouble { why: error.to_string() })?;
    let what = || format!("systemctl {verb}{}", unit.map(|unit| format!(" {unit}")).unwrap_or_default());
    let why = match ran.how {
        How::Exited(0) => return Ok(()),
        How::Exited(code) => {
            format!("{} ended with {code}: {}", what(), said(&[ran.stderr, ran.stdout].concat()))
        }
        How::Signaled(signal) => format!("{} was ended by signal {signal}", what()),
        How::TimedOut => format!("{} took too long and was ended", what()),
    };
    Err(Trouble { why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(name: &str) -> MountParams {
        MountParams {
            uuid: "0d6e5c1c-8a5b-4e57-9f3b-111111111111".parse().unwrap(),
            filesystem: Filesystem::Ext4,
            name: name.parse().unwrap(),
            read_only: false,
            persist: true,
        }
    }

    #[test]
    fn the_whole_unit_is_known() {
        let text = unit_text(&params("backup-usb"));
        assert_eq!(
            text,
            "# Written by writ-privileged; replaced and removed by it.
[Unit]
Description=USB disk backup-usb, mounted by Writ
JobTimeoutSec=45

[Mount]
What=/dev/disk/by-uuid/0d6e5c1c-8a5b-4e57-9f3b-111111111111
Where=/mnt/writ/backup-usb
Type=ext4
Options=nosuid,nodev,noexec,rw
TimeoutSec=45

[Install]
WantedBy=multi-user.target
"
        );
        assert_eq!(unit_name(&"backup-usb".parse().unwrap()), "mnt-writ-backup\\x2dusb.mount");
        assert_eq!(unit_name(&"a_1".parse().unwrap()), "mnt-writ-a_1.mount");
        assert_eq!(uuid_of(&text), Some(params("x").uuid));
        assert!(unit_text(&MountParams { read_only: true, ..params("x") }).contains(",ro\n"));
    }

    #[test]
    fn other_files_are_not_ours() {
        let text = unit_text(&params("x"));
        for other in [
            String::new(),
            text.replacen(MARK, "", 1),
            format!("\n{text}"),
            text.replace("What=", "Where="),
            text.replace("by-uuid/0d6e", "by-uuid/../sda"),
        ] {
            assert_eq!(uuid_of(&other), None, "{other}");
        }
    }

    /// Each of these would be another path, another unit or another line of one.
    #[test]
    fn names_cannot_carry_anything_else() {
        for name in [
            "",
            ".",
            "..",
            "../etc",
            "a/b",
            "/etc",
            "-a",
            "_a",
            "A",
            "a.b",
            "a b",
            "a\n",
            "a\nExecStart=/bin/sh",
            "a%i",
            "a\\x2f",
            "a;b",
            "$(x)",
            "a\u{0}",
            "ä",
            "a\u{202e}",
            &"a".repeat(33),
        ] {
            assert!(name.parse::<MountName>().is_err(), "{name:?}");
        }
        for uuid in [
            "",
            "../../sda",
            "0d6e5c1c-8a5b-4e57-9f3b-111111111111\nOptions=suid",
            "ABCD-0123 ",
            "ABCD/0123",
            "%i",
            "0D6E5C1C-8A5B-4E57-9F3B-111111111111",
            "abcd-0123",
        ] {
            assert!(uuid.parse::<FsUuid>().is_err(), "{uuid:?}");
        }
    }
}
