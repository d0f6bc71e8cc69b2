//! A made-up host, the service on it, the warden's side of its socket, and an operator.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: starts the service, which may start processes"
)]

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use authz::order::{
    CreateParams, Filesystem, HostRef, MountParams, NetParams, PolicyRef, Preconditions, TemplateSource,
    UnmountParams,
};
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Rule};
use authz::{Kind, Namespace, Order, Params, SecretKey};
use local_socket::Framed;
use protocol::privileged::{PrivilegedAnswer, PrivilegedRequest, PrivilegedStatus};
use protocol::refs::DiskRef;
use protocol::{Envelope, GuestKind, HostId, Nonce, Sha256};
use tokio::net::UnixStream;

/// How long anything may take before it counts as stuck.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const HOST_ID: HostId = HostId::from_bytes([0x11; 16]);
pub(crate) const UUID: &str = "0d6e5c1c-8a5b-4e57-9f3b-111111111111";
pub(crate) const UNIT: &str = "mnt-writ-backup\\x2dusb.mount";
pub(crate) const IMAGE: &[u8] = b"a golden image";

/// Waits for a value, level-triggered.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The service. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    begin: usize,
}

impl Process {
    pub(crate) fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[self.begin.min(bytes.len())..]).into_owned()
    }

    pub(crate) async fn says(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.output().contains(text) {
            let status = self.child.try_wait().unwrap();
            assert!(status.is_none(), "ended ({status:?}): {}", self.output());
            assert!(Instant::now() < end, "did not say {text:?}: {}", self.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// kill -9
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Rig {
    dir: tempfile::TempDir,
    pub(crate) operator: SecretKey,
    pub(crate) host: SecretKey,
    nonces: Cell<u8>,
}

/// Alice may order all three.
pub(crate) fn policy() -> PolicyDocument {
    let rule = |kind| Rule {
        kind,
        role: "ops".parse().unwrap(),
        also: vec![],
        threshold: 1,
        standing: true,
        max_validity_s: 3600,
    };
    PolicyDocument {
        v: 1,
        version: 1,
        prev: None,
        root: authz::policy::Root { role: "ops".parse().unwrap(), threshold: 1 },
        protected: vec![],
        freshness_s: None,
        // The same in every call, and close enough for a clock to be believed.
        issued_at: privileged::now() / 8_640_000 * 8_640_000,
        operators: vec![Operator {
            name: "alice".parse().unwrap(),
            keys: vec![SecretKey::from_seed(&[7; 32]).public().into()],
        }],
        roles: vec![Role {
            name: "ops".parse().unwrap(),
            namespaces: vec![Namespace::Op, Namespace::Policy],
            members: vec!["alice".parse().unwrap()],
        }],
        rules: vec![
            rule(Kind::GuestStart),
            rule(Kind::GuestCreate),
            rule(Kind::UsbMount),
            rule(Kind::UsbUnmount),
        ],
        bounds: Bounds {
            guests: vec![],
            start: false,
            tags: false,
            snapshots: false,
            max_snapshots_per_guest: 0,
            max_pool_used_percent: 80,
            max_changes_per_hour: 0,
            ..Bounds::default()
        },
        revoked: vec![],
    }
}

const PCT: &str = r#"#!/bin/sh
dir=$(dirname "$0")
printf '%s\n' "$*" >> "$dir/pct.log"
cp "$3" "$dir/image"
case $(cat "$dir/mode" 2>/dev/null) in
    fail) echo "storage 'nope' does not exist" >&2; exit 255;;
    hang) trap '' TERM; sleep 1000;;
    escape) setsid sleep 1000 & echo $! > "$dir/pid"; exit 0;;
    loud) head -c 1000000000 /dev/zero; exit 0;;
    gate) until [ -e "$dir/gate" ]; do sleep 0.02; done; exit 0;;
    killed) kill -9 $$;;
esac
"#;

