//! Disks of a guest: resize, move, unlink.

use serde_json::Value;

use super::{At, VMID, begin, no_skiplock, options};
use crate::http::node::NODE;
use crate::http::params::{Field, Ty};
use crate::http::{Call, Reply};
use crate::world::{
    Guest, Job, Kind, MAX_DISK, MoveOrder, Refusal, is_volume_key, parse_size, size_of, volume_at,
};

const DIGEST: Field = Field("digest", Ty::Text(40), true);

/// The 400 of a disk's name that the schema does not have.
fn check_key(at: At<'_>, name: &'static str, key: &str) -> Result<(), Refusal> {
    if is_volume_key(at.kind, key) {
        return Ok(());
    }
    // The real text lists some sixty names; a client can only tell that it is one of these.
    let all = if at.kind == Kind::Qemu { "ide0, ide1, ide2, ide3, scsi0" } else { "rootfs, mp0, mp1, mp2" };
    let text = format!("value '{key}' does not have a value in the enumeration '{all}'");
    Err(Refusal::parameter(name, text))
}

/// `+1M`, `8G` as bytes: what is added, or the new size.
fn parse_target(text: &str) -> Option<(bool, u64)> {
    let (plus, rest) = text.strip_prefix('+').map_or((false, text), |rest| (true, rest));
    let digits = rest.trim_end_matches(['K', 'M', 'G', 'T']);
    if rest.len() - digits.len() > 1 || digits.is_empty() {
        return None;
    }
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 =
        digits.parse().ok().filter(|_| plain && !digits.starts_with('.') && !digits.ends_with('.'))?;
    let unit = parse_size(&format!("1{}", &rest[digits.len()..])).max(1);
    Some((plus, (number * unit as f64) as u64))
}

fn disk_of(guest: &Guest, key: &str) -> Result<(String, u64), Refusal> {
    let volume = volume_at(guest, key)
        .filter(|volume| volume.contains(':'))
        .ok_or_else(|| Refusal::internal(format!("disk '{key}' does not exist")))?;
    Ok((volume, guest.text(key).map(size_of).unwrap_or_default()))
}

pub(crate) fn resize(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let mut fields = vec![NODE, VMID, DIGEST, Field("disk", Ty::Any, false), Field("size", Ty::Any, false)];
    if at.kind == Kind::Qemu {
        fields.push(Field("skiplock", Ty::Bool, true));
    }
    let vmid = at.check(call, &["VM.Config.Disk"], &fields)?;
    let (disk, size) =
        (call.params.get("disk").unwrap_or_default(), call.params.get("size").unwrap_or_default());
    check_key(at, "disk", disk)?;
    let Some((plus, asked)) = parse_target(size) else {
        let text = r"value does not match the regex pattern";
        return Err(Refusal::parameter("size", text));
    };
    no_skiplock(call)?;
    let guest = call.world.guest(at.kind, vmid)?;
    guest.check_digest(call.params.get("digest")).map_err(Refusal::internal)?;
    guest.check_lock().map_err(Refusal::internal)?;
    let (volume, now) = disk_of(guest, disk)?;
    if volume.ends_with(".qcow2") && !guest.snapshots.is_empty() {
        return Err(Refusal::internal(format!("can't resize volume: {disk} if snapshot exists")));
    }
    let storage = volume.split(':').next().unwrap_or_default();
    call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    let bytes = if plus { now.saturating_add(asked) } else { asked };
    if bytes < now {
        return Err(Refusal::internal(match at.kind {
            Kind::Qemu => "shrinking disks is not supported",
            Kind::Lxc => "unable to shrink disk size",
        }));
    }
    if bytes > MAX_DISK {
        return Err(Refusal::internal(format!("{bytes} bytes are more than a volume can have")));
    }
    let disk = disk.to_owned();
    begin(call, at, vmid, Job::Resize { disk, bytes })
}

