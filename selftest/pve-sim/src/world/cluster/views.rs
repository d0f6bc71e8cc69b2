//! Guests and the node as the API shows them.

use serde_json::{Map, Value, json};

use crate::world::snapshots::description_out;
use crate::world::{Guest, Kind, Now, Release, World};

const NODE_CPUS: u32 = 4;
const NODE_MEMORY: u64 = 25_276_063_744;
const NODE_MEMORY_USED: u64 = 2_155_823_104;
const NODE_DISK: u64 = 270_553_174_016;
const NODE_DISK_USED: u64 = 24_748_707_840;
/// When the node was started: a little before the demo's guests, which cannot run longer than it.
const NODE_STARTED: i64 = crate::world::demo::STARTED - 87;

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

impl Guest {
    /// `GET …/config`.
    pub fn config_view(&self) -> Value {
        let mut map: Map<String, Value> = self.config.clone().into_iter().collect();
        if let Some(Value::String(text)) = map.get("description") {
            let text = description_out(self.kind, text);
            map.insert("description".to_owned(), json!(text));
        }
        map.insert("digest".to_owned(), json!(self.digest()));
        Value::Object(map)
    }

    fn cpus(&self) -> u64 {
        let default = match self.kind {
            Kind::Qemu => 1,
            Kind::Lxc => u64::from(NODE_CPUS),
        };
        let cores = self.config.get("cores").and_then(Value::as_u64).unwrap_or(default);
        cores.saturating_mul(self.config.get("sockets").and_then(Value::as_u64).unwrap_or(1))
    }

    fn uptime(&self, now: Now) -> i64 {
        self.running.map_or(0, |r| (now.unix - r.since).max(0))
    }

    /// The row of the guest list.
    pub fn row(&self, vmid: u32, now: Now, full: bool) -> Value {
        let status = if self.running.is_some() { "running" } else { "stopped" };
        let mut row = json!({
            "vmid": vmid, "name": self.name(), "status": status, "cpus": self.cpus(), "cpu": 0,
            "mem": 0, "maxmem": self.max_mem(), "disk": 0, "maxdisk": self.max_disk(),
            "uptime": self.uptime(now), "netin": 0, "netout": 0,
        });
        match self.kind {
            Kind::Qemu => {
                row["memhost"] = json!(0);
                if self.config.contains_key("serial0") {
                    row["serial"] = json!(1);
                }
                if full {
                    row["qmpstatus"] = json!(status);
                }
            }
            Kind::Lxc => {
                let swap = self.config.get("swap").and_then(Value::as_u64).unwrap_or(512);
                merge(
                    &mut row,
                    json!({
                        "type": "lxc", "swap": 0, "maxswap": swap << 20, "diskread": 0, "diskwrite": 0,
                    }),
                );
            }
        }
        for key in ["lock", "tags"] {
            if let Some(value) = self.config.get(key) {
                row[key] = value.clone();
            }
        }
        if let Some(running) = self.running {
            row["pid"] = json!(running.pid);
            for what in ["cpu", "io", "memory"] {
                for how in ["some", "full"] {
                    // Containers report the pressure as text, machines as a number.
                    row[format!("pressure{what}{how}")] = match self.kind {
                        Kind::Qemu => json!(0),
                        Kind::Lxc => json!("0.00"),
                    };
                }
            }
        }
        row
    }

    /// `GET …/status/current`.
    pub fn current(&self, vmid: u32, now: Now) -> Value {
        let mut view = self.row(vmid, now, true);
        view["ha"] = json!({"managed": 0});
        if self.kind == Kind::Qemu {
            view["clipboard"] = Value::Null;
            if self.running.is_some() {
                let memory = self.max_mem();
                merge(
                    &mut view,
                    json!({
                        "diskread": 0, "diskwrite": 0, "balloon": memory,
                        "ballooninfo": {"actual": memory, "max_mem": memory},
                        "running-machine": "pc-i440fx-10.0+pve0", "running-qemu": "10.0.13",
                        "blockstat": {"scsi0": {
                            "rd_bytes": 0, "wr_bytes": 0, "rd_operations": 0, "wr_operations": 0,
                            "flush_operations": 0, "timed_stats": [], "account_failed": true,
                        }},
                        "proxmox-support": {
                            "backup-access-api": true, "backup-fleecing": true,
                            "backup-max-workers": true, "pbs-dirty-bitmap": true,
                            "pbs-dirty-bitmap-migration": true, "pbs-dirty-bitmap-savevm": true,
                            "pbs-library-version": "", "pbs-masterkey": true,
                            "query-bitmap-info": true,
                        },
                    }),
                );
            }
        }
        view
    }

