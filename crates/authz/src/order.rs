//! Orders: what an operator signs. One JSON object, one spelling (`security.md` 2.1, 2.2).
//!
//! The payload has its final shape. Of the closed list of kinds ([`Kind`]) those in [`Params`] can
//! be carried out so far; the others are recognised and refused by name.

use protocol::text::SafeText;
use protocol::{
    Ed25519Key, EnvName, Fingerprint, ForwardTarget, GuestRef, HostId, HostName, Interpreter, Nonce,
    RunState, Sha256, SnapshotName, SnapshotRef, Tag, UserName,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::canonical::{self, CanonicalError, MAX_INTEGER};
use crate::namespace::Namespace;

/// Why a payload is not an order.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Not the JSON, or not the one spelling.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// A kind outside the closed list.
    #[error("there is no order kind {0:?}: see the list in `writ op --help`")]
    NoSuchKind(String),
    /// In the list, not built.
    #[error("orders of kind {0} cannot be carried out by this version yet")]
    NotBuilt(Kind),
    /// A number above 2^53 (V19).
    #[error("the number in field {0} is above 2^53")]
    TooLarge(&'static str),
    /// Not version 1.
    #[error("order format version {0} is not supported: this version reads 1")]
    Version(u32),
    /// A number or a list outside what the kind allows.
    #[error("{field} of an order of kind {kind} must be {allowed}: prepare it again")]
    Range {
        /// The kind.
        kind: Kind,
        /// The field.
        field: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A kind that is about the host names a guest.
    #[error("an order of kind {0} is about the host: it must name no guest and no guest's state")]
    NoGuest(Kind),
    /// A precondition that this kind needs is absent. There is no optional safety.
    #[error("an order of kind {kind} must state {missing}: prepare it with `writ op`")]
    Precondition {
        /// The kind.
        kind: Kind,
        /// The absent field.
        missing: &'static str,
    },
}

/// How dangerous a kind is; a policy can only be stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// May come unsigned, inside the policy's bounds.
    Benign,
    /// Interrupts service; needs signatures.
    Disruptive,
    /// Can lose data or give a shell; needs signatures.
    Destructive,
}

/// Whether an order of a kind must be bound to a plan that the warden computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// No plan needed, ever.
    None,
    /// Bound to a plan, unless the policy lets the kind stand.
    PlanOrStanding,
    /// May stand by policy; there is no plan for it.
    Standing,
    /// Always bound to a plan.
    Plan,
    /// Neither plan nor standing: valid for minutes.
    Immediate,
}

/// Declares the closed list once: name, namespace, class, binding (design section 4).
macro_rules! kinds {
    ($($variant:ident $name:literal $namespace:ident $class:ident $binding:ident;)*) => {
        /// The closed list of order kinds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $(
                #[doc = concat!("`", $name, "`")]
                #[serde(rename = $name)]
                $variant,
            )*
        }

        impl Kind {
            /// All of them, in the design's order.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// As it stands in an order.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
            /// The namespace of its signatures.
            pub const fn namespace(self) -> Namespace {
                match self { $(Self::$variant => Namespace::$namespace),* }
            }
            /// Its class.
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),* }
            }
            /// Its binding.
            pub const fn binding(self) -> Binding {
                match self { $(Self::$variant => Binding::$binding),* }
            }
        }
    };
}

