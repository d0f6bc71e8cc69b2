//! The configuration options that can be written, and writing them.

use serde_json::{Value, json};

use super::guests::numbered;
use super::{Guest, Kind};

/// The type of an option's value and the privilege that changing it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OptionKind {
    /// 0 or 1.
    Bool,
    /// A whole number of at least this.
    Int(i64),
    /// Text.
    Text,
    /// A number that QEMU keeps as text.
    NumberAsText(i64),
    /// Refused to every token with `only root can set '…' config`.
    RootOnly,
}

/// The options of the simulated schema; `None` for a property the schema does not know.
pub(crate) fn option_kind(kind: Kind, key: &str) -> Option<(OptionKind, &'static str)> {
    use OptionKind::{Bool, Int, NumberAsText, RootOnly, Text};
    let options = "VM.Config.Options";
    if numbered(key, "net") {
        return Some((Text, "VM.Config.Network"));
    }
    let found = match (kind, key) {
        (_, "description" | "tags") => (Text, options),
        (_, "onboot" | "protection") => (Bool, options),
        (_, "cores") => (Int(1), "VM.Config.CPU"),
        (_, "cpuunits") => (Int(1), "VM.Config.CPU"),
        (_, "startup") => (Text, options),
        (Kind::Qemu, "name" | "ostype" | "boot" | "agent") => (Text, options),
        (Kind::Qemu, "memory") => (NumberAsText(16), "VM.Config.Memory"),
        (Kind::Qemu, "balloon") => (Int(0), "VM.Config.Memory"),
        (Kind::Qemu, "sockets") => (Int(1), "VM.Config.CPU"),
        (Kind::Qemu, "cpu") => (Text, "VM.Config.CPU"),
        (Kind::Qemu, "lock" | "args" | "hookscript" | "vmgenid" | "affinity") => (RootOnly, options),
        (Kind::Lxc, "hostname" | "nameserver" | "searchdomain") => (Text, "VM.Config.Network"),
        (Kind::Lxc, "memory") => (Int(16), "VM.Config.Memory"),
        (Kind::Lxc, "swap") => (Int(0), "VM.Config.Memory"),
        (Kind::Lxc, "lock") => (Text, options),
        _ => return None,
    };
    Some(found)
}

impl OptionKind {
    /// The value as the configuration keeps it, or the text of the schema's refusal.
    pub(crate) fn read(self, text: &str) -> Result<Value, String> {
        let number = |least: i64| -> Result<i64, String> {
            let value: i64 =
                text.parse().map_err(|_| format!("type check ('integer') failed - got '{text}'"))?;
            if value < least {
                return Err(format!("value must have a minimum value of {least}"));
            }
            Ok(value)
        };
        match self {
            OptionKind::Bool => match text {
                "0" => Ok(json!(0)),
                "1" => Ok(json!(1)),
                _ => Err(format!("type check ('boolean') failed - got '{text}'")),
            },
            OptionKind::Int(least) => Ok(json!(number(least)?)),
            OptionKind::NumberAsText(least) => Ok(json!(number(least)?.to_string())),
            OptionKind::Text | OptionKind::RootOnly => Ok(json!(text)),
        }
    }
}

impl Guest {
    /// Writes changes; `None` deletes the key.
    pub fn change(&mut self, changes: &[(String, Option<Value>)]) {
        for (key, value) in changes {
            match value {
                Some(value) => self.config.insert(key.clone(), value.clone()),
                None => self.config.remove(key),
            };
        }
    }

    /// The refusal of a write with an outdated digest.
    pub fn check_digest(&self, given: Option<&str>) -> Result<(), String> {
        match given {
            Some(digest) if digest != self.digest() => Err(match self.kind {
                Kind::Qemu => "checksum mismatch (file change by other user?)",
                Kind::Lxc => "detected modified configuration - file changed by other user? Try again.",
            }
            .to_owned()),
            _ => Ok(()),
        }
    }
}
