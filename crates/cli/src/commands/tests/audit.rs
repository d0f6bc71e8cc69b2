//! A hub that shortens, forks, hides and swaps history; and the same log, exported and compared.

use std::path::{Path, PathBuf};

use authz::{Checkpoint, Order};
use protocol::{Note, Sha256, Signed};

use super::super::fake_hub::{FakeHub, Says, Spoiler, no};
use super::{Desk, text};
use crate::error::{Failure, alarm_status};
use crate::history::HistoryError;
use crate::testing::{done, ended, host_key, mallory, receipt, view};

impl Desk {
    /// Submits the order again; each time the host logs another end of it.
    async fn submits(&self, order: &Path) -> Result<crate::error::Answer, Failure> {
        self.run(&["submit", text(order), "--timeout", "2s"]).await
    }

    fn says<T>(&self, f: impl FnOnce(&mut Says) -> T) -> T {
        f(&mut self.hub.says.lock().unwrap())
    }

    fn kept(&self) -> String {
        let file = format!("home/logs/{}.1.json", "01".repeat(16));
        std::fs::read_to_string(self.path(&file)).unwrap_or_default()
    }

    async fn honest() -> (Self, PathBuf) {
        let desk = Self::ready().await;
        let order = desk.signed_order().await;
        desk.judged_by(|op| receipt(1, None, ended(op, done())));
        for _ in 0..4 {
            let answer = desk.submits(&order).await.unwrap();
            assert!(answer.failures.is_empty(), "{answer:?}");
        }
        (desk, order)
    }
}

