//! SMART: needs no signature, only reads.

use protocol::privileged::{PrivilegedAnswer, PrivilegedRequest, SmartTransport};

use crate::rig::{Rig, code, words};

fn ask(device: &str, transport: Option<SmartTransport>) -> PrivilegedRequest {
    PrivilegedRequest::Smart { device: device.parse().unwrap(), transport }
}

#[tokio::test]
async fn a_disk_is_read_without_an_anchor_and_not_woken() {
    let rig = Rig::new();
    let _process = rig.start_with("", "").await;
    let answer = rig.ask(&ask("/dev/sdb", Some(SmartTransport::Sat12))).await;
    let PrivilegedAnswer::Smart(reading) = answer else { panic!("{answer:?}") };
    assert_eq!((reading.asleep, reading.exit), (false, 0));
    assert!(String::from_utf8(reading.json.0).unwrap().contains("passed"));
    assert_eq!(rig.text("bin/smartctl.log"), "--json -n standby -i -H -A -d sat,12 /dev/sdb\n");
    assert_eq!(code(&rig.ask(&ask("/dev/sdb", None)).await), "rate");
    rig.mode("asleep");
    let answer = rig.ask(&ask("/dev/sda", None)).await;
    assert!(matches!(&answer, PrivilegedAnswer::Smart(reading) if reading.asleep), "{answer:?}");
    // No order is carried out by a service without a policy.
    assert_eq!(code(&rig.order(&rig.create()).await), "privileged");
}

#[tokio::test]
async fn bad_answers_are_errors_and_hurt_nobody() {
    for (mode, says) in [("hang", "too long"), ("loud", "more than")] {
        let (rig, _process) = Rig::anchored().await;
        rig.mode(mode);
        let answer = rig.ask(&ask("/dev/sda", None)).await;
        assert!(code(&answer) == "privileged" && words(&answer).contains(says), "{mode}: {answer:?}");
        rig.mode("");
        assert!(matches!(rig.ask(&ask("/dev/sdb", None)).await, PrivilegedAnswer::Smart(_)), "{mode}");
    }
}

#[tokio::test]
async fn what_is_no_disk_of_this_host_is_not_read() {
    let (rig, _process) = Rig::anchored().await;
    for device in ["/dev/sdz", "/dev/nvme0n1"] {
        assert_eq!(code(&rig.ask(&ask(device, None)).await), "precondition");
    }
    assert_eq!(rig.text("bin/smartctl.log"), "");
}
