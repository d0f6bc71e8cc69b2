//! What is on the disk, for people. Takes no lock and changes nothing, so it works while the runner runs
//! and needs no seat in `allowed_uids`.

use std::fmt::Write as _;

use anchored::Anchor;

use crate::chain;
use crate::config::RunnerConfig;
use crate::ledger::{Ledger, Stage, WHO};

/// The report; an error is why the runner refuses everything.
pub fn report(config: &RunnerConfig) -> Result<String, String> {
    let directory = &config.state_dir;
    let anchor = match Anchor::load(WHO, directory).map_err(|error| chain(&error))? {
        Some(anchor) => anchor,
        None if Ledger::has_history(directory).map_err(|error| chain(&error))? => {
            return Err(chain(&Anchor::lost(WHO, directory)));
        }
        None => {
            return Ok(format!(
                "not anchored: {}\n",
                anchored::keeper::how_to_anchor::<Stage>(config.policy_sha256.as_ref())
            ));
        }
    };
    let status = anchor.status();
    let (burned, scripts) = Ledger::inspect(directory).map_err(|error| chain(&error))?;
    anchor.check_configured(config.policy_sha256.as_ref(), directory).map_err(|error| chain(&error))?;
    let mut text = String::new();
    let _ = writeln!(text, "host     {}", status.host_id);
    let _ = writeln!(text, "host key {} (generation {})", status.host_key.fingerprint(), status.host_key_gen);
    let _ = writeln!(text, "policy   version {}, sha256 {}", anchor.policy().version(), status.policy);
    let _ = writeln!(text, "journal  ok, {burned} nonce(s) burned");
    let waiting = scripts.values().filter(|stage| stage.answer().is_some()).count();
    let _ = writeln!(
        text,
        "scripts  {} under way, {waiting} result(s) wait for the warden",
        scripts.len() - waiting
    );
    for (op, stage) in &scripts {
        let _ = writeln!(text, "         {op} {}", told(stage));
    }
    Ok(text)
}

fn told(stage: &Stage) -> String {
    match stage {
        Stage::Accepted {} => "accepted".into(),
        Stage::Starting {} => "starting".into(),
        Stage::Started { .. } => "started".into(),
        Stage::Ended { sealed, duration_ms } => {
            format!("ended after {duration_ms} ms, {} sealed bytes", sealed.0.len())
        }
        Stage::NotStarted { why } => format!("not started: {}", protocol::text::printable(why)),
        Stage::Unknown { why } => format!("unknown: {}", protocol::text::printable(why)),
    }
}