kinds! {
    GuestStart        "guest.start"        Op      Benign      None;
    SnapshotCreate    "snapshot.create"    Op      Benign      None;
    BackupCreate      "backup.create"      Op      Benign      None;
    GuestTag          "guest.tag"          Op      Benign      None;
    GuestGrow         "guest.grow"         Op      Benign      None;
    GuestCreate       "guest.create"       Op      Benign      None;
    TemplateDownload  "template.download"  Op      Benign      None;
    GuestShutdown     "guest.shutdown"     Op      Disruptive  Standing;
    GuestStop         "guest.stop"         Op      Disruptive  Standing;
    GuestReboot       "guest.reboot"       Op      Disruptive  Standing;
    GuestSuspend      "guest.suspend"      Op      Disruptive  Standing;
    GuestConfig       "guest.config"       Op      Disruptive  PlanOrStanding;
    GuestResize       "guest.resize"       Op      Disruptive  PlanOrStanding;
    DiskMove          "disk.move"          Op      Disruptive  PlanOrStanding;
    SnapshotRollback  "snapshot.rollback"  Op      Destructive PlanOrStanding;
    SnapshotDelete    "snapshot.delete"    Op      Destructive PlanOrStanding;
    BackupDelete      "backup.delete"      Op      Destructive PlanOrStanding;
    BackupPrune       "backup.prune"       Op      Destructive PlanOrStanding;
    GuestRestoreOver  "guest.restore_over" Op      Destructive Plan;
    GuestDestroy      "guest.destroy"      Op      Destructive Plan;
    DiskDetach        "disk.detach"        Op      Destructive Plan;
    VolumeDelete      "volume.delete"      Op      Destructive Plan;
    StorageAdd        "storage.add"        Op      Disruptive  Standing;
    StorageRemove     "storage.remove"     Op      Disruptive  Standing;
    UsbMount          "usb.mount"          Op      Disruptive  Standing;
    UsbUnmount        "usb.unmount"        Op      Disruptive  Standing;
    PlanApprove       "plan.approve"       Op      Destructive Plan;
    JobRun            "job.run"            Job     Destructive Standing;
    SessionOpen       "session.open"       Session Destructive Immediate;
    PolicyUpdate      "policy.update"      Policy  Destructive Immediate;
    KeyRevoke         "key.revoke"         Policy  Destructive Immediate;
    HostRebind        "host.rebind"        Policy  Destructive Immediate;
    LogReanchor       "log.reanchor"       Policy  Destructive Immediate;
    AgentUpdate       "agent.update"       Policy  Destructive Immediate;
    GuestAdopt        "guest.adopt"        Policy  Destructive Immediate;
    GuestRelease      "guest.release"      Policy  Destructive Immediate;
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = OrderError;
    fn from_str(text: &str) -> Result<Self, OrderError> {
        let known = Self::ALL.iter().find(|kind| kind.as_str() == text).copied();
        known.ok_or_else(|| {
            OrderError::NoSuchKind(protocol::text::printable(&text.chars().take(40).collect::<String>()))
        })
    }
}

/// Parameters, typed per kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Params {
    /// `guest.start`
    GuestStart(NoParams),
    /// `guest.tag`
    GuestTag(TagParams),
    /// `snapshot.create`
    SnapshotCreate(SnapshotParams),
    /// `snapshot.rollback`: back to the snapshot named in the preconditions.
    SnapshotRollback(RollbackParams),
    /// `snapshot.delete`: the snapshot named in the preconditions.
    SnapshotDelete(NoParams),
    /// `job.run`
    JobRun(JobParams),
    /// `session.open`
    SessionOpen(SessionParams),
}

/// No parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Of `guest.tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagParams {
    /// All tags it shall have.
    pub tags: Vec<Tag>,
}

/// Of `snapshot.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotParams {
    /// The new snapshot's name.
    pub snapshot: SnapshotName,
}

/// Of `snapshot.rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackParams {
    /// Start the guest afterwards. (Rollback hard-stops a running guest.)
    pub start: bool,
}

/// Of `job.run`: one script, run once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobParams {
    /// SHA-256 of the script's bytes. They travel beside the order, sealed to the host's key.
    pub script: Sha256,
    /// Their number, 1 to [`protocol::job::MAX_SCRIPT`].
    pub script_len: u32,
    /// What reads the script.
    pub interpreter: Interpreter,
    /// Arguments after the script, at most 64.
    pub args: Vec<SafeText>,
    /// As whom it runs, with that user's groups.
    pub user: UserName,
    /// Added to a clean environment; at most 64, each name once.
    pub env: Vec<EnvVar>,
    /// Killed after so many seconds, 1 to [`MAX_JOB_S`].
    pub timeout_s: u32,
    /// Output that is kept, both streams together; bytes, up to [`protocol::job::MAX_OUTPUT`]. More is
    /// read and dropped.
    pub max_output: u32,
    /// To whom the result is sealed.
    pub result_key: Ed25519Key,
}

/// One variable of a script's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Name.
    pub name: EnvName,
    /// Value.
    pub value: SafeText,
}

