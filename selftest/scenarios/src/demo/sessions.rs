//! Scripts and sessions: the ones that are signed, and those that the host refuses.

use protocol::{HostId, Sha256, TunnelId};

use super::{Report, now};
use crate::courier::Courier;
use crate::process::Output;
use crate::stand::{Stand, expect};
use crate::{Fallible, evil_hub};

const SCRIPT: &str = "#!/bin/sh\necho \"$(id -un) on $(uname -s), sealed to alice alone\"\nexit 7\n";

/// Plays them all.
pub(super) async fn play(stand: &mut Stand, report: &mut Report) -> Fallible<()> {
    report.title("A signed script, sealed end to end");
    let user = stand.user().await?;
    stand.write_work("hello.sh", SCRIPT.as_bytes())?;
    let ran = stand.writ(&["run", "web1", "--user", &user, "--script", "hello.sh"]).await?;
    let says = format!("{user} on Linux, sealed to alice alone");
    report.check(
        "writ run web1 --script hello.sh",
        ran.code == Some(7) && ran.stdout.trim() == says,
        &format!("{}; exit code {} passed through", ran.stdout.trim(), ran.code.unwrap_or(-1)),
    );
    let words = stand.writ(&["run", "web1", "--user", &user, "--", "echo", "one  argument", "$HOME"]).await?;
    report.check(
        "writ run web1 -- echo 'one  argument' '$HOME'",
        words.ok() && words.stdout == "one  argument $HOME\n",
        "arguments arrive as they are, no shell in between",
    );

    report.title("An SSH session through a hub that sees ciphertext");
    let uptime = stand.writ(&["ssh", "--user", &user, "web1", "uptime"]).await?;
    report.check(
        "writ ssh web1 uptime",
        uptime.ok() && uptime.stdout.contains("load average"),
        &uptime.stdout,
    );
    sftp(stand, report, &user).await?;
    forwards(stand, report).await?;

    report.title("Scripts and sessions that the host refuses");
    scripts(stand, report).await?;
    grants(stand, report).await
}

/// An ordinary sftp, there and back.
async fn sftp(stand: &Stand, report: &mut Report, user: &str) -> Fallible<()> {
    let config = stand.writ(&["connect", "--ssh-config", "--user", user, "web1"]).await?;
    expect("writ connect --ssh-config", &config)?;
    stand.write_work("ssh_config", config.stdout.as_bytes())?;
    // Not compressible and not the same everywhere.
    let bytes: Vec<u8> = (0..32_768u32).flat_map(|n| *Sha256::of(&n.to_be_bytes()).as_bytes()).collect();
    stand.write_work("there", &bytes)?;
    let far = stand.text("far-away");
    stand.write_work("batch", format!("put there {far}\nget {far} back\n").as_bytes())?;
    let copied = with_home(stand, "sftp", &["-q", "-F", "ssh_config", "-b", "batch", "web1.writ"]).await?;
    let back = stand.read_work("back").unwrap_or_default();
    let there = std::fs::read(&far).unwrap_or_default();
    report.check(
        "sftp -F ssh_config: 1 MiB there and back",
        copied.ok() && there == bytes && back == bytes,
        &format!("sha256 {} three times", Sha256::of(&back)),
    );
    Ok(())
}

/// A forward that the grant does not list.
async fn forwards(stand: &Stand, report: &mut Report) -> Fallible<()> {
    let target = stand.hub_url().trim_start_matches("https://").to_owned();
    let out = with_home(stand, "ssh", &["-F", "ssh_config", "-W", &target, "web1.writ"]).await?;
    let text = out.text();
    let why = text.lines().find(|line| line.contains("prohibited")).unwrap_or_else(|| text.trim());
    report.check("a forward that the grant does not list", !out.ok() && text.contains("prohibited"), why);
    Ok(())
}

/// A client of OpenSSH that starts `writ connect` as alice.
async fn with_home(stand: &Stand, program: &str, args: &[&str]) -> Fallible<Output> {
    let home = stand.text("operator");
    let env = [("WRIT_HOME", home.as_str())];
    crate::process::run(std::path::Path::new(program), args, &env, &stand.at("work"), b"").await
}

async fn scripts(stand: &mut Stand, report: &mut Report) -> Fallible<()> {
    let courier = Courier::new(stand).await?;
    let witness = stand.text("witness");
    let script = format!("echo run >> {witness}\n").into_bytes();

    let unsigned = courier.job(&script, 0xb1);
    let op = evil_hub::forge_unsigned(stand, &unsigned.encode(), &courier.seal(&script)?).await?;
    let out = stand.writ(&["order", "web1", &op.to_string(), "--wait"]).await?;
    super::refusals::refused(report, "an unsigned script from a stolen hub", &out, "unsigned");

    let courier = Courier::new(stand).await?;
    let order = courier.job(&script, 0xb2);
    let altered = courier.signed_job(&order, &courier.alice, b"rm -rf /precious\n")?;
    says(
        report,
        "a script that was exchanged on its way",
        &courier.submit(&altered).await?,
        "refused (script)",
    );

    let signed = courier.signed_job(&order, &courier.alice, &script)?;
    let ran = courier.submit(&signed).await?;
    says(report, "the one that was signed", &ran, "the script ran");
    says(report, "the same again", &courier.submit(&signed).await?, "refused (replay)");
    let runs = stand.read("witness").unwrap_or_default().lines().count();
    report.check("how often it ran, in all", runs == 1, &format!("{runs}"));
    Ok(())
}

async fn grants(stand: &mut Stand, report: &mut Report) -> Fallible<()> {
    let courier = Courier::new(stand).await?;
    let status = courier.dial(&TunnelId::from_bytes([0xee; 16])).await?;
    report.check("a data connection without a grant", status == 404, &format!("HTTP {status}"));

    let grant = courier.session(0xb3);
    let thief = courier.signed(&grant, &evil_hub::thief());
    says(
        report,
        "a session that nobody granted",
        &opened(&courier, &thief).await?,
        "refused (unknown_signer)",
    );

    let mut elsewhere = courier.session(0xb4);
    elsewhere.host.id = HostId::from_bytes([0xee; 16]);
    let elsewhere = courier.signed(&elsewhere, &courier.alice);
    says(report, "a grant for another host", &opened(&courier, &elsewhere).await?, "refused (other_host)");

    let mut late = courier.session(0xb5);
    (late.nbf, late.exp) = (now() - 120, now() - 60);
    let late = courier.signed(&late, &courier.alice);
    says(report, "an expired grant", &opened(&courier, &late).await?, "refused (expired)");

    let once = courier.signed(&grant, &courier.alice);
    let first = courier.open(&once).await?;
    if let Ok(id) = &first {
        courier.close(id).await?;
    }
    report.check("a good grant, opened and closed", first.is_ok(), "its nonce is burned now");
    says(report, "a second use of that grant", &opened(&courier, &once).await?, "refused (replay)");
    Ok(())
}

async fn opened(courier: &Courier, envelope: &protocol::Envelope) -> Fallible<String> {
    Ok(match courier.open(envelope).await? {
        Ok(id) => format!("OPENED as {id}"),
        Err(why) => why,
    })
}

fn says(report: &mut Report, what: &str, text: &str, wanted: &str) {
    report.check(what, text.contains(wanted), text);
}