fn history(error: &Failure) -> &HistoryError {
    assert_eq!(alarm_status(error), Some(3));
    assert!(error.to_string().starts_with("HISTORY NOT BELIEVED: "), "{error}");
    match error {
        Failure::History(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn success_is_printed_with_its_proof_and_remembered() {
    let (desk, order) = Desk::honest().await;
    let answer = desk.submits(&order).await.unwrap();
    assert!(answer.stdout.contains("proven to be in the log of 5 entries"), "{answer:?}");
    assert!(desk.kept().contains("\\n5\\n"), "{}", desk.kept());
    let op = Sha256::of(&std::fs::read(&order).unwrap()).to_string();
    let page = desk.run(&["order", "web1", &op, "--wait", "--json"]).await.unwrap().stdout;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!((&page["success"], &page["proof"]["size"]), (&true.into(), &5.into()));
    // What is prepared next names what this machine knows, so that a host behind it refuses.
    desk.run(&["op", "guest.start", "web1", "101", "-o", text(&desk.path("next.json"))]).await.unwrap();
    let next = Order::decode(&std::fs::read(desk.path("next.json")).unwrap()).unwrap();
    let last = desk.says(|says| Sha256::of(&says.log.last().unwrap().payload.0));
    let after = next.after.unwrap();
    assert_eq!((after.size, after.head, after.strict), (5, last, false));
}

/// 4.8 log, 4.12 fork and rollback: whatever the hub shows, the first story is kept.
#[tokio::test]
async fn a_shorter_or_forked_history_is_an_alarm_and_the_old_one_is_kept() {
    let (desk, order) = Desk::honest().await;
    let kept = desk.kept();
    // An old copy, and an emptied one.
    for size in [3, 1] {
        desk.says(|says| says.shows_size = Some(size));
        let error = desk.run(&["audit", "log", "web1"]).await.unwrap_err();
        assert!(matches!(history(&error), HistoryError::Shrunk { kept: 4, .. }), "{error}");
        let error = desk.submits(&order).await.unwrap_err();
        assert!(
            matches!(history(&error), HistoryError::Shrunk { kept: 4, shown, .. } if *shown == size),
            "{error}"
        );
        assert!(error.to_string().contains("writ audit forget web1"), "{error}");
        assert_eq!(desk.kept(), kept);
    }
    desk.says(|says| says.shows_size = Some(4));
    desk.says(|says| says.shows_fork = Some(Sha256::of(b"another entry")));
    let error = desk.submits(&order).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::Forked { size: 4, .. }), "{error}");
    assert_eq!(desk.kept(), kept);
    // The fork, grown: no proof leads from the one to the other.
    desk.says(|says| {
        says.shows_size = None;
        says.log.remove(2);
        says.shows_fork = None;
    });
    let error = desk.submits(&order).await.unwrap_err();
    let named = matches!(
        history(&error),
        HistoryError::NotContinued { kept: 4, .. } | HistoryError::NotIncluded { .. }
    );
    assert!(named, "{error}");
    assert_eq!(desk.kept(), kept);
}

#[tokio::test]
async fn a_hub_without_the_right_proof_proves_nothing() {
    let (desk, order) = Desk::honest().await;
    let kept = desk.kept();
    let spoilers: [Spoiler; 4] = [
        Box::new(|_| vec![]),
        Box::new(|mut hashes| {
            hashes.push(Sha256::of(b"x"));
            hashes
        }),
        Box::new(|mut hashes| {
            hashes.pop();
            hashes
        }),
        Box::new(|hashes| hashes.iter().map(|hash| Sha256::of(hash.as_bytes())).collect()),
    ];
    for spoil in spoilers {
        desk.says(|says| says.spoils = Some(spoil));
        let error = desk.submits(&order).await.unwrap_err();
        assert!(matches!(history(&error), HistoryError::NotIncluded { .. }), "{error}");
        assert_eq!(desk.kept(), kept);
    }
    desk.says(|says| {
        says.spoils = None;
        says.denies_proof = Some(no(404, "no_proof"));
    });
    let error = desk.submits(&order).await.unwrap_err();
    assert!(history(&error).to_string().contains("gives no proof"), "{error}");
    // Forged, foreign, of another key: not the host's word.
    let size = desk.says(|says| {
        says.denies_proof = None;
        says.log.len() as u64
    });
    let checkpoint = Checkpoint { size, root: Sha256::of(b"r") };
    let origin = crate::history::origin(&crate::testing::believed(1, "web1"));
    for (lie, included) in [
        (checkpoint.sign(&origin, &mallory()), false),
        (checkpoint.sign(&authz::Origin { generation: 2, ..origin }, &host_key(1)), false),
        ("— hello\n".parse::<Note>().unwrap(), false),
        // The host's own signature over another log.
        (checkpoint.sign(&origin, &host_key(1)), true),
    ] {
        desk.says(|says| says.checkpoint = Some(lie));
        let error = desk.submits(&order).await.unwrap_err();
        let (forged, not_included) = match history(&error) {
            HistoryError::Checkpoint { .. } => (true, false),
            HistoryError::NotIncluded { .. } | HistoryError::NotContinued { .. } => (false, true),
            other => panic!("{other}"),
        };
        assert_eq!((forged, not_included), (!included, included), "{error}");
        assert_eq!(desk.kept(), kept);
    }
}

/// A stale checkpoint that contradicts nothing is waited for; a success outside the log is none.
#[tokio::test]
async fn without_a_proof_there_is_no_success() {
    let desk = Desk::ready().await;
    let order = desk.signed_order().await;
    desk.judged_by(|op| receipt(1, None, ended(op, done())));
    desk.submits(&order).await.unwrap();
    desk.says(|says| says.shows_size = Some(1));
    let error = desk.submits(&order).await.unwrap_err();
    assert!(matches!(&error, Failure::Timeout { what, .. } if what.contains("no proof")), "{error}");
    assert!(error.to_string().contains("covers 1 entries, this is entry 1"), "{error}");
    // A hub that holds no checkpoint at all.
    desk.says(|says| says.shows_size = Some(0));
    let error = desk.submits(&order).await.unwrap_err();
    assert!(error.to_string().contains("no checkpoint"), "{error}");
    desk.says(|says| {
        says.shows_size = None;
        says.unlogged = true;
    });
    let error = desk.submits(&order).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::Unlogged { .. }), "{error}");
}

