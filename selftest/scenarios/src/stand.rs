//! The stand: a simulated Proxmox VE, a hub, a warden and an agent as separate processes in one
//! temporary directory, and an operator with an SSH key.
//!
//! Everything runs as the same user here, so the checks of peer user ids mean nothing on the stand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::Sha256;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::bins::Bins;
use crate::process::{DEADLINE, Output, Process, run};
use crate::{Fallible, Trouble};

/// Everything, and where it lies.
pub struct Stand {
    bins: Bins,
    pve_port: u16,
    hub_port: u16,
    /// SHA-256 of the hub's TLS key.
    pub hub_pin: String,
    /// Simulated Proxmox VE.
    pub sim: Option<Process>,
    /// The hub.
    pub hub: Option<Process>,
    /// The warden.
    pub warden: Option<Process>,
    /// The runner.
    pub runner: Option<Process>,
    /// The agent.
    pub agent: Option<Process>,
    // Last: it goes after those who write in it.
    dir: Place,
}

/// The directory. It goes with the stand, although what was killed a moment ago may still write into it.
struct Place(TempDir);

impl Place {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    #[expect(clippy::disallowed_methods, reason = "FENCE: a destructor cannot wait in any other way")]
    fn drop(&mut self) {
        for _ in 0..100 {
            match std::fs::remove_dir_all(self.path()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}

impl Stand {
    /// An empty stand: directories, keys and free ports.
    pub async fn new() -> Fallible<Self> {
        let bins = Bins::ready()?;
        let dir = tempfile::Builder::new()
            .prefix("writ-")
            .tempdir()
            .map_err(|error| Trouble::new("cannot make a temporary directory", error))?;
        for folder in ["logs", "keys", "work"] {
            std::fs::create_dir(dir.path().join(folder))
                .map_err(|error| Trouble::new("cannot make a directory", error))?;
        }
        let (pve_port, hub_port) = free_ports()?;
        let stand = Self {
            bins,
            dir: Place(dir),
            pve_port,
            hub_port,
            hub_pin: String::new(),
            sim: None,
            hub: None,
            warden: None,
            runner: None,
            agent: None,
        };
        stand.new_key("alice").await?;
        Ok(stand)
    }

    /// The whole stand, enrolled and connected, as most tests want it.
    pub async fn enrolled() -> Fallible<Self> {
        Self::enrolled_with(false).await
    }

    /// The same under a policy that lets rollbacks stand without a plan: for tests in which the warden is started
    /// again between signing and carrying out, when it remembers no plan.
    pub async fn standing() -> Fallible<Self> {
        Self::enrolled_with(true).await
    }

    async fn enrolled_with(standing: bool) -> Fallible<Self> {
        let mut stand = Self::new().await?;
        stand.start_sim().await?;
        stand.init_hub().await?;
        stand.start_hub().await?;
        stand.make_policy().await?;
        if standing {
            stand.let_rollbacks_stand()?;
        }
        stand.login().await?;
        stand.write_host_configs()?;
        stand.start_runner(&[]).await?;
        stand.start_warden(&[]).await?;
        stand.enroll("web1").await?;
        stand.start_agent().await?;
        stand.wait_online("web1").await?;
        Ok(stand)
    }

    /// The temporary directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// One of the binaries.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bins.path(name)
    }

    /// Address of the hub.
    pub fn hub_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.hub_port)
    }

