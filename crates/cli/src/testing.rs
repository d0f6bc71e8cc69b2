//! People, hosts and reports that this crate's tests share.

use authz::order::{JobParams, SessionMode, SessionParams};
use authz::policy::{Credential, Policy};
use authz::statement::sign_host;
use authz::{Event, Outcome, Receipt, SecretKey};
use protocol::api::HostView;
use protocol::enroll::HostStatement;
use protocol::report::{GuestConfigReport, GuestReport, HostReport, Known};
use protocol::{
    Ed25519Key, GuestIdentity, GuestKind, HostId, HostName, RunState, Sha256, Signed, SnapshotRef, Vmid,
};

use crate::policy_file::first_policy;
use crate::prepare::{Circumstances, SnapshotWish, Wish, of_report, prepare};
use crate::resolve::{Believed, Memory, judge};

pub(crate) const NOW: u64 = 1_795_323_838;

pub(crate) fn alice() -> SecretKey {
    SecretKey::from_seed(&[0xa1; 32])
}

pub(crate) fn mallory() -> SecretKey {
    SecretKey::from_seed(&[0x66; 32])
}

pub(crate) fn host_key(host: u8) -> SecretKey {
    SecretKey::from_seed(&[host; 32])
}

pub(crate) fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

pub(crate) fn policy() -> Policy {
    let document = first_policy(
        vec![(name("alice"), alice().public())],
        Vec::<(_, Credential)>::new(),
        None,
        vec![],
        NOW,
    )
    .unwrap();
    Policy::decode(&document.encode()).unwrap()
}

pub(crate) fn statement(host: u8, called: &str) -> HostStatement {
    HostStatement {
        v: 1,
        name: name(called),
        site: name("berlin"),
        host_id: HostId::from_bytes([host; 16]),
        host_key: host_key(host).public().to_wire(),
        host_key_gen: 1,
        device_key: Ed25519Key::from_bytes([3; 32]),
        policy: *policy().hash(),
        issued_at: NOW,
    }
}

pub(crate) fn view_of(statement: &HostStatement) -> HostView {
    HostView {
        host_id: statement.host_id,
        name: statement.name.clone(),
        statement: sign_host(statement, &alice()),
        online: true,
        last_seen: Some(NOW),
        report_at: Some(NOW),
        receipts_held: 0,
    }
}

pub(crate) fn view(host: u8, called: &str) -> HostView {
    view_of(&statement(host, called))
}

pub(crate) fn believed(host: u8, called: &str) -> Believed {
    judge(&view(host, called), &policy(), &Memory::new(), NOW).unwrap()
}

pub(crate) fn receipt(host: u8, seq: Option<(u64, Sha256)>, event: Event) -> Signed {
    Receipt {
        v: 1,
        host: HostId::from_bytes([host; 16]),
        host_key_gen: 1,
        boot_id: "boot".into(),
        time: NOW,
        entry: seq.map(|(seq, prev)| authz::receipt::Entry { seq, prev }),
        event,
    }
    .sign(&host_key(host))
}

pub(crate) fn done() -> Outcome {
    Outcome::Done { upid: Some("UPID:pve:1".into()), seen: "rolled back".parse().unwrap() }
}

pub(crate) fn ended(op: Sha256, outcome: Outcome) -> Event {
    Event::Order {
        op,
        kind: Some("snapshot.rollback".into()),
        vmid: Some(Vmid::try_from(101).unwrap()),
        signers: vec![],
        outcome,
    }
}

pub(crate) fn snapshot(called: &str, time: u64, parent: Option<&str>) -> SnapshotRef {
    SnapshotRef { name: called.parse().unwrap(), time, parent: parent.map(Into::into) }
}

pub(crate) fn guest(vmid: u32) -> GuestReport {
    GuestReport {
        vmid: Vmid::try_from(vmid).unwrap(),
        kind: GuestKind::Qemu,
        name: "db".into(),
        state: RunState::Stopped,
        uptime_s: None,
        memory: None,
        config: Known::Known(GuestConfigReport {
            digest: "d".repeat(40),
            identity: GuestIdentity {
                smbios_uuid: Some("11111111-2222-3333-4444-555555555555".into()),
                vmgenid: None,
                meta_ctime: Some(NOW - 9_000),
                macs: vec!["BC:24:11:00:00:01".into()],
                volids: vec!["local-lvm:vm-101-disk-0".into()],
                giid: None,
            },
            tags: vec!["prod".into()],
            lock: None,
            protection: false,
        }),
        snapshots: Known::Known(vec![
            snapshot("first", NOW - 5_000, None),
            snapshot("before-update", NOW - 3_000, Some("first")),
        ]),
    }
}

