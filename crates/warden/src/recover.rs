//! Pure: what became of a call whose answer was lost, in a crash or on the wire (`security.md` 2.7).

use std::collections::BTreeSet;

use proxmox_client::Upid;

/// How long after the call Proxmox may still start the task: the client's longest wait for an answer
/// (35 s) and a minute for a busy node.
pub const SETTLE_S: u64 = 35 + 60;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This task is ours: follow it.
    Adopt(Upid),
    /// Too early to tell: ask again.
    Ask,
    /// No task came of it within the time in which one could.
    NothingStarted,
    /// More than one task could be ours.
    Ambiguous(usize),
}

/// `found` are the tasks of our type, guest and token since `t0`; `known` those that were there
/// before the call.
pub fn judge(found: &[Upid], known: &BTreeSet<String>, t0: u64, now: u64) -> Verdict {
    let ours: Vec<&Upid> = found.iter().filter(|upid| !known.contains(upid.as_str())).collect();
    match ours.as_slice() {
        [upid] => Verdict::Adopt((*upid).clone()),
        [] if now < t0.saturating_add(SETTLE_S) => Verdict::Ask,
        [] => Verdict::NothingStarted,
        more => Verdict::Ambiguous(more.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upid(pid: u32) -> Upid {
        format!("UPID:pve1:{pid:08X}:00001000:67000000:qmrollback:101:writ@pve!act:").parse().unwrap()
    }

    #[test]
    fn one_new_task_is_ours_and_nothing_else_is() {
        let (old, new, other) = (upid(1), upid(2), upid(3));
        let known = BTreeSet::from([old.as_str().to_owned()]);
        let judge = |found: &[Upid], now| judge(found, &known, 1000, now);
        assert_eq!(judge(&[old.clone(), new.clone()], 1001), Verdict::Adopt(new.clone()));
        assert_eq!(judge(std::slice::from_ref(&old), 1001), Verdict::Ask);
        assert_eq!(judge(std::slice::from_ref(&old), 1000 + SETTLE_S), Verdict::NothingStarted);
        assert_eq!(judge(&[], 0), Verdict::Ask, "a clock that went back is no reason to give up");
        assert_eq!(judge(&[old, new, other], 1001), Verdict::Ambiguous(2));
    }
}
