//! Words of the command line that become a type at once.

use std::path::PathBuf;

use authz::order::{EnvVar, MAX_JOB_S, MAX_SESSION_S, MIN_IDLE_S};
use protocol::{HostName, Sha256, Vmid};

use crate::text::{parse_duration, parse_size};

pub(super) fn operator(text: &str) -> Result<(HostName, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write NAME=KEY.pub")?;
    if file.is_empty() {
        return Err("write NAME=KEY.pub".to_owned());
    }
    Ok((name.parse().map_err(|error: protocol::IdError| error.to_string())?, file.into()))
}

pub(super) fn range(text: &str) -> Result<(Vmid, Vmid), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |text: &str| text.parse::<Vmid>().map_err(|error| error.to_string());
    let (first, last) = (parse(first)?, parse(last)?);
    if first > last { Err("write the smaller number first".to_owned()) } else { Ok((first, last)) }
}

/// Also as other tools print it: upper case, with colons, with `spki:` or `sha256:` before it.
pub(super) fn pin(text: &str) -> Result<Sha256, String> {
    let lower = text.trim().to_ascii_lowercase();
    let hex = lower.strip_prefix("spki:").or_else(|| lower.strip_prefix("sha256:")).unwrap_or(&lower);
    hex.replace(':', "").parse().map_err(|_| "a pin is a SHA-256: 64 hexadecimal digits".to_owned())
}

pub(super) fn env_var(text: &str) -> Result<EnvVar, String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok(EnvVar {
        name: name.parse().map_err(|error: protocol::IdError| error.to_string())?,
        value: value.parse().map_err(|error: protocol::text::TextError| error.to_string())?,
    })
}

/// The running time of a script, seconds.
pub(super) fn job_time(text: &str) -> Result<u32, String> {
    within(text, 1, MAX_JOB_S, "1s to 24h")
}

/// A time limit of a session, seconds.
pub(super) fn session_time(text: &str) -> Result<u32, String> {
    within(text, MIN_IDLE_S, MAX_SESSION_S, "5s to 24h")
}

fn within(text: &str, least: u32, most: u32, allowed: &str) -> Result<u32, String> {
    let seconds = parse_duration(text).map_err(|error| error.to_string())?;
    let fits = u32::try_from(seconds).ok().filter(|seconds| (least..=most).contains(seconds));
    fits.ok_or_else(|| format!("{allowed} can be asked for"))
}

/// Bytes of output to keep.
pub(super) fn max_output(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    let fits = u32::try_from(bytes).ok().filter(|bytes| *bytes as usize <= protocol::job::MAX_OUTPUT);
    fits.ok_or_else(|| "at most 2MiB can be kept".to_owned())
}
