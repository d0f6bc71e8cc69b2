//! Guests that an operator put into Writ's care (`guest.adopt`), each with a random instance id: the one fact
//! of a guest that nobody else makes up, so that a guest that gets a recycled number is never taken for the one
//! before (`security.md` 2.5). The id is given only together with the stable facts that it was made for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use authz::files::{self, FileError};
use authz::order::{Order, Params};
use authz::world::{Refused, World};
use authz::{Outcome, RefusalCode};
use protocol::report::Known;
use protocol::{GuestIdentity, GuestKind, Sha256, Vmid};
use serde::{Deserialize, Serialize};

use crate::warden::{Warden, chain, lock};
use crate::world::{Observed, observe};
use crate::{now, safe};

const FILE: &str = "adopted.json";
/// More guests than a node can have.
const MAX_BYTES: u64 = 8 << 20;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopted {
    /// Its number.
    pub vmid: Vmid,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// 128 random bits, lower-case hex.
    pub giid: String,
    /// The facts that make it this one.
    pub stable: Stable,
    /// The order that did it.
    pub op: Sha256,
    /// When, unix seconds.
    pub time: u64,
}

/// What stays the same while a guest lives, and is another for the next guest with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stable {
    /// A virtual machine: made when it was created, kept by rollback and restore, new for a clone.
    Uuid {
        /// `smbios1: uuid=`.
        uuid: String,
        /// `meta: ctime=`.
        ctime: Option<u64>,
    },
    /// A container has neither (`pve/facts.md` 5.7).
    Devices {
        /// MAC addresses, sorted. When there are any they decide: names of volumes are used again.
        macs: Vec<String>,
        /// Volumes, sorted.
        volids: Vec<String>,
    },
}

impl Stable {
    /// Of a guest. None: nothing about it is stable.
    pub fn of(identity: &GuestIdentity) -> Option<Self> {
        match &identity.smbios_uuid {
            Some(uuid) => Some(Self::Uuid { uuid: uuid.clone(), ctime: identity.meta_ctime }),
            None if identity.is_empty() => None,
            None => Some(Self::Devices { macs: identity.macs.clone(), volids: identity.volids.clone() }),
        }
    }

