//! Values of configuration options: reading and checking them.

use serde_json::{Value, json};

use crate::world::options::OptionKind;
use crate::world::{Guest, Kind};

impl OptionKind {
    /// The value as the configuration keeps it, or the text of the schema's refusal.
    pub(crate) fn read(self, kind: Kind, key: &str, text: &str) -> Result<Value, String> {
        let number = |least: i64, most: i64| -> Result<i64, String> {
            let value: i64 =
                text.parse().map_err(|_| format!("type check ('integer') failed - got '{text}'"))?;
            if value < least {
                return Err(format!("value must have a minimum value of {least}"));
            }
            if value > most {
                return Err(format!("value must have a maximum value of {most}"));
            }
            Ok(value)
        };
        match self {
            OptionKind::Bool => match text {
                "0" => Ok(json!(0)),
                "1" => Ok(json!(1)),
                _ => Err(format!("type check ('boolean') failed - got '{text}'")),
            },
            OptionKind::Int(least, most) => Ok(json!(number(least, most)?)),
            OptionKind::NumberAsText(least) => Ok(json!(number(least, i64::MAX)?.to_string())),
            OptionKind::Number(least, most) => {
                let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                let value: f64 = text
                    .parse()
                    .ok()
                    .filter(|_| plain)
                    .ok_or_else(|| format!("type check ('number') failed - got '{text}'"))?;
                if value < least as f64 {
                    return Err(format!("value must have a minimum value of {least}"));
                }
                if value > most as f64 {
                    return Err(format!("value must have a maximum value of {most}"));
                }
                Ok(json!(text))
            }
            OptionKind::Enum(words) if words.contains(&text) => Ok(json!(text)),
            OptionKind::Enum(words) => {
                let all = words.join(", ");
                Err(format!("value '{text}' does not have a value in the enumeration '{all}'"))
            }
            OptionKind::Text(most) if text.chars().count() > most => {
                Err(format!("value may only be {most} characters long"))
            }
            OptionKind::Text(_) => Ok(json!(text)),
            OptionKind::DnsName if is_dns_name(text) => Ok(json!(text)),
            OptionKind::DnsName => {
                Err("invalid format - value does not look like a valid DNS name\n".to_owned())
            }
            OptionKind::Tags => read_tags(text).map(Value::from),
            OptionKind::Startup if is_startup(text) => Ok(json!(text)),
            OptionKind::Startup => Err(format!("invalid format - unable to parse value of '{key}'\n")),
            OptionKind::Net => check_net(kind, key, text).map(|()| json!(text)),
            OptionKind::Drive => check_drive(kind, key, text).map(|()| json!(text)),
        }
    }
}

