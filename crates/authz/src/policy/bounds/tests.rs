use super::*;
use crate::policy::diff::{self, diff};
use crate::policy::tests::document;
use crate::policy::{Policy, PolicyDocument};

/// Everything allowed, at the ceilings.
pub(crate) fn widest() -> Fields {
    let amounts = |max| Amounts { up_percent: 50, down_percent: 50, min: 1, max };
    Fields {
        cores: Some(amounts(ceiling::CORES)),
        memory: Some(amounts(ceiling::MEMORY_MIB)),
        onboot: Some(Switch { on: true, off: true }),
        description: true,
        grow: Some(Grow {
            max_bytes_per_step: ceiling::GROW_STEP,
            max_bytes_per_guest_and_day: ceiling::GROW_DAY,
        }),
        backups: Some(Backups {
            storages: vec!["pbs1".parse().unwrap()],
            max_per_guest_and_day: ceiling::BACKUPS_PER_DAY,
        }),
        downloads: Some(Downloads {
            storages: vec!["local".parse().unwrap()],
            templates: vec![PinnedTemplate {
                template: "debian.tar.zst".parse().unwrap(),
                sha256: protocol::Sha256::of(b"t"),
            }],
            max_per_day: ceiling::DOWNLOADS_PER_DAY,
        }),
        create: Some(Create {
            templates: vec![
                Pin::Archive {
                    volume: "local:vztmpl/debian.tar.zst".parse().unwrap(),
                    sha256: protocol::Sha256::of(b"t"),
                },
                Pin::Guest { vmid: Vmid::try_from(900).unwrap(), digest: "a".repeat(40).parse().unwrap() },
            ],
            storages: vec!["local-lvm".parse().unwrap()],
            bridges: vec!["vmbr0".parse().unwrap()],
            max_cores: ceiling::CORES,
            max_memory_mib: ceiling::MEMORY_MIB,
            max_disk: ceiling::GROW_DAY,
            max_per_day: ceiling::CREATED_PER_DAY,
        }),
    }
}

fn wide() -> PolicyDocument {
    let mut document = document();
    document.bounds.max_changes_per_hour = ceiling::CHANGES_PER_HOUR;
    document.bounds.max_snapshots_per_guest = ceiling::SNAPSHOTS_PER_GUEST;
    document.bounds.max_pool_used_percent = ceiling::POOL_USED_PERCENT;
    document.bounds.fields = Some(widest());
    document.bounds.rates = Some(Rates::default());
    document
}

