//! Making guests.

use pve_sim::world::{Pool, Release};

use super::{Bench, TEMPLATE};

#[tokio::test]
async fn a_machine_gets_disks_identity_and_boot_order() {
    let bench = Bench::with(|w| Bench::allow(w, &["VM.Config.HWType", "VM.Config.CDROM"])).await;
    let params = [
        ("vmid", "110"),
        ("name", "new"),
        ("memory", "2048"),
        ("scsi0", "local-lvm:8,iothread=1"),
        ("scsi1", "tank:4"),
        ("ide2", "local:iso/debian.iso,media=cdrom"),
        ("net0", "virtio,bridge=vmbr0,firewall=1"),
        ("scsihw", "virtio-scsi-single"),
        ("tags", "prod;web"),
    ];
    let log = bench.ok("POST", "/qemu", &params).await;
    assert!(log.contains(
        &"scsi0: successfully created disk 'local-lvm:vm-110-disk-0,iothread=1,size=8G'".to_owned()
    ));
    let config = bench.get("/qemu/110/config").await;
    assert_eq!(config["scsi1"], "tank:vm-110-disk-0,size=4G");
    assert_eq!(config["memory"], "2048");
    assert_eq!(config["boot"], "order=scsi0;ide2;net0");
    assert!(config["net0"].as_str().unwrap().starts_with("virtio=BC:24:11:"));
    for (key, form) in [("smbios1", "uuid="), ("meta", "creation-qemu="), ("vmgenid", "")] {
        assert!(config[key].as_str().unwrap().starts_with(form), "{key}");
    }
    assert_eq!(config.get("lock"), None);
    let twice = bench.call("POST", "/qemu", &[("vmid", "110")]).await;
    twice.is(500, "unable to create VM 110 - VM 110 already exists on node 'pve1'");
    let other = bench.call("POST", "/qemu", &[("vmid", "200")]).await;
    other.is(500, "unable to create VM 200 - CT 200 already exists on node 'pve1'");
}

#[tokio::test]
async fn the_id_is_taken_while_the_task_runs_and_free_after_it_failed() {
    let bench = Bench::demo().await;
    bench.world(|w| w.task_duration = std::time::Duration::from_secs(600));
    let upid = bench.call("POST", "/qemu", &[("vmid", "111"), ("scsi0", "local-lvm:1")]).await.data();
    assert_eq!(bench.get("/qemu/111/config").await["lock"], "create");
    let twice = bench.call("POST", "/qemu", &[("vmid", "111")]).await;
    assert_eq!(twice.status, 500);
    bench.call("DELETE", &format!("/tasks/{}", upid.as_str().unwrap()), &[]).await.data();
    assert_eq!(bench.get("/qemu/111/config").await["lock"], "create", "killed work leaves its lock");
    bench.world(|w| {
        w.task_duration = std::time::Duration::from_millis(1);
        let fault = pve_sim::world::Fault::Fail { text: "no luck".to_owned(), leave_lock: false };
        w.injections.push(pve_sim::world::Injection { task: "qmcreate".to_owned(), fault });
    });
    bench.fails("POST", "/qemu", &[("vmid", "112")], "no luck").await;
    bench
        .call("GET", "/qemu/112/config", &[])
        .await
        .is(500, "Configuration file 'nodes/pve1/qemu-server/112.conf' does not exist");
}

#[tokio::test]
async fn a_container_is_unpacked_and_starts() {
    let bench = Bench::with(|w| {
        w.access.pools.insert("lab".to_owned(), Pool::default());
    })
    .await;
    let params = [
        ("vmid", "210"),
        ("ostemplate", TEMPLATE),
        ("rootfs", "tank:4"),
        ("mp0", "local-lvm:1,mp=/data,backup=1"),
        ("hostname", "new"),
        ("net0", "name=eth0,bridge=vmbr0,ip=dhcp"),
        ("features", "nesting=1"),
        ("pool", "lab"),
        ("start", "1"),
    ];
    let log = bench.ok("POST", "/lxc", &params).await;
    assert!(log.iter().any(|l| l.starts_with("extracting archive '/var/lib/vz/template/cache/debian-13")));
    let config = bench.get("/lxc/210/config").await;
    assert_eq!(config["rootfs"], "tank:subvol-210-disk-0,size=4G");
    assert_eq!(config["mp0"], "local-lvm:vm-210-disk-0,mp=/data,backup=1,size=1G");
    assert_eq!(
        (&config["unprivileged"], &config["ostype"], &config["arch"]),
        (&1.into(), &"debian".into(), &"amd64".into())
    );
    assert!(config["net0"].as_str().unwrap().contains("hwaddr=BC:24:11:"));
    bench.world(|w| assert!(w.access.pools["lab"].guests.contains(&210)));
    let started = bench.call("GET", "/tasks", &[("typefilter", "vzstart"), ("source", "all")]).await;
    let upid = started.body["data"][0]["upid"].as_str().unwrap().to_owned();
    assert_eq!(bench.finish(&upid).await.0, "OK");
    assert_eq!(bench.get("/lxc/210/status/current").await["status"], "running");
    let params = [("vmid", "210"), ("ostemplate", TEMPLATE)];
    bench.call("POST", "/lxc", &params).await.is(500, "CT 210 already exists on node 'pve1'");
}

