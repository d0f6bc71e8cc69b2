//! The recorded hosts as they were before the first request.

use std::collections::BTreeSet;

use pve_sim::world::{Pool, Release, Storage, World};
use serde_json::Value;

use crate::recording::Recording;

pub(crate) const TEMPLATE: &str = "local:vztmpl/busybox-tiny_1.0_amd64.tar.gz";

/// The node a recording was made on: no guests, two storages, the users and tokens.
pub(crate) fn host(release: Release, recording: &Recording) -> World {
    let mut w = World::empty([7; 32]);
    w.set_release(release);
    w.node = if release == Release::V8 { "pve8" } else { "pve1" }.to_owned();
    let all = "vztmpl,backup,snippets,images,rootdir,iso";
    let local = Storage::new("dir", all, 270_553_174_016).with("prune-backups", "keep-all=1");
    w.storages.insert("local".to_owned(), local);
    let btr = Storage::new("btrfs", "rootdir,images", 3_221_225_472).with("path", "/mnt/btr");
    w.storages.insert("btr".to_owned(), btr);
    w.add_volume(TEMPLATE, 1_067_341, 1_795_317_210);

    let name = if release == Release::V8 { "permissions" } else { "permissions-full" };
    let named = recording.exchanges.iter().find(|e| e.name == name).unwrap();
    let full = match &named.answer["data"]["/"] {
        Value::Object(full) => full.clone(),
        _ => named.answer["data"]["/vms"].as_object().unwrap().clone(),
    };
    let a = &mut w.access;
    a.roles.insert("Tester".to_owned(), full.keys().cloned().collect());
    a.roles.insert("Snapshots".to_owned(), words(&["VM.Snapshot", "VM.Audit"]));
    a.roles.insert("Backups".to_owned(), words(&["VM.Backup", "VM.Audit", "Datastore.AllocateSpace"]));
    for user in ["tester@pve", "limited@pve", "root@pam"] {
        a.add_user(user);
    }
    let root = a.users.get_mut("root@pam").unwrap();
    root.details.insert("email".to_owned(), "root@example.test".to_owned());
    let tester = a.users.get_mut("tester@pve").unwrap();
    tester.password = Some("example-password".to_owned());
    tester.details.insert("email".to_owned(), String::new());
    tester.details.insert("comment".to_owned(), "test user".to_owned());
    a.grant("/", "root@pam", "Administrator");
    a.grant("/", "tester@pve", "Tester");
    for (token, secret) in &recording.tokens {
        let expire = i64::from(token.ends_with("!expired"));
        a.add_token(token, Some(secret), expire);
    }
    for (token, role) in [
        ("tester@pve!full", "Tester"),
        ("tester@pve!ro", "PVEAuditor"),
        ("tester@pve!snap", "Snapshots"),
        ("root@pam!admin", "Administrator"),
    ] {
        a.grant("/", token, role);
    }
    a.pools.insert("lab".to_owned(), Pool::default());
    w
}

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}
