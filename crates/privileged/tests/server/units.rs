//! What systemd says of our units.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: asks systemd-analyze what it thinks of a unit"
)]

use authz::order::{Filesystem, MountParams};
use privileged::mounts::{path, unit_name, unit_text};

#[test]
fn systemd_reads_them_without_a_complaint() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["backup", "backup-usb", "a_1", "0", "a--b", &"x-".repeat(16)] {
        for filesystem in [Filesystem::Ext4, Filesystem::Vfat, Filesystem::Ntfs3] {
            let params = MountParams {
                uuid: "0d6e5c1c-8a5b-4e57-9f3b-111111111111".parse().unwrap(),
                filesystem,
                name: name.parse().unwrap(),
                read_only: true,
                persist: true,
            };
            let escaped = std::process::Command::new("systemd-escape")
                .args(["--path", "--suffix=mount", &path(&params.name)])
                .output();
            let Ok(escaped) = escaped else {
                eprintln!("skipped: there is no systemd-escape here");
                return;
            };
            assert_eq!(String::from_utf8_lossy(&escaped.stdout).trim(), unit_name(&params.name));
            let file = dir.path().join(unit_name(&params.name));
            std::fs::write(&file, unit_text(&params)).unwrap();
            let said =
                std::process::Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
            let text = String::from_utf8_lossy(&said.stderr);
            if !said.status.success() && !text.contains(&unit_name(&params.name)) {
                eprintln!("skipped: systemd-analyze does not work here: {text}");
                return;
            }
            assert!(!text.contains(&unit_name(&params.name)), "{text}");
        }
    }
}
