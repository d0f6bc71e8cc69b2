use authz::policy::Bounds;
use authz::policy::bounds::{
    Amounts, Backups, Create, Downloads, Fields, Grow, PinnedTemplate, Rates, Switch,
};
use protocol::{GuestIdentity, GuestRef, Sha256};
use serde_json::{Value, json};

use super::*;

mod counting;

const DIGEST: &str = "0123456789abcdef0123456789abcdef01234567";
const GIB: u64 = 1 << 30;

pub(super) fn vmid(n: u32) -> Vmid {
    Vmid::try_from(n).unwrap()
}

fn identity() -> GuestIdentity {
    GuestIdentity { smbios_uuid: Some("uuid".into()), ..GuestIdentity::default() }
}

fn meant(n: u32) -> GuestRef {
    GuestRef { vmid: vmid(n), kind: GuestKind::Qemu, name: "db".into(), identity: identity() }
}

/// 4 cores in 2 sockets, 4 GiB, a disk of 32 GiB, one snapshot, stopped.
fn seen() -> Observed {
    let config = [
        ("cores", "4"),
        ("sockets", "2"),
        ("memory", "4096"),
        ("onboot", "1"),
        ("description", "old\n"),
        ("scsi0", "local-lvm:vm-101-disk-0,size=32G"),
        ("ide2", "local:iso/x.iso,media=cdrom,size=1G"),
    ];
    Observed {
        vmid: vmid(101),
        slots: Default::default(),
        paused: false,
        boot: None,
        volumes: protocol::report::Known::Unknown("not read".into()),
        ha: protocol::report::Known::Unknown("not read".into()),
        replication: protocol::report::Known::Unknown("not read".into()),
        kind: GuestKind::Qemu,
        name: "db".into(),
        identity: identity(),
        digest: DIGEST.into(),
        config: config.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        protection: false,
        lock: None,
        template: false,
        tags: vec![],
        state: RunState::Stopped,
        snapshots: vec![serde_json::from_value(json!({"name": "before", "snaptime": 7})).unwrap()],
        parent: None,
        consistent: true,
    }
}

fn template() -> Observed {
    Observed { template: true, snapshots: vec![], ..seen() }
}

pub(super) fn policy() -> Bounds {
    let amounts = |min, max| Amounts { up_percent: 50, down_percent: 25, min, max };
    Bounds {
        guests: vec![(vmid(100), vmid(199))],
        start: true,
        tags: true,
        snapshots: true,
        max_snapshots_per_guest: 2,
        max_pool_used_percent: 80,
        max_changes_per_hour: 20,
        fields: Some(Fields {
            cores: Some(amounts(3, 12)),
            memory: Some(amounts(1024, 6000)),
            onboot: Some(Switch { on: false, off: true }),
            description: true,
            grow: Some(Grow { max_bytes_per_step: 8 * GIB, max_bytes_per_guest_and_day: 12 * GIB }),
            backups: Some(Backups { storages: vec!["pbs1".parse().unwrap()], max_per_guest_and_day: 2 }),
            downloads: Some(Downloads {
                storages: vec!["local".parse().unwrap()],
                templates: vec![PinnedTemplate {
                    template: "debian.tar.zst".parse().unwrap(),
                    sha256: Sha256::of(b"t"),
                }],
                max_per_day: 2,
            }),
            create: Some(Create {
                templates: vec![
                    Pin::Archive {
                        volume: "local:vztmpl/debian.tar.zst".parse().unwrap(),
                        sha256: Sha256::of(b"t"),
                    },
                    Pin::Guest { vmid: vmid(190), digest: DIGEST.parse().unwrap() },
                ],
                storages: vec!["local-lvm".parse().unwrap()],
                bridges: vec!["vmbr0".parse().unwrap()],
                max_cores: 4,
                max_memory_mib: 4096,
                max_disk: 16 * GIB,
                max_per_day: 2,
            }),
        }),
        rates: Some(Rates::default()),
    }
}

fn step(what: &str, more: Value) -> Step {
    let mut step = json!({"do": what, "guest": meant(101)});
    if !["start", "snapshot_create", "backup"].contains(&what) {
        step["digest"] = json!(DIGEST);
    }
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(step).unwrap()
}

fn grow_to(bytes: u64) -> Step {
    step("grow", json!({"disk": "scsi0", "volume": "local-lvm:vm-101-disk-0", "size": bytes}))
}

fn download(storage: &str, template: &str, content: &[u8]) -> Step {
    let sha256 = Sha256::of(content);
    serde_json::from_value(
        json!({"do": "template_download", "storage": storage, "template": template, "sha256": sha256}),
    )
    .unwrap()
}

