//! The floor of a job: a message goes to a bare hub, to a bare agent, and through a unix socket to a process
//! that starts `sh -c true`; then it comes back. The durable one writes the message down four times, each
//! made durable on its own: at the hub before it is passed on, on the host before the start and at the end,
//! at the hub before it is answered.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here the job's own"
)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scenarios::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::part::{READY, start};
use crate::{Fallible, tls};

/// About as long as a signed order or a receipt. The first eight bytes tell messages apart.
const MESSAGE: usize = 1024;
type Message = [u8; MESSAGE];

const CLIENT: u8 = b'C';
const AGENT: u8 = b'A';

/// The processes, and connections of clients.
pub(crate) struct Bare {
    _processes: [Process; 3],
    clients: Vec<TlsStream<TcpStream>>,
    next: u64,
}

impl Bare {
    /// Starts them.
    pub(crate) async fn start(name: &str, dir: &Path, clients: u32, durable: bool) -> Fallible<Self> {
        let text = dir.display().to_string();
        let socket = dir.join(format!("{name}.sock")).display().to_string();
        let mut args = vec!["job-exec", "--dir", &text, "--socket", &socket];
        args.extend(durable.then_some("--durable"));
        let (exec, _) = start(&format!("{name}-exec"), &args, dir).await?;
        let mut args = vec!["job-hub", "--dir", &text];
        args.extend(durable.then_some("--durable"));
        let (hub, port) = start(&format!("{name}-hub"), &args, dir).await?;
        let args = ["job-agent", "--dir", &text, "--port", &port, "--socket", &socket];
        let (agent, _) = start(&format!("{name}-agent"), &args, dir).await?;
        let config = tls::client(dir)?;
        let mut connections = Vec::new();
        for _ in 0..clients {
            let mut stream = tls::dial(port.parse()?, config.clone()).await?;
            send(&mut stream, &[CLIENT]).await?;
            connections.push(stream);
        }
        Ok(Self { _processes: [hub, agent, exec], clients: connections, next: 0 })
    }

    /// So many, one after the other.
    pub(crate) async fn serial(&mut self, jobs: u32) -> Fallible<Vec<Duration>> {
        let first = self.numbers(u64::from(jobs));
        run(&mut self.clients[0], first, jobs).await
    }

    /// So many on each connection, all at once.
    pub(crate) async fn together(&mut self, each: u32) -> Fallible<Vec<Duration>> {
        let mut running = JoinSet::new();
        for mut client in std::mem::take(&mut self.clients) {
            let first = self.numbers(u64::from(each));
            running.spawn(async move {
                let samples = run(&mut client, first, each).await;
                (client, samples)
            });
        }
        let mut all = Vec::new();
        while let Some(done) = running.join_next().await {
            let (client, samples) = done?;
            self.clients.push(client);
            all.extend(samples?);
        }
        Ok(all)
    }

    fn numbers(&mut self, count: u64) -> u64 {
        self.next += count;
        self.next - count
    }
}

async fn run(client: &mut TlsStream<TcpStream>, first: u64, jobs: u32) -> Fallible<Vec<Duration>> {
    let mut samples = Vec::new();
    for number in first..first + u64::from(jobs) {
        let mut message = [0x5a; MESSAGE];
        message[..8].copy_from_slice(&number.to_be_bytes());
        let start = Instant::now();
        send(client, &message).await?;
        let mut answer = [0; MESSAGE];
        client.read_exact(&mut answer).await?;
        samples.push(start.elapsed());
        if answer != message {
            return Err("the bare hub answered another job".into());
        }
    }
    Ok(samples)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn number(message: &Message) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&message[..8]);
    u64::from_be_bytes(number)
}

/// Where messages are written down, if at all.
#[derive(Clone)]
struct Journal(Option<Arc<File>>);

impl Journal {
    fn open(dir: &Path, name: &str, durable: bool) -> io::Result<Self> {
        let file = durable.then(|| File::options().create(true).append(true).open(dir.join(name)));
        Ok(Self(file.transpose()?.map(Arc::new)))
    }

    async fn keep(&self, message: &Message) -> io::Result<()> {
        let Some(file) = self.0.clone() else { return Ok(()) };
        let message = *message;
        let keep = move || {
            (&*file).write_all(&message)?;
            file.sync_data()
        };
        tokio::task::spawn_blocking(keep).await?
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Message>>>>;

/// The hub's process.
pub(crate) async fn hub(dir: &Path, durable: bool) -> Fallible<()> {
    let acceptor = tls::acceptor(dir)?;
    let journal = Journal::open(dir, "hub.journal", durable)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{READY} {}", listener.local_addr()?.port());
    let waiting = Waiting::default();
    let mut to_agent = None;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut stream = acceptor.accept(stream).await?;
        if stream.read_u8().await? == AGENT {
            let (mut read, write) = split(stream);
            to_agent = Some(Arc::new(tokio::sync::Mutex::new(write)));
            let waiting = waiting.clone();
            tokio::spawn(async move {
                let mut message = [0; MESSAGE];
                while read.read_exact(&mut message).await.is_ok() {
                    let asked =
                        waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number(&message));
                    if let Some(asked) = asked {
                        let _ = asked.send(message);
                    }
                }
            });
            continue;
        }
        let to_agent = to_agent.clone().ok_or("a client came before the agent")?;
        let (journal, waiting) = (journal.clone(), waiting.clone());
        tokio::spawn(async move {
            let mut message = [0; MESSAGE];
            while stream.read_exact(&mut message).await.is_ok() {
                journal.keep(&message).await?;
                let (tell, told) = oneshot::channel();
                waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number(&message), tell);
                send(&mut *to_agent.lock().await, &message).await?;
                let answer = told.await.map_err(io::Error::other)?;
                journal.keep(&answer).await?;
                send(&mut stream, &answer).await?;
            }
            io::Result::Ok(())
        });
    }
}

/// The agent's process.
pub(crate) async fn agent(dir: &Path, port: u16, socket: &Path) -> Fallible<()> {
    let mut hub = tls::dial(port, tls::client(dir)?).await?;
    send(&mut hub, &[AGENT]).await?;
    let mut exec = UnixStream::connect(socket).await?;
    println!("{READY}");
    copy_bidirectional(&mut hub, &mut exec).await?;
    Ok(())
}

/// The process that starts others.
pub(crate) async fn exec(dir: &Path, socket: &Path, durable: bool) -> Fallible<()> {
    let journal = Journal::open(dir, "host.journal", durable)?;
    let listener = UnixListener::bind(socket)?;
    println!("{READY}");
    loop {
        let (mut read, write) = listener.accept().await?.0.into_split();
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let mut message = [0; MESSAGE];
        while read.read_exact(&mut message).await.is_ok() {
            let (journal, write) = (journal.clone(), write.clone());
            tokio::spawn(async move {
                journal.keep(&message).await?;
                let status = Command::new("sh").args(["-c", "true"]).stdin(Stdio::null()).status().await?;
                if !status.success() {
                    return Err(io::Error::other("sh -c true failed"));
                }
                journal.keep(&message).await?;
                send(&mut *write.lock().await, &message).await
            });
        }
    }
}