/// A policy of before these fields existed has the same bytes, and so the same hash, as then.
#[test]
fn policies_of_before_keep_their_bytes() {
    let text = String::from_utf8(document().encode()).unwrap();
    assert!(!text.contains("fields") && !text.contains("rates"), "{text}");
    assert!(text.contains(r#""max_changes_per_hour":30},"freshness_s""#), "{text}");
    let decoded = Policy::decode(text.as_bytes()).unwrap();
    assert_eq!((&decoded.bounds().fields, decoded.bounds().rates), (&None, None));
    // Null is another spelling of absent, and there is one spelling.
    let null = text.replace(r#""max_changes_per_hour":30}"#, r#""max_changes_per_hour":30,"fields":null}"#);
    assert!(Policy::decode(null.as_bytes()).is_err());
}

#[test]
fn the_ceilings_themselves_are_allowed_and_nothing_above() {
    Policy::decode(&wide().encode()).unwrap();
    type Edit = fn(&mut Bounds);
    fn fields(bounds: &mut Bounds) -> &mut Fields {
        bounds.fields.as_mut().unwrap()
    }
    fn rates(bounds: &mut Bounds) -> &mut Rates {
        bounds.rates.as_mut().unwrap()
    }
    fn create(bounds: &mut Bounds) -> &mut Create {
        fields(bounds).create.as_mut().unwrap()
    }
    let more: [(Edit, &str); 21] = [
        (|b| b.max_changes_per_hour += 1, "max_changes_per_hour is 61; no policy can allow more than 60"),
        (|b| b.max_snapshots_per_guest += 1, "max_snapshots_per_guest is 51"),
        (|b| b.max_pool_used_percent += 1, "above 95"),
        (|b| rates(b).max_guests_per_hour += 1, "rates.max_guests_per_hour is 11"),
        (|b| rates(b).max_percent_of_guests_per_day += 1, "per_day is 21"),
        (|b| rates(b).few_guests_per_day += 1, "few_guests_per_day is 4"),
        (|b| rates(b).flips_per_hour += 1, "flips_per_hour is 4"),
        (|b| fields(b).cores.as_mut().unwrap().up_percent += 1, "fields.cores.up_percent is 51"),
        (|b| fields(b).cores.as_mut().unwrap().max += 1, "fields.cores.max is 257"),
        (|b| fields(b).memory.as_mut().unwrap().down_percent += 1, "fields.memory.down_percent is 51"),
        (|b| fields(b).memory.as_mut().unwrap().max += 1, "fields.memory.max is 1048577"),
        (|b| fields(b).grow.as_mut().unwrap().max_bytes_per_step += 1, "max_bytes_per_step is"),
        (|b| fields(b).grow.as_mut().unwrap().max_bytes_per_guest_and_day += 1, "guest_and_day is"),
        (|b| fields(b).backups.as_mut().unwrap().max_per_guest_and_day += 1, "guest_and_day is 25"),
        (|b| fields(b).downloads.as_mut().unwrap().max_per_day += 1, "downloads.max_per_day is 6"),
        (|b| create(b).max_cores += 1, "create.max_cores is 257"),
        (|b| create(b).max_memory_mib += 1, "create.max_memory_mib is"),
        (|b| create(b).max_disk += 1, "create.max_disk is"),
        (|b| create(b).max_per_day += 1, "create.max_per_day is 6"),
        (|b| b.max_changes_per_hour = u32::MAX, "no policy can allow more"),
        (|b| fields(b).grow.as_mut().unwrap().max_bytes_per_step = u64::MAX, "no policy can allow more"),
    ];
    let nonsense: [(Edit, &str); 18] = [
        (|b| b.guests[0] = (b.guests[0].1, b.guests[0].0), "range 199 to 100"),
        (|b| b.guests = vec![b.guests[0]; 65], "65 entries"),
        (|b| rates(b).flips_per_hour = 0, "flips_per_hour is 0"),
        (|b| fields(b).cores.as_mut().unwrap().min = 0, "cores.min is 0"),
        (|b| fields(b).cores.as_mut().unwrap().min = 257, "min 257 above max 256"),
        (
            |b| fields(b).memory = Some(Amounts { up_percent: 0, down_percent: 0, min: 1, max: 2 }),
            "memory allows neither direction",
        ),
        (|b| fields(b).onboot = Some(Switch { on: false, off: false }), "onboot allows neither"),
        (|b| fields(b).grow.as_mut().unwrap().max_bytes_per_guest_and_day = 1, "less in a day"),
        (|b| fields(b).grow.as_mut().unwrap().max_bytes_per_step = 0, "max_bytes_per_step is 0"),
        (|b| fields(b).backups.as_mut().unwrap().storages.clear(), "backups.storages is empty"),
        (
            |b| {
                let storages = &mut fields(b).backups.as_mut().unwrap().storages;
                storages.push(storages[0].clone());
            },
            "names something twice",
        ),
        (|b| fields(b).downloads.as_mut().unwrap().templates.clear(), "templates is empty"),
        (
            |b| {
                let templates = &mut fields(b).downloads.as_mut().unwrap().templates;
                templates
                    .push(PinnedTemplate { sha256: protocol::Sha256::of(b"other"), ..templates[0].clone() });
            },
            "twice",
        ),
        (|b| create(b).templates.clear(), "create.templates is empty"),
        (|b| create(b).storages.clear(), "create.storages is empty"),
        (|b| create(b).max_per_day = 0, "max_per_day is 0"),
        (|b| create(b).bridges = vec!["vmbr0".parse().unwrap(); 2], "bridges names something twice"),
        (
            |b| {
                create(b).templates[0] = Pin::Archive {
                    volume: "local:iso/evil.iso".parse().unwrap(),
                    sha256: protocol::Sha256::of(b"t"),
                };
            },
            "no container template",
        ),
    ];
    for (edit, says) in more.into_iter().chain(nonsense) {
        let mut document = wide();
        edit(&mut document.bounds);
        let error = Policy::decode(&document.encode()).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} should say {says:?}");
    }
}

/// The least that a bound may allow: one direction, one value, one guest, as much in a day as in a step.
#[test]
fn the_narrowest_bounds_are_bounds() {
    let mut narrow = wide();
    let one = Vmid::try_from(150).unwrap();
    narrow.bounds.guests = vec![(one, one)];
    let fields = narrow.bounds.fields.as_mut().unwrap();
    fields.cores = Some(Amounts { up_percent: 1, down_percent: 0, min: 4, max: 4 });
    fields.memory = Some(Amounts { up_percent: 0, down_percent: 1, min: 1, max: 1 });
    fields.onboot = Some(Switch { on: true, off: false });
    fields.grow = Some(Grow { max_bytes_per_step: 1, max_bytes_per_guest_and_day: 1 });
    fields.create.as_mut().unwrap().bridges.clear();
    let policy = Policy::decode(&narrow.encode()).unwrap();
    for (guest, touched) in [(149, false), (150, true), (151, false)] {
        assert_eq!(policy.bounds().allows_guest(Vmid::try_from(guest).unwrap()), touched, "{guest}");
    }
    narrow.bounds.fields.as_mut().unwrap().onboot = Some(Switch { on: false, off: true });
    narrow.bounds.guests = (101..=164).map(|n| Vmid::try_from(n).unwrap()).map(|n| (n, n)).collect();
    assert_eq!(narrow.bounds.guests.len(), ceiling::LIST);
    let policy = Policy::decode(&narrow.encode()).unwrap();
    assert!(policy.bounds().allows_guest(Vmid::try_from(164).unwrap()), "any of the ranges");
    narrow.bounds.guests.clear();
    let policy = Policy::decode(&narrow.encode()).unwrap();
    assert!(!policy.bounds().allows_guest(one), "no range, no guest");
}

/// A policy cannot say what there is no word for: no unknown key anywhere in its bounds.
#[test]
fn unknown_bounds_are_refused() {
    let text = String::from_utf8(wide().encode()).unwrap();
    Policy::decode(text.as_bytes()).unwrap();
    for (from, to) in [
        (r#""start":true"#, r#""start":true,"stop":true"#),
        (r#""fields":{"#, r#""fields":{"cloudinit":true,"#),
        (r#""cores":{"#, r#""cores":{"any":true,"#),
        (r#""rates":{"#, r#""rates":{"off":true,"#),
        (r#""on":true"#, r#""on":1"#),
        (r#""min":1"#, r#""min":-1"#),
        (r#""min":1"#, r#""min":1.5"#),
        (r#""cores":{"#, r#""cores":null,"cores":{"#),
        (r#""from":"guest""#, r#""from":"any""#),
    ] {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text);
        assert!(Policy::decode(other.as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn every_bound_has_its_line_and_its_direction() {
    use diff::Effect::{Changes, Loosens, Tightens};
    type Edit = fn(&mut Bounds);
    fn fields(bounds: &mut Bounds) -> &mut Fields {
        bounds.fields.as_mut().unwrap()
    }
    let old = wide();
    let table: [(Edit, diff::Effect, &str); 14] = [
        (|b| b.rates = None, Changes, ""),
        (|b| b.rates.as_mut().unwrap().max_guests_per_hour = 2, Tightens, "guests touched per hour: 10 -> 2"),
        (
            |b| b.rates.as_mut().unwrap().max_percent_of_guests_per_day = 5,
            Tightens,
            "percent of the guests changed per day: 20 -> 5",
        ),
        (
            |b| b.rates.as_mut().unwrap().flips_per_hour = 1,
            Tightens,
            "reversals per hour that are refused: 3 -> 1",
        ),
        (|b| fields(b).cores.as_mut().unwrap().min = 2, Tightens, "cores, at least: 1 -> 2"),
        (|b| fields(b).memory.as_mut().unwrap().up_percent = 9, Tightens, "memory, percent up: 50 -> 9"),
        (|b| fields(b).memory = None, Tightens, "unsigned changes, set memory: yes -> no"),
        (
            |b| fields(b).onboot = Some(Switch { on: true, off: false }),
            Tightens,
            "unsigned changes, switch onboot off: yes -> no",
        ),
        (|b| fields(b).description = false, Tightens, "unsigned changes, set the description: yes -> no"),
        (
            |b| fields(b).backups.as_mut().unwrap().storages.push("local".parse().unwrap()),
            Loosens,
            "unsigned backups, storages: with local",
        ),
        (
            |b| fields(b).create.as_mut().unwrap().bridges.clear(),
            Tightens,
            "guests made unsigned, bridges: without vmbr0",
        ),
        (
            |b| fields(b).create.as_mut().unwrap().max_per_day = 1,
            Tightens,
            "guests made unsigned per day: 5 -> 1",
        ),
        (
            |b| fields(b).downloads.as_mut().unwrap().max_per_day = 1,
            Tightens,
            "unsigned downloads per day: 5 -> 1",
        ),
        (|b| fields(b).grow = None, Tightens, "unsigned changes, grow a disk: yes -> no"),
    ];
    for (edit, effect, what) in table {
        let mut new = old.clone();
        edit(&mut new.bounds);
        if what.is_empty() {
            assert_eq!(diff(&old, &new), [], "the ceilings count where nothing is said");
            continue;
        }
        assert_eq!(diff(&old, &new), [diff::Change { effect, what: what.to_owned() }]);
        let opposite = if effect == Tightens { Loosens } else { Tightens };
        assert_eq!(diff(&new, &old)[0].effect, opposite, "{what}");
    }
    let mut bare = old.clone();
    bare.bounds.fields = None;
    let lines: Vec<String> = diff(&bare, &old).iter().map(ToString::to_string).collect();
    assert!(
        lines.contains(
            &"+ unsigned changes, make a guest from a pinned template: no -> yes  (loosens)".into()
        )
    );
    assert!(
        lines.contains(&"~ new bounds of new guests: read them in `writ policy show`".into()),
        "{lines:?}"
    );
    assert!(diff(&old, &bare).iter().all(|change| change.effect == Tightens));
}