    /// Address of the API.
    pub fn pve_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.pve_port)
    }

    fn service(&self, name: &str, binary: &str, args: &[&str], env: &[(&str, &str)]) -> Fallible<Process> {
        Process::start(name, &self.bin(binary), args, env, &self.at("logs"))
    }

    /// Starts the simulated Proxmox VE; its certificate survives restarts, its guests do not.
    pub async fn start_sim(&mut self) -> Fallible<()> {
        self.start_sim_with(&[]).await
    }

    /// The same with further arguments, such as another release.
    pub async fn start_sim_with(&mut self, more: &[&str]) -> Fallible<()> {
        let (listen, dir) = (format!("127.0.0.1:{}", self.pve_port), self.text("pve"));
        let args = ["serve", "--listen", &listen, "--dir", &dir, "--task-ms", "150"];
        let mut process = self.service("pve-sim", "pve-sim", &[&args, more].concat(), &[])?;
        process.line_with(&self.pve_url()).await?;
        self.sim = Some(process);
        Ok(())
    }

    /// `writ-hub init`, and the operator's key in its list.
    pub async fn init_hub(&mut self) -> Fallible<()> {
        let (dir, url, listen) = (self.text("hub"), self.hub_url(), format!("127.0.0.1:{}", self.hub_port));
        let out = self.run("writ-hub", &["init", "--dir", &dir, "--url", &url, "--listen", &listen]).await?;
        expect("writ-hub init", &out)?;
        let key = self.public_key("alice")?;
        let path = self.at("hub/operators");
        let mut text = std::fs::read_to_string(&path)
            .map_err(|error| Trouble::new("cannot read the operators file", error))?;
        text.push_str(&format!("alice {key}\n"));
        std::fs::write(&path, text).map_err(|error| Trouble::new("cannot write the operators file", error))
    }

    /// `writ-hub serve`
    pub async fn start_hub(&mut self) -> Fallible<()> {
        let config = self.text("hub/hub.toml");
        let mut process = self.service("hub", "writ-hub", &["serve", "--config", &config], &[])?;
        let line = process.line_with("writ-hub listening on").await?;
        let pin = line.rsplit(' ').next().unwrap_or_default();
        self.hub_pin = pin.to_owned();
        self.hub = Some(process);
        Ok(())
    }

    /// `writ policy init` with alice as the only operator.
    pub async fn make_policy(&self) -> Fallible<Output> {
        let operator = format!("alice={}", self.text("keys/alice.pub"));
        let out = self.writ(&["policy", "init", "--operator", &operator, "-o", "policy.json"]).await?;
        expect("writ policy init", &out)?;
        Ok(out)
    }

    /// As an operator who edits the first policy before anybody uses it.
    fn let_rollbacks_stand(&self) -> Fallible<()> {
        let text = String::from_utf8_lossy(&self.read_work("policy.json")?).into_owned();
        let rule = text.find("\"kind\":\"snapshot.rollback\"").map(|at| text.split_at(at));
        let Some((before, rule)) = rule else {
            return Err(Trouble("the first policy has no rule for snapshot.rollback".to_owned()));
        };
        let edited = rule.replacen("\"standing\":false", "\"standing\":true", 1);
        self.write_work("policy.json", format!("{before}{edited}").as_bytes())
    }

    /// `writ login`
    pub async fn login(&self) -> Fallible<Output> {
        let (hub, key) = (self.hub_url(), self.text("keys/alice"));
        let args = ["login", "--hub", &hub, "--pin", &self.hub_pin, "--key", &key, "--policy", "policy.json"];
        let out = self.writ(&args).await?;
        expect("writ login", &out)?;
        Ok(out)
    }

    /// `warden.toml`, `agent.toml` and `runner.toml`, for this user. The runner is pinned to the policy that
    /// lies in the work directory.
    pub fn write_host_configs(&self) -> Fallible<()> {
        let pins = std::fs::read_to_string(self.at("pve/pins"))
            .map_err(|error| Trouble::new("cannot read the pins", error))?;
        let spki = pins.lines().find(|line| line.starts_with("spki:")).unwrap_or_default();
        let uid = rustix::process::getuid().as_raw();
        let proxmox = |token: &str| {
            format!(
                "[proxmox]\napi = \"{}\"\npins = [\"{spki}\"]\ntoken_file = \"{}\"\n",
                self.pve_url(),
                self.text(&format!("pve/{token}.token"))
            )
        };
        let socket = self.text("warden.sock");
        let warden = format!(
            "state_dir = \"{}\"\nsocket = \"{socket}\"\nrunner_socket = \"{}\"\nallowed_uids = [{uid}]\n\n{}",
            self.text("warden"),
            self.text("runner.sock"),
            proxmox("act")
        );
        let runner = format!(
            "state_dir = \"{}\"\nrun_dir = \"{}\"\nsocket = \"{}\"\nallowed_uids = [{uid}]\npolicy_sha256 = \"{}\"\n",
            self.text("runner"),
            self.text("sessions"),
            self.text("runner.sock"),
            Sha256::of(&self.read_work("policy.json")?)
        );
        let agent = format!(
            "state_dir = \"{}\"\nwarden_socket = \"{socket}\"\nreport_interval = 2\n\n{}",
            self.text("agent"),
            proxmox("report")
        );
        self.write("warden.toml", &warden)?;
        self.write("runner.toml", &runner)?;
        self.write("agent.toml", &agent)
    }

    /// `writ-warden serve`
    pub async fn start_warden(&mut self, env: &[(&str, &str)]) -> Fallible<()> {
        self.warden = Some(self.warden_process(env).await?);
        Ok(())
    }

    /// The same, for tests that hold the process themselves.
    pub async fn warden_process(&self, env: &[(&str, &str)]) -> Fallible<Process> {
        let config = self.text("warden.toml");
        let mut process = self.service("warden", "writ-warden", &["serve", "--config", &config], env)?;
        process.line_with("ready").await?;
        Ok(process)
    }

    /// `writ-runner serve`
    pub async fn start_runner(&mut self, env: &[(&str, &str)]) -> Fallible<()> {
        self.runner = Some(self.runner_process(env).await?);
        Ok(())
    }

    /// The same, for tests that hold the process themselves.
    pub async fn runner_process(&self, env: &[(&str, &str)]) -> Fallible<Process> {
        let config = self.text("runner.toml");
        let mut process = self.service("runner", "writ-runner", &["serve", "--config", &config], env)?;
        process.line_with("ready").await?;
        Ok(process)
    }

    /// The name of the user that all of this runs as, and so the only one whom scripts can run as when that
    /// is not root.
    pub async fn user(&self) -> Fallible<String> {
        let out = self.tool("id", &["-un"]).await?;
        expect("id -un", &out)?;
        Ok(out.stdout.trim().to_owned())
    }

    /// `writ-agent run`
    pub async fn start_agent(&mut self) -> Fallible<()> {
        let config = self.text("agent.toml");
        self.agent = Some(self.service("agent", "writ-agent", &["run", "--config", &config], &[])?);
        Ok(())
    }

    /// `writ enroll new` here, `writ-agent enroll` on the host with the code on standard input, and
    /// `writ enroll approve` here.
    pub async fn enroll(&self, name: &str) -> Fallible<[Output; 3]> {
        let code = self.writ(&["enroll", "new", "--name", name, "--site", "berlin", "--code-only"]).await?;
        expect("writ enroll new", &code)?;
        let host = self.agent_enroll(&code.stdout).await?;
        expect("writ-agent enroll", &host)?;
        let approve = self.writ(&["enroll", "approve", name]).await?;
        expect("writ enroll approve", &approve)?;
        Ok([code, host, approve])
    }

    /// `writ-agent enroll` with the code on standard input.
    pub async fn agent_enroll(&self, code: &str) -> Fallible<Output> {
        let config = self.text("agent.toml");
        run(&self.bin("writ-agent"), &["enroll", "--config", &config], &[], &self.at("work"), code.as_bytes())
            .await
    }

    /// Waits until the hub shows the host as connected and has a report of it.
    pub async fn wait_online(&self, name: &str) -> Fallible<Value> {
        self.host_when(name, "connected with a report", |host| {
            host["online"] == true && !host["report"].is_null()
        })
        .await
    }

    /// Waits until `writ host NAME --json` satisfies a condition.
    pub async fn host_when(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Fallible<Value> {
        let end = Instant::now() + DEADLINE;
        loop {
            let out = self.writ(&["host", name, "--json"]).await?;
            if let Ok(host) = serde_json::from_str::<Value>(&out.stdout)
                && good(&host)
            {
                return Ok(host);
            }
            if Instant::now() > end {
                return Err(Trouble(format!("host {name} is not {what}: {}", out.text().trim())));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the last report satisfies a condition.
    pub async fn report_when(
        &self,
        name: &str,
        what: &str,
        good: impl Fn(&Value) -> bool,
    ) -> Fallible<Value> {
        let host = self.host_when(name, what, |host| good(&host["report"])).await?;
        Ok(host["report"].clone())
    }

    /// Runs one of the binaries in the work directory.
    pub async fn run(&self, binary: &str, args: &[&str]) -> Fallible<Output> {
        run(&self.bin(binary), args, &[], &self.at("work"), b"").await
    }

    /// Runs `writ` as the operator.
    pub async fn writ(&self, args: &[&str]) -> Fallible<Output> {
        self.writ_as("operator", args).await
    }

    /// Runs `writ` with another state directory.
    pub async fn writ_as(&self, home: &str, args: &[&str]) -> Fallible<Output> {
        let home = self.text(home);
        run(&self.bin("writ"), args, &[("WRIT_HOME", &home)], &self.at("work"), b"").await
    }

    /// Makes an SSH key with the real tool.
    pub async fn new_key(&self, name: &str) -> Fallible<()> {
        let file = self.text(&format!("keys/{name}"));
        let out =
            self.tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &file]).await?;
        expect("ssh-keygen", &out)
    }

    /// A public key's line.
    pub fn public_key(&self, name: &str) -> Fallible<String> {
        let path = self.at(&format!("keys/{name}.pub"));
        let text =
            std::fs::read_to_string(path).map_err(|error| Trouble::new("cannot read a public key", error))?;
        Ok(text.trim().to_owned())
    }

    /// Signs a file in the work directory with plain `ssh-keygen -Y sign`; the signature is FILE.sig.
    pub async fn ssh_sign(&self, key: &str, file: &str) -> Fallible<()> {
        let _ = std::fs::remove_file(self.at("work").join(format!("{file}.sig")));
        let key = self.text(&format!("keys/{key}"));
        let out =
            self.tool("ssh-keygen", &["-q", "-Y", "sign", "-f", &key, "-n", "op.v1@writ", file]).await?;
        expect("ssh-keygen -Y sign", &out)
    }

    /// A tool of the machine, in the work directory.
    pub async fn tool(&self, program: &str, args: &[&str]) -> Fallible<Output> {
        run(Path::new(program), args, &[], &self.at("work"), b"").await
    }

    /// Reads a file of the work directory.
    pub fn read_work(&self, file: &str) -> Fallible<Vec<u8>> {
        std::fs::read(self.at("work").join(file))
            .map_err(|error| Trouble::new(format!("cannot read {file}"), error))
    }

    /// Writes a file of the work directory.
    pub fn write_work(&self, file: &str, bytes: &[u8]) -> Fallible<()> {
        std::fs::write(self.at("work").join(file), bytes)
            .map_err(|error| Trouble::new(format!("cannot write {file}"), error))
    }

    /// Writes a file of the stand.
    pub fn write(&self, file: &str, text: &str) -> Fallible<()> {
        std::fs::write(self.at(file), text)
            .map_err(|error| Trouble::new(format!("cannot write {file}"), error))
    }

    /// Reads a text file of the stand.
    pub fn read(&self, file: &str) -> Fallible<String> {
        std::fs::read_to_string(self.at(file))
            .map_err(|error| Trouble::new(format!("cannot read {file}"), error))
    }

    /// Prepares an order to roll the demo guest back and signs it with plain `ssh-keygen`; gives its id.
    pub async fn rollback_order(&self, file: &str) -> Fallible<Sha256> {
        let args = ["op", "snapshot.rollback", "web1", "101", "before-upgrade", "-o", file];
        expect("writ op", &self.writ(&args).await?)?;
        self.ssh_sign("alice", file).await?;
        Ok(Sha256::of(&self.read_work(file)?))
    }

    /// The host's log as `writ receipts` verified it.
    pub async fn receipts(&self, name: &str) -> Fallible<Vec<Value>> {
        let out = self.writ(&["receipts", name, "--json"]).await?;
        expect("writ receipts", &out)?;
        let log: Value =
            serde_json::from_str(&out.stdout).map_err(|error| Trouble::new("writ receipts --json", error))?;
        Ok(log["receipts"].as_array().cloned().unwrap_or_default())
    }

    /// The simulator's side door, GET.
    pub async fn sim_get(&self, path: &str) -> Fallible<Value> {
        self.sim_request(self.sim_client()?.get(format!("{}/sim/{path}", self.pve_url()))).await
    }

    /// The simulator's side door, POST.
    pub async fn sim_post(&self, path: &str, body: Value) -> Fallible<Value> {
        self.sim_request(self.sim_client()?.post(format!("{}/sim/{path}", self.pve_url())).json(&body)).await
    }

    async fn sim_request(&self, request: reqwest::RequestBuilder) -> Fallible<Value> {
        let fail = |error: reqwest::Error| Trouble::new("the simulator's side door", error);
        let response = request.send().await.map_err(fail)?;
        let status = response.status();
        let text = response.text().await.map_err(fail)?;
        if status.is_success() {
            Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
        } else {
            Err(Trouble(format!("the simulator's side door said {status}: {text}")))
        }
    }

    fn sim_client(&self) -> Fallible<reqwest::Client> {
        let fail = |why: String| Trouble::new("cannot trust the simulator", why);
        let ca =
            CertificateDer::from_pem_file(self.at("pve/ca.pem")).map_err(|error| fail(error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca).map_err(|error| fail(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .timeout(DEADLINE)
            .build()
            .map_err(|error| fail(error.to_string()))
    }

    /// How often Proxmox was asked to change something whose path contains `part`.
    pub async fn mutations(&self, part: &str) -> Fallible<usize> {
        let list = self.sim_get("requests?mutations=1").await?;
        let rows = list.as_array().cloned().or_else(|| list["data"].as_array().cloned()).unwrap_or_default();
        Ok(rows.iter().filter(|row| row["path"].as_str().is_some_and(|path| path.contains(part))).count())
    }

    /// Stops everything, in the order in which a person would.
    pub async fn stop(&mut self) {
        let all = [&mut self.agent, &mut self.warden, &mut self.runner, &mut self.hub, &mut self.sim];
        for process in all.into_iter().filter_map(Option::take) {
            process.stop().await;
        }
    }
}

/// Demands success.
pub fn expect(what: &str, out: &Output) -> Fallible<()> {
    if out.ok() {
        Ok(())
    } else {
        Err(Trouble(format!("{what} ended with {:?}: {}", out.code, out.text().trim())))
    }
}

/// Two ports that are free now. Another process could take one before it is used; then starting fails
/// with a clear sentence.
fn free_ports() -> Fallible<(u16, u16)> {
    let listen = || std::net::TcpListener::bind("127.0.0.1:0");
    let ports = || -> std::io::Result<(u16, u16)> {
        let (one, two) = (listen()?, listen()?);
        Ok((one.local_addr()?.port(), two.local_addr()?.port()))
    };
    ports().map_err(|error| Trouble::new("cannot find a free port", error))
}