/// `move_disk` of machines and `move_volume` of containers. Handing a disk to another guest is not
/// simulated.
pub(crate) fn relocate(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    const FORMATS: &[&str] = &["raw", "qcow2", "vmdk"];
    let key = if at.kind == Kind::Qemu { "disk" } else { "volume" };
    let mut fields = vec![
        NODE,
        VMID,
        DIGEST,
        Field(key, Ty::Any, false),
        Field("storage", Ty::Any, true),
        Field("delete", Ty::Bool, true),
        Field("bwlimit", Ty::Int(0), true),
        Field("target-digest", Ty::Text(40), true),
        Field("target-vmid", Ty::Vmid, true),
    ];
    match at.kind {
        Kind::Qemu => {
            fields.extend([Field("format", Ty::Enum(FORMATS), true), Field("target-disk", Ty::Any, true)])
        }
        Kind::Lxc => fields.push(Field("target-volume", Ty::Any, true)),
    }
    let vmid = at.check(call, &["VM.Config.Disk"], &fields)?;
    let text = |name: &str| call.params.get(name).map(str::to_owned);
    let disk = text(key).unwrap_or_default();
    check_key(at, key, &disk)?;
    if text("target-vmid").is_some() {
        return Err(Refusal::internal("the simulator does not hand disks from one guest to another"));
    }
    let Some(storage) = text("storage") else {
        return Err(Refusal::internal("neither target-vmid nor storage was given"));
    };
    let guest = call.world.guest(at.kind, vmid)?;
    guest.check_digest(call.params.get("digest")).map_err(Refusal::internal)?;
    guest.check_lock().map_err(Refusal::internal)?;
    let (old, _) = disk_of(guest, &disk)?;
    let die = |text: &str| Err(Refusal::internal(text));
    if at.kind == Kind::Lxc && guest.running.is_some() {
        return die("cannot move volumes of a running container");
    }
    options::check_storage(call, at.kind, &storage)?;
    let format = text("format");
    let same_format =
        format.as_ref().is_none_or(|f| old.ends_with(&format!(".{f}")) || (f == "raw" && !old.contains('.')));
    if old.split(':').next() == Some(storage.as_str()) && same_format {
        return die(match at.kind {
            Kind::Qemu => "you can't move to the same storage with same format",
            Kind::Lxc => "you can't move a volume to the same storage",
        });
    }
    let delete = call.params.flag("delete");
    let in_snapshot = guest
        .snapshots
        .values()
        .any(|s| s.config.values().filter_map(Value::as_str).any(|t| t.split(',').next() == Some(&old)));
    if delete && in_snapshot {
        return die(match at.kind {
            Kind::Qemu => "you can't move a disk with snapshots and delete the source",
            Kind::Lxc => "you can't move a volume with snapshots and delete the source",
        });
    }
    begin(call, at, vmid, Job::Move(Box::new(MoveOrder { disk, storage, format, delete })))
}

/// `PUT …/unlink`: a shorter way to delete disks from the configuration.
pub(crate) fn unlink(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let fields = [NODE, VMID, Field("idlist", Ty::Any, false), Field("force", Ty::Bool, true)];
    let vmid = at.check(call, &["VM.Config.Disk"], &fields)?;
    let keys: Vec<String> = call
        .params
        .get("idlist")
        .unwrap_or_default()
        .split([',', ';', ' '])
        .filter(|k| !k.is_empty())
        .map(str::to_owned)
        .collect();
    let is_disk = |key: &&String| is_volume_key(at.kind, key) || key.starts_with("unused");
    if let Some(bad) = keys.iter().find(|key| !is_disk(key)) {
        return Err(Refusal::parameter("delete", format!("unknown option '{bad}'")));
    }
    let guest = call.world.guest(at.kind, vmid)?;
    guest.check_lock().map_err(Refusal::internal)?;
    let held = keys.iter().find(|key| guest.config.contains_key(*key));
    if let (Some(key), Some(1)) = (held, guest.config.get("protection").and_then(Value::as_u64)) {
        return Err(Refusal::internal(format!("can't remove drive '{key}' - protection mode enabled")));
    }
    let force = call.params.flag("force");
    call.world.unlink(at.kind, vmid, &keys, force).map_err(Refusal::internal)?;
    Ok(Value::Null.into())
}

#[cfg(test)]
mod tests {
    use super::parse_target;

    #[test]
    fn sizes_of_requests() {
        assert_eq!(parse_target("+1M"), Some((true, 1 << 20)));
        assert_eq!(parse_target("8G"), Some((false, 8 << 30)));
        assert_eq!(parse_target("+0.5G"), Some((true, 1 << 29)));
        assert_eq!(parse_target("4096"), Some((false, 4096)));
        for bad in ["", "+", "G", "-1G", "1GG", "1P", "1.", ".5G", "1e3", "nan", "0x1"] {
            assert_eq!(parse_target(bad), None, "{bad}");
        }
    }
}
