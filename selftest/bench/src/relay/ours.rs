//! Streams through the real hub and the real agent.

use protocol::TunnelId;
use protocol::tunnel::{Decoder, UPGRADE};
use scenarios::stand::expect;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::direct::ssh;
use super::near::{Link, Near};
use crate::ground::{Ground, raw_session};
use crate::{Fallible, tls};

/// Longest answer to the upgrade, bytes.
const MAX_HEAD: usize = 4096;

/// Opens raw streams: signed grants, and frames of `protocol::tunnel` without SSH in them.
pub(crate) async fn open_raw(ground: &Ground, streams: u8) -> Fallible<Vec<Near>> {
    let mut nears = Vec::new();
    for _ in 0..streams {
        let order = raw_session(ground);
        let envelope = ground.courier.signed(&order, &ground.courier.alice);
        let tunnel = ground.courier.open(&envelope).await??;
        nears.push(dial(ground, &tunnel).await?);
    }
    Ok(nears)
}

async fn dial(ground: &Ground, tunnel: &TunnelId) -> Fallible<Near> {
    let url = ground.stand.hub_url();
    let authority = url.trim_start_matches("https://");
    let port = authority.rsplit(':').next().unwrap_or_default().parse()?;
    let token = ground.stand.read("operator/token")?;
    let mut stream = tls::dial(port, tls::trusting(&ground.stand.at("hub/tls.crt"))?).await?;
    let request = format!(
        "GET /api/v1/tunnels/{tunnel}/data HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\n\
         Upgrade: {UPGRADE}\r\nAuthorization: Bearer {}\r\n\r\n",
        token.trim()
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(format!("the hub did not open the data connection: {head}").into());
    }
    Ok(Near::new(Link::Tunnel(Box::new(stream), Decoder::default())))
}

/// Opens sessions as a person would: `ssh` with the configuration that `writ` gives out.
pub(crate) async fn open_ssh(ground: &Ground, streams: u8) -> Fallible<Vec<Near>> {
    let stand = &ground.stand;
    let user = stand.user().await?;
    let mut nears = Vec::new();
    for number in 0..streams {
        // Each connection has keys of its own.
        let (config, keys) = (format!("ssh_config-{number}"), stand.text(&format!("session-{number}")));
        let args = ["connect", "--ssh-config", "--user", &user, "--session-dir", &keys, "web1"];
        let out = stand.writ(&args).await?;
        expect("writ connect --ssh-config", &out)?;
        stand.write_work(&config, out.stdout.as_bytes())?;
        nears.push(ssh(stand, &config, "web1.writ")?);
    }
    Ok(nears)
}
