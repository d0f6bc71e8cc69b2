//! The closed list of order kinds.

use serde::{Deserialize, Serialize};

use super::OrderError;
use crate::namespace::Namespace;

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
    GuestResume       "guest.resume"       Op      Benign      None;
    GuestShutdown     "guest.shutdown"     Op      Disruptive  Standing;
    GuestStop         "guest.stop"         Op      Disruptive  Standing;
    GuestReboot       "guest.reboot"       Op      Disruptive  Standing;
    GuestSuspend      "guest.suspend"      Op      Disruptive  Standing;
    BackupProtect     "backup.protect"     Op      Disruptive  Standing;
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
