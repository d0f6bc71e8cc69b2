//! What may change without a signature, as a person reads it.

use std::fmt::Write as _;

use authz::policy::Bounds;
use authz::policy::bounds::{Amounts, Backups, Create, Downloads, Fields, Grow, Rates, Switch};

use super::list;

/// Bytes in the largest unit that divides them.
fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.iter().find(|(shift, _)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| format!("{bytes} bytes"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

fn line(text: &mut String, what: &str, how: &str) {
    let _ = writeln!(text, "  {what:19}  {how}");
}

/// The lines of the bounds.
pub(super) fn describe(text: &mut String, bounds: &Bounds) {
    let Bounds {
        guests,
        start,
        tags,
        snapshots,
        max_snapshots_per_guest,
        max_pool_used_percent,
        max_changes_per_hour,
        fields,
        rates,
    } = bounds;
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    line(text, "guests", &list(guests.iter().map(|(first, last)| format!("{first}-{last}"))));
    line(text, "start a guest", yes(*start));
    line(text, "set its tags", yes(*tags));
    let how = format!(
        "{} (at most {max_snapshots_per_guest} per guest, and only while the pool stays under {max_pool_used_percent} %)",
        yes(*snapshots)
    );
    line(text, "take a snapshot", &how);
    let none = Fields::default();
    fields_of(text, fields.as_ref().unwrap_or(&none));
    line(text, "changes per hour", &format!("at most {max_changes_per_hour}"));
    let Rates { max_guests_per_hour, max_percent_of_guests_per_day, few_guests_per_day, flips_per_hour } =
        rates.unwrap_or_default();
    line(text, "guests per hour", &format!("at most {max_guests_per_hour} are touched"));
    let how = format!(
        "at most {max_percent_of_guests_per_day} % of the host's guests are changed, or {few_guests_per_day} where \
         that is more"
    );
    line(text, "guests per day", &how);
    let how = format!("reversal number {flips_per_hour} of one field of a guest within an hour is refused");
    line(text, "back and forth", &how);
    text.push_str(
        "  Nothing is ever stopped, deleted, detached or made smaller on disk without a signature.\n",
    );
}

fn fields_of(text: &mut String, fields: &Fields) {
    let Fields { cores, memory, onboot, description, grow, backups, downloads, create } = fields;
    for (what, unit, amounts) in [("set its cores", "", cores), ("set its memory", " MiB", memory)] {
        let how = amounts.map_or_else(
            || "no".to_owned(),
            |Amounts { up_percent, down_percent, min, max }| {
                format!(
                    "up to {up_percent} % more or {down_percent} % less in a day, from {min} to {max}{unit}"
                )
            },
        );
        line(text, what, &how);
    }
    let how = match onboot {
        None => "no",
        Some(Switch { on: true, off: true }) => "on and off",
        Some(Switch { on: true, off: false }) => "on only",
        Some(Switch { on: false, .. }) => "off only",
    };
    line(text, "start with the host", how);
    line(text, "set its notes", if *description { "yes" } else { "no" });
    let how = grow.map_or_else(
        || "no".to_owned(),
        |Grow { max_bytes_per_step, max_bytes_per_guest_and_day }| {
            format!(
                "by at most {} at once and {} a day and guest",
                bytes(max_bytes_per_step),
                bytes(max_bytes_per_guest_and_day)
            )
        },
    );
    line(text, "grow a disk", &how);
    let how = backups.as_ref().map_or_else(
        || "no".to_owned(),
        |Backups { storages, max_per_guest_and_day }| {
            format!("to {}, at most {max_per_guest_and_day} a day and guest", list(storages.iter()))
        },
    );
    line(text, "take a backup", &how);
    let how = downloads.as_ref().map_or_else(
        || "no".to_owned(),
        |Downloads { storages, templates, max_per_day }| {
            let pins = templates.iter().map(|pin| format!("{} (SHA-256 {})", pin.template, pin.sha256));
            format!("{} to {}, at most {max_per_day} a day", list(pins), list(storages.iter()))
        },
    );
    line(text, "download templates", &how);
    let how = create.as_ref().map_or_else(
        || "no".to_owned(),
        |Create { templates, storages, bridges, max_cores, max_memory_mib, max_disk, max_per_day }| {
            format!(
                "from {}, on {}, network {}, at most {max_cores} cores, {max_memory_mib} MiB and {}, {max_per_day} a day",
                list(templates.iter()),
                list(storages.iter()),
                list(bridges.iter()),
                bytes(*max_disk)
            )
        },
    );
    line(text, "make a guest", &how);
}

#[cfg(test)]
mod tests {
    use authz::policy::bounds::PinnedTemplate;
    use protocol::plan::Pin;

    use super::*;

    #[test]
    fn bytes_are_whole_units() {
        let shown = [1 << 30, 3 << 29, 1023, 0, 1 << 41].map(bytes);
        assert_eq!(shown, ["1 GiB", "1536 MiB", "1023 bytes", "0 bytes", "2 TiB"]);
    }

    #[test]
    fn every_bound_is_shown() {
        let sha256 = protocol::Sha256::of(b"t");
        let storages = || vec!["pbs1".parse().unwrap(), "local".parse().unwrap()];
        let all = Bounds {
            fields: Some(Fields {
                cores: Some(Amounts { up_percent: 41, down_percent: 42, min: 1, max: 43 }),
                memory: Some(Amounts { up_percent: 44, down_percent: 45, min: 46, max: 47 }),
                onboot: Some(Switch { on: false, off: true }),
                description: true,
                grow: Some(Grow { max_bytes_per_step: 1 << 30, max_bytes_per_guest_and_day: 3 << 30 }),
                backups: Some(Backups { storages: storages(), max_per_guest_and_day: 7 }),
                downloads: Some(Downloads {
                    storages: storages(),
                    templates: vec![PinnedTemplate { template: "debian.tar.zst".parse().unwrap(), sha256 }],
                    max_per_day: 4,
                }),
                create: Some(Create {
                    templates: vec![Pin::Archive { volume: "local:vztmpl/a.tar".parse().unwrap(), sha256 }],
                    storages: storages(),
                    bridges: vec!["vmbr7".parse().unwrap()],
                    max_cores: 11,
                    max_memory_mib: 12,
                    max_disk: 5 << 30,
                    max_per_day: 3,
                }),
            }),
            rates: Some(Rates { max_guests_per_hour: 9, flips_per_hour: 2, ..Rates::default() }),
            ..Bounds::default()
        };
        let mut text = String::new();
        describe(&mut text, &all);
        for says in [
            "41 % more or 42 % less in a day, from 1 to 43\n",
            "44 % more or 45 % less in a day, from 46 to 47 MiB",
            "off only",
            "by at most 1 GiB at once and 3 GiB a day and guest",
            "to pbs1, local, at most 7 a day and guest",
            "debian.tar.zst (SHA-256 ",
            "from local:vztmpl/a.tar (SHA-256 ",
            "network vmbr7, at most 11 cores, 12 MiB and 5 GiB, 3 a day",
            "at most 9 are touched",
            "at most 20 % of the host's guests are changed, or 3 where that is more",
            "reversal number 2 of one field",
        ] {
            assert!(text.contains(says), "{says:?} is missing in\n{text}");
        }
        // Without fields each of them is no; without rates the ceilings are shown, because they count.
        let mut text = String::new();
        describe(&mut text, &Bounds::default());
        assert_eq!(text.matches("  no\n").count(), 10, "{text}");
        assert!(text.contains("at most 10 are touched"), "{text}");
    }
}