#[tokio::test]
async fn privileged_by_default_only_in_release_8() {
    let bench = Bench::demo().await;
    let params = [("vmid", "211"), ("ostemplate", TEMPLATE), ("rootfs", "tank:1")];
    bench.ok("POST", "/lxc", &params).await;
    assert_eq!(bench.get("/lxc/211/config").await["unprivileged"], 1);
    let mut privileged = params.to_vec();
    privileged[0].1 = "212";
    privileged.push(("unprivileged", "0"));
    bench.call("POST", "/lxc", &privileged).await.is(403, "Permission check failed (/, Sys.Modify)");
    bench.world(|w| w.release = Release::V8);
    bench.ok("POST", "/lxc", &privileged).await;
    assert_eq!(bench.get("/lxc/212/config").await.get("unprivileged"), None);
    let mut implicit = params.to_vec();
    implicit[0].1 = "213";
    bench.ok("POST", "/lxc", &implicit).await;
    assert_eq!(bench.get("/lxc/213/config").await.get("unprivileged"), None);
}

#[tokio::test]
async fn what_only_root_may_set_is_refused() {
    let bench = Bench::with(|w| Bench::allow(w, &["VM.Config.HWType"])).await;
    for (key, value) in
        [("args", "-no-hpet"), ("hookscript", "local:snippets/x.sh"), ("vmgenid", "1"), ("lock", "backup")]
    {
        let answer = bench.call("POST", "/qemu", &[("vmid", "120"), (key, value)]).await;
        answer.is(500, &format!("only root can set '{key}' config"));
    }
    let usb = bench.call("POST", "/qemu", &[("vmid", "120"), ("usb0", "host=1234:5678")]).await;
    usb.is(500, "only root can set 'usb0' config for real devices");
    let lxc = |key: &'static str, value: &'static str| {
        vec![("vmid", "220"), ("ostemplate", TEMPLATE), ("rootfs", "tank:1"), (key, value)]
    };
    let flags =
        "Permission check failed (changing feature flags (except nesting) is only allowed for root@pam)";
    let bind = "Permission check failed (mount point type bind is only allowed for root@pam)";
    let device = "Permission check failed (configuring device passthrough is only allowed for root@pam)";
    for (key, value, text) in [
        ("features", "keyctl=1,nesting=1", flags),
        ("mp0", "/mnt/usb,mp=/data", bind),
        ("dev0", "/dev/dri/card0", device),
    ] {
        bench.call("POST", "/lxc", &lxc(key, value)).await.is(403, text);
    }
    bench.world(|w| assert!(!w.guests.contains_key(&120) && !w.guests.contains_key(&220)));
}

#[tokio::test]
async fn wrong_parameters_are_all_named() {
    let bench = Bench::demo().await;
    // Recorded.
    let answer = bench.call("POST", "/lxc", &[("vmid", "5"), ("memory", "abc"), ("foo", "bar")]).await;
    answer.is_about("vmid", "invalid format - value does not look like a valid VM ID\n");
    answer.is_about("memory", "type check ('integer') failed - got 'abc'");
    answer.is_about("foo", "property is not defined in schema");
    answer.is_about("ostemplate", "property is missing and it is not optional");
    let no_images = bench.call("POST", "/qemu", &[("vmid", "120"), ("scsi0", "local:1")]).await;
    no_images.is_about("storage", "storage 'local' does not support vm images");
    let gone = bench.call("POST", "/qemu", &[("vmid", "120"), ("scsi0", "nosuch:1")]).await;
    gone.is(500, "storage 'nosuch' does not exist");
    let params = [("vmid", "221"), ("ostemplate", TEMPLATE), ("storage", "local")];
    bench.call("POST", "/lxc", &params).await.is_about("storage", "does not support container directories");
}

#[tokio::test]
async fn every_privilege_is_asked_for() {
    let bench = Bench::demo().await;
    for (privilege, key, value, text) in [
        ("VM.Allocate", "name", "a", "Permission check failed"),
        ("VM.Config.Memory", "memory", "512", "Permission check failed (/vms/130, VM.Config.Memory)"),
        ("VM.Config.Disk", "scsi0", "tank:1", "Permission check failed (/vms/130, VM.Config.Disk)"),
        (
            "Datastore.AllocateSpace",
            "scsi0",
            "tank:1",
            "Permission check failed (/storage/tank, Datastore.AllocateSpace)",
        ),
        (
            "SDN.Use",
            "net0",
            "virtio,bridge=vmbr0",
            "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)",
        ),
    ] {
        bench.world(|w| w.access.roles.get_mut("WritAgent").unwrap().remove(privilege));
        let answer = bench.call("POST", "/qemu", &[("vmid", "130"), (key, value)]).await;
        answer.is(403, text);
        bench.world(|w| w.access.roles.get_mut("WritAgent").unwrap().insert(privilege.to_owned()));
    }
    bench.ok("POST", "/qemu", &[("vmid", "130"), ("net0", "virtio,bridge=vmbr0"), ("scsi0", "tank:1")]).await;
}

#[tokio::test]
async fn a_template_that_is_missing_is_noticed_in_the_task() {
    let bench = Bench::demo().await;
    let template = "local:vztmpl/missing.tar.gz";
    let params = [("vmid", "221"), ("ostemplate", template), ("rootfs", "tank:1")];
    // Recorded.
    let text = format!("unable to create CT 221 - volume '{template}' does not exist");
    bench.fails("POST", "/lxc", &params, &text).await;
    bench.world(|w| assert!(!w.guests.contains_key(&221)));
}