/// Ten minutes from [`NOW`].
pub(crate) fn with() -> Circumstances {
    Circumstances {
        nonce: protocol::Nonce::from_bytes([7; 16]),
        now: NOW,
        valid_s: 600,
        reason: "undo the update".parse().unwrap(),
        ticket: None,
    }
}

/// To whom results are sealed.
pub(crate) fn result_key() -> SecretKey {
    SecretKey::from_seed(&[0x71; 32])
}

/// Sealed with the same randomness each time: for tests alone.
pub(crate) fn sealed_to(key: &SecretKey, bytes: &[u8]) -> Vec<u8> {
    sealed::seal(&key.public().to_wire(), bytes, sealed::Randomness::from_bytes(&[0x31; 64])).unwrap()
}

pub(crate) fn job() -> JobParams {
    JobParams {
        script: Sha256::of(b"exec 'uptime'\n"),
        script_len: 14,
        interpreter: "/bin/sh".parse().unwrap(),
        args: vec![],
        user: "root".parse().unwrap(),
        env: vec![],
        timeout_s: 60,
        max_output: 1000,
        result_key: result_key().public().to_wire(),
    }
}

pub(crate) fn session() -> SessionParams {
    SessionParams {
        key: SecretKey::from_seed(&[0x72; 32]).public().to_wire(),
        user: "www-data".parse().unwrap(),
        mode: SessionMode::Full {},
        forwards: vec!["127.0.0.1:8006".parse().unwrap()],
        idle_s: 600,
        max_s: 28_800,
    }
}

/// As the host that the draft names would make it.
pub(crate) fn plan_of(draft: &authz::Order) -> authz::plan::Plan {
    authz::plan::Plan {
        v: 1,
        host: draft.host.id,
        host_key_gen: draft.host.generation,
        draft: authz::plan::draft_of(draft),
        kind: draft.kind(),
        vmid: draft.vmid(),
        effects: vec!["everything since the snapshot is lost".parse().unwrap()],
        calls: vec!["POST /nodes/pve1/qemu/101/snapshot/before-update/rollback".parse().unwrap()],
        config_sha256: Some(authz::world::config_sha256(&world_config())),
        challenge: Sha256::of(draft.nonce.as_bytes()),
        boot_id: "boot".parse().unwrap(),
        boottime_s: 5_000,
        time: NOW,
        log_size: 7,
    }
}

pub(crate) fn world_config() -> std::collections::BTreeMap<String, String> {
    [("cores".to_owned(), "2".to_owned()), ("name".to_owned(), "db".to_owned())].into()
}

/// The guest of [`guest`], as its host sees it.
pub(crate) fn world(vmid: u32) -> authz::world::World {
    let GuestReport { kind, name, state, config, snapshots, .. } = guest(vmid);
    let (Known::Known(config), Known::Known(snapshots)) = (config, snapshots) else { unreachable!() };
    let snapshots = snapshots.into_iter().map(|snapshot| authz::world::SnapshotNow {
        name: snapshot.name.to_string(),
        time: Some(snapshot.time),
        parent: snapshot.parent,
        unfinished: None,
    });
    let now = authz::world::GuestNow {
        kind,
        name,
        identity: config.identity,
        digest: config.digest,
        config: Known::Known(world_config()),
        lock: None,
        template: false,
        state,
        snapshots: Known::Known(snapshots.collect()),
        consistent: true,
        volumes: Known::Known(vec![]),
        protection: Known::Known(false),
        ha: Known::Known(protocol::refs::HaState::Unmanaged),
        replication: Known::Known(vec![]),
    };
    authz::world::World { guest: Known::Known(now), ..authz::world::World::unread("nobody asked") }
}

/// A rollback on host 1, valid for ten minutes from [`NOW`].
pub(crate) fn order() -> authz::Order {
    let vmid = Vmid::try_from(101).unwrap();
    let wish = SnapshotWish::Rollback { snapshot: "before-update".parse().unwrap(), start: false };
    let world = of_report(&report(vec![guest(101)]), Some(vmid));
    prepare(&believed(1, "web1"), &policy(), &world, &Wish::Snapshot(vmid, wish), with()).unwrap()
}

pub(crate) fn report(guests: Vec<GuestReport>) -> HostReport {
    HostReport {
        v: 1,
        collected_at: NOW - 12,
        boot_id: "boot".into(),
        agent_version: "0.1.0".into(),
        warden: Known::Unknown("the warden's socket is not there".into()),
        node: Known::Unknown("the node was not asked".into()),
        certificate: Known::Unknown("not read".into()),
        guests: Known::Known(guests),
        storages: Known::Unknown("timed out".into()),
    }
}
