//! `writ login`.

use std::path::PathBuf;

use super::{Context, now};
use crate::args::LoginArgs;
use crate::error::{Answer, Failure};
use crate::hub::{Hub, HubAddress};
use crate::signer::{Purpose, Signer};
use crate::state::{Config, Home, StateError, read_policy};
use crate::text::utc;

pub(super) async fn run(ctx: &Context, args: LoginArgs) -> Result<Answer, Failure> {
    let home = ctx.home()?;
    let config = merge(&home, &args, ctx.agent.is_known())?;
    let (policy, bytes) = match &args.policy {
        Some(path) => read_policy(path)?,
        None => home.policy()?,
    };
    let purpose = Purpose { policy: Some(&policy), namespace: None, now: now() };
    // Named here or stored from an earlier login; either way it is the one that the operator means.
    let key = match &args.key {
        Some(_) => Signer::choose(config.key.as_deref(), None, &ctx.agent, purpose).await?,
        None => ctx.signer(None, &config, purpose).await?,
    };
    if !purpose.fits(key.public()) {
        ctx.note(&format!(
            "note: {} is not in your policy, or may sign nothing: hosts will refuse what it signs",
            key.public().describe()
        ));
    }

    let hub = Hub::new(config.hub.clone(), config.pin, None)?;
    let challenge = hub.challenge().await?;
    // The pin is the key that TLS just proved, so the signature is worth nothing at another hub.
    let answer = hub.login(&key.login(config.pin, challenge.challenge).await?).await?;
    let printable_token = !answer.token.is_empty() && answer.token.bytes().all(|b| b.is_ascii_graphic());
    if !printable_token || answer.token.len() > 1024 {
        return Err(Failure::other(
            "the hub gave a token that is none: are hub and writ of the same version?",
        ));
    }

    // Only now: a failed login changes nothing.
    let replaced = home.policy().ok().map(|(old, _)| *old.hash()).filter(|old| old != policy.hash());
    home.save_policy(&bytes)?;
    home.save_config(&config)?;
    home.save_token(&answer.token)?;
    let mut text = format!(
        "Logged in at {} as {} until {} ({} from now).\nTrusted policy: version {}, {}\n",
        config.hub,
        answer.operator,
        utc(answer.expires_at),
        crate::text::span(answer.expires_at.saturating_sub(now())),
        policy.version(),
        policy.hash()
    );
    if let Some(old) = replaced {
        text.push_str(&format!("It replaces {old}.\n"));
    }
    Ok(Answer::ok(text))
}

/// Options win over what is stored; what is missing in both is named.
fn merge(home: &Home, args: &LoginArgs, agent: bool) -> Result<Config, Failure> {
    let stored = match home.config() {
        Ok(config) => Some(config),
        Err(StateError::NoConfig) => None,
        Err(error) => return Err(error.into()),
    };
    let given: Option<HubAddress> = args.hub.as_deref().map(str::parse).transpose()?;
    if let (Some(given), Some(stored), None) = (&given, &stored, args.pin)
        && *given != stored.hub
    {
        return Err(Failure::other(format!(
            "{given} is another hub than {}: give its --pin too",
            stored.hub
        )));
    }
    let first = stored.is_none();
    let mut missing = Vec::new();
    let hub = given.or_else(|| stored.as_ref().map(|config| config.hub.clone()));
    let pin = args.pin.or_else(|| stored.as_ref().map(|config| config.pin));
    let key = match &args.key {
        Some(path) => Some(absolute(path.clone())?),
        None => stored.and_then(|config| config.key),
    };
    if hub.is_none() {
        missing.push("--hub https://NAME:PORT");
    }
    if pin.is_none() {
        missing.push("--pin HEX");
    }
    // With an agent the key in it will do, now and later.
    if key.is_none() && first && !agent {
        missing.push("--key FILE");
    }
    if args.policy.is_none() && matches!(home.policy(), Err(StateError::NoPolicy)) {
        missing.push("--policy FILE");
    }
    match (hub, pin) {
        (Some(hub), Some(pin)) if missing.is_empty() => Ok(Config { hub, pin, key }),
        _ => Err(Failure::other(format!(
            "the first login on this machine also needs {}: see `writ login --help`",
            missing.join(" ")
        ))),
    }
}

/// Later logins may start elsewhere.
fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(&path).map_err(|source| authz::files::FileError::io("find", &path, source))?)
}
