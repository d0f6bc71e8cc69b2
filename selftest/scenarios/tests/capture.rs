//! What somebody learns who owns the hub: its TLS key, every byte that it relays, its database and its
//! logs. The operator's leg is tapped beneath TLS; the hub copies a session's bytes without looking, so the
//! agent's leg carries the same ones.
//!
//! **What the hub sees, by design.** Payloads of orders are signed and not secret: for a script its user, interpreter, arguments
//! (`writ run --script FILE -- ARGS`), environment (`--env`), limits and reason; for a session its user, mode,
//! the command of `--mode exec`, forward targets, times and reason. Besides, sizes and times of everything.
//! Their markers are found here, so that nobody takes them for secrets; the README has to say so too.

use std::collections::BTreeMap;

use authz::SecretKey;
use protocol::Sha256;
use scenarios::client::hold;
use scenarios::process::Output;
use scenarios::processes::files_below;
use scenarios::search::{Search, find};
use scenarios::stand::{Stand, expect};
use scenarios::tap::{Heard, Tap};
use scenarios::{Fallible, Trouble};
use serde_json::Value;

/// A word that is nowhere else, different in each run.
fn word(what: &str) -> String {
    let salt = format!("{what} {:?} {}", std::time::SystemTime::now(), std::process::id());
    format!("{what}-{}", &Sha256::of(salt.as_bytes()).to_string()[..24])
}

/// What `printf %s WORD | sha256sum` says: printed on the host, and typed nowhere.
fn hashed(word: &str) -> String {
    Sha256::of(word.as_bytes()).to_string()
}

/// What is secret, and what the operator's own screen and disk show, which is where it must be found.
#[derive(Default)]
struct Secrets {
    markers: Search,
    screen: Vec<u8>,
}

impl Secrets {
    /// A new one.
    fn fresh(&mut self, what: &str) -> String {
        let word = word(what);
        self.markers.add(what, word.as_bytes());
        word
    }

    fn shown(&mut self, out: &Output) {
        self.screen.extend_from_slice(out.text().as_bytes());
    }

    fn are_not_in(&self, place: &str, bytes: &[u8]) -> Fallible<()> {
        let found = self.markers.find(bytes);
        hold(found.is_empty(), &format!("nothing secret in {place}"), &format!("{found:?}"))
    }
}

fn is_in(place: &str, bytes: &[u8], what: &str) -> Fallible<()> {
    let shown = format!("{} bytes", bytes.len());
    hold(!find(bytes, what).is_empty(), &format!("{what:?} is found in {place}"), &shown)
}

/// Every file of the hub and what it printed.
fn kept_by_hub(stand: &Stand) -> Fallible<BTreeMap<String, Vec<u8>>> {
    let mut kept = BTreeMap::new();
    for folder in ["hub", "logs"] {
        for name in files_below(&stand.at(folder)) {
            let path = stand.at(folder).join(&name);
            let mine = folder == "hub" || name == "hub.log";
            // Its own TLS key is the thief's already.
            if mine && path.is_file() && name != "tls.key" {
                let bytes = std::fs::read(&path).map_err(|error| Trouble::new(path.display(), error))?;
                kept.insert(format!("{folder}/{name}"), bytes);
            }
        }
    }
    Ok(kept)
}

/// What became of each session, as the hub counted it.
async fn tunnels(stand: &Stand) -> Fallible<Vec<Value>> {
    let out = stand.writ_as("tapped", &["sessions", "web1", "--json"]).await?;
    expect("writ sessions", &out)?;
    let list: Value = serde_json::from_str(&out.stdout).map_err(|error| Trouble::new("sessions", error))?;
    Ok(list.as_array().cloned().unwrap_or_default())
}

/// What follows the HTTP that begins with these words.
fn after_http<'a>(bytes: &'a [u8], begin: &str) -> Option<&'a [u8]> {
    let at = bytes.windows(begin.len()).position(|window| window == begin.as_bytes())?;
    let rest = &bytes[at..];
    let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(&rest[end + 4..])
}