const SYSTEMCTL: &str = r#"#!/bin/sh
dir=$(dirname "$0")
host="$dir/.."
printf '%s\n' "$*" >> "$dir/systemctl.log"
mode=$(cat "$dir/mode" 2>/dev/null)
verb=$2
unit=$3
case "$verb" in
start)
    case "$mode" in
        fail) echo "Job for $unit failed." >&2; exit 1;;
        hang) exec sleep 1000;;
        lie) exit 0;;
        swap) sed -i s/USB-1/USB-2/ "$host/udev/b8:16";;
    esac
    file="$host/units/$unit"
    [ -e "$file" ] || file="$host/runtime/$unit"
    where=$(sed -n s/^Where=//p "$file")
    device='8:17 / '$where
    source=/dev/sdb1
    options=$(sed -n s/^Options=//p "$file")
    [ "$mode" = other ] && device='8:33 / '$where && source=/dev/sdc1
    [ "$mode" = exec ] && options=rw,nosuid,nodev
    printf '99 1 %s %s shared:1 - ext4 %s rw\n' "$device" "$options" "$source" >> "$host/mountinfo"
    ;;
stop)
    [ "$mode" = busy ] && { echo "target is busy" >&2; exit 1; }
    grep -v ' /mnt/writ/' "$host/mountinfo" > "$host/mountinfo.new"
    mv "$host/mountinfo.new" "$host/mountinfo"
    ;;
esac
exit 0
"#;

const SMARTCTL: &str = r#"#!/bin/sh
dir=$(dirname "$0")
printf '%s\n' "$*" >> "$dir/smartctl.log"
case $(cat "$dir/mode" 2>/dev/null) in
    asleep) echo '{"smartctl":{"exit_status":2,"messages":[{"string":"Device is in STANDBY mode, exit(2)"}]}}'; exit 2;;
    hang) exec sleep 1000;;
    loud) head -c 1000000000 /dev/zero;;
    *) echo '{"smart_status":{"passed":true}}';;
esac
"#;

