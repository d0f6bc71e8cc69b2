//! `/nodes` and what is directly below a node, except guests, tasks, storages and disks.

use serde_json::{Value, json};

use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Date, Refusal, Release, StorageJob};

pub(crate) use super::storage::sees_storage;

/// The 500 of a node that cannot be resolved. It comes after the permission check and before the
/// parameter check, as in the real router.
pub(crate) fn resolve(call: &Call<'_>, node: &str) -> Result<(), Refusal> {
    call.world.reach(node)
}

/// The schema line every path below a node has.
pub(crate) const NODE: Field = Field("node", Ty::Any, false);
/// The schema line of a graph's length.
pub(crate) const TIMEFRAME: Field =
    Field("timeframe", Ty::Enum(&["hour", "day", "week", "month", "year", "decade"]), false);
/// The schema line of a graph's consolidation.
pub(crate) const CF: Field = Field("cf", Ty::Enum(&["AVERAGE", "MAX"]), true);

pub(crate) fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    let figures = call.may(&format!("/nodes/{}", call.world.node), &["Sys.Audit"]);
    Ok(json!([call.world.node_row(call.now, figures)]).into())
}

/// Privilege, node, parameters: the order of the real router.
fn check(call: &Call<'_>, node: &str, privilege: &str, fields: &[Field]) -> Result<(), Refusal> {
    if !privilege.is_empty() {
        call.require(&format!("/nodes/{node}"), &[privilege])?;
    }
    resolve(call, node)?;
    call.params.check(fields)
}

pub(crate) fn index(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "", &[NODE])?;
    let names = [
        "aplinfo",
        "apt",
        "capabilities",
        "certificates",
        "config",
        "disks",
        "dns",
        "hardware",
        "hosts",
        "journal",
        "lxc",
        "netstat",
        "network",
        "qemu",
        "query-url-metadata",
        "replication",
        "report",
        "rrddata",
        "services",
        "status",
        "storage",
        "subscription",
        "syslog",
        "tasks",
        "time",
        "version",
        "vzdump",
    ];
    let rows: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn status(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE])?;
    Ok(call.world.node_status(call.now).into())
}

pub(crate) fn time(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE])?;
    let unix = call.now.unix;
    Ok(json!({"time": unix, "localtime": unix, "timezone": "Etc/UTC"}).into())
}

pub(crate) fn version(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "", &[NODE])?;
    Ok(call.world.version().into())
}

pub(crate) fn certificates(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "", &[NODE])?;
    Ok(Value::from(call.world.certificates.clone()).into())
}

/// Name, description, state and unit state of the services, as a node with everything installed has
/// them. The recorded node lacked most of them.
const SERVICES: [(&str, &str, bool); 24] = [
    ("chrony", "chrony, an NTP client/server", true),
    ("corosync", "corosync.service", false),
    ("cron", "Regular background program processing daemon", true),
    ("ksmtuned", "Kernel Samepage Merging (KSM) Tuning Daemon", true),
    ("lxcfs", "FUSE filesystem for LXC", true),
    ("postfix", "Postfix Mail Transport Agent", true),
    ("proxmox-firewall", "Proxmox nftables firewall", true),
    ("pve-cluster", "The Proxmox VE cluster filesystem", true),
    ("pve-firewall", "Proxmox VE firewall", true),
    ("pve-ha-crm", "PVE Cluster HA Resource Manager Daemon", true),
    ("pve-ha-lrm", "PVE Local HA Resource Manager Daemon", true),
    ("pve-lxc-syscalld", "Proxmox VE LXC Syscall Daemon", true),
    ("pvedaemon", "PVE API Daemon", true),
    ("pvefw-logger", "Proxmox VE firewall logger", true),
    ("pveproxy", "PVE API Proxy Server", true),
    ("pvescheduler", "Proxmox VE scheduler", true),
    ("pvestatd", "PVE Status Daemon", true),
    ("qmeventd", "PVE Qemu Event Daemon", true),
    ("spiceproxy", "PVE SPICE Proxy Server", true),
    ("sshd", "OpenBSD Secure Shell server", true),
    ("syslog", "syslog.service", false),
    ("systemd-journald", "Journal Service", true),
    ("systemd-timesyncd", "systemd-timesyncd.service", false),
    ("zfs-zed", "ZFS Event Daemon (zed)", true),
];