fn new_guest(change: impl Fn(&mut Value)) -> Step {
    let mut value = json!({
        "do": "create_from_template", "vmid": 150, "type": "lxc", "name": "app",
        "template": {"from": "archive", "volume": "local:vztmpl/debian.tar.zst", "sha256": Sha256::of(b"t")},
        "storage": "local-lvm", "disk": 8 * GIB, "cores": 2, "memory_mib": 512, "bridge": "vmbr0",
        "start": true, "tags": []
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn clone_of(guest: u32, digest: &str) -> Step {
    new_guest(|v| {
        v["template"] = json!({"from": "guest", "vmid": guest, "digest": digest});
        v["type"] = json!("qemu");
        v["disk"] = Value::Null;
    })
}

fn ask(step: &Step, policy: &Bounds, local: &LocalBounds, seen: &Observed) -> Result<Effect, Refused> {
    admit(step, &Limits::new(policy, local), subject(step).map(|_| seen))
}

/// One of each that the policy allows, and what it does.
fn allowed() -> Vec<(Step, Effect)> {
    let effect = |field, direction, from, to| Effect { field, direction, from, to };
    vec![
        (step("start", json!({})), effect(Field::Power, Direction::Up, 0, 1)),
        (step("set_tags", json!({"tags": []})), effect(Field::Tags, Direction::Set, 0, 0)),
        (
            step("snapshot_create", json!({"snapshot": "fresh"})),
            effect(Field::Snapshots, Direction::Add, 0, 0),
        ),
        (grow_to(40 * GIB), effect(Field::Disk, Direction::Up, 32 * GIB, 40 * GIB)),
        (step("set_cores", json!({"cores": 6})), effect(Field::Cores, Direction::Up, 4, 6)),
        (step("set_cores", json!({"cores": 3})), effect(Field::Cores, Direction::Down, 4, 3)),
        (step("set_memory", json!({"memory_mib": 6000})), effect(Field::Memory, Direction::Up, 4096, 6000)),
        (step("set_memory", json!({"memory_mib": 3072})), effect(Field::Memory, Direction::Down, 4096, 3072)),
        (step("set_onboot", json!({"onboot": false})), effect(Field::Onboot, Direction::Down, 1, 0)),
        (
            step("set_description", json!({"description": "new"})),
            effect(Field::Description, Direction::Set, 0, 0),
        ),
        (step("backup", json!({"storage": "pbs1"})), effect(Field::Backups, Direction::Add, 0, 0)),
        (download("local", "debian.tar.zst", b"t"), effect(Field::Templates, Direction::Add, 0, 0)),
        (new_guest(|_| ()), effect(Field::Guests, Direction::Add, 0, 0)),
    ]
}

#[test]
fn what_the_policy_allows_is_admitted_with_its_effect() {
    for (step, effect) in allowed() {
        assert_eq!(ask(&step, &policy(), &LocalBounds::default(), &seen()), Ok(effect), "{step}");
    }
    assert!(ask(&clone_of(190, DIGEST), &policy(), &LocalBounds::default(), &template()).is_ok());
}

/// Each rule by its name: a policy or a host that is tighter by one, and the step that is over.
#[test]
fn each_bound_refuses_by_its_name() {
    type Edit = fn(&mut Bounds, &mut LocalBounds);
    fn fields(bounds: &mut Bounds) -> &mut Fields {
        bounds.fields.as_mut().unwrap()
    }
    let none: Edit = |_, _| ();
    let cores = |n: u32| step("set_cores", json!({"cores": n}));
    let memory = |n: u32| step("set_memory", json!({"memory_mib": n}));
    let changed = |key: &'static str, to: Value| new_guest(move |v| v[key] = to.clone());
    let table: Vec<(Step, Edit, &str)> = vec![
        (cores(7), none, "4 now and would be 7, and at most 50 % more"),
        (cores(7), none, "rule bounds.fields.cores.up_percent of the policy"),
        (cores(2), none, "rule bounds.fields.cores.down_percent of the policy"),
        // Sockets count: 6 cores in 2 sockets are 12.
        (
            cores(6),
            |b, _| fields(b).cores.as_mut().unwrap().max = 11,
            "rule bounds.fields.cores.max of the policy",
        ),
        (cores(6), |_, l| l.max_cores = Some(11), "rule [bounds] max_cores of this host's warden.toml"),
        (cores(6), |_, l| l.max_percent = Some(49), "rule [bounds] max_percent of this host's warden.toml"),
        (
            cores(3),
            |b, _| fields(b).cores.as_mut().unwrap().min = 7,
            "rule bounds.fields.cores.min of the policy",
        ),
        (cores(5), |b, _| fields(b).cores.as_mut().unwrap().up_percent = 0, "at most 0 % more"),
        (cores(5), |b, _| fields(b).cores = None, "rule bounds.fields.cores of the policy"),
        (memory(6001), none, "rule bounds.fields.memory.max of the policy"),
        (memory(6145), none, "rule bounds.fields.memory.up_percent of the policy"),
        (memory(3071), none, "rule bounds.fields.memory.down_percent of the policy"),
        (memory(5000), |_, l| l.max_memory_mib = Some(4999), "rule [bounds] max_memory_mib"),
        (memory(5000), |_, l| l.forbid = vec![Field::Memory], "rule [bounds] forbid"),
        (grow_to(40 * GIB + 1024), none, "rule bounds.fields.grow.max_bytes_per_step of the policy"),
        (
            grow_to(40 * GIB),
            |_, l| l.max_bytes_per_step = Some(8 * GIB - 1),
            "rule [bounds] max_bytes_per_step",
        ),
        (grow_to(32 * GIB), none, "rule: no shrinking"),
        (grow_to(31 * GIB), none, "rule: no shrinking"),
        (grow_to(40 * GIB), |b, _| fields(b).grow = None, "rule bounds.fields.grow of the policy"),
        (
            step("set_onboot", json!({"onboot": false})),
            |b, _| fields(b).onboot = Some(Switch { on: true, off: false }),
            "rule bounds.fields.onboot.off of the policy",
        ),
        (
            step("set_description", json!({"description": "x"})),
            |b, _| fields(b).description = false,
            "fields.description",
        ),
        (
            step("backup", json!({"storage": "local"})),
            none,
            "rule bounds.fields.backups.storages of the policy",
        ),
        (
            step("backup", json!({"storage": "pbs1"})),
            |b, _| b.fields = None,
            "rule bounds.fields.backups of the policy",
        ),
        (download("pbs1", "debian.tar.zst", b"t"), none, "rule bounds.fields.downloads.storages"),
        (download("local", "debian.tar.zst", b"evil"), none, "rule bounds.fields.downloads.templates"),
        (download("local", "other.tar.zst", b"t"), none, "rule bounds.fields.downloads.templates"),
        (
            new_guest(|v| v["template"]["sha256"] = json!(Sha256::of(b"evil"))),
            none,
            "rule bounds.fields.create.templates",
        ),
        (clone_of(191, DIGEST), none, "rule bounds.fields.create.templates"),
        (clone_of(190, &"f".repeat(40)), none, "rule bounds.fields.create.templates"),
        (changed("storage", json!("local")), none, "rule bounds.fields.create.storages"),
        (changed("bridge", json!("vmbr1")), none, "rule bounds.fields.create.bridges"),
        (changed("cores", json!(5)), none, "rule bounds.fields.create.max_cores"),
        (changed("cores", json!(4)), |_, l| l.max_cores = Some(3), "rule [bounds] max_cores"),
        (changed("memory_mib", json!(4097)), none, "rule bounds.fields.create.max_memory_mib"),
        (changed("disk", json!(16 * GIB + 1024)), none, "rule bounds.fields.create.max_disk"),
        (changed("vmid", json!(200)), none, "rule bounds.guests of the policy"),
        (changed("vmid", json!(150)), |_, l| l.guests = Some(vec![]), "rule [bounds] guests"),
        (step("start", json!({})), |b, _| b.start = false, "rule bounds.start of the policy"),
        (
            step("start", json!({})),
            |b, _| b.guests = vec![(vmid(102), vmid(300))],
            "rule bounds.guests of the policy",
        ),
        (
            step("start", json!({})),
            |_, l| l.guests = Some(vec![(vmid(102), vmid(300))]),
            "rule [bounds] guests",
        ),
        (step("start", json!({})), |_, l| l.forbid = vec![Field::Power], "rule [bounds] forbid"),
        (step("set_tags", json!({"tags": []})), |b, _| b.tags = false, "rule bounds.tags of the policy"),
        (
            step("snapshot_create", json!({"snapshot": "x1"})),
            |b, _| b.snapshots = false,
            "rule bounds.snapshots",
        ),
        (
            step("snapshot_create", json!({"snapshot": "x1"})),
            |b, _| b.max_snapshots_per_guest = 1,
            "rule bounds.max_snapshots_per_guest of the policy",
        ),
        (
            step("snapshot_create", json!({"snapshot": "x1"})),
            |_, l| l.max_snapshots_per_guest = Some(1),
            "rule [bounds] max_snapshots_per_guest",
        ),
    ];
    for (step, edit, says) in table {
        let (mut bounds, mut local) = (policy(), LocalBounds::default());
        edit(&mut bounds, &mut local);
        let (code, why) = ask(&step, &bounds, &local, &seen()).expect_err(says);
        assert_eq!(code, RefusalCode::Bounds, "{step}: {why}");
        assert!(why.contains(says), "{step}: {why:?} should say {says:?}");
    }
}

/// A policy that says nothing of fields allows what policies of before allowed, and nothing else.
#[test]
fn absent_is_forbidden() {
    let old = Bounds { fields: None, rates: None, ..policy() };
    for (step, effect) in allowed() {
        let admitted = ask(&step, &old, &LocalBounds::default(), &seen());
        let before = matches!(effect.field, Field::Power | Field::Tags | Field::Snapshots);
        assert_eq!(admitted.is_ok(), before, "{step}: {admitted:?}");
        let nothing = ask(&step, &Bounds::default(), &LocalBounds::default(), &seen()).unwrap_err();
        assert_eq!(nothing.0, RefusalCode::Bounds);
        // And a host can forbid each of them by name.
        let local = LocalBounds { forbid: vec![effect.field], ..LocalBounds::default() };
        assert!(ask(&step, &policy(), &local, &seen()).unwrap_err().1.contains("forbid"), "{step}");
    }
}

#[test]
fn the_world_must_be_the_one_that_was_planned_on() {
    type Change = fn(&mut Observed);
    let cores = step("set_cores", json!({"cores": 5}));
    let table: Vec<(Step, Change, RefusalCode, &str)> = vec![
        (cores.clone(), |o| o.identity.smbios_uuid = Some("x".into()), RefusalCode::GuestIdentity, ""),
        (cores.clone(), |o| o.name = "other".into(), RefusalCode::GuestIdentity, ""),
        (cores.clone(), |o| o.lock = Some("backup".into()), RefusalCode::Busy, "locked"),
        (cores.clone(), |o| o.consistent = false, RefusalCode::Busy, ""),
        (cores.clone(), |o| o.digest = "e".into(), RefusalCode::Precondition, "changed since"),
        (cores.clone(), |o| o.template = true, RefusalCode::Bounds, "templates stay"),
        (
            cores.clone(),
            |o| drop(o.config.insert("cores".into(), "x".into())),
            RefusalCode::Precondition,
            "cores",
        ),
        (cores, |o| drop(o.config.insert("cores".into(), "5".into())), RefusalCode::Precondition, "already"),
        (grow_to(33 * GIB), |o| drop(o.config.remove("scsi0")), RefusalCode::Precondition, "no scsi0"),
        (
            grow_to(33 * GIB),
            |o| drop(o.config.insert("scsi0".into(), "local-lvm:vm-101-disk-7,size=32G".into())),
            RefusalCode::Precondition,
            "another disk",
        ),
        (
            grow_to(33 * GIB),
            |o| drop(o.config.insert("scsi0".into(), "local-lvm:vm-101-disk-0".into())),
            RefusalCode::Precondition,
            "size of scsi0 is not known",
        ),
        (step("start", json!({})), |o| o.state = RunState::Running, RefusalCode::Precondition, "running"),
        (
            step("backup", json!({"storage": "pbs1"})),
            |o| o.state = RunState::Unknown,
            RefusalCode::Precondition,
            "",
        ),
        (
            step("set_onboot", json!({"onboot": false})),
            |o| drop(o.config.remove("onboot")),
            RefusalCode::Precondition,
            "already",
        ),
        (
            step("set_description", json!({"description": "old"})),
            |_| (),
            RefusalCode::Precondition,
            "already",
        ),
        (step("set_tags", json!({"tags": []})), |o| o.digest = "e".into(), RefusalCode::Precondition, ""),
        (clone_of(190, DIGEST), |o| o.template = false, RefusalCode::Bounds, "not the qemu template"),
        (
            clone_of(190, DIGEST),
            |o| {
                o.template = true;
                o.digest = "e".into()
            },
            RefusalCode::Bounds,
            "it changed",
        ),
        (
            clone_of(190, DIGEST),
            |o| {
                o.template = true;
                o.lock = Some("x".into())
            },
            RefusalCode::Busy,
            "",
        ),
    ];
    for (step, change, code, says) in table {
        let mut world = seen();
        change(&mut world);
        let refused = ask(&step, &policy(), &LocalBounds::default(), &world).expect_err(says);
        assert!(refused.0 == code && refused.1.contains(says), "{step}: {refused:?}");
    }
    for (step, _) in allowed() {
        if subject(&step).is_some() {
            let (policy, local) = (policy(), LocalBounds::default());
            assert!(admit(&step, &Limits::new(&policy, &local), None).is_err(), "{step} unread");
        }
    }
    let mut archive = new_guest(|v| v["disk"] = Value::Null);
    assert!(ask(&archive, &policy(), &LocalBounds::default(), &seen()).is_err());
    archive = new_guest(|v| v["type"] = json!("qemu"));
    assert!(ask(&archive, &policy(), &LocalBounds::default(), &seen()).is_err());
}

#[test]
fn the_room_of_a_step_is_never_less_than_it_takes() {
    let room = |step: &Step, seen: &Observed| {
        room(step, Some(seen)).map(|r| r.map(|r| (r.storage.to_string(), r.bytes)))
    };
    assert_eq!(room(&grow_to(40 * GIB), &seen()), Ok(Some(("local-lvm".into(), 8 * GIB))));
    assert_eq!(
        room(&step("backup", json!({"storage": "pbs1"})), &seen()),
        Ok(Some(("pbs1".into(), 32 * GIB)))
    );
    assert_eq!(room(&new_guest(|_| ()), &seen()), Ok(Some(("local-lvm".into(), 8 * GIB))));
    assert_eq!(room(&clone_of(190, DIGEST), &template()), Ok(Some(("local-lvm".into(), 32 * GIB))));
    assert!(room(&download("local", "debian.tar.zst", b"t"), &seen()).unwrap().is_some());
    assert_eq!(room(&step("start", json!({})), &seen()), Ok(None));
    let mut unknown = seen();
    unknown.config.insert("scsi1".into(), "local-lvm:vm-101-disk-1".into());
    let refused = room(&step("backup", json!({"storage": "pbs1"})), &unknown).unwrap_err();
    assert_eq!(refused.0, RefusalCode::Space);
}

/// Whatever the host's file says, nothing is allowed that the policy does not allow.
#[test]
fn a_host_can_only_tighten() {
    let loosest = LocalBounds {
        guests: Some(vec![(vmid(100), vmid(999_999_999))]),
        max_snapshots_per_guest: Some(50),
        max_pool_used_percent: Some(95),
        max_changes_per_hour: Some(60),
        max_guests_per_hour: Some(10),
        max_percent_of_guests_per_day: Some(20),
        few_guests_per_day: Some(3),
        flips_per_hour: Some(3),
        max_percent: Some(50),
        max_cores: Some(256),
        max_memory_mib: Some(1 << 20),
        max_bytes_per_step: Some(256 * GIB),
        max_bytes_per_guest_and_day: Some(512 * GIB),
        max_backups_per_guest_and_day: Some(24),
        max_downloads_per_day: Some(5),
        max_created_per_day: Some(5),
        forbid: vec![],
    };
    loosest.check().unwrap();
    let over = [
        grow_to(40 * GIB + 1024),
        step("set_cores", json!({"cores": 7})),
        step("set_onboot", json!({"onboot": true})),
        step("backup", json!({"storage": "local"})),
        new_guest(|v| v["cores"] = json!(5)),
        new_guest(|v| v["vmid"] = json!(200)),
    ];
    for step in over {
        let mut world = seen();
        world.config.insert("onboot".into(), if step.field() == Field::Onboot { "0" } else { "1" }.into());
        let (_, why) = ask(&step, &policy(), &loosest, &world).unwrap_err();
        assert!(why.contains("of the policy"), "{why}");
    }
    let bounds = policy();
    assert_eq!(Limits::new(&bounds, &loosest).pool_used_percent(), 80);
    let tight = LocalBounds { max_pool_used_percent: Some(10), ..LocalBounds::default() };
    assert_eq!(Limits::new(&bounds, &tight).pool_used_percent(), 10);
    for text in [
        "max_changes_per_hour = 61",
        "max_percent_of_guests_per_day = 21",
        "max_cores = 257",
        "max_bytes_per_step = 274877906945",
        "guests = [[200, 100]]",
    ] {
        let local: LocalBounds = protocol::config::parse_toml("t", text).unwrap();
        let why = local.check().unwrap_err();
        assert!(why.contains("can only tighten") || why.contains("range"), "{text}: {why}");
    }
    for text in ["allow = [\"disk\"]", "forbid = [\"stop\"]", "max_cores = -1", "guests = [[1, 2]]"] {
        assert!(protocol::config::parse_toml::<LocalBounds>("t", text).is_err(), "{text}");
    }
}
