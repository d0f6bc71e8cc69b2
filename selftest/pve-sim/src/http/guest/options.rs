//! Options of a configuration in a request: reading them, and who may write them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::is_root;
use crate::http::Call;
use crate::world::{
    Config, Guest, Kind, Need, Refusal, bridge_path, is_cdrom, is_volume_key, numbered, option_spec,
    parse_new_disk,
};

/// The options of a request as the configuration keeps them. Refused values are put into `errors`.
pub(crate) fn read(
    call: &Call<'_>,
    kind: Kind,
    taken: &[&str],
    errors: &mut BTreeMap<String, String>,
) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for key in call.params.names().filter(|name| !taken.contains(name)) {
        let (Some(spec), Some(text)) = (option_spec(call.world.release, kind, key), call.params.get(key))
        else {
            continue;
        };
        if errors.contains_key(key) {
            continue;
        }
        if call.params.all(key).len() > 1 {
            errors.insert(key.to_owned(), "type check ('string') failed - got 'ARRAY'".to_owned());
            continue;
        }
        match spec.kind.read(kind, key, text) {
            Ok(value) => found.push((key.to_owned(), value)),
            Err(text) => {
                errors.insert(key.to_owned(), text);
            }
        }
    }
    found
}

/// Who asks for what: the request's guest as far as it is known.
pub(crate) struct Change<'a> {
    pub(crate) kind: Kind,
    /// Where privileges are looked for: the guest, and the pool it is to be made in.
    pub(crate) paths: Vec<String>,
    /// The guest's configuration; empty for a new one.
    pub(crate) config: &'a Config,
    /// Whether a container runs without root's rights.
    pub(crate) unprivileged: bool,
}

