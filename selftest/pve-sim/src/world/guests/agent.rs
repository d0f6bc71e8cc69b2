//! The guest agent inside a virtual machine.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::world::{Guest, Kind};

/// A guest agent that answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// `id` of the operating system, such as `debian`.
    pub os: String,
    /// The addresses of `eth0` as `ADDRESS/PREFIX`.
    pub addresses: Vec<String>,
    /// Commands run so far, by process id.
    runs: BTreeMap<u32, Run>,
    pids: u32,
}

/// A command the agent was asked to run.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Default for Agent {
    fn default() -> Agent {
        Agent {
            os: "debian".to_owned(),
            addresses: vec!["192.0.2.21/24".to_owned(), "2001:db8::21/64".to_owned()],
            runs: BTreeMap::new(),
            pids: 400,
        }
    }
}

/// `ADDRESS/PREFIX` as the agent reports it.
fn address_row(text: &str) -> Value {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let family = if address.contains(':') { "ipv6" } else { "ipv4" };
    json!({
        "ip-address": address, "ip-address-type": family,
        "prefix": prefix.parse::<u32>().unwrap_or(32),
    })
}

impl Agent {
    /// Runs a command. There is no machine to run it in: `echo` prints its arguments, `false` ends
    /// with 1, a shell path or an absolute path ends with 0, and everything else is not found.
    pub fn run(&mut self, command: &[String]) -> u32 {
        self.pids += 1;
        let program = command.first().map(String::as_str).unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        let run = match name {
            "echo" => Run { code: 0, out: format!("{}\n", command[1..].join(" ")), err: String::new() },
            "false" => Run { code: 1, out: String::new(), err: String::new() },
            _ if program.starts_with('/') => Run { code: 0, out: String::new(), err: String::new() },
            "true" | "sh" | "sync" => Run { code: 0, out: String::new(), err: String::new() },
            other => Run { code: 127, out: String::new(), err: format!("{other}: not found\n") },
        };
        self.runs.insert(self.pids, run);
        self.pids
    }

    /// `exec-status` of a command; it is forgotten with that, as the real agent does.
    pub fn finished(&mut self, pid: u32) -> Option<Value> {
        let run = self.runs.remove(&pid)?;
        let mut view = json!({"exited": 1, "exitcode": run.code});
        for (key, text) in [("out-data", run.out), ("err-data", run.err)] {
            if !text.is_empty() {
                view[key] = json!(text);
            }
        }
        Some(view)
    }

    /// `get-osinfo`.
    pub fn osinfo(&self) -> Value {
        json!({
            "id": self.os, "name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 13 (trixie)",
            "version": "13 (trixie)", "version-id": "13", "machine": "x86_64",
            "kernel-release": "6.12.48+deb13-amd64", "kernel-version": "#1 SMP PREEMPT_DYNAMIC",
        })
    }

    /// `network-get-interfaces`.
    pub fn interfaces(&self, mac: &str) -> Value {
        let rows: Vec<Value> = self.addresses.iter().map(|a| address_row(a)).collect();
        json!([
            {
                "name": "lo", "hardware-address": "00:00:00:00:00:00",
                "ip-addresses": [address_row("127.0.0.1/8"), address_row("::1/128")],
            },
            {"name": "eth0", "hardware-address": mac.to_lowercase(), "ip-addresses": rows},
        ])
    }
}

impl Guest {
    /// Whether the configuration says that there is an agent.
    pub fn agent_configured(&self) -> bool {
        self.text("agent").is_some_and(|text| {
            let first = text.split(',').next().unwrap_or_default();
            matches!(first.strip_prefix("enabled=").unwrap_or(first), "1" | "yes" | "on" | "true")
        })
    }

    /// The agent, or the text of its absence. The second and third text are of the published
    /// sources; only the first was recorded.
    pub fn require_agent(&mut self, vmid: u32) -> Result<&mut Agent, String> {
        if !self.agent_configured() {
            return Err("No QEMU guest agent configured".to_owned());
        }
        if self.running.is_none() {
            return Err(format!("VM {vmid} is not running"));
        }
        if self.paused {
            return Err("QEMU guest agent is not running".to_owned());
        }
        self.agent.as_mut().ok_or_else(|| "QEMU guest agent is not running".to_owned())
    }

    /// The hardware address of the first network device.
    pub fn mac(&self) -> String {
        let text = self.text("net0").unwrap_or_default();
        let values = text.split(',').filter_map(|part| part.split_once('=').map(|(_, value)| value));
        let is_mac = |value: &&str| value.len() == 17 && value.matches(':').count() == 5;
        values.clone().find(is_mac).unwrap_or("00:00:00:00:00:00").to_owned()
    }

    /// `GET …/interfaces` of a container; nothing while it is stopped.
    pub fn container_interfaces(&self, with_details: bool) -> Value {
        if self.kind != Kind::Lxc || self.running.is_none() {
            return json!([]);
        }
        let row = |name: &str, mac: &str, addresses: &[String]| {
            let mut row = json!({"name": name, "hwaddr": mac});
            for address in addresses {
                let key = if address.contains(':') { "inet6" } else { "inet" };
                row[key] = json!(address);
            }
            if with_details {
                row["hardware-address"] = json!(mac);
                row["ip-addresses"] = addresses.iter().map(|a| address_row(a)).collect();
            }
            row
        };
        let lo = ["127.0.0.1/8".to_owned(), "::1/128".to_owned()];
        json!(
            [row("lo", "00:00:00:00:00:00", &lo), row("eth0", &self.mac().to_lowercase(), &self.addresses),]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Config, Running};

    #[test]
    fn what_is_missing_is_named_in_order() {
        let mut guest = Guest::new(Kind::Qemu, Config::new());
        let text = |g: &mut Guest| g.require_agent(100).err().unwrap_or_default();
        assert_eq!(text(&mut guest), "No QEMU guest agent configured");
        guest.config.insert("agent".to_owned(), json!("enabled=1,fstrim_cloned_disks=1"));
        assert_eq!(text(&mut guest), "VM 100 is not running");
        guest.running = Some(Running { pid: 1, since: 0 });
        assert_eq!(text(&mut guest), "QEMU guest agent is not running");
        guest.agent = Some(Agent::default());
        assert_eq!(text(&mut guest), "");
        guest.paused = true;
        assert_eq!(text(&mut guest), "QEMU guest agent is not running");
    }

    #[test]
    fn commands_have_an_end_that_is_told_once() {
        let mut agent = Agent::default();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let pid = agent.run(&words("/bin/echo a b"));
        assert_eq!(agent.finished(pid).unwrap()["out-data"], "a b\n");
        assert_eq!(agent.finished(pid), None);
        let pid = agent.run(&words("nosuch"));
        assert_eq!(agent.finished(pid).unwrap()["exitcode"], 127);
        let pid = agent.run(&[]);
        assert!(agent.finished(pid).is_some());
    }
}