/// The data connections on tape are whole: as many bytes each way as the hub says that it relayed, give or
/// take a goodbye that was not relayed any more.
fn is_complete(heard: &[Heard], tunnel: &Value) -> Fallible<()> {
    let id = tunnel["id"].as_str().unwrap_or_default();
    let request = format!("GET /api/v1/tunnels/{id}/data ");
    let tape = heard.iter().find_map(|heard| {
        let to_hub = after_http(&heard.to_hub, &request)?;
        Some((to_hub, after_http(&heard.from_hub, "HTTP/1.1 101 ")?))
    });
    let (to_hub, from_hub) = tape.ok_or_else(|| Trouble(format!("session {id} is not on the tape")))?;
    let relayed = [&tunnel["bytes_to_host"], &tunnel["bytes_from_host"]];
    let counted = [to_hub.len(), from_hub.len()];
    let goodbye = protocol::tunnel::HEADER + protocol::tunnel::MAX_WHY;
    let same = relayed.iter().zip(counted).all(|(relayed, counted)| {
        relayed.as_u64().is_some_and(|relayed| relayed.abs_diff(counted as u64) <= goodbye as u64)
    });
    hold(same && counted[0] > 2 * goodbye, "the tape has every byte", &format!("{relayed:?} {counted:?}"))?;
    for bytes in [to_hub, from_hub] {
        is_in("a session", &bytes[..100.min(bytes.len())], "SSH-2.0-")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_owns_the_hub_sees_no_plaintext_of_sessions_and_scripts() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    let user = stand.user().await?;
    let tap = Tap::start(&stand).await?;
    let key = stand.text("keys/alice");
    let login =
        ["login", "--hub", &tap.url(), "--pin", &stand.hub_pin, "--key", &key, "--policy", "policy.json"];
    expect("writ login through the tap", &stand.writ_as("tapped", &login).await?)?;
    let as_tapped = format!("export WRIT_HOME={}; ", stand.text("tapped"));

    let mut secrets = Secrets::default();
    let (open, printed, sessions) = use_it(&stand, &user, &as_tapped, &mut secrets).await?;

    // Keys and tokens are not for the hub either; the operator's token passes through it and is not kept.
    let token = stand.read("tapped/token")?.trim().to_owned();
    for (what, file) in [("alice's key", "keys/alice"), ("the host key", "warden/host.key")] {
        let file = stand.read(file)?;
        let key = SecretKey::from_openssh(&file, None).map_err(|error| Trouble::new(what, error))?;
        secrets.markers.add(what, key.seed().as_slice());
        secrets.screen.extend_from_slice(key.seed().as_slice());
    }
    for (what, file) in [("the acting token", "pve/act.token"), ("the reading token", "pve/report.token")] {
        let secret = stand.read(file)?.trim().rsplit('=').next().unwrap_or_default().to_owned();
        secrets.markers.add(what, secret.as_bytes());
        secrets.screen.extend_from_slice(secret.as_bytes());
    }

    // The search can fail: every one of them is found where it belongs.
    let (all, found) = (secrets.markers.names(), secrets.markers.find(&secrets.screen));
    hold(
        found.len() == all.len() && all.len() >= 14,
        "all are on the operator's side",
        &format!("{all:?}\n{found:?}"),
    )?;
    for printed in &printed {
        is_in("what ssh printed", &secrets.screen, printed)?;
    }

    // The tape.
    let heard = tap.heard();
    let views = tunnels(&stand).await?;
    hold(views.len() == sessions, "the hub knows the sessions", &format!("{views:#?}"))?;
    for view in &views {
        is_complete(&heard, view)?;
    }
    let tape: Vec<u8> =
        heard.iter().flat_map(|heard| [&heard.to_hub[..], b"\n", &heard.from_hub, b"\n"].concat()).collect();
    for must in ["age-encryption.org/v1", "\"kind\":\"job.run\"", "\"kind\":\"session.open\"", &token] {
        is_in("the tape", &tape, must)?;
    }
    for marker in &open {
        is_in("the tape", &tape, marker)?;
    }
    secrets.are_not_in("what the hub relays", &tape)?;

    // What it keeps, while it runs and when it has stopped.
    secrets.markers.add("the operator's token", token.as_bytes());
    for turn in ["running", "stopped"] {
        let kept = kept_by_hub(&stand)?;
        let database: Vec<u8> = kept
            .iter()
            .filter(|(name, _)| name.contains(".sqlite"))
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        for must in ["age-encryption.org/v1", "job.run", "session.open"]
            .iter()
            .copied()
            .chain(open.iter().map(String::as_str))
        {
            is_in(&format!("the database of a {turn} hub"), &database, must)?;
        }
        let log = kept.get("logs/hub.log").cloned().unwrap_or_default();
        is_in("the hub's log", &log, views[0]["id"].as_str().unwrap_or_default())?;
        for (name, bytes) in &kept {
            secrets.are_not_in(&format!("{name} of a {turn} hub"), bytes)?;
        }
        if let Some(hub) = stand.hub.take() {
            hub.stop().await;
        }
    }
    Ok(())
}

/// Uses sessions and scripts, with a secret in everything that is one. Gives what is open by design, what the
/// host printed, and how many sessions there were.
async fn use_it(
    stand: &Stand,
    user: &str,
    as_tapped: &str,
    secrets: &mut Secrets,
) -> Fallible<(Vec<String>, Vec<String>, usize)> {
    let sh = async |script: String| stand.sh(&format!("{as_tapped}{script}")).await;
    let open = ["reason", "environment", "argument", "exec-command"].map(word);
    let [reason, environment, argument, exec_command] = &open;
    let mut printed = Vec::new();
    let mut prints = |secrets: &mut Secrets, what: &str, word: &str| {
        secrets.markers.add(what, hashed(word).as_bytes());
        printed.push(hashed(word));
    };

    // An ssh session.
    let (command, input, error) = (secrets.fresh("command"), secrets.fresh("input"), secrets.fresh("stderr"));
    prints(secrets, "output", &command);
    let out = sh(format!(
        "echo {input} | writ ssh --user {user} --reason {reason} web1 'printf %s {command} | sha256sum; cat; echo {error} >&2; : {command}'"
    ))
    .await?;
    expect("writ ssh", &out)?;
    secrets.shown(&out);
    secrets.screen.extend_from_slice(command.as_bytes());

    // One command that is in the order, and what it prints.
    prints(secrets, "output of the one command", exec_command);
    let out = sh(format!(
        "writ ssh --user {user} --mode exec --command 'printf %s {exec_command} | sha256sum' web1"
    ))
    .await?;
    expect("writ ssh --mode exec", &out)?;
    secrets.shown(&out);

    // A copy of a file there and back.
    let (name, content) = (secrets.fresh("file-name"), secrets.fresh("file-content"));
    // Often, at every place in whatever blocks it is carried in.
    let lines: String = (0..2000).map(|n| format!("{content} {}", &"...."[..n % 5])).collect();
    stand.write_work("secret-file", lines.as_bytes())?;
    let config = sh(format!("writ connect --ssh-config --user {user} web1 >tapped_config")).await?;
    expect("writ connect --ssh-config", &config)?;
    let far = stand.text(&name);
    stand.write_work("batch", format!("put secret-file {far}\nls -l {far}\nget {far} back\n").as_bytes())?;
    let out = sh("sftp -q -F tapped_config -b batch web1.writ".into()).await?;
    expect("sftp", &out)?;
    secrets.shown(&out);
    secrets.screen.extend(stand.read_work("back")?);

    // A script with everything.
    let (script, result) = (secrets.fresh("script"), word("result"));
    prints(secrets, "output of the script", &result);
    let text = format!(
        "#!/bin/sh\n# {script}\nprintf %s {result} | sha256sum\ntest \"$1\" = {argument} && test \"$V\" = {environment}\n"
    );
    stand.write_work("script", text.as_bytes())?;
    secrets.screen.extend_from_slice(text.as_bytes());
    let run = format!("writ run web1 --user {user} --env V={environment}");
    let out = sh(format!("{run} --script script -- {argument}")).await?;
    expect("writ run --script", &out)?;
    secrets.shown(&out);
    let said = secrets.fresh("said");
    let out = sh(format!("writ run web1 --user {user} -- echo {said}")).await?;
    expect("writ run -- echo", &out)?;
    secrets.shown(&out);

    Ok((open.to_vec(), printed, 3))
}
