//! Options of a guest, by compare-and-set: Proxmox compares the digest inside its own lock.

use std::collections::BTreeMap;

use authz::RefusalCode;
use authz::order::{Order, Params};
use authz::world::Refused;
use protocol::Tag;
use proxmox_client::{ApiError, Client, ConfigChange};
use serde::{Deserialize, Serialize};

use super::call::{Answers, Call, Judged, Sent, TaskName};
use super::{Target, not_yet};
use crate::world::{Observed, client_kind, client_vmid, observe};

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

/// Tags are a set, in any order and with any of Proxmox's separators; so are a network device's parts, which
/// Proxmox may put in an order of its own. Everything else is text.
pub(super) fn same(key: &str, wanted: &str, have: &str) -> bool {
    let list = |text: &str| {
        let mut tags: Vec<_> =
            text.split([';', ',', ' ']).filter(|t| !t.is_empty()).map(str::to_owned).collect();
        tags.sort_unstable();
        tags
    };
    let parts = |text: &str| text.split(',').map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    wanted == have
        || (key == "tags" && list(wanted) == list(have))
        || (key.starts_with("net") && parts(wanted) == parts(have))
}

impl ConfigCall {
    /// Pure: whether the configuration shows every option as it was set.
    pub fn judge_seen(&self, seen: &Observed) -> Judged {
        let shows = |(key, wanted): &(&String, &Option<String>)| match (wanted, seen.config.get(*key)) {
            (Some(wanted), Some(have)) => same(key, wanted, have),
            (None, None) => true,
            // Off is also said by silence.
            (None, Some(have)) => key.as_str() == "protection" && have == "0",
            (Some(wanted), None) => wanted.is_empty(),
        };
        let shown = |key: &String| {
            let value = seen.config.get(key).map_or("not set", String::as_str);
            format!("{key} is {}", protocol::text::printable(value))
        };
        let right = self.options.iter().filter(|option| shows(option)).count();
        let text = self.options.keys().map(shown).collect::<Vec<_>>().join("; ");
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
        Ok(self.judge_seen(&observe(client, self.guest.kind, self.guest.vmid).await?))
    }
}