/// Longest running time of a script, seconds.
pub const MAX_JOB_S: u32 = 24 * 3600;
/// Longest session, seconds.
pub const MAX_SESSION_S: u32 = 24 * 3600;
/// Shortest idle time of a session, seconds.
pub const MIN_IDLE_S: u32 = 5;
/// Most forward targets of a session.
pub const MAX_FORWARDS: usize = 16;

/// Of `session.open`: one SSH connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionParams {
    /// The one key that may log in, made for this session.
    pub key: Ed25519Key,
    /// As whom.
    pub user: UserName,
    /// What it may do.
    pub mode: SessionMode,
    /// Where it may forward to, besides; at most [`MAX_FORWARDS`], each once. Nothing listed, no forwards.
    pub forwards: Vec<ForwardTarget>,
    /// Ended after so many idle seconds, [`MIN_IDLE_S`] to [`MAX_SESSION_S`].
    pub idle_s: u32,
    /// Ended after so many seconds whatever happens, [`MIN_IDLE_S`] to [`MAX_SESSION_S`].
    pub max_s: u32,
}

/// What sshd can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "allow", rename_all = "snake_case", deny_unknown_fields)]
pub enum SessionMode {
    /// Shell, commands, sftp.
    Full {},
    /// Exactly this command, whatever is asked for.
    Exec {
        /// Given to the user's shell.
        command: SafeText,
    },
    /// Files only.
    Sftp {},
    /// Only what is in `forwards`.
    Forward {},
}

impl std::fmt::Display for SessionMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full {} => f.write_str("shell, commands and sftp"),
            Self::Exec { command } => write!(f, "the one command {:?}", command.as_str()),
            Self::Sftp {} => f.write_str("sftp only"),
            Self::Forward {} => f.write_str("forwards only"),
        }
    }
}

impl JobParams {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let names: std::collections::BTreeSet<_> = self.env.iter().map(|var| &var.name).collect();
        if !(1..=protocol::job::MAX_SCRIPT).contains(&(self.script_len as usize)) {
            Err(("params.script_len", "1 to 262144 (256 KiB)"))
        } else if self.args.len() > 64 {
            Err(("params.args", "a list of at most 64"))
        } else if self.env.len() > 64 || names.len() != self.env.len() {
            Err(("params.env", "a list of at most 64, each name once"))
        } else if !(1..=MAX_JOB_S).contains(&self.timeout_s) {
            Err(("params.timeout_s", "1 to 86400 (a day)"))
        } else if self.max_output as usize > protocol::job::MAX_OUTPUT {
            Err(("params.max_output", "at most 2097152 (2 MiB)"))
        } else {
            Ok(())
        }
    }
}

impl SessionParams {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let targets: std::collections::BTreeSet<_> = self.forwards.iter().collect();
        let times = MIN_IDLE_S..=MAX_SESSION_S;
        if self.forwards.len() > MAX_FORWARDS || targets.len() != self.forwards.len() {
            Err(("params.forwards", "a list of at most 16, each target once"))
        } else if self.mode == (SessionMode::Forward {}) && self.forwards.is_empty() {
            Err(("params.forwards", "a list of at least one target where only forwards are allowed"))
        } else if matches!(&self.mode, SessionMode::Exec { command } if command.as_str().trim().is_empty()) {
            Err(("params.mode.command", "a command"))
        } else if !times.contains(&self.idle_s) {
            Err(("params.idle_s", "5 to 86400 (a day)"))
        } else if !times.contains(&self.max_s) {
            Err(("params.max_s", "5 to 86400 (a day)"))
        } else {
            Ok(())
        }
    }
}

