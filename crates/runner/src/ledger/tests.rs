use std::path::PathBuf;

use authz::files::layer::Disk;
use authz::journal::{AGE, FLOOR_MARGIN, NonceJournal, RECORD};
use authz::{Authorized, Kind, Order};
use protocol::Nonce;

use super::*;
use crate::testing::{self, NOW};

fn authorized(nonce: u8) -> Authorized<Order> {
    let mut order = testing::job(b"true\n");
    order.nonce = Nonce::from_bytes([nonce; 16]);
    crate::checks::verify(&testing::sign(&order), &testing::anchor(), &testing::floor(), Kind::JobRun, NOW)
        .unwrap()
}

/// Something that ran in another boot, so that nothing can be killed by it.
fn leftover() -> Leftover {
    let id = serde_json::json!({"pid": 2, "start": 1});
    serde_json::from_value(serde_json::json!({
        "token": "00112233445566778899aabbccddeeff",
        "boot": "00000000-0000-0000-0000-000000000000",
        "supervisor": id, "main": id, "cgroup": null, "dir": null, "uid": 0, "socket": null,
    }))
    .unwrap()
}

fn ended() -> Stage {
    Stage::Ended { sealed: b"sealed".to_vec().into(), duration_ms: 5 }
}

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        drop(Ledger::create(dir.path(), NOW).unwrap());
        Self { dir }
    }

    fn open(&self) -> Result<Ledger, LedgerError> {
        Ledger::open(self.dir.path(), NOW, &BTreeMap::new())
    }

    fn journal(&self) -> PathBuf {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        files
            .map(|file| file.unwrap().path())
            .find(|path| path.extension().is_some_and(|e| e == "seg"))
            .unwrap()
    }

    /// Says the same with and without opening: why it is closed.
    fn closed(&self) -> String {
        let inspected = Ledger::inspect(self.dir.path()).unwrap_err().to_string();
        assert_eq!(self.open().unwrap_err().to_string(), inspected);
        inspected
    }
}

#[test]
fn a_burned_nonce_stays_burned() {
    let rig = Rig::new();
    let (one, same_nonce) = (authorized(1), {
        let mut order = testing::job(b"false\n");
        order.nonce = Nonce::from_bytes([1; 16]);
        crate::checks::verify(
            &testing::sign(&order),
            &testing::anchor(),
            &testing::floor(),
            Kind::JobRun,
            NOW,
        )
        .unwrap()
    });
    let nonce = one.get().nonce;
    let mut ledger = rig.open().unwrap();
    assert_eq!(ledger.replayed(&nonce, one.op()), None);
    ledger.burn(&one).unwrap();
    assert!(ledger.burn(&one).is_err() && ledger.burn(&same_nonce).is_err());
    drop(ledger);
    let ledger = rig.open().unwrap();
    assert!(ledger.knows(one.op()) && !ledger.knows(same_nonce.op()));
    assert!(ledger.replayed(&nonce, one.op()).unwrap().contains("was accepted before"));
    assert!(ledger.replayed(&nonce, same_nonce.op()).unwrap().contains("by another order"));
    assert_eq!(ledger.replayed(&authorized(2).get().nonce, one.op()), None);
}

/// What a crash leaves at each point, and what is said of it afterwards, for ever.
#[test]
fn an_interrupted_script_is_settled_once() {
    let rig = Rig::new();
    let orders: Vec<_> = (1..=6).map(authorized).collect();
    let ops: Vec<Sha256> = orders.iter().map(|order| *order.op()).collect();
    let mut ledger = rig.open().unwrap();
    orders.iter().skip(1).for_each(|order| ledger.burn(order).unwrap());
    let stages = [
        Stage::Accepted {}, // and not burned
        Stage::Accepted {},
        Stage::Starting {},
        Stage::Started { leftover: leftover() },
        ended(),
        Stage::NotStarted { why: "earlier".into() },
    ];
    for (op, stage) in ops.iter().zip(&stages) {
        ledger.jobs().write(op, stage).unwrap();
    }
    drop(ledger);
    let (burned, inspected) = Ledger::inspect(rig.dir.path()).unwrap();
    assert_eq!((burned, inspected.len()), (5, 6), "looking changes nothing");

    let told = kill_leftovers(rig.dir.path());
    assert_eq!(told.keys().collect::<Vec<_>>(), [&ops[3]]);
    let ledger = Ledger::open(rig.dir.path(), NOW, &told).unwrap();
    let read = |op: &Sha256| ledger.jobs().read(op).unwrap();
    assert_eq!(read(&ops[0]), None, "it may come again");
    assert!(matches!(read(&ops[1]), Some(Stage::NotStarted { why }) if why.contains("before it started")));
    assert!(matches!(read(&ops[2]), Some(Stage::Unknown { .. })));
    assert!(
        matches!(read(&ops[3]), Some(Stage::Unknown { why }) if why.contains("nothing of it runs any more"))
    );
    assert_eq!(read(&ops[4]), Some(ended()));
    assert_eq!(read(&ops[5]), Some(stages[5].clone()));
    let before: Vec<_> = ops.iter().map(read).collect();
    drop(ledger);
    assert!(kill_leftovers(rig.dir.path()).is_empty());
    let ledger = rig.open().unwrap();
    assert_eq!(ops.iter().map(|op| ledger.jobs().read(op).unwrap()).collect::<Vec<_>>(), before);

    for op in &ops {
        ledger.jobs().remove(op).unwrap();
        ledger.jobs().remove(op).unwrap();
    }
    assert_eq!(ledger.jobs().list().unwrap(), []);
    assert!(ledger.knows(&ops[4]), "forgotten, and still burned");
}

