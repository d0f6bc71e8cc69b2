//! One stand, the scripts that were sent to it, and what must be true of each in the end.

use std::path::PathBuf;

use protocol::api::OrderView;
use protocol::{Envelope, Sha256};
use rustix::process::Signal;
use scenarios::courier::Courier;
use scenarios::process::{DEADLINE, Process};
use scenarios::stand::Stand;
use scenarios::{Fallible, Trouble};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use crate::wire::Wire;

/// The exit code of every script here.
const CODE: i32 = 7;
/// Makes the result longer than everything else that crosses the wire.
const BULK: usize = 100_000;
/// Names the processes of a script, by their environment.
const MARK: &str = "WRIT_CRASH";

/// Fails with everything that helps.
pub(crate) fn so(good: bool, what: &str, shown: &str) -> Fallible<()> {
    if good { Ok(()) } else { Err(Trouble(format!("not so: {what}\n---\n{shown}"))) }
}

/// Waits until there is something.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Fallible<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        so(Instant::now() < end, &format!("in time: {what}"), "")?;
        sleep(Duration::from_millis(10)).await;
    }
}

/// What everybody must be told in the end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// With exit code and output, byte by byte.
    Ran,
    /// Never ran, in these words.
    Aborted(&'static str),
    /// Nobody can say, in these words.
    Unknown(&'static str),
}

impl End {
    const fn in_log(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Aborted(_) => "aborted",
            Self::Unknown(_) => "unknown",
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Ran => ("the script ran for", "is sealed"),
            Self::Aborted(why) => ("aborted, nothing changed: ", why),
            Self::Unknown(why) => ("unknown: ", why),
        }
    }

    /// Words that would be a lie. A script that ran was neither refused nor without effect, and of one of
    /// which nobody knows nobody may say so either.
    const fn lies(self) -> &'static [&'static str] {
        match self {
            Self::Ran => &["refused (", "aborted", "not carried out", "unknown:", "nothing changed"],
            Self::Aborted(_) => &["refused (", "the script ran", "unknown:"],
            Self::Unknown(_) => {
                &["refused (", "aborted", "not carried out", "the script ran for", "nothing changed"]
            }
        }
    }
}

/// A script that was sent with `writ run`, which waits for it.
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) op: Sha256,
    waiting: Process,
}

/// One stand.
pub(crate) struct Rig {
    pub(crate) stand: Stand,
    pub(crate) courier: Courier,
    pub(crate) wire: Wire,
    user: String,
    ended: Vec<(Sha256, String, End, usize)>,
    finished: bool,
}

/// Whoever reads of a failure wants to know what the four said.
impl Drop for Rig {
    fn drop(&mut self) {
        for what in ["hub", "agent", "warden", "runner"].iter().filter(|_| !self.finished) {
            eprintln!("--- {what}\n{}", self.stand.read(&format!("logs/{what}.log")).unwrap_or_default());
        }
    }
}

impl Rig {
    /// Everything runs; the agent reaches the hub through the wire.
    pub(crate) async fn new() -> Fallible<Self> {
        let mut stand = Stand::enrolled().await?;
        let wire = Wire::to(stand.hub_url().trim_start_matches("https://")).await?;
        taken(&mut stand.agent, "agent")?.kill().await;
        let record = stand.read("agent/hub.json")?.replace(&stand.hub_url(), &wire.url());
        stand.write("agent/hub.json", &record)?;
        let config = stand.read("agent.toml")?.replace("report_interval = 2", "report_interval = 1");
        stand.write("agent.toml", &config)?;
        stand.start_agent().await?;
        let courier = Courier::new(&stand).await?;
        let user = stand.user().await?;
        Ok(Self { stand, courier, wire, user, ended: Vec::new(), finished: false })
    }

