//! The peer among relays: rathole, which carries TCP through a tunnel that the host dials. Its operator's end
//! and its far end are plain TCP, so it does half the cryptography that two TLS hops do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use scenarios::process::{DEADLINE, Process, run};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::near::{Link, Near};
use crate::{Fallible, part, tls};

/// Its processes; they end with this.
pub(crate) struct Rathole {
    _processes: [Process; 3],
}

/// The program, where it is installed.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("rathole")).find(|file| file.is_file())
}

/// Starts server and client and opens streams.
pub(crate) async fn open(program: &Path, dir: &Path, streams: u8) -> Fallible<(Rathole, Vec<Near>)> {
    let at = |name: &str| dir.join(name).display().to_string();
    let (cert, key) = (at(tls::CERT), at(tls::KEY));
    let args =
        ["pkcs12", "-export", "-in", &cert, "-inkey", &key, "-passout", "pass:bench", "-out", "bare.pfx"];
    let made = run(Path::new("openssl"), &args, &[], dir, b"").await?;
    scenarios::stand::expect("openssl pkcs12", &made)?;
    let (far, service) = part::start("rathole-far", &["far-tcp"], dir).await?;
    let (tunnel, visitors) = (free_port()?, free_port()?);
    let server = format!(
        "[server]\nbind_addr = \"127.0.0.1:{tunnel}\"\ndefault_token = \"bench\"\n[server.transport]\ntype = \"tls\"\n\
         [server.transport.tls]\npkcs12 = \"{}\"\npkcs12_password = \"bench\"\n[server.services.far]\n\
         bind_addr = \"127.0.0.1:{visitors}\"\nnodelay = true\n",
        at("bare.pfx")
    );
    let client = format!(
        "[client]\nremote_addr = \"127.0.0.1:{tunnel}\"\ndefault_token = \"bench\"\n[client.transport]\ntype = \"tls\"\n\
         [client.transport.tls]\ntrusted_root = \"{cert}\"\nhostname = \"localhost\"\n[client.services.far]\n\
         local_addr = \"127.0.0.1:{service}\"\nnodelay = true\n"
    );
    let mut processes = Vec::new();
    for (which, text) in [("server", server), ("client", client)] {
        let file = at(&format!("rathole-{which}.toml"));
        std::fs::write(&file, text)?;
        let name = format!("rathole-{which}");
        processes.push(Process::start(&name, program, &[&format!("--{which}"), &file], &[], dir)?);
    }
    let mut nears = Vec::new();
    for _ in 0..streams {
        let mut near = Near::new(Link::Tcp(connect(visitors).await?));
        near.echo(1).await?;
        nears.push(near);
    }
    let [server, client] = <[Process; 2]>::try_from(processes).map_err(|_| "two processes were started")?;
    Ok((Rathole { _processes: [server, client, far] }, nears))
}

/// The server listens there once its client has said hello.
async fn connect(port: u16) -> Fallible<TcpStream> {
    let end = Instant::now() + DEADLINE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > end => {
                return Err(format!("rathole does not listen: {error}").into());
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