impl Params {
    /// The kind that these belong to.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::GuestStart(_) => Kind::GuestStart,
            Self::GuestTag(_) => Kind::GuestTag,
            Self::SnapshotCreate(_) => Kind::SnapshotCreate,
            Self::SnapshotRollback(_) => Kind::SnapshotRollback,
            Self::SnapshotDelete(_) => Kind::SnapshotDelete,
            Self::JobRun(_) => Kind::JobRun,
            Self::SessionOpen(_) => Kind::SessionOpen,
        }
    }

    fn check(&self) -> Result<(), OrderError> {
        let checked = match self {
            Self::JobRun(params) => params.check(),
            Self::SessionOpen(params) => params.check(),
            Self::GuestStart(_)
            | Self::GuestTag(_)
            | Self::SnapshotCreate(_)
            | Self::SnapshotRollback(_)
            | Self::SnapshotDelete(_) => Ok(()),
        };
        checked.map_err(|(field, allowed)| OrderError::Range { kind: self.kind(), field, allowed })
    }

    fn parse(kind: Kind, json: &str) -> Result<Self, OrderError> {
        fn typed<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, OrderError> {
            serde_json::from_str(json).map_err(|error| {
                let detail = format!("params: {}", protocol::text::printable(&error.to_string()));
                CanonicalError::Malformed { what: "order", detail }.into()
            })
        }
        Ok(match kind {
            Kind::GuestStart => Self::GuestStart(typed(json)?),
            Kind::GuestTag => Self::GuestTag(typed(json)?),
            Kind::SnapshotCreate => Self::SnapshotCreate(typed(json)?),
            Kind::SnapshotRollback => Self::SnapshotRollback(typed(json)?),
            Kind::SnapshotDelete => Self::SnapshotDelete(typed(json)?),
            Kind::JobRun => Self::JobRun(typed(json)?),
            Kind::SessionOpen => Self::SessionOpen(typed(json)?),
            other => return Err(OrderError::NotBuilt(other)),
        })
    }

    fn to_raw(&self) -> Box<RawValue> {
        let raw = match self {
            Self::GuestStart(params) | Self::SnapshotDelete(params) => {
                serde_json::value::to_raw_value(params)
            }
            Self::GuestTag(params) => serde_json::value::to_raw_value(params),
            Self::SnapshotCreate(params) => serde_json::value::to_raw_value(params),
            Self::SnapshotRollback(params) => serde_json::value::to_raw_value(params),
            Self::JobRun(params) => serde_json::value::to_raw_value(params),
            Self::SessionOpen(params) => serde_json::value::to_raw_value(params),
        };
        raw.expect("parameters hold only strings, numbers, booleans and lists")
    }
}

/// The host that an order is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRef {
    /// Its id.
    pub id: HostId,
    /// Its key.
    pub key: Fingerprint,
    /// Which of its keys: orders for an older key are dead.
    #[serde(rename = "gen")]
    pub generation: u32,
    /// Cluster id; null for a single node. (Clusters are not built: must be null.)
    pub cluster: Option<String>,
    /// The operators' name for it; for display only.
    pub name: HostName,
}

/// The world as the signer saw it. The warden reads it again and refuses on any difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preconditions {
    /// Whether the guest runs.
    pub state: Option<RunState>,
    /// Proxmox's digest of the whole configuration.
    pub digest: Option<String>,
    /// The snapshot: name, time and parent.
    pub snapshot: Option<SnapshotRef>,
}

/// The plan that the signer approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRef {
    /// SHA-256 of the plan's bytes.
    pub sha256: Sha256,
    /// The warden's random challenge in it, kept only in its memory.
    pub challenge: Sha256,
}

/// A place in the host's log that must be there (`security.md` 2.9, anchor C).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogAnchor {
    /// Entries that the signer knows of.
    pub size: u64,
    /// Hash of the last of them.
    pub head: Sha256,
    /// The log must have exactly this size.
    pub strict: bool,
}

/// The policy that the signer saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// Its version.
    pub version: u64,
    /// Its hash.
    pub sha256: Sha256,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is to be done.
    pub params: Params,
    /// Where.
    pub host: HostRef,
    /// To which guest; none for what is done to the host itself.
    pub guest: Option<GuestRef>,
    /// In which state of the world.
    pub pre: Preconditions,
    /// Bound to a plan, or standing.
    pub plan: Option<PlanRef>,
    /// Usable once.
    pub nonce: Nonce,
    /// Not before, unix seconds.
    pub nbf: u64,
    /// Not after, unix seconds.
    pub exp: u64,
    /// Where the host's log must have come.
    pub after: Option<LogAnchor>,
    /// Under which policy.
    pub policy: PolicyRef,
    /// At least so many signers; can raise the policy's threshold, never lower it.
    pub min_signers: u32,
    /// Why, for people.
    pub reason: SafeText,
    /// A ticket, for people.
    pub ticket: Option<SafeText>,
}

