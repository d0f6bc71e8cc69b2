//! The operator's TOML, parsed and checked as a whole before anything is sent; every complaint
//! names file and line. Pure.

use std::collections::BTreeMap;

use protocol::HostName;
use protocol::config::{ConfigError, parse_toml};
use protocol::desired::{DesiredDocument, DesiredError, DesiredState};
use serde::Deserialize;
use toml::Spanned;

/// Desired states by host, each with the line where the host is first named.
pub type Wanted = BTreeMap<HostName, (DesiredState, Option<usize>)>;

/// The same document again, only to know where things stand.
#[derive(Deserialize, Default)]
struct Places {
    #[serde(default)]
    host: BTreeMap<Spanned<String>, HostPlaces>,
}

#[derive(Deserialize)]
struct HostPlaces {
    #[serde(default)]
    guest: Vec<GuestPlace>,
}

#[derive(Deserialize)]
struct GuestPlace {
    vmid: Spanned<u32>,
}

/// Parses and checks.
pub fn parse(file: &str, text: &str) -> Result<Wanted, ConfigError> {
    let document: DesiredDocument = parse_toml(file, text)?;
    // It parsed as the stricter type, so it parses as this one too; without places the complaints
    // only lack their line.
    let places: Places = toml::from_str(text).unwrap_or_default();
    let line = |start: usize| 1 + text[..start.min(text.len())].matches('\n').count();
    if document.host.is_empty() {
        let problem = "it names no host: write [[host.NAME.guest]] entries (see `writ apply --help`)".into();
        return Err(ConfigError { file: file.to_owned(), line: None, problem });
    }
    let mut wanted = Wanted::new();
    for (name, state) in document.host {
        let place = places.host.iter().find(|(key, _)| key.get_ref() == name.as_str());
        let named_at = place.map(|(key, _)| line(key.span().start));
        let state = state.check().map_err(|error| {
            let at = match (&error, place) {
                (DesiredError::Duplicate(vmid), Some((_, host))) => {
                    let mut same = host.guest.iter().filter(|guest| *guest.vmid.get_ref() == vmid.get());
                    same.nth(1).map(|guest| line(guest.vmid.span().start))
                }
                _ => named_at,
            };
            ConfigError { file: file.to_owned(), line: at, problem: format!("host {name}: {error}") }
        })?;
        wanted.insert(name, (state, named_at));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# fleet
[[host.web1.guest]]
vmid = 101
name = \"db\"
running = true

[[host.db1.guest]]
vmid = 101
name = \"web\"
";

    #[test]
    fn hosts_know_their_line() {
        let wanted = parse("hosts.toml", GOOD).unwrap();
        let lines: Vec<_> = wanted.iter().map(|(name, (_, line))| (name.as_str(), *line)).collect();
        assert_eq!(lines, [("db1", Some(7)), ("web1", Some(2))]);
    }

    #[test]
    fn complaints_name_file_and_line() {
        let twice = format!("{GOOD}\n[[host.web1.guest]]\nvmid = 101\nname = \"again\"\n");
        let error = parse("hosts.toml", &twice).unwrap_err().to_string();
        assert_eq!(
            error,
            "hosts.toml, line 12: host web1: guest 101 stands twice in the desired state: merge the two entries"
        );
        let typo = GOOD.replace("running", "runnning");
        let error = parse("hosts.toml", &typo).unwrap_err().to_string();
        assert!(
            error.starts_with("hosts.toml, line 5") && error.contains("did you mean `running`"),
            "{error}"
        );
        assert!(parse("x", "").unwrap_err().to_string().contains("names no host"));
        assert!(parse("x", "[[host.\"a b\".guest]]\nvmid=101\nname=\"x\"").is_err());
    }
}
