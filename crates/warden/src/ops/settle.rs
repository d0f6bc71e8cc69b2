//! A guest that the same program made gets its options: right after, while it is stopped. Its configuration is
//! read right before, and Proxmox compares that digest.

use std::collections::BTreeMap;

use protocol::refs::VolumeId;
use proxmox_client::{ApiError, Client, ConfigChange, GuestConfig, StoredConfig};
use serde::{Deserialize, Serialize};

use super::backup::client_volid;
use super::call::{Answers, Judged, Sent, TaskName};
use super::rights::{self, Right};
use super::{Target, config};
use crate::world::{Near, client_kind, client_vmid, observe};

/// Options, and what becomes of the network devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleCall {
    /// Which guest.
    pub guest: Target,
    /// Option to value.
    pub options: BTreeMap<String, String>,
    /// What becomes of its network devices.
    pub nets: Nets,
}

/// What becomes of network devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Nets {
    /// This one, and no other.
    Only {
        /// As Proxmox spells it, without a MAC address; none: no device at all.
        net0: Option<String>,
    },
    /// All of them lose their link.
    Down {},
    /// Links as in the backup.
    AsIn {
        /// The backup.
        archive: VolumeId,
        /// With the backup's MAC addresses too; else each keeps its own.
        macs: bool,
    },
}

