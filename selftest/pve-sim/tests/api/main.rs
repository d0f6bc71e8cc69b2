//! The simulator over HTTPS, compared with recordings of a real Proxmox VE 9.1.8.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed step fails the test")]

#[path = "../common/mod.rs"]
mod common;
mod door;
mod hostile;
mod sequences;

use std::time::{Duration, Instant};

use pve_sim::{Sim, SimConfig};
use reqwest::{Client, Method};
use serde_json::Value;

use common::trusting;

/// How long a test waits for a task.
const DEADLINE: Duration = Duration::from_secs(20);

/// The demo, with quick refusals.
fn demo() -> SimConfig {
    let mut config = SimConfig::demo();
    config.auth_failure_delay = Duration::from_millis(1);
    config
}

/// An answer as it came over the wire.
#[derive(Debug)]
struct Answer {
    status: u16,
    reason: String,
    text: String,
    body: Value,
}

/// A client that trusts the simulator's CA and nothing else.
struct Pve {
    client: Client,
    base: String,
}

impl Pve {
    fn of(sim: &Sim) -> Pve {
        let client = Client::builder()
            .tls_backend_preconfigured(trusting(sim))
            .pool_idle_timeout(Duration::from_secs(4))
            .build()
            .unwrap();
        let base = sim.url();
        Pve { client, base }
    }

    /// A request below `/api2/json`; `body` is form-encoded already.
    async fn call(&self, token: &str, method: &str, path: &str, body: &str) -> Answer {
        let url = format!("{}/api2/json{path}", self.base);
        let mut request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        if !token.is_empty() {
            request = request.header("Authorization", format!("PVEAPIToken={token}"));
        }
        if !body.is_empty() {
            request =
                request.header("Content-Type", "application/x-www-form-urlencoded").body(body.to_owned());
        }
        read(request.send().await.unwrap()).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, "").await
    }

    /// Orders something through the side door.
    async fn order(&self, path: &str, body: &str) -> Answer {
        let request = self.client.post(format!("{}/sim/{path}", self.base));
        read(request.body(body.to_owned()).send().await.unwrap()).await
    }

    /// Waits for the end of a task; its exit status and its log.
    async fn finish(&self, token: &str, upid: &str) -> (String, Vec<String>) {
        let end = Instant::now() + DEADLINE;
        let exit = loop {
            let answer = self.get(token, &format!("/nodes/pve1/tasks/{upid}/status")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            if let Some(exit) = answer.body["data"]["exitstatus"].as_str() {
                assert_eq!(answer.body["data"]["status"], "stopped");
                break exit.to_owned();
            }
            assert_eq!(answer.body["data"]["status"], "running");
            assert!(Instant::now() < end, "the task does not end: {upid}");
            tokio::task::yield_now().await;
        };
        let log = self.get(token, &format!("/nodes/pve1/tasks/{upid}/log?limit=0")).await;
        let rows = log.body["data"].as_array().unwrap();
        let lines = rows.iter().map(|r| r["t"].as_str().unwrap().to_owned()).collect();
        (exit, lines)
    }
}

async fn read(response: reqwest::Response) -> Answer {
    let status = response.status().as_u16();
    // hyper leaves the extension out when the phrase is the standard one.
    let reason = response
        .extensions()
        .get::<hyper::ext::ReasonPhrase>()
        .map(|r| String::from_utf8_lossy(r.as_bytes()).into_owned())
        .or_else(|| response.status().canonical_reason().map(str::to_owned))
        .unwrap_or_default();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status, reason, text, body }
}