/// 4.12: a machine that lost its memory believes the first thing it sees; comparing finds the split.
#[tokio::test]
async fn a_split_view_is_found_by_comparing() {
    let (alice, order) = Desk::honest().await;
    // A second machine, to which the hub tells another story from entry 2 on.
    let bob = Desk::ready().await;
    let bobs = bob.signed_order().await;
    bob.judged_by(|op| receipt(1, None, ended(op, done())));
    let log: Vec<Signed> = alice.says(|says| says.log[..2].to_vec());
    bob.says(|says| says.log = log);
    for _ in 0..3 {
        bob.submits(&bobs).await.unwrap();
    }
    let theirs = bob.run(&["audit", "checkpoint", "web1"]).await.unwrap().stdout;
    let file = alice.path("bob.note");
    std::fs::write(&file, &theirs).unwrap();
    let error = alice.run(&["audit", "compare", text(&file)]).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::NotContinued { .. }), "{error}");
    // Of the same length it takes no hub to see it.
    alice.submits(&order).await.unwrap();
    let error = alice.run(&["audit", "compare", "--checkpoint", text(&file)]).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::Forked { size: 5, .. }), "{error}");
    // One story: older, same and newer.
    let mine = alice.run(&["audit", "checkpoint", "web1"]).await.unwrap().stdout;
    std::fs::write(&file, &mine).unwrap();
    assert!(alice.run(&["audit", "compare", text(&file)]).await.unwrap().stdout.contains("is the same"));
    alice.submits(&order).await.unwrap();
    let said = alice.run(&["audit", "compare", text(&file)]).await.unwrap().stdout;
    assert!(said.contains("continues the 5 in"), "{said}");
    // What is not the host's is no checkpoint to compare with.
    for bad in ["", "x\n", &mine.replace("\n5\n", "\n4\n"), &mine.replace("/key/1", "/key/2")] {
        std::fs::write(&file, bad).unwrap();
        let error = alice.run(&["audit", "compare", text(&file)]).await.unwrap_err();
        assert!(matches!(error, Failure::Other(_)), "{bad:?}: {error}");
    }
    // Lost state: nothing to compare with, and said so; then the next view is the first.
    std::fs::write(&file, &mine).unwrap();
    assert!(alice.run(&["audit", "forget", "web1"]).await.unwrap().stdout.contains("without comparison"));
    let error = alice.run(&["audit", "compare", text(&file)]).await.unwrap_err().to_string();
    assert!(error.contains("nothing to compare"), "{error}");
    assert!(alice.run(&["audit", "forget", "web1"]).await.is_err());
    alice.says(|says| says.shows_size = Some(2));
    let shown = alice.run(&["audit", "log", "web1"]).await.unwrap();
    assert!(shown.failures.is_empty() && alice.kept().contains("\\n2\\n"), "{shown:?}");
}

/// 4.12: a new key starts a new log, and an old key does not come back.
#[tokio::test]
async fn a_new_key_generation_starts_anew_and_an_old_one_does_not_come_back() {
    let (desk, order) = Desk::honest().await;
    let kept = desk.kept();
    // What this machine saw under generation 7 of the same host.
    let seven = format!("home/logs/{}.7.json", "01".repeat(16));
    std::fs::write(desk.path(&seven), &kept).unwrap();
    std::fs::remove_file(desk.path(&format!("home/logs/{}.1.json", "01".repeat(16)))).unwrap();
    let error = desk.submits(&order).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::OlderKey { kept: 7, shown: 1, .. }), "{error}");
    // A lower one: a new log, which is said (on stderr) and believed.
    std::fs::rename(desk.path(&seven), desk.path(&seven.replace(".7.", ".0."))).unwrap();
    desk.submits(&order).await.unwrap();
    // The kept one is by another key than the operators state now.
    let other = Checkpoint { size: 1, root: Sha256::of(b"r") };
    let origin = crate::history::origin(&crate::testing::believed(1, "web1"));
    let note = other.sign(&origin, &mallory());
    let file = serde_json::json!({"v": 1, "note": note, "anchor": null, "seen_at": 1});
    std::fs::write(desk.path(&format!("home/logs/{}.1.json", "01".repeat(16))), file.to_string()).unwrap();
    let error = desk.submits(&order).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::Kept { .. }), "{error}");
}

