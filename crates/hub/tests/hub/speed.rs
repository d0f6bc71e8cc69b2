//! temporary
use std::sync::Arc;
use std::time::{Duration, Instant};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use super::client::{client_config, client_cert};
use super::tunnel::{Data, Stand};

struct Floor { addr: std::net::SocketAddr, pin: protocol::Sha256, cert: super::client::ClientCert }
impl Floor {
    async fn new(dir: &std::path::Path, pin: protocol::Sha256, size: usize) -> Self {
        let cert = CertificateDer::from_pem_slice(&std::fs::read(dir.join("hub/tls.crt")).unwrap()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&std::fs::read(dir.join("hub/tls.key")).unwrap()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider())).with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_no_client_auth().with_single_cert(vec![cert], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { loop {
            let (a, _) = listener.accept().await.unwrap();
            let (b, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                a.set_nodelay(true).unwrap(); b.set_nodelay(true).unwrap();
                let (a, b) = tokio::join!(acceptor.accept(a), acceptor.accept(b));
                let (mut a, mut b) = (a.unwrap(), b.unwrap());
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, size, size).await;
            });
        }});
        let (_, cert) = client_cert(&rcgen::PKCS_ED25519);
        Self { addr, pin, cert }
    }
    async fn pair(&self) -> (Data, Data) {
        let a = TcpStream::connect(self.addr).await.unwrap();
        let b = TcpStream::connect(self.addr).await.unwrap();
        let one = async |tcp: TcpStream| { tcp.set_nodelay(true).unwrap();
            let config = client_config(self.pin, None, &[&rustls::version::TLS13]);
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect("hub.example".try_into().unwrap(), tcp).await.unwrap() };
        let _ = &self.cert;
        tokio::join!(one(a), one(b))
    }
}
async fn bulk(from: Data, to: Data, size: usize) -> (Data, Data) {
    let (mut from, mut to) = (from, to);
    let w = tokio::spawn(async move { let chunk = vec![7u8; 64*1024]; let mut left = size; while left > 0 { from.write_all(&chunk).await.unwrap(); left -= chunk.len(); } from.flush().await.unwrap(); from });
    let mut buf = vec![0u8; 64*1024]; let mut left = size;
    while left > 0 { left -= to.read(&mut buf).await.unwrap(); }
    (w.await.unwrap(), to)
}
async fn through(pairs: &mut Vec<(Data, Data)>, size: usize, up: bool) -> f64 {
    let n = pairs.len();
    let start = Instant::now();
    let mut set = Vec::new();
    for (a, b) in pairs.drain(..) { set.push(tokio::spawn(async move { if up { bulk(a, b, size).await } else { let (b, a) = bulk(b, a, size).await; (a, b) } })); }
    for s in set { pairs.push(s.await.unwrap()); }
    (n * size) as f64 / start.elapsed().as_secs_f64() / 1e6
}
async fn echo(pair: &mut (Data, Data), rounds: usize) -> (f64, f64) {
    let mut t = Vec::new();
    let (a, b) = pair;
    let mut buf = [0u8; 64];
    for _ in 0..rounds {
        let start = Instant::now();
        a.write_all(&[1; 64]).await.unwrap(); 
        b.read_exact(&mut buf).await.unwrap();
        b.write_all(&buf).await.unwrap();
        a.read_exact(&mut buf).await.unwrap();
        t.push(start.elapsed().as_secs_f64() * 1e6);
    }
    t.sort_by(f64::total_cmp);
    (t[rounds / 2], t[rounds * 99 / 100])
}
async fn echo_task(mut pair: (Data, Data), rounds: usize) -> ((Data, Data), (f64, f64)) {
    let r = tokio::spawn(async move { let r = echo(&mut pair, rounds).await; (pair, r) }).await.unwrap();
    r
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::with(dir.path(), hub::Environment::default(), 32).await;
    let floor = Floor::new(dir.path(), stand.hub.pin(), 64 * 1024).await;
    let mb = 1 << 20;
    let mut ours = Vec::new(); let mut theirs = Vec::new();
    for n in 0..8 { let (_, a, b) = stand.connected(&format!("{n}")).await; ours.push((a, b)); theirs.push(floor.pair().await); }
    let (_, a, b) = stand.connected("e").await;
    let mut eo = (a, b); let mut et = floor.pair().await;
    for round in 0..5 {
        let mut line = format!("round {round}");
        for up in [true, false] {
            let mut o1 = vec![ours.pop().unwrap()]; let mut t1 = vec![theirs.pop().unwrap()];
            let o = through(&mut o1, 512 * mb, up).await; let t = through(&mut t1, 512 * mb, up).await;
            ours.extend(o1); theirs.extend(t1);
            line += &format!(" | 1x {up}: {o:.0} / {t:.0} = {:.2}", o / t);
            let o = through(&mut ours, 64 * mb, up).await; let t = through(&mut theirs, 64 * mb, up).await;
            line += &format!(" | 8x {up}: {o:.0} / {t:.0} = {:.2}", o / t);
        }
        let r; (eo, r) = echo_task(eo, 4000).await; let s; (et, s) = echo_task(et, 4000).await;
        line += &format!(" | idle {:.0} {:.0} / {:.0} {:.0} = {:.2}", r.0, r.1, s.0, s.1, r.0 / s.0);
        // loaded
        let (a, b) = ours.pop().unwrap();
        let load = tokio::spawn(bulk(a, b, 1024 * mb));
        let r; (eo, r) = echo_task(eo, 400).await;
        let fin = load.is_finished(); ours.push(load.await.unwrap());
        let (a, b) = theirs.pop().unwrap();
        let load = tokio::spawn(bulk(a, b, 1024 * mb));
        let s; (et, s) = echo_task(et, 400).await;
        let fin2 = load.is_finished(); theirs.push(load.await.unwrap());
        line += &format!(" | loaded p50 {:.0} p99 {:.0} / p50 {:.0} p99 {:.0} ({fin} {fin2})", r.0, r.1, s.0, s.1);
        println!("{line}");
    }
    let _ = Duration::ZERO;
}
