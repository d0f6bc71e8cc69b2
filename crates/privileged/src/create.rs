//! Pure: the arguments of `pct create`. Everything in them comes from a type that can spell nothing else;
//! everything that Proxmox would choose by itself and that matters is said.

use std::path::Path;

use authz::order::{CreateParams, NetParams};
use protocol::{GuestKind, Tag};

/// The arguments for this container, from the image at this path. None for what is no such container, which the
/// order's parser excludes.
pub fn arguments(params: &CreateParams, image: &Path) -> Option<Vec<String>> {
    let CreateParams {
        vmid,
        kind,
        name,
        template: _,
        storage,
        disk,
        cores,
        memory_mib,
        net,
        unprivileged,
        onboot,
        start,
        pool,
        tags,
    } = params;
    let gib = (*disk)? >> 30;
    if *kind != GuestKind::Lxc || !unprivileged || gib == 0 {
        return None;
    }
    let mut args = vec!["create".to_owned(), vmid.to_string(), image.to_str()?.to_owned()];
    let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    let bit = |on: bool| u8::from(on).to_string();
    option("hostname", name.to_string());
    option("rootfs", format!("{storage}:{gib}"));
    option("cores", cores.to_string());
    option("memory", memory_mib.to_string());
    option("unprivileged", bit(true));
    option("features", "keyctl=1,nesting=1".to_owned());
    option("onboot", bit(*onboot));
    option("start", bit(*start));
    if let Some(NetParams { bridge, vlan, firewall }) = net {
        let tag = vlan.map(|vlan| format!(",tag={vlan}")).unwrap_or_default();
        option("net0", format!("name=eth0,bridge={bridge},firewall={},ip=dhcp{tag}", bit(*firewall)));
    }
    if let Some(pool) = pool {
        option("pool", pool.to_string());
    }
    if !tags.is_empty() {
        option("tags", tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(";"));
    }
    Some(args)
}

#[cfg(test)]
mod tests {
    use authz::order::TemplateSource;
    use protocol::Sha256;

    use super::*;

    fn params() -> CreateParams {
        CreateParams {
            vmid: 301.try_into().unwrap(),
            kind: GuestKind::Lxc,
            name: "ct301".parse().unwrap(),
            template: TemplateSource::Golden {
                volume: "local:vztmpl/golden.tar.zst".parse().unwrap(),
                sha256: Sha256::of(b"image"),
            },
            storage: "local-zfs".parse().unwrap(),
            disk: Some(8 << 30),
            cores: 2,
            memory_mib: 1536,
            net: Some(NetParams { bridge: "vmbr0".parse().unwrap(), vlan: Some(12), firewall: true }),
            unprivileged: true,
            onboot: false,
            start: true,
            pool: Some("kiosks".parse().unwrap()),
            tags: vec!["a".parse().unwrap(), "b".parse().unwrap()],
        }
    }

    #[test]
    fn the_whole_command_line_is_known() {
        let image = Path::new("/var/lib/writ-privileged/images/x.tar.zst");
        assert_eq!(
            arguments(&params(), image).unwrap().join(" "),
            "create 301 /var/lib/writ-privileged/images/x.tar.zst --hostname ct301 --rootfs local-zfs:8 \
             --cores 2 --memory 1536 --unprivileged 1 --features keyctl=1,nesting=1 --onboot 0 --start 1 \
             --net0 name=eth0,bridge=vmbr0,firewall=1,ip=dhcp,tag=12 --pool kiosks --tags a;b"
        );
        let bare = CreateParams { net: None, pool: None, tags: vec![], ..params() };
        assert!(!arguments(&bare, image).unwrap().iter().any(|arg| arg == "--net0" || arg == "--pool"));
    }

    #[test]
    fn nothing_but_an_unprivileged_container_with_a_disk() {
        let image = Path::new("/x.tar.zst");
        for other in [
            CreateParams { unprivileged: false, ..params() },
            CreateParams { kind: GuestKind::Qemu, ..params() },
            CreateParams { disk: None, ..params() },
            CreateParams { disk: Some(1), ..params() },
        ] {
            assert_eq!(arguments(&other, image), None, "{other:?}");
        }
    }
}