    /// The row of `GET /cluster/resources`.
    pub fn resource(&self, node: &str, vmid: u32, now: Now) -> Value {
        let status = if self.running.is_some() { "running" } else { "stopped" };
        let mut row = json!({
            "id": format!("{}/{vmid}", self.kind.segment()), "type": self.kind.segment(),
            "vmid": vmid, "node": node, "name": self.name(), "status": status,
            "template": u8::from(self.config.get("template").is_some_and(|t| *t == json!(1))),
            "cpu": 0, "maxcpu": self.cpus(), "mem": 0, "memhost": 0, "maxmem": self.max_mem(),
            "disk": 0, "maxdisk": self.max_disk(), "diskread": 0, "diskwrite": 0,
            "netin": 0, "netout": 0, "uptime": self.uptime(now),
        });
        for key in ["lock", "tags"] {
            if let Some(value) = self.config.get(key) {
                row[key] = value.clone();
            }
        }
        row
    }
}

impl World {
    fn uptime(now: Now) -> u64 {
        // A clock that stands before that day must not make it negative.
        u64::try_from(now.unix - NODE_STARTED).unwrap_or(0).max(now.mono.as_secs())
    }

    fn node_figures(now: Now) -> Value {
        json!({
            "cpu": 0.0298, "maxcpu": NODE_CPUS, "mem": NODE_MEMORY_USED, "maxmem": NODE_MEMORY,
            "disk": NODE_DISK_USED, "maxdisk": NODE_DISK, "uptime": World::uptime(now),
        })
    }

    /// The row of `GET /nodes`; the figures need Sys.Audit.
    pub fn node_row(&self, now: Now, figures: bool) -> Value {
        let mut row = json!({
            "node": self.node, "id": format!("node/{}", self.node), "type": "node",
            "status": "online", "level": "", "ssl_fingerprint": self.fingerprint,
        });
        if figures {
            merge(&mut row, World::node_figures(now));
        }
        row
    }

    /// The node's row of `GET /cluster/resources`.
    pub fn node_resource(&self, now: Now, figures: bool) -> Value {
        let mut row = json!({
            "node": self.node, "id": format!("node/{}", self.node), "type": "node",
            "status": "online", "level": "", "cgroup-mode": 2,
        });
        if figures {
            merge(&mut row, World::node_figures(now));
        }
        row
    }

    /// What the release calls itself.
    pub fn version(&self) -> Value {
        // Of 8.4 only `pveversion` was recorded; it holds the same three values.
        let (version, release, repoid) = match self.release {
            Release::V8 => ("8.4.14", "8.4", "008f2713b0a1b2c3"),
            Release::V9 => ("9.1.8", "9.1", "a8e257e1ad64dd92"),
        };
        json!({"version": version, "release": release, "repoid": repoid})
    }

    /// `GET /nodes/NODE/status`.
    pub fn node_status(&self, now: Now) -> Value {
        let mut view = self.node_status_of_9(now);
        if self.release == Release::V8 {
            view["pveversion"] = json!("pve-manager/8.4.14/008f2713b0a1b2c3");
            if let Some(memory) = view["memory"].as_object_mut() {
                memory.remove("available");
            }
            if let Some(processor) = view["cpuinfo"].as_object_mut() {
                processor.retain(|key, _| key != "family" && key != "vendor");
            }
        }
        view
    }

    fn node_status_of_9(&self, now: Now) -> Value {
        json!({
            "uptime": World::uptime(now), "cpu": 0.0298, "wait": 0, "idle": 0,
            "loadavg": ["0.12", "0.09", "0.05"],
            "memory": {
                "total": NODE_MEMORY, "used": NODE_MEMORY_USED,
                "available": NODE_MEMORY - NODE_MEMORY_USED, "free": 19_063_537_664_u64,
            },
            "swap": {"total": 0, "used": 0, "free": 0},
            "rootfs": {
                "total": NODE_DISK, "used": NODE_DISK_USED, "avail": 72_824_041_472_u64,
                "free": NODE_DISK - NODE_DISK_USED,
            },
            "ksm": {"shared": 0}, "boot-info": {"mode": "legacy-bios"},
            "cpuinfo": {
                "cpus": NODE_CPUS, "cores": NODE_CPUS, "sockets": 1, "hvm": "1", "family": "6",
                "model": "Simulated Processor", "mhz": "2600.000", "user_hz": 100,
                "vendor": "GenuineIntel", "flags": "fpu vme de pse tsc msr pae mce cx8 apic",
            },
            "current-kernel": {
                "sysname": "Linux", "release": "6.17.2-1-pve", "machine": "x86_64",
                "version": "#1 SMP PREEMPT_DYNAMIC @0",
            },
            "kversion": "Linux 6.17.2-1-pve #1 SMP PREEMPT_DYNAMIC @0",
            "pveversion": "pve-manager/9.1.8/a8e257e1ad64dd92",
        })
    }
}