#[test]
fn a_journal_that_lost_something_is_no_journal() {
    let rig = Rig::new();
    let order = authorized(1);
    let ledger = rig.open().unwrap();
    ledger.jobs().write(order.op(), &ended()).unwrap();
    drop(ledger);
    let why = rig.closed();
    assert!(why.contains("journal does not know") && why.contains("start over"), "{why}");
}

#[test]
fn damaged_files_close_the_ledger() {
    let rig = Rig::new();
    let order = authorized(1);
    let mut ledger = rig.open().unwrap();
    ledger.burn(&order).unwrap();
    ledger.jobs().write(order.op(), &ended()).unwrap();
    drop(ledger);
    let jobs = rig.dir.path().join(Stage::DIRECTORY);
    let good = jobs.join(format!("{}.json", order.op()));
    let text = std::fs::read_to_string(&good).unwrap();
    for bad in [
        String::new(),
        text[..text.len() / 2].to_owned(),
        text.replace("\"v\":1", "\"v\":2"),
        text.replace("ended", "exploded"),
        text.replace("duration_ms", "duration"),
        text.replace(&order.op().to_string(), &Sha256::of(b"other").to_string()),
        text.replacen('{', "{\"more\":1,", 1),
    ] {
        assert_ne!(bad, text);
        std::fs::write(&good, &bad).unwrap();
        assert!(rig.closed().contains("is damaged"), "{bad}");
    }
    std::fs::write(&good, &text).unwrap();
    // A crash while writing, which nobody was told about.
    std::fs::write(jobs.join(format!(".{}.json.new", order.op())), "{").unwrap();
    drop(rig.open().unwrap());
    std::fs::write(jobs.join("notes.json"), &text).unwrap();
    assert!(rig.closed().contains("notes.json is damaged"));
    std::fs::remove_file(jobs.join("notes.json")).unwrap();
    let large = std::fs::File::options().write(true).open(&good).unwrap();
    large.set_len(Stage::MAX_FILE + 1).unwrap();
    assert!(rig.closed().contains("larger than"));
}

#[test]
fn a_started_script_is_ended_even_where_others_are_damaged() {
    let rig = Rig::new();
    let ledger = rig.open().unwrap();
    let op = *authorized(1).op();
    ledger.jobs().write(&op, &Stage::Started { leftover: leftover() }).unwrap();
    std::fs::write(rig.dir.path().join(Stage::DIRECTORY).join("notes.json"), "x").unwrap();
    std::fs::write(rig.dir.path().join(Stage::DIRECTORY).join(format!("{}.json", Sha256::of(b"x"))), "x")
        .unwrap();
    assert_eq!(kill_leftovers(rig.dir.path()).len(), 1);
    assert!(kill_leftovers(&rig.dir.path().join("nowhere")).is_empty());
}

#[test]
fn a_missing_or_damaged_journal_is_closed_and_a_torn_end_is_not() {
    let rig = Rig::new();
    let mut ledger = rig.open().unwrap();
    for nonce in 1..=3 {
        ledger.burn(&authorized(nonce)).unwrap();
    }
    drop(ledger);
    let path = rig.journal();
    let good = std::fs::read(&path).unwrap();

    let mut bad = good.clone();
    bad[RECORD + 20] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let why = rig.closed();
    assert!(why.contains("damaged at record 1") && why.contains("a day") && !why.contains("warden"), "{why}");

    std::fs::write(&path, [&good[..], &good[..40]].concat()).unwrap();
    assert!(rig.open().unwrap().knows(authorized(3).op()), "an unfinished write was never acknowledged");

    std::fs::remove_file(&path).unwrap();
    let why = rig.closed();
    assert!(why.contains("is missing") && why.contains("start over"), "{why}");
}