/// The order as it is spelled: fields in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled {
    v: u32,
    kind: String,
    params: Box<RawValue>,
    host: HostRef,
    guest: Option<GuestRef>,
    pre: Preconditions,
    plan: Option<PlanRef>,
    nonce: Nonce,
    nbf: u64,
    exp: u64,
    after: Option<LogAnchor>,
    policy: PolicyRef,
    min_signers: u32,
    reason: SafeText,
    ticket: Option<SafeText>,
}

impl Order {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.params.kind()
    }

    /// The bytes to sign.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            params,
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
        } = self.clone();
        canonical::encode(&Spelled {
            v: 1,
            kind: params.kind().as_str().to_owned(),
            params: params.to_raw(),
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
        })
    }

    /// Parses bytes that are already known to be signed (rule V17), with `encode(parse(x)) == x`.
    pub fn decode(bytes: &[u8]) -> Result<Self, OrderError> {
        let spelled: Spelled = canonical::decode("order", bytes)?;
        if spelled.v != 1 {
            return Err(OrderError::Version(spelled.v));
        }
        let kind: Kind = spelled.kind.parse()?;
        for (number, field) in [
            (spelled.nbf, "nbf"),
            (spelled.exp, "exp"),
            (spelled.policy.version, "policy.version"),
            (spelled.after.as_ref().map_or(0, |after| after.size), "after.size"),
            (spelled.pre.snapshot.as_ref().map_or(0, |snapshot| snapshot.time), "pre.snapshot.time"),
            (
                spelled.guest.as_ref().and_then(|guest| guest.identity.meta_ctime).unwrap_or(0),
                "guest.identity.meta_ctime",
            ),
        ] {
            if number > MAX_INTEGER {
                return Err(OrderError::TooLarge(field));
            }
        }
        let params = Params::parse(kind, spelled.params.get())?;
        let Spelled {
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
            ..
        } = spelled;
        let order = Self {
            params,
            host,
            guest,
            pre,
            plan,
            nonce,
            nbf,
            exp,
            after,
            policy,
            min_signers,
            reason,
            ticket,
        };
        order.check_preconditions()?;
        // The parameters were raw until now: their spelling counts too.
        if order.encode() == bytes { Ok(order) } else { Err(CanonicalError::NotCanonical.into()) }
    }

    fn check_preconditions(&self) -> Result<(), OrderError> {
        self.params.check()?;
        let kind = self.kind();
        let missing = |missing| Err(OrderError::Precondition { kind, missing });
        let Some(guest) = &self.guest else {
            return match self.params {
                Params::JobRun(_) | Params::SessionOpen(_) if self.pre == Preconditions::default() => Ok(()),
                Params::JobRun(_) | Params::SessionOpen(_) => Err(OrderError::NoGuest(kind)),
                Params::GuestStart(_)
                | Params::GuestTag(_)
                | Params::SnapshotCreate(_)
                | Params::SnapshotRollback(_)
                | Params::SnapshotDelete(_) => missing("guest"),
            };
        };
        if guest.identity.is_empty() {
            return missing("guest.identity (a UUID, MAC addresses or volumes)");
        }
        if guest.identity.giid.is_some() {
            return missing("guest.identity without giid (instance ids are not built yet)");
        }
        match self.params {
            Params::SnapshotRollback(_) | Params::SnapshotDelete(_) => {
                if self.pre.state.is_none_or(|state| state == RunState::Unknown) {
                    return missing("pre.state");
                }
                if self.pre.digest.is_none() {
                    return missing("pre.digest");
                }
                if self.pre.snapshot.is_none() {
                    return missing("pre.snapshot (name, time and parent)");
                }
            }
            Params::GuestTag(_) => {
                if self.pre.digest.is_none() {
                    return missing("pre.digest");
                }
            }
            Params::JobRun(_) | Params::SessionOpen(_) => return Err(OrderError::NoGuest(kind)),
            Params::GuestStart(_) | Params::SnapshotCreate(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