impl Rig {
    pub(crate) fn new() -> Self {
        let rig = Self {
            dir: tempfile::tempdir().unwrap(),
            operator: SecretKey::from_seed(&[7; 32]),
            host: SecretKey::from_seed(&[0x4b; 32]),
            nonces: Cell::new(0),
        };
        // Strangers must be able to come as far as the socket.
        std::fs::set_permissions(rig.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["bin", "units", "runtime", "udev", "dev/disk/by-uuid", "sys/class/block", "cache"] {
            std::fs::create_dir_all(rig.path(name)).unwrap();
        }
        for (name, text) in [("pct", PCT), ("systemctl", SYSTEMCTL), ("smartctl", SMARTCTL)] {
            let path = rig.path("bin").join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        rig.put("mountinfo", "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n");
        rig.put_disk("pci0/ata1", "sda", "8:0", "SYS-1", None);
        rig.put_disk("pci0/usb1/1-1", "sdb", "8:16", "USB-1", Some("0x5000c500a1b2c3d4"));
        rig.link(UUID, "sdb1");
        rig.put("cache/golden.tar.zst", IMAGE);
        rig
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What the stand-ins do.
    pub(crate) fn mode(&self, mode: &str) {
        self.put("bin/mode", mode);
    }

    /// A disk of 64 GiB with one partition.
    pub(crate) fn put_disk(&self, bus: &str, name: &str, number: &str, serial: &str, wwn: Option<&str>) {
        let at = format!("sys/devices/{bus}/block/{name}");
        let (major, minor) = number.split_once(':').unwrap();
        let part = format!("{name}1");
        self.put(&format!("{at}/dev"), number);
        self.put(&format!("{at}/size"), "134217728\n");
        self.put(&format!("{at}/{part}/dev"), format!("{major}:{}\n", minor.parse::<u32>().unwrap() + 1));
        self.put(&format!("{at}/{part}/size"), "134215680\n");
        self.put(&format!("{at}/{part}/partition"), "1\n");
        for (link, to) in [(name, at.clone()), (&part, format!("{at}/{part}"))] {
            std::os::unix::fs::symlink(self.path(&to), self.path("sys/class/block").join(link)).unwrap();
        }
        let wwn = wwn.map(|wwn| format!("E:ID_WWN={wwn}\n")).unwrap_or_default();
        self.put(&format!("udev/b{number}"), format!("S:x\nE:ID_BUS=usb\nE:ID_SERIAL_SHORT={serial}\n{wwn}"));
    }

    pub(crate) fn link(&self, uuid: &str, device: &str) {
        let path = self.path("dev/disk/by-uuid").join(uuid);
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(format!("../../{device}"), path).unwrap();
    }

    /// The service, anchored.
    pub(crate) async fn anchored() -> (Self, Process) {
        let rig = Self::new();
        let process = rig.start("").await;
        assert_eq!(rig.ask(&rig.anchor_request()).await, PrivilegedAnswer::Done {});
        (rig, process)
    }

    pub(crate) fn anchor_request(&self) -> PrivilegedRequest {
        PrivilegedRequest::Anchor {
            policy: policy().encode().into(),
            documents: vec![],
            host_id: HOST_ID,
            host_key: self.host.public().to_wire(),
            host_key_gen: 1,
        }
    }

    pub(crate) async fn start(&self, hold_at: &str) -> Process {
        self.start_with(hold_at, &format!("policy_sha256 = \"{}\"", Sha256::of(&policy().encode()))).await
    }

    pub(crate) async fn start_with(&self, hold_at: &str, more: &str) -> Process {
        let p = |name: &str| self.path(name);
        let uid = rustix::process::geteuid().as_raw();
        let text = format!(
            "state_dir = {:?}\nsocket = {:?}\nallowed_uids = [{uid}]\nsmart_every_s = 1\nmount_timeout_s = 5\ncreate_timeout_s = 10\n{more}\n\
             [templates]\nlocal = {:?}\n[stand_ins]\npct = {:?}\nsystemctl = {:?}\nsmartctl = {:?}\nsys = {:?}\ndev = {:?}\nudev = {:?}\nmountinfo = {:?}\nunits = {:?}\nruntime_units = {:?}\n",
            p("state"),
            p("run/socket"),
            p("cache"),
            p("bin/pct"),
            p("bin/systemctl"),
            p("bin/smartctl"),
            p("sys"),
            p("dev"),
            p("udev"),
            p("mountinfo"),
            p("units"),
            p("runtime"),
        );
        self.put("privileged.toml", text);
        let log = p("log");
        let begin = std::fs::metadata(&log).map_or(0, |meta| usize::try_from(meta.len()).unwrap());
        let out = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_writ-privileged"))
            .args(["serve", "--config"])
            .arg(p("privileged.toml"))
            .env("WRIT_PRIVILEGED_HOLD_AT", hold_at)
            .env("NO_COLOR", "1")
            .env("SECRET_OF_THE_ENVIRONMENT", "x")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let mut process = Process { child, log, begin };
        process.says(" ready ").await;
        process
    }

    pub(crate) async fn send(&self, request: &PrivilegedRequest) -> Framed {
        let mut framed: Framed = UnixStream::connect(self.path("run/socket")).await.unwrap().into();
        framed.send(request).await.unwrap();
        framed
    }

    /// Asks, and takes the last answer.
    pub(crate) async fn ask(&self, request: &PrivilegedRequest) -> PrivilegedAnswer {
        all(&mut self.send(request).await).await.pop().unwrap()
    }

    pub(crate) async fn status(&self) -> PrivilegedStatus {
        match self.ask(&PrivilegedRequest::Status {}).await {
            PrivilegedAnswer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn outcome(&self, op: Sha256) -> PrivilegedAnswer {
        self.ask(&PrivilegedRequest::Outcome { op }).await
    }

    pub(crate) async fn order(&self, order: &Order) -> PrivilegedAnswer {
        self.ask(&PrivilegedRequest::Order { envelope: self.sign(order) }).await
    }

    pub(crate) fn sign(&self, order: &Order) -> Envelope {
        sign_as(order, order.kind().namespace(), &self.operator)
    }

    fn make(&self, params: Params, pre: Preconditions) -> Order {
        let nonce = self.nonces.get() + 1;
        self.nonces.set(nonce);
        let now = privileged::now();
        Order {
            params,
            host: HostRef {
                id: HOST_ID,
                key: self.host.public().fingerprint(),
                generation: 1,
                cluster: None,
                name: "web1".parse().unwrap(),
            },
            guest: None,
            pre,
            plan: None,
            nonce: Nonce::from_bytes([nonce; 16]),
            nbf: now - 10,
            exp: now + 1000,
            after: None,
            policy: PolicyRef { version: 1, sha256: Sha256::of(&policy().encode()) },
            min_signers: 1,
            reason: "test".parse().unwrap(),
            ticket: None,
        }
    }

    pub(crate) fn create(&self) -> Order {
        let params = CreateParams {
            vmid: 301.try_into().unwrap(),
            kind: GuestKind::Lxc,
            name: "ct301".parse().unwrap(),
            template: TemplateSource::Golden {
                volume: "local:vztmpl/golden.tar.zst".parse().unwrap(),
                sha256: Sha256::of(IMAGE),
            },
            storage: "local-zfs".parse().unwrap(),
            disk: Some(8 << 30),
            cores: 2,
            memory_mib: 512,
            net: Some(NetParams { bridge: "vmbr0".parse().unwrap(), vlan: None, firewall: true }),
            unprivileged: true,
            onboot: false,
            start: false,
            pool: None,
            tags: vec![],
        };
        self.make(Params::GuestCreate(params), Preconditions::default())
    }

    pub(crate) fn mount(&self, persist: bool) -> Order {
        let params = MountParams {
            uuid: UUID.parse().unwrap(),
            filesystem: Filesystem::Ext4,
            name: "backup-usb".parse().unwrap(),
            read_only: false,
            persist,
        };
        self.make(Params::UsbMount(params), usb())
    }

    pub(crate) fn unmount(&self, forget: bool) -> Order {
        let params =
            UnmountParams { uuid: UUID.parse().unwrap(), name: "backup-usb".parse().unwrap(), forget };
        self.make(Params::UsbUnmount(params), usb())
    }

    /// How often a stand-in was started with a word among its arguments.
    pub(crate) fn ran(&self, program: &str, word: &str) -> usize {
        let text = self.text(&format!("bin/{program}.log"));
        text.lines().filter(|line| line.split(' ').any(|arg| arg == word)).count()
    }
}

fn usb() -> Preconditions {
    let disk = DiskRef {
        serial: "USB-1".parse().unwrap(),
        wwn: Some("0x5000c500a1b2c3d4".parse().unwrap()),
        size: 64 << 30,
    };
    Preconditions { disk: Some(disk), ..Preconditions::default() }
}

pub(crate) fn sign_as(order: &Order, namespace: Namespace, key: &SecretKey) -> Envelope {
    let payload = order.encode();
    let sigs = vec![key.sign(namespace, &payload)];
    Envelope::new(payload.into(), sigs)
}

/// Everything up to the end of the connection.
pub(crate) async fn all(framed: &mut Framed) -> Vec<PrivilegedAnswer> {
    let mut answers = Vec::new();
    while let Some(answer) = tokio::time::timeout(DEADLINE, framed.receive()).await.unwrap().unwrap() {
        answers.push(answer);
    }
    answers
}

pub(crate) fn code(answer: &PrivilegedAnswer) -> &str {
    match answer {
        PrivilegedAnswer::Refused { code, .. } => code,
        _ => "accepted",
    }
}

pub(crate) fn words(answer: &PrivilegedAnswer) -> &str {
    match answer {
        PrivilegedAnswer::Refused { why, .. }
        | PrivilegedAnswer::Failed { why }
        | PrivilegedAnswer::NotStarted { why }
        | PrivilegedAnswer::Unknown { why } => why,
        PrivilegedAnswer::Did { seen } => seen,
        _ => "",
    }
}
