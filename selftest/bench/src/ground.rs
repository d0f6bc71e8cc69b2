//! The stand, with the limits raised that a benchmark would run into, and with an sshd in the runner's
//! configuration that gives the courier's sessions a bare far end instead of SSH.
//!
//! That sshd is a script that the runner starts as it starts the real one. So a raw stream passes exactly
//! what a session passes: the operator's connection, hub, agent, socket pair. Every other session gets the
//! real sshd.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use authz::order::Order;
use authz::{Params, SecretKey};
use protocol::Nonce;
use scenarios::courier::Courier;
use scenarios::stand::Stand;

use crate::Fallible;

/// Most sessions and scripts at once: as many as the runner can be told.
pub(crate) const AT_ONCE: u32 = 64;

/// This program, where it lies. Building the others may have put a new one in its place, and then the kernel
/// says so; the new one is as good.
pub(crate) fn me() -> Fallible<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(there) => there.into(),
        None => path,
    })
}

/// Everything of ours, enrolled and connected.
pub(crate) struct Ground {
    /// The processes.
    pub(crate) stand: Stand,
    /// The operator.
    pub(crate) courier: Courier,
    nonces: std::sync::atomic::AtomicU64,
}

impl Ground {
    /// Brings it up.
    pub(crate) async fn ready() -> Fallible<Self> {
        let mut stand = Stand::new().await?;
        stand.start_sim().await?;
        stand.init_hub().await?;
        let hub = stand.read("hub/hub.toml")?;
        stand.write("hub/hub.toml", &raised(&hub, &[("sessions_per_operator", AT_ONCE)]))?;
        stand.start_hub().await?;
        stand.make_policy().await?;
        stand.login().await?;
        stand.write_host_configs()?;
        let sshd = write_sshd(&stand)?;
        let runner = stand.read("runner.toml")?;
        let limits = [("sessions_per_operator", AT_ONCE), ("jobs_at_once", AT_ONCE)];
        stand.write("runner.toml", &format!("sshd = \"{sshd}\"\n{}", raised(&runner, &limits)))?;
        let warden = stand.read("warden.toml")?;
        stand.write("warden.toml", &raised(&warden, &[("sessions_per_operator", AT_ONCE)]))?;
        // Reports are no part of what is measured.
        let agent = stand.read("agent.toml")?;
        stand.write("agent.toml", &raised(&agent, &[("report_interval", 300)]))?;
        stand.start_runner(&[]).await?;
        stand.start_warden(&[]).await?;
        stand.enroll("web1").await?;
        stand.start_agent().await?;
        stand.wait_online("web1").await?;
        let courier = Courier::new(&stand).await?;
        Ok(Self { stand, courier, nonces: Default::default() })
    }

    /// With a nonce that no order here had before.
    pub(crate) fn fresh(&self, order: Order) -> Order {
        let number = self.nonces.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut nonce = [0x5e; 16];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        Order { nonce: Nonce::from_bytes(nonce), ..order }
    }

    /// Ends everything.
    pub(crate) async fn stop(mut self) {
        self.stand.stop().await;
    }
}

/// The file with other numbers: in place where a key stands already, else before everything else.
fn raised(text: &str, numbers: &[(&str, u32)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, number) in numbers {
        let new = format!("{key} = {number}");
        match lines.iter_mut().find(|line| line.split_once(" = ").is_some_and(|(before, _)| before == *key)) {
            Some(line) => *line = new,
            None => lines.insert(0, new),
        }
    }
    lines.join("\n") + "\n"
}

fn write_sshd(stand: &Stand) -> Fallible<String> {
    let key = raw_key().public().to_string();
    let key = key.split(' ').nth(1).ok_or("a public key is two words")?;
    let script = format!(
        "#!/bin/sh\n# sshd, except that sessions of one key get a bare stream.\n\
         if [ \"$1\" = -i ] && grep -qF '{key}' \"$(sed -n 's/^AuthorizedKeysFile //p' \"$4\")\"; then\n\
         \texec '{}' part far\nfi\nexec /usr/sbin/sshd \"$@\"\n",
        me()?.display()
    );
    stand.write("sshd", &script)?;
    std::fs::set_permissions(stand.at("sshd"), std::fs::Permissions::from_mode(0o755))?;
    Ok(stand.text("sshd"))
}

/// Whose sessions are raw.
fn raw_key() -> SecretKey {
    SecretKey::from_seed(&[0x7e; 32])
}

/// A grant for a raw session that outlives any benchmark.
pub(crate) fn raw_session(ground: &Ground) -> Order {
    let mut order = ground.fresh(ground.courier.session(0));
    if let Params::SessionOpen(params) = &mut order.params {
        params.key = raw_key().public().to_wire();
        params.idle_s = 6 * 3600;
        params.max_s = 6 * 3600;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_raised_where_they_stand() {
        let text = "a = 1\n\n[proxmox]\nb = 2\n";
        assert_eq!(raised(text, &[("a", 7), ("c", 9)]), "c = 9\na = 7\n\n[proxmox]\nb = 2\n");
    }
}