    /// Whether a guest with this number now is the one that these facts are of.
    pub fn is(&self, now: &GuestIdentity) -> bool {
        match self {
            Self::Uuid { uuid, ctime } => {
                now.smbios_uuid.as_ref() == Some(uuid) && (ctime.is_none() || now.meta_ctime == *ctime)
            }
            Self::Devices { macs, volids } if macs.is_empty() => {
                now.smbios_uuid.is_none() && now.macs.is_empty() && now.volids == *volids
            }
            Self::Devices { macs, .. } => now.smbios_uuid.is_none() && now.macs == *macs,
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u32,
    guests: Vec<Adopted>,
}

/// All of them. A file that cannot be read is no empty one: then every question about a guest's instance is
/// answered with what is wrong, and nothing is written over it.
#[derive(Debug)]
pub(crate) struct Care {
    path: PathBuf,
    guests: Result<BTreeMap<Vmid, Adopted>, String>,
}

impl Care {
    /// Reads what is there.
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let guests = match files::read_limited(&path, MAX_BYTES) {
            Err(error) if error.is_not_found() => Ok(BTreeMap::new()),
            Err(error) => Err(chain(&error)),
            Ok(bytes) => parse(&bytes).ok_or_else(|| {
                format!(
                    "{} is damaged: restore it, or move it away and adopt the guests again",
                    path.display()
                )
            }),
        };
        if let Err(why) = &guests {
            tracing::error!(why, "which guests were adopted cannot be read");
        }
        Self { path, guests }
    }

    fn known(&self) -> Result<&BTreeMap<Vmid, Adopted>, Refused> {
        self.guests.as_ref().map_err(|why| (RefusalCode::Closed, why.clone()))
    }

    /// The entry of a number.
    pub(crate) fn get(&self, vmid: Vmid) -> Result<Option<&Adopted>, Refused> {
        Ok(self.known()?.get(&vmid))
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<Vmid, Adopted>)) -> Result<(), String> {
        let mut guests = self.known().map_err(|(_, why)| why)?.clone();
        change(&mut guests);
        let file = File { v: 1, guests: guests.values().cloned().collect() };
        let bytes = serde_json::to_vec(&file).map_err(|error| error.to_string())?;
        files::write_atomic(&self.path, &bytes).map_err(|error: FileError| chain(&error))?;
        self.guests = Ok(guests);
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<Vmid, Adopted>> {
    let file: File = serde_json::from_slice(bytes).ok()?;
    let hex = |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if file.v != 1 || !file.guests.iter().all(|guest| hex(&guest.giid)) {
        return None;
    }
    let all = file.guests.len();
    let guests: BTreeMap<Vmid, Adopted> = file.guests.into_iter().map(|guest| (guest.vmid, guest)).collect();
    (guests.len() == all).then_some(guests)
}

impl Warden {
    /// Fills in the instance id of a guest that was read, if it is the adopted one.
    pub(crate) fn recognize(&self, world: &mut World, vmid: Option<Vmid>) -> Result<(), Refused> {
        let (Some(vmid), Known::Known(guest)) = (vmid, &mut world.guest) else { return Ok(()) };
        let care = lock(&self.care);
        guest.identity.giid = care
            .get(vmid)?
            .filter(|adopted| adopted.kind == guest.kind && adopted.stable.is(&guest.identity))
            .map(|adopted| adopted.giid.clone());
        Ok(())
    }

    /// An unsigned step is not carried out on a guest whose number belongs to an adopted one that it is not.
    pub(crate) fn still_the_adopted(&self, seen: &Observed) -> Result<(), Refused> {
        let care = lock(&self.care);
        match care.get(seen.vmid)? {
            Some(adopted) if adopted.kind != seen.kind || !adopted.stable.is(&seen.identity) => Err((
                RefusalCode::GuestIdentity,
                format!(
                    "guest {} was adopted, and the guest with this number now is another one: look at it, and release or adopt it by a signed order",
                    seen.vmid
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Whether an adoption or release can begin at all. Asked before the nonce is burned.
    pub(crate) fn can_care(&self, order: &Order) -> Result<(), Refused> {
        let Some(guest) = &order.guest else { return Ok(()) };
        match &order.params {
            Params::GuestAdopt(_) => {
                if Stable::of(&guest.identity).is_none() {
                    let why = "nothing about this guest is stable, so it could not be told from another one";
                    return Err((RefusalCode::GuestIdentity, why.to_owned()));
                }
                match lock(&self.care).get(guest.vmid)? {
                    Some(adopted) if adopted.kind == guest.kind && adopted.stable.is(&guest.identity) => {
                        Err((RefusalCode::Precondition, format!("guest {} is adopted already", guest.vmid)))
                    }
                    // The guest before it is gone.
                    _ => Ok(()),
                }
            }
            Params::GuestRelease(_) => match lock(&self.care).get(guest.vmid)? {
                Some(_) => Ok(()),
                None => Err((RefusalCode::Precondition, format!("guest {} is not adopted", guest.vmid))),
            },
            _ => Ok(()),
        }
    }

    /// What an order that ended well changes in the list. Comes again after a crash without harm.
    pub(crate) async fn care(&self, op: &Sha256, order: &Order, outcome: Outcome) -> Outcome {
        let Some(guest) = &order.guest else { return outcome };
        if let Outcome::Aborted { .. } = &outcome
            && let Some(seen) = self.cared(op, order)
        {
            return Outcome::Done { upid: None, seen: safe(&seen) };
        }
        let Outcome::Done { upid, seen: said } = &outcome else { return outcome };
        let written = match &order.params {
            Params::GuestAdopt(_) => self.adopt(op, order).await,
            Params::GuestRelease(_) => self
                .forget(guest.vmid)
                .map(|()| format!("the instance id of guest {} is forgotten", guest.vmid)),
            // The next guest with this number begins anew.
            Params::GuestDestroy(_) => match self.forget(guest.vmid) {
                Ok(()) => return outcome,
                Err(why) => {
                    tracing::error!(
                        vmid = guest.vmid.get(),
                        why,
                        "the destroyed guest stays in the list of adopted ones"
                    );
                    return outcome;
                }
            },
            _ => match self.follow(order).await {
                Ok(()) => return outcome,
                // The order did what it was to do; its guest has to be adopted again.
                Err(why) => {
                    tracing::error!(
                        vmid = guest.vmid.get(),
                        why,
                        "the adopted guest changed, and the list did not"
                    );
                    return outcome;
                }
            },
        };
        let said = |end: &str| match said.as_str() {
            "" => safe(end),
            said => safe(&format!("{said}; {end}")),
        };
        match written {
            Ok(end) => Outcome::Done { upid: upid.clone(), seen: said(&end) },
            Err(why) => Outcome::Failed { upid: upid.clone(), why: said(&format!("but {why}")) },
        }
    }

    fn forget(&self, vmid: Vmid) -> Result<(), String> {
        let mut care = lock(&self.care);
        match care.get(vmid) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => care.change(|guests| drop(guests.remove(&vmid))),
            Err((_, why)) => Err(why),
        }
    }

    /// An order that had nothing to say to Proxmox, and was written down before a crash.
    fn cared(&self, op: &Sha256, order: &Order) -> Option<String> {
        let vmid = order.guest.as_ref()?.vmid;
        let care = lock(&self.care);
        match (&order.params, care.get(vmid)) {
            (Params::GuestAdopt(_), Ok(Some(adopted))) if adopted.op == *op => {
                Some(format!("its instance id is {}", adopted.giid))
            }
            (Params::GuestRelease(_), Ok(None)) => {
                Some(format!("the instance id of guest {vmid} is forgotten"))
            }
            _ => None,
        }
    }

    async fn adopt(&self, op: &Sha256, order: &Order) -> Result<String, String> {
        let Some(guest) = &order.guest else { return Err("the order names no guest".into()) };
        if let Ok(Some(adopted)) = lock(&self.care).get(guest.vmid)
            && adopted.op == *op
        {
            return Ok(format!("its instance id is {}", adopted.giid));
        }
        let seen = observe(&self.client, guest.kind, guest.vmid)
            .await
            .map_err(|error| format!("the guest could not be read again, so it is not adopted: {error}"))?;
        if seen.name != guest.name || !guest.identity.differences(&seen.identity).is_empty() {
            return Err("the guest is another one now, so it is not adopted".into());
        }
        let stable = Stable::of(&seen.identity).ok_or("nothing about the guest is stable any more")?;
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| format!("the system gives no random numbers: {error}"))?;
        let giid: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let adopted =
            Adopted { vmid: guest.vmid, kind: guest.kind, giid: giid.clone(), stable, op: *op, time: now() };
        lock(&self.care)
            .change(|guests| drop(guests.insert(guest.vmid, adopted)))
            .map_err(|why| format!("it could not be written down, so it is not adopted: {why}"))?;
        Ok(format!("its instance id is {giid}"))
    }

    /// A signed order may itself change what a container is recognized by (a network device, a disk): the list
    /// follows, because the guest was the adopted one when the order began.
    async fn follow(&self, order: &Order) -> Result<(), String> {
        let Some(guest) = &order.guest else { return Ok(()) };
        let ours = match lock(&self.care).get(guest.vmid) {
            Ok(Some(adopted)) => adopted.kind == guest.kind && adopted.stable.is(&guest.identity),
            Ok(None) | Err(_) => false,
        };
        let moves = matches!(
            order.params,
            Params::GuestConfig(_)
                | Params::DiskMove(_)
                | Params::DiskDetach(_)
                | Params::SnapshotRollback(_)
        );
        if !ours || !moves {
            return Ok(());
        }
        let seen = observe(&self.client, guest.kind, guest.vmid).await.map_err(|error| error.to_string())?;
        let stable = Stable::of(&seen.identity).ok_or("nothing about the guest is stable any more")?;
        lock(&self.care).change(|guests| {
            if let Some(adopted) = guests.get_mut(&guest.vmid) {
                adopted.stable = stable;
            }
        })
    }
}

#[cfg(test)]
mod tests;
