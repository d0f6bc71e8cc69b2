//! Values of `writ op` that are not one type's spelling.

use authz::order::{BackupMode, Compression, ConfigKey, ConfigValue, ContentType, Filesystem};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use protocol::GuestKind;
use protocol::refs::{DiskSlot, PoolName, VolumeId};

use crate::prepare::{NewSize, UnusedDisk};

/// One of a closed list of words.
pub(super) fn words<T: Copy + Send + Sync + 'static, const N: usize>(
    words: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.map(|(word, _)| word)).try_map(move |said| {
        let found = words.iter().find(|(word, _)| *word == said).map(|(_, value)| *value);
        found.ok_or("not one of the words")
    })
}

pub(in crate::args) fn guest_kind() -> impl TypedValueParser<Value = GuestKind> {
    words([("qemu", GuestKind::Qemu), ("lxc", GuestKind::Lxc)])
}

pub(super) fn backup_mode() -> impl TypedValueParser<Value = BackupMode> {
    words([("snapshot", BackupMode::Snapshot), ("stop", BackupMode::Stop)])
}

pub(super) fn compression() -> impl TypedValueParser<Value = Compression> {
    words([
        ("zstd", Compression::Zstd),
        ("gzip", Compression::Gzip),
        ("lzo", Compression::Lzo),
        ("none", Compression::None),
    ])
}

pub(super) fn content() -> impl TypedValueParser<Value = ContentType> {
    words([
        ("images", ContentType::Images),
        ("rootdir", ContentType::Rootdir),
        ("iso", ContentType::Iso),
        ("vztmpl", ContentType::Vztmpl),
        ("backup", ContentType::Backup),
        ("import", ContentType::Import),
    ])
}

pub(super) fn filesystem() -> impl TypedValueParser<Value = Filesystem> {
    words([
        ("ext4", Filesystem::Ext4),
        ("xfs", Filesystem::Xfs),
        ("btrfs", Filesystem::Btrfs),
        ("vfat", Filesystem::Vfat),
        ("exfat", Filesystem::Exfat),
        ("ntfs3", Filesystem::Ntfs3),
    ])
}

/// `10G` in bytes. A unit must be there: Proxmox counts memory in MiB and disks in GiB where none is.
pub(super) fn amount(text: &str) -> Result<u64, String> {
    let wrong = || {
        "a size is a whole number and a unit of K, M, G or T (powers of 1024), such as 512M or 10G".to_owned()
    };
    let plain = text.strip_suffix("iB").unwrap_or(text);
    let digits = plain.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &plain[digits.len()..] {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// The same in whole MiB.
pub(super) fn mebibytes(text: &str) -> Result<u32, String> {
    let bytes = amount(text)?;
    let whole = bytes.is_multiple_of(1 << 20).then(|| u32::try_from(bytes >> 20).ok()).flatten();
    whole.ok_or_else(|| "memory is counted in whole MiB, at most 8T".to_owned())
}

/// `48G` or `+16G`.
pub(super) fn new_size(text: &str) -> Result<NewSize, String> {
    match text.strip_prefix('+') {
        Some(more) => amount(more).map(NewSize::By),
        None => amount(text).map(NewSize::To),
    }
}

/// `KEY=VALUE`, a value that the option takes.
pub(super) fn setting(text: &str) -> Result<(ConfigKey, ConfigValue), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as onboot=1")?;
    let key = key.parse::<ConfigKey>().map_err(|error| error.to_string())?;
    let value = value.parse::<ConfigValue>().map_err(|error| error.to_string())?;
    if key.takes(&value) { Ok((key, value)) } else { Err(format!("option {key} takes no value '{value}'")) }
}

/// `unused0` or a volume.
pub(super) fn unused_disk(text: &str) -> Result<UnusedDisk, String> {
    if text.contains(':') {
        return text.parse::<VolumeId>().map(UnusedDisk::Volume).map_err(|error| error.to_string());
    }
    text.parse::<DiskSlot>()
        .map(UnusedDisk::Slot)
        .map_err(|_| "write a slot such as unused0, or a volume as STORAGE:NAME".to_owned())
}

/// `VG/POOL`
pub(super) fn thin_pool(text: &str) -> Result<(PoolName, PoolName), String> {
    let parts = text.split_once('/').and_then(|(vg, pool)| Some((vg.parse().ok()?, pool.parse().ok()?)));
    parts.ok_or_else(|| "write VOLUMEGROUP/POOL, such as pve/data".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        for (text, bytes) in [("1K", 1 << 10), ("512M", 512 << 20), ("10G", 10 << 30), ("2TiB", 2 << 40)] {
            assert_eq!(amount(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "G",
            "10",
            "10g",
            "+10G",
            "-1G",
            "1.5G",
            "10GB",
            "10KM",
            "99999999999999999999G",
            "99999999T",
            "١G",
        ] {
            assert!(amount(bad).is_err(), "{bad}");
        }
        assert_eq!((new_size("+1G"), new_size("1G")), (Ok(NewSize::By(1 << 30)), Ok(NewSize::To(1 << 30))));
        assert!(new_size("++1G").is_err());
        assert_eq!((mebibytes("4G"), mebibytes("1536M")), (Ok(4096), Ok(1536)));
        assert!(mebibytes("1K").is_err() && mebibytes("9999999T").is_err());
    }

    #[test]
    fn settings_are_what_an_order_can_set() {
        assert!(setting("onboot=1").is_ok());
        assert!(setting("startup=order=2,up=30").is_ok(), "the first = counts");
        for (bad, says) in [
            ("onboot", "KEY=VALUE"),
            ("onboot=maybe", "takes no value"),
            ("args=-x", "root only"),
            ("memory=4096", "guest.resize"),
            ("cipassword=x", "secret"),
            ("onbot=1", "no option"),
            ("name=a\u{202e}b", "U+202E"),
        ] {
            let error = setting(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