#[tokio::test]
async fn an_exported_log_is_verified_without_a_hub() {
    let desk = Desk::ready().await;
    let mut prev = Sha256::from_bytes([0; 32]);
    let entries: Vec<Signed> = (0..5u64)
        .map(|seq| {
            let signed = receipt(1, Some((seq, prev)), ended(Sha256::of(&seq.to_be_bytes()), done()));
            prev = Sha256::of(&signed.payload.0);
            signed
        })
        .collect();
    desk.says(|says| (says.receipts, says.held) = (entries.clone(), 5));
    let shown = desk.run(&["audit", "log", "web1"]).await.unwrap();
    assert!(shown.failures.is_empty() && shown.stdout.contains("the first 5 are the log"), "{shown:?}");
    let out = desk.path("out");
    desk.run(&["audit", "export", "web1", text(&out)]).await.unwrap();
    assert!(
        desk.run(&["audit", "export", "web1", text(&out)])
            .await
            .unwrap_err()
            .to_string()
            .contains("not empty")
    );
    desk.says(|says| says.hosts.clear());
    let good = desk.run(&["audit", "verify", text(&out)]).await.unwrap();
    assert!(good.failures.is_empty(), "{good:?}");
    for says in [
        "All is well",
        "5 entries of host",
        "'web1' by the word of operator alice",
        "root ",
        "that this machine saw",
    ] {
        assert!(good.stdout.contains(says), "{says:?} is missing in\n{}", good.stdout);
    }
    let page = desk.run(&["audit", "verify", text(&out), "--json"]).await.unwrap().stdout;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(
        (&page["size"], &page["checkpoint"], &page["problems"]),
        (&5.into(), &5.into(), &serde_json::json!([]))
    );

    // Shortened: the checkpoint in it tells, and without that what this machine saw.
    let lines = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let cut: String = lines.split_inclusive('\n').take(3).collect();
    std::fs::write(out.join("log.jsonl"), &cut).unwrap();
    let short = desk.run(&["audit", "verify", text(&out)]).await.unwrap();
    assert!(short.alarm && short.failures[0].contains("over 5 entries, and only 3 good ones"), "{short:?}");
    std::fs::remove_file(out.join("checkpoint")).unwrap();
    let short = desk.run(&["audit", "verify", text(&out)]).await.unwrap();
    assert!(short.alarm && short.failures[0].contains("this machine saw"), "{short:?}");
    // With the key by hand nothing of this machine is asked: a copy of a warden's state, say.
    std::fs::remove_file(out.join("host.json")).unwrap();
    let key = host_key(1).public().to_string();
    let bare = desk.run(&["audit", "verify", text(&out), "--host-key", &key]).await.unwrap();
    assert!(bare.failures.is_empty() && bare.stdout.contains("no checkpoint"), "{bare:?}");
    std::fs::write(desk.path("host.pub"), format!("{key} host\n")).unwrap();
    let file = desk.path("host.pub");
    desk.run(&["audit", "verify", text(&out), "--host-key", text(&file)]).await.unwrap();
    let wrong = mallory().public().to_string();
    let bad = desk.run(&["audit", "verify", text(&out), "--host-key", &wrong]).await.unwrap();
    assert!(bad.failures[0].starts_with("entry 0: the receipt is not signed by"), "{bad:?}");
    // Known to this machine by name.
    let known = desk.run(&["audit", "verify", text(&out)]).await.unwrap();
    assert!(known.stdout.contains("known to this machine"), "{known:?}");
    // A statement by somebody who may not make it.
    let statement = authz::statement::sign_host(&crate::testing::statement(1, "web1"), &mallory());
    std::fs::write(out.join("host.json"), serde_json::to_vec(&statement).unwrap()).unwrap();
    let error = desk.run(&["audit", "verify", text(&out)]).await.unwrap_err().to_string();
    assert!(error.contains("host.json") && error.contains("nobody vouches"), "{error}");
    for (file, bytes) in [
        ("host.json", &b"{}"[..]),
        ("host.json", b"\xff"),
        ("checkpoint", b"\x07"),
        ("checkpoint", &[b'x'; 5000]),
    ] {
        let before = std::fs::read(out.join(file)).ok();
        std::fs::write(out.join(file), bytes).unwrap();
        assert!(desk.run(&["audit", "verify", text(&out)]).await.is_err(), "{file}");
        match before {
            Some(before) => std::fs::write(out.join(file), before).unwrap(),
            None => std::fs::remove_file(out.join(file)).unwrap(),
        }
    }
    std::fs::remove_file(out.join("log.jsonl")).unwrap();
    assert!(desk.run(&["audit", "verify", text(&out)]).await.is_err());
}

/// The entries that the hub lists are not the log that the host signed.
#[tokio::test]
async fn other_entries_than_those_under_the_checkpoint_are_an_alarm() {
    let desk = Desk::at(FakeHub::start().await);
    desk.login().await.unwrap();
    let zero = Sha256::from_bytes([0; 32]);
    let first = receipt(1, Some((0, zero)), ended(Sha256::of(b"a"), done()));
    let other = receipt(1, Some((0, zero)), ended(Sha256::of(b"b"), done()));
    desk.says(|says| {
        says.hosts = vec![view(1, "web1")];
        (says.receipts, says.held) = (vec![first], 1);
        says.shows_fork = Some(authz::merkle::leaf_hash(&other.payload.0));
    });
    let error = desk.run(&["audit", "log", "web1"]).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::OtherEntries { size: 1, .. }), "{error}");
    // The export is evidence, and says so.
    let out = desk.path("out");
    let error = desk.run(&["audit", "export", "web1", text(&out)]).await.unwrap_err();
    assert!(matches!(history(&error), HistoryError::OtherEntries { .. }), "{error}");
    let page = desk.run(&["audit", "verify", text(&out)]).await.unwrap();
    assert!(page.failures[0].contains("forked"), "{page:?}");
    // Fewer than the host signed.
    let size = Checkpoint { size: 3, root: Sha256::of(b"r") };
    let origin = crate::history::origin(&crate::testing::believed(1, "web1"));
    desk.says(|says| says.checkpoint = Some(size.sign(&origin, &host_key(1))));
    let answer = desk.run(&["receipts", "web1"]).await.unwrap();
    assert!(answer.failures[0].contains("entry 1") || answer.failures[0].contains("missing"), "{answer:?}");
}