fn service_row(call: &Call<'_>, (name, desc, runs): (&str, &str, bool)) -> Value {
    // Without a cluster there is nothing for corosync to do.
    let runs = runs || (name == "corosync" && !call.world.peers.is_empty());
    let unit = match (runs, name) {
        (true, "systemd-journald") => "static",
        (true, _) => "enabled",
        (false, "corosync" | "systemd-timesyncd") => "masked",
        (false, _) => "not-found",
    };
    json!({
        "service": name, "name": name, "desc": desc,
        "state": if runs { "running" } else { "dead" },
        "active-state": if runs { "active" } else { "inactive" },
        "unit-state": unit,
    })
}

pub(crate) fn services(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE])?;
    // The last one is not among those the API knows.
    let known = SERVICES.iter().filter(|s| s.0 != "zfs-zed");
    Ok(Value::from(known.map(|s| service_row(call, *s)).collect::<Vec<_>>()).into())
}

fn service(call: &mut Call<'_>, node: &str, name: &str, privilege: &str) -> Result<usize, Refusal> {
    call.params.bind_path("service", name)?;
    check(call, node, privilege, &[NODE, Field("service", Ty::Any, false)])?;
    let known = || SERVICES.iter().filter(|s| s.0 != "zfs-zed");
    known().position(|s| s.0 == name).ok_or_else(|| {
        let all: Vec<&str> = known().map(|s| s.0).collect();
        let all = all.join(", ");
        let text = format!("value '{name}' does not have a value in the enumeration '{all}'");
        Refusal::parameter("service", text)
    })
}

pub(crate) fn service_state(call: &mut Call<'_>, node: &str, name: &str) -> Result<Reply, Refusal> {
    let at = service(call, node, name, "Sys.Audit")?;
    Ok(service_row(call, SERVICES[at]).into())
}

/// `start`, `stop`, `restart`, `reload`. The services of the simulator go on all the same.
pub(crate) fn service_command(
    call: &mut Call<'_>,
    node: &str,
    name: &str,
    verb: &str,
) -> Result<Reply, Refusal> {
    service(call, node, name, "Sys.Modify")?;
    let kind = format!("srv{verb}");
    let job = StorageJob::Other { log: Vec::new() };
    Ok(json!(call.world.begin_storage(call.now, &call.who, &kind, name, job)).into())
}

fn package(name: &str, old: &str, new: &str, origin: &str) -> Value {
    json!({
        "Package": name, "Title": format!("{name} (simulated)"), "Description": format!("The package {name}."),
        "Arch": "amd64", "Section": "admin", "Priority": "optional", "Origin": origin, "OldVersion": old,
        "Version": new,
    })
}

/// `GET …/apt/update`: what could be upgraded.
pub(crate) fn updates(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Modify", &[NODE])?;
    let rows = match call.world.release {
        Release::V8 => json!([package("pve-manager", "8.4.14", "8.4.16", "Proxmox")]),
        Release::V9 => json!([
            package("libc6", "2.41-12", "2.41-12+deb13u1", "Debian"),
            package("pve-manager", "9.1.8", "9.1.9", "Proxmox"),
        ]),
    };
    Ok(rows.into())
}

/// `POST …/apt/update`.
pub(crate) fn refresh_updates(call: &mut Call<'_>, node: &str) -> Result<Reply, Refusal> {
    let flag = |name| Field(name, Ty::Bool, true);
    check(call, node, "Sys.Modify", &[NODE, flag("notify"), flag("quiet")])?;
    let log = vec!["starting apt-get update".to_owned()];
    let job = StorageJob::Other { log };
    Ok(json!(call.world.begin_storage(call.now, &call.who, "aptupdate", "", job)).into())
}

pub(crate) fn versions(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE])?;
    let all: [(&str, &str); 4] = match call.world.release {
        Release::V8 => [
            ("proxmox-ve", "8.4.0"),
            ("pve-manager", "8.4.14"),
            ("qemu-server", "8.4.4"),
            ("pve-container", "5.3.3"),
        ],
        Release::V9 => [
            ("proxmox-ve", "9.1.0"),
            ("pve-manager", "9.1.8"),
            ("qemu-server", "9.1.4"),
            ("pve-container", "6.0.18"),
        ],
    };
    let rows: Vec<Value> = all
        .iter()
        .map(|(name, version)| {
            let mut row = package(name, version, version, "Proxmox");
            row["CurrentState"] = json!("Installed");
            match *name {
                "proxmox-ve" => row["RunningKernel"] = json!("6.17.2-1-pve"),
                "pve-manager" => row["ManagerVersion"] = json!(format!("{version}/simulated")),
                _ => {}
            }
            row
        })
        .collect();
    Ok(Value::from(rows).into())
}

