//! HTTP as bytes over TLS, so that nothing between test and simulator tidies it up.

use std::sync::Arc;
use std::time::Duration;

use pve_sim::Sim;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::common::trusting;
use crate::recording::Exchange;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Connections to one simulator.
pub(crate) struct Wire {
    addr: std::net::SocketAddr,
    connector: TlsConnector,
}

/// An answer, split at its blank line.
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Wire {
    pub(crate) fn to(sim: &Sim) -> Wire {
        Wire { addr: sim.addr(), connector: TlsConnector::from(Arc::new(trusting(sim))) }
    }

    /// Sends these bytes and reads so many answers.
    pub(crate) async fn bytes(&self, request: &[u8], answers: usize) -> Vec<Received> {
        let tcp = TcpStream::connect(self.addr).await.unwrap();
        let name = ServerName::try_from(self.addr.ip().to_string()).unwrap();
        let mut stream = self.connector.connect(name, tcp).await.unwrap();
        // The answer to a body that is too large comes, and the connection goes, before its end.
        let _ = stream.write_all(request).await;
        let mut all = Vec::new();
        let mut received = Vec::new();
        while received.len() < answers {
            if let Some((answer, length)) = parse(&all) {
                all.drain(..length);
                received.push(answer);
                continue;
            }
            let mut piece = vec![0; 16 * 1024];
            let read = tokio::time::timeout(DEADLINE, stream.read(&mut piece)).await;
            match read.expect("no answer in time") {
                Ok(0) | Err(_) => break,
                Ok(n) => all.extend_from_slice(&piece[..n]),
            }
        }
        received
    }

    /// Sends a recorded request; `url` and `body` may name other tasks and volumes than it does.
    pub(crate) async fn send(&self, e: &Exchange, url: &str, body: &str) -> Received {
        let mut text =
            format!("{} /api2{url} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", e.method, self.addr);
        if !e.auth.is_empty() {
            text.push_str(&format!("Authorization: {}\r\n", e.auth));
        }
        for (key, value) in &e.headers {
            text.push_str(&format!("{key}: {value}\r\n"));
        }
        if !body.is_empty() && !e.headers.contains_key("Content-Type") {
            text.push_str("Content-Type: application/x-www-form-urlencoded\r\n");
        }
        if e.method != "GET" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        let answer = self.bytes(text.as_bytes(), 1).await.pop();
        answer.unwrap_or_else(|| panic!("{}: the connection closed without an answer", e.name))
    }
}

/// The first answer in these bytes, if it is whole, and its length.
fn parse(bytes: &[u8]) -> Option<(Received, usize)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut words = head.lines().next().unwrap_or_default().splitn(3, ' ');
    let status = words.nth(1)?.parse().ok()?;
    let reason = words.next().unwrap_or_default().to_owned();
    let length: usize = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let body = bytes.get(end + 4..end + 4 + length)?.to_vec();
    Some((Received { status, reason, headers: head, body }, end + 4 + length))
}