#[test]
fn an_interrupted_beginning_is_finished_and_a_history_is_not_a_beginning() {
    for trace in [&b""[..], b"WRJN", &[0; RECORD]] {
        let rig = Rig::new();
        std::fs::write(rig.journal(), trace).unwrap();
        assert!(!Ledger::has_history(rig.dir.path()).unwrap());
        let mut ledger = Ledger::create(rig.dir.path(), NOW).unwrap();
        ledger.burn(&authorized(1)).unwrap();
        drop(ledger);
        assert!(Ledger::has_history(rig.dir.path()).unwrap());
        assert!(rig.open().unwrap().knows(authorized(1).op()));
    }
    let rig = Rig::new();
    drop(Ledger::create(rig.dir.path(), NOW).unwrap());
    assert!(!Ledger::has_history(rig.dir.path()).unwrap(), "begun twice is begun");
    std::fs::write(rig.journal(), [0; RECORD + 1]).unwrap();
    assert!(Ledger::has_history(rig.dir.path()).unwrap(), "damaged, and there was something");
    assert!(Ledger::create(rig.dir.path(), NOW).is_err());

    let rig = Rig::new();
    rig.open().unwrap().jobs().write(authorized(1).op(), &ended()).unwrap();
    std::fs::remove_file(rig.journal()).unwrap();
    assert!(Ledger::has_history(rig.dir.path()).unwrap());
    assert!(!Ledger::has_history(&rig.dir.path().join("nowhere")).unwrap());
}

/// The floor follows what operators sign and survives; what the journal forgot by it stays refused.
#[test]
fn forgotten_nonces_cannot_be_used_again() {
    let rig = Rig::new();
    // The same beginning in segments of two nonces.
    std::fs::remove_file(rig.journal()).unwrap();
    let orders: Vec<_> = (1..=5).map(authorized).collect();
    let mut journal = NonceJournal::create_on(Box::new(Disk), rig.dir.path(), 3).unwrap();
    for order in &orders {
        journal.burn(&order.get().nonce, order.op(), order.get().exp).unwrap();
    }
    drop(journal);
    let mut ledger = rig.open().unwrap();
    let exp = orders[0].get().exp;
    assert_eq!(ledger.floor().at(), NOW, "the orders began before the policy's date");
    ledger.signed_time(NOW + 1_000);
    assert_eq!(ledger.floor().at(), NOW + 1_000);
    assert_eq!(ledger.compact(u64::MAX).unwrap(), 0, "the clock alone forgets nothing");
    drop(ledger);
    assert_eq!(rig.open().unwrap().floor().at(), NOW + 1_000, "it is kept");

    let clock = rig.dir.path().join("clock.json");
    let floor = exp + FLOOR_MARGIN + 1;
    std::fs::write(&clock, format!(r#"{{"at":{floor},"since":0,"boot_id":"earlier"}}"#)).unwrap();
    let mut ledger = rig.open().unwrap();
    ledger.jobs().write(orders[0].op(), &ended()).unwrap();
    assert_eq!(ledger.compact(u64::MAX).unwrap(), 0, "its end is still to be told");
    ledger.jobs().remove(orders[0].op()).unwrap();
    assert_eq!(ledger.compact(exp + AGE).unwrap(), 0, "not old enough");
    assert_eq!(ledger.compact(exp + AGE + 1).unwrap(), 4);
    assert!(!ledger.knows(orders[0].op()) && ledger.knows(orders[4].op()));
    drop(ledger);

    std::fs::remove_file(&clock).unwrap();
    let ledger = rig.open().unwrap();
    assert_eq!(ledger.replayed(&orders[0].get().nonce, orders[0].op()), None, "forgotten");
    let mut order = testing::job(b"true\n");
    order.nonce = Nonce::from_bytes([1; 16]);
    let again = crate::checks::verify(
        &testing::sign(&order),
        &testing::anchor(),
        ledger.floor(),
        Kind::JobRun,
        order.nbf,
    );
    assert_eq!(again.unwrap_err().code, "expired");
}
