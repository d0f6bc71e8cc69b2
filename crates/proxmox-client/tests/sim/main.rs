//! The client against the simulated node, in stories: what two sides built apart must agree on.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed step fails the test")]

mod backups;
mod bench;
mod container;
mod datacenter;
mod faults;
mod host;
mod machine;
mod power;
mod trust;

use std::collections::{BTreeMap, BTreeSet};

use proxmox_client::catalog;
use pve_sim::world::Release;
use tokio::sync::OnceCell;

use bench::{BEYOND, Effect, NEEDS, Notes};

/// Each story is told once for each release, whoever asks first; the others wait for it. Tests begin in
/// the order of their names, so those that want all of them come last and find most of it done.
macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        mod told {
            use super::*;
            $(pub(super) mod $name {
                use super::*;
                static V8: OnceCell<Notes> = OnceCell::const_new();
                static V9: OnceCell<Notes> = OnceCell::const_new();

                pub(in super::super) async fn v8() -> &'static Notes {
                    V8.get_or_init(|| crate::$name::story(Release::V8)).await
                }

                pub(in super::super) async fn v9() -> &'static Notes {
                    V9.get_or_init(|| crate::$name::story(Release::V9)).await
                }

                #[tokio::test]
                async fn on_8() {
                    v8().await;
                }

                #[tokio::test]
                async fn on_9() {
                    v9().await;
                }
            })*
        }

        async fn all() -> Vec<&'static Notes> {
            vec![$(told::$name::v8().await, told::$name::v9().await),*]
        }
    };
}

stories!(backups, container, datacenter, faults, host, machine, power, trust);

/// Privileges that a call lists and whose loss changes nothing, and why.
const NOT_MISSED: &[(&str, &[&str], &str)] = &[
    (
        "download-url",
        &["Sys.Audit"],
        "Sys.AccessNetwork, which the probe holds too, stands for it and Sys.Modify",
    ),
    ("prune preview", EITHER, "one of the two will do"),
    ("storage configs", EITHER, "one of the two will do"),
    ("storage content", EITHER, "one of the two will do"),
    ("storage list", EITHER, "one of the two will do"),
    ("storage status", EITHER, "one of the two will do"),
    ("vzdump defaults", EITHER, "one of the two will do"),
];

const EITHER: &[&str] = &["Datastore.AllocateSpace", "Datastore.Audit"];

/// Refused without saying what lacks: several rights would do, and Proxmox names none of them.
const NOT_NAMED: &[(&str, &[&str])] = &[
    ("lxc clone", &["VM.Allocate"]),
    ("lxc create", &["VM.Allocate", NEEDS]),
    ("qemu clone", &["VM.Allocate"]),
    ("qemu create", &["VM.Allocate"]),
    // A token is not the user it belongs to, who could read it.
    ("token", &[BEYOND]),
];

#[tokio::test]
async fn when_all_is_told_every_call_of_the_catalogue_was_made() {
    let called: BTreeSet<&str> = all().await.iter().flat_map(|notes| notes.called.iter().copied()).collect();
    let missing: Vec<&str> =
        catalog::shapes().map(|shape| shape.name).filter(|name| !called.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
}

fn flat<'a>(pairs: impl Iterator<Item = (&'a str, &'a [&'a str])>) -> BTreeSet<(&'a str, &'a str)> {
    pairs.flat_map(|(name, lost)| lost.iter().map(move |one| (name, *one))).collect()
}

/// Without any one of what a call lists (or all of it, or all beyond the role) some story was refused
/// with a class that names it, failed in the task, or was shown less. That it needs no more than it
/// lists is shown by every call of every story: it is made once with exactly that.
#[tokio::test]
async fn when_all_is_told_what_a_call_says_it_needs_is_needed() {
    let mut seen: BTreeMap<(&str, &str), BTreeSet<Effect>> = BTreeMap::new();
    for notes in all().await {
        for (key, effects) in &notes.rights {
            seen.entry(*key).or_default().extend(effects);
        }
    }
    let only = |effect: Effect| {
        let such =
            |effects: &BTreeSet<Effect>| effects.iter().all(|one| [effect, Effect::Same].contains(one));
        let keys = seen.iter().filter(|(_, effects)| such(effects) && effects.contains(&effect));
        keys.map(|(key, _)| *key).collect::<BTreeSet<_>>()
    };
    let idle: BTreeSet<_> =
        seen.iter().filter(|(_, e)| e.iter().all(|e| *e == Effect::Same)).map(|(k, _)| *k).collect();
    assert_eq!(idle, flat(NOT_MISSED.iter().map(|(name, lost, _)| (*name, *lost))));
    assert_eq!(only(Effect::Unnamed), flat(NOT_NAMED.iter().copied()));
    // Only Proxmox's own worker knows whose backup it makes.
    assert_eq!(only(Effect::InTask), [("vzdump", "VM.Backup")].into());
}
