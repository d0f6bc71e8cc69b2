//! The space guard: a snapshot on a full thin pool corrupts every guest on it, so a step that consumes
//! space is refused unless data **and** metadata use of each pool are known and under the bound.
//! Pure; the numbers are read freshly by the caller.

use std::collections::BTreeSet;

use authz::RefusalCode;
use protocol::GuestIdentity;
use proxmox_client::{StorageStatus, ThinPool};

use crate::check::Refused;

/// Checks every storage that the guest has volumes on.
pub fn check(
    identity: &GuestIdentity,
    storages: &[StorageStatus],
    pools: Option<&[ThinPool]>,
    max_percent: u32,
) -> Result<(), Refused> {
    let names: BTreeSet<&str> = identity
        .volids
        .iter()
        .filter_map(|volid| volid.split_once(':'))
        .map(|(storage, _)| storage)
        .collect();
    if names.is_empty() {
        return Err(unknown("the guest's storage is not known"));
    }
    for name in names {
        room(name, 0, storages, pools, max_percent)?;
    }
    Ok(())
}

/// Checks that a storage and its pool are under the bound with so many bytes more.
pub fn room(
    name: &str,
    bytes: u64,
    storages: &[StorageStatus],
    pools: Option<&[ThinPool]>,
    max_percent: u32,
) -> Result<(), Refused> {
    let storage = storages
        .iter()
        .find(|storage| storage.storage == name)
        .ok_or_else(|| unknown(&format!("storage {name} is not listed")))?;
    if storage.active != Some(true) {
        return Err(unknown(&format!("storage {name} is not active")));
    }
    let total = storage.total.filter(|total| *total > 0);
    let (Some(total), Some(used)) = (total, storage.used) else {
        return Err(unknown(&format!("the use of storage {name} is not known")));
    };
    within(&format!("storage {name}"), used, bytes, total, max_percent)?;
    if storage.plugin.as_deref() == Some("lvmthin") {
        thin_pool(name, total, bytes, pools, max_percent)?;
    } else if storage.plugin.is_none() {
        return Err(unknown(&format!("the kind of storage {name} is not known")));
    }
    Ok(())
}

/// A storage does not say which pool it is on; every pool of its size has to be under the bound.
fn thin_pool(
    storage: &str,
    total: u64,
    bytes: u64,
    pools: Option<&[ThinPool]>,
    max_percent: u32,
) -> Result<(), Refused> {
    let pools = pools.ok_or_else(|| unknown("the thin pools could not be read (needs Sys.Audit on /)"))?;
    let mut candidates = pools.iter().filter(|pool| pool.lv_size == Some(total)).peekable();
    if candidates.peek().is_none() {
        return Err(unknown(&format!("the thin pool of storage {storage} is not known")));
    }
    for pool in candidates {
        let what = format!("thin pool {}", pool.lv);
        let known =
            |value: Option<u64>| value.ok_or_else(|| unknown(&format!("the use of {what} is not known")));
        within(&what, known(pool.used)?, bytes, total, max_percent)?;
        let metadata = known(pool.metadata_size.filter(|size| *size > 0))?;
        within(&format!("metadata of {what}"), known(pool.metadata_used)?, 0, metadata, max_percent)?;
    }
    Ok(())
}

/// `more` is what the step adds; 0 where nobody can say.
fn within(what: &str, used: u64, more: u64, total: u64, max_percent: u32) -> Result<(), Refused> {
    let percent = u128::from(used) * 100 / u128::from(total);
    let after = (u128::from(used) + u128::from(more)) * 100 / u128::from(total);
    if after >= u128::from(max_percent) {
        if after > percent {
            return Err((
                RefusalCode::Space,
                format!(
                    "{what} is {percent} % full and would be {after} % full, and the bounds stop at {max_percent} % \
                     (rule bounds.max_pool_used_percent): make room first"
                ),
            ));
        }
        return Err((
            RefusalCode::Space,
            format!(
                "{what} is {percent} % full and the bounds stop at {max_percent} % \
                 (rule bounds.max_pool_used_percent): make room first"
            ),
        ));
    }
    Ok(())
}

fn unknown(why: &str) -> Refused {
    (RefusalCode::Space, format!("{why}, so nobody can say that there is room: not done"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(plugin: &str, used: u64) -> StorageStatus {
        serde_json::from_value(serde_json::json!({
            "storage": "s", "type": plugin, "active": 1, "total": 1000, "used": used
        }))
        .unwrap()
    }

    fn pool(used: u64, metadata: u64) -> ThinPool {
        ThinPool {
            lv: "data".into(),
            lv_size: Some(1000),
            used: Some(used),
            metadata_size: Some(100),
            metadata_used: Some(metadata),
            ..ThinPool::default()
        }
    }

    fn run(storage: StorageStatus, pools: Option<&[ThinPool]>) -> Result<(), String> {
        let identity = GuestIdentity { volids: vec!["s:vm-100-disk-0".into()], ..GuestIdentity::default() };
        check(&identity, &[storage], pools, 80).map_err(|(code, why)| {
            assert_eq!(code, RefusalCode::Space);
            why
        })
    }

    /// What a step adds counts before it is there.
    #[test]
    fn room_must_be_free_afterwards_too() {
        let pools = [pool(700, 10)];
        let run = |bytes, plugin: &str| room("s", bytes, &[storage(plugin, 700)], Some(&pools), 80);
        for plugin in ["zfspool", "lvmthin"] {
            run(99, plugin).unwrap();
            let (code, why) = run(100, plugin).unwrap_err();
            assert_eq!(code, RefusalCode::Space);
            assert!(why.contains("70 % full and would be 80 % full"), "{why}");
            assert!(run(u64::MAX, plugin).is_err());
        }
        assert!(room("t", 0, &[storage("dir", 0)], None, 80).unwrap_err().1.contains("not listed"));
    }

    #[test]
    fn room_must_be_known_and_free() {
        run(storage("zfspool", 799), None).unwrap();
        run(storage("lvmthin", 799), Some(&[pool(799, 79)])).unwrap();
        let cases: [(StorageStatus, Option<Vec<ThinPool>>, &str); 8] = [
            (storage("zfspool", 800), None, "80 % full"),
            (storage("lvmthin", 100), None, "could not be read"),
            (storage("lvmthin", 100), Some(vec![]), "not known"),
            (storage("lvmthin", 100), Some(vec![pool(100, 80)]), "metadata of thin pool data is 80 %"),
            (storage("lvmthin", 100), Some(vec![pool(100, 10), pool(900, 10)]), "90 % full"),
            (StorageStatus { active: Some(false), ..storage("dir", 1) }, None, "not active"),
            (StorageStatus { used: None, ..storage("dir", 1) }, None, "not known"),
            (StorageStatus { plugin: None, ..storage("dir", 1) }, None, "kind of storage"),
        ];
        for (storage, pools, says) in cases {
            let why = run(storage, pools.as_deref()).unwrap_err();
            assert!(why.contains(says), "{why:?} should say {says:?}");
        }
        let elsewhere = GuestIdentity { volids: vec!["other:x".into()], ..GuestIdentity::default() };
        assert!(check(&elsewhere, &[storage("dir", 1)], None, 80).is_err());
        assert!(check(&GuestIdentity::default(), &[storage("dir", 1)], None, 80).is_err());
    }
}
