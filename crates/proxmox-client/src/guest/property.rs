//! Property strings, `default,key=value,…`: how Proxmox keeps disks, network cards and many more
//! options in one text.

use std::fmt;

/// A property string. Reading never fails and loses nothing: unknown keys and the order stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PropertyString {
    /// Key and value, in order; no key for a part that has none (`local-lvm:8`).
    parts: Vec<(Option<String>, String)>,
}

impl PropertyString {
    /// Without any part.
    #[must_use]
    pub const fn new() -> Self {
        Self { parts: Vec::new() }
    }

    /// Takes a text apart, as it stands in a config.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let part = |part: &str| match part.split_once('=') {
            Some((key, value)) => (Some(key.to_owned()), value.to_owned()),
            None => (None, part.to_owned()),
        };
        Self { parts: text.split(',').filter(|part| !part.trim().is_empty()).map(part).collect() }
    }

    /// The part without key: a disk's volume, mostly.
    #[must_use]
    pub fn default_value(&self) -> Option<&str> {
        self.parts.iter().find(|(key, _)| key.is_none()).map(|(_, value)| value.as_str())
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parts.iter().find(|(known, _)| known.as_deref() == Some(key)).map(|(_, value)| value.as_str())
    }

    /// Key and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&str>, &str)> {
        self.parts.iter().map(|(key, value)| (key.as_deref(), value.as_str()))
    }

    /// Puts the part without key first, or changes it where it stands.
    ///
    /// # Errors
    /// [`PropertyError`] if the value would read back as something else.
    pub fn with_default(mut self, value: &str) -> Result<Self, PropertyError> {
        let fits = !value.is_empty() && !value.contains(['=', ',']) && !value.chars().any(char::is_control);
        if !fits {
            return Err(PropertyError { key: String::new(), given: shown(value) });
        }
        match self.parts.iter_mut().find(|(key, _)| key.is_none()) {
            Some((_, known)) => value.clone_into(known),
            None => self.parts.insert(0, (None, value.to_owned())),
        }
        Ok(self)
    }

    /// Adds a key, or changes it where it stands.
    ///
    /// # Errors
    /// [`PropertyError`] if the value holds what would end it (a comma) or start another option.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Result<Self, PropertyError> {
        let value = value.to_string();
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = !key.is_empty()
            && key.bytes().all(name)
            && !value.is_empty()
            && !value.contains(',')
            && !value.chars().any(char::is_control);
        if !fits {
            return Err(PropertyError { key: shown(key), given: shown(&value) });
        }
        match self.parts.iter_mut().find(|(known, _)| known.as_deref() == Some(key)) {
            Some((_, known)) => *known = value,
            None => self.parts.push((Some(key.to_owned()), value)),
        }
        Ok(self)
    }

    /// Takes a key away.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.parts.retain(|(known, _)| known.as_deref() != Some(key));
        self
    }
}

impl fmt::Display for PropertyString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.parts.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            if let Some(key) = key {
                write!(f, "{key}=")?;
            }
            f.write_str(value)?;
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect()
}

/// A value that cannot stand in a property string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{key}` cannot be `{given}` in a property string: leave out commas, control characters and empty values"
)]
pub struct PropertyError {
    key: String,
    given: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_in_reading_and_writing() {
        for text in [
            "local-lvm:vm-100-disk-0,iothread=1,size=32G",
            "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,from-the-future=x=y",
            "creation-qemu=10.0.13,ctime=1795317658",
            "enabled",
            "",
        ] {
            assert_eq!(PropertyString::parse(text).to_string(), text);
        }
        let disk = PropertyString::parse("local-lvm:vm-100-disk-0,iothread=1,size=32G");
        assert_eq!((disk.default_value(), disk.get("size")), (Some("local-lvm:vm-100-disk-0"), Some("32G")));
        assert_eq!(disk.get(""), None);
        assert_eq!(PropertyString::parse("a=b=c").get("a"), Some("b=c"));
        assert_eq!(PropertyString::parse("a=1,,b=2").to_string(), "a=1,b=2");
    }

    #[test]
    fn changing_keeps_places() {
        let net = PropertyString::parse("virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1");
        let net = net.with("bridge", "vmbr1").unwrap().with("link_down", 1).unwrap().without("firewall");
        assert_eq!(net.to_string(), "virtio=BC:24:11:00:00:01,bridge=vmbr1,link_down=1");
        let disk = PropertyString::new().with("iothread", 1).unwrap().with_default("local-lvm:8").unwrap();
        assert_eq!(disk.to_string(), "local-lvm:8,iothread=1");
        assert_eq!(disk.iter().map(|(key, _)| key).collect::<Vec<_>>(), [None, Some("iothread")]);
        assert_eq!(disk.with_default("btr:1").unwrap().to_string(), "btr:1,iothread=1");
    }

    #[test]
    fn a_value_cannot_become_another_option() {
        let new = PropertyString::new;
        for value in ["", "a,ip=dhcp", "a\nb", "\0"] {
            assert!(new().with("name", value).is_err(), "{value:?}");
            assert!(new().with_default(value).is_err(), "{value:?}");
        }
        assert!(new().with_default("file=/etc/shadow").is_err());
        for key in ["", "a=b", "a,b", "ä", "a b"] {
            assert!(new().with(key, "x").is_err(), "{key:?}");
        }
        assert!(new().with("a", "b\u{1b}").unwrap_err().to_string().contains("control characters"));
    }
}