fn is_dns_name(text: &str) -> bool {
    let label = |part: &str| {
        let clean = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !part.is_empty()
            && part.len() <= 63
            && part.chars().all(clean)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

/// Tags as they are kept: lower case, sorted, once each.
fn read_tags(text: &str) -> Result<String, String> {
    let mut tags: Vec<String> =
        text.split([',', ';', ' ']).filter(|tag| !tag.is_empty()).map(str::to_ascii_lowercase).collect();
    let clean = |tag: &String| {
        let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        tag.bytes().next().is_some_and(first)
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.'))
    };
    if !tags.iter().all(clean) {
        return Err("invalid format - invalid characters in tag\n".to_owned());
    }
    tags.sort();
    tags.dedup();
    Ok(tags.join(";"))
}

fn is_startup(text: &str) -> bool {
    text.split(',').all(|part| {
        let (key, value) = part.split_once('=').unwrap_or(("order", part));
        matches!(key, "order" | "up" | "down") && value.parse::<u32>().is_ok()
    })
}

/// The models a virtual network device may have.
const MODELS: [&str; 14] = [
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];

fn format_error(detail: &str) -> String {
    format!("invalid format - format error\n{detail}\n")
}

fn check_net(kind: Kind, key: &str, text: &str) -> Result<(), String> {
    let allowed: &[&str] = match kind {
        Kind::Qemu => {
            &["model", "macaddr", "bridge", "firewall", "link_down", "mtu", "queues", "rate", "tag", "trunks"]
        }
        Kind::Lxc => &[
            "name",
            "bridge",
            "firewall",
            "gw",
            "gw6",
            "host-managed",
            "hwaddr",
            "ip",
            "ip6",
            "link_down",
            "mtu",
            "rate",
            "tag",
            "trunks",
            "type",
        ],
    };
    let mut named = false;
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let is_model = kind == Kind::Qemu && MODELS.contains(&name);
        named |= is_model || matches!((kind, name), (Kind::Qemu, "model") | (Kind::Lxc, "name"));
        if !is_model && !allowed.contains(&name) {
            return Err(format_error(&format!(
                "{key}.{name}: property is not defined in schema and the schema does not allow additional \
                 properties"
            )));
        }
        let is_flag = matches!(name, "firewall" | "link_down");
        if is_flag && !matches!(value, "0" | "1") {
            return Err(format_error(&format!(
                "{key}.{name}: type check ('boolean') failed - got '{value}'"
            )));
        }
    }
    if named {
        return Ok(());
    }
    let missing = if kind == Kind::Qemu { "model" } else { "name" };
    Err(format_error(&format!("{key}.{missing}: property is missing and it is not optional")))
}

fn check_drive(kind: Kind, key: &str, text: &str) -> Result<(), String> {
    let first = text.split(',').next().unwrap_or_default();
    let default = if kind == Kind::Qemu { "file" } else { "volume" };
    if first.is_empty() || (first.contains('=') && !first.starts_with(default)) {
        let detail = format!("{key}.{default}: property is missing and it is not optional");
        return Err(format_error(&detail));
    }
    let is_point = kind == Kind::Lxc && key.starts_with("mp");
    if is_point && !text.split(',').any(|part| part.starts_with("mp=")) {
        return Err(format_error(&format!("{key}.mp: property is missing and it is not optional")));
    }
    Ok(())
}

impl Guest {
    /// The refusal of a write with an outdated digest.
    pub fn check_digest(&self, given: Option<&str>) -> Result<(), String> {
        match given {
            Some(digest) if digest != self.digest() => Err(match self.kind {
                Kind::Qemu => "checksum mismatch (file change by other user?)",
                Kind::Lxc => "detected modified configuration - file changed by other user? Try again.",
            }
            .to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(of: OptionKind, kind: Kind, key: &str, text: &str) -> String {
        of.read(kind, key, text).err().unwrap_or_default()
    }

    #[test]
    fn values_are_checked_as_the_schema_says() {
        let q = Kind::Qemu;
        assert!(refused(OptionKind::Int(1, 8), q, "cores", "9").contains("maximum value of 8"));
        assert!(refused(OptionKind::Int(1, 8), q, "cores", "x").contains("'integer'"));
        assert!(refused(OptionKind::Number(0, 4), q, "cpulimit", "nan").contains("'number'"));
        assert_eq!(refused(OptionKind::Number(0, 4), q, "cpulimit", "0.5"), "");
        for bad in ["", "-a", "a b", "a..b", "ä", &"a".repeat(64)] {
            assert!(refused(OptionKind::DnsName, q, "name", bad).contains("DNS name"), "{bad}");
        }
        assert_eq!(OptionKind::Tags.read(q, "tags", "Web,prod;web").unwrap(), "prod;web");
        assert!(refused(OptionKind::Tags, q, "tags", "a b/c").contains("invalid characters"));
        assert_eq!(OptionKind::NumberAsText(16).read(q, "memory", "64").unwrap(), "64");
    }

    #[test]
    fn devices_name_what_is_missing() {
        let net = |kind, text: &str| refused(OptionKind::Net, kind, "net0", text);
        assert_eq!(net(Kind::Qemu, "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"), "");
        assert_eq!(net(Kind::Qemu, "model=virtio,bridge=vmbr0"), "");
        assert!(net(Kind::Qemu, "bridge=vmbr0").contains("net0.model"));
        assert!(net(Kind::Lxc, "bridge=vmbr0").contains("net0.name"));
        assert!(net(Kind::Lxc, "name=eth0,link_down=yes").contains("'boolean'"));
        assert!(net(Kind::Qemu, "virtio,nosuch=1").contains("net0.nosuch"));
        let drive = |kind, key: &str, text: &str| refused(OptionKind::Drive, kind, key, text);
        assert!(drive(Kind::Lxc, "mp0", "local-lvm:8").contains("mp0.mp"));
        assert!(drive(Kind::Qemu, "scsi0", "iothread=1").contains("scsi0.file"));
        assert_eq!(drive(Kind::Qemu, "scsi0", "local-lvm:8,iothread=1"), "");
    }
}
