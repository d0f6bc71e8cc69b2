//! The rows of guests, with what depends on the release and on the state of the whole node.

use serde_json::{Map, Value, json};

use crate::world::{Guest, Kind, Now, Release, World};

/// What QEMU counts for every drive, as recorded.
const COUNTERS: [&str; 31] = [
    "failed_flush_operations",
    "failed_rd_operations",
    "failed_unmap_operations",
    "failed_wr_operations",
    "failed_zone_append_operations",
    "flush_operations",
    "flush_total_time_ns",
    "invalid_flush_operations",
    "invalid_rd_operations",
    "invalid_unmap_operations",
    "invalid_wr_operations",
    "invalid_zone_append_operations",
    "rd_bytes",
    "rd_merged",
    "rd_operations",
    "rd_total_time_ns",
    "unmap_bytes",
    "unmap_merged",
    "unmap_operations",
    "unmap_total_time_ns",
    "wr_bytes",
    "wr_highest_offset",
    "wr_merged",
    "wr_operations",
    "wr_total_time_ns",
    "zone_append_bytes",
    "zone_append_merged",
    "zone_append_operations",
    "zone_append_total_time_ns",
    "account_failed",
    "account_invalid",
];

fn blockstat(guest: &Guest, now: Now) -> Value {
    let drives = guest.volumes().into_iter().map(|(key, _)| {
        let mut row: Map<String, Value> = COUNTERS
            .iter()
            .map(|name| {
                let flag = name.starts_with("account_");
                ((*name).to_owned(), if flag { json!(true) } else { json!(0) })
            })
            .collect();
        row.insert("timed_stats".to_owned(), json!([]));
        // It comes with the first access, which the firmware makes within the first second.
        if !guest.paused && guest.running.is_some_and(|r| r.since < now.unix) {
            row.insert("idle_time_ns".to_owned(), json!(307_336_054));
        }
        (key.to_owned(), Value::Object(row))
    });
    drives.collect()
}

impl World {
    /// The row of a guest list; `full` asks QEMU for its state.
    pub fn guest_row(&self, vmid: u32, now: Now, full: bool) -> Option<Value> {
        let guest = self.guests.get(&vmid)?;
        let mut row = guest.row(vmid, now, full);
        if full && guest.kind == Kind::Qemu && guest.paused {
            row["qmpstatus"] = json!("paused");
        }
        if full && guest.kind == Kind::Qemu && guest.running.is_some() && self.release == Release::V8 {
            // Not recorded for the list of 8.4; in the status it is there.
            row["qmpstatus"] = json!(if guest.paused { "paused" } else { "running" });
        }
        if guest.is_template() {
            row["template"] = json!(1);
        }
        if guest.kind == Kind::Lxc && guest.running.is_some() {
            row["disk"] = json!(2_371_584);
        }
        self.suit_release(&mut row);
        Some(row)
    }

    /// `GET …/status/current`.
    pub fn guest_current(&self, vmid: u32, now: Now) -> Option<Value> {
        let guest = self.guests.get(&vmid)?;
        let mut view = guest.current(vmid, now);
        if let (Some(view), Some(Value::Object(row))) =
            (view.as_object_mut(), self.guest_row(vmid, now, true))
        {
            view.extend(row);
        }
        view["ha"] = self.ha_view(vmid);
        if guest.kind == Kind::Qemu {
            if guest.running.is_some() {
                view["blockstat"] = blockstat(guest, now);
            }
            if guest.agent_configured() {
                view["agent"] = json!(1);
            }
        }
        self.suit_release(&mut view);
        Some(view)
    }

    /// Takes away what 8.4 does not have.
    fn suit_release(&self, row: &mut Value) {
        if let (Release::V8, Some(row)) = (self.release, row.as_object_mut()) {
            row.retain(|key, _| !key.starts_with("pressure") && key != "memhost" && key != "clipboard");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Now = Now { mono: Duration::ZERO, unix: 1_795_317_258 };

    #[test]
    fn releases_differ_in_fields() {
        let mut w = World::demo();
        for vmid in [100, 101, 200, 201] {
            w.release = Release::V9;
            let nine = w.guest_current(vmid, NOW).unwrap();
            w.release = Release::V8;
            let eight = w.guest_current(vmid, NOW).unwrap();
            let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert!(keys(&eight).len() < keys(&nine).len() || vmid == 201, "{vmid}");
            assert!(!keys(&eight).iter().any(|k| k.starts_with("pressure") || k == "clipboard"));
        }
        let row = w.guest_row(100, NOW, true).unwrap();
        assert_eq!(row["qmpstatus"], "running");
        assert_eq!(w.guest_row(999, NOW, true), None);
    }

    #[test]
    fn states_are_shown() {
        let mut w = World::demo();
        w.guests.get_mut(&100).unwrap().paused = true;
        let view = w.guest_current(100, NOW).unwrap();
        assert_eq!((&view["status"], &view["qmpstatus"]), (&json!("running"), &json!("paused")));
        assert_eq!(view["blockstat"]["scsi0"].as_object().unwrap().len(), 32);
        w.guests.get_mut(&101).unwrap().config.insert("template".to_owned(), json!(1));
        assert_eq!(w.guest_row(101, NOW, false).unwrap()["template"], 1);
    }
}