    fn work(&self, file: &str) -> PathBuf {
        self.stand.at("work").join(file)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.work(file)).unwrap_or_default()
    }

    fn script(&self, name: &str) -> String {
        let base = self.work(name).display().to_string();
        // One child in a session of its own, one whose parent is gone; both hold the output open.
        format!(
            "echo run >> {base}.runs\n\
             echo begun\n\
             echo complaint >&2\n\
             setsid sleep 86400 &\n\
             (sleep 86400 &)\n\
             echo $$ > {base}.up\n\
             while [ ! -e {base}.go ]; do sleep 0.02; done\n\
             head -c {BULK} /dev/zero | tr '\\0' x\n\
             printf '\\377\\000end\\n'\n\
             exit {CODE}\n"
        )
    }

    /// What the script prints, as far as text can say it.
    fn output() -> Vec<u8> {
        [b"begun\n".as_slice(), &vec![b'x'; BULK], b"\xff\0end\n"].concat()
    }

    /// Sends a script; it is at the hub when this returns.
    pub(crate) async fn send(&self, name: &str) -> Fallible<Job> {
        self.stand.write_work(&format!("{name}.sh"), self.script(name).as_bytes())?;
        let path = |ending: &str| self.work(&format!("{name}.{ending}")).display().to_string();
        let (script, out, err) = (path("sh"), path("out"), path("err"));
        let (writ, mark) = (self.stand.bin("writ").display().to_string(), self.mark(name));
        let redirect = "out=$1 err=$2; shift 2; exec \"$@\" >\"$out\" 2>\"$err\"";
        let run =
            ["run", "web1", "--user", &self.user, "--env", &mark, "--timeout", "60s", "--script", &script];
        let args = [&["-c", redirect, "sh", &out, &err, &writ], run.as_slice()].concat();
        let home = self.stand.text("operator");
        let mut waiting = Process::start(
            name,
            &PathBuf::from("/bin/sh"),
            &args,
            &[("WRIT_HOME", &home)],
            &self.stand.at("logs"),
        )?;
        let what = format!("the order of {name} is at the hub");
        let op = until(&what, || {
            let said = self.said(name);
            let line = said.lines().find(|line| line.contains("is at the hub"))?;
            Some(line.split(' ').find_map(|word| word.parse().ok()).ok_or(said.clone()))
                .or_else(|| (!waiting.is_running()).then_some(Err(said)))
        });
        let op = op.await?.map_err(|said| Trouble::new("writ run", said))?;
        Ok(Job { name: name.to_owned(), op, waiting })
    }

    /// Lets the script go on to its end, or not wait at all.
    pub(crate) fn go(&self, name: &str) -> Fallible<()> {
        self.stand.write_work(&format!("{name}.go"), b"")
    }

    /// In the environment of everything that belongs to a script of this stand.
    fn mark(&self, name: &str) -> String {
        let stand = self.stand.path().file_name().unwrap_or_default().to_string_lossy();
        format!("{MARK}={stand}.{name}")
    }

    /// Numbers of the processes that belong to a script.
    pub(crate) fn processes(&self, name: &str) -> Vec<i32> {
        processes(&self.mark(name))
    }

    /// How often it ran.
    fn runs(&self, name: &str) -> usize {
        String::from_utf8_lossy(&self.read(&format!("{name}.runs"))).lines().count()
    }

    /// Waits until the script runs, with everything that it starts, and the runner has written that down.
    pub(crate) async fn running(&self, job: &Job) -> Fallible<()> {
        let name = &job.name;
        until(&format!("{name} runs"), || self.work(&format!("{name}.up")).exists().then_some(())).await?;
        // Otherwise finding none later shows nothing.
        until(&format!("{name}'s processes"), || (self.processes(name).len() >= 3).then_some(())).await?;
        until("STARTED", || (self.at_runner(job)?["stage"] == "started").then_some(())).await
    }

    /// The file in which a process of the host keeps something about this script.
    pub(crate) fn file(&self, directory: &str, job: &Job) -> PathBuf {
        self.stand.at(directory).join(format!("{}.json", job.op))
    }

    /// What the runner has on its disk about the script.
    pub(crate) fn at_runner(&self, job: &Job) -> Option<Value> {
        let file: Value = serde_json::from_slice(&std::fs::read(self.file("runner/jobs", job)).ok()?).ok()?;
        Some(file["state"].clone())
    }

    /// Waits until the end of the script is on the runner's disk.
    pub(crate) async fn ended_at_runner(&self, job: &Job) -> Fallible<()> {
        until("the end at the runner", || (self.at_runner(job)?["stage"] == "ended").then_some(())).await
    }

    /// Waits until the script's sealed result is in the warden's hands alone.
    pub(crate) async fn result_waits(&self, job: &Job) -> Fallible<()> {
        let (kept, job_file) = (self.file("warden/results", job), self.file("runner/jobs", job));
        until("the result at the warden", || (kept.exists() && !job_file.exists()).then_some(())).await
    }

    /// Waits until the hub's view of the order is as wanted.
    pub(crate) async fn view_when(
        &self,
        job: &Job,
        what: &str,
        good: impl Fn(&OrderView) -> bool,
    ) -> Fallible<OrderView> {
        let end = Instant::now() + DEADLINE;
        loop {
            let view = self.courier.view(&job.op).await?;
            if good(&view) {
                return Ok(view);
            }
            so(Instant::now() < end, what, &format!("{view:?}"))?;
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the warden stop at a point from now on.
    pub(crate) async fn warden_at(&mut self, point: &str) -> Fallible<Process> {
        taken(&mut self.stand.warden, "warden")?.stop().await;
        self.stand.warden_process(&[("WRIT_WARDEN_HOLD_AT", point)]).await
    }

    /// Everything there is to know about a script that has ended, for everybody who asks: `writ run` that
    /// waited, `writ result` and `writ order` afterwards, and the host when it gets the order again.
    pub(crate) async fn ends(&mut self, mut job: Job, end: End, runs: usize) -> Fallible<()> {
        let code = job.waiting.ended().await?;
        // At once: whoever is told the end is told of something that is over.
        let left = self.processes(&job.name);
        so(left.is_empty(), &format!("{}: nothing of it runs", job.name), &format!("{left:?}"))?;
        self.told(&job.name, end, code)?;
        self.asked_later(&job, end).await?;
        self.settled(job, end, runs).await
    }

    /// What `writ run` said.
    fn told(&self, name: &str, end: End, code: Option<i32>) -> Fallible<()> {
        let out = self.read(&format!("{name}.out"));
        let err = self.said(name);
        let shown = format!("exit code {code:?}, {} bytes of output\n{err}", out.len());
        if let End::Ran = end {
            so(code == Some(CODE), &format!("{name}: its exit code"), &shown)?;
            so(out == Self::output(), &format!("{name}: its output"), &shown)?;
            so(err.contains("complaint\n"), &format!("{name}: its standard error"), &shown)?;
            so(err.contains("exit code 7 after"), &format!("{name}: by the host's word"), &shown)?;
        } else {
            so(code == Some(255) && out.is_empty(), &format!("{name}: no exit code, no output"), &shown)?;
            let (what, why) = end.words();
            so(err.contains(what) && err.contains(why), &format!("{name}: {end:?}"), &shown)?;
        }
        no_lies(name, end, &err)
    }

    async fn asked_later(&self, job: &Job, end: End) -> Fallible<()> {
        let (name, op) = (&job.name, job.op.to_string());
        let result = self.stand.writ(&["result", "web1", &op, "--timeout", "10s"]).await?;
        let shown = result.text();
        so(result.code == Some(255), &format!("{name}: there is nothing more to print"), &shown)?;
        match end {
            End::Ran => so(shown.contains("printed already"), &format!("{name}: printed before"), &shown),
            End::Aborted(_) => no_lies(name, end, &shown),
            End::Unknown(why) => {
                so(shown.contains(why), &format!("{name}: the same is told again"), &shown)?;
                no_lies(name, end, &shown)
            }
        }
    }

    /// The order comes again, as it was signed and with its script: it is refused, and what is known of its
    /// end stays.
    async fn settled(&mut self, job: Job, end: End, runs: usize) -> Fallible<()> {
        let again = self.submit_again(&job).await?;
        let Job { name, op, .. } = job;
        so(again.starts_with("refused (replay)"), &format!("{name}: a replay is refused"), &again)?;
        let order = self.stand.writ(&["order", "web1", &op.to_string()]).await?;
        let (shown, (what, why)) = (order.text(), end.words());
        so(order.ok() && shown.contains(what) && shown.contains(why), &format!("{name}: {end:?}"), &shown)?;
        so(
            self.runs(&name) == runs,
            &format!("{name}: it ran {runs} time(s)"),
            &self.runs(&name).to_string(),
        )?;
        self.clean(&name).await?;
        self.ended.push((op, name, end, runs));
        Ok(())
    }

    /// Sends the very same order and script; what the host says to that.
    async fn submit_again(&self, job: &Job) -> Fallible<String> {
        let envelope: Envelope = self.courier.view(&job.op).await?.envelope;
        let sealed = self.courier.seal(self.script(&job.name).as_bytes())?;
        self.courier.submit(&Envelope { sealed: Some(sealed.into()), ..envelope }).await
    }

    /// An order of which the host knows nothing: whoever waits is told how to go on, and the same order is
    /// good still. Once.
    pub(crate) async fn never_came(&mut self, mut job: Job, says: &str) -> Fallible<()> {
        let name = job.name.clone();
        until(&format!("{name}: {says:?}"), || self.said(&name).contains(says).then_some(())).await?;
        self.interrupt(&mut job).await?;
        let err = self.said(&name);
        no_lies(&name, End::Unknown(""), &err)?;
        let log = format!("{:?}", self.stand.receipts("web1").await?);
        so(!log.contains(&job.op.to_string()), &format!("{name}: the log knows nothing of it"), &log)?;
        self.works_now(job).await
    }

    /// Refused with this code, and its nonce stays good.
    pub(crate) async fn refused(&mut self, job: &mut Job, code: &str) -> Fallible<()> {
        let name = &job.name;
        let ended = job.waiting.ended().await?;
        let err = self.said(name);
        let refused = format!("refused ({code})");
        so(ended == Some(255) && err.contains(&refused), &format!("{name}: {refused}"), &err)?;
        so(err.contains("STILL VALID"), &format!("{name}: and may be used again"), &err)
    }

    /// The very same order is carried out when it comes again.
    pub(crate) async fn works_now(&mut self, job: Job) -> Fallible<()> {
        let name = &job.name;
        so(self.runs(name) == 0, &format!("{name}: it did not run"), &self.said(name))?;
        self.go(name)?;
        let again = self.submit_again(&job).await?;
        so(again.starts_with("the script ran"), &format!("{name}: its nonce was not burned"), &again)?;
        self.fetched(job).await
    }

    /// Ctrl-C for `writ run`.
    pub(crate) async fn interrupt(&self, job: &mut Job) -> Fallible<()> {
        let name = &job.name;
        so(job.waiting.is_running(), &format!("{name}: writ run waits"), &self.said(name))?;
        job.waiting.signal(Signal::INT);
        let code = job.waiting.ended().await?;
        let err = self.said(name);
        let resume = format!("writ result web1 {}", job.op);
        so(code == Some(255) && err.contains(&resume), &format!("{name}: how to resume"), &err)
    }

    /// What `writ run` has said so far, apart from the script's output.
    pub(crate) fn said(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.read(&format!("{name}.err"))).into_owned()
    }

    /// `writ result` after an interrupted `writ run`: everything, once.
    pub(crate) async fn fetched(&mut self, job: Job) -> Fallible<()> {
        let (name, op) = (&job.name, job.op.to_string());
        let args = ["result", "web1", &op, "--timeout", "20s"];
        let result = self.stand.writ(&args).await?;
        let shown = format!("exit code {:?}\n{}", result.code, result.stderr);
        let output = String::from_utf8_lossy(&Self::output()).into_owned();
        so(result.code == Some(CODE) && result.stdout == output, &format!("{name}: its result"), &shown)?;
        let again = self.stand.writ(&args).await?;
        so(again.text().contains("printed already"), &format!("{name}: once"), &again.text())?;
        self.settled(job, End::Ran, 1).await
    }

    /// What is on the disks is sound, and nothing about any script is left on the host.
    async fn clean(&self, name: &str) -> Fallible<()> {
        let stand = &self.stand;
        let left = || {
            let directories = ["warden/orders", "warden/results", "runner/jobs"];
            directories.iter().flat_map(|directory| json_files(&stand.at(directory))).collect::<Vec<_>>()
        };
        let end = Instant::now() + DEADLINE;
        while !left().is_empty() {
            so(Instant::now() < end, &format!("{name}: nothing is kept"), &format!("{:?}", left()))?;
            sleep(Duration::from_millis(20)).await;
        }
        let said = self.sound(name).await?;
        so(said.contains("0 under way, 0 result(s) wait"), &format!("{name}: the runner is idle"), &said)
    }

    /// `writ-warden journal verify` and `writ-runner status`: what they say. Nobody has to run for that.
    pub(crate) async fn sound(&self, name: &str) -> Fallible<String> {
        let (warden, runner) = (self.stand.text("warden.toml"), self.stand.text("runner.toml"));
        let journal = self.stand.run("writ-warden", &["journal", "verify", "--config", &warden]).await?;
        so(journal.ok(), &format!("{name}: writ-warden journal verify"), &journal.text())?;
        let status = self.stand.run("writ-runner", &["status", "--config", &runner]).await?;
        so(status.ok(), &format!("{name}: writ-runner status"), &status.text())?;
        Ok(journal.stdout + &status.stdout)
    }

    /// A new script works, and the host's log tells each story once.
    pub(crate) async fn finish(mut self) -> Fallible<()> {
        self.go("last")?;
        let job = self.send("last").await?;
        self.ends(job, End::Ran, 1).await?;
        let log = self.stand.receipts("web1").await?;
        let shown = format!("{log:#?}");
        let orders = self.stand.writ(&["orders", "web1"]).await?;
        for (op, name, end, runs) in &self.ended {
            let row = orders.stdout.lines().find(|line| line.contains(&op.to_string())).unwrap_or_default();
            so(row.contains(end.words().0), &format!("{name}: writ orders says {end:?}"), &orders.text())?;
            no_lies(name, *end, row)?;
            let about = |event: &str| {
                let (op, event) = (op.to_string(), event.to_owned());
                log.iter().filter(move |e| e["event"]["op"] == op && e["event"]["event"] == event)
            };
            so(about("order_committed").count() == 1, &format!("{name}: committed once"), &shown)?;
            let ends: Vec<&Value> = about("order")
                .map(|entry| &entry["event"]["outcome"]["outcome"])
                .filter(|outcome| **outcome != "refused")
                .collect();
            so(ends == [end.in_log()], &format!("{name}: one end, {end:?}"), &shown)?;
            so(self.runs(name) == *runs, &format!("{name}: never a second time"), &shown)?;
        }
        let logs = self.stand.at("logs");
        let Stand { hub, warden, runner, agent, .. } = &mut self.stand;
        for (what, process) in [("hub", hub), ("warden", warden), ("runner", runner), ("agent", agent)] {
            let log = std::fs::read_to_string(logs.join(format!("{what}.log"))).unwrap_or_default();
            so(!log.contains("panicked"), &format!("no panic in {what}"), &log)?;
            so(process.as_mut().is_some_and(Process::is_running), &format!("{what} runs"), &log)?;
        }
        self.stand.stop().await;
        self.finished = true;
        Ok(())
    }
}

/// Takes a process off the stand.
pub(crate) fn taken(process: &mut Option<Process>, name: &str) -> Fallible<Process> {
    process.take().ok_or_else(|| Trouble(format!("there is no {name} on the stand")))
}

fn no_lies(name: &str, end: End, said: &str) -> Fallible<()> {
    match end.lies().iter().find(|lie| said.contains(**lie)) {
        Some(lie) => so(false, &format!("{name}: nobody says {lie:?}"), said),
        None => Ok(()),
    }
}

/// Numbers of the processes with this in their environment.
fn processes(mark: &str) -> Vec<i32> {
    let mark = format!("{mark}\0");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let marked = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(mark.len()).any(|window| window == mark.as_bytes())
    };
    pids.filter(marked).collect()
}

fn json_files(directory: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect()
}
