//! UPIDs: the names of tasks.

use std::fmt;
use std::str::FromStr;

use crate::value::ids::is_node_name;

/// `UPID:node:pid:pstart:starttime:type:id:user:`, kept as it came and taken apart once.
///
/// Accepts exactly what Proxmox's own decoder accepts (`pve/facts.md` 4.1), except longer texts
/// than a path can carry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upid {
    raw: String,
    node: String,
    pid: u32,
    pstart: u64,
    starttime: u64,
    task_type: String,
    id: String,
    user: String,
}

impl Upid {
    /// The text as Proxmox gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.raw
    }
    /// The node it runs on; its status must be asked with this node in the path.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
    /// The worker's process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }
    /// The worker's start in clock ticks since boot: tells two processes with one pid apart.
    #[must_use]
    pub const fn pstart(&self) -> u64 {
        self.pstart
    }
    /// When the task began, seconds since 1970 by the node's clock.
    #[must_use]
    pub const fn starttime(&self) -> u64 {
        self.starttime
    }
    /// `qmsnapshot`, `vzdump`, ... (`pve/facts.md` 4.3).
    #[must_use]
    pub fn task_type(&self) -> &str {
        &self.task_type
    }
    /// Often a VMID, but also empty, a service, or `200@local`. Never assume.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
    /// `user@realm` or `user@realm!tokenid`.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }
}

/// Longer than any real UPID, short enough for a request line.
const MAX_LEN: usize = 1024;

impl FromStr for Upid {
    type Err = UpidError;

    fn from_str(text: &str) -> Result<Self, UpidError> {
        let fail =
            |what| UpidError { given: text.chars().filter(|c| !c.is_control()).take(80).collect(), what };
        if text.len() > MAX_LEN {
            return Err(fail("its length"));
        }
        let fields: Vec<&str> = text.split(':').collect();
        let [prefix, node, pid, pstart, starttime, task_type, id, user, rest] = fields[..] else {
            return Err(fail("its number of fields"));
        };
        if prefix != "UPID" || !rest.is_empty() {
            return Err(fail("its frame"));
        }
        if !is_node_name(node) {
            return Err(fail("its node"));
        }
        if !word(task_type) || task_type.is_empty() {
            return Err(fail("its type"));
        }
        if !word(id) {
            return Err(fail("its id"));
        }
        if !word(user) || user.is_empty() {
            return Err(fail("its user"));
        }
        Ok(Self {
            raw: text.to_owned(),
            node: node.to_owned(),
            pid: hex(pid, 8..=8).and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| fail("its pid"))?,
            pstart: hex(pstart, 8..=9).ok_or_else(|| fail("its pstart"))?,
            starttime: hex(starttime, 8..=8).ok_or_else(|| fail("its start time"))?,
            task_type: task_type.to_owned(),
            id: id.to_owned(),
            user: user.to_owned(),
        })
    }
}

/// `[^:\s/]*`; the colon is gone already. Control characters are refused on top: they could only
/// forge log lines.
fn word(text: &str) -> bool {
    !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

fn hex(text: &str, len: std::ops::RangeInclusive<usize>) -> Option<u64> {
    // `from_str_radix` alone would take a leading `+`.
    let digits = len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl fmt::Debug for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

/// Not a UPID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a UPID, {what} is wrong: expected `UPID:node:pid:pstart:starttime:type:id:user:`")]
pub struct UpidError {
    given: String,
    what: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_upid_comes_apart() {
        let text = "UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:";
        let upid: Upid = text.parse().unwrap();
        assert_eq!(upid.to_string(), text);
        assert_eq!(
            (upid.node(), upid.pid(), upid.pstart(), upid.starttime()),
            ("pve1", 0x3a4, 0x359ab, 1_795_317_683)
        );
        assert_eq!((upid.task_type(), upid.id(), upid.user()), ("qmsnapshot", "100", "tester@pve!full"));
    }

    #[test]
    fn odd_but_real_upids_are_accepted() {
        for (text, id) in [
            ("UPID:pve1:0000025C:10002E5E8:6B025E8B:vzdump::tester@pve!full:", ""),
            ("UPID:pve1:0000025C:0002E5E8:6B025E8B:imgdel:200@local:tester@pve!full:", "200@local"),
            ("UPID:pve1:0000025c:0002e5e8:6b025e8b:download:a%3Ab.iso:root@pam:", "a%3Ab.iso"),
            ("UPID:pve-1:0000025C:0002E5E8:6B025E8B:cephcreatemgr:mgr.x:root@pam:", "mgr.x"),
        ] {
            assert_eq!(text.parse::<Upid>().unwrap().id(), id);
        }
        assert_eq!(
            "UPID:p:0000025C:10002E5E8:6B025E8B:vzdump::a@pve:".parse::<Upid>().unwrap().pstart(),
            0x1_0002_e5e8
        );
    }

    #[test]
    fn hostile_upids_are_refused() {
        for bad in [
            "",
            "OK",
            "UPID:",
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve", // no last colon
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve::", // one too many
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:x", // trailing text
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:\n", // trailing newline
            " UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:", // leading space
            "upid:pve1:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:", // case
            "UPID:pve1:000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:", // 7 digit pid
            "UPID:pve1:00000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:", // 9 digit pid
            "UPID:pve1:0000025C:002E5E8:6B025E8B:vzdump:100:a@pve:", // 7 digit pstart
            "UPID:pve1:0000025C:0000002E5E8:6B025E8B:vzdump:100:a@pve:", // 11 digit pstart
            "UPID:pve1:+000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:", // signed
            "UPID:pve1:0000025G:0002E5E8:6B025E8B:vzdump:100:a@pve:", // not hex
            "UPID:pve1:0000025C:0002E5E8:06B025E8B:vzdump:100:a@pve:", // 9 digit time
            "UPID:pve1:0000025C:0002E5E8:6B025E8B::100:a@pve:",      // no type
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:100::",     // no user
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:../x:a@pve:", // slash
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:1 0:a@pve:", // space
            "UPID:pve1:0000025C:0002E5E8:6B025E8B:vzdump:1\u{1b}0:a@pve:", // escape
            "UPID:..:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:",  // node
            "UPID::0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:",    // empty node
            "UPID:-p:0000025C:0002E5E8:6B025E8B:vzdump:100:a@pve:",  // hyphen first
            &format!("UPID:p:0000025C:0002E5E8:6B025E8B:vzdump:{}:a@pve:", "x".repeat(2000)),
        ] {
            assert!(bad.parse::<Upid>().is_err(), "{bad}");
        }
    }
}
