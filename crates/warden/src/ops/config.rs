//! Options of a guest, by compare-and-set: Proxmox compares the digest inside its own lock.

use std::collections::BTreeMap;

use authz::RefusalCode;
use authz::order::{Order, Params};
use authz::world::Refused;
use protocol::Tag;
use proxmox_client::{ApiError, Client, ConfigChange, PendingOption};
use serde::{Deserialize, Serialize};

use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::rights::{self, Right};
use super::{Action, Program, Target, not_yet};
use crate::world::{Observed, client_kind, client_vmid, observe, pending};

/// Options that are set or taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigCall {
    /// Of which guest.
    pub guest: Target,
    /// Option to value; null takes it away.
    pub options: BTreeMap<String, Option<String>>,
    /// The configuration that it was decided on. None: the one that is read right before, for a guest that
    /// the same program made, and for putting `protection` back.
    pub digest: Option<String>,
}

/// Of `guest.tag`.
pub(super) fn tags(order: &Order, guest: Target) -> Result<Call, Refused> {
    let Params::GuestTag(params) = &order.params else { return Err(not_yet(order)) };
    let missing = || (RefusalCode::BadOrder, "the order names no digest".to_owned());
    let digest = order.pre.digest.as_ref().ok_or_else(missing)?.to_string();
    let mut tags = params.tags.clone();
    tags.sort();
    tags.dedup();
    Ok(set_tags(guest, &tags, &digest))
}

/// Of `guest.config` and `guest.resize`.
pub(super) fn changes(order: &Order, guest: Target) -> Result<Call, Refused> {
    let missing = || (RefusalCode::BadOrder, "the order names no digest".to_owned());
    let digest = order.pre.digest.as_ref().ok_or_else(missing)?.to_string();
    let options: BTreeMap<String, Option<String>> = match &order.params {
        Params::GuestConfig(params) => {
            let one = |change: &authz::order::ConfigChange| {
                (change.key.as_str().to_owned(), change.new.as_ref().map(|new| new.as_str().to_owned()))
            };
            params.changes.iter().map(one).collect()
        }
        Params::GuestResize(params) => {
            let amounts = [
                ("cores", params.cores),
                ("memory", params.memory_mib),
                ("sockets", params.sockets),
                ("swap", params.swap_mib),
            ];
            let one = |(key, amount): (&str, Option<authz::order::Amount>)| {
                Some((key.to_owned(), Some(amount?.new.to_string())))
            };
            amounts.into_iter().filter_map(one).collect()
        }
        _ => return Err(not_yet(order)),
    };
    Ok(Call::Config(ConfigCall { guest, options, digest: Some(digest) }))
}

/// Of `guest.adopt` and `guest.release`: Proxmox's part of it, if there is any.
pub(super) fn care(order: &Order, guest: Target) -> Result<Program, Refused> {
    let missing = || (RefusalCode::BadOrder, "the order names no digest".to_owned());
    let digest = order.pre.digest.as_ref().ok_or_else(missing)?.to_string();
    let protects = matches!(&order.params, Params::GuestAdopt(params) if params.protect);
    let protection = [("protection", Some("1".to_owned()))];
    let call = protects.then(|| Action::on_guest(set(guest, protection, Some(&digest))));
    Ok(Program { actions: call.into_iter().collect() })
}

/// Replaces the tags.
pub(super) fn set_tags(guest: Target, tags: &[Tag], digest: &str) -> Call {
    // Proxmox takes an empty list only as a deletion of the option.
    let value = (!tags.is_empty()).then(|| tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(";"));
    set(guest, [("tags", value)], Some(digest))
}

/// Sets options.
pub(super) fn set(
    guest: Target,
    options: impl IntoIterator<Item = (&'static str, Option<String>)>,
    digest: Option<&str>,
) -> Call {
    let options = options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Call::Config(ConfigCall { guest, options, digest: digest.map(str::to_owned) })
}

/// A value that Proxmox may write down in its own spelling: tags are a set, in any order and with any of its
/// separators; the properties of a device come in any order, and a network device gets an address and a type
/// when none were given. Everything else is text.
pub(super) fn same(key: &str, wanted: &str, have: &str) -> bool {
    let list = |text: &str| {
        let mut tags: Vec<_> =
            text.split([';', ',', ' ']).filter(|t| !t.is_empty()).map(str::to_owned).collect();
        tags.sort_unstable();
        tags
    };
    wanted == have
        || (key == "tags" && list(wanted) == list(have))
        || (key.starts_with("net") && same_net(wanted, have))
        || (!key.starts_with("net") && wanted.contains('=') && parts(wanted) == parts(have))
}

/// The properties of a device; one without a name has an empty one.
fn parts(text: &str) -> BTreeMap<&str, &str> {
    text.split(',').map(|part| part.split_once('=').unwrap_or(("", part))).collect()
}

/// A network device's properties, the short spelling `MODEL=MAC` taken apart.
fn net(text: &str) -> BTreeMap<String, String> {
    const OTHERS: [&str; 16] = [
        "bridge",
        "firewall",
        "gw",
        "gw6",
        "hwaddr",
        "ip",
        "ip6",
        "link_down",
        "macaddr",
        "model",
        "mtu",
        "name",
        "queues",
        "rate",
        "tag",
        "trunks",
    ];
    let mut all = BTreeMap::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let mut put = |key: &str, value: &str| all.insert(key.to_owned(), value.to_owned());
        match key {
            "macaddr" | "hwaddr" => put("mac", &value.to_ascii_uppercase()),
            "type" => put("type", value),
            key if OTHERS.contains(&key) => put(key, value),
            model => {
                if !value.is_empty() {
                    put("mac", &value.to_ascii_uppercase());
                }
                put("model", model)
            }
        };
    }
    all
}