/// Whether a key is `net` and a number.
pub(super) fn is_net(key: &str) -> bool {
    key.strip_prefix("net").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// A device's line with its link down, or as if that had never been said.
pub(super) fn linked(line: &str, up: bool) -> String {
    let mut parts: Vec<&str> = line.split(',').filter(|part| !part.starts_with("link_down=")).collect();
    if !up {
        parts.push("link_down=1");
    }
    parts.join(",")
}

fn mac(part: &str) -> Option<(&str, &str)> {
    let (key, value) = part.split_once('=')?;
    let is = value.len() == 17
        && value.bytes().enumerate().all(|(at, b)| match at % 3 {
            2 => b == b':',
            _ => b.is_ascii_hexdigit(),
        });
    is.then_some((key, value))
}

/// A device's line with another one's MAC address.
fn with_mac_of(line: &str, other: &str) -> String {
    let theirs = other.split(',').find_map(mac).map(|(_, mac)| mac);
    let parts = line.split(',').map(|part| match (mac(part), theirs) {
        (Some((key, _)), Some(theirs)) => format!("{key}={theirs}"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(",")
}

/// Whether a device's line says all of another one; Proxmox adds a MAC address and a type by itself.
fn says(have: &str, wanted: &str) -> bool {
    let have: Vec<&str> = have.split(',').collect();
    let lower = |text: &str| text.to_ascii_lowercase();
    wanted.split(',').all(|part| {
        have.iter().any(|h| {
            lower(h) == lower(part)
                || (!part.contains('=') && h.strip_prefix(part).is_some_and(|r| r.starts_with('=')))
        })
    })
}

impl SettleCall {
    /// What its network devices are to be: key to line; none: it goes.
    fn wanted(
        &self,
        now: &BTreeMap<String, String>,
        stored: Option<&StoredConfig>,
    ) -> BTreeMap<String, Option<String>> {
        let nets = now.iter().filter(|(key, _)| is_net(key));
        match &self.nets {
            Nets::Only { net0 } => {
                let mut all: BTreeMap<_, _> = nets.map(|(key, _)| (key.clone(), None)).collect();
                match (net0, now.get("net0")) {
                    (Some(line), Some(have)) if says(have, line) => {
                        all.insert("net0".to_owned(), Some(have.clone()));
                    }
                    (Some(line), _) => {
                        all.insert("net0".to_owned(), Some(line.clone()));
                    }
                    (None, _) => {}
                }
                all
            }
            Nets::Down {} => nets.map(|(key, line)| (key.clone(), Some(linked(line, false)))).collect(),
            Nets::AsIn { macs, .. } => {
                let then = stored.iter().flat_map(|stored| &stored.options).filter(|(key, _)| is_net(key));
                let line = |(key, line): (&String, &String)| {
                    let line = match (*macs, now.get(key)) {
                        (false, Some(own)) => with_mac_of(line, own),
                        _ => line.clone(),
                    };
                    (key.clone(), Some(line))
                };
                then.map(line).collect()
            }
        }
    }

    async fn stored(&self, client: &Client) -> Result<Option<StoredConfig>, ApiError> {
        match &self.nets {
            Nets::AsIn { archive, .. } => client.backup_config(&client_volid(archive)).await.map(Some),
            Nets::Only { .. } | Nets::Down {} => Ok(None),
        }
    }

    fn judge_seen(&self, now: &BTreeMap<String, String>, stored: Option<&StoredConfig>) -> Judged {
        let show = |key: &str| {
            let value = now.get(key).map_or("not set", String::as_str);
            format!("{key} is {}", protocol::text::printable(value))
        };
        let mut wrong: Vec<String> = self
            .options
            .iter()
            .filter(|(key, wanted)| match now.get(*key) {
                Some(have) => !config::same(key, wanted, have),
                None => !matches!(wanted.as_str(), "" | "0"),
            })
            .map(|(key, _)| show(key))
            .collect();
        for (key, wanted) in self.wanted(now, stored) {
            let right = match (&wanted, now.get(&key)) {
                (Some(wanted), Some(have)) => {
                    // A link that was taken away must be back where the backup has one.
                    says(have, wanted) && (have.contains("link_down=1") == wanted.contains("link_down=1"))
                }
                (None, None) => true,
                _ => false,
            };
            if !right {
                wrong.push(show(&key));
            }
        }
        let all = self.options.len();
        match wrong.len() {
            0 => Judged::Done(format!("{} has its options{}", self.guest, self.nets.done())),
            n if n >= all => {
                Judged::NotDone(format!("{} has not got its options: {}", self.guest, wrong.join("; ")))
            }
            _ => Judged::Otherwise(format!(
                "{} has only some of its options: {}",
                self.guest,
                wrong.join("; ")
            )),
        }
    }
}

impl Nets {
    fn line(&self) -> String {
        match self {
            Self::Only { net0: Some(net0) } => format!("net0={net0} (other network devices are deleted)"),
            Self::Only { net0: None } => "(network devices are deleted)".to_owned(),
            Self::Down {} => "net*=…,link_down=1".to_owned(),
            Self::AsIn { archive, macs: false } => {
                format!("net*=(as in {archive}, MAC addresses of its own)")
            }
            Self::AsIn { archive, macs: true } => format!("net*=(as in {archive}, with its MAC addresses)"),
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Self::Only { .. } => "",
            Self::Down {} => ", and its network devices have no link",
            Self::AsIn { .. } => ", and its network devices are those of the backup",
        }
    }
}

impl Answers for SettleCall {
    fn line(&self) -> String {
        let option = |(key, value): (&String, &String)| format!("{key}={}", protocol::text::printable(value));
        let options = self.options.iter().map(option).collect::<Vec<_>>().join(" ");
        format!("PUT {}/config {options} {} digest=(as read right before)", self.guest, self.nets.line())
    }

    fn task(&self) -> Option<TaskName> {
        None
    }

    fn rights(&self) -> Vec<Right> {
        let Target { kind, vmid } = self.guest;
        let option = |(key, value): (&String, &String)| rights::for_option(kind, vmid, key, Some(value));
        let mut all: Vec<Right> = self.options.iter().flat_map(option).collect();
        let net0 = match &self.nets {
            Nets::Only { net0 } => net0.as_deref(),
            Nets::Down {} | Nets::AsIn { .. } => None,
        };
        all.extend(rights::for_option(kind, vmid, "net0", net0));
        all
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let (kind, vmid) = (client_kind(self.guest.kind), client_vmid(self.guest.vmid));
        let stored = self.stored(client).await?;
        let now: GuestConfig = client.guest_config(kind, vmid).await?;
        let change = self.options.iter().fold(ConfigChange::new(&now.digest), |c, (k, v)| c.set(k, v));
        let nets = self.wanted(&now.raw, stored.as_ref());
        let change =
            nets.iter().filter(|(key, line)| now.raw.get(*key) != line.as_ref()).fold(change, |c, (k, v)| {
                match v {
                    Some(line) => c.set(k, line),
                    None => c.delete(k),
                }
            });
        client.change_config_now(kind, vmid, &change).await?;
        Ok(Sent::AtOnce)
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let stored = self.stored(client).await?;
        let seen = observe(client, self.guest.kind, self.guest.vmid).await?;
        Ok(self.judge_seen(&seen.config, stored.as_ref()))
    }

    async fn ready(&self, near: &Near<'_>) -> Result<(), String> {
        let seen = observe(near.client, self.guest.kind, self.guest.vmid)
            .await
            .map_err(|error| format!("{} could not be read again: {error}", self.guest))?;
        match &seen.lock {
            Some(lock) => Err(format!("{} is locked ({lock})", self.guest)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_devices() {
        let line = "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1";
        assert_eq!(linked(line, false), format!("{line},link_down=1"));
        assert_eq!(linked(&linked(line, false), true), line);
        assert!(says(line, "virtio,bridge=vmbr0") && !says(line, "virtio,bridge=vmbr1"));
        assert!(!says(line, "e1000,bridge=vmbr0"));
        assert_eq!(
            with_mac_of(line, "name=eth0,hwaddr=BC:24:11:00:00:02"),
            "virtio=BC:24:11:00:00:02,bridge=vmbr0,firewall=1"
        );
        assert_eq!(with_mac_of("virtio", ""), "virtio");
        assert!(is_net("net0") && is_net("net31") && !is_net("net") && !is_net("netmask"));
    }

    #[test]
    fn devices_that_nobody_ordered_go() {
        let guest = Target { kind: protocol::GuestKind::Qemu, vmid: 105.try_into().unwrap() };
        let now: BTreeMap<String, String> = [
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr9"),
            ("net1", "virtio=BC:24:11:00:00:02,bridge=vmbr0"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let call = |nets| SettleCall { guest, options: BTreeMap::new(), nets };
        let only = call(Nets::Only { net0: Some("virtio,bridge=vmbr0".into()) }).wanted(&now, None);
        assert_eq!(only["net0"].as_deref(), Some("virtio,bridge=vmbr0"));
        assert_eq!(only["net1"], None);
        let down = call(Nets::Down {}).wanted(&now, None);
        assert!(down.values().all(|line| line.as_ref().unwrap().ends_with("link_down=1")));
        let stored = StoredConfig::parse(
            "net0: virtio=AA:AA:AA:AA:AA:AA,bridge=vmbr3\nnet5: virtio=AA:AA:AA:AA:AA:AB\n",
        );
        let back = call(Nets::AsIn { archive: "local:backup/x".parse().unwrap(), macs: false })
            .wanted(&now, Some(&stored));
        assert_eq!(back["net0"].as_deref(), Some("virtio=BC:24:11:00:00:01,bridge=vmbr3"));
    }
}
