//! What a backup job says about a guest, and the configuration a backup holds.

use serde_json::Value;

use crate::world::backup::{Saving, Vzdump};
use crate::world::{Guest, Kind, Release, World};

/// `51.2 MiB`.
fn mib(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{:.1} GiB", b as f64 / f64::from(1 << 30)),
        b => format!("{:.1} MiB", b as f64 / f64::from(1 << 20)),
    }
}

/// A size as archive logs have it.
fn short(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{:.2}GB", b as f64 / f64::from(1 << 30)),
        b if b >= 1 << 20 => format!("{}MB", b >> 20),
        b => format!("{}KB", b >> 10),
    }
}

impl World {
    /// The lines from the name to the archive, in the order of the recordings; those that come when
    /// the data is through go to `saving.last`.
    pub(in crate::world) fn vzdump_lines(
        &mut self,
        job: &Vzdump,
        guest: &Guest,
        saving: &mut Saving,
    ) -> Vec<String> {
        let running = guest.running.is_some();
        let mut mode = if running { job.mode.clone() } else { "stop".to_owned() };
        let mut lines = Vec::new();
        let fallback = guest.kind == Kind::Lxc && mode == "snapshot" && !self.snapshot_feature(guest);
        let label = guest.kind.label();
        let mut about = vec![format!("INFO: {label} Name: {}", saving.name)];
        about.extend(disk_lines(guest));
        let mut how = Vec::new();
        if fallback {
            how.push("INFO: mode failure - some volumes do not support snapshots".to_owned());
            how.push("INFO: trying 'suspend' mode instead".to_owned());
            mode = "suspend".to_owned();
        }
        how.push(format!("INFO: backup mode: {mode}"));
        if job.bwlimit > 0 {
            how.push(format!("INFO: bandwidth limit: {} KiB/s", job.bwlimit));
        }
        how.push("INFO: ionice priority: 7".to_owned());
        if running && mode != "stop" {
            lines.extend(about);
            lines.extend(how);
        } else {
            lines.extend(how);
            lines.extend(about);
        }
        let qemu = guest.kind == Kind::Qemu;
        if qemu && !guest.snapshots.is_empty() {
            lines.push("INFO: snapshots found (not included into backup)".to_owned());
        }
        if running && mode == "stop" {
            lines.push("INFO: stopping virtual guest".to_owned());
        }
        if !qemu && mode == "snapshot" {
            lines.push("INFO: create storage snapshot 'vzdump'".to_owned());
        }
        let name = saving.volid.split_once(":backup/").map_or("", |(_, name)| name);
        let pbs = self.storages.get(&job.storage).is_some_and(|s| s.plugin == "pbs");
        lines.push(if pbs {
            format!("INFO: creating Proxmox Backup Server archive '{name}'")
        } else {
            let path = self.volume_path(&saving.volid).unwrap_or_default();
            format!("INFO: creating vzdump archive '{path}'")
        });
        let total: u64 = guest.all_volumes().values().sum();
        let last = &mut saving.last;
        if qemu {
            let newer = self.release != Release::V8;
            if !running || mode == "stop" {
                lines.push("INFO: starting kvm to execute backup task".to_owned());
                lines.extend(crate::world::effects::iothread_warnings(guest));
            } else if newer {
                lines.push(
                    "INFO: skipping guest-agent 'fs-freeze', agent not configured in VM options".to_owned(),
                );
            }
            if newer {
                lines.push("INFO: starting backup via QMP command".to_owned());
            }
            lines.push(format!("INFO: started backup task '{}'", self.fresh_uuid()));
            if running {
                lines.push("INFO: resuming VM again".to_owned());
            }
            let all = mib(total);
            last.push(format!("INFO: 100% ({all} of {all}) in 0s, read: {all}/s, write: 0 B/s"));
            // The simulated disks are empty, like those of the recordings.
            let exact = format!("{:.2} MiB", total as f64 / f64::from(1 << 20));
            last.push(format!("INFO: backup is sparse: {exact} (100%) total zero data"));
            last.push(format!("INFO: transferred {exact} in <1 seconds"));
            if !running {
                last.push("INFO: stopping kvm after backup task".to_owned());
            }
        } else if !pbs {
            last.push(format!(
                "INFO: Total bytes written: {total} ({}, 100MiB/s)",
                mib(total).replace(' ', "")
            ));
        }
        if !pbs {
            last.push(format!("INFO: archive file size: {}", short(saving.size)));
        }
        if !qemu && running && mode == "snapshot" {
            last.push("INFO: cleanup temporary 'vzdump' snapshot".to_owned());
        }
        lines
    }

    /// `GET …/vzdump/extractconfig`: the saved configuration as the file it is in the archive.
    pub fn extract_config(&self, volid: &str) -> Option<String> {
        let volume = self.stock.volumes.get(volid)?;
        let saved = volume.saved.as_ref()?;
        let mut text = String::new();
        if let Some(Value::String(description)) = saved.config.get("description") {
            for line in description.lines() {
                text.push_str(&format!("#{}\n", encode_text(line)));
            }
        }
        for (key, value) in saved.config.iter().filter(|(key, _)| *key != "description") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!("{key}: {value}\n"));
        }
        if saved.kind == Kind::Qemu && volume.format != "pbs-vm" {
            text.push('\n');
            let guest = Guest::new(saved.kind, saved.config.clone());
            for (key, disk) in guest.volumes() {
                let storage = disk.split(':').next().unwrap_or_default();
                let format = self.parse_volume(disk).map_or("raw".to_owned(), |(_, name)| name.format);
                text.push_str(&format!("#qmdump#map:{key}:drive-{key}:{storage}:{format}:\n"));
            }
        }
        Some(text)
    }
}

/// One line per disk or mount point: in or out.
fn disk_lines(guest: &Guest) -> Vec<String> {
    let part = |text: &str, key: &str| {
        text.split(',').find_map(|p| p.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    let mut lines = Vec::new();
    let mut volumes = guest.volumes();
    volumes.sort_by_key(|(key, _)| *key != "rootfs");
    for (key, volume) in volumes {
        let text = guest.text(key).unwrap_or_default();
        let off = part(text, "backup").is_some_and(|b| matches!(b.as_str(), "0" | "no"));
        lines.push(match guest.kind {
            Kind::Qemu if off => format!("INFO: exclude disk '{key}' '{volume}' (backup=no)"),
            Kind::Qemu => {
                let size = part(text, "size").unwrap_or_default();
                format!("INFO: include disk '{key}' '{volume}' {size}")
            }
            Kind::Lxc => {
                let mp = part(text, "mp").unwrap_or_else(|| "/".to_owned());
                let on = key == "rootfs" || part(text, "backup").as_deref() == Some("1");
                if volume.starts_with('/') {
                    format!("INFO: excluding bind mount point {key} ('{mp}') from backup (not a volume)")
                } else if on {
                    format!("INFO: including mount point {key} ('{mp}') in backup")
                } else {
                    format!("INFO: excluding volume mount point {key} ('{mp}') from backup (disabled)")
                }
            }
        });
    }
    lines
}

/// A comment line as configuration files have it.
fn encode_text(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b':' | b'%') || byte == b' ' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
