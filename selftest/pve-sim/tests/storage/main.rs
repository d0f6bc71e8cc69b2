//! Storages, backups, restores and the node's facts over HTTPS.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed step fails the test")]

mod backup;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod host;
mod jobs;
mod recorded;
mod restore;

use std::time::{Duration, Instant};

use pve_sim::world::{AuthId, Fault, Injection, World};
use pve_sim::{Sim, SimConfig};
use reqwest::{Client, Method};
use serde_json::Value;

use common::trusting;

/// How long a test waits for a task.
const DEADLINE: Duration = Duration::from_secs(20);

/// An answer as it came over the wire.
#[derive(Debug)]
struct Answer {
    status: u16,
    reason: String,
    body: Value,
}

impl Answer {
    fn data(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["data"].clone()
    }

    /// The status and the reason phrase.
    fn refused(self, status: u16, reason: &str) {
        assert_eq!((self.status, self.reason.as_str()), (status, reason), "{self:?}");
        assert_eq!(self.body["message"], format!("{reason}\n"));
    }

    /// The 400 with this entry.
    fn wrong(self, name: &str, text: &str) {
        assert_eq!(self.status, 400, "{self:?}");
        assert_eq!(self.body["message"], "Parameter verification failed.\n");
        assert_eq!(self.body["errors"][name], text, "{self:?}");
    }
}

/// A simulator and a client of it.
struct Bench {
    sim: Sim,
    client: Client,
}

const ACT: &str = "writ@pve!act";
const REPORT: &str = "writ@pve!report";
/// Holds everything there is.
const ADMIN: &str = "root@pam!admin";

impl Bench {
    async fn with(prepare: impl FnOnce(&mut SimConfig)) -> Bench {
        let mut config = SimConfig::demo();
        config.auth_failure_delay = Duration::from_millis(1);
        config.task_duration = Duration::from_millis(5);
        config.world.access.add_token(ADMIN, None, 0);
        config.world.access.grant("/", ADMIN, "Administrator");
        prepare(&mut config);
        let sim = Sim::start(config).await.unwrap();
        let client = Client::builder()
            .tls_backend_preconfigured(trusting(&sim))
            .pool_idle_timeout(Duration::from_secs(4))
            .build()
            .unwrap();
        Bench { sim, client }
    }

    async fn demo() -> Bench {
        Bench::with(|_| {}).await
    }

    fn world<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.sim.world().lock().unwrap())
    }

    /// The next task of this type fails so.
    fn fail_next(&self, task: &str, text: &str) {
        let fault = Fault::Fail { text: text.to_owned(), leave_lock: false };
        self.order(task, fault);
    }

    fn order(&self, task: &str, fault: Fault) {
        self.world(|w| w.injections.push(Injection { task: task.to_owned(), fault }));
    }

    fn secret(&self, token: &str) -> String {
        self.world(|w| w.access.tokens[&AuthId::parse(token)].secret.clone().unwrap())
    }

    async fn send(&self, request: reqwest::RequestBuilder, token: &str) -> Answer {
        let header = format!("PVEAPIToken={token}={}", self.secret(token));
        let response = request.header("Authorization", header).send().await.unwrap();
        let status = response.status().as_u16();
        let reason = response
            .extensions()
            .get::<hyper::ext::ReasonPhrase>()
            .map(|r| String::from_utf8_lossy(r.as_bytes()).into_owned())
            .or_else(|| response.status().canonical_reason().map(str::to_owned))
            .unwrap_or_default();
        let body = serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null);
        Answer { status, reason, body }
    }

    /// A request below `/api2/json`; parameters go into the query of GET and DELETE and into the
    /// body of the others.
    async fn call(&self, token: &str, method: &str, path: &str, params: &[(&str, &str)]) -> Answer {
        let url = format!("{}/api2/json{path}", self.sim.url());
        let mut request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        request = match method {
            "GET" | "DELETE" => request.query(params),
            _ if params.is_empty() => request,
            _ => request.form(params),
        };
        self.send(request, token).await
    }

    async fn get(&self, token: &str, path: &str) -> Value {
        self.call(token, "GET", path, &[]).await.data()
    }

    /// A call that starts a task, to its end: exit status and log.
    async fn run(
        &self,
        token: &str,
        method: &str,
        path: &str,
        params: &[(&str, &str)],
    ) -> (String, Vec<String>) {
        let data = self.call(token, method, path, params).await.data();
        self.finish(data.as_str().unwrap()).await
    }

    async fn finish(&self, upid: &str) -> (String, Vec<String>) {
        let end = Instant::now() + DEADLINE;
        let exit = loop {
            let status = self.get(ADMIN, &format!("/nodes/pve1/tasks/{upid}/status")).await;
            if let Some(exit) = status["exitstatus"].as_str() {
                break exit.to_owned();
            }
            assert!(Instant::now() < end, "the task does not end: {upid}");
            tokio::task::yield_now().await;
        };
        let log = self.get(ADMIN, &format!("/nodes/pve1/tasks/{upid}/log?limit=0")).await;
        let rows = log.as_array().unwrap();
        (exit, rows.iter().map(|r| r["t"].as_str().unwrap().to_owned()).collect())
    }

    /// A backup to `local` that ends well; its volume id.
    async fn save(&self, vmid: &str, more: &[(&str, &str)]) -> String {
        let mut params = vec![("vmid", vmid), ("storage", "local")];
        params.extend_from_slice(more);
        let (exit, log) = self.run(ACT, "POST", "/nodes/pve1/vzdump", &params).await;
        assert_eq!(exit, "OK", "{log:#?}");
        archive(&log)
    }

    /// The volume ids of the backups on `local` that this token sees.
    async fn backups(&self, token: &str) -> Vec<String> {
        let rows = self.get(token, "/nodes/pve1/storage/local/content?content=backup").await;
        rows.as_array().unwrap().iter().map(|r| r["volid"].as_str().unwrap().to_owned()).collect()
    }
}

/// The volume id from the line that names the archive.
fn archive(log: &[String]) -> String {
    let path = log.iter().find_map(|l| l.strip_prefix("INFO: creating vzdump archive '")).unwrap();
    let file = path.trim_end_matches('\'').rsplit('/').next().unwrap();
    format!("local:backup/{file}")
}
