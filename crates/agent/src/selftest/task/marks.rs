//! What tells a guest from another one that has its number now, and one configuration from another.

use std::collections::BTreeSet;

use proxmox_client::GuestConfig;

/// Longer values are cut where they are shown.
const SHOWN: usize = 80;

/// Why this is another guest than before, if it is. `generation` as long as nobody rolled it back: a rollback,
/// a restore and a clone make a new `vmgenid`.
pub(super) fn another(before: &GuestConfig, now: &GuestConfig, generation: bool) -> Option<String> {
    let told = |what: &str, old: &str, new: Option<&str>| {
        Some(format!("its {what} was {old} and is {}", new.unwrap_or("absent")))
    };
    // A machine with an identity of its own may get other network cards and disks; that is an edit.
    if let Some(old) = before.smbios_uuid() {
        if now.smbios_uuid() != Some(old) {
            return told("uuid", old, now.smbios_uuid());
        }
        let old = before.vmgenid().filter(|old| generation && now.vmgenid() != Some(old));
        return old.and_then(|old| told("vmgenid", old, now.vmgenid()));
    }
    let strangers = |what: &str, old: BTreeSet<String>, new: BTreeSet<String>| {
        let all = |list: &BTreeSet<String>| list.iter().cloned().collect::<Vec<_>>().join(" ");
        let found = if new.is_empty() { None } else { Some(all(&new)) };
        (!old.is_empty() && old.is_disjoint(&new)).then(|| told(what, &all(&old), found.as_deref())).flatten()
    };
    strangers("network address", before.macs().into_values().collect(), now.macs().into_values().collect())
        .or_else(|| {
            strangers(
                "storage",
                before.volids().into_values().collect(),
                now.volids().into_values().collect(),
            )
        })
}

/// The options that differ, with their old values. Left out is what a snapshot and a rollback change by
/// themselves: the position in the tree, a lock of a moment, and the generation id that tells a machine that
/// its time was turned back. Containers end descriptions with a newline that machines do not have.
pub(super) fn differences<'a>(
    before: &'a GuestConfig,
    now: &'a GuestConfig,
) -> Vec<(&'a str, Option<&'a str>)> {
    let own =
        |key: &str| matches!(key, "parent" | "vmgenid" | "lock" | "snaptime") || key.starts_with("running");
    let keys: BTreeSet<&String> = before.raw.keys().chain(now.raw.keys()).collect();
    keys.into_iter()
        .filter(|key| !own(key))
        .map(|key| (key.as_str(), before.get(key).map(str::trim_end), now.get(key).map(str::trim_end)))
        .filter(|(_, old, new)| old != new)
        .map(|(key, old, _)| (key, old))
        .collect()
}

/// `memory (was 2048), net1 (was absent)`.
pub(super) fn told(differences: &[(&str, Option<&str>)]) -> String {
    let one = |(key, old): &(&str, Option<&str>)| match old {
        None => format!("{key} (was absent)"),
        Some(old) if old.chars().count() > SHOWN => {
            format!("{key} (was {}…)", old.chars().take(SHOWN).collect::<String>())
        }
        Some(old) => format!("{key} (was {old})"),
    };
    differences.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration of a demo guest, machine or container.
    async fn config_of(vmid: u32) -> GuestConfig {
        let sim = pve_sim::Sim::start(pve_sim::SimConfig::demo()).await.unwrap();
        let pins = [format!("spki:{}", sim.pins().spki)];
        let settings =
            crate::config::ProxmoxSettings::from_parts(&sim.url(), &pins, "unused".into(), None).unwrap();
        let token = sim.token("writ@pve!act").parse().unwrap();
        let client = proxmox_client::Client::new(settings.api, settings.pins, token).unwrap();
        let kind = if vmid < 200 { proxmox_client::GuestKind::Qemu } else { proxmox_client::GuestKind::Lxc };
        client.guest_config(kind, proxmox_client::Vmid::new(vmid).unwrap()).await.unwrap()
    }

    fn with(config: &GuestConfig, key: &str, value: &str) -> GuestConfig {
        let mut config = config.clone();
        config.raw.insert(key.to_owned(), value.to_owned());
        config
    }

    #[tokio::test]
    async fn an_edit_makes_no_other_guest() {
        let machine = config_of(101).await;
        let other_uuid = with(&machine, "smbios1", "uuid=00000000-0000-4000-8000-000000000000");
        assert!(another(&machine, &other_uuid, false).unwrap().starts_with("its uuid was "));
        let generation = with(&machine, "vmgenid", "00000000-0000-4000-8000-000000000000");
        assert!(another(&machine, &generation, true).unwrap().starts_with("its vmgenid was "));
        assert_eq!(another(&machine, &generation, false), None, "a rollback makes a new one");
        let card = with(&machine, "net0", "virtio=02:00:00:00:00:01,bridge=vmbr0");
        assert_eq!(another(&machine, &card, true), None, "it has a uuid of its own");

        let container = config_of(201).await;
        let card = with(&container, "net0", "name=eth0,hwaddr=02:00:00:00:00:01");
        assert!(another(&container, &card, false).unwrap().starts_with("its network address was "));
        let root = with(&container, "rootfs", "other:subvol-201-disk-7,size=1G");
        assert!(another(&container, &root, false).unwrap().starts_with("its storage was "));
        let more = with(&container, "net1", "name=eth1,hwaddr=02:00:00:00:00:01");
        assert_eq!(another(&container, &more, true), None);
    }

    #[tokio::test]
    async fn only_what_somebody_changed_differs() {
        let before = with(&config_of(101).await, "description", "a note");
        let mut now = before.clone();
        for (key, value) in [
            ("parent", "x"),
            ("vmgenid", "y"),
            ("lock", "snapshot"),
            ("running-nets-host-mtu", "net0=1500"),
            ("runningmachine", "pc"),
            ("description", "a note\n"),
        ] {
            now = with(&now, key, value);
        }
        assert_eq!(differences(&before, &now), []);
        now.raw.remove("memory");
        let now = with(&with(&now, "net7", "virtio"), "name", "other");
        let text = told(&differences(&before, &now));
        assert_eq!(text, format!("memory (was {}), name (was db), net7 (was absent)", before.raw["memory"]));
        let long = with(&before, "description", &"é".repeat(500));
        assert_eq!(
            told(&differences(&long, &before)).chars().count(),
            "description (was …)".chars().count() + SHOWN
        );
    }
}