impl<'a> Change<'a> {
    /// A change of a guest that exists.
    pub(crate) fn of(guest: &'a Guest, path: String) -> Change<'a> {
        Change {
            kind: guest.kind,
            paths: vec![path],
            config: &guest.config,
            unprivileged: guest.config.get("unprivileged") == Some(&Value::from(1)),
        }
    }

    fn may(&self, call: &Call<'_>, privileges: &[&str]) -> Result<(), Refusal> {
        if self.paths.iter().any(|path| call.may(path, privileges)) {
            return Ok(());
        }
        Err(Refusal::permission(&self.paths[0], &privileges.join("|")))
    }

    /// The refusal of writing `value` to `key` (or deleting it); `None` when all is well.
    pub(crate) fn check(&self, call: &Call<'_>, key: &str, value: Option<&str>) -> Result<(), Refusal> {
        let Some(spec) = option_spec(call.world.release, self.kind, key) else {
            return Ok(());
        };
        let old = self.config.get(key).and_then(Value::as_str).unwrap_or_default();
        if is_root(call) {
            return Ok(());
        }
        if is_volume_key(self.kind, key) && is_cdrom(value.unwrap_or(old)) {
            return self.may(call, &["VM.Config.CDROM"]);
        }
        if self.kind == Kind::Lxc && matches!(key, "features" | "unprivileged") {
            return self.container_flags(call, key, value, old);
        }
        if is_volume_key(self.kind, key) && self.kind == Kind::Lxc {
            self.may(call, &["VM.Config.Disk"])?;
            return match mount_type(value.unwrap_or_default()) {
                Some(what) => Err(refused(&format!("mount point type {what} is only allowed for root@pam"))),
                None => Ok(()),
            };
        }
        let real = |value: &str| match key {
            _ if numbered(key, "serial") => value != "socket",
            _ => value
                .split(',')
                .any(|part| part.starts_with("host=") || (numbered(key, "hostpci") && !part.contains('='))),
        };
        let is_device = ["usb", "hostpci", "serial"].iter().any(|prefix| numbered(key, prefix));
        if self.kind == Kind::Qemu
            && is_device
            && value.into_iter().chain([old]).filter(|v| !v.is_empty()).any(real)
        {
            return Err(Refusal::internal(format!("only root can set '{key}' config for real devices")));
        }
        match spec.need {
            Need::Guest(privilege) => self.may(call, &[privilege])?,
            Need::AnyOf(privileges) => self.may(call, privileges)?,
            Need::Root(privilege) => call.require("/", &[privilege])?,
            Need::RootOnly if self.kind == Kind::Qemu => {
                return Err(Refusal::internal(format!("only root can set '{key}' config")));
            }
            Need::RootOnly if numbered(key, "dev") => {
                return Err(refused("configuring device passthrough is only allowed for root@pam"));
            }
            Need::RootOnly => {
                return Err(refused(&format!("changing the {key} is only allowed for root@pam")));
            }
        }
        if let Some(value) = value.filter(|_| is_device) {
            for (part, folder) in [("usb", "usb"), ("hostpci", "pci")] {
                let mapping = value.split(',').find_map(|p| p.strip_prefix("mapping="));
                if let (true, Some(id)) = (numbered(key, part), mapping) {
                    call.require(&format!("/mapping/{folder}/{id}"), &["Mapping.Use"])?;
                }
            }
        }
        Ok(())
    }

    /// `features` beyond `nesting` are root's, and on a privileged container all of them are.
    fn container_flags(
        &self,
        call: &Call<'_>,
        key: &str,
        value: Option<&str>,
        old: &str,
    ) -> Result<(), Refusal> {
        if key == "unprivileged" {
            return self.may(call, &["VM.Allocate"]);
        }
        if !self.unprivileged {
            return Err(refused(
                "changing feature flags for privileged container is only allowed for root@pam",
            ));
        }
        let flags = |text: &str| -> Vec<String> {
            let parts = text.split(',').filter(|p| !p.is_empty() && !p.ends_with("=0"));
            let mut all: Vec<String> =
                parts.filter(|p| !p.starts_with("nesting")).map(str::to_owned).collect();
            all.sort();
            all
        };
        if flags(old) != flags(value.unwrap_or_default()) {
            return Err(refused("changing feature flags (except nesting) is only allowed for root@pam"));
        }
        self.may(call, &["VM.Allocate"])
    }
}

/// 403 with a sentence instead of a path.
pub(crate) fn refused(why: &str) -> Refusal {
    Refusal::new(403, format!("Permission check failed ({why})"))
}

/// `bind` or `device` when the mount point is no volume.
pub(crate) fn mount_type(text: &str) -> Option<&'static str> {
    let first = text.split(',').next().unwrap_or_default();
    let first = first.strip_prefix("volume=").unwrap_or(first);
    match first {
        _ if first.starts_with("/dev/") => Some("device"),
        _ if first.starts_with('/') => Some("bind"),
        _ => None,
    }
}

/// The refusal of a disk or network device, by what it uses: storage, volume, bridge.
pub(crate) fn check_resources(
    call: &Call<'_>,
    kind: Kind,
    vmid: u32,
    key: &str,
    text: &str,
) -> Result<(), Refusal> {
    if numbered(key, "net") {
        return match bridge_path(text) {
            Some(path) => call.require(&path, &["SDN.Use"]),
            None => Ok(()),
        };
    }
    if !is_volume_key(kind, key) || text.starts_with('/') || text.starts_with("none") {
        return Ok(());
    }
    if text.split(',').next() == Some("cdrom") {
        return call.require("/", &["Sys.Console"]);
    }
    if let Some(disk) = parse_new_disk(key, text) {
        return check_storage(call, kind, &disk.storage);
    }
    let volume = text.split(',').next().unwrap_or_default();
    let volume = volume.strip_prefix("file=").or_else(|| volume.strip_prefix("volume=")).unwrap_or(volume);
    call.world.volume_access(&call.who, volume, Some(vmid))
}

/// The refusal of making a volume on a storage.
pub(crate) fn check_storage(call: &Call<'_>, kind: Kind, storage: &str) -> Result<(), Refusal> {
    let (content, what) = match kind {
        Kind::Qemu => ("images", "vm images"),
        Kind::Lxc => ("rootdir", "container directories"),
    };
    if !call.world.enabled_storage(storage)?.holds(content) {
        return Err(Refusal::parameter("storage", format!("storage '{storage}' does not support {what}")));
    }
    call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    call.world.active_storage(storage).map(|_| ())
}