fn interfaces(call: &Call<'_>) -> [Value; 2] {
    let ip = &call.world.node_ip;
    let gateway = ip.rsplit_once('.').map_or_else(|| ip.clone(), |(net, _)| format!("{net}.1"));
    [
        json!({
            "iface": "eno1", "type": "eth", "active": 1, "exists": 1, "autostart": 0, "priority": 2,
            "method": "manual", "method6": "manual", "families": ["inet"],
        }),
        json!({
            "iface": "vmbr0", "type": "bridge", "active": 1, "autostart": 1, "priority": 3,
            "method": "static", "method6": "manual", "families": ["inet"], "bridge_ports": "eno1",
            "bridge_stp": "off", "bridge_fd": "0", "address": ip, "netmask": "24",
            "cidr": format!("{ip}/24"), "gateway": gateway,
        }),
    ]
}

pub(crate) fn network(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    const TYPES: &[&str] = &[
        "bridge",
        "bond",
        "eth",
        "alias",
        "vlan",
        "fabric",
        "OVSBridge",
        "OVSBond",
        "OVSPort",
        "OVSIntPort",
        "vnet",
        "any_bridge",
        "any_local_bridge",
        "include_sdn",
    ];
    check(call, node, "", &[NODE, Field("type", Ty::Enum(TYPES), true)])?;
    let wanted = call.params.get("type").filter(|t| *t != "include_sdn");
    let bridges_only = wanted.is_some_and(|t| t.starts_with("any_"));
    // Of bridges only those the caller may use or see; of the rest those who may look at the node.
    let audit = call.may(&format!("/nodes/{}", call.world.node), &["Sys.Audit"]);
    let rows: Vec<Value> = interfaces(call)
        .into_iter()
        .filter(|row| {
            let is_bridge = row["type"] == "bridge";
            let zone = format!("/sdn/zones/localnetwork/{}", row["iface"].as_str().unwrap_or_default());
            let seen = audit || (is_bridge && call.may(&zone, &["SDN.Audit", "SDN.Use"]));
            seen && wanted.is_none_or(|t| row["type"] == t || (bridges_only && is_bridge))
        })
        .collect();
    Ok(Value::from(rows).into())
}

pub(crate) fn interface(call: &mut Call<'_>, node: &str, name: &str) -> Result<Reply, Refusal> {
    call.params.bind_path("iface", name)?;
    check(call, node, "Sys.Audit", &[NODE, Field("iface", Ty::Any, false)])?;
    let found = interfaces(call).into_iter().find(|row| row["iface"] == name);
    let mut row = found.ok_or_else(|| Refusal::parameter("iface", "interface does not exist"))?;
    if let Some(map) = row.as_object_mut() {
        map.remove("iface");
    }
    Ok(row.into())
}

/// The lines of the system log: the boot, then every task.
fn log_lines(call: &Call<'_>) -> Vec<(i64, String)> {
    let node = &call.world.node;
    let line = |unix: i64, text: String| (unix, format!("{} {node} {text}", Date::at(unix).syslog()));
    let boot = call.now.unix - i64::try_from(call.now.mono.as_secs()).unwrap_or_default();
    let mut lines = vec![
        line(boot, "systemd-journald[57]: Journal started".to_owned()),
        line(boot, "pvedaemon[901]: starting server".to_owned()),
        line(boot, "pveproxy[911]: starting server".to_owned()),
    ];
    for task in &call.world.tasks.all {
        let (who, upid) = (&task.upid.user, task.upid.to_string());
        lines.push(line(task.upid.starttime, format!("pvedaemon[901]: <{who}> starting task {upid}")));
        if let Some((exit, end)) = &task.ended {
            lines.push(line(*end, format!("pvedaemon[901]: <{who}> end task {upid} {exit}")));
        }
    }
    lines.sort_by_key(|(unix, _)| *unix);
    lines
}

/// `GET …/journal`: plain lines.
pub(crate) fn journal(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    let number = |name| Field(name, Ty::Int(0), true);
    let fields = [
        NODE,
        number("lastentries"),
        number("since"),
        number("until"),
        Field("startcursor", Ty::Any, true),
        Field("endcursor", Ty::Any, true),
    ];
    check(call, node, "Sys.Syslog", &fields)?;
    let (since, until) = (call.params.number("since"), call.params.number("until"));
    let all: Vec<String> = log_lines(call)
        .into_iter()
        .filter(|(t, _)| since.is_none_or(|s| *t >= s) && until.is_none_or(|u| *t <= u))
        .map(|(_, text)| text)
        .collect();
    let last = call.params.number("lastentries").and_then(|n| usize::try_from(n).ok()).unwrap_or(all.len());
    let lines = all.get(all.len().saturating_sub(last)..).unwrap_or_default();
    // A cursor before the lines and one after them, as the real journal reader gives.
    let mut rows = vec![format!("s=simulated;i={}", all.len() - lines.len())];
    rows.extend(lines.iter().cloned());
    rows.push(format!("s=simulated;i={}", all.len()));
    Ok(json!(rows).into())
}

