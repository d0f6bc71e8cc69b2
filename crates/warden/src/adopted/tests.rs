use super::*;

fn container(mac: &str, volume: &str) -> GuestIdentity {
    let macs = (!mac.is_empty()).then(|| mac.to_owned());
    GuestIdentity::from_facts(None, None, None, macs, [volume.to_owned()])
}

fn machine(uuid: &str, genid: &str, ctime: u64) -> GuestIdentity {
    GuestIdentity::from_facts(Some(uuid), Some(genid), Some(ctime), [], ["a:vm-1-disk-0".to_owned()])
}

#[test]
fn a_machine_stays_itself_through_rollback_and_new_disks_and_no_other_is_it() {
    let stable = Stable::of(&machine("u", "g", 5)).unwrap();
    let mut moved = machine("u", "g2", 5);
    moved.volids = vec!["b:vm-1-disk-3".into()];
    assert!(stable.is(&moved));
    assert!(!stable.is(&machine("u2", "g", 5)), "a clone");
    assert!(!stable.is(&machine("u", "g", 6)));
    assert!(!stable.is(&container("BC:24:11:00:00:01", "a:vm-1-disk-0")));
}

#[test]
fn a_container_is_its_addresses_and_a_volumes_name_is_not_enough() {
    let stable = Stable::of(&container("BC:24:11:00:00:01", "a:vm-1-disk-0")).unwrap();
    assert!(stable.is(&container("BC:24:11:00:00:01", "b:vm-1-disk-1")));
    assert!(!stable.is(&container("BC:24:11:00:00:02", "a:vm-1-disk-0")), "its number was given again");
    assert!(!stable.is(&container("", "a:vm-1-disk-0")));
    let bare = Stable::of(&container("", "a:vm-1-disk-0")).unwrap();
    assert!(bare.is(&container("", "a:vm-1-disk-0")) && !bare.is(&container("", "a:vm-1-disk-1")));
    assert_eq!(Stable::of(&GuestIdentity::default()), None);
}

#[test]
fn a_file_that_we_did_not_write_is_not_an_empty_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    assert!(Care::open(dir.path()).guests.unwrap().is_empty());
    let good = |giid: &str, twice: bool| {
        let op = Sha256::of(b"x");
        let one = format!(
            r#"{{"vmid":101,"type":"lxc","giid":"{giid}","stable":{{"by":"devices","macs":[],"volids":["a:b"]}},"op":"{op}","time":5}}"#
        );
        let guests = if twice { format!("{one},{one}") } else { one };
        format!(r#"{{"v":1,"guests":[{guests}]}}"#)
    };
    let id = "0123456789abcdef0123456789abcdef";
    std::fs::write(&path, good(id, false)).unwrap();
    assert_eq!(Care::open(dir.path()).guests.unwrap().len(), 1);
    for bad in [
        String::new(),
        "{".into(),
        good("0123", false),
        good(&id.to_uppercase(), false),
        good(id, true),
        good(id, false).replace("\"v\":1", "\"v\":2"),
        good(id, false).replace("\"time\":5", "\"time\":5,\"more\":1"),
        good(id, false).replace("101", "1"),
        format!("{}{}", good(id, false), " ".repeat(9 << 20)),
    ] {
        std::fs::write(&path, &bad).unwrap();
        let mut care = Care::open(dir.path());
        let (code, _) = care.get(Vmid::try_from(101).unwrap()).unwrap_err();
        assert_eq!(code, RefusalCode::Closed, "{}", &bad[..bad.len().min(80)]);
        care.change(BTreeMap::clear).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), bad.as_bytes(), "and it stays as it was");
    }
}
