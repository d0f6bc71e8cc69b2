//! SMART: the arguments, the answer, and how often. Reads only, so nobody has to sign for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use authz::RefusalCode;
use protocol::privileged::{BlockDevice, MAX_SMART, SmartReading, SmartTransport};

use crate::config::PrivilegedConfig;
use crate::disks::View;
use crate::run::{self, How, Program};
use anchored::Denied;

/// `smartctl`'s bit for "the device could not be opened, or it sleeps".
const NOT_OPENED: i32 = 2;
/// Its bit for "the command line makes no sense".
const USAGE: i32 = 1;

/// When each disk was last read. As many entries as there are disks at most: names without a disk get none.
#[derive(Debug, Default)]
pub struct Rates {
    last: BTreeMap<BlockDevice, Instant>,
}

impl Rates {
    /// Whether the disk may be read now; if so, that counts.
    pub fn take(&mut self, device: &BlockDevice, now: Instant, every: Duration) -> Result<(), Denied> {
        if let Some(last) = self.last.get(device) {
            let since = now.saturating_duration_since(*last);
            if since < every {
                let why = format!(
                    "{device} was read {} s ago, and is read at most every {} s (smart_every_s): ask later",
                    since.as_secs(),
                    every.as_secs()
                );
                return Err(Denied::new(RefusalCode::Rate, why));
            }
        }
        self.last.insert(device.clone(), now);
        Ok(())
    }
}

/// Pure: the arguments of `smartctl`. It never wakes a disk and starts no test.
pub fn arguments(device: &BlockDevice, transport: Option<SmartTransport>) -> Vec<String> {
    let mut args: Vec<String> =
        ["--json", "-n", "standby", "-i", "-H", "-A"].iter().map(|&arg| arg.to_owned()).collect();
    if let Some(transport) = transport {
        args.extend(["-d".to_owned(), transport.word().to_owned()]);
    }
    args.push(device.to_string());
    args
}

/// Whether there is such a disk.
pub fn exists(config: &PrivilegedConfig, device: &BlockDevice) -> Result<(), Denied> {
    if View::has_disk(&config.stand_ins, device.name()) {
        return Ok(());
    }
    let why = format!("there is no disk {device} on this host");
    Err(Denied::new(RefusalCode::Precondition, why))
}

/// Reads it. Blocks.
pub fn read(
    config: &PrivilegedConfig,
    device: &BlockDevice,
    transport: Option<SmartTransport>,
) -> Result<SmartReading, Denied> {
    let program = Program {
        path: &config.stand_ins.smartctl,
        args: arguments(device, transport),
        timeout: Duration::from_secs(config.mount_timeout_s.min(60)),
    };
    let no = |why: String| Denied::new(RefusalCode::Privileged, why);
    let ran = run::run(&program).map_err(|error| no(error.to_string()))?;
    judge(device, ran.how, &ran.stdout, &ran.stderr).map_err(no)
}

/// Pure: what the end and the output of `smartctl` say.
fn judge(device: &BlockDevice, how: How, stdout: &[u8], stderr: &[u8]) -> Result<SmartReading, String> {
    let code = match how {
        How::Exited(code) => code,
        How::Signaled(signal) => return Err(format!("smartctl was ended by signal {signal}")),
        How::TimedOut => return Err("smartctl took too long and was ended".into()),
    };
    if stdout.len() > MAX_SMART {
        return Err(format!("smartctl printed more than {MAX_SMART} bytes"));
    }
    let json: serde_json::Value = serde_json::from_slice(stdout).map_err(|_| {
        format!(
            "smartctl printed no JSON ({}): is it version 7 or newer?",
            crate::said(&[stderr, stdout].concat())
        )
    })?;
    if !json.is_object() {
        return Err("smartctl printed no JSON object".into());
    }
    let messages = json.pointer("/smartctl/messages").and_then(|messages| messages.as_array());
    let messages: Vec<&str> =
        messages.into_iter().flatten().filter_map(|message| message.get("string")?.as_str()).collect();
    // "Device is in STANDBY mode, exit(2)", or SLEEP.
    let asleep = code & NOT_OPENED != 0
        && messages.iter().any(|message| message.contains("STANDBY") || message.contains("SLEEP"));
    if code & (USAGE | NOT_OPENED) != 0 && !asleep {
        return Err(format!(
            "smartctl could not read {device} (exit status {code}: {}): another transport may be needed",
            crate::said(messages.join("; ").as_bytes())
        ));
    }
    let exit = u8::try_from(code).map_err(|_| format!("smartctl ended with {code}"))?;
    Ok(SmartReading { device: device.clone(), asleep, exit, json: stdout.to_vec().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sda() -> BlockDevice {
        "/dev/sda".parse().unwrap()
    }

    #[test]
    fn the_whole_command_line_is_known() {
        assert_eq!(arguments(&sda(), None).join(" "), "--json -n standby -i -H -A /dev/sda");
        for transport in SmartTransport::ALL {
            let args = arguments(&sda(), Some(*transport));
            assert_eq!(args[6..], ["-d".to_owned(), transport.word().to_owned(), "/dev/sda".to_owned()]);
        }
    }

    #[test]
    fn answers_are_told_apart() {
        let standby =
            br#"{"smartctl":{"exit_status":2,"messages":[{"string":"Device is in STANDBY mode, exit(2)"}]}}"#;
        let bridge = br#"{"smartctl":{"messages":[{"string":"/dev/sda: Unknown USB bridge"}]}}"#;
        let good = br#"{"smart_status":{"passed":true}}"#;
        let judge = |how, out: &[u8]| judge(&sda(), how, out, b"");
        let reading = judge(How::Exited(0), good).unwrap();
        assert_eq!((reading.asleep, reading.exit, reading.json.0.as_slice()), (false, 0, &good[..]));
        assert!(judge(How::Exited(2), standby).unwrap().asleep);
        assert_eq!(judge(How::Exited(8 | 64), good).unwrap().exit, 72, "a failing disk is an answer");
        for (how, out, says) in [
            (How::Exited(1), &bridge[..], "Unknown USB bridge"),
            (How::Exited(2), &good[..], "could not read"),
            (How::TimedOut, &good[..], "too long"),
            (How::Signaled(9), &good[..], "signal 9"),
            (How::Exited(0), &b""[..], "no JSON"),
            (How::Exited(0), &b"[1]"[..], "no JSON object"),
            (How::Exited(0), &b"\xff\xfe"[..], "no JSON"),
            (How::Exited(300), &good[..], "300"),
            (How::Exited(0), &vec![b'['; MAX_SMART + 1][..], "more than"),
            (How::Exited(0), &vec![b'['; 100_000][..], "no JSON"),
        ] {
            let why = judge(how, out).unwrap_err();
            assert!(why.contains(says), "{why:?} should say {says:?}");
        }
    }

    #[test]
    fn a_disk_is_not_read_again_and_again() {
        let (mut rates, begun, every) = (Rates::default(), Instant::now(), Duration::from_secs(60));
        rates.take(&sda(), begun, every).unwrap();
        assert_eq!(rates.take(&sda(), begun + Duration::from_secs(59), every).unwrap_err().code, "rate");
        rates.take(&"/dev/sdb".parse().unwrap(), begun, every).unwrap();
        rates.take(&sda(), begun + every, every).unwrap();
    }
}