/// `GET …/syslog`: numbered lines and their total.
pub(crate) fn syslog(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    let fields = [
        NODE,
        Field("limit", Ty::Int(0), true),
        Field("start", Ty::Int(0), true),
        Field("since", Ty::Any, true),
        Field("until", Ty::Any, true),
        Field("service", Ty::Text(128), true),
    ];
    check(call, node, "Sys.Syslog", &fields)?;
    let service = call.params.get("service").unwrap_or_default();
    let all: Vec<String> =
        log_lines(call).into_iter().map(|(_, t)| t).filter(|t| t.contains(service)).collect();
    let count = |name: &str, default| {
        call.params.number(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(default)
    };
    let (start, limit) = (count("start", 0), count("limit", 50));
    let rows = all.iter().enumerate().skip(start).take(limit);
    let rows: Vec<Value> = rows.map(|(i, t)| json!({"n": i + 1, "t": t})).collect();
    let total = Some(all.len());
    Ok(Reply { total, ..Reply::from(Value::from(rows)) })
}

/// Seconds between two points of a graph.
fn step(call: &Call<'_>) -> i64 {
    match call.params.get("timeframe") {
        Some("day") => 1_800,
        Some("week") => 10_800,
        Some("month") => 43_200,
        Some("year" | "decade") => 604_800,
        _ => 60,
    }
}

/// The points of a graph. As on a node that has not run long, the first ones have a time only.
pub(crate) fn series(call: &Call<'_>, row: impl Fn(i64) -> Value) -> Value {
    let step = step(call);
    let last = call.now.unix - call.now.unix.rem_euclid(step) - step;
    let points = (0..60).map(|n| {
        let time = last - (59 - n) * step;
        let mut point = if n < 10 { json!({}) } else { row(time) };
        point["time"] = json!(time);
        point
    });
    points.collect::<Vec<_>>().into()
}

pub(crate) fn rrddata(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE, TIMEFRAME, CF])?;
    let newer = call.world.release == Release::V9;
    let status = call.world.node_status(call.now);
    let memory = &status["memory"];
    let row = |time: i64| {
        // A slow wave, so that a graph is not a line.
        let wave = (time.div_euclid(60).rem_euclid(20) - 10).abs() as f64 / 100.0;
        let mut row = json!({
            "cpu": 0.02 + wave, "maxcpu": status["cpuinfo"]["cpus"], "iowait": 0.001, "loadavg": 0.1 + wave,
            "memtotal": memory["total"], "memused": memory["used"], "netin": 2048.5, "netout": 512.25,
            "roottotal": status["rootfs"]["total"], "rootused": status["rootfs"]["used"],
            "swaptotal": 0, "swapused": 0,
        });
        if newer {
            row["memavailable"] = memory["available"].clone();
            row["arcsize"] = json!(0);
            for what in ["cpusome", "iosome", "iofull", "memorysome", "memoryfull"] {
                row[format!("pressure{what}")] = json!(0);
            }
        }
        row
    };
    Ok(series(call, row).into())
}

pub(crate) fn dns(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE])?;
    Ok(json!({"search": "example.invalid", "dns1": "192.0.2.1"}).into())
}

pub(crate) fn subscription(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "", &[NODE])?;
    Ok(json!({
        "status": "notfound", "message": "There is no subscription key",
        "serverid": "00000000000000000000000000000000", "url": "https://subscription.invalid/",
    })
    .into())
}

pub(crate) fn report(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE])?;
    let world = &*call.world;
    let ids = |kind| {
        let found = world.guests.iter().filter(|(_, g)| g.kind == kind);
        found.map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(" ")
    };
    let text = format!(
        "==== general system info ====\n\n# hostname\n{}\n\n# pveversion\n{}\n\n==== guests ====\n\n# qm\n{}\n\n# pct\n{}\n",
        world.node,
        world.node_status(call.now)["pveversion"].as_str().unwrap_or_default(),
        ids(crate::world::Kind::Qemu),
        ids(crate::world::Kind::Lxc),
    );
    Ok(Value::from(text).into())
}

pub(crate) fn netstat(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    check(call, node, "Sys.Audit", &[NODE])?;
    let running = call.world.guests.iter().filter(|(_, g)| g.running.is_some());
    let rows: Vec<Value> = running
        .map(|(vmid, _)| json!({"vmid": vmid.to_string(), "dev": "net0", "in": "0", "out": "0"}))
        .collect();
    Ok(Value::from(rows).into())
}