fn same_net(wanted: &str, have: &str) -> bool {
    let (wanted, have) = (net(wanted), net(have));
    let given = |(key, value): (&String, &String)| have.get(key) == Some(value);
    let own = |key: &String| wanted.contains_key(key) || matches!(key.as_str(), "mac" | "type");
    wanted.iter().all(given) && have.keys().all(own)
}

impl ConfigCall {
    /// Pure: whether the configuration shows every option as it was set. What waits for the guest's next start
    /// counts as set, and the sentence says that it waits.
    pub fn judge_seen(&self, seen: &Observed, pending: &[PendingOption]) -> Judged {
        let shows = |(key, wanted): &(&String, &Option<String>)| match (wanted, seen.config.get(*key)) {
            (Some(wanted), Some(have)) => same(key, wanted, have),
            (None, None) => true,
            // Off is also said by silence.
            (None, Some(have)) => key.as_str() == "protection" && have == "0",
            (Some(wanted), None) => wanted.is_empty(),
        };
        let shown = |key: &String| {
            let value = seen.config.get(key).map_or("not set", String::as_str);
            let waits = pending.iter().find(|option| option.key == *key);
            let until = waits.map_or_else(String::new, |option| {
                let now = option.value.as_deref().map_or("not set".to_owned(), protocol::text::printable);
                format!(" (from the guest's next start on; until then {now})")
            });
            format!("{key} is {}{until}", protocol::text::printable(value))
        };
        let right = self.options.iter().filter(|option| shows(option)).count();
        let text = self.options.keys().map(shown).collect::<Vec<_>>().join("; ");
        let text = format!("{text} (of {})", self.guest);
        match right {
            all if all == self.options.len() => Judged::Done(text),
            0 => Judged::NotDone(text),
            // A virtual machine's options are written one after the other (`pve/facts.md` 5.5).
            some => Judged::Otherwise(format!("{some} of {} options were set: {text}", self.options.len())),
        }
    }
}

impl Answers for ConfigCall {
    fn line(&self) -> String {
        let option = |(key, value): (&String, &Option<String>)| match value {
            Some(value) => format!("{key}={}", protocol::text::printable(value)),
            None => format!("delete={key}"),
        };
        let options = self.options.iter().map(option).collect::<Vec<_>>().join(" ");
        let digest = self.digest.as_deref().unwrap_or("(as read right before)");
        format!("PUT {}/config {options} digest={digest}", self.guest)
    }

    fn task(&self) -> Option<TaskName> {
        None
    }

    fn rights(&self) -> Vec<Right> {
        let Target { kind, vmid } = self.guest;
        let of =
            |(key, value): (&String, &Option<String>)| rights::for_option(kind, vmid, key, value.as_deref());
        self.options.iter().flat_map(of).collect()
    }

    async fn send(&self, client: &Client) -> Result<Sent, ApiError> {
        let (kind, vmid) = (client_kind(self.guest.kind), client_vmid(self.guest.vmid));
        let digest = match &self.digest {
            Some(digest) => digest.clone(),
            None => client.guest_config(kind, vmid).await?.digest,
        };
        let change =
            self.options.iter().fold(ConfigChange::new(&digest), |change, (key, value)| match value {
                Some(value) => change.set(key, value),
                None => change.delete(key),
            });
        client.change_config_now(kind, vmid, &change).await?;
        Ok(Sent::AtOnce)
    }

    async fn judge(&self, client: &Client) -> Result<Judged, ApiError> {
        let seen = observe(client, self.guest.kind, self.guest.vmid).await?;
        Ok(self.judge_seen(&seen, &pending(client, &seen).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxmox_may_spell_a_value_its_own_way() {
        let mac = "BC:24:11:00:00:01";
        let net = |wanted: &str, have: &str| same("net0", wanted, have);
        assert!(net("virtio,bridge=vmbr1", &format!("virtio={mac},bridge=vmbr1")));
        assert!(net(
            &format!("model=virtio,macaddr={},bridge=b", mac.to_lowercase()),
            &format!("virtio={mac},bridge=b")
        ));
        assert!(net(
            "name=eth0,bridge=b,ip=dhcp",
            &format!("name=eth0,bridge=b,hwaddr={mac},ip=dhcp,type=veth")
        ));
        assert!(!net("virtio,bridge=vmbr1", &format!("virtio={mac},bridge=vmbr0")));
        assert!(
            !net("virtio,bridge=b", &format!("virtio={mac},bridge=b,firewall=1")),
            "more than was ordered"
        );
        assert!(!net(&format!("virtio={mac},bridge=b"), "virtio=BC:24:11:00:00:02,bridge=b"));
        assert!(!net("e1000,bridge=b", &format!("virtio={mac},bridge=b")));
        assert!(same("startup", "up=5,order=1", "order=1,up=5"));
        assert!(!same("startup", "order=1", "order=2"));
        assert!(same("tags", "a;b", "b,a") && !same("name", "a", "b"));
    }
}
